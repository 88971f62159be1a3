"""From `FILE.py:FUNCTION` and overrides to experiments: the file is imported, the fields are parsed by tyro.

A file's own folder can be imported from, so that a sampler beside the experiment is an import. Every error here comes before any
stage starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import tyro

from genrec.errors import GenrecError, UsageError
from genrec.experiment import Experiment

CONFIG = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)


def load(where: str) -> list[Experiment]:
    """The experiments that `FILE.py:FUNCTION` returns."""
    file, _, function = where.rpartition(":")
    if not file.endswith(".py") or not function:
        raise UsageError(f"expected FILE.py:FUNCTION, got {where!r}; for example experiments/quickstart.py:comparison")
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
    if module.endswith(".py"):
        return _call(_module(module), module, name)[0]
    try:
        return _call(importlib.import_module(module), module, name)[0]
    except ModuleNotFoundError as error:
        raise UsageError(f"there is no module {module!r} ({error})") from None


def _module(file: str) -> ModuleType:
    """Import a file; its folder can be imported from."""
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
    flags = _by_flag(arguments)
    fitting = {flag[0]: [e for e in experiments if _fits(e, flag)] for flag in flags}
    for flag in flags:
        if not fitting[flag[0]]:
            _refuse(experiments, flag)
    result: list[Experiment] = []
    for experiment in experiments:
        changed = _all(experiment, [flag for flag in flags if experiment in fitting[flag[0]]])
        assert changed is not None
        if changed not in result:  # `--seed 1` makes all seeds of a row one
            result.append(changed)
    return result


def _fits(experiment: Experiment, flag: list[str]) -> bool:
    """Whether the experiment has this field, and it can hold such a value."""
    try:
        return _parse(experiment, flag) is not None
    except UsageError:
        return True


def _all(experiment: Experiment, flags: list[list[str]]) -> Experiment | None:
    """The experiment with all overrides; where they are refused, the error names the one without which they are not, or all."""
    try:
        return _parse(experiment, _tokens(flags))
    except UsageError as error:
        at_fault = [flag for flag in flags if _valid(experiment, [other for other in flags if other is not flag])]
        raise UsageError(f"{' '.join(_tokens(at_fault[:1] or flags))}: {error}") from None


def _valid(experiment: Experiment, flags: list[list[str]]) -> bool:
    try:
        return _parse(experiment, _tokens(flags)) is not None
    except UsageError:
        return False


def _tokens(flags: list[list[str]]) -> list[str]:
    return [token for flag in flags for token in flag]


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


def _parse(experiment: Experiment, arguments: Sequence[str]) -> Experiment | None:
    """The experiment with the overrides; None where one does not fit. What a component refuses, which knows no key path, is raised."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return tyro.cli(Experiment, prog="genrec run", default=experiment, args=list(arguments), config=CONFIG)
    except SystemExit:
        return None


def _refuse(experiments: Sequence[Experiment], flag: list[str]) -> None:
    """Raise what tyro says of the override, for the experiment with the most stages."""
    richest = max(experiments, key=lambda e: (e.align is not None, not e.is_baseline))
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        tyro.cli(Experiment, prog="genrec run", default=richest, args=flag, config=CONFIG)
    component = _fixed_component(richest, flag[0])
    if component is not None:
        raise UsageError(f"{flag[0]}: {component} is no dataclass, so its fields cannot be overridden; make it a frozen dataclass")
    reason = f"the override {' '.join(flag)} fits no experiment"
    stage = flag[0].removeprefix("--").split(".")[0].replace("-", "_")
    if getattr(richest, stage, "") is None:
        raise UsageError(f"{reason}: {stage} is None in all of them, so it has no fields; set it in the experiment's file")
    raise UsageError(f"{reason}\n{said.getvalue().rstrip()}")


def _fixed_component(experiment: Experiment, flag: str) -> str | None:
    """The class of the component on the flag's path that is no dataclass, if there is one."""
    value: object = experiment
    for name in flag.removeprefix("--").split("."):
        if value is None:
            return None
        if not dataclasses.is_dataclass(value):
            return f"{type(value).__module__}.{type(value).__qualname__}"
        value = getattr(value, name.replace("-", "_"), None)
    return None
