"""Override the fields of experiments from the command line: `--align.num-negatives 5`. Only this module uses tyro.

An override changes every experiment of a list that has the field. `--align.negatives Uniform` replaces a component by another class
(`genrec.component_choices`); further flags then apply to the new component. All errors are raised before any stage runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any, get_type_hints

from genrec.component_choices import choose, class_named, holds_number, is_optional, kinds_of, required
from genrec.data.sources.frames import TableOrPath
from genrec.errors import InputError, ResourceError, UsageError
from genrec.experiment import Experiment
from genrec.field_paths import FieldPath, by_flag, is_component, number_in, place, rebuilt, settable_fields, spelled, value_at, walk
from genrec.override_messages import component_lines, list_fields, number_or_schedule, refuse, stage_lines, wrong_type
from genrec.types import NumberOrSchedule, ValueSchedule

REFUSED = (UsageError, InputError)  # of an experiment with some of the overrides; a pair file is read when its format is checked


def override(experiments: Sequence[Experiment], arguments: Sequence[str], where: str = "FILE.py:FUNCTION") -> list[Experiment]:
    """Return every experiment with the overrides that it has fields for. Raises UsageError for an override that fits no experiment.

    All overrides of an experiment are applied together, since a value may be valid only together with another one. `--name` is the
    name of a single row, and a prefix if the list has several rows. Experiments that become equal are returned once.

    Args:
        experiments: the experiments.
        arguments: the flags with their values.
        where: the experiments' place on the command line, for messages.

    """
    flags = by_flag(arguments)
    reader = _Reader(flags)
    several = len({experiment.name for experiment in experiments}) > 1
    own = [[_prefixed(flag, experiment) if several else flag for flag in flags] for experiment in experiments]
    result: list[Experiment] = []
    try:
        fitting = [_fitting(reader, row, its) for row, its in zip(experiments, own, strict=True)]
    except _NoSuchComponent as error:
        raise UsageError(f"{error}\n{list_fields(where)}") from None
    for number, flag in enumerate(flags):
        if not any(fits[number] for fits in fitting):
            refuse([_with_outer(reader, experiment, flags, flag) for experiment in experiments], flag, where)
    for experiment, its, fits in zip(experiments, own, fitting, strict=True):
        changed = _all(reader, experiment, list(compress(its, fits)))
        if changed not in result:  # `--seed 1` makes the seeds of a row equal
            result.append(changed)
    return result


class _NoSuchComponent(Exception):
    """A component that does not exist or cannot be built. It is wrong for all experiments of a list."""


class _Reader:
    """Parses overrides with tyro, once for all experiments with equal values in a field."""

    def __init__(self, flags: list[list[str]]) -> None:
        self._flags = {spelled(flag[0]): flag for flag in flags}  # of the whole command line; the last of equal ones counts
        self._read: dict[tuple[object, ...], Any] = {}
        self._components: dict[tuple[object, ...], object] = {}

    def changed(self, experiment: Experiment, flags: list[list[str]]) -> Experiment | None:
        """Return the experiment with the overrides, or None if one does not fit. Errors of components are raised."""
        values = self.values(experiment, flags)
        if values is None:
            return None
        try:
            changed: Experiment = rebuilt(experiment, values)
        except ValueError as error:  # from a plug-in
            raise UsageError(str(error)) from error
        return changed

    def values(self, experiment: Experiment, flags: list[list[str]]) -> dict[FieldPath, object] | None:
        """Return the values that the overrides give, by path, or None if one does not fit. No component checks them yet."""
        components, choices = self.chosen(experiment, flags)
        values = dict(components)
        tokens: dict[FieldPath, list[str]] = {}
        for flag in flags:
            where = place(experiment, flag[0], components)
            if where is None:
                return None
            if not any(flag is choice for choice, _ in choices):
                tokens.setdefault(where[0], []).extend([f"--{where[1]}", *flag[1:]])
        for path, given in tokens.items():
            holder = self._holder(value_at(experiment, path[:-1], components), path[-1], given)
            if holder is None:
                return None
            values[path] = getattr(holder, path[-1])
        return values

    def chosen(
        self, experiment: Experiment, flags: list[list[str]]
    ) -> tuple[dict[FieldPath, object], list[tuple[list[str], FieldPath]]]:
        """Return the components that flags choose by class name, or None, by path, and these flags with their paths.

        Outer components come first, since a short name means a field of the component that is chosen.
        """
        found: dict[FieldPath, object] = {}
        choices: list[tuple[list[str], FieldPath]] = []
        waiting = [flag for flag in flags if len(flag) == 2]
        while places := [(where[0], flag) for flag in waiting if (where := _whole_field(experiment, flag, found)) is not None]:
            path, flag = min(places, key=lambda each: len(each[0]))  # the first of equally long ones
            owner = value_at(experiment, path[:-1], found)
            found[path] = self._component(owner, flag, path)
            choices.append((flag, path))
            waiting = [other for other in waiting if other is not flag]
        return found, choices

    def _component(self, owner: Any, flag: list[str], path: FieldPath) -> object:
        """Return the component that a flag names for a field of `owner`, an object or a class; built once for all experiments."""
        field = path[-1]
        if flag[1:] == ["None"] and is_optional(owner, field):
            return None
        if holds_number(owner, field) and (number := number_in(flag[1])) is not None:
            return number
        kinds = kinds_of(owner, field)
        if holds_number(owner, field) and class_named(kinds, flag[1]) is None:
            raise _NoSuchComponent(f"{' '.join(flag)}: {number_or_schedule(kinds, flag[1])}")
        key = (kinds, path, *flag)
        if key not in self._components:
            try:
                maker = class_named(kinds, flag[1])
                self._components[key] = choose(kinds, flag[1], ".".join(path), self._given(maker, flag[0], path))
            except (UsageError, ValueError) as error:  # a ValueError is a plug-in's
                raise _NoSuchComponent(f"{' '.join(flag)}: {error}") from None
        return self._components[key]

    def _given(self, maker: Any, flag_of_class: str, path: FieldPath) -> dict[str, object]:
        """Return the values that flags give to the fields of a class that cannot be built without values.

        These flags begin with the flag that names the class, or with the full path.
        """
        found: dict[str, object] = {}
        for name in settable_fields(maker) if required(maker) else ():
            flag = self._flags.get(spelled(f"{flag_of_class}.{name}")) or self._flags.get(".".join([*path, name]))
            if flag is not None and kinds_of(maker, name):
                found[name] = self._component(maker, [flag[0], " ".join(flag[1:])], (*path, name))
            elif flag is not None:
                hint = get_type_hints(maker, include_extras=True)[name]
                single: Any = _parse(dataclasses.make_dataclass("Single", [(name, hint)]), None, [f"--{name}", *flag[1:]])
                if single is None:
                    raise _NoSuchComponent(f"{' '.join(flag)}: {wrong_type(hint, flag)}")
                found[name] = getattr(single, name)
        return found

    def _holder(self, owner: object, name: str, tokens: list[str]) -> Any:
        """Return a dataclass of this one field with the parsed value, or None if tyro refuses the value or `owner` is a tuple.

        The field is parsed alone, since its owner may refuse a value that is valid together with another override.
        """
        if not is_component(owner):
            return None
        default = getattr(owner, name)
        key = (type(owner), name, repr(default), *tokens)
        if key not in self._read:
            single = dataclasses.make_dataclass("Single", [(name, get_type_hints(type(owner), include_extras=True)[name])])
            self._read[key] = _parse(single, single(default), tokens)
        return self._read[key]


def _prefixed(flag: list[str], experiment: Experiment) -> list[str]:
    """Return `--name PREFIX` with the experiment's own name after the prefix, and any other flag unchanged."""
    return [flag[0], f"{flag[1]}-{experiment.name}"] if flag[0] == "--name" and len(flag) == 2 else flag


