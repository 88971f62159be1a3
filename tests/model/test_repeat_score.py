"""A learned score for the items of the history: by its definition, with its gradient, and learned where users do or do not return."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import build, catalog, histories, value_and_gradients
from proposals import one_level
from torch import Tensor

from genrec.baselines import GBCE, SampledSoftmax, SASRec, item_policy
from genrec.errors import UsageError
from genrec.item_rows import last_places
from genrec.model import RPG, digit_sums, parallel
from genrec.repeat_score import SCALE, RepeatScore, items_so_far

ITEMS = 30
SMALL = {"d_model": 16, "d_ff": 32, "num_heads": 2, "repeat_score": True}
SPECIFICATIONS: dict[str, Any] = {
    "rpg": RPG(**SMALL, temperature=0.3),
    "rpg-items": RPG(**SMALL, temperature=0.3, item_embedding=True),
    "sasrec": SASRec(**SMALL),
}
EVERY = pytest.mark.parametrize("name", SPECIFICATIONS)


def policy_of(name: str, value: float, seed: int = 0) -> Any:
    policy = build(SPECIFICATIONS[name], one_level(ITEMS) if name == "sasrec" else catalog(ITEMS, seed), seed)
    return with_value(policy, value)


def with_value(policy: Any, value: float) -> Any:
    with torch.no_grad():
        policy.repeat_score.weight.fill_(value / SCALE)
    return policy


def every_item(rows: int) -> Tensor:
    return torch.arange(1, ITEMS + 1).expand(rows, -1)


def by_definition(name: str, value: float, history: Tensor, seed: int = 0) -> Tensor:
    """Return log p of all items, float32 [B, N]: a softmax of the scores without the number, and the number for items of the row."""
    scores = policy_of(name, 0.0, seed).log_prob(history, every_item(len(history)))
    seen = torch.tensor([[item in row for item in range(1, ITEMS + 1)] for row in history.tolist()])
    result: Tensor = (scores + value * seen).log_softmax(1)
    return result


def test_items_of_a_history_by_hand() -> None:
    history = torch.tensor([[0, 5, 2, 5, 7]])
    places = torch.tensor([[0, 4], [0, 2], [0, 0], [0, 3]])
    found = [sorted(row) for row in items_so_far(history, places).tolist()]
    assert found == [[0, 0, 2, 5, 7], [0, 0, 0, 2, 5], [0, 0, 0, 0, 0], [0, 0, 0, 2, 5]]


def test_copies_of_a_sequence_are_other_histories() -> None:
    """A window of RepPad holds the sequence 1 2 3 4 twice: the targets 2, 3, 4 of the second copy are not in its history so far."""
    history = torch.tensor([[3, 4, 0, 1, 2, 3, 4]])
    places = torch.tensor([[0, place] for place in range(7)])
    found = [sorted(set(row) - {0}) for row in items_so_far(history, places).tolist()]
    assert found == [[3], [3, 4], [], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]


def test_probabilities_by_hand() -> None:
    """Three items with probabilities .5, .25, .25; the first was seen and gets log(1/2) more: .25 / .75 = 1/3 each."""
    score = RepeatScore()
    with torch.no_grad():
        score.weight.fill_(math.log(0.5) / SCALE)
    logits, seen = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0, 1]])
    torch.testing.assert_close(score.added(logits, seen).softmax(1), torch.full((1, 3), 1 / 3))
    seen_scores = torch.tensor([[-torch.inf, math.log(0.5)]])
    torch.testing.assert_close(score.log_normalizer(logits.logsumexp(1), seen_scores), torch.tensor([math.log(0.75)]))


@EVERY
@given(value=st.floats(-20, 8), seed=st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_all_scores_by_their_definition(name: str, value: float, seed: int) -> None:
    policy, history = policy_of(name, value, seed), histories(4, 6, ITEMS, seed)
    history[0, -1] = history[0, -2]  # an item twice counts once
    expected, places = by_definition(name, value, history, seed), last_places(history)
    close = {"atol": 2e-4, "rtol": 1e-4}
    torch.testing.assert_close(policy.log_prob(history, every_item(4)), expected, **close)
    torch.testing.assert_close(policy.catalog_log_prob(history, places), expected, **close)
    torch.testing.assert_close(policy.place_level_log_prob(history, places, every_item(4)).squeeze(-1), expected, **close)
    listed = policy.recommend(history, ITEMS)
    torch.testing.assert_close(listed.scores, expected.gather(1, listed.items - 1), **close)
    targets = torch.randint(1, ITEMS + 1, history.shape, generator=torch.Generator().manual_seed(seed))
    for place in range(history.shape[1]):
        found = policy.sequence_log_prob(history, targets)[:, place, 0]
        each = by_definition(name, value, history[:, : place + 1], seed).gather(1, targets[:, place : place + 1] - 1)[:, 0]
        torch.testing.assert_close(found, each, **close)


@EVERY
def test_the_gradient_is_one_minus_the_probability_of_the_history(name: str) -> None:
    """d log p(item) / d value = 1 if the item was seen, else 0, minus the probability of all seen items."""
    policy, history = policy_of(name, -0.7), histories(1, 6, ITEMS)
    log_probs = policy.log_prob(history, every_item(1))[0]
    seen = torch.isin(torch.arange(1, ITEMS + 1), history)
    share = log_probs.exp()[seen].sum()
    for item in range(0, ITEMS, 5):
        (gradient,) = torch.autograd.grad(log_probs[item], policy.repeat_score.weight, retain_graph=True)
        torch.testing.assert_close(gradient, SCALE * (seen[item].float() - share).detach()[None], atol=1e-4, rtol=1e-4)


@EVERY
def test_nothing_changes_at_the_start(name: str) -> None:
    policy, history = policy_of(name, 0.0), histories(4, 6, ITEMS)
    with_score = policy.log_prob(history, every_item(4))
    policy.repeat_score = None
    torch.testing.assert_close(policy.log_prob(history, every_item(4)), with_score)


@pytest.mark.parametrize("name", ["rpg", "rpg-items"])
def test_blocks_of_items_give_the_same_list(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    history = histories(4, 6, ITEMS)
    whole = policy_of(name, -3.0).recommend(history, 10)
    monkeypatch.setattr(digit_sums, "ITEMS_OF_BLOCK", 7)
    policy = policy_of(name, -3.0)
    assert len(policy.network.digits.blocks) == 5
    found = policy.recommend(history, 10)
    assert torch.equal(found.items, whole.items)
    torch.testing.assert_close(found.scores, whole.scores)


@EVERY
def test_chunks_of_places_give_the_same_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, history = policy_of(name, -1.0), histories(4, 6, ITEMS)
    gradients = []
    for cells in (2**25, 60):
        monkeypatch.setattr(parallel, "MAX_SCORES", cells)
        monkeypatch.setattr(item_policy, "MAX_LOGITS", cells)
        gradients.append(value_and_gradients(policy, history, ITEMS))
    for whole, chunks in zip(*gradients, strict=True):
        torch.testing.assert_close(chunks, whole, atol=1e-6, rtol=1e-4)


@EVERY
def test_a_history_with_nearly_all_of_the_probability_has_finite_gradients(name: str) -> None:
    policy, history = with_value(policy_of(name, 0.0), -60.0), every_item(1)[:, :-1]
    loss = -policy.log_prob(history, torch.tensor([[ITEMS, 3, 0]]))[:, :2].sum()
    gradients = torch.autograd.grad(loss, list(policy.parameters()))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@EVERY
@pytest.mark.parametrize("returns", [False, True])
def test_training_learns_whether_users_return(name: str, returns: bool) -> None:
    """Random histories: the next item is one of the history, or never one. Nothing else can be learned of unseen rows."""
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(ITEMS, generator=generator) for _ in range(256)]) + 1
    history = orders[:, :5]
    target = history.gather(1, torch.randint(5, (256, 1), generator=generator)) if returns else orders[:, 5:6]
    policy = policy_of(name, 0.0)
    policy.train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=5e-3)
    for step in range(120):
        rows = slice(step % 4 * 48, step % 4 * 48 + 48)  # the last 64 rows are not trained on
        optimizer.zero_grad()
        (-policy.log_prob(history[rows], target[rows]).mean()).backward()
        optimizer.step()
    policy.eval()
    value, listed = policy.repeat_score.value().item(), policy.recommend(history[192:], 5).items
    seen = (listed.unsqueeze(2) == history[192:].unsqueeze(1)).any(2).float().mean()
    assert value > 1.5 if returns else value < -1.5
    assert seen > 0.7 if returns else seen < 0.05, (value, seen)  # by chance a sixth


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RPG(repeat_score=True, normalization="digits"),
            r"policy\.repeat_score scores whole items.*set normalization catalog",
        ),
        (
            lambda: RPG(repeat_score=True, loss=SampledSoftmax()),
            r"policy\.repeat_score is learned by the softmax.*set policy\.loss None",
        ),
        (lambda: SASRec(repeat_score=True, loss=GBCE()), r"policy\.repeat_score is learned by the softmax.*set policy\.loss None"),
    ],
)
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
