"""Stage 1, formats, one row at a time: lines -> rows of fields, each with its line number. What can't be read is set aside.

Formats: fields between a separator without quotes (MovieLens), CSV and TSV, JSON lines, and the Python literals that Amazon's 2014
metadata is written in. Only literals are evaluated, and only up to a size. This is the one definition of what a good row is; `quick`
reads regular blocks faster, to the same result.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from genrec.data.readers.bad_rows import BadRows
from genrec.data.readers.upstream_files import Block, Line

Row = tuple[int, Sequence[object]]  # line number, fields
FIELD_LIMIT = csv.field_size_limit()  # characters of a field of a CSV
LITERAL_LIMIT = 1_000_000  # bytes of a Python literal; evaluating one takes many times its memory
NOT_UTF8 = "the line is not UTF-8"
COLUMN_COUNT = "the line has the wrong number of columns"


def delimited(lines: Iterable[Line], separator: str, width: int, ledger: BadRows, encoding: str = "utf-8") -> Iterator[Row]:
    """Rows of exactly `width` fields, without quotes or header."""
    for number, line in lines:
        text = _decoded(line, number, ledger, encoding)
        if text is None:
            continue
        fields = text.split(separator)
        if len(fields) == width:
            yield number, fields
        else:
            ledger.malformed(number, COLUMN_COUNT)


class Records:
    """A CSV reader that knows which lines a record came from: the module's own count misses lines that were set aside."""

    def __init__(self, lines: Iterable[Line], separator: str, ledger: BadRows) -> None:
        self.ledger = ledger
        self.taken: list[int] = []  # lines of the record
        self._records = csv.reader(self._text(lines), delimiter=separator, strict=True)

    def _text(self, lines: Iterable[Line]) -> Iterator[str]:
        for number, line in lines:
            text = _decoded(line, number, self.ledger)
            if text is not None:
                self.taken.append(number)
                yield text + "\n"

    def rows(self, width: int | None) -> Iterator[tuple[int, list[str]]]:
        """Last line and fields of every record of `width` fields; None: of every record."""
        while True:
            self.taken.clear()
            try:
                fields = next(self._records)
            except StopIteration:
                return
            except csv.Error as error:
                self._set_aside(f"the line is no CSV: {str(error).split('(')[0].strip()}")
                continue
            if width is None or len(fields) == width:
                yield self.taken[-1], fields
            else:
                self._set_aside(COLUMN_COUNT)

    def _set_aside(self, reason: str) -> None:
        """Every line that the record swallowed: a stray quote may take many."""
        for line in self.taken:
            self.ledger.malformed(line, reason)


def separated(lines: Iterable[Line], separator: str, width: int, ledger: BadRows) -> Iterator[Row]:
    """Rows of a CSV or TSV in UTF-8; quoted fields may hold separators and line breaks."""
    return Records(lines, separator, ledger).rows(width)


def header(blocks: Iterator[Block], separator: str, ledger: BadRows) -> tuple[list[str], Iterator[Block]]:
    """The column names of a CSV or TSV, and what follows them."""
    rest = _Rest(blocks, ledger)
    last, names = next(Records(rest.lines(), separator, ledger).rows(None), (0, []))
    return names, rest.after(last)


def first_record(blocks: Iterator[Block], ledger: BadRows) -> tuple[dict[str, Any], Iterator[Block]]:
    """The first object of JSON lines, and the blocks from its line on."""
    rest = _Rest(blocks, ledger)
    line, record = next(json_records(rest.lines(), ledger), (1, {}))
    return record, rest.after(line - 1)


class _Rest:
    """Blocks whose first lines are read one by one, and the others as blocks."""

    def __init__(self, blocks: Iterator[Block], ledger: BadRows) -> None:
        self.blocks, self.ledger, self.current = blocks, ledger, Block(1, b"")

    def lines(self) -> Iterator[Line]:
        for block in self.blocks:
            self.current = block
            yield from block.lines(self.ledger)

    def after(self, line: int) -> Iterator[Block]:
        yield self.current.after(line)
        yield from self.blocks


def json_records(lines: Iterable[Line], ledger: BadRows, literals: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON objects, one a line; with `literals` also Python dictionaries."""
    for number, line in lines:
        text = _decoded(line, number, ledger)
        if text is None:
            continue
        record = _json(text)
        if record is None and literals and len(line) <= LITERAL_LIMIT:
            record = _literal(text)
        if isinstance(record, dict):
            yield number, record
        else:
            ledger.malformed(number, "the line is no JSON object" + (" and no Python dictionary" if literals else ""))


def fields_of(records: Iterable[tuple[int, dict[str, Any]]], names: Sequence[str]) -> Iterator[Row]:
    """The named fields of JSON records, None where one is absent."""
    for number, record in records:
        yield number, [record.get(name) for name in names]


def _decoded(line: bytes, number: int, ledger: BadRows, encoding: str = "utf-8") -> str | None:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        ledger.malformed(number, NOT_UTF8)
        return None


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
