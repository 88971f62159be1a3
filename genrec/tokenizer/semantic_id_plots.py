"""Stage 3, Semantic IDs as a picture, the only file of the stage that knows matplotlib.

In: Semantic IDs, their health, the catalog. Out: a file, PNG, SVG or PDF by its suffix.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray
from pandas import DataFrame

from genrec.semantic_ids import SemanticIds
from genrec.tokenizer.collisions import prefix_groups
from genrec.tokenizer.health_report import summary
from genrec.tokenizer.prefix_examples import MEDIUM, Example, examples

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#4477aa", "#ddaa33", "#bb5566", "#228833", "#66ccee", "#aa3377")  # of levels and lengths, in turn
PLAIN, RED, GREY = COLORS[0], COLORS[2], "#bbbbbb"
SHOWN = len(COLORS)  # levels and lengths that have a line: the first ones and the last
TITLES = 11  # of each group that is shown
POINTS = 2_000  # of a line at most


def draw(semantic_ids: SemanticIds, figures: dict[str, Any], items: DataFrame | None, title: str, path: Path) -> None:
    """Usage of the levels, sizes of prefix groups, purity and co-occurrence by length, and a few groups with their titles."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 10), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    plain = _drawable()
    head = [line for said in (plain(title), *summary(figures)) for line in textwrap.wrap(said, 190)[:2]]
    figure.suptitle("\n".join(head), fontsize=11, parse_math=False)
    axes = figure.subplots(2, 4, height_ratios=(1, 1.05))
    groups = [each.group.numpy() for each in prefix_groups(semantic_ids.codes)]
    _usage(axes[0, 0], semantic_ids, figures)
    _groups(axes[0, 1], groups)
    _purity(axes[0, 2], figures["category_purity"])
    _agreement(axes[0, 3], figures["co_occurrence"])
    chosen = examples(semantic_ids, groups[: max(1, figures["quantized_levels"] - 1)], items, TITLES)
    said = "Groups of items that share first codes, and titles of some items behind the codes that follow"
    figure.supxlabel(f"{said} (medium: {MEDIUM[0]} to {MEDIUM[1]} items)", fontsize=9)
    for place in range(4):
        axes[1, place].set_axis_off()
        if place < len(chosen):
            _example(axes[1, place], chosen[place], plain)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _usage(axes: Axes, semantic_ids: SemanticIds, figures: dict[str, Any]) -> None:
    """Items of each code, the most used code first, beside what equal usage would be."""
    own = figures["quantized_levels"]
    for color, place in _shown(semantic_ids.levels):
        counts = np.sort(np.bincount(semantic_ids.codes[:, place].numpy(), minlength=semantic_ids.level_sizes[place]))[::-1]
        level = figures["levels"][place]
        name = f"level {level['level']}: {level['used']:,} of {level['size']:,}, perplexity {level['perplexity']:,.0f}"
        shown = _points(len(counts))
        axes.plot(
            shown + 1, np.maximum(counts[shown], 0.5), color=color, label=name, ls="-" if place < own else ":", marker=_dot(shown)
        )
    for size in sorted({level["size"] for level in figures["levels"][:own]}):
        axes.plot([1, size], [figures["items"] / size] * 2, color=GREY, ls="--", zorder=0)
    axes.set(yscale="log", xlabel="code, the most used first (dashed: all used equally)")
    axes.set_ylabel("items" + " (codes without any are drawn at 0.5)" * any(level["dead"] for level in figures["levels"]))
    axes.set_title("Are the codes used?")
    axes.legend(fontsize=8, loc="upper right")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.4), high * (high / low) ** 0.4)  # room for the legend
    if max(semantic_ids.level_sizes) == 1:
        axes.set_xlim(0, 2)
    _whole(axes.yaxis)
    _whole(axes.xaxis, log=False)


def _groups(axes: Axes, groups: Sequence[ndarray]) -> None:
    """How many items have how many others with the same first codes."""
    for color, place in _shown(len(groups)):
        sizes = np.bincount(groups[place])
        ordered = np.sort(sizes)
        items = ordered[::-1].cumsum()[::-1] / ordered.sum()  # in groups of at least so many
        value, first = np.unique(ordered, return_index=True)
        name = f"{place + 1} code{'s' if place else ''}: {len(sizes):,} group{'s' if len(sizes) > 1 else ''}"
        axes.step([1, *value, value[-1]], [1, *items[first], 0], where="pre", color=color, label=name)
    axes.set(xscale="log", ylim=(0, 1.06 + 0.06 * min(len(groups), SHOWN)), xlabel="items in a group that shares its first codes")
    axes.set_ylabel("share of all items in groups at least so large")
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_title("How far do the codes tell items apart?")
    if all(len(group) == int(group.max()) + 1 for group in groups):  # nothing is shared: one line, at 1
        axes.set_xlim(0.9, 10)
    _whole(axes.xaxis)
    _percent(axes)
    axes.legend(fontsize=8, loc="upper right")


