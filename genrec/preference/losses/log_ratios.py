"""Building blocks of the losses: masked log-ratios and log-probabilities, means over pairs, and rewards.

Masked places are filled with 0 before any arithmetic, because -inf minus -inf is NaN; the gradient there is exactly 0. In a row
without a positive (`chosen` is -inf under policy or reference) all negatives are masked, because there is nothing to compare. Half
precision is computed in float32; float64 stays float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from genrec.errors import InputError, NumericsError, UsageError
from genrec.types import LogProbs, PreferenceTerms


class Scores(NamedTuple):
    """A score of the positive and of each negative, with the mask of the negatives."""

    chosen: Tensor  # float32 [B]  0 where there is no positive
    rejected: Tensor  # float32 [B, K]  0 where masked
    valid: Tensor  # bool [B, K]  false where masked
    missing: Tensor | None = None  # bool [B]  rows without a positive; None: there are none


def log_ratios(policy: LogProbs, reference: LogProbs) -> Scores:
    """Return the log-ratios `D_y = lp(y) - lp_ref(y)`."""
    ours, theirs = masked_log_probs(policy, reference), masked_log_probs(reference, policy)
    return Scores(ours.chosen - theirs.chosen, ours.rejected - theirs.rejected, ours.valid, ours.missing)


def masked_log_probs(policy: LogProbs, reference: LogProbs) -> Scores:
    """Return the policy's log-probabilities `lp(y)`. The reference is used only for the mask."""
    _check_shapes(policy, reference)
    missing = is_masked(policy.chosen, reference.chosen)
    masked = is_masked(policy.rejected, reference.rejected) | missing.unsqueeze(1)
    chosen, rejected = policy.chosen.masked_fill(missing, 0.0), policy.rejected.masked_fill(masked, 0.0)
    return Scores(at_least_float32(chosen), at_least_float32(rejected), ~masked, missing)


def is_masked(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return where a log-probability is -inf under the policy or under the reference: bool, the shape of the arguments."""
    return ours.isneginf() | theirs.isneginf()


def at_least_float32(values: Tensor) -> Tensor:
    """Convert half precision to float32; keep float32 and float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def mean_over_pairs(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of values [B, K] over the valid negatives, bool [B, K]: [B], 0 in a row without any."""
    return torch.where(valid, values, 0.0).sum(1) / valid.sum(1).clamp(min=1)


def score_differences(scores: Scores) -> Tensor:
    """Return the positive's score minus each negative's, [B, K]; 0 where masked."""
    return (scores.chosen.unsqueeze(1) - scores.rejected).masked_fill(~scores.valid, 0.0)


def negative_log_likelihood(policy: LogProbs) -> Tensor:
    """Return the NLL of the positive, `-lp(y_w) / L`, the mean over the L codes: float32 [B], 0 without a positive."""
    return -at_least_float32(policy.chosen.masked_fill(policy.chosen.isneginf(), 0.0)) / policy.length


def preference_terms(loss: Tensor, scores: Scores, scale: float | Tensor) -> PreferenceTerms:
    """Return a loss [B] together with the implicit rewards `scale * score`, detached, -inf where masked.

    `scale` is a number or a tensor float32 [], such as a beta that follows the batch.
    """
    chosen, rejected = (scale * scores.chosen).detach(), (scale * scores.rejected).detach()
    if scores.missing is not None:
        chosen = chosen.masked_fill(scores.missing, -torch.inf)
    return PreferenceTerms(loss, chosen, rejected.masked_fill(~scores.valid, -torch.inf))


def split_rewards(policy: LogProbs, valid: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Return `LogProbs.rewards` of the positive [B] and of the negatives [B, K]; masked negatives get the positive's reward.

    In a row that compares nothing, bool [B, K] `valid` is false everywhere and all rewards are 1.
    """
    if policy.rewards is None:
        raise UsageError(f"{name} needs LogProbs.rewards, got None; set align.objective.reward, such as RatingRecency() or Popular()")
    if policy.rewards.shape != (valid.shape[0], 1 + valid.shape[1]):
        raise UsageError(
            f"LogProbs.rewards must be [B, 1 + K] = {[valid.shape[0], 1 + valid.shape[1]]}, the positive first, "
            f"got {list(policy.rewards.shape)}"
        )
    rewards = at_least_float32(policy.rewards.detach())
    chosen = torch.where(valid.any(1), rewards[:, 0], 1.0)
    return chosen, torch.where(valid, rewards[:, 1:], chosen.unsqueeze(1))


def check_rewards(rewards: Tensor, wrong: Tensor, rule: str) -> None:
    """Raise an error for the first of rewards float32 [B, 1 + K] where `wrong`, bool [B, 1 + K], is true.

    It is a NumericsError for NaN and infinity, as of any other non-finite value, and an InputError for a number that the loss cannot
    use. On a GPU this check waits for the device.
    """
    if not bool(wrong.any()):
        return
    row, place = (int(index) for index in wrong.nonzero()[0])
    which = "the positive" if place == 0 else f"negative {place - 1}"
    value = float(rewards[row, place])
    kind = InputError if math.isfinite(value) else NumericsError
    raise kind(f"{rule}, got {value:g} for {which} of row {row}; use another align.objective.reward")


def _check_shapes(policy: LogProbs, reference: LogProbs) -> None:
    for name, ours, theirs in zip(("chosen", "rejected"), policy[:2], reference[:2], strict=True):
        if ours.shape != theirs.shape or ours.shape[:1] != policy.chosen.shape or ours.ndim != 1 + (name == "rejected"):
            raise UsageError(
                "log-probabilities must be chosen [B] and rejected [B, K], with equal shapes for policy and reference; "
                f"got {name} {tuple(ours.shape)} and {tuple(theirs.shape)}, policy.chosen {tuple(policy.chosen.shape)}"
            )
