"""Losses for noisy labels: conservative DPO, robust DPO and RosePO. For K negatives, the mean over the pairs; `D = D_w - D_l`.

All three weigh the loss of a pair against the loss of the swapped pair. `pair_losses` computes both for any loss, and `Smoothed` uses
it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from genrec.preference.losses.log_ratios import check_rewards, masked_log_probs, mean_over_pairs, split_rewards
from genrec.preference.losses.softmax import DPO
from genrec.preference.range_checks import check_range
from genrec.preference.schedules import check_scheduled, constant
from genrec.types import LogProbs, LossNeeds, NumberOrSchedule, PreferenceLoss, PreferenceTerms

MAX_SMOOTHING = 0.49  # upper bound of RosePO's smoothing; a pair has no gradient at 0.5 and a reversed one above


@dataclass(frozen=True)
class ConservativeDPO:
    """cDPO, `-(1-e) log s(beta D) - e log s(-beta D)` with e = `label_smoothing`.

    Mitchell 2023, "A note on DPO with noisy preferences", Eq. 3. Labels are assumed to be wrong with probability e: the gradient is 0
    where `s(beta D) = 1 - e` and pushes D down above it. For K negatives, the mean over the pairs.
    """

    beta: NumberOrSchedule = 0.1  # strength of the pull to the reference, above 0
    label_smoothing: float = 0.1  # e, the assumed probability of a wrong label, in [0, 0.5); 0 is DPO

    needs = LossNeeds()  # no optional inputs

    def __post_init__(self) -> None:
        check_scheduled(self, "beta", 0, above=True)
        check_range(self, "label_smoothing", 0, 0.5)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example."""
        beta = constant(self, "beta")
        return smooth(pair_losses(DPO(beta), policy, reference), self.label_smoothing)


@dataclass(frozen=True)
class RobustDPO:
    """rDPO, `[-(1-e) log s(beta D) + e log s(-beta D)] / (1 - 2e)` with e = `label_smoothing`.

    Chowdhury et al. 2024, arXiv 2403.00409. If labels are flipped with probability e, the expected loss is the DPO loss of the true
    labels. It is not bounded below. For K negatives, the mean over the pairs.
    """

    beta: NumberOrSchedule = 0.1  # strength of the pull to the reference, above 0
    label_smoothing: float = 0.1  # e, the assumed probability of a flipped label, in [0, 0.5); 0 is DPO

    needs = LossNeeds()  # no optional inputs

    def __post_init__(self) -> None:
        check_scheduled(self, "beta", 0, above=True)
        check_range(self, "label_smoothing", 0, 0.5)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example."""
        beta = constant(self, "beta")
        return smooth(pair_losses(DPO(beta), policy, reference), -self.label_smoothing / (1 - 2 * self.label_smoothing))


@dataclass(frozen=True)
class RosePO:
    """RosePO: cDPO with a smoothing per pair, from rewards (Liao et al. 2024, arXiv 2410.12519).

    The smoothing is `e_k = 2 * label_smoothing * s(r_k - r_w)`, at most 0.49: `label_smoothing` where the rewards are equal, less
    where the positive's is higher, and up to twice as much where the negative's is higher. For K negatives, the mean over the pairs.
    Without rewards (`align.objective.reward`) every pair has `label_smoothing`, which is cDPO.

    Deviation: the paper trains an oracle that scores labels. Here any `Reward` does, such as `BaselineScore(BPR(), reads="user")`, and
    the formula for the smoothing is ours. With `label_smoothing` near 0.5 it is the Bradley-Terry probability of a wrong label.
    """

    beta: NumberOrSchedule = 0.1  # strength of the pull to the reference, above 0
    label_smoothing: float = 0.1  # smoothing of a pair with equal rewards, in [0, 0.5)

    needs = LossNeeds()  # no optional inputs

    def __post_init__(self) -> None:
        check_scheduled(self, "beta", 0, above=True)
        check_range(self, "label_smoothing", 0, 0.5)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example. With rewards, the check for finite values waits for the GPU."""
        beta = constant(self, "beta")
        pairs = pair_losses(DPO(beta), policy, reference)
        if policy.rewards is None:
            return smooth(pairs, self.label_smoothing)
        chosen, rejected = split_rewards(policy, pairs.valid, "RosePO")
        both = torch.cat([chosen.unsqueeze(1), rejected], 1)
        check_rewards(both, ~both.isfinite(), "RosePO needs finite rewards")
        return smooth(pairs, flip_probability(chosen, rejected, self.label_smoothing))


