"""TIGER with a softmax over the codes that lead to a real item, in training and in decoding.

The conformance tests of all policies include it (`POLICIES["tiger-catalog"]`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from policies import POLICIES, build, catalog, histories

from genrec.errors import UsageError
from genrec.model import Liger, Tiger
from genrec.model.unconstrained_sampling import greedy_items, unconstrained_statistics
from genrec.preference.candidates.row_scores import check_scores_codes

ITEMS = 50
CATALOG = POLICIES["tiger-catalog"]
CODES = replace(CATALOG, normalization="codes")


def pair() -> tuple[Any, Any]:
    """Return policies of the same weights with both likelihoods."""
    over_catalog, over_codes = build(CATALOG, catalog(ITEMS)), build(CODES, catalog(ITEMS), seed=1)
    over_codes.load_state_dict(over_catalog.state_dict())
    return over_catalog, over_codes


def test_the_likelihood_is_the_constrained_one_of_the_same_weights_with_its_gradient() -> None:
    (over_catalog, over_codes), history = pair(), histories(4, 6, ITEMS)
    items = torch.arange(1, ITEMS + 1).expand(4, ITEMS)
    mine, theirs = over_catalog.level_log_prob(history, items), over_codes.constrained_level_log_prob(history, items)
    assert torch.equal(mine, theirs)
    for own, other in zip(
        torch.autograd.grad(mine[:, ::7].sum(), list(over_catalog.parameters())),
        torch.autograd.grad(theirs[:, ::7].sum(), list(over_codes.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("padded", [True, False])
def test_the_targets_of_windows_have_the_likelihood_of_their_prefixes(padded: bool) -> None:
    """With padding the windows are packed on a CPU; without it they are not."""
    policy, history = pair()[0], torch.randint(1, ITEMS + 1, (3, 6), generator=torch.Generator().manual_seed(0))
    if padded:
        history[:, :2] = 0
    targets = torch.where(history > 0, history.flip(1).clamp(min=1), 0)
    found = policy.sequence_log_prob(history, targets)
    for row, column in (history > 0).nonzero().tolist():
        expected = policy.level_log_prob(history[row : row + 1, : column + 1], targets[row : row + 1, column : column + 1])
        torch.testing.assert_close(found[row, column], expected[0, 0], atol=1e-5, rtol=1e-5)


def test_exact_lists_and_beams_rank_by_this_likelihood_and_differ_from_the_other() -> None:
    (over_catalog, over_codes), history = pair(), histories(8, 6, ITEMS)
    scores = over_catalog.log_prob(history, torch.arange(1, ITEMS + 1).expand(8, ITEMS))
    expected = scores.argsort(dim=1, descending=True)[:, :10] + 1
    assert torch.equal(over_catalog.recommend_exactly(history, 10).items, expected)
    assert torch.equal(over_catalog.recommend(history, 10).items, expected)  # as many beams as items
    assert not torch.equal(over_codes.recommend_exactly(history, 10).items, expected)


def test_every_generated_semantic_id_is_an_item() -> None:
    policy, history = pair()[0], histories(8, 6, ITEMS)
    assert (greedy_items(policy, history) > 0).all()
    found = unconstrained_statistics(policy, policy, history, 50, torch.Generator().manual_seed(0))
    assert found["valid_share"] == 1.0
    assert found["kl"] == 0.0


def test_code_sequences_of_no_item_have_the_probability_0_and_are_no_candidates() -> None:
    policy, history, places = pair()[0], histories(2, 6, ITEMS), torch.tensor([[0, 5], [1, 5]])
    real = policy.semantic_ids.codes[:3]
    unreal = next(each for each in torch.cartesian_prod(*map(torch.arange, (5, 4, 6))) if policy.semantic_ids.lookup(each) == 0)
    codes = torch.cat([real, unreal[None], torch.full((1, 3), -1)]).expand(2, 5, 3)
    found = policy.code_level_log_prob(history, places, codes)
    torch.testing.assert_close(found[:, :3], policy.level_log_prob(history, torch.arange(1, 4).expand(2, 3)))
    assert (found[:, 3:] == -torch.inf).all()
    with pytest.raises(UsageError, match=r"policy\.normalization 'catalog' gives .* but InvalidIds compares theirs; set policy\.norm"):
        check_scores_codes(policy, "codes", "InvalidIds")


def test_it_is_refused_inside_liger_and_by_another_name() -> None:
    with pytest.raises(UsageError, match=r"policy\.tiger\.normalization 'catalog'; leave it out, or choose Tiger"):
        Liger(tiger=Tiger(normalization="catalog"))
    with pytest.raises(UsageError, match=r"policy\.normalization must be one of 'codes', 'catalog', got 'items'"):
        Tiger(normalization="items")  # type: ignore[arg-type]
