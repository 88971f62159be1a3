"""Paths of fields: from `--align.objective.loss.beta`, or shorter `--align.beta`, to the field of the experiment with the value.

A name that a component does not have is looked up in the components that it holds, the nearest first; it must be unique at its depth.
It is not looked up in the experiment itself, nor in the entries of a tuple, which are named by their place: `--align.1.beta` is the
second alignment of a chain, `--align.negatives.samplers.1.skip` the second sampler of a mixture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from genrec.errors import UsageError
from genrec.experiment import Experiment

FieldPath = tuple[str, ...]  # of a field: ("align", "objective") is experiment.align.objective, ("align", "1") the second of a chain


class Walk(NamedTuple):
    """A flag's path, as far as it exists in an experiment or component."""

    path: FieldPath  # the full path of the field, component or value that was reached
    taken: list[str]  # the names of the flag that were followed, such as align, beta
    left: list[str]  # its other names: the first one is not a name there
    candidates: tuple[FieldPath, ...]  # the full paths of the equally near fields of this name, if they are several


def by_flag(arguments: Sequence[str]) -> list[list[str]]:
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


def number_in(text: str) -> float | None:
    """Return the number that a text is, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def spelled(flag: str) -> str:
    """Return a flag without dashes: `align.num_negatives` for `--align.num-negatives`."""
    return flag.removeprefix("--").replace("-", "_")


def as_flag(path: FieldPath) -> str:
    """Return the flag of a path: `--align.num-negatives` for `("align", "num_negatives")`."""
    return f"--{'.'.join(path)}".replace("_", "-")


def settable_fields(value: Any) -> list[str]:
    """Return the names of a dataclass's fields that can be set."""
    return [field.name for field in dataclasses.fields(value) if field.init]


def names_in(value: object) -> list[str]:
    """Return the names below a value: the fields of a component, the places of a tuple of components, else none."""
    if isinstance(value, tuple):
        return [str(place) for place in range(len(value))] if any(map(is_component, value)) else []
    return settable_fields(value) if is_component(value) else []


def is_component(value: object) -> bool:
    """Return whether a value is an instance of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def walk(root: object, flag: str, components: Mapping[FieldPath, object]) -> Walk:
    """Follow a flag from an experiment or component. `components` replace its own at their paths."""
    names = flag.removeprefix("--").split(".")
    path: FieldPath = ()
    for position, spelling in enumerate(names):
        name = spelling.replace("-", "_")
        value = value_at(root, path, components)
        if name not in names_in(value):
            found = () if isinstance(value, Experiment) else nearest_holders(root, path, name, components)
            if len(found) != 1:
                return Walk(path, names[:position], names[position:], tuple((*each, name) for each in found))
            path = found[0]
        path = (*path, name)
    return Walk(path, names, [], ())


def place(experiment: Experiment, flag: str, components: Mapping[FieldPath, object]) -> tuple[FieldPath, str] | None:
    """Return the path of the field that holds the flag's value, and the flag from that field on, or None if there is no such field.

    --align.objective.loss.beta -> ('align', 'objective', 'loss', 'beta'), 'beta'
    --align.beta -> the same if no nearer component has a field of this name.
    What follows a value that is no component is left to tyro: --evaluate.cutoffs.0 -> ('evaluate', 'cutoffs'), 'cutoffs.0'.
    """
    found = walk(experiment, flag, components)
    if not found.path or (found.left and names_in(value_at(experiment, found.path, components))):
        return None
    return found.path, ".".join([found.path[-1], *found.left])


def nearest_holders(root: object, path: FieldPath, name: str, components: Mapping[FieldPath, object]) -> list[FieldPath]:
    """Return the paths of the nearest components inside that at `path` with a field of this name; several if equally near."""
    level = [path]
    while level:
        level = list(_inner_components(root, level, components))
        found = [each for each in level if name in settable_fields(value_at(root, each, components))]
        if found:
            return found
    return []


def _inner_components(root: object, level: list[FieldPath], components: Mapping[FieldPath, object]) -> Iterator[FieldPath]:
    """Iterate over the paths of the components that the components at some paths hold in their fields, not in tuples."""
    for path in level:
        value = value_at(root, path, components)
        for field in () if isinstance(value, tuple) else names_in(value):
            if is_component(value_at(root, (*path, field), components)):
                yield (*path, field)


def value_at(root: object, path: FieldPath, components: Mapping[FieldPath, object]) -> object:
    """Return the value at a path of an experiment or component with these components."""
    value = root
    for depth, name in enumerate(path):
        inner = path[: depth + 1]
        value = components[inner] if inner in components else _part(value, name)
    return value


def _part(value: object, name: str) -> object:
    return value[int(name)] if isinstance(value, tuple) else getattr(value, name)


def rebuilt(value: Any, changes: dict[FieldPath, object]) -> Any:
    """Return the dataclass or tuple with the values at these paths. Inner components are rebuilt first; each one checks its fields."""
    new: dict[str, object] = {}
    for name in names_in(value):
        inner = {path[1:]: change for path, change in changes.items() if path[0] == name}
        if inner:
            base = inner.pop((), value[int(name)] if isinstance(value, tuple) else getattr(value, name))
            new[name] = rebuilt(base, inner) if inner and names_in(base) else base
    if isinstance(value, tuple):
        return tuple(new.get(str(number), each) for number, each in enumerate(value))
    return dataclasses.replace(value, **new)


def plain_value(experiment: Experiment, flag: str) -> Any:
    """Return the value of a field that exists, as the command line takes it: that of a component is the name of its class."""
    found = walk(experiment, flag, {})
    value = value_at(experiment, found.path, {})
    for name in found.left:  # inside a tuple of values
        assert isinstance(value, tuple), flag
        value = value[int(name)]
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__name__
