"""Generated worlds: how well popularity, co-occurrence and order predict the next item."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray

from genrec.data.corpus import Corpus
from genrec.data.corpus_builder import prepare
from genrec.data.splits import LeaveOneOut
from genrec.data.worlds import Cyclic, Shop
from genrec.errors import UsageError
from genrec.types import Source


def test_cyclic_has_one_right_answer() -> None:
    world = Cyclic(num_items=15, num_users=40, length=8, seed=3)
    assert isinstance(world, Source)
    corpus = prepare(world.load(Path()), LeaveOneOut())
    assert (corpus.item_count, corpus.user_count) == (15, 40)
    item, user = corpus.interactions["item"].to_numpy(), corpus.interactions["user"].to_numpy()
    same = user[1:] == user[:-1]
    pairs = set(zip(item[:-1][same].tolist(), item[1:][same].tolist(), strict=True))
    assert len(pairs) == 15  # one successor for each item ...
    assert {first for first, _ in pairs} == {second for _, second in pairs} == set(range(1, 16))
    following, place = dict(pairs), 1
    for _ in range(15):
        place = following[place]
    assert place == 1  # ... and they make one cycle
    assert len({following[place] for place in range(1, 16)}) == 15
    assert corpus.items["title"].nunique() == 15


@pytest.mark.parametrize("world", [Cyclic(), Shop(num_items=200, num_users=50)])
def test_a_world_is_a_function_of_its_fields(world: Cyclic | Shop) -> None:
    first, again, other = (made.load(Path()) for made in (world, replace(world), replace(world, seed=1)))
    assert first.interactions.equals(again.interactions)
    assert first.items.equals(again.items)
    assert not first.interactions.equals(other.interactions)


@pytest.mark.parametrize("items", [60, 219, 220, 400, 1000])
def test_shop_of_any_size(items: int) -> None:
    world = Shop(num_items=items, num_users=30)
    raw, transitions = world.load(Path()), world.transitions()
    assert raw.items["title"].nunique() == len(raw.items) == items
    assert set(raw.interactions["item"]) <= set(raw.items["item"])
    lengths = raw.interactions["user"].value_counts()
    assert lengths.between(8, 30).all()
    assert len(lengths) == 30
    assert raw.interactions["time"].is_monotonic_increasing  # sorted by time
    assert not raw.interactions.duplicated(["user", "time"]).any()
    assert raw.interactions["rating"].between(1, 5).all()
    np.testing.assert_allclose(transitions.sum(1), 1)
    assert transitions.diagonal().max() < 0.2  # no item follows itself


def test_settings_are_checked() -> None:
    for make in (
        lambda: Cyclic(num_items=1),
        lambda: Shop(num_items=10),
        lambda: Shop(following=0.9, noise=0.2),
        lambda: Shop(max_length=7),
    ):
        with pytest.raises(UsageError):
            make()


def ndcg10(scores: ndarray, target: ndarray) -> float:
    """Return NDCG@10 over all items, seen ones included; a tie counts half. scores: float [U, N], target: int [U], from 0."""
    target_score = scores[np.arange(len(target)), target][:, None]
    rank = 1 + (scores > target_score).sum(1) + ((scores == target_score).sum(1) - 1) / 2
    return float(np.where(rank <= 10, 1 / np.log2(1 + rank), 0.0).mean())


def scores_of_popularity(corpus: Corpus) -> ndarray:
    counts = np.bincount(corpus.part("train")["item"], minlength=corpus.item_count + 1)[1:]
    return np.tile(counts, (corpus.user_count, 1))


def scores_of_item_knn(corpus: Corpus) -> ndarray:
    """Return cosine similarities over training users, summed over the last 50 items of the history with the weight 0.8^age."""
    train, rows = corpus.part("train"), corpus.interactions
    matrix = np.zeros((corpus.user_count, corpus.item_count))
    matrix[train["user"] - 1, train["item"] - 1] = 1
    norm = np.maximum(np.sqrt(matrix.sum(0)), 1)
    similarity = matrix.T @ matrix / norm / norm[:, None]
    np.fill_diagonal(similarity, 0)
    history = rows[rows["part"] != "test"]
    age = history.groupby("user").cumcount(ascending=False)
    weights = np.zeros_like(matrix)
    np.add.at(weights, (history["user"] - 1, history["item"] - 1), np.where(age < 50, 0.8**age, 0))
    return weights @ similarity


def scores_of_oracle(corpus: Corpus, world: Shop) -> ndarray:
    number = corpus.items["item_id"].str.removeprefix("item-").astype(int).to_numpy()
    last = corpus.part("validation")["item"].to_numpy() - 1
    return world.transitions()[np.ix_(number, number)][last]


@pytest.mark.parametrize("seed", [0, 1])
def test_shop_rewards_popularity_co_occurrence_and_order_in_this_order(seed: int) -> None:
    world = Shop(seed=seed)
    corpus = prepare(world.load(Path()), LeaveOneOut())
    assert corpus.user_count == 1000
    assert corpus.item_count >= 980  # the 5-core removes hardly anything
    target = corpus.part("test")["item"].to_numpy() - 1
    popularity = ndcg10(scores_of_popularity(corpus), target)
    item_knn = ndcg10(scores_of_item_knn(corpus), target)
    oracle = ndcg10(scores_of_oracle(corpus, world), target)
    assert 0.015 < popularity < 0.04
    assert item_knn > 1.5 * popularity
    assert oracle > 1.5 * item_knn
    assert 0.3 < oracle < 0.5
    rows = corpus.interactions
    assert rows.duplicated(["user", "item"]).mean() < 0.01  # repeats are rare
