"""Specifications: the protocol of a component that checks its experiment, and checks of a specification's fields."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints, runtime_checkable

from genrec.errors import UsageError, given
from genrec.types.policy import Baseline, PartsBaseline


@runtime_checkable
class CheckedSpecification(Protocol):
    """A component of an experiment that checks itself against the whole experiment, before any stage runs."""

    def check(self, experiment: Any) -> None:
        """Raise `genrec.errors.UsageError` if this component does not fit the `genrec.experiment.Experiment` that holds it."""
        ...


@runtime_checkable
class CheckedCatalog(Protocol):
    """A component of an experiment that checks the number of items, as soon as the data stage has made it known."""

    def check_catalog(self, num_items: int) -> None:
        """Raise `genrec.errors.UsageError` if the component cannot work with this number of items."""
        ...


@runtime_checkable
class CheckedData(Protocol):
    """A component of an experiment that reads something made from a data artifact, which must be that of the experiment."""

    def check_data(self, key: str) -> None:
        """Raise a `genrec.errors.GenrecError` if this is not the key of its data. Called when the data stage is complete."""
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
    for field, hint in _plain_hints_of(specification).items():
        if get_origin(hint) is Literal and getattr(specification, field) not in get_args(hint):
            listed = ", ".join(repr(choice) for choice in get_args(hint))
            raise UsageError(f"{path}.{field} must be one of {listed}, got {getattr(specification, field)!r}")


def check_types(specification: object, path: str) -> None:
    """Raise UsageError unless every field of a plain type holds a value of this type; `path` is the specification's key path.

    Plain types are int, float, bool, str, None, `Literal`, tuples of them, and unions of them. An int is a float; a bool is neither
    an int nor a float. A list may stand for a tuple. Fields of other types, such as components and paths, are not checked.
    """
    check_choices(specification, path)
    for field, hint in _plain_hints_of(specification).items():
        value = getattr(specification, field)
        if not _matches(value, hint):
            raise UsageError(f"{path}.{field} must be {_expected(hint)}, got {value!r} ({type(value).__name__})")


PLAIN = {int: "an integer", float: "a number", bool: "True or False", str: "text", NoneType: "None"}


def _plain_hints_of(specification: object) -> dict[str, Any]:
    """Return the type of each field of a specification with a plain type."""
    kind: Any = type(specification)
    return _plain_hints(kind)


@cache  # annotations are text and slow to evaluate; long lists of experiments build the same classes again and again
def _plain_hints(kind: Any) -> dict[str, Any]:
    """Return the type of each field of a dataclass with a plain type; none if an annotation names a type for type checkers only."""
    try:
        hints = get_type_hints(kind)
    except NameError:
        return {}
    return {field.name: hints[field.name] for field in fields(kind) if _is_plain(hints[field.name])}


def _is_plain(hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType, tuple):
        return all(_is_plain(part) for part in get_args(hint) if part is not Ellipsis)
    return hint in PLAIN or get_origin(hint) is Literal


def _matches(value: object, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_matches(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        expected = [parts[0]] * len(value) if parts[-1] is Ellipsis else list(parts)
        return len(expected) == len(value) and all(map(_matches, value, expected))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float) if hint is float else isinstance(value, hint)


def _expected(hint: Any) -> str:
    """Return a type in words: `a number or None`, `a tuple of integers`."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_expected(part) for part in parts)
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if origin is tuple:
        each = " or ".join(dict.fromkeys(_expected(part) for part in parts if part is not Ellipsis))
        return f"a tuple with {each} in each place" if parts[-1] is Ellipsis else f"a tuple of length {len(parts)}, each {each}"
    return PLAIN[hint]


def check_dropout(dropout: float, path: str) -> None:
    """Raise UsageError unless the rate lies in [0, 1); `path` is the specification's path on the command line."""
    if not 0 <= dropout < 1:
        raise UsageError(f"{path}.dropout must lie in [0, 1), got {dropout}")


def check_is(path: str, value: object, kind: type) -> None:
    """Raise UsageError unless the value is an instance of the class."""
    if not isinstance(value, kind):
        raise UsageError(f"{path} must be {kind.__name__}(...), got {given(value)}")


def check_fitted_on_training(specification: object, baseline: Baseline) -> None:
    """Raise UsageError if the baseline of a specification is fitted on other events than those of training."""
    if isinstance(baseline, PartsBaseline) and baseline.parts() != ("train",):
        raise UsageError(
            f"{type(specification).__name__} fits its baseline on training events alone, but {baseline!r} is fitted on others too; "
            "take one that reads training alone, such as Popularity()"
        )
