"""Stage 1, its artifact: the data set as every later stage sees it.

Payload: `interactions.parquet` (user, item, time, maybe rating), `split.parquet` (the part of every row), `items.parquet` (row i is
item i+1), `users.parquet` (row u is user u+1), `stats.json`, `set_aside.parquet`. What does not fit together is refused on loading.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray
from pandas import DataFrame

from genrec.data.splits import PARTS, Part
from genrec.errors import ArtifactError, UsageError
from genrec.store import write_json

TABLES = {  # payload without stats.json -> the columns it has at least
    "interactions": ("user", "item", "time"),
    "split": ("part",),
    "items": ("item_id", "text"),
    "users": ("user_id",),
    "set_aside": ("file", "line", "reason"),
}


@dataclass(frozen=True, eq=False)
class Corpus:
    """Numbered, split interactions and the catalogue."""

    interactions: DataFrame  # user, item, time: int64 (, rating: float64), part: str; by user and time, ties in row order
    items: DataFrame  # item_id, text and more, all str; row i is item i+1
    user_ids: ndarray  # str [U]  entry u is user u+1
    statistics: dict[str, Any]  # plain JSON
    set_aside: DataFrame  # file: str, line: int64, reason: str

    @property
    def item_count(self) -> int:
        """N."""
        return len(self.items)

    @property
    def user_count(self) -> int:
        """U."""
        return len(self.user_ids)

    def part(self, name: Part) -> DataFrame:
        """The interactions of one part, in the same order."""
        if name not in PARTS:
            raise UsageError(f"a part is one of {', '.join(PARTS)}, got {name!r}")
        return self.interactions[self.interactions["part"] == name].reset_index(drop=True)

    def save(self, folder: Path) -> None:
        """Write the payload into the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        tables = {
            "interactions": self.interactions.drop(columns="part"),
            "split": self.interactions[["part"]],
            "items": self.items,
            "users": DataFrame({"user_id": self.user_ids}),
            "set_aside": self.set_aside,
        }
        for name, frame in tables.items():
            frame.to_parquet(folder / f"{name}.parquet", index=False)
        write_json(folder / "stats.json", self.statistics)

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """Read what `save` wrote, and check that it fits together."""
        tables = {name: _table(folder / f"{name}.parquet", columns) for name, columns in TABLES.items()}
        interactions, split = tables["interactions"], tables["split"]
        if len(interactions) != len(split):
            raise _misfit(folder, f"{len(interactions)} interactions but {len(split)} rows of split.parquet")
        try:
            statistics = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _misfit(folder, f"stats.json can't be read ({error})") from error
        users = tables["users"]["user_id"].to_numpy(dtype=object)
        corpus = cls(interactions.assign(part=split["part"]), tables["items"], users, statistics, tables["set_aside"])
        _check(corpus, folder)
        return corpus


def _table(path: Path, columns: tuple[str, ...]) -> DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise _misfit(path.parent, f"{path.name} can't be read ({error})") from error
    absent = [column for column in columns if column not in frame]
    if absent:
        raise _misfit(path.parent, f"{path.name} has no column {absent[0]!r}, only {', '.join(map(str, frame.columns))}")
    return frame


def _check(corpus: Corpus, folder: Path) -> None:
    """Refuse tables that do not belong together."""
    rows = corpus.interactions
    for column, count in (("user", corpus.user_count), ("item", corpus.item_count)):
        if rows[column].dtype != np.int64:
            raise _misfit(folder, f"{column}s must be int64, got {rows[column].dtype}")
        seen = np.bincount(rows[column].clip(0, count + 1), minlength=count + 1)
        if len(seen) != count + 1 or seen[0] or not seen[1:].all():
            raise _misfit(folder, f"{column}s must be exactly 1..{count}, got {rows[column].min()}..{rows[column].max()}")
    unknown = set(rows["part"].unique()) - set(PARTS)
    if unknown:
        raise _misfit(folder, f"unknown part {sorted(map(str, unknown))[0]!r}, expected {', '.join(PARTS)}")
    user, time = rows["user"].to_numpy(), rows["time"].to_numpy()
    if ((np.diff(user) < 0) | ((np.diff(user) == 0) & (np.diff(time) < 0))).any():
        raise _misfit(folder, "interactions are not sorted by user and time")


def _misfit(folder: Path, found: str) -> ArtifactError:
    return ArtifactError(f"{folder} holds no corpus that fits together: {found}; run the experiment again with --refresh data")
