"""The picture of `genrec tokenize`: code usage, prefix groups, category purity, co-occurrence and example groups.

This is the only file of the tokenizer that imports matplotlib.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray
from pandas import DataFrame

from genrec.errors import counted
from genrec.semantic_ids import SemanticIds
from genrec.tokenizer.collisions import prefix_groups
from genrec.tokenizer.health_report import summary
from genrec.tokenizer.prefix_examples import MEDIUM, Example, examples
from genrec.written_files import PICTURE_METADATA

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#4477aa", "#ddaa33", "#bb5566", "#228833", "#66ccee", "#aa3377")  # colors of levels and prefix lengths
BLUE, RED, GRAY = COLORS[0], COLORS[2], "#bbbbbb"
SHOWN = len(COLORS)  # most levels or prefix lengths with a line; the last one is always shown
TITLES = 11  # titles per example group
POINTS = 2_000  # most points per line


def draw(semantic_ids: SemanticIds, figures: dict[str, Any], items: DataFrame | None, title: str, path: Path) -> None:
    """Write the picture to `path`, as PNG, SVG or PDF by its suffix.

    The panels are code usage by level, sizes of prefix groups, purity and co-occurrence by prefix length, and example groups.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 10), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    printable = _printable()
    head = [line for text in (printable(title), *summary(figures)) for line in textwrap.wrap(text, 190)[:2]]
    figure.suptitle("\n".join(head), fontsize=11, parse_math=False)
    axes = figure.subplots(2, 4, height_ratios=(1, 1.05))
    groups = [each.group.numpy() for each in prefix_groups(semantic_ids.codes)]
    _usage(axes[0, 0], semantic_ids, figures)
    _groups(axes[0, 1], groups)
    _purity(axes[0, 2], figures["category_purity"])
    _agreement(axes[0, 3], figures["co_occurrence"])
    chosen = examples(semantic_ids, groups[: max(1, figures["quantized_levels"] - 1)], items, TITLES)
    caption = "Example groups of items with the same first codes. Each line: the item's other codes, then its title"
    figure.supxlabel(f"{caption} (medium group: {MEDIUM[0]} to {MEDIUM[1]} items)", fontsize=9)
    for place in range(4):
        axes[1, place].set_axis_off()
        if place < len(chosen):
            _example(axes[1, place], chosen[place], printable)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata=PICTURE_METADATA)


def _usage(axes: Axes, semantic_ids: SemanticIds, figures: dict[str, Any]) -> None:
    """Plot the number of items per code, in descending order, with a dashed line for equal usage."""
    own = figures["quantized_levels"]
    for color, place in _shown(semantic_ids.levels):
        counts = np.sort(np.bincount(semantic_ids.codes[:, place].numpy(), minlength=semantic_ids.level_sizes[place]))[::-1]
        level = figures["levels"][place]
        name = f"level {level['level']}: {level['used']:,} of {level['size']:,} used, perplexity {level['perplexity']:,.0f}"
        shown = _points(len(counts))
        axes.plot(
            shown + 1, np.maximum(counts[shown], 0.5), color=color, label=name, ls="-" if place < own else ":", marker=_marker(shown)
        )
    for size in sorted({level["size"] for level in figures["levels"][:own]}):
        axes.plot([1, size], [figures["items"] / size] * 2, color=GRAY, ls="--", zorder=0)
    axes.set(yscale="log", xlabel="rank of the code by number of items (dashed: equal usage)")
    axes.set_ylabel("items per code" + " (unused codes drawn at 0.5)" * any(level["dead"] for level in figures["levels"]))
    axes.set_title("Are all codes used?")
    axes.legend(fontsize=8, loc="upper right")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.4), high * (high / low) ** 0.4)  # space for the legend
    if max(semantic_ids.level_sizes) == 1:
        axes.set_xlim(0, 2)
    _integers(axes.yaxis)
    _integers(axes.xaxis, log=False)


def _groups(axes: Axes, groups: Sequence[ndarray]) -> None:
    """Plot the share of items in groups of at least each size, for each prefix length."""
    for color, place in _shown(len(groups)):
        sizes = np.bincount(groups[place])
        ordered = np.sort(sizes)
        items = ordered[::-1].cumsum()[::-1] / ordered.sum()  # share of items in groups of at least this size
        value, first = np.unique(ordered, return_index=True)
        name = f"first {f'{place + 1} codes' if place else 'code'}: {len(sizes):,} group{'s' if len(sizes) > 1 else ''}"
        axes.step([1, *value, value[-1]], [1, *items[first], 0], where="pre", color=color, label=name)
    axes.set(xscale="log", ylim=(0, 1.06 + 0.06 * min(len(groups), SHOWN)), xlabel="group size: items with the same first codes")
    axes.set_ylabel("share of items in groups of at least this size")
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_title("How many items share their first codes?")
    if all(len(group) == int(group.max()) + 1 for group in groups):  # no item shares a code: a single line at size 1
        axes.set_xlim(0.9, 10)
    _integers(axes.xaxis)
    _percent(axes)
    axes.legend(fontsize=8, loc="upper right")


def _purity(axes: Axes, figures: dict[str, Any]) -> None:
    """Plot purity by prefix length, with the purity of shuffled items."""
    rows = [row for row in figures["prefixes"] or [] if row["purity"] is not None]
    axes.set_title("Do groups have one category?")
    if not rows:
        _message(axes, figures["reason"] or "no two items with a category share a code")
        return
    lengths = [row["length"] for row in rows]
    axes.plot(lengths, [row["purity"] for row in rows], color=BLUE, marker="o", label="items with the same first codes")
    axes.plot(lengths, [row["chance"] for row in rows], color=GRAY, marker="o", label="items shuffled over the same groups")
    axes.set(ylim=(0, 1.02), xlabel="number of first codes (below: items in shared groups)")
    axes.set_ylabel("purity: share with the group's most frequent label")
    axes.set_title(f"Do groups have one category? ({figures['labels']:,} {figures['column']})", parse_math=False)
    _lengths(axes, {row["length"]: f"{row['length']}\n{row['items']:,}" for row in rows})
    _percent(axes)
    axes.legend(fontsize=8, loc="best")


