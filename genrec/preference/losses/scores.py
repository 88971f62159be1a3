"""What every preference loss starts from: log-ratios or log-probabilities with their mask, and means over the pairs that are there.

In: `LogProbs` under policy and reference. Out: `Scores`, finite numbers beside a mask, so that no arithmetic meets -inf and the
gradient at a masked place is exactly 0. Half precision is computed in float32; float64 stays.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.types import LogProbs, PreferenceTerms


class Scores(NamedTuple):
    """A number for the positive and for every negative."""

    chosen: Tensor  # float32 [B]
    rejected: Tensor  # float32 [B, K]  0 where masked
    valid: Tensor  # bool [B, K]  whether there is a negative


def log_ratios(policy: LogProbs, reference: LogProbs) -> Scores:
    """`D_y = lp(y) - lp_ref(y)`; the mask comes before the difference, as -inf minus -inf would be NaN."""
    ours, theirs = log_probabilities(policy, reference), log_probabilities(reference, policy)
    return Scores(ours.chosen - theirs.chosen, ours.rejected - theirs.rejected, ours.valid)


def log_probabilities(policy: LogProbs, reference: LogProbs) -> Scores:
    """`lp(y)` under the policy; the reference only says, with it, what is masked: -inf under both."""
    _check_shapes(policy, reference)
    masked = policy.rejected.isneginf() & reference.rejected.isneginf()
    return Scores(single(policy.chosen), single(policy.rejected.masked_fill(masked, 0.0)), ~masked)


def single(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def over_pairs(values: Tensor, valid: Tensor) -> Tensor:
    """The mean over the negatives that are there, [B]; 0 in a row without any. Values [B, K], bool [B, K]."""
    return torch.where(valid, values, 0.0).sum(1) / valid.sum(1).clamp(min=1)


def gap(scores: Scores) -> Tensor:
    """The positive's score less each negative's, [B, K]; 0 where masked."""
    return (scores.chosen.unsqueeze(1) - scores.rejected).masked_fill(~scores.valid, 0.0)


def negative_log_likelihood(policy: LogProbs) -> Tensor:
    """`-lp(y_w) / L`, float32 [B]: the mean over the L codes."""
    return -single(policy.chosen) / policy.length


def terms(loss: Tensor, scores: Scores, scale: float) -> PreferenceTerms:
    """A loss [B] with the implicit rewards `scale * score`, detached."""
    rejected = scale * scores.rejected.detach()
    return PreferenceTerms(loss, scale * scores.chosen.detach(), rejected.masked_fill(~scores.valid, -torch.inf))


def rewards_of(policy: LogProbs, valid: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """What the loss's `reward` said of the positive [B] and of the negatives [B, K], the positive's own where masked."""
    if policy.rewards is None:
        raise UsageError(f"{name} needs LogProbs.rewards, got None: rate the positive and the negatives by {name}.reward")
    if policy.rewards.shape != (valid.shape[0], 1 + valid.shape[1]):
        raise UsageError(
            f"LogProbs.rewards must be [B, 1 + K] = {[valid.shape[0], 1 + valid.shape[1]]}, the positive first, "
            f"got {list(policy.rewards.shape)}"
        )
    rewards = single(policy.rewards.detach())
    return rewards[:, 0], torch.where(valid, rewards[:, 1:], rewards[:, :1])


def check_range(loss: object, name: str, low: float, high: float = float("inf"), above: bool = False) -> None:
    """Refuse a field outside [low, high), or with `above` outside (low, high)."""
    value = getattr(loss, name)
    if low <= value < high and not (above and value == low):
        return
    if high < float("inf"):
        wanted = f"in {'(' if above else '['}{low:g}, {high:g})"
    else:
        wanted = f"above {low:g} and finite" if above else f"{low:g} or more and finite"
    raise UsageError(f"{type(loss).__name__}.{name} must be {wanted}, got {value}")


def _check_shapes(policy: LogProbs, reference: LogProbs) -> None:
    for name, ours, theirs in zip(("chosen", "rejected"), policy[:2], reference[:2], strict=True):
        if ours.shape != theirs.shape or ours.shape[:1] != policy.chosen.shape or ours.ndim != 1 + (name == "rejected"):
            raise UsageError(
                f"log-probabilities must be chosen [B] and rejected [B, K], the same under policy and reference; "
                f"got {name} {tuple(ours.shape)} and {tuple(theirs.shape)}, policy.chosen {tuple(policy.chosen.shape)}"
            )
