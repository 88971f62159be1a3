"""The divergence of the policy from the reference: as a penalty on the loss (k3), or in the rewards.

    k3 = exp(lr - lp) - (lr - lp) - 1        lp under the policy, lr under the reference

k3 is 0 where both are equal and above 0 elsewhere, and its mean over draws of the policy is KL(policy || reference) (Schulman,
"Approximating KL divergence", 2020). The mean of its gradient over such draws is the gradient of KL(reference || policy), because the
draws are taken as fixed. The penalty in the rewards, `r - beta (lp - lr)`, has the gradient of KL(policy || reference), so that the
optimum over a catalog is `policy ~ reference exp(r / beta)`, with the value `beta log Z` (Rafailov et al. 2023, arXiv 2305.18290,
Eq. 4). RLOO uses it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def k3_estimate(log_prob: Tensor, reference: Tensor) -> Tensor:
    """Return the k3 estimator of KL(policy || reference) of each candidate; finite log-probabilities of one shape."""
    difference = reference - log_prob
    return torch.expm1(difference) - difference


def penalized_rewards(rewards: Tensor, log_prob: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Return `r - beta (lp - lr)`, detached; all tensors have one shape."""
    return (rewards - beta * (log_prob - reference)).detach()