def _agreement(axes: Axes, figures: dict[str, Any]) -> None:
    """Plot the share of consecutive pairs with equal first codes, the share expected by chance, and the lift."""
    rows = [row for row in figures["prefixes"] or [] if row["expected"] > 0]
    axes.set_title("Do consecutive items share codes?")
    if not rows:
        _message(axes, figures["reason"] or "no two items share a code")
        return
    lengths = np.array([row["length"] for row in rows])
    for shift, key, color, name in ((-0.2, "share", BLUE, "consecutive items"), (0.2, "expected", GRAY, "independent items (chance)")):
        axes.bar(lengths + shift, [row[key] for row in rows], 0.38, color=color, label=name)
    for row in rows:
        high = max(row["share"], row["expected"])
        axes.annotate(
            f"x {row['lift']:,.1f}", (row["length"], high), (0, 3), textcoords="offset points", ha="center", fontsize=9, color=RED
        )
    top = max(max(row["share"], row["expected"]) for row in rows)
    low = min(min(row["share"] or row["expected"], row["expected"]) for row in rows)
    axes.set(yscale="log", ylim=(low / 3, top * (top / low) ** 0.35 * 3), xlabel="number of first codes (red: lift)")
    axes.set_ylabel(f"share of {figures['pairs']:,} pairs with equal first codes")
    axes.yaxis.set_major_formatter(lambda value, place: "" if value > 1 else f"{100 * value:g}%")
    _lengths(axes, {row["length"]: str(row["length"]) for row in rows})
    axes.legend(fontsize=8, loc="upper right")


def _example(axes: Axes, example: Example, printable: Callable[[str], str]) -> None:
    """Write a group's common codes, and the other codes and titles of some of its items."""

    def write(left: float, top: float, text: str, **style: Any) -> None:
        label = axes.text(left, top, text, va="top", parse_math=False, transform=axes.transAxes, **style)
        label.set_in_layout(False)

    label = "" if example.label is None else f", {example.share:.0%} {_shorten(printable(example.label), 24)}"
    write(0, 1, example.reason, fontsize=10, fontweight="bold", color=BLUE)
    items = counted(example.size, "item")
    write(0, 0.94, f"first code{'s' * (len(example.prefix) > 1)} {_codes(example.prefix)}: {items}{label}", fontsize=9)
    later = [_codes(codes) for codes, _ in example.titles]
    width = max(map(len, later))
    for place, (codes, (_, title)) in enumerate(zip(later, example.titles, strict=True)):
        top = 0.87 - place * 0.87 / TITLES
        write(0, top, codes, fontsize=7.5, color="#777777", family="monospace")
        lines = textwrap.wrap(printable(title), 56 - width)
        shown = [*lines[:1], *([_shorten(" ".join(lines[1:]), 56 - width)] if lines[1:] else [])]
        write(0.02 + 0.0195 * width, top, "\n".join(shown), fontsize=7.5)


def _codes(codes: Sequence[int]) -> str:
    """Return at most three codes as text."""
    return " ".join(map(str, codes[:3])) + (" .." if len(codes) > 3 else "")


def _printable() -> Callable[[str], str]:
    """Return a function that joins a text into one line and replaces characters that the font lacks with boxes."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    available = get_font(findfont(FontProperties())).get_charmap()
    return lambda text: "".join(character if ord(character) in available else "\u25af" for character in " ".join(text[:1_000].split()))


def _shown(count: int) -> list[tuple[str, int]]:
    """Return color and index of the levels that are drawn."""
    places = range(count) if count <= SHOWN else [*range(SHOWN - 1), count - 1]
    return list(zip(COLORS, places, strict=False))


def _points(count: int) -> ndarray:
    """Return at most `POINTS` evenly spaced indices, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).astype(int))


def _marker(shown: ndarray) -> str:
    """Return the marker of a line: a dot if it has a single point."""
    return "o" if len(shown) == 1 else ""


def _lengths(axes: Axes, names: dict[int, str]) -> None:
    """Label prefix lengths on the x axis, at most six of them."""
    lengths = list(names)
    shown = lengths[:: -(-len(lengths) // 6)]
    axes.set_xticks(shown, [names[length] for length in shown])
    axes.set_xlim(lengths[0] - 0.6, lengths[-1] + 0.6)


def _percent(axes: Axes) -> None:
    """Label the y axis in percent."""
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:.0%}")


def _integers(axis: Any, log: bool = True) -> None:
    """Label a logarithmic or linear axis with integers and thousands separators."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    wide = LogLocator(numticks=8) if low > 0 and high / low > 1_000 else LogLocator(subs=(1.0, 2.0, 5.0), numticks=8)
    axis.set_major_locator(wide if log else MaxNLocator(6, integer=True, min_n_ticks=1))
    axis.set_major_formatter(lambda value, place: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _message(axes: Axes, reason: str) -> None:
    """Write a message instead of a plot."""
    axes.text(0.5, 0.5, "\n".join(textwrap.wrap(reason, 34)), ha="center", va="center", parse_math=False, transform=axes.transAxes)
    axes.set_axis_off()


def _shorten(text: str, width: int) -> str:
    """Shorten a text to `width` characters, with an ellipsis."""
    return text if len(text) <= width else text[: width - 2].rstrip() + " \u2026"
