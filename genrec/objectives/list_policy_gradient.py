"""Policy gradient over whole lists: draw several lists for each row, and raise the probability of those with a higher reward.

batch ──► rows ──► lists ──► rewards of items ──► rewards of lists ──► advantages ──► surrogate + KL + likelihood ──► step
                                 (Reward)         (discounted sum)      (Advantage)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from genrec import plugin_errors
from genrec.errors import UsageError, given
from genrec.objectives.advantage_check import check_list_advantages
from genrec.objectives.batch_statistics import RowMean, means_of_batch
from genrec.objectives.group_logs import JudgedGroups, group_logs
from genrec.objectives.item_draws import check_draws_items, check_experiment, check_training
from genrec.objectives.prepared_rows import HostRows, PreparedRows
from genrec.objectives.reward_check import RewardCheck
from genrec.objectives.reward_measure import reward_measure
from genrec.objectives.rows import with_places
from genrec.objectives.scheduled_settings import ScheduledSettings
from genrec.objectives.supervised import check_causal, check_sequence_policy, examples_of
from genrec.objectives.training_length import with_length
from genrec.plugin_source import components
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.exclusions import representatives
from genrec.preference.losses.log_ratios import at_least_float32
from genrec.preference.policy_gradient import GroupAdvantage, Reinforce, SiblingAdvantage, k3_estimate
from genrec.preference.policy_gradient.group_masks import distinct_candidates, group_mean
from genrec.preference.policy_gradient.list_log_prob import discounted_sum, list_log_prob
from genrec.preference.rating_requirements import check_labels
from genrec.preference.rewards import Hit, checked_rating
from genrec.preference.schedules import check_scheduled, check_trains, constant
from genrec.randomness import seed_of
from genrec.types import (
    Advantage,
    Advantages,
    CandidateGroups,
    GroupLogProbs,
    NumberOrSchedule,
    ObjectiveContext,
    Policy,
    Reward,
    RowScores,
    SamplerContext,
    SequenceBatch,
    TrainingStep,
    WindowBatch,
)
from genrec.types.objective import Targets
from genrec.types.specification import check_at_least, check_types


@dataclass(frozen=True, kw_only=True)
class ListPolicyGradient:
    """Train by a policy gradient over whole lists of items, as in Rec-R1 (arXiv 2503.24289).

    For each row the policy draws `lists` lists of `length` items, item by item without replacement. Lists with a higher reward than
    the others of their row become more likely. The reward of a list is the discounted sum of its items' rewards,
    `sum r_j / log2(j + 1)` over the places j from 1: with `Hit()` the NDCG of the list for the logged item. The loss of a step is
    `weight * (surrogate + kl * k3) + likelihood * NLL`, where the surrogate of a list is `-A log p(list)`, averaged over the lists
    of the rows in which the rewards of lists differ, and k3 the same mean over all rows. log p(list) is that of Plackett and Luce
    (`genrec.preference.policy_gradient.list_log_prob`), so the gradient is that of the expected reward of a list, up to the
    division by the standard deviation of the rewards, which `GroupAdvantage(std="none")` leaves out.

    In Rec-R1 a language model writes a text. The reward is the NDCG of the list that a search engine returns for this text, and -2
    for a text that cannot be parsed. Here the list is the action, and every list is valid. The paper has 12 outputs a row and
    kl 1e-3, and no likelihood: `ListPolicyGradient(likelihood=0)`. With lists of one item the objective is GRPO over samples with
    replacement.

    Lists may contain items of the history. The policy needs probabilities of items that add up to 1: a `CatalogPolicy` (SASRec, RPG
    with a softmax over the catalog), or a `SamplingPolicy` (Tiger, Gpt) with `Align.normalize` "children", which draws lists by
    stochastic beam search in evaluation mode. An item with the Semantic ID of an earlier one of its list takes a place, but has no
    reward.

    Weights may be schedules (`genrec.preference.schedules`); each step uses the value of that step.
    """

    lists: int = 12  # lists of a row, at least 2
    length: int = 10  # items of a list, at least 1
    reward: Reward = field(default_factory=Hit)  # judges the items of a list
    advantage: Advantage = field(default_factory=GroupAdvantage)  # from rewards of the lists of a row to advantages
    kl: NumberOrSchedule = 1e-3  # weight of the divergence from the reference, 0 or more; 0 scores no reference
    likelihood: NumberOrSchedule = 1.0  # weight of the negative log-likelihood of the targets, 0 or more
    weight: NumberOrSchedule = 1.0  # weight of the surrogate and of k3, 0 or more
    targets: Targets = "one"  # one target per prefix, or, for a causal policy, every target of a window
    feedback: Literal["liked", "not disliked"] = "not disliked"  # targets, by their labels

    def __post_init__(self) -> None:
        check_types(self, "ListPolicyGradient")
        check_at_least(self, "ListPolicyGradient", 2, "lists")
        check_at_least(self, "ListPolicyGradient", 1, "length")
        for name in ("kl", "likelihood", "weight"):
            check_scheduled(self, name, 0)
        for name, kind, example in (("reward", Reward, "Hit()"), ("advantage", Advantage, "GroupAdvantage()")):
            value = getattr(self, name)
            if isinstance(value, type) or not isinstance(value, kind):
                raise UsageError(
                    f"ListPolicyGradient.{name} must be a genrec.types.{kind.__name__}, such as {example}, got {given(value)}"
                )
        if any(isinstance(each, SiblingAdvantage) for each in (self.advantage, *components(self.advantage))):
            raise UsageError(
                "ListPolicyGradient.advantage: SiblingAdvantage() compares codes, and a list has no Semantic ID; use GroupAdvantage() "
                "or LeaveOneOutAdvantage()"
            )

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the experiment lacks what the objective needs.

        That is a causal policy for `targets` "all", labels for `feedback` "liked", a reference for `kl`, and probabilities of items
        that add up to 1.
        """
        check_trains(self)
        check_causal(self, self.targets, experiment)
        check_labels(self, self.feedback, experiment)
        check_experiment(self, self.kl, experiment)

    def check_context(self, context: SamplerContext) -> None:
        """Raise UsageError if the policy cannot draw lists."""
        if context.policy is not None:
            check_draws_items("ListPolicyGradient", context.policy)

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        """Return the objective for one policy and one training set."""
        check_sequence_policy(self, self.targets, context.policy)
        check_training(self, self.kl, context)
        examples = examples_of(context.source, self.targets, feedback=self.feedback)
        context = with_length(context, examples)
        step = _ListStep(self, context)
        measure = reward_measure(self.reward, step.rate, context)
        return TrainingStep(examples=examples, loss=step.loss, prepare=step.prepare, measure=measure, fault=step.rewards.fault)


