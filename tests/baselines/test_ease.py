"""EASE compared with one ridge regression per item, by hand, and its documented edge cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray
from pandas import DataFrame
from scipy import sparse

from genrec.baselines import EASE, ease
from genrec.baselines.ease import item_weights
from genrec.errors import InputError, NumericsError, ResourceError, UsageError
from genrec.testing import check_baseline, encoder_world
from genrec.types import Baseline, UserRecommender

# Users 1..4 and their items 1..5; user 1 has item 1 twice, item 5 has no interaction.
ITEMS_OF_USERS = {1: [1, 1, 2], 2: [1, 2, 3], 3: [3, 4], 4: [1, 4]}
TRAIN = DataFrame([(user, item) for user, items in ITEMS_OF_USERS.items() for item in items], columns=["user", "item"])
NOTHING = torch.zeros(1, 3, dtype=torch.int64)


def ridge(matrix: ndarray, l2: float) -> ndarray:
    """Return B column by column: the least squares of item j on all other items, with the penalty as further rows of data."""
    items = matrix.shape[1]
    result = np.zeros((items, items))
    for j in range(items):
        others = np.delete(np.arange(items), j)
        data = np.concatenate([matrix[:, others], np.sqrt(l2) * np.eye(items - 1)])
        result[others, j] = np.linalg.lstsq(data, np.concatenate([matrix[:, j], np.zeros(items - 1)]), rcond=None)[0]
    return result


def binary(train: DataFrame, users: int, items: int) -> ndarray:
    matrix = np.zeros((users, items))
    for user, item in zip(train["user"], train["item"], strict=True):
        matrix[user, item - 1] = 1
    return matrix


def test_two_items_by_hand() -> None:
    """X^T X = [[2, 1], [1, 1]]: the regression of item 2 on item 1 is 1 / (2 + lambda), of item 1 on item 2 it is 1 / (1 + lambda)."""
    found = item_weights(sparse.csr_array([[1.0, 1.0], [1.0, 0.0]]), 2.0)
    np.testing.assert_allclose(found, [[0, 1 / 4], [1 / 3, 0]], rtol=1e-12)


@given(
    users=st.integers(1, 12), items=st.integers(1, 9), l2=st.sampled_from([0.1, 1.0, 50.0, 2_000.0]), seed=st.integers(0, 2**32 - 1)
)
def test_every_column_is_a_ridge_regression_on_the_other_items(users: int, items: int, l2: float, seed: int) -> None:
    matrix = (np.random.default_rng(seed).random((users, items)) < 0.4).astype(float)
    found = item_weights(sparse.csr_array(matrix), l2)
    np.testing.assert_allclose(found, ridge(matrix, l2), atol=1e-9)
    assert not found.diagonal().any()


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = sparse.csr_array((np.random.default_rng(0).random((60, 25)) < 0.2).astype(float))
    whole = item_weights(matrix, 3.0)
    monkeypatch.setattr(ease, "BLOCK", 7)
    assert np.array_equal(item_weights(matrix, 3.0), whole)


def test_a_list_uses_the_training_items_and_the_history_once() -> None:
    """User 3 took items 3 and 4. The history repeats 4 and adds 2, which comes later than the training: the vector is {2, 3, 4}."""
    fitted = EASE(l2=1.0).fit(TRAIN, 5)
    assert isinstance(EASE(), Baseline)
    assert isinstance(fitted, UserRecommender)
    weights = ridge(binary(TRAIN, 5, 5), 1.0)
    expected = weights[1] + weights[2] + weights[3]
    ranking = fitted.recommend_to(torch.tensor([3]), torch.tensor([[4, 4, 2]]), 5)
    scores = dict(zip(ranking.items[0].tolist(), ranking.scores[0].tolist(), strict=True))
    assert [scores[item] for item in range(1, 6)] == pytest.approx(expected.tolist(), abs=1e-6)
    assert ranking.scores.dtype == torch.float32
    assert (ranking.scores[0].diff() <= 0).all()


def test_recommend_knows_the_history_only() -> None:
    fitted = EASE(l2=1.0).fit(TRAIN, 5)
    history = torch.tensor([[0, 1, 3]])
    alone = fitted.recommend(history, 5)
    assert alone.items.tolist() == fitted.recommend_to(torch.tensor([99]), history, 5).items.tolist()
    assert alone.items.tolist() == fitted.recommend_to(torch.tensor([-1]), history, 5).items.tolist()
    row = ridge(binary(TRAIN, 5, 5), 1.0)[[0, 2]].sum(0)
    assert alone.scores[0].tolist() == pytest.approx(sorted(row, reverse=True), abs=1e-6)
    assert fitted.recommend_to(torch.tensor([4]), history, 5).scores.tolist() != alone.scores.tolist()  # user 4 took item 4 too


def test_without_training_items_and_history_the_popular_items_come_first() -> None:
    fitted = EASE().fit(TRAIN, 5)  # events of items 1..5: 4, 2, 2, 2, 0
    for ranking in (fitted.recommend(NOTHING, 5), fitted.recommend_to(torch.tensor([7]), NOTHING, 5)):
        assert ranking.items.tolist() == [[1, 2, 3, 4, 5]]
        assert ranking.scores.tolist() == [[0.0] * 5]
    assert EASE().fit(TRAIN.head(0), 3).recommend(NOTHING, 3).items.tolist() == [[1, 2, 3]]


def test_excluded_items_are_left_out() -> None:
    fitted = EASE(l2=1.0).fit(TRAIN, 5)
    everything = fitted.recommend_to(torch.tensor([2]), NOTHING, 5).items[0].tolist()
    left = fitted.recommend_to(torch.tensor([2]), NOTHING, 5, torch.tensor([[1, 2, 3]]))
    assert left.items[0].tolist() == [*(item for item in everything if item in (4, 5)), 0, 0, 0]
    assert left.scores[0, 2:].tolist() == [-torch.inf] * 3


@pytest.mark.parametrize("baseline", [EASE(), EASE(l2=0.5)], ids=lambda baseline: f"{baseline.l2:g}")
def test_it_keeps_the_contract(baseline: EASE) -> None:
    check_baseline(baseline)
    items, interactions = encoder_world(seed=4)
    check_baseline(baseline, interactions, len(items))


def test_a_large_catalog_is_refused_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 * 50,000^2 bytes are 20.0 GB."""
    monkeypatch.setattr(ease, "item_weights", lambda *_: pytest.fail("the matrix is allocated"))
    with pytest.raises(ResourceError, match=r"8 N\^2 bytes, 20\.0 GB for 50,000 items, but policy\.max_items is 40,000; filter"):
        EASE().fit(TRAIN, 50_000)


