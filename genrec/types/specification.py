"""Specifications: the protocol of a component that checks its experiment, and checks of a specification's fields."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from genrec.errors import UsageError


@runtime_checkable
class CheckedSpecification(Protocol):
    """A component of an experiment that checks itself against the whole experiment, before any stage runs."""

    def check(self, experiment: Any) -> None:
        """Raise `genrec.errors.UsageError` if this component does not fit the `genrec.experiment.Experiment` that holds it."""
        ...


def check_at_least(specification: object, path: str, least: int, *fields: str) -> None:
    """Raise UsageError unless every named field is `least` or more; `path` is the specification's path on the command line."""
    for field in fields:
        value = getattr(specification, field)
        if not value >= least:
            raise UsageError(f"{path}.{field} must be at least {least}, got {value}")


def check_dropout(dropout: float, path: str) -> None:
    """Raise UsageError unless the rate lies in [0, 1); `path` is the specification's path on the command line."""
    if not 0 <= dropout < 1:
        raise UsageError(f"{path}.dropout must lie in [0, 1), got {dropout}")
