"""Gumbel top-k: the inclusion probabilities of the table, unbiased estimates, impossible columns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genrec.preference.candidates.gumbel_top_k import GumbelSample, gumbel_top_k, importance_weights, inclusion_probability

P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
INCLUSION = [0.828836798, 0.668730650, 0.372180451, 0.130252101]  # of a sample of two


def draws(count: int, k: int, seed: int = 0) -> tuple[Tensor, GumbelSample]:
    """Return log p of `count` equal rows, and a sample of each."""
    log_prob = P.log().expand(count, -1)
    return log_prob, gumbel_top_k(log_prob, k, torch.Generator().manual_seed(seed))


def test_the_exact_inclusion_of_two_draws() -> None:
    """P(i among 2) = p_i + sum over j != i of p_j p_i / (1 - p_j)."""
    exact = P + torch.stack([sum(P[j] * P[i] / (1 - P[j]) for j in range(4) if j != i) for i in range(4)])
    assert exact.tolist() == pytest.approx(INCLUSION, abs=1e-9)


def test_columns_are_drawn_as_often_as_the_table_says_and_q_has_this_mean() -> None:
    """200,000 rows: the standard error of a share is at most 0.0011, and of the mean of q less."""
    log_prob, sample = draws(200_000, 2)
    share = torch.zeros(len(log_prob), 4, dtype=torch.float64).scatter(1, sample.columns, 1.0).mean(0)
    assert share.tolist() == pytest.approx(INCLUSION, abs=0.005)
    assert sample.drawn.all()
    assert (sample.columns[:, 0] != sample.columns[:, 1]).all()
    first = torch.bincount(sample.columns[:, 0], minlength=4) / len(log_prob)
    assert first.tolist() == pytest.approx(P.tolist(), abs=0.005)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_weighted_sums_over_a_sample_are_unbiased(k: int) -> None:
    """The mean of sum (p_i / q_i) f_i over many samples is sum p_i f_i = 1.04, and of the weights alone 1."""
    values = torch.tensor([1.0, -2.0, 5.0, 7.8], dtype=torch.float64)
    log_prob, sample = draws(400_000, k, seed=k)
    weights = importance_weights(log_prob.gather(1, sample.columns), sample.threshold)
    estimate, one = (weights * values[sample.columns]).sum(1), weights.sum(1)
    for found, expected in ((estimate, float((P * values).sum())), (one, 1.0)):
        standard_error = float(found.std()) / len(found) ** 0.5
        assert float(found.mean()) == pytest.approx(expected, abs=5 * standard_error)
        assert standard_error < 0.02


def test_inclusion_by_hand() -> None:
    """log p = 0 and kappa = 0: 1 - exp(-1). kappa = -inf: certain. A column of probability 0 is never included."""
    log_prob = torch.tensor([[0.0, -torch.inf]])
    assert inclusion_probability(log_prob, torch.tensor([0.0]))[0].tolist() == pytest.approx([0.632120559, 0.0])
    assert inclusion_probability(log_prob, torch.tensor([-torch.inf]))[0].tolist() == [1.0, 0.0]
    assert importance_weights(log_prob, torch.tensor([-torch.inf]))[0].tolist() == [1.0, 0.0]
    tiny = inclusion_probability(torch.tensor([[-60.0]]), torch.tensor([0.0]))
    assert float(tiny) == pytest.approx(8.75651e-27, rel=1e-4)


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 5), st.integers(0, 100))
def test_a_sample_holds_possible_distinct_columns(columns: int, k: int, impossible: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_prob = torch.randn(3, columns, generator=generator).log_softmax(-1)
    log_prob[:, :impossible] = -torch.inf
    sample = gumbel_top_k(log_prob, k, generator)
    possible = max(0, columns - impossible)
    assert sample.columns.shape == sample.drawn.shape == (3, k)
    assert (sample.drawn.sum(1) == min(k, possible)).all()
    for row in range(3):
        drawn = sample.columns[row, sample.drawn[row]].tolist()
        assert len(set(drawn)) == len(drawn)
        assert all(column >= impossible for column in drawn)
    assert ((sample.threshold == -torch.inf) == (possible <= k)).all()


def test_the_same_generator_gives_the_same_sample() -> None:
    assert torch.equal(draws(50, 3, seed=4)[1].columns, draws(50, 3, seed=4)[1].columns)
    assert not torch.equal(draws(50, 3, seed=4)[1].columns, draws(50, 3, seed=5)[1].columns)
