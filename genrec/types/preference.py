"""Preferences: negatives, and the losses that learn from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Generator, Tensor

    from genrec.semantic_ids import SemanticIds
    from genrec.types.policy import Policy, SequenceBatch


class LogProbs(NamedTuple):
    """Log-probabilities of the positive and of the negatives of a batch."""

    chosen: Tensor  # float32 [B]  log p(item | history), summed over the L codes
    rejected: Tensor  # float32 [B, K]  -inf where masked
    length: int = 1  # L, for the losses that average over codes


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
    policy: Policy | None = None  # the frozen SFT policy


@runtime_checkable
class DrawNegatives(Protocol):
    """Draws negatives for a batch."""

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
class PreferenceLoss(Protocol):
    """A preference objective: a frozen dataclass, pure, without state."""

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Log-probabilities under the policy and under the frozen reference -> the loss of each example."""
        ...