class PairLosses(NamedTuple):
    """The loss of every single pair, as labeled and swapped."""

    labeled: Tensor  # float32 [B, K]  loss(w, l)
    swapped: Tensor  # float32 [B, K]  loss(l, w)
    valid: Tensor  # bool [B, K]  false where masked
    chosen_reward: Tensor  # float32 [B]
    rejected_reward: Tensor  # float32 [B, K]


def pair_losses(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> PairLosses:
    """Return the loss of every pair on its own (K = 1) and of the swapped pair. Values are arbitrary where masked."""
    valid = masked_log_probs(policy, reference).valid
    ours, theirs = _pairs(policy, valid), _pairs(reference, valid)
    labeled, swapped = loss(ours, theirs), loss(_swap(ours), _swap(theirs))
    first = loss(_first(policy), _first(reference))  # the positive's reward does not depend on the negatives
    rejected = labeled.rejected_reward.reshape(valid.shape).masked_fill(~valid, -torch.inf)
    return PairLosses(labeled.loss.reshape(valid.shape), swapped.loss.reshape(valid.shape), valid, first.chosen_reward, rejected)


def smooth(pairs: PairLosses, label_smoothing: Tensor | float) -> PreferenceTerms:
    """Return `(1-e) loss(w, l) + e loss(l, w)`, averaged over the pairs; e is a tensor [B, K] or one number."""
    loss = mean_over_pairs((1 - label_smoothing) * pairs.labeled + label_smoothing * pairs.swapped, pairs.valid)
    return PreferenceTerms(loss, pairs.chosen_reward, pairs.rejected_reward)


def flip_probability(chosen: Tensor, rejected: Tensor, label_smoothing: float) -> Tensor:
    """Return RosePO's smoothing `2 * label_smoothing * s(r_k - r_w)`, at most `MAX_SMOOTHING`: [B, K].

    `chosen` [B] and `rejected` [B, K] are rewards.
    """
    return (2 * label_smoothing * (rejected - chosen.unsqueeze(1)).sigmoid()).clamp(max=MAX_SMOOTHING)


def _pairs(log_probs: LogProbs, valid: Tensor) -> LogProbs:
    """Return B * K rows of K = 1, each negative with its positive. Masked negatives get log-probability 0."""
    count, levels = valid.shape[1], log_probs.levels
    rejected = log_probs.rejected.masked_fill(~valid, 0.0).reshape(-1, 1)
    mismatched = None if log_probs.mismatched is None else log_probs.mismatched.repeat_interleave(count)
    rewards = None
    if log_probs.rewards is not None:
        positive, negative = split_rewards(log_probs, valid, "a pair")
        rewards = torch.stack([positive.unsqueeze(1).expand_as(negative), negative], 2).reshape(-1, 2)
    if levels is not None:
        negative = levels[:, 1:].masked_fill(~valid.unsqueeze(2), 0.0)
        levels = torch.stack([levels[:, :1].expand_as(negative), negative], 2).flatten(0, 1)
    return LogProbs(log_probs.chosen.repeat_interleave(count), rejected, log_probs.length, mismatched, rewards, levels)


def _swap(log_probs: LogProbs) -> LogProbs:
    """Exchange the positive and the negative of pairs (K = 1)."""
    rewards, levels = (None if part is None else part.flip(1) for part in (log_probs.rewards, log_probs.levels))
    return log_probs._replace(chosen=log_probs.rejected[:, 0], rejected=log_probs.chosen.unsqueeze(1), rewards=rewards, levels=levels)


def _first(log_probs: LogProbs) -> LogProbs:
    """Keep only the first negative, if there is one."""
    rewards, levels = (None if part is None else part[:, :2] for part in (log_probs.rewards, log_probs.levels))
    return log_probs._replace(rejected=log_probs.rejected[:, :1], rewards=rewards, levels=levels)
