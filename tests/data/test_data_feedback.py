"""Labels from rating bounds: targets, what is left out, histories, training targets, and what held-out labels must not change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray
from pandas import DataFrame, Series

from genrec.data import data_report
from genrec.data.corpus import Corpus
from genrec.data.corpus_builder import prepare
from genrec.data.corpus_statistics import protocol_of
from genrec.data.examples import CorpusExamples, examples, windows
from genrec.data.feedback import check_labels, labels_of
from genrec.data.held_out_feedback import disliked_examples, held_out_items
from genrec.data.sources import MovieLens
from genrec.data.splits import GlobalTemporal, HoldOutLast, LeaveOneOut
from genrec.data.worlds import Cyclic, Shop
from genrec.embeddings import TfidfSvd
from genrec.errors import ArtifactError, InputError, UsageError
from genrec.experiment import Experiment
from genrec.store import describe
from genrec.testing import check_split
from genrec.types import FeedbackBounds, LabelDividingSplit, LabelingSplit, RawTables

NOTHING = DataFrame({"item": Series(dtype=str), "text": Series(dtype=str)})
LABELED = LeaveOneOut(core=0, liked=4, disliked=2)
HALVES = HoldOutLast(n=4, core=0, liked=4, disliked=2)

# user, item, time, rating. u likes a, c, f and dislikes b, d, g; v has one liked event; w has no rating of its first event
HAND = [
    *(("u", item, time, rating) for time, (item, rating) in enumerate(zip("abcdefg", (5, 1, 4, 2, 3, 5, 1), strict=True))),
    *(("v", item, time, rating) for time, (item, rating) in enumerate(zip("abcd", (4, 1, 2, 3), strict=True))),
    *(("w", item, time, rating) for time, (item, rating) in enumerate(zip("bacd", (None, 4, 4, 4), strict=True))),
]


def raw(events: list[tuple[Any, ...]]) -> RawTables:
    return RawTables(DataFrame(events, columns=["user", "item", "time", "rating"]), NOTHING)


def whole(corpus: Corpus, part: Any, length: int = 20, feedback: Any = "not disliked") -> list[tuple[str, str, str]]:
    """Return the examples of a part: user, history and target by id, for ids of one letter."""
    entries = examples(corpus, part, length, feedback)
    names = np.array(["", *corpus.items["item_id"]], dtype=object)
    batch = entries.batch(torch.arange(len(entries)))
    return [
        (str(corpus.user_ids[user - 1]), "".join(names[history]), str(names[target]))
        for user, history, target in zip(batch.user.tolist(), batch.history.tolist(), batch.target.tolist(), strict=True)
    ]


def test_leave_one_out_takes_the_last_two_liked_events_by_hand() -> None:
    """u: test f, validation c, and g, which is later than f, is left out. v has one liked event and is left out. w: test d, val c."""
    corpus = prepare(raw(HAND), LABELED)
    assert corpus.user_ids.tolist() == ["u", "w"]
    assert whole(corpus, "test") == [("u", "abcde", "f"), ("w", "bac", "d")]
    assert whole(corpus, "validation") == [("u", "ab", "c"), ("w", "ba", "c")]
    assert whole(corpus, "train") == [("w", "b", "a")]  # b of u is disliked
    assert whole(corpus, "train", feedback="all") == [("u", "a", "b"), ("w", "b", "a")]
    removed = corpus.statistics["removed_by_filter"]
    assert removed["users with 2 liked events or more"] == {"interactions": 4, "users": 1, "items": 0}
    assert removed["events after the last liked one"] == {"interactions": 1, "users": 0, "items": 1}
    assert corpus.interactions["label"].tolist() == [1, -1, 1, -1, 0, 1, 0, 1, 1, 1]
    assert corpus.interactions["label"].dtype == np.int8
    assert corpus.statistics["users_tested"] == 2
    assert corpus.item_count == 7  # the catalog is that of the filtered data: g stays in it


def test_hold_out_last_judges_halves_by_hand() -> None:
    """u: train a b c, validation d e, test f g. v has 4 events, one fewer than n + 1, so does w: both are left out with n = 4."""
    corpus = prepare(raw(HAND), HALVES)
    assert corpus.user_ids.tolist() == ["u"]
    assert whole(corpus, "test") == [("u", "abcde", "f")]
    with pytest.raises(InputError, match="'validation' holds no example: no user has an event before one of its events that is liked"):
        examples(corpus, "validation", 20)
    two = prepare(raw(HAND), replace(HALVES, n=2))
    # u: train a to e, validation f, test g; v: train a b, validation c, test d; w: train b a, validation c, test d
    assert whole(two, "test") == [("w", "bac", "d")]
    assert whole(two, "validation") == [("u", "abcde", "f"), ("w", "ba", "c")]
    assert two.statistics["users_tested"] == 1
    assert two.statistics["feedback"]["users"]["test"] == {"all": 3, "liked": 1, "disliked": 1, "both": 0}
    assert two.statistics["feedback"]["users"]["train"] == {"all": 3, "liked": 3, "disliked": 2, "both": 2}


def test_a_target_of_a_half_has_the_history_before_the_half() -> None:
    """n = 4 of a b c d e f g: the test half is f g. With the ratings 1, 5 the target is g, and f is in no history."""
    events = [(*event[:3], rating) for event, rating in zip(HAND[:7], (5, 1, 4, 2, 4, 1, 5), strict=True)]
    corpus = prepare(raw(events), HALVES)
    assert whole(corpus, "test") == [("u", "abcde", "g")]
    assert whole(corpus, "validation") == [("u", "abc", "e")]
    held_out = held_out_items(corpus, "test")
    assert held_out is not None
    found = held_out(torch.tensor([1]))
    assert (found.items.tolist(), found.label.tolist()) == ([[6, 7]], [[-1, 1]])


def test_histories_without_disliked_events() -> None:
    corpus = prepare(raw(HAND), replace(LABELED, histories="without disliked"))
    assert whole(corpus, "test") == [("u", "ace", "f"), ("w", "bac", "d")]
    assert whole(corpus, "validation") == [("u", "a", "c"), ("w", "ba", "c")]
    assert whole(corpus, "train", feedback="all") == [("u", "a", "b"), ("w", "b", "a")]
    assert whole(corpus, "test", length=2) == [("u", "ce", "f"), ("w", "ac", "d")]
    with pytest.raises(UsageError, match="feedback 'all' has disliked targets, which are in no window"):
        windows(corpus, 5, feedback="all")


def test_users_without_a_liked_event_have_no_target_but_a_list() -> None:
    """With n = 2, u has g, disliked, in the test half and nothing else: no target. v's c is in validation."""
    corpus = prepare(raw(HAND), replace(HALVES, n=2))
    for part, user, target in (("test", 1, 7), ("validation", 2, 3)):
        found = disliked_examples(corpus, part, 20)  # type: ignore[arg-type]
        assert found is not None
        batch = found.batch(torch.arange(len(found)))
        assert (batch.user.tolist(), batch.target.tolist()) == ([user], [target])
    assert disliked_examples(prepare(raw(HAND), LABELED), "test", 20) is None


