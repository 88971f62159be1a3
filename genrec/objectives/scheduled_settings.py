"""The schedules that an objective's specification holds: the specification of each step, and the values in force for the curves."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from genrec.preference.schedules import at_step, schedules_in

T = TypeVar("T")

SCHEDULED = "scheduled_"  # prefix of the columns of the curves; the key path of the field follows, such as `scheduled_loss.beta`


class ScheduledSettings:
    """The schedules of a specification. Without one it is the same object at every step, and nothing is logged."""

    def __init__(self, specification: object) -> None:
        self.schedules = schedules_in(specification)

    def at(self, specification: T, step: int) -> T:
        """Return the specification with the values in force at a step."""
        return at_step(specification, step) if self.schedules else specification

    def logs(self, step: int, device: torch.device) -> dict[str, Tensor]:
        """Return the value in force of each schedule as a scalar on the device."""
        values = {path: schedule.value_at(step) for path, schedule in self.schedules.items()}
        return {f"{SCHEDULED}{path}": torch.full((), value, device=device) for path, value in values.items()}
