"""Plots of training curves, one panel per group of metrics. No other file in this folder imports matplotlib."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from pandas import DataFrame

from genrec.training.curve_panels import RANKING, Axis, Shown, label, panels
from genrec.training.curves import STANDARD_ERROR
from genrec.written_files import PICTURE_METADATA

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# colors of rows and styles of metrics; with one row, colors of metrics
COLORS = ("#4477aa", "#ddaa33", "#bb5566", "#228833", "#66ccee", "#aa3377", "#997700", "#555555")
STYLES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 4)))
Style = str | tuple[int, tuple[int, ...]]
Runs = Mapping[str, Sequence[DataFrame]]
Z = 1.96  # standard errors of a 95 % interval
GRAY = "#777777"
LEGEND_WIDTH = 95  # letters that fit below a panel in a line
NOTE = (
    "Smallest height of a y axis: 0.02 for NDCG and recall, 1 nat for log-probabilities and margins, 0.1 for losses; "
    "shares are shown from 0 to 1."
)


def draw(
    runs: Runs,
    title: str,
    path: Path,
    stage: str = "",
    everything: bool = False,
    lines: Mapping[str, float] | None = None,
) -> None:
    """Plot curves to a PNG, SVG or PDF file, chosen by the suffix of `path`.

    With several seeds a thick line shows their mean and a thin line each seed. NDCG has a band, its 95 % interval over users, if the
    tables have its standard error. An alignment starts from the SFT policy, so a dotted line marks the value at step 0.

    - `runs`: tables of curves of each row of a results table, one table per seed.
    - `stage`: the stage of the curves, which selects the panels; "" plots all columns.
    - `everything`: plot all columns of a known stage too.
    - `lines`: NDCG on the same validation users by label, such as that of a baseline, for horizontal lines.
    """
    from matplotlib.figure import Figure

    shown = panels(dict.fromkeys(name for seeds in runs.values() for each in seeds for name in each.columns), stage, everything)
    columns = min(2 if len(shown) == 4 else 3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(1 + 5.4 * columns, 1.2 + 3.6 * rows), layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(title, 50 * columns)), fontsize=11, parse_math=False)
    note = "\n".join(textwrap.wrap(NOTE, 90 * columns))
    axes_grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, each in zip(axes_grid, shown, strict=False):
        if each.panel == RANKING:
            _horizontal_lines(axes, each.left, runs, lines or {}, stage == "align")
        _panel(axes, each, runs)
        _legend(axes, each, runs)
    for axes in axes_grid[len(shown) :]:
        axes.set_axis_off()
    if len(runs) > 1:
        _row_legend(figure, runs, 2 * columns, note)
    else:
        figure.supxlabel(note, fontsize=7, color=GRAY)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata=PICTURE_METADATA)


def _panel(axes: Axes, shown: Shown, runs: Runs) -> None:
    """Plot one panel. With one row, colors mark the metrics; with several, colors mark the rows and line styles the metrics."""
    x = _x(runs)
    axes.set(title=shown.panel.title, xlabel={"step": "training step", "epoch": "epoch"}[x])
    axes.set_xlim(*_x_limits(runs, x))
    axes.title.set_fontsize(10)
    axes.grid(color="#eeeeee")
    sides = [(axes, shown.panel.left, shown.left)]
    if shown.panel.right is not None and shown.right:
        sides.append((axes.twinx() if shown.left else axes, shown.panel.right, shown.right))
    for side, axis, names in sides:
        for row, seeds in enumerate(runs.values()):
            for name in names:
                color, style = _format(shown, name, row, len(runs))
                tables = [each.set_index(x) for each in seeds if name in each]
                _band(side, tables, name, color)
                _line(side, [table[name].dropna() for table in tables], color, style)
        if names:
            side.set_ylabel(axis.label)
            _widen(side, axis)


def _x(runs: Runs) -> str:
    """Return the column of the x axis."""
    return "epoch" if any("epoch" in each for seeds in runs.values() for each in seeds) else "step"


def _x_limits(runs: Runs, x: str) -> tuple[float, float]:
    """Return the limits of the x axis, the same for all panels."""
    values = pd.concat([each[x] for seeds in runs.values() for each in seeds])
    low, high = float(values.min()), float(values.max())
    margin = 0.03 * (high - low) or 1.0
    return low - margin, high + margin


def _format(shown: Shown, name: str, row: int, num_rows: int) -> tuple[str, Style]:
    """Return the color and the line style of a curve. Curves of the right axis are dashed if there is one row."""
    index = shown.names.index(name)
    if num_rows > 1:
        return COLORS[row % len(COLORS)], STYLES[index % len(STYLES)]
    return COLORS[index % len(COLORS)], "--" if name in shown.right and shown.left else "-"


def _line(axes: Axes, seeds: Sequence[pd.Series[float]], color: str, style: Style) -> None:
    """Plot the mean over the seeds at each step, and each seed as a thin line. Up to 12 points are marked by dots."""
    if not seeds:
        return
    mean = pd.concat(seeds, axis=1).mean(axis=1).sort_index()
    axes.plot(mean.index, mean, color=color, ls=style, marker="o" if len(mean) <= 12 else "", ms=3)
    for seed in seeds if len(seeds) > 1 else ():
        axes.plot(seed.index, seed, color=color, ls=style, lw=0.6, alpha=0.5)


def _band(axes: Axes, tables: Sequence[DataFrame], name: str, color: str) -> None:
    """Plot the 95 % interval over users around the mean of the seeds. Seeds share the users, so their standard errors are averaged."""
    error = f"{name}{STANDARD_ERROR}"
    both = [table[[name, error]].dropna() for table in tables if error in table]
    if not both:
        return
    mean = pd.concat(both).groupby(level=0).mean()
    half = Z * mean[error]
    low, high = (mean[name] - half).clip(lower=0), (mean[name] + half).clip(upper=1)  # metrics of users lie in [0, 1]
    axes.fill_between(mean.index, low, high, color=color, alpha=0.15, lw=0)


def _horizontal_lines(axes: Axes, names: Sequence[str], runs: Runs, lines: Mapping[str, float], is_alignment: bool) -> None:
    """Plot the given values, and of an alignment the value of the SFT policy, which is that at step 0."""
    for name in names if is_alignment else ():
        starts = {round(start, 9) for start in (_start(seeds, name) for seeds in runs.values()) if start is not None}
        if len(starts) == 1:  # rows with different SFT policies have no common line
            color = COLORS[list(names).index(name) % len(COLORS)] if len(runs) == 1 else GRAY
            axes.axhline(starts.pop(), color=color, ls=":", lw=1.2, label=f"SFT, {label(name)}" if len(names) > 1 else "SFT (step 0)")
    for index, (text, value) in enumerate(lines.items()):
        axes.axhline(value, color=GRAY, ls=STYLES[1 + index % (len(STYLES) - 1)], lw=1, label=text)


def _start(seeds: Sequence[DataFrame], name: str) -> float | None:
    """Return the mean over the seeds of a metric at step 0, or None if it is missing."""
    values = [each.loc[each["step"] == 0, name].dropna() for each in seeds if name in each and "step" in each]
    found = pd.concat(values) if values else pd.Series(dtype=float)
    return None if found.empty else float(found.mean())


def _widen(axes: Axes, axis: Axis) -> None:
    """Enlarge the y limits to the smallest span and range of the axis."""
    low, high = axes.get_ylim()
    if axis.range is not None:
        margin = 0.03 * (axis.range[1] - axis.range[0])
        low, high = min(low, axis.range[0] - margin), max(high, axis.range[1] + margin)
    missing = axis.span - (high - low)
    if missing > 0:
        low, high = low - missing / 2, high + missing / 2
    axes.set_ylim(low, high)


def _legend(axes: Axes, shown: Shown, runs: Runs) -> None:
    """Add a legend below the panel, where it hides no curve: metrics of both axes, the interval, and the horizontal lines."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Artist] = []
    if len(shown.names) > 1 or axes.get_legend_handles_labels()[1] or shown.panel == RANKING:
        for name in shown.names:
            color, style = _format(shown, name, 0, len(runs))
            side = " (right axis)" if name in shown.right and shown.left else ""
            handles.append(Line2D([], [], color=color if len(runs) == 1 else "#555555", ls=style, label=label(name) + side))
        if any(f"{name}{STANDARD_ERROR}" in each for name in shown.left for seeds in runs.values() for each in seeds):
            handles.append(Patch(color=COLORS[0] if len(runs) == 1 else GRAY, alpha=0.15, label="95 % interval over users"))
        handles += axes.get_legend_handles_labels()[0]
    if handles:
        columns = 3 if sum(len(str(handle.get_label())) for handle in handles) < LEGEND_WIDTH else 2
        axes.legend(handles=handles, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, frameon=False)


def _row_legend(figure: Figure, runs: Runs, columns: int, note: str) -> None:
    """Add the legend of the figure: the note, the color of each row and its number of seeds."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLORS[index % len(COLORS)], label=f"{name} ({len(seeds)})")
        for index, (name, seeds) in enumerate(runs.items())
    ]
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(runs), columns),
        title=f"{note}\nrow (number of seeds)",
        fontsize=9,
        frameon=False,
    )
    legend.get_title().set(fontsize=7, color=GRAY, multialignment="center")
