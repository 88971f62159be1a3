"""Sibling advantages: one for each code, from the candidates that share all codes before it (V-STAR, arXiv 2602.10699, Eq. 15-19).

At level l, the head of a candidate is its first l - 1 codes, and the children of a head are the different codes at level l among the
candidates with this head. With R(h, v) the mean reward of the candidates that pass through child v of head h:

    A(h, v) = (R(h, v) - mean of R(h, .) over the children) / (std of R(h, .) over the children + epsilon)

Each child counts once, however many candidates pass through it. The standard deviation is that of the population. A head with one
child has A = 0: a code that all candidates share is neither better nor worse than another. With L = 1 and different candidates, A is
GRPO's advantage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec.preference.level_checks import check_has_levels, check_several_levels
from genrec.preference.losses.log_ratios import at_least_float32
from genrec.preference.range_checks import check_range
from genrec.types import Advantages, CandidateGroups, SamplerContext

READS = "log-probabilities of levels"
_RELATIVE_SPREAD = 1e-6  # children closer than this, relative to the largest reward, differ by rounding alone


@dataclass(frozen=True)
class SiblingAdvantage:
    """V-STAR's advantage of each code among its siblings, so that credit goes to the level where candidates part."""

    epsilon: float = 0.0  # added to the deviation, 0 or more

    def __post_init__(self) -> None:
        check_range(self, "epsilon", 0)

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the policy scores an item as one code, which has no siblings below a prefix."""
        check_has_levels(self, READS, experiment, "GroupAdvantage(), which is the same for items of one code")

    def check_context(self, context: SamplerContext) -> None:
        """Raise UsageError if a Semantic ID has one code."""
        check_several_levels(self, READS, context.semantic_ids)

    def estimate(self, groups: CandidateGroups) -> Advantages:
        """Return the advantages, float32 [X, M, L]."""
        return sibling_advantages(groups.rewards, groups.mask, groups.codes, self.epsilon)


def sibling_advantages(rewards: Tensor, mask: Tensor, codes: Tensor, epsilon: float = 0.0) -> Advantages:
    """Return the sibling advantages, float32 [X, M, L].

    Arguments: rewards float32 [X, M], mask bool [X, M], codes int64 [X, M, L]. A group has spread if two siblings differ at any level.
    """
    rewards = torch.where(mask, at_least_float32(rewards.detach()), 0.0)
    smallest = _RELATIVE_SPREAD * rewards.abs().amax(1, keepdim=True)
    pairs = mask.unsqueeze(2) & mask.unsqueeze(1)  # bool [X, M, M]  candidates with the same head; at level 1 all of them
    levels = []
    for level in range(codes.shape[2]):
        children = pairs & (codes[:, :, None, level] == codes[:, None, :, level])
        levels.append(_among_siblings(rewards, pairs, children, smallest, epsilon))
        pairs = children
    values = torch.stack(levels, 2)
    return Advantages(values, (values != 0).flatten(1).any(1))


def _among_siblings(rewards: Tensor, heads: Tensor, children: Tensor, smallest: Tensor, epsilon: float) -> Tensor:
    """Return the advantages of one level, float32 [X, M].

    `heads` and `children`, bool [X, M, M], are true for pairs of candidates with the same head and with the same child. `smallest`
    float32 [X, 1] is the smallest spread that counts.
    """
    of_child = children.to(rewards)
    size = of_child.sum(2).clamp(min=1)  # [X, M]  candidates that pass through the same child
    child_mean = (of_child * rewards.unsqueeze(1)).sum(2) / size  # no matmul, which runs in half precision under autocast
    once = heads.to(rewards) / size.unsqueeze(1)  # [X, M, M]  the candidates of a child add up to 1, so that a child counts once
    number = once.sum(2).clamp(min=1)  # [X, M]  children of the head
    mean = (once * child_mean.unsqueeze(1)).sum(2) / number
    deviation = child_mean.unsqueeze(1) - mean.unsqueeze(2)  # [X, M, M]  of the second candidate's child from the first one's mean
    std = ((once * deviation.square()).sum(2) / number).sqrt()
    spread = (deviation.abs() * heads).amax(2) > smallest
    return torch.where(spread, (child_mean - mean) / (std + epsilon), 0.0)
