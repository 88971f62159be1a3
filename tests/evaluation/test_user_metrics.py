"""The metrics of every evaluation: values per user by hand, against plain loops, and their relation to the means of `metrics_of`."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec.evaluation import metrics
from genrec.evaluation.evaluate import metrics_of
from genrec.evaluation.measurement import measure
from genrec.evaluation.shared_id_ties import per_user
from genrec.evaluation.user_metrics import novelty, shown_cutoff, standard_metrics
from genrec.testing import evaluated_world
from genrec.types import Evaluated, Ranking

NAN = pytest.approx(math.nan, nan_ok=True)


class Nobody:
    """A recommender that is never asked."""

    def recommend(self, history: torch.Tensor, n: int, exclude: torch.Tensor | None = None) -> Ranking:
        raise AssertionError


def evaluation() -> Evaluated:
    """Five users, ten items, lists of two. Items 1 and 2 are the head; item 10 has no training interaction."""
    targets, ranks = [1, 2, 3, 4, 10], [1, 0, 2, 0, 0]
    return Evaluated(
        user=torch.arange(1, 6),
        target=torch.tensor(targets),
        rank=torch.tensor(ranks),
        items=torch.tensor([[1, 2], [1, 0], [8, 3], [0, 0], [1, 2]]),
        ranks=pd.DataFrame({"user": range(1, 6), "target": targets, "rank": ranks}),
        cutoffs=(1, 2),
        history_length=torch.tensor([4, 5, 10, 19, 20]),
        popularity=torch.tensor([0, 16, 8, 4, 2, 1, 1, 0, 0, 0, 0]),  # 32 interactions
        train=lambda: pd.DataFrame(),
        catalog=pd.DataFrame({"item_id": list("abcdefghij")}),
        recommender=Nobody(),
        batches=[],
        seen=lambda user: torch.zeros(len(user), 0, dtype=torch.int64),
        filter_seen=False,
    )


def test_recalls_by_hand() -> None:
    """Users 1 and 2 have a target in the head, 3, 4 and 5 in the tail. At n = 2, users 1 and 3 hit.

    Before items 1 .. 4 are 0, 16, 24 and 28 of 32 interactions, in fifths 0, 2.5, 3.75 and 4.375: groups 1, 3, 4 and 5. Item 10,
    without interactions, is in group 5.
    """
    found = standard_metrics(evaluation())
    expected = {
        "head_recall@1": [1, 0, None, None, None],
        "tail_recall@1": [None, None, 0, 0, 0],
        "head_recall@2": [1, 0, None, None, None],
        "tail_recall@2": [None, None, 1, 0, 0],
        "cold_recall@2": [None, None, None, None, 0],
        "cold_ndcg@2": [None, None, None, None, 0],
        "recall@2[history 1-4]": [1, None, None, None, None],
        "recall@2[history 5-9]": [None, 0, None, None, None],
        "recall@2[history 10-19]": [None, None, 1, 0, None],
        "recall@2[history 20+]": [None, None, None, None, 0],
        "recall@2[popularity 1 of 5]": [1, None, None, None, None],
        "recall@2[popularity 2 of 5]": [None] * 5,
        "recall@2[popularity 3 of 5]": [None, 0, None, None, None],
        "recall@2[popularity 4 of 5]": [None, None, 1, None, None],
        "recall@2[popularity 5 of 5]": [None, None, None, 0, 0],
    }
    for name, values in expected.items():
        assert found[name].dtype == torch.float64
        assert found[name].tolist() == [NAN if value is None else value for value in values], name
    measured = measure(evaluation(), ())
    assert measured.means["tail_recall@2"] == pytest.approx(1 / 3)
    assert measured.counts["tail_recall@2"] == 3
    for part in (measured.means, measured.counts, measured.per_user):  # a group without a user has no figure
        assert "recall@2[popularity 2 of 5]" not in part


def test_novelty_by_hand() -> None:
    """-log2 of 16/32, 8/32 and 4/32 are 1, 2 and 3 bits; item 8 counts as one interaction of 32: 5 bits. User 4 has an empty list."""
    found = standard_metrics(evaluation())
    assert found["novelty@1"].tolist() == [1, 1, 5, NAN, 1]
    assert found["novelty@2"].tolist() == [1.5, 1, 4, NAN, 1.5]


def test_group_figures_have_one_cutoff() -> None:
    assert [shown_cutoff(cutoffs) for cutoffs in ((1, 5, 10, 20), (1, 5), (20,), (1, 20))] == [10, 5, 20, 20]


def test_genres_are_measured_where_the_catalog_has_them() -> None:
    """Filled slots: items 1, 2, 1, 8, 3, 1, 2. Items 1 and 2 have the genre a, all others b: 5/7 against 24/32 of the training."""
    without = evaluation()
    assert not any("genres" in name for name in standard_metrics(without))
    found = standard_metrics(replace(without, catalog=without.catalog.assign(genres=["a", "a", *"bbbbbbbb"])))
    assert float(found["mgu_genres@2"]) == pytest.approx(24 / 32 - 5 / 7)
    assert float(found["dgu_genres@2"]) == pytest.approx(2 * (24 / 32 - 5 / 7))


@given(st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(any), st.integers(0, 2**16))
def test_novelty_agrees_with_a_loop(counts: list[int], seed: int) -> None:
    popularity = torch.tensor([0, *counts])
    lists = torch.randint(0, len(popularity), (6, 4), generator=torch.Generator().manual_seed(seed))
    for row, value in zip(lists.tolist(), novelty(lists, popularity).tolist(), strict=True):
        bits = [-math.log2(max(1, counts[item - 1]) / sum(counts)) for item in row if item]
        assert value == (pytest.approx(sum(bits) / len(bits)) if bits else NAN)


@pytest.mark.parametrize("filter_seen", [False, True])
def test_means_agree_with_the_metrics_of_stored_tables(filter_seen: bool) -> None:
    """Some items of this world share a Semantic ID. Parts of a division average to the whole, weighted by their users."""
    evaluated = evaluated_world(filter_seen=filter_seen)
    measured = measure(evaluated, ())
    row, slot = evaluated.items.nonzero(as_tuple=True)
    columns = {"user": evaluated.user[row], "position": slot + 1, "item": evaluated.items[row, slot]}
    recommendations = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
    stored = metrics_of(evaluated.ranks, recommendations, evaluated.cutoffs, 60, evaluated.popularity)
    common = {name for name in measured.means if name in stored}
    assert {"sid_recall@10", "sid_ndcg@1"} <= common
    assert {name: measured.means[name] for name in common} == {name: stored[name] for name in common}
    recall = float(per_user(metrics.recall, evaluated.ranks, 10).sum())
    for division in (["head_recall@10", "tail_recall@10"], [name for name in measured.means if "[history" in name]):
        total = sum(measured.means[name] * measured.counts[name] for name in division)
        assert total == pytest.approx(recall)
        assert sum(measured.counts[name] for name in division) == 40


def test_targets_without_interactions_are_measured_apart() -> None:
    cold = standard_metrics(evaluation())
    assert "cold_recall@1" in cold
    popular = replace(evaluation(), popularity=torch.full((11,), 3))
    assert not any(name.startswith("cold_") for name in standard_metrics(popular))
    assert not any(name.startswith("sid_") for name in cold)
