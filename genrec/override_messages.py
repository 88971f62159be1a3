"""Messages about overrides that fit no experiment: a field that does not exist, or a value of the wrong type."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from genrec import renamed
from genrec.command_lines import command_line
from genrec.component_choices import classes_of, holds_number, is_optional, kinds_of, replacing, required
from genrec.errors import UsageError, did_you_mean
from genrec.experiment import Experiment, flags_in_words
from genrec.field_paths import FieldPath, Walk, as_flag, is_component, names_in, nearest_holders, settable_fields, value_at, walk
from genrec.plugin_source import is_plugin_class
from genrec.stage_names import place_of
from genrec.types import ValueSchedule

WORDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "a text",
    Path: "a path",
    type(None): "None",
}


def list_fields(where: str) -> str:
    """Return the line with the command that lists the fields of an experiment."""
    return f"list all fields: {command_line('run', where, '--fields')}"


def component_lines(value: object, path: FieldPath = ()) -> Iterator[str]:
    """Iterate over the components below an experiment or component that a class name replaces: the flag, the class, the choices."""
    for name in names_in(value):
        inner, here = value_at(value, (name,), {}), (*path, name)
        kinds = () if isinstance(value, tuple) or isinstance(inner, tuple) else kinds_of(value, name)
        if kinds:
            also = [word for word, fits in (("None", is_optional), ("a number", holds_number)) if fits(value, name)]
            now = type(inner).__name__ if is_component(inner) else inner
            yield f"{as_flag(here)} {now}: {', '.join([*classes_of(kinds), *also])}"
        yield from component_lines(inner, here)


def stage_lines(experiment: Experiment) -> list[str]:
    """Return a line for each stage of a chain of alignments, with its flags."""
    return [f"stage {stage}{flags}" for stage in experiment.stages if (flags := flags_in_words(experiment, stage))]


def refuse(experiments: Sequence[Experiment], flag: list[str], where: str) -> None:
    """Raise UsageError for an override that fits no experiment, explained for the experiment that has most of its path."""
    richest, found = max(((each, walk(each, flag[0], {})) for each in experiments), key=_how_far)
    value = value_at(richest, found.path, {})
    if not found.left:
        reason = f"{' '.join(flag)}: {_wrong_value(value_at(richest, found.path[:-1], {}), value, found, flag)}"
    elif value is None or isinstance(value, tuple) or is_component(value) or type(value).__module__ == "builtins":
        reason = f"the override {' '.join(flag)} fits no experiment: {_no_such_field(richest, found, flag)}"
    else:
        component = f"{type(value).__module__}.{type(value).__qualname__}"
        reason = f"{flag[0]}: {component} is not a dataclass, so its fields cannot be overridden; make it a frozen dataclass"
    raise UsageError(f"{reason}\n{list_fields(where)}")


def _how_far(followed: tuple[Experiment, Walk]) -> tuple[int, bool, int, bool, int]:
    """Return how much of a flag's path an experiment has, to be compared; the fourth number: whether a field elsewhere fits."""
    experiment, found = followed
    elsewhere = bool(found.left) and bool(_ending_in(found.left[-1].replace("_", "-"), experiment))
    return -len(found.left), bool(found.candidates), len(found.path), elsewhere, len(experiment.stages)


def _wrong_value(owner: object, value: object, found: Walk, flag: list[str]) -> str:
    """Return a message about a value of the wrong type for a field that exists."""
    got = " ".join(flag[1:])
    if isinstance(owner, tuple):
        return (
            "a component within a tuple cannot be replaced on the command line; write the tuple "
            f"{found.path[-2]} in the experiment's file"
        )
    kinds = kinds_of(owner, found.path[-1])
    if holds_number(owner, found.path[-1]) and kinds:
        return number_or_schedule(kinds, got)
    if kinds:
        return f"expected one class name, {', '.join(classes_of(kinds))}, or FILE.py:CLASS, got {got or 'nothing'}"
    if is_component(value):
        fields = ", ".join(f"{flag[0]}.{field.replace('_', '-')}" for field in settable_fields(value))
        return f"{'.'.join(found.taken)} is a component, {type(value).__name__}; set one of its fields: {fields}"
    hint = get_type_hints(type(owner)).get(found.path[-1], type(value))
    schedule = ""
    if hint is float and is_plugin_class(type(owner)) and got in classes_of((ValueSchedule,)):
        schedule = f"; it takes a schedule if {type(owner).__name__}.{found.path[-1]} has the type genrec.types.NumberOrSchedule"
    return wrong_type(hint, flag) + schedule


