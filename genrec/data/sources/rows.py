"""Stage 1, formats: an upstream file's lines -> rows of fields, each with its line number. What can't be read is set aside.

Formats: fields between a separator without quotes (MovieLens), CSV and TSV with a header, JSON lines, and the Python literals that
Amazon's 2014 metadata is written in. Only literals are evaluated, and only up to a size.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from genrec.data.sources.files import UpstreamFile
from genrec.data.sources.ledger import Ledger

Row = tuple[int, Sequence[object]]  # line number, fields
LITERAL_LIMIT = 1_000_000  # bytes of a Python literal; evaluating one takes many times its memory
NOT_UTF8 = "the line is not UTF-8"
COLUMN_COUNT = "the line has the wrong number of columns"


def delimited(file: UpstreamFile, separator: str, width: int, ledger: Ledger) -> Iterator[Row]:
    """Rows of exactly `width` fields, Latin-1, without quotes or header."""
    for number, line in file.lines(ledger):
        fields = line.decode("latin-1").split(separator)
        if len(fields) == width:
            yield number, fields
        else:
            ledger.malformed(number, COLUMN_COUNT)


def header_and_rows(file: UpstreamFile, separator: str, ledger: Ledger) -> tuple[list[str], Iterator[Row]]:
    """The column names and the rows of a CSV or TSV file in UTF-8; quoted fields may hold separators and line breaks."""
    reader = _Records(file, separator, ledger)
    _, header = next(reader.rows(None), (0, []))
    return header, reader.rows(len(header))


class _Records:
    """A CSV reader that knows which lines a record came from: the module's own count misses lines that were set aside."""

    def __init__(self, file: UpstreamFile, separator: str, ledger: Ledger) -> None:
        self.ledger, self.line = ledger, 0
        self.records = csv.reader(self._text(file), delimiter=separator, strict=True)

    def _text(self, file: UpstreamFile) -> Iterator[str]:
        for number, line in file.lines(self.ledger):
            text = _decoded(line if self.line else line.removeprefix(b"\xef\xbb\xbf"), number, self.ledger)
            if text is not None:
                self.line = number
                yield text + "\n"

    def rows(self, width: int | None) -> Iterator[tuple[int, list[str]]]:
        while True:
            before = self.line
            try:
                fields = next(self.records)
            except StopIteration:
                return
            except csv.Error as error:
                self._set_aside(before, f"the line is no CSV: {str(error).split('(')[0].strip()}")
                continue
            if width is None or len(fields) == width:
                yield self.line, fields
            else:
                self._set_aside(before, COLUMN_COUNT)

    def _set_aside(self, before: int, reason: str) -> None:
        """Every line that the record swallowed: a stray quote may take many."""
        for line in range(before + 1, self.line + 1):
            self.ledger.malformed(line, reason)


def json_records(file: UpstreamFile, ledger: Ledger, literals: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON objects, one a line; with `literals` also Python dictionaries."""
    for number, line in file.lines(ledger):
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


def _decoded(line: bytes, number: int, ledger: Ledger) -> str | None:
    try:
        return line.decode("utf-8")
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
