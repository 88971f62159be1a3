"""Stage 1, tables: rows of any format -> the interactions and items of `RawTables`.

Ids are text and stay as they are: "007", "nan", "a b" and emoji are ids. Integers become their digits. An event whose user, item or
time can't be read is set aside; a rating may be missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import pandas as pd
from numpy import ndarray
from pandas import DataFrame, Series

from genrec.data.sources.ledger import Ledger
from genrec.data.sources.rows import Row
from genrec.data.sources.text import flat

CHUNK = 1 << 16  # rows that are Python objects at one time
_EXACT = float(2**53)  # larger numbers are no time in any unit that a float could hold


def identifier(value: object) -> str | None:
    """An id as text, unchanged; None for what is no id."""
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:  # half of a surrogate pair, from JSON
                return None
        return value if value and "\0" not in value else None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def events(rows: Iterable[Row], columns: Sequence[str], ledger: Ledger) -> DataFrame:
    """Rows of (user, item[, time][, rating]), named by `columns` -> interactions, in file order.

    Without times the order of the rows is time: row 0, 1, 2, ...
    """
    chunks = [_chunk_of_events(chunk, columns, ledger) for chunk in _chunks(rows)]
    frame = pd.concat(chunks, ignore_index=True) if chunks else _chunk_of_events([], columns, ledger)
    if "time" not in columns:
        frame.insert(2, "time", np.arange(len(frame), dtype=np.int64))
    if "rating" in frame and frame["rating"].isna().all():
        frame = frame.drop(columns="rating")
    return frame


def _chunk_of_events(chunk: Sequence[Row], columns: Sequence[str], ledger: Ledger) -> DataFrame:
    values: dict[str, list[object]] = {name: [fields[place] for _, fields in chunk] for place, name in enumerate(columns)}
    result: dict[str, list[str | None] | ndarray] = {}
    good = np.ones(len(chunk), dtype=bool)

    def refuse(bad: ndarray, reason: str) -> None:
        for place in np.flatnonzero(bad & good).tolist():
            ledger.malformed(chunk[place][0], reason)
        good[bad] = False

    for name in ("user", "item"):
        ids = [identifier(value) for value in values[name]]
        refuse(np.array([value is None for value in ids], dtype=bool), f"the {name} is empty, or neither text nor an integer")
        result[name] = ids
    if "time" in values:
        numbers = _numbers(values["time"])
        whole = np.isfinite(numbers) & (np.abs(numbers) < _EXACT) & (numbers == np.floor(numbers))
        refuse(~whole, "the time is null or no whole number of seconds")
        result["time"] = np.where(whole, numbers, 0).astype(np.int64)
    if "rating" in values:
        ratings = _numbers(values["rating"])
        missing = np.array([value in (None, "") or value is np.nan for value in values["rating"]], dtype=bool)
        refuse(~missing & ~np.isfinite(ratings), "the rating is no number")
        result["rating"] = ratings
    frame = DataFrame({name: Series(value, dtype=str if isinstance(value, list) else None) for name, value in result.items()})
    return frame[good]


def _numbers(values: list[object]) -> ndarray:
    """Numbers and texts of numbers -> float64, NaN for the rest."""
    return pd.to_numeric(Series(values, dtype=object), errors="coerce").to_numpy(dtype=np.float64)


def catalogue(rows: Iterable[tuple[int, object, Mapping[str, str]]], columns: Sequence[str], ledger: Ledger) -> DataFrame:
    """Rows of (line, id, fields) -> the items table, one row an item: its first record counts."""
    ids: list[str] = []
    fields: dict[str, list[str]] = {name: [] for name in columns}
    seen: set[str] = set()
    for line, value, record in rows:
        item = identifier(value)
        if item is None:
            ledger.malformed(line, "the item is empty, or neither text nor an integer")
        elif item in seen:
            ledger.superfluous(line, "the item is listed before; its first record counts")
        else:
            seen.add(item)
            ids.append(item)
            for name in columns:
                fields[name].append(record[name])
    return DataFrame({"item": Series(ids, dtype=str), **{name: Series(fields[name], dtype=str) for name in columns}})


def plain_items(rows: Iterable[Row], columns: Sequence[str], ledger: Ledger) -> DataFrame:
    """Rows with a column `item`, and others that are taken as text; where there is no `text`, the others together are it."""
    others = [name for name in columns if name != "item"]
    key = list(columns).index("item")

    def entries() -> Iterator[tuple[int, object, dict[str, str]]]:
        for line, fields in rows:
            record = {name: flat(value, "|") for name, value in zip(columns, fields, strict=True) if name != "item"}
            yield line, fields[key], {"text": ". ".join(text for text in record.values() if text), **record}

    return catalogue(entries(), ["text", *(name for name in others if name != "text")], ledger)


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    source = iter(rows)
    while chunk := list(islice(source, CHUNK)):
        yield chunk