def number_or_schedule(kinds: tuple[type, ...], got: str) -> str:
    """Return a message about a value that is neither a number nor the class of a schedule."""
    names = classes_of(kinds)
    close = did_you_mean(got, names)
    given = repr(got) if got else "nothing"
    return f"expected a number, got {given}; a schedule is given by its class: {', '.join(names)}, or FILE.py:CLASS{close}"


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


def _no_such_field(root: object, found: Walk, flag: list[str]) -> str:
    """Return a message about a path that does not exist below an experiment or component: what is there instead."""
    where, name, value = ".".join(found.taken), found.left[0], value_at(root, found.path, {})
    if found.candidates:
        several = " or ".join(_full(flag, found, each) for each in found.candidates)
        return f"{name!r} is short for several fields; name one: {several}"
    if value is None:
        return f"{where} is None in all of them, so it has no field {name!r}{_instead_of_none(root, found, flag)}"
    if isinstance(value, Experiment) and name in value.stages and flags_in_words(value, name):
        return f"{name} is a stage of a chain; write {as_flag(('align', str(place_of(name)), *found.left[1:]))}"
    if is_component(value):
        is_below = any(path.rpartition(".")[2] == name.replace("_", "-") for path in _paths(value))  # inside a tuple
        field = name.replace("-", "_")
        if is_below or renamed.present_name(type(value).__name__, field) is None:
            return _no_field(value, name, found.taken)
        return _lacking(root, found, field) or f"{flag[0]} is now {_former(root, found, field)}"
    if names_in(value) and not name.isdecimal():
        inside = [f"--{'.'.join([*found.taken, each, name])}" for each in names_in(value) if _has(root, (*found.path, each), name)]
        begin = f"--{where}.0"
        return f"{where} has {len(names_in(value))} entries; name one by its place, from 0: {', '.join(inside) or f'{begin}.FIELD'}"
    if isinstance(value, tuple):
        return f"{where} has no position {name!r}; it has {len(value)} entries, counted from 0"
    return f"{where} is {value!r}, which has no fields"


def _lacking(root: object, found: Walk, field: str) -> str | None:
    """Return which component on the present path of a former field lacks it, and the classes that have it; None if none lacks it.

    `--align.negatives` of `TopItems` needs another proposer first: its name is that of a field of `Sampled` as well.
    """
    present = renamed.present_name(type(value_at(root, found.path, {})).__name__, field)
    inner = walk(root, ".".join([*found.path, present or ""]), {})
    value = value_at(root, inner.path, {})
    if not inner.left or not is_component(value) or not inner.path:
        return None
    classes = classes_of(kinds_of(value_at(root, inner.path[:-1], {}), inner.path[-1])).items()
    having = [name for name, kind in classes if inner.left[0] in settable_fields(kind)]
    if not having:
        return None
    lacks = f"{'.'.join(inner.path)} is {type(value).__name__}, which has no field {inner.left[0]!r}"
    return f"{lacks}; add {as_flag(inner.path)} {' or '.join(having)}"


def _former(root: object, found: Walk, field: str) -> str:
    """Return the present flag of a former field of the component at the end of a walk, and the code for it."""
    kind = type(value_at(root, found.path, {})).__name__
    present = renamed.present_name(kind, field)
    assert present is not None, (kind, field)
    if not present[0].isupper():
        return f"{as_flag((*found.taken, present))}{renamed.code_for(kind, field)}"
    owner, _, name = present.partition(".")
    around = (found.path[:depth] for depth in range(len(found.path)))
    held = next((path for path in around if type(value_at(root, path, {})).__name__ == owner), None)
    return (present if held is None else as_flag((*held, name))) + renamed.code_for(kind, field)


