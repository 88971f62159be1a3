"""Files of users or histories to recommend to: Parquet, CSV or JSON lines, read piece by piece.

    user_id                 users of the data
    user_id, item_id        one row per item, the rows of a user together and oldest first
    user_id, history        a list of items, oldest first (Parquet and JSON lines)

Ids are text, unchanged and not empty: leading zeros stay. Integers of Parquet and JSON become text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from genrec.data.readers.raw_tables import id_text
from genrec.errors import InputError, UsageError
from genrec.input_files import file_suffix, missing_file, parse_json, reading
from genrec.serving.table_files import FORMATS

COLUMNS = ("user_id", "item_id", "history")
EXPECTED = "user_id alone (users of the data), user_id and item_id (one row per item), or user_id and history (a list of items)"


class Requested(NamedTuple):
    """A request for a list."""

    user_id: str
    items: list[str] | None  # ids of the history, oldest first; None: the history that the data have
    place: str  # where the request stands in the file, for messages


class _Line(NamedTuple):
    user_id: str
    value: Any  # an item, a list of items, or None
    place: str


def read_requests(path: Path) -> Iterator[Requested]:
    """Iterate over the requests of a file. Raises InputError for a damaged file, a missing column or a user who occurs twice."""
    if file_suffix(path) not in FORMATS:
        raise UsageError(f"the file of users or histories must end in {', '.join(FORMATS)}, got {str(path)!r}")
    if not path.is_file():
        raise missing_file(path)
    columns, lines = _READERS[file_suffix(path)](path)
    if "user_id" not in columns or {"item_id", "history"} <= set(columns):
        raise InputError(f"{path} has the columns {', '.join(columns) or '(none)'}; expected {EXPECTED}")
    merged = _merged(lines) if "item_id" in columns else (_request(line) for line in lines)
    return _distinct(merged)


def _merged(lines: Iterable[_Line]) -> Iterator[Requested]:
    """Join consecutive lines of one user to a history."""
    current: Requested | None = None
    for line in lines:
        item = _text(line.value, "item_id", line.place)
        if current is not None and current.user_id == line.user_id:
            assert current.items is not None
            current.items.append(item)
            continue
        if current is not None:
            yield current
        current = Requested(line.user_id, [item], line.place)
    if current is not None:
        yield current


def _request(line: _Line) -> Requested:
    if line.value is None:
        return Requested(line.user_id, None, line.place)
    if not isinstance(line.value, list):
        raise InputError(f"{line.place}: history must be a list of items, got {line.value!r}")
    return Requested(line.user_id, [_text(item, "history", line.place) for item in line.value], line.place)


def _distinct(requests: Iterable[Requested]) -> Iterator[Requested]:
    """Raise InputError if a user occurs twice."""
    users: set[str] = set()
    for request in requests:
        if request.user_id in users:
            raise InputError(
                f"{request.place}: user {request.user_id!r} occurs again; give each user once, and the rows of a user together"
            )
        users.add(request.user_id)
        yield request


def _text(value: object, column: str, place: str) -> str:
    """Return an id as text, by the rule of the data (`id_text`). Raises InputError for anything else, also for an empty text."""
    found = id_text(value)
    if found is None:
        raise InputError(f"{place}: {column} must be text or an integer and not empty, got {value!r}")
    return found


def _parquet(path: Path) -> tuple[list[str], Iterator[_Line]]:
    with reading(path, "a Parquet file"):
        file = pq.ParquetFile(path)
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
    return columns or file.schema_arrow.names, _lines(file.iter_batches(columns=columns), path, 1)


def _csv(path: Path) -> tuple[list[str], Iterator[_Line]]:
    with reading(path, "a CSV file with a header"):
        names = pa_csv.open_csv(path).schema.names
        used = [name for name in names if name in COLUMNS]
        twice = sorted({name for name in used if used.count(name) > 1})
        if twice:
            raise InputError(f"{path} has two columns {twice[0]}; remove one of them")
        texts = pa_csv.ConvertOptions(
            column_types={name: pa.string() for name in COLUMNS}, include_columns=used, strings_can_be_null=False
        )
        reader = pa_csv.open_csv(path, convert_options=texts)
    if "history" in names:
        raise InputError(f"{path} has a column history, and CSV has no lists; give user_id and item_id, one row per item")
    return names, _lines(reader, path, 2)


def _lines(batches: Iterable[pa.RecordBatch], path: Path, first: int) -> Iterator[_Line]:
    """Iterate over the rows of Arrow batches; the first row has the number `first`."""
    number, left = first, iter(batches)
    while True:
        with reading(path, "a whole file"):
            batch = next(left, None)
        if batch is None:
            return
        users = batch.column("user_id").to_pylist()
        names = [name for name in ("item_id", "history") if name in batch.schema.names]
        values = batch.column(names[0]).to_pylist() if names else [None] * len(users)
        for user, value in zip(users, values, strict=True):
            place = f"{path}, row {number}"
            if names and value is None:
                raise InputError(f"{place}: {names[0]} is empty; expected {EXPECTED}")
            yield _Line(_text(user, "user_id", place), value, place)
            number += 1


def _json_lines(path: Path) -> tuple[list[str], Iterator[_Line]]:
    first = next(_objects(path), None)
    if first is None:
        raise InputError(f"{path} is empty; expected {EXPECTED}")
    columns = [name for name in first[0] if name in COLUMNS]
    return columns or list(first[0]), _json_rows(path, columns)


def _json_rows(path: Path, columns: list[str]) -> Iterator[_Line]:
    """Iterate over the lines of a file, which must all have these keys."""
    name = next((each for each in columns if each != "user_id"), None)
    for found, place in _objects(path):
        absent = [each for each in columns if found.get(each) is None]
        if absent:
            raise InputError(f"{place}: {absent[0]} is missing; the first line has it, and all lines must have the same keys")
        further = [each for each in ("item_id", "history") if each not in columns and found.get(each) is not None]
        if further:
            raise InputError(f"{place}: the first line has no {further[0]}, and all lines must have the same keys")
        yield _Line(_text(found["user_id"], "user_id", place), None if name is None else found[name], place)


def _objects(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Iterate over the objects of a file of JSON lines and their places. Empty lines are skipped."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                place = f"{path}, line {number}"
                yield _object(line, place), place


def _object(line: bytes, place: str) -> dict[str, Any]:
    try:
        found = parse_json(line.decode("utf-8"))
    except ValueError as error:
        raise InputError(f"{place} is not JSON ({error}); expected an object with {EXPECTED}") from None
    if not isinstance(found, dict):
        raise InputError(f"{place} holds {type(found).__name__}, expected an object with {EXPECTED}")
    return found


_READERS: dict[str, Callable[[Path], tuple[list[str], Iterator[_Line]]]] = {".parquet": _parquet, ".csv": _csv, ".jsonl": _json_lines}
