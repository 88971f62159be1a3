"""Stage 1, formats, a block at a time: regular blocks -> tables of events, by Arrow.

In: the bytes of whole lines, or columns of a table. Out: user: string, item: string (, time: int64) (, rating: float64, may be null),
or None where anything is irregular; then the rows are read one by one (see `rows`), with the same result. What no one asked for in a
JSON record is skipped here without a limit to its depth and digits, and may hold `Inf`, which Python's reader refuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy import ndarray
from pyarrow import csv, json

from genrec.data.readers.line_rows import FIELD_LIMIT

EXACT = 2**53  # whole numbers below it are exact as a float
_DIGITS = 15  # characters of a number's text that every reader turns into the same float
_SEPARATOR = "\x1f"  # takes the place of a separator of several characters
_PARSED = 1 << 20  # bytes that one thread parses at a time
_REFUSED = (pa.ArrowException, ValueError, TypeError, OverflowError)


def delimited(content: bytes, separator: str, names: Sequence[str], encoding: str = "utf-8") -> pa.Table | None:
    """Lines of fields without quotes; `names` are the columns of events, "" for others."""
    if not _is_regular(content) or not (content.isascii() if encoding == "latin-1" else _is_utf8(content)):
        return None
    if len(separator) > 1:
        if _SEPARATOR.encode() in content:
            return None
        content, separator = content.replace(separator.encode(), _SEPARATOR.encode()), _SEPARATOR
    columns = [name or f"column {place}" for place, name in enumerate(names)]
    wanted = {name: pa.string() for name in names if name}
    try:
        table = csv.read_csv(
            pa.BufferReader(content),
            csv.ReadOptions(column_names=columns, block_size=_PARSED),
            csv.ParseOptions(delimiter=separator, quote_char=False),
            csv.ConvertOptions(column_types=wanted, include_columns=list(wanted), strings_can_be_null=True, null_values=[""]),
        )
    except _REFUSED:
        return None
    return events(table) if len(table) == _line_count(content) else None


def json_lines(content: bytes, fields: Mapping[str, str], types: Mapping[str, pa.DataType]) -> pa.Table | None:
    """A JSON object a line; `fields` are the records' names of the columns of events, `types` those of their values."""
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n")
    count, ends = _line_count(content), (b"}", b"}\n")
    if b"\0" in content or b"\\u0000" in content or not _is_utf8(content):
        return None
    if not content.startswith(b"{") or not content.endswith(ends) or content.count(b"}\n{") != count - 1:
        return None  # elsewhere a line may hold several objects, or an object take several lines
    schema = pa.schema([(fields[name], types[name]) for name in fields])
    try:
        table = json.read_json(
            pa.BufferReader(content),
            json.ReadOptions(block_size=_PARSED),
            json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except _REFUSED:
        return None
    return events(table.rename_columns(list(fields))) if len(table) == count else None


def events(table: pa.Table) -> pa.Table | None:
    """Columns user, item (, time) (, rating) of any type -> events, where every row is good."""
    readers = {"user": _identifiers, "item": _identifiers, "time": _times, "rating": _ratings}
    columns = {}
    for name, read in readers.items():
        if name in table.column_names:
            try:
                column = read(_array(table[name]))
            except _REFUSED:
                return None
            if column is None:
                return None
            columns[name] = column
    return pa.table(columns)


def _is_regular(content: bytes) -> bool:
    """No NUL, one kind of line end, no line so long that a field could be over the limit."""
    window = FIELD_LIMIT // 2
    return (
        b"\0" not in content
        and (b"\r" not in content or content.count(b"\r") == content.count(b"\r\n"))
        and all(content.find(b"\n", start, start + window) >= 0 for start in range(0, len(content) - window, window))
    )


def _is_utf8(content: bytes) -> bool:
    try:
        return content.isascii() or bool(content.decode())
    except UnicodeDecodeError:
        return False


def _line_count(content: bytes) -> int:
    return content.count(b"\n") + (not content.endswith(b"\n"))


def _array(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, without dictionary."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else array.chunk(0)


def _identifiers(array: pa.Array) -> pa.Array | None:
    if array.null_count:
        return None
    if pa.types.is_integer(array.type):
        return array.cast(pa.string())
    if not _is_text(array.type):
        return None
    array = array.cast(pa.string())
    array.validate(full=True)
    lengths, characters = _text(array)
    return None if (lengths == 0).any() or (characters == 0).any() else array


def _times(array: pa.Array) -> pa.Array | None:
    if array.null_count:
        return None
    if _is_text(array.type):
        array = array.cast(pa.string())
        if not _is_number(array, b"-"):
            return None
    elif pa.types.is_floating(array.type):
        numbers = array.cast(pa.float64()).to_numpy()
        if not np.isfinite(numbers).all():
            return None
    elif not pa.types.is_integer(array.type):
        return None
    times = array.cast(pa.int64())  # safe: a fraction is refused
    return times if _is_exact(times) and pc.any(pc.less(times, 0)).as_py() is not True else None


def _ratings(array: pa.Array) -> pa.Array | None:
    if _is_text(array.type):
        array = array.cast(pa.string())
        if not _is_number(array, b"-."):
            return None
    elif not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_null(array.type)):
        return None
    ratings = array.cast(pa.float64())
    return ratings if pc.all(pc.is_finite(ratings)).as_py() is not False and _is_exact(ratings) else None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _text(array: pa.Array) -> tuple[ndarray, ndarray]:
    """Lengths in bytes, and all bytes, of an array of strings."""
    _, offsets, content = array.buffers()
    places = (
        np.frombuffer(offsets, dtype=np.int32)[array.offset : array.offset + len(array) + 1] if len(array) else np.zeros(1, np.int32)
    )
    characters = np.frombuffer(content, dtype=np.uint8) if content is not None else np.zeros(0, dtype=np.uint8)
    return np.diff(places), characters[places[0] : places[-1]]


def _is_number(array: pa.Array, others: bytes) -> bool:
    """Nothing but digits and these characters, and few of them: hexadecimal, infinite and padded numbers are left to `rows`."""
    lengths, characters = _text(array)
    odd = (characters < ord("0")) | (characters > ord("9"))
    return bool(np.isin(characters[odd], list(others)).all()) and (not len(lengths) or int(lengths.max()) <= _DIGITS)


def _is_exact(numbers: pa.Array) -> bool:
    least, most = pc.min_max(numbers).as_py().values()
    return bool(least is None or -EXACT < least <= most < EXACT)
