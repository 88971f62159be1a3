"""Tables in JSON lines, whose columns are the members of all objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from genrec.data.readers import event_tables, line_rows
from genrec.data.readers.bad_rows import BadRows
from genrec.data.readers.column_names import EVENT_COLUMNS
from genrec.data.readers.time_texts import TimeTexts
from genrec.data.readers.upstream_files import UpstreamFile
from genrec.errors import InputError

_ARROW_TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def json_columns(path: Path, encoding: str) -> list[str]:
    """Return the names of all members of any object, in the order of their first appearance."""
    ignored = BadRows(path.name)
    names: dict[str, None] = {}
    for _, members in line_rows.parse_json_lines(UpstreamFile(path).lines(ignored), ignored, encoding=encoding):
        names |= dict.fromkeys(members)
    return list(names)


def json_event_members(path: Path, columns: Mapping[str, str], bad_rows: BadRows, encoding: str) -> dict[str, object]:
    """Return an example value of each event column that any object has, under the member's own name.

    `columns` maps members to genrec's names. Raise InputError if no line is a JSON object.
    """
    first, _ = line_rows.read_first_object(UpstreamFile(path).blocks(bad_rows), bad_rows, encoding)
    if not first:
        hints = "".join(map(bad_rows.hint, bad_rows.counts))
        raise InputError(f"{path}: no line is a JSON object; expected JSON lines: one object per line, not an array, in UTF-8{hints}")
    members = _member_names(columns)
    found = {name: first[name] for name in members.values() if name in first}
    missing = set(members.values()) - set(found)
    ignored = BadRows(path.name)  # bad rows are reported when the file is read again
    for block in UpstreamFile(path).blocks(ignored) if missing else ():
        if any(f'"{name}"'.encode(encoding, "replace") in block.content for name in missing):  # or a value, or a nested name
            for _, later in line_rows.parse_json_lines(block.lines(ignored), ignored, encoding=encoding):
                found |= {name: later[name] for name in missing & later.keys()}
                missing -= later.keys()
        if not missing:
            break
    return {**dict.fromkeys(first), **found}


def json_event_tables(
    path: Path, examples: Mapping[str, Any], columns: Mapping[str, str], bad_rows: BadRows, times: TimeTexts, encoding: str
) -> Iterator[pa.Table]:
    """Yield the event tables. The value of a member in `examples` sets its usual type."""
    members = {column: name for column, name in _member_names(columns).items() if name in examples}
    types = {column: _ARROW_TYPES.get(type(examples[name]), pa.string()) for column, name in members.items()}
    if "rating" in members and type(examples[members["rating"]]) in (int, type(None)):
        types["rating"] = pa.float64()
    form = event_tables.json_lines_format(members, types, encoding)
    yield from event_tables.read_events(UpstreamFile(path).blocks(bad_rows), form, bad_rows, times)


def _member_names(columns: Mapping[str, str]) -> dict[str, str]:
    """Return the member of each event column."""
    own = {target: name for name, target in columns.items()}
    return {column: own.get(column, column) for column in EVENT_COLUMNS}
