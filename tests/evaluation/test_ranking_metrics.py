"""Ranking and list metrics: arithmetic by hand, properties, and comparison with ranx and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import ranx
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from genrec.errors import InputError, UsageError
from genrec.evaluation.metrics import average_popularity, coverage, div_ratio, entropy, gini, mrr, ndcg, or_ratio, recall
from genrec.types import Metric

RANKS = st.lists(st.integers(0, 60), min_size=1, max_size=30)
ALL: list[Metric] = [recall, ndcg, mrr]
LISTS = torch.tensor([[1, 2], [1, 3], [1, 2], [4, 2]])  # 4 users, 2 slots, over 5 items: counts 3, 3, 1, 1, 0


def test_by_hand() -> None:
    rank = torch.tensor([1, 2, 3, 0, 11])
    # Hits up to 10: ranks 1, 2, 3. NDCG: 1/log2(2) = 1, 1/log2(3) = 0.63093, 1/log2(4) = 0.5. MRR: 1, 1/2, 1/3.
    assert recall(rank, 10).tolist() == [1, 1, 1, 0, 0]
    assert ndcg(rank, 10).tolist() == pytest.approx([1, 0.6309297, 0.5, 0, 0], abs=1e-6)
    assert mrr(rank, 10).tolist() == pytest.approx([1, 0.5, 1 / 3, 0, 0], abs=1e-6)
    assert recall(rank, 1).tolist() == [1, 0, 0, 0, 0]
    assert recall(rank, 11).tolist() == [1, 1, 1, 0, 1]


@pytest.mark.parametrize("metric", ALL)
def test_shape_and_dtype(metric: Metric) -> None:
    assert isinstance(metric, Metric)
    assert metric(torch.tensor([1, 0]), 5).dtype == torch.float32
    assert metric(torch.zeros(0, dtype=torch.int64), 5).shape == (0,)


@pytest.mark.parametrize("metric", ALL)
@given(ranks=RANKS, n=st.integers(1, 60))
def test_values_are_bounded_monotone_and_per_user(metric: Metric, ranks: list[int], n: int) -> None:
    value = metric(torch.tensor(ranks), n)
    assert ((value >= 0) & (value <= 1)).all()
    assert (metric(torch.tensor(ranks), n + 1) >= value).all()
    assert torch.equal(metric(torch.tensor(ranks[::-1]), n), value.flip(0))
    assert (value[torch.tensor(ranks) == 0] == 0).all()
    assert (ndcg(torch.tensor(ranks), n) <= recall(torch.tensor(ranks), n)).all()
    assert (mrr(torch.tensor(ranks), n) <= ndcg(torch.tensor(ranks), n) + 1e-6).all()


@pytest.mark.parametrize("metric", ALL)
def test_bad_input(metric: Metric) -> None:
    with pytest.raises(UsageError, match="at least 1, got 0"):
        metric(torch.tensor([1]), 0)
    with pytest.raises(InputError, match="got -1"):
        metric(torch.tensor([1, -1]), 5)
    with pytest.raises(InputError, match=r"integers.*float32"):
        metric(torch.tensor([1.0]), 5)


@pytest.mark.parametrize(("metric", "name"), [(recall, "recall"), (ndcg, "ndcg"), (mrr, "mrr")])
@pytest.mark.parametrize("n", [1, 5, 10])
def test_against_ranx(metric: Metric, name: str, n: int) -> None:
    rng = np.random.default_rng(0)
    ranks = rng.integers(0, 16, size=200)  # lists of 15 items; 0 = the target is not in the list
    targets = {f"u{user}": {"target": 1} for user in range(200)}
    lists = {
        f"u{user}": {("target" if slot == rank else f"i{slot}"): 1.0 / slot for slot in range(1, 16)}
        for user, rank in enumerate(ranks)
    }
    expected = ranx.evaluate(ranx.Qrels(targets), ranx.Run(lists), f"{name}@{n}", make_comparable=True)
    assert float(metric(torch.from_numpy(ranks), n).double().mean()) == pytest.approx(expected, abs=1e-7)


@given(rank=st.integers(1, 20), n=st.integers(1, 20))
def test_ndcg_against_scikit_learn(rank: int, n: int) -> None:
    relevance = np.zeros((1, 20))
    relevance[0, rank - 1] = 1
    expected = ndcg_score(relevance, np.arange(20, 0, -1)[None], k=n)
    assert float(ndcg(torch.tensor([rank]), n)) == pytest.approx(expected, abs=1e-6)


def test_list_metrics_by_hand() -> None:
    # Counts over 5 items: 3, 3, 1, 1, 0; 8 slots. Sorted 0 1 1 3 3: Gini (-4*0 - 2*1 + 0*1 + 2*3 + 4*3) / (5*8) = 16/40.
    assert coverage(LISTS, 5) == pytest.approx(0.8)
    assert gini(LISTS, 5) == pytest.approx(0.4)
    assert div_ratio(LISTS, 5) == pytest.approx(0.5)  # 4 distinct / 8 slots
    assert or_ratio(LISTS, 5) == pytest.approx(0.875)  # (3 + 3 + 1) / 8
    assert entropy(LISTS, 5) == pytest.approx(1.255482, abs=1e-6)
    # popularity 10, 4, 2, 0, 7 of items 1..5: (3*10 + 3*4 + 1*2 + 1*0) / 8 = 44/8
    assert average_popularity(LISTS, torch.tensor([0, 10, 4, 2, 0, 7])) == pytest.approx(5.5)


def test_extremes_of_list_metrics() -> None:
    everything = torch.arange(1, 7).view(2, 3)
    assert (coverage(everything, 6), gini(everything, 6), div_ratio(everything, 6)) == (1, 0, 1)
    assert entropy(everything, 6) == pytest.approx(math.log(6))
    one = torch.full((4, 1), 2)
    assert gini(one, 5) == pytest.approx(4 / 5)
    assert (or_ratio(one, 5), entropy(one, 5), coverage(one, 5)) == (1, 0, pytest.approx(0.2))
    nothing = torch.zeros(3, 2, dtype=torch.int64)
    assert [f(nothing, 5) for f in (coverage, gini, entropy, div_ratio, or_ratio)] == [0, 0, 0, 0, 0]
    assert average_popularity(nothing, torch.ones(6, dtype=torch.int64)) == 0
    half = torch.tensor([[1, 0], [2, 0]])  # the ratios are shares of all slots, also empty ones
    assert (div_ratio(half, 2), or_ratio(half, 2), entropy(half, 2)) == (0.5, 0.5, pytest.approx(math.log(2)))


@given(lists=st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1, max_size=8))
def test_list_metrics_are_bounded_and_independent_of_order(lists: list[list[int]]) -> None:
    items = torch.tensor(lists)
    for metric in (coverage, gini, div_ratio, or_ratio):
        assert 0 <= metric(items, 6) <= 1
        assert metric(items.flip(0, 1), 6) == metric(items, 6)
    assert 0 <= entropy(items, 6) <= math.log(6) + 1e-9


def test_lists_outside_the_catalog_are_refused() -> None:
    with pytest.raises(InputError, match=r"0\.\.3, got 1\.\.4"):
        coverage(LISTS, 3)
    with pytest.raises(InputError, match="shape"):
        gini(torch.tensor([1, 2]), 3)
