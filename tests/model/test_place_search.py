"""Lists and samples after any place of a history equal those of every prefix alone, and a causal policy encodes histories once."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import POLICIES, build, catalog
from proposals import random_windows, rows_of_windows
from torch import Tensor

from genrec.preference.candidates.row_scores import scores_of
from genrec.testing import ContractError
from genrec.testing.window_checks import check_windows
from genrec.types import PlaceSearchPolicy

ITEMS = 30
EVERY = pytest.mark.parametrize("name", sorted(POLICIES))
CAUSAL = ["tiger-causal", "tiger-causal-items", "gpt"]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encoder_of(policy: Any) -> str:
    return "_encode" if hasattr(policy, "_encode") else "encode"


@EVERY
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 999), gaps=st.booleans(), filtered=st.booleans())
def test_lists_and_samples_are_those_of_the_prefixes(name: str, seed: int, gaps: bool, filtered: bool) -> None:
    policy, batch = build(POLICIES[name], catalog(ITEMS, seed % 3)), random_windows(ITEMS, seed, gaps=gaps)
    assert isinstance(policy, PlaceSearchPolicy)
    places, rows = rows_of_windows(batch)
    order = torch.randperm(len(places), generator=generator(seed)).repeat(2)  # in any order, and with repetitions
    places, history = places[order], rows.history[order]
    exclude = history if filtered else None
    found, expected = policy.recommend_after(batch.history, places, 12, exclude), policy.recommend(history, 12, exclude)
    assert torch.equal(found.items, expected.items)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=1e-5)
    drawn = policy.sample_items_after(batch.history, places, 7, exclude, generator(seed))
    of_prefixes = policy.sample_items(history, 7, exclude, generator(seed))
    assert torch.equal(drawn.items, of_prefixes.items)
    for mine, theirs in zip(drawn[1:], of_prefixes[1:], strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", CAUSAL)
def test_row_scores_of_windows_encode_each_window_once(name: str) -> None:
    """Lists and samples encode a batch of 4 windows, not of as many prefixes as there are rows."""
    policy, batch = build(POLICIES[name], catalog(ITEMS)), random_windows(ITEMS, 2)
    places, rows = rows_of_windows(batch)
    assert len(places) > 4
    encoder = encoder_of(policy)
    encoded: list[Tensor] = []
    original = getattr(policy, encoder)

    def recording(history: Tensor, *others: Any, **named: Any) -> Any:
        encoded.append(history)
        return original(history, *others, **named)

    scores, alone = scores_of(policy, batch, places, rows, "codes"), scores_of(policy, rows, None, rows, "codes")
    with mock.patch.object(policy, encoder, recording):
        listed, drawn = scores.top(8), scores.sample(8, None, generator(1))
    assert [len(each) for each in encoded] == [4, 4]
    assert torch.equal(listed.items, alone.top(8).items)
    assert torch.equal(drawn.items, alone.sample(8, None, generator(1)).items)


def test_wrong_searches_after_places_are_found() -> None:
    policy = build(POLICIES["gpt"], catalog(ITEMS))
    history, semantic_ids = torch.tensor([[0, 3, 9, 4], [7, 1, 8, 2]]), policy.semantic_ids
    check_windows("Policy", policy, history, semantic_ids)
    right, draw = policy.recommend_after, policy.sample_items_after
    policy.recommend_after = lambda history, places, n, exclude: right(history, places.flip(0), n, exclude)
    with pytest.raises(ContractError, match="recommend_after is not recommend of every prefix"):
        check_windows("Policy", policy, history, semantic_ids)
    policy.recommend_after = right
    policy.sample_items_after = lambda history, places, n, exclude, source: draw(history, places, n, exclude, source.manual_seed(1))
    with pytest.raises(ContractError, match="sample_items_after does not draw as sample_items"):
        check_windows("Policy", policy, history, semantic_ids)
