"""Stage 1, the data set's report for people. In: a corpus. Out: lines of text; `picture` draws the same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
from numpy import ndarray

from genrec.data.corpus import Corpus
from genrec.data.splits import BEGIN, END, PARTS
from genrec.types import NO_TEXT

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)


def lines(corpus: Corpus) -> Iterator[str]:
    """The report: size, shape, times, parts, text, what was removed and why, and what to beware of."""
    said = corpus.statistics
    yield f"{said['users']:,} users, {said['items']:,} items, {said['interactions']:,} interactions, density {said['density']:.4%}"
    yield from _spread("events per user", corpus.bounds[:, END] - corpus.bounds[:, BEGIN])
    events = events_of_items(corpus)
    yield from _spread("events per item", events)
    yield f"the most popular 1 % of items have {head_share(events, 0.01):.1%} of the events, 20 % have {head_share(events, 0.2):.1%}"
    yield f"times from {date(said['first_time'])} to {date(said['last_time'])}"
    parts = ", ".join(f"{name} {said['parts'][name]:,}" for name in PARTS)
    yield f"parts: {parts}; users tested: {said['users_tested']:,}"
    yield from _text(corpus)
    yield from _removed(corpus)
    yield from _cautions(corpus)


def events_of_items(corpus: Corpus) -> ndarray:
    """Events of each item over all parts, int64 [N]."""
    return corpus.popularity(None)[1:]


def head_share(events: ndarray, share: float) -> float:
    """The share of all events that the most popular `share` of the items has (at least one item)."""
    count = max(1, round(share * len(events)))
    return float(np.sort(events)[::-1][:count].sum() / events.sum())


def date(seconds: int, span: int = 10**9) -> str:
    """A time as a day, UTC; with the time of day where the whole span, in seconds, is short."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d" if span > 5 * 86_400 else "%m-%d %H:%M")


def _spread(name: str, counts: ndarray) -> Iterator[str]:
    values = np.quantile(counts, QUANTILES, method="nearest").astype(int)
    words = ("least", "25 %", "median", "75 %", "95 %", "most")
    yield f"{name}: mean {counts.mean():.1f}; " + ", ".join(f"{word} {value:,}" for word, value in zip(words, values, strict=True))


def _text(corpus: Corpus) -> Iterator[str]:
    said, text = corpus.statistics, corpus.items["text"]
    characters = text[text != NO_TEXT].str.len()
    share = len(characters) / len(text)
    yield f"text: {share:.1%} of the items have one" + (f", median {characters.median():.0f} characters" if len(characters) else "")
    for name in ("items_without_metadata", "items_without_text", "metadata_without_events"):
        if said[name]:
            yield f"  {name.replace('_', ' ')}: {said[name]:,}"


def _removed(corpus: Corpus) -> Iterator[str]:
    said = corpus.statistics
    for name, counts in said["removed_by_filter"].items():
        yield f"removed by the filter {name!r}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items())
    noted = {"repeated_events_dropped": "exact repeats dropped", "times_in_milliseconds": "times in milliseconds, converted"}
    for key, word in noted.items():
        if said[key]:
            yield f"{word}: {said[key]:,}"
    for reason, count in said["set_aside"].items():
        rows = corpus.set_aside[corpus.set_aside["reason"] == reason]
        where = f" (first in {rows['file'].iloc[0]}, line {rows['line'].iloc[0]})" if len(rows) else ""
        yield f"set aside, {reason}: {count:,}{where}"
    if not said["set_aside"]:
        yield "no row was set aside"


def _cautions(corpus: Corpus) -> Iterator[str]:
    said = corpus.statistics
    if said["share_of_users_with_tied_last_events"] > 0.01:
        yield (
            f"beware: for {said['share_of_users_with_tied_last_events']:.1%} of the users the last two events have one time, and the "
            "order of rows decides what is held out"
        )
    if not said["leakage_share"]:
        yield "leakage: no training event is later than a test event"
    else:
        yield (
            f"leakage: {said['leakage_share']:.1%} of the training events are later than the earliest test event, and "
            f"{said['leakage_share_mean']:.1%} are later than the average one (a global temporal split has none)"
        )
