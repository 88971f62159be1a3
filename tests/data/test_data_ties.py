"""The order of a user's events with equal times: of the rows, random, or random for each seed."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from pandas import DataFrame, Series

from genrec.baselines import ItemKNN
from genrec.data.corpus import Corpus
from genrec.data.corpus_builder import prepare
from genrec.data.corpus_statistics import protocol_of, share_decided_by_ties
from genrec.data.examples import examples
from genrec.data.sources import Frames, MovieLens
from genrec.data.splits import GlobalTemporal, LeaveOneOut, assign_parts, tie_order_of
from genrec.errors import InputError, UsageError
from genrec.evaluation.evaluate import Evaluate, evaluate, metrics_of
from genrec.store import describe
from genrec.testing import check_split
from genrec.training.validation import batches
from genrec.types import RawStream, RawTables, TieOrder, TieOrderingSplit

NOTHING = DataFrame({"item": Series(dtype=str), "text": Series(dtype=str)})
ROWS = LeaveOneOut(core=0)
RANDOM = LeaveOneOut(core=0, ties="random")


def raw(events: list[tuple[Any, ...]]) -> RawTables:
    """Return tables of events: user, item, time, and a rating if there are four values."""
    names = ["user", "item", "time", "rating"][: len(events[0])]
    return RawTables(DataFrame(events, columns=names), NOTHING)


def sequences(corpus: Corpus) -> dict[str, list[tuple[int, str, str]]]:
    """Return the events of each user by id, in order: time, item id, part."""
    frame, items = corpus.interactions, corpus.items["item_id"].tolist()
    found = defaultdict(list)
    for user, item, time, part in zip(frame["user"], frame["item"], frame["time"], frame["part"], strict=True):
        found[str(corpus.user_ids[user - 1])].append((time, items[item - 1], part))
    return dict(found)


def order(corpus: Corpus, user: str = "u") -> str:
    """Return the items of a user in order, for items with names of one letter."""
    return "".join(item for _, item, _ in sequences(corpus)[user])


# u: c and a at 0, x at 5, then b, d and e at 9: with the order of rows e is the test and d the validation
HAND = [("u", "c", 0), ("u", "a", 0), ("u", "b", 9), ("u", "x", 5), ("u", "d", 9), ("u", "e", 9)]


def test_a_random_order_by_hand() -> None:
    """Of 60 users, each tie is in any of its orders: 2 of the first, 6 of the last, with the untied event between them."""
    assert order(prepare(raw(HAND), ROWS)) == "caxbde"
    users = [f"u{number}" for number in range(60)]
    corpus = prepare(raw([(user, item, time) for user in users for _, item, time in HAND]), RANDOM)
    found = [order(corpus, user) for user in users]
    assert {text[:2] for text in found} == {"ca", "ac"}
    assert {text[2] for text in found} == {"x"}
    assert {text[3:] for text in found} == {"bde", "bed", "dbe", "deb", "ebd", "edb"}


def test_the_order_is_that_of_a_documented_hash() -> None:
    """The key is the second half of the MD5 of seed, time, length of the user's id in bytes, and both ids, as a little-endian number.

    So the order is the same for every version of the library that computes it.
    """

    def key(event: tuple[str, str, int]) -> tuple[int, int]:
        user, item, time = event
        text = f"ties 3 {time * 1000} {len(user.encode())} {user}{item}"
        return time, int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[8:], "little")

    events = [(user, f"item {place} \u00e9", place // 20) for user in ("u", "\u00fc 1") for place in range(60)]
    found = sequences(prepare(raw(events), LeaveOneOut(core=0, ties="random", ties_seed=3)))
    for user in ("u", "\u00fc 1"):
        expected = sorted((event for event in events if event[0] == user), key=key)
        assert [(user, item, time) for time, item, _ in found[user]] == expected


def test_the_orders_are_uniform() -> None:
    """Of 2,000 users with two tied events in the rows a, b half have b first: 1,000, with a standard deviation of sqrt(500) = 22."""
    events = [(f"u{user}", item, time) for user in range(2000) for item, time in (("x", 0), ("a", 1), ("b", 1))]
    found = sequences(prepare(raw(events), RANDOM))
    first = sum(rows[1][1] == "b" for rows in found.values())
    assert 900 < first < 1100


def test_the_same_pair_of_items_has_another_order_at_another_time() -> None:
    events = [("u", item, time) for time in range(40) for item in "ab"]
    found = order(prepare(raw(events), RANDOM))
    assert {found[place : place + 2] for place in range(0, 80, 2)} == {"ab", "ba"}


def test_each_seed_has_an_order_of_its_own() -> None:
    """Seed s of "random-per-seed" has the order of "random" with `ties_seed` + s."""
    per_seed = [order(prepare(raw(HAND), LeaveOneOut(core=0, ties="random-per-seed", ties_seed=3), seed=seed)) for seed in range(6)]
    assert per_seed == [order(prepare(raw(HAND), LeaveOneOut(core=0, ties="random", ties_seed=3 + seed))) for seed in range(6)]
    assert len(set(per_seed)) > 3
    for split in (ROWS, RANDOM):  # the seed of the experiment changes nothing
        assert order(prepare(raw(HAND), split, seed=5)) == order(prepare(raw(HAND), split))


EVENTS = st.lists(
    st.tuples(st.sampled_from(["u", "v", "w"]), st.sampled_from(list("abcdef")), st.integers(0, 3), st.sampled_from([1.0, 2.0])),
    min_size=3,
    max_size=40,
)


@settings(max_examples=settings.default.max_examples // 3)  # each prepares three corpora
@given(EVENTS, st.integers(0, 5), st.randoms(use_true_random=False), st.sampled_from(["exact", "keep"]))
def test_only_tied_events_change_places(events: list[tuple[Any, ...]], seed: int, random: Any, repeats: Any) -> None:
    """Times, parts and the events of each time stay as they are, and a shuffled file gives the same order."""
    events = [*events, *(("u", item, time, 1.0) for item, time in zip("abc", (0, 1, 1), strict=True))]  # one user has three events
    split = LeaveOneOut(core=0, repeats=repeats, ties="random", ties_seed=seed)
    before, after = (prepare(raw(events), each) for each in (LeaveOneOut(core=0, repeats=repeats), split))
    assert before.bounds.tolist() == after.bounds.tolist()
    assert before.time.tolist() == after.time.tolist()
    one, other = before.interactions, after.interactions
    columns = ["user", "time", "item", "rating"]
    assert one.sort_values(columns)[columns].to_numpy().tolist() == other.sort_values(columns)[columns].to_numpy().tolist()
    shuffled = events.copy()
    random.shuffle(shuffled)
    again = prepare(raw(shuffled), split)
    assert sequences(again) == sequences(after)
    ratings = {user: after.rating[slice(*after.bounds[place, [0, 3]])].tolist() for place, user in enumerate(after.user_ids)}
    assert ratings == {user: again.rating[slice(*again.bounds[place, [0, 3]])].tolist() for place, user in enumerate(again.user_ids)}


@pytest.mark.parametrize("split", [RANDOM, GlobalTemporal(core=0, ties="random", ties_seed=2)])
def test_a_stream_gives_the_order_of_tables_in_memory(split: LeaveOneOut | GlobalTemporal, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = DataFrame({"user": rng.integers(0, 30, 900), "item": rng.integers(0, 50, 900), "time": np.sort(rng.integers(0, 90, 900))})
    frame = frame.astype({"user": str, "item": str})
    whole = prepare(RawTables(frame, NOTHING), split)
    pieces = iter([frame[:17], frame[17:600], frame[600:]])
    streamed = prepare(RawStream(pieces, iter([NOTHING]), lambda: None), split)  # type: ignore[arg-type, return-value]
    frame.to_csv(tmp_path / "events.csv", index=False)
    of_file = prepare(Frames(tmp_path / "events.csv").stream(tmp_path), split)
    for corpus in (streamed, of_file):
        assert sequences(corpus) == sequences(whole)
        assert corpus.statistics == whole.statistics
    rows = prepare(RawTables(frame, NOTHING), LeaveOneOut(core=0) if isinstance(split, LeaveOneOut) else GlobalTemporal(core=0))
    assert sequences(rows) != sequences(whole)


def test_ids_of_any_text_have_an_order() -> None:
    """User '1' with item '23' and user '12' with item '3' are different events."""
    names = ["", "1", "12", "it's", "é", "a\nb", "%s", "nan"]
    events = [(user, f"{user}-{item}", 5) for user in names for item in "abcd"]
    found = sequences(prepare(raw(events), RANDOM))
    assert {user: {item for _, item, _ in rows} for user, rows in found.items()} == {
        user: {f"{user}-{item}" for item in "abcd"} for user in names
    }
    assert len({"".join(item[-1] for _, item, _ in rows) for rows in found.values()}) > 3


def test_milliseconds_order_events_of_one_second() -> None:
    """Only events of the same millisecond are tied, although the corpus keeps seconds."""
    start = 1_600_000_000_000
    events = [("u", item, start + shift) for item, shift in (("d", 900), ("a", 100), ("c", 500), ("b", 100))]
    found = {order(prepare(raw(events), LeaveOneOut(core=0, ties="random", ties_seed=seed))) for seed in range(8)}
    assert found == {"abcd", "bacd"}


def test_the_share_of_decided_targets_by_hand() -> None:
    """Leave-one-out compares the last two events, a temporal split the first two of the test part."""
    #         train     validation   test from 20
    times = {
        "a": (0, 1, 10, 20, 20, 30),  # the target ties with the event after it
        "b": (0, 1, 10, 20, 30, 30),  # only later events of the test part tie
        "c": (0, 1, 10, 10),  # no event in the test part
        "d": (0, 1, 10, 20),
        "e": (20, 20),  # no history: not tested
    }
    events = [(user, f"{user}{place}", time) for user, found in times.items() for place, time in enumerate(found)]
    split = GlobalTemporal(core=0, validation_from="1970-01-01T00:00:10", test_from="1970-01-01T00:00:20")
    corpus = prepare(raw(events), split)
    assert corpus.statistics["users_tested"] == 3
    assert share_decided_by_ties(corpus) == 1 / 3  # a of a, b, d
    assert corpus.statistics["share_of_users_with_tied_last_events"] == 3 / 5  # b, c, e
    corpus = prepare(raw(events), ROWS)
    assert share_decided_by_ties(corpus) == corpus.statistics["share_of_users_with_tied_last_events"] == 2 / 4  # b, c of a, b, c, d


def test_the_protocol_of_data_without_times() -> None:
    found = protocol_of(prepare(RawTables(raw(HAND).interactions.assign(time=range(len(HAND))), NOTHING), ROWS))
    assert (found["ties"], found["targets decided by ties"], found["training later than a test event"]) == (None, None, None)
    found = protocol_of(prepare(raw(HAND), ROWS))
    assert (found["ties"], found["targets decided by ties"]) == ("row order of the file", 1.0)
    assert protocol_of(prepare(raw(HAND), RANDOM)) == found | {"ties": "a random order (seed 0)"}


def test_the_default_order_leaves_keys_and_artifacts_as_they_were() -> None:
    """A key of an earlier version is still found: the fields are in it only where they change the order."""
    assert describe(LeaveOneOut(core=3), Path()) == {
        "class": "genrec.data.splits:LeaveOneOut", "core": 3, "item_core": None, "min_rating": None, "since": None, "until": None,
        "repeats": "exact",
    }  # fmt: skip
    assert not {"ties", "ties_seed"} & {*describe(GlobalTemporal(), Path()), *prepare(raw(HAND), ROWS).statistics}
    described: Any = describe(LeaveOneOut(ties="random-per-seed", ties_seed=2), Path())
    assert (described["ties"], described["ties_seed"]) == ("random-per-seed", 2)
    assert {"ties": "random"}.items() <= describe(GlobalTemporal(ties="random"), Path()).items()
    assert prepare(raw(HAND), LeaveOneOut(core=0, ties="random", ties_seed=4)).statistics["ties_seed"] == 4


@dataclass(frozen=True)
class OwnSplit:
    """A split with an order of ties of its own."""

    order: Any = None

    def assign(self, interactions: DataFrame) -> ndarray:
        return assign_parts(ROWS, interactions)

    def tie_order(self) -> TieOrder:
        return TieOrder(7) if self.order is None else self.order  # type: ignore[no-any-return]


@dataclass(frozen=True)
class PlainSplit:
    """A split that says nothing about ties, although it has a field of this name."""

    ties: str = "mine"

    def assign(self, interactions: DataFrame) -> ndarray:
        return assign_parts(ROWS, interactions)


def test_splits_of_others() -> None:
    assert isinstance(OwnSplit(), TieOrderingSplit)
    assert order(prepare(raw(HAND), OwnSplit())) == order(prepare(raw(HAND), LeaveOneOut(core=0, ties="random", ties_seed=7)))
    assert tie_order_of(PlainSplit()) == TieOrder()
    assert order(prepare(raw(HAND), PlainSplit())) == "caxbde"
    with pytest.raises(InputError, match=r"OwnSplit.*: tie_order must return a genrec\.types\.TieOrder, got 'random'"):
        prepare(raw(HAND), OwnSplit("random"))


def test_the_order_in_words() -> None:
    assert tie_order_of(LeaveOneOut()).words == "row order of the file"
    assert tie_order_of(GlobalTemporal(ties="random", ties_seed=4)).words == "a random order (seed 4)"
    assert tie_order_of(LeaveOneOut(ties="random-per-seed", ties_seed=4)).words == "a random order of each seed"
    assert (TieOrder().seed_of(3), TieOrder(4).seed_of(3), TieOrder(4, per_seed=True).seed_of(3)) == (None, 4, 7)


@pytest.mark.parametrize("kind", [LeaveOneOut, GlobalTemporal])
def test_fields_are_checked(kind: Any) -> None:
    with pytest.raises(UsageError, match=r"split\.ties must be one of 'file', 'random', 'random-per-seed', got 'row-order'"):
        kind(ties="row-order")
    with pytest.raises(UsageError, match=r"split\.ties_seed must be 0 or more, got -1"):
        kind(ties="random", ties_seed=-1)
    with pytest.raises(UsageError, match=r"split\.ties_seed = 3 needs a random order: set split\.ties to 'random'"):
        kind(ties_seed=3)
    found = {kind(ties="random", ties_seed=seed) for seed in (0, 1)} | {kind(), kind(ties="random-per-seed")}
    assert len({str(describe(split, Path())) for split in found}) == 4  # each is another data set
    check_split(kind(ties="random"))


def test_the_report_names_the_order_and_its_seed() -> None:
    from genrec.data.data_report import lines

    def ties(split: LeaveOneOut, seed: int = 0) -> list[str]:
        return [line for line in lines(prepare(raw(HAND), split, seed=seed)) if "target" in line]

    decide = "; they decide the target of 100.0% of the tested users"
    assert ties(RANDOM) == [f"ties in time: a random order (seed 0){decide}"]
    assert ties(LeaveOneOut(core=0, ties="random-per-seed", ties_seed=2), seed=3) == [
        f"ties in time: a random order of each seed, here that of seed 5{decide}"
    ]
    assert len(ties(ROWS)) == 2  # with a warning


def ndcg_of_itemknn(source: MovieLens, split: LeaveOneOut, folder: Path) -> float:
    corpus = prepare(source.load(folder), split)
    spec = Evaluate(cutoffs=(10,))
    recommender = ItemKNN().fit(corpus.part("train"), corpus.item_count)
    result = evaluate(recommender, batches(examples(corpus, "test", 20), 256, "cpu"), spec)
    return metrics_of(result.ranks, result.recommendations, spec.cutoffs, corpus.item_count)["ndcg@10"]


@pytest.mark.realdata
def test_the_order_of_ties_moves_itemknn_on_movielens(real_data: Path, tmp_path: Path) -> None:
    """Rule 5 of the protocol page: N@10 between 0.0456 and 0.0543 in other orders; the share of decided targets is 44.1 %."""
    source = MovieLens("100k", path=real_data / "movielens" / "ml-100k.zip")
    splits = [LeaveOneOut(), *(LeaveOneOut(ties="random", ties_seed=seed) for seed in range(4))]
    found = [ndcg_of_itemknn(source, split, tmp_path) for split in splits]
    assert all(0.044 < value < 0.056 for value in found)
    assert max(found) - min(found) > 0.002
    corpora = [prepare(source.load(tmp_path), split) for split in splits[:2]]
    for corpus in corpora:
        assert share_decided_by_ties(corpus) == pytest.approx(0.441, abs=5e-4)
    rows, random = (pd.Series(corpus.part("test")["item"].to_numpy()) for corpus in corpora)
    assert 0.2 < (rows != random).mean() <= 0.441  # a tie of two events keeps its order half of the time
