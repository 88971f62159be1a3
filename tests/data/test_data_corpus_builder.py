"""From raw tables to a corpus: rules for times, repeats, ties and missing text (FAULTS R3, R5, R6), and the statistics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame, Series

from genrec.data.catalog import NO_TEXT
from genrec.data.corpus_builder import prepare
from genrec.data.splits import LeaveOneOut
from genrec.errors import InputError
from genrec.types import RawTables

ALL = LeaveOneOut(core=0)
NOTHING = DataFrame({"item": Series(dtype=str), "text": Series(dtype=str)})


def raw(users: str, items: str, times: list[object] | None = None, listed: DataFrame = NOTHING) -> RawTables:
    """Return tables with one event for each letter."""
    return RawTables(
        DataFrame({"user": list(users), "item": list(items), "time": range(len(users)) if times is None else times}), listed
    )


def test_numbers_follow_the_first_appearance_and_the_sort_is_stable() -> None:
    #  row:                  0    1    2    3    4    5    6
    corpus = prepare(raw("babbaab", "zyxwyzv", [9, 1, 5, 5, 0, 1, 9]), ALL)
    assert corpus.user_ids.tolist() == ["b", "a"]
    assert corpus.items["item_id"].tolist() == ["z", "y", "x", "w", "v"]
    # b: rows 2 (x, 5), 3 (w, 5), 0 (z, 9), 6 (v, 9); a: rows 4 (y, 0), 1 (y, 1), 5 (z, 1)
    assert corpus.interactions.to_dict("list") == {
        "user": [1, 1, 1, 1, 2, 2, 2],
        "item": [3, 4, 1, 5, 2, 2, 1],
        "time": [5, 5, 9, 9, 0, 1, 1],
        "part": ["train", "train", "validation", "test", "train", "validation", "test"],
    }
    assert corpus.part("test")["item"].tolist() == [5, 1]
    assert corpus.part("train").columns.tolist()[:3] == ["user", "item", "time"]


def test_statistics_by_hand() -> None:
    listed = DataFrame({"item": ["z", "y", "q"], "text": ["zed", " ", "queue"], "color": ["red", None, "blue"]})
    tables = raw("aaaabbbc", "zyxzzzyq", [0, 10, 20, 20, 5, 5, 9, 1], listed)
    set_aside = DataFrame({"file": ["f", "f"], "line": [3, 4], "reason": ["bad", "bad"]})
    corpus = prepare(tables._replace(set_aside=set_aside), ALL)
    # One of b's three events is an exact repeat. Then b has two events and c one, which is too few; a's four events stay.
    assert corpus.statistics == {
        "users": 1,
        "items": 3,
        "interactions": 4,
        "density": 3 / (1 * 3),  # a has events with z, y and x: one pair of each, and z twice
        "repeated_pairs": 1,
        "events_per_user_mean": 4.0,
        "events_per_user_median": 4.0,
        "parts": {"train": 2, "validation": 1, "test": 1},
        "first_time": 0,
        "last_time": 20,
        "users_tested": 1,
        "share_of_users_with_tied_last_events": 1.0,
        "leakage_share": 0.0,
        "leakage_share_mean": 0.0,
        "items_without_metadata": 1,
        "items_without_text": 1,
        "metadata_without_events": 1,
        "repeated_events_dropped": 1,
        "times_in_milliseconds": 0,
        "times_are_row_numbers": False,
        "warnings": [],
        "removed_by_filter": {"users with 3 events or more": {"interactions": 3, "users": 2, "items": 1}},
        "set_aside": {"bad": 2},
    }
    assert corpus.items.to_dict("list") == {
        "item_id": ["z", "y", "x"],
        "text": ["zed", NO_TEXT, NO_TEXT],
        "color": ["red", "", ""],
    }


def test_leakage_and_ties_by_hand() -> None:
    # a: train 0, 1, validation 2, test 3; b: train 2, 7, validation 8, test 8. The first test event is at 3. One of the 4
    # training events (7) is later. The last two events tie for b and not for a.
    corpus = prepare(raw("aaaabbbb", "stuvstuv", [0, 1, 2, 3, 2, 7, 8, 8]), ALL)
    assert corpus.statistics["leakage_share"] == 0.25
    assert (
        corpus.statistics["leakage_share_mean"] == 0.125
    )  # the training event at 7 is later than the test at 3; none is later than the test at 8
    assert corpus.statistics["share_of_users_with_tied_last_events"] == 0.5


def test_exact_repeats_are_dropped_and_other_repeats_kept() -> None:
    frame = DataFrame({"user": "a", "item": "x", "time": [1, 1, 1, 2, 3], "rating": [5.0, 5.0, 4.0, 5.0, 5.0]})
    corpus = prepare(RawTables(frame, NOTHING), ALL)
    assert corpus.interactions["time"].tolist() == [1, 1, 2, 3]
    assert corpus.interactions["rating"].tolist() == [5.0, 4.0, 5.0, 5.0]
    assert corpus.statistics["repeated_events_dropped"] == 1


def test_milliseconds_are_converted_counted_and_keep_their_order() -> None:
    times = [1_600_000_000_900, 1_600_000_000_100, 1_600_000_000, 1_600_000_001_000]
    corpus = prepare(raw("aaaa", "wxyz", times), ALL)
    assert corpus.items["item_id"][corpus.interactions["item"] - 1].tolist() == ["y", "x", "w", "z"]
    assert corpus.interactions["time"].tolist() == [1_600_000_000] * 3 + [1_600_000_001]
    assert corpus.statistics["times_in_milliseconds"] == 3


def test_bad_times_are_set_aside_or_an_error() -> None:
    times: list[object] = [*range(400), -1, None, 2.5]
    corpus = prepare(raw("a" * 403, "x" * 403, times), ALL)
    assert len(corpus.interactions) == 400
    assert corpus.set_aside.to_dict("list") == {
        "file": ["interactions"] * 3,
        "line": [401, 402, 403],
        "reason": ["the time is negative", *["the time is missing or not a whole number of seconds"] * 2],
    }
    assert corpus.statistics["set_aside"]["the time is negative"] == 1
    with pytest.raises(InputError, match=r"2 of 5 rows \(40\.0%\) are malformed.*time is negative"):
        prepare(raw("aaaaa", "vwxyz", [-1, -2, 3, 4, 5]), ALL)
    with pytest.raises(InputError, match="row 2 has time 1600000000000000000: neither seconds nor milliseconds"):
        prepare(raw("aaa", "xyz", [1, 1_600_000_000_000_000_000, 2]), ALL)
    with pytest.raises(InputError, match="must be int64 seconds"):
        prepare(raw("aaa", "xyz", ["today", "now", "then"]), ALL)


def test_invalid_tables_of_a_source_are_an_error() -> None:
    tables = raw("aaa", "xyz")
    with pytest.raises(InputError, match="no column 'time'"):
        prepare(tables._replace(interactions=tables.interactions[["user", "item"]]), ALL)
    with pytest.raises(InputError, match="no interactions"):
        prepare(tables._replace(interactions=tables.interactions[:0]), ALL)
    with pytest.raises(InputError, match="ids are text"):
        prepare(tables._replace(interactions=tables.interactions.assign(user=[1, 2, 3])), ALL)
    with pytest.raises(InputError, match="lists item 'x' twice"):
        prepare(tables._replace(items=DataFrame({"item": ["x", "x"], "text": ["", ""]})), ALL)


@dataclass(frozen=True)
class FixedParts:
    """A custom split that returns the given parts; without any it drops all events."""

    parts: tuple[str, ...]

    def keep(self, interactions: DataFrame) -> DataFrame:
        return interactions if self.parts else interactions[:0]

    def assign(self, interactions: DataFrame) -> np.ndarray:
        return np.array(self.parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), "after the filter 'keep'"),
        (("train", "test"), "a part for each of 3 rows"),
        (("train", "valid", "test"), "must return only train, validation, test"),
        (("train", "train", "test"), "no interaction for the part 'validation'"),
        (("test", "validation", "train"), "a later event of user 'a' into an earlier part"),
    ],
)
def test_invalid_parts_of_a_split_are_an_error(parts: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(raw("aaa", "xyz"), FixedParts(parts))


def test_a_custom_split() -> None:
    corpus = prepare(raw("aaa", "xyz"), FixedParts(("train", "validation", "test")))
    assert corpus.statistics["removed_by_filter"] == {"keep": {"interactions": 0, "users": 0, "items": 0}}


EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("wxyz"), st.integers(0, 9)), max_size=60)


@given(EVENTS)
def test_any_events_become_a_corpus_or_an_input_error(events: list[tuple[str, str, int]]) -> None:
    frame = DataFrame(events, columns=["user", "item", "time"])
    try:
        corpus = prepare(RawTables(frame.astype({"user": str, "item": str}), NOTHING), ALL)
    except InputError:
        assert not (frame.drop_duplicates()["user"].value_counts() >= 3).any()
        return
    rows = corpus.interactions
    expected = frame.drop_duplicates().sort_values(["user", "time"], kind="stable")
    for number, user in enumerate(corpus.user_ids, 1):
        mine, theirs = rows[rows["user"] == number], expected[expected["user"] == user]
        assert corpus.items["item_id"].to_numpy()[mine["item"] - 1].tolist() == theirs["item"].tolist()
        assert mine["time"].tolist() == theirs["time"].tolist()
    assert set(rows["item"]) == set(range(1, corpus.item_count + 1))
    pd.testing.assert_frame_equal(rows, rows.sort_values(["user", "time"], kind="stable"))
