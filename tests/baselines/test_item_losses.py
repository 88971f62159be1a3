"""Losses with sampled negatives: the papers' equations by hand, gradients, the draws, and their minimum."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from genrec.baselines import GBCE, GRU4Rec, SampledSoftmax, SASRec
from genrec.baselines.item_losses import uniform_negatives
from genrec.errors import UsageError
from genrec.types import ItemLoss


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("t", "expected"), [(0.0, 1.0), (0.75, 0.325), (1.0, 0.1)])
def test_beta_by_hand(t: float, expected: float) -> None:
    """K = 10 and N = 101 give alpha = 10 / 100 = 0.1, and for t = 0.75 beta = 0.1 (0.75 (1 - 10) + 10) = 0.1 x 3.25 = 0.325."""
    assert GBCE(10, t).beta(101) == pytest.approx(expected)
    assert GBCE(10, t).beta(101) == pytest.approx(0.1 * (t * (1 - 1 / 0.1) + 1 / 0.1))


def test_gbce_by_hand() -> None:
    """K = 2, N = 5, t = 0.5: alpha = 2 / 4, beta = 1 - 0.5 x 0.5 = 0.75.

    The scores ln 3, 0 and -ln 3 have the sigmoids 3/4, 1/2 and 1/4, so the loss is
    -(0.75 ln 3/4 + ln(1 - 1/2) + ln(1 - 1/4)) / 3 = (0.2157616 + 0.6931472 + 0.2876821) / 3 = 0.3988636.
    """
    positive, negatives = torch.tensor([math.log(3)]), torch.tensor([[0.0, -math.log(3)]])
    assert GBCE(2, 0.5).item_loss(positive, negatives, 5).tolist() == [pytest.approx(0.3988636, abs=1e-6)]


def test_gbce_without_calibration_is_the_binary_cross_entropy() -> None:
    scores = torch.randn(6, 5, generator=seeded())
    labels = torch.zeros(6, 5).index_fill(1, torch.tensor([0]), 1.0)
    expected = F.binary_cross_entropy_with_logits(scores, labels, reduction="none").mean(1)
    torch.testing.assert_close(GBCE(4, 0.0).item_loss(scores[:, 0], scores[:, 1:], 30), expected)


@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
def test_the_minimum_of_gbce(t: float) -> None:
    """An item is the target with p = 0.2 and else one of 3 draws from 10: sigmoid(s) = beta p / (beta p + alpha (1 - p)).

    With t = 1 this is p: beta = alpha = 0.3 and 0.3 x 0.2 / (0.3 x 0.2 + 0.3 x 0.8) = 0.2.
    """
    loss, p, alpha = GBCE(3, t), 0.2, 3 / 10
    beta = loss.beta(11)
    probability = beta * p / (beta * p + alpha * (1 - p))
    if t == 1:
        assert probability == pytest.approx(p)
    score = torch.tensor(math.log(probability / (1 - probability)), dtype=torch.float64, requires_grad=True)
    none, certain = torch.full((1, 3), -torch.inf, dtype=torch.float64), torch.full((1,), torch.inf, dtype=torch.float64)
    as_target = loss.item_loss(score.view(1), none, 11).sum()
    as_negative = loss.item_loss(certain, torch.cat([score.view(1, 1), none[:, 1:]], 1), 11).sum()
    expected = p * as_target + (1 - p) * alpha * as_negative
    (gradient,) = torch.autograd.grad(expected, [score])
    assert gradient.item() == pytest.approx(0.0, abs=1e-12)


def test_sampled_softmax_by_hand() -> None:
    """Scores 0 for the target, 0 and ln 2 for negatives: -ln(1 / (1 + 1 + 2)) = ln 4. A negative that is none does not count: ln 2."""
    positive, negatives = torch.zeros(2), torch.tensor([[0.0, math.log(2)], [0.0, -math.inf]])
    assert SampledSoftmax(2).item_loss(positive, negatives, 9).tolist() == [pytest.approx(math.log(4)), pytest.approx(math.log(2))]


def test_sampled_softmax_of_all_other_items_is_the_full_softmax() -> None:
    scores = torch.randn(4, 7, generator=seeded())
    found = SampledSoftmax(6).item_loss(scores[:, 2], scores[:, [0, 1, 3, 4, 5, 6]], 7)
    torch.testing.assert_close(found, -scores.log_softmax(1)[:, 2])


@pytest.mark.parametrize("loss", [GBCE(3, 0.75), GBCE(40, 1.0), SampledSoftmax(3)])
def test_gradients(loss: Any) -> None:
    scores = (3 * torch.randn(4, 4, generator=seeded(), dtype=torch.float64)).requires_grad_()
    assert isinstance(loss, ItemLoss)
    assert torch.autograd.gradcheck(lambda each: loss.item_loss(each[:, 0], each[:, 1:], 9), [scores])


def test_large_scores_stay_finite() -> None:
    """In float32 sigmoid(200) is 1 and log(1 - 1) infinite, but the loss of a negative with the score 200 is 200 / 2."""
    scores = torch.tensor([200.0, -200.0], requires_grad=True)
    found = GBCE(1, 0.0).item_loss(scores[1:], scores[:1].unsqueeze(1), 9)
    assert found.item() == pytest.approx((200 + 200) / 2)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert scores.grad.tolist() == [pytest.approx(0.5), pytest.approx(-0.5)]


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 99))
def test_uniform_negatives_are_other_items(num_items: int, num_negatives: int, seed: int) -> None:
    targets = torch.arange(1, num_items + 1)
    found = uniform_negatives(targets, num_negatives, num_items, seeded(seed))
    assert found.shape == (num_items, num_negatives)
    assert bool(((found >= 1) & (found <= num_items) & (found != targets.unsqueeze(1))).all())


def test_uniform_negatives_are_uniform() -> None:
    """Of 30,000 draws for the target 2 of 4, each other item is drawn 10,000 times, within 5 standard deviations of 81.6."""
    found = uniform_negatives(torch.tensor([2]), 30_000, 4, seeded())
    counts = found.flatten().bincount(minlength=5)
    assert counts[[0, 2]].tolist() == [0, 0]
    assert bool((counts[[1, 3, 4]] - 10_000).abs().le(5 * 81.6).all())


def test_mixed_negatives() -> None:
    """Of 5 negatives with a share of 0.5, two are targets of the batch; the place's own target becomes 0."""
    targets = torch.tensor([3, 3, 8])
    found = SampledSoftmax(5, in_batch=0.5).draw_items(targets.repeat(200), 9, seeded())
    uniform, others = found[:, :3], found[:, 3:]
    assert set(uniform.flatten().tolist()) == set(range(1, 10))
    own = targets.repeat(200).unsqueeze(1)
    assert set(others[own.squeeze(1) == 3].flatten().tolist()) == {0, 8}
    assert set(others[own.squeeze(1) == 8].flatten().tolist()) == {0, 3}
    share = (others[own.squeeze(1) == 3] == 8).double().mean().item()
    assert share == pytest.approx(1 / 3, abs=0.08)  # 8 is a third of the batch's targets; 800 draws have a deviation of 0.017
    assert bool((SampledSoftmax(3, in_batch=1.0).draw_items(targets, 9, seeded()) != targets.unsqueeze(1)).all())


