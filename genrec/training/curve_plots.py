"""Plots of training curves, one panel per group of metrics. No other file in this folder imports matplotlib."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from pandas import DataFrame

from genrec.training.curves import VALIDATION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# colors of rows and styles of metrics; with one row, colors of metrics
COLORS = ("#4477aa", "#ddaa33", "#bb5566", "#228833", "#66ccee", "#aa3377", "#997700", "#555555")
STYLES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 4)))
Style = str | tuple[int, tuple[int, ...]]
COLUMNS = 4  # panels per line of the figure


class Panel(NamedTuple):
    """A group of metrics that share a plot."""

    title: str
    unit: str  # label of the y axis
    names: str  # regular expression that matches the columns of the group


PANELS = (
    Panel("Loss", "loss", "loss"),
    Panel("NDCG on validation", "mean over users", VALIDATION + r"ndcg@\d+(_filter_seen)?"),
    Panel("Recall on validation", "mean over users", VALIDATION + r"recall@\d+(_filter_seen)?"),
    Panel("Log-probabilities", "nats per Semantic ID", "(chosen|rejected)_log_prob"),
    Panel("Drift: log-ratio to the reference", "nats per Semantic ID", "(chosen|rejected)_drift"),
    Panel("Implicit rewards", "reward", "(chosen|rejected)_reward"),
    Panel("Margin, in total and per level", "nats per Semantic ID", r"margin(_level_\d+)?"),
    Panel("Accuracy: positive ranked above negatives", "share", "accuracy(_all)?"),
    Panel("Entropy, and KL to the reference", "nats per Semantic ID", VALIDATION + "(entropy|kl)"),
    Panel("Valid Semantic IDs, sampled without constraints", "share of samples", VALIDATION + "valid_share"),
    Panel("Negatives: codes shared with the positive", "codes", "drawn_depth"),
    Panel("Negatives: popularity", "percentile, 0 to 1", "drawn_popularity"),
    Panel("Negatives: similarity to the positive", "cosine", "drawn_cosine"),
    Panel("Negatives: shortfall of the sampler", "share of requested negatives", "drawn_shortfall"),
)


def draw(runs: Mapping[str, Sequence[DataFrame]], title: str, path: Path) -> None:
    """Plot curves to a PNG, SVG or PDF file, chosen by the suffix of `path`.

    `runs` holds the tables of curves of each row of a results table, one table per seed. With several seeds a thick line shows their
    mean and a thin line each seed.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shown = panels(dict.fromkeys(name for seeds in runs.values() for each in seeds for name in each.columns))
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(1 + 4.4 * columns, 1 + 3.1 * rows), layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(title, 40 * columns)), fontsize=11, parse_math=False)
    axes_grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, (panel, names) in zip(axes_grid, shown, strict=False):
        _panel(axes, panel, names, runs)
    for axes in axes_grid[len(shown) :]:
        axes.set_axis_off()
    if len(runs) > 1:
        handles = [
            Line2D([], [], color=_color(index), label=f"{name} ({len(seeds)})") for index, (name, seeds) in enumerate(runs.items())
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(runs), 2 * columns), title="row (number of seeds)", fontsize=9
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def panels(columns: Sequence[str] | Mapping[str, object]) -> list[tuple[Panel, list[str]]]:
    """Return the panels that have columns to plot, with these columns. An unknown column gets a separate panel."""
    unknown = [name for name in columns if name != "step"]
    result = []
    for panel in PANELS:
        names = [name for name in unknown if re.fullmatch(panel.names, name)]
        if names:
            result.append((panel, names))
        unknown = [name for name in unknown if name not in names]
    return result + [(Panel(name, "", re.escape(name)), [name]) for name in unknown]


def _panel(axes: Axes, panel: Panel, names: Sequence[str], runs: Mapping[str, Sequence[DataFrame]]) -> None:
    """Plot one panel. With one row, colors mark the metrics; with several, colors mark the rows and line styles the metrics."""
    for row, seeds in enumerate(runs.values()):
        for index, name in enumerate(names):
            color = _color(row if len(runs) > 1 else index)
            style = _style(index) if len(runs) > 1 else "-"
            _line(axes, [each.set_index("step")[name].dropna() for each in seeds if name in each], color, style)
    axes.set(title=panel.title, xlabel="training step", ylabel=panel.unit)
    axes.title.set_fontsize(10)
    axes.grid(color="#eeeeee")
    if len(names) > 1:
        _legend(axes, names, colored=len(runs) == 1)


def _line(axes: Axes, seeds: Sequence[pd.Series[float]], color: str, style: Style) -> None:
    """Plot the mean over the seeds at each step, and each seed as a thin line. Up to 12 points are marked by dots."""
    if not seeds:
        return
    mean = pd.concat(seeds, axis=1).mean(axis=1).sort_index()
    axes.plot(mean.index, mean, color=color, ls=style, marker="o" if len(mean) <= 12 else "", ms=3)
    for seed in seeds if len(seeds) > 1 else ():
        axes.plot(seed.index, seed, color=color, ls=style, lw=0.6, alpha=0.5)


def _legend(axes: Axes, names: Sequence[str], colored: bool) -> None:
    """Add a legend with the names of the columns, without their common prefix."""
    from matplotlib.lines import Line2D

    formats = [(_color(index), "-") if colored else ("#555555", _style(index)) for index in range(len(names))]
    handles = [
        Line2D([], [], color=color, ls=style, label=name.removeprefix(VALIDATION).replace("_", " "))
        for name, (color, style) in zip(names, formats, strict=True)
    ]
    axes.legend(handles=handles, fontsize=7, loc="best")


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def _style(index: int) -> Style:
    return STYLES[index % len(STYLES)]
