"""The protocol of a setting that changes during a stage of training, such as beta of a loss."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable


@runtime_checkable
class ValueSchedule(Protocol):
    """A number that depends on the optimizer step: a frozen dataclass, pure and without state; see `genrec.preference.schedules`."""

    def value_at(self, step: int) -> float:
        """Return the value in force at a step of the stage, counted from 0."""
        ...

    def bounds(self) -> tuple[float, float]:
        """Return the smallest and the largest value of all steps, which the field that holds the schedule checks."""
        ...


NumberOrSchedule: TypeAlias = float | ValueSchedule
