"""Parse whole blocks to tables with Arrow, and cast them to event tables.

The functions return None for anything irregular; the block is then parsed row by row by `line_rows`, with the same result. One
difference: members of a JSON object that are not used are skipped here without a limit on their depth and digits, and may hold `Inf`,
which Python's parser rejects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy import ndarray
from pyarrow import csv, json

from genrec.data.readers.column_names import EVENT_COLUMNS
from genrec.data.readers.line_rows import FIELD_LIMIT
from genrec.data.readers.time_texts import EXACT_LIMIT, TimeTexts

_MAX_DIGITS = 15  # characters of a number that every parser converts to the same float
_SEPARATOR = "\x1f"  # replaces a separator of several characters, which Arrow does not support
_PARSE_SIZE = 1 << 20  # bytes that one thread parses at a time
_ARROW_ERRORS = (pa.ArrowException, ValueError, TypeError, OverflowError)


def parse_delimited_block(content: bytes, separator: str, names: Sequence[str], encoding: str = "utf-8") -> pa.Table | None:
    """Parse whole lines, of fields without quotes, to a table of text. `names` is the event column of each field, "" if unused."""
    if not _is_regular(content) or not (_is_utf8(content) if encoding == "utf-8" else content.isascii()):
        return None
    if len(separator) > 1:
        if _SEPARATOR.encode() in content:
            return None
        content, separator = content.replace(separator.encode(), _SEPARATOR.encode()), _SEPARATOR
    columns = [name or f"column {place}" for place, name in enumerate(names)]
    used = {name: pa.string() for name in names if name}
    try:
        table = csv.read_csv(
            pa.BufferReader(content),
            csv.ReadOptions(column_names=columns, block_size=_PARSE_SIZE),
            csv.ParseOptions(delimiter=separator, quote_char=False),
            csv.ConvertOptions(column_types=used, include_columns=list(used), strings_can_be_null=True, null_values=[""]),
        )
    except _ARROW_ERRORS:
        return None
    return table if len(table) == _line_count(content) else None


def parse_json_block(
    content: bytes, members: Mapping[str, str], types: Mapping[str, pa.DataType], encoding: str = "utf-8"
) -> pa.Table | None:
    """Parse whole lines, each a JSON object, to a table.

    `members` maps event columns to names in the JSON objects, `types` to the Arrow types of their values.
    """
    if encoding != "utf-8" and not content.isascii():
        return None
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n")
    count, ends = _line_count(content), (b"}", b"}\n")
    if b"\0" in content or b"\\u0000" in content or not _is_utf8(content):
        return None
    if not content.startswith(b"{") or not content.endswith(ends) or content.count(b"}\n{") != count - 1:
        return None  # a line may hold several objects, or an object may span several lines
    schema = pa.schema([(members[name], types[name]) for name in members])
    try:
        table = json.read_json(
            pa.BufferReader(content),
            json.ReadOptions(block_size=_PARSE_SIZE),
            json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except _ARROW_ERRORS:
        return None
    return table.rename_columns(list(members)) if len(table) == count else None


def cast_to_event_table(table: pa.Table, times: TimeTexts) -> pa.Table | None:
    """Cast the columns user, item, and optionally time and rating from any type; None if a value of any row is not valid."""
    casts: dict[str, Callable[[pa.Array], pa.Array | None]] = {
        "user": _cast_ids,
        "item": _cast_ids,
        "rating": _cast_ratings,
        "time": partial(_cast_times, times=times),
    }
    columns = {}
    for name, cast in casts.items():
        if name in table.column_names:
            try:
                column = cast(_combine(table[name]))
            except _ARROW_ERRORS:
                return None
            if column is None:
                return None
            columns[name] = column
    return pa.table({name: columns[name] for name in EVENT_COLUMNS if name in columns})


def _is_regular(content: bytes) -> bool:
    """Return whether there is no NUL, one kind of line end, and no line in which a field could exceed the limit of CSV fields."""
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


def _combine(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, without dictionary encoding."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else array.chunk(0)


def _cast_ids(array: pa.Array) -> pa.Array | None:
    if array.null_count:
        return None
    if pa.types.is_integer(array.type):
        return array.cast(pa.string())
    if not _is_string_type(array.type):
        return None
    array = array.cast(pa.string())
    array.validate(full=True)
    lengths, characters = _string_bytes(array)
    return None if (lengths == 0).any() or (characters == 0).any() else array


def _cast_times(array: pa.Array, times: TimeTexts) -> pa.Array | None:
    """Return int64 seconds. `times` has set the notation of the table, or its first value sets it."""
    if array.null_count:
        return None
    if _is_string_type(array.type):
        array = array.cast(pa.string())
        if times.time_format is not None or not _is_plain_number(array, b"-."):
            array.validate(full=True)
            seconds = times.seconds_of_dates(array)
            return seconds if seconds is not None and not _has_negative(seconds) else None
        array = array.cast(pa.int64() if _is_plain_number(array, b"-") else pa.float64())
    if times.time_format is not None or times.notation == "date":
        return None
    if pa.types.is_floating(array.type):
        if not np.isfinite(array.cast(pa.float64()).to_numpy()).all():
            return None
    elif not pa.types.is_integer(array.type):
        return None
    seconds = array.cast(pa.int64())  # a safe cast, which raises an error for a fraction
    if not _is_exact(seconds) or _has_negative(seconds):
        return None
    times.notation = "number" if len(seconds) else times.notation
    return seconds


def _has_negative(numbers: pa.Array) -> bool:
    return pc.any(pc.less(numbers, 0)).as_py() is True


def _cast_ratings(array: pa.Array) -> pa.Array | None:
    if _is_string_type(array.type):
        array = array.cast(pa.string())
        if not _is_plain_number(array, b"-."):
            return None
    elif not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_null(array.type)):
        return None
    ratings = array.cast(pa.float64())
    return ratings if pc.all(pc.is_finite(ratings)).as_py() is not False and _is_exact(ratings) else None


def _is_string_type(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _string_bytes(array: pa.Array) -> tuple[ndarray, ndarray]:
    """Return the length in bytes of each string, and all bytes."""
    _, offsets, content = array.buffers()
    bounds = (
        np.frombuffer(offsets, dtype=np.int32)[array.offset : array.offset + len(array) + 1] if len(array) else np.zeros(1, np.int32)
    )
    characters = np.frombuffer(content, dtype=np.uint8) if content is not None else np.zeros(0, dtype=np.uint8)
    return np.diff(bounds), characters[bounds[0] : bounds[-1]]


def _is_plain_number(array: pa.Array, others: bytes) -> bool:
    """Return whether all strings are short and hold only digits and `others`; `line_rows` reads hexadecimal and padded numbers."""
    lengths, characters = _string_bytes(array)
    not_digits = (characters < ord("0")) | (characters > ord("9"))
    return bool(np.isin(characters[not_digits], list(others)).all()) and (not len(lengths) or int(lengths.max()) <= _MAX_DIGITS)


def _is_exact(numbers: pa.Array) -> bool:
    smallest, largest = pc.min_max(numbers).as_py().values()
    return bool(smallest is None or -EXACT_LIMIT < smallest <= largest < EXACT_LIMIT)