def _has(root: object, path: FieldPath, name: str) -> bool:
    """Return whether a name, as on the command line, means a field of the component at a path or of one inside it."""
    field = name.replace("-", "_")
    return field in names_in(value_at(root, path, {})) or len(nearest_holders(root, path, field, {})) == 1


def _full(flag: list[str], found: Walk, candidate: FieldPath) -> str:
    """Return the full flag of a candidate for the first name of a flag that could not be followed, with the names after it."""
    return as_flag((*candidate, *found.left[1:]))


def _instead_of_none(root: object, found: Walk, flag: list[str]) -> str:
    """Return how to set a field that is None: by another flag if it is an optional component, or in the experiment's file."""
    kinds = kinds_of(value_at(root, found.path[:-1], {}), found.path[-1])
    if not kinds:
        return "; set it in the experiment's file"
    there = f"--{'.'.join(found.taken)}"
    optional = next((kind for kind in kinds if dataclasses.is_dataclass(kind) and not required(kind)), None)
    if optional is None:
        return f"; add {there} CLASS, one of {', '.join(classes_of(kinds))}"
    chosen = f"{there} {optional.__name__}"
    component: Any = optional()
    inner = walk(component, ".".join(found.left), {})
    if inner.left:
        return f"; add {chosen} for its defaults, but {_no_such_field(component, _below(found, inner), flag)}"
    value = " ".join(flag[1:])
    code = _code(component, inner.path, value)
    if code is None:
        return f"; add {chosen}: {chosen} {flag[0]} {value or '...'}"
    return f"; add {chosen} for its defaults, or write in the experiment's file: {replacing('.'.join(found.path), code)}"


def _below(found: Walk, inner: Walk) -> Walk:
    """Return the walk from a component at the end of another walk, with the names of both."""
    return inner._replace(taken=[*found.taken, *inner.taken], candidates=tuple((*found.path, *each) for each in inner.candidates))


def _code(component: Any, path: FieldPath, value: str) -> str | None:
    """Return the code of a component with another value of the field at a path.

    None if the component is not one of defaults, or the value is a class of a file (`FILE.py:CLASS`), which the code would import.
    """
    if ":" in value or required(type(component)) or type(component)() != component:
        return None
    field, owner = path[0], type(component).__name__
    if len(path) > 1:
        inner = _code(getattr(component, field), path[1:], value)
        return None if inner is None else f"{owner}({field}={inner})"
    if kinds_of(component, field) and value != "None":
        value = f"{value}()"
    elif " " not in value and not _is_number(value):
        value = repr(value)
    return f"{owner}({field}={value or '...'})"


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
    exact = _ending_in(name, value)
    if exact:
        return exact[:3]
    words: dict[str, list[str]] = {}
    for path in sorted(_paths(value), key=lambda each: each.count(".")):
        last = path.rpartition(".")[2]
        for word in dict.fromkeys([last, *last.split("-")]):
            words.setdefault(word, []).append(path)
    matches = difflib.get_close_matches(name, words)
    return list(dict.fromkeys(path for word in matches for path in words[word]))[:3]


def _ending_in(name: str, value: object) -> list[str]:
    """Return the key paths below a component, as flags, whose last part is a name; the shortest first."""
    return sorted((path for path in _paths(value) if path.rpartition(".")[2] == name), key=lambda path: path.count("."))


def _paths(value: object) -> Iterator[str]:
    """Iterate over the key paths below a component, as flags: its fields and those of the components that it holds."""
    for name in names_in(value):
        inner = value[int(name)] if isinstance(value, tuple) else getattr(value, name)
        flag = name.replace("_", "-")
        if not isinstance(value, tuple):
            yield flag
        yield from (f"{flag}.{path}" for path in _paths(inner))
