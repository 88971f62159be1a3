"""Log-probabilities and rewards of whole lists, which a policy draws item by item without replacement.

A policy with probabilities `p` draws each further item from those that are left, so that a list `y_1..y_k` has the probability of
Plackett and Luce:

    log p(list) = sum over j of [ log p(y_j) - log(1 - p(y_1) - ... - p(y_{j-1})) ]

Gumbel top-k and stochastic beam search draw such lists. The value of a list is the discounted sum of the rewards of its items,
`sum over j of r_j / log2(j + 1)` with j from 1. With a reward of 1 for one target it is the list's NDCG.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_REST = 1e-6  # probability that is left to the further items; float32 log-probabilities do not tell less from 0


def list_log_prob(log_prob: Tensor, mask: Tensor) -> Tensor:
    """Return log p of lists, float32 [...], from log-probabilities of their items in order, float32 [..., k], under a mask.

    `mask` bool [..., k] is false at the end of a list with fewer items; an empty list has 0. The probabilities of the catalog must
    add up to 1. The probability that is left to the further items is at least `SMALLEST_REST`.
    """
    known = log_prob.masked_fill(~mask, 0.0)
    probability = torch.where(mask, known.double().exp(), 0.0)
    rest = (1 - (probability.cumsum(-1) - probability)).clamp(min=SMALLEST_REST)
    return (known - torch.where(mask, rest.log(), 0.0).to(known.dtype)).sum(-1)


def discounted_sum(rewards: Tensor) -> Tensor:
    """Return the sum of rewards float32 [..., k], each divided by log2 of its place plus 1, counted from 1: float32 [...]."""
    place = torch.arange(rewards.shape[-1], device=rewards.device, dtype=rewards.dtype)
    return (rewards / torch.log2(place + 2)).sum(-1)
