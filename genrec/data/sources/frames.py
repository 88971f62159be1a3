"""A data set from two tables, in memory or in files: interactions, and optionally items.

Interactions have the columns user, item, and optionally time and rating; other columns are not read. Items have a column item, and
optionally text and more. Each table is a pandas DataFrame or the path of a CSV, TSV, JSON-lines (each also .gz) or Parquet file.
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
from genrec.data.readers.bad_rows import BadRows, check_max_bad_rows, set_aside_table
from genrec.data.readers.event_tables import EVENT_COLUMNS, EVENTS_PER_TABLE, check_columns
from genrec.data.readers.line_rows import Row
from genrec.data.readers.raw_tables import event_tables_from_rows, item_table, item_tables_from_plain_rows
from genrec.data.readers.upstream_files import UpstreamFile, lines_of
from genrec.errors import InputError, UsageError
from genrec.progress import track
from genrec.store import NOT_IN_KEY
from genrec.types import RawStream, RawTables

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
REQUIRED = ("user", "item")  # columns of interactions
_ARROW_TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
FrameSlice = tuple[int, DataFrame]  # number of the first row, from 1, and some rows of a table


@runtime_checkable
class Table(Protocol):
    """A pandas DataFrame. This protocol stands for it because the command line cannot evaluate DataFrame's own annotations."""

    def itertuples(self) -> Any:
        """Iterate over the rows."""
        ...


