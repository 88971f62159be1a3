"""Building a corpus from a source's tables.

The path of an interaction, and the terms for it:

1. A source returns *tables* of *interactions* and of *items* (`RawTables`, or one after the other in a `RawStream`). Users and items
   have *ids*, which are text.
2. `normalization` converts a table to Arrow; `timestamps` removes interactions without a usable time.
3. `event_log.EventLog` appends the others as *events*. An event's *row* is its position in the source's order. Each id gets an
   *index*, a temporary integer from 0. Events that repeat another in user, item, time and rating are dropped (`Filters.repeats`).
4. `filtering` applies the split's filters to the log, then the k-core to a file of (user index, item index, row) (`k_core`).
5. The remaining users and items get a *number*, 1..U and 1..N, in the order of their first event. This is the integer that
   `Corpus`, batches and models use. Events are sorted by user number, time and row, or by user number, time and a seeded hash
   (`TieOrderingSplit`).
6. This module writes the sorted events as arrays and as a table, and the split divides each user's events into *parts*. `catalog`
   writes the items: an item without metadata or text gets a placeholder; metadata of other items are counted and dropped.
7. `corpus.Corpus` opens the result; `examples` gathers batches from it.

A step needs the complete result of the one before it: indices need all ids, the k-core needs all events, numbers need the k-core, and
the sort needs the numbers. The log is therefore read once for each step.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy import ndarray
from pandas import DataFrame

from genrec.data.array_files import ArrayWriter, open_array
from genrec.data.catalog import write_catalog
from genrec.data.corpus import Corpus
from genrec.data.corpus_statistics import statistics_of
from genrec.data.event_log import EventLog
from genrec.data.feedback import check_labels, feedback_of, labels_of
from genrec.data.feedback_statistics import events_after_liked, feedback_statistics
from genrec.data.filtering import apply_filters
from genrec.data.k_core import EventCounts
from genrec.data.normalization import normalize_interactions
from genrec.data.prefetch import prefetch
from genrec.data.readers.bad_rows import check_set_aside, count_reasons, empty_set_aside, set_aside_table
from genrec.data.split_contract import check_divided, events_before
from genrec.data.splits import PARTS, chunks, divide_users, tie_order_of
from genrec.data.timestamps import TimeNormalizer
from genrec.errors import InputError
from genrec.plugin_source import name_with_place
from genrec.progress import Progress, say
from genrec.store import write_json
from genrec.types import DividingSplit, FeedbackBounds, RawStream, RawTables, Split


def prepare(raw: RawTables | RawStream, split: Split, folder: Path | None = None, seed: int = 0) -> Corpus:
    """Filter, number, sort and split the interactions of a source, and write the corpus into the folder.

    Without a folder the corpus lies in a temporary one, which is deleted with the returned object. `seed` is the seed of the
    experiment, for a split with an order of ties for each seed.
    """
    _check_raw(raw)
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="genrec-corpus-"))
        try:
            corpus = prepare(raw, split, folder, seed)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(corpus, shutil.rmtree, folder, ignore_errors=True)
        return corpus
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        _build(raw, split, folder, work, seed)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Corpus.load(folder)


def _check_raw(raw: Any) -> None:
    """Raise InputError if a source returned something else than tables."""
    if not isinstance(raw, RawTables | RawStream):
        raise InputError(f"a source must return genrec.types.RawTables or RawStream, got {type(raw).__name__}")
    for name in ("interactions", "items"):
        kind = DataFrame if isinstance(raw, RawTables) else Iterator
        if not isinstance(getattr(raw, name), kind):
            raise InputError(f"a source's {name} must be a {kind.__name__}, got {type(getattr(raw, name)).__name__}")


def _build(raw: RawTables | RawStream, split: Split, folder: Path, work: Path, seed: int) -> None:
    order, feedback = tie_order_of(split), feedback_of(split)
    ties_seed = order.seed_of(seed)
    with EventLog(work) as log:
        times = _append_interactions(log, _tables(raw.interactions))
        filtered = apply_filters(log, split)
        log.assign_numbers(*filtered.events.first_rows())
        counts = filtered.events.counts
        ends = _write_events(log, folder, counts, ties_seed, feedback)
        if feedback is not None:
            check_labels(open_array(folder / "event_label.npy"), open_array(folder / "event_rating.npy"), feedback)
        bounds = _write_bounds(ends, split, folder, log)
        catalog_counts = write_catalog(log, _tables(raw.items), folder / "items.parquet")
        _write_user_ids(log, folder / "users.parquet")
    for warning in catalog_counts["warnings"]:
        say(f"warning: {warning}")
    set_aside = _write_set_aside(raw, times, folder / "set_aside.parquet")
    item, time = (open_array(folder / f"event_{name}.npy") for name in ("item", "time"))
    label = open_array(folder / "event_label.npy") if feedback is not None else None
    removed = filtered.removed
    if feedback is not None and feedback.ends_with_liked:
        removed = removed | events_after_liked(counts, item)
    statistics: dict[str, Any] = {
        **statistics_of(item, time, bounds, counts.num_items, label, "all" if feedback is None else feedback.histories),
        **catalog_counts,
        "repeated_events_dropped": filtered.repeats_dropped,
        "times_in_milliseconds": times.num_milliseconds,
        "times_are_row_numbers": times.are_row_numbers,
        "removed_by_filter": removed,
        "set_aside": count_reasons(set_aside),
    }
    if feedback is not None and label is not None:
        statistics |= {"feedback": feedback_statistics(label, bounds, feedback)}
    if ties_seed is not None:
        statistics |= {"ties": order.words, "ties_seed": ties_seed}
    write_json(folder / "stats.json", statistics)


def _tables(tables: Any) -> Iterable[Any]:
    """Return an iterable of tables, from one table or several."""
    return [tables] if isinstance(tables, DataFrame) else tables


def _append_interactions(log: EventLog, tables: Iterable[Any]) -> TimeNormalizer:
    """Append all interactions with a usable time to the log."""
    times = TimeNormalizer()
    with Progress("reading events", None) as progress:
        for table in prefetch(tables):
            interactions = normalize_interactions(table)
            normalized = times.normalize(interactions.time)
            events = interactions.table
            if not normalized.usable.all():
                events = events.filter(pa.array(normalized.usable))
            log.append(events.append_column("time_ms", pa.array(normalized.time_ms)))
            progress.advance(len(interactions.time), "events")
    if not times.num_rows:
        raise InputError("the source read no interactions")
    times.check()
    return times


def _write_events(log: EventLog, folder: Path, counts: EventCounts, ties_seed: int | None, feedback: FeedbackBounds | None) -> ndarray:
    """Write the sorted events as arrays and as a table; return where each user's events end, int64 [U]."""
    types: dict[str, type[np.generic]] = {"item": np.int32, "time": np.int64}
    if log.has_ratings:
        types["rating"] = np.float64
    columns = ["user", *types]
    schema = pa.schema([(name, pa.float64() if name == "rating" else pa.int64()) for name in columns])
    lengths = np.zeros(counts.num_users, dtype=np.int64)
    batches = log.sorted_events(ties_seed, feedback.liked if feedback is not None and feedback.ends_with_liked else None)
    first = list(islice(batches, 1))  # waits for the sort, before the progress bar begins
    with ExitStack() as stack, Progress("writing events", counts.total) as progress:
        arrays = {name: stack.enter_context(ArrayWriter(folder / f"event_{name}.npy", dtype)) for name, dtype in types.items()}
        table = stack.enter_context(_event_table_writer(folder / "interactions.parquet", schema))
        labels = None if feedback is None else stack.enter_context(ArrayWriter(folder / "event_label.npy", np.int8))
        for batch in chain(first, batches):
            for name, array in arrays.items():
                array.append(batch.column(name).to_numpy(zero_copy_only=False))
            if feedback is not None and labels is not None:
                labels.append(labels_of(batch.column("rating").to_numpy(zero_copy_only=False), feedback))
            table.write_table(pa.Table.from_batches([batch]).select(columns).cast(schema))
            users = batch.column("user").to_numpy()
            lengths[users[0] - 1 : users[-1]] += np.bincount(users - users[0])
            progress.advance(len(batch), "events")
    return lengths.cumsum()


