"""Files of vectors, `.npy`, `.parquet` or `.safetensors`, read in blocks. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from genrec.embeddings.id_files import checked_ids, id_column, preview, read_ids
from genrec.errors import InputError, UsageError
from genrec.input_files import file_suffix, parse_json, reading

BLOCK = 1 << 14  # rows read at once
BY_POSITION = (
    "needs ids, a file with the id of each row: vectors are joined by item id, never by position alone, since the catalog's order "
    "and size depend on filters, and a wrong join would go unnoticed"
)


class StoredVectors(NamedTuple):
    """The vectors in a file."""

    ids: list[str]  # id of each row, all different
    width: int  # D, the number of dimensions
    blocks: Iterator[ndarray]  # consecutive rows, numbers [rows, D], read lazily


def open_vectors(path: Path, ids: Path | None, id_column: str, columns: tuple[str, ...]) -> StoredVectors:
    """Open a file of vectors by its suffix; raise InputError if it is damaged or holds something else.

    `ids` is a file of ids, `id_column` the column of ids in a table, and `columns` the columns of vectors in a .parquet file.
    """
    with reading(path, f"a complete {path.suffix} file"):
        stored = READERS[file_suffix(path)](path, ids, id_column, columns)
    if not stored.ids or stored.width == 0:
        raise InputError(
            f"{path} holds vectors of shape [{len(stored.ids)}, {stored.width}]; expected at least one row and one column"
        )
    return stored


def readable_blocks(path: Path, blocks: Iterator[ndarray]) -> Iterator[ndarray]:
    """Yield all blocks; raise InputError with the file's name for a library's errors about a damaged file."""
    while True:
        with reading(path, f"a complete {path.suffix} file"):
            block = next(blocks, None)
        if block is None:
            return
        yield block


def _npy(path: Path, ids: Path | None, id_column: str, columns: tuple[str, ...]) -> StoredVectors:
    if ids is None:
        raise UsageError(f"{path} {BY_POSITION}")
    try:
        table = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        if "Python objects" not in str(error):
            raise
        raise InputError(f"{path} holds Python objects, which are never unpickled; store float [M, D] with numpy.save") from None
    _check_table(path, table.dtype.kind == "f", str(table.dtype), table.shape)
    return StoredVectors(_read_row_ids(path, ids, id_column, len(table)), table.shape[1], _slices(table, len(table)))


def _safetensors(path: Path, ids: Path | None, id_column: str, columns: tuple[str, ...]) -> StoredVectors:
    from safetensors import safe_open

    file: Any = safe_open(path, framework="pt")
    names = list(file.keys())
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    tables = [name for name in names if len(shapes[name]) == 2]
    if len(tables) == len(names) == 1:
        return _one_tensor(file, tables[0], path, ids, id_column)
    not_vectors = [name for name in names if len(shapes[name]) != 1]
    if not_vectors or not names or ids is not None:
        found = {name: list(shape) for name, shape in list(shapes.items())[:5]}
        raise InputError(
            f"{path} holds {len(names)} tensors, {found}; expected one [M, D] with ids, or one [D] per item, named by its id"
        )
    width = shapes[names[0]][0]
    wrong = [name for name in names if shapes[name][0] != width]
    if wrong:
        raise InputError(f"{path}: items {preview(wrong)} have another width than {width}, the one of {names[0]!r}")
    return StoredVectors(checked_ids(names, path), width, _tensors(file, names))


def _one_tensor(file: Any, name: str, path: Path, ids: Path | None, id_column: str) -> StoredVectors:
    """Open a tensor [M, D] with ids from a file, or from a JSON list in the metadata."""
    tensor = file.get_slice(name)
    shape, dtype = tuple(tensor.get_shape()), tensor.get_dtype()
    _check_table(path, dtype in ("F16", "BF16", "F32", "F64"), dtype, shape)
    in_metadata = (file.metadata() or {}).get("item_ids")
    if ids is not None:
        row_ids = _read_row_ids(path, ids, id_column, shape[0])
    elif in_metadata is not None:
        row_ids = _one_per_row(path, checked_ids(_ids_in_metadata(in_metadata, path), path), shape[0], "its metadata's item_ids")
    else:
        raise UsageError(f"{path} {BY_POSITION}; a JSON list under the metadata key item_ids is also accepted")
    return StoredVectors(row_ids, shape[1], (block.float().numpy() for block in _slices(tensor, shape[0])))


def _ids_in_metadata(text: str, path: Path) -> list[Any]:
    """Parse a JSON list of ids; an object is an error, because it does not define the order of the rows."""
    try:
        ids = parse_json(text)
    except ValueError as error:
        raise InputError(
            f"{path}: the metadata's item_ids are not valid JSON ({error}); expected a list with an id for each row"
        ) from None
    if not isinstance(ids, list):
        raise InputError(f"{path}: the metadata's item_ids must be a JSON list with an id for each row, got a {type(ids).__name__}")
    return ids


def _tensors(file: Any, names: list[str]) -> Iterator[ndarray]:
    for begin in range(0, len(names), BLOCK):
        yield np.stack([file.get_tensor(name).float().numpy() for name in names[begin : begin + BLOCK]])


def _parquet(path: Path, ids: Path | None, id_column_name: str, columns: tuple[str, ...]) -> StoredVectors:
    import pyarrow.parquet as pq

    if ids is not None:
        raise UsageError(
            f"{path} has its ids in a column (Precomputed.id_column); ids, here {ids}, are for .npy and .safetensors files"
        )
    file = pq.ParquetFile(path, memory_map=True)
    ids_in = id_column(file.schema_arrow.names, id_column_name, path)
    row_ids = checked_ids(file.read(columns=[ids_in])[ids_in].to_pylist(), path)
    selected = _vector_columns(file.schema_arrow, ids_in, columns, path)
    blocks = (_numbers(batch, selected, path) for batch in file.iter_batches(BLOCK, columns=selected))
    first = next(blocks, None)
    if first is None:
        return StoredVectors(row_ids, 0, iter(()))
    return StoredVectors(row_ids, first.shape[1], _of_one_width(first, blocks, path))


def _vector_columns(schema: Any, ids_in: str, wanted: tuple[str, ...], path: Path) -> list[str]:
    """Return the columns of vectors: those in `wanted`, else the only list column, else all columns if they are numbers.

    The index column that pandas writes is ignored.
    """
    import pyarrow as pa

    index = {name for name in (schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)}
    kinds = {field.name: field.type for field in schema if field.name != ids_in and field.name not in index - set(wanted)}
    absent = [name for name in wanted if name not in kinds]
    if absent:
        raise InputError(f"{path} has no columns {absent} (Precomputed.columns); besides {ids_in!r} it has {list(kinds)}")
    lists = [name for name, kind in kinds.items() if _is_list(kind)]
    numbers = [name for name, kind in kinds.items() if pa.types.is_floating(kind) or pa.types.is_integer(kind)]
    selected = list(wanted) or lists or (numbers if len(numbers) == len(kinds) else [])
    if selected and (set(selected) <= set(numbers) or (len(selected) == 1 and selected[0] in lists)):
        return selected
    shown = {name: str(kind) for name, kind in list(kinds.items())[:20]}
    raise InputError(
        f"{path}: the columns of vectors are not clear; besides {ids_in!r} it has {shown}; expected one column of lists of "
        "numbers, or only columns of numbers: set them with Precomputed(columns=...)"
    )


def _numbers(batch: Any, names: list[str], path: Path) -> ndarray:
    """Return the columns of a batch as numbers [rows, D]."""
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


def _of_one_width(first: ndarray, blocks: Iterator[ndarray], path: Path) -> Iterator[ndarray]:
    """Yield all blocks; raise InputError if their widths differ."""
    yield first
    for block in blocks:
        if block.shape[1] != first.shape[1]:
            raise InputError(f"{path}: the lists have lengths {[first.shape[1], block.shape[1]]}; expected one length for all items")
        yield block


def _slices(table: Any, rows: int) -> Iterator[Any]:
    for begin in range(0, rows, BLOCK):
        yield table[begin : begin + BLOCK]


def _read_row_ids(path: Path, ids: Path, id_column: str, rows: int) -> list[str]:
    return _one_per_row(path, read_ids(ids, id_column), rows, str(ids))


def _one_per_row(path: Path, ids: list[str], rows: int, where: str) -> list[str]:
    if len(ids) != rows:
        raise InputError(f"{path} holds {rows} vectors, {where} {len(ids)} ids; expected one id for each vector, in the same order")
    return ids


def _check_table(path: Path, floating: bool, dtype: str, shape: tuple[int, ...]) -> None:
    if not floating or len(shape) != 2:
        raise InputError(f"{path} holds {dtype} {list(shape)}; expected floating-point numbers [M, D], one row per item")


READERS: dict[str, Callable[[Path, Path | None, str, tuple[str, ...]], StoredVectors]] = {
    ".npy": _npy,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
}