def _whole_field(experiment: Experiment, flag: list[str], components: dict[FieldPath, object]) -> tuple[FieldPath, str] | None:
    """Return the place of a field that is chosen by class name, or None if the flag names no such field."""
    where = place(experiment, flag[0], components)
    if where is None or where[1] != where[0][-1]:
        return None
    owner = value_at(experiment, where[0][:-1], components)
    return where if is_component(owner) and kinds_of(owner, where[0][-1]) else None


def _around(reader: _Reader, experiment: Experiment, flags: list[list[str]], flag: list[str]) -> list[list[str]]:
    """Return the flags that choose the components around a flag's field: `--align.negatives Mix` of `--align.weights 1 2`.

    If there is no such field, these are the components around the part of its path that exists.
    """
    components, choices = reader.chosen(experiment, flags)
    found = walk(experiment, flag[0], components)
    around = found.path if found.left else found.path[:-1]
    return [other for other, path in choices if other is not flag and path == around[: len(path)]]


def _with_outer(reader: _Reader, experiment: Experiment, flags: list[list[str]], flag: list[str]) -> Experiment:
    """Return the experiment with the components around a flag's field, for messages."""
    try:
        return reader.changed(experiment, _around(reader, experiment, flags, flag)) or experiment
    except REFUSED:
        return experiment


