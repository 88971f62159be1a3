"""Surrogates without a clip: REINFORCE, which RLOO uses, and a ratio with a bounded gradient (GBPO).

    REINFORCE    -A_i lp_i                                                                     (arXiv 2402.14740)
    GBPO         -A_i pi_t / pi'_t, summed over the codes t                                    (OneRec-V2, arXiv 2508.20900, Eq. 15-16)
                 pi'_t = max(pi_old_t, sg(pi_t)) where A >= 0, and max(pi_old_t, 1 - sg(pi_t)) where A < 0

The gradient of GBPO with respect to lp_t is at most |A| where A >= 0, and at most |A| pi_t / (1 - pi_t) where A < 0: pushing down an
unlikely code, whose REINFORCE gradient is as large as that of a likely one, then costs next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genrec.types import Advantages, GroupLogProbs, SurrogateTerms


@dataclass(frozen=True)
class Reinforce:
    """REINFORCE, `-A lp`. It takes the candidates as draws of the policy in training and ignores the behavior log-probability."""

    def terms(self, log_probs: GroupLogProbs, advantages: Advantages) -> SurrogateTerms:
        """Return the loss of each candidate."""
        values, levels = advantages.values, log_probs.levels
        loss = -(values * levels).sum(2) if values.ndim == 3 else -values * levels.sum(2)
        return SurrogateTerms(loss, torch.zeros_like(loss, dtype=torch.bool))


@dataclass(frozen=True)
class BoundedGradient:
    """GBPO's surrogate. The paper's advantage is 1, 0 or -1, without a standard deviation.

    Deviation: the behavior log-probability is known for items and not for their codes, and with one update a draw it is the policy's
    own, so pi_old of a code is sg(pi).
    """

    def terms(self, log_probs: GroupLogProbs, advantages: Advantages) -> SurrogateTerms:
        """Return the loss of each candidate."""
        values, levels = advantages.values, log_probs.levels
        values = values if values.ndim == 3 else values.unsqueeze(2)
        loss = bounded_gradient_loss(levels, levels.detach(), values).sum(2)
        return SurrogateTerms(loss, torch.zeros_like(loss, dtype=torch.bool))


def bounded_gradient_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor) -> Tensor:
    """Return `-A pi / pi'` of log-probabilities under the policy in training and under the one that drew; shapes broadcast."""
    own = log_prob.detach()
    larger = torch.where(advantage >= 0, own, torch.log((-torch.expm1(own)).clamp(min=torch.finfo(own.dtype).tiny)))
    return -advantage * torch.exp(log_prob - torch.maximum(old_log_prob, larger))
