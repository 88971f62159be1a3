"""A tuning: an experiment, the settings to try, and the budget. `genrec tune FILE.py:FUNCTION` runs the tuning of a function.

    def sasrec() -> Tuning:
        return Tuning(experiment=movielens.sasrec(), space={"sft.optimization.learning_rate": LogUniform(1e-4, 1e-2)})

Compare methods after tuning all of them with equal budgets. See `genrec.tuner` for the search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from genrec.errors import UsageError
from genrec.experiment import Experiment

SEED = 1000  # default seed of the trials; seeds 0 to 4 stay fresh for the rows that are reported
SHARED = ("name", "seed", "source", "split", "history_length", "evaluate", "selection")  # fields that are the same in all trials
Plain: TypeAlias = "int | float | str | bool | None"


@dataclass(frozen=True)
class Uniform:
    """A number between two bounds."""

    low: float  # least value
    high: float  # largest value, above `low`

    def __post_init__(self) -> None:
        _check_bounds(self, self.low, self.high)


@dataclass(frozen=True)
class LogUniform:
    """A positive number with a uniform logarithm, such as a learning rate."""

    low: float  # least value, above 0
    high: float  # largest value, above `low`

    def __post_init__(self) -> None:
        _check_bounds(self, self.low, self.high)
        if self.low <= 0:
            raise UsageError(f"LogUniform: low must be above 0, got {self.low}")


@dataclass(frozen=True)
class IntUniform:
    """An integer between two bounds, both included."""

    low: int  # least value
    high: int  # largest value, above `low`

    def __post_init__(self) -> None:
        _check_bounds(self, self.low, self.high)
        if not isinstance(self.low, int) or not isinstance(self.high, int):
            raise UsageError(f"IntUniform: bounds must be integers, got {self.low!r} and {self.high!r}")


@dataclass(frozen=True)
class Choice:
    """One of several values, as on the command line: numbers, True, None, texts, and class names of components."""

    values: tuple[Plain, ...]  # two or more different values

    def __post_init__(self) -> None:
        texts = [str(value) for value in self.values] if isinstance(self.values, tuple | list) else []
        if (
            len(texts) < 2
            or len(set(texts)) < len(texts)
            or not all(isinstance(value, int | float | str | None) for value in self.values)
        ):
            raise UsageError(f"Choice needs two or more different numbers, texts, True, False or None, got {self.values!r}")


Distribution: TypeAlias = Uniform | LogUniform | IntUniform | Choice


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The tuning of one experiment by its validation metric (`Experiment.selection`). No test event is trained on or ranked.

    The first trial is the experiment as it is.
    """

    experiment: Experiment  # a trained policy, aligned or not, or a baseline; its last trained stage is tuned
    space: Mapping[str, Distribution]  # key path as on the command line, such as `policy.dropout` -> the values to try
    trials: int = 12  # number of trials, at least 1
    hours: float = 4.0  # processor-hours (of all threads, over all sessions) after which no trial starts, above 0
    seed: int = SEED  # of the trials and of the search; apart from the seeds that are reported
    prune: bool = True  # stop a trial at a validation where it is below the median of the finished trials
    round_size: int | None = None  # trials that are proposed before any of them has a result; None: 1, and N with --on local:N

    def __post_init__(self) -> None:
        if not isinstance(self.experiment, Experiment):
            raise UsageError(f"Tuning: experiment must be an Experiment, got {self.experiment!r}")
        if not isinstance(self.space, Mapping) or not self.space:
            raise UsageError(f"Tuning: space must hold at least one key path with its values, got {self.space!r}")
        for key, values in self.space.items():
            if not isinstance(values, Distribution):
                raise UsageError(f"Tuning: {key} must have LogUniform, Uniform, IntUniform or Choice values, got {values!r}")
            _check_key(key)
        for name, least in (("trials", 1), ("seed", 0), ("round_size", 1)):
            value = getattr(self, name)
            if name == "round_size" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"Tuning: {name} must be an integer of {least} or more, got {value!r}")
        if not isinstance(self.hours, int | float) or not self.hours > 0:
            raise UsageError(f"Tuning: hours must be above 0, got {self.hours!r}")


def _check_key(key: str) -> None:
    """Raise UsageError if trials with different values of a key path have scores that cannot be compared."""
    names = [name for name in key.replace("-", "_").split(".") if not name.isdecimal()]  # without the place in a chain of alignments
    if names[0] in SHARED:
        raise UsageError(
            f"Tuning: {key} cannot be tuned: trials must share data, protocol and seed; remove it from the space and set it in the "
            "experiment, for all trials alike"
        )
    if names[0] in ("sft", "align") and names[1:2] == ["validation"]:
        raise UsageError(
            f"Tuning: {key} cannot be tuned: the score of a trial is measured by these validations, so fewer users or more "
            "validations can raise it by chance; remove it from the space and set it in the experiment, for all trials alike"
        )


def _check_bounds(distribution: object, low: float, high: float) -> None:
    """Raise UsageError unless both bounds are finite numbers in order."""
    numbers = all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in (low, high))
    if not numbers or not float("-inf") < low < high < float("inf"):
        raise UsageError(f"{type(distribution).__name__} needs two finite numbers, the smaller one first, got {low!r} and {high!r}")
