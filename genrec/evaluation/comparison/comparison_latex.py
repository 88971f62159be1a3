"""A `Comparison` as LaTeX: a table with the rules of the package booktabs for each table of the report.

Names and values come from experiment files, so all characters that LaTeX treats in a special way are escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from genrec.evaluation.compare import Comparison
from genrec.evaluation.comparison.comparison_protocol import TITLE, protocol_lines
from genrec.evaluation.comparison.comparison_summary import is_significant
from genrec.evaluation.comparison.comparison_tables import tables
from genrec.evaluation.comparison.table_cells import Table
from genrec.terminal_text import printable

HEAD = "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}; written by genrec compare --latex."
BOLD = ("Difference", "p", "p (Holm)")  # cells that are bold where p (Holm) is below the level
SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "±": r"$\pm$", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}", "[": "{[}", "]": "{]}",
    "*": "{*}",
}  # fmt: skip
LIGATURE = re.compile(r"([-,])(?=\1)")  # two hyphens are shown as a dash, two commas as a quotation mark


def latex(comparison: Comparison) -> str:
    """Return all tables of a comparison as LaTeX, and the protocol as comments."""
    significant = {row.name for row in comparison.rows if is_significant(row)}
    parts = [HEAD, *(_table(each, significant) for each in tables(comparison))]
    protocol = [f"% {label}: {text}" for label, text in protocol_lines(comparison)]
    return "\n\n".join([*parts, "\n".join([f"% {TITLE}", *map(printable, protocol)])]) + "\n"


def escaped(text: str) -> str:
    """Escape plain text so that LaTeX shows it unchanged; non-printable characters become spaces."""
    return LIGATURE.sub(r"\1{}", "".join(SPECIAL.get(character, character) for character in printable(text)))


def _table(table: Table, significant: set[str]) -> str:
    """Return one table; it shrinks to the width of the text where it is wider."""
    tested = "p (Holm)" in table.columns
    bold = {at for at, name in enumerate(table.columns) if tested and name in BOLD}
    lines = [_line(row, bold if row[0] in significant else ()) for row in table.rows]
    note = " Bold: p (Holm) below 0.05." if tested else ""
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{escaped(table.title)}.{note}}}",
            r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"  \begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            r"    \toprule",
            f"    {_line(table.columns)}",
            r"    \midrule",
            *(f"    {line}" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}}",
            *(f"  % {printable(note)}" for note in table.notes),
            r"\end{table}",
        ]
    )


def _line(cells: Sequence[str], bold: Iterable[int] = ()) -> str:
    places = set(bold)
    shown = [rf"\textbf{{{escaped(cell)}}}" if at in places else escaped(cell) for at, cell in enumerate(cells)]
    return f"{' & '.join(shown)} \\\\"
