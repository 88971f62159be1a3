"""The likelihood beside a contrast of prefixes (APAO): every prefix of the target's codes against those of negatives.

Beam search keeps a target only if each of its prefixes is among the best. The likelihood of a code says how it compares with its
siblings alone, so a prefix may be likely given the one before and still lose against prefixes elsewhere in the trie.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from genrec.errors import UsageError, given
from genrec.objectives.checked_proposer import CheckedProposer
from genrec.objectives.prepared_rows import PreparedRows, items_of, mean_likelihood
from genrec.objectives.scheduled_settings import ScheduledSettings
from genrec.objectives.supervised import check_causal, check_sequence_policy, examples_of
from genrec.objectives.training_length import with_length
from genrec.preference.candidates import Pairs, Sampled
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.level_checks import check_has_levels, check_several_levels
from genrec.preference.losses.log_ratios import at_least_float32
from genrec.preference.negatives import Uniform
from genrec.preference.range_checks import check_range
from genrec.preference.rating_requirements import check_labels
from genrec.preference.rewards.reward_tables import DeviceTable
from genrec.preference.schedules import check_scheduled, constant
from genrec.types import (
    CodeProposer,
    NumberOrSchedule,
    ObjectiveContext,
    Proposer,
    SamplerContext,
    TrainingStep,
)
from genrec.types.objective import Targets
from genrec.types.specification import check_types

READS = "the log-probabilities of prefixes"


@dataclass(frozen=True, kw_only=True)
class PrefixContrast:
    """Minimize `NLL + weight * sum over t of w_t L_t` (APAO, arXiv 2603.02730), in SFT or in an alignment; no reference is read.

    With `lp_t(y)` the log-probability of the first t codes of item y, the target w and K candidates, each of which takes part at the
    prefixes that it does not share with the target (the target itself at none),

        L_t = -(1 / t) log [ exp lp_t(w) / (exp lp_t(w) + c_t sum over k of exp lp_t(k)) ],    t = 1..L, averaged over the rows

    `c_t = (V_t - 1) / (1 + number of negatives that take part)`, with V_t different prefixes of t codes in the catalog, makes the sum
    stand for all of them; `scaled=False` leaves it out. The weights `w_t` are proportional to `L_t exp(eta L_t)`, without a gradient,
    and add up to 1: prefixes that lose get more weight. NLL is the mean of -log p(code) over rows and levels, from the same pass. If
    the proposer weights its rows (`Candidates.weight`), both means over the rows are weighted.

    The defaults are those of the authors' code: 100 uniform negatives, weight 0.1, eta 0. A catalog of 100 items or fewer is refused
    with them, since a row has distinct negatives; give fewer: `Sampled(Uniform(), 9)` for 10 items.
    """

    candidates: Proposer = field(default_factory=lambda: Sampled(Uniform(), 100))  # who proposes the negatives
    weight: NumberOrSchedule = 0.1  # weight of the contrast, 0 or more
    eta: float = 0.0  # how much more weight the prefix with the largest loss gets, 0 or more
    scaled: bool = True  # let the negatives stand for all prefixes of the catalog
    targets: Targets = "one"  # one target per prefix, or, for a causal policy, every target of a window
    feedback: Literal["all", "liked", "not disliked"] = "not disliked"  # targets, by their labels

    def __post_init__(self) -> None:
        check_types(self, "PrefixContrast")
        check_scheduled(self, "weight", 0)
        check_range(self, "eta", 0)
        if isinstance(self.candidates, type) or not isinstance(self.candidates, Proposer):
            raise UsageError(f"PrefixContrast.candidates must be a proposer, such as Sampled(), got {given(self.candidates)}")
        if isinstance(self.candidates, Pairs) or (isinstance(self.candidates, CodeProposer) and self.candidates.proposes_codes()):
            raise UsageError(
                f"PrefixContrast.candidates must be items for the rows of the training data, got {self.candidates!r}; "
                "use Sampled(...), TopItems(...), or Preference(candidates=...)"
            )

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the policy has no levels or is not causal as `targets` needs, or if the split lacks the labels."""
        check_has_levels(self, READS, experiment)
        check_causal(self, self.targets, experiment)
        check_labels(self, self.feedback, experiment)

    def check_context(self, context: SamplerContext) -> None:
        """Raise UsageError if a Semantic ID has one code."""
        check_several_levels(self, READS, context.semantic_ids)

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        """Return the objective for one policy and one training set."""
        self.check_context(context.data())
        check_sequence_policy(self, self.targets, context.policy)
        examples = examples_of(context.source, self.targets, feedback=self.feedback)
        context = with_length(context, examples)
        proposer = CheckedProposer(self.candidates, context)
        proposer.check_not_listed(self)
        return proposer.complete(
            TrainingStep(examples=examples, loss=_PrefixStep(self, context, proposer).loss, prepare=proposer.prepare)
        )


