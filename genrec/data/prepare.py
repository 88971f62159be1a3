"""Stage 1: raw tables and a split's specification -> a corpus.

Order of work: times (see `times`), exact repeats, the split's filters, numbers, sort, parts, the catalogue's text, statistics.

Policies. An event that repeats another in user, item, time and rating is dropped and counted; one that repeats only user and item
stays. Users are numbered 1..U and items 1..N in the order in which they first appear in the file. An item without metadata, or whose
text is empty, gets a placeholder and is counted; metadata of items that nobody took are left out and counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray
from pandas import DataFrame, Series

from genrec.data.corpus import Corpus
from genrec.data.sources.ledger import empty
from genrec.data.splits import PARTS, Filtering, not_empty
from genrec.data.statistics import removed, statistics_of
from genrec.data.times import settle_times
from genrec.errors import InputError
from genrec.types import RawTables, Split

NO_TEXT = "item without description"  # the same for all: vectors must not tell apart what nothing is known of


def prepare(raw: RawTables, split: Split) -> Corpus:
    """Filter, number, sort and split the interactions; give every item a text."""
    _check(raw)
    columns = [name for name in ("user", "item", "time", "rating") if name in raw.interactions]
    timed = settle_times(raw.interactions[columns].reset_index(drop=True))
    first = ~timed.interactions.assign(time=timed.order).duplicated().to_numpy()
    events = timed.interactions[first].assign(order=timed.order[first])
    kept, filtered = _filter(events, split)
    users, items = pd.factorize(kept["user"]), pd.factorize(kept["item"])
    numbered = kept.assign(user=users[0] + 1, item=items[0] + 1).sort_values(["user", "order"], kind="stable", ignore_index=True)
    interactions = numbered.drop(columns="order")
    interactions["part"] = _parts(interactions, split)
    catalogue, without = _catalogue(raw.items, Series(items[1], dtype=str))
    set_aside = pd.concat([frame for frame in (raw.set_aside, timed.set_aside) if frame is not None and len(frame)] or [empty()])
    statistics: dict[str, Any] = {
        **statistics_of(interactions, len(users[1]), len(items[1])),
        **without,
        "repeated_events_dropped": int((~first).sum()),
        "times_in_milliseconds": timed.milliseconds,
        "removed_by_filter": filtered,
        "set_aside": {str(reason): int(count) for reason, count in set_aside["reason"].value_counts().items()},
    }
    return Corpus(interactions, catalogue, np.array(users[1], dtype=object), statistics, set_aside.reset_index(drop=True))


def _check(raw: RawTables) -> None:
    """What a source owes."""
    for name, frame, required in (
        ("interactions", raw.interactions, ("user", "item", "time")),
        ("items", raw.items, ("item", "text")),
    ):
        absent = [column for column in required if column not in frame]
        if absent:
            raise InputError(f"the source's {name} have no column {absent[0]!r}, only {', '.join(map(str, frame.columns))}")
        for column in set(required) - {"time", "text"}:
            if not frame[column].map(lambda value: isinstance(value, str)).all():
                raise InputError(f"the source's {name} must have text in column {column!r}; ids are text, unchanged")
    if not len(raw.interactions):
        raise InputError("the source read no interactions")
    repeated = raw.items["item"].duplicated()
    if repeated.any():
        raise InputError(f"the source lists item {raw.items['item'][repeated].iloc[0]!r} twice; expected one row an item")


def _filter(events: DataFrame, split: Split) -> tuple[DataFrame, dict[str, dict[str, int]]]:
    """What the split keeps, and what each of its filters removed."""
    filters = split.filters() if isinstance(split, Filtering) else [("keep", split.keep)]
    counts: dict[str, dict[str, int]] = {}
    for name, keep in filters:
        before, events = events, keep(events)
        not_empty(events, before, name)
        counts[name] = removed(before, events)
    return events, counts


def _parts(interactions: DataFrame, split: Split) -> ndarray:
    """The part of every row; a user's parts must follow each other in time."""
    parts = np.asarray(split.assign(interactions), dtype=object)
    if parts.shape != (len(interactions),):
        raise InputError(f"{type(split).__name__}.assign must give a part for each of {len(interactions)} rows, got {parts.shape}")
    counts = {name: int((parts == name).sum()) for name in PARTS}
    if sum(counts.values()) != len(parts):
        raise InputError(f"{type(split).__name__}.assign must give only {', '.join(PARTS)}, got {sorted(set(map(str, parts)))[:5]}")
    for name, count in counts.items():
        if not count:
            raise InputError(f"{type(split).__name__} leaves no interaction for the part {name!r}; use more data, or another split")
    place = np.select([parts == "train", parts == "validation"], [0, 1], 2)
    same = np.diff(interactions["user"].to_numpy()) == 0
    if (same & (np.diff(place) < 0)).any():
        raise InputError(f"{type(split).__name__}.assign gives a user's later event to an earlier part; expected {', '.join(PARTS)}")
    return parts


def _catalogue(items: DataFrame, ids: Series[str]) -> tuple[DataFrame, dict[str, int]]:
    """The items in the order of their numbers, and counts of what they lack."""
    listed = items.set_index("item").reindex(ids)
    unlisted = ~ids.isin(items["item"]).to_numpy()
    columns = {str(name): _text(listed[name]) for name in items.columns if name != "item"}
    silent = np.array([not text.strip() for text in columns["text"]], dtype=bool)
    columns["text"] = np.where(silent, NO_TEXT, columns["text"])
    counts = {
        "items_without_metadata": int(unlisted.sum()),
        "items_without_text": int((silent & ~unlisted).sum()),
        "metadata_without_events": int((~items["item"].isin(ids)).sum()),
    }
    return DataFrame({"item_id": ids.to_numpy(dtype=object), **columns}), counts


def _text(column: Series[Any]) -> ndarray:
    """A column as str, "" where it is missing."""
    return column.astype(object).where(column.notna(), "").astype(str).to_numpy(dtype=object)
