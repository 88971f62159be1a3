"""The policy-gradient objective: the policy proposes candidates, a reward judges them, and the better ones become more likely.

    batch ──► rows ──► candidates ──► rewards ──► advantages ──► surrogate + KL + likelihood ──► step
                       (Proposer)     (Reward)    (Advantage)    (Surrogate)

There is one update for each draw. The reference is scored only if `kl` is above 0, without a gradient and without dropout.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from genrec import plugin_errors
from genrec.errors import UsageError, given
from genrec.objectives.advantage_check import check_advantages, check_terms
from genrec.objectives.batch_statistics import RowMean, means_of_batch
from genrec.objectives.checked_proposer import LISTED, CheckedProposer
from genrec.objectives.group_logs import JudgedGroups, group_logs
from genrec.objectives.item_draws import WITHOUT_REFERENCE
from genrec.objectives.prepared_rows import PreparedRows, mean_likelihood
from genrec.objectives.reward_check import RewardCheck
from genrec.objectives.reward_measure import reward_measure
from genrec.objectives.scheduled_settings import ScheduledSettings
from genrec.objectives.supervised import check_causal, check_sequence_policy, examples_of
from genrec.objectives.training_length import with_length
from genrec.preference.candidates import Pairs, Rollouts
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.exclusions import representatives
from genrec.preference.losses.log_ratios import at_least_float32
from genrec.preference.policy_gradient import EarlyClip, GroupAdvantage, k3_estimate, penalized_rewards
from genrec.preference.policy_gradient.group_masks import distinct_candidates, group_mean
from genrec.preference.rating_requirements import check_labels
from genrec.preference.rewards import Hit, checked_rating
from genrec.preference.schedules import check_scheduled, check_trains, constant
from genrec.store import NEW_IN_KEY
from genrec.types import (
    Advantage,
    Advantages,
    CandidateGroups,
    Candidates,
    CodeProposer,
    GroupLogProbs,
    NumberOrSchedule,
    ObjectiveContext,
    Proposer,
    Reward,
    RowScores,
    SequenceBatch,
    Surrogate,
    SurrogateTerms,
    TrainingStep,
)
from genrec.types.objective import Targets
from genrec.types.specification import check_types


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """Raise the probability of candidates with a higher reward than the others of their row.

    The loss of a step is `weight * (surrogate + kl * k3) + likelihood * NLL`. The surrogate is the mean over the groups (rows) with
    spread of the mean over their candidates. k3 is the same mean over all groups that take part, and NLL the mean of -log p(code)
    over the targets of all rows. A group takes part if its proposer lets it, and with `gate` if it holds a hit: a candidate with the
    target's Semantic ID. Different items of one Semantic ID are one candidate, the first of them. If the proposer weights its rows
    (`Candidates.weight`), all three means are weighted.

    Methods as values (`C = PolicyGradient`, published settings; fields that are not named keep their defaults):

        GRPO       C(advantage=GroupAdvantage(), surrogate=Clip(), kl=1e-3, likelihood=0)
        DAPO       C(advantage=GroupAdvantage(), surrogate=Clip(high=0.28), likelihood=0)
        Dr. GRPO   C(advantage=GroupAdvantage(std="none"), surrogate=Clip(), likelihood=0)
        GSPO       C(advantage=GroupAdvantage(), surrogate=SequenceClip(), likelihood=0)
        RLOO       C(advantage=LeaveOneOutAdvantage(), surrogate=Reinforce(), kl=0.05, kl_in="reward", gate=False, likelihood=0)
        ECPO       C(advantage=GroupAdvantage(), surrogate=EarlyClip(), likelihood=1)                              (the default)
        V-STAR     C(advantage=SiblingAdvantage(), surrogate=Clip(), likelihood=0)
        TAWin      C(advantage=WindowedAdvantage(place=2, size=3), surrogate=Clip(), likelihood=0)     (beams, for Recall@3)

    Beams are no sample. With `Rollouts(by="samples")` the candidates are drawn without replacement, and the mean over a group is not
    weighted by inclusion probabilities, so the gradient is only approximately that of the expected reward. With by="beams" or "top"
    the candidates are the most likely ones: the surrogate then is no policy gradient but a contrast of the hit with the policy's
    current hardest negatives. With one hit of G, `Hit()` and the population's deviation, its gradient on policy is that of DMPO at a
    margin of 0 with beta = 2 sqrt(G - 1) / G, and it does not saturate as the margin grows.

    The behavior log-probability of a candidate is the proposer's if it gives one, else the policy's own, without a gradient: the ratio
    is then 1 and no clip applies. With k3 in the loss, the gradient of the divergence is that of KL(reference || policy); with
    kl_in="reward" it is that of KL(policy || reference), see `genrec.preference.policy_gradient.divergence`. Weights may
    be schedules (`genrec.preference.schedules`).
    """

    candidates: Proposer = field(default_factory=Rollouts)  # who proposes the candidates
    reward: Reward = field(default_factory=Hit)  # who judges them
    advantage: Advantage = field(default_factory=GroupAdvantage)  # from rewards of a group to advantages
    surrogate: Surrogate = field(default_factory=EarlyClip)  # the loss of a candidate with an advantage
    kl: NumberOrSchedule = 0.0  # weight of the divergence from the reference, 0 or more; 0 scores no reference
    kl_in: Literal["loss", "reward"] = "loss"  # add kl * k3 to the loss, or subtract kl * (lp - lr) from the reward of each candidate
    gate: bool = True  # groups without a hit have no gradient, whatever the reward
    likelihood: NumberOrSchedule = 1.0  # weight of the negative log-likelihood of the targets, 0 or more
    weight: NumberOrSchedule = 1.0  # weight of the surrogate and of k3, 0 or more
    targets: Targets = "one"  # one target per prefix, or, for a causal policy, every target of a window
    feedback: Literal["liked", "not disliked"] = field(default="not disliked", metadata=NEW_IN_KEY)  # targets, by their labels

    def __post_init__(self) -> None:
        check_types(self, "PolicyGradient")
        for name in ("kl", "likelihood", "weight"):
            check_scheduled(self, name, 0)
        for name, kind, example in (
            ("candidates", Proposer, "Rollouts()"),
            ("reward", Reward, "Hit()"),
            ("advantage", Advantage, "GroupAdvantage()"),
            ("surrogate", Surrogate, "EarlyClip()"),
        ):
            value, expected = getattr(self, name), f"a genrec.types.{kind.__name__}, such as {example}"
            if isinstance(value, type) or not isinstance(value, kind):
                raise UsageError(f"PolicyGradient.{name} must be {expected}, got {given(value)}")
        if isinstance(self.candidates, Pairs):
            raise UsageError(LISTED.format("PolicyGradient", self.candidates))
        if isinstance(self.candidates, CodeProposer) and self.candidates.proposes_codes():
            raise UsageError(
                f"PolicyGradient.candidates must be items, which rewards judge, got {self.candidates!r}, which proposes code "
                "sequences that no item has; use Rollouts(), or Preference"
            )

    def check(self, experiment: Any) -> None:
        """Raise UsageError if `targets` is "all" and the policy is not causal, or if `feedback` needs labels that the split lacks."""
        check_trains(self)
        check_causal(self, self.targets, experiment)
        check_labels(self, self.feedback, experiment)

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        """Return the objective for one policy and one training set."""
        check_sequence_policy(self, self.targets, context.policy)
        if self.kl and context.reference is None:
            raise UsageError(WITHOUT_REFERENCE.format("PolicyGradient", self.kl))
        examples = examples_of(context.source, self.targets, feedback=self.feedback)
        context = with_length(context, examples)
        proposer = CheckedProposer(self.candidates, context, masks=True)
        proposer.check_not_listed(self)
        step = _PolicyGradientStep(self, context, proposer)
        measure = reward_measure(self.reward, step.rate, context)
        return proposer.complete(
            TrainingStep(examples=examples, loss=step.loss, prepare=proposer.prepare, measure=measure, fault=step.rewards.fault)
        )


class _ScoredGroups(NamedTuple):
    """The candidates of a step with their log-probabilities. Those of masked candidates are 0."""

    items: Tensor  # int64 [X, M]  0 where masked
    mask: Tensor  # bool [X, M]
    levels: Tensor  # float32 [X, M, L]  under the policy, with a gradient
    targets: Tensor  # float32 [X, L]  the same of the targets
    reference: Tensor | None  # float32 [X, M]  under the reference; None if `kl` is 0


class _PolicyGradientStep:
    """The built objective."""

    def __init__(self, objective: PolicyGradient, context: ObjectiveContext, proposer: CheckedProposer) -> None:
        self.objective, self.context, self.proposer, self.scheduled = objective, context, proposer, ScheduledSettings(objective)
        semantic_ids = context.data().semantic_ids
        self.codes = torch.cat([torch.full((1, semantic_ids.levels), -1), semantic_ids.codes])  # int64 [N + 1, L]
        self.numbers = representatives(context.data())  # int64 [N + 1]  equal for items of one Semantic ID
        with plugin_errors.attribute_to(objective.reward, "while the reward was built"):
            self.rate = checked_rating(objective.reward, context.data()).rate
        self.rewards = RewardCheck(objective.reward, context.data().own_ids)
        self.checked = False

    def loss(self, prepared: PreparedRows, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a step and the metrics to log."""
        objective, rows = self.scheduled.at(self.objective, step), prepared.rows
        self.codes, self.numbers = (each.to(rows.target.device) for each in (self.codes, self.numbers))
        scores = scores_of(self.context.policy, prepared.batch, prepared.places, rows, self.context.normalize)
        candidates = self._propose(prepared, step, scores)
        scored = self._score(prepared, candidates, scores)
        log_prob, mask = scored.levels.sum(2), scored.mask
        rewards = self._judge(rows, scored, step)
        behavior = log_prob.detach() if candidates.behavior is None else candidates.behavior.detach().masked_fill(~mask, 0.0)
        advantages, terms = self._surrogate(objective, scored, rewards, behavior, step)
        hits = mask & (self.numbers[scored.items] == self.numbers[rows.target].unsqueeze(1))
        taking_part = mask.any(1) if candidates.rows is None else mask.any(1) & candidates.rows
        taking_part = taking_part & hits.any(1) if objective.gate else taking_part
        counted = taking_part & advantages.spread
        logs = group_logs(JudgedGroups(mask, hits, rewards, log_prob.detach(), advantages.values, terms.clipped, counted))
        weight = candidates.weight
        means = [
            RowMean(group_mean(terms.loss, mask, counted, weight), counted, weight),
            RowMean(-mean_likelihood(scored.targets, True, weight), None, weight),
        ]
        if scored.reference is not None:
            k3 = k3_estimate(log_prob, scored.reference)
            means.append(RowMean(group_mean(k3, mask, taking_part, weight), taking_part, weight))
        surrogate, likelihood, *divergences = means_of_batch(len(mask), *means)
        logs |= {"policy_loss": surrogate.detach(), "likelihood_loss": likelihood.detach()} | self.scheduled.logs(step, mask.device)
        for divergence in divergences:
            logs["kl"] = divergence.detach()
            surrogate = surrogate + constant(objective, "kl") * divergence if objective.kl_in == "loss" else surrogate
        loss, likelihood_weight = constant(objective, "weight") * surrogate, constant(objective, "likelihood")
        return (loss + likelihood_weight * likelihood if likelihood_weight else loss), logs

    def _propose(self, prepared: PreparedRows, step: int, scores: RowScores) -> Candidates:
        """Return the candidates of a step, with the mask of those that the policy can tell apart."""
        candidates = self.proposer.within(prepared, step, scores)
        if candidates.codes is not None:
            raise UsageError(
                f"PolicyGradient takes items as candidates, got codes of no item from {self.objective.candidates!r}; "
                "use another proposer, such as Rollouts()"
            )
        mask = candidates.mask & (candidates.items > 0)
        return candidates._replace(mask=distinct_candidates(candidates.items, self.numbers[candidates.items], mask))

    def _score(self, prepared: PreparedRows, candidates: Candidates, scores: RowScores) -> _ScoredGroups:
        """Return the log-probabilities of candidates and targets. Candidates without a finite one are masked."""
        mask, reference = candidates.mask, None
        items = candidates.items.masked_fill(~mask, 0)
        levels = at_least_float32(scores.level_log_prob(torch.cat([items, prepared.rows.target.unsqueeze(1)], 1)))
        levels, targets = levels[:, :-1], levels[:, -1]
        mask = mask & ~levels.isneginf().any(2)
        if self.objective.kl:
            reference = self._reference_log_prob(prepared, items)
            mask = mask & ~reference.isneginf()
            reference = reference.masked_fill(~mask, 0.0)
        return _ScoredGroups(items.masked_fill(~mask, 0), mask, levels.masked_fill(~mask.unsqueeze(2), 0.0), targets, reference)

    @torch.no_grad()
    def _reference_log_prob(self, prepared: PreparedRows, items: Tensor) -> Tensor:
        """Return the reference's log-probabilities float32 [X, M]."""
        assert self.context.reference is not None
        frozen = self.context.reference.policy
        scores = scores_of(frozen, prepared.batch, prepared.places, prepared.rows, self.context.normalize)
        return at_least_float32(scores.level_log_prob(items)).sum(2)

    def _judge(self, rows: SequenceBatch, scored: _ScoredGroups, step: int) -> Tensor:
        """Return the rewards float32 [X, M], 0 where masked."""
        with plugin_errors.attribute_to(self.objective.reward, f"while the reward rated items in step {step}"):
            rewards = self.rate(rows, scored.items)
        self.rewards.add(step, rows, scored.items, rewards)
        return at_least_float32(rewards.detach()).masked_fill(~scored.mask, 0.0)

    def _surrogate(
        self, objective: PolicyGradient, scored: _ScoredGroups, rewards: Tensor, behavior: Tensor, step: int
    ) -> tuple[Advantages, SurrogateTerms]:
        """Return the advantages and the surrogate loss of each candidate. `objective` has the values of the step."""
        if scored.reference is not None and objective.kl_in == "reward":
            rewards = penalized_rewards(rewards, scored.levels.sum(2), scored.reference, constant(objective, "kl"))
        groups = CandidateGroups(rewards, scored.mask, self.codes[scored.items])
        with plugin_errors.attribute_to(objective.advantage, f"in step {step}"):
            advantages = objective.advantage.estimate(groups)
        if not self.checked:
            check_advantages(objective.advantage, advantages, scored.levels)
        with plugin_errors.attribute_to(objective.surrogate, f"in step {step}"):
            terms = objective.surrogate.terms(GroupLogProbs(scored.levels, behavior), advantages)
        if not self.checked:
            check_terms(objective.surrogate, terms, scored.mask)
            self.checked = True
        return advantages, terms
