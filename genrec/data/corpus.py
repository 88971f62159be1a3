"""The corpus: filtered, numbered and split interactions and the catalog, in memory-mapped files.

Files of the artifact:

    event_item.npy, event_time.npy    the events by user, then time
    event_rating.npy                  their ratings, if the data set has any
    event_label.npy                   their labels (1 liked, 0 neutral, -1 disliked), if the split sets bounds of ratings
    bounds.npy                        where each user's events, validation and test begin, and where they end
    items.parquet, users.parquet      ids and metadata; row i is item i+1, row u is user u+1
    stats.json, set_aside.parquet     statistics, and the rows that could not be used
    interactions.parquet              the same events as a table (user, item, time, maybe rating), for other tools
    split.parquet                     the part of every row of that table
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray
from pandas import DataFrame

from genrec.data.array_files import open_array
from genrec.data.splits import BEGIN, END, PARTS, Part, chunks, part_of_events
from genrec.errors import ArtifactError, UsageError
from genrec.own_ids import OwnIds
from genrec.types import FeedbackBounds


@dataclass(frozen=True, eq=False)
class Corpus:
    """A data set: events sorted by user and time, with users numbered 1..U and items 1..N, their parts, and the catalog.

    The arrays are memory-mapped. `interactions` and `part` return the same events as DataFrames in memory.
    """

    folder: Path
    item: ndarray  # int32 [E]  items of all events by user, then time; ties in the source's order
    time: ndarray  # int64 [E]  seconds since 1970
    rating: ndarray | None  # float64 [E], NaN where missing; None: the data set has no ratings
    bounds: ndarray  # int64 [U, 4]  where each user's events, validation and test begin, and where they end
    statistics: dict[str, Any]  # `corpus_statistics` and counts of removed rows, as plain JSON
    label: ndarray | None = None  # int8 [E], `genrec.types.data.LIKED`, `NEUTRAL` or `DISLIKED`; None: the split sets no bounds

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """Open a corpus without reading its events; raise ArtifactError if the files do not match each other."""
        arrays = {name: _open(folder, name, dtype) for name, dtype in (("item", np.int32), ("time", np.int64))}
        rating = _open(folder, "rating", np.float64) if (folder / "event_rating.npy").exists() else None
        label = _open(folder, "label", np.int8) if (folder / "event_label.npy").exists() else None
        try:
            statistics = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
            bounds = open_array(folder / "bounds.npy")
        except (OSError, ValueError) as error:
            raise _mismatch(folder, f"stats.json or bounds.npy can't be read ({error})") from error
        corpus = cls(folder, arrays["item"], arrays["time"], rating, bounds, statistics, label)
        _check(corpus)
        return corpus

    @property
    def item_count(self) -> int:
        """N, the number of items."""
        return int(self.statistics["items"])

    @property
    def user_count(self) -> int:
        """U, the number of users."""
        return len(self.bounds)

    @property
    def feedback(self) -> FeedbackBounds | None:
        """The bounds of the labels; None without labels."""
        known = self.statistics.get("feedback")
        return None if known is None else FeedbackBounds(*(known[name] for name in FeedbackBounds._fields))

    @cached_property
    def items(self) -> DataFrame:
        """The catalog, with the str columns item_id, text and any others; row i is item i+1."""
        items = _table(self.folder, "items", ("item_id", "text"))
        if len(items) != self.item_count:
            raise _mismatch(self.folder, f"items must be exactly 1..{self.item_count}, but items.parquet has {len(items)} rows")
        return items

    @cached_property
    def user_ids(self) -> ndarray:
        """The users' ids, str [U]; entry u is user u+1."""
        users = _table(self.folder, "users", ("user_id",))
        if len(users) != self.user_count:
            raise _mismatch(self.folder, f"users must be exactly 1..{self.user_count}, but users.parquet has {len(users)} rows")
        return users["user_id"].to_numpy(dtype=object)

    @cached_property
    def user_hashes(self) -> ndarray:
        """The `user_hash` of each user's id, int64 [U]; entry u is user u+1."""
        return np.array([user_hash(str(each)) for each in self.user_ids], dtype=np.int64)

    @property
    def own_ids(self) -> OwnIds:
        """The ids of users and items in the source, for messages."""
        return OwnIds(lambda user: str(self.user_ids[user - 1]), lambda item: str(self.items["item_id"].iloc[item - 1]))

    @cached_property
    def set_aside(self) -> DataFrame:
        """The rows that could not be used, with the columns file: str, line: int64, reason: str."""
        return _table(self.folder, "set_aside", ("file", "line", "reason"))

    @property
    def interactions(self) -> DataFrame:
        """All events in memory by user and time: user, item, time int64, maybe rating float64 and label int8, part str."""
        return self._frame(slice(None), np.array(PARTS, dtype=object)[part_of_events(self.bounds)])

    def part(self, name: Part) -> DataFrame:
        """Return the events of one part in memory, with the columns and the order of `interactions`."""
        if name not in PARTS:
            raise UsageError(f"a part is one of {', '.join(PARTS)}, got {name!r}")
        rows = np.flatnonzero(part_of_events(self.bounds) == PARTS.index(name))
        return self._frame(rows, np.full(len(rows), name, dtype=object))

    def _frame(self, rows: ndarray | slice, part: ndarray) -> DataFrame:
        users = np.repeat(np.arange(1, self.user_count + 1), self.bounds[:, END] - self.bounds[:, BEGIN])
        columns = {"user": users[rows], "item": self.item[rows].astype(np.int64), "time": np.array(self.time[rows])}
        if self.rating is not None:
            columns["rating"] = np.array(self.rating[rows])
        if self.label is not None:
            columns["label"] = np.array(self.label[rows])
        return DataFrame(columns | {"part": pd.Series(part, dtype=str)})

    def chunks(self) -> Iterator[tuple[slice, ndarray]]:
        """Yield slices of events that fit into memory, and the part of each event as an index of PARTS, int8."""
        return chunks(self.bounds)

    def popularity(self, part: Part | None = "train") -> ndarray:
        """Return each item's number of events in one part (None: in all), int64 [N + 1]; entry 0 is 0."""
        counts = np.zeros(self.item_count + 1, dtype=np.int64)
        for rows, parts in self.chunks():
            items = self.item[rows] if part is None else self.item[rows][parts == PARTS.index(part)]
            counts += np.bincount(items, minlength=len(counts))
        return counts


