"""Preference alignment: train the SFT policy to prefer the positive over sampled negatives, with a frozen copy as the reference.

    examples ──► batch ──► negatives ──► log-probabilities of ──► loss, rewards ──► step
                           sampled and   1 + K candidates under
                           checked       policy and reference

Negatives are sampled and checked on the CPU before the step needs them, so that the GPU does not wait. If a sampler reads the policy
or the loss needs a reward, negatives are sampled within the step because they depend on the current weights. Policy and reference run
without dropout. The S-DPO loss at the start of a round therefore is exactly ln(1 + K), which `check_start` verifies.

With `Align.rounds`, each round starts with `Align.round_sft_steps` steps of SFT; then the reference becomes a copy of the policy.
Frozen weights that change during training are part of the checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from genrec.data.examples import Examples
from genrec.model.unconstrained_sampling import unconstrained_statistics
from genrec.preference.draw_contract import DrawContract
from genrec.preference.draw_counts import DrawCounts
from genrec.preference.losses import ContinuedSFT, check_start, find_requirement
from genrec.preference.losses.kto import check_mismatched_pairs
from genrec.preference.negative_statistics import NegativeStatistics, Summary
from genrec.preference.rewards import checked_rating
from genrec.progress import say
from genrec.randomness import generator
from genrec.training import plugin_errors
from genrec.training.curve_warnings import FallingPositives
from genrec.training.curves import OnRow
from genrec.training.early_checks import check_alignment
from genrec.training.loop import Outcome, UserIds, Validate, train
from genrec.training.model_selection import Selection
from genrec.training.objective_state import FixedTensors
from genrec.training.preference_logs import preference_logs
from genrec.training.recipes import Align
from genrec.training.step_sampler import StepSampler
from genrec.training.validation import select_users
from genrec.training.validation_pairs import MAX_USERS, ValidationPairs, pair_metrics
from genrec.types import ConstrainedPolicy, LogProbs, Policy, Reward, SamplerContext, SequenceBatch

MAX_EMPTY_SHARE = 0.5  # warn if a larger share of the examples got no negative
NUM_PROBE_EXAMPLES = 256  # training examples that every validation probes: see `Alignment.probe_metrics`


class CpuBatch:
    """The CPU tensors of a batch. A plain class, so that Lightning does not move them to the GPU: reading them blocks nothing."""

    def __init__(self, batch: SequenceBatch, negatives: Tensor | None) -> None:
        self.batch, self.negatives = batch, negatives


class AlignmentBatch(NamedTuple):
    """The input of an alignment step."""

    batch: SequenceBatch
    negatives: Tensor | None  # int64 [B, K]; None if they are sampled in the step, or not needed
    host: CpuBatch  # the same on the CPU


class RoundStep(NamedTuple):
    """The role of a step in its round."""

    is_sft: bool  # the step belongs to the round's SFT
    starts_preferences: bool  # the first preference step; the reference is refreshed before it


def round_step(recipe: Align, step: int) -> RoundStep:
    """Return the role of a step. All rounds have the same length."""
    step_in_round = step % (recipe.steps // recipe.rounds)
    return RoundStep(step_in_round < recipe.round_sft_steps, step_in_round == recipe.round_sft_steps)


def log_probs(levels: Tensor, num_negatives: int | None = None, rewards: Tensor | None = None) -> LogProbs:
    """Sum level log-probabilities float32 [B, 1 + K (+ 1), L] of the positive, K negatives (and a mismatched item) over the levels.

    `num_negatives` is K; None means that all candidates but the positive are negatives.
    """
    total = levels.sum(-1)
    count = total.shape[1] - 1 if num_negatives is None else num_negatives
    mismatched = total[:, 1 + count] if total.shape[1] > 1 + count else None
    return LogProbs(total[:, 0], total[:, 1 : 1 + count], levels.shape[-1], mismatched, rewards)


class Alignment:
    """The objective of alignment, with its reference, the policy copy that the sampler reads, and statistics of the negatives.

    It is a `genrec.training.objective_state.ObjectiveState`: statistics, counts of draws, and frozen weights that change.
    """

    def __init__(self, policy: Policy, context: SamplerContext, recipe: Align, seed: int, epoch_steps: int) -> None:
        as_module(policy).eval()
        self.policy, self.recipe = policy, recipe
        self.reference, self.sampler_policy = frozen_copy(policy), frozen_copy(policy)
        self.sampler = StepSampler(recipe, context._replace(policy=self.sampler_policy), epoch_steps, seed)
        reward = find_requirement(recipe.loss, "reward")
        assert reward is None or isinstance(reward, Reward)  # `Align` has checked it
        with plugin_errors.attribute_to(recipe.loss, "while its reward was built"):
            self.rate_items = None if reward is None else checked_rating(reward, context._replace(policy=self.reference))
        self.needs_mismatched = bool(find_requirement(recipe.loss, "mismatched"))
        self.statistics = NegativeStatistics(context)
        self.draw_counts = DrawCounts(context.item_count)

    @property
    def samples_in_step(self) -> bool:
        """Whether negatives are sampled within the step, because they depend on the current weights."""
        return self.sampler.draw.refresh is not None or self.rate_items is not None

    def _fixed_tensors(self) -> FixedTensors:
        """Return the tensors of the checkpoint that keep their shapes: statistics, and frozen weights if they change."""
        held = dict(self.statistics.totals)
        if self.recipe.rounds > 1 or self.recipe.round_sft_steps or self.sampler.refresh_every:
            for name, policy in (("reference", self.reference), ("sampled", self.sampler_policy)):
                held |= {f"{name}.{key}": value for key, value in as_module(policy).state_dict().items()}
        return FixedTensors(held)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the checkpoint."""
        return self._fixed_tensors().tensors() | self.draw_counts.tensors()

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take the tensors of a checkpoint. Raise ValueError if they do not fit."""
        self._fixed_tensors().restore(saved)
        self.draw_counts.restore(saved)

    def prepare(self, batch: SequenceBatch, step: int) -> AlignmentBatch:
        """Return the input of a step. Runs on the CPU before the step needs it."""
        skip = self.samples_in_step or round_step(self.recipe, step).is_sft
        negatives = None if skip else self.sampler(batch, step)
        return AlignmentBatch(batch, negatives, CpuBatch(batch, negatives))

    def refresh(self, step: int) -> None:
        """Update the frozen policies: the reference at the start of a round, the sampled policy as its sampler requires."""
        begins, every = round_step(self.recipe, step).starts_preferences, self.sampler.refresh_every
        if begins:
            as_module(self.reference).load_state_dict(as_module(self.policy).state_dict())
        if step % every == 0 if every else begins:
            as_module(self.sampler_policy).load_state_dict(as_module(self.policy).state_dict())

    def __call__(self, batch: AlignmentBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a step and the metrics to log."""
        _, history, target = batch.batch
        host = batch.host
        self._move_frozen_to(target.device)
        self.refresh(step)
        role = round_step(self.recipe, step)
        if role.is_sft:
            levels = self._score(self.policy, history, target.unsqueeze(1))
            ours = log_probs(levels, 0)
            loss = ContinuedSFT()(ours, ours).loss.mean()
            return loss, {"sft_loss": loss.detach()}
        on_host, negatives = host.negatives, batch.negatives
        if negatives is None:
            on_host = self.sampler(host.batch, step)
            negatives = on_host.to(target.device)
        assert on_host is not None
        logs = self.statistics.update(host.batch, on_host)
        self.draw_counts.update(host.batch.user, on_host)
        candidates = torch.cat([target.unsqueeze(1), negatives], 1)
        with plugin_errors.attribute_to(self.recipe.loss, f"while its reward rated items in step {step}"):
            rewards = None if self.rate_items is None else self.rate_items(batch.batch, candidates)
        if self.needs_mismatched:
            other = mismatched_items(host.batch, self.sampler.contract)
            candidates = torch.cat([candidates, other.to(candidates.device).unsqueeze(1)], 1)
        levels = self._score(self.policy, history, candidates)
        with torch.no_grad():
            reference_levels = self._score(self.reference, history, candidates)
        ours, theirs = (log_probs(each, negatives.shape[1], rewards) for each in (levels, reference_levels))
        if role.starts_preferences:
            check_start(ours, theirs)
        with plugin_errors.attribute_to(self.recipe.loss, f"in step {step}"):
            terms = self.recipe.loss(ours, theirs)
        if role.starts_preferences:
            plugin_errors.check_terms(self.recipe.loss, terms, ours)
        pair = slice(0, 1 + negatives.shape[1])  # without a mismatched item
        return terms.loss.mean(), preference_logs(terms, levels[:, pair].detach(), reference_levels[:, pair], negatives) | logs

    def _score(self, policy: Policy, history: Tensor, items: Tensor) -> Tensor:
        """Return level log-probabilities float32 [B, M, L], normalized as `Align.normalize` requires."""
        if self.recipe.normalize == "codes":
            return policy.level_log_prob(history, items)
        return cast(ConstrainedPolicy, policy).constrained_level_log_prob(history, items)

    def _move_frozen_to(self, device: torch.device) -> None:
        """Move the frozen policies to a device if they are on another one."""
        if next(as_module(self.reference).parameters()).device != device:
            for each in (self.reference, self.sampler_policy):
                as_module(each).to(device)

    @torch.no_grad()
    def probe_metrics(self, examples: SequenceBatch, seed: int) -> dict[str, float]:
        """Return metrics of fixed training examples, comparable across steps because the examples stay the same.

        `chosen_log_prob` is the mean log-probability of the positive, independent of the reference. The others describe
        Semantic IDs sampled without constraints: entropy, KL to the reference, and the share of valid ones (see
        `genrec.model.unconstrained_sampling.unconstrained_statistics`).
        """
        device = next(as_module(self.policy).parameters()).device
        self._move_frozen_to(device)
        history, target = examples.history.to(device), examples.target.to(device)
        chosen = self._score(self.policy, history, target.unsqueeze(1)).sum(-1).mean()
        return {"chosen_log_prob": float(chosen)} | unconstrained_statistics(
            self.policy, self.reference, history, 1, generator(seed, "probe")
        )

    @torch.no_grad()
    def pair_metrics(self, pairs: ValidationPairs) -> dict[str, float]:
        """Return the metrics of validation pairs, see `genrec.training.validation_pairs.pair_metrics`, in batches as in training."""
        device = next(as_module(self.policy).parameters()).device
        self._move_frozen_to(device)
        items = torch.cat([pairs.batch.target.unsqueeze(1), pairs.negatives], 1)
        size, scored = self.recipe.optimization.batch_size, []
        for history, candidates in zip(torch.split(pairs.batch.history, size), torch.split(items, size), strict=True):
            arguments = history.to(device), candidates.to(device)
            scored.append([self._score(each, *arguments).cpu() for each in (self.policy, self.reference)])
        levels, reference = (torch.cat(parts) for parts in zip(*scored, strict=True))
        return pair_metrics(levels, reference, pairs.negatives)