def _purity(axes: Axes, figures: dict[str, Any]) -> None:
    """Purity by length, beside that of shuffled items."""
    rows = [row for row in figures["prefixes"] or [] if row["purity"] is not None]
    axes.set_title("Are groups of one kind?")
    if not rows:
        _say(axes, figures["reason"] or "no two items with a category share a code")
        return
    lengths = [row["length"] for row in rows]
    axes.plot(lengths, [row["purity"] for row in rows], color=PLAIN, marker="o", label="groups of the Semantic IDs")
    axes.plot(lengths, [row["chance"] for row in rows], color=GREY, marker="o", label="same sizes, items shuffled")
    axes.set(ylim=(0, 1.02), xlabel="first codes, and how many items share them", ylabel="share with the group's main label")
    axes.set_title(f"Are groups of one kind? ({figures['labels']:,} {figures['column']})", parse_math=False)
    _lengths(axes, {row["length"]: f"{row['length']}\n{row['items']:,}" for row in rows})
    _percent(axes)
    axes.legend(fontsize=8, loc="best")


def _agreement(axes: Axes, figures: dict[str, Any]) -> None:
    """How often consecutive items share their first codes, beside what independent draws give, and the lift."""
    rows = [row for row in figures["prefixes"] or [] if row["expected"] > 0]
    axes.set_title("Do items taken in a row share codes?")
    if not rows:
        _say(axes, figures["reason"] or "no two of the items share a code")
        return
    lengths = np.array([row["length"] for row in rows])
    for shift, key, color, name in ((-0.2, "share", PLAIN, "consecutive items"), (0.2, "expected", GREY, "independent items")):
        axes.bar(lengths + shift, [row[key] for row in rows], 0.38, color=color, label=name)
    for row in rows:
        high = max(row["share"], row["expected"])
        axes.annotate(
            f"x {row['lift']:,.1f}", (row["length"], high), (0, 3), textcoords="offset points", ha="center", fontsize=9, color=RED
        )
    top = max(max(row["share"], row["expected"]) for row in rows)
    low = min(min(row["share"] or row["expected"], row["expected"]) for row in rows)
    axes.set(yscale="log", ylim=(low / 3, top * (top / low) ** 0.35 * 3), xlabel="first codes (red: lift)")
    axes.set_ylabel(f"share of {figures['pairs']:,} pairs that agree")
    axes.yaxis.set_major_formatter(lambda value, place: "" if value > 1 else f"{100 * value:g}%")
    _lengths(axes, {row["length"]: str(row["length"]) for row in rows})
    axes.legend(fontsize=8, loc="upper right")


def _example(axes: Axes, example: Example, plain: Callable[[str], str]) -> None:
    """The codes that a group's items share, and some items with their further codes."""

    def write(left: float, high: float, text: str, **look: Any) -> None:
        said = axes.text(left, high, text, va="top", parse_math=False, transform=axes.transAxes, **look)
        said.set_in_layout(False)

    label = "" if example.label is None else f", {example.share:.0%} {_cut(plain(example.label), 24)}"
    write(0, 1, example.why, fontsize=10, fontweight="bold", color=PLAIN)
    items = f"{example.size:,} item{'' if example.size == 1 else 's'}"
    write(0, 0.94, f"{_codes(example.prefix)}: {items}{label}", fontsize=9)
    further = [_codes(codes) for codes, _ in example.titles]
    width = max(map(len, further))
    for place, (codes, (_, title)) in enumerate(zip(further, example.titles, strict=True)):
        high = 0.87 - place * 0.87 / TITLES
        write(0, high, codes, fontsize=7.5, color="#777777", family="monospace")
        lines = textwrap.wrap(plain(title), 56 - width)
        shown = [*lines[:1], *([_cut(" ".join(lines[1:]), 56 - width)] if lines[1:] else [])]
        write(0.02 + 0.0195 * width, high, "\n".join(shown), fontsize=7.5)


def _codes(codes: Sequence[int]) -> str:
    return " ".join(map(str, codes[:3])) + (" .." if len(codes) > 3 else "")


def _drawable() -> Callable[[str], str]:
    """What makes any text one line of characters that the font has; others become boxes."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties())).get_charmap()
    return lambda text: "".join(mark if ord(mark) in known else "\u25af" for mark in " ".join(text[:1_000].split()))


def _shown(count: int) -> list[tuple[str, int]]:
    """Colors and places of the lines that are drawn, of so many levels."""
    places = range(count) if count <= SHOWN else [*range(SHOWN - 1), count - 1]
    return list(zip(COLORS, places, strict=False))


def _points(count: int) -> ndarray:
    """Places of a line, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).astype(int))


def _dot(shown: ndarray) -> str:
    return "o" if len(shown) == 1 else ""


def _lengths(axes: Axes, names: dict[int, str]) -> None:
    """Prefix lengths as ticks, a few of them where they are many."""
    lengths = list(names)
    shown = lengths[:: -(-len(lengths) // 6)]
    axes.set_xticks(shown, [names[length] for length in shown])
    axes.set_xlim(lengths[0] - 0.6, lengths[-1] + 0.6)


def _percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:.0%}")


def _whole(axis: Any, log: bool = True) -> None:
    """Whole numbers with separators at the ticks of a logarithmic axis or of a plain one."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    wide = LogLocator(numticks=8) if low > 0 and high / low > 1_000 else LogLocator(subs=(1.0, 2.0, 5.0), numticks=8)
    axis.set_major_locator(wide if log else MaxNLocator(6, integer=True, min_n_ticks=1))
    axis.set_major_formatter(lambda value, place: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _say(axes: Axes, reason: str) -> None:
    axes.text(0.5, 0.5, "\n".join(textwrap.wrap(reason, 34)), ha="center", va="center", parse_math=False, transform=axes.transAxes)
    axes.set_axis_off()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 2].rstrip() + " \u2026"
