"""Filters and the leave-one-out split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame

from genrec.data.splits import LeaveOneOut, k_core, long_enough
from genrec.errors import InputError, UsageError
from genrec.types import Split


def events(*pairs: str) -> DataFrame:
    """'a1' is user a and item 1."""
    return DataFrame({"user": [pair[0] for pair in pairs], "item": [pair[1:] for pair in pairs], "time": range(len(pairs))})


def pairs_of(frame: DataFrame) -> list[str]:
    return (frame["user"] + frame["item"]).tolist()


def test_k_core_goes_on_until_nothing_changes() -> None:
    # Item 3 has one event; without it user c has one; without c item 2 still has two.
    frame = events("a1", "c3", "b1", "a2", "c2", "b2")
    assert pairs_of(k_core(frame, 2)) == ["a1", "b1", "a2", "b2"]
    assert pairs_of(k_core(frame, 1)) == pairs_of(frame)
    assert not len(k_core(frame, 3))


def test_k_core_counts_events_not_distinct_items() -> None:
    assert pairs_of(k_core(events("a1", "a1", "b2"), 2)) == ["a1", "a1"]


EVENTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60)


@given(EVENTS, st.integers(1, 4))
def test_k_core_is_the_largest_subset_with_enough_events(pairs: list[tuple[int, int]], core: int) -> None:
    frame = DataFrame(pairs, columns=["user", "item"])
    kept = k_core(frame, core)
    assert kept.index.is_monotonic_increasing  # the order stays
    for column in ("user", "item"):
        assert (kept[column].value_counts() >= core).all()
    rest = pairs  # one removal at a time reaches the same set: the core does not depend on the order of removals
    while True:
        bad = [
            place
            for place, pair in enumerate(rest)
            if sum(other[0] == pair[0] for other in rest) < core or sum(other[1] == pair[1] for other in rest) < core
        ]
        if not bad:
            break
        rest = rest[: bad[-1]] + rest[bad[-1] + 1 :]
    assert list(kept.itertuples(index=False, name=None)) == rest
    assert len(k_core(kept, core)) == len(kept)


def test_leave_one_out_holds_out_the_last_two() -> None:
    frame = DataFrame({"user": [1, 1, 1, 2, 2, 2, 2, 3, 3, 3], "item": range(10), "time": [0] * 10})
    expected = ["train", "validation", "test", "train", "train", "validation", "test", "train", "validation", "test"]
    assert LeaveOneOut().assign(frame).tolist() == expected


@given(st.lists(st.integers(3, 12), min_size=1, max_size=20))
def test_every_user_has_one_test_and_one_validation_event(lengths: list[int]) -> None:
    user = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    parts = LeaveOneOut().assign(DataFrame({"user": user, "item": 1, "time": 0}))
    ends = np.cumsum(lengths)
    assert np.flatnonzero(parts == "test").tolist() == (ends - 1).tolist()
    assert np.flatnonzero(parts == "validation").tolist() == (ends - 2).tolist()


def test_keep_applies_rating_then_core_then_length() -> None:
    frame = events("a1", "a2", "a3", "b1", "b2", "b3", "c1", "a3").assign(rating=[4, 4, 5, 4, 5, 4, 1, np.nan])
    kept = LeaveOneOut(core=2, minimum_rating=4).keep(frame)
    assert pairs_of(kept) == ["a1", "a2", "a3", "b1", "b2", "b3"]
    assert isinstance(LeaveOneOut(), Split)


def test_core_zero_keeps_all_users_with_three_events() -> None:
    frame = events("a1", "a2", "b3", "a3", "b4", "c5")
    assert pairs_of(LeaveOneOut(core=0).keep(frame)) == ["a1", "a2", "a3"]
    assert pairs_of(long_enough(frame, 2)) == ["a1", "a2", "b3", "a3", "b4"]


def test_the_filter_that_empties_the_data_is_named() -> None:
    frame = events("a1", "a2", "b1").assign(rating=[1.0, 2.0, 3.0])
    for split, name in (
        (LeaveOneOut(minimum_rating=4), "rating of 4 or more"),
        (LeaveOneOut(core=3), "3-core of users and items"),
        (LeaveOneOut(core=0), "users with 3 events or more"),
    ):
        with pytest.raises(InputError, match=f"after the filter '{name}'"):
            split.keep(frame)


def test_minimum_rating_needs_ratings() -> None:
    for frame in (events("a1"), events("a1").assign(rating=np.nan)):
        with pytest.raises(InputError, match="needs ratings, but the data set has none"):
            LeaveOneOut(minimum_rating=3).keep(frame)


def test_settings_are_checked() -> None:
    with pytest.raises(UsageError, match="core"):
        LeaveOneOut(core=-1)
    with pytest.raises(UsageError, match="minimum_rating"):
        LeaveOneOut(minimum_rating=float("nan"))