@dataclass(frozen=True, eq=False)
class Frames:
    """A data set from your own tables."""

    interactions: Table | Path | str = field(metadata=NOT_IN_KEY)  # user, item (, time in s; default: row order) (, rating)
    items: Table | Path | str | None = field(default=None, metadata=NOT_IN_KEY)  # item (, text; default: the other columns) (, ...)
    max_bad_rows: float = 0.01  # largest share of malformed rows of a table, 0 to 1

    def __post_init__(self) -> None:
        check_max_bad_rows(self.max_bad_rows)

    def stream(self, root: Path) -> RawStream:
        """Return interactions and items as streams of tables."""
        bad_rows = [BadRows(_display_name(self.interactions, "interactions"))]
        interactions = event_tables.merge_event_tables(_event_tables(self.interactions, bad_rows[0]), bad_rows[0], self.max_bad_rows)
        if self.items is None:
            return RawStream(interactions, iter([item_table([], ["text"])]), lambda: set_aside_table(bad_rows))
        bad_rows.append(BadRows(_display_name(self.items, "items")))
        items = _item_tables(self.items, bad_rows[1], self.max_bad_rows)
        return RawStream(interactions, items, lambda: set_aside_table(bad_rows))

    def load(self, root: Path) -> RawTables:
        """Read both tables into memory."""
        return event_tables.load_stream(self.stream(root))

    def fingerprint(self, root: Path) -> str:
        """Return a hash of the content of both tables."""
        return hashlib.sha256("\n".join(map(_digest, (self.interactions, self.items))).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        """Return whether both have equal paths, or the identical DataFrame objects, and the same limit."""
        return isinstance(other, Frames) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        tables = (id(table) if isinstance(table, DataFrame) else table for table in (self.interactions, self.items))
        return (*tables, self.max_bad_rows)


def _event_tables(table: object, bad_rows: BadRows) -> Iterator[pa.Table]:
    """Yield the event tables of a DataFrame or file."""
    if isinstance(table, DataFrame):
        columns = _column_names(table)
        check_columns(columns, REQUIRED, bad_rows.file)
        used = table.iloc[:, [columns.index(name) for name in EVENT_COLUMNS if name in columns]]
        return _frame_event_tables(_frame_slices(used), bad_rows)
    path, suffix = _checked_path(table), _suffix(_checked_path(table))
    if suffix == ".parquet":
        return _parquet_event_tables(path, bad_rows)
    if suffix in SEPARATORS:
        names = {name: name for name in EVENT_COLUMNS}
        return event_tables.read_csv_events(UpstreamFile(path), SEPARATORS[suffix], names, bad_rows, REQUIRED)
    return _json_event_tables(path, bad_rows)


def _item_tables(table: object, bad_rows: BadRows, max_bad_rows: float) -> Iterator[pa.Table]:
    columns, rows = _columns_and_rows(table, bad_rows)
    check_columns(columns, ("item",), bad_rows.file)
    yield from item_tables_from_plain_rows(rows, columns, bad_rows, max_bad_rows)


def _columns_and_rows(table: object, bad_rows: BadRows) -> tuple[list[str], Iterator[Row]]:
    """Return the column names and rows of a DataFrame or file."""
    if isinstance(table, DataFrame):
        return _column_names(table), _frame_rows(_frame_slices(table))
    path, suffix = _checked_path(table), _suffix(_checked_path(table))
    if suffix == ".parquet":
        file = _open_parquet(path)
        slices = ((first, part.to_pandas(integer_object_nulls=True)) for first, part in _parquet_slices(path, file))
        return _data_columns(file), _frame_rows(slices)
    blocks = UpstreamFile(path).blocks(bad_rows)
    if suffix in SEPARATORS:
        columns, rest = line_rows.read_csv_header(blocks, SEPARATORS[suffix], bad_rows)
        return columns, line_rows.parse_csv(lines_of(rest, bad_rows), SEPARATORS[suffix], len(columns), bad_rows)
    columns = _json_columns(path)
    return columns, line_rows.select_fields(line_rows.parse_json_lines(lines_of(blocks, bad_rows), bad_rows), columns)


def _json_event_tables(path: Path, bad_rows: BadRows) -> Iterator[pa.Table]:
    """Yield the event tables of JSON lines. Any object may add a column; the first object with a column sets its usual type."""
    first, blocks = line_rows.read_first_object(UpstreamFile(path).blocks(bad_rows), bad_rows)
    if not first:
        raise InputError(f"{path}: no line is a JSON object; expected JSON lines: one object per line, not an array, in UTF-8")
    example = _with_later_columns(first, path)
    check_columns(list(example), REQUIRED, bad_rows.file)
    members = {name: name for name in EVENT_COLUMNS if name in example}
    types = {name: _ARROW_TYPES.get(type(example[name]), pa.string()) for name in members}
    if "rating" in example and type(example["rating"]) in (int, type(None)):
        types["rating"] = pa.float64()
    yield from event_tables.read_events(blocks, event_tables.json_lines_format(members, types), bad_rows)


def _with_later_columns(first: dict[str, Any], path: Path) -> dict[str, Any]:
    """Add the event columns that only later objects have to the first object. The search ends when none is missing."""
    missing = {name for name in EVENT_COLUMNS if name not in first}
    found = dict(first)
    ignored = BadRows(path.name)  # bad rows are reported when the file is read again
    for block in UpstreamFile(path).blocks(ignored) if missing else ():
        if any(f'"{name}"'.encode() in block.content for name in missing):  # it may also be a value or a nested name
            for _, members in line_rows.parse_json_lines(block.lines(ignored), ignored):
                found |= {name: members[name] for name in missing & members.keys()}
                missing -= members.keys()
        if not missing:
            break
    return found


def _json_columns(path: Path) -> list[str]:
    """Return the names of all members of any object, in the order of their first appearance."""
    ignored = BadRows(path.name)
    names: dict[str, None] = {}
    for _, members in line_rows.parse_json_lines(UpstreamFile(path).lines(ignored), ignored):
        names |= dict.fromkeys(members)
    return list(names)


def _frame_slices(frame: DataFrame) -> Iterator[FrameSlice]:
    for first in range(0, len(frame), EVENTS_PER_TABLE):
        yield first + 1, frame.iloc[first : first + EVENTS_PER_TABLE]


def _column_names(frame: DataFrame) -> list[str]:
    return [str(name) for name in frame.columns]


def _frame_event_tables(slices: Iterable[FrameSlice], bad_rows: BadRows) -> Iterator[pa.Table]:
    for first, frame in slices:
        columns = _column_names(frame)
        try:
            table = arrow_blocks.cast_to_event_table(
                pa.table({name: pa.array(_dates_to_seconds(frame.iloc[:, place])) for place, name in enumerate(columns)})
            )
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            table = None
        if table is not None:
            yield table
        else:
            yield from event_tables_from_rows(_frame_rows([(first, frame)]), columns, bad_rows)


def _frame_rows(slices: Iterable[FrameSlice]) -> Iterator[Row]:
    """Yield rows with the row's number, from 1, as line. Missing values become None, dates become seconds."""
    for first, frame in slices:
        columns = [_python_values(frame.iloc[:, place]) for place in range(frame.shape[1])]
        yield from enumerate(zip(*columns, strict=True), first)


def _dates_to_seconds(column: Series[Any]) -> Series[Any]:
    if isinstance(column.dtype, np.dtype | pd.DatetimeTZDtype) and column.dtype.kind == "M":
        seconds: Series[Any] = column.dt.as_unit("s").astype("int64").where(column.notna()).astype("Int64")
        return seconds
    return column


def _python_values(column: Series[Any]) -> list[object]:
    column = _dates_to_seconds(column)
    values: list[object] = column.astype(object).where(column.notna(), None).tolist()
    return [value.tolist() if isinstance(value, np.ndarray | np.generic) else value for value in values]


def _parquet_event_tables(path: Path, bad_rows: BadRows) -> Iterator[pa.Table]:
    file = _open_parquet(path)
    check_columns(_data_columns(file), REQUIRED, bad_rows.file)
    used = [name for name in EVENT_COLUMNS if name in _data_columns(file)]
    num_slices = -(-file.metadata.num_rows // EVENTS_PER_TABLE)
    for first, part in track(_parquet_slices(path, file, used), f"reading {path.name}", num_slices):
        table = arrow_blocks.cast_to_event_table(part)
        if table is not None:
            yield table
        else:
            yield from _frame_event_tables([(first, part.to_pandas(integer_object_nulls=True))], bad_rows)


def _open_parquet(path: Path) -> Any:
    try:
        return parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)  # the defaults read whole row groups
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as Parquet ({error})") from error


def _data_columns(file: Any) -> list[str]:
    """Return the columns of a Parquet file without a pandas index."""
    index = [name for name in (file.schema_arrow.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
    return [name for name in file.schema_arrow.names if name not in index]


def _parquet_slices(path: Path, file: Any, columns: list[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
    """Yield the number of the first row, from 1, and some rows."""
    first = 1
    try:
        for batch in file.iter_batches(EVENTS_PER_TABLE, columns=columns or _data_columns(file)):
            yield first, pa.Table.from_batches([batch]).replace_schema_metadata()
            first += len(batch)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as Parquet past row {first - 1} ({error})") from error


def _checked_path(table: object) -> Path:
    if not isinstance(table, Path | str):
        raise UsageError(f"a table must be a pandas DataFrame or a path, got {type(table).__qualname__}")
    path = Path(table)
    if not path.is_file():
        raise InputError(f"there is no file {path}; expected a table in CSV, TSV, JSON lines or Parquet")
    return path


def _suffix(path: Path) -> str:
    """Return the suffix that names the format, without .gz."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"][-1:]
    if suffixes and suffixes[0] in (*SEPARATORS, *JSON_LINES, ".parquet"):
        return suffixes[0]
    raise InputError(f"{path}: expected a name that ends in {', '.join((*SEPARATORS, *JSON_LINES))} (, .gz) or .parquet")


def _display_name(table: object, role: str) -> str:
    return f"{role} (DataFrame)" if isinstance(table, DataFrame) else _checked_path(table).name


def _digest(table: object) -> str:
    """Return the sha256 of a file, or of the column names, types and values of a DataFrame."""
    if table is None:
        return ""
    if not isinstance(table, DataFrame):
        return UpstreamFile(_checked_path(table)).digest()
    types = [[name, str(dtype)] for name, dtype in zip(_column_names(table), table.dtypes, strict=True)]
    digest = hashlib.sha256(json.dumps(types).encode())
    for first, frame in _frame_slices(table):
        try:
            digest.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
        except TypeError:  # a column of lists
            for _, fields in _frame_rows([(first, frame)]):
                digest.update(json.dumps(fields, default=str).encode() + b"\n")
    return digest.hexdigest()
