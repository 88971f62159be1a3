"""ItemKNN compared with loops over its formula, and its documented edge cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame

from genrec.baselines import ItemKNN
from genrec.baselines.itemknn import cosine
from genrec.errors import InputError, UsageError
from genrec.types import Baseline, Recommender

# Users 1..6 and their items 1..6: two groups of items, which only user 6 connects; user 1 has item 1 twice.
ITEMS_OF_USERS = {1: [1, 1, 2], 2: [1, 2, 3], 3: [2, 3], 4: [4, 5], 5: [4, 5], 6: [3, 4]}
TRAIN = DataFrame([(user, item) for user, items in ITEMS_OF_USERS.items() for item in items], columns=["user", "item"])


def loop_cosine(train: DataFrame, items: int) -> list[list[float]]:
    users = [set(train[train["item"] == item]["user"]) for item in range(1, items + 1)]
    return [
        [len(a & b) / math.sqrt(len(a) * len(b)) if a and b and i != j else 0.0 for j, b in enumerate(users)]
        for i, a in enumerate(users)
    ]


def loop_scores(
    train: DataFrame, items: int, history: list[int], decay: float, max_history: int, num_neighbors: int = 0
) -> list[float]:
    similar = loop_cosine(train, items)
    for row in similar:
        kept = sorted(range(items), key=lambda j: (-row[j], j))[: num_neighbors or items]
        row[:] = [value if j in kept else 0.0 for j, value in enumerate(row)]
    recent = [item for item in history if item][-max_history:][::-1]
    return [sum(decay**age * similar[item - 1][j] for age, item in enumerate(recent)) for j in range(items)]


def test_cosine_by_hand() -> None:
    found = cosine(TRAIN, 6, 0).toarray()
    assert found[0, 1] == pytest.approx(2 / math.sqrt(2 * 3))  # users 1, 2 of item 1; 1, 2, 3 of item 2
    assert found[3, 4] == pytest.approx(2 / math.sqrt(3 * 2))
    assert found[2, 3] == pytest.approx(1 / math.sqrt(3 * 3))
    assert found == pytest.approx(np.array(loop_cosine(TRAIN, 6)))
    assert not found.diagonal().any()
    assert not found[5].any()  # item 6 has no interactions


@pytest.mark.parametrize(
    "specification", [ItemKNN(), ItemKNN(decay=0.5, max_history=2), ItemKNN(decay=1.0, max_history=1), ItemKNN(num_neighbors=1)]
)
def test_against_loops(specification: ItemKNN) -> None:
    model = specification.fit(TRAIN, 6)
    assert isinstance(specification, Baseline)
    assert isinstance(model, Recommender)
    popularity = [3, 3, 3, 3, 2, 0]  # item 1: user 1 twice, user 2
    for history in ([0, 0, 1, 2], [1, 2, 3, 4], [0, 5, 5, 1], [0, 0, 0, 6], [0, 0, 0, 0]):
        scores = np.float32(
            loop_scores(TRAIN, 6, history, specification.decay, specification.max_history, specification.num_neighbors)
        )
        expected = sorted(range(6), key=lambda j: (-scores[j], -popularity[j], j))
        ranking = model.recommend(torch.tensor([history]), 6)
        assert ranking.items[0].tolist() == [j + 1 for j in expected]
        assert ranking.scores[0].tolist() == pytest.approx([scores[j] for j in expected], abs=1e-6)


@given(
    pairs=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=25),
    history=st.lists(st.integers(0, 6), min_size=1, max_size=6),
    num_neighbors=st.integers(0, 4),
)
def test_scores_on_any_world(pairs: list[tuple[int, int]], history: list[int], num_neighbors: int) -> None:
    train = DataFrame(pairs, columns=["user", "item"])
    padded = sorted(history, key=lambda item: item > 0)  # zeros are on the left
    ranking = ItemKNN(num_neighbors=num_neighbors).fit(train, 6).recommend(torch.tensor([padded]), 6)
    expected = loop_scores(train, 6, padded, 0.8, 50, num_neighbors)
    assert sorted(ranking.items[0].tolist()) == [1, 2, 3, 4, 5, 6]
    assert ranking.scores[0].tolist() == pytest.approx([expected[item - 1] for item in ranking.items[0].tolist()], abs=1e-6)
    assert (ranking.scores[0].diff() <= 0).all()


def test_lists_do_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(0)
    train = DataFrame({"user": rng.integers(0, 80, 600), "item": rng.integers(1, 41, 600)})
    history = torch.from_numpy(rng.integers(1, 41, (30, 7)))
    model = ItemKNN(num_neighbors=10).fit(train, 40)
    whole = model.recommend(history, 10, history)
    for row in range(30):
        alone = model.recommend(history[row : row + 1], 10, history[row : row + 1])
        assert torch.equal(alone.items[0], whole.items[row])
        assert torch.equal(alone.scores[0], whole.scores[row])


def test_seen_items_stay_unless_excluded() -> None:
    model = ItemKNN().fit(TRAIN, 6)
    history = torch.tensor([[1, 2]])
    kept = model.recommend(history, 6).items[0].tolist()
    assert {1, 2} < set(kept)
    without = model.recommend(history, 6, history)
    assert without.items[0].tolist() == [*(item for item in kept if item not in (1, 2)), 0, 0]
    assert without.scores[0, 4:].tolist() == [-torch.inf] * 2


def test_empty_history_gets_the_popular_items() -> None:
    ranking = ItemKNN().fit(TRAIN, 6).recommend(torch.zeros(2, 4, dtype=torch.int64), 3)
    assert ranking.items.tolist() == [[1, 2, 3]] * 2  # items 1 to 4 have three interactions each
    assert ranking.scores.tolist() == [[0, 0, 0]] * 2


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    train = DataFrame({"user": rng.integers(0, 50, 400), "item": rng.integers(1, 31, 400)})
    whole = cosine(train, 30, 5).toarray()
    monkeypatch.setattr("genrec.baselines.itemknn.BLOCK", 7)
    assert np.array_equal(cosine(train, 30, 5).toarray(), whole)
    assert (np.count_nonzero(whole, axis=1) <= 5).all()


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"history: items must lie in 0\.\.6, got 9\.\.9"):
        ItemKNN().fit(TRAIN, 6).recommend(torch.tensor([[9]]), 2)
    with pytest.raises(UsageError, match=r"policy\.num_neighbors must be 0"):
        ItemKNN(num_neighbors=-1)
    with pytest.raises(UsageError, match=r"policy\.decay must lie in \(0, 1\], got 1.5"):
        ItemKNN(decay=1.5)
    with pytest.raises(UsageError, match="decay"):
        ItemKNN(decay=float("nan"))
    with pytest.raises(UsageError, match=r"policy\.max_history must be at least 1, got 0"):
        ItemKNN(max_history=0)
