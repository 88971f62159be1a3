"""Surrogates that clip the ratio of the policy in training to the policy that drew the candidates: GRPO, DAPO, ECPO and GSPO.

With `rho_i = exp(lp_i - lo_i)`, lp under the policy in training and lo under the policy that drew, the loss of a candidate is

    GRPO     -min(rho_i A_i, clip(rho_i, 1 - low, 1 + high) A_i)
    DAPO     the same with a larger high, so that rare candidates can rise further
    ECPO     the same, but where A_i < 0 with lo'_i = max(sg(lp_i) - log(1 + high + delta), lo_i): a ratio of at most 1 + high + delta
    GSPO     GRPO's with rho_i = exp(mean over the codes of lp_t - lo_t), and a much smaller low and high

With one update a draw the ratio is 1 (but for dropout): the value is -mean(A) = 0, the gradient is `-A_i / G`, and no clip applies.

The behavior log-probability is known for items alone. With an advantage for each code, the ratio of code t therefore is the item's
ratio with the gradient of this code, `sg(rho_i) pi_t / sg(pi_t)`, and the losses of the codes are added up: equal advantages of all
codes then give the gradient of the item's.

Deviation from GRPO and DAPO: their ratio, clip and k3 are those of a token, averaged over the tokens of an output (GRPO) or of all
outputs (DAPO). Here the ratio and k3 are those of the item, the sum over its codes. All items have L codes, so on policy the
gradient is L times the papers'; the optimizer's step does not depend on this factor, but its ratio to a likelihood beside it does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genrec.preference.range_checks import check_range
from genrec.types import Advantages, GroupLogProbs, SurrogateTerms
from genrec.types.specification import check_types

_MAX_LOG_RATIO = 20.0  # a larger log-ratio has no gradient: exp would overflow


@dataclass(frozen=True)
class Clip:
    """GRPO's clipped surrogate (arXiv 2402.03300), which is PPO's; with high 0.28 that of DAPO (arXiv 2503.14476).

    Deviation: one ratio for each item in place of one for each token, and a sum over the codes in place of their mean.
    """

    low: float = 0.2  # a candidate with A < 0 has no gradient below a ratio of 1 - low; in [0, 1)
    high: float = 0.2  # a candidate with A > 0 has no gradient above a ratio of 1 + high; 0 or more

    def __post_init__(self) -> None:
        _check_bounds(self)

    def terms(self, log_probs: GroupLogProbs, advantages: Advantages) -> SurrogateTerms:
        """Return the loss of each candidate."""
        return _reduced(*clipped_loss(log_ratios(log_probs, advantages), advantages.values, self.low, self.high))


@dataclass(frozen=True)
class EarlyClip:
    """ECPO's surrogate (OneRec, arXiv 2506.13695, section 2.4.1): GRPO's, with a bounded ratio for candidates with A < 0.

    GRPO's clip does not bound the gradient of a bad candidate that the policy has made likelier than the one that drew it. The bound
    keeps this gradient at most 1 + high + delta times that of an unchanged policy.
    """

    low: float = 0.2  # a candidate with A < 0 has no gradient below a ratio of 1 - low; in [0, 1)
    high: float = 0.2  # a candidate with A > 0 has no gradient above a ratio of 1 + high; 0 or more
    delta: float = 0.1  # a candidate with A < 0 has a ratio of at most 1 + high + delta; 0 or more

    def __post_init__(self) -> None:
        _check_bounds(self)
        check_range(self, "delta", 0)

    def terms(self, log_probs: GroupLogProbs, advantages: Advantages) -> SurrogateTerms:
        """Return the loss of each candidate."""
        ratios = log_ratios(log_probs, advantages)
        bounded, early = early_clipped(ratios, advantages.values, self.high, self.delta)
        loss, clipped = clipped_loss(bounded, advantages.values, self.low, self.high)
        return _reduced(loss, clipped | early)


@dataclass(frozen=True)
class SequenceClip:
    """GSPO's surrogate (arXiv 2507.18071): GRPO's with the geometric mean of the codes' ratios, one ratio for a candidate.

    Its gradient on policy is that of `Clip` divided by the number of codes, as the mean over tokens of GRPO's paper has it.
    """

    low: float = 3e-4  # a candidate with A < 0 has no gradient below a ratio of 1 - low; in [0, 1)
    high: float = 4e-4  # a candidate with A > 0 has no gradient above a ratio of 1 + high; 0 or more

    def __post_init__(self) -> None:
        _check_bounds(self)

    def terms(self, log_probs: GroupLogProbs, advantages: Advantages) -> SurrogateTerms:
        """Return the loss of each candidate."""
        length = log_probs.levels.shape[2]
        ratios = log_ratios(log_probs, advantages, 1 / length)
        loss, clipped = _reduced(*clipped_loss(ratios, advantages.values, self.low, self.high))
        return SurrogateTerms(loss / length if ratios.ndim == 3 else loss, clipped)


def log_ratios(log_probs: GroupLogProbs, advantages: Advantages, scale: float = 1.0) -> Tensor:
    """Return `scale * (lp - lo)`, float32 [X, M], or, for advantages of codes, with the gradient of each code, [X, M, L]."""
    levels = log_probs.levels
    ratios = scale * (levels.sum(2) - log_probs.behavior)
    if advantages.values.ndim == 2:
        return ratios
    return levels - levels.detach() + ratios.detach().unsqueeze(2)


def clipped_loss(log_ratio: Tensor, advantage: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Return `-min(rho A, clip(rho, 1 - low, 1 + high) A)`, and where the clip has removed the gradient, bool. Shapes are equal."""
    ratio = log_ratio.clamp(max=_MAX_LOG_RATIO).exp()
    bounded = torch.where(advantage > 0, ratio.clamp(max=1 + high), ratio.clamp(min=1 - low))
    clipped = ((advantage > 0) & (ratio > 1 + high)) | ((advantage < 0) & (ratio < 1 - low))
    return -bounded * advantage, clipped.detach()


def early_clipped(log_ratio: Tensor, advantage: Tensor, high: float, delta: float) -> tuple[Tensor, Tensor]:
    """Return log-ratios of at most `log(1 + high + delta)` where A < 0, which keep their gradient, and where the bound applied.

    `lp - max(sg(lp) - c, lo)` equals `lp - lo` up to the bound c, and `c + lp - sg(lp)` above it.
    """
    bound = torch.log1p(torch.as_tensor(high + delta, dtype=log_ratio.dtype, device=log_ratio.device))
    early = (advantage < 0) & (log_ratio.detach() > bound)
    return torch.where(early, log_ratio - log_ratio.detach() + bound, log_ratio), early


def _reduced(loss: Tensor, clipped: Tensor) -> SurrogateTerms:
    """Return the loss of each candidate, the sum over its codes where each code has one."""
    return SurrogateTerms(loss.sum(2), clipped.any(2)) if loss.ndim == 3 else SurrogateTerms(loss, clipped)


def _check_bounds(surrogate: Clip | EarlyClip | SequenceClip) -> None:
    check_types(surrogate, type(surrogate).__name__)
    check_range(surrogate, "low", 0, 1)
    check_range(surrogate, "high", 0)
