"""Proximal policy optimization (PPO) of drawn items, with a value function and a divergence penalty at every code.

batch ──► rows ──► draws ──► reward, divergence ──► rewards of codes ──► advantages, returns ──► clipped loss, value loss ──► step
                             (Reward)                                    (GAE, value function)
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from genrec import plugin_errors
from genrec.errors import UsageError, given
from genrec.objective_state import FixedTensors, JoinedStates, WithModules
from genrec.objectives.group_logs import JudgedGroups, group_logs
from genrec.objectives.item_draws import check_draws_items, check_experiment, check_training
from genrec.objectives.prepared_rows import HostRows, PreparedRows
from genrec.objectives.reward_check import RewardCheck
from genrec.objectives.reward_measure import reward_measure
from genrec.objectives.rows import with_places
from genrec.objectives.scheduled_settings import ScheduledSettings
from genrec.objectives.supervised import check_causal, check_sequence_policy, examples_of
from genrec.objectives.training_length import with_length
from genrec.objectives.value_function import ValueFunction
from genrec.preference.candidates.proposing_policy import ProposingPolicy
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.exclusions import representatives
from genrec.preference.losses.log_ratios import at_least_float32
from genrec.preference.policy_gradient import k3_estimate
from genrec.preference.policy_gradient.advantage_estimation import (
    clipped_value_loss,
    code_rewards,
    generalized_advantages,
    whitened,
)
from genrec.preference.policy_gradient.clipped_surrogates import clipped_loss
from genrec.preference.range_checks import check_range
from genrec.preference.rating_requirements import check_labels
from genrec.preference.rewards import Hit, checked_rating
from genrec.preference.schedules import check_scheduled, check_trains, constant
from genrec.randomness import seed_of
from genrec.types import (
    CatalogPolicy,
    NumberOrSchedule,
    ObjectiveContext,
    Refresh,
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
class ProximalPolicy:
    """Train by PPO: raise the expected reward of drawn items with clipped updates and a learned value function.

    Sources: arXiv 1707.06347; with preferences 1909.08593 and 2203.02155.

    For each row the policy draws `samples` items, independently of each other. The reward of code t of an item is
    `-kl (lo_t - lr_t)`, plus the reward of the item at its last code; advantages are those of generalized advantage estimation,
    whitened over the batch. The loss of a step is

        weight * (mean of -min(rho_t A_t, clip(rho_t, 1 - clip, 1 + clip) A_t) + value_weight * value loss) + likelihood * NLL

    over all codes, with `rho_t = exp(lp_t - lo_t)`, lp under the policy in training, lo under the policy that drew and lr under the
    reference; see `genrec.preference.policy_gradient.advantage_estimation`. An item that a policy scores as one code has L = 1, which
    makes this a clipped policy gradient with a learned baseline.

    There is one update for each draw. With `refresh=1` the policy in training draws, so the ratio is 1 and neither clip applies. With
    refresh r a copy of the policy draws the items of r steps, as PPO takes r minibatches of one large batch of draws; the clips then
    bound how far the policy goes in these steps. Further passes over the same draws, as in PPO, are not implemented.

    Deviations: the value function is a separate network (`genrec.objectives.value_function`), the same for every policy. Draws are
    made in evaluation mode where the policy does not score the catalog, so train without `Align.dropout`.

    The policy needs probabilities of items that add up to 1: a `CatalogPolicy` (SASRec, RPG with a softmax over the catalog), or a
    `SamplingPolicy` (Tiger, Gpt) with `Align.normalize` "children".

    RLOO with a reward model needs no objective of its own:

        PolicyGradient(candidates=Rollouts(size=4, by="samples"), reward=BradleyTerry(), advantage=LeaveOneOutAdvantage(),
                       surrogate=Reinforce(), kl=0.05, kl_in="reward", gate=False, likelihood=0)

    Weights may be schedules (`genrec.preference.schedules`); each step uses the value of that step.
    """

    reward: Reward = field(default_factory=Hit)  # judges the items, such as genrec.preference.reward_models.BradleyTerry
    samples: int = 1  # items drawn for each row, with replacement, at least 1
    refresh: int = 1  # steps between copies of the policy that draws, at least 1; 1: the policy in training itself
    kl: NumberOrSchedule = 0.05  # beta, weight of the divergence from the reference in the rewards, 0 or more; 0 scores no reference
    clip: float = 0.2  # the ratio of a code has no gradient beyond 1 - clip or 1 + clip, in (0, 1)
    value_clip: float = 0.2  # values have no gradient further than this from those of the draw, above 0
    value_weight: float = 0.1  # weight of the value loss, above 0
    gae_lambda: float = 0.95  # 1: returns minus values, 0: TD errors; in [0, 1]
    discount: float = 1.0  # of the later codes' rewards, in (0, 1]
    whiten: bool = True  # give the advantages of a batch mean 0 and deviation 1
    dim: int = 32  # width of the value function, at least 1
    likelihood: NumberOrSchedule = 0.0  # weight of the negative log-likelihood of the targets, 0 or more (PPO-ptx, arXiv 2203.02155)
    weight: NumberOrSchedule = 1.0  # weight of the clipped loss and of the value loss, 0 or more
    targets: Targets = "one"  # one target per prefix, or, for a causal policy, every target of a window
    feedback: Literal["liked", "not disliked"] = "not disliked"  # targets, by their labels

    def __post_init__(self) -> None:
        check_types(self, "ProximalPolicy")
        check_at_least(self, "ProximalPolicy", 1, "samples", "refresh", "dim")
        for name in ("kl", "likelihood", "weight"):
            check_scheduled(self, name, 0)
        check_range(self, "clip", 0, 1, above=True)
        for name in ("value_clip", "value_weight"):
            check_range(self, name, 0, above=True)
        for name, low in (("gae_lambda", 0.0), ("discount", 1e-9)):
            if not low <= getattr(self, name) <= 1:
                raise UsageError(f"ProximalPolicy.{name} must be {'in (0, 1]' if low else 'in [0, 1]'}, got {getattr(self, name)}")
        if isinstance(self.reward, type) or not isinstance(self.reward, Reward):
            raise UsageError(f"ProximalPolicy.reward must be a genrec.types.Reward, such as BradleyTerry(), got {given(self.reward)}")

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
        """Raise UsageError if the policy cannot draw items."""
        if context.policy is not None:
            check_draws_items("ProximalPolicy", context.policy)

    def policy_refresh(self) -> Refresh | None:
        """Return the refresh of the copy that draws, or None if the policy in training does."""
        return None if self.refresh == 1 else Refresh(self.refresh)

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        """Return the objective for one policy and one training set."""
        check_sequence_policy(self, self.targets, context.policy)
        check_training(self, self.kl, context)
        examples = examples_of(context.source, self.targets, feedback=self.feedback)
        context = with_length(context, examples)
        step = _ProximalStep(self, context)
        return TrainingStep(
            examples=examples,
            loss=step.loss,
            prepare=step.prepare,
            begin=step.begin,
            state=None if self.refresh == 1 else JoinedStates({"draw": WithModules(FixedTensors(), (step.old_value,))}),
            modules=(step.value,),
            measure=reward_measure(self.reward, step.rate, context),
            fault=step.rewards.fault,
        )


class _Draws(NamedTuple):
    """The items drawn in a step: X rows, M draws a row, L codes an item."""

    items: Tensor  # int64 [X, M]
    levels: Tensor  # float32 [X, M, L]  log-probabilities under the policy in training, with a gradient
    behavior: Tensor  # float32 [X, M, L]  under the policy that drew
    reference: Tensor | None  # float32 [X, M, L]  under the reference; None if `kl` is 0
    targets: Tensor  # float32 [X, L]  log-probabilities of the targets' codes


class _ProximalStep:
    """The built objective."""

    def __init__(self, objective: ProximalPolicy, context: ObjectiveContext) -> None:
        self.objective, self.context, self.scheduled = objective, context, ScheduledSettings(objective)
        data, whole = context.data(), isinstance(context.policy, CatalogPolicy)
        self.numbers = representatives(data)  # int64 [N + 1]  equal for items of one Semantic ID
        codes = torch.zeros(data.item_count, 1, dtype=torch.int64) if whole else data.semantic_ids.codes
        self.codes = torch.cat([torch.zeros_like(codes[:1]), codes])  # int64 [N + 1, L]  L is 1 where an item is scored as one code
        self.proposing = ProposingPolicy("ProximalPolicy", objective.refresh, context, "proximal policy")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(context.seed, "weights of a value function"))
            self.value = ValueFunction(data.vectors.cpu(), (1,) if whole else data.semantic_ids.level_sizes, objective.dim)
        self.old_value = copy.deepcopy(self.value).requires_grad_(False)  # the one at the time of the draw, with `refresh` above 1
        with plugin_errors.attribute_to(objective.reward, "while the reward was built"):
            self.rate = checked_rating(objective.reward, data).rate
        self.rewards = RewardCheck(objective.reward, data.own_ids)

    def begin(self, step: int) -> None:
        """Update the copies of the policy and of the value function every `refresh` steps."""
        if self.objective.refresh > 1 and step % self.objective.refresh == 0:
            self.old_value.load_state_dict(self.value.state_dict())
        if self.proposing.begin is not None:
            self.proposing.begin(step)

    def prepare(self, batch: SequenceBatch | WindowBatch, step: int) -> PreparedRows:
        """Return the input of a step. Runs on the CPU before the step needs it."""
        rows, places = with_places(batch)
        return PreparedRows(batch, places, rows, None, None, HostRows(rows, None))

    def loss(self, prepared: PreparedRows, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a step and the metrics to log."""
        objective, rows = self.scheduled.at(self.objective, step), prepared.rows
        self.codes, self.numbers = (each.to(rows.target.device) for each in (self.codes, self.numbers))
        draws = self._draw(prepared, step)
        rewards = self._judge(rows, draws.items, step)
        values = at_least_float32(self.value(rows.items, self.codes[draws.items]))
        old = values.detach() if self.objective.refresh == 1 else self._old_values(rows, draws.items)
        of_codes = code_rewards(rewards, draws.behavior, draws.reference, constant(objective, "kl"))
        advantages = generalized_advantages(of_codes, old, objective.gae_lambda, objective.discount)
        returns = advantages + old
        value_loss = clipped_value_loss(values, old, returns, objective.value_clip).mean()
        scaled = whitened(advantages) if objective.whiten else advantages
        policy_loss, clipped = clipped_loss(draws.levels - draws.behavior, scaled, objective.clip, objective.clip)
        likelihood, policy_loss = -draws.targets.mean(), policy_loss.mean()
        hits = self.numbers[draws.items] == self.numbers[rows.target].unsqueeze(1)
        everything = torch.ones_like(hits)
        log_prob = draws.levels.detach().sum(2)
        logs = group_logs(JudgedGroups(everything, hits, rewards, log_prob, scaled, clipped.any(2), everything.any(1)))
        del logs["gradient_share"], logs["no_hit_gradient"]  # every row has a gradient
        spread = (returns - returns.mean()).square().mean()
        logs |= {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "explained_variance": 1 - (returns - old).square().mean() / spread.clamp(min=1e-12),
            "likelihood_loss": likelihood.detach(),
        }
        if draws.reference is not None:
            logs["kl"] = k3_estimate(log_prob, draws.reference.sum(2)).mean()
        loss = constant(objective, "weight") * (policy_loss + objective.value_weight * value_loss)
        likelihood_weight = constant(objective, "likelihood")
        logs |= self.scheduled.logs(step, rows.target.device)
        return (loss + likelihood_weight * likelihood if likelihood_weight else loss), logs

    def _draw(self, prepared: PreparedRows, step: int) -> _Draws:
        """Draw the items of a step and return them with their log-probabilities."""
        rows, reference = prepared.rows, None
        scores = scores_of(self.context.policy, prepared.batch, prepared.places, rows, self.context.normalize)
        source: RowScores = self.proposing.scores(rows, scores)
        random = torch.Generator(rows.target.device).manual_seed(seed_of(self.context.seed, "items of a proximal policy", step))
        items = torch.cat([source.sample(1, None, random).items for _ in range(self.objective.samples)], 1)
        levels = at_least_float32(scores.level_log_prob(torch.cat([items, rows.target.unsqueeze(1)], 1)))
        behavior = levels[:, :-1].detach()
        if self.proposing.frozen is not None:
            with torch.no_grad():
                behavior = at_least_float32(source.level_log_prob(items))
        if self.objective.kl:
            assert self.context.reference is not None
            with torch.no_grad():
                policy = self.context.reference.policy
                frozen = scores_of(policy, prepared.batch, prepared.places, rows, self.context.normalize)
                reference = at_least_float32(frozen.level_log_prob(items))
        return _Draws(items, levels[:, :-1], behavior, reference, levels[:, -1])

    def _judge(self, rows: SequenceBatch, items: Tensor, step: int) -> Tensor:
        """Return the rewards of the drawn items, float32 [X, M]."""
        with plugin_errors.attribute_to(self.objective.reward, f"while the reward rated items in step {step}"):
            rewards = self.rate(rows, items)
        self.rewards.add(step, rows, items, rewards)
        return at_least_float32(rewards.detach())

    @torch.no_grad()
    def _old_values(self, rows: SequenceBatch, items: Tensor) -> Tensor:
        """Return the values at the time of the draw, float32 [X, M, L]."""
        return at_least_float32(self.old_value.to(items.device)(rows.items, self.codes[items]))
