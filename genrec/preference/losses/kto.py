"""Stage 5, KTO: desirable and undesirable items, each against how far the policy has moved in general, and not against each other.

In and out as `genrec.preference.losses` says, and `LogProbs.mismatched`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.losses.log_ratios import Scores, log_ratios, missing, over_pairs, single, terms
from genrec.preference.range_checks import check_range
from genrec.types import LogProbs, PreferenceTerms


@dataclass(frozen=True)
class KTO:
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, 2402.01306, Eq. 8): desirable and undesirable examples.

    `desirable * (1 - s(beta (D_w - z0)))` and `undesirable * (1 - s(beta (z0 - D_l)))`, where `z0`, detached, is what an item's
    log-ratio is in general: the batch's mean of `lp - lp_ref` on mismatched pairs, at least 0. It is 0 where `LogProbs.mismatched` is
    None, as it is at the start.

    `paired`: a row's positive and its negatives are examples of one history that weigh the same: half the desirable part plus half the
    mean over the negatives, so that the paper's balance of the two kinds (Eq. 9) holds at any K. A row without either is no pair,
    and 0. Not `paired`: every item is an example of its own and weighs the same, as in the authors' code; a row may have no positive
    (`chosen` -inf under policy or reference) or no negatives. Its loss is then `B / N * (sum over its examples)`, N being the
    examples of the batch, so that the mean over its B rows is the mean over its N examples. At K = 1 the two are the same.
    """

    mismatched: ClassVar[bool] = True  # what training has to score as well

    beta: float = 0.1  # strength of the tie to the reference, above 0
    desirable_weight: float = 1.0  # lambda_D, weight of positives, 0 or more
    undesirable_weight: float = 1.0  # lambda_U, weight of negatives, 0 or more
    paired: bool = True  # whether positives and negatives weigh the same, or every item

    def __post_init__(self) -> None:
        check_range(self, "beta", 0, above=True)
        check_range(self, "desirable_weight", 0)
        check_range(self, "undesirable_weight", 0)
        if not isinstance(self.paired, bool):
            raise UsageError(f"KTO.paired must be True or False, got {self.paired!r}")

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """The loss of each example, which depends on its batch through z0, and where not `paired` through N."""
        present = ~missing(policy.chosen, reference.chosen)
        scores = log_ratios(_without(policy, present), _without(reference, present))
        positive, negative = kto_parts(scores, reference_point(policy, reference), self.beta)
        positive, negative = self.desirable_weight * positive, self.undesirable_weight * negative
        combine = pairs_loss if self.paired else examples_loss
        made = terms(combine(positive, negative, present, scores.valid), scores, self.beta)
        return made._replace(chosen_reward=made.chosen_reward.masked_fill(~present, -torch.inf))


def kto_parts(scores: Scores, reference_point: Tensor | float, beta: float) -> tuple[Tensor, Tensor]:
    """`1 - s(beta (D_w - z0))` [B] and `1 - s(beta (z0 - D_k))` [B, K], as `s(-x)`, which keeps its digits."""
    return (beta * (reference_point - scores.chosen)).sigmoid(), (beta * (scores.rejected - reference_point)).sigmoid()


def reference_point(policy: LogProbs, reference: LogProbs) -> Tensor:
    """`z0 = max(0, mean of lp - lp_ref on mismatched pairs)`, detached, a number; 0 where there are none."""
    ours, theirs = policy.mismatched, reference.mismatched
    if ours is None and theirs is None:
        return single(policy.chosen.new_zeros(()))
    if ours is None or theirs is None or ours.shape != policy.chosen.shape or theirs.shape != ours.shape:
        shapes = [None if part is None else list(part.shape) for part in (ours, theirs)]
        raise UsageError(
            f"LogProbs.mismatched must be [B], or None, under policy and reference alike, got {shapes[0]} and {shapes[1]}"
        )
    valid = ~missing(ours, theirs)
    ratios = single(ours.detach()).masked_fill(~valid, 0.0) - single(theirs.detach()).masked_fill(~valid, 0.0)
    return over_pairs(ratios.unsqueeze(0), valid.unsqueeze(0))[0].clamp(min=0.0)


def pairs_loss(positive: Tensor, negative: Tensor, present: Tensor, valid: Tensor) -> Tensor:
    """Half the positive's part [B], half the mean of the negatives' [B, K]; 0 where one is missing. Masks bool [B] and [B, K]."""
    return torch.where(present & valid.any(1), (positive + over_pairs(negative, valid)) / 2, 0.0)


def examples_loss(positive: Tensor, negative: Tensor, present: Tensor, valid: Tensor) -> Tensor:
    """`B / N` times the sum of a row's parts: its mean over the rows is the mean over all N examples."""
    total = torch.where(present, positive, 0.0) + torch.where(valid, negative, 0.0).sum(1)
    return total * len(present) / (present.sum() + valid.sum()).clamp(min=1)


def _without(part: LogProbs, present: Tensor) -> LogProbs:
    """A positive that is not there has log-probability 0, and so a log-ratio of 0."""
    return part._replace(chosen=part.chosen.masked_fill(~present, 0.0))
