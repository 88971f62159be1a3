"""Names of the columns of curves that belong to one of several objectives, as `margin_part_2`."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PART = re.compile(r"(.+)_part_(\d+)")


def of_part(name: str, number: int) -> str:
    """Return the name of a column of objective `number`, counted from 1."""
    return f"{name}_part_{number}"


def without_part(name: str) -> tuple[str, int | None]:
    """Return a column's name without the number of its objective, and this number; None if it has none."""
    found = _PART.fullmatch(name)
    return (name, None) if found is None else (found[1], int(found[2]))


def columns_of_part(row: Mapping[str, float], number: int) -> dict[str, float]:
    """Return a row as objective `number` alone would have it: its own columns under their plain names.

    Columns of other objectives, and the means over several objectives, are left out; what no objective logs stays.
    """
    parts = {name: without_part(name) for name in row}
    numbered = {base for base, of in parts.values() if of is not None}
    plain = {name: value for name, value in row.items() if parts[name][1] is None and name not in numbered}
    return plain | {base: row[name] for name, (base, of) in parts.items() if of == number}
