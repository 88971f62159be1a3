"""Stage 1, what a source hands over: pieces in whatever form -> Arrow tables of one form. What a source owes is checked here.

In: pandas DataFrames, pyarrow Tables, or whatever exports Arrow. Out: events with text ids, or items with text columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy import ndarray
from pandas import DataFrame

from genrec.errors import InputError

TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


class Events(NamedTuple):
    """A piece of interactions."""

    table: pa.Table  # user, item: string; rating: float64, null where there is none
    time: ndarray  # int64 or float64 [rows], NaN where there is none


def event_piece(piece: Any) -> Events:
    """A piece of interactions: user, item, time (, rating), other columns are left out."""
    table = _table(piece, ("user", "item", "time"), ("rating",), "interactions")
    rating = _floats(table["rating"]) if "rating" in table.column_names else pa.nulls(len(table), pa.float64())
    ids = {name: _ids(table[name], name, "interactions") for name in ("user", "item")}
    return Events(pa.table({**ids, "rating": rating}), _times(table["time"]))


def item_piece(piece: Any) -> pa.Table:
    """A piece of items: item, text, and more columns, all as text, "" where they are missing."""
    if isinstance(piece, DataFrame):
        names = [str(name) for name in piece.columns]
        _require(names, ("item", "text"), "items")
        columns = {name: _text(piece[own]) for name, own in zip(names, piece.columns, strict=True) if name != "item"}
        return pa.table({"item": _ids(_table(piece, ("item",), (), "items")["item"], "item", "items"), **columns})
    table = _table(piece, ("item", "text"), None, "items")
    texts = {name: pc.fill_null(table[name].cast(pa.string()), "") for name in table.column_names if name != "item"}
    return pa.table({"item": _ids(table["item"], "item", "items"), **texts})


def _table(piece: Any, required: tuple[str, ...], optional: tuple[str, ...] | None, what: str) -> pa.Table:
    """The piece with the required columns, and those of the optional ones that it has (None: all)."""
    if not isinstance(piece, DataFrame | pa.RecordBatch) and not hasattr(piece, "__arrow_c_stream__"):
        raise InputError(f"a piece of the source's {what} must be a DataFrame or an Arrow table, got {type(piece).__qualname__}")
    batch = pa.Table.from_batches([piece]) if isinstance(piece, pa.RecordBatch) else piece
    whole = batch if isinstance(batch, DataFrame) else pa.table(batch)
    names = list(whole.columns) if isinstance(whole, DataFrame) else whole.column_names
    _require(names, required, what)
    wanted = [name for name in names if optional is None or name in (*required, *optional)]
    if not isinstance(whole, DataFrame):
        return whole.select(wanted)
    try:
        return pa.Table.from_pandas(whole[wanted], preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(
            f"the source's {what} must have one type a column: ids are text, unchanged, and times int64 seconds since 1970 ({error})"
        ) from error


def _require(names: Sequence[str], required: tuple[str, ...], what: str) -> None:
    absent = [column for column in required if column not in names]
    if absent:
        raise InputError(f"the source's {what} have no column {absent[0]!r}, only {', '.join(map(str, names))}")


def _ids(column: pa.ChunkedArray, name: str, what: str) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type) and not len(column):
        column = column.cast(pa.string())
    if not any(is_text(column.type) for is_text in TEXT) or column.null_count:
        found = f"{column.null_count} missing" if column.null_count else str(column.type)
        raise InputError(f"the source's {what} must have text in column {name!r}, got {found}; ids are text, unchanged")
    return column


def _times(column: pa.ChunkedArray) -> ndarray:
    """int64 where all are there, else float64."""
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise InputError(f"a source's times must be int64 seconds since 1970, got {column.type}")
    if pa.types.is_integer(column.type) and not column.null_count:
        return np.asarray(column.to_numpy(), dtype=np.int64)
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _floats(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """float64, null where it is missing or NaN."""
    try:
        floats = column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"a source's ratings must be numbers, got {column.type} ({error})") from error
    return pc.if_else(pc.is_nan(floats), pa.scalar(None, pa.float64()), floats)


def _text(column: pd.Series[Any]) -> pa.Array:
    return pa.array(column.astype(object).where(column.notna(), "").astype(str), pa.string(), from_pandas=True)
