"""The settings in which the rows of a table differ.

Fields with `genrec.store.NEW_IN_KEY` are not recorded while they have their default; a row without them is shown with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from genrec.evaluation.comparison.comparable import ABSENT
from genrec.evaluation.statistics.paired_tests import is_trained
from genrec.store import NEW_IN_KEY

if TYPE_CHECKING:
    from genrec.evaluation.compare import Row

CLASS = ".class"  # ending of the key path of a component's class
NO_CHOICE = ("genrec.training.recipes:", "genrec.experiment:")  # modules of classes without an alternative: Optimization, Align
OF_THE_CODE = ("version", "source")  # fields that are no settings: the version of a class, and the hash of a plug-in's code


def differences(rows: Sequence[Row]) -> dict[str, dict[str, object]]:
    """Return the configuration keys with different values across rows, except the seed: key path -> row -> value.

    - The class of a component is compared among the rows with its stage: a baseline has no `sft`; SFT alone is a row with `align`,
      which is None.
    - The other fields of a component are compared among the same rows, so fields of a class that only one row has are there too. A
      trained row and a baseline are not compared in them, and a field that is None in all rows that have it is left out.
    - A class of `NO_CHOICE`, such as `Optimization`, and its fields are compared among the rows with the component that holds them,
      since they are no choice without it. So is a list of components.

    - A field that is a number in one row and a component in another, such as a schedule, is compared once, as a class.

    A field that is not recorded has its default.
    """
    defaults = {row.name: unrecorded_defaults(row.configuration) for row in rows}
    keys = dict.fromkeys(key for row in rows for key in row.configuration)

    def value(row: Row, key: str) -> object:
        field = key.removesuffix(CLASS)
        plain = row.configuration.get(field)  # such as 1.0 where another row has a schedule, `field.class`
        return row.configuration.get(key, defaults[row.name].get(field, ABSENT) if plain is None else plain)

    result: dict[str, dict[str, object]] = {}
    for key in keys:
        if f"{key}{CLASS}" in keys:
            continue
        names_component = key.endswith(CLASS) or any(_holds_components(row.configuration.get(key)) for row in rows)
        having = [row for row in rows if value(row, key) != ABSENT]
        values = [
            value(row, key) for row in (_rows_with_holder(rows, key) if names_component else _rows_with_field(rows, key, having))
        ]
        if key != "seed" and any(other != values[0] for other in values):
            result[key] = {row.name: value(row, key) for row in rows}
    return result


def _rows_with_field(rows: Sequence[Row], key: str, having: Sequence[Row]) -> Sequence[Row]:
    """Return the rows that are compared in a field that is no class; `having` are those with a value."""
    holder, _, field = key.rpartition(".")
    component = f"{holder}{CLASS}"
    is_chosen = any(component in row.configuration for row in rows) and not _has_no_choice(rows, component)
    if not is_chosen or field in OF_THE_CODE or all(row.configuration.get(key) is None for row in having):
        return having
    kinds = {is_trained(row.configuration) for row in having}
    return [row for row in _rows_with_holder(rows, component) if is_trained(row.configuration) in kinds]


def unrecorded_defaults(configuration: Mapping[str, object]) -> dict[str, object]:
    """Return the defaults of genrec's own fields that are not recorded with their default: key path -> default."""
    found = {}
    for key, name in configuration.items():
        if key.endswith(CLASS) and isinstance(name, str) and name.startswith("genrec."):
            holder = key.removesuffix(CLASS)
            for field, default in _new_fields(name).items():
                path = f"{holder}.{field}"
                if not any(other == path or other.startswith(f"{path}.") for other in configuration):
                    found[path] = default
    return found


@cache
def _new_fields(name: str) -> dict[str, Any]:
    """Return the fields with `NEW_IN_KEY` of a class `module:Name`, with their defaults; none if the class is gone."""
    module, _, qualified = name.partition(":")
    try:
        kind = attrgetter(qualified)(import_module(module))
    except (ImportError, AttributeError):  # of an earlier version
        return {}
    if not dataclasses.is_dataclass(kind):
        return {}
    fields = [field for field in dataclasses.fields(kind) if dict(field.metadata) == NEW_IN_KEY]
    return {field.name: list(field.default) if isinstance(field.default, tuple) else field.default for field in fields}


def _holds_components(value: object) -> bool:
    """Return whether a value is a list of components (dictionaries with a class), such as the filters of a sampler."""
    return isinstance(value, list) and any(isinstance(entry, dict) and "class" in entry for entry in value)


def _rows_with_holder(rows: Sequence[Row], key: str) -> list[Row]:
    """Return the rows with the stage of a class that is chosen, or else the rows with the component that holds it.

    A row with `align`, also without an alignment, can be compared in `align-2`.
    """
    holder = key.removesuffix(CLASS).rpartition(".")[0]
    holding = [row for row in rows if f"{holder}{CLASS}" in row.configuration]
    chosen = key.endswith(CLASS) and not _has_no_choice(rows, key)
    return (not chosen and holding) or [
        row for row in rows if any(_kind_of_stage(other) == _kind_of_stage(key) for other in row.configuration)
    ]


def _has_no_choice(rows: Sequence[Row], key: str) -> bool:
    """Return whether the class at a key path is one without an alternative in some row."""
    return any(str(row.configuration.get(key, "")).startswith(NO_CHOICE) for row in rows)


def _kind_of_stage(key: str) -> str:
    """Return the kind of the stage of a key path: align, also of `align-2.class`."""
    return key.partition(".")[0].partition("-")[0]
