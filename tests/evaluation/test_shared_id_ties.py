"""Metrics for shared Semantic IDs: by hand, by simulation, and through `evaluate` and `compare`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from torch import Tensor

from genrec.errors import ArtifactError, InputError
from genrec.evaluation.compare import Run, compare
from genrec.evaluation.evaluate import Evaluate, Evaluation, evaluate, metrics_of
from genrec.evaluation.metrics import mrr, ndcg, recall
from genrec.evaluation.shared_id_ties import per_user, places
from genrec.types import Ranking, SequenceBatch

# Items 1..9 on four Semantic IDs: 1 2 3 | 4 | 5 6 | 7 8 9
SHARED = torch.tensor([0, 1, 1, 1, 2, 3, 3, 4, 4, 4])


class Fixed:
    """Recommends the u-th list to user u. Excluded items become empty slots."""

    def __init__(self, lists: list[list[int]]) -> None:
        self.lists = torch.tensor(lists)

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        items = self.lists[history[:, -1] - 1][:, :n]
        if exclude is not None:
            items = items.masked_fill((items[:, :, None] == exclude[:, None, :]).any(-1), 0)
        return Ranking(items, torch.zeros(items.shape))


def users(targets: list[int]) -> SequenceBatch:
    user = torch.arange(1, len(targets) + 1)
    return SequenceBatch(user, user.unsqueeze(1), torch.tensor(targets))


def evaluated(lists: list[list[int]], targets: list[int], exclude: list[list[int]] | None = None) -> Evaluation:
    spec = Evaluate(cutoffs=(len(lists[0]),), filter_seen=exclude is not None)
    rows = None if exclude is None else torch.tensor(exclude)
    return evaluate(Fixed(lists), [users(targets)], spec, None if rows is None else lambda user: rows[user - 1], SHARED)


def tied(first: int, ties: int) -> DataFrame:
    return DataFrame({"user": [1], "target": [1], "rank": [first], "first": [first], "ties": [ties], "sid_rank": [1]})


@pytest.mark.parametrize(
    ("first", "ties", "n", "expected"),
    [
        (4, 3, 5, 2 / 3),  # slots 4, 5, 6
        (4, 3, 6, 1.0),
        (4, 3, 3, 0.0),
        (1, 4, 1, 1 / 4),
        (2, 1, 5, 1.0),
        (0, 3, 5, 0.0),  # missed
        (6, 2, 5, 0.0),
        (1, 1000, 5, 5 / 1000),
    ],
)
def test_recall_by_hand(first: int, ties: int, n: int, expected: float) -> None:
    assert per_user(recall, tied(first, ties), n).item() == pytest.approx(expected, abs=1e-12)


def test_ndcg_and_mrr_by_hand() -> None:
    """Three items from slot 4 on with cut-off 5: slots 4 and 5 of three count."""
    assert per_user(ndcg, tied(4, 3), 5).item() == pytest.approx((1 / math.log2(5) + 1 / math.log2(6)) / 3)
    assert per_user(mrr, tied(4, 3), 5).item() == pytest.approx((1 / 4 + 1 / 5) / 3)


@given(st.integers(0, 12), st.integers(1, 15), st.integers(1, 12), st.sampled_from([recall, ndcg, mrr]))
def test_expectation_is_the_mean_over_slots(first: int, ties: int, n: int, metric) -> None:
    at = [float(metric(torch.tensor([first + j]), n)) if first else 0.0 for j in range(ties)]
    assert per_user(metric, tied(first, ties), n).item() == pytest.approx(sum(at) / ties, abs=1e-6)


def test_expectation_agrees_with_random_orders() -> None:
    """The mean over 20,000 lists in which the items of each Semantic ID are shuffled, with plain metrics."""
    rng = np.random.default_rng(0)
    blocks = [[4], [7, 8, 9], [1, 2, 3], [5, 6]]
    cutoff, target = 6, 2
    slots = []
    for _ in range(20_000):
        order = [item for block in blocks for item in rng.permutation(block)]
        slots.append(order.index(target) + 1)
    ranks = torch.tensor([slot if slot <= cutoff else 0 for slot in slots])
    result = evaluated([[4, 7, 8, 9, 1, 2]], [target])
    for metric in (recall, ndcg, mrr):
        simulated = float(metric(ranks, cutoff).double().mean())
        assert per_user(metric, result.ranks, cutoff).item() == pytest.approx(simulated, abs=0.012)


def test_unshared_semantic_ids_give_the_plain_metric() -> None:
    ranks = DataFrame({"rank": range(60), "first": range(60), "ties": 1})
    for metric in (recall, ndcg, mrr):
        plain = metric(torch.arange(60), 50).double()
        assert torch.equal(per_user(metric, ranks, 50), plain)
        assert torch.equal(per_user(metric, ranks[["rank"]], 50), plain)


def test_columns_of_evaluate() -> None:
    """User 1: shared by three items, one behind the end of the list. User 2: not shared. User 3: missed. User 4: shared by two."""
    result = evaluated([[4, 1, 2], [7, 4, 1], [1, 2, 3], [4, 5, 6]], [3, 4, 7, 6])
    assert result.ranks.columns.tolist() == ["user", "target", "rank", "first", "ties", "sid_rank"]
    assert result.ranks.dtypes.astype(str).unique().tolist() == ["int64"]
    assert result.ranks["first"].tolist() == [2, 2, 0, 2]
    assert result.ranks["ties"].tolist() == [3, 1, 3, 2]
    assert result.ranks["sid_rank"].tolist() == [2, 2, 0, 2]
    rank = result.ranks["rank"].tolist()
    assert rank[0] in (0, 2, 3)  # slots 2, 3 and 4; the last is behind the end of the list
    assert rank[1:3] == [2, 0]
    assert rank[3] in (2, 3)
    found = metrics_of(result.ranks, result.recommendations, (2, 3), 9)
    assert found["recall@2"] == pytest.approx((1 / 3 + 1 + 0 + 1 / 2) / 4)
    assert found["recall@3"] == pytest.approx((2 / 3 + 1 + 0 + 1) / 4)
    assert found["sid_recall@2"] == 3 / 4
    assert found["sid_ndcg@3"] == pytest.approx(3 / 4 / math.log2(3))


def test_ranks_of_semantic_ids() -> None:
    """Three items with one Semantic ID count once. A repeated or empty slot keeps its position, as it does among items."""
    result = evaluated([[1, 2, 3, 4], [1, 1, 0, 4], [5, 4, 6, 7]], [4, 4, 7])
    assert result.ranks["sid_rank"].tolist() == [2, 4, 3]
    assert result.ranks["rank"].iloc[:2].tolist() == [4, 4]


def test_excluded_items_do_not_count_as_ties() -> None:
    """The target is 3, which shares its Semantic ID with 1 and 2. User 1 took 1 (twice), user 2 took both, user 3 took 3: a miss."""
    lists = [[2, 3, 4], [3, 4, 5], [1, 2, 4]]
    result = evaluated(lists, [3, 3, 3], [[1, 1, 0], [1, 2, 9], [3, 0, 0]])
    assert result.ranks["ties"].tolist() == [2, 1, 2]
    assert result.ranks["first"].tolist() == [1, 1, 0]
    assert result.ranks["sid_rank"].tolist() == [1, 1, 0]
    assert result.ranks["rank"].tolist()[1:] == [1, 0]
    assert result.excluded_targets == 1
    assert per_user(recall, result.ranks, 1).tolist() == [0.5, 1.0, 0.0]


def test_rank_is_an_unbiased_function_of_user_and_target() -> None:
    """Each of the three slots has a third of 40,000 users, for every target. Another batch gives the same ranks."""
    count = 40_000
    user, target = torch.arange(1, count + 1), torch.arange(count) % 3 + 1
    items = torch.tensor([[4, 1, 2, 3]]).expand(count, -1)
    found = places(user, target, items, SHARED, None)
    for wanted in (1, 2, 3):
        shares = torch.bincount(found.rank[target == wanted], minlength=5)[2:].double() / (target == wanted).sum()
        assert (shares - 1 / 3).abs().max() < 0.015
    again = places(user[100:200], target[100:200], items[100:200], SHARED, None)
    assert torch.equal(again.rank, found.rank[100:200])
    by_target = places(torch.ones(3000, dtype=torch.int64), torch.arange(1, 3001), torch.ones(3000, 1, dtype=torch.int64),
                       torch.tensor([0, *[1] * 3000]), None)  # fmt: skip
    assert (by_target.rank == 1).sum() < 10  # one slot of 3000 is in the list


def test_the_mean_of_ranks_is_near_the_expectation() -> None:
    lists = [[4, 7, 8, 9, 1, 2]] * 5000
    result = evaluated(lists, [1 + user % 3 for user in range(5000)])
    mean = float(ndcg(torch.from_numpy(result.ranks["rank"].to_numpy(copy=True)), 6).double().mean())
    assert mean == pytest.approx(float(per_user(ndcg, result.ranks, 6).mean()), abs=0.01)


def test_compare_uses_the_expectation_also_against_rows_without_ties() -> None:
    """Recall@2 of `shared`: 1/3, 1, 0, 1/2; of `alone`: 1, 0, 0, 1. Difference -2/3, +1, 0, -1/2 -> mean -1/24."""
    result = evaluated([[4, 1, 2], [7, 4, 1], [1, 2, 3], [4, 5, 6]], [3, 4, 7, 6])
    metrics = metrics_of(result.ranks, result.recommendations, (2, 3), 9)
    shared = Run("shared", 0, result.ranks, metrics, {"data": "toy"}, {})
    alone = Run("alone", 0, result.ranks[["user", "target"]].assign(rank=[1, 0, 3, 2]), {"recall@3": 0.75}, {"data": "toy"}, {})
    comparison = compare([alone, shared], "recall@2", resamples=200)
    assert comparison.rows[1].value == pytest.approx(metrics["recall@2"])
    test = comparison.rows[1].test
    assert test is not None
    assert test.difference == pytest.approx(-1 / 24)
    assert (test.wins, test.ties, test.losses) == (1, 1, 2)
    with pytest.raises(ArtifactError, match="different targets"):
        compare([alone, shared._replace(ranks=result.ranks.assign(target=1))], "recall@2", resamples=200)


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        (torch.tensor([0, 1, 1, 1]), r"items must lie in 1\.\.3"),
        (torch.tensor([1, 1, 1]), "0 for row 0"),
        (torch.tensor([0, 0, 1]), "1 or more"),
        (torch.tensor([0.0, 1.0]), "float32"),
    ],
)
def test_invalid_numbers_of_semantic_ids_are_refused(shared: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(Fixed([[4, 5]]), [users([4])], Evaluate(cutoffs=(2,)), shared=shared)
    with pytest.raises(InputError, match="ties 0"):
        per_user(recall, tied(1, 0), 5)
