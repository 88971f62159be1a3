"""Item vectors from a `.npy`, `.parquet` or `.safetensors` file, joined to the catalog by item id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from genrec.embeddings.content_hashes import content_hash
from genrec.embeddings.id_files import READERS as ID_FILES
from genrec.embeddings.id_files import preview
from genrec.embeddings.mean_fill import fill_with_mean
from genrec.embeddings.vector_files import BY_POSITION, READERS, open_vectors, readable_blocks
from genrec.errors import InputError, UsageError
from genrec.id_matching import Ids, no_overlap, overlap_warning
from genrec.input_files import file_suffix, normalize_paths, optional_path
from genrec.progress import Progress, say

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas import DataFrame


@dataclass(frozen=True)
class Precomputed:
    """Vectors from a file, in any order, converted to float32. Rows of items outside the catalog are ignored and counted.

    `.npy`: float [M, D], with `ids`. `.parquet`: a column of ids, and either one column of lists or several columns of numbers.
    `.safetensors`: one tensor [M, D] with `ids` or with a JSON list as metadata `item_ids`; or one tensor [D] per item under its id.
    """

    path: Path | str  # file of vectors
    ids: Path | str | None = None  # file with the id of each row: .txt (one per line), .json (a list), .csv, .tsv, .parquet, .npy
    id_column: str = "item_id"  # column of ids in a table
    columns: tuple[
        str, ...
    ] = ()  # columns of vectors in a .parquet file; (): its only list column, or all columns if they are numbers
    missing: Literal["refuse", "mean"] = "refuse"  # items without a vector: raise InputError, or use the mean of the others and warn

    def __post_init__(self) -> None:
        normalize_paths(self, "path", "ids")  # `fingerprint` is in the key instead of a path
        object.__setattr__(self, "columns", (self.columns,) if isinstance(self.columns, str) else tuple(self.columns))
        for name, file, known in (("path", self._path, READERS), ("ids", self._ids, ID_FILES)):
            if file is not None and file_suffix(file) not in known:
                raise UsageError(f"Precomputed.{name} must end in {', '.join(known)}, got {file}")
        if file_suffix(self._path) == ".npy" and self.ids is None:
            raise UsageError(f"Precomputed.path: {self.path} {BY_POSITION}")
        if self.missing not in ("refuse", "mean"):
            raise UsageError(f"Precomputed.missing must be refuse or mean, got {self.missing!r}")

    def fingerprint(self, root: Path) -> str:
        """Return the hashes of the files' contents."""
        return " ".join(content_hash(file) for file in (self._path, self._ids) if file is not None)

    def file_names(self) -> tuple[str, ...]:
        """Return the names of the files, for labels."""
        return tuple(file.name for file in (self._path, self._ids) if file is not None)

    @property
    def _path(self) -> Path:
        return Path(self.path)

    @property
    def _ids(self) -> Path | None:
        return optional_path(self.ids)

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Return vectors float32 [N, D] of the items, by the column `item_id`; interactions are not used."""
        if "item_id" not in items:
            raise InputError(f"Precomputed joins by the items' column 'item_id', got the columns {list(items.columns)}")
        wanted = items["item_id"].astype(str).tolist()
        stored = open_vectors(self._path, self._ids, self.id_column, self.columns)
        row_of = {name: row for row, name in enumerate(wanted)}
        rows = np.array([row_of.get(name, -1) for name in stored.ids], np.int64)
        absent = np.ones(len(wanted), bool)
        absent[rows[rows >= 0]] = False
        self._check_join(wanted, stored.ids, absent)
        if (rows < 0).any():
            say(f"{self.path}: {(rows < 0).sum()} of its {len(rows)} vectors are of items outside the catalog and are not used")
        vectors = np.zeros((len(wanted), stored.width), np.float32)
        begin = 0
        blocks = readable_blocks(self._path, stored.blocks)
        with Progress(f"reading {self._path.name}", len(rows)) as progress, np.errstate(over="ignore"):
            for block in blocks:
                target = rows[begin : begin + len(block)]
                vectors[target[target >= 0]] = block[target >= 0]
                begin += len(block)
                progress.advance(len(block))
        return fill_with_mean(vectors, absent, f"without a vector in {self.path}", unit=False)

    def _check_join(self, wanted: list[str], stored: list[str], absent: ndarray) -> None:
        """Raise InputError if the file has none of the items, or not all of them with `missing="refuse"`."""
        matched = {wanted[row] for row in (~absent).nonzero()[0]}
        items = Ids("the items", [name for name in wanted if name not in matched])
        vectors = Ids("the vectors", [name for name in stored if name not in matched])
        if not matched:
            raise no_overlap(items, vectors, f"{self.path} has no vector of any of the catalog's {len(wanted)} items")
        if self.missing == "refuse" and absent.any():
            raise InputError(
                f"{self.path} has no vector of {absent.sum()} of {len(wanted)} items: "
                f"{preview([wanted[row] for row in absent.nonzero()[0]])}; add them, or give them the mean vector with "
                'Precomputed(missing="mean")'
            )
        warning = overlap_warning(len(matched), len(wanted), items, vectors, f"have a vector in {self.path}")
        if warning is not None:
            say(f"warning: {warning}")
