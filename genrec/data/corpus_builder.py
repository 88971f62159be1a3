"""Stage 1: a source's tables, whole or in pieces, and a split's specification -> a corpus on the disk.

Order of work: times (see `times`), exact repeats, the split's filters (`keep`), numbers, sort, parts, the catalog's text,
statistics. The log of events lies in DuckDB (`log`), so that none of it need fit into memory.

Policies. An event that repeats another in user, item, time and rating is dropped and counted (`Filters.repeats`); one that repeats
only user and item stays. Users are numbered 1..U and items 1..N in the order in which they first appear among the events that are
kept. An item without metadata, or whose text is empty, gets a placeholder and is counted; metadata of items that nobody took are
left out and counted.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
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
from genrec.data.catalog import save_items
from genrec.data.corpus import Corpus
from genrec.data.corpus_statistics import statistics_of
from genrec.data.event_log import Log
from genrec.data.filtering import keep
from genrec.data.k_core import Counts
from genrec.data.normalization import event_piece
from genrec.data.prefetch import ahead
from genrec.data.readers.bad_rows import check_set_aside, count_reasons, empty_set_aside, set_aside_table
from genrec.data.splits import PARTS, chunks
from genrec.data.timestamps import Times
from genrec.errors import InputError
from genrec.progress import Progress
from genrec.store import write_json
from genrec.types import DividingSplit, RawStream, RawTables, Split


def prepare(raw: RawTables | RawStream, split: Split, folder: Path | None = None) -> Corpus:
    """Filter, number, sort and split the interactions, give every item a text, and write all of it into the folder.

    Without a folder the corpus lies in a temporary one that goes with it.
    """
    _check(raw)
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="genrec-corpus-"))
        try:
            corpus = prepare(raw, split, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(corpus, shutil.rmtree, folder, ignore_errors=True)
        return corpus
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        _write(raw, split, folder, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Corpus.load(folder)


def _check(raw: Any) -> None:
    """Refuse what is no answer of a source."""
    if not isinstance(raw, RawTables | RawStream):
        raise InputError(f"a source must give genrec.types.RawTables or RawStream, got {type(raw).__name__}")
    for name in ("interactions", "items"):
        kind = DataFrame if isinstance(raw, RawTables) else Iterator
        if not isinstance(getattr(raw, name), kind):
            raise InputError(f"a source's {name} must be a {kind.__name__}, got {type(getattr(raw, name)).__name__}")


def _write(raw: RawTables | RawStream, split: Split, folder: Path, work: Path) -> None:
    with Log(work) as log:
        times = _read(log, raw)
        kept = keep(log, split)
        log.renumber(*kept.pairs.first_rows())
        ends = _write_events(log, folder, kept.pairs.counts)
        bounds = _bounds(ends, split, folder)
        about_items = save_items(log, _pieces(raw.items), folder / "items.parquet")
        _write_names(log, folder / "users.parquet")
    set_aside = check_set_aside(raw.set_aside() if callable(raw.set_aside) else raw.set_aside)
    frames = [frame for frame in (set_aside, set_aside_table([times.ledger])) if frame is not None and len(frame)]
    set_aside = pd.concat(frames or [empty_set_aside()], ignore_index=True)
    set_aside.to_parquet(folder / "set_aside.parquet", index=False)
    statistics: dict[str, Any] = {
        **statistics_of(open_array(folder / "event_time.npy"), bounds, int(np.count_nonzero(kept.pairs.counts.items))),
        **about_items,
        "repeated_events_dropped": kept.repeats,
        "times_in_milliseconds": times.milliseconds,
        "removed_by_filter": kept.removed,
        "set_aside": count_reasons(set_aside),
    }
    write_json(folder / "stats.json", statistics)


def _pieces(tables: Any) -> Iterable[Any]:
    return [tables] if isinstance(tables, DataFrame) else tables


def _read(log: Log, raw: RawTables | RawStream) -> Times:
    """Append all events that have a usable time."""
    times = Times()
    with Progress("reading events", None) as progress:
        for piece in ahead(_pieces(raw.interactions)):
            events = event_piece(piece)
            settled = times.settle(events.time)
            rows = events.table if settled.good.all() else events.table.filter(pa.array(settled.good))
            log.append(rows.append_column("moment", pa.array(settled.moment)))
            progress.advance(len(events.time), "events")
    if not times.rows:
        raise InputError("the source read no interactions")
    times.check()
    return times


def _write_events(log: Log, folder: Path, kept: Counts) -> ndarray:
    """The sorted events as arrays and as a table; returns where each user's events end, int64 [U]."""
    types: dict[str, type[np.generic]] = {"item": np.int32, "time": np.int64}
    if log.has_ratings:
        types["rating"] = np.float64
    columns = ["user", *types]
    schema = pa.schema([(name, pa.float64() if name == "rating" else pa.int64()) for name in columns])
    counts = np.zeros(np.count_nonzero(kept.users), dtype=np.int64)
    batches = log.sorted_events()
    first = list(islice(batches, 1))  # comes when the sort is done
    with ExitStack() as stack, Progress("writing events", kept.events) as progress:
        writers = {name: stack.enter_context(ArrayWriter(folder / f"event_{name}.npy", kind)) for name, kind in types.items()}
        tables = stack.enter_context(_table_writer(folder / "interactions.parquet", schema))
        for batch in chain(first, batches):
            for name, writer in writers.items():
                writer.append(batch.column(name).to_numpy(zero_copy_only=False))
            tables.write_table(pa.Table.from_batches([batch]).select(columns).cast(schema))
            users = batch.column("user").to_numpy()
            counts[users[0] - 1 : users[-1]] += np.bincount(users - users[0])
            progress.advance(len(batch), "events")
    return counts.cumsum()