def test_labels_are_inclusive_and_a_missing_rating_is_neutral() -> None:
    rating = np.array([np.nan, 1, 2, 2.5, 3.9, 4, 5])
    assert labels_of(rating, FeedbackBounds(4, 2)).tolist() == [0, -1, -1, 0, 0, 1, 1]
    assert labels_of(rating, FeedbackBounds(4)).tolist() == [0, 0, 0, 0, 0, 1, 1]


EVENTS = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from("abcdefgh"), st.integers(0, 4), st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0])),
    min_size=1,
    max_size=50,
    unique=True,
)


def ordered(events: list[tuple[Any, ...]]) -> dict[str, list[tuple[str, float]]]:
    """Return each user's items and ratings by time; ties keep the order of the rows."""
    found: dict[str, list[tuple[str, float]]] = {}
    for user, item, _, rating in sorted(events, key=lambda event: event[2]):
        found.setdefault(user, []).append((item, rating))
    return found


def expected_examples(
    users: dict[str, tuple[list[tuple[str, float]], int, int, int]], feedback: str, histories: str
) -> dict[str, set[tuple[str, str, str]]]:
    """Return the examples by part, by plain loops. A user has events, and where validation and the test begin and where all end."""

    def history(before: list[tuple[str, float]]) -> str:
        return "".join(item for item, rating in before if histories == "all" or rating > 2)

    found: dict[str, set[tuple[str, str, str]]] = {"train": set(), "validation": set(), "test": set()}
    for user, (rows, first, second, end) in users.items():
        for place in range(1, first):
            item, rating = rows[place]
            if (feedback == "liked" and rating < 4) or (feedback == "not disliked" and rating <= 2):
                continue
            if history(rows[:place]):
                found["train"].add((user, history(rows[:place]), item))
        for part, begin, stop in (("validation", first, second), ("test", second, end)):
            liked = [item for item, rating in rows[begin:stop] if rating >= 4]
            if liked and history(rows[:begin]):
                found[part].add((user, history(rows[:begin]), liked[0]))
    return found


