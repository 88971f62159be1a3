"""The checks of data sources: the built-in ones pass, and every way to break the contract is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas import DataFrame

from genrec.data.sources import Frames, MovieLens
from genrec.testing import ContractError, Cyclic, Shop, check_source
from genrec.types import RawStream, RawTables

GOOD = DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"], "time": [1, 2, 3]})
ITEMS = DataFrame({"item": ["x", "y"], "text": ["one", "two"]})
CALLS = count()


@dataclass(frozen=True)
class Given:
    """Gives what it is told to."""

    interactions: object = field(default=None, metadata={"key": False})
    items: object = field(default=None, metadata={"key": False})

    def load(self, root: Path) -> RawTables:
        return RawTables(GOOD if self.interactions is None else self.interactions, ITEMS if self.items is None else self.items)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Streamed(Given):
    """Gives other pieces than `load` does."""

    pieces: object = field(default=(GOOD,), metadata={"key": False})

    def stream(self, root: Path) -> RawStream:
        return RawStream(iter(self.pieces), iter([ITEMS]), lambda: DataFrame())  # type: ignore[call-overload]


class Loose:
    """No dataclass."""

    def load(self, root: Path) -> RawTables:
        return RawTables(GOOD, ITEMS)


@dataclass(frozen=True)
class Pathed(Given):
    """Has a path and no fingerprint."""

    path: Path = Path("file")


@dataclass(frozen=True)
class Fickle(Given):
    """Has another fingerprint every time."""

    def fingerprint(self, root: Path) -> str:
        return str(next(CALLS))


@dataclass(frozen=True)
class Drawn(Given):
    """Draws what it gives."""

    def load(self, root: Path) -> RawTables:
        return RawTables(GOOD.assign(time=np.random.default_rng().integers(0, 10**9, 3)), ITEMS)


@dataclass(frozen=True)
class Listed(Given):
    """Returns a tuple."""

    def load(self, root: Path) -> RawTables:
        return GOOD, ITEMS  # type: ignore[return-value]


@dataclass(frozen=True)
class Aside(Given):
    """Sets rows aside in a table of its own form."""

    def load(self, root: Path) -> RawTables:
        return RawTables(GOOD, ITEMS, DataFrame({"why": ["no"]}))


@pytest.mark.parametrize(
    "source",
    [Given(), Streamed(), Streamed(pieces=(GOOD[:1], GOOD[1:])), Cyclic(), Shop(num_items=60, num_users=20), Frames(GOOD, ITEMS)],
)
def test_good_sources_pass(tmp_path: Path, source: Given) -> None:
    check_source(source, tmp_path)


@pytest.mark.realdata
def test_real_data_passes(tmp_path: Path, real_data: Path) -> None:
    check_source(MovieLens(path=real_data / "movielens" / "ml-100k.zip"), tmp_path)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Given, "pass an instance"),
        (Loose(), "is not a frozen dataclass"),
        (object(), "does not implement Source"),
        (Pathed(), r"Pathed\.path is a .*Path, .*give it a method fingerprint\(root\) -> str \(such as genrec\.data\.fetch\.digest"),
        (Fickle(), r"fingerprint\(root\) must depend on content alone"),
        (Listed(), "must return genrec.types.RawTables"),
        (Drawn(), "a second load gives interactions whose row 1 has time"),
        (Given([1, 2]), "interactions as a pandas DataFrame, got list"),
        (Given(GOOD[:0]), "read no interactions"),
        (Given(GOOD[["user", "item"]]), "have no column 'time'"),
        (Given(GOOD.assign(user=[1, 1, 2])), "must have text in column 'user', got int64"),
        (Given(GOOD.assign(item=["x", None, "y"])), "must have text in column 'item', got 1 missing"),
        (Given(GOOD.assign(time=["1", "2", "3"])), "times must be int64 seconds"),
        (Given(GOOD.assign(time=[0.5, 1.5, np.nan])), r"100\.0% of the times"),
        (Given(GOOD.assign(time=pd.to_datetime(GOOD["time"]))), "times must be int64 seconds"),
        (Given(GOOD.assign(rating="good")), "ratings must be numbers"),
        (Given(GOOD.assign(time=10**18)), "neither seconds nor milliseconds"),
        (Aside(), "set_aside must be a DataFrame with the columns file, line, reason, got why"),
        (Given(items=ITEMS[["item"]]), "items have no column 'text'"),
        (Given(items=pd.concat([ITEMS, ITEMS[:1]])), "item 'x' has 2 rows"),
        (Streamed(pieces=(GOOD[:2],)), "the stream gives 2 interactions, load gave 3"),
        (Streamed(pieces=(GOOD.assign(item=["x", "y", "y"]),)), "whose row 3 has item 'y', load gave 'x'"),
        (Streamed(pieces=(GOOD.drop(columns="time"),)), "without the column 'time'"),
    ],
    ids=str,
)
def test_every_broken_source_is_told_what_is_wrong(tmp_path: Path, source: Given, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        check_source(source, tmp_path)
