"""What every preference loss starts from: log-ratios or log-probabilities with their mask, and means over the pairs that are there.

In: `LogProbs` under policy and reference. Out: `Scores`, finite numbers beside a mask, so that no arithmetic meets -inf and the
gradient at a masked place is exactly 0. Half precision is computed in float32; float64 stays.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec.errors import InputError, UsageError
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
    """`lp(y)` under the policy; the reference only says, with it, what is masked."""
    _check_shapes(policy, reference)
    masked = missing(policy.rejected, reference.rejected)
    return Scores(single(policy.chosen), single(policy.rejected.masked_fill(masked, 0.0)), ~masked)


def missing(ours: Tensor, theirs: Tensor) -> Tensor:
    """Where there is no log-ratio: -inf under the policy or under the reference, bool as they."""
    return ours.isneginf() | theirs.isneginf()


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


def refuse_rewards(rewards: Tensor, wrong: Tensor, rule: str, reward: object) -> None:
    """Refuse the first of rewards float32 [B, 1 + K] where bool [B, 1 + K] is true. Looking makes a GPU's host wait."""
    if not bool(wrong.any()):
        return
    row, place = (int(index) for index in wrong.nonzero()[0])
    which = "the positive" if place == 0 else f"negative {place - 1}"
    raise InputError(f"{rule}, got {float(rewards[row, place]):g} from {reward!r} for {which} of row {row}: take another reward")


def _check_shapes(policy: LogProbs, reference: LogProbs) -> None:
    for name, ours, theirs in zip(("chosen", "rejected"), policy[:2], reference[:2], strict=True):
        if ours.shape != theirs.shape or ours.shape[:1] != policy.chosen.shape or ours.ndim != 1 + (name == "rejected"):
            raise UsageError(
                f"log-probabilities must be chosen [B] and rejected [B, K], the same under policy and reference; "
                f"got {name} {tuple(ours.shape)} and {tuple(theirs.shape)}, policy.chosen {tuple(policy.chosen.shape)}"
            )
