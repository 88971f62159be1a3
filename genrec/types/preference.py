"""Protocols and values of preference alignment: samplers, filters, rewards and losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pandas import DataFrame
    from torch import Generator, Tensor

    from genrec.own_ids import OwnIds
    from genrec.semantic_ids import SemanticIds
    from genrec.types.data import Histories
    from genrec.types.policy import Policy, SequenceBatch

    # (batch, candidates int64 [B, M]) -> bool [B, M], true where a candidate is rejected
    RejectCandidates = Callable[[SequenceBatch, Tensor], Tensor]
    # (batch, items int64 [B, M], 0 = padding) -> float32 [B, M], higher is better
    RateItems = Callable[[SequenceBatch, Tensor], Tensor]
    # (batch, num_negatives, generator) -> int64 [B, num_negatives]
    DrawNegatives = Callable[[SequenceBatch, int, Generator], Tensor]


class LogProbs(NamedTuple):
    """Log-probabilities of the positive and the negatives of a batch, and the optional inputs of some losses.

    A negative is masked if it is -inf under the policy or under the reference. A masked negative changes neither the loss nor a
    gradient. A row has no positive if `chosen` is -inf under one of them; only losses with `LossNeeds(positive=False)` get such rows.
    """

    chosen: Tensor  # float32 [B]  log p(positive | history), summed over the L codes; -inf in a row without a positive
    rejected: Tensor  # float32 [B, K]  log p(negative | history), -inf where masked
    length: int = 1  # L, for losses that average over codes
    mismatched: Tensor | None = None  # float32 [B]  of another example's positive, -inf where masked; if the loss needs it
    rewards: Tensor | None = None  # float32 [B, 1 + K]  of the positive and the negatives, by the reward of the alignment
    levels: Tensor | None = None  # float32 [B, 1 + K, L]  log-probability of each code; its sums over L are chosen and rejected


class PreferenceTerms(NamedTuple):
    """A preference loss per example and its implicit rewards."""

    loss: Tensor  # float32 [B]  not reduced
    chosen_reward: Tensor  # float32 [B]  detached, -inf without a positive
    rejected_reward: Tensor  # float32 [B, K]  detached, -inf where masked


class SamplerContext(NamedTuple):
    """The training data that a negative sampler may read. Tables are indexed by item id; row 0 is padding."""

    item_count: int  # N
    # training interactions: user, item, time int64; with ratings `rating` float64; with labels `label` int8: 1 liked, -1 disliked
    interactions: DataFrame
    popularity: Tensor  # int64 [N + 1]  training events of each item
    vectors: Tensor  # float32 [N + 1, D]  of the item encoder
    semantic_ids: SemanticIds
    policy: Policy | None = None  # frozen: the reference, or a copy of the policy that is refreshed as `Draw.refresh` requires
    items: DataFrame | None = None  # the catalog; row i is item i + 1: item_id, text and further columns of the source
    filters: tuple[RejectCandidates, ...] = ()  # further exclusions, applied by `genrec.preference.exclusions.Exclusions`
    own_ids: OwnIds | None = None  # the users' and items' ids in the source, for messages
    histories: Histories = "all"  # whether disliked events stand in histories, by the split
    reward_model: Path | None = None  # folder of the artifact of the stage `reward`, for a `BradleyTerry` reward


class Refresh(NamedTuple):
    """How often the frozen policy that a draw reads becomes a copy of the policy in training."""

    every: int = 0  # units between copies; 0: never, the draw reads the reference
    unit: Literal["steps", "epochs"] = "steps"


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A draw of negatives for one training set.

    `draw(batch, num_negatives, generator)` returns negatives, int64 [B, num_negatives], on the batch's device. The items of a row are
    in the catalog and distinct. The target and the user's other training items are never drawn, with two exceptions: items of the
    history with `offers_history`, and items that the user disliked in training with `offers_disliked`. A row with too few candidates
    ends with zeros, which are masked; it is never filled with repeats. All randomness comes from `generator`.

    The draw that `at` returns replaces `draw` alone: the other fields of the draw that `build` returned hold for the whole training.
    """

    draw: DrawNegatives
    by_example: bool = False  # the negatives of an example do not depend on its batch: the generator is seeded per epoch, not per step
    offers_history: bool = False  # items of the history are drawn on purpose
    offers_disliked: bool = False  # items that the user disliked in training are drawn on purpose, before or after the target
    refresh: Refresh | None = None  # given if the draw reads `context.policy`
    at: Callable[[float], Draw] | None = None  # returns the draw for a fraction of the training, 0 <= progress < 1; None: this one


