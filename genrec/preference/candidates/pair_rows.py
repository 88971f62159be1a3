"""Rows of a pair file in the user's ids: CSV, Parquet, JSON lines, and TRL's preference format. Nothing is looked up here."""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from genrec.errors import InputError
from genrec.input_files import file_suffix, parse_json, reading
from genrec.store import Signature, signature_of

FileFormat = Literal["genrec", "trl"]
COLUMNS = ("user", "history", "chosen", "rejected", "ranked", "weight")
TRL_COLUMNS = ("prompt", "chosen", "rejected")
SUFFIXES = (".csv", ".parquet", ".jsonl", ".ndjson")
JSON_LINES = (".jsonl", ".ndjson")
SEPARATORS = (";", "\t", "|")  # of files that are not separated by commas
MAX_FIELD = 2**31 - 1  # characters of a CSV field, the largest limit of the csv module on all systems
_INDEX = "__index_level_0__"  # column of a Parquet file that pandas writes for the index
SHOWN = 5  # rows of each reason in a message
MIN_WEIGHT, MAX_WEIGHT = 1e-30, 1e30  # weights of rows; float32 then holds the sums of a batch


class PairRow(NamedTuple):
    """One row of a file: a history, the preferred item and the rejected ones, in the ids of the source."""

    chosen: str
    rejected: tuple[str, ...]  # at least one, distinct, without `chosen`
    user: str | None = None  # the history is this user's training events before `chosen`
    history: tuple[str, ...] | None = None  # oldest first, not empty; given if there is no user
    weight: float = 1.0  # of the row's loss, from 1e-30 to 1e30
    line: int = 0  # line of the file, or row of a Parquet file, from 1


class RowProblems:
    """The rows of a file that cannot be used, by reason."""

    def __init__(self, path: Path) -> None:
        self.path, self.unit = path, "row" if file_suffix(path) == ".parquet" else "line"
        self.found: dict[str, list[str]] = {}
        self.lines: set[int] = set()

    def add(self, line: int, reason: str, shown: str = "") -> None:
        """Add a row; `shown` is the value to show."""
        self.lines.add(line)
        self.found.setdefault(reason, []).append(f"{self.unit} {line}" + (f" ({shown})" if shown else ""))

    def check(self, total: int, advice: str = "correct or remove them") -> None:
        """Raise InputError if there is a problem; `total` is the number of rows of the file."""
        if not self.found:
            return
        reasons = "; ".join(f"{reason}: {_listed(places)}" for reason, places in self.found.items())
        raise InputError(f"{self.path}: {len(self.lines)} of {total} rows can't be used: {reasons}; {advice}")


