"""The policy in training on the rows of a batch: one forward pass for windows, exact or beam lists, ranks, modes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from policies import POLICIES, build, catalog, histories
from proposals import TablePolicy, random_windows, rows_of, rows_of_windows, sasrec
from torch import Tensor

from genrec.item_rows import best_items
from genrec.preference.candidates.policy_scores import CatalogScores, beams
from genrec.preference.candidates.row_scores import scores_of, scores_without_gradient
from genrec.types import RowScores, SequenceBatch

ITEMS = 30
NAMES = [*POLICIES, "sasrec"]
NORMALIZE = pytest.mark.parametrize("normalize", ["codes", "children"])


class LevelsOnly(torch.nn.Module):
    """A policy with the methods of `Policy` alone, for the fallback."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.inner = policy
        self.level_log_prob, self.log_prob, self.recommend = policy.level_log_prob, policy.log_prob, policy.recommend
        self.constrained_level_log_prob = policy.constrained_level_log_prob


def policy_of(name: str) -> Any:
    return sasrec(ITEMS) if name == "sasrec" else build(POLICIES[name], catalog(ITEMS))


def finite(log_probs: Tensor) -> Tensor:
    return log_probs.masked_fill(log_probs == -torch.inf, 1.0)


@pytest.mark.parametrize("name", NAMES)
@NORMALIZE
@settings(max_examples=4, deadline=None)
@example(23)
@given(st.integers(0, 1000))
def test_windows_equal_prefixes_with_their_gradients(name: str, normalize: Any, seed: int) -> None:
    """The rows of windows, the same rows as prefixes, and a policy without capabilities give one result.

    Gradients are compared in float64: in float32 the sums of two ways may differ in the sign of an input of a ReLU, as with seed 23.
    """
    policy, batch = policy_of(name), random_windows(ITEMS, seed)
    places, rows = rows_of_windows(batch)
    items = torch.randint(0, ITEMS + 1, (len(places), 4), generator=torch.Generator().manual_seed(seed))
    items[:, 0] = rows.target

    def levels() -> list[Tensor]:
        ways = (
            scores_of(policy, batch, places, rows, normalize),
            scores_of(policy, rows, None, rows, normalize),
            scores_of(LevelsOnly(policy), batch, places, rows, normalize),
        )
        return [scores.level_log_prob(items) for scores in ways]

    found = [finite(each) for each in levels()]
    policy.double()
    gradients = [gradients_of(policy, each) for each in levels()]
    for other, its_gradients in zip(found[1:], gradients[1:], strict=True):
        torch.testing.assert_close(found[0], other, atol=2e-5, rtol=1e-5)
        for mine, theirs in zip(gradients[0], its_gradients, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-3)


