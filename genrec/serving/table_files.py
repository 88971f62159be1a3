"""Tables written piece by piece to Parquet, CSV or JSON lines; the file appears when it is complete."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from genrec.errors import ResourceError, UsageError
from genrec.input_files import file_suffix
from genrec.storage_errors import explain

ROW_GROUP = 65_536  # least number of rows of a row group but the last
FORMATS = (".parquet", ".csv", ".jsonl")
Write = Callable[[pa.Table], None]


def check_format(path: Path, option: str) -> None:
    """Raise UsageError unless the file's ending names a format; `option` is the flag that names it."""
    if file_suffix(path) not in FORMATS:
        raise UsageError(f"{option} must end in {', '.join(FORMATS)}, got {str(path)!r}")


def has_columns(path: Path, columns: Sequence[str]) -> bool:
    """Return whether a file that exists is a table of its format with these columns first."""
    try:
        if file_suffix(path) == ".parquet":
            found = pq.read_schema(path).names
        else:
            with path.open(encoding="utf-8") as file:
                line = file.readline()
            found = list(json.loads(line)) if file_suffix(path) == ".jsonl" else next(csv.reader([line]))
    except (OSError, ValueError, TypeError, csv.Error, pa.ArrowException):
        return False
    return list(found[: len(columns)]) == list(columns)


@contextmanager
def table_writer(path: Path, schema: pa.Schema) -> Iterator[Write]:
    """Yield a function that appends a table to the file; the ending of the name is its format.

    An error in the block leaves no file, and an earlier file as it was. Raises UsageError for a file that cannot be written.
    """
    check_format(path, "the file")
    partial = path.with_name(f".{path.name}.partial")
    opened = {".parquet": _parquet, ".csv": _csv, ".jsonl": _json_lines}[file_suffix(path)]
    try:
        with opened(partial, schema) as write:
            yield write
        partial.replace(path)
    except OSError as error:
        if isinstance(explain(error), ResourceError):
            raise
        raise UsageError(f"{path} cannot be written ({error}); choose another file") from error
    finally:
        partial.unlink(missing_ok=True)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a whole table."""
    with table_writer(path, table.schema) as write:
        write(table)


def safe_for_spreadsheets(text: str) -> str:
    """Return a text that a spreadsheet does not take for a formula: one that begins like a formula gets an apostrophe."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[Write]:
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
                waiting.clear()

        def write(table: pa.Table) -> None:
            waiting.append(table)
            if sum(map(len, waiting)) >= ROW_GROUP:
                flush()

        yield write
        flush()


@contextmanager
def _csv(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with pa_csv.CSVWriter(path, schema) as writer:
        yield writer.write_table


@contextmanager
def _json_lines(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda table: file.writelines(f"{json.dumps(line, ensure_ascii=False)}\n" for line in table.to_pylist())
