"""Popularity: counts, ties, excluded items, lists longer than the catalog."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame

from genrec.baselines import Popularity
from genrec.errors import InputError
from genrec.types import Baseline, Recommender

TRAIN = DataFrame({"user": [1, 1, 2, 2, 3, 3], "item": [2, 4, 4, 2, 4, 1]})  # counts of items 1..5: 1, 2, 0, 3, 0
HISTORY = torch.tensor([[0, 0], [2, 4]])


def test_by_hand() -> None:
    model = Popularity().fit(TRAIN, 5)
    assert isinstance(Popularity(), Baseline)
    assert isinstance(model, Recommender)
    ranking = model.recommend(HISTORY, 5)
    assert ranking.items.tolist() == [[4, 2, 1, 3, 5]] * 2  # 3 and 5 have no interactions: last, by lower id
    assert ranking.scores.tolist() == [[3, 2, 1, 0, 0]] * 2
    assert (ranking.items.dtype, ranking.scores.dtype) == (torch.int64, torch.float32)


def test_excluded_items_move_the_others_up() -> None:
    ranking = Popularity().fit(TRAIN, 5).recommend(HISTORY, 4, torch.tensor([[4, 0], [2, 1]]))
    assert ranking.items.tolist() == [[2, 1, 3, 5], [4, 3, 5, 0]]
    assert ranking.scores.tolist() == [[2, 1, 0, 0], [3, 0, 0, -torch.inf]]


def test_more_slots_than_items() -> None:
    ranking = Popularity().fit(TRAIN, 5).recommend(HISTORY[:1], 8)
    assert ranking.items.tolist() == [[4, 2, 1, 3, 5, 0, 0, 0]]
    assert ranking.scores[0, 5:].tolist() == [-torch.inf] * 3


def test_without_any_interaction() -> None:
    assert Popularity().fit(TRAIN.head(0), 3).recommend(HISTORY[:1], 3).items.tolist() == [[1, 2, 3]]


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 35), st.sets(st.integers(1, 30), min_size=1))
def test_against_sorting(items: list[int], n: int, exclude: set[int]) -> None:
    model = Popularity().fit(DataFrame({"user": [1] * len(items), "item": items}, dtype="int64"), 30)
    expected = sorted(set(range(1, 31)) - exclude, key=lambda item: (-items.count(item), item))
    found = model.recommend(torch.zeros(1, 1, dtype=torch.int64), n, torch.tensor([sorted(exclude)])).items[0].tolist()
    assert found == (expected + [0] * 35)[:n]


def test_items_outside_the_catalog_raise() -> None:
    with pytest.raises(InputError, match=r"interactions: items must lie in 0\.\.3, got 1\.\.4"):
        Popularity().fit(TRAIN, 3)
    with pytest.raises(InputError, match="item 0"):
        Popularity().fit(DataFrame({"user": [1], "item": [0]}), 3)
    with pytest.raises(InputError, match=r"exclude: items must lie in 0\.\.5, got 9\.\.9"):
        Popularity().fit(TRAIN, 5).recommend(HISTORY[:1], 2, torch.tensor([[9]]))