def _open(folder: Path, name: str, dtype: type[np.generic]) -> ndarray:
    path = folder / f"event_{name}.npy"
    try:
        array = open_array(path)
    except (OSError, ValueError) as error:
        raise _mismatch(folder, f"{path.name} can't be read ({error})") from error
    if array.dtype != dtype or array.ndim != 1:
        raise _mismatch(folder, f"{path.name} must be {np.dtype(dtype)} [events], got {array.dtype} {list(array.shape)}")
    return array


def _table(folder: Path, name: str, columns: tuple[str, ...]) -> DataFrame:
    try:
        frame = pd.read_parquet(folder / f"{name}.parquet")
    except (OSError, ValueError) as error:
        raise _mismatch(folder, f"{name}.parquet can't be read ({error})") from error
    absent = [column for column in columns if column not in frame]
    if absent:
        raise _mismatch(folder, f"{name}.parquet has no column {absent[0]!r}, only {', '.join(map(str, frame.columns))}")
    return frame


def _check(corpus: Corpus) -> None:
    """Raise ArtifactError if shapes, types or counts do not match. The store checks the contents by hash."""
    folder, bounds, events = corpus.folder, corpus.bounds, len(corpus.item)
    if bounds.dtype != np.int64 or bounds.ndim != 2 or bounds.shape[1] != 4 or not len(bounds):
        raise _mismatch(folder, f"bounds.npy must be int64 [users, 4], got {bounds.dtype} {list(bounds.shape)}")
    for name, array in (("time", corpus.time), ("rating", corpus.rating), ("label", corpus.label)):
        if array is not None and len(array) != events:
            raise _mismatch(folder, f"event_item.npy has {events} entries, but event_{name}.npy has {len(array)}")
    if bounds[0, BEGIN] != 0 or bounds[-1, END] != events:
        raise _mismatch(folder, f"bounds.npy must cover the events 0..{events}, got {bounds[0, BEGIN]}..{bounds[-1, END]}")
    for name, count in (("users", len(bounds)), ("interactions", events)):
        if corpus.statistics.get(name) != count:
            raise _mismatch(folder, f"stats.json has {corpus.statistics.get(name)} {name}, the arrays have {count}")
    if (corpus.label is None) != ("feedback" not in corpus.statistics):
        raise _mismatch(folder, "event_label.npy and the bounds of ratings in stats.json must exist together, and one is missing")
    if not isinstance(corpus.statistics.get("items"), int):
        raise _mismatch(folder, f"stats.json must have the number of items, got {corpus.statistics.get('items')!r}")


def _mismatch(folder: Path, found: str) -> ArtifactError:
    return ArtifactError(f"{folder} is not a valid corpus: {found}; run the experiment again with --refresh data")


def user_hash(user_id: str) -> int:
    """Return a number of a user's id, 0 .. 2^63 - 1, that is the same in every process and data set."""
    digest = blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
