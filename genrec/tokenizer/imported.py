"""Stage 3: Semantic IDs that somebody has published. In: their file, and the catalog's item ids. Out: codes int64 [N, L].

Which files are read: see `genrec.tokenizer.published_ids`.
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
from genrec.progress import say
from genrec.tokenizer.listed_codes import FittedListedCodes, restore_listed
from genrec.tokenizer.published_ids import Published, content_hash, read_ids, read_published
from genrec.tokenizer.residual_quantization import as_points

SHOWN = 5  # ids in a message


@dataclass(frozen=True)
class Imported:
    """Codes from a file, joined by item id. Items that come later get the codes of the item with the nearest vector.

    A level's size is the largest code of the file plus 1, so that codes counted from 1, or with gaps, leave some unused.
    """

    path: Path  # JSON from an item's key to its codes, packed by gzip or not
    ids: Path | None = None  # from the catalog's item id to the file's key (JSON, or a table of tabs or commas); None: they are one
    columns: tuple[int, int] = (0, 1)  # of `ids`: where the catalog's item id stands, and where the key; from 0

    def __post_init__(self) -> None:
        if min(self.columns) < 0 or self.columns[0] == self.columns[1]:
            raise UsageError(f"Imported.columns must be two different columns, counted from 0, got {self.columns}")

    def level_sizes(self) -> tuple[int, ...]:
        """The largest code of each level, plus 1; the file is read."""
        return tuple(int(size) + 1 for size in read_published(self.path).codes.max(0))

    def fingerprint(self, root: Path) -> str:
        """What the files hold: moving or packing them changes nothing."""
        return content_hash(self.path, *([self.ids] if self.ids is not None else []))

    def fit(self, vectors: ndarray, generator: Generator) -> FittedListedCodes:
        """Refused: published codes are joined by item id."""
        raise UsageError("Imported joins published codes by item id, which vectors lack: use fit_catalog(item_ids, vectors, ...)")

    def fit_catalog(self, item_ids: Sequence[str], vectors: ndarray, generator: Generator) -> FittedListedCodes:
        """The codes of these items; row i of float32 [N, D] is `item_ids[i]`. Nothing is drawn."""
        points, published = as_points(vectors), read_published(self.path)
        if len(item_ids) != len(points):
            raise UsageError(f"Imported needs an item id for each of {len(points)} vectors, got {len(item_ids)}")
        keys = self._keys([str(item) for item in item_ids], published)
        if surplus := len(published.rows) - len(keys):
            say(f"{self.path.name}: {surplus} of {len(published.rows)} published items are not in the catalog")
        codes = torch.from_numpy(published.codes[[published.rows[key] for key in keys]])
        return FittedListedCodes(codes, points, self.level_sizes())

    def restore(self, state: dict[str, ndarray]) -> FittedListedCodes:
        """The codes again; the files are not needed."""
        return restore_listed(state)

    def _keys(self, items: list[str], published: Published) -> list[str]:
        """The file's key of every item; refuses items that have none, and two items with one key."""
        table = {item: item for item in items} if self.ids is None else read_ids(self.ids, self.columns)
        missing = [item for item in items if table.get(item) not in published.rows]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(items)} items of the catalog have no codes in {self.path}: {_some(missing)}; its keys are "
                f"like {_some(list(published.rows))}. {self._advice(items, published)}"
            )
        owners: dict[str, str] = {}
        for item in items:
            if (other := owners.setdefault(table[item], item)) != item:
                raise InputError(f"{self.ids}: items {other!r} and {item!r} have one key, {table[item]!r}")
        if len(owners) < len(items):
            raise UsageError(f"Imported.fit_catalog got {len(items)} item ids, of which {len(owners)} are distinct")
        return [table[item] for item in items]

    def _advice(self, items: list[str], published: Published) -> str:
        """What may be wrong."""
        if self.ids is None:
            return "Where these are numbers of another repository, give its table from item ids to them as Imported.ids"
        other_way = (self.columns[1], self.columns[0])
        with suppress(InputError):  # read so, it need not be a table
            turned = read_ids(self.ids, other_way)
            if all(turned.get(item) in published.rows for item in items):
                return f"The table fits the other way round: columns={other_way}"
        unlisted = [item for item in items if item not in read_ids(self.ids, self.columns)]
        return f"{len(unlisted)} of them are not in {self.ids}" if unlisted else "Filter the catalog as the publisher did"


def _some(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
