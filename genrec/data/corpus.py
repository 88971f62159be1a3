"""Stage 1, its artifact: the data set as every later stage sees it, memory-mapped, so that opening it takes no time.

Payload: `event_item.npy`, `event_time.npy`, `event_rating.npy` (where there are ratings), user by user, oldest first; `bounds.npy`,
where each user's events begin and where their validation, their test and their end are; `items.parquet` (row i is item i+1),
`users.parquet` (row u is user u+1), `stats.json`, `set_aside.parquet`. For other tools, the same events as tables:
`interactions.parquet` (user, item, time, maybe rating) and `split.parquet` (the part of every row).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray
from pandas import DataFrame

from genrec.data.array_files import open_array
from genrec.data.splits import BEGIN, END, PARTS, Part, chunks, part_of_rows
from genrec.errors import ArtifactError, UsageError


@dataclass(frozen=True, eq=False)
class Corpus:
    """Numbered, split interactions and the catalog. Users are 1..U, items 1..N."""

    folder: Path
    item: ndarray  # int32 [E]  the items of all events, user by user, oldest first, ties in row order
    time: ndarray  # int64 [E]  seconds since 1970
    rating: ndarray | None  # float64 [E], NaN where there is none
    bounds: ndarray  # int64 [U, 4]  of each user: where events, validation and test begin, and where they end
    statistics: dict[str, Any]  # plain JSON

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """Open what `prepare` wrote; the events are not read, but what does not fit together is refused."""
        arrays = {name: _open(folder, name, dtype) for name, dtype in (("item", np.int32), ("time", np.int64))}
        rating = _open(folder, "rating", np.float64) if (folder / "event_rating.npy").exists() else None
        try:
            statistics = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
            bounds = open_array(folder / "bounds.npy")
        except (OSError, ValueError) as error:
            raise _misfit(folder, f"stats.json or bounds.npy can't be read ({error})") from error
        corpus = cls(folder, arrays["item"], arrays["time"], rating, bounds, statistics)
        _check(corpus)
        return corpus

    @property
    def item_count(self) -> int:
        """N."""
        return int(self.statistics["items"])

    @property
    def user_count(self) -> int:
        """U."""
        return len(self.bounds)

    @cached_property
    def items(self) -> DataFrame:
        """The catalog: item_id, text and more, all str; row i is item i+1."""
        items = _table(self.folder, "items", ("item_id", "text"))
        if len(items) != self.item_count:
            raise _misfit(self.folder, f"items must be exactly 1..{self.item_count}, but items.parquet has {len(items)} rows")
        return items

    @cached_property
    def user_ids(self) -> ndarray:
        """Text [U]: entry u is user u+1."""
        users = _table(self.folder, "users", ("user_id",))
        if len(users) != self.user_count:
            raise _misfit(self.folder, f"users must be exactly 1..{self.user_count}, but users.parquet has {len(users)} rows")
        return users["user_id"].to_numpy(dtype=object)

    @cached_property
    def set_aside(self) -> DataFrame:
        """The rows that could not be used: file: str, line: int64, reason: str."""
        return _table(self.folder, "set_aside", ("file", "line", "reason"))

    @property
    def interactions(self) -> DataFrame:
        """All events in memory: user, item, time int64 (, rating float64), part str; by user and time."""
        return self._frame(slice(None), np.array(PARTS, dtype=object)[part_of_rows(self.bounds)])

    def part(self, name: Part) -> DataFrame:
        """The interactions of one part in memory, in the same order: user, item, time int64 (, rating float64), part str."""
        if name not in PARTS:
            raise UsageError(f"a part is one of {', '.join(PARTS)}, got {name!r}")
        chosen = np.flatnonzero(part_of_rows(self.bounds) == PARTS.index(name))
        return self._frame(chosen, np.full(len(chosen), name, dtype=object))

    def _frame(self, rows: ndarray | slice, part: ndarray) -> DataFrame:
        users = np.repeat(np.arange(1, self.user_count + 1), self.bounds[:, END] - self.bounds[:, BEGIN])
        columns = {"user": users[rows], "item": self.item[rows].astype(np.int64), "time": np.array(self.time[rows])}
        if self.rating is not None:
            columns["rating"] = np.array(self.rating[rows])
        return DataFrame(columns | {"part": pd.Series(part, dtype=str)})

    def chunks(self) -> Iterator[tuple[slice, ndarray]]:
        """Runs of events, and the number of each event's part (an index of PARTS), int8."""
        return chunks(self.bounds)

    def popularity(self, part: Part | None = "train") -> ndarray:
        """Events of each item in one part, or (None) in all, int64 [N + 1]; entry 0 is no item."""
        counts = np.zeros(self.item_count + 1, dtype=np.int64)
        for rows, parts in self.chunks():
            taken = self.item[rows] if part is None else self.item[rows][parts == PARTS.index(part)]
            counts += np.bincount(taken, minlength=len(counts))
        return counts


def _open(folder: Path, name: str, dtype: type[np.generic]) -> ndarray:
    path = folder / f"event_{name}.npy"
    try:
        array = open_array(path)
    except (OSError, ValueError) as error:
        raise _misfit(folder, f"{path.name} can't be read ({error})") from error
    if array.dtype != dtype or array.ndim != 1:
        raise _misfit(folder, f"{path.name} must be {np.dtype(dtype)} [events], got {array.dtype} {list(array.shape)}")
    return array


def _table(folder: Path, name: str, columns: tuple[str, ...]) -> DataFrame:
    try:
        frame = pd.read_parquet(folder / f"{name}.parquet")
    except (OSError, ValueError) as error:
        raise _misfit(folder, f"{name}.parquet can't be read ({error})") from error
    absent = [column for column in columns if column not in frame]
    if absent:
        raise _misfit(folder, f"{name}.parquet has no column {absent[0]!r}, only {', '.join(map(str, frame.columns))}")
    return frame


def _check(corpus: Corpus) -> None:
    """Refuse arrays that do not belong together, without reading them: their content is the store's to check, by hash."""
    folder, bounds, events = corpus.folder, corpus.bounds, len(corpus.item)
    if bounds.dtype != np.int64 or bounds.ndim != 2 or bounds.shape[1] != 4 or not len(bounds):
        raise _misfit(folder, f"bounds.npy must be int64 [users, 4], got {bounds.dtype} {list(bounds.shape)}")
    for name, array in (("time", corpus.time), ("rating", corpus.rating)):
        if array is not None and len(array) != events:
            raise _misfit(folder, f"{events} items but {len(array)} of event_{name}.npy")
    if bounds[0, BEGIN] != 0 or bounds[-1, END] != events:
        raise _misfit(folder, f"users' events must be 0..{events}, got {bounds[0, BEGIN]}..{bounds[-1, END]}")
    counted = {"users": len(bounds), "interactions": events}
    for name, count in counted.items():
        if corpus.statistics.get(name) != count:
            raise _misfit(folder, f"stats.json says {corpus.statistics.get(name)} {name}, there are {count}")
    if not isinstance(corpus.statistics.get("items"), int):
        raise _misfit(folder, f"stats.json must say how many items there are, got {corpus.statistics.get('items')!r}")


def _misfit(folder: Path, found: str) -> ArtifactError:
    return ArtifactError(f"{folder} holds no corpus that fits together: {found}; run the experiment again with --refresh data")
