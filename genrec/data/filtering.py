"""Stage 1, what a split keeps: its filters carried out on the log, one by one, with what each removed.

In: a log of all events. Out: the codes of those that are kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from genrec.data.event_filters import Filters
from genrec.data.event_log import EVENTS, Log
from genrec.data.k_core import Counts, Pairs, k_core
from genrec.data.normalization import event_piece
from genrec.errors import InputError
from genrec.types import FilteringSplit, KeepingSplit, Split

Removed = dict[str, dict[str, int]]  # a filter's name -> interactions, users, items


class Kept(NamedTuple):
    """What the filters left."""

    pairs: Pairs
    removed: Removed
    repeats: int  # exact repeats that were dropped before


def keep(log: Log, split: Split) -> Kept:
    """Number the log's users and items, and carry out the split's filters."""
    filters: Filters = split.filters() if isinstance(split, FilteringSplit) else Filters(core=0)
    log.number(filters.repeats)
    pairs, removed = log.pairs(), Removed()
    repeats = log.appended - pairs.counts.events
    for name, query in log.selections(filters):
        log.select(query)
        pairs = _narrowed(pairs, log.pairs(), name, removed)
    if isinstance(split, KeepingSplit):
        _keep_by_hand(log, split)
        pairs = _narrowed(pairs, log.pairs(), "keep", removed)
    before = pairs.counts
    if max(filters.cores) > 1:
        k_core(pairs, *filters.cores)
        _note(before, pairs.counts, filters.core_name, removed)
        before = pairs.counts
    if filters.min_events > 1:
        users, items = filters.cores
        k_core(pairs, max(users, filters.min_events), items)  # the items' core holds afterwards too
        _note(before, pairs.counts, f"users with {filters.min_events} events or more", removed)
    return Kept(pairs, removed, repeats)


def _narrowed(before: Pairs, after: Pairs, name: str, removed: Removed) -> Pairs:
    _note(before.counts, after.counts, name, removed)
    return after


def _note(before: Counts, after: Counts, name: str, removed: Removed) -> None:
    """Note what a filter removed, or refuse that it removed everything."""
    if not after.events:
        raise InputError(
            f"nothing is left after the filter {name!r}: it removed all {before.events} interactions of "
            f"{np.count_nonzero(before.users)} users and {np.count_nonzero(before.items)} items; {_advice(name)}"
        )
    removed[name] = before.removed(after)


def _advice(name: str) -> str:
    """What to try where a filter removed everything."""
    flags = {"rating": "--split.min-rating", "events from": "--split.since", "events before": "--split.until", "users with": ""}
    flag = next((flag for word, flag in flags.items() if name.startswith(word)), "--split.core, --split.item-core")
    return f"loosen it ({flag}), or use more data" if flag else "use more data: a user needs an event of each part"


def _keep_by_hand(log: Log, split: KeepingSplit) -> None:
    """Let a split of one's own choose among the events, in memory."""
    frame = log.named().to_pandas()
    frame.insert(2, "time", frame["moment"] // 1000)
    kept = split.keep(frame if frame["rating"].notna().any() else frame.drop(columns="rating"))
    absent = {"user", "item", "time", "moment"} - set(kept.columns)
    if absent:
        raise InputError(f"{type(split).__name__}.keep must leave all columns as they were; {sorted(absent)[0]!r} is gone")
    events = event_piece(kept).table.append_column("moment", pa.array(kept["moment"].to_numpy(np.int64)))
    log.replace(events.select(EVENTS.names))
