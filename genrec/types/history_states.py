"""Protocols of policies that give the state of a whole history, and of views of a history that an objective compares."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from genrec.types.policy import Policy, PolicySpecification

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor

    from genrec.types.objective import ObjectiveContext, TrainingExamples
    from genrec.types.policy import SequenceBatch


@runtime_checkable
class HistoryStates(Policy, Protocol):
    """A policy that gives one state for a whole history, which `genrec.objectives.ViewContrast` compares.

    Its specification is a `HistoryStatesSpecification`.
    """

    def history_states(self, history: Tensor) -> Tensor:
        """Return the state of each history, float32 [B, D], with a gradient; D is the same for all histories.

        `history` is int64 [B, T], left-padded with 0. A 0 between two items stands for a hidden item. The state of a row depends on
        the items of this row alone, not on the padding, and is finite without any item.
        """
        ...


@runtime_checkable
class HistoryStatesSpecification(PolicySpecification, Protocol):
    """The architecture of a policy that may be a `HistoryStates`. Objectives that read states refuse others before any stage runs."""

    def has_history_states(self) -> bool:
        """Return whether `build` returns a `HistoryStates`."""
        ...


class TwoViews(NamedTuple):
    """Two views of each of X histories. Each row has an item in its last place."""

    first: Tensor  # int64 [X, T]  items, oldest first, left-padded with 0; a 0 between two items stands for a hidden item
    second: Tensor  # int64 [X, S]  the same, with a length of its own


@runtime_checkable
class HistoryViews(Protocol):
    """The specification of two views of a history that should have similar states: a frozen dataclass."""

    def build_views(self, context: ObjectiveContext, examples: TrainingExamples) -> Callable[[SequenceBatch, Generator], TwoViews]:
        """Return the function that makes the views of rows on the CPU, for one training set.

        `examples` has one example, a `SequenceBatch` a batch, for each target that the objective trains on. All random numbers come
        from the generator, a CPU generator that depends on the seed and the step. The rows are not modified.
        """
        ...