@pytest.mark.parametrize("loss", [GBCE(4), SampledSoftmax(4, in_batch=0.5)])
def test_draws_are_a_function_of_the_generator(loss: ItemLoss) -> None:
    targets = torch.arange(1, 30)
    draws: list[Tensor] = [loss.draw_items(targets, 40, seeded(seed)) for seed in (1, 1, 2)]
    assert [torch.equal(*two) for two in pairwise(draws)] == [True, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GBCE(0), r"policy\.loss\.num_negatives must be at least 1, got 0"),
        (lambda: GBCE(t=1.5), r"policy\.loss\.t must lie in \[0, 1\], got 1\.5"),
        (lambda: GBCE(t=math.nan), r"policy\.loss\.t must lie in \[0, 1\], got nan"),
        (lambda: SampledSoftmax(in_batch=-0.1), r"policy\.loss\.in_batch must lie in \[0, 1\], got -0\.1"),
        (lambda: SASRec(loss="gBCE"), r"policy\.loss must be None \(softmax over all items\), GBCE\(\.\.\.\) or .* got 'gBCE'"),
        (lambda: GRU4Rec(loss=SASRec()), r"policy\.loss must be None .*, got SASRec\("),
        (lambda: GBCE().draw_items(torch.tensor([1]), 1, seeded()), r"a catalog of 1 item\(s\) has none; set policy\.loss to None"),
    ],
)
def test_wrong_values_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
