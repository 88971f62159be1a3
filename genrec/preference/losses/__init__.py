"""Stage 5, preference losses: pure functions of log-probabilities, as frozen specifications.

In: `LogProbs` of the positive `y_w` and its negatives `y_1..y_K` under the policy and under the frozen reference (the SFT policy),
each the sum over the L codes. Out: `PreferenceTerms`, one loss an example; a batch is their mean.
`D_y = lp(y) - lp_ref(y)` is the log-ratio and `beta * D_y` the implicit reward.

A masked negative is -inf under the policy and under the reference: it counts for nothing, as if it were not there, and has a
gradient of 0. A row without negatives adds 0 to the preference part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genrec.errors import NumericsError, UsageError
from genrec.types import LogProbs, PreferenceLoss, PreferenceTerms

__all__ = ["DPO", "Anchored", "ContinuedSFT", "SoftmaxDPO", "check_start", "starting_loss"]


@dataclass(frozen=True)
class DPO:
    """Direct preference optimisation, `-log s(beta * (D_w - D_l))` (Rafailov et al. 2023, 2305.18290, Eq. 7): S-DPO at K = 1.

    One negative a positive; more are refused, because the paper has no loss for them.
    """

    beta: float = 0.1  # strength of the tie to the reference, above 0

    def __post_init__(self) -> None:
        _check_beta(self)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example."""
        if policy.rejected.shape[1] > 1:
            raise UsageError(
                f"DPO compares the positive with one negative, got K = {policy.rejected.shape[1]}: "
                "set align.count to 1, or use SoftmaxDPO (S-DPO), which takes any number"
            )
        return _softmax_preference(policy, reference, self.beta)


@dataclass(frozen=True)
class SoftmaxDPO:
    """S-DPO: the positive against all negatives at once, `-log [exp(beta D_w) / (exp(beta D_w) + sum_k exp(beta D_k))]`.

    Chen et al. 2024, 2406.09215, where it stands in the equal form `-log s(-log sum_k exp(beta D_k - beta D_w))`.
    """

    beta: float = 1.0  # strength of the tie to the reference, above 0

    def __post_init__(self) -> None:
        _check_beta(self)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example."""
        return _softmax_preference(policy, reference, self.beta)


@dataclass(frozen=True)
class Anchored:
    """A loss plus `alpha * NLL(y_w)`, which keeps the positive likely while preferences are learnt (Pang et al. 2024, 2404.19733).

    The NLL is the mean over the L codes, as in the paper, so that alpha means the same at every L. A row without negatives
    still has its NLL.
    """

    loss: PreferenceLoss  # the preference objective that is anchored
    alpha: float = 1.0  # weight of the positive's NLL, 0 or more

    def __post_init__(self) -> None:
        if isinstance(self.loss, type) or not isinstance(self.loss, PreferenceLoss):
            raise UsageError(f"Anchored.loss must be a preference loss such as SoftmaxDPO(), got {self.loss!r}")
        if not 0 <= self.alpha < float("inf"):
            raise UsageError(f"Anchored.alpha must be 0 or more and finite, got {self.alpha}")

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example; the rewards are the anchored loss's own."""
        terms = self.loss(policy, reference)
        return terms._replace(loss=terms.loss + self.alpha * _negative_log_likelihood(policy))


@dataclass(frozen=True)
class ContinuedSFT:
    """The control: SFT goes on for as many steps on the same batches, without preferences. The loss is NLL(y_w) alone.

    The NLL is the mean over the L codes. The rewards, shown beside those of the others, are the log-ratios (beta = 1).
    """

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example."""
        chosen, rejected = _log_ratios(policy, reference)
        return PreferenceTerms(_negative_log_likelihood(policy), chosen.detach(), rejected.detach())


def starting_loss(valid: Tensor) -> Tensor:
    """What S-DPO must be where policy and reference are one: bool [B, K], whether there is a negative -> ln(1 + their number), [B]."""
    return torch.log1p(valid.sum(1).to(torch.get_default_dtype()))


def check_start(policy: LogProbs, reference: LogProbs, tolerance: float = 1e-4) -> None:
    """Refuse a first batch whose S-DPO loss (beta 1) is not ln(1 + K) in every row: policy and reference then are not the same."""
    with torch.no_grad():
        loss = SoftmaxDPO(beta=1.0)(policy, reference).loss
        expected = starting_loss(~_masked(policy, reference)).to(loss)
    difference = (loss - expected).abs().nan_to_num(nan=torch.inf)
    if difference.numel() == 0 or float(difference.max()) <= tolerance:
        return
    row = int(difference.argmax())
    raise NumericsError(
        f"step 0 of alignment: the S-DPO loss of row {row} is {float(loss[row]):.6f}, expected ln(1 + K) = {float(expected[row]):.6f} "
        f"within {tolerance:g}, because policy and reference start as the same model. Likely causes: the reference is not the SFT "
        "policy that alignment starts from; dropout is left on; the two score different items or codes (an off-by-one)"
    )


def _softmax_preference(policy: LogProbs, reference: LogProbs, beta: float) -> PreferenceTerms:
    """S-DPO as the cross-entropy over {positive} + negatives, the positive being class 0: `log_softmax` never overflows."""
    chosen, rejected = _log_ratios(policy, reference)
    rewards = beta * torch.cat([chosen.unsqueeze(1), rejected], 1)  # [B, 1 + K]
    loss = -rewards.log_softmax(1)[:, 0]
    return PreferenceTerms(loss, rewards[:, 0].detach(), rewards[:, 1:].detach())


def _log_ratios(policy: LogProbs, reference: LogProbs) -> tuple[Tensor, Tensor]:
    """`D_w` [B] and `D_k` [B, K], -inf where masked; the mask comes before the difference, as -inf minus -inf would be NaN."""
    for name, ours, theirs in zip(("chosen", "rejected"), policy[:2], reference[:2], strict=True):
        if ours.shape != theirs.shape or ours.shape[:1] != policy.chosen.shape or ours.ndim != 1 + (name == "rejected"):
            raise UsageError(
                f"log-probabilities must be chosen [B] and rejected [B, K], the same under policy and reference; "
                f"got {name} {tuple(ours.shape)} and {tuple(theirs.shape)}, policy.chosen {tuple(policy.chosen.shape)}"
            )
    masked = _masked(policy, reference)
    rejected = policy.rejected.masked_fill(masked, 0.0) - reference.rejected.masked_fill(masked, 0.0)
    return policy.chosen - reference.chosen, rejected.masked_fill(masked, -torch.inf)


def _masked(policy: LogProbs, reference: LogProbs) -> Tensor:
    """Where there is no negative, bool [B, K]."""
    return policy.rejected.isneginf() & reference.rejected.isneginf()


def _negative_log_likelihood(policy: LogProbs) -> Tensor:
    """`-lp(y_w) / L`, float32 [B]."""
    return -policy.chosen / policy.length


def _check_beta(loss: DPO | SoftmaxDPO) -> None:
    if not 0 < loss.beta < float("inf"):
        raise UsageError(f"{type(loss).__name__}.beta must be above 0 and finite, got {loss.beta}")
