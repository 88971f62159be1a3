"""Contract checks for data sources: built-in sources pass, and each violation has its own message."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas import DataFrame
from stable_ids import stable_id

from genrec.data.sources import Frames, MovieLens
from genrec.testing import ContractError, Cyclic, Shop, Taste, check_source
from genrec.types import RawStream, RawTables

GOOD = DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"], "time": [1, 2, 3]})
ITEMS = DataFrame({"item": ["x", "y"], "text": ["one", "two"]})
CALLS = count()


@dataclass(frozen=True)
class InMemory:
    """A source that returns the given tables."""

    interactions: object = field(default=None, metadata={"key": False})
    items: object = field(default=None, metadata={"key": False})

    def load(self, root: Path) -> RawTables:
        return RawTables(GOOD if self.interactions is None else self.interactions, ITEMS if self.items is None else self.items)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Streamed(InMemory):
    """A source whose stream may differ from `load`."""

    tables: object = field(default=(GOOD,), metadata={"key": False})

    def stream(self, root: Path) -> RawStream:
        return RawStream(iter(self.tables), iter([ITEMS]), lambda: DataFrame())  # type: ignore[call-overload]


class PlainClass:
    """A source that is not a dataclass."""

    def load(self, root: Path) -> RawTables:
        return RawTables(GOOD, ITEMS)


@dataclass(frozen=True)
class WithPath(InMemory):
    """A source with a path but without a fingerprint."""

    path: Path = Path("file")


@dataclass(frozen=True)
class ChangingFingerprint(InMemory):
    """A source with a different fingerprint at each call."""

    def fingerprint(self, root: Path) -> str:
        return str(next(CALLS))


@dataclass(frozen=True)
class RandomTimes(InMemory):
    """A source with different times at each call."""

    def load(self, root: Path) -> RawTables:
        return RawTables(GOOD.assign(time=np.random.default_rng().integers(0, 10**9, 3)), ITEMS)


@dataclass(frozen=True)
class ReturnsTuple(InMemory):
    """A source that returns a tuple."""

    def load(self, root: Path) -> RawTables:
        return GOOD, ITEMS  # type: ignore[return-value]


@dataclass(frozen=True)
class WrongSetAside(InMemory):
    """A source with other columns in its set_aside table."""

    def load(self, root: Path) -> RawTables:
        return RawTables(GOOD, ITEMS, DataFrame({"why": ["no"]}))


@pytest.mark.parametrize(
    "source",
    [
        InMemory(),
        Streamed(),
        Streamed(tables=(GOOD[:1], GOOD[1:])),
        Cyclic(),
        Shop(num_items=60, num_users=20),
        Taste(num_items=64, num_users=20),
        Frames(GOOD, ITEMS),
    ],
)
def test_good_sources_pass(tmp_path: Path, source: InMemory) -> None:
    check_source(source, tmp_path)


@pytest.mark.realdata
def test_real_data_passes(tmp_path: Path, real_data: Path) -> None:
    check_source(MovieLens(path=real_data / "movielens" / "ml-100k.zip"), tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (InMemory, "pass an instance"),
        (PlainClass(), "is not a frozen dataclass"),
        (object(), "does not implement Source"),
        (WithPath(), r"WithPath\.path is a .*Path, .*fingerprint\(root\) -> str \(such as genrec\.data\.download\.digest"),
        (ChangingFingerprint(), r"fingerprint\(root\) must depend only on the content"),
        (ReturnsTuple(), "must return genrec.types.RawTables"),
        (RandomTimes(), r"a second load gives interactions with time .* in row 1"),
        (InMemory([1, 2]), "interactions as a pandas DataFrame, got list"),
        (InMemory(GOOD[:0]), "read no interactions"),
        (InMemory(GOOD[["user", "item"]]), "have no column 'time'"),
        (InMemory(GOOD.assign(user=[1, 1, 2])), "must have text in column 'user', got int64"),
        (InMemory(GOOD.assign(item=["x", None, "y"])), "must have text in column 'item', got 1 missing"),
        (InMemory(GOOD.assign(time=["1", "2", "3"])), "times must be int64 seconds"),
        (InMemory(GOOD.assign(time=[0.5, 1.5, np.nan])), r"100\.0% of the times"),
        (InMemory(GOOD.assign(time=pd.to_datetime(GOOD["time"]))), "times must be int64 seconds"),
        (InMemory(GOOD.assign(rating="good")), "ratings must be numbers"),
        (InMemory(GOOD.assign(time=10**18)), "neither seconds nor milliseconds"),
        (WrongSetAside(), "set_aside must be a DataFrame with the columns file, line, reason, got why"),
        (InMemory(items=ITEMS[["item"]]), "items have no column 'text'"),
        (InMemory(items=pd.concat([ITEMS, ITEMS[:1]])), "item 'x' has 2 rows"),
        (Streamed(tables=(GOOD[:2],)), "the stream gives 2 interactions, load gave 3"),
        (Streamed(tables=(GOOD.assign(item=["x", "y", "y"]),)), "with item 'y' in row 3, load gave 'x'"),
        (Streamed(tables=(GOOD.drop(columns="time"),)), "without the column 'time'"),
    ],
    ids=stable_id,
)
def test_each_violation_has_its_message(tmp_path: Path, source: InMemory, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_source(source, tmp_path)
