"""From `FILE.py:FUNCTION` or `MODULE:FUNCTION` and overrides to experiments: the file is imported, the fields are parsed by tyro.

A file's own folder can be imported from, so that a sampler beside the experiment is an import. Every error here comes before any
stage starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib.util
import io
import sys
import traceback
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import tyro

from genrec.errors import GenrecError, UsageError
from genrec.experiment import Experiment

CONFIG = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)


def load(where: str) -> list[Experiment]:
    """Return the experiments of `FILE.py:FUNCTION` or `MODULE:FUNCTION`."""
    file, _, function = where.rpartition(":")
    if not file or not function:
        raise UsageError(f"expected FILE.py:FUNCTION or MODULE:FUNCTION, got {where!r}; for example genrec.quickstart:comparison")
    experiments = _call(_module(file), file, function)
    for experiment in experiments:
        if not isinstance(experiment, Experiment):
            raise UsageError(f"{where} must return an Experiment or a list of them, got {type(experiment).__name__}")
    if not experiments:
        raise UsageError(f"{where} returned an empty list")
    return experiments


def component(where: str) -> object:
    """What `FILE.py:CLASS` or `MODULE:CLASS` names, built with its defaults."""
    module, _, name = where.rpartition(":")
    if not module or not name:
        raise UsageError(f"expected FILE.py:CLASS or MODULE:CLASS, got {where!r}")
    return _call(_module(module), module, name)[0]


def _module(file: str) -> ModuleType:
    """Import a file, and make its folder importable; or import a module by its dotted name."""
    if not file.endswith(".py"):
        if not all(name.isidentifier() for name in file.split(".")):
            raise UsageError(f"expected FILE.py:FUNCTION or MODULE:FUNCTION, got {file!r}, neither a .py file nor a module")
        try:
            return importlib.import_module(file)
        except ModuleNotFoundError as error:
            raise UsageError(f"there is no module {file!r} ({error}); expected FILE.py:FUNCTION or MODULE:FUNCTION") from None
    path = Path(file).resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {file}")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.path.insert(0, str(path.parent))
    sys.modules[path.stem] = module
    try:
        specification.loader.exec_module(module)
    except GenrecError:
        raise
    except Exception:
        raise UsageError(f"{file} cannot be imported; its own error:\n{traceback.format_exc()}") from None
    return module


def _call(module: ModuleType, file: str, name: str) -> list[Any]:
    """What the module's function or class returns, as a list."""
    maker = getattr(module, name, None)
    if maker is None:
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise UsageError(f"{file} has no {name!r}; it has: {', '.join(key for key in own if key[0] != '_') or 'nothing'}")
    try:
        made = maker()
    except GenrecError:
        raise
    except Exception:
        raise UsageError(f"{file}:{name} failed; its own error:\n{traceback.format_exc()}") from None
    return made if isinstance(made, list) else [made]


def override(experiments: Sequence[Experiment], arguments: Sequence[str]) -> list[Experiment]:
    """Every experiment with the overrides that it has fields for; an override that fits none is refused.

    Values are checked together: what an experiment refuses of one override may be right beside another.
    """
    flags, reader = _by_flag(arguments), _Reader()
    fitting = [[_fits(reader, experiment, flag) for flag in flags] for experiment in experiments]
    for number, flag in enumerate(flags):
        if not any(fits[number] for fits in fitting):
            _refuse(experiments, flag)
    result: list[Experiment] = []
    for experiment, fits in zip(experiments, fitting, strict=True):
        changed = _all(reader, experiment, list(compress(flags, fits)))
        if changed not in result:  # `--seed 1` makes all seeds of a row one
            result.append(changed)
    return result


class _Reader:
    """Reads overrides with tyro: a field and its value once for all experiments that have the same there."""

    def __init__(self) -> None:
        self._read: dict[tuple[object, ...], Any] = {}

    def changed(self, experiment: Experiment, flags: list[list[str]]) -> Experiment | None:
        """The experiment with the overrides; None where one does not fit. What a component refuses is raised."""
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
        except ValueError as error:  # of a component that is not ours
            raise UsageError(str(error)) from error
        return changed

    def _holder(self, owner: object, name: str, tokens: list[str]) -> Any:
        """A dataclass of this one field, with the value that the command line gives it; None where it is refused.

        By itself, because the field's owner may refuse a value that is right beside another.
        """
        default = getattr(owner, name)
        key = (type(owner), name, repr(default), *tokens)
        if key not in self._read:
            single = dataclasses.make_dataclass("Single", [(name, get_type_hints(type(owner), include_extras=True)[name])])
            self._read[key] = _parse(single, single(default), tokens)
        return self._read[key]


