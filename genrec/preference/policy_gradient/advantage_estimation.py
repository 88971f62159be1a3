"""Rewards, advantages and values of single codes, for PPO (Schulman et al. 2017, arXiv 1707.06347; Ziegler et al. 2019, 1909.08593).

An item is L codes, drawn one after the other. `lo_t` is the log-probability of a code under the policy that drew it and `lr_t` that
under the reference, R the reward of the item and V_t the value of a prefix of t - 1 codes (V_{L+1} = 0):

    reward      r_t = -beta (lo_t - lr_t), plus R at t = L
    TD error    delta_t = r_t + discount V_{t+1} - V_t
    advantage   A_t = delta_t + discount lambda A_{t+1}                 (Schulman et al. 2016, arXiv 1506.02438, Eq. 16)
    return      A_t + V_t
    value loss  0.5 max((V - return)^2, (V_old + clip(V - V_old, -c, c) - return)^2)

With lambda 1 an advantage is the sum of the later rewards minus V_t, with lambda 0 the TD error.
"""

from __future__ import annotations

import torch
from torch import Tensor


def code_rewards(rewards: Tensor, behavior: Tensor, reference: Tensor | None, beta: float) -> Tensor:
    """Return r_t, float32 [..., L], of rewards float32 [...] and log-probabilities of codes float32 [..., L], detached.

    `behavior` is under the policy that drew, `reference` under the reference; None: no divergence.
    """
    found = torch.zeros_like(behavior) if reference is None else -beta * (behavior - reference)
    return torch.cat([found[..., :-1], (found[..., -1] + rewards).unsqueeze(-1)], -1).detach()


def generalized_advantages(rewards: Tensor, values: Tensor, gae_lambda: float = 0.95, discount: float = 1.0) -> Tensor:
    """Return A_t, float32 [..., L], of rewards and values float32 [..., L] of codes, detached."""
    rewards, values = rewards.detach(), values.detach()
    following = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], -1)
    errors, later, found = rewards + discount * following - values, torch.zeros_like(rewards[..., 0]), list[Tensor]()
    for error in reversed(errors.unbind(-1)):
        later = error + discount * gae_lambda * later
        found.insert(0, later)
    return torch.stack(found, -1)


def whitened(values: Tensor) -> Tensor:
    """Return values with mean 0 and deviation 1 over the whole batch; a batch without spread has 0."""
    centered = values - values.mean()
    return centered / (centered.square().mean() + 1e-8).sqrt()


def clipped_value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float = 0.2) -> Tensor:
    """Return the value loss of each code, float32 [...]. `old` are the values when the codes were drawn; shapes are equal."""
    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())