def align(
    policy: Policy, examples: Examples, context: SamplerContext, recipe: Align, seed: int, folder: Path,
    validate: Validate, on_row: OnRow | None = None, selection: Selection | None = None, user_ids: UserIds | None = None,
    key: str = "", held_out: Examples | None = None,
) -> tuple[Outcome, Summary, DrawCounts]:  # fmt: skip
    """Align the SFT policy in place. Return the outcome, statistics of the sampled negatives, and their counts by user and item.

    `folder` holds the checkpoint, `validate` returns validation metrics, and `on_row` is called with every row of the curves. For
    `selection`, `user_ids` and `key` see `genrec.training.loop.train`. `held_out` are the examples of validation users; on a sample of
    `validation_pairs.MAX_USERS` of them every validation measures preferences.
    """
    check_alignment(policy, context, recipe)
    objective = Alignment(policy, context, recipe, seed, -(-len(examples) // recipe.optimization.batch_size))
    if objective.needs_mismatched:
        check_mismatched_pairs(len(examples), recipe.optimization.batch_size, recipe.steps)
    pairs = None if held_out is None else _validation_pairs(objective.sampler, held_out)
    probed = examples.batch(torch.randperm(len(examples), generator=generator(0, "probed examples"))[:NUM_PROBE_EXAMPLES])

    def validate_and_probe() -> dict[str, float]:
        on_pairs = {} if pairs is None else objective.pair_metrics(pairs)
        return {**validate(), **on_pairs, **objective.probe_metrics(probed, seed)}

    outcome = train(
        as_module(policy), objective, examples, recipe, seed, folder, validate_and_probe, "alignment", objective,
        objective.prepare, on_row, [FallingPositives()], selection, user_ids, key,
    )  # fmt: skip
    summary = objective.statistics.summary()
    _warn_if_few_negatives(summary)
    return outcome, summary, objective.draw_counts


def _validation_pairs(sampler: StepSampler, held_out: Examples) -> ValidationPairs:
    """Draw the negatives of validation users. The sampler then still reads the SFT policy, also if the training is resumed."""
    chosen = select_users(held_out, MAX_USERS, "validation")
    batch = chosen.batch(torch.arange(len(chosen)))
    return ValidationPairs(batch, sampler.for_validation(batch))


def _warn_if_few_negatives(summary: Summary) -> None:
    """Warn if most examples got no negative. Their preference loss is 0, so only an anchor trains on them."""
    examples, without = cast(int, summary["examples"]), cast(int, summary["examples_without_negatives"])
    if without > MAX_EMPTY_SHARE * examples:
        say(
            f"alignment: {without} of {examples} examples got no negative; their preference loss is 0, and only an anchor (Anchored) "
            "trains on them; give the sampler more candidates or exclude fewer"
        )


def mismatched_items(batch: SequenceBatch, contract: DrawContract) -> Tensor:
    """Return the next example's positive for each history, int64 [B], 0 where both positives share a Semantic ID.

    KTO uses these mismatched pairs as its baseline.
    """
    other = batch.target.roll(1)
    same = contract.exclusions.shares_semantic_id(batch, other.unsqueeze(1)).squeeze(1)
    return other.masked_fill(same, 0)


def frozen_copy(policy: Policy) -> Policy:
    """Return a copy of the policy in evaluation mode, with weights that need no gradient."""
    return cast(Policy, copy.deepcopy(as_module(policy)).requires_grad_(False).eval())


def as_module(policy: Policy) -> nn.Module:
    """Return the policy typed as an `nn.Module`, which the protocol `Policy` cannot express."""
    return cast(nn.Module, policy)