def test_missing_memory_is_an_error_of_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> ndarray:
        raise MemoryError

    monkeypatch.setattr(ease, "item_weights", no_memory)
    with pytest.raises(ResourceError, match=r"0\.0 GB for 5 items, which this machine does not have; use ItemKNN"):
        EASE().fit(TRAIN, 5)


@pytest.mark.parametrize("l2", [1e-12, 1e-300])
def test_an_inaccurate_inverse_raises(l2: float) -> None:
    """Items 1 and 2 have the same users, so X^T X is singular, and a tiny lambda does not help."""
    matrix = sparse.csr_array(np.ones((3, 2)))
    with pytest.raises(NumericsError, match=r"can't be inverted with policy\.l2 = 1e-.* raise policy\.l2"):
        item_weights(matrix, l2)


@pytest.mark.parametrize("l2", [0.0, -1.0, float("inf"), float("nan")])
def test_l2_is_checked(l2: float) -> None:
    with pytest.raises(UsageError, match=r"policy\.l2 must be above 0 and finite, got"):
        EASE(l2=l2)


def test_bad_input() -> None:
    with pytest.raises(UsageError, match=r"policy\.max_items must be at least 1, got 0"):
        EASE(max_items=0)
    with pytest.raises(UsageError, match=r"policy\.l2 must be a number, got '5'"):
        EASE(l2="5")  # type: ignore[arg-type]
    fitted = EASE().fit(TRAIN, 5)
    with pytest.raises(InputError, match=r"history: items must lie in 0\.\.5, got 9\.\.9"):
        fitted.recommend(torch.tensor([[9]]), 2)
    with pytest.raises(InputError, match=r"interactions: items must lie in 0\.\.3, got 1\.\.4"):
        EASE().fit(TRAIN, 3)
