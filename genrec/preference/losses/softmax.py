"""Losses that weigh the positive against all negatives at once: DPO, S-DPO, DMPO and RecPO."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from genrec.errors import UsageError
from genrec.preference.losses.log_ratios import Scores, check_rewards, log_ratios, mean_over_pairs, preference_terms, split_rewards
from genrec.preference.schedules import check_scheduled, constant
from genrec.types import LogProbs, LossNeeds, NumberOrSchedule, PreferenceTerms


@dataclass(frozen=True)
class DPO:
    """Direct preference optimization, `-log s(beta (D_w - D_l))` (Rafailov et al. 2023, arXiv 2305.18290, Eq. 7).

    K must be 1, because the paper defines no loss for more; `SoftmaxDPO` equals it there.
    """

    beta: NumberOrSchedule = 0.1  # strength of the pull to the reference, above 0

    needs = LossNeeds()  # no optional inputs

    def __post_init__(self) -> None:
        check_scheduled(self, "beta", 0, above=True)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example."""
        beta = constant(self, "beta")
        if policy.rejected.ndim == 2 and policy.rejected.shape[1] > 1:
            raise UsageError(
                f"DPO compares the positive with one negative, got K = {policy.rejected.shape[1]}: "
                "let the proposer give one, such as Sampled(num_negatives=1), or use SoftmaxDPO (S-DPO), which takes any number"
            )
        return SoftmaxDPO(beta)(policy, reference)


@dataclass(frozen=True)
class SoftmaxDPO:
    """S-DPO, `-log [exp(beta D_w) / (exp(beta D_w) + sum_k exp(beta D_k))]` (Chen et al. 2024, arXiv 2406.09215).

    Any K. The paper writes the same loss as `-log s(-log sum_k exp(beta D_k - beta D_w))`.
    """

    beta: NumberOrSchedule = 1.0  # strength of the pull to the reference, above 0

    needs = LossNeeds()  # no optional inputs

    def __post_init__(self) -> None:
        check_scheduled(self, "beta", 0, above=True)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example."""
        beta = constant(self, "beta")
        scores = log_ratios(policy, reference)
        return preference_terms(softmax_loss(scores, beta), scores, beta)


@dataclass(frozen=True)
class DMPO:
    """Direct multi-preference optimization, `-log s(beta D_w - (1/K) sum_k beta D_k)` (Bai et al. 2024, arXiv 2405.16127).

    Any K. Masked negatives are left out of the mean.
    """

    beta: NumberOrSchedule = 0.1  # strength of the pull to the reference, above 0

    needs = LossNeeds()  # no optional inputs

    def __post_init__(self) -> None:
        check_scheduled(self, "beta", 0, above=True)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example."""
        beta = constant(self, "beta")
        scores = log_ratios(policy, reference)
        margin = beta * (scores.chosen - mean_over_pairs(scores.rejected, scores.valid))
        return preference_terms(torch.where(scores.valid.any(1), -logsigmoid(margin), 0.0), scores, beta)


@dataclass(frozen=True)
class RecPO:
    """RecPO: S-DPO with a margin per negative, `log(1 + sum_k exp(gamma_k + beta (D_k - D_w)))`.

    Ouyang et al. 2025, arXiv 2506.02261. The margin is `gamma_k = weight * phi_w / phi_k` with phi > 0 from the rewards
    (`align.objective.reward`, such as `StepDiscountedRating`): the better the positive relative to a negative, the larger the margin.
    Any K.
    At the start the loss is `log(1 + sum_k exp(gamma_k))`, above ln(1 + K).
    """

    beta: NumberOrSchedule = 1.0  # strength of the pull to the reference, above 0
    weight: NumberOrSchedule = 1.0  # weight of the margins, 0 or more; 0 is S-DPO

    needs = LossNeeds(rewards=True)  # divides them

    def __post_init__(self) -> None:
        check_scheduled(self, "beta", 0, above=True)
        check_scheduled(self, "weight", 0)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example. The check that phi is above 0 and finite waits for the GPU."""
        weight = constant(self, "weight")
        beta = constant(self, "beta")
        scores = log_ratios(policy, reference)
        chosen, rejected = split_rewards(policy, scores.valid, "RecPO")
        both = torch.cat([chosen.unsqueeze(1), rejected], 1)
        wrong = ~((both > 0) & both.isfinite())
        check_rewards(both, wrong, "RecPO divides rewards, which must be above 0 and finite")
        margins = weight * chosen.unsqueeze(1) / rejected
        return preference_terms(softmax_loss(scores, beta, margins), scores, beta)


def softmax_loss(scores: Scores, beta: float, margins: Tensor | float = 0.0) -> Tensor:
    """Return `log(1 + sum_k exp(gamma_k + beta (D_k - D_w)))`, [B], for log-ratios D and margins gamma, [B, K] or one number.

    Computed as a cross-entropy over the positive (class 0) and the negatives, because `log_softmax` never overflows.
    """
    rejected = (beta * scores.rejected + margins).masked_fill(~scores.valid, -torch.inf)
    return -torch.cat([beta * scores.chosen.unsqueeze(1), rejected], 1).log_softmax(1)[:, 0]
