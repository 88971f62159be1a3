"""The text report of a data set, printed by `genrec data`. `data_plots` draws the same figures."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
from numpy import ndarray

from genrec.data.corpus import Corpus
from genrec.data.corpus_statistics import order_of_ties, share_decided_by_ties
from genrec.data.feedback_statistics import feedback_lines, rating_lines
from genrec.data.splits import BEGIN, END, PARTS
from genrec.errors import counted
from genrec.types import NO_TEXT
from genrec.types.data import TIES_OF_EACH_SEED

QUANTILES = {"min": 0.0, "25th percentile": 0.25, "median": 0.5, "75th percentile": 0.75, "95th percentile": 0.95, "max": 1.0}
TIED_SHARE = 0.01  # share of tested users with a target that the order of rows decides above which the report warns
DAY = 86_400  # seconds
FIRST_DATE, LAST_DATE = 19_000_101, 21_001_231  # numbers in this range may be dates such as 20190301, not seconds


def lines(corpus: Corpus) -> Iterator[str]:
    """Yield the report: size, shape, times, parts, ratings, text, removed rows with their reasons, and warnings."""
    stats = corpus.statistics
    size = ", ".join(counted(stats[f"{noun}s"], noun) for noun in ("user", "item", "interaction"))
    yield f"{size}, density {stats['density']:.4%}"
    if stats["repeated_pairs"]:
        share = stats["repeated_pairs"] / stats["interactions"]
        yield f"repeats: {stats['repeated_pairs']:,} events ({share:.1%}) repeat an earlier pair of user and item"
    yield _distribution("events per user", corpus.bounds[:, END] - corpus.bounds[:, BEGIN])
    events = events_of_items(corpus)
    yield _distribution("events per item", events)
    top_1, top_20 = head_share(events, 0.01), head_share(events, 0.2)
    yield f"popularity: the top 1 % of items have {top_1:.1%} of the events, the top 20 % {top_20:.1%}"
    if stats["times_are_row_numbers"]:
        yield "no times: order of rows"
    else:
        yield f"times: {date(stats['first_time'])} to {date(stats['last_time'])} (UTC)"
        decided = f"they decide the target of {share_decided_by_ties(corpus):.1%} of the tested users"
        yield f"ties in time: {_order_of_ties(corpus)}; {decided}"
    parts = ", ".join(f"{name} {stats['parts'][name]:,}" for name in PARTS)
    yield f"events per part: {parts}; users tested: {stats['users_tested']:,}"
    yield from rating_lines(corpus)
    yield from feedback_lines(corpus)
    yield from _text(corpus)
    yield from _removed(corpus)
    yield from _warnings(corpus)


def events_of_items(corpus: Corpus) -> ndarray:
    """Return each item's number of events in all parts, int64 [N]."""
    return corpus.popularity(None)[1:]


def head_share(events: ndarray, share: float) -> float:
    """Return the share of all events that belong to the most popular `share` of the items, at least one item."""
    count = max(1, round(share * len(events)))
    return float(np.sort(events)[::-1][:count].sum() / events.sum())


def date(seconds: int, span: int = 10**9) -> str:
    """Format a time in seconds since 1970 as a date (UTC), or with the time of day for a span of at most 5 days, in seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d" if span > 5 * DAY else "%m-%d %H:%M")


def _distribution(name: str, counts: ndarray) -> str:
    values = np.quantile(counts, list(QUANTILES.values()), method="nearest").astype(int)
    quantiles = ", ".join(f"{label} {value:,}" for label, value in zip(QUANTILES, values, strict=True))
    return f"{name}: mean {counts.mean():.1f}, {quantiles}"


def _order_of_ties(corpus: Corpus) -> str:
    """Return the order of events with equal times, with its seed if each seed has one."""
    order = order_of_ties(corpus.statistics)
    return f"{order}, here that of seed {corpus.statistics['ties_seed']}" if order == TIES_OF_EACH_SEED else order


def _text(corpus: Corpus) -> Iterator[str]:
    stats, text = corpus.statistics, corpus.items["text"]
    characters = text[text != NO_TEXT].str.len()
    share = len(characters) / len(text)
    yield f"text: {share:.1%} of the items have text" + (f", median {characters.median():.0f} characters" if len(characters) else "")
    for name in ("items_without_metadata", "items_without_text", "metadata_without_events"):
        if stats[name]:
            note = " (items without events are not in the catalog)" if name == "metadata_without_events" else ""
            yield f"  {name.replace('_', ' ')}: {stats[name]:,}{note}"


def _removed(corpus: Corpus) -> Iterator[str]:
    stats = corpus.statistics
    for name, counts in stats["removed_by_filter"].items():
        yield f"removed by the filter {name!r}: " + ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    labels = {"repeated_events_dropped": "exact repeats dropped", "times_in_milliseconds": "times converted from milliseconds"}
    for key, label in labels.items():
        if stats[key]:
            yield f"{label}: {stats[key]:,}"
    for reason, count in stats["set_aside"].items():
        rows = corpus.set_aside[corpus.set_aside["reason"] == reason]
        where = f" (first in {rows['file'].iloc[0]}, line {rows['line'].iloc[0]})" if len(rows) else ""
        yield f"rows set aside, {reason}: {count:,}{where}"
    if not stats["set_aside"]:
        yield "rows set aside: 0"


def _warnings(corpus: Corpus) -> Iterator[str]:
    stats = corpus.statistics
    yield from (f"warning: {warning}" for warning in stats["warnings"])
    if stats["first_time"] >= FIRST_DATE and stats["last_time"] <= LAST_DATE and not stats["times_are_row_numbers"]:
        yield (
            f"warning: the times lie between {stats['first_time']} and {stats['last_time']}, in 1970; if they are dates, name their "
            'format: --source.time-format "%Y%m%d"'
        )
    if stats["times_are_row_numbers"]:
        yield "leakage: unknown without times"
        return
    tied = share_decided_by_ties(corpus)
    if tied > TIED_SHARE and "ties" not in stats:
        yield (
            f"warning: the order of rows decides which event of {tied:.1%} of the tested users is the target; other orders "
            "show how much it matters: --split.ties random-per-seed"
        )
    if not stats["leakage_share"]:
        yield "leakage: no training event is later than a test event"
    else:
        yield (
            f"leakage: {stats['leakage_share']:.1%} of the training events are later than the earliest test event, and on average "
            f"{stats['leakage_share_mean']:.1%} are later than a test event (0 % with GlobalTemporal)"
        )
