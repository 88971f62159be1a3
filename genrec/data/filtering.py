"""Filtering of the event log: applies a split's filters one after the other and counts how many events each removed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pandas import DataFrame

from genrec.data.event_filters import Filters
from genrec.data.event_log import EVENTS, EventLog
from genrec.data.feedback import feedback_of, users_filter
from genrec.data.k_core import EventCounts, IndexedEvents, k_core
from genrec.data.normalization import normalize_interactions
from genrec.errors import InputError, counted
from genrec.plugin_source import name_with_place
from genrec.types import FeedbackBounds, FilteringSplit, KeepingSplit, Split

Removed = dict[str, dict[str, int]]  # name of a filter -> number of interactions, users and items that it removed


class FilteredEvents(NamedTuple):
    """The events that passed all filters."""

    events: IndexedEvents
    removed: Removed
    repeats_dropped: int  # repeated events that were dropped before the first filter


def apply_filters(log: EventLog, split: Split) -> FilteredEvents:
    """Index the users and items of the log, then apply the split's filters.

    Raises InputError if the split labels events and the data set has no ratings.
    """
    filters = split.filters() if isinstance(split, FilteringSplit) else Filters(core=0)
    if not isinstance(filters, Filters):
        raise InputError(
            f"{name_with_place(type(split))}: filters must return genrec.data.event_filters.Filters, got {type(filters).__name__}"
        )
    log.index_ids(filters.repeats)
    events, removed = log.indexed_events(), Removed()
    repeats_dropped = log.num_appended - events.counts.total
    for name, query in log.filter_queries(filters):
        before = events.counts
        log.keep(query)
        events = log.indexed_events()
        _record(name, before, events.counts, removed)
    if isinstance(split, KeepingSplit):
        before = events.counts
        _apply_keep(log, split)
        events = log.indexed_events()
        _record("keep", before, events.counts, removed)
    users, items = filters.cores
    if max(users, items) > 1:
        before = events.counts
        k_core(events, users, items)
        _record(filters.core_name, before, events.counts, removed)
    if filters.min_events > 1:
        before = events.counts
        k_core(events, max(users, filters.min_events), items)  # removing users must not break the core of the items
        _record(f"users with {filters.min_events} events or more", before, events.counts, removed)
    feedback = feedback_of(split)
    if feedback is not None and not log.has_ratings:
        raise InputError(f"split.liked = {feedback.liked:g} needs ratings, but the data set has none; leave --split.liked None")
    if feedback is not None and feedback.min_liked:
        before = events.counts
        _keep_users_with_liked(log, events, feedback, max(users, filters.min_events), items)
        _record(users_filter(feedback), before, events.counts, removed)
    return FilteredEvents(events, removed, repeats_dropped)


def _keep_users_with_liked(log: EventLog, events: IndexedEvents, feedback: FeedbackBounds, min_user: int, min_item: int) -> None:
    """Reduce the events to the largest subset in which every user has enough liked ones, and the cores hold."""
    every_item = np.ones(len(events.kept_items), dtype=bool)
    while True:
        enough = log.count_rated(feedback.liked, events.kept_items & (events.counts.items > 0)) >= feedback.min_liked
        if not ((events.counts.users > 0) & ~enough).any():
            return
        events.keep(enough, every_item)
        k_core(events, min_user, min_item)


def _record(name: str, before: EventCounts, after: EventCounts, removed: Removed) -> None:
    """Record how much a filter removed; raise InputError if it removed everything."""
    if not after.total:
        raise InputError(
            f"nothing is left after the filter {name!r}: it removed all {counted(before.total, 'interaction')} of "
            f"{counted(before.num_users, 'user')} and {counted(before.num_items, 'item')}; {_advice(name)}"
        )
    removed[name] = before.removed(after)


def _advice(name: str) -> str:
    """Return what to change if a filter removed everything."""
    flags = {
        "users with 2 liked": "--split.liked",
        "rating": "--split.min-rating",
        "events from": "--split.since",
        "events before": "--split.until",
        "users with": "",
    }
    flag = next((flag for prefix, flag in flags.items() if name.startswith(prefix)), "--split.core, --split.item-core")
    if not flag:
        return "every user needs a training event beside those held out; use more data"
    return f"loosen it ({flag}), or use more data"


def _apply_keep(log: EventLog, split: KeepingSplit) -> None:
    """Replace the events by those that the split's `keep` returns. All events are in memory."""
    frame = log.to_table().to_pandas()
    frame.insert(2, "time", frame["time_ms"] // 1000)
    kept = split.keep(frame if frame["rating"].notna().any() else frame.drop(columns="rating"))
    if not isinstance(kept, DataFrame):
        raise InputError(
            f"{name_with_place(type(split))}: keep must return a DataFrame of the rows to keep, got {type(kept).__name__}"
        )
    absent = {"user", "item", "time", "time_ms"} - set(kept.columns)
    if absent:
        raise InputError(f"{name_with_place(type(split))}: keep must return all columns unchanged; {sorted(absent)[0]!r} is missing")
    events = normalize_interactions(kept).table.append_column("time_ms", pa.array(kept["time_ms"].to_numpy(np.int64)))
    log.replace(events.select(EVENTS.names))