def _fitting(reader: _Reader, experiment: Experiment, flags: list[list[str]]) -> list[bool]:
    """Return, for each flag, whether the experiment or a chosen component has this field, and the value has the right type."""
    return [_fits(reader, experiment, _around(reader, experiment, flags, flag), flag) for flag in flags]


def _fits(reader: _Reader, experiment: Experiment, around: list[list[str]], flag: list[str]) -> bool:
    try:
        return reader.values(experiment, [*around, flag]) is not None
    except REFUSED:
        return True


def _all(reader: _Reader, experiment: Experiment, flags: list[list[str]]) -> Experiment:
    """Return the experiment with all overrides. An error names the override at fault if leaving out one override helps, else all."""
    try:
        changed = reader.changed(experiment, flags)
    except REFUSED as error:
        at_fault = [flag for flag in flags if _valid(reader, experiment, [other for other in flags if other is not flag])]
        shown = " ".join(token for flag in at_fault[:1] or flags for token in flag)
        raise type(error)(f"{shown}: {error}") from None
    assert changed is not None
    return changed


def _valid(reader: _Reader, experiment: Experiment, flags: list[list[str]]) -> bool:
    try:
        return reader.changed(experiment, flags) is not None
    except REFUSED:
        return False


def print_fields(experiment: Experiment) -> None:
    """Print every field that can be overridden, with its default, and the components with the classes that can replace them."""
    with contextlib.suppress(SystemExit):
        _cli(Experiment, experiment, ["--help"])
    title = "components, with the class of this experiment and the choices (or FILE.py:CLASS):"
    print(title, *component_lines(experiment), *stage_lines(experiment), sep="\n  ")


def _parse(kind: Any, default: Any, arguments: list[str]) -> Any:
    """Return the dataclass with the arguments parsed by tyro, or None if tyro refuses them. Errors of components are raised."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return _cli(kind, default, arguments)
    except SystemExit:
        return None


def _cli(kind: Any, default: Any, arguments: list[str]) -> Any:
    """Run tyro. Raises ResourceError if tyro is not installed; without overrides it is not needed."""
    try:
        import tyro
        import tyro.constructors
    except ImportError as error:
        raise ResourceError(
            "overrides and --fields need tyro, which is not installed: pip install 'tyro>=0.9.5', or set the fields in the "
            "experiment's file"
        ) from error

    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def table_rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
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

    @registry.primitive_rule
    def number_rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        """Show a number or schedule as a number. A schedule is chosen by its class, like a component."""
        if info.type != NumberOrSchedule:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="FLOAT|SCHEDULE",
            instance_from_str=lambda tokens: float(tokens[0]),
            is_instance=lambda value: isinstance(value, int | float | ValueSchedule),
            str_from_instance=lambda value: [str(value)],
        )

    # without SuppressFixed, --help lists a component that is None as "{fixed}", though a class name sets it
    config = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff, tyro.conf.SuppressFixed)
    with registry:  # older versions of tyro have no parameter for it
        defaults = {} if default is None else {"default": default}
        return tyro.cli(kind, prog="genrec run", args=arguments, config=config, **defaults)
