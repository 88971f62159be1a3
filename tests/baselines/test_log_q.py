"""The correction of sampled softmax scores for the sampling (logQ): by hand, by enumeration, and by what it trains."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genrec.baselines import GRU4Rec, SampledSoftmax, SASRec, item_policy
from genrec.errors import UsageError
from genrec.model import RPG, parallel
from genrec.sampled_item_loss import mean_item_loss, sampled_candidates
from genrec.semantic_ids import SemanticIds
from genrec.store import describe
from genrec.training.sft import build_policy
from genrec.types import ItemLoss

HISTORY, TARGET = torch.tensor([[0, 3, 4, 5], [7, 8, 9, 1]]), torch.tensor([[0, 0, 5, 6], [8, 9, 1, 2]])
ITEMS = SemanticIds(torch.arange(40).unsqueeze(1), (40,))
DIGITS = SemanticIds(torch.tensor(list(product(range(8), range(5)))), (8, 5))
POLICIES: dict[str, tuple[Any, SemanticIds]] = {
    "sasrec": (SASRec(d_model=8, d_ff=8, num_layers=1, dropout=0.0, max_positions=8), ITEMS),
    "gru4rec": (GRU4Rec(d_model=8, hidden_size=8, dropout=0.0), ITEMS),
    "rpg": (RPG(d_model=8, d_ff=8, num_layers=1, num_heads=2, dropout=0.0), DIGITS),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def policy_of(name: str, loss: SampledSoftmax) -> Any:
    specification, semantic_ids = POLICIES[name]
    return build_policy(replace(specification, loss=loss), semantic_ids, seed=1).eval()


def inclusion(loss: SampledSoftmax, targets: Tensor, num_items: int) -> Tensor:
    """Return pi of items 0..N for every target, float32 [C, N + 1]."""
    found = loss.log_inclusion(targets, torch.arange(num_items + 1).expand(len(targets), -1), num_items)
    assert found is not None
    return found.exp()


def test_probabilities_by_hand() -> None:
    """Two uniform negatives of 4 other items and two places of a batch of 4 with the targets 3, 3, 1, 2.

    pi(3) = 1 - (3/4)^2 (1 - 2/4)^2 = 0.859375; pi(1) = 1 - (3/4)^2 (1 - 1/4)^2 = 0.68359375; pi(4) = 1 - (3/4)^2 = 0.4375. The place's
    own target counts at the other places alone: pi(3) of the first place is 0.68359375, pi(1) of the third is 0.4375.
    """
    found = inclusion(SampledSoftmax(4, in_batch=0.5, log_q=True), torch.tensor([3, 3, 1, 2]), 5)
    assert found[0, 1:].tolist() == pytest.approx([0.68359375, 0.68359375, 0.68359375, 0.4375, 0.4375])
    assert found[2, 1:].tolist() == pytest.approx([0.4375, 0.68359375, 0.859375, 0.4375, 0.4375])


def test_the_other_of_two_items_is_always_drawn_and_the_only_target_of_a_batch_never_by_its_own_place() -> None:
    assert inclusion(SampledSoftmax(3, log_q=True), torch.tensor([1, 2]), 2).tolist() == [[1.0] * 3] * 2
    found = inclusion(SampledSoftmax(2, in_batch=0.5, log_q=True), torch.tensor([4]), 5)
    assert found[0, 1:].tolist() == pytest.approx([0.25] * 5)


def test_the_sum_over_other_items_is_estimated_without_bias() -> None:
    """All 3 x 3 x 3 draws for the target 1 of the batch 1, 2, 2 of 4 items: two uniform negatives and one place of the batch.

    An own hit is 0 and adds nothing. The mean over draws of the sum over distinct negatives of exp(s) / pi is the sum over items 2..4.
    """
    weights = torch.tensor([0.0, 0.7, 2.0, 0.1, 5.0], dtype=torch.float64)  # exp(s) of items; 0 is none
    pi = inclusion(SampledSoftmax(3, in_batch=0.34, log_q=True), torch.tensor([1, 2, 2]), 4)[0].double()
    sums = [
        sum((weights[item] / pi[item]).item() for item in {first, second, (0, 2, 2)[place]})
        for first, second, place in product((2, 3, 4), (2, 3, 4), range(3))
    ]
    assert sum(sums) / len(sums) == pytest.approx(weights[2:].sum().item(), rel=1e-6)


def test_a_corrected_loss_by_hand() -> None:
    """Target 1 of 3 items, three uniform negatives: pi = 1 - (1/2)^3 = 7/8 for all, and repeated negatives count once.

    Scores 0, ln 2, ln 3 of items 1, 2, 3: -ln(1 / (1 + 2 + 3)) if both others are drawn, and ln 3 or ln 4 if one is.
    """
    targets, table = torch.ones(200, dtype=torch.int64), torch.tensor([-math.inf, 0.0, math.log(2), math.log(3)])
    loss = SampledSoftmax(3, log_q=True)
    candidates, log_pi = sampled_candidates(loss, targets, 3, seeded())
    assert log_pi is not None
    torch.testing.assert_close(log_pi[:, 0].exp(), torch.full((200,), 7 / 8))
    distinct = [sorted(set(row) - {0}) for row in loss.draw_items(targets, 3, seeded()).tolist()]
    assert [sorted(item for item in row if item) for row in candidates[:, 1:].tolist()] == distinct
    assert {tuple(row) for row in distinct} == {(2,), (3,), (2, 3)}
    expected = sum(math.log(1 + sum(row)) for row in distinct) / 200
    found = mean_item_loss(loss, lambda _, items: table[items], lambda _: 7, torch.zeros(200, 1), targets, 3, seeded())
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("in_batch", [0.0, 0.5])
@pytest.mark.parametrize("name", POLICIES)
def test_many_negatives_give_the_likelihood_and_its_gradient(name: str, in_batch: float) -> None:
    """With 3,000 negatives all 40 items are drawn and pi is 1."""
    policy = policy_of(name, SampledSoftmax(3_000, in_batch, log_q=True))
    loss, likelihood = policy.sequence_loss(HISTORY, TARGET, seeded()), -policy.sequence_log_prob(HISTORY, TARGET)[TARGET > 0].mean()
    torch.testing.assert_close(loss, likelihood)
    parts = [torch.autograd.grad(each, list(policy.parameters()), allow_unused=True) for each in (loss, likelihood)]
    for one, other in zip(*parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", POLICIES)
def test_chunks_give_the_same_corrected_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(name, SampledSoftmax(6, in_batch=0.5, log_q=True))
    whole = policy.sequence_loss(HISTORY, TARGET, seeded())
    for module, limit in ((item_policy, "MAX_LOGITS"), (parallel, "MAX_SCORES")):
        monkeypatch.setattr(module, limit, 1)
    torch.testing.assert_close(policy.sequence_loss(HISTORY, TARGET, seeded()), whole)


@pytest.mark.parametrize("in_batch", [0.0, 0.5])
def test_without_log_q_scores_are_not_touched(in_batch: float) -> None:
    loss, targets = SampledSoftmax(40, in_batch), torch.arange(1, 9)
    candidates, log_pi = sampled_candidates(loss, targets, 9, seeded())
    assert log_pi is None
    assert torch.equal(candidates[:, 1:], loss.draw_items(targets, 9, seeded()))
    assert torch.equal(candidates[:, 1:], replace(loss, log_q=True).draw_items(targets, 9, seeded()))


@given(st.integers(2, 30), st.integers(1, 300), st.floats(0, 0.9), st.integers(1, 12), st.integers(0, 99))
def test_probabilities_are_those_of_the_definition(num_items: int, count: int, in_batch: float, batch: int, seed: int) -> None:
    loss, targets = SampledSoftmax(count, in_batch, log_q=True), torch.randint(1, num_items + 1, (batch,), generator=seeded(seed))
    mixed = int(in_batch * count)
    counts = targets[1:].bincount(minlength=num_items + 1).double()  # of the other places of the first
    expected = 1 - (1 - 1 / (num_items - 1)) ** (count - mixed) * (1 - counts / batch) ** mixed
    torch.testing.assert_close(inclusion(loss, targets, num_items)[0].double()[1:], expected[1:], atol=1e-6, rtol=1e-5)


def trained(loss: ItemLoss, log_p: Tensor) -> float:
    """Train a free score for every item of every history, and return the mean KL divergence in nats of the softmax from p."""
    histories, num_items = log_p.shape
    random, table = seeded(1), torch.zeros(histories, num_items, requires_grad=True)
    optimizer = torch.optim.Adam([table], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)

    def score_of(rows: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda _, items: table[rows.unsqueeze(1), (items - 1).clamp(min=0)].masked_fill(items == 0, -torch.inf)

    for _ in range(400):
        rows = torch.randint(histories, (128,), generator=random)
        targets = 1 + torch.multinomial(log_p[rows].exp(), 1, generator=random).squeeze(1)
        value = mean_item_loss(loss, score_of(rows), lambda _: 128, rows.unsqueeze(1), targets, num_items, random)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return (log_p.exp() * (log_p - table.detach().log_softmax(1))).sum(1).mean().item()


def skewed() -> Tensor:
    """Return log p of forty items of skewed popularity after two histories, float32 [2, 40]."""
    return (-torch.arange(1, 41).float().log() + 2 * torch.randn(2, 40, generator=seeded(3))).log_softmax(1)


@pytest.mark.parametrize(("num_negatives", "in_batch", "without"), [(16, 0.5, 0.08), (96, 0.0, 0.015)], ids=["mixed", "many"])
def test_the_softmax_of_trained_scores_is_p(num_negatives: int, in_batch: float, without: float) -> None:
    """Without log_q mixed negatives, and more negatives than items, give another softmax."""
    loss = SampledSoftmax(num_negatives, in_batch)
    assert trained(replace(loss, log_q=True), skewed()) < 0.01
    assert trained(loss, skewed()) > without


@dataclass(frozen=True)
class TargetAlone:
    """Four uniform negatives, with the correction of their scores but not of the target's."""

    loss: SampledSoftmax

    def draw_items(self, targets: Tensor, num_items: int, generator: torch.Generator) -> Tensor:
        return self.loss.draw_items(targets, num_items, generator)

    def item_loss(self, positive: Tensor, negatives: Tensor, num_items: int) -> Tensor:
        return self.loss.item_loss(positive, negatives, num_items)

    def log_inclusion(self, targets: Tensor, items: Tensor, num_items: int) -> Tensor | None:
        found = self.loss.log_inclusion(targets, items, num_items)
        return None if found is None else found.masked_fill(items == targets.unsqueeze(1), 0.0)


def test_the_target_must_be_corrected_too() -> None:
    """With few negatives the sum over all items is estimated so badly that its logarithm is far too low on average."""
    assert trained(SampledSoftmax(4, log_q=True), skewed()) < 0.01
    assert trained(TargetAlone(SampledSoftmax(4, log_q=True)), skewed()) > 0.1


def test_the_key_of_a_loss_without_log_q_stays() -> None:
    named = {"class": "genrec.baselines.item_losses:SampledSoftmax", "num_negatives": 256, "in_batch": 0.0}
    assert describe(SampledSoftmax(), Path()) == named
    assert describe(SampledSoftmax(log_q=True), Path()) == {**named, "log_q": True}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SampledSoftmax(8, 1.0, True),
            r"log_q needs a uniform negative, but in_batch 1\.0 makes all 8 .*in_batch below 1, such",
        ),
        (lambda: SampledSoftmax(log_q="no"), r"policy\.loss\.log_q must be True or False, got 'no'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_values_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
    assert SampledSoftmax(8, 0.99, log_q=True).num_in_batch == 7
