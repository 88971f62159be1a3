"""Stage 2, stored vectors: what a `.npy`, `.parquet` or `.safetensors` file holds, in blocks. Nothing is unpickled.

In: a file, and a file of ids where it has none of its own. Out: `Stored`: ids, width, and blocks of rows in the order of the ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from genrec.embeddings.id_files import checked_ids, id_column, read_ids, some
from genrec.errors import InputError, UsageError

BLOCK = 1 << 14  # rows read at one time
BY_POSITION = (
    "needs ids, a file with the id of each row: vectors are joined by item id, never by position alone, since the catalog's order "
    "and size depend on filters, and a wrong join can't be seen in the numbers"
)


class Stored(NamedTuple):
    """Vectors in a file."""

    ids: list[str]  # one a row, all different
    width: int  # D
    blocks: Iterator[ndarray]  # numbers [rows, D], one after the other; read when they are asked for


def open_vectors(path: Path, ids: Path | None, id_column: str, columns: tuple[str, ...]) -> Stored:
    """The vectors in a file, by its suffix; an InputError names a file that is damaged or holds something else."""
    with readable(path):
        stored = READERS[path.suffix.lower()](path, ids, id_column, columns)
    if not stored.ids or stored.width == 0:
        raise InputError(
            f"{path} holds vectors of shape [{len(stored.ids)}, {stored.width}]; expected at least one row and one column"
        )
    return stored


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what a library says of a damaged file into an InputError that names it."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, EOFError, SafetensorError) as error:
        raise InputError(
            f"{path} can't be read ({str(error).strip() or type(error).__name__}); expected a whole {path.suffix} file; get it again"
        ) from error


def _npy(path: Path, ids: Path | None, id_column: str, columns: tuple[str, ...]) -> Stored:
    if ids is None:
        raise UsageError(f"{path} {BY_POSITION}")
    try:
        table = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        if "Python objects" not in str(error):
            raise
        raise InputError(f"{path} holds Python objects, which are never unpickled; store float [M, D] with numpy.save") from None
    _check_table(path, table.dtype.kind == "f", str(table.dtype), table.shape)
    return Stored(_given_ids(path, ids, id_column, len(table)), table.shape[1], _slices(table, len(table)))


def _safetensors(path: Path, ids: Path | None, id_column: str, columns: tuple[str, ...]) -> Stored:
    from safetensors import safe_open

    file: Any = safe_open(path, framework="pt")
    names = list(file.keys())
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    tables = [name for name in names if len(shapes[name]) == 2]
    if len(tables) == len(names) == 1:
        return _one_tensor(file, tables[0], path, ids, id_column)
    odd = [name for name in names if len(shapes[name]) != 1]
    if odd or not names or ids is not None:
        found = {name: list(shape) for name, shape in list(shapes.items())[:5]}
        raise InputError(
            f"{path} holds {len(names)} tensors, {found}; expected one [M, D] with ids, or one [D] for each item, under its id"
        )
    width = shapes[names[0]][0]
    wrong = [name for name in names if shapes[name][0] != width]
    if wrong:
        raise InputError(f"{path}: items {some(wrong)} have another width than {width}, which {names[0]!r} has; expected one for all")
    return Stored(checked_ids(names, path), width, _tensors(file, names))


def _one_tensor(file: Any, name: str, path: Path, ids: Path | None, id_column: str) -> Stored:
    """A tensor [M, D] whose ids are in a file, or in the metadata as a JSON list."""
    tensor = file.get_slice(name)
    shape, dtype = tuple(tensor.get_shape()), tensor.get_dtype()
    _check_table(path, dtype in ("F16", "BF16", "F32", "F64"), dtype, shape)
    own = (file.metadata() or {}).get("item_ids")
    if ids is not None:
        found = _given_ids(path, ids, id_column, shape[0])
    elif own is not None:
        found = _fitting(path, checked_ids(_listed(own, path), path), shape[0], "its metadata's item_ids")
    else:
        raise UsageError(f"{path} {BY_POSITION}; the metadata key item_ids (a JSON list) will do as well")
    return Stored(found, shape[1], (block.float().numpy() for block in _slices(tensor, shape[0])))


def _listed(text: str, path: Path) -> list[Any]:
    """The metadata's ids; an object or a text has no order that is the rows'."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: the metadata's item_ids are no JSON ({error}); expected a list with an id for each row") from None
    if not isinstance(found, list):
        raise InputError(f"{path}: the metadata's item_ids must be a JSON list with an id for each row, got a {type(found).__name__}")
    return found


