"""Samples without replacement by Gumbel top-k, and the weights that make an estimate from them unbiased.

Each item's log-probability is perturbed by its own Gumbel noise, and the k largest are a sample without replacement (the first is a
sample of p, the second of p without the first, and so on). Let kappa be the (k + 1)-th largest. Given kappa, item i is in the sample
with probability

    q_i(kappa) = P(log p_i + Gumbel > kappa) = 1 - exp(-exp(log p_i - kappa))

and `sum over the sample of (p_i / q_i) f_i` is an unbiased estimate of `sum over all items of p_i f_i`.

Source: W. Kool, H. van Hoof, M. Welling, "Estimating Gradients for Discrete Random Variables by Sampling without Replacement" (2020),
arXiv 2002.06043, section 4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from genrec.randomness import gumbel


class GumbelSample(NamedTuple):
    """A sample without replacement of each row, in the order of the draws."""

    columns: Tensor  # int64 [X, k]  the columns drawn; any column where `drawn` is false
    drawn: Tensor  # bool [X, k]  false at the end of a row with fewer than k possible columns
    threshold: Tensor  # float32 [X]  kappa; -inf where all possible columns are drawn, which then have q = 1


def gumbel_top_k(log_prob: Tensor, k: int, generator: Generator) -> GumbelSample:
    """Draw `k` distinct columns of each row by log-probabilities float32 [X, N], -inf for columns that can't be drawn.

    Rows need not be normalized. `generator` is on the device of `log_prob`.
    """
    values, index = gumbel(log_prob, generator).topk(min(k + 1, log_prob.shape[1]))
    missing = k + 1 - values.shape[1]
    values = torch.nn.functional.pad(values, (0, missing), value=-torch.inf)
    index = torch.nn.functional.pad(index, (0, missing))
    return GumbelSample(index[:, :k], values[:, :k] > -torch.inf, values[:, k])


def inclusion_probability(log_prob: Tensor, threshold: Tensor) -> Tensor:
    """Return q, the probability of each column to exceed the threshold: float32 [X, M] in (0, 1], for -inf 0.

    `log_prob` is float32 [X, M], `threshold` float32 [X] is `GumbelSample.threshold`.
    """
    distance = log_prob - threshold.unsqueeze(1)
    distance = torch.where(log_prob == -torch.inf, -torch.inf, distance)  # -inf - (-inf) is NaN
    return -torch.expm1(-distance.exp())


def importance_weights(log_prob: Tensor, threshold: Tensor) -> Tensor:
    """Return p / q of drawn columns, float32 [X, M]; 0 where the log-probability is -inf. Arguments as in `inclusion_probability`."""
    included = inclusion_probability(log_prob, threshold)
    return torch.where(included > 0, log_prob.exp() / included, 0.0)
