"""Messages about overrides that fit no experiment: a field that does not exist, or a value of the wrong type."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from genrec import renamed
from genrec.component_choices import classes_of, kinds_of, replacing, required, wrapped
from genrec.errors import UsageError
from genrec.experiment import Experiment

WORDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "a text",
    Path: "a path",
    type(None): "None",
}


def settable_fields(value: Any) -> list[str]:
    """Return the names of a dataclass's fields that can be set."""
    return [field.name for field in dataclasses.fields(value) if field.init]


def list_fields(where: str) -> str:
    """Return the line with the command that lists the fields of an experiment."""
    return f"list all fields: genrec run {where} --fields"


def refuse(experiments: Sequence[Experiment], flag: list[str], where: str) -> None:
    """Raise UsageError for an override that fits no experiment, explained for the experiment that has most of its path."""
    richest = max(experiments, key=lambda each: (len(followed(each, flag[0])), len(each.stages)))
    names, values = flag[0].removeprefix("--").split("."), followed(richest, flag[0])
    if len(values) > len(names):
        reason = f"{' '.join(flag)}: {_wrong_value(values[-2:], names, flag)}"
    elif isinstance(values[-1], tuple) or dataclasses.is_dataclass(values[-1]) or type(values[-1]).__module__ == "builtins":
        reason = f"the override {' '.join(flag)} fits no experiment: {_no_such_field(values, names, flag)}"
    else:
        component = f"{type(values[-1]).__module__}.{type(values[-1]).__qualname__}"
        reason = f"{flag[0]}: {component} is not a dataclass, so its fields cannot be overridden; make it a frozen dataclass"
    raise UsageError(f"{reason}\n{list_fields(where)}")


def followed(component: object, flag: str) -> list[object]:
    """Return the experiment or component and the values along the flag's path, as far as the path exists."""
    values: list[object] = [component]
    for name in flag.removeprefix("--").split("."):
        value, attribute = values[-1], name.replace("-", "_")
        if isinstance(value, tuple) and name.isdecimal() and int(name) < len(value):
            values.append(value[int(name)])
        elif dataclasses.is_dataclass(value) and attribute in settable_fields(value):
            values.append(getattr(value, attribute))
        else:
            break
    return values


def _wrong_value(owner_and_value: Sequence[object], names: list[str], flag: list[str]) -> str:
    """Return a message about a value of the wrong type for a field that exists."""
    owner, value = owner_and_value
    got = " ".join(flag[1:])
    if isinstance(owner, tuple) and dataclasses.is_dataclass(value):
        return (
            f"a component within a tuple cannot be replaced on the command line; write the tuple {names[-2]} in the experiment's file"
        )
    name = names[-1].replace("-", "_")
    kinds = () if isinstance(owner, tuple) else kinds_of(owner, name)
    if kinds:
        return f"expected one class name, {', '.join(classes_of(kinds))}, or FILE.py:CLASS, got {got or 'nothing'}"
    if dataclasses.is_dataclass(value):
        fields = ", ".join(f"{flag[0]}.{field.replace('_', '-')}" for field in settable_fields(value))
        return f"{'.'.join(names)} is a component, {type(value).__name__}; set one of its fields: {fields}"
    hint = type(value) if isinstance(owner, tuple) else get_type_hints(type(owner)).get(name, type(value))
    return wrong_type(hint, flag)


def wrong_type(hint: Any, flag: list[str]) -> str:
    """Return a message about a value that is not of the type of its field."""
    pairs = any(get_origin(each) is Mapping for each in (hint, *get_args(hint)))
    example = f"; for example {flag[0]} user_id user movie_id item" if pairs else ""
    got = " ".join(flag[1:])
    return f"expected {_expected(hint)}, got {repr(got) if got else 'nothing'}{example}"


def _expected(hint: Any) -> str:
    """Return the values that a type admits, in words."""
    arguments = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_expected(argument) for argument in arguments)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if get_origin(hint) is Mapping:
        return "names and values in turns"
    if get_origin(hint) is tuple and Ellipsis in arguments:
        return f"values separated by spaces, each {_expected(arguments[0])}"
    if get_origin(hint) is tuple:
        return f"{len(arguments)} values separated by spaces: {', '.join(_expected(argument) for argument in arguments)}"
    return WORDS.get(hint, f"a value of type {getattr(hint, '__name__', hint)}")


