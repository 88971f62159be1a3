"""Paths of fields: from `--align.objective.loss.beta` to the field of the experiment that holds the value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from genrec.experiment import Experiment
from genrec.override_messages import settable_fields

FieldPath = tuple[str, ...]  # of a field: ("align", "objective") is experiment.align.objective, ("align", "1") the second of a chain
CHAIN = ("align",)  # the field that may hold a tuple of stages


def spelled(flag: str) -> str:
    """Return a flag without dashes: `align.num_negatives` for `--align.num-negatives`."""
    return flag.removeprefix("--").replace("-", "_")


def place(experiment: Experiment, flag: str, components: Mapping[FieldPath, object]) -> tuple[FieldPath, str] | None:
    """Return the path of the field that holds the flag's value, and the flag from that field on, or None if there is no such field.

    --align.objective.loss.beta -> ('align', 'objective', 'loss', 'beta'), 'beta'
    --align.beta -> the same: a name that a component does not have is looked up in the components that it holds, the nearest first.
    If several are equally near, there is no such field.
    --align.1.beta is the second alignment of a chain. Inside other tuples tyro resolves the rest of the flag:
    --align.negatives.samplers.1.skip -> ('align', 'objective', 'candidates', 'negatives', 'samplers'), 'samplers.1.skip'.
    `components` replace the experiment's own at their paths.
    """
    value: object = experiment
    path: FieldPath = ()
    names = flag.removeprefix("--").split(".")
    position = 0
    while (dataclasses.is_dataclass(value) or (isinstance(value, tuple) and path == CHAIN)) and position < len(names):
        name = names[position].replace("-", "_")
        if isinstance(value, tuple):
            if not name.isdecimal() or int(name) >= len(value):
                return None
        elif name not in settable_fields(value):
            inner = path_to(experiment, path, name, components)
            if inner is None:
                return None
            path = (*path, *inner)
            value = value_at(experiment, path, components)
        position += 1
        path = (*path, name)
        value = value_at(experiment, path, components)
    return path, ".".join([path[-1], *names[position:]])


def path_to(experiment: Experiment, path: FieldPath, name: str, components: Mapping[FieldPath, object]) -> FieldPath | None:
    """Return the path, from the component at `path`, of the nearest component inside it that has a field of this name.

    Returns None if there is none, if several are equally near, and for the experiment itself.
    """
    level: list[FieldPath] = [()] if path else []
    while level:
        inner = [(*each, field) for each in level for field in settable_fields(value_at(experiment, (*path, *each), components))]
        level = [each for each in inner if _is_component(value_at(experiment, (*path, *each), components))]
        found = [each for each in level if name in settable_fields(value_at(experiment, (*path, *each), components))]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _is_component(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def value_at(experiment: Experiment, path: FieldPath, components: Mapping[FieldPath, object]) -> object:
    """Return the value at a path of the experiment with these components."""
    value: object = experiment
    for depth, name in enumerate(path):
        inner = path[: depth + 1]
        value = components[inner] if inner in components else _part(value, name)
    return value


def _part(value: object, name: str) -> object:
    return value[int(name)] if isinstance(value, tuple) else getattr(value, name)


def plain_value(experiment: Experiment, flag: str) -> Any:
    """Return the value of a field that exists, as the command line takes it: that of a component is the name of its class."""
    found = place(experiment, flag, {})
    assert found is not None, flag
    value = value_at(experiment, found[0], {})
    for name in found[1].split(".")[1:]:  # inside a tuple
        value = value[int(name)] if isinstance(value, tuple) else getattr(value, spelled(name))
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__name__
