"""Files with the item ids of stored vectors.

Ids are text and are kept unchanged: "00123" differs from "123", and "NA" is an id. Integers become decimal text. Nothing is unpickled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from genrec.errors import InputError
from genrec.input_files import file_suffix, parse_json, reading

NPY = b"\x93NUMPY"  # first bytes of a .npy file
SHOWN = 5  # maximum number of ids in a message


def read_ids(path: Path, column: str) -> list[str]:
    """Read the ids in a file, by its suffix. `column` is the column of ids in a table."""
    with reading(path, f"a valid {path.suffix} file of ids in UTF-8"):
        return checked_ids(READERS[file_suffix(path)](path, column), path)


def checked_ids(values: Iterable[Any], path: Path) -> list[str]:
    """Convert values to text; raise InputError for invalid and repeated ids."""
    ids = [_as_text(value, number, path) for number, value in enumerate(values, 1)]
    if len(set(ids)) < len(ids):
        repeated = [name for name, count in Counter(ids).items() if count > 1]
        raise InputError(f"{path}: {len(repeated)} ids occur more than once: {preview(repeated)}; expected one row per item")
    return ids


def preview(ids: list[str]) -> str:
    """Return the first few ids and the number of others, for messages."""
    return ", ".join(map(repr, ids[:SHOWN])) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")


def id_column(names: list[str], column: str, path: Path) -> str:
    """Return `column` if it is one of `names`, else raise InputError."""
    if column not in names:
        raise InputError(f"{path} has no column {column!r} for the ids; it has {names}; set it with Precomputed(id_column=...)")
    return column


def _as_text(value: Any, number: int, path: Path) -> str:
    if isinstance(value, str | int | np.integer) and not isinstance(value, bool) and str(value) != "":
        return str(value)
    raise InputError(f"{path}: id {number} is {value!r}; expected text that is not empty, or an integer")


def _lines(path: Path, column: str) -> list[str]:
    content = path.read_text(encoding="utf-8-sig")
    return content.removesuffix("\n").split("\n") if content else []


def _json(path: Path, column: str) -> list[Any]:
    content = parse_json(path.read_text(encoding="utf-8-sig"))
    if not isinstance(content, list):
        raise InputError(f"{path} holds a JSON {type(content).__name__}; expected a list of ids, one for each row of the vectors")
    return content


def _table(separator: str) -> Callable[[Path, str], list[str]]:
    def read(path: Path, column: str) -> list[str]:
        import pandas as pd

        options: dict[str, Any] = {"keep_default_na": False, "na_filter": False, "skip_blank_lines": False, "index_col": False}
        table = pd.read_csv(path, sep=separator, dtype=str, encoding="utf-8-sig", **options)
        ids: list[str] = table[id_column(list(table.columns), column, path)].tolist()
        return ids

    return read


def _parquet(path: Path, column: str) -> list[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        name = id_column(file.schema_arrow.names, column, path)
        ids: list[Any] = file.read(columns=[name])[name].to_pylist()
        return ids


def _npy(path: Path, column: str) -> list[Any]:
    with path.open("rb") as file:
        if file.read(len(NPY)) != NPY:
            raise InputError(f"{path} is no .npy file (it doesn't begin with {NPY!r}); expected text [rows], stored with numpy.save")
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
