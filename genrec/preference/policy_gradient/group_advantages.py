"""Advantages within a group of candidates: rewards minus their mean (GRPO, Dr. GRPO), or minus the mean of the others (RLOO).

With rewards `r_1..r_G` of the G candidates that are not masked:

    GRPO        A_i = (r_i - mean) / (std + epsilon)                          (arXiv 2402.03300; std of the sample, with G - 1)
    Dr. GRPO    A_i = r_i - mean                                              (arXiv 2503.20783)
    RLOO        A_i = r_i - mean of the others = G / (G - 1) (r_i - mean)     (arXiv 2402.14740)

All of them add up to 0 over a group. A group without spread (all rewards are equal, or fewer than two candidates) has A = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genrec.preference.losses.log_ratios import at_least_float32
from genrec.preference.range_checks import check_range
from genrec.types import Advantages, CandidateGroups
from genrec.types.specification import check_types

Deviation = Literal["sample", "population", "none"]


@dataclass(frozen=True)
class GroupAdvantage:
    """GRPO's advantage, `(r - mean) / (std + epsilon)`; with std "none" that of Dr. GRPO, `r - mean`.

    The standard deviation makes the gradient of a group independent of the scale of its rewards. It gives a group with one hit of 16
    as much weight as a group with eight, and large weights to groups whose rewards hardly differ.
    """

    std: Deviation = "sample"  # divide by the deviation with G - 1, by that with G, or not at all
    epsilon: float = 1e-4  # added to the deviation, 0 or more

    def __post_init__(self) -> None:
        check_types(self, "GroupAdvantage")
        check_range(self, "epsilon", 0)

    def estimate(self, groups: CandidateGroups) -> Advantages:
        """Return the advantages, float32 [X, M]."""
        return group_advantages(groups.rewards, groups.mask, self.std, self.epsilon)


@dataclass(frozen=True)
class LeaveOneOutAdvantage:
    """RLOO's advantage, `r` minus the mean of the other candidates: the baseline of a candidate does not depend on itself."""

    def estimate(self, groups: CandidateGroups) -> Advantages:
        """Return the advantages, float32 [X, M]."""
        return leave_one_out_advantages(groups.rewards, groups.mask)


def group_advantages(rewards: Tensor, mask: Tensor, std: Deviation = "sample", epsilon: float = 1e-4) -> Advantages:
    """Return `(r - mean) / (std + epsilon)`, or `r - mean` with std "none", of rewards float32 [X, M] under a mask bool [X, M]."""
    centered, spread = _centered(rewards, mask)
    if std == "none":
        return Advantages(centered, spread)
    divisor = mask.sum(1, keepdim=True) - int(std == "sample")
    deviation = (centered.square().sum(1, keepdim=True) / divisor.clamp(min=1)).sqrt()
    return Advantages(torch.where(spread.unsqueeze(1), centered / (deviation + epsilon), 0.0), spread)


def leave_one_out_advantages(rewards: Tensor, mask: Tensor) -> Advantages:
    """Return `G / (G - 1) (r - mean)` of rewards float32 [X, M] under a mask bool [X, M]; G is the number of candidates of a row."""
    centered, spread = _centered(rewards, mask)
    count = mask.sum(1, keepdim=True)
    return Advantages(centered * count / (count - 1).clamp(min=1), spread)


def _centered(rewards: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return `r - mean` [X, M], 0 where masked and in groups without spread, and which groups have spread, bool [X]."""
    rewards = at_least_float32(rewards.detach())
    spread = rewards.masked_fill(~mask, -torch.inf).amax(1) > rewards.masked_fill(~mask, torch.inf).amin(1)
    mean = torch.where(mask, rewards, 0.0).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return torch.where(mask & spread.unsqueeze(1), rewards - mean, 0.0), spread
