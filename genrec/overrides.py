"""Override the fields of experiments from the command line: `--align.num-negatives 5`. Only this module uses tyro.

An override changes every experiment of a list that has the field. All errors are raised before any stage runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, get_type_hints

import tyro
import tyro.constructors

from genrec import renamed
from genrec.data.sources.frames import TableOrPath
from genrec.errors import UsageError
from genrec.experiment import Experiment

CONFIG = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
REGISTRY = tyro.constructors.ConstructorRegistry()


@REGISTRY.primitive_rule
def _table_rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Read a table of `Frames` from the command line as a path."""
    if info.type is not TableOrPath:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda tokens: Path(tokens[0]),
        is_instance=lambda value: value is not None,
        str_from_instance=lambda value: [str(value) if isinstance(value, Path) else "DataFrame"],
    )


def _cli(kind: Any, default: Any, args: Sequence[str]) -> Any:
    """Parse arguments into a dataclass of this class."""
    with REGISTRY:  # older versions of tyro have no parameter for it
        return tyro.cli(kind, prog="genrec run", default=default, args=args, config=CONFIG)


def override(experiments: Sequence[Experiment], arguments: Sequence[str]) -> list[Experiment]:
    """Return every experiment with the overrides that it has fields for. Raises UsageError for an override that fits no experiment.

    All overrides of an experiment are applied together, since a value may be valid only together with another one.
    """
    flags, reader = _by_flag(arguments), _Reader()
    fitting = [[_fits(reader, experiment, flag) for flag in flags] for experiment in experiments]
    for number, flag in enumerate(flags):
        if not any(fits[number] for fits in fitting):
            _refuse(experiments, flag)
    result: list[Experiment] = []
    for experiment, fits in zip(experiments, fitting, strict=True):
        changed = _all(reader, experiment, list(compress(flags, fits)))
        if changed not in result:  # `--seed 1` makes the seeds of a row equal
            result.append(changed)
    return result


class _Reader:
    """Parses overrides with tyro, once for all experiments with equal values in a field."""

    def __init__(self) -> None:
        self._read: dict[tuple[object, ...], Any] = {}

    def changed(self, experiment: Experiment, flags: list[list[str]]) -> Experiment | None:
        """Return the experiment with the overrides, or None if one does not fit. Errors of components are raised."""
        tokens: dict[tuple[str, ...], list[str]] = {}
        for flag in flags:
            place = _place(experiment, flag[0])
            if place is None:
                return None
            tokens.setdefault(place[0], []).extend([f"--{place[1]}", *flag[1:]])
        values: dict[tuple[str, ...], object] = {}
        for path, given in tokens.items():
            holder = self._holder(functools.reduce(getattr, path[:-1], experiment), path[-1], given)
            if holder is None:
                return None
            values[path] = getattr(holder, path[-1])
        try:
            changed: Experiment = _rebuilt(experiment, values)
        except ValueError as error:  # from a plug-in
            raise UsageError(str(error)) from error
        return changed

    def _holder(self, owner: object, name: str, tokens: list[str]) -> Any:
        """Return a dataclass of this one field with the parsed value, or None if tyro refuses the value.

        The field is parsed alone, since its owner may refuse a value that is valid together with another override.
        """
        default = getattr(owner, name)
        key = (type(owner), name, repr(default), *tokens)
        if key not in self._read:
            single = dataclasses.make_dataclass("Single", [(name, get_type_hints(type(owner), include_extras=True)[name])])
            self._read[key] = _parse(single, single(default), tokens)
        return self._read[key]


def _place(experiment: Experiment, flag: str) -> tuple[tuple[str, ...], str] | None:
    """Return the path of the field that holds the flag's value, and the flag from that field on, or None if there is no such field.

    --align.negatives.samplers.1.skip -> ('align', 'negatives', 'samplers'), 'samplers.1.skip': tyro resolves the inside of a tuple.
    """
    value: object = experiment
    path: tuple[str, ...] = ()
    names = flag.removeprefix("--").split(".")
    while dataclasses.is_dataclass(value) and len(path) < len(names):
        name = names[len(path)].replace("-", "_")
        if name not in _fields(value):
            return None
        value, path = getattr(value, name), (*path, name)
    return path, ".".join([path[-1], *names[len(path) :]])


def _fields(value: Any) -> list[str]:
    """Return the names of a dataclass's fields that can be set."""
    return [field.name for field in dataclasses.fields(value) if field.init]


def _rebuilt(value: Any, changes: dict[tuple[str, ...], object]) -> Any:
    """Return the dataclass with the values at these paths. Inner components are rebuilt first; each one checks its fields."""
    new: dict[str, object] = {}
    for name in _fields(value):
        inner = {path[1:]: change for path, change in changes.items() if path[0] == name}
        if inner:
            new[name] = inner[()] if () in inner else _rebuilt(getattr(value, name), inner)
    return dataclasses.replace(value, **new)


def _fits(reader: _Reader, experiment: Experiment, flag: list[str]) -> bool:
    """Return whether the experiment has this field and the value has the right type."""
    try:
        return reader.changed(experiment, [flag]) is not None
    except UsageError:
        return True


def _all(reader: _Reader, experiment: Experiment, flags: list[list[str]]) -> Experiment:
    """Return the experiment with all overrides. An error names the override at fault if leaving out one override helps, else all."""
    try:
        changed = reader.changed(experiment, flags)
    except UsageError as error:
        at_fault = [flag for flag in flags if _valid(reader, experiment, [other for other in flags if other is not flag])]
        shown = " ".join(token for flag in at_fault[:1] or flags for token in flag)
        raise UsageError(f"{shown}: {error}") from None
    assert changed is not None
    return changed


