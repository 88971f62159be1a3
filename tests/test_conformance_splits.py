"""check_split: the built-in splits and one written as by a user pass, and each broken split raises its message."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from numpy import ndarray
from pandas import DataFrame

from genrec.data.event_filters import Filters
from genrec.data.splits import GlobalTemporal, LeaveOneOut, assign_parts
from genrec.testing import ContractError, Shop, check_split
from genrec.types import RawTables, Split


def leave_one_out(interactions: DataFrame) -> ndarray:
    """Return the parts of leave-one-out, written in pandas."""
    from_end = interactions.groupby("user").cumcount(ascending=False).to_numpy()
    return np.select([from_end == 0, from_end == 1], ["test", "validation"], "train")


@dataclass(frozen=True)
class ListedUsers:
    """A split that tests the users of a list, by their ids in the source."""

    users: tuple[str, ...] = ("user-1", "user-2", "user-3")

    def assign(self, interactions: DataFrame) -> ndarray:
        assert interactions.columns.tolist()[:3] == ["user", "item", "time"]
        assert interactions["item_id"].str.startswith("item-").all()
        listed = interactions["user_id"].isin(self.users).to_numpy()
        return np.where(listed, leave_one_out(interactions), "train")


@pytest.mark.parametrize("split", [LeaveOneOut(), LeaveOneOut(core=0, min_rating=2.0), GlobalTemporal(), ListedUsers()], ids=repr)
def test_built_in_splits_and_a_published_one_keep_the_contract(split: Split) -> None:
    check_split(split)
    check_split(split, Shop(num_items=80, num_users=100, seed=3).load(Path()))


def test_a_split_may_return_a_series_or_a_categorical() -> None:
    @dataclass(frozen=True)
    class AsSeries:
        def assign(self, interactions: DataFrame) -> Any:
            return pd.Series(leave_one_out(interactions)).astype("category")

    check_split(AsSeries())


@dataclass(frozen=True)
class Changed:
    """Leave-one-out, changed in one way."""

    def assign(self, interactions: DataFrame) -> Any:
        return leave_one_out(interactions)


@dataclass(frozen=True)
class Short(Changed):
    def assign(self, interactions: DataFrame) -> Any:
        return leave_one_out(interactions)[1:]


@dataclass(frozen=True)
class Nothing(Changed):
    def assign(self, interactions: DataFrame) -> Any:
        return None


@dataclass(frozen=True)
class OtherName(Changed):
    def assign(self, interactions: DataFrame) -> Any:
        return np.where(leave_one_out(interactions) == "validation", "valid", leave_one_out(interactions))


@dataclass(frozen=True)
class Unassigned(Changed):
    def assign(self, interactions: DataFrame) -> Any:
        return pd.Series(leave_one_out(interactions)).where(interactions["user"] != 5)


@dataclass(frozen=True)
class Backwards(Changed):
    def assign(self, interactions: DataFrame) -> Any:
        return leave_one_out(interactions)[::-1]


@dataclass(frozen=True)
class Drawn(Changed):
    def assign(self, interactions: DataFrame) -> Any:
        random_users = np.random.default_rng().random(interactions["user"].max() + 1) < 0.5
        return np.where(random_users[interactions["user"]], leave_one_out(interactions), "train")


@dataclass(frozen=True)
class GlobalDraws(Changed):
    def assign(self, interactions: DataFrame) -> Any:
        random.random()
        return leave_one_out(interactions)


@dataclass(frozen=True)
class Writes(Changed):
    def assign(self, interactions: DataFrame) -> Any:
        interactions["user_id"] = interactions["user_id"].str.upper()
        return leave_one_out(interactions)


@dataclass(frozen=True)
class OnlyTraining(Changed):
    def assign(self, interactions: DataFrame) -> Any:
        return np.full(len(interactions), "train")


@dataclass(frozen=True)
class Crashes(Changed):
    listed: ClassVar[dict[str, str]] = {"A1": "train"}

    def assign(self, interactions: DataFrame) -> Any:
        return np.array([self.listed[user] for user in interactions["user_id"]])


@dataclass(frozen=True)
class NoFilters(Changed):
    def filters(self) -> Any:
        return {"core": 5}


@dataclass(frozen=True)
class Divides(Changed):
    """Leave-one-out with a method `divide` that differs in one way."""

    shift: int = 2
    width: int = 2
    writes: bool = False
    draws: bool = False

    def divide(self, begin: ndarray, end: ndarray, time: ndarray) -> Any:
        if self.writes:
            begin += 0 * begin + 1
        shift = np.random.default_rng().integers(2, 4) if self.draws else self.shift
        bounds = np.stack([end - shift, end - 1], axis=1)
        return bounds[:, : self.width]


@dataclass(frozen=True)
class Keeps(Changed):
    """Leave-one-out with a filter of its own that draws."""

    def keep(self, interactions: DataFrame) -> DataFrame:
        return interactions[np.random.default_rng().random(len(interactions)) < 0.9]


class NotFrozen:
    def assign(self, interactions: DataFrame) -> Any:
        return leave_one_out(interactions)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (Short(), r"Short \(.*\): assign must return a part for each of \d+ rows, got object|Short \(.*\): .* got <U10 \[\d+\]"),
        (Nothing(), r"assign must return a part for each of \d+ rows, got NoneType"),
        (OtherName(), r"must return only train, validation, test, got 'valid' for row \d+, an event of user 'user-\d+'"),
        (Unassigned(), r"must return only train, validation, test, got nan for row \d+, an event of user '.*' \(\d+ such rows\)"),
        (Backwards(), r"puts a later event of user 'user-\d+' into an earlier part \(test, then validation, rows 0 and 1\)"),
        (Drawn(), r"a second call of assign puts an event of user 'user-\d+' into .* instead of"),
        (GlobalDraws(), r"Python's global generator was drawn from"),
        (Writes(), r"assign modified the table"),
        (OnlyTraining(), r"leaves no interaction for the part 'validation'.*check_split\(split, source\.load\(root\)\)"),
        (
            Crashes(),
            r"assign of \d+ interactions raised KeyError\('user-\d+'\) at .*_splits\.py:\d+; a split that needs",
        ),
        (NoFilters(), r"filters\(\) must return genrec\.data\.event_filters\.Filters, got dict"),
        (Divides(shift=3), r"divide puts an event of user 'user-\d+' into 'validation', and assign into 'train'; both must"),
        (Divides(shift=1000), r"divide returns \[-?\d+, \d+\] for user 'user-\d+', with events \d+\.\.\d+"),
        (Divides(width=1), r"divide must return an array int64 \[\d+, 2\], got int64 \[\d+, 1\]"),
        (Divides(writes=True), r"divide modified its arguments"),
        (Keeps(), r"the same data give another corpus in a second call"),
        (NotFrozen(), r"is not a frozen dataclass"),
        (Changed, r"pass an instance"),
    ],
)
def test_a_broken_split_raises_its_message(split: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_split(split)


def test_divide_that_agrees_with_assign_passes() -> None:
    @dataclass(frozen=True)
    class Half:
        """The first half of each user's events is for training."""

        def filters(self) -> Filters:
            return Filters(core=3, min_events=4)

        def divide(self, begin: ndarray, end: ndarray, time: ndarray) -> ndarray:
            return np.stack([(begin + end) // 2, np.maximum(end - 1, (begin + end) // 2)], axis=1)

        def assign(self, interactions: DataFrame) -> ndarray:
            return assign_parts(self, interactions)  # type: ignore[arg-type]

    check_split(Half())


def test_a_split_of_listed_users_is_checked_with_its_own_data() -> None:
    """Own ids with leading zeros and spaces reach the split unchanged."""
    ids = ["007", "7", " 7", "a b"]
    table = DataFrame({"user": np.repeat(ids, 4), "item": [f"{place:02}" for place in range(16)], "time": range(16)})
    raw = RawTables(table, DataFrame({"item": table["item"], "text": "words"}))
    seen: list[str] = []

    @dataclass(frozen=True)
    class Published:
        def assign(self, interactions: DataFrame) -> ndarray:
            seen[:] = [*interactions["user_id"].unique(), *interactions["item_id"].iloc[:2]]
            parts = {"007": "test", "7": "test", " 7": "test", "a b": "test"}
            last = interactions["user_id"].map(parts).to_numpy(dtype=object)
            return np.where(leave_one_out(interactions) == "test", last, leave_one_out(interactions))

    check_split(Published(), raw)
    assert seen == [*ids, "00", "01"]