def read_pairs(path: Path | str, format: FileFormat = "genrec") -> tuple[PairRow, ...]:
    """Read a pair file. Within a process, a file is read again only if its size, times or inode have changed.

    Raises InputError, with the lines, for a file that is missing, damaged or empty and for rows that are not of the format.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"the pair file {path} {found}; expected a file that ends in {', '.join(SUFFIXES)}; correct the path")
    return _read(path.absolute(), format, signature_of(path))


def read_trl(path: Path | str) -> tuple[PairRow, ...]:
    """Read a file of TRL's preference format, one object `{"prompt", "chosen", "rejected"}` per line.

    `prompt` is the history: a JSON array of item ids, oldest first, as text or as an array. `chosen` and `rejected` are item ids.
    Further columns, such as `score_chosen`, are not read.
    """
    return read_pairs(path, "trl")


@lru_cache(maxsize=8)
def _read(path: Path, format: FileFormat, signature: Signature) -> tuple[PairRow, ...]:
    problems, rows, total = RowProblems(path), [], 0
    for line, record in _records(path, format, problems):
        total += 1
        if record is None:
            continue
        try:
            rows.append(trl_row(record, line) if format == "trl" else _row(record, line, file_suffix(path) not in JSON_LINES))
        except ValueError as error:
            problems.add(line, *error.args)
    problems.check(total)
    if not rows:
        raise InputError(f"{path} holds no rows; expected one pair or list per row")
    return tuple(rows)


def _records(path: Path, format: FileFormat, problems: RowProblems) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """Yield the line and the values of each row; None for a row that cannot be parsed, which is added to the problems."""
    suffix = file_suffix(path)
    read = _json_lines if suffix in JSON_LINES else partial(_csv if suffix == ".csv" else _parquet, format=format)
    with reading(path, f"a {suffix} file in UTF-8"):
        for line, record in read(path, problems):
            _check_columns(path, line, record or {}, format)
            yield line, record


def _check_columns(path: Path, line: int, names: Iterable[str], format: FileFormat) -> None:
    known, names = TRL_COLUMNS if format == "trl" else COLUMNS, list(names)
    repeats = [name for name in known if names.count(name) > 1]
    if repeats:
        raise InputError(f"{path} has the column {repeats[0]!r} twice; remove or rename one of them")
    whole = format == "trl" and all(name in names for name in known)  # as TRL does, ignore further columns, but none of genrec's
    unknown = [name for name in names if name not in known and (name in COLUMNS or not whole)]
    if unknown:
        raise InputError(
            f"{path} has the column {unknown[0]!r} (row or line {line}), expected columns of {', '.join(known)}; "
            + ("remove it" if whole else _column_advice(unknown[0], known))
        )


def _column_advice(name: str, known: tuple[str, ...]) -> str:
    """Return what to do about an unknown column: another separator, another format, or a misspelt name."""
    found = next((each for each in SEPARATORS if each in name), None)
    if found is not None:
        return f"the columns are separated by {found!r}: separate them by commas"
    if known == COLUMNS and name == "prompt":
        return 'this is the format of TRL: set Pairs(format="trl") (--align.format trl)'
    if known == TRL_COLUMNS and name in COLUMNS:
        return 'this is the format of genrec: set Pairs(format="genrec") (--align.format genrec)'
    nearest = difflib.get_close_matches(name, known, 1)
    return f"rename it to {nearest[0]!r}" if nearest else "rename or remove it"


def _csv(path: Path, problems: RowProblems, *, format: FileFormat) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """Yield the rows of a CSV file; an empty field is a missing value."""
    with path.open(encoding="utf-8-sig", newline="") as file, _long_fields():
        reader = csv.reader(file, strict=True)
        names = next(reader, [])
        _check_columns(path, 1, names, format)
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(names):
                problems.add(reader.line_num, f"the row does not have the {len(names)} columns of the header", f"{len(fields)} fields")
                yield reader.line_num, None
            else:
                yield reader.line_num, {name: field or None for name, field in zip(names, fields, strict=True)}


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let the csv module read fields of any length, which long lists need; its limit is one for the whole process."""
    limit = csv.field_size_limit(MAX_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _parquet(path: Path, problems: RowProblems, *, format: FileFormat) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        _check_columns(path, 1, [name for name in file.schema_arrow.names if name != _INDEX], format)
        number = 0
        for batch in file.iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield number, {name: value for name, value in record.items() if name != _INDEX}


def _json_lines(path: Path, problems: RowProblems) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            repeats: list[str] = []
            record = _parsed(text, partial(_object, repeats))
            if not isinstance(record, dict):
                problems.add(line, "the line is not a JSON object")
            elif repeats:
                problems.add(line, "a key occurs twice", repr(repeats[0]))
            yield line, record if isinstance(record, dict) and not repeats else None


def _object(repeats: list[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, and add the keys that occur in it again to `repeats`."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            repeats.append(name)
        found[name] = value
    return found


def _row(record: Mapping[str, Any], line: int, text_arrays: bool) -> PairRow:
    """Return the row of a record. Raises ValueError with the reason and, for messages, the value.

    With `text_arrays` a text that begins with `[` is a JSON array.
    """
    user, history, chosen, rejected, ranked, weight = (record.get(name) for name in COLUMNS)
    if (user is None) == (history is None):
        raise ValueError("a row needs either a user or a history", "both" if user is not None else "neither")
    items = None if history is None else _array(history, "history")
    if items == ():
        raise ValueError("history is empty, and no item can be predicted from it")
    if ranked is not None:
        if chosen is not None or rejected is not None:
            raise ValueError("a row has either ranked or chosen and rejected", "both")
        best, others = _ranked(ranked)
    else:
        if chosen is None or rejected is None:
            raise ValueError("a row needs chosen and rejected, or ranked")
        is_array = isinstance(rejected, list) or (text_arrays and isinstance(rejected, str) and rejected.startswith("["))
        best, others = _id(chosen, "chosen"), _array(rejected, "rejected") if is_array else (_id(rejected, "rejected"),)
    _check_items(best, others)
    return PairRow(best, others, None if user is None else _id(user, "user"), items, _weight(weight), line)


def trl_row(record: Mapping[str, Any], line: int) -> PairRow:
    """Return the row of a record of TRL's format. Raises ValueError with the reason and, for messages, the value."""
    for name in TRL_COLUMNS:
        if record.get(name) is None:
            raise ValueError(f"the row has no {name}")
        if isinstance(record[name], list) and any(isinstance(each, dict) for each in record[name]):
            raise ValueError(f"{name} is a list of messages, and TRL's conversational form is not read; give item ids as text")
    history = _array(record["prompt"], "prompt")
    if not history:
        raise ValueError("prompt is empty, and no item can be predicted from it")
    chosen, rejected = _id(record["chosen"], "chosen"), (_id(record["rejected"], "rejected"),)
    _check_items(chosen, rejected)
    return PairRow(chosen, rejected, None, history, 1.0, line)


def _ranked(value: object) -> tuple[str, tuple[str, ...]]:
    ids = _array(value, "ranked")
    if len(ids) < 2:
        raise ValueError("ranked needs two or more items", repr(list(ids)))
    return ids[0], ids[1:]


def _check_items(chosen: str, rejected: tuple[str, ...]) -> None:
    if not rejected:
        raise ValueError("rejected is empty")
    if chosen in rejected:
        raise ValueError("chosen is also rejected", repr(chosen))
    if len(set(rejected)) < len(rejected):
        raise ValueError("an item occurs twice", repr(next(each for each in rejected if rejected.count(each) > 1)))


def _array(value: object, name: str) -> tuple[str, ...]:
    found = _parsed(value) if isinstance(value, str) else value
    if not isinstance(found, list):
        raise ValueError(f"{name} must be a JSON array of item ids", repr(value)[:80])
    return tuple(_id(each, name) for each in found)


def _id(value: object, name: str) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value):
        text = str(value)
        if not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text):
            raise ValueError(f"{name} has an id that is no valid Unicode text", repr(value)[:80])
        return text
    raise ValueError(f"{name} must hold ids, as text or integers", repr(value)[:80])


def _weight(value: object) -> float:
    if value is None:
        return 1.0
    try:
        weight = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        weight = math.nan
    if not MIN_WEIGHT <= weight <= MAX_WEIGHT:  # false for NaN
        raise ValueError(f"weight must be a number from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}", repr(value)[:80])
    return weight


def _parsed(text: str, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> object:
    """Return the JSON value of a text, or None if it is not valid JSON. For `hook` see `parse_json`."""
    try:
        return parse_json(text, hook)
    except ValueError:
        return None


def _listed(places: list[str]) -> str:
    return ", ".join(places[:SHOWN]) + (f" and {len(places) - SHOWN} more" if len(places) > SHOWN else "")
