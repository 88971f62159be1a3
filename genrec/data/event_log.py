"""Stage 1, the log of events in DuckDB, the only file that knows it: larger than memory, within a limit.

In: pieces of interactions and of items, as a source gives them. Out: filtered, numbered, sorted events and the catalog, in pieces.
Tables live in memory up to the limit (GENREC_MEMORY, such as "4GB") and beyond it in temporary files below the work folder. Every
result is a function of the events and their order: sorts are by unique keys, and numbers follow the first appearance.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy import ndarray

from genrec.data.event_filters import Filters, Repeats, seconds
from genrec.data.k_core import FIELDS, Chunk, Pairs
from genrec.errors import InputError, ResourceError, UsageError
from genrec.progress import say

if TYPE_CHECKING:
    import duckdb

MEMORY = "512MB"  # DuckDB's own limit; the process needs about as much again
LARGE = 5_000_000  # events; a smaller log takes a few seconds
INSERTED = 500_000  # events inserted at once, at least
EVENTS = pa.schema([("user", pa.string()), ("item", pa.string()), ("moment", pa.int64()), ("rating", pa.float64())])
Named = tuple[str, str]  # a filter's name for people, and the SQL query of what it keeps


class Log:
    """One log: append all pieces, `number` them, filter, and read them back sorted."""

    def __init__(self, work: Path) -> None:
        self.connection = _connect(work)
        self.work = work
        self.appended = 0
        self._waiting: list[pa.Table] = []
        self.columns: list[str] = []  # of the metadata, besides the item
        self._run(
            "CREATE TEMP TABLE raw (name_user VARCHAR, name_item VARCHAR, moment BIGINT, rating DOUBLE)",
            "CREATE TEMP TABLE listed (item VARCHAR)",
        )

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.connection.close()

    def append(self, piece: pa.Table) -> None:
        """Add events: user, item text, moment int64 milliseconds, rating float64."""
        self._waiting.append(piece)
        self.appended += len(piece)
        if sum(map(len, self._waiting)) >= INSERTED:
            self._insert()

    def _insert(self) -> None:
        if self._waiting:
            self.connection.register("piece", pa.concat_tables(self._waiting))
            self._run('INSERT INTO raw SELECT "user", item, moment, rating FROM piece')
            self.connection.unregister("piece")
            self._waiting.clear()

    def number(self, repeats: Repeats) -> None:
        """Give users and items codes from 0, in any order; of equal events the first stays, the last for "last", all for "keep"."""
        self._insert()
        self._tell("numbering users and items")
        grouped = {"keep": "r.rowid", "last": "max(r.rowid)"}.get(repeats, "min(r.rowid)")
        self._run(
            *(
                f"CREATE TEMP TABLE {name}s AS SELECT name_{name} AS name, "
                f"(row_number() OVER () - 1)::INTEGER AS code FROM raw GROUP BY name_{name}"
                for name in ("user", "item")
            ),
            f"CREATE TEMP TABLE events AS SELECT u.code AS user_code, i.code AS item_code, moment, rating, {grouped} AS row "
            "FROM raw r JOIN users u ON u.name = r.name_user JOIN items i ON i.name = r.name_item"
            + ("" if repeats == "keep" else " GROUP BY ALL"),
            "DROP TABLE raw",
        )

    def replace(self, events: pa.Table) -> None:
        """Put these events, named as in `append`, in the place of all: what a split of one's own has kept."""
        self._run("DROP TABLE events")
        self.connection.register("kept", events.append_column("row", pa.array(np.arange(len(events)))))
        self._run(
            "CREATE TEMP TABLE events AS SELECT u.code AS user_code, i.code AS item_code, moment, rating, row FROM "
            'kept k JOIN users u ON u.name = k."user" JOIN items i ON i.name = k.item'
        )
        self.connection.unregister("kept")

    def named(self) -> pa.Table:
        """All events in file order, in memory: user, item, moment, rating."""
        batches = self._query(
            'SELECT u.name AS "user", i.name AS item, moment, rating FROM events JOIN users u ON u.code = user_code '
            "JOIN items i ON i.code = item_code ORDER BY row"
        )
        return pa.Table.from_batches(batches, EVENTS)

    def count(self, query: str) -> int:
        """The one number that a query gives."""
        (row,) = self._rows(query)
        return int(row[0])

    @property
    def events(self) -> int:
        """How many there are now."""
        return self.count("SELECT count(*) FROM events")

    @property
    def has_ratings(self) -> bool:
        """Whether any event has one."""
        return self.count("SELECT count(rating) FROM events") > 0

    def selections(self, filters: Filters) -> list[Named]:
        """The filters that look at single events, or at a user's events with one item."""
        named: list[Named] = []
        if filters.min_rating is not None:
            if not self.has_ratings:
                raise InputError(
                    f"minimum_rating={filters.min_rating:g} needs ratings, but the data set has none; leave --split.min-rating None"
                )
            named.append((f"rating of {filters.min_rating:g} or more", f"SELECT * FROM events WHERE rating >= {filters.min_rating!r}"))
        since, until = seconds(filters.since, "since"), seconds(filters.until, "until")
        if since is not None:
            named.append((f"events from {filters.since} on", f"SELECT * FROM events WHERE moment >= {since * 1000}"))
        if until is not None:
            named.append((f"events before {filters.until}", f"SELECT * FROM events WHERE moment < {until * 1000}"))
        if filters.repeats in ("first", "last"):
            order = "ASC" if filters.repeats == "first" else "DESC"
            window = f"OVER (PARTITION BY user_code, item_code ORDER BY moment {order}, row {order})"
            named.append(
                (f"{filters.repeats} event of a user with an item", f"SELECT * FROM events QUALIFY row_number() {window} = 1")
            )
        return named

    def select(self, query: str) -> None:
        """Keep what the query gives."""
        self._run(f"CREATE TEMP TABLE chosen AS {query}", "DROP TABLE events", "ALTER TABLE chosen RENAME TO events")

    def pairs(self) -> Pairs:
        """The events' codes, to count and to filter."""
        users, items = (self.count(f"SELECT count(*) FROM {table}") for table in ("users", "items"))
        return Pairs(self.work / "pairs", self._codes(), users, items)

    def _codes(self) -> Iterator[Chunk]:
        for batch in self._query("SELECT user_code, item_code, row FROM events"):
            yield Chunk(*(batch.column(place).to_numpy().astype(kind, copy=False) for place, (_, kind) in enumerate(FIELDS)))

    def renumber(self, users: ndarray, items: ndarray) -> None:
        """The place of each user's and item's first event, int64 (a large number for none) -> numbers from 1 in this order."""
        none = np.iinfo(np.int64).max
        for name, first in (("user", users), ("item", items)):
            order = np.argsort(first, kind="stable")
            order = order[: np.count_nonzero(first != none)]
            numbers = pa.table({"code": order.astype(np.int32), "number": np.arange(1, len(order) + 1, dtype=np.int32)})
            self.connection.register("numbers", numbers)
            self._run(
                f"CREATE TEMP TABLE {name}_numbers AS SELECT code, number, name FROM numbers JOIN {name}s USING (code)",
                f"DROP TABLE {name}s",
            )
            self.connection.unregister("numbers")

    def sorted_events(self) -> Iterator[pa.RecordBatch]:
        """The kept events by user, time and file order: user, item int32 (from 1), time int64 seconds, rating float64."""
        self._tell("sorting events")
        return self._query(
            'SELECT u.number AS "user", i.number AS item, moment // 1000 AS time, rating FROM events '
            "JOIN user_numbers u ON u.code = user_code JOIN item_numbers i ON i.code = item_code ORDER BY u.number, moment, row"
        )

    def names(self, name: str) -> Iterator[pa.RecordBatch]:
        """The kept users' or items' ids, in the order of their numbers; `name` is "user" or "item"."""
        return self._query(f"SELECT name FROM {name}_numbers ORDER BY number")

    def list_items(self, piece: pa.Table) -> None:
        """Add metadata: `item`, then text columns, the same ones in every piece; only those of kept items are stored."""
        columns = [name for name in piece.column_names if name != "item"]
        if not self.columns:
            self.columns = columns
            self._run(f"CREATE TEMP TABLE metadata (number INTEGER, {_positions(len(columns), 'c{} VARCHAR')})")
        if columns != self.columns:
            raise InputError(f"a piece of the source's items has the columns {columns}, those before it had {self.columns}")
        # by place: DuckDB takes names of other case for the same one
        self.connection.register(
            "piece", piece.select(["item", *columns]).rename_columns(["item", *map("c{}".format, range(len(columns)))])
        )
        self._run(
            "INSERT INTO listed SELECT item FROM piece",
            "INSERT INTO metadata SELECT n.number, p.* EXCLUDE (item) FROM piece p JOIN item_numbers n ON n.name = p.item",
        )
        self.connection.unregister("piece")

    def listed_twice(self) -> str | None:
        """An item with two rows of metadata, if there is one."""
        rows = self._rows("SELECT item FROM listed GROUP BY item HAVING count(*) > 1 ORDER BY item LIMIT 1")
        return str(rows[0][0]) if rows else None

    def metadata_without_events(self) -> int:
        """Rows of metadata of items that are not kept."""
        return self.count("SELECT count(*) FROM listed WHERE item NOT IN (SELECT name FROM item_numbers)")

    def catalog(self) -> Iterator[pa.RecordBatch]:
        """The kept items in the order of their numbers: id, whether it is listed, then the columns of the metadata, by place."""
        columns = _positions(len(self.columns), "m.c{}")
        query = (
            f"SELECT n.name, m.number IS NOT NULL, {columns} FROM item_numbers n LEFT JOIN metadata m USING (number) ORDER BY n.number"
        )
        return self._query(query)

    def _tell(self, work: str) -> None:
        """What a large log is kept waiting for: DuckDB does not say how far it is."""
        if self.appended >= LARGE:
            say(f"{work} ({self.appended:,} events) ...")

    def _run(self, *queries: str) -> None:
        for query in queries:
            self._rows(query)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        """All rows, so that the result is finished with."""
        with faults():
            return self.connection.execute(query).fetchall()

    def _query(self, query: str) -> Iterator[pa.RecordBatch]:
        with faults():
            yield from pa.RecordBatchReader.from_stream(self.connection.sql(query))


