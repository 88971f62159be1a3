"""Losses that wrap another loss: an anchor (`Anchored`) and label smoothing (`Smoothed`).

A composition needs the optional inputs that the loss inside needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from genrec.errors import UsageError
from genrec.preference.losses.log_ratios import negative_log_likelihood
from genrec.preference.losses.smoothing import pair_losses, smooth
from genrec.preference.range_checks import check_range
from genrec.types import LogProbs, LossNeeds, PreferenceLoss, PreferenceTerms


@dataclass(frozen=True)
class Anchored:
    """A loss plus `alpha * NLL(y_w)`, which keeps the positive likely (Pang et al. 2024, arXiv 2404.19733).

    The NLL is the mean over the L codes, as in the paper, so alpha has the same meaning for every L. A row without negatives keeps
    its NLL.
    """

    loss: PreferenceLoss  # the loss to anchor
    alpha: float = 1.0  # weight of the positive's NLL, 0 or more

    @property
    def needs(self) -> LossNeeds:
        """The optional inputs of the loss inside."""
        return self.loss.needs

    def __post_init__(self) -> None:
        _check_loss(self)
        check_range(self, "alpha", 0)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example, with the rewards of the anchored loss."""
        terms = self.loss(policy, reference)
        return terms._replace(loss=terms.loss + self.alpha * negative_log_likelihood(policy))


@dataclass(frozen=True)
class Smoothed:
    """Label smoothing of a pairwise loss: `(1-e) loss(w, l) + e loss(l, w)`, with e = `label_smoothing`, averaged over the pairs.

    `Smoothed(DPO())` equals `ConservativeDPO`. The loss is called with one pair at a time, so DPO accepts any K and S-DPO equals DPO.
    An NLL inside the loss (CPO, ORPO, Anchored) would be smoothed too, which raises the negative; put the anchor outside:
    `Anchored(Smoothed(CPO(alpha=0)))`.
    """

    loss: PreferenceLoss  # the loss to smooth
    label_smoothing: float = 0.1  # e, the assumed probability of a wrong label, in [0, 0.5)

    @property
    def needs(self) -> LossNeeds:
        """The optional inputs of the loss inside."""
        return self.loss.needs

    def __post_init__(self) -> None:
        _check_loss(self)
        check_range(self, "label_smoothing", 0, 0.5)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example, with the rewards of the smoothed loss."""
        return smooth(pair_losses(self.loss, policy, reference), self.label_smoothing)


def _check_loss(composition: Anchored | Smoothed) -> None:
    if isinstance(composition.loss, type) or not isinstance(composition.loss, PreferenceLoss):
        raise UsageError(f"{type(composition).__name__}.loss must be a preference loss such as SoftmaxDPO(), got {composition.loss!r}")
