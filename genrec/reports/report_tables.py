"""The tables of a report: their cells, and the parts that a wide table has on paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

PAGE = 114  # characters of the columns of a printed page
FIRST = 28  # characters of the first column, in which longer names wrap
GAP = 1  # characters between two columns
LONG = 24  # characters of a line of a cell; longer lines wrap on paper


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> dict[str, Any]:
    """Return a table as JSON; `parts` holds the columns of each of its parts on paper, see `printed_parts`."""
    return {"title": title, "columns": columns, "rows": rows, "notes": notes, "parts": printed_parts(columns, rows)}


def printed_parts(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[int]]:
    """Return the columns of each part of a table that fits on a page, by place. The first column begins every part.

    The width of a column is that of its longest line, in which no word is cut.
    """
    parts: list[list[int]] = [[0]]
    first = min(FIRST, max(map(len, [columns[0], *(row[0] for row in rows)]))) + GAP
    room = PAGE - first
    for place, column in enumerate(columns[1:], start=1):
        lines = [line[:LONG] for row in rows for line in row[place].split("\n")]
        width = max(map(len, [*re.split(r"\s+|(?<=-)", column), *lines]), default=0) + GAP
        if width > room and len(parts[-1]) > 1:
            parts.append([0])
            room = PAGE - first
        parts[-1].append(place)
        room -= width
    return parts


def name_parts(name: str) -> list[str]:
    """Return the parts of a name between which a line may break: after each dot and underscore between two letters or digits."""
    return re.split(r"(?<=\w[._])(?=\w)", name)


def is_long(cell: str) -> bool:
    """Return whether a cell has a line that wraps on paper."""
    return any(len(line) > LONG for line in cell.split("\n"))
