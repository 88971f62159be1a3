"""A data set from two tables, in memory or in files: interactions, and optionally items.

Interactions have the columns user, item, and optionally time and rating; other columns are not read. Items have a column item, and
optionally text and more. Each table is a pandas DataFrame or the path of a CSV, TSV, JSON-lines, RecBole (each also .gz) or Parquet
file. `genrec.data.readers.own_tables` reads them.

Times are numbers of seconds or milliseconds since 1970, or ISO dates; see `genrec.data.readers.time_texts`.
"""

from __future__ import annotations

import hashlib
from abc import ABCMeta
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pandas import DataFrame

from genrec.data.readers import event_tables
from genrec.data.readers.bad_rows import BadRows, check_max_bad_rows, set_aside_table
from genrec.data.readers.column_names import check_column_names, check_not_swapped, check_used
from genrec.data.readers.own_tables import OwnTable, check_encoding, check_separator, is_text
from genrec.data.readers.raw_tables import item_table
from genrec.data.readers.time_texts import check_time_format
from genrec.errors import InputError, UsageError
from genrec.input_files import as_path
from genrec.store import NOT_IN_KEY
from genrec.types import RawStream, RawTables


class TableOrPath(metaclass=ABCMeta):  # noqa: B024
    """A DataFrame or the path of a file, for the command line, which takes a path and cannot evaluate DataFrame's own annotations."""


TableOrPath.register(DataFrame)
TableOrPath.register(Path)

if TYPE_CHECKING:
    Table = DataFrame | Path | str
else:
    Table = TableOrPath


@dataclass(frozen=True, eq=False)
class Frames:
    """A data set from your own tables."""

    interactions: Table = field(metadata=NOT_IN_KEY)  # user, item (, time; default: the order of the rows) (, rating)
    items: Table | None = field(default=None, metadata=NOT_IN_KEY)  # item (, text; default: the other columns) (, ...)
    max_bad_rows: float = 0.01  # largest share of malformed rows of a table, 0 to 1
    columns: Mapping[str, str] | None = None  # name in your tables -> name in genrec, as in {"user_id": "user"}, for both tables
    separator: str | None = None  # between the columns of text files; None: a comma in .csv, a tab in .tsv, .inter and .item
    time_format: str | None = None  # of text times, for strptime, such as "%d.%m.%Y"; None: numbers or ISO dates
    encoding: str | None = None  # of text files, such as "latin-1"; None: UTF-8
    items_separator: str | None = None  # between the columns of the items, if it is another one; None: `separator`

    def __post_init__(self) -> None:
        for name in ("interactions", "items"):
            table = getattr(self, name)
            if isinstance(table, DataFrame) or (name == "items" and table is None):
                continue
            if not isinstance(table, Path | str):
                raise UsageError(f"Frames.{name}: a table must be a pandas DataFrame or a path, got {type(table).__qualname__}")
            object.__setattr__(self, name, as_path(table, f"Frames.{name}"))
        check_max_bad_rows(self.max_bad_rows)
        if self.columns is not None:
            check_column_names(self.columns, "Frames.columns")
            object.__setattr__(self, "columns", dict(self.columns) or None)
        if self.separator is not None:
            object.__setattr__(self, "separator", check_separator(self.separator, "Frames.separator"))
            if not is_text(self.interactions) and not is_text(self.items):
                raise UsageError("Frames.separator is for text files such as .csv; neither table is one: leave it None")
        if self.items_separator is not None:
            object.__setattr__(self, "items_separator", check_separator(self.items_separator, "Frames.items_separator"))
            if not is_text(self.items):
                raise UsageError("Frames.items_separator is for a text file of items, such as .csv; leave it None")
        check_time_format(self.time_format, "Frames.time_format")
        if self.encoding is not None:
            object.__setattr__(self, "encoding", check_encoding(self.encoding, "Frames.encoding"))

    def stream(self, root: Path) -> RawStream:
        """Return interactions and items as streams of tables."""
        tables = self._tables()
        bad_rows = [table.new_bad_rows() for table in tables]
        if self.columns:
            check_used(self.columns, _headers(tables))
        interactions = self._interactions(tables, bad_rows[0])
        no_items = iter([item_table([], ["text"])])
        items = no_items if len(tables) == 1 else tables[1].items(bad_rows[1], self.max_bad_rows)
        return RawStream(interactions, items, lambda: set_aside_table(bad_rows))

    def _interactions(self, tables: list[OwnTable], bad_rows: BadRows) -> Iterator[pa.Table]:
        try:
            yield from event_tables.merge_event_tables(tables[0].events(bad_rows), bad_rows, self.max_bad_rows)
        except InputError:
            check_not_swapped(self.columns or {}, _headers(tables))
            raise

    def load(self, root: Path) -> RawTables:
        """Read both tables into memory."""
        return event_tables.load_stream(self.stream(root))

    def fingerprint(self, root: Path) -> str:
        """Return a hash of the content of both tables."""
        digests = [table.digest() for table in self._tables()]
        return hashlib.sha256("\n".join([*digests, ""][:2]).encode()).hexdigest()

    def file_names(self) -> tuple[str, ...]:
        """Return the names of both tables, for labels."""
        return tuple(table.name for table in self._tables())

    def __eq__(self, other: object) -> bool:
        """Return whether both have equal paths, or the identical DataFrame objects, and the same options."""
        return isinstance(other, Frames) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        tables = (id(table) if isinstance(table, DataFrame) else table for table in (self.interactions, self.items))
        columns = tuple(sorted((self.columns or {}).items()))
        return (*tables, self.max_bad_rows, columns, self.separator, self.time_format, self.encoding, self.items_separator)

    def _tables(self) -> list[OwnTable]:
        """Return the interactions and, if there are any, the items."""
        columns, options = self.columns or {}, (self.time_format, self.encoding or "utf-8")
        tables = [OwnTable(_frame_or_path(self.interactions), "interactions", columns, self.separator, *options)]
        if self.items is None:
            return tables
        separator = self.items_separator or self.separator
        return [*tables, OwnTable(_frame_or_path(self.items), "items", columns, separator, *options)]


def _headers(tables: Sequence[OwnTable]) -> list[tuple[str, list[str]]]:
    """Return the name of each table, and its columns as they are in it."""
    return [(table.name, table.header()) for table in tables]


def _frame_or_path(table: DataFrame | Path | str) -> DataFrame | Path:
    return table if isinstance(table, DataFrame) else Path(table)
