"""Stages 4 and 5, curves as a picture, the only file of the folder that knows matplotlib.

In: tables of curves, by row (of a table of results) and seed. Out: a file, PNG, SVG or PDF by its suffix; a panel for each kind of
number.
"""

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

COLORS = ("#4477aa", "#ddaa33", "#bb5566", "#228833", "#66ccee", "#aa3377", "#997700", "#555555")  # of rows or of names, in turn
STYLES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 4)))  # of names, where rows have the colors
Style = str | tuple[int, tuple[int, ...]]
COLUMNS = 4  # panels beside each other


class Panel(NamedTuple):
    """One kind of number."""

    title: str
    unit: str
    names: str  # a regular expression: which columns


PANELS = (
    Panel("Loss", "loss", "loss"),
    Panel("Validation: NDCG", "mean over users", VALIDATION + r"ndcg@\d+"),
    Panel("Validation: Recall", "mean over users", VALIDATION + r"recall@\d+"),
    Panel("Log-probabilities", "nats a Semantic ID", "(chosen|rejected)_log_prob"),
    Panel("Drift from the reference", "nats a Semantic ID", "(chosen|rejected)_drift"),
    Panel("Implicit rewards", "reward", "(chosen|rejected)_reward"),
    Panel("Margin, and what each level adds", "nats a Semantic ID", r"margin(_level_\d+)?"),
    Panel("Rightly ordered", "share", "accuracy(_all)?"),
    Panel("Validation: entropy and KL to the reference", "nats", VALIDATION + "(entropy|kl)"),
    Panel("Validation: generated freely, real items", "share", VALIDATION + "valid_share"),
    Panel("Drawn negatives: codes shared with the positive", "levels", "drawn_depth"),
    Panel("Drawn negatives: popularity", "percentile, 0 to 1", "drawn_popularity"),
    Panel("Drawn negatives: likeness to the positive", "cosine", "drawn_cosine"),
    Panel("Drawn negatives: that could not be drawn", "share", "drawn_shortfall"),
)


def draw(runs: Mapping[str, Sequence[DataFrame]], title: str, path: Path) -> None:
    """Curves of one training, or of several rows over each other: a row's mean over its seeds, and each seed as a thin line."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shown = panels(dict.fromkeys(name for seeds in runs.values() for each in seeds for name in each.columns))
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(1 + 4.4 * columns, 1 + 3.1 * rows), layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(title, 40 * columns)), fontsize=11, parse_math=False)
    places = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, (panel, names) in zip(places, shown, strict=False):
        _panel(axes, panel, names, runs)
    for axes in places[len(shown) :]:
        axes.set_axis_off()
    if len(runs) > 1:
        handles = [
            Line2D([], [], color=_color(place), label=f"{name} ({len(seeds)})") for place, (name, seeds) in enumerate(runs.items())
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(runs), 2 * columns), title="row (seeds)", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def panels(columns: Sequence[str] | Mapping[str, object]) -> list[tuple[Panel, list[str]]]:
    """The panels that have something to show, each with its columns; a name that none of them knows has one of its own."""
    left = [name for name in columns if name != "step"]
    result = []
    for panel in PANELS:
        names = [name for name in left if re.fullmatch(panel.names, name)]
        if names:
            result.append((panel, names))
        left = [name for name in left if name not in names]
    return result + [(Panel(name, "", re.escape(name)), [name]) for name in left]


def _panel(axes: Axes, panel: Panel, names: Sequence[str], runs: Mapping[str, Sequence[DataFrame]]) -> None:
    """Where there is one row names have colors, else rows have them and names have styles."""
    for row, seeds in enumerate(runs.values()):
        for place, name in enumerate(names):
            color = _color(row if len(runs) > 1 else place)
            style = _style(place) if len(runs) > 1 else "-"
            _line(axes, [each.set_index("step")[name].dropna() for each in seeds if name in each], color, style)
    axes.set(title=panel.title, xlabel="step", ylabel=panel.unit)
    axes.title.set_fontsize(10)
    axes.grid(color="#eeeeee")
    if len(names) > 1:
        _legend(axes, names, colored=len(runs) == 1)


def _line(axes: Axes, seeds: Sequence[pd.Series[float]], color: str, style: Style) -> None:
    """The mean over the seeds at each step, and each seed thinly. Of few points each is marked."""
    if not seeds:
        return
    mean = pd.concat(seeds, axis=1).mean(axis=1).sort_index()
    axes.plot(mean.index, mean, color=color, ls=style, marker="o" if len(mean) <= 12 else "", ms=3)
    for seed in seeds if len(seeds) > 1 else ():
        axes.plot(seed.index, seed, color=color, ls=style, lw=0.6, alpha=0.5)


def _legend(axes: Axes, names: Sequence[str], colored: bool) -> None:
    """What is which, in the words that the curves have, without what all share."""
    from matplotlib.lines import Line2D

    looks = [(_color(place), "-") if colored else ("#555555", _style(place)) for place in range(len(names))]
    handles = [
        Line2D([], [], color=color, ls=style, label=name.removeprefix(VALIDATION).replace("_", " "))
        for name, (color, style) in zip(names, looks, strict=True)
    ]
    axes.legend(handles=handles, fontsize=7, loc="best")


def _color(place: int) -> str:
    return COLORS[place % len(COLORS)]


def _style(place: int) -> Style:
    return STYLES[place % len(STYLES)]
