"""TIGER's quota: cold items have at most floor(share * n) places of a list, by the codes that they share with its items."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from policies import TIGER, build, histories
from torch import Tensor
from worlds import cyclic

from genrec.baselines import Popularity
from genrec.errors import UsageError
from genrec.evaluation.cold_quota import ColdQuota, limit_cold, places_for_cold, with_cold_quota
from genrec.experiment import Evaluate
from genrec.model import RPG, Liger
from genrec.semantic_ids import SemanticIds
from genrec.types import Ranking

ITEMS = 24
CODES = torch.tensor([[a, b, c] for a in range(2) for b in range(3) for c in range(4)])  # four items share each prefix
IDS = SemanticIds(CODES, (2, 3, 4))
QUOTA = Evaluate(cutoffs=(1, 5), cold_quota=0.1)


def ranked(items: list[int]) -> Ranking:
    return Ranking(torch.tensor([items]), -torch.arange(float(len(items))).unsqueeze(0))


def flags(cold: list[int], items: int = ITEMS) -> Tensor:
    return torch.zeros(items + 1, dtype=torch.bool).index_fill(0, torch.tensor(cold, dtype=torch.int64), True)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.1, [1, 2, 3, 5, 7, 8, 9, 10, 11, 12]),
        (0.3, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (0.0, [1, 3, 5, 7, 8, 9, 10, 11, 12, 13]),
        (1.0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (0.19, [1, 2, 3, 5, 7, 8, 9, 10, 11, 12]),  # floor(1.9) = 1
        (0.2, [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]),
    ],
)
def test_the_places_of_ten(share: float, expected: list[int]) -> None:
    """Items 1 to 14 by score, of which 2, 4 and 6 are cold."""
    found = limit_cold(ranked(list(range(1, 15))), flags([2, 4, 6]), 10, share)
    assert found.items.tolist() == [expected]
    assert found.scores.tolist() == [[1.0 - item for item in expected]]


def test_a_short_list_ends_in_empty_places() -> None:
    found = limit_cold(ranked([4, 1, 2, 0]), flags([2, 4]), 4, 0.25)
    assert found.items.tolist() == [[4, 1, 0, 0]]
    assert found.scores.tolist() == [[0.0, -1.0, -torch.inf, -torch.inf]]


@pytest.mark.parametrize(
    ("share", "n", "places"), [(0.29, 100, 29), (0.1, 10, 1), (0.7, 10, 7), (0.1, 9, 0), (1.0, 7, 7), (0.57, 100, 57)]
)
def test_places_are_those_of_the_decimal(share: float, n: int, places: int) -> None:
    """0.29 * 100 is 28.999... in floating point."""
    assert places_for_cold(share, n) == places


@given(
    items=st.permutations(range(1, 15)),
    cold=st.sets(st.integers(1, 14)),
    n=st.integers(1, 14),
    share=st.integers(0, 20).map(lambda twentieths: twentieths / 20),
)
def test_properties_of_the_quota(items: list[int], cold: set[int], n: int, share: float) -> None:
    """At most floor(share * n) cold items, the order kept, nothing left out that fits; 0 gives none, 1 the list itself."""
    found = [item for item in limit_cold(ranked(items), flags(sorted(cold)), n, share).items[0].tolist() if item]
    allowed = places_for_cold(share, n)
    kept: list[int] = []
    for item in items:
        if len(kept) < n and (item not in cold or len(cold & set(kept)) < allowed):
            kept.append(item)
    assert found == kept
    assert len(cold & set(found)) <= allowed
    if share == 0:
        assert not cold & set(found)
    if share == 1:
        assert found == items[:n]


def brute_force(
    policy: Any, history: Tensor, n: int, cold: set[int], share: float, exclude: set[int]
) -> tuple[list[int], list[float]]:
    """Return the list of one history int64 [T] by loops over all items."""
    levels = policy.level_log_prob(history.unsqueeze(0), torch.arange(1, ITEMS + 1).unsqueeze(0))[0].double()
    full, prefix = levels.sum(1).tolist(), levels[:, :-1].sum(1).tolist()
    allowed = [item for item in range(1, ITEMS + 1) if item not in exclude]
    beams = sorted(allowed, key=lambda item: -full[item - 1])[:n]
    shared = {tuple(CODES[item - 1, :-1].tolist()) for item in beams}
    scores = {item: full[item - 1] for item in allowed if item not in cold}
    scores |= {item: prefix[item - 1] for item in allowed if item in cold and tuple(CODES[item - 1, :-1].tolist()) in shared}
    kept: list[int] = []
    first = {tuple(codes): item for item, codes in reversed(list(enumerate(CODES[:, :-1].tolist(), start=1)))}  # of each prefix
    shown = {
        item: prefix[first[tuple(CODES[item - 1, :-1].tolist())] - 1] if item in cold else score for item, score in scores.items()
    }
    ordered = sorted(set(shown.values()))
    assume(all(b - a > 1e-5 for a, b in pairwise(ordered)))  # rounding may not change the order
    for item in sorted(scores, key=lambda item: (-shown[item], item)):
        if len(kept) < n and (item not in cold or len(cold & set(kept)) < places_for_cold(share, n)):
            kept.append(item)
    return kept, [scores[item] for item in kept]


@given(
    seed=st.integers(0, 1000),
    cold=st.sets(st.integers(1, ITEMS), max_size=12),
    share=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    excluded=st.integers(0, 12),
    exactly=st.booleans(),
)
def test_lists_are_those_of_a_loop_over_all_items(seed: int, cold: set[int], share: float, excluded: int, exactly: bool) -> None:
    """50 beams are more than the 24 items, so the search is exact."""
    policy = build(TIGER, IDS, seed)
    popularity = (~flags(sorted(cold))).long()
    quota = ColdQuota(policy, IDS, popularity, share)
    history, n = histories(2, 5, ITEMS, seed), 8
    exclude = torch.arange(1, excluded + 1).expand(2, -1)
    found = (quota.recommend_exactly if exactly else quota.recommend)(history, n, exclude)
    for row in range(2):
        with torch.no_grad():
            items, scores = brute_force(policy, history[row], n, cold, share, set(range(1, excluded + 1)))
        assert found.items[row].tolist() == items + [0] * (n - len(items))
        torch.testing.assert_close(
            found.scores[row, : len(items)].double(), torch.tensor(scores, dtype=torch.float64), atol=1e-3, rtol=0
        )
        assert len(cold & set(found.items[row].tolist())) <= places_for_cold(share, n)


def test_without_a_share_the_recommender_is_the_policy() -> None:
    policy = build(TIGER, IDS)
    assert with_cold_quota(policy, IDS, torch.ones(ITEMS + 1), None) is policy


def test_without_cold_items_lists_are_those_of_the_policy() -> None:
    policy, history = build(TIGER, IDS), histories(3, 5, ITEMS)
    found = ColdQuota(policy, IDS, torch.ones(ITEMS + 1), 0.5).recommend(history, 6)
    expected = policy.recommend(history, 6)
    assert torch.equal(found.items, expected.items)
    torch.testing.assert_close(found.scores, expected.scores)


def test_shared_semantic_ids_are_refused() -> None:
    ids = SemanticIds(torch.tensor([[0, 0], [0, 0], [1, 0]]))
    with pytest.raises(UsageError, match=r"evaluate\.cold_quota needs distinct Semantic IDs, but 2 items share theirs"):
        ColdQuota(build(TIGER, ids), ids, torch.ones(4), 0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"evaluate": QUOTA, "policy": Liger(num_beams=10)},
            "Liger ranks cold items by their vectors",
        ),
        ({"evaluate": QUOTA, "policy": RPG()}, "RPG scores an item as one code"),
        ({"evaluate": QUOTA, "tokenize": None}, "Tiger has no Semantic IDs with tokenize=None"),
        ({"evaluate": Evaluate(cutoffs=(1, 5), cold_quota=1.5)}, "evaluate.cold_quota must be a share from 0 to 1, or None, got 1.5"),
        (
            {"evaluate": Evaluate(cutoffs=(1, 5), cold_quota=-0.1)},
            "evaluate.cold_quota must be a share from 0 to 1, or None, got -0.1",
        ),
    ],
)
def test_rows_that_the_quota_does_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(cyclic(), **change)


def test_baselines_do_not_read_the_quota() -> None:
    replace(cyclic(), policy=Popularity(), evaluate=Evaluate(cutoffs=(1, 5), cold_quota=0.1))
