"""Stage 1, tables: rows of any format -> the interactions and items of `RawTables`, in pieces.

Ids are text and stay as they are: "007", "nan", "a b" and emoji are ids. Integers become their digits. An event whose user, item or
time can't be read is set aside; a rating may be missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy import ndarray
from pandas import Series

from genrec.data.readers.arrow_blocks import EXACT
from genrec.data.readers.bad_rows import BadRows
from genrec.data.readers.item_text import flat
from genrec.data.readers.line_rows import Row

NO_TIME = "the time is null or no whole number of seconds"
NEGATIVE_TIME = "the time is negative"
CHUNK = 1 << 16  # rows that are Python objects at one time
ITEMS = 1 << 14  # items of a piece
Entry = tuple[int, object, Mapping[str, str]]  # line, id, fields


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


def events(rows: Iterable[Row], columns: Sequence[str], ledger: BadRows) -> Iterator[pa.Table]:
    """Rows of fields, named by `columns`, of which user, item, time and rating are taken -> tables of events, in file order."""
    source = iter(rows)
    while chunk := list(islice(source, CHUNK)):
        yield _chunk_of_events(chunk, columns, ledger)


def _chunk_of_events(chunk: Sequence[Row], columns: Sequence[str], ledger: BadRows) -> pa.Table:
    values: dict[str, list[object]] = {name: [fields[place] for _, fields in chunk] for place, name in enumerate(columns) if name}
    result: dict[str, pa.Array] = {}
    good = np.ones(len(chunk), dtype=bool)

    def refuse(bad: ndarray, reason: str) -> None:
        for place in np.flatnonzero(bad & good).tolist():
            ledger.malformed(chunk[place][0], reason)
        good[bad] = False

    for name in ("user", "item"):
        ids = [identifier(value) for value in values[name]]
        refuse(np.array([value is None for value in ids], dtype=bool), f"the {name} is empty, or neither text nor an integer")
        result[name] = pa.array(ids, pa.string())
    if "time" in values:
        numbers = _numbers(values["time"])
        whole = np.isfinite(numbers) & (np.abs(numbers) < EXACT) & (numbers == np.floor(numbers))
        refuse(~whole, NO_TIME)
        refuse(whole & (numbers < 0), NEGATIVE_TIME)
        result["time"] = pa.array(np.where(whole, numbers, 0).astype(np.int64))
    if "rating" in values:
        ratings = _numbers(values["rating"])
        missing = np.array([value in (None, "") or value is np.nan for value in values["rating"]], dtype=bool)
        refuse(~missing & ~np.isfinite(ratings), "the rating is no number")
        result["rating"] = pa.array(ratings, mask=missing)
    return pa.table(result).filter(pa.array(good))


def _numbers(values: list[object]) -> ndarray:
    """Numbers and texts of numbers -> float64, NaN for the rest."""
    try:
        numbers = pd.to_numeric(Series(values, dtype=object), errors="coerce")
    except OverflowError:  # an integer that no float can hold
        return _numbers([math.inf if isinstance(value, int) and abs(value) >= EXACT else value for value in values])
    return numbers.to_numpy(dtype=np.float64)


def catalog(entries: Iterable[Entry], columns: Sequence[str], ledger: BadRows, tolerated: float) -> Iterator[pa.Table]:
    """Entries of (line, id, fields) -> tables of items, one row an item: its first record counts. At least one table."""
    good = _first_records(entries, ledger)
    count = 0
    while True:
        batch = list(islice(good, ITEMS))
        if batch or not count:
            yield item_table(batch, columns)
        count += len(batch)
        if len(batch) < ITEMS:
            break
    ledger.check(count, tolerated)


def item_table(items: Sequence[tuple[str, Mapping[str, str]]], columns: Sequence[str]) -> pa.Table:
    """Ids and fields of items as a table; without items, an empty one."""
    texts = {name: pa.array([fields[name] for _, fields in items], pa.string()) for name in columns}
    return pa.table({"item": pa.array([item for item, _ in items], pa.string()), **texts})


def _first_records(entries: Iterable[Entry], ledger: BadRows) -> Iterator[tuple[str, Mapping[str, str]]]:
    seen: set[str] = set()
    for line, value, fields in entries:
        item = identifier(value)
        if item is None:
            ledger.malformed(line, "the item is empty, or neither text nor an integer")
        elif item in seen:
            ledger.superfluous(line, "the item is listed before; its first record counts")
        else:
            seen.add(item)
            yield item, fields


def plain_items(rows: Iterable[Row], columns: Sequence[str], ledger: BadRows, tolerated: float) -> Iterator[pa.Table]:
    """Rows with a column `item`, and others that are taken as text; where there is no `text`, the others together are it."""
    key = list(columns).index("item")

    def entries() -> Iterator[Entry]:
        for line, fields in rows:
            record = {name: flat(value, "|") for name, value in zip(columns, fields, strict=True) if name != "item"}
            yield line, fields[key], {"text": ". ".join(text for text in record.values() if text), **record}

    return catalog(entries(), ["text", *(name for name in columns if name not in ("item", "text"))], ledger, tolerated)
