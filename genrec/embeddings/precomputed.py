"""Stage 2: vectors that were made elsewhere, joined to the catalog by item id.

In: a `.npy`, `.parquet` or `.safetensors` file, and the items' ids. Out: float32 [N, D], as stored; float16 and float64
are converted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from genrec.embeddings.content_hashes import content_hash
from genrec.embeddings.id_files import READERS as ID_FILES
from genrec.embeddings.id_files import some
from genrec.embeddings.mean_fill import fill_with_mean
from genrec.embeddings.vector_files import BY_POSITION, READERS, open_vectors, readable
from genrec.errors import InputError, UsageError
from genrec.progress import Progress, say

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas import DataFrame


@dataclass(frozen=True)
class Precomputed:
    """Vectors from a file. Their order does not matter, and neither do rows of items that the catalog lacks, which are counted.

    `.npy`: float [M, D], with `ids`. `.parquet`: a column of ids, and one of lists or several of numbers. `.safetensors`: one tensor
    [M, D], with `ids` or with a JSON list as metadata `item_ids`; or one tensor [D] for each item, under its id.
    """

    path: Path
    ids: Path | None = None  # the id of each row: .txt (one a line), .json (a list), .csv, .tsv, .parquet (`id_column`), .npy (text)
    id_column: str = "item_id"  # where the ids are in a table
    columns: tuple[str, ...] = ()  # of a .parquet file: the vectors; (): its only list, or all its columns if they are numbers
    missing: Literal["refuse", "mean"] = "refuse"  # items without a vector: an error, or the mean of the others and a warning

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))  # text would be part of the key
        object.__setattr__(self, "ids", None if self.ids is None else Path(self.ids))
        object.__setattr__(self, "columns", (self.columns,) if isinstance(self.columns, str) else tuple(self.columns))
        for name, file, known in (("path", self.path, READERS), ("ids", self.ids, ID_FILES)):
            if file is not None and file.suffix.lower() not in known:
                raise UsageError(f"Precomputed.{name} must end in {', '.join(known)}, got {file}")
        if self.path.suffix.lower() == ".npy" and self.ids is None:
            raise UsageError(f"Precomputed.path: {self.path} {BY_POSITION}")
        if self.missing not in ("refuse", "mean"):
            raise UsageError(f"Precomputed.missing must be refuse or mean, got {self.missing!r}")

    def fingerprint(self, root: Path) -> str:
        """The contents of the files."""
        return " ".join(content_hash(file) for file in (self.path, self.ids) if file is not None)

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Items with `item_id` (row i is item i+1) -> float32 [N, D]; the interactions are not looked at."""
        if "item_id" not in items:
            raise InputError(f"Precomputed joins by the items' column 'item_id', got columns {list(items.columns)}")
        wanted = items["item_id"].astype(str).tolist()
        stored = open_vectors(self.path, self.ids, self.id_column, self.columns)
        row_of = {name: row for row, name in enumerate(wanted)}
        rows = np.array([row_of.get(name, -1) for name in stored.ids], np.int64)
        absent = np.ones(len(wanted), bool)
        absent[rows[rows >= 0]] = False
        self._check_join(wanted, stored.ids, absent)
        if (rows < 0).any():
            say(f"{self.path}: {(rows < 0).sum()} of its {len(rows)} vectors are of items that the catalog lacks; they are not used")
        vectors = np.zeros((len(wanted), stored.width), np.float32)
        begin = 0
        with readable(self.path), Progress(f"reading {self.path.name}", len(rows)) as progress, np.errstate(over="ignore"):
            for block in stored.blocks:
                place = rows[begin : begin + len(block)]
                vectors[place[place >= 0]] = block[place >= 0]
                begin += len(block)
                progress.advance(len(block))
        return fill_with_mean(vectors, absent, f"without a vector in {self.path}", unit=False)

    def _check_join(self, wanted: list[str], found: list[str], absent: ndarray) -> None:
        """Refuse a file that is of other items, or that lacks some unless that is allowed."""
        if absent.all():
            raise InputError(
                f"{self.path} has no vector of any of the catalog's {len(wanted)} items: its ids are {some(found)}, the catalog's "
                f"{some(wanted)}; expected the same ids as in the interactions"
            )
        if self.missing == "refuse" and absent.any():
            raise InputError(
                f"{self.path} has no vector of {absent.sum()} of {len(wanted)} items: "
                f"{some([wanted[row] for row in absent.nonzero()[0]])}; add them, or give them the mean vector with "
                'Precomputed(missing="mean")'
            )