class _PrefixStep:
    """The built objective."""

    def __init__(self, objective: PrefixContrast, context: ObjectiveContext, proposer: CheckedProposer) -> None:
        self.objective, self.context, self.proposer, self.scheduled = objective, context, proposer, ScheduledSettings(objective)
        data = context.data()
        none = torch.full((1, data.semantic_ids.levels), -1)
        self.codes = DeviceTable(torch.cat([none, data.semantic_ids.codes]))  # int64 [N + 1, L]
        self.prefixes = prefix_counts(data.semantic_ids.codes) if objective.scaled else None

    def loss(self, prepared: PreparedRows, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a step and the metrics to log."""
        objective, rows = self.scheduled.at(self.objective, step), prepared.rows
        scores = scores_of(self.context.policy, prepared.batch, prepared.places, rows, self.context.normalize)
        candidates = self.proposer.within(prepared, step, scores)
        negatives = items_of(candidates)  # the target among them shares all of its codes, and so takes no part
        if candidates.rows is not None:
            negatives = negatives.masked_fill(~candidates.rows.unsqueeze(1), 0)
        items = torch.cat([rows.target.unsqueeze(1), negatives], 1)
        levels = at_least_float32(scores.level_log_prob(items))
        codes = self.codes.on(items.device)[items]
        differs = (codes[:, 1:] != codes[:, :1]).cummax(2).values & (negatives > 0).unsqueeze(2)
        losses = prefix_losses(levels[:, 0], levels[:, 1:], differs, self.prefixes, candidates.weight)
        weights, likelihood = prefix_weights(losses, objective.eta), -mean_likelihood(levels[:, 0], True, candidates.weight)
        contrast = (weights * losses).sum()
        logs = {"prefix_loss": contrast.detach(), "likelihood_loss": likelihood.detach()}
        logs |= {f"prefix_loss_{level + 1}": each for level, each in enumerate(losses.detach().unbind(0))}
        return likelihood + constant(objective, "weight") * contrast, logs | self.scheduled.logs(step, items.device)


def prefix_counts(codes: Tensor) -> list[int]:
    """Return V_1..V_L, the numbers of different prefixes of Semantic IDs int64 [N, L]."""
    return [len(np.unique(codes[:, : level + 1].numpy(), axis=0)) for level in range(codes.shape[1])]


def prefix_losses(
    target: Tensor, negatives: Tensor, differs: Tensor, prefixes: list[int] | None = None, weight: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Return L_t of `PrefixContrast` for each level, float32 [L], averaged over the rows; 0 for a row without a negative at t.

    `target` float32 [X, L] and `negatives` float32 [X, K, L] are log-probabilities of codes, -inf where masked. `differs` bool
    [X, K, L] is true where a negative takes part at the prefix that ends there. `prefixes` are V_1..V_L; None: not scaled. `weight`
    float32 [X] are weights of the rows in the mean, above 0; None: all 1.
    """
    places = torch.arange(1, target.shape[1] + 1, device=target.device)
    cumulative = torch.where(differs.any(2, keepdim=True), negatives, 0.0).cumsum(2)
    others = cumulative.masked_fill(~differs, -torch.inf)
    chosen, taking_part = target.cumsum(1), differs.sum(1)
    present = taking_part > 0
    total = torch.where(present.unsqueeze(1), others, 0.0).logsumexp(1)  # 0 where none takes part, so that its gradient is finite
    if prefixes is not None:
        counts = torch.tensor(prefixes, dtype=total.dtype, device=total.device) - 1
        total = total + (counts / (1 + taking_part)).log()
    losses = torch.nn.functional.softplus(total - chosen)
    losses = torch.where(present, losses, 0.0)
    mean = losses.mean(0) if weight is None else (weight.unsqueeze(1) * losses).sum(0) / weight.sum()
    return mean / places


def prefix_weights(losses: Tensor, eta: float) -> Tensor:
    """Return the weights of the levels, float32 [L], without a gradient: proportional to `L_t exp(eta L_t)`, adding up to 1."""
    known = losses.detach()
    weights = known * torch.exp(eta * (known - known.max()))
    return torch.where(weights.sum() > 0, weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny), 1 / len(losses))
