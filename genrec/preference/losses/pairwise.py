"""Stage 5, losses of one pair that pull its log-ratios to a margin: IPO and Hinge. With K negatives, the mean over the pairs.

In and out as `genrec.preference.losses` says; `D = D_w - D_l`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genrec.errors import UsageError
from genrec.preference.losses.log_ratios import gap, log_ratios, over_pairs, terms
from genrec.preference.range_checks import check_range
from genrec.types import LogProbs, PreferenceTerms


@dataclass(frozen=True)
class IPO:
    """Identity preference optimization, `(D - 1 / (2 beta))^2` (Azar et al. 2023, 2310.12036, Eq. 17).

    The target margin 1 / (2 beta), 5 at beta .1, is one of nats a Semantic ID with `sum`, as in the paper, and of nats a code with
    `mean`, where the log-ratios are averaged over the L codes: L times as far in all.
    """

    beta: float = 0.1  # strength of the tie to the reference, above 0
    reduction: Literal["sum", "mean"] = "sum"  # of a log-ratio over its L codes

    def __post_init__(self) -> None:
        check_range(self, "beta", 0, above=True)
        if self.reduction not in ("sum", "mean"):
            raise UsageError(f"IPO.reduction must be 'sum' or 'mean', got {self.reduction!r}")

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example."""
        scores = log_ratios(policy, reference)
        codes = policy.length if self.reduction == "mean" else 1
        losses = (gap(scores) / codes - 1 / (2 * self.beta)).square()
        return terms(over_pairs(losses, scores.valid), scores, self.beta / codes)


@dataclass(frozen=True)
class Hinge:
    """SLiC's hinge, `max(0, 1 - beta D)` (Zhao et al. 2023, 2305.10425).

    A deviation: SLiC-HF compares log-probabilities and has no reference; here D is of log-ratios, as in RSO (Liu et al. 2023,
    2309.06657), so that beta means what it means in DPO.
    """

    beta: float = 0.1  # 1 / beta is the margin in nats, above 0

    def __post_init__(self) -> None:
        check_range(self, "beta", 0, above=True)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example."""
        scores = log_ratios(policy, reference)
        losses = (1 - self.beta * gap(scores)).relu()
        return terms(over_pairs(losses, scores.valid), scores, self.beta)
