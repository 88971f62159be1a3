"""Read files of events to event tables, and combine event tables to a source's stream.

A regular block is parsed by Arrow (`arrow_blocks`), any other block row by row (`line_rows`). The result is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from genrec.data.readers import arrow_blocks, line_rows
from genrec.data.readers.bad_rows import BadRows
from genrec.data.readers.column_names import EVENT_COLUMNS
from genrec.data.readers.line_rows import Row
from genrec.data.readers.raw_tables import event_tables_from_rows
from genrec.data.readers.time_texts import TimeTexts
from genrec.data.readers.upstream_files import Block, Line, UpstreamFile, lines_of
from genrec.errors import InputError
from genrec.types import RawStream, RawTables

EVENTS_PER_TABLE = 1 << 17  # minimum; the last table of a stream may have fewer


class Format(NamedTuple):
    """A file format of events, with a fast and a careful way to parse it."""

    columns: Sequence[str]  # column of each field of a row; "" for fields that are not used
    parse_block: Callable[[bytes], pa.Table | None]  # a regular block -> its event columns, uncast; None for an irregular block
    parse_lines: Callable[[Iterable[Line], BadRows], Iterator[Row]]
    quote: bytes = b""  # from the first block that holds it, a row may take several lines


def delimited_format(separator: str, columns: Sequence[str], encoding: str) -> Format:
    """Return the format of lines whose fields have no quotes."""
    return Format(
        columns,
        partial(arrow_blocks.parse_delimited_block, separator=separator, names=columns, encoding=encoding),
        lambda lines, bad_rows: line_rows.parse_delimited(lines, separator, len(columns), bad_rows, encoding),
    )


def csv_format(separator: str, columns: Sequence[str], encoding: str = "utf-8") -> Format:
    """Return the format of a CSV or TSV file without its header."""
    return Format(
        columns,
        partial(arrow_blocks.parse_delimited_block, separator=separator, names=columns, encoding=encoding),
        lambda lines, bad_rows: line_rows.parse_csv(lines, separator, len(columns), bad_rows, encoding),
        b'"',
    )


def json_lines_format(members: Mapping[str, str], types: Mapping[str, Any], encoding: str = "utf-8") -> Format:
    """Return the format of one JSON object per line.

    `members` maps event columns (user, item, optionally time and rating) to names in the JSON objects, `types` to the usual Arrow
    types of their values.
    """
    return Format(
        list(members),
        partial(arrow_blocks.parse_json_block, members=members, types=types, encoding=encoding),
        lambda lines, bad_rows: line_rows.select_fields(
            line_rows.parse_json_lines(lines, bad_rows, encoding=encoding), list(members.values())
        ),
    )


def read_events(blocks: Iterator[Block], form: Format, bad_rows: BadRows, times: TimeTexts | None = None) -> Iterator[pa.Table]:
    """Yield the event tables of a file, in file order. `times` reads its times; by default numbers and ISO dates."""
    times = times or TimeTexts()
    for block in blocks:
        if form.quote and form.quote in block.content:
            rows = form.parse_lines(lines_of(chain([block], blocks), bad_rows), bad_rows)
            yield from event_tables_from_rows(rows, form.columns, bad_rows, times)
            return
        columns = form.parse_block(block.content)
        table = None if columns is None else arrow_blocks.cast_to_event_table(columns, times)
        if table is not None:
            yield table
        else:
            rows = form.parse_lines(block.lines(bad_rows), bad_rows)
            yield from event_tables_from_rows(rows, form.columns, bad_rows, times)


def read_csv_events(file: UpstreamFile, separator: str, names: Mapping[str, str], bad_rows: BadRows) -> Iterator[pa.Table]:
    """Yield the event tables of a CSV or TSV file with a header. `names` maps event columns to column names in the file."""
    columns, blocks = line_rows.read_csv_header(file.blocks(bad_rows), separator, bad_rows)
    check_columns(columns, list(names.values()), bad_rows.file)
    event_column = {name: column for column, name in names.items()}
    yield from read_events(blocks, csv_format(separator, [event_column.get(name, "") for name in columns]), bad_rows)


def check_columns(columns: Sequence[str], required: Sequence[str], file: str, hint: str = "") -> None:
    """Raise InputError if a required column is missing, or if two columns have the same name. `hint` ends the message."""
    if len(set(columns)) != len(columns):
        raise InputError(f"{file} has several columns with the same name: {', '.join(map(repr, columns))}")
    missing = [name for name in required if name not in columns]
    if missing:
        raise InputError(f"{file} needs a column {missing[0]!r}; it has {', '.join(map(repr, columns)) or 'none'}{hint}")


def merge_event_tables(tables: Iterable[pa.Table], bad_rows: BadRows, max_bad_rows: float) -> Iterator[pa.Table]:
    """Merge small event tables to tables of at least EVENTS_PER_TABLE rows with one schema.

    Without times, an event's time is its position: 0, 1, 2, ... After the last table, raise InputError if the share of malformed rows
    is above `max_bad_rows`.
    """
    total, num_waiting, waiting = 0, 0, list[pa.Table]()
    for table in tables:
        if not len(table):
            continue
        if "time" not in table.column_names:
            table = table.add_column(2, "time", pa.array(np.arange(total, total + len(table))))
        waiting.append(table.select([name for name in EVENT_COLUMNS if name in table.column_names]))
        total, num_waiting = total + len(table), num_waiting + len(table)
        if num_waiting >= EVENTS_PER_TABLE:
            yield pa.concat_tables(waiting).combine_chunks()
            num_waiting, waiting = 0, []
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()
    bad_rows.check(total, max_bad_rows)


def load_stream(stream: RawStream) -> RawTables:
    """Load a whole stream into memory. The rating column is dropped if all ratings are missing."""
    interactions = pa.concat_tables(stream.interactions)
    if "rating" in interactions.column_names and interactions["rating"].null_count == len(interactions):
        interactions = interactions.drop_columns("rating")
    return RawTables(interactions.to_pandas(), pa.concat_tables(stream.items).to_pandas(), stream.set_aside())
