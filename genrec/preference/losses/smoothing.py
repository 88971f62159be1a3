"""Stage 5, losses for labels that may be wrong: conservative DPO, robust DPO, RosePO. With K negatives, the mean over the pairs.

In and out as `genrec.preference.losses` says. All three weigh the loss of a pair against that of the pair the other way round, which
works for whatever loss (`both_ways`), so that `Smoothed` shares it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.losses.log_ratios import log_probabilities, over_pairs, refuse_rewards, rewards_of
from genrec.preference.losses.softmax import DPO
from genrec.preference.range_checks import check_range
from genrec.types import LogProbs, PreferenceLoss, PreferenceTerms, Reward

if TYPE_CHECKING:
    RewardOrNone = Reward | None
else:
    RewardOrNone = object  # the command line follows the value's own class; it cannot read a protocol or None

LARGEST = 0.49  # smoothing that RosePO's reward can lead to; at 0.5 a pair would teach nothing, above it the reverse


@dataclass(frozen=True)
class ConservativeDPO:
    """cDPO, `-(1-e) log s(beta D) - e log s(-beta D)` (Mitchell 2023, "A note on DPO with noisy preferences", Eq. 3).

    The label is taken to be wrong with probability e: the gradient vanishes where `s(beta D) = 1 - e` and pushes back above it.
    """

    beta: float = 0.1  # strength of the tie to the reference, above 0
    label_smoothing: float = 0.1  # smoothing e, in [0, 0.5); 0 is DPO

    def __post_init__(self) -> None:
        check_range(self, "beta", 0, above=True)
        check_range(self, "label_smoothing", 0, 0.5)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example."""
        return smooth(both_ways(DPO(self.beta), policy, reference), self.label_smoothing)


@dataclass(frozen=True)
class RobustDPO:
    """rDPO, `[-(1-e) log s(beta D) + e log s(-beta D)] / (1 - 2e)` (Chowdhury et al. 2024, 2403.00409).

    Its expectation over labels that are flipped with probability e is the DPO loss of the right ones. It has no lower bound.
    """

    beta: float = 0.1  # strength of the tie to the reference, above 0
    label_smoothing: float = 0.1  # share e of flipped labels, in [0, 0.5); 0 is DPO

    def __post_init__(self) -> None:
        check_range(self, "beta", 0, above=True)
        check_range(self, "label_smoothing", 0, 0.5)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example."""
        return smooth(both_ways(DPO(self.beta), policy, reference), -self.label_smoothing / (1 - 2 * self.label_smoothing))


@dataclass(frozen=True)
class RosePO:
    """cDPO with a smoothing a pair, from a scorer of how likely its label is wrong (RosePO, Liao et al. 2024, 2410.12519).

    `e_k = 2 * epsilon * s(r_k - r_w)`, at most 0.49: `epsilon` where the reward finds both alike, less where it sides with the
    positive, up to twice as much where it sides with the negative. A deviation: the paper trains an oracle for it; here it is any
    `Reward`, and how a smoothing follows from one is ours. With `epsilon` near 0.5 it is the Bradley-Terry probability that the label
    is wrong.
    """

    beta: float = 0.1  # strength of the tie to the reference, above 0
    label_smoothing: float = 0.1  # smoothing where the reward finds both alike, in [0, 0.5)
    reward: RewardOrNone = None  # r, the scorer; None: every pair has `epsilon`, which is cDPO

    def __post_init__(self) -> None:
        check_range(self, "beta", 0, above=True)
        check_range(self, "label_smoothing", 0, 0.5)
        if self.reward is not None and (isinstance(self.reward, type) or not isinstance(self.reward, Reward)):
            raise UsageError(f"RosePO.reward must be None or a reward such as LogProbability(), got {self.reward!r}")

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example. With a reward, looking whether it is finite makes a GPU's host wait."""
        pairs = both_ways(DPO(self.beta), policy, reference)
        if self.reward is None:
            return smooth(pairs, self.label_smoothing)
        chosen, rejected = rewards_of(policy, pairs.valid, "RosePO")
        both = torch.cat([chosen.unsqueeze(1), rejected], 1)
        refuse_rewards(both, ~both.isfinite(), "RosePO compares rewards, which must be finite", self.reward)
        return smooth(pairs, wrongness(chosen, rejected, self.label_smoothing))


class BothWays(NamedTuple):
    """A loss of every pair by itself, as it is labeled and the other way round."""

    kept: Tensor  # float32 [B, K]  loss(w, l)
    swapped: Tensor  # float32 [B, K]  loss(l, w)
    valid: Tensor  # bool [B, K]
    chosen_reward: Tensor  # float32 [B]
    rejected_reward: Tensor  # float32 [B, K]


def both_ways(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> BothWays:
    """Ask any loss for every pair by itself, K = 1, and for its reverse. Where masked, both are numbers to be left out."""
    valid = log_probabilities(policy, reference).valid
    ours, theirs = _pairs(policy, valid), _pairs(reference, valid)
    kept, swapped = loss(ours, theirs), loss(_reverse(ours), _reverse(theirs))
    one = loss(_first(policy), _first(reference))  # the positive's reward does not depend on the negatives
    rejected = kept.rejected_reward.reshape(valid.shape).masked_fill(~valid, -torch.inf)
    return BothWays(kept.loss.reshape(valid.shape), swapped.loss.reshape(valid.shape), valid, one.chosen_reward, rejected)


def smooth(pairs: BothWays, epsilon: Tensor | float) -> PreferenceTerms:
    """`(1-e) loss(w, l) + e loss(l, w)`, the mean over the pairs; e [B, K] or one number."""
    loss = over_pairs((1 - epsilon) * pairs.kept + epsilon * pairs.swapped, pairs.valid)
    return PreferenceTerms(loss, pairs.chosen_reward, pairs.rejected_reward)


def wrongness(chosen: Tensor, rejected: Tensor, epsilon: float) -> Tensor:
    """RosePO's smoothing, `2 * epsilon * s(r_k - r_w)` and at most `LARGEST`: rewards [B] and [B, K] -> [B, K]."""
    return (2 * epsilon * (rejected - chosen.unsqueeze(1)).sigmoid()).clamp(max=LARGEST)


def _pairs(part: LogProbs, valid: Tensor) -> LogProbs:
    """Each negative with its row's positive: B * K rows of K = 1, where a masked negative has log-probability 0."""
    count = valid.shape[1]
    rejected = part.rejected.masked_fill(~valid, 0.0).reshape(-1, 1)
    mismatched = None if part.mismatched is None else part.mismatched.repeat_interleave(count)
    rewards = None
    if part.rewards is not None:
        positive, negative = rewards_of(part, valid, "a pair")
        rewards = torch.stack([positive.unsqueeze(1).expand_as(negative), negative], 2).reshape(-1, 2)
    return LogProbs(part.chosen.repeat_interleave(count), rejected, part.length, mismatched, rewards)


def _reverse(part: LogProbs) -> LogProbs:
    """The negative as the positive, K = 1."""
    rewards = None if part.rewards is None else part.rewards.flip(1)
    return part._replace(chosen=part.rejected[:, 0], rejected=part.chosen.unsqueeze(1), rewards=rewards)


def _first(part: LogProbs) -> LogProbs:
    """The first negative alone, if there is one."""
    return part._replace(rejected=part.rejected[:, :1], rewards=None if part.rewards is None else part.rewards[:, :2])
