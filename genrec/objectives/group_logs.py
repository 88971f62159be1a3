"""Metrics that a policy gradient logs at every step, as detached scalars over a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec.preference.policy_gradient.group_masks import masked_mean


class JudgedGroups(NamedTuple):
    """The groups of a step. All tensors are detached."""

    mask: Tensor  # bool [X, M]  false: the candidate takes no part
    hits: Tensor  # bool [X, M]  candidates with the target's Semantic ID
    rewards: Tensor  # float32 [X, M]  without the divergence
    log_prob: Tensor  # float32 [X, M]  under the policy
    advantages: Tensor  # float32 [X, M] or [X, M, L]
    clipped: Tensor  # bool [X, M]
    counted: Tensor  # bool [X]  groups with a gradient


def group_logs(groups: JudgedGroups) -> dict[str, Tensor]:
    """Return the logged metrics.

    - `reward`: mean reward of the candidates.
    - `hit_share`: share of the groups with a hit. With the policy's beams it is Recall@M on training histories.
    - `gradient_share`: share of the groups with a gradient: they take part, and their rewards differ.
    - `no_hit_gradient`: share of the sum of absolute advantages that groups without a hit have; 0 with a gate, and without a gradient.
    - `advantage_magnitude`: mean absolute advantage of the candidates with a gradient, those of such groups with an advantage other
      than 0.
    - `clip_share`: share of these candidates to which a clip applies.
    - `hit_log_prob`: mean log-probability of the hits, in nats per Semantic ID; NaN in a batch without one.
    """
    advantages = groups.advantages.abs()
    magnitude = advantages if advantages.ndim == 2 else advantages.mean(2)
    used = groups.mask & groups.counted.unsqueeze(1) & (magnitude > 0)
    magnitude = torch.where(used, magnitude, 0.0)
    without_hit = (magnitude.sum(1) * ~groups.hits.any(1)).sum()
    number = used.sum().clamp(min=1)  # a batch without a gradient has a magnitude and a clip share of 0
    return {
        "reward": masked_mean(groups.rewards, groups.mask),
        "hit_share": groups.hits.any(1).float().mean(),
        "gradient_share": groups.counted.float().mean(),
        "no_hit_gradient": without_hit / magnitude.sum().clamp(min=torch.finfo(magnitude.dtype).tiny),
        "advantage_magnitude": magnitude.sum() / number,
        "clip_share": (groups.clipped & used).sum() / number,
        "hit_log_prob": masked_mean(groups.log_prob, groups.hits),
    }
