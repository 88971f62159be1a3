"""Endpoints: the tests for which a list of experiments is run, named in its file before the first run.

    @endpoint("beauty-gated", reference="beauty-continued")
    def beauty() -> list[Experiment]:
        ...

`genrec run` records an endpoint and the time before anything is trained (`genrec.studies`). `genrec compare` tests it apart from the
other rows if it was named before the rows were run, and with the number of seeds that was named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from genrec.errors import UsageError, did_you_mean

Function = TypeVar("Function", bound=Callable[[], Any])
ATTRIBUTE = "__genrec_endpoints__"  # of a function: its endpoints
LEAST_SEEDS = 2  # a test over seeds needs two


class Listed(Protocol):
    """An experiment of a list, by its name and its stages (`genrec.experiment.Experiment`)."""

    @property
    def name(self) -> str:
        """The name of the row."""

    @property
    def stages(self) -> Sequence[str]:
        """The names of the stages that it runs."""


@dataclass(frozen=True)
class Endpoint:
    """The test of a row against a reference on one metric.

    Args:
        row: name of the tested row, which is trained.
        reference: name of the row that it is tested against.
        metric: the metric, as for `genrec compare --metric`.
        seeds: number of seeds of the test, at least 2.

    Raises UsageError for anything else.

    """

    row: str
    reference: str
    metric: str = "ndcg@10"
    seeds: int = 5

    def __post_init__(self) -> None:
        for field in ("row", "reference", "metric"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value:
                raise UsageError(f"{field} of an endpoint must be a name, got {value!r}")
        if self.row == self.reference:
            raise UsageError(f"an endpoint compares two rows, got {self.row} twice")
        if not isinstance(self.seeds, int) or isinstance(self.seeds, bool) or self.seeds < LEAST_SEEDS:
            raise UsageError(f"seeds of an endpoint must be a number of seeds of {LEAST_SEEDS} or more, got {self.seeds!r}")

    def __str__(self) -> str:
        return f"{self.metric} of {self.row} against {self.reference} over {self.seeds} seeds"


def endpoint(row: str, reference: str, metric: str = "ndcg@10", seeds: int = 5) -> Callable[[Function], Function]:
    """Name an endpoint of the function that returns a list of experiments. Several may be named; Holm's correction counts them all.

    The arguments are those of `Endpoint`.
    """
    named = Endpoint(row, reference, metric, seeds)

    def decorate(function: Function) -> Function:
        setattr(function, ATTRIBUTE, (named, *endpoints_of(function)))
        return function

    return decorate


def endpoints_of(function: object) -> tuple[Endpoint, ...]:
    """Return the endpoints of a function in the order of the file; empty if it names none."""
    found: tuple[Endpoint, ...] = getattr(function, ATTRIBUTE, ())
    return found


def named(function: object, experiments: Sequence[Listed], where: str) -> tuple[Endpoint, ...]:
    """Return the endpoints of a function after `check`; `experiments` are those that it returns, `where` is its name."""
    found = endpoints_of(function)
    check(found, experiments, where)
    return found


def check(endpoints: Iterable[Endpoint], experiments: Sequence[Listed], where: str) -> None:
    """Raise UsageError unless both rows of each endpoint are among the experiments of `where`, and the tested one is trained."""
    trained = {each.name: "sft" in each.stages for each in experiments}
    for each in endpoints:
        for name in (each.row, each.reference):
            if name not in trained:
                raise UsageError(
                    f"the endpoint {each} names the row {name!r}, which {where} does not return{did_you_mean(name, trained)}"
                )
        if not trained[each.row]:
            raise UsageError(f"the endpoint {each} tests {each.row}, which is not trained; name a trained row of {where}")


def of_rows(endpoints: Iterable[Endpoint], experiments: Sequence[Listed]) -> tuple[Endpoint, ...]:
    """Return the endpoints with both rows among the experiments; overrides of a command line may have given rows other names."""
    names = {each.name for each in experiments}
    return tuple(each for each in endpoints if each.row in names and each.reference in names)