class _Lists(NamedTuple):
    """The lists of a step: X rows, G lists a row, k items a list."""

    items: Tensor  # int64 [X, G, k]  0 at the end of a list with fewer items
    log_prob: Tensor  # float32 [X, G]  under the policy, with a gradient
    targets: Tensor  # float32 [X, L]  log-probabilities of the targets' levels
    reference: Tensor | None  # float32 [X, G]  log p(list) under the reference; None if `kl` is 0


class _ListStep:
    """The built objective."""

    def __init__(self, objective: ListPolicyGradient, context: ObjectiveContext) -> None:
        self.objective, self.context, self.scheduled = objective, context, ScheduledSettings(objective)
        self.numbers = representatives(context.data())  # int64 [N + 1]  equal for items of one Semantic ID
        with plugin_errors.attribute_to(objective.reward, "while the reward was built"):
            self.rate = checked_rating(objective.reward, context.data()).rate
        self.rewards = RewardCheck(objective.reward, context.data().own_ids)

    def prepare(self, batch: SequenceBatch | WindowBatch, step: int) -> PreparedRows:
        """Return the input of a step. Runs on the CPU before the step needs it."""
        rows, places = with_places(batch)
        return PreparedRows(batch, places, rows, None, None, HostRows(rows, None))

    def loss(self, prepared: PreparedRows, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a step and the metrics to log."""
        objective, rows = self.scheduled.at(self.objective, step), prepared.rows
        self.numbers = self.numbers.to(rows.target.device)
        lists = self._score(prepared, step)
        rewards, mask = self._judge(rows, lists.items, step), (lists.items > 0).any(2)
        advantages = self._advantages(objective, rewards, mask, step)
        log_probs = GroupLogProbs(lists.log_prob.unsqueeze(2), lists.log_prob.detach())
        terms = Reinforce().terms(log_probs, advantages)
        hits = (self.numbers[lists.items] == self.numbers[rows.target][:, None, None]).any(2)
        logs = group_logs(
            JudgedGroups(mask, hits, rewards, lists.log_prob.detach(), advantages.values, terms.clipped, advantages.spread)
        )
        means, likelihood = [RowMean(group_mean(terms.loss, mask, advantages.spread), advantages.spread)], -lists.targets.mean()
        if lists.reference is not None:
            k3 = k3_estimate(lists.log_prob, lists.reference)
            means.append(RowMean(group_mean(k3, mask, mask.any(1)), mask.any(1)))
        surrogate, *divergences = means_of_batch(len(mask), *means)
        logs |= {"policy_loss": surrogate.detach(), "likelihood_loss": likelihood.detach()} | self.scheduled.logs(step, mask.device)
        for divergence in divergences:
            logs["kl"] = divergence.detach()
            surrogate = surrogate + constant(objective, "kl") * divergence
        loss, likelihood_weight = constant(objective, "weight") * surrogate, constant(objective, "likelihood")
        return (loss + likelihood_weight * likelihood if likelihood_weight else loss), logs

    def _score(self, prepared: PreparedRows, step: int) -> _Lists:
        """Draw the lists of a step and return them with their log-probabilities."""
        rows, reference = prepared.rows, None
        scores = self._scores(self.context.policy, prepared)
        random = torch.Generator(rows.target.device).manual_seed(seed_of(self.context.seed, "lists", step))
        drawn = [scores.sample(self.objective.length, None, random).items for _ in range(self.objective.lists)]
        items = torch.stack(drawn, 1)  # [X, G, k]
        levels = at_least_float32(scores.level_log_prob(torch.cat([items.flatten(1), rows.target.unsqueeze(1)], 1)))
        log_prob = list_log_prob(levels[:, :-1].sum(2).view(items.shape), items > 0)
        if self.objective.kl:
            assert self.context.reference is not None
            with torch.no_grad():
                frozen = self._scores(self.context.reference.policy, prepared).level_log_prob(items.flatten(1))
                reference = list_log_prob(at_least_float32(frozen).sum(2).view(items.shape), items > 0)
        return _Lists(items, log_prob, levels[:, -1], reference)

    def _scores(self, policy: Policy, prepared: PreparedRows) -> RowScores:
        return scores_of(policy, prepared.batch, prepared.places, prepared.rows, self.context.normalize)

    def _judge(self, rows: SequenceBatch, lists: Tensor, step: int) -> Tensor:
        """Return the rewards of lists int64 [X, G, k], float32 [X, G]. To the reward, each list is a row of candidates."""
        repeated = SequenceBatch(*(each.repeat_interleave(lists.shape[1], 0) for each in rows))
        items = lists.flatten(0, 1)
        with plugin_errors.attribute_to(self.objective.reward, f"while the reward rated items in step {step}"):
            rewards = self.rate(repeated, items)
        self.rewards.add(step, repeated, items, rewards)
        judged = distinct_candidates(items, self.numbers[items], items > 0)
        return discounted_sum(at_least_float32(rewards.detach()).masked_fill(~judged, 0.0)).view(lists.shape[:2])

    def _advantages(self, objective: ListPolicyGradient, rewards: Tensor, mask: Tensor, step: int) -> Advantages:
        """Return the advantages of the lists, float32 [X, G]. A list has no Semantic ID, so that `codes` has no levels."""
        codes = torch.zeros((*rewards.shape, 0), dtype=torch.int64, device=rewards.device)
        with plugin_errors.attribute_to(objective.advantage, f"in step {step}"):
            found = objective.advantage.estimate(CandidateGroups(rewards, mask, codes))
        check_list_advantages(objective.advantage, found, rewards)
        return found
