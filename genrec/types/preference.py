"""Protocols and values of preference alignment: samplers, filters, rewards and losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pandas import DataFrame
    from torch import Generator, Tensor

    from genrec.own_ids import OwnIds
    from genrec.semantic_ids import SemanticIds
    from genrec.types.policy import Policy, SequenceBatch

    # (batch, candidates int64 [B, M]) -> bool [B, M], true where a candidate is rejected
    RejectCandidates = Callable[[SequenceBatch, Tensor], Tensor]
    # (batch, items int64 [B, M], 0 = padding) -> float32 [B, M], higher is better
    RateItems = Callable[[SequenceBatch, Tensor], Tensor]


class LogProbs(NamedTuple):
    """Log-probabilities of the positive and the negatives of a batch, and the optional inputs of some losses.

    A negative is masked if it is -inf under the policy or under the reference. A masked negative changes neither the loss nor a
    gradient.
    """

    chosen: Tensor  # float32 [B]  log p(positive | history), summed over the L codes
    rejected: Tensor  # float32 [B, K]  log p(negative | history), -inf where masked
    length: int = 1  # L, for losses that average over codes
    mismatched: Tensor | None = None  # float32 [B]  of another example's positive, -inf where masked; if `loss.mismatched` is true
    rewards: Tensor | None = None  # float32 [B, 1 + K]  of the positive and the negatives, by `loss.reward`


class PreferenceTerms(NamedTuple):
    """A preference loss per example and its implicit rewards."""

    loss: Tensor  # float32 [B]  not reduced
    chosen_reward: Tensor  # float32 [B]  detached
    rejected_reward: Tensor  # float32 [B, K]  detached, -inf where masked


class SamplerContext(NamedTuple):
    """The training data that a negative sampler may read. Tables are indexed by item id; row 0 is padding."""

    item_count: int  # N
    interactions: DataFrame  # training interactions: user, item, time and, if the source has them, rating; user and item as int64
    popularity: Tensor  # int64 [N + 1]  training events of each item
    vectors: Tensor  # float32 [N + 1, D]  of the item encoder
    semantic_ids: SemanticIds
    policy: Policy | None = None  # frozen: the reference, or a copy of the policy that is refreshed every `refresh_every`
    items: DataFrame | None = None  # the catalog; row i is item i + 1: item_id, text and further columns of the source
    filters: tuple[RejectCandidates, ...] = ()  # further exclusions, applied by `genrec.preference.exclusions.Exclusions`
    own_ids: OwnIds | None = None  # the users' and items' ids in the source, for messages


@runtime_checkable
class DrawNegatives(Protocol):
    """A callable that draws negatives for a batch. It may have these attributes:

    - `by_example`: true if the negatives of an example do not depend on the rest of its batch; see
      `genrec.preference.example_randomness`. The generator is then seeded per epoch, so a draw is a function of (seed, epoch,
      example). By default the generator is seeded per step.
    - `offers_history`: true if items of the history are drawn on purpose.
    - `refresh_every`: an int, set if the draw reads `context.policy`. After this many units the frozen policy is replaced by the
      policy in training; 0 keeps the reference.
    - `refresh_unit`: "steps" (the default) or "epochs".
    - `at(progress)`: a method that returns the draw to use at this fraction of the training, 0 <= progress < 1.
    """

    def __call__(self, batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        """Return negatives, int64 [B, num_negatives], on the batch's device.

        The items of a row are in the catalog and distinct. The target and the user's other training items are never drawn; items
        of the history are drawn only if `offers_history` is true. A row with too few candidates ends with zeros, which are
        masked; it is never filled with repeats. All randomness comes from `generator`.
        """
        ...


@runtime_checkable
class NegativeSampler(Protocol):
    """The specification of a negative sampler: a frozen dataclass."""

    def build(self, context: SamplerContext) -> DrawNegatives:
        """Return the callable that draws negatives for one training set."""
        ...


@runtime_checkable
class LimitedSampler(Protocol):
    """A sampler that knows the most negatives that a row can get. Alignment refuses to request more, before any stage runs."""

    def most_negatives(self, experiment: Any) -> float:
        """Return this number for a `genrec.experiment.Experiment`; infinity if there is no limit."""
        ...


@runtime_checkable
class RefreshingSampler(Protocol):
    """A sampler that knows how often it needs a copy of the policy in training. Compositions refuse samplers that disagree."""

    def policy_refresh(self) -> tuple[int, str] | None:
        """Return `refresh_every` and `refresh_unit` of its draw, or None if the draw does not read the policy."""
        ...


@runtime_checkable
class CheckedContext(Protocol):
    """A component of alignment that checks the data that it will read. It is called after the Semantic IDs are built, before SFT."""

    def check_context(self, context: SamplerContext) -> None:
        """Raise a `genrec.errors.GenrecError` if the component cannot work with this data; `context.policy` is not trained yet."""
        ...


@runtime_checkable
class CandidateFilter(Protocol):
    """The specification of a candidate filter: a frozen dataclass; see `genrec.preference.filters`."""

    def refuse(self, context: SamplerContext) -> RejectCandidates:
        """Build the predicate that rejects candidates."""
        ...


@runtime_checkable
class Reward(Protocol):
    """The specification of a reward, which rates items for a user: a frozen dataclass; see `genrec.preference.rewards`.

    A reward that reads `context.policy` has the attribute `reads_policy = True`, because its values change when the policy is
    refreshed.
    """

    def rate(self, context: SamplerContext) -> RateItems:
        """Build the function that rates items. It is deterministic and returns a finite number for every item but 0."""
        ...


@runtime_checkable
class ItemVectors(Protocol):
    """The specification of item vectors for a nearest-neighbor search: a frozen dataclass; see `genrec.preference.vectors`."""

    def vectors(self, context: SamplerContext) -> Tensor:
        """Return item vectors, float32 [N + 1, D]; row 0 is zeros."""
        ...


@runtime_checkable
class PreferenceLoss(Protocol):
    """A preference loss: a frozen dataclass, pure and without state. It may have these attributes:

    - `mismatched`: true if the loss reads `LogProbs.mismatched`.
    - `reward`: a `Reward` or None; it fills `LogProbs.rewards`.

    A loss that wraps another holds it as `loss` and need not repeat these attributes.
    """

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example from log-probabilities under the policy and under the frozen reference."""
        ...
