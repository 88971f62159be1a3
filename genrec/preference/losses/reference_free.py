"""Losses without a reference: SimPO, CPO, ORPO and the control ContinuedSFT. For K negatives, the mean over the pairs.

They take the reference all the same, because the mask of the negatives depends on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from genrec.preference.losses.log_ratios import (
    Scores,
    log_ratios,
    masked_log_probs,
    mean_over_pairs,
    negative_log_likelihood,
    preference_terms,
    score_differences,
)
from genrec.preference.range_checks import check_range
from genrec.preference.schedules import check_scheduled, constant
from genrec.types import LogProbs, LossNeeds, NumberOrSchedule, PreferenceTerms

MAX_LOG_PROB = -1e-6  # largest average log-probability of a code in ORPO's odds; above it 1 - p vanishes in float32


@dataclass(frozen=True)
class SimPO:
    """Simple preference optimization, `-log s(beta (lp_w / L - lp_l / L) - gamma)` (Meng et al. 2024, arXiv 2405.14734, Eq. 6).

    For K negatives, the mean over the pairs.
    """

    beta: NumberOrSchedule = 2.0  # scale of the average log-probabilities, above 0
    gamma: float = 1.0  # target margin in the logits of the loss, 0 or more

    needs = LossNeeds()  # no optional inputs

    def __post_init__(self) -> None:
        check_scheduled(self, "beta", 0, above=True)
        check_range(self, "gamma", 0)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example. The reward is `beta * lp / L`, Eq. 4 of the paper."""
        beta = constant(self, "beta")
        scores = average_log_probs(policy, reference)
        losses = -logsigmoid(beta * score_differences(scores) - self.gamma)
        return preference_terms(mean_over_pairs(losses, scores.valid), scores, beta)


@dataclass(frozen=True)
class CPO:
    """Contrastive preference optimization, `-log s(beta (lp_w - lp_l)) + alpha * NLL(y_w)` (Xu et al. 2024, arXiv 2401.08417).

    For K negatives, the first term is the mean over the pairs. Log-probabilities are sums over the L codes, and the NLL is the mean
    over them, as in `Anchored`. A row without negatives keeps its NLL.
    """

    beta: NumberOrSchedule = 0.1  # scale of the log-probabilities, above 0
    alpha: NumberOrSchedule = 1.0  # weight of the positive's NLL, 0 or more

    needs = LossNeeds()  # no optional inputs

    def __post_init__(self) -> None:
        check_scheduled(self, "beta", 0, above=True)
        check_scheduled(self, "alpha", 0)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example. The reward is `beta * lp`."""
        alpha = constant(self, "alpha")
        beta = constant(self, "beta")
        scores = masked_log_probs(policy, reference)
        preference = mean_over_pairs(-logsigmoid(beta * score_differences(scores)), scores.valid)
        return preference_terms(preference + alpha * negative_log_likelihood(policy), scores, beta)


@dataclass(frozen=True)
class ORPO:
    """Odds-ratio preference optimization, `NLL(y_w) - weight * log s(log_odds_w - log_odds_l)`.

    Hong et al. 2024, arXiv 2403.07691, Eq. 6; `weight` is the paper's lambda. `log_odds = a - log(1 - exp(a))` with `a = lp / L`, and
    the NLL is -a of the positive. For K negatives, the second term is the mean over the pairs. A row without negatives keeps its
    NLL. Deviation: `a` is clamped to at most -1e-6 in the odds, which are infinite at 0; above it they have no gradient.
    """

    weight: NumberOrSchedule = 0.1  # weight of the odds ratio relative to the NLL, 0 or more

    needs = LossNeeds()  # no optional inputs

    def __post_init__(self) -> None:
        check_scheduled(self, "weight", 0)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example. The reward is `weight * lp / L`."""
        weight = constant(self, "weight")
        scores = average_log_probs(policy, reference)
        odds = scores._replace(chosen=log_odds(scores.chosen), rejected=log_odds(scores.rejected))
        preference = mean_over_pairs(-logsigmoid(score_differences(odds)), scores.valid)
        return preference_terms(negative_log_likelihood(policy) + weight * preference, scores, weight)


@dataclass(frozen=True)
class ContinuedSFT:
    """Control without preferences, `NLL(y_w)`: SFT continued for the same steps on the same batches.

    The NLL is the mean over the L codes; negatives have no influence. The logged rewards are the log-ratios (beta = 1).
    """

    needs = LossNeeds()  # no optional inputs

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example."""
        return preference_terms(negative_log_likelihood(policy), log_ratios(policy, reference), 1.0)


def average_log_probs(policy: LogProbs, reference: LogProbs) -> Scores:
    """Return the average log-probability of a code, `lp / L`."""
    scores = masked_log_probs(policy, reference)
    return scores._replace(chosen=scores.chosen / policy.length, rejected=scores.rejected / policy.length)


def log_odds(average: Tensor) -> Tensor:
    """Return `a - log(1 - exp(a))` for average log-probabilities a, clamped to at most `MAX_LOG_PROB`.

    It uses `expm1` near 0 and `log1p` elsewhere. The branch that is not selected gets a harmless input, because its gradient would be
    NaN (0 times infinity).
    """
    a = average.clamp(max=MAX_LOG_PROB)
    near = a > -math.log(2)
    small = torch.where(near, a, -1.0)
    large = torch.where(near, -1.0, a)
    return a - torch.where(near, (-small.expm1()).log(), (-large.exp()).log1p())