def _table_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Differences between neighbors are small: packing them takes half the time and the space of compressing."""
    packed = {name: "DELTA_BINARY_PACKED" for name in schema.names if name != "rating"}
    return pq.ParquetWriter(path, schema, compression="none", use_dictionary=["rating"], column_encoding=packed)


def _bounds(ends: ndarray, split: Split, folder: Path) -> ndarray:
    """Where each user's events, validation, test begin, and where they end, int64 [U, 4]; written, with the split's table."""
    begins = np.append(0, ends[:-1])
    if isinstance(split, DividingSplit):
        divided = split.divide(begins, ends, open_array(folder / "event_time.npy"))
    else:
        frame = pd.read_parquet(folder / "interactions.parquet")
        divided = begins[:, None] + _counted(np.asarray(split.assign(frame), dtype=object), frame["user"].to_numpy(), type(split))
    bounds = np.concatenate([begins[:, None], divided, ends[:, None]], axis=1).astype(np.int64)
    _check_bounds(bounds, type(split).__name__)
    np.save(folder / "bounds.npy", bounds, allow_pickle=False)
    _write_parts(bounds, folder / "split.parquet")
    return bounds


def _counted(parts: ndarray, users: ndarray, split: type) -> ndarray:
    """The part of every row as text -> each user's events before validation, and before the test, int64 [U, 2]."""
    if parts.shape != (len(users),):
        raise InputError(f"{split.__name__}.assign must give a part for each of {len(users)} rows, got {parts.shape}")
    unknown = set(map(str, parts)) - set(PARTS)
    if unknown:
        raise InputError(f"{split.__name__}.assign must give only {', '.join(PARTS)}, got {sorted(unknown)[:5]}")
    place = np.select([parts == "train", parts == "validation"], [0, 1], 2)
    backwards = np.flatnonzero((np.diff(users) == 0) & (np.diff(place) < 0))
    if len(backwards):
        row = int(backwards[0])
        raise InputError(
            f"{split.__name__} gives user {users[row]} a later event to an earlier part ({parts[row]}, then {parts[row + 1]}); the "
            "parts of a user follow each other: train, validation, test"
        )
    return np.stack([np.bincount(users[place < number], minlength=users.max() + 1)[1:] for number in (1, 2)], axis=1)


def _check_bounds(bounds: ndarray, split: str) -> None:
    sizes = np.diff(bounds, axis=1)
    advice = "use more data, another split, or other moments or shares of this one (--split.test-from, --split.test-share, ...)"
    if (sizes < 0).any():
        user = int((sizes < 0).any(1).argmax())
        found = bounds[user].tolist()
        raise InputError(f"{split}.divide gives user {user + 1} the bounds {found}; expected begin <= validation <= test <= end")
    for name, count in zip(PARTS, sizes.sum(0).tolist(), strict=True):
        if not count:
            raise InputError(f"{split} leaves no interaction for the part {name!r}; {advice}")


def _write_parts(bounds: ndarray, path: Path) -> None:
    """The part of every row, as a table of one text column."""
    schema = pa.schema([("part", pa.dictionary(pa.int8(), pa.string()))])
    with pq.ParquetWriter(path, schema, store_schema=False) as writer:  # else the column comes back as categories
        for _, parts in chunks(bounds):
            writer.write_table(pa.table([pa.DictionaryArray.from_arrays(parts, list(PARTS))], schema=schema))


def _write_names(log: Log, path: Path) -> None:
    with pq.ParquetWriter(path, pa.schema([("user_id", pa.string())])) as writer:
        for batch in log.names("user"):
            writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, ["user_id"]))
