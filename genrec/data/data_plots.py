"""Plots of a data set, written by `genrec data`. No other file in `genrec.data` imports matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from genrec.data.corpus import Corpus
from genrec.data.data_report import date, events_of_items, head_share
from genrec.data.splits import BEGIN, END, PARTS
from genrec.errors import counted
from genrec.types import NO_TEXT
from genrec.written_files import PICTURE_METADATA

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"train": "#4477aa", "validation": "#ddaa33", "test": "#bb5566"}
BLUE, RED, GRAY = COLORS["train"], COLORS["test"], "#bbbbbb"
TIME_BINS = 60
MAX_REASONS = 8  # bars of removed events


def draw(corpus: Corpus, title: str, path: Path) -> None:
    """Draw events per user and item, popularity, times, lengths of texts, and removed events with their reasons; save the figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8.5), layout="constrained")
    axes = figure.subplots(2, 3)
    stats = corpus.statistics
    title = _wrapped(title, 150)
    size = ", ".join(counted(stats[f"{noun}s"], noun) for noun in ("user", "item", "interaction"))
    figure.suptitle(f"{title}\n{size}", fontsize=12)
    events = events_of_items(corpus)
    _histogram(axes[0, 0], corpus.bounds[:, END] - corpus.bounds[:, BEGIN], "events per user", "number of users")
    _histogram(axes[0, 1], events, "events per item", "number of items")
    _popularity(axes[0, 2], events)
    _times(axes[1, 0], corpus)
    _texts(axes[1, 1], corpus)
    _removed(axes[1, 2], corpus)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata=PICTURE_METADATA)


def _histogram(axes: Axes, counts: ndarray, name: str, unit: str) -> None:
    """Draw a histogram of counts on logarithmic axes with a line at the median."""
    low, high = int(counts.min()), int(counts.max()) + 1
    edges = np.unique(np.append(np.geomspace(low, high, 40).astype(int), high)) - 0.5
    axes.hist(counts, bins=edges.tolist(), color=BLUE)
    axes.axvline(float(np.median(counts)), color=RED, label=f"median {np.median(counts):,.0f}, mean {counts.mean():,.1f}")
    axes.set(xscale="log", yscale="log", xlabel=name, ylabel=unit, title=name.capitalize())
    _count_ticks(axes)
    axes.legend(fontsize=8)


def _count_ticks(axes: Axes) -> None:
    """Set ticks at whole numbers on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 1_000 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(_thousands)
    axes.xaxis.set_minor_formatter(NullFormatter())


def _thousands(value: float, place: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _popularity(axes: Axes, events: ndarray) -> None:
    """Draw the number of events by popularity rank, and the cumulative share of all events."""
    ordered = np.sort(events)[::-1]
    rank = np.arange(1, len(ordered) + 1)
    title = f"Top 1 % of items: {head_share(events, 0.01):.0%} of events, top 20 %: {head_share(events, 0.2):.0%}"
    shown = np.unique(np.geomspace(1, len(ordered), 2_000).astype(int)) - 1
    axes.plot(rank[shown], ordered[shown], color=BLUE)
    axes.set(xscale="log", yscale="log", xlabel="popularity rank of the item", ylabel="number of events", title=title)
    axes.xaxis.set_major_formatter(_thousands)
    share = axes.twinx()
    share.plot(rank[shown], (ordered.cumsum() / ordered.sum())[shown], color=RED)
    share.set(ylim=(0, 1.02), ylabel="cumulative share of events (red)")


def _times(axes: Axes, corpus: Corpus) -> None:
    """Draw events over time, stacked by part."""
    first, last = corpus.statistics["first_time"], corpus.statistics["last_time"]
    edges = np.linspace(first, last + 1, TIME_BINS + 1)
    heights = np.zeros((len(PARTS), TIME_BINS), dtype=np.int64)
    for rows, parts in corpus.chunks():
        bins = np.clip(np.searchsorted(edges, corpus.time[rows], side="right") - 1, 0, TIME_BINS - 1)
        heights += np.bincount(parts * np.int64(TIME_BINS) + bins, minlength=heights.size).reshape(heights.shape)
    below = np.zeros(TIME_BINS)
    for name, height in zip(PARTS, heights, strict=True):
        axes.bar(edges[:-1], height, np.diff(edges), below, align="edge", color=COLORS[name], label=name)
        below = below + height
    ticks = np.linspace(first, last, 5)
    if corpus.statistics["times_are_row_numbers"]:
        title, label = "No times: order of rows", "row of the table of interactions"
        axes.set_xticks(ticks, [_thousands(tick, 0) for tick in ticks], fontsize=8)
    else:
        leaked = corpus.statistics["leakage_share_mean"]
        title, label = f"Times: on average {leaked:.0%} of training events are later than a test event", "time (UTC)"
        axes.set_xticks(ticks, [date(int(tick), last - first) for tick in ticks], fontsize=8)
    axes.set(xlabel=label, ylabel="number of events")
    axes.set_title(title, fontsize=10)
    axes.yaxis.set_major_formatter(_thousands)
    axes.legend(fontsize=8)


def _texts(axes: Axes, corpus: Corpus) -> None:
    """Draw the lengths of the items' texts and the number of items without text."""
    text = corpus.items["text"]
    characters = text[text != NO_TEXT].str.len().to_numpy(dtype=np.int64)
    missing = len(text) - len(characters)
    axes.set_title(f"Text: {len(characters) / len(text):.1%} of items have text")
    if not len(characters):
        axes.text(0.5, 0.5, f"none of {len(text):,} items", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    axes.hist(characters, bins=np.geomspace(1, max(2, characters.max()) + 1, 40).tolist(), color=BLUE)
    axes.set(xscale="log", xlabel="length of the text (characters)", ylabel="number of items")
    _count_ticks(axes)
    if missing:
        axes.text(0.04, 0.92, f"{missing:,} items without text", transform=axes.transAxes, color=RED, fontsize=9)


def _removed(axes: Axes, corpus: Corpus) -> None:
    """Draw the number of removed events and rows by reason."""
    rows = removed_by_reason(corpus.statistics)
    axes.set_title("Removed, by reason")
    if not rows:
        axes.text(0.5, 0.5, "no events were removed", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    axes.barh([_wrapped(name) for name, _ in rows][::-1], [max(count, 0.5) for _, count in rows][::-1], color=GRAY)
    axes.set(xscale="log", xlabel="number of events or rows of metadata", xlim=(0.5, 10 * max(count for _, count in rows)))
    for place, (_, count) in enumerate(rows[::-1]):
        axes.text(max(count, 0.5), place, f" {count:,}", va="center", fontsize=8)
    axes.tick_params(axis="y", labelsize=8)


def removed_by_reason(statistics: dict[str, Any]) -> list[tuple[str, int]]:
    """Return (reason, number of rows), the most frequent first; those after the first `MAX_REASONS` are summed up."""
    counts = {name: removed["interactions"] for name, removed in statistics["removed_by_filter"].items()}
    counts["exact repeats"] = statistics["repeated_events_dropped"]
    counts |= statistics["set_aside"]
    rows = sorted(((name, count) for name, count in counts.items() if count), key=lambda row: -row[1])
    others = rows[MAX_REASONS:]
    return rows[:MAX_REASONS] + ([(f"{len(others)} other reasons", sum(count for _, count in others))] if others else [])


def _wrapped(text: str, width: int = 22) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))