def _event_table_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a writer with delta encoding: it takes half the time and space of compression, because neighbors are similar."""
    encodings = {name: "DELTA_BINARY_PACKED" for name in schema.names if name != "rating"}
    return pq.ParquetWriter(path, schema, compression="none", use_dictionary=["rating"], column_encoding=encodings)


def _write_bounds(ends: ndarray, split: Split, folder: Path, log: EventLog) -> ndarray:
    """Write and return where each user's events, validation and test begin, and where they end, int64 [U, 4]."""
    begins = np.append(0, ends[:-1])
    label = open_array(folder / "event_label.npy") if (folder / "event_label.npy").exists() else None
    if isinstance(split, DividingSplit):
        divided = divide_users(split, begins, ends, open_array(folder / "event_time.npy"), label)
        check_divided(split, divided, begins, ends, partial(_user_id, log))
    else:
        frame = _events_with_ids(log, folder)
        frame = frame if label is None else frame.assign(label=np.array(label))
        user_ids, users = frame["user_id"].to_numpy(), frame["user"].to_numpy(copy=True)
        divided = begins[:, None] + events_before(split, split.assign(frame), users, user_ids)
    bounds = np.concatenate([begins[:, None], divided, ends[:, None]], axis=1).astype(np.int64)
    _check_parts(bounds, split)
    np.save(folder / "bounds.npy", bounds, allow_pickle=False)
    _write_parts(bounds, folder / "split.parquet")
    return bounds


