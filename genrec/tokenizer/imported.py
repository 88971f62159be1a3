"""`Imported`: published Semantic IDs from a file, joined to the catalog by item id.

`genrec.tokenizer.published_ids` lists the file formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from numpy import ndarray
from torch import Generator

from genrec.errors import InputError, UsageError
from genrec.id_matching import Ids, no_overlap
from genrec.input_files import normalize_paths, optional_path
from genrec.progress import say
from genrec.tokenizer.listed_codes import FittedListedCodes, restore_listed
from genrec.tokenizer.published_ids import Published, content_hash, read_ids, read_published
from genrec.tokenizer.residual_quantization import as_points

SHOWN = 5  # most ids in a message


@dataclass(frozen=True)
class Imported:
    """Codes from a file, joined by item id. New items get the codes of the item with the nearest vector.

    The size of a level is the largest code in the file plus 1. Codes that start at 1 or have gaps leave some codes unused.
    """

    path: Path | str  # JSON object from item keys to codes, optionally compressed by gzip
    ids: Path | str | None = None  # map from item ids to the file's keys (JSON, tab- or comma-separated); None if keys are item ids
    columns: tuple[int, int] = (0, 1)  # columns of `ids` with the item id and with the key, counted from 0

    def __post_init__(self) -> None:
        normalize_paths(self, "path", "ids")  # `fingerprint` is in the key instead of a path
        if isinstance(self.columns, str) or len(self.columns) != 2:
            raise UsageError(f"Imported.columns must be two columns, counted from 0, got {self.columns!r}")
        if min(self.columns) < 0 or self.columns[0] == self.columns[1]:
            raise UsageError(f"Imported.columns must be two different columns, counted from 0, got {self.columns}")

    def level_sizes(self) -> tuple[int, ...]:
        """Return the largest code of each level plus 1. Reads the file."""
        return tuple(int(size) + 1 for size in read_published(self._path).codes.max(0))

    def fingerprint(self, root: Path) -> str:
        """Return a hash of the files' uncompressed content, independent of their paths."""
        return content_hash(*self._files())

    def file_names(self) -> tuple[str, ...]:
        """Return the names of the files, for labels."""
        return tuple(file.name for file in self._files())

    def _files(self) -> list[Path]:
        return [self._path] if self._ids is None else [self._path, self._ids]

    @property
    def _path(self) -> Path:
        return Path(self.path)

    @property
    def _ids(self) -> Path | None:
        return optional_path(self.ids)

    def fit(self, vectors: ndarray, generator: Generator) -> FittedListedCodes:
        """Raise `UsageError`: published codes are joined by item id, so call `fit_catalog`."""
        raise UsageError("Imported joins published codes by item id, which fit does not get: call fit_catalog(item_ids, vectors, ...)")

    def fit_catalog(self, item_ids: Sequence[str], vectors: ndarray, generator: Generator) -> FittedListedCodes:
        """Look up the codes of the items; row i of vectors float32 [N, D] belongs to `item_ids[i]`. The generator is not used."""
        points, published = as_points(vectors), read_published(self._path)
        if len(item_ids) != len(points):
            raise UsageError(f"Imported needs an item id for each of {len(points)} vectors, got {len(item_ids)} item ids")
        keys = self._keys([str(item) for item in item_ids], published)
        if surplus := len(published.rows) - len(keys):
            say(f"{self._path.name}: ignored {surplus} of {len(published.rows)} published items that are not in the catalog")
        codes = torch.from_numpy(published.codes[[published.rows[key] for key in keys]])
        return FittedListedCodes(codes, points, self.level_sizes())

    def restore(self, state: dict[str, ndarray]) -> FittedListedCodes:
        """Restore the codes from their stored state, without the files."""
        return restore_listed(state)

    def _keys(self, items: list[str], published: Published) -> list[str]:
        """Return the file's key of every item. Raise `InputError` for items without a key and for two items with the same key."""
        table = {item: item for item in items} if self._ids is None else read_ids(self._ids, self.columns)
        missing = [item for item in items if table.get(item) not in published.rows]
        if len(missing) == len(items):
            known = Ids(
                "its keys" if self._ids is None else f"the ids of {self._ids}", list(published.rows if self._ids is None else table)
            )
            what = f"{self.path} has no codes of any of the catalog's {len(items)} items"
            raise no_overlap(Ids("the items", items), known, f"{what}. {self._advice(items, published)}. Examples")
        if missing:
            raise InputError(
                f"{len(missing)} of {len(items)} items of the catalog have no codes in {self.path}: {_listed(missing)}; the keys of "
                f"the file are {_listed(list(published.rows))}. {self._advice(items, published)}"
            )
        owners: dict[str, str] = {}
        for item in items:
            if (other := owners.setdefault(table[item], item)) != item:
                raise InputError(f"{self.ids}: items {other!r} and {item!r} have the same key, {table[item]!r}")
        if len(owners) < len(items):
            raise UsageError(f"Imported.fit_catalog got {len(items)} item ids, of which only {len(owners)} are distinct")
        return [table[item] for item in items]

    def _advice(self, items: list[str], published: Published) -> str:
        """Return a next step for items without codes."""
        if self._ids is None:
            return "If the keys are numbers of another repository, set Imported.ids to its table from item ids to numbers"
        swapped = (self.columns[1], self.columns[0])
        with suppress(InputError):  # with swapped columns, the file may be invalid
            table = read_ids(self._ids, swapped)
            if all(table.get(item) in published.rows for item in items):
                return f"The table matches with swapped columns: set columns={swapped}"
        unlisted = [item for item in items if item not in read_ids(self._ids, self.columns)]
        return f"{len(unlisted)} of them are not in {self.ids}" if unlisted else "Apply the publisher's filters to the catalog"


def _listed(names: list[str]) -> str:
    """Return the first names as text."""
    return ", ".join(repr(name) for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
