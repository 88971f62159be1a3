"""Tables of a user: a pandas DataFrame, or a file in CSV, TSV, JSON lines, Parquet or RecBole's atomic format.

A CSV file and the DataFrame that wrote it give the same event tables and item tables.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pandas import DataFrame

from genrec.data.readers import event_tables, frame_tables, json_tables, line_rows
from genrec.data.readers.bad_rows import BadRows
from genrec.data.readers.column_names import (
    EVENT_COLUMNS,
    REQUIRED,
    SEPARATOR_FIELDS,
    guess_columns,
    missing_column_hint,
    rename,
    separator_hint,
)
from genrec.data.readers.event_tables import check_columns
from genrec.data.readers.frame_tables import ParquetTable
from genrec.data.readers.line_rows import Row
from genrec.data.readers.raw_tables import DECIMAL_COMMA, FLOAT_IDS, item_tables_from_plain_rows
from genrec.data.readers.time_texts import NOT_IN_FORMAT, UNREADABLE, TimeTexts
from genrec.data.readers.upstream_files import NUL_BYTE, Block, UpstreamFile, lines_of
from genrec.errors import InputError, UsageError
from genrec.input_files import file_suffix, missing_file
from genrec.progress import say

SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t"}  # .inter and .item are RecBole's
JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = ".parquet"
_TIME_HINT = 'name the format of the times, such as Frames(time_format="%d.%m.%Y") or --source.time-format "%d.%m.%Y"'
_ID_HINT = 'write ids as text or integers; pandas makes integers of such a column with astype("Int64"), missing values included'
_HINTS = {
    line_rows.NOT_UTF8: 'name the encoding of the file, such as Frames(encoding="latin-1") or --source.encoding latin-1',
    NUL_BYTE: "convert a file in UTF-16, such as Excel's Unicode text, to UTF-8",
    line_rows.NOT_DECODED: "name another encoding with Frames(encoding=...) or --source.encoding",
    UNREADABLE: _TIME_HINT,
    **dict.fromkeys(FLOAT_IDS.values(), _ID_HINT),
    DECIMAL_COMMA: 'write a decimal point, as in 4.5, or read the table with pandas.read_csv(..., decimal=",")',
    NOT_IN_FORMAT: "change Frames(time_format=...) or --source.time-format",
}


@dataclass(frozen=True, eq=False)
class OwnTable:
    """One table and how to read it."""

    table: DataFrame | Path
    role: Literal["interactions", "items"]
    columns: Mapping[str, str]  # name in the table -> name in genrec
    separator: str | None = None  # between the columns of a text file; None: by suffix
    time_format: str | None = None  # for strptime; None: numbers of seconds or ISO dates
    encoding: str = "utf-8"

    @property
    def name(self) -> str:
        """The name in messages and labels: the file's, or that of the DataFrame."""
        return f"{self.role} (DataFrame)" if isinstance(self.table, DataFrame) else self.table.name

    def new_bad_rows(self) -> BadRows:
        """Return an empty list of bad rows, with hints on the options of this table."""
        return BadRows(self.name, _HINTS, "DataFrame" if isinstance(self.table, DataFrame) else "file")

    def digest(self) -> str:
        """Return the sha256 of a file, or of the column names, types and values of a DataFrame."""
        if isinstance(self.table, DataFrame):
            return frame_tables.frame_digest(self.table)
        return UpstreamFile(existing(self.table)).digest()

    def header(self) -> list[str]:
        """Return the columns as they are in the table. A file of JSON lines is read as a whole."""
        if isinstance(self.table, DataFrame):
            return frame_tables.column_names(self.table)
        path, suffix = existing(self.table), self._suffix(self.table)
        if suffix == PARQUET:
            return ParquetTable(path).columns
        return json_tables.json_columns(path, self.encoding) if suffix in JSON_LINES else self._open_text(self.new_bad_rows())[0]

    def events(self, bad_rows: BadRows) -> Iterator[pa.Table]:
        """Return the event tables."""
        times = TimeTexts(self.time_format)
        if isinstance(self.table, DataFrame):
            names = self._named_events(frame_tables.column_names(self.table))
            places = [names.index(name) for name in EVENT_COLUMNS if name in names]
            used = self.table.iloc[:, places]
            if "time" in names and frame_tables.has_dates(self.table.iloc[:, names.index("time")]):
                times = TimeTexts()
            return frame_tables.frame_event_tables(
                frame_tables.frame_slices(used), [names[place] for place in places], bad_rows, times
            )
        path, suffix = existing(self.table), self._suffix(self.table)
        if suffix == PARQUET:
            file = ParquetTable(path)
            names = self._named_events(file.columns)
            columns = {name: file.columns[names.index(name)] for name in EVENT_COLUMNS if name in names}
            return file.event_tables(columns, bad_rows, TimeTexts() if file.has_dates(columns.get("time")) else times)
        if suffix in JSON_LINES:
            examples = json_tables.json_event_members(path, self.columns, self.new_bad_rows(), self.encoding)
            self._named_events(list(examples))
            return json_tables.json_event_tables(path, examples, self.columns, bad_rows, times, self.encoding)
        raw, blocks = self._open_text(bad_rows)
        names = [name if name in EVENT_COLUMNS else "" for name in self._named_events(raw)]
        return event_tables.read_events(blocks, self._text_format(names), bad_rows, times)

    def items(self, bad_rows: BadRows, max_bad_rows: float) -> Iterator[pa.Table]:
        """Yield the item tables. A column without a name, such as the index that pandas writes, is not read."""
        raw, rows = self._item_rows(bad_rows)
        names = rename(raw, self.columns)
        check_columns(names, ("item",), self.name, self._missing_column_hint(raw, ("item",)))
        places = [place for place, name in enumerate(names) if name not in ("", "Unnamed: 0")]
        selected = ((line, [fields[place] for place in places]) for line, fields in rows)
        yield from item_tables_from_plain_rows(selected, [names[place] for place in places], bad_rows, max_bad_rows)

    def _item_rows(self, bad_rows: BadRows) -> tuple[list[str], Iterator[Row]]:
        """Return the columns as they are in the table, and its rows."""
        if isinstance(self.table, DataFrame):
            return frame_tables.column_names(self.table), frame_tables.frame_item_rows(self.table)
        path, suffix = existing(self.table), self._suffix(self.table)
        if suffix == PARQUET:
            file = ParquetTable(path)
            return file.columns, file.item_rows()
        if suffix in JSON_LINES:
            columns = json_tables.json_columns(path, self.encoding)
            objects = line_rows.parse_json_lines(UpstreamFile(path).lines(bad_rows), bad_rows, encoding=self.encoding)
            return columns, line_rows.select_fields(objects, columns)
        columns, blocks = self._open_text(bad_rows)
        return columns, self._text_format(columns).parse_lines(lines_of(blocks, bad_rows), bad_rows)

    def _open_text(self, bad_rows: BadRows) -> tuple[list[str], Iterator[Block]]:
        """Return the column names of a text file and the blocks after its header."""
        assert not isinstance(self.table, DataFrame)
        blocks = UpstreamFile(existing(self.table)).blocks(bad_rows)
        return line_rows.read_csv_header(blocks, self._separator(), bad_rows, self.encoding)

    def _text_format(self, columns: Sequence[str]) -> event_tables.Format:
        separator = self._separator()
        form = event_tables.csv_format if len(separator) == 1 else event_tables.delimited_format
        return form(separator, columns, self.encoding)

    def _separator(self) -> str:
        assert not isinstance(self.table, DataFrame)
        return self.separator or SEPARATORS[self._suffix(self.table)]

    def _suffix(self, path: Path) -> str:
        """Return the suffix that names the format, without .gz; with `separator`, any other suffix is that of a text file."""
        suffix = suffix_of(path)
        if suffix not in (*SEPARATORS, *JSON_LINES, PARQUET) and self.separator is None:
            raise InputError(
                f"{path}: expected a name that ends in {', '.join((*SEPARATORS, *JSON_LINES))} (, .gz) or {PARQUET}, or a text file "
                "with Frames(separator=...)"
            )
        return suffix

    def _named_events(self, raw: list[str]) -> list[str]:
        """Return genrec's names of the columns of interactions. Raise InputError without a user or an item, warn without a time."""
        names = rename(raw, self.columns)
        check_columns(names, REQUIRED, self.name, self._missing_column_hint(raw, REQUIRED))
        likely = [name for name, target in guess_columns(names).items() if target == "time"]
        if likely:
            columns = {**self.columns, likely[0]: "time"}
            say(
                f"warning: {self.name} has no column 'time', so the order of its rows counts; if {likely[0]!r} holds the times, set "
                f"Frames(columns={columns})"
            )
        return names

    def _missing_column_hint(self, raw: Sequence[str], required: Sequence[str]) -> str:
        option = SEPARATOR_FIELDS[self.role == "items"]
        return separator_hint(self.name, raw, option) or missing_column_hint(raw, required, self.columns)


