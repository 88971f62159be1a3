"""Tables in lines of a given width: columns that do not fit are left out, and no number is broken over lines."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len, chop_cells

from genrec.evaluation.comparison.table_cells import Table

GAP = "  "  # between columns
MIN_NAME_WIDTH = 10  # characters; a longer part of a row's name is cut only where the width is below three times that


class Fitted(NamedTuple):
    """A table in lines."""

    lines: list[str]
    left_out: list[str]  # titles of the columns that did not fit


def fitted(table: Table, width: int | None) -> Fitted:
    """Return a table in lines of at most `width` character cells; None: of any width, with all columns.

    Titles of columns are wrapped between words if that makes room. A table that is still too wide becomes its narrow form, if it has
    one. Of this the columns in `Table.first` are chosen first, then the others from left to right. The names of rows are wrapped after
    hyphens if that makes room for the columns in `first`. At least the row's name and one column are shown, also where they are too
    wide.
    """
    room = sys.maxsize if width is None else width
    everything = list(range(len(table.columns)))
    longest = max(cell_len(cells[0]) for cells in [table.columns, *table.rows])
    for wrapped in (False, True):
        widths = [longest, *(_column_width(table, column, wrapped) for column in everything[1:])]
        if _total(widths) <= room:
            return Fitted(_lines(table, everything, widths), [])
    source = table.narrow or table
    chosen, widths = _chosen(source, room, longest)
    return Fitted(_lines(source, chosen, widths), [name for at, name in enumerate(source.columns) if at not in chosen])


def _chosen(table: Table, width: int, longest: int) -> tuple[list[int], list[int]]:
    """Return the positions of the columns to show, and their widths. `longest` is the width of the longest name of a row."""
    needed = [0, *(_column_width(table, column, wrapped=True) for column in range(1, len(table.columns)))]
    parts = [part for cells in [table.columns, *table.rows] for part in _parts(cells[0])]
    shortest = min(longest, max(map(cell_len, parts)), max(MIN_NAME_WIDTH, width // 3))
    preferred = [table.columns.index(name) for name in table.first]
    name_widths = range(longest, shortest - 1, -1)
    fits = (each for each in name_widths if _total([each, *(needed[column] for column in preferred)]) <= width)
    needed[0] = next(fits, shortest)
    first, *rest = [*preferred, *(column for column in range(1, len(table.columns)) if column not in preferred)]
    chosen = [0, first]
    for column in rest:
        if _total([needed[each] for each in [*chosen, column]]) <= width:
            chosen.append(column)
    return sorted(chosen), [needed[column] for column in sorted(chosen)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _column_width(table: Table, column: int, wrapped: bool) -> int:
    """Return the width of a column: that of its cells and of its title, or of the title's longest word if titles are wrapped."""
    cells = [line for cells in table.rows for line in cells[column].split("\n")]
    name = table.columns[column]
    return max(map(cell_len, [*(name.split() if wrapped else [name]), *cells]))


def _lines(table: Table, columns: Sequence[int], widths: Sequence[int]) -> list[str]:
    """Return the header, a rule, and the rows of a table with these columns."""
    header = [_packed(table.columns[column].split(), width, " ") for column, width in zip(columns, widths, strict=True)]
    height = max(map(len, header))
    rows = [[[""] * (height - len(cell)) + cell for cell in header], [["─" * width] for width in widths]]
    for cells in table.rows:
        name = _packed(_parts(cells[0]), widths[0], "")
        rows.append([name if column == 0 else cells[column].split("\n") for column in columns])
    return [line for row in rows for line in _aligned(row, widths)]


def _aligned(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """Return the lines of one row of cells, each a list of lines: the first cell to the left, the others to the right."""
    lines = []
    for at in range(max(map(len, cells))):
        texts = [cell[at] if at < len(cell) else "" for cell in cells]
        space = [" " * (width - cell_len(text)) for text, width in zip(texts, widths, strict=True)]
        lines.append(GAP.join([texts[0] + space[0], *(left + text for left, text in zip(space[1:], texts[1:], strict=True))]).rstrip())
    return lines


def _parts(name: str) -> list[str]:
    """Return the parts of a name that a line may end after: 'shop-sft-continued' -> 'shop-', 'sft-', 'continued'."""
    return re.findall(r"[^-]*-+|[^-]+", name) or [""]


def _packed(parts: Sequence[str], width: int, between: str) -> list[str]:
    """Return lines of as many parts as fit into the width; a part that is wider than a line is cut."""
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(lines[-1] + between + part) <= width:
            lines[-1] += between + part
        else:
            lines += chop_cells(part, width) if cell_len(part) > width else [part]
    return lines
