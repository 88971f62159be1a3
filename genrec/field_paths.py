"""Paths of fields: from `--align.loss.beta` to the field of the experiment that holds the value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from genrec.component_choices import kinds_of, wrapped
from genrec.experiment import Experiment
from genrec.override_messages import settable_fields

FieldPath = tuple[str, ...]  # of a field: ("align", "loss") is experiment.align.loss


def spelled(flag: str) -> str:
    """Return a flag without dashes: `align.num_negatives` for `--align.num-negatives`."""
    return flag.removeprefix("--").replace("-", "_")


def place(experiment: Experiment, flag: str, components: Mapping[FieldPath, object]) -> tuple[FieldPath, str] | None:
    """Return the path of the field that holds the flag's value, and the flag from that field on, or None if there is no such field.

    --align.negatives.samplers.1.skip -> ('align', 'negatives', 'samplers'), 'samplers.1.skip': tyro resolves the inside of a tuple.
    --align.loss.beta -> ('align', 'loss', 'loss', 'beta'), 'beta' for Anchored(DPO()): a component that wraps exactly one of its kind
    passes on the fields that it does not have. `components` replace the experiment's own at their paths.
    """
    value: object = experiment
    path: FieldPath = ()
    names = flag.removeprefix("--").split(".")
    kinds: tuple[type, ...] = ()
    position = 0
    while dataclasses.is_dataclass(value) and position < len(names):
        name: str | None = names[position].replace("-", "_")
        if name in settable_fields(value):
            position += 1
        else:
            name = wrapped(value, kinds)
        if name is None:
            return None
        kinds = kinds_of(value, name)
        path = (*path, name)
        value = components[path] if path in components else getattr(value, name)
    return path, ".".join([path[-1], *names[position:]])


def value_at(experiment: Experiment, path: FieldPath, components: Mapping[FieldPath, object]) -> object:
    """Return the value at a path of the experiment with these components."""
    value: object = experiment
    for depth, name in enumerate(path):
        value = components[path[: depth + 1]] if path[: depth + 1] in components else getattr(value, name)
    return value


def plain_value(experiment: Experiment, flag: str) -> Any:
    """Return the value of a field that exists, as the command line takes it: that of a component is the name of its class."""
    found = place(experiment, flag, {})
    assert found is not None, flag
    value = value_at(experiment, found[0], {})
    for name in found[1].split(".")[1:]:  # inside a tuple
        value = value[int(name)] if isinstance(value, tuple) else getattr(value, spelled(name))
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__name__
