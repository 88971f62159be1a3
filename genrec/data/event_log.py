"""The event log: all events of a data set in DuckDB, which may be larger than memory. No other file imports DuckDB.

DuckDB holds its tables in memory up to a limit, GENREC_MEMORY (such as "4GB"), and beyond it in temporary files in the work folder.
`corpus_builder` defines the terms id, index, number and row. Results depend on the events and their order alone: all sort keys are
unique, and users and items are numbered by first appearance.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy import ndarray

from genrec.data import event_queries
from genrec.data.event_filters import Filters, Repeats
from genrec.data.k_core import FIELDS, NO_ROW, EventChunk, IndexedEvents
from genrec.errors import InputError, ResourceError, UsageError
from genrec.progress import say

if TYPE_CHECKING:
    import duckdb

MEMORY = "512MB"  # default memory limit of DuckDB; the whole process needs about twice as much
LARGE = 5_000_000  # events from which on slow queries are reported
INSERTED = 500_000  # events inserted with one query, at least
EVENTS = pa.schema([("user", pa.string()), ("item", pa.string()), ("time_ms", pa.int64()), ("rating", pa.float64())])


class EventLog:
    """A context manager of one log. Call `append` for every table, `index_ids`, filters, `assign_numbers`, `sorted_events`."""

    def __init__(self, work: Path) -> None:
        self.connection = _connect(work)
        self.work = work
        self.num_appended = 0
        self.metadata_columns: list[str] = []  # of the items, without the id
        self._waiting: list[pa.Table] = []
        self._run(
            "CREATE TEMP TABLE raw (user_id VARCHAR, item_id VARCHAR, time_ms BIGINT, rating DOUBLE)",
            "CREATE TEMP TABLE listed (item_id VARCHAR)",
        )

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.connection.close()

    def append(self, events: pa.Table) -> None:
        """Append events with the columns of `EVENTS`, in any order."""
        self._waiting.append(events)
        self.num_appended += len(events)
        if sum(map(len, self._waiting)) >= INSERTED:
            self._insert()

    def _insert(self) -> None:
        if self._waiting:
            joined = pa.concat_tables(self._waiting, promote_options="permissive")  # ids may have different Arrow types
            self.connection.register("appended", joined)
            self._run('INSERT INTO raw SELECT "user", item, time_ms, rating FROM appended')
            self.connection.unregister("appended")
            self._waiting.clear()

    def index_ids(self, repeats: Repeats) -> None:
        """Give users and items an index, and drop exact repeats.

        The first of equal events stays; for "last" the last one, for "keep" all.
        """
        self._insert()
        self._report("indexing users and items")
        row = {"keep": "raw.rowid", "last": "max(raw.rowid)"}.get(repeats, "min(raw.rowid)")
        self._run(
            *(
                f"CREATE TEMP TABLE {kind}s AS SELECT {kind}_id, (row_number() OVER () - 1)::INTEGER AS {kind}_index "
                f"FROM raw GROUP BY {kind}_id"
                for kind in ("user", "item")
            ),
            f"CREATE TEMP TABLE events AS SELECT user_index, item_index, time_ms, rating, {row} AS row "
            "FROM raw JOIN users USING (user_id) JOIN items USING (item_id)" + ("" if repeats == "keep" else " GROUP BY ALL"),
            "DROP TABLE raw",
        )

    def replace(self, events: pa.Table) -> None:
        """Replace all events by these, which have the columns of `EVENTS` and no new ids."""
        self._run("DROP TABLE events")
        self.connection.register("replacement", events.append_column("row", pa.array(np.arange(len(events)))))
        self._run(
            "CREATE TEMP TABLE events AS SELECT user_index, item_index, time_ms, rating, row FROM replacement r "
            'JOIN users ON user_id = r."user" JOIN items ON item_id = r.item'
        )
        self.connection.unregister("replacement")

    def to_table(self) -> pa.Table:
        """Return all events in memory, in the source's order, with the columns of `EVENTS`."""
        batches = self._query(
            'SELECT user_id AS "user", item_id AS item, time_ms, rating FROM events JOIN users USING (user_index) '
            "JOIN items USING (item_index) ORDER BY row"
        )
        return pa.Table.from_batches(batches, EVENTS)

    def count(self, query: str) -> int:
        """Return the result of a query for one number."""
        (row,) = self._rows(query)
        return int(row[0])

    @property
    def has_ratings(self) -> bool:
        """Whether at least one event has a rating."""
        return self.count("SELECT count(rating) FROM events") > 0

    def filter_queries(self, filters: Filters) -> list[event_queries.NamedQuery]:
        """Return the queries of the filters on rating, time, and repeats of a user with an item."""
        if filters.min_rating is not None and not self.has_ratings:
            raise InputError(
                f"min_rating={filters.min_rating:g} needs ratings, but the data set has none; leave --split.min-rating None"
            )
        return event_queries.filter_queries(filters)

    def keep(self, query: str) -> None:
        """Keep the events that the query returns."""
        self._run(f"CREATE TEMP TABLE kept AS {query}", "DROP TABLE events", "ALTER TABLE kept RENAME TO events")

    def indexed_events(self) -> IndexedEvents:
        """Write the events' indices and rows to a file, in which they are counted and reduced to a k-core."""
        num_users, num_items = (self.count(f"SELECT count(*) FROM {table}") for table in ("users", "items"))
        return IndexedEvents(self.work / "events", self._chunks(), num_users, num_items)

    def _chunks(self) -> Iterator[EventChunk]:
        for batch in self._query("SELECT user_index, item_index, row FROM events"):
            arrays = (batch.column(place).to_numpy().astype(dtype, copy=False) for place, (_, dtype) in enumerate(FIELDS))
            yield EventChunk(*arrays)

    def assign_numbers(self, first_user_rows: ndarray, first_item_rows: ndarray) -> None:
        """Number users and items from 1 by the row of their first event, int64 by index; drop those with `NO_ROW`."""
        for kind, first_rows in (("user", first_user_rows), ("item", first_item_rows)):
            order = np.argsort(first_rows, kind="stable")
            order = order[: np.count_nonzero(first_rows != NO_ROW)]
            numbers = np.arange(1, len(order) + 1, dtype=np.int32)
            self.connection.register("numbers", pa.table({f"{kind}_index": order.astype(np.int32), f"{kind}_number": numbers}))
            self._run(
                f"CREATE TEMP TABLE {kind}_numbers AS SELECT {kind}_index, {kind}_number, {kind}_id FROM numbers "
                f"JOIN {kind}s USING ({kind}_index)",
                f"DROP TABLE {kind}s",
            )
            self.connection.unregister("numbers")

    def sorted_events(self, ties_seed: int | None = None, until_liked: float | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the numbered events by user and time: user, item int32, time int64 (s), rating float64 (see `event_queries`).

        With `until_liked`, a user's events end with the last one that has this rating or a higher one.
        """
        self._report("sorting events")
        return self._query(event_queries.sorted_events(ties_seed, until_liked))

    def count_rated(self, bound: float, kept_items: ndarray) -> ndarray:
        """Return each user's number of events with a rating of `bound` or more, int64 by index; only of kept items, bool by index."""
        self.connection.register("kept_items", pa.table({"item_index": np.flatnonzero(kept_items).astype(np.int32)}))
        rows = self._rows(
            "SELECT user_index, count(*) FROM events JOIN kept_items USING (item_index) "
            f"WHERE rating >= {event_queries.number(bound)} GROUP BY user_index"
        )
        self.connection.unregister("kept_items")
        counts: ndarray = np.zeros(self.count("SELECT count(*) FROM users"), dtype=np.int64)
        for index, count in rows:
            counts[index] = count
        return counts

    def ids(self, kind: Literal["user", "item"]) -> Iterator[pa.RecordBatch]:
        """Yield the ids of the numbered users or items in the order of their numbers."""
        return self._query(f"SELECT {kind}_id FROM {kind}_numbers ORDER BY {kind}_number")

    def add_items(self, items: pa.Table) -> None:
        """Add metadata: column `item`, then text columns, the same ones in every table. Only numbered items are stored."""
        columns = [name for name in items.column_names if name != "item"]
        if not self.metadata_columns:
            self.metadata_columns = columns
            self._run(f"CREATE TEMP TABLE metadata (item_number INTEGER, {_positions(len(columns), 'c{} VARCHAR')})")
        if columns != self.metadata_columns:
            raise InputError(
                f"a table of the source's items has the columns {columns}, those before it had {self.metadata_columns}; expected the "
                "same columns in every table"
            )
        # columns get names by position, because DuckDB ignores the case of column names
        names = ["item_id", *map("c{}".format, range(len(columns)))]
        self.connection.register("added", items.select(["item", *columns]).rename_columns(names))
        self._run(
            "INSERT INTO listed SELECT item_id FROM added",
            "INSERT INTO metadata SELECT item_number, added.* EXCLUDE (item_id) FROM added JOIN item_numbers USING (item_id)",
        )
        self.connection.unregister("added")

    def duplicate_item(self) -> str | None:
        """Return the id of an item with two rows of metadata, or None."""
        rows = self._rows("SELECT item_id FROM listed GROUP BY item_id HAVING count(*) > 1 ORDER BY item_id LIMIT 1")
        return str(rows[0][0]) if rows else None

    def metadata_without_events(self) -> int:
        """Return the number of rows of metadata of items that have no number."""
        return self.count("SELECT count(*) FROM listed WHERE item_id NOT IN (SELECT item_id FROM item_numbers)")

    def unmatched_ids(self, limit: int) -> tuple[list[str], list[str]]:
        """Return up to `limit` ids of numbered items without metadata, by number, and of metadata without a numbered item."""
        events = "SELECT item_id FROM item_numbers WHERE item_id NOT IN (SELECT item_id FROM listed) ORDER BY item_number"
        metadata = "SELECT item_id FROM listed WHERE item_id NOT IN (SELECT item_id FROM item_numbers) ORDER BY rowid"
        first, second = ([str(row[0]) for row in self._rows(f"{query} LIMIT {limit}")] for query in (events, metadata))
        return first, second

    def catalog(self) -> Iterator[pa.RecordBatch]:
        """Yield the items in the order of their numbers: id, whether metadata exist, then the columns of the metadata by position."""
        columns = _positions(len(self.metadata_columns), "m.c{}")
        return self._query(
            f"SELECT n.item_id, m.item_number IS NOT NULL, {columns} FROM item_numbers n LEFT JOIN metadata m USING (item_number) "
            "ORDER BY n.item_number"
        )

    def _report(self, work: str) -> None:
        """Print a line before a slow query, since DuckDB reports no progress."""
        if self.num_appended >= LARGE:
            say(f"{work} ({self.num_appended:,} events) ...")

    def _run(self, *queries: str) -> None:
        for query in queries:
            self._rows(query)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        """Run a query and return all its rows, which also releases its result."""
        with translated_errors():
            return self.connection.execute(query).fetchall()

    def _query(self, query: str) -> Iterator[pa.RecordBatch]:
        with translated_errors():
            yield from pa.RecordBatchReader.from_stream(self.connection.sql(query))


def _positions(count: int, form: str) -> str:
    return ", ".join(form.format(place) for place in range(count))


def _connect(work: Path) -> duckdb.DuckDBPyConnection:
    try:
        import duckdb
    except ImportError as error:
        raise ResourceError(
            "preparing data needs duckdb, which is not installed: pip install 'duckdb>=1.4', or run 'genrec data FILE.py:FUNCTION' on "
            "another machine and copy its data folder (GENREC_HOME) here"
        ) from error
    limit = memory_limit()
    settings: dict[str, Any] = {"memory_limit": limit, "temp_directory": str(work), "autoinstall_known_extensions": False}
    with translated_errors():
        try:
            connection = duckdb.connect(":memory:", config=settings)
        except duckdb.ParserException as error:
            raise UsageError(f"GENREC_MEMORY must be a size such as 512MB or 4GB, got {limit!r} ({error})") from None
        shown = connection.execute("SELECT current_setting('enable_progress_bar')").fetchall()[0][0]
        if shown:  # in Jupyter without ipywidgets there is no bar, and switching it off is an error
            connection.execute("SET enable_progress_bar = false").fetchall()
    return connection


def memory_limit() -> str:
    """Return the memory limit of DuckDB: GENREC_MEMORY, or `MEMORY`."""
    limit = os.environ.get("GENREC_MEMORY") or MEMORY
    if not re.fullmatch(r"\d+(\.\d+)? ?[KMGT]i?B", limit, re.IGNORECASE):
        raise UsageError(f"GENREC_MEMORY must be a size such as 512MB or 4GB, got {limit!r}")
    return limit


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise ResourceError for DuckDB's errors of memory and disk, also for those that Arrow passes on."""
    import duckdb

    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError, RuntimeError) as error:
        message = (str(error).splitlines() or [""])[0]
        if "query interrupted" in message.lower() or isinstance(error, duckdb.InterruptException):
            raise KeyboardInterrupt from error
        if isinstance(error, duckdb.OutOfMemoryException) or "out of memory" in message.lower():
            raise ResourceError(
                f"the event log does not fit: {message}; allow more memory with GENREC_MEMORY (now {memory_limit()}), or free disk "
                "space for temporary files"
            ) from error
        if "no space left" in message.lower():
            raise ResourceError(f"the disk is full: {message}; free some space for temporary files and run again") from error
        raise