@runtime_checkable
class NegativeSampler(Protocol):
    """The specification of a negative sampler: a frozen dataclass."""

    def build(self, context: SamplerContext) -> Draw:
        """Return the draw of negatives for one training set."""
        ...


@runtime_checkable
class LimitedSampler(Protocol):
    """A sampler that knows the most negatives that a row can get. Alignment refuses to request more, before any stage runs."""

    def most_negatives(self, experiment: Any) -> float:
        """Return this number for a `genrec.experiment.Experiment`; infinity if there is no limit."""
        ...


@runtime_checkable
class Refreshing(Protocol):
    """A sampler, proposer or objective that knows how often it needs a copy of the policy in training.

    Compositions refuse samplers that disagree, and a training warns of a copy that no step would refresh.
    """

    def policy_refresh(self) -> Refresh | None:
        """Return the refresh of its copy, or None if it reads no copy of the policy."""
        ...


@runtime_checkable
class ComposedSampler(Protocol):
    """A sampler that draws from other samplers. What these need is checked with its own needs, before any stage runs."""

    def inner_samplers(self) -> tuple[NegativeSampler, ...]:
        """Return the samplers that it holds."""
        ...


@runtime_checkable
class CheckedContext(Protocol):
    """A component of alignment that checks the data that it will read. It is called after the Semantic IDs are built, before SFT."""

    def check_context(self, context: SamplerContext) -> None:
        """Raise a `genrec.errors.GenrecError` if the component cannot work with this data; `context.policy` is not trained yet."""
        ...


@runtime_checkable
class CheckedHeldOut(Protocol):
    """A component of alignment with preferences of the user's own, which must not hold the events of validation and test."""

    def check_held_out(self, context: SamplerContext, held_out: DataFrame) -> None:
        """Raise a `genrec.errors.GenrecError` if it prefers a held-out event. Called before any training, and only to refuse.

        `held_out` has the columns user and item, int64: all events of validation and test.
        """
        ...


@runtime_checkable
class CandidateFilter(Protocol):
    """The specification of a candidate filter: a frozen dataclass; see `genrec.preference.filters`."""

    def refuse(self, context: SamplerContext) -> RejectCandidates:
        """Build the predicate that rejects candidates."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rating:
    """Ratings of items for users: `rate(batch, items)` is deterministic, and finite for every item but 0, which has no rating."""

    rate: RateItems
    reads_policy: bool = False  # whether it reads `context.policy`, so that the values change when the policy is refreshed
    compares: bool = False  # whether the reward of an item depends on the other items of its row or on its place among them


@runtime_checkable
class Reward(Protocol):
    """The specification of a reward, which rates items for a user: a frozen dataclass; see `genrec.preference.rewards`.

    The candidates of a row stand in the order of their proposer (best first for beams), and `batch.target` is the logged item, so a
    reward may compare a candidate with the others of its row.
    """

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set."""
        ...


@runtime_checkable
class PolicyReward(Protocol):
    """A reward that knows, before it is built, whether it reads the policy. `BestOf` then refuses a wrong refresh before any stage."""

    def needs_policy(self) -> bool:
        """Return `Rating.reads_policy` of the rating that it builds."""
        ...


@runtime_checkable
class ItemVectors(Protocol):
    """The specification of item vectors for a nearest-neighbor search: a frozen dataclass; see `genrec.preference.vectors`."""

    def vectors(self, context: SamplerContext) -> Tensor:
        """Return item vectors, float32 [N + 1, D]; row 0 is zeros."""
        ...


class LossNeeds(NamedTuple):
    """What a loss cannot do without: optional inputs, and a positive in every row."""

    mismatched: bool = False  # `LogProbs.mismatched`
    rewards: bool = False  # `LogProbs.rewards`
    positive: bool = True  # a positive in every row; False: the loss also learns from rows with negatives alone
    batch: bool = False  # the rows of all processes that share a batch, for statistics of the batch


@runtime_checkable
class PreferenceLoss(Protocol):
    """A preference loss: a frozen dataclass, pure and without state."""

    @property
    def needs(self) -> LossNeeds:
        """What the loss cannot do without. A class writes `needs = LossNeeds()`; a loss that wraps another adds the needs of that."""
        ...

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        """Return whether a class has both members. Protocols with properties do not support `issubclass`, which tyro calls."""
        if cls is not PreferenceLoss:
            return NotImplemented
        return all(any(name in vars(each) for each in other.__mro__) for name in ("needs", "__call__"))

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example from log-probabilities under the policy and under the frozen reference."""
        ...
