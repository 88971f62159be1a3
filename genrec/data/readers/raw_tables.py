"""Convert rows to event tables and item tables.

Ids are text and stay unchanged: "007", "nan", "a b" and emoji are ids. Integers are written in decimal digits. A row without a
readable user, item or time is set aside; a rating may be missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy import ndarray

from genrec.data.readers.bad_rows import BadRows
from genrec.data.readers.item_text import LostTitles, flat_text
from genrec.data.readers.line_rows import Row
from genrec.data.readers.time_texts import NEGATIVE_TIME, TimeTexts, numbers_of

ROWS_PER_TABLE = 1 << 16  # rows that are Python objects at once
ITEMS_PER_TABLE = 1 << 14
ID_BITS = 10_000  # an integer with more bits is no id; Python converts integers of up to 4,300 digits to text
FLOAT_IDS = {name: f"the {name} is a floating-point number, neither text nor an integer" for name in ("user", "item")}
DECIMAL_COMMA = "the rating has a decimal comma"
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
ItemRow = tuple[int, object, Mapping[str, str]]  # line number, item id, text columns


def id_text(value: object) -> str | None:
    """Return an id as text; None if the value is not an id."""
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:  # half of a surrogate pair, from JSON
                return None
        return value if value and "\0" not in value else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return str(value) if value.bit_length() <= ID_BITS else None


def id_fault(column: str, value: object) -> str:
    """Return why a value of the column user or item is no id."""
    if isinstance(value, float) and not math.isnan(value):
        return FLOAT_IDS[column]
    return f"the {column} is empty, or neither text nor an integer"


def event_tables_from_rows(
    rows: Iterable[Row], columns: Sequence[str], bad_rows: BadRows, times: TimeTexts | None = None
) -> Iterator[pa.Table]:
    """Yield event tables in file order. `columns` names the fields of a row; user, item, time and rating are used."""
    remaining, times = iter(rows), times or TimeTexts()
    while table_rows := list(islice(remaining, ROWS_PER_TABLE)):
        yield _event_table(table_rows, columns, bad_rows, times)


def _event_table(rows: Sequence[Row], columns: Sequence[str], bad_rows: BadRows, times: TimeTexts) -> pa.Table:
    values: dict[str, list[object]] = {name: [fields[place] for _, fields in rows] for place, name in enumerate(columns) if name}
    result: dict[str, pa.Array] = {}
    good = np.ones(len(rows), dtype=bool)

    def set_aside(bad: ndarray, reason: str) -> None:
        for place in np.flatnonzero(bad & good).tolist():
            bad_rows.malformed(rows[place][0], reason)
        good[bad] = False

    for name in ("user", "item"):
        ids = [id_text(value) for value in values[name]]
        for fault in (FLOAT_IDS[name], id_fault(name, None)):
            bad = [found is None and id_fault(name, value) == fault for found, value in zip(ids, values[name], strict=True)]
            set_aside(np.array(bad, dtype=bool), fault)
        result[name] = pa.array(ids, pa.string())
    if "time" in values:
        seconds = times.seconds(values["time"])
        set_aside(np.isnan(seconds), times.reason)
        set_aside(seconds < 0, NEGATIVE_TIME)
        result["time"] = pa.array(np.nan_to_num(seconds).astype(np.int64))
    if "rating" in values:
        ratings = numbers_of(values["rating"])
        missing = np.array([value in (None, "") or value is np.nan for value in values["rating"]], dtype=bool)
        commas = [isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value) is not None for value in values["rating"]]
        set_aside(np.array(commas, dtype=bool), DECIMAL_COMMA)
        set_aside(~missing & ~np.isfinite(ratings), "the rating is not a finite number")
        result["rating"] = pa.array(ratings, mask=missing)
    return pa.table(result).filter(pa.array(good))


def item_tables_from_rows(
    rows: Iterable[ItemRow], columns: Sequence[str], bad_rows: BadRows, max_bad_rows: float
) -> Iterator[pa.Table]:
    """Yield at least one item table with the given text columns. The first row of an item is used, later ones are set aside."""
    items = _first_rows(rows, bad_rows)
    count = 0
    while True:
        table_items = list(islice(items, ITEMS_PER_TABLE))
        if table_items or not count:
            yield item_table(table_items, columns)
        count += len(table_items)
        if len(table_items) < ITEMS_PER_TABLE:
            break
    bad_rows.check(count, max_bad_rows)


def item_table(items: Sequence[tuple[str, Mapping[str, str]]], columns: Sequence[str]) -> pa.Table:
    """Return an item table of ids and text columns."""
    texts = {name: pa.array([fields[name] for _, fields in items], pa.string()) for name in columns}
    return pa.table({"item": pa.array([item for item, _ in items], pa.string()), **texts})


def _first_rows(rows: Iterable[ItemRow], bad_rows: BadRows) -> Iterator[tuple[str, Mapping[str, str]]]:
    seen: set[str] = set()
    for line, value, fields in rows:
        item = id_text(value)
        if item is None:
            bad_rows.malformed(line, id_fault("item", value))
        elif item in seen:
            bad_rows.redundant(line, "the item has an earlier row; the first row is used")
        else:
            seen.add(item)
            yield item, fields


def item_tables_from_plain_rows(
    rows: Iterable[Row], columns: Sequence[str], bad_rows: BadRows, max_bad_rows: float
) -> Iterator[pa.Table]:
    """Yield item tables from rows with a column `item`; the other columns become text.

    Without a column `text`, it is made of the other columns. A warning counts the titles that hold nothing but markup, which are lost.
    """
    item_place, title_place = list(columns).index("item"), columns.index("title") if "title" in columns else None
    lost = LostTitles(bad_rows.file)

    def item_rows() -> Iterator[ItemRow]:
        for line, fields in rows:
            texts = {name: flat_text(value, "|") for name, value in zip(columns, fields, strict=True) if name != "item"}
            if title_place is not None:
                lost.count(line, fields[title_place], texts["title"])
            yield line, fields[item_place], {"text": ". ".join(text for text in texts.values() if text), **texts}

    names = ["text", *(name for name in columns if name not in ("item", "text"))]
    yield from item_tables_from_rows(item_rows(), names, bad_rows, max_bad_rows)
    lost.report()
