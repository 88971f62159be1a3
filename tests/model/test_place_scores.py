"""Scores after any place of a history equal those of every prefix alone, for all policies and both normalizations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import POLICIES, build, catalog, histories
from proposals import one_level
from torch import Tensor

from genrec.baselines import GRU4Rec, SASRec
from genrec.baselines import item_policy as item_policy_module
from genrec.item_rows import last_places, prefixes
from genrec.model import RPG, row_groups
from genrec.semantic_ids import rank_in_group
from genrec.types import CatalogPolicy, ConstrainedWindowPolicy, WindowPolicy

ITEM_POLICIES: dict[str, Any] = {
    "sasrec": SASRec(d_model=16, d_ff=16),
    "sasrec-repeat": SASRec(d_model=16, d_ff=16, repeat_score=True),
    "gru4rec": GRU4Rec(d_model=16, hidden_size=24),
    "gru4rec-untied": GRU4Rec(d_model=16, hidden_size=24, tied=False),
}
PARALLEL: dict[str, Any] = {  # softmax over the catalog, on Semantic IDs of several levels
    "rpg": RPG(d_model=16, d_ff=32, temperature=0.3),
    "rpg-items": RPG(d_model=16, d_ff=32, temperature=0.3, item_embedding=True),
    "rpg-repeat": RPG(d_model=16, d_ff=32, temperature=0.3, repeat_score=True),
}
CATALOG = [*ITEM_POLICIES, *PARALLEL]
NAMES = [*POLICIES, *CATALOG]
CAUSAL = [name for name in NAMES if getattr((POLICIES | ITEM_POLICIES | PARALLEL)[name], "causal", False)]
EVERY = pytest.mark.parametrize("name", NAMES)
METHODS = pytest.mark.parametrize("method", ["place_level_log_prob", "constrained_place_level_log_prob"])
ITEMS = 30


def policy_of(name: str, seed: int = 0) -> Any:
    if name not in ITEM_POLICIES:
        return build((POLICIES | PARALLEL)[name], catalog(ITEMS, seed), seed)
    return build(ITEM_POLICIES[name], one_level(ITEMS), seed)


def finite(log_probs: Tensor) -> Tensor:
    return log_probs.masked_fill(log_probs == -torch.inf, 1.0)


def one_by_one(policy: Any, method: str, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
    """Return the scores by their definition: every prefix as a history of its own."""
    score = getattr(policy, method.replace("place_", ""))
    rows = zip(places.tolist(), items, strict=True)
    return torch.cat([score(history[row : row + 1, : place + 1], each.unsqueeze(0)) for (row, place), each in rows])


def random_places(history: Tensor, count: int, seed: int) -> Tensor:
    """Return places after items, in random order and with repetitions, int64 [count, 2]."""
    after = history.nonzero()
    return after[torch.randint(len(after), (count,), generator=torch.Generator().manual_seed(seed))]


@EVERY
def test_protocols(name: str) -> None:
    policy = policy_of(name)
    assert isinstance(policy, WindowPolicy)
    assert isinstance(policy, ConstrainedWindowPolicy)
    assert isinstance(policy, CatalogPolicy) == (name in CATALOG)


@EVERY
@METHODS
@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 7), st.booleans())
def test_places_equal_prefixes(name: str, method: str, seed: int, length: int, gaps: bool) -> None:
    policy, generator = policy_of(name), torch.Generator().manual_seed(seed)
    history = histories(4, length, ITEMS, seed)
    if gaps and name in CAUSAL:
        history = history * (torch.rand(history.shape, generator=generator) < 0.8)
        history[:, 0] = 1
    places = random_places(history, 9, seed)
    items = torch.randint(0, ITEMS + 1, (9, 4), generator=generator)
    found, expected = getattr(policy, method)(history, places, items), one_by_one(policy, method, history, places, items)
    assert torch.equal(found == -torch.inf, (items == 0).unsqueeze(-1).expand_as(found))
    torch.testing.assert_close(finite(found), finite(expected), atol=2e-5, rtol=1e-5)


@EVERY
@METHODS
def test_the_gradients_are_those_of_prefixes(name: str, method: str) -> None:
    policy, history = policy_of(name), histories(3, 5, ITEMS)
    places = random_places(history, 8, seed=1)
    items = torch.randint(1, ITEMS + 1, (8, 3), generator=torch.Generator().manual_seed(2))
    weights = torch.rand(8, 3, 1, generator=torch.Generator().manual_seed(3))
    gradients = []
    for scores in (getattr(policy, method)(history, places, items), one_by_one(policy, method, history, places, items)):
        gradients.append(
            torch.autograd.grad((weights * scores).mean(), list(policy.parameters()), allow_unused=True, materialize_grads=True)
        )
    assert any(bool(each.any()) for each in gradients[0])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_place_sees_no_later_item(name: str) -> None:
    policy, history = policy_of(name), torch.tensor([[3, 7, 9, 11]])
    places, items = torch.tensor([[0, 1]]), torch.tensor([[5, 6]])
    changed = torch.tensor([[3, 7, 1, 2]])
    torch.testing.assert_close(
        policy.place_level_log_prob(changed, places, items), policy.place_level_log_prob(history, places, items), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("name", ["tiger-causal", "tiger-causal-items", "tiger"])
def test_rows_of_different_width_keep_their_order_in_groups(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros at the end of a row of candidates are scored -inf, and groups of three rows give the same values as one."""
    policy, history = policy_of(name), histories(4, 6, ITEMS)
    places = random_places(history, 10, seed=4)
    items = torch.randint(1, ITEMS + 1, (10, 5), generator=torch.Generator().manual_seed(5))
    items = items.masked_fill(torch.arange(5) >= torch.tensor([1, 5, 0, 3, 1, 2, 5, 1, 4, 1])[:, None], 0)
    whole = policy.place_level_log_prob(history, places, items)
    monkeypatch.setattr(row_groups, "GROUP_SIZE", 3)
    grouped = policy.place_level_log_prob(history, places, items)
    assert torch.equal(whole == -torch.inf, (items == 0).unsqueeze(-1).expand_as(whole))
    torch.testing.assert_close(finite(grouped), finite(whole), atol=1e-5, rtol=1e-5)


