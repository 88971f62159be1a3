"""Normalization of a source's tables: a DataFrame or an Arrow table of any kind becomes an Arrow table with fixed column types.

Raises InputError if a table lacks a column, or if a column has the wrong type.
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


class NormalizedInteractions(NamedTuple):
    """One table of interactions. Times are still as the source gave them."""

    table: pa.Table  # user, item: string; rating: float64, null where missing
    time: ndarray  # int64 or float64 [rows], NaN where missing


def normalize_interactions(table: Any) -> NormalizedInteractions:
    """Normalize a table with the columns user, item, time and optionally rating; drop its other columns."""
    arrow = _arrow_table(table, ("user", "item", "time"), ("rating",), "interactions")
    rating = _ratings(arrow["rating"]) if "rating" in arrow.column_names else pa.nulls(len(arrow), pa.float64())
    ids = {name: _ids(arrow[name], name, "interactions") for name in ("user", "item")}
    return NormalizedInteractions(pa.table({**ids, "rating": rating}), _times(arrow["time"]))


def normalize_items(table: Any) -> pa.Table:
    """Normalize a table with the columns item, text and any others: all become strings, "" where missing."""
    if isinstance(table, DataFrame):
        names = [str(name) for name in table.columns]
        _require(names, ("item", "text"), "items")
        columns = {name: _text(table[label]) for name, label in zip(names, table.columns, strict=True) if name != "item"}
        return pa.table({"item": _ids(_arrow_table(table, ("item",), (), "items")["item"], "item", "items"), **columns})
    arrow = _arrow_table(table, ("item", "text"), None, "items")
    texts = {name: pc.fill_null(arrow[name].cast(pa.string()), "") for name in arrow.column_names if name != "item"}
    return pa.table({"item": _ids(arrow["item"], "item", "items"), **texts})


def _arrow_table(table: Any, required: tuple[str, ...], optional: tuple[str, ...] | None, kind: str) -> pa.Table:
    """Convert to Arrow with the required columns and those optional ones that exist (None: all columns)."""
    if not isinstance(table, DataFrame | pa.RecordBatch) and not hasattr(table, "__arrow_c_stream__"):
        raise InputError(f"the source's {kind} must be DataFrames or Arrow tables, got {type(table).__qualname__}")
    exported = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
    whole = exported if isinstance(exported, DataFrame) else pa.table(exported)
    names = list(whole.columns) if isinstance(whole, DataFrame) else whole.column_names
    _require(names, required, kind)
    wanted = [name for name in names if optional is None or name in (*required, *optional)]
    if not isinstance(whole, DataFrame):
        return whole.select(wanted)
    try:
        return pa.Table.from_pandas(whole[wanted], preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(
            f"each column of the source's {kind} must have one type: ids are text, times are int64 seconds since 1970 ({error})"
        ) from error


def _require(names: Sequence[str], required: tuple[str, ...], kind: str) -> None:
    absent = [column for column in required if column not in names]
    if absent:
        raise InputError(f"the source's {kind} have no column {absent[0]!r}, only {', '.join(map(str, names))}")


def _ids(column: pa.ChunkedArray, name: str, kind: str) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not len(column):
        return pa.chunked_array([], pa.string())  # an empty column of pandas has any type
    if not any(is_text(column.type) for is_text in TEXT) or column.null_count:
        found = f"{column.null_count} missing values" if column.null_count else str(column.type)
        raise InputError(f"the source's {kind} must have text in column {name!r}, got {found}; ids are text, unchanged")
    return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column  # Arrow joins views with views only


def _times(column: pa.ChunkedArray) -> ndarray:
    """Return int64 if no time is missing, else float64 with NaN."""
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise InputError(f"a source's times must be int64 seconds since 1970, got {column.type}")
    if pa.types.is_integer(column.type) and not column.null_count:
        return np.asarray(column.to_numpy(), dtype=np.int64)
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _ratings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return float64, null where the rating is missing or NaN."""
    try:
        floats = column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"a source's ratings must be numbers, got {column.type} ({error})") from error
    return pc.if_else(pc.is_nan(floats), pa.scalar(None, pa.float64()), floats)


def _text(column: pd.Series[Any]) -> pa.Array:
    return pa.array(column.astype(object).where(column.notna(), "").astype(str), pa.string(), from_pandas=True)
