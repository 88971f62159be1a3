"""Splits: which events are for training, validation and test; and the checks of the filters' fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame

from genrec.data.corpus_builder import prepare
from genrec.data.event_filters import Filters, seconds
from genrec.data.splits import GlobalTemporal, LeaveOneOut, start_of_latest
from genrec.data.worlds import Shop
from genrec.errors import InputError, UsageError
from genrec.types import DividingSplit, FilteringSplit, RawTables, Split

DAY = 86_400


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


def test_a_global_temporal_split_by_hand() -> None:
    #               train < day 3         day 3 <= validation < day 5   test from day 5 on
    frame = DataFrame({"user": [1, 1, 1, 1, 2, 2, 3], "time": [day * DAY for day in (1, 2, 3, 5, 4, 9, 2)]})
    split = GlobalTemporal(validation_from="1970-01-04", test_from="1970-01-06")
    assert split.moments(frame["time"].to_numpy()) == (3 * DAY, 5 * DAY)
    assert split.assign(frame).tolist() == ["train", "train", "validation", "test", "validation", "test", "train"]


def test_shares_are_upper_bounds() -> None:
    time = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 9])
    # a tenth of ten events is one, but the last two tie, so that the test part stays empty
    assert GlobalTemporal(test_share=0.1, validation_share=0.2).moments(time)[1] == DAY
    assert GlobalTemporal(test_share=0.2, validation_share=0.2).moments(time) == (7, 9)
    assert GlobalTemporal(test_share=0.3, validation_share=0.1).moments(time) == (7, 8)


@given(st.lists(st.integers(0, 40 * DAY), min_size=1, max_size=200), st.floats(0.01, 0.9))
def test_the_latest_events_are_at_most_their_share(times: list[int], share: float) -> None:
    time = np.array(times)
    moment, allowed = start_of_latest(time, share), max(1, int(share * len(time)))
    assert np.count_nonzero(time >= moment) <= allowed
    earlier = time[time < moment]
    if len(earlier):  # an earlier start would exceed the share
        assert np.count_nonzero(time >= earlier.max()) > allowed


@given(
    st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=9), min_size=1, max_size=9),
    st.integers(1, 19),
    st.integers(1, 19),
    st.integers(1, 5),
)
def test_nothing_of_the_future_is_trained_on(users: list[list[int]], first: int, second: int, chunk: int) -> None:
    validation, test = min(first, second), max(first, second) + 1
    frame = DataFrame([(user, time) for user, times in enumerate(users, 1) for time in sorted(times)], columns=["user", "time"])
    split = GlobalTemporal(validation_from=f"1970-01-01T00:00:{validation:02}", test_from=f"1970-01-01T00:00:{test:02}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genrec.data.splits.CHUNK", chunk)  # users are divided in chunks
        parts = split.assign(frame)
    expected = np.select([frame["time"] < validation, frame["time"] < test], ["train", "validation"], "test")
    assert parts.tolist() == expected.tolist()


def test_a_temporal_corpus_tests_only_users_with_a_history_and_leaks_nothing() -> None:
    corpus = prepare(Shop(num_items=100, num_users=200).load(Path()), GlobalTemporal())
    rows = corpus.interactions
    times = {part: rows.loc[rows["part"] == part, "time"] for part in ("train", "validation", "test")}
    assert times["train"].max() < times["validation"].min()
    assert times["validation"].max() < times["test"].min()
    assert 0.09 < len(times["test"]) / len(rows) <= 0.1
    assert corpus.statistics["leakage_share"] == corpus.statistics["leakage_share_mean"] == 0
    tested = set(rows.loc[rows["part"] == "test", "user"]) & set(rows.loc[rows["part"] != "test", "user"])
    assert corpus.statistics["users_tested"] == len(tested)


def test_a_moment_outside_the_data_leaves_a_part_empty() -> None:
    raw = Shop(num_items=100, num_users=50).load(Path())
    with pytest.raises(InputError, match="GlobalTemporal leaves no interaction for the part 'test'"):
        prepare(raw, GlobalTemporal(test_from="2038-01-01"))


def test_the_splits_implement_the_optional_protocols() -> None:
    for split in (LeaveOneOut(), GlobalTemporal()):
        assert isinstance(split, Split)
        assert isinstance(split, FilteringSplit)
        assert isinstance(split, DividingSplit)
        assert split.filters().cores == (5, 5)
    assert GlobalTemporal(core=3, item_core=7).filters().cores == (3, 7)


def test_moments_without_a_time_zone_are_utc() -> None:
    assert seconds("1970-01-02", "since") == DAY
    assert seconds("1970-01-01T01:00:00+01:00", "since") == 0
    assert seconds(None, "since") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"core": -1}, "core must be 0 or more"),
        ({"item_core": -2}, "item_core must be 0 or more"),
        ({"min_rating": float("nan")}, "min_rating must be a finite number"),
        ({"since": "yesterday"}, "since must be a date such as 2010-01-31"),
        ({"since": "2010-01-02", "until": "2010-01-02"}, "since must be before until"),
        ({"repeats": "some"}, "repeats must be one of .*keep.*exact.*first.*last"),
        ({"min_events": -1}, "min_events must be 0 or more"),
        ({"validation_share": 0.0}, "validation_share must lie between 0 and 1"),
        ({"validation_share": 0.6, "test_share": 0.5}, "must leave a share for training"),
        ({"validation_from": "2010-01-02", "test_from": "2010-01-02"}, "validation_from must be before test_from"),
    ],
)
def test_settings_are_checked(change: dict[str, object], message: str) -> None:
    for kind in (Filters, LeaveOneOut, GlobalTemporal):
        if set(change) <= set(kind.__dataclass_fields__):
            with pytest.raises(UsageError, match=message):
                kind(**change)


def test_since_and_until_work_with_milliseconds() -> None:
    """`since` is inclusive, `until` is exclusive."""
    frame = DataFrame({"user": "a", "item": list("uvwxyz"), "time": 0})
    raw = RawTables(frame, DataFrame({"item": list("uvwxyz"), "text": "t"}))
    since, until = (f"2010-03-03T09:{minute}" for minute in ("00", "50"))
    moments = {"since": seconds(since, "since"), "until": seconds(until, "until")}
    raw.interactions["time"] = [moments["since"] * 1000 + shift for shift in (-1, 0, 1)] + [
        moments["until"] * 1000 + shift for shift in (-1, 0, 1)
    ]
    corpus = prepare(raw, LeaveOneOut(core=0, since=since, until=until))
    assert corpus.items["item_id"].tolist() == ["v", "w", "x"]
    assert corpus.statistics["removed_by_filter"][f"events before {until}"] == {"interactions": 2, "users": 0, "items": 2}
