"""Losses of a reward model on rows of one preferred item and K rejected ones.

    Bradley-Terry     the mean over the K pairs of -log sigmoid(r_w - r_k)
    Plackett-Luce     -log( exp r_w / (exp r_w + sum over k of exp r_k) ): the preferred item is the first of all
    center            the mean over the K pairs of (r_w + r_k)^2, which keeps rewards near 0     (TRL, center_rewards_coefficient)

Both depend on differences within a row alone: a constant that is added to all rewards of a history changes nothing. With K = 1 they
are equal (Bradley and Terry 1952; Ouyang et al. 2022, arXiv 2203.02155, Eq. 1). A row without a rejected item has a loss of 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from genrec.preference.losses.log_ratios import mean_over_pairs


def bradley_terry(chosen: Tensor, rejected: Tensor, mask: Tensor) -> Tensor:
    """Return the Bradley-Terry loss float32 [B] of rewards float32 [B] and [B, K] under a mask bool [B, K]."""
    return mean_over_pairs(softplus(rejected - chosen.unsqueeze(1)), mask)


def plackett_luce(chosen: Tensor, rejected: Tensor, mask: Tensor) -> Tensor:
    """Return the loss of the first place float32 [B]; arguments as in `bradley_terry`."""
    others = rejected.masked_fill(~mask, -torch.inf)
    return torch.cat([chosen.unsqueeze(1), others], 1).logsumexp(1) - chosen


def center_penalty(chosen: Tensor, rejected: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the pairs of (r_w + r_k)^2, float32 [B]; arguments as in `bradley_terry`."""
    return mean_over_pairs((chosen.unsqueeze(1) + rejected).square(), mask)


def pair_accuracy(chosen: Tensor, rejected: Tensor, mask: Tensor) -> Tensor:
    """Return the share of pairs with r_w > r_k, ties 1/2: a scalar, NaN without a pair; arguments as in `bradley_terry`."""
    right = (chosen.unsqueeze(1) > rejected).double() + (chosen.unsqueeze(1) == rejected).double() / 2
    return (right * mask).sum() / mask.sum()