def _positions(count: int, form: str) -> str:
    return ", ".join(form.format(place) for place in range(count))


def _connect(work: Path) -> duckdb.DuckDBPyConnection:
    import duckdb

    limit = memory_limit()
    settings: dict[str, Any] = {"memory_limit": limit, "temp_directory": str(work), "autoinstall_known_extensions": False}
    with faults():
        try:
            connection = duckdb.connect(":memory:", config=settings)
        except duckdb.ParserException as error:
            raise UsageError(f"GENREC_MEMORY must be a size such as 512MB or 4GB, got {limit!r} ({error})") from None
        connection.execute("SET enable_progress_bar = false").fetchall()
    return connection


def memory_limit() -> str:
    """DuckDB's limit: GENREC_MEMORY, or `MEMORY`."""
    limit = os.environ.get("GENREC_MEMORY") or MEMORY
    if not re.fullmatch(r"\d+(\.\d+)? ?[KMGT]i?B", limit, re.IGNORECASE):
        raise UsageError(f"GENREC_MEMORY must be a size such as 512MB or 4GB, got {limit!r}")
    return limit


@contextmanager
def faults() -> Iterator[None]:
    """DuckDB's errors of memory and disk, its own or passed on by Arrow -> ours."""
    import duckdb

    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError, RuntimeError) as error:
        said = (str(error).splitlines() or [""])[0]
        if "query interrupted" in said.lower() or isinstance(error, duckdb.InterruptException):
            raise KeyboardInterrupt from error
        if isinstance(error, duckdb.OutOfMemoryException) or "out of memory" in said.lower():
            raise ResourceError(
                f"the log of events does not fit: {said}; allow more memory with GENREC_MEMORY (now {memory_limit()}), or free disk "
                "for temporary files"
            ) from error
        if "no space left" in said.lower():
            raise ResourceError(f"the disk is full: {said}; free some space for temporary files and run again") from error
        raise
