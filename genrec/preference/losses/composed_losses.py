"""Stage 5, losses made of losses: an anchor, label smoothing; and what a loss, however it is wrapped, asks of training.

A composition holds the loss it wraps as `loss`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genrec.errors import UsageError
from genrec.preference.losses.log_ratios import negative_log_likelihood
from genrec.preference.losses.smoothing import both_ways, smooth
from genrec.preference.range_checks import check_range
from genrec.types import LogProbs, PreferenceLoss, PreferenceTerms


@dataclass(frozen=True)
class Anchored:
    """A loss plus `alpha * NLL(y_w)`, which keeps the positive likely while preferences are learned (Pang et al. 2024, 2404.19733).

    The NLL is the mean over the L codes, as in the paper, so that alpha means the same at every L. A row without negatives
    still has its NLL.
    """

    loss: PreferenceLoss  # the preference objective that is anchored
    alpha: float = 1.0  # weight of the positive's NLL, 0 or more

    def __post_init__(self) -> None:
        _check_loss(self)
        check_range(self, "alpha", 0)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example; the rewards are the anchored loss's own."""
        terms = self.loss(policy, reference)
        return terms._replace(loss=terms.loss + self.alpha * negative_log_likelihood(policy))


@dataclass(frozen=True)
class Smoothed:
    """Label smoothing of a loss of pairs, `(1-e) loss(w, l) + e loss(l, w)`, the mean over the pairs.

    With DPO it is `ConservativeDPO`. The loss sees each pair by itself, so that DPO takes any number of negatives, and S-DPO is DPO.
    An NLL in the loss (CPO, ORPO, Anchored) would be smoothed with it, raising the negative: put the anchor outside,
    `Anchored(Smoothed(CPO(alpha=0)))`.
    """

    loss: PreferenceLoss  # the preference objective that is smoothed
    label_smoothing: float = 0.1  # how likely a label is taken to be wrong, in [0, 0.5)

    def __post_init__(self) -> None:
        _check_loss(self)
        check_range(self, "label_smoothing", 0, 0.5)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example; the rewards are the smoothed loss's own."""
        return smooth(both_ways(self.loss, policy, reference), self.label_smoothing)


def asked(loss: PreferenceLoss, name: Literal["mismatched", "reward"]) -> object | None:
    """What a loss, or the first it wraps that does, asks for: `mismatched` true or a `reward`; None where none does."""
    inner: object | None = loss
    while inner is not None:
        found: object | None = getattr(inner, name, None)
        if found is not None and found is not False:
            return found
        inner = getattr(inner, "loss", None)
    return None


def _check_loss(composition: Anchored | Smoothed) -> None:
    if isinstance(composition.loss, type) or not isinstance(composition.loss, PreferenceLoss):
        raise UsageError(f"{type(composition).__name__}.loss must be a preference loss such as SoftmaxDPO(), got {composition.loss!r}")