def existing(path: Path) -> Path:
    """Return the path of a file; raise InputError if there is none."""
    if not path.is_file():
        raise missing_file(path, "a table in CSV, TSV, JSON lines, Parquet or RecBole's atomic format")
    return path


def suffix_of(path: Path) -> str:
    """Return the last suffix of a file in lower case, without .gz, "" if it has none."""
    return file_suffix(path.with_suffix("") if file_suffix(path) == ".gz" else path)


def is_text(table: object) -> bool:
    """Return whether a table is a file of lines with separated columns."""
    return isinstance(table, Path) and suffix_of(table) not in (*JSON_LINES, PARQUET)


def check_separator(separator: str, field: str) -> str:
    r"""Return the separator, a tab for the text `\t`; raise UsageError unless it can separate columns. `field` is for the message."""
    separator = "\t" if separator == r"\t" else separator
    if not isinstance(separator, str) or not separator or set(separator) & set('"\r\n\0'):
        raise UsageError(f"{field} must be text such as ';' or '::', without quotes and line ends, got {separator!r}")
    return separator


def check_encoding(encoding: str, field: str) -> str | None:
    """Return the standard name of an encoding, None for UTF-8; raise UsageError unless it is an extension of ASCII."""
    try:
        name = codecs.lookup(encoding).name
        extends_ascii = "\n,;\tid0".encode(name) == b"\n,;\tid0" and b"\nid0".decode(name) == "\nid0"
    except (LookupError, TypeError, UnicodeError, ValueError):
        raise UsageError(f"{field} must name an encoding such as latin-1 or cp1252, got {encoding!r}") from None
    if not extends_ascii:
        raise UsageError(
            f"{field} must be an extension of ASCII, such as latin-1 or cp1252, got {encoding!r}; convert the file to UTF-8"
        )
    return None if name == "utf-8" else name
