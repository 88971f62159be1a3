"""Stage 1, logs: an upstream file of events -> tables of events, as fast as Arrow reads them; and streams, put together.

A regular block is parsed as a whole (`quick`), another one row by row (`rows`): which way it was makes no difference to the result.
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
from genrec.data.readers.line_rows import Row
from genrec.data.readers.raw_tables import events
from genrec.data.readers.upstream_files import Block, Line, UpstreamFile, lines_of
from genrec.errors import InputError
from genrec.types import RawStream, RawTables

PIECE = 1 << 17  # events of a piece, at least; the last one may be shorter
EVENT_COLUMNS = ("user", "item", "time", "rating")


class Format(NamedTuple):
    """How blocks become events."""

    columns: Sequence[str]  # of a row; "" for those that are not of an event
    quick: Callable[[bytes], pa.Table | None]  # a regular block's events; None for others
    rows: Callable[[Iterable[Line], BadRows], Iterator[Row]]
    spanning: bytes = b""  # from a block that holds it on, a row may take several lines


def delimited(separator: str, columns: Sequence[str], encoding: str) -> Format:
    """Fields without quotes."""
    return Format(
        columns,
        partial(arrow_blocks.delimited, separator=separator, names=columns, encoding=encoding),
        lambda lines, ledger: line_rows.delimited(lines, separator, len(columns), ledger, encoding),
    )


def separated(separator: str, columns: Sequence[str]) -> Format:
    """CSV or TSV in UTF-8, after its header."""
    return Format(
        columns,
        partial(arrow_blocks.delimited, separator=separator, names=columns),
        lambda lines, ledger: line_rows.separated(lines, separator, len(columns), ledger),
        b'"',
    )


def json_lines(fields: Mapping[str, str], types: Mapping[str, Any]) -> Format:
    """A JSON object a line: the fields of user, item (, time) (, rating), and the usual types of their values."""
    return Format(
        list(fields),
        partial(arrow_blocks.json_lines, fields=fields, types=types),
        lambda lines, ledger: line_rows.fields_of(line_rows.json_records(lines, ledger), list(fields.values())),
    )


def read(blocks: Iterator[Block], form: Format, ledger: BadRows) -> Iterator[pa.Table]:
    """The events of a file, in its order."""
    for block in blocks:
        if form.spanning and form.spanning in block.content:
            yield from events(form.rows(lines_of(chain([block], blocks), ledger), ledger), form.columns, ledger)
            return
        table = form.quick(block.content)
        if table is not None:
            yield table
        else:
            yield from events(form.rows(block.lines(ledger), ledger), form.columns, ledger)


def read_headed(
    file: UpstreamFile, separator: str, names: Mapping[str, str], ledger: BadRows, needed: Sequence[str] = EVENT_COLUMNS
) -> Iterator[pa.Table]:
    """The events of a CSV or TSV with a header; `names` are its names of the columns of events, of which some are needed."""
    columns, blocks = line_rows.header(file.blocks(ledger), separator, ledger)
    require(columns, [names[name] for name in needed], ledger.file)
    ours = {name: ours for ours, name in names.items()}
    yield from read(blocks, separated(separator, [ours.get(name, "") for name in columns]), ledger)


def require(columns: Sequence[str], needed: Sequence[str], file: str) -> None:
    """Refuse a table that lacks a column, or has two of one name."""
    if len(set(columns)) != len(columns):
        raise InputError(f"{file} has two columns of one name: {', '.join(map(repr, columns))}")
    absent = [name for name in needed if name not in columns]
    if absent:
        raise InputError(f"{file} needs a column {absent[0]!r}; it has {', '.join(map(repr, columns)) or 'none'}")


def log(tables: Iterable[pa.Table], ledger: BadRows, tolerated: float) -> Iterator[pa.Table]:
    """Tables of events as pieces of one schema and a decent size; at the end the ledger is checked.

    Without times the order of the rows is time: row 0, 1, 2, ...
    """
    count, held, waiting = 0, 0, list[pa.Table]()
    for table in tables:
        if not len(table):
            continue
        if "time" not in table.column_names:
            table = table.add_column(2, "time", pa.array(np.arange(count, count + len(table))))
        waiting.append(table.select([name for name in EVENT_COLUMNS if name in table.column_names]))
        count, held = count + len(table), held + len(table)
        if held >= PIECE:
            yield pa.concat_tables(waiting).combine_chunks()
            held, waiting = 0, []
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()
    ledger.check(count, tolerated)


def gather(stream: RawStream) -> RawTables:
    """A stream, put together in memory; ratings that are all missing are left out."""
    interactions = pa.concat_tables(stream.interactions)
    if "rating" in interactions.column_names and interactions["rating"].null_count == len(interactions):
        interactions = interactions.drop_columns("rating")
    return RawTables(interactions.to_pandas(), pa.concat_tables(stream.items).to_pandas(), stream.set_aside())