def _tensors(file: Any, names: list[str]) -> Iterator[ndarray]:
    for begin in range(0, len(names), BLOCK):
        yield np.stack([file.get_tensor(name).float().numpy() for name in names[begin : begin + BLOCK]])


def _parquet(path: Path, ids: Path | None, id_column_name: str, columns: tuple[str, ...]) -> Stored:
    import pyarrow.parquet as pq

    if ids is not None:
        raise UsageError(
            f"{path} has its ids in a column (Precomputed.id_column); ids, here {ids}, are for .npy and .safetensors files"
        )
    file = pq.ParquetFile(path, memory_map=True)
    own = id_column(file.schema_arrow.names, id_column_name, path)
    found = checked_ids(file.read(columns=[own])[own].to_pylist(), path)
    chosen = _vector_columns(file.schema_arrow, own, columns, path)
    blocks = (_numbers(batch, chosen, path) for batch in file.iter_batches(BLOCK, columns=chosen))
    first = next(blocks, None)
    if first is None:
        return Stored(found, 0, iter(()))
    return Stored(found, first.shape[1], _alike(first, blocks, path))


def _vector_columns(schema: Any, own: str, wanted: tuple[str, ...], path: Path) -> list[str]:
    """The columns that are the vectors: those that are wanted, else the only list, else all of them if they are numbers.

    A DataFrame's index, which pandas writes beside its columns, is none.
    """
    import pyarrow as pa

    numbered = {name for name in (schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)}
    kinds = {field.name: field.type for field in schema if field.name != own and field.name not in numbered - set(wanted)}
    absent = [name for name in wanted if name not in kinds]
    if absent:
        raise InputError(f"{path} has no columns {absent} (Precomputed.columns); beside {own!r} it has {list(kinds)}")
    lists = [name for name, kind in kinds.items() if _is_list(kind)]
    numbers = [name for name, kind in kinds.items() if pa.types.is_floating(kind) or pa.types.is_integer(kind)]
    clear = lists or (numbers if len(numbers) == len(kinds) else [])
    chosen = list(wanted) or clear
    if chosen and (set(chosen) <= set(numbers) or (len(chosen) == 1 and chosen[0] in lists)):
        return chosen
    shown = {name: str(kind) for name, kind in list(kinds.items())[:20]}
    raise InputError(
        f"{path}: which columns are the vectors is not clear; beside {own!r} it has {shown}; expected one list of numbers, or numbers "
        "only: name the column, or the columns, with Precomputed(columns=...)"
    )


def _numbers(batch: Any, names: list[str], path: Path) -> ndarray:
    """Columns of a batch -> numbers [rows, D]."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not _is_list(batch.schema.field(names[0]).type):
        return np.stack([batch.column(name).to_numpy(zero_copy_only=False).astype(np.float32) for name in names], axis=1)
    column = batch.column(names[0])
    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(widths) != 1 or widths[0] is None:
        raise InputError(f"{path}: the lists in column {names[0]!r} have lengths {widths[:5]}; expected one length for all items")
    values = pc.list_flatten(column)
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise InputError(f"{path}: column {names[0]!r} holds lists of {values.type}; expected lists of numbers")
    numbers: ndarray = values.to_numpy(zero_copy_only=False).reshape(len(batch), widths[0])
    return numbers


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _alike(first: ndarray, blocks: Iterator[ndarray], path: Path) -> Iterator[ndarray]:
    """All blocks, which must have one width."""
    yield first
    for block in blocks:
        if block.shape[1] != first.shape[1]:
            raise InputError(f"{path}: the lists have lengths {[first.shape[1], block.shape[1]]}; expected one length for all items")
        yield block


def _slices(table: Any, rows: int) -> Iterator[Any]:
    for begin in range(0, rows, BLOCK):
        yield table[begin : begin + BLOCK]


def _given_ids(path: Path, ids: Path, id_column: str, rows: int) -> list[str]:
    return _fitting(path, read_ids(ids, id_column), rows, str(ids))


def _fitting(path: Path, ids: list[str], rows: int, where: str) -> list[str]:
    if len(ids) != rows:
        raise InputError(f"{path} holds {rows} vectors, {where} {len(ids)} ids; expected one id for each vector, in their order")
    return ids


def _check_table(path: Path, floating: bool, dtype: str, shape: tuple[int, ...]) -> None:
    if not floating or len(shape) != 2:
        raise InputError(f"{path} holds {dtype} {list(shape)}; expected floating-point numbers [M, D], one row an item")


READERS: dict[str, Callable[[Path, Path | None, str, tuple[str, ...]], Stored]] = {
    ".npy": _npy,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
}
