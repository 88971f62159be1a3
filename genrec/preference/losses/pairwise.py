"""Pairwise losses with a target margin: IPO and Hinge. For K negatives, the mean over the pairs; `D = D_w - D_l`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genrec.errors import UsageError
from genrec.preference.losses.log_ratios import log_ratios, mean_over_pairs, preference_terms, score_differences
from genrec.preference.schedules import check_scheduled, constant
from genrec.types import LogProbs, LossNeeds, NumberOrSchedule, PreferenceTerms


@dataclass(frozen=True)
class IPO:
    """Identity preference optimization, `(D - 1 / (2 beta))^2` (Azar et al. 2023, arXiv 2310.12036, Eq. 17).

    For K negatives, the mean over the pairs. The target margin 1 / (2 beta) is 5 at beta = 0.1. With `reduction="sum"`, as in the
    paper, it is in nats per Semantic ID. With `reduction="mean"` log-ratios are averaged over the L codes and it is in nats per
    code, so the total margin is L times as large.
    """

    beta: NumberOrSchedule = 0.1  # strength of the pull to the reference, above 0
    reduction: Literal["sum", "mean"] = "sum"  # over the L codes of a log-ratio

    needs = LossNeeds()  # no optional inputs

    def __post_init__(self) -> None:
        check_scheduled(self, "beta", 0, above=True)
        if self.reduction not in ("sum", "mean"):
            raise UsageError(f"IPO.reduction must be 'sum' or 'mean', got {self.reduction!r}")

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example."""
        beta = constant(self, "beta")
        scores = log_ratios(policy, reference)
        codes = policy.length if self.reduction == "mean" else 1
        losses = (score_differences(scores) / codes - 1 / (2 * beta)).square()
        return preference_terms(mean_over_pairs(losses, scores.valid), scores, beta / codes)


@dataclass(frozen=True)
class Hinge:
    """The hinge loss of SLiC, `max(0, 1 - beta D)` (Zhao et al. 2023, arXiv 2305.10425). For K negatives, the mean over the pairs.

    Deviation: SLiC-HF compares log-probabilities and has no reference. Here D is a difference of log-ratios, as in RSO (Liu et al.
    2023, arXiv 2309.06657), so beta has the same meaning as in DPO.
    """

    beta: NumberOrSchedule = 0.1  # the margin is 1 / beta nats, above 0

    needs = LossNeeds()  # no optional inputs

    def __post_init__(self) -> None:
        check_scheduled(self, "beta", 0, above=True)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example."""
        beta = constant(self, "beta")
        scores = log_ratios(policy, reference)
        losses = (1 - beta * score_differences(scores)).relu()
        return preference_terms(mean_over_pairs(losses, scores.valid), scores, beta)