def _place(experiment: Experiment, flag: str) -> tuple[tuple[str, ...], str] | None:
    """The field that holds what the flag names, and the flag from there on; None where a dataclass has no such field.

    --align.negatives.samplers.1.pool -> ('align', 'negatives', 'samplers'), 'samplers.1.pool'; tyro knows what is inside a tuple.
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
    """The names of a dataclass's fields that can be set."""
    return [field.name for field in dataclasses.fields(value) if field.init]


def _rebuilt(value: Any, changes: dict[tuple[str, ...], object]) -> Any:
    """The dataclass with the values at these paths; what is inside is built first, and all of them check what they hold."""
    new: dict[str, object] = {}
    for name in _fields(value):
        inner = {path[1:]: change for path, change in changes.items() if path[0] == name}
        if inner:
            new[name] = inner[()] if () in inner else _rebuilt(getattr(value, name), inner)
    return dataclasses.replace(value, **new)


def _fits(reader: _Reader, experiment: Experiment, flag: list[str]) -> bool:
    """Whether the experiment has this field, and it can hold such a value."""
    try:
        return reader.changed(experiment, [flag]) is not None
    except UsageError:
        return True


def _all(reader: _Reader, experiment: Experiment, flags: list[list[str]]) -> Experiment:
    """The experiment with all overrides; where they are refused, the error names the one without which they are not, or all."""
    try:
        changed = reader.changed(experiment, flags)
    except UsageError as error:
        at_fault = [flag for flag in flags if _valid(reader, experiment, [other for other in flags if other is not flag])]
        said = " ".join(token for flag in at_fault[:1] or flags for token in flag)
        raise UsageError(f"{said}: {error}") from None
    assert changed is not None
    return changed


def _valid(reader: _Reader, experiment: Experiment, flags: list[list[str]]) -> bool:
    try:
        return reader.changed(experiment, flags) is not None
    except UsageError:
        return False


def print_fields(experiment: Experiment) -> None:
    """Every field that can be overridden, with its default."""
    with contextlib.suppress(SystemExit):
        tyro.cli(Experiment, prog="genrec run", default=experiment, args=["--help"], config=CONFIG)


def _by_flag(arguments: Sequence[str]) -> list[list[str]]:
    """['--a', '1', '--b', '2', '3'] -> [['--a', '1'], ['--b', '2', '3']]."""
    flags: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--"):
            flags.append(argument.split("=", 1))
        elif flags:
            flags[-1].append(argument)
        else:
            raise UsageError(f"expected an override such as --align.count 3, got {argument!r}")
    return flags


def _parse(kind: Any, default: Any, arguments: list[str]) -> Any:
    """The dataclass with what the command line gives; None where that does not fit. What a component refuses is raised."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return tyro.cli(kind, prog="genrec run", default=default, args=arguments, config=CONFIG)
    except SystemExit:
        return None


def _refuse(experiments: Sequence[Experiment], flag: list[str]) -> None:
    """Raise what tyro says of the override, for the experiment that has most of its path; of several, the one with most stages."""
    richest = max(experiments, key=lambda e: (len(_followed(e, flag[0])), e.align is not None, not e.is_baseline))
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        tyro.cli(Experiment, prog="genrec run", default=richest, args=flag, config=CONFIG)
    reason = f"the override {' '.join(flag)} fits no experiment"
    names, values = flag[0].removeprefix("--").split("."), _followed(richest, flag[0])
    if len(values) > len(names):  # the field is there: tyro refuses the value
        raise UsageError(f"{reason}\n{said.getvalue().rstrip()}")
    where, name, value = ".".join(names[: len(values) - 1]), names[len(values) - 1], values[-1]
    if value is None:
        raise UsageError(f"{reason}: {where} is None in all of them, so it has no fields; set it in the experiment's file")
    if dataclasses.is_dataclass(value):
        raise UsageError(f"{reason}: {_no_field(value, name)}\n{said.getvalue().rstrip()}")
    if isinstance(value, tuple):
        raise UsageError(f"{reason}: {where} has no place {name!r}; its {len(value)} are counted from 0")
    if type(value).__module__ == "builtins":
        raise UsageError(f"{reason}: {where} is {value!r}, which has no fields")
    component = f"{type(value).__module__}.{type(value).__qualname__}"
    raise UsageError(f"{flag[0]}: {component} is no dataclass, so its fields cannot be overridden; make it a frozen dataclass")


def _followed(experiment: Experiment, flag: str) -> list[object]:
    """The experiment and what it holds along the flag's path, as far as that is there."""
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
    """That the component has no such field, and the nearest that it has, or all of them."""
    fields = [field.replace("_", "-") for field in _fields(value)]
    nearest = difflib.get_close_matches(name.replace("_", "-"), fields)
    has = f"the nearest: {', '.join(nearest)}" if nearest else f"it has {', '.join(fields) or 'none'}"
    return f"{type(value).__name__} has no field {name!r}; {has}"
