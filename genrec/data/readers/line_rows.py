"""Parse lines to rows, one at a time. Lines that cannot be parsed are set aside.

Formats: fields between a separator without quotes (MovieLens), CSV and TSV, JSON lines, and the Python literals of Amazon's 2014
metadata, which are never executed. This module defines which rows are well formed; `arrow_blocks` is a faster way to the same result
for regular blocks.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from genrec.data.readers.bad_rows import BadRows
from genrec.data.readers.upstream_files import Block, Line
from genrec.errors import InputError

Row = tuple[int, Sequence[object]]  # line number, fields
JsonObject = tuple[int, dict[str, Any]]  # line number, members
FIELD_LIMIT = csv.field_size_limit()  # characters of a CSV field
LITERAL_LIMIT = 1_000_000  # bytes of a Python literal; parsing one takes many times its memory
NOT_DECODED = "the line is not in the expected encoding"
NOT_UTF8 = "the line is not UTF-8"
COLUMN_COUNT = "the line has the wrong number of columns"


def parse_delimited(
    lines: Iterable[Line], separator: str, num_columns: int, bad_rows: BadRows, encoding: str = "utf-8"
) -> Iterator[Row]:
    """Yield rows of exactly `num_columns` fields from lines without quotes."""
    for number, line in lines:
        text = _decode(line, number, bad_rows, encoding)
        if text is None:
            continue
        fields = text.split(separator)
        if len(fields) == num_columns:
            yield number, fields
        else:
            bad_rows.malformed(number, COLUMN_COUNT)


class _CsvParser:
    """A CSV parser that records the lines of each row. The count of `csv.reader` would omit lines that were set aside before."""

    def __init__(self, lines: Iterable[Line], separator: str, bad_rows: BadRows, encoding: str) -> None:
        self.bad_rows, self.encoding = bad_rows, encoding
        self.row_lines: list[int] = []  # numbers of the current row's lines
        self._fields = csv.reader(self._texts(lines), delimiter=separator, strict=True)

    def _texts(self, lines: Iterable[Line]) -> Iterator[str]:
        for number, line in lines:
            text = _decode(line, number, self.bad_rows, self.encoding)
            if text is not None:
                self.row_lines.append(number)
                yield text + "\n"

    def rows(self, num_columns: int | None) -> Iterator[tuple[int, list[str]]]:
        """Yield the last line number and the fields of each row of `num_columns` fields, of any row for None."""
        while True:
            self.row_lines.clear()
            try:
                fields = next(self._fields)
            except StopIteration:
                return
            except csv.Error as error:
                self._set_aside(f"the line is not valid CSV: {str(error).split('(')[0].strip()}")
                continue
            if num_columns is None or len(fields) == num_columns:
                yield self.row_lines[-1], fields
            else:
                self._set_aside(COLUMN_COUNT)

    def _set_aside(self, reason: str) -> None:
        """Set aside every line of the row. A stray quote can join many lines to one row."""
        for line in self.row_lines:
            self.bad_rows.malformed(line, reason)


def parse_csv(lines: Iterable[Line], separator: str, num_columns: int, bad_rows: BadRows, encoding: str = "utf-8") -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file. Quoted fields may hold separators and line breaks."""
    return _CsvParser(lines, separator, bad_rows, encoding).rows(num_columns)


def read_csv_header(
    blocks: Iterator[Block], separator: str, bad_rows: BadRows, encoding: str = "utf-8"
) -> tuple[list[str], Iterator[Block]]:
    """Return the column names of a CSV or TSV file, and the blocks that follow the header.

    Raise InputError if a line before the first readable one is set aside, since that line would be taken for the header.
    """
    splitter = _BlockSplitter(blocks, bad_rows)
    if len(separator) == 1:
        last, names = next(_CsvParser(splitter.lines(), separator, bad_rows, encoding).rows(None), (0, []))
    else:
        texts = ((number, _decode(line, number, bad_rows, encoding)) for number, line in splitter.lines())
        last, names = next(((number, text.split(separator)) for number, text in texts if text is not None), (0, []))
    if bad_rows.counts:
        line, reason = min(bad_rows.rows)
        raise InputError(f"{bad_rows.file}: the header can't be read: {reason} (line {line}){bad_rows.hint(reason)}")
    return names, splitter.blocks_after(last)


def read_first_object(blocks: Iterator[Block], bad_rows: BadRows, encoding: str = "utf-8") -> tuple[dict[str, Any], Iterator[Block]]:
    """Return the first JSON object of a file ({} if there is none), and the blocks from its line on."""
    splitter = _BlockSplitter(blocks, bad_rows)
    line, first = next(parse_json_lines(splitter.lines(), bad_rows, encoding=encoding), (1, {}))
    return first, splitter.blocks_after(line - 1)


class _BlockSplitter:
    """Reads the first lines of a file one by one, and the rest in blocks."""

    def __init__(self, blocks: Iterator[Block], bad_rows: BadRows) -> None:
        self.blocks, self.bad_rows, self.current = blocks, bad_rows, Block(1, b"")

    def lines(self) -> Iterator[Line]:
        for block in self.blocks:
            self.current = block
            yield from block.lines(self.bad_rows)

    def blocks_after(self, line: int) -> Iterator[Block]:
        yield self.current.after(line)
        yield from self.blocks


def parse_json_lines(
    lines: Iterable[Line], bad_rows: BadRows, python_literals: bool = False, encoding: str = "utf-8"
) -> Iterator[JsonObject]:
    """Yield the JSON object of each line; with `python_literals`, a line may also be a Python dictionary."""
    for number, line in lines:
        text = _decode(line, number, bad_rows, encoding)
        if text is None:
            continue
        value = _parse_json(text)
        if value is None and python_literals and len(line) <= LITERAL_LIMIT:
            value = _parse_literal(text)
        if isinstance(value, dict):
            yield number, value
        else:
            bad_rows.malformed(number, "the line is not a JSON object" + (" or a Python dictionary" if python_literals else ""))


def select_fields(objects: Iterable[JsonObject], names: Sequence[str]) -> Iterator[Row]:
    """Yield the named members of JSON objects as rows, None for a missing member."""
    for number, members in objects:
        yield number, [members.get(name) for name in names]


def _decode(line: bytes, number: int, bad_rows: BadRows, encoding: str = "utf-8") -> str | None:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        bad_rows.malformed(number, NOT_UTF8 if encoding == "utf-8" else NOT_DECODED)
        return None


def _parse_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parse_literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