def _events_with_ids(log: EventLog, folder: Path) -> DataFrame:
    """Return the events in memory for `Split.assign`: numbers, times and ratings, and the ids of the source as text."""
    frame = pd.read_parquet(folder / "interactions.parquet")
    for kind in ("user", "item"):
        ids = pa.Table.from_batches(list(log.ids(kind))).column(0).to_pandas()
        frame[f"{kind}_id"] = ids.take(frame[kind].to_numpy() - 1).reset_index(drop=True)
    return frame


def _user_id(log: EventLog, number: int) -> str:
    """Return the id of the user with this number, 1..U."""
    return str(pa.Table.from_batches(list(log.ids("user"))).column(0)[number - 1])


def _check_parts(bounds: ndarray, split: Split) -> None:
    """Raise InputError if a part has no interaction."""
    for name, count in zip(PARTS, np.diff(bounds, axis=1).sum(0).tolist(), strict=True):
        if not count:
            raise InputError(
                f"{name_with_place(type(split))} leaves no interaction for the part {name!r}; use more data, another split, or other "
                "moments or shares (--split.test-from, --split.test-share, ...)"
            )


def _write_parts(bounds: ndarray, path: Path) -> None:
    """Write the part of every event as a table of one text column."""
    schema = pa.schema([("part", pa.dictionary(pa.int8(), pa.string()))])
    with pq.ParquetWriter(path, schema, store_schema=False) as writer:  # with the schema pandas would read categories
        for _, parts in chunks(bounds):
            writer.write_table(pa.table([pa.DictionaryArray.from_arrays(parts, list(PARTS))], schema=schema))


def _write_user_ids(log: EventLog, path: Path) -> None:
    with pq.ParquetWriter(path, pa.schema([("user_id", pa.string())])) as writer:
        for batch in log.ids("user"):
            writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, ["user_id"]))


def _write_set_aside(raw: RawTables | RawStream, times: TimeNormalizer, path: Path) -> DataFrame:
    """Write and return the rows that the source and the time normalizer set aside."""
    from_source = check_set_aside(raw.set_aside() if callable(raw.set_aside) else raw.set_aside)
    frames = [frame for frame in (from_source, set_aside_table([times.bad_rows])) if frame is not None and len(frame)]
    set_aside = pd.concat(frames or [empty_set_aside()], ignore_index=True)
    set_aside.to_parquet(path, index=False)
    return set_aside
