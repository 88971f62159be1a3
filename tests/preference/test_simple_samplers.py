"""In-batch, prefix and history negatives, compared with brute force and with values worked out by hand."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from genrec.errors import InputError, UsageError
from genrec.preference.exclusions import Exclusions
from genrec.preference.negatives import AlreadySeen, Disliked, InBatch, PrefixNeighbors, without_replacement
from genrec.semantic_ids import SemanticIds
from genrec.testing import batches_of, sampler_context
from genrec.types import NegativeSampler, SamplerContext, SequenceBatch

NO_INTERACTIONS = pd.DataFrame({"user": [], "item": [], "time": []}, dtype="int64")


def world(codes: list[list[int]], interactions: pd.DataFrame = NO_INTERACTIONS) -> SamplerContext:
    return SamplerContext(
        len(codes),
        interactions,
        torch.ones(len(codes) + 1, dtype=torch.int64),
        torch.eye(len(codes) + 1),
        SemanticIds(torch.tensor(codes)),
    )


def rows(history: list[list[int]], target: list[int]) -> SequenceBatch:
    """Users 0, 1, 2, ... with these histories and targets."""
    return SequenceBatch(torch.arange(len(target)), torch.tensor(history), torch.tensor(target))


def draw(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch, count: int, seed: int = 0) -> Tensor:
    return sampler.build(context).draw(batch, count, torch.Generator().manual_seed(seed))


def sets(drawn: Tensor) -> list[set[int]]:
    return [set(row) - {0} for row in drawn.tolist()]


def test_targets_of_the_batch_by_hand() -> None:
    """Targets 1, 2, 2, 5: a row gets the other targets; the repeated 2 counts once; the last row has 1 in its history."""
    batch = rows([[0, 3], [0, 3], [0, 3], [0, 1]], [1, 2, 2, 5])
    drawn = draw(InBatch(), world([[item] for item in range(6)]), batch, 3)
    assert sets(drawn) == [{2, 5}, {1, 5}, {1, 5}, {2}]
    assert (drawn[:, 2] == 0).all()


def test_targets_of_the_batch_are_equally_likely() -> None:
    """2,000 rows with target 1, 400 with 2 and 10 with 3: a row with target 4 gets 1, 2 and 3 with equal probability."""
    target = [1] * 2000 + [2] * 400 + [3] * 10 + [4] * 6000
    batch = rows([[0]] * len(target), target)
    first = draw(InBatch(), world([[item] for item in range(6)]), batch, 1)[-6000:, 0]
    assert chisquare(torch.bincount(first, minlength=4)[1:].tolist()).pvalue > 1e-3


@pytest.mark.parametrize(("depth", "expected"), [(1, {2, 3, 4}), (2, {2, 4})])
def test_prefix_neighbors_by_hand(depth: int, expected: set[int]) -> None:
    """Item 1 is (0, 0, 0): 2 (0, 0, 1) and 4 (0, 0, 2) share two codes with it, 3 (0, 1, 0) one and 5 (1, 0, 0) none."""
    context = world([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 2], [1, 0, 0]])
    assert sets(draw(PrefixNeighbors(depth), context, rows([[0]], [1]), 4)) == [expected]
    assert sets(draw(PrefixNeighbors(depth), context, rows([[2]], [1]), 4)) == [expected - {2}]
    assert sets(draw(PrefixNeighbors(depth), context, rows([[0]], [5]), 4)) == [set()]


@given(st.integers(0, 2**16), st.integers(1, 2), st.sampled_from([0, 8]))
@settings(max_examples=30, deadline=None)
def test_prefix_neighbors_equal_brute_force(seed: int, depth: int, exact_factor: int) -> None:
    """A draw of as many negatives as items returns all allowed items of the prefix."""
    context = sampler_context(seed)
    batch, everything = next(batches_of(context, 32)), torch.arange(61)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(without_replacement, "EXACT_FACTOR", exact_factor)
        drawn = draw(PrefixNeighbors(depth), context, batch, 60, seed)
    allowed = ~Exclusions(context)(batch, everything.expand(len(batch.target), -1))
    allowed &= context.semantic_ids.prefix_depth(batch.target.unsqueeze(1), everything) >= depth
    leaf = torch.cat([torch.tensor([-1]), context.semantic_ids.leaf(everything[1:])])
    for got, wanted in zip(drawn, allowed, strict=True):
        assert set(leaf[got[got > 0]].tolist()) == set(leaf[wanted].tolist())
        assert wanted[got[got > 0]].all()


@pytest.mark.parametrize("exact_factor", [0, 8])
def test_prefix_neighbors_are_equally_likely(exact_factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(without_replacement, "EXACT_FACTOR", exact_factor)
    context = world([[0, code] for code in range(6)] + [[1, code] for code in range(4)])
    drawn = draw(PrefixNeighbors(), context, rows([[2]] * 12_000, [1] * 12_000), 2)
    for place in (0, 1):
        assert chisquare(torch.bincount(drawn[:, place], minlength=7)[3:].tolist()).pvalue > 1e-3
    assert drawn.max() == 6


def test_already_seen_by_hand() -> None:
    """Item 4 has the target's Semantic ID; item 3 is in the history twice and counts once; the last two are 3 and 6."""
    context = world([[0], [1], [2], [0], [3], [4]])
    batch = rows([[0, 2, 4, 3, 3, 6], [0, 0, 0, 0, 0, 1]], [1, 2])
    assert sets(draw(AlreadySeen(), context, batch, 5)) == [{2, 3, 6}, {1}]
    assert sets(draw(AlreadySeen(recent=2), context, batch, 5)) == [{3, 6}, {1}]
    assert draw(AlreadySeen(), context, rows([[1]], [1]), 2).tolist() == [[0, 0]]
    assert draw(AlreadySeen(), context, batch._replace(history=torch.zeros(2, 0, dtype=torch.int64)), 2).tolist() == [[0, 0]] * 2