def check_against_loops(corpus: Corpus, expected: dict[str, set[tuple[str, str, str]]], feedback: Any) -> None:
    for part, rows in expected.items():
        if not rows:
            with pytest.raises(InputError, match="holds no example"):
                examples(corpus, part, 60, feedback)  # type: ignore[arg-type]
            continue
        assert set(whole(corpus, part, 60, feedback)) == rows
    assert corpus.statistics["users_tested"] == len({user for user, _, _ in expected["test"]})


@given(EVENTS, st.sampled_from(["all", "liked", "not disliked"]), st.sampled_from(["all", "without disliked"]))
def test_leave_one_out_equals_plain_loops(events: list[tuple[Any, ...]], feedback: str, histories: Any) -> None:
    users = {}
    for user, rows in ordered(events).items():
        liked = [place for place, (_, rating) in enumerate(rows) if rating >= 4]
        if len(liked) >= 2 and len(rows) >= 3:
            users[user] = (rows, liked[-2], liked[-1], liked[-1] + 1)
    split = replace(LABELED, histories=histories)
    if not any(first for _, first, _, _ in users.values()):
        with pytest.raises(InputError, match=r"nothing is left after the filter|leaves no interaction for the part 'train'"):
            prepare(raw(events), split)
        return
    corpus = prepare(raw(events), split)
    assert sorted(corpus.user_ids) == sorted(users)
    assert len(corpus.item) == sum(end for _, _, _, end in users.values())
    check_against_loops(corpus, expected_examples(users, feedback, histories), feedback)