def gradients_of(policy: Any, levels: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of the mean of level log-probabilities in the weights."""
    loss = levels.masked_fill(levels == -torch.inf, 0.0).mean()
    return torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True, materialize_grads=True)


def test_the_normalizations_differ() -> None:
    policy, batch = policy_of("tiger-causal"), random_windows(ITEMS, 0)
    places, rows = rows_of_windows(batch)
    items = rows.target.unsqueeze(1)
    codes, children = (scores_of(policy, batch, places, rows, each).level_log_prob(items) for each in ("codes", "children"))
    assert (children.sum(-1) > codes.sum(-1) + 1e-3).all()


def brute_force_order(scores: Tensor) -> Tensor:
    """Return all items of each row, best first, equal scores by id."""
    return scores.argsort(dim=1, descending=True, stable=True) + 1


TIED = st.integers(1, 4).flatmap(
    lambda rows: st.integers(1, 12).flatmap(
        lambda items: st.lists(st.lists(st.integers(-2, 2), min_size=items, max_size=items), min_size=rows, max_size=rows)
    )
)


@given(TIED, st.integers(1, 15), st.lists(st.integers(0, 12), max_size=4))
def test_lists_and_ranks_equal_brute_force_with_ties_by_item_id(values: list[list[int]], n: int, left_out: list[int]) -> None:
    scores = torch.tensor(values, dtype=torch.float32)
    count = scores.shape[1]
    exclude = torch.tensor([[item for item in left_out if item <= count]] * len(values), dtype=torch.int64)
    order = brute_force_order(scores)
    ranking = CatalogScores(scores).top(n, exclude)
    for row, listed in enumerate(order.tolist()):
        expected = [item for item in listed if item not in exclude[row].tolist()][:n]
        assert ranking.items[row].tolist() == expected + [0] * (n - len(expected))
        assert ranking.scores[row, : len(expected)].tolist() == [scores[row, item - 1].item() for item in expected]
        assert (ranking.scores[row, len(expected) :] == -torch.inf).all()
    every = torch.arange(1, count + 1).expand(len(values), -1)
    ranks = CatalogScores(scores).rank(every)
    assert torch.equal(order, every.gather(1, ranks.argsort(1)))
    assert torch.equal(ranks.sort(1).values, every - 1)


def test_item_0_ranks_after_all_items() -> None:
    assert CatalogScores(torch.tensor([[0.5, 0.1, 0.9]])).rank(torch.tensor([[3, 0, 2]])).tolist() == [[0, 3, 2]]


def test_a_nan_score_makes_the_list_nan() -> None:
    scores = torch.tensor([[0.1, torch.nan, 0.3, 0.2], [0.1, 0.4, 0.3, 0.2]])
    ranking = best_items(scores, 2)
    assert ranking.scores[0].isnan().all()
    assert ranking.items[1].tolist() == [2, 3]


@given(st.integers(0, 100))
def test_permuting_the_items_permutes_lists_and_ranks(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores, order = torch.randn(3, 9, generator=generator), torch.randperm(9, generator=generator)
    plain, permuted = CatalogScores(scores), CatalogScores(scores[:, order])
    assert torch.equal(order[permuted.top(4).items - 1] + 1, plain.top(4).items)
    every = torch.arange(1, 10).expand(3, -1)
    assert torch.equal(permuted.rank(every), plain.rank(order.expand(3, -1) + 1))


@pytest.mark.parametrize("name", ["tiger", "tiger-causal", "gpt"])
def test_beams_are_the_policys_list_and_have_no_rank(name: str) -> None:
    policy, history = policy_of(name), histories(3, 5, ITEMS)
    rows = SequenceBatch(torch.arange(3), history, history[:, -1])
    scores: RowScores = scores_of(policy, rows, None, rows, "codes")
    exclude = torch.tensor([[5, 0], [0, 0], [7, 8]])
    found, expected = scores.top(6, exclude), policy.recommend(history, 6, exclude)
    assert torch.equal(found.items, expected.items)
    assert torch.equal(found.scores, expected.scores)
    assert not found.scores.requires_grad
    assert scores.rank(history) is None


def test_lists_of_windows_equal_those_of_prefixes() -> None:
    for name in ("tiger-causal", "sasrec"):
        policy, batch = policy_of(name), random_windows(ITEMS, 5)
        places, rows = rows_of_windows(batch)
        windows, prefixes = (scores_of(policy, *each, rows, "codes") for each in ((batch, places), (rows, None)))
        torch.testing.assert_close(windows.top(5).scores, prefixes.top(5).scores, atol=1e-5, rtol=1e-5)
        assert torch.equal(windows.top(5).items, prefixes.top(5).items)
        torch.testing.assert_close(windows.top(5).scores, policy.log_prob(rows.history, windows.top(5).items), atol=1e-4, rtol=1e-4)


class CountedPasses(TablePolicy):
    passes = 0

    def catalog_log_prob(self, history: Tensor, places: Tensor) -> Tensor:
        self.passes += 1
        return super().catalog_log_prob(history, places)


def test_an_exact_policy_is_scored_once_and_keeps_the_gradient_after_lists_without_one() -> None:
    policy = CountedPasses(torch.randn(5, 5))
    rows = rows_of([[1], [2]], [3, 4])
    scores = scores_of(policy, rows, None, rows, "codes")
    listed = scores.top(2)
    assert scores.rank(rows.target.unsqueeze(1)) is not None
    levels = scores.level_log_prob(listed.items)
    assert policy.passes == 1
    assert not listed.scores.requires_grad
    assert torch.equal(levels.detach().squeeze(-1), listed.scores)
    levels.sum().backward()
    assert policy.table.grad is not None
    with torch.no_grad():
        frozen = scores_of(policy, rows, None, rows, "codes")
    assert not frozen.level_log_prob(listed.items).requires_grad


def test_with_dropout_an_exact_list_and_the_scores_are_one_forward_pass() -> None:
    policy = sasrec(ITEMS, dropout=0.5).train()
    batch = random_windows(ITEMS, 3)
    places, rows = rows_of_windows(batch)
    scores = scores_of(policy, batch, places, rows, "codes")
    listed = scores.top(4)
    assert torch.equal(scores.level_log_prob(listed.items).squeeze(-1), listed.scores)
    assert not torch.equal(scores_of(policy, batch, places, rows, "codes").top(4).scores, listed.scores)


def test_beams_run_in_evaluation_mode_and_every_module_gets_its_mode_back() -> None:
    policy = policy_of("tiger-causal").train()
    policy.decoder.eval()
    modes = {name: each.training for name, each in policy.named_modules()}
    history = histories(3, 5, ITEMS)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    found = beams(policy, history, 4, None)
    assert {name: each.training for name, each in policy.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), state)  # no dropout was drawn
    assert torch.equal(found.items, policy.eval().recommend(history, 4).items)


def test_modes_are_restored_after_an_error() -> None:
    policy = policy_of("tiger").train()
    with pytest.raises(Exception, match="a list of 99 items needs at least 99 beams"):
        beams(policy, histories(2, 3, ITEMS), 99, None)
    assert all(module.training for module in policy.modules())


def test_frozen_scores_equal_those_of_the_policy_on_rows_without_a_gradient() -> None:
    for name in ("tiger", "sasrec"):
        policy, history = policy_of(name), histories(3, 5, ITEMS)
        rows = SequenceBatch(torch.arange(3), history, history[:, -1])
        frozen, live = scores_without_gradient(policy, rows, "children"), scores_of(policy, rows, None, rows, "children")
        items = torch.tensor([[1, 2], [3, 0], [5, 6]])
        assert torch.equal(frozen.level_log_prob(items), live.level_log_prob(items).detach())
        assert not frozen.level_log_prob(items).requires_grad
        assert torch.equal(frozen.top(3).items, live.top(3).items)
        ranks = frozen.rank(items), live.rank(items)
        assert (ranks[0] is None) == (ranks[1] is None) == (name == "tiger")