def test_groups_are_as_wide_as_their_widest_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "GROUP_SIZE", 2)
    history = torch.tensor([[1, 1, 1], [0, 0, 1], [0, 1, 1], [0, 0, 0]])
    items = torch.tensor([[1, 0, 2], [1, 0, 0], [2, 0, 0], [1, 2, 3]])
    groups = row_groups.candidate_groups(history, items)
    assert [(rows.tolist(), longest, width) for rows, longest, width in groups] == [([1, 2], 2, 1), ([3, 0], 3, 3)]


def test_the_rank_in_a_group_counts_earlier_entries() -> None:
    assert rank_in_group(torch.tensor([2, 0, 2, 2, 0])).tolist() == [0, 0, 1, 2, 1]


@pytest.mark.parametrize("name", CATALOG)
def test_the_catalog_equals_every_item_of_every_prefix(name: str) -> None:
    policy, history = policy_of(name), histories(4, 6, ITEMS)
    places = random_places(history, 12, seed=6)
    every = torch.arange(1, ITEMS + 1).expand(12, -1)
    found = policy.catalog_log_prob(history, places)
    expected = policy.log_prob(prefixes(history, places), every)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(12))


@pytest.mark.parametrize("name", ITEM_POLICIES)
def test_the_last_places_are_the_whole_histories_bit_for_bit(name: str) -> None:
    """Alignments on prefixes keep their results: candidates gathered from the catalog equal `level_log_prob`, with its gradients."""
    policy, history = policy_of(name), histories(6, 8, ITEMS)
    items = torch.randint(1, ITEMS + 1, (6, 4), generator=torch.Generator().manual_seed(7))
    gathered = policy.catalog_log_prob(history, last_places(history)).gather(1, items - 1).unsqueeze(-1)
    direct = policy.level_log_prob(history, items)
    assert torch.equal(gathered, direct)
    parameters = list(policy.parameters())
    both = [torch.autograd.grad(each.sum(), parameters, allow_unused=True, materialize_grads=True) for each in (gathered, direct)]
    assert all(torch.equal(*pair) for pair in zip(*both, strict=True))


@pytest.mark.parametrize("name", ITEM_POLICIES)
def test_many_places_are_scored_in_chunks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, history = policy_of(name), histories(4, 6, ITEMS)
    places, items = random_places(history, 12, seed=8), torch.arange(1, 25).view(12, 2)
    whole = policy.place_level_log_prob(history, places, items)
    monkeypatch.setattr(item_policy_module, "MAX_LOGITS", 2 * (ITEMS + 1))  # two rows at once
    torch.testing.assert_close(policy.place_level_log_prob(history, places, items), whole, atol=1e-6, rtol=1e-6)


@EVERY
def test_bf16_autocast_is_near(name: str) -> None:
    policy, history = policy_of(name), histories(4, 6, ITEMS)
    places, items = random_places(history, 9, seed=9), torch.arange(1, 19).view(9, 2)
    exact = policy.place_level_log_prob(history, places, items)
    with torch.autocast("cpu", torch.bfloat16):
        rough = policy.place_level_log_prob(history, places, items)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.1, rtol=0)
