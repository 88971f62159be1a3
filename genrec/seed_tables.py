"""Tables of several seeds in one small Parquet file: a column that is the same at all seeds is stored once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy import ndarray
from pandas import DataFrame
from pyarrow import parquet

from genrec.errors import ArtifactError

OF_SEED = " of seed "  # between the name of a column and its seed
MAX_DICTIONARY = 256  # distinct values of a column that is stored as a dictionary of them


def write(path: Path, tables: Mapping[int, DataFrame]) -> None:
    """Write the table of each seed, its rows by ascending user. All tables have the same columns of numbers.

    Raises ArtifactError if two seeds have other users.
    """
    ordered = {seed: table.sort_values("user") for seed, table in tables.items()}
    users = {seed: table["user"].to_numpy() for seed, table in ordered.items()}
    (first_seed, first_users), *others = users.items()
    for seed, found in others:
        if not np.array_equal(found, first_users):
            raise ArtifactError(f"seeds {first_seed} and {seed} have other users, so they can't be compared; run the row again")
    columns: dict[str, ndarray] = {}
    for name in next(iter(ordered.values())).columns:
        values = {seed: table[name].to_numpy() for seed, table in ordered.items()}
        first = next(iter(values.values()))
        if all(np.array_equal(first, each, equal_nan=first.dtype.kind == "f") for each in values.values()):
            columns[name] = first
        else:
            columns |= {f"{name}{OF_SEED}{seed}": each for seed, each in values.items()}
    few = [name for name, each in columns.items() if len(np.unique(each)) <= MAX_DICTIONARY]
    many = [name for name, each in columns.items() if name not in few and each.dtype.kind in "iu"]
    parquet.write_table(
        pa.table({name: _narrowed(each) for name, each in columns.items()}),
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=few,
        column_encoding=dict.fromkeys(many, "DELTA_BINARY_PACKED"),
        write_statistics=False,
    )


def read(path: Path, seed: int) -> DataFrame:
    """Return the table of one seed, int64 and float64. Raises ArtifactError if the file has no table of this seed."""
    names = parquet.read_schema(path).names
    mine = {name: name.partition(OF_SEED)[0] for name in names if OF_SEED not in name or name.endswith(f"{OF_SEED}{seed}")}
    expected = {name.partition(OF_SEED)[0] for name in names}
    if set(mine.values()) != expected:
        raise ArtifactError(f"{path} has no {', '.join(sorted(expected - set(mine.values())))} of seed {seed}; keep the row again")
    table = parquet.read_table(path, columns=list(mine)).to_pandas().rename(columns=mine)
    result: DataFrame = table.astype({name: np.int64 for name in table.columns if table[name].dtype.kind in "iu"})
    return result


def columns(path: Path) -> list[str]:
    """Return the names of the columns of a seed's table."""
    return list(dict.fromkeys(name.partition(OF_SEED)[0] for name in parquet.read_schema(path).names))


def _narrowed(values: ndarray) -> ndarray:
    """Return integers as int32 if they fit; other values unchanged."""
    fits = values.dtype.kind in "iu" and (not len(values) or (values.min() >= -(2**31) and values.max() < 2**31))
    return values.astype(np.int32) if fits else values
