"""A `Comparison` as Markdown and on the terminal, and what it means in words.

Names and values come from experiment files, so markup characters are escaped and non-printable characters become spaces.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from genrec.evaluation.compare import Comparison
from genrec.evaluation.comparison.comparison_controls import reading_of_controls
from genrec.evaluation.comparison.comparison_protocol import TITLE, protocol_lines
from genrec.evaluation.comparison.comparison_summary import summary
from genrec.evaluation.comparison.comparison_tables import tables
from genrec.evaluation.comparison.table_cells import Table
from genrec.evaluation.comparison.terminal_table import fitted
from genrec.terminal_text import printable

PIPE_WIDTH = 220  # width in characters of the text between tables in output that is not a terminal


def markdown(comparison: Comparison) -> str:
    """Return the comparison as GitHub Markdown. The sentences on controls stand below the first table, that of the results."""
    lines: list[str] = []
    for place, table in enumerate(tables(comparison)):
        rule = ["---", *["---:"] * (len(table.columns) - 1)]
        lines += [f"**{_escaped(table.title)}**", "", _line(map(_escaped, table.columns)), _line(rule)]
        lines += [_line(map(_escaped, row)) for row in table.rows]
        for text in [*table.notes, *(reading_of_controls(comparison) if place == 0 else ())]:
            lines += ["", _escaped(text)]
        lines.append("")
    lines += [f"**{TITLE}**", "", *(f"- **{_escaped(label)}:** {_escaped(text)}" for label, text in protocol_lines(comparison))]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def terminal(comparison: Comparison, reading: Sequence[str] = ()) -> None:
    """Print the comparison on standard output, in the width of the terminal or of COLUMNS; a pipe gets all columns.

    The paragraphs of `reading` stand below the first table, that of the results.
    """
    columns = shutil.get_terminal_size((0, 0)).columns
    left_out = []
    for place, table in enumerate(map(_cleaned, tables(comparison))):
        _print_text(table.title, columns, style="italic")
        found = fitted(table, columns or None)
        if found.left_out and table.listing:
            for line in table.listing:
                _print_text(line, columns)
        else:
            print("\n".join(found.lines))
            left_out += [f"{table.title}: {', '.join(found.left_out)}"] if found.left_out else []
        for note in table.notes:
            _print_text(note, columns, style="dim")
        print()
        for paragraph in reading if place == 0 else ():
            _print_text(printable(paragraph), columns)
            print()
    if left_out:
        how = "A wider terminal shows more columns; the option --markdown FILE of genrec compare writes all."
        _print_text(f"Not shown in {columns} columns: {'; '.join(left_out)}. {how}", columns)
    _print_text(TITLE, columns, style="italic")
    for label, text in protocol_lines(comparison):
        _print_text(f"{printable(label)}: {printable(text)}", columns, indent="  ")


def after_run(comparison: Comparison, reports: Path, with_inputs: Collection[str] = (), with_seeds: str = "") -> None:
    """Print a table that `genrec run` has just made: what it means, where its pictures are, and which commands come next.

    For `with_inputs` and `with_seeds` see `summary`.
    """
    found = summary(comparison, with_inputs, with_seeds)
    terminal(comparison, found.reading)
    print()
    if found.trained:
        _print_text(f"Pictures of the training curves: {reports}", shutil.get_terminal_size((0, 0)).columns)
    print("Next:")
    for command in found.commands:
        print(f"  {printable(command)}")


def _print_text(text: str, columns: int, style: str = "", indent: str = "") -> None:
    """Print text in lines of at most `columns` characters, broken between words; 0 is the width of a pipe.

    All lines but the first begin with `indent`.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, width=columns or PIPE_WIDTH)
    lines = Text(text, style=style).wrap(console, console.width - len(indent))
    console.print(Text(f"\n{indent}").join(lines))


def _cleaned(table: Table) -> Table:
    """Return a table for the terminal, without non-printable characters; line feeds in its cells stay, except in names."""
    return table._replace(
        title=printable(table.title),
        columns=list(map(printable, table.columns)),
        rows=[[printable(name), *("\n".join(map(printable, cell.split("\n"))) for cell in cells)] for name, *cells in table.rows],
        notes=list(map(printable, table.notes)),
        first=tuple(map(printable, table.first)),
        narrow=None if table.narrow is None else _cleaned(table.narrow),
        listing=tuple(map(printable, table.listing)),
        warnings=tuple(map(printable, table.warnings)),
    )


def _escaped(text: str) -> str:
    """Escape plain text so that Markdown shows it unchanged, also in a table cell."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|$~]|(?<!\w)_|_(?!\w)|(?<=\])\()", r"\\\1", text)
