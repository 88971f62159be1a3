"""KTO, which compares desirable and undesirable items with a reference point instead of with each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec import process_group
from genrec.errors import UsageError
from genrec.plugin_source import components
from genrec.preference.losses.log_ratios import (
    Scores,
    at_least_float32,
    is_masked,
    log_ratios,
    mean_over_pairs,
    preference_terms,
)
from genrec.preference.range_checks import check_range
from genrec.preference.schedules import check_scheduled, constant
from genrec.progress import say
from genrec.types import LogProbs, LossNeeds, NumberOrSchedule, PreferenceTerms


@dataclass(frozen=True)
class KTO:
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv 2402.01306, Eq. 8).

    The loss of a positive is `desirable_weight * (1 - s(beta (D_w - z0)))` and that of a negative
    `undesirable_weight * (1 - s(beta (z0 - D_l)))`. The reference point `z0` is detached: the batch's mean of `lp - lp_ref` over
    mismatched pairs, at least 0. It is 0 if `LogProbs.mismatched` is None, and at the start, where policy and reference are equal.
    A mismatched pair is a history with the positive of another example of the batch, so an alignment needs batches of 2 or more.
    Several processes (`--trainer.devices`) share a batch: its statistics are those of all their parts in a step.

    With `paired`, a row's loss is half the positive's plus half the mean over its negatives, which keeps the paper's balance of the
    two kinds (Eq. 9) for every K. A row without a positive or without negatives has loss 0.

    Without `paired`, every item is an example with the same weight, as in the authors' code. This is the loss for labels of single
    events: a row may have a liked item alone, or disliked items alone (`chosen` is -inf under policy or reference). Its loss is
    `B / N * (sum over its examples)`, where N is the number of examples in the batch, so the mean over the B rows is the mean over
    the N examples. For K = 1 both variants are equal.
    """

    beta: NumberOrSchedule = 0.1  # strength of the pull to the reference, above 0
    desirable_weight: float = 1.0  # lambda_D, weight of positives, 0 or more
    undesirable_weight: float = 1.0  # lambda_U, weight of negatives, 0 or more
    paired: bool = True  # True: each kind has half of a row's weight; False: every item has the same weight

    @property
    def needs(self) -> LossNeeds:
        """Mismatched pairs, which training also scores, the rows of all processes, and with `paired` a positive in every row."""
        return LossNeeds(mismatched=True, positive=self.paired, batch=True)

    def __post_init__(self) -> None:
        check_scheduled(self, "beta", 0, above=True)
        check_range(self, "desirable_weight", 0)
        check_range(self, "undesirable_weight", 0)
        if not isinstance(self.paired, bool):
            raise UsageError(f"KTO.paired must be True or False, got {self.paired!r}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the batches of the alignment have one example, which leaves no mismatched pair for z0."""
        for alignment in experiment.alignments:
            if self in components(alignment):
                optimization = alignment.optimization
                size, parts = optimization.batch_size, optimization.accumulate
                _check_batch(
                    size // _parts_in_turn(parts, optimization.processes),
                    "align.optimization.batch_size" if parts == 1 else _origin(size, parts),
                )

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Return the loss of each example. It depends on the batch through z0 and, without `paired`, through N."""
        beta = constant(self, "beta")
        present = ~is_masked(policy.chosen, reference.chosen)
        scores = log_ratios(_fill_positives(policy, present), _fill_positives(reference, present))
        positive, negative = kto_parts(scores, reference_point(policy, reference), beta)
        positive, negative = self.desirable_weight * positive, self.undesirable_weight * negative
        combine = paired_loss if self.paired else unpaired_loss
        result = preference_terms(combine(positive, negative, present, scores.valid), scores, beta)
        return result._replace(chosen_reward=result.chosen_reward.masked_fill(~present, -torch.inf))


def check_mismatched_pairs(examples: int, batch_size: int, steps: int, parts: int = 1) -> None:
    """Raise UsageError if a part of every batch has one example; warn if one of an epoch's last batch has, and training reaches it.

    Batches are consecutive parts of a shuffled epoch, so the last one holds the remainder of `examples` / `batch_size`. Each is cut
    into `parts` parts (`Optimization.accumulate`); those that processes compute at the same time count as one.
    """
    turns = _parts_in_turn(parts, process_group.size())
    whole, last = min(examples, batch_size) // turns, examples % batch_size
    _check_batch(whole, f"batches of {examples} training examples ({_origin(batch_size, parts)})")
    if last and last // turns < 2 and steps > examples // batch_size:
        place = "the last batch of each epoch" if turns == 1 else "a part of the last batch of each epoch"
        say(
            f"alignment: {place} has 1 of the {examples} examples and so no mismatched pair: the reference point "
            f"z0 (arXiv 2402.01306, Eq. 8) is 0 there; an align.optimization.batch_size other than {batch_size} avoids it"
        )


def _parts_in_turn(parts: int, processes: int) -> int:
    """Return the number of parts whose examples form mismatched pairs: those that processes compute at the same time are one."""
    return parts // processes if parts % processes == 0 else parts


def _origin(batch_size: int, parts: int) -> str:
    return f"align.optimization.batch_size {batch_size}{'' if parts == 1 else f', align.optimization.accumulate {parts}'}"


def _check_batch(size: int, name: str) -> None:
    if size < 2:
        raise UsageError(
            f"KTO needs 2 or more examples in a batch, got {size} from {name}: its reference point z0, the mean of lp - lp_ref over "
            "mismatched pairs (arXiv 2402.01306, Eq. 8), pairs each history with the positive of another example of the batch, so z0 "
            "would always be 0; set a larger align.optimization.batch_size, or use a loss of pairs such as DPO"
        )


def kto_parts(scores: Scores, reference_point: Tensor | float, beta: float) -> tuple[Tensor, Tensor]:
    """Return `1 - s(beta (D_w - z0))` [B] and `1 - s(beta (z0 - D_k))` [B, K].

    Both are computed as `s(-x)`, which is accurate where `s(x)` is close to 1.
    """
    return (beta * (reference_point - scores.chosen)).sigmoid(), (beta * (scores.rejected - reference_point)).sigmoid()


def reference_point(policy: LogProbs, reference: LogProbs) -> Tensor:
    """Return `z0 = max(0, mean of lp - lp_ref over mismatched pairs)`, detached, float32 []; 0 if there are no pairs."""
    ours, theirs = policy.mismatched, reference.mismatched
    if ours is None and theirs is None:
        return at_least_float32(policy.chosen.new_zeros(()))
    if ours is None or theirs is None or ours.shape != policy.chosen.shape or theirs.shape != ours.shape:
        shapes = [None if part is None else list(part.shape) for part in (ours, theirs)]
        raise UsageError(
            f"LogProbs.mismatched must be [B] for policy and reference, or None for both, got {shapes[0]} and {shapes[1]}"
        )
    valid = ~is_masked(ours, theirs)
    ratios = at_least_float32(ours.detach()).masked_fill(~valid, 0.0) - at_least_float32(theirs.detach()).masked_fill(~valid, 0.0)
    return mean_over_pairs(ratios.unsqueeze(0), valid.unsqueeze(0))[0].clamp(min=0.0)


def paired_loss(positive: Tensor, negative: Tensor, present: Tensor, valid: Tensor) -> Tensor:
    """Return half the positive's loss [B] plus half the mean of the negatives' [B, K]; 0 in a row that lacks either.

    `present`, bool [B], marks rows with a positive and `valid`, bool [B, K], the negatives that are not masked.
    """
    return torch.where(present & valid.any(1), (positive + mean_over_pairs(negative, valid)) / 2, 0.0)


def unpaired_loss(positive: Tensor, negative: Tensor, present: Tensor, valid: Tensor) -> Tensor:
    """Return `B / N` times the sum over each row's examples, [B]. Arguments as in `paired_loss`."""
    total = torch.where(present, positive, 0.0) + torch.where(valid, negative, 0.0).sum(1)
    return total * len(present) / (present.sum() + valid.sum()).clamp(min=1)


def _fill_positives(log_probs: LogProbs, present: Tensor) -> LogProbs:
    """Set the log-probabilities of missing positives to 0, which gives them a log-ratio of 0."""
    levels = log_probs.levels
    if levels is not None:
        levels = torch.cat([levels[:, :1].masked_fill(~present.view(-1, 1, 1), 0.0), levels[:, 1:]], 1)
    return log_probs._replace(chosen=log_probs.chosen.masked_fill(~present, 0.0), levels=levels)
