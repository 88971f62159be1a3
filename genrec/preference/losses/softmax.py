"""Stage 5, losses that weigh the positive against all negatives at once: DPO, S-DPO, DMPO and RecPO.

In and out as `genrec.preference.losses` says. `s` is the logistic sigmoid.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from genrec.errors import UsageError
from genrec.preference.losses.log_ratios import Scores, log_ratios, over_pairs, refuse_rewards, rewards_of, terms
from genrec.preference.range_checks import check_range
from genrec.preference.rewards import RatingRecency
from genrec.types import LogProbs, PreferenceTerms, Reward


@dataclass(frozen=True)
class DPO:
    """Direct preference optimization, `-log s(beta * (D_w - D_l))` (Rafailov et al. 2023, 2305.18290, Eq. 7): S-DPO at K = 1.

    One negative a positive; more are refused, because the paper has no loss for them.
    """

    beta: float = 0.1  # strength of the tie to the reference, above 0

    def __post_init__(self) -> None:
        check_range(self, "beta", 0, above=True)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example."""
        if policy.rejected.ndim == 2 and policy.rejected.shape[1] > 1:
            raise UsageError(
                f"DPO compares the positive with one negative, got K = {policy.rejected.shape[1]}: "
                "set align.num_negatives to 1, or use SoftmaxDPO (S-DPO), which takes any number"
            )
        return SoftmaxDPO(self.beta)(policy, reference)


@dataclass(frozen=True)
class SoftmaxDPO:
    """S-DPO: the positive against all negatives at once, `-log [exp(beta D_w) / (exp(beta D_w) + sum_k exp(beta D_k))]`.

    Chen et al. 2024, 2406.09215, where it stands in the equal form `-log s(-log sum_k exp(beta D_k - beta D_w))`.
    """

    beta: float = 1.0  # strength of the tie to the reference, above 0

    def __post_init__(self) -> None:
        check_range(self, "beta", 0, above=True)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example."""
        scores = log_ratios(policy, reference)
        return terms(softmax_loss(scores, self.beta), scores, self.beta)


@dataclass(frozen=True)
class DMPO:
    """Direct multi-preference optimization, `-log s(beta D_w - (1/K) sum_k beta D_k)` (Bai et al. 2024, 2405.16127).

    The mean is over the negatives that are there.
    """

    beta: float = 0.1  # strength of the tie to the reference, above 0

    def __post_init__(self) -> None:
        check_range(self, "beta", 0, above=True)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example."""
        scores = log_ratios(policy, reference)
        margin = self.beta * (scores.chosen - over_pairs(scores.rejected, scores.valid))
        return terms(torch.where(scores.valid.any(1), -logsigmoid(margin), 0.0), scores, self.beta)


@dataclass(frozen=True)
class RecPO:
    """S-DPO with a margin a negative, `log(1 + sum_k exp(gamma_k + beta (D_k - D_w)))` (RecPO, Ouyang et al. 2025, 2506.02261).

    The better the positive was for the user beside a negative, the further apart they must be: `gamma_k = weight * phi_w / phi_k`,
    where phi, above 0, comes from `reward`. At the start the loss is `log(1 + sum_k exp(gamma_k))`, above ln(1 + K).
    """

    beta: float = 1.0  # strength of the tie to the reference, above 0
    weight: float = 1.0  # of the margins, 0 or more; 0 is S-DPO
    reward: Reward = field(default_factory=RatingRecency)  # phi, above 0: how good an item was for the user

    def __post_init__(self) -> None:
        check_range(self, "beta", 0, above=True)
        check_range(self, "weight", 0)
        if isinstance(self.reward, type) or not isinstance(self.reward, Reward):
            raise UsageError(f"RecPO.reward must be a reward such as RatingRecency(), got {self.reward!r}; without one use SoftmaxDPO")

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example. Looking whether phi is above 0 and finite makes a GPU's host wait."""
        scores = log_ratios(policy, reference)
        chosen, rejected = rewards_of(policy, scores.valid, "RecPO")
        both = torch.cat([chosen.unsqueeze(1), rejected], 1)
        wrong = ~((both > 0) & both.isfinite())
        refuse_rewards(both, wrong, "RecPO divides rewards, which must be above 0 and finite", self.reward)
        margins = self.weight * chosen.unsqueeze(1) / rejected
        return terms(softmax_loss(scores, self.beta, margins), scores, self.beta)


def softmax_loss(scores: Scores, beta: float, margins: Tensor | float = 0.0) -> Tensor:
    """`log(1 + sum_k exp(gamma_k + beta (D_k - D_w)))`, [B]: log-ratios, beta, gamma [B, K] or one number.

    As the cross-entropy over {positive} + negatives, the positive being class 0: `log_softmax` never overflows.
    """
    rejected = (beta * scores.rejected + margins).masked_fill(~scores.valid, -torch.inf)
    return -torch.cat([beta * scores.chosen.unsqueeze(1), rejected], 1).log_softmax(1)[:, 0]
