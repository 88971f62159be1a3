"""Stage 2, the ids of stored vectors: which item a row belongs to. In: a file of ids. Out: them as text, in order, all different.

Ids are text and stay as they are: "00123" is not "123", and "NA" is an id. Whole numbers are taken in decimal; nothing is unpickled.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from genrec.errors import InputError

SHOWN = 5  # ids named in a message


def read_ids(path: Path, column: str) -> list[str]:
    """The ids in a file, by its suffix; `column` is where they are in a table."""
    try:
        return checked_ids(READERS[path.suffix.lower()](path, column), path)
    except (OSError, ValueError, EOFError) as error:  # pyarrow's, NumPy's, JSON's and pandas's words for damage are ValueErrors
        raise InputError(f"{path} can't be read as ids ({error}); expected what its suffix {path.suffix} says, in UTF-8") from error


def checked_ids(values: Iterable[Any], path: Path) -> list[str]:
    """Values as text; an InputError names what is no id, and ids that occur twice."""
    ids = [_as_text(value, place, path) for place, value in enumerate(values, 1)]
    if len(set(ids)) < len(ids):
        twice = [name for name, count in Counter(ids).items() if count > 1]
        raise InputError(f"{path}: {len(twice)} ids occur more than once: {some(twice)}; expected one row an item")
    return ids


def some(ids: list[str]) -> str:
    """The first few of many ids, and how many more."""
    return ", ".join(map(repr, ids[:SHOWN])) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")


def id_column(names: list[str], column: str, path: Path) -> str:
    """`column`, if the table has it."""
    if column not in names:
        raise InputError(f"{path} has no column {column!r} for the ids; it has {names}; name it with Precomputed(id_column=...)")
    return column


def _as_text(value: Any, place: int, path: Path) -> str:
    if isinstance(value, str | int | np.integer) and not isinstance(value, bool) and str(value) != "":
        return str(value)
    raise InputError(f"{path}: id {place} is {value!r}; expected text that is not empty (a number with a point is no id)")


def _lines(path: Path, column: str) -> list[str]:
    content = path.read_text(encoding="utf-8-sig")
    return content.removesuffix("\n").split("\n") if content else []


def _json(path: Path, column: str) -> list[Any]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(content, list):
        raise InputError(f"{path} holds a JSON {type(content).__name__}; expected a list of ids, one for each row of the vectors")
    return content


def _table(separator: str) -> Callable[[Path, str], list[str]]:
    def read(path: Path, column: str) -> list[str]:
        import pandas as pd

        options: dict[str, Any] = {"keep_default_na": False, "na_filter": False, "skip_blank_lines": False, "index_col": False}
        table = pd.read_csv(path, sep=separator, dtype=str, encoding="utf-8-sig", **options)
        found: list[str] = table[id_column(list(table.columns), column, path)].tolist()
        return found

    return read


def _parquet(path: Path, column: str) -> list[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        name = id_column(file.schema_arrow.names, column, path)
        found: list[Any] = file.read(columns=[name])[name].to_pylist()
        return found


def _npy(path: Path, column: str) -> list[Any]:
    ids = np.load(path, allow_pickle=False)
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "Uiu":
        found = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, np.ndarray) else type(ids).__name__
        raise InputError(f"{path} holds {found}; expected text [rows], one id for each row of the vectors")
    entries: list[Any] = ids.tolist()
    return entries


READERS: dict[str, Callable[[Path, str], list[Any]]] = {
    ".txt": _lines,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
    ".npy": _npy,
}
