"""Preferences: negatives, and the losses that learn from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pandas import DataFrame
    from torch import Generator, Tensor

    from genrec.semantic_ids import SemanticIds
    from genrec.types.policy import Policy, SequenceBatch

    Refuses = Callable[[SequenceBatch, Tensor], Tensor]  # a batch, candidates int64 [B, M] -> bool [B, M], true: not wanted
    Rates = Callable[[SequenceBatch, Tensor], Tensor]  # a batch, items int64 [B, M] (0 = none) -> float32 [B, M], higher is better


class LogProbs(NamedTuple):
    """Log-probabilities of the positive and of the negatives of a batch, and what some losses ask for beside them.

    A negative that is -inf under the policy or under the reference is none: masked, without influence or gradient.
    """

    chosen: Tensor  # float32 [B]  log p(item | history), summed over the L codes
    rejected: Tensor  # float32 [B, K]  -inf where masked
    length: int = 1  # L, for the losses that average over codes
    mismatched: Tensor | None = (
        None  # float32 [B]  of another example's positive, -inf where masked; for a loss with `mismatched` true
    )
    rewards: Tensor | None = None  # float32 [B, 1 + K]  of the positive and the negatives, by the loss's own `reward`


class PreferenceTerms(NamedTuple):
    """A preference loss, not reduced, and its implicit rewards."""

    loss: Tensor  # float32 [B]
    chosen_reward: Tensor  # float32 [B]  detached
    rejected_reward: Tensor  # float32 [B, K]  detached, -inf where masked


class SamplerContext(NamedTuple):
    """What a negative sampler may look at. Row 0 of each table belongs to no item, so that an item id is its row."""

    item_count: int  # N
    interactions: DataFrame  # training interactions: user, item, time (, rating); user and item as int64
    popularity: Tensor  # int64 [N + 1]  training events of each item
    vectors: Tensor  # float32 [N + 1, D]  the item encoder's vectors
    semantic_ids: SemanticIds
    policy: Policy | None = None  # frozen: the reference, or a copy of the policy that is refreshed as the sampler says
    items: DataFrame | None = None  # the catalog, row i is item i + 1: item_id, text and what else is known
    filters: tuple[Refuses, ...] = ()  # what else must not be drawn; `genrec.preference.exclusions.Exclusions` asks them


@runtime_checkable
class DrawNegatives(Protocol):
    """Draws negatives for a batch. What is special about it, it says by attributes, all of them optional:

    `by_example`, true: an example's negatives do not depend on the batch it is in (`genrec.preference.example_randomness`), so that the generator
    that is passed is the epoch's, and a draw a function of (seed, epoch, example); else it is the step's.
    `offers_history`, true: items of the history are drawn on purpose.
    `refresh_every`, int: it reads `context.policy`, which becomes the policy in training every so many steps; 0: it stays the
    reference. With `refresh_unit = "epochs"` it counts epochs.
    `at(progress)`: what draws when so much of the training is done, 0 <= progress < 1, for a sampler that changes as it goes on.
    """

    def __call__(self, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
        """int64 [B, count]: real items, distinct in a row; never the target nor an item that the user takes in training.

        Items of the history come only from a sampler that says so. 0 where none is left: a shortfall is masked, never
        filled with repeats.
        """
        ...


@runtime_checkable
class NegativeSampler(Protocol):
    """A negative sampler's specification: a frozen dataclass."""

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws, for one training set."""
        ...


@runtime_checkable
class CandidateFilter(Protocol):
    """What else must not be drawn: a frozen dataclass, see `genrec.preference.filters`."""

    def refuse(self, context: SamplerContext) -> Refuses:
        """What says which candidates are not wanted, for one training set."""
        ...


@runtime_checkable
class Reward(Protocol):
    """How good an item is for a user, by whatever measure: a frozen dataclass, see `genrec.preference.rewards`.

    One that reads `context.policy` says so by an attribute `reads_policy`, true: what it says then changes as that is refreshed.
    """

    def rate(self, context: SamplerContext) -> Rates:
        """What rates items, for one training set. It is deterministic, and nothing it returns is NaN but for item 0."""
        ...


@runtime_checkable
class ItemVectors(Protocol):
    """By what items are near each other: a frozen dataclass, see `genrec.preference.vectors`."""

    def vectors(self, context: SamplerContext) -> Tensor:
        """float32 [N + 1, D], row 0 zeros."""
        ...


@runtime_checkable
class PreferenceLoss(Protocol):
    """A preference objective: a frozen dataclass, pure, without state.

    What it needs beside log-probabilities it says by attributes, both optional: `mismatched`, true: `LogProbs.mismatched`; `reward`, a
    `Reward` or None: `LogProbs.rewards`. A composition holds the loss it wraps as `loss`, and need not repeat what that says.
    """

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Log-probabilities under the policy and under the frozen reference -> the loss of each example."""
        ...
