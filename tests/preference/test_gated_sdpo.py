"""Gated on-policy S-DPO from its definition: S-DPO of the target and the policy's best other items, where the target is among them.

The scores are those of 6 items for two histories; the loss is the package's, the choice of rows and items is written out here. Items
count from 1, so y1 is item 4 and y2 item 6.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genrec.preference.losses import SoftmaxDPO
from genrec.types import LogProbs

POLICY = [[1.2, 0.3, -0.4, 0.9, -1.0, 0.1], [0.2, 1.5, 0.7, -0.3, 0.4, -2.0]]
REFERENCE = [[1.0, 0.4, -0.2, 0.5, -0.8, 0.2], [0.1, 1.2, 0.9, -0.1, 0.3, -1.5]]
TARGETS = [4, 6]
SCORES = st.lists(st.integers(-6, 6).map(lambda value: value / 3), min_size=2, max_size=8)


def is_gated_in(scores: list[float], target: int, size: int) -> bool:
    """Return whether fewer than `size` items have a higher score than the target."""
    return sum(score > scores[target - 1] for score in scores) < size


def best_others(scores: list[float], target: int, size: int) -> list[int]:
    """Return the `size - 1` best items beside the target, best first; of equal scores the lower item comes first."""
    others = [item for item in range(1, len(scores) + 1) if item != target]
    return sorted(others, key=lambda item: (-scores[item - 1], item))[: size - 1]


def log_probs(scores: list[float], target: int, others: list[int]) -> LogProbs:
    """Return the log-probabilities of the target and the others under a softmax over the catalog."""
    values = torch.tensor(scores, dtype=torch.float64).log_softmax(0)
    return LogProbs(values[[target - 1]], values[[item - 1 for item in others]].unsqueeze(0))


def gated_loss(policy: list[float], reference: list[float], target: int, size: int, beta: float = 1.0) -> float:
    """Return the loss of one row."""
    others = best_others(policy, target, size)
    return float(SoftmaxDPO(beta)(log_probs(policy, target, others), log_probs(reference, target, others)).loss)


def test_candidates_and_gate_of_the_two_rows() -> None:
    """Row 1: only item 1 is better than the target, so it is gated in with 3 places; row 2: five items are better."""
    assert [is_gated_in(scores, target, 3) for scores, target in zip(POLICY, TARGETS, strict=True)] == [True, False]
    assert [best_others(scores, target, 3) for scores, target in zip(POLICY, TARGETS, strict=True)] == [[1, 2], [2, 3]]
    assert [is_gated_in(POLICY[1], 6, size) for size in (5, 6)] == [False, True]


def test_equal_scores_are_chosen_by_the_lower_item() -> None:
    scores = [0.5, 0.7, 0.5, 0.5, 0.7]
    assert best_others(scores, 3, 4) == [2, 5, 1]
    assert is_gated_in(scores, 4, 3)  # items of the same score are not higher
    assert not is_gated_in(scores, 4, 2)


@pytest.mark.parametrize(
    ("row", "size", "beta", "expected"),
    [
        (0, 3, 1.0, 0.885939318),  # log(1 + e^(.2 - .4) + e^(-.1 - .4))
        (1, 3, 1.0, 1.520694069),  # without the gate
        (0, 6, 1.0, 1.418135834),
        (1, 6, 1.0, 2.258580555),
        (0, 3, 0.3, 1.030502067),
    ],
)
def test_loss_values(row: int, size: int, beta: float, expected: float) -> None:
    assert gated_loss(POLICY[row], REFERENCE[row], TARGETS[row], size, beta) == pytest.approx(expected, abs=5e-10)


def test_loss_by_hand_and_means() -> None:
    by_hand = math.log(1 + math.exp((1.2 - 1.0) - (0.9 - 0.5)) + math.exp((0.3 - 0.4) - (0.9 - 0.5)))
    assert gated_loss(POLICY[0], REFERENCE[0], 4, 3) == pytest.approx(by_hand)
    both = [gated_loss(*scores, target, 6) for *scores, target in zip(POLICY, REFERENCE, TARGETS, strict=True)]
    assert sum(both) / 2 == pytest.approx(1.838358194, abs=5e-10)


def test_likelihood_of_the_two_rows() -> None:
    found = [-float(log_probs(scores, target, []).chosen) for scores, target in zip(POLICY, TARGETS, strict=True)]
    assert found == pytest.approx([1.327101479, 4.311031594], abs=5e-10)


def test_catalog_softmax_of_a_parallel_policy() -> None:
    """Digits (.2, .9, -.5) and (.4, -.1, .3), items 00, 12, 21, 10, tau 1/2: scores 1.2, 2.4, -1.2, 2.6.

    The digits' own log-softmaxes differ from the scores by a constant of the history, which the catalog's softmax removes.
    """
    digits = torch.tensor([[0.2, 0.9, -0.5], [0.4, -0.1, 0.3]], dtype=torch.float64)
    codes = torch.tensor([[0, 0], [1, 2], [2, 1], [1, 0]])
    for levels in (digits / 0.5, (digits / 0.5).log_softmax(1)):
        scores = levels[torch.arange(2), codes].sum(1)
        assert scores.log_softmax(0).tolist() == pytest.approx([-2.136062258, -0.936062258, -4.536062258, -0.736062258], abs=5e-10)


@given(SCORES, st.integers(1, 8), st.integers(1, 8), st.floats(0.1, 3))
def test_identities(scores: list[float], target: int, size: int, beta: float) -> None:
    """Equal policy and reference give log K; normalizers cancel, so scores do as well as log-probabilities."""
    target, size = min(target, len(scores)), min(size, len(scores))
    assert gated_loss(scores, scores, target, size, beta) == pytest.approx(math.log(size), abs=1e-9)
    reference = [score * 0.5 - 0.1 * place for place, score in enumerate(scores)]
    differences = [
        beta * ((scores[item - 1] - reference[item - 1]) - (scores[target - 1] - reference[target - 1]))
        for item in best_others(scores, target, size)
    ]
    expected = math.log(1 + sum(math.exp(difference) for difference in differences))
    assert gated_loss(scores, reference, target, size, beta) == pytest.approx(expected, abs=1e-9)
    if size == 1:
        assert gated_loss(scores, reference, target, size, beta) == 0  # nothing to compare with


@given(st.permutations(range(6)), st.sampled_from([0, 1]), st.integers(2, 6))
def test_the_numbering_of_items_does_not_matter(order: list[int], row: int, size: int) -> None:
    policy, reference = ([scores[place] for place in order] for scores in (POLICY[row], REFERENCE[row]))
    target = order.index(TARGETS[row] - 1) + 1
    assert is_gated_in(policy, target, size) == is_gated_in(POLICY[row], TARGETS[row], size)
    expected = gated_loss(POLICY[row], REFERENCE[row], TARGETS[row], size)
    assert gated_loss(policy, reference, target, size) == pytest.approx(expected)


def test_gradient_is_that_of_the_formula() -> None:
    """d l / d s_i is beta times the share of the item in the softmax of differences, and minus their sum for the target."""

    def loss(scores: Tensor) -> Tensor:
        lp, others = scores.log_softmax(0), [0, 1]
        frozen = torch.tensor(REFERENCE[0], dtype=torch.float64).log_softmax(0)
        ours, theirs = (LogProbs(each[[3]], each[others].unsqueeze(0)) for each in (lp, frozen))
        return SoftmaxDPO(1.0)(ours, theirs).loss.sum()

    scores = torch.tensor(POLICY[0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, scores)
    found = torch.autograd.grad(loss(scores), scores)[0]
    weights = [math.exp(-0.2), math.exp(-0.5)]
    shares = [weight / (1 + sum(weights)) for weight in weights]
    assert found.tolist() == pytest.approx([*shares, 0, -sum(shares), 0, 0], abs=1e-12)
