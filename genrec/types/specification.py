"""Specifications: the protocol of a component that checks its experiment, and checks of a specification's fields."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

from genrec.errors import UsageError


@runtime_checkable
class CheckedSpecification(Protocol):
    """A component of an experiment that checks itself against the whole experiment, before any stage runs."""

    def check(self, experiment: Any) -> None:
        """Raise `genrec.errors.UsageError` if this component does not fit the `genrec.experiment.Experiment` that holds it."""
        ...


@runtime_checkable
class NamesFiles(Protocol):
    """A component that reads a user's files. Their names stand in labels; the key of an artifact holds their content instead."""

    def file_names(self) -> tuple[str, ...]:
        """Return the names of the files, without their folders."""
        ...


def check_at_least(specification: object, path: str, least: int, *fields: str) -> None:
    """Raise UsageError unless every named field is `least` or more; `path` is the specification's path on the command line."""
    for field in fields:
        value = getattr(specification, field)
        if not isinstance(value, int | float) or not value >= least:
            raise UsageError(f"{path}.{field} must be at least {least}, got {value!r}")
        if value == float("inf"):
            raise UsageError(f"{path}.{field} must be finite, got {value!r}")


def check_choices(specification: object, path: str) -> None:
    """Raise UsageError unless every field that is annotated with a `Literal` holds one of its values."""
    kind: Any = type(specification)
    for field, choices in _choices(kind).items():
        if getattr(specification, field) not in choices:
            listed = ", ".join(repr(choice) for choice in choices)
            raise UsageError(f"{path}.{field} must be one of {listed}, got {getattr(specification, field)!r}")


@cache  # annotations are text and slow to evaluate; long lists of experiments build the same classes again and again
def _choices(kind: type) -> dict[str, tuple[object, ...]]:
    """Return the values of each field of a class that is annotated with a `Literal`."""
    return {field: get_args(hint) for field, hint in get_type_hints(kind).items() if get_origin(hint) is Literal}


def check_dropout(dropout: float, path: str) -> None:
    """Raise UsageError unless the rate lies in [0, 1); `path` is the specification's path on the command line."""
    if not 0 <= dropout < 1:
        raise UsageError(f"{path}.dropout must lie in [0, 1), got {dropout}")


def check_is(path: str, value: object, kind: type) -> None:
    """Raise UsageError unless the value is an instance of the class."""
    if not isinstance(value, kind):
        raise UsageError(f"{path} must be {kind.__name__}(...), got {value!r}")