def _no_such_field(values: list[object], names: list[str], flag: list[str]) -> str:
    """Return a message about a path that does not exist: its first part that is missing, and what is there instead."""
    where, name, value = ".".join(names[: len(values) - 1]), names[len(values) - 1], values[-1]
    if value is None:
        instead = _instead_of_none(values, names, flag)
        return f"{where} is None in all of them, so it has no field {name!r}{instead}"
    if dataclasses.is_dataclass(value):
        former = renamed.present_name(type(value).__name__, name.replace("-", "_"))
        if former:
            path = former.removeprefix("Experiment.") if former[0].isupper() else ".".join([*names[: len(values) - 1], former])
            return f"{flag[0]} is now --{path.replace('_', '-')}"
        return _no_field(value, name, names[: len(values) - 1])
    if isinstance(value, tuple):
        return f"{where} has no position {name!r}; it has {len(value)} entries, counted from 0"
    return f"{where} is {value!r}, which has no fields"


def _instead_of_none(values: list[object], names: list[str], flag: list[str]) -> str:
    """Return how to set a field that is None: by another flag if it is an optional component, and in the experiment's file.

    `values` are those along the flag's path `names` up to the None. A field of the component itself is also given as code.
    """
    depth = len(values) - 1
    kinds = kinds_of(values[-2], names[depth - 1].replace("-", "_"))
    if not kinds:
        return "; set it in the experiment's file"
    optional = next((kind for kind in kinds if dataclasses.is_dataclass(kind) and not required(kind)), None)
    if optional is None:
        return f"; add --{'.'.join(names[:depth])} CLASS, one of {', '.join(classes_of(kinds))}"
    chosen = f"--{'.'.join(names[:depth])} {optional.__name__}"
    component: Any = optional()
    path = _below(component, kinds, names[depth:])
    if path is None:
        there = followed(component, ".".join(names[depth:]))
        return f"; add {chosen} for its defaults, but {_no_such_field([*values[:-1], *there], names, flag)}"
    value = " ".join(flag[1:])
    if len(path) > 1:
        return f"; add {chosen}: {chosen} --{'.'.join([*names[:depth], *path])} {value or '...'}"
    if kinds_of(component, path[0].replace("-", "_")):
        value = f"{value}()"
    elif len(flag) == 2 and not _is_number(value):
        value = repr(value)
    field = path[0].replace("-", "_")
    code = replacing(".".join(names[:depth]).replace("-", "_"), f"{optional.__name__}({field}={value or '...'})")
    return f"; add {chosen} for its defaults, or write in the experiment's file: {code}"


def _below(value: Any, kinds: tuple[type, ...], names: list[str]) -> list[str] | None:
    """Return the path of a field below a component of these kinds, or None if there is no such field.

    A field that wraps another component is added: ['loss', 'beta'] -> ['loss', 'loss', 'beta'] of Align(loss=Anchored(SoftmaxDPO())).
    """
    path: list[str] = []
    while names:
        first, *rest = names
        if isinstance(value, tuple) and first.isdecimal() and int(first) < len(value):
            path, names, value, kinds = [*path, first], rest, value[int(first)], ()
            continue
        if not dataclasses.is_dataclass(value):
            return None
        is_field = first.replace("-", "_") in settable_fields(value)
        name = first.replace("-", "_") if is_field else wrapped(value, kinds)
        if name is None:
            return None
        path, names = [*path, name.replace("_", "-")], rest if is_field else names
        value, kinds = getattr(value, name), kinds_of(value, name)
    return path


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("True", "False", "None")
    return True


def _no_field(value: object, name: str, path: list[str]) -> str:
    """Return a message about a missing field of the component at a path, with the flags of the nearest fields."""
    fields = [field.replace("_", "-") for field in settable_fields(value)]
    nearest = _nearest(name.replace("_", "-"), value)
    flags = [f"--{'.'.join([*path, each])}" for each in nearest]
    has = f"the nearest: {', '.join(flags)}" if flags else f"it has {', '.join(fields) or 'none'}"
    return f"{type(value).__name__} has no field {name!r}; {has}"


def _nearest(name: str, value: object) -> list[str]:
    """Return the key paths below a component, as flags, that are spelled most like a name: as a whole, or in one of their words."""
    words: dict[str, list[str]] = {}
    for path in sorted(_paths(value), key=lambda each: each.count(".")):
        last = path.rpartition(".")[2]
        for word in dict.fromkeys([last, *last.split("-")]):
            words.setdefault(word, []).append(path)
    matches = difflib.get_close_matches(name, words)
    return list(dict.fromkeys(path for word in matches for path in words[word]))[:3]


def _paths(value: object) -> Iterator[str]:
    """Iterate over the key paths of a component's fields and of the fields of the dataclasses that it holds."""
    for field in settable_fields(value):
        flag, inner = field.replace("_", "-"), getattr(value, field)
        yield flag
        if dataclasses.is_dataclass(inner):
            yield from (f"{flag}.{path}" for path in _paths(inner))
