"""A picture of a `Comparison`: the differences from the reference with their intervals, and recall at two cut-offs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genrec.evaluation.compare import Comparison, Row
from genrec.evaluation.comparison.comparison_summary import is_significant
from genrec.evaluation.comparison.table_cells import metric_name, ranked_keys, title
from genrec.terminal_text import printable
from genrec.written_files import PICTURE_METADATA

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW, REFERENCE, GRAY = "#4477aa", "#bb5566", "#777777"
NAME_WIDTH, NOTE_WIDTH = 44, 150  # letters in a line


def draw(comparison: Comparison, path: Path) -> None:
    """Plot a comparison to a PNG, SVG or PDF file, chosen by the suffix of `path`.

    The left panel has each row's difference from the reference in the tested metric: the mean over users and seeds, its 95 % interval,
    and a small dot for each seed. The right panel has recall at the smallest cut-off against recall at the largest one, if the rows
    have two. Baselines are left out if the reference is trained, since their differences hide all others.
    """
    from matplotlib.figure import Figure

    rows, left_out = _shown(comparison)
    cutoffs = _cutoffs(rows)
    figure = Figure(figsize=(13.5 if cutoffs else 9, 1.9 + 0.36 * max(len(rows), 7)), layout="constrained")
    axes = figure.subplots(1, 2, squeeze=False, width_ratios=(3, 2))[0] if cutoffs else [figure.subplots()]
    numbers = {row.name: number for number, row in enumerate(rows, start=1)}
    _differences(axes[0], comparison, rows, numbers)
    if cutoffs:
        _recalls(axes[1], comparison, rows, numbers, cutoffs)
    note = "Filled: p (Holm) below 0.05. Line: 95 % interval of the difference. Small dots: seeds."
    note += f" Not shown: {', '.join(map(printable, left_out))}." if left_out else ""
    figure.supxlabel("\n".join(textwrap.wrap(note, NOTE_WIDTH)), fontsize=7, color=GRAY, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata=PICTURE_METADATA)


def _shown(comparison: Comparison) -> tuple[list[Row], list[str]]:
    """Return the rows of the picture, and the names of the others."""
    reference = next(row for row in comparison.rows if row.name == comparison.reference)
    left_out = [row.name for row in comparison.rows if reference.trained and not row.trained]
    return [row for row in comparison.rows if row.name not in left_out], left_out


def _cutoffs(rows: Sequence[Row]) -> tuple[str, str] | None:
    """Return the keys of recall at the smallest and at the largest cut-off that all rows have; None if there are not two."""
    shared = [key for key in ranked_keys(rows) if key.startswith("recall@") and all(key in row.metrics for row in rows)]
    ordered = sorted(shared, key=lambda key: metric_name(key).cutoff or 0)
    return (ordered[0], ordered[-1]) if len(ordered) > 1 else None


def _differences(axes: Axes, comparison: Comparison, rows: Sequence[Row], numbers: dict[str, int]) -> None:
    """Plot the differences from the reference, the first row at the top."""
    for row in rows:
        test, y = row.test, numbers[row.name]
        if test is None or test.difference is None:
            continue
        if test.interval is not None:
            axes.plot(test.interval, (y, y), color=ROW, lw=2)
        axes.plot(test.by_seed, [y + 0.25] * len(test.by_seed), ls="", marker="o", ms=2.5, color=GRAY)
        axes.plot(test.difference, y, marker="o", ms=7, color=ROW, mfc=ROW if is_significant(row) else "white")
    axes.axvline(0, color=REFERENCE, lw=1)
    axes.set_yticks(list(numbers.values()))
    labels = [f"{numbers[row.name]}  {_short(row.name)}" for row in rows]
    for label, row in zip(axes.set_yticklabels(labels, fontsize=8, parse_math=False), rows, strict=True):
        label.set_color(REFERENCE if row.name == comparison.reference else "black")
    axes.set_ylim(len(rows) + 0.6, 0.4)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_xlabel(f"difference in {title(comparison.metric)} from {_short(comparison.reference)}", fontsize=9, parse_math=False)


def _recalls(axes: Axes, comparison: Comparison, rows: Sequence[Row], numbers: dict[str, int], cutoffs: tuple[str, str]) -> None:
    """Plot recall at two cut-offs; the numbers are those of the left panel."""
    first, last = cutoffs
    for row in rows:
        x, y = row.metrics[last].mean, row.metrics[first].mean
        color = REFERENCE if row.name == comparison.reference else ROW
        axes.plot(x, y, marker="o", ms=5, color=color)
        axes.annotate(str(numbers[row.name]), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8, color=color)
    axes.grid(color="#eeeeee")
    axes.margins(0.12)
    axes.set_xlabel(title(last), fontsize=9)
    axes.set_ylabel(title(first), fontsize=9)


def _short(name: str) -> str:
    """Return a row's name for a label; a long one loses its middle."""
    text = printable(name)
    return text if len(text) <= NAME_WIDTH else f"{text[: NAME_WIDTH // 2]}…{text[-NAME_WIDTH // 2 + 1 :]}"
