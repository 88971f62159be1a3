"""Stage 5, losses without a reference: SimPO, CPO, ORPO, and the control ContinuedSFT. With K negatives, the mean over the pairs.

In and out as `genrec.preference.losses` says; the reference is given all the same, since it says with the policy what is masked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from genrec.preference.losses.log_ratios import (
    Scores,
    gap,
    log_probabilities,
    log_ratios,
    negative_log_likelihood,
    over_pairs,
    terms,
)
from genrec.preference.range_checks import check_range
from genrec.types import LogProbs, PreferenceTerms

LIKELIEST = -1e-6  # largest log-probability of a code, on average, of which ORPO takes the odds; 1 - p vanishes above it


@dataclass(frozen=True)
class SimPO:
    """Simple preference optimization, `-log s(beta (lp_w / L - lp_l / L) - gamma)` (Meng et al. 2024, 2405.14734, Eq. 6)."""

    beta: float = 2.0  # scale of the average log-probabilities, above 0
    gamma: float = 1.0  # target margin, in the loss's logits, 0 or more

    def __post_init__(self) -> None:
        check_range(self, "beta", 0, above=True)
        check_range(self, "gamma", 0)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example; the reward is `beta * lp / L`, as in the paper's Eq. 4."""
        scores = averages(policy, reference)
        losses = -logsigmoid(self.beta * gap(scores) - self.gamma)
        return terms(over_pairs(losses, scores.valid), scores, self.beta)


@dataclass(frozen=True)
class CPO:
    """Contrastive preference optimization, `-log s(beta (lp_w - lp_l)) + alpha * NLL(y_w)` (Xu et al. 2024, 2401.08417).

    Log-probabilities are sums over the L codes, and the NLL is their mean, as in `Anchored`. A row without negatives keeps its NLL.
    """

    beta: float = 0.1  # scale of the log-probabilities, above 0
    alpha: float = 1.0  # weight of the positive's NLL, 0 or more

    def __post_init__(self) -> None:
        check_range(self, "beta", 0, above=True)
        check_range(self, "alpha", 0)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example; the reward is `beta * lp`."""
        scores = log_probabilities(policy, reference)
        preference = over_pairs(-logsigmoid(self.beta * gap(scores)), scores.valid)
        return terms(preference + self.alpha * negative_log_likelihood(policy), scores, self.beta)


@dataclass(frozen=True)
class ORPO:
    """Odds-ratio preference optimization, `NLL(y_w) - weight * log s(log_odds_w - log_odds_l)` (Hong et al. 2024, 2403.07691, Eq. 6).

    `log_odds = a - log(1 - exp(a))` with `a = lp / L`; the NLL is -a. `weight` is the paper's lambda. A row without negatives keeps
    its NLL. A deviation: `a` is at most -1e-6 in the odds, since at a = 0 they are infinite; above it they have no gradient.
    """

    weight: float = 0.1  # of the odds ratio, beside the NLL's 1; 0 or more

    def __post_init__(self) -> None:
        check_range(self, "weight", 0)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example; the reward is `weight * lp / L`."""
        scores = averages(policy, reference)
        odds = Scores(log_odds(scores.chosen), log_odds(scores.rejected), scores.valid)
        preference = over_pairs(-logsigmoid(gap(odds)), scores.valid)
        return terms(negative_log_likelihood(policy) + self.weight * preference, scores, self.weight)


@dataclass(frozen=True)
class ContinuedSFT:
    """The control: SFT goes on for as many steps on the same batches, without preferences. The loss is NLL(y_w) alone.

    The NLL is the mean over the L codes. The rewards, shown beside those of the others, are the log-ratios (beta = 1).
    """

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example."""
        return terms(negative_log_likelihood(policy), log_ratios(policy, reference), 1.0)


def averages(policy: LogProbs, reference: LogProbs) -> Scores:
    """`lp / L`, the average log-probability of a code."""
    chosen, rejected, valid = log_probabilities(policy, reference)
    return Scores(chosen / policy.length, rejected / policy.length, valid)


def log_odds(average: Tensor) -> Tensor:
    """`a - log(1 - exp(a))` of log-probabilities a, at most `LIKELIEST`: by `expm1` near 0 and by `log1p` far from it.

    The branch that is not taken is given a harmless number, since its gradient would be NaN (0 times infinity).
    """
    a = average.clamp(max=LIKELIEST)
    near = a > -math.log(2)
    small = torch.where(near, a, -1.0)
    large = torch.where(near, -1.0, a)
    return a - torch.where(near, (-small.expm1()).log(), (-large.exp()).log1p())