def test_repeated_items_are_not_more_likely() -> None:
    batch = rows([[3, 2, 3, 3, 4]] * 9000, [1] * 9000)
    first = draw(AlreadySeen(), world([[item] for item in range(4)]), batch, 1)[:, 0]
    assert chisquare(torch.bincount(first)[2:].tolist()).pvalue > 1e-3


def test_disliked_by_hand() -> None:
    """User 0 rates item 2 with 1 and then 5, item 3 with 4 and then 2, item 4 with 2.5; user 1 rates item 2 with 1 and 5 with NaN."""
    table = pd.DataFrame(
        {
            "user": [0, 0, 0, 0, 0, 1, 1],
            "item": [2, 2, 3, 3, 4, 2, 5],
            "time": [1, 9, 2, 8, 3, 1, 2],
            "rating": [1, 5, 4, 2, 2.5, 1, float("nan")],
        }
    )
    context, batch = world([[item] for item in range(6)], table), rows([[2, 3, 4, 3, 2], [0, 0, 2, 5, 6]], [6, 1])
    assert sets(draw(Disliked(), context, batch, 3)) == [{3}, {2}]
    assert sets(draw(Disliked(2.5), context, batch, 3)) == [{3, 4}, {2}]
    with pytest.raises(InputError, match=r"Disliked.max_rating = 0.5 matches no rating, the lowest is 1"):
        Disliked(0.5).build(context)
    with pytest.raises(InputError, match=r"Disliked needs .* a rating, got the columns user, item, time; use AlreadySeen"):
        Disliked().build(context._replace(interactions=table.drop(columns="rating")))


def test_items_that_are_taken_again_are_excluded() -> None:
    """Both users take items 2, 3, 2, 4. From the history 2, 3 only 3 is allowed, because 2 is taken again; from 2, 3, 2 both are."""
    table = pd.DataFrame({"user": [0] * 4 + [1] * 4, "item": [2, 3, 2, 4] * 2, "time": [0, 1, 2, 3] * 2})
    context = world([[item] for item in range(6)], table)
    assert sets(draw(AlreadySeen(), context, rows([[0, 2, 3], [2, 3, 2]], [5, 5]), 3)) == [{3}, {2, 3}]


def test_fields_are_checked() -> None:
    with pytest.raises(UsageError, match=r"PrefixNeighbors.depth must be at least 1, got 0"):
        PrefixNeighbors(0)
    with pytest.raises(UsageError, match=r"PrefixNeighbors.depth must be below 3, the levels of a Semantic ID, got 3"):
        PrefixNeighbors(3).build(sampler_context())
    with pytest.raises(UsageError, match=r"AlreadySeen.recent must be 0 \(all of the history\) or more, got -1"):
        AlreadySeen(recent=-1)
    with pytest.raises(UsageError, match=r"Disliked.max_rating must be finite, got nan"):
        Disliked(float("nan"))
