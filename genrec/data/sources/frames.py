"""Stage 1, any data set: two tables, in memory or in files.

In: interactions with columns user, item (, time) (, rating) and items with columns item (, text) (, ...), each a pandas DataFrame or
the path of a CSV, TSV, JSON-lines (each also .gz) or Parquet file. Out: `RawTables`. Other columns of interactions are not read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from genrec.data.sources.files import UpstreamFile
from genrec.data.sources.ledger import Ledger, check_tolerated, table
from genrec.data.sources.rows import Row, fields_of, header_and_rows, json_records
from genrec.data.sources.tables import events, plain_items
from genrec.errors import InputError, UsageError
from genrec.store import NOT_IN_KEY
from genrec.types import RawTables

EVENT_COLUMNS = ("user", "item", "time", "rating")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")


@runtime_checkable
class Table(Protocol):
    """A pandas DataFrame, by what it can do: the command line reads annotations, and can't read those of DataFrame itself."""

    def itertuples(self) -> Any:
        """Its rows."""
        ...


@dataclass(frozen=True, eq=False)
class Frames:
    """A data set from two tables of your own."""

    interactions: Table | Path | str = field(metadata=NOT_IN_KEY)  # user, item (, time in seconds, else row order) (, rating)
    items: Table | Path | str | None = field(default=None, metadata=NOT_IN_KEY)  # item (, text) (, more, which else are the text)
    tolerated: float = 0.01  # share of a table's rows that may be malformed, 0 to 1

    def __post_init__(self) -> None:
        check_tolerated(self.tolerated)

    def load(self, root: Path) -> RawTables:
        """Read both tables; ids stay as they are."""
        ledger = Ledger(_name(self.interactions, "interactions"))
        columns, rows = _read(self.interactions, ledger)
        _require(columns, ("user", "item"), ledger.file)
        wanted = [name for name in EVENT_COLUMNS if name in columns]
        places = [columns.index(name) for name in wanted]
        interactions = events(((line, [fields[place] for place in places]) for line, fields in rows), wanted, ledger)
        ledger.check(len(interactions), self.tolerated)
        if self.items is None:
            empty = DataFrame({"item": Series(dtype=str), "text": Series(dtype=str)})
            return RawTables(interactions, empty, table((ledger,)))
        listed = Ledger(_name(self.items, "items"))
        columns, rows = _read(self.items, listed)
        _require(columns, ("item",), listed.file)
        items = plain_items(rows, columns, listed)
        listed.check(len(items), self.tolerated)
        return RawTables(interactions, items, table((ledger, listed)))

    def fingerprint(self, root: Path) -> str:
        """A hash of both tables' content."""
        return hashlib.sha256("\n".join(map(_digest, (self.interactions, self.items))).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        """The same paths, or the very same DataFrames."""
        return isinstance(other, Frames) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        tables = (id(value) if isinstance(value, DataFrame) else value for value in (self.interactions, self.items))
        return (*tables, self.tolerated)


class _Content(NamedTuple):
    """A table, in whatever form it came."""

    columns: list[str]
    rows: Iterator[Row]


def _read(value: object, ledger: Ledger) -> _Content:
    if isinstance(value, DataFrame):
        return _frame(value)
    path = _path(value)
    kind = [suffix for suffix in path.suffixes if suffix != ".gz"][-1:]
    suffix = kind[0].lower() if kind else ""
    if suffix == ".parquet":
        try:
            return _frame(pd.read_parquet(path))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} can't be read as Parquet ({error})") from error
    if suffix in SEPARATORS:
        return _Content(*header_and_rows(UpstreamFile(path), SEPARATORS[suffix], ledger))
    if suffix in JSON_LINES:
        return _json_lines(UpstreamFile(path), ledger)
    raise InputError(f"{path}: expected a name that ends in {', '.join((*SEPARATORS, *JSON_LINES))} (, .gz) or .parquet")


def _frame(frame: DataFrame) -> _Content:
    """A DataFrame's rows; the line is the row's number, from 1. Missing values become None, dates become seconds."""
    columns = [_plain(frame.iloc[:, place]) for place in range(frame.shape[1])]
    return _Content([str(name) for name in frame.columns], iter(enumerate(zip(*columns, strict=True), 1)))


def _plain(column: Series[Any]) -> list[object]:
    if isinstance(column.dtype, np.dtype | pd.DatetimeTZDtype) and column.dtype.kind == "M":
        column = column.dt.as_unit("s").astype("int64").where(column.notna()).astype("Int64")
    values: list[object] = column.astype(object).where(column.notna(), None).tolist()
    return [value.tolist() if isinstance(value, np.ndarray | np.generic) else value for value in values]


def _json_lines(file: UpstreamFile, ledger: Ledger) -> _Content:
    """The columns are those of the first record."""
    records = json_records(file, ledger)
    first = next(records, None)
    columns = list(first[1]) if first is not None else []
    return _Content(columns, fields_of(chain([first], records) if first is not None else records, columns))


def _require(columns: list[str], required: tuple[str, ...], name: str) -> None:
    if len(set(columns)) != len(columns):
        raise InputError(f"{name} has two columns of one name: {', '.join(map(repr, columns))}")
    absent = [column for column in required if column not in columns]
    if absent:
        raise InputError(f"{name} needs a column {absent[0]!r}; it has {', '.join(map(repr, columns)) or 'none'}")


def _path(value: object) -> Path:
    if not isinstance(value, Path | str):
        raise UsageError(f"a table must be a pandas DataFrame or a path, got {type(value).__qualname__}")
    path = Path(value)
    if not path.is_file():
        raise InputError(f"there is no file {path}; expected a table in CSV, TSV, JSON lines or Parquet")
    return path


def _name(value: object, role: str) -> str:
    return f"{role} (DataFrame)" if isinstance(value, DataFrame) else _path(value).name


def _digest(value: object) -> str:
    """The sha256 of a file, or of a DataFrame's names and values."""
    if value is None:
        return ""
    if not isinstance(value, DataFrame):
        return UpstreamFile(_path(value)).digest()
    columns, rows = _frame(value)
    digest = hashlib.sha256(json.dumps(columns).encode())
    for _, fields in rows:
        digest.update(json.dumps(fields, default=str).encode() + b"\n")
    return digest.hexdigest()
