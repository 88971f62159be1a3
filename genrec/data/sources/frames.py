"""Stage 1, any data set: two tables, in memory or in files.

In: interactions with columns user, item (, time) (, rating) and items with columns item (, text) (, ...), each a pandas DataFrame or
the path of a CSV, TSV, JSON-lines (each also .gz) or Parquet file. Out: `RawStream` or `RawTables`. Other columns of interactions are
not read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas import DataFrame, Series
from pyarrow import parquet

from genrec.data.readers import arrow_blocks, event_tables, line_rows
from genrec.data.readers.bad_rows import BadRows, check_tolerated, table
from genrec.data.readers.event_tables import EVENT_COLUMNS, PIECE, require
from genrec.data.readers.line_rows import Row
from genrec.data.readers.raw_tables import events, item_table, plain_items
from genrec.data.readers.upstream_files import UpstreamFile, lines_of
from genrec.errors import InputError, UsageError
from genrec.progress import track
from genrec.store import NOT_IN_KEY
from genrec.types import RawStream, RawTables

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
NEEDED = ("user", "item")
_TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


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
    max_bad_rows: float = 0.01  # share of a table's rows that may be malformed, 0 to 1

    def __post_init__(self) -> None:
        check_tolerated(self.max_bad_rows)

    def stream(self, root: Path) -> RawStream:
        """Both tables in pieces; ids stay as they are."""
        ledgers = [BadRows(_name(self.interactions, "interactions"))]
        interactions = event_tables.log(_events(self.interactions, ledgers[0]), ledgers[0], self.max_bad_rows)
        if self.items is None:
            return RawStream(interactions, iter([item_table([], ["text"])]), lambda: table(ledgers))
        ledgers.append(BadRows(_name(self.items, "items")))
        return RawStream(interactions, _items(self.items, ledgers[1], self.max_bad_rows), lambda: table(ledgers))

    def load(self, root: Path) -> RawTables:
        """Read both tables."""
        return event_tables.gather(self.stream(root))

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
        return (*tables, self.max_bad_rows)


def _events(value: object, ledger: BadRows) -> Iterator[pa.Table]:
    """The events of a table in whatever form it comes."""
    if isinstance(value, DataFrame):
        return _frame_events(_frames(value, EVENT_COLUMNS, ledger.file), ledger)
    path, kind = _path(value), _kind(_path(value))
    if kind == ".parquet":
        return _parquet_events(path, ledger)
    if kind in SEPARATORS:
        names = {name: name for name in EVENT_COLUMNS}
        return event_tables.read_headed(UpstreamFile(path), SEPARATORS[kind], names, ledger, NEEDED)
    return _json_events(path, ledger)


def _items(value: object, ledger: BadRows, tolerated: float) -> Iterator[pa.Table]:
    columns, content = _rows(value, ledger)
    require(columns, ("item",), ledger.file)
    yield from plain_items(content, columns, ledger, tolerated)


def _rows(value: object, ledger: BadRows) -> tuple[list[str], Iterator[Row]]:
    """The columns and rows of a table in whatever form it comes."""
    if isinstance(value, DataFrame):
        return _names(value), _frame_rows(_frames(value))
    path, kind = _path(value), _kind(_path(value))
    if kind == ".parquet":
        file = _parquet(path)
        return _shown(file), _frame_rows((first, batch.to_pandas(integer_object_nulls=True)) for first, batch in _batches(path, file))
    blocks = UpstreamFile(path).blocks(ledger)
    if kind in SEPARATORS:
        columns, rest = line_rows.header(blocks, SEPARATORS[kind], ledger)
        return columns, line_rows.separated(lines_of(rest, ledger), SEPARATORS[kind], len(columns), ledger)
    columns = _json_columns(path)
    return columns, line_rows.fields_of(line_rows.json_records(lines_of(blocks, ledger), ledger), columns)


def _json_events(path: Path, ledger: BadRows) -> Iterator[pa.Table]:
    """The columns are those that any record has; their usual types are those of the first."""
    first, blocks = line_rows.first_record(UpstreamFile(path).blocks(ledger), ledger)
    if not first:
        raise InputError(f"{path}: no line is a JSON object; expected JSON lines, one object a line, and no array of them, in UTF-8")
    record = _with_later_fields(first, path)
    require(list(record), NEEDED, ledger.file)
    fields = {name: name for name in EVENT_COLUMNS if name in record}
    types = {name: _TYPES.get(type(record[name]), pa.string()) for name in fields}
    if "rating" in record and type(record["rating"]) in (int, type(None)):
        types["rating"] = pa.float64()
    yield from event_tables.read(blocks, event_tables.json_lines(fields, types), ledger)


def _with_later_fields(first: dict[str, Any], path: Path) -> dict[str, Any]:
    """The first record, with the fields of an event that only later ones have. A record that has them all ends the search."""
    absent = {name for name in EVENT_COLUMNS if name not in first}
    found = dict(first)
    unread = BadRows(path.name)  # what can't be read is noted when it is read for good
    for block in UpstreamFile(path).blocks(unread) if absent else ():
        if any(f'"{name}"'.encode() in block.content for name in absent):  # it may be a value, or deeper inside
            for _, record in line_rows.json_records(block.lines(unread), unread):
                found |= {name: record[name] for name in absent & record.keys()}
                absent -= record.keys()
        if not absent:
            break
    return found


def _json_columns(path: Path) -> list[str]:
    """Every field of any record, in the order of their first appearance."""
    unread = BadRows(path.name)
    names: dict[str, None] = {}
    for _, record in line_rows.json_records(UpstreamFile(path).lines(unread), unread):
        names |= dict.fromkeys(record)
    return list(names)


Chunk = tuple[int, DataFrame]  # number of the first row, from 1, and some rows


def _frames(frame: DataFrame, wanted: Iterable[str] | None = None, name: str = "") -> Iterator[Chunk]:
    """A DataFrame in pieces; with `wanted`, only these columns."""
    if wanted is not None:
        columns = _names(frame)
        require(columns, NEEDED, name)
        frame = frame.iloc[:, [columns.index(column) for column in wanted if column in columns]]
    for first in range(0, len(frame), PIECE):
        yield first + 1, frame.iloc[first : first + PIECE]


def _names(frame: DataFrame) -> list[str]:
    return [str(name) for name in frame.columns]


def _frame_events(chunks: Iterable[Chunk], ledger: BadRows) -> Iterator[pa.Table]:
    for first, frame in chunks:
        columns = _names(frame)
        try:
            table = arrow_blocks.events(
                pa.table({name: pa.array(_seconds(frame.iloc[:, place])) for place, name in enumerate(columns)})
            )
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            table = None
        if table is not None:
            yield table
        else:
            yield from events(_frame_rows([(first, frame)]), columns, ledger)


def _frame_rows(chunks: Iterable[Chunk]) -> Iterator[Row]:
    """The line of a row is its number, from 1. Missing values become None, dates become seconds."""
    for first, frame in chunks:
        columns = [_plain(frame.iloc[:, place]) for place in range(frame.shape[1])]
        yield from enumerate(zip(*columns, strict=True), first)


def _seconds(column: Series[Any]) -> Series[Any]:
    if isinstance(column.dtype, np.dtype | pd.DatetimeTZDtype) and column.dtype.kind == "M":
        seconds: Series[Any] = column.dt.as_unit("s").astype("int64").where(column.notna()).astype("Int64")
        return seconds
    return column


def _plain(column: Series[Any]) -> list[object]:
    column = _seconds(column)
    values: list[object] = column.astype(object).where(column.notna(), None).tolist()
    return [value.tolist() if isinstance(value, np.ndarray | np.generic) else value for value in values]


def _parquet_events(path: Path, ledger: BadRows) -> Iterator[pa.Table]:
    file = _parquet(path)
    require(_shown(file), NEEDED, ledger.file)
    wanted = [name for name in EVENT_COLUMNS if name in _shown(file)]
    for first, batch in track(_batches(path, file, wanted), f"reading {path.name}", -(-file.metadata.num_rows // PIECE)):
        table = arrow_blocks.events(batch)
        if table is not None:
            yield table
        else:
            yield from _frame_events([(first, batch.to_pandas(integer_object_nulls=True))], ledger)


def _parquet(path: Path) -> Any:
    try:
        return parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)  # else whole row groups are read
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as Parquet ({error})") from error


def _shown(file: Any) -> list[str]:
    """The columns without the index that pandas keeps beside them."""
    hidden = [name for name in (file.schema_arrow.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
    return [name for name in file.schema_arrow.names if name not in hidden]


def _batches(path: Path, file: Any, columns: list[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
    """Number of the first row, from 1, and some rows."""
    first = 1
    try:
        for batch in file.iter_batches(PIECE, columns=columns or _shown(file)):
            yield first, pa.Table.from_batches([batch]).replace_schema_metadata()
            first += len(batch)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as Parquet past row {first - 1} ({error})") from error


def _path(value: object) -> Path:
    if not isinstance(value, Path | str):
        raise UsageError(f"a table must be a pandas DataFrame or a path, got {type(value).__qualname__}")
    path = Path(value)
    if not path.is_file():
        raise InputError(f"there is no file {path}; expected a table in CSV, TSV, JSON lines or Parquet")
    return path


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"][-1:]
    if suffixes and suffixes[0] in (*SEPARATORS, *JSON_LINES, ".parquet"):
        return suffixes[0]
    raise InputError(f"{path}: expected a name that ends in {', '.join((*SEPARATORS, *JSON_LINES))} (, .gz) or .parquet")


def _name(value: object, role: str) -> str:
    return f"{role} (DataFrame)" if isinstance(value, DataFrame) else _path(value).name


def _digest(value: object) -> str:
    """The sha256 of a file, or of a DataFrame's names and values."""
    if value is None:
        return ""
    if not isinstance(value, DataFrame):
        return UpstreamFile(_path(value)).digest()
    kinds = [[name, str(kind)] for name, kind in zip(_names(value), value.dtypes, strict=True)]
    digest = hashlib.sha256(json.dumps(kinds).encode())
    for first, frame in _frames(value):
        try:
            digest.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
        except TypeError:  # a column of lists
            for _, fields in _frame_rows([(first, frame)]):
                digest.update(json.dumps(fields, default=str).encode() + b"\n")
    return digest.hexdigest()