def _valid(reader: _Reader, experiment: Experiment, flags: list[list[str]]) -> bool:
    try:
        return reader.changed(experiment, flags) is not None
    except UsageError:
        return False


def print_fields(experiment: Experiment) -> None:
    """Print every field that can be overridden, with its default."""
    with contextlib.suppress(SystemExit):
        _cli(Experiment, default=experiment, args=["--help"])


def _by_flag(arguments: Sequence[str]) -> list[list[str]]:
    """Group the arguments by flag: ['--a', '1', '--b', '2', '3'] -> [['--a', '1'], ['--b', '2', '3']]."""
    flags: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--"):
            flags.append(argument.split("=", 1))
        elif flags:
            flags[-1].append(argument)
        else:
            raise UsageError(f"expected an override such as --align.num_negatives 3, got {argument!r}")
    return flags


def _parse(kind: Any, default: Any, arguments: list[str]) -> Any:
    """Return the dataclass with the arguments parsed by tyro, or None if tyro refuses them. Errors of components are raised."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return _cli(kind, default=default, args=arguments)
    except SystemExit:
        return None


def _refuse(experiments: Sequence[Experiment], flag: list[str]) -> None:
    """Raise UsageError for an override that fits no experiment, explained for the experiment that has most of its path."""
    richest = max(experiments, key=lambda e: (len(_followed(e, flag[0])), len(e.stages)))
    output = io.StringIO()
    with contextlib.redirect_stderr(output), contextlib.suppress(SystemExit):
        _cli(Experiment, default=richest, args=flag)
    reason = f"the override {' '.join(flag)} fits no experiment"
    names, values = flag[0].removeprefix("--").split("."), _followed(richest, flag[0])
    if len(values) > len(names):  # the field exists, so tyro refused the value
        raise UsageError(f"{reason}\n{_box(output)}")
    where, name, value = ".".join(names[: len(values) - 1]), names[len(values) - 1], values[-1]
    if value is None:
        raise UsageError(f"{reason}: {where} is None in all of them, so it has no fields; set it in the experiment's file")
    if dataclasses.is_dataclass(value):
        former = renamed.present_name(type(value).__name__, name.replace("-", "_"))
        if former:
            path = former.removeprefix("Experiment.") if former[0].isupper() else ".".join([*names[: len(values) - 1], former])
            raise UsageError(f"{reason}: {flag[0]} is now --{path.replace('_', '-')}")
        raise UsageError(f"{reason}: {_no_field(value, name)}\n{_box(output)}")
    if isinstance(value, tuple):
        raise UsageError(f"{reason}: {where} has no position {name!r}; it has {len(value)} entries, counted from 0")
    if type(value).__module__ == "builtins":
        raise UsageError(f"{reason}: {where} is {value!r}, which has no fields")
    component = f"{type(value).__module__}.{type(value).__qualname__}"
    raise UsageError(f"{flag[0]}: {component} is not a dataclass, so its fields cannot be overridden; make it a frozen dataclass")


def _followed(experiment: Experiment, flag: str) -> list[object]:
    """Return the experiment and the values along the flag's path, as far as the path exists."""
    values: list[object] = [experiment]
    for name in flag.removeprefix("--").split("."):
        value, attribute = values[-1], name.replace("-", "_")
        if isinstance(value, tuple) and name.isdecimal() and int(name) < len(value):
            values.append(value[int(name)])
        elif dataclasses.is_dataclass(value) and attribute in _fields(value):
            values.append(getattr(value, attribute))
        else:
            break
    return values


def _no_field(value: object, name: str) -> str:
    """Return a message about a missing field, with the nearest fields."""
    fields = [field.replace("_", "-") for field in _fields(value)]
    nearest = _nearest(name.replace("_", "-"), value)
    has = f"the nearest: {', '.join(nearest)}" if nearest else f"it has {', '.join(fields) or 'none'}"
    return f"{type(value).__name__} has no field {name!r}; {has}"


def _nearest(name: str, value: object) -> list[str]:
    """Return the key paths below a component, as flags, that are spelled most like a name: as a whole, or in one of their words."""
    words: dict[str, list[str]] = {}
    for path in _paths(value):
        last = path.rpartition(".")[2]
        for word in dict.fromkeys([last, *last.split("-")]):
            words.setdefault(word, []).append(path)
    matches = difflib.get_close_matches(name, words)
    return list(dict.fromkeys(path for word in matches for path in words[word]))[:3]


def _paths(value: object) -> Iterator[str]:
    """Iterate over the key paths of a component's fields and of the fields of the dataclasses that it holds."""
    for field in _fields(value):
        flag, inner = field.replace("_", "-"), getattr(value, field)
        yield flag
        if dataclasses.is_dataclass(inner):
            yield from (f"{flag}.{path}" for path in _paths(inner))


def _box(output: io.StringIO) -> str:
    """Return tyro's message, pointing to the option that lists the fields instead of to a help that does not."""
    message = output.getvalue().rstrip()
    for verb in ("run", "see"):  # both texts have 40 characters, so the box keeps its shape
        message = message.replace(f"For full helptext, {verb} genrec run --help", "For a list of all fields, add --fields  ")
    return message