@given(EVENTS, st.integers(2, 5), st.sampled_from(["all", "liked", "not disliked"]), st.sampled_from(["all", "without disliked"]))
def test_hold_out_last_equals_plain_loops(events: list[tuple[Any, ...]], n: int, feedback: str, histories: Any) -> None:
    users = {}
    for user, rows in ordered(events).items():
        if len(rows) > n:
            users[user] = (rows, len(rows) - n, len(rows) - n + n // 2, len(rows))
    split = replace(HALVES, n=n, histories=histories)
    if not users:
        with pytest.raises(InputError, match="nothing is left after the filter"):
            prepare(raw(events), split)
        return
    if not any(rating >= 4 for rows, *_ in users.values() for _, rating in rows):
        with pytest.raises(InputError, match="labels no event as liked"):
            prepare(raw(events), split)
        return
    corpus = prepare(raw(events), split)
    check_against_loops(corpus, expected_examples(users, feedback, histories), feedback)
    for part, begin, end in (("validation", 1, 2), ("test", 2, 3)):
        held_out = held_out_items(corpus, part)  # type: ignore[arg-type]
        assert held_out is not None
        found = held_out(torch.arange(1, corpus.user_count + 1))
        for user, items, labels in zip(corpus.user_ids, found.items.tolist(), found.label.tolist(), strict=True):
            rows = users[user][0][users[user][begin] : users[user][end]]
            ids = [corpus.items["item_id"][item - 1] for item in items if item]
            assert ids == [item for item, _ in rows]
            assert labels[: len(rows)] == [1 if rating >= 4 else -1 if rating <= 2 else 0 for _, rating in rows]


@given(EVENTS, st.integers(1, 6), st.sampled_from(["liked", "not disliked"]), st.sampled_from(["all", "without disliked"]))
def test_windows_have_the_targets_of_the_prefixes(events: list[tuple[Any, ...]], length: int, feedback: Any, histories: Any) -> None:
    try:
        corpus = prepare(raw(events), replace(HALVES, n=2, histories=histories))
        entries = examples(corpus, "train", 60, feedback)
    except InputError:
        return
    cut = windows(corpus, length, feedback=feedback)
    batch = cut.batch(torch.arange(len(cut)))
    assert bool((batch.target > 0).any(1).all())  # a window without a target is left out
    found = []
    for user, history, target in zip(batch.user.tolist(), batch.history.tolist(), batch.target.tolist(), strict=True):
        found += [(user, item, history[place]) for place, item in enumerate(target) if item]
    prefixes = entries.batch(torch.arange(len(entries)))
    expected = zip(prefixes.user.tolist(), prefixes.target.tolist(), prefixes.history[:, -1].tolist(), strict=True)
    assert sorted(found) == sorted(expected)


def test_a_source_of_examples_passes_the_feedback_on() -> None:
    source = CorpusExamples(prepare(raw(HAND), replace(HALVES, n=2)), 20)
    counts = {feedback: len(source.prefixes(feedback)) for feedback in ("all", "not disliked", "liked")}  # type: ignore[arg-type]
    # targets of training: b c d e of u (1 4 2 3), b of v (1), a of w (4)
    assert counts == {"all": 6, "not disliked": 3, "liked": 2}
    assert len(source.prefixes()) == counts["not disliked"]
    assert [len(source.windows(feedback=each)) for each in ("all", "not disliked", "liked")] == [3, 2, 2]  # type: ignore[arg-type]


def test_the_order_of_ties_decides_which_event_is_the_last_liked_one() -> None:
    """a, b and c are tied and liked: in a random order each is the test at some seed, and the corpus ends with it."""
    events = [("u", "x", 0, 3), ("u", "a", 1, 5), ("u", "b", 1, 5), ("u", "c", 1, 5), ("u", "d", 1, 1)]
    found = set()
    for seed in range(30):
        corpus = prepare(raw(events), replace(LABELED, ties="random", ties_seed=seed))
        (row,) = whole(corpus, "test")
        found.add(row[2])
        assert corpus.interactions["label"].tolist()[-1] == 1
    assert found == {"a", "b", "c"}


def test_a_core_holds_after_users_are_left_out() -> None:
    """x is taken by u, v and w, y by u and v only: without v, who likes one event, y has one event and falls out of a 2-core."""
    events = [(user, item, place, 5) for user in "uw" for place, item in enumerate("xzq")]
    events += [("u", "y", 3, 5), ("v", "y", 0, 5), ("v", "x", 1, 1), ("v", "z", 2, 1)]
    corpus = prepare(raw(events), LeaveOneOut(core=2, liked=4, disliked=2))
    assert sorted(corpus.items["item_id"]) == ["q", "x", "z"]
    assert corpus.statistics["removed_by_filter"]["users with 2 liked events or more"] == {"interactions": 4, "users": 1, "items": 1}


def test_without_labels_nothing_changes(tmp_path: Path) -> None:
    """The key of a split stays, and so do the files of a corpus."""
    assert describe(LeaveOneOut(), Path()) == {
        "class": "genrec.data.splits:LeaveOneOut",
        "core": 5, "item_core": None, "min_rating": None, "since": None, "until": None, "repeats": "exact",
    }  # fmt: skip
    corpus = prepare(raw(HAND), LeaveOneOut(core=0), tmp_path)
    assert not (tmp_path / "event_label.npy").exists()
    assert corpus.label is None
    assert corpus.feedback is None
    assert "label" not in corpus.interactions
    assert "feedback" not in corpus.statistics
    assert "feedback" not in protocol_of(corpus)
    assert held_out_items(corpus, "test") is None
    assert [len(examples(corpus, "train", 9, each)) for each in ("all", "not disliked")] == [6, 6]  # type: ignore[arg-type]
    for call in (examples, windows):
        with pytest.raises(UsageError, match="feedback 'liked' needs labels, and the split sets no bounds of ratings"):
            call(corpus, *(("train", 9) if call is examples else (9,)), feedback="liked")  # type: ignore[operator]
    with pytest.raises(UsageError, match="feedback is one of 'all', 'liked', 'not disliked', got 'good'"):
        examples(corpus, "train", 9, "good")  # type: ignore[arg-type]


def test_labels_and_bounds_of_a_corpus_exist_together(tmp_path: Path) -> None:
    prepare(raw(HAND), LABELED, tmp_path)
    (tmp_path / "event_label.npy").unlink()
    with pytest.raises(ArtifactError, match=r"event_label.npy and the bounds of ratings in stats.json must exist together"):
        Corpus.load(tmp_path)


def test_report_and_protocol_count_the_users() -> None:
    corpus = prepare(raw(HAND), replace(HALVES, n=2))
    report = list(data_report.lines(corpus))
    assert "labels: liked: rating of 4 or more, disliked: rating of 2 or less; disliked events may stand in histories" in report
    assert "  train: liked 4, neutral 2, disliked 3" in report
    assert "  users without a disliked training event: 1 of 3" in report
    line = "users with a liked test event 1 of 3, with a disliked one 1 (without: 2), with both 0"
    assert f"  test: {line}" in report
    assert protocol_of(corpus)["feedback"].endswith(f"target: the first liked event of the part; {line}")
    left_out = protocol_of(prepare(raw(HAND), LABELED))["feedback"]
    assert left_out.endswith("later events are left out; users with fewer than 2 liked events, left out: 1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"disliked": 2}, r"split.disliked = 2 needs split.liked"),
        ({"liked": 4, "disliked": 4}, r"split.disliked must be below split.liked, got 4 and 4"),
        ({"liked": float("nan")}, r"split.liked must be a finite number or None, got nan"),
        ({"liked": 4, "histories": "without disliked"}, r"split.histories 'without disliked' needs split.disliked"),
        ({"liked": 4, "disliked": 2, "min_rating": 3.0}, r"split.min_rating = 3.0 drops every event that split.disliked = 2 would"),
        ({"liked": 4, "disliked": 2, "histories": "some"}, r"split.histories must be one of 'all', 'without disliked', got 'some'"),
        ({"liked": "4"}, r"split.liked must be a number or None, got '4'"),
    ],
)
@pytest.mark.parametrize("kind", [LeaveOneOut, HoldOutLast])
def test_bounds_are_checked(kind: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind(**change)


def test_the_number_of_held_out_events_is_checked() -> None:
    with pytest.raises(UsageError, match=r"split.n must be 2 or more, an event for validation and one for the test, got 1"):
        HoldOutLast(n=1)


@pytest.mark.parametrize("split", [LABELED, HALVES])
def test_a_source_without_ratings_is_refused(split: LeaveOneOut | HoldOutLast) -> None:
    """Before any stage where the source knows it, else when the data are read."""
    with pytest.raises(UsageError, match=r"split.liked = 4 needs ratings, but the source Cyclic\(.*\) has none; set it to None"):
        Experiment(name="x", source=Cyclic(), split=split)
    tables = Cyclic(length=12).load(Path())
    with pytest.raises(InputError, match=r"split.liked = 4 needs ratings, but the data set has none; leave --split.liked None"):
        prepare(tables, split)
    with pytest.raises(InputError, match=r"needs ratings, got the columns user, item, time"):
        split.assign(DataFrame({"user": [1], "item": [1], "time": [0]}))


def test_nobody_with_two_liked_events_is_an_error() -> None:
    with pytest.raises(InputError, match=r"nothing is left after the filter 'users with 2 liked events or more'.*--split.liked"):
        prepare(raw(HAND), LeaveOneOut(core=0, liked=5.5))


def test_a_bound_that_no_rating_reaches_is_refused_when_the_labels_are_read() -> None:
    """The highest rating of the events that are left is 5; a bound of 5 labels events, one of 5.5 none."""
    assert prepare(raw(HAND), HoldOutLast(n=4, core=0, liked=5)).statistics["feedback"]["liked"] == 5
    with pytest.raises(
        InputError, match=r"^split.liked = 5.5 labels no event as liked, .*: the highest rating is 5; set split.liked to 5"
    ):
        prepare(raw(HAND), HoldOutLast(n=4, core=0, liked=5.5))
    with pytest.raises(InputError, match=r"^split.liked = 4 labels no event as liked, .*: no event has a rating$"):
        check_labels(np.zeros(2, dtype=np.int8), np.full(2, np.nan), FeedbackBounds(4, 2))
    tables = raw([(user, item, time, min(rating or 1, 3)) for user, item, time, rating in HAND])
    with pytest.raises(InputError, match=r"set split.liked to 3 or less"):
        prepare(tables, Evens())


@pytest.mark.parametrize("split", [LABELED, HALVES, HoldOutLast(), LeaveOneOut(liked=3)])
def test_the_splits_keep_their_contract(split: LeaveOneOut | HoldOutLast) -> None:
    check_split(split)
    assert isinstance(split, LabelingSplit)
    assert isinstance(split, LabelDividingSplit) == isinstance(split, LeaveOneOut)
    assert not isinstance(GlobalTemporal(), LabelingSplit)


@dataclass(frozen=True)
class Evens:
    """A split of a user that labels events and sees the labels in `assign`: liked events are held out."""

    def feedback(self) -> FeedbackBounds:
        return FeedbackBounds(4, 2)

    def assign(self, interactions: DataFrame) -> ndarray:
        assert interactions["label"].dtype == np.int8
        order = interactions.groupby("user").cumcount(ascending=False)
        return np.select([order == 0, order == 1], ["test", "validation"], "train")


def test_a_split_of_a_user_may_label_events() -> None:
    corpus = prepare(raw(HAND), Evens())
    assert whole(corpus, "test") == [("w", "bac", "d")]
    with pytest.raises(InputError, match=r"Wrong .*: feedback must return a genrec.types.FeedbackBounds or None, got \(4, 2\)"):
        prepare(raw(HAND), Wrong())


class Wrong(Evens):
    def feedback(self) -> Any:
        return (4, 2)


def test_labels_of_the_test_change_no_input_of_a_training() -> None:
    """Other ratings of test events: the training examples, windows, interactions and item vectors stay, and validation too."""
    tables = Shop(num_items=100, num_users=120, seed=3).load(Path())
    split = HoldOutLast(n=4, core=0, liked=4, disliked=2)
    before = prepare(tables, split)
    position = tables.interactions.sort_values(["user", "time"], kind="stable").groupby("user").cumcount(ascending=False)
    flipped = tables.interactions.copy()
    flipped.loc[position.sort_index() < 2, "rating"] = 6 - flipped["rating"]
    after = prepare(RawTables(flipped, tables.items), split)
    assert not np.array_equal(before.label, after.label)  # type: ignore[arg-type]
    for part in ("train", "validation"):
        assert before.part(part).equals(after.part(part))  # type: ignore[arg-type]
    for feedback in ("all", "not disliked", "liked"):
        for one, other in ((examples(c, "train", 9, feedback), windows(c, 9, feedback=feedback)) for c in (before, after)):  # type: ignore[arg-type]
            assert len(one) > len(other) > 0
        pair = [examples(corpus, "train", 9, feedback) for corpus in (before, after)]  # type: ignore[arg-type]
        index = torch.arange(len(pair[0]))
        assert all(map(torch.equal, pair[0].batch(index), pair[1].batch(index)))
        cut = [windows(corpus, 9, feedback=feedback) for corpus in (before, after)]  # type: ignore[arg-type]
        index = torch.arange(len(cut[0]))
        assert all(map(torch.equal, cut[0].batch(index), cut[1].batch(index)))
    held = [examples(corpus, "validation", 9) for corpus in (before, after)]
    assert all(map(torch.equal, held[0].batch(torch.arange(len(held[0]))), held[1].batch(torch.arange(len(held[1])))))
    vectors = [TfidfSvd(dim=8, min_df=1).encode(corpus.items, corpus.part("train")) for corpus in (before, after)]
    assert np.array_equal(*vectors)


@pytest.mark.realdata
def test_movielens_100k_has_disliked_next_items(real_data: Path, tmp_path: Path) -> None:
    """16.9 % of the next items are rated 1 or 2; with labels they are no target of training unless asked for."""
    source = MovieLens("100k", path=real_data / "movielens" / "ml-100k.zip")
    corpus = prepare(source.load(tmp_path), LeaveOneOut(core=0, liked=4, disliked=2))
    everything, kept = (len(examples(corpus, "train", 20, each)) for each in ("all", "not disliked"))  # type: ignore[arg-type]
    assert 1 - kept / everything == pytest.approx(0.169, abs=0.005)
    for part in ("validation", "test"):
        entries = examples(corpus, part, 20)  # type: ignore[arg-type]
        position = entries.places(torch.arange(len(entries)))[1].numpy()
        assert corpus.rating is not None
        assert corpus.rating[position].min() == 4
    assert corpus.statistics["users_tested"] == corpus.user_count
    tested = corpus.statistics["removed_by_filter"]["users with 2 liked events or more"]
    assert (corpus.user_count, tested["users"]) == (942, 1)


@pytest.mark.realdata
def test_movielens_100k_in_halves(real_data: Path, tmp_path: Path) -> None:
    source = MovieLens("100k", path=real_data / "movielens" / "ml-100k.zip")
    corpus = prepare(source.load(tmp_path), HoldOutLast(n=10, core=0, liked=4, disliked=2))
    assert corpus.statistics["parts"] == {"train": 90_570, "validation": 4_715, "test": 4_715}
    users = corpus.statistics["feedback"]["users"]["test"]
    rating, bounds = corpus.rating, corpus.bounds
    assert rating is not None
    halves = [rating[begin:end] for begin, end in bounds[:, 2:4]]
    liked, disliked = (np.array([bool(test(half).any()) for half in halves]) for test in (lambda r: r >= 4, lambda r: r <= 2))
    assert users == {"all": 943, "liked": liked.sum(), "disliked": disliked.sum(), "both": (liked & disliked).sum()}
    further = disliked_examples(corpus, "test", 20)
    assert further is not None
    assert len(further) == (disliked & ~liked).sum()
