"""The estimated time of a training, measured on its first steps."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from genrec.errors import counted
from genrec.progress import duration
from genrec.training.schedule import Schedule

UNTIMED_STEPS = 1  # the first step is slower than the others
TIMED_STEPS = 3
SHORT = 120.0  # seconds; a shorter training gets no estimate


class TimeEstimate:
    """Measures the first steps of a training and returns one line with its expected time.

    - `description`, `flag`: the training's name, and the command-line flag of its number of steps.
    - `plan`: the schedule of the training, which starts or resumes at step `start`.
    - `clock`: returns seconds.
    """

    def __init__(
        self, description: str, flag: str, plan: Schedule, start: int, stops_early: bool, clock: Callable[[], float] | None = None
    ) -> None:
        self.description, self.flag, self.plan, self.start, self.stops_early = description, flag, plan, start, stops_early
        self.clock = clock or synchronized_clock
        self.validation_seconds: float | None = None  # of the first validation
        self._began: float | None = None  # when the timed steps began
        self._finished = False

    def validated(self, seconds: float) -> None:
        """Note the time of a validation, which is no part of the timed steps."""
        if self.validation_seconds is None:
            self.validation_seconds = seconds
        if self._began is not None:
            self._began += seconds

    def step_done(self, step: int) -> str | None:
        """Note that `step` steps are done. Return the line after the last timed step of a long training, else None."""
        if self._finished:
            return None
        done = step - self.start
        if done == UNTIMED_STEPS:
            self._began = self.clock()
        if done < UNTIMED_STEPS + TIMED_STEPS or self._began is None:
            return None
        self._finished = True
        return self._line((self.clock() - self._began) / TIMED_STEPS)

    def _line(self, step_seconds: float) -> str | None:
        """Return the estimate in words, or None for a short training."""
        steps = self.plan.max_steps - self.start
        count = -(-steps // self.plan.every)
        total, validations = steps * step_seconds, ", validations not counted"
        if self.validation_seconds is not None:
            total += count * self.validation_seconds
            validations = f" and {count} validations of {duration(self.validation_seconds)}"
        if total < SHORT:
            return None
        expected = f"about {duration(total)}{', less if it stops early' if self.stops_early else ''}"
        return (
            f"{self.description}: {steps:,} steps at {step_seconds:.2g} s each{validations}, on {device()}: {expected}; "
            f"Ctrl-C stops and saves; for fewer steps add {self.flag} N"
        )


def synchronized_clock() -> float:
    """Return seconds, after the GPU has finished the work that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def device() -> str:
    """Return what the training runs on, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return counted(torch.get_num_threads(), "thread")
