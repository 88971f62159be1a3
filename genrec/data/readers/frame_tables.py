"""Tables in memory, as pandas DataFrames, and in Parquet files: their columns, event tables and rows.

Values of items become the text that `DataFrame.to_csv` writes, so that a table and its CSV file give the same catalog.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas import DataFrame, Series
from pandas.api.types import infer_dtype
from pyarrow import parquet

from genrec.data.readers import arrow_blocks
from genrec.data.readers.bad_rows import BadRows
from genrec.data.readers.line_rows import Row
from genrec.data.readers.raw_tables import event_tables_from_rows
from genrec.data.readers.time_texts import TimeTexts
from genrec.errors import InputError
from genrec.input_files import RESTORE, describe_error, reading
from genrec.progress import track

ROWS = 1 << 17  # rows that are converted at once
FrameSlice = tuple[int, DataFrame]  # number of the first row, from 1, and some rows of a table


def column_names(frame: DataFrame) -> list[str]:
    """Return the names of the columns as text."""
    return [str(name) for name in frame.columns]


def frame_slices(frame: DataFrame) -> Iterator[FrameSlice]:
    """Yield the number of the first row, from 1, and some rows."""
    for first in range(0, len(frame), ROWS):
        yield first + 1, frame.iloc[first : first + ROWS]


def frame_event_tables(
    slices: Iterable[FrameSlice], columns: Sequence[str], bad_rows: BadRows, times: TimeTexts
) -> Iterator[pa.Table]:
    """Yield the event tables of a DataFrame; `columns` is the event column of each of its columns."""
    for first, frame in slices:
        try:
            arrays = {name: pa.array(_dates_to_seconds(frame.iloc[:, place])) for place, name in enumerate(columns)}
            table = arrow_blocks.cast_to_event_table(pa.table(arrays), times)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            table = None
        if table is not None:
            yield table
        else:
            yield from event_tables_from_rows(frame_rows([(first, frame)]), columns, bad_rows, times)


def frame_rows(slices: Iterable[FrameSlice]) -> Iterator[Row]:
    """Yield rows with the row's number, from 1, as line. Missing values become None, dates become seconds."""
    for first, frame in slices:
        columns = [_python_values(_dates_to_seconds(frame.iloc[:, place])) for place in range(frame.shape[1])]
        yield from enumerate(zip(*columns, strict=True), first)


def frame_item_rows(frame: DataFrame, first: int = 1) -> Iterator[Row]:
    """Yield rows as `frame_rows` does, with dates and fractions as `DataFrame.to_csv` writes them."""
    columns = [_dates_as_text(frame.iloc[:, place]) for place in range(frame.shape[1])]
    for begin in range(0, len(frame), ROWS):
        values = [_as_in_csv(_python_values(column.iloc[begin : begin + ROWS])) for column in columns]
        yield from enumerate(zip(*values, strict=True), first + begin)


def has_dates(column: Series[Any]) -> bool:
    """Return whether pandas stores the column as dates."""
    return isinstance(column.dtype, np.dtype | pd.DatetimeTZDtype | pd.ArrowDtype) and column.dtype.kind == "M"


def _dates_to_seconds(column: Series[Any]) -> Series[Any]:
    if has_dates(column):
        moments = column.astype(object) if isinstance(column.dtype, pd.ArrowDtype) else column
        seconds: Series[Any] = pd.to_datetime(moments).dt.as_unit("s").astype("int64").where(column.notna()).astype("Int64")
        return seconds
    return column


def _dates_as_text(column: Series[Any]) -> Series[Any]:
    """Write dates as pandas does: without a time of day if all are midnight."""
    return column.astype(str).where(column.notna()) if has_dates(column) else column


def _python_values(column: Series[Any]) -> list[object]:
    values: list[object] = column.astype(object).where(column.notna(), None).tolist()
    return [value.tolist() if isinstance(value, np.ndarray | np.generic) else value for value in values]


def _as_in_csv(values: list[object]) -> list[object]:
    return [value if value is None or isinstance(value, str | int | list | tuple) else str(value) for value in values]


def frame_digest(frame: DataFrame) -> str:
    """Return the sha256 of the names, types and values of the columns."""
    types = [[name, str(dtype)] for name, dtype in zip(column_names(frame), frame.dtypes, strict=True)]
    digest = hashlib.sha256(json.dumps(types).encode())
    for first, part in frame_slices(frame):
        try:
            digest.update(pd.util.hash_pandas_object(part, index=False).to_numpy().tobytes())
        except TypeError:  # a column of lists
            for _, fields in frame_rows([(first, part)]):
                digest.update(json.dumps(fields, default=str).encode() + b"\n")
        else:
            for column in (part.iloc[:, place] for place in range(part.shape[1])):
                values = column.dtype.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
                if infer_dtype(values).startswith("mixed"):  # pandas takes 1, 1.0, True and "1.0" in one column for equal
                    digest.update(json.dumps(_python_values(column), default=repr).encode())
    return digest.hexdigest()


class ParquetTable:
    """An open Parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path, "a Parquet file"):
            self._file: Any = parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)  # the defaults read whole row groups
            self.columns: list[str] = self._data_columns()  # without the index that pandas writes
            self.num_rows = max(0, int(self._file.metadata.num_rows))

    def _data_columns(self) -> list[str]:
        metadata = self._file.schema_arrow.pandas_metadata or {}
        index = [name for name in metadata.get("index_columns", []) if isinstance(name, str)]
        return [name for name in self._file.schema_arrow.names if name not in index]

    def has_dates(self, column: str | None) -> bool:
        """Return whether a column holds dates or times of a calendar."""
        return column is not None and pa.types.is_temporal(self._file.schema_arrow.field(column).type)

    def event_tables(self, columns: dict[str, str], bad_rows: BadRows, times: TimeTexts) -> Iterator[pa.Table]:
        """Yield event tables; `columns` maps event columns to those of the file."""
        num_slices = -(-self.num_rows // ROWS)
        for first, part in track(self._slices(list(columns.values())), f"reading {self.path.name}", num_slices):
            named = part.select(list(columns.values())).rename_columns(list(columns))
            with reading(self.path, "a Parquet file"):
                table = arrow_blocks.cast_to_event_table(named, times)
                frame = None if table is not None else _validated(named).to_pandas(integer_object_nulls=True)
            if frame is None:
                yield table
            else:
                yield from frame_event_tables([(first, frame)], list(columns), bad_rows, times)

    def item_rows(self) -> Iterator[Row]:
        """Yield the rows of all columns, as `frame_item_rows` does."""
        for first, part in self._slices(self.columns):
            with reading(self.path, "a Parquet file"):
                frame = _validated(part).to_pandas(integer_object_nulls=True)
            yield from frame_item_rows(frame, first)

    def _slices(self, columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yield the number of the first row, from 1, and some rows."""
        first = 1
        batches = self._file.iter_batches(ROWS, columns=columns)
        while True:
            try:
                batch = next(batches, None)
            except Exception as error:  # pyarrow raises errors of many classes for damaged files
                raise InputError(
                    f"{self.path} can't be read as Parquet past row {first - 1} ({describe_error(error)}); {RESTORE}"
                ) from error
            if batch is None:
                return
            yield first, pa.Table.from_batches([batch]).replace_schema_metadata()
            first += len(batch)


def _validated(table: pa.Table) -> pa.Table:
    """Return the table; raise an Arrow error if a text is not UTF-8, which pandas would only find when it is used."""
    table.validate(full=True)
    return table
