"""Rewards, advantages and values of single codes: the vectors of PPO by hand, identities and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec.preference.policy_gradient import leave_one_out_advantages, penalized_rewards
from genrec.preference.policy_gradient.advantage_estimation import (
    clipped_value_loss,
    code_rewards,
    generalized_advantages,
    whitened,
)
from genrec.preference.policy_gradient.clipped_surrogates import clipped_loss

REWARDS = torch.tensor([-0.02, 0.01, -0.03, 1.0], dtype=torch.float64)
VALUES = torch.tensor([0.2, 0.3, 0.5, 0.7], dtype=torch.float64)
FEW = st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("gae_lambda", "expected"),
    [(0.95, [0.6901375, 0.64225, 0.455, 0.3]), (1.0, [0.76, 0.68, 0.47, 0.3]), (0.0, [0.08, 0.21, 0.17, 0.3])],
)
def test_advantages_are_the_vectors(gae_lambda: float, expected: list[float]) -> None:
    """The TD errors are -0.02 + 0.3 - 0.2, 0.01 + 0.5 - 0.3, -0.03 + 0.7 - 0.5 and 1 - 0.7."""
    assert generalized_advantages(REWARDS, VALUES, gae_lambda).tolist() == pytest.approx(expected, abs=1e-12)


def test_the_advantage_of_an_early_code_by_hand() -> None:
    """With discount 0.9 and lambda 0.5: A_2 = 1 - 0.4, A_1 = 0 + 0.9 * 0.4 - 0.2 + 0.9 * 0.5 * A_2."""
    found = generalized_advantages(torch.tensor([0.0, 1.0]), torch.tensor([0.2, 0.4]), 0.5, 0.9)
    assert found.tolist() == pytest.approx([0.36 - 0.2 + 0.45 * 0.6, 0.6])


@given(FEW)
def test_the_ends_of_lambda(pairs: list[tuple[float, float]]) -> None:
    """Lambda 1: the sum of the later rewards minus the value; lambda 0: the TD error. One code: the reward minus the value."""
    rewards, values = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    following = torch.cat([values[1:], torch.zeros(1, dtype=torch.float64)])
    torch.testing.assert_close(generalized_advantages(rewards, values, 1.0), rewards.flip(0).cumsum(0).flip(0) - values)
    torch.testing.assert_close(generalized_advantages(rewards, values, 0.0), rewards + following - values)
    torch.testing.assert_close(generalized_advantages(rewards[:1], values[:1]), rewards[:1] - values[:1])


def test_rewards_of_codes_by_hand() -> None:
    """beta 0.1: -0.1 (-1 + 1.5), -0.1 (-2 + 1.5) and at the end -0.1 (-0.5 + 0.5) + 2."""
    behavior, reference = torch.tensor([[-1.0, -2.0, -0.5]]), torch.tensor([[-1.5, -1.5, -0.5]])
    assert code_rewards(torch.tensor([2.0]), behavior, reference, 0.1)[0].tolist() == pytest.approx([-0.05, 0.05, 2.0])
    assert code_rewards(torch.tensor([2.0]), behavior, None, 0.1)[0].tolist() == [0.0, 0.0, 2.0]


def test_rewards_of_codes_add_up_to_the_penalized_reward_of_the_item() -> None:
    """The vector of RLOO with the divergence: the sum over the codes is .95, .02, .5, .1, its advantages .743, -.497, .143, -.39."""
    lp, lr = torch.tensor([[-3, -4, -3.5, -5], [-3.5, -3.8, -3.5, -4]], dtype=torch.float64)
    split = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)  # of the log-probabilities over three codes
    found = code_rewards(torch.tensor([1, 0, 0.5, 0]).double(), lp.unsqueeze(1) * split, lr.unsqueeze(1) * split, 0.1).sum(1)
    assert found.tolist() == pytest.approx([0.95, 0.02, 0.5, 0.1], abs=1e-12)
    torch.testing.assert_close(found, penalized_rewards(torch.tensor([1, 0, 0.5, 0]).double(), lp, lr, 0.1))
    advantages = leave_one_out_advantages(found.unsqueeze(0), torch.ones(1, 4, dtype=torch.bool)).values[0]
    assert advantages.tolist() == pytest.approx([0.743333333, -0.496666667, 0.143333333, -0.39], abs=1e-9)
    assert float(advantages.sum()) == pytest.approx(0, abs=1e-12)


def test_the_clip_is_that_of_the_vector() -> None:
    """Log-ratios .3, -.3, .3, -.3 with advantages 1, 1, -1, -1: two codes are clipped and have no gradient."""
    ratio = torch.tensor([0.3, -0.3, 0.3, -0.3], dtype=torch.float64, requires_grad=True)
    loss, clipped = clipped_loss(ratio, torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64), 0.2, 0.2)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([-1.2, -0.740818221, 1.349858808, 0.8], abs=1e-9)
    assert ratio.grad is not None
    assert ratio.grad.tolist() == pytest.approx([0, -0.740818221, 1.349858808, 0], abs=1e-9)
    assert clipped.tolist() == [True, False, False, True]


def test_the_value_loss_by_hand() -> None:
    """The larger of both errors: 0.5 (1 - 0)^2; with the value clipped to 0.2 away from 0, 0.5 (0.2 - 1)^2; 0.5 (0.1 - 1)^2."""
    values = torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64, requires_grad=True)
    old, returns = torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    loss = clipped_value_loss(values, old, returns, 0.2)
    assert loss.tolist() == pytest.approx([0.5, 0.32, 0.405])
    loss.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([1.0, 0.0, -0.9])  # beyond the clip there is no gradient


def test_gradients_are_those_of_finite_differences() -> None:
    source = torch.Generator().manual_seed(0)
    values, old, returns = (torch.randn(2, 3, dtype=torch.float64, generator=source) for _ in range(3))
    assert torch.autograd.gradcheck(lambda each: clipped_value_loss(each, old, returns), values.requires_grad_())


def test_whitened_values_have_mean_0_and_deviation_1() -> None:
    found = whitened(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert float(found.mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert whitened(torch.full((2, 2), 3.0)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
