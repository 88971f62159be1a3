"""Schedules of settings: a number that changes with the optimizer step, where a field takes a number or a schedule.

    SoftmaxDPO(beta=Linear(start=0.5, end=2.0, steps=300))     Preference(likelihood=Cosine(start=1.0, end=0.1, steps=500))

Steps are those of the stage, counted from 0; each alignment of a chain begins at 0 again. A value is a function of the step alone, so
a resumed training continues with the right one. Losses and objectives are specifications with constant numbers at every step:
`at_step` makes the one of a step.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, TypeVar

from genrec.errors import UsageError
from genrec.plugin_source import named_objects
from genrec.preference.range_checks import INFINITY, check_number, check_range
from genrec.types import ValueSchedule
from genrec.types.specification import check_at_least, check_types

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Linear annealing, `start + (end - start) min(t / steps, 1)` at step t: `start` at step 0, `end` from step `steps` on."""

    start: float  # value at step 0
    end: float  # value from step `steps` on
    steps: int  # optimizer steps from `start` to `end`, at least 1

    def __post_init__(self) -> None:
        _check(self)

    def value_at(self, step: int) -> float:
        """Return the value in force at a step."""
        return self.end if step >= self.steps else self.start + (self.end - self.start) * (step / self.steps)

    def bounds(self) -> tuple[float, float]:
        """Return the smaller and the larger end."""
        return min(self.start, self.end), max(self.start, self.end)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Cosine annealing, `end + (start - end) (1 + cos(pi min(t / steps, 1))) / 2` at step t.

    The value is `start` at step 0 and `end` from step `steps` on, and changes most slowly near both (Loshchilov and Hutter 2017,
    arXiv 1608.03983, Eq. 5, without restarts).
    """

    start: float  # value at step 0
    end: float  # value from step `steps` on
    steps: int  # optimizer steps from `start` to `end`, at least 1

    def __post_init__(self) -> None:
        _check(self)

    def value_at(self, step: int) -> float:
        """Return the value in force at a step."""
        if step >= self.steps:
            return self.end
        share = (1 - math.cos(math.pi * step / self.steps)) / 2  # of the way, 0 at step 0
        return self.start + (self.end - self.start) * share

    def bounds(self) -> tuple[float, float]:
        """Return the smaller and the larger end."""
        return min(self.start, self.end), max(self.start, self.end)


def _check(schedule: Linear | Cosine) -> None:
    name = type(schedule).__name__
    check_types(schedule, name)
    check_range(schedule, "start")
    check_range(schedule, "end")
    check_at_least(schedule, name, 1, "steps")


def check_scheduled(specification: object, name: str, low: float = -INFINITY, high: float = INFINITY, above: bool = False) -> None:
    """Raise UsageError unless the field `name` is a number in the range of `check_range`, or a schedule with all values in it."""
    value = getattr(specification, name)
    if isinstance(value, type) or not isinstance(value, ValueSchedule):
        check_range(specification, name, low, high, above)
        return
    for bound in value.bounds():
        check_number(f"{type(specification).__name__}.{name}", bound, low, high, above, f"{bound!r} at one end of {value!r}")


def check_trains(specification: Any) -> None:
    """Raise UsageError if the weights of the preference and of the likelihood are both 0, so that the loss is 0 at every step."""
    if specification.weight == 0 and specification.likelihood == 0:
        name = type(specification).__name__
        raise UsageError(f"{name}.weight and {name}.likelihood are both 0, so a step changes nothing; set one of them above 0")


def constant(specification: object, name: str) -> float:
    """Return the number in the field `name`. Raise UsageError if it is a schedule, which has a number only at a step."""
    value = getattr(specification, name)
    if isinstance(value, ValueSchedule):
        raise UsageError(
            f"{type(specification).__name__}.{name} is {value!r}, which has a value only at a step; "
            "call genrec.preference.schedules.at_step(specification, step) first"
        )
    number: float = value
    return number


def schedules_in(specification: object) -> dict[str, ValueSchedule]:
    """Return the schedules that a specification holds, however deep, by key path, such as `loss.beta`."""
    found = named_objects(specification)
    return {path: each for path, each in found if isinstance(each, ValueSchedule) and not isinstance(each, type)}


def check_length(stage: str, objective: object, max_steps: int) -> None:
    """Raise UsageError if a `Linear` or `Cosine` of an objective has more steps than its stage, so that it would not reach its end.

    `stage` is the key path of the stage's recipe, such as `align` or `align.1`. Other schedules have no length.
    """
    for path, schedule in schedules_in(objective).items():
        if isinstance(schedule, Linear | Cosine) and schedule.steps > max_steps:
            field = f"{stage}.objective.{path}"
            flag = f"--{field}.steps".replace("_", "-")
            raise UsageError(
                f"{field} changes over {schedule.steps} steps, but its stage has {max_steps}, so it would not reach its end "
                f"{schedule.end}; set {flag} to {max_steps} or fewer, or --{stage}.optimization.max-steps to {schedule.steps} or more"
            )


def at_step(specification: T, step: int) -> T:
    """Return the specification with the value of the step in place of every schedule; the same object if it holds none."""
    changed: Any = _at_step(specification, step)
    return specification if changed is None else changed


def _at_step(value: Any, step: int) -> Any:
    """Return the value for a step, or None if it holds no schedule."""
    if isinstance(value, type):
        return None
    if isinstance(value, ValueSchedule):
        return value.value_at(step)
    if isinstance(value, tuple):
        parts = [_at_step(each, step) for each in value]
        together = [old if new is None else new for old, new in zip(value, parts, strict=True)]
        return None if all(each is None for each in parts) else tuple(together)
    if not dataclasses.is_dataclass(value):
        return None
    specification: Any = value
    inner = {field.name: _at_step(getattr(value, field.name), step) for field in dataclasses.fields(value) if field.init}
    changes = {name: each for name, each in inner.items() if each is not None}
    return dataclasses.replace(specification, **changes) if changes else None
