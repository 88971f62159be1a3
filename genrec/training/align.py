"""Alignment: train a policy further by an objective with a frozen reference.

The objective (`genrec.objectives`) decides what a step minimizes. This module gives it the policy, the reference and the training
data, checks that policy and reference start as the same model, and measures the policy on a fixed sample at every validation.
Frozen weights that change during training are part of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from pandas import DataFrame
from torch import Tensor

from genrec.data.examples import Examples
from genrec.model.unconstrained_sampling import unconstrained_statistics
from genrec.objective_state import FixedTensors
from genrec.objectives.built_steps import build_step
from genrec.objectives.candidate_trial import proposing_parts, try_candidates
from genrec.objectives.frozen_policy import FrozenCopy
from genrec.objectives.held_out_examples import check_not_held_out
from genrec.objectives.scored_candidates import log_probs
from genrec.objectives.supervised import Supervised
from genrec.objectives.validation_pairs import MAX_USERS
from genrec.plugin_source import plugins_in
from genrec.policy_modules import as_module, device_of, evaluation_mode
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.losses import check_start
from genrec.randomness import generator, seed_of
from genrec.stage_names import align_stage
from genrec.training.alignment_warnings import alignment_watchers
from genrec.training.curves import OnRow
from genrec.training.early_checks import check_alignment
from genrec.training.loop import Outcome, UserIds, Validate, train
from genrec.training.model_selection import Selection
from genrec.training.policy_divergence import PolicyDivergence
from genrec.training.recipes import Align
from genrec.training.user_batches import select_users
from genrec.types import (
    ExampleSource,
    FrozenPolicy,
    Objective,
    ObjectiveContext,
    ObjectiveState,
    Policy,
    SamplerContext,
    SequenceBatch,
    TrainingStep,
)

NUM_PROBE_EXAMPLES = 256  # training examples that every validation probes: see `probe_metrics`


class AlignmentData(NamedTuple):
    """The data of an alignment."""

    source: ExampleSource  # training examples
    context: SamplerContext  # training data for samplers and rewards, without a policy
    held_out: Examples | None = None  # validation users, for measuring alone
    history_length: int | None = None  # most items of a history; None: no limit
    held_out_events: Callable[[], DataFrame] | None = None  # events of validation and test, to refuse a training on them


class FrozenPolicies:
    """The reference and further frozen copies. It is an `ObjectiveState`: their weights that change, and the objective's tensors."""

    def __init__(self, policy: Policy, reference: Mapping[str, Tensor] | None, refreshed_every: int) -> None:
        self.policy, self.weights, self.refreshed_every = policy, reference, refreshed_every
        self.reference = FrozenCopy(policy, None if reference is None else dict(reference), refreshed_every > 0)
        self.copies: dict[str, FrozenCopy] = {"reference": self.reference}
        self.objective: ObjectiveState = FixedTensors()

    def copy(self, name: str) -> FrozenPolicy:
        """Return a further frozen copy. One name may be asked for several times, as by the parts of `Rounds`."""
        while name in self.copies:
            name = f"{name}'"
        self.copies[name] = FrozenCopy(self.policy, kept=True)
        return self.copies[name]

    def sft_copy(self, weights: Mapping[str, Tensor] | None) -> FrozenCopy:
        """Return the SFT policy, which never changes. To be called after the objective is built, before any step.

        `weights` are None where the stage begins from the SFT policy. The reference serves if it is this policy and stays.
        """
        if not self.reference.kept and weights is self.weights:
            return self.reference
        return FrozenCopy(self.policy, None if weights is None else dict(weights))

    def follow_device(self) -> None:
        """Move the copies to the device of the policy in training."""
        for each in self.copies.values():
            each.follow_device()

    def begin(self, step: int) -> None:
        """Move the copies to the policy's device, and refresh the reference if it is time to."""
        self.follow_device()
        if self.refreshed_every and step % self.refreshed_every == 0 and step:
            self.reference.refresh()

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the checkpoint."""
        return self._frozen().tensors() | self.objective.tensors()

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take the tensors of a checkpoint. Raise ValueError if they do not fit."""
        frozen = self._frozen()
        frozen.restore(saved)
        self.objective.restore({name: value for name, value in saved.items() if name not in frozen.tensors()})

    def _frozen(self) -> FixedTensors:
        return FixedTensors({f"{name}.{key}": value for name, each in self.copies.items() for key, value in each.tensors().items()})


def align(
    policy: Policy, data: AlignmentData, recipe: Align, seed: int, folder: Path, validate: Validate, on_row: OnRow | None = None,
    selection: Selection | None = None, user_ids: UserIds | None = None, key: str = "", place: int = 0,
    reference: Mapping[str, Tensor] | None = None, sft: Mapping[str, Tensor] | None = None,
) -> tuple[Outcome, TrainingStep]:  # fmt: skip
    """Align a policy in place. Return the outcome and the objective, whose `save` writes its files.

    `folder` holds the checkpoint, `validate` returns validation metrics, and `on_row` is called with every row of the curves. For
    `selection`, `user_ids` and `key` see `genrec.training.loop.train`. `place` is that of the stage in a chain of alignments, from 0:
    later stages have random numbers of their own. `reference` holds the weights of the reference if it is not the policy itself, and
    `sft` those of the SFT policy, from which the divergence is measured.
    """
    check_alignment(policy, data.context, recipe)
    _try_proposers(policy, data, recipe, seed)
    as_module(policy).train(recipe.dropout)
    frozen = FrozenPolicies(policy, reference, recipe.refresh_reference)
    context = context_of(policy, data, recipe, seed if place == 0 else seed_of(seed, "alignment", place), frozen)
    step = build_step(recipe.objective, context)
    check_not_held_out(recipe.objective, step, context, data.held_out_events)
    prefixes = data.source.prefixes()
    probed = prefixes.batch(torch.randperm(len(prefixes), generator=generator(0, "probed examples"))[:NUM_PROBE_EXAMPLES])
    if reference is None:
        check_same_start(context, probed)
    frozen.objective = FixedTensors() if step.state is None else step.state
    divergence = PolicyDivergence(policy, frozen.sft_copy(reference if sft is None else sft), context.validation)
    bounded = not isinstance(recipe.objective, Supervised)
    watched = replace(step, watchers=(*step.watchers, *alignment_watchers((selection or Selection()).column, bounded)))

    def measure() -> dict[str, float]:
        frozen.follow_device()
        own = {} if step.measure is None else step.measure()
        return {**validate(), **own, **probe_metrics(context, probed, seed), **divergence.measure()}

    title = "alignment" if place == 0 else f"alignment ({align_stage(place)})"  # the name of the stage, as everywhere on the screen
    outcome = train(
        as_module(policy), watched, recipe, seed, context.seed, folder, measure, title, frozen, frozen.begin, on_row, selection,
        user_ids, key,
    )  # fmt: skip
    as_module(policy).eval()
    return outcome, step


def try_objectives(policy: Policy, data: Callable[[], AlignmentData], recipes: Sequence[Align], seed: int) -> None:
    """Try the user's own objectives, proposers and samplers with an untrained policy, to find their errors before SFT.

    Objectives are built, and proposers and samplers give candidates for a few examples; what they build is dropped. `data` is called
    only if there are such plug-ins; those of genrec need no trial. For the errors see `build_step` and `try_candidates`.
    """
    own = [each for each in recipes if _has_own_objective(each) or proposing_parts(each.objective)]
    if not own:
        return
    found = data()
    for recipe in own:
        if _has_own_objective(recipe):
            with torch.random.fork_rng(devices=[]):
                build_step(recipe.objective, _trial_context(policy, found, recipe, seed))
        _try_proposers(policy, found, recipe, seed)


def _try_proposers(policy: Policy, data: AlignmentData, recipe: Align, seed: int) -> None:
    """Let the user's own proposers and samplers give candidates for a few examples.

    Torch's global generator and the policy's mode are left unchanged.
    """
    if proposing_parts(recipe.objective):
        with torch.random.fork_rng(devices=[]), evaluation_mode(policy):
            try_candidates(recipe.objective, _trial_context(policy, data, recipe, seed))


def _trial_context(policy: Policy, data: AlignmentData, recipe: Align, seed: int) -> ObjectiveContext:
    """Return what an objective is built from for a trial, with frozen copies of its own."""
    return context_of(policy, data, recipe, seed, FrozenPolicies(policy, None, recipe.refresh_reference))


def _has_own_objective(recipe: Align) -> bool:
    return any(isinstance(each, Objective) for each in plugins_in(recipe.objective))


def context_of(policy: Policy, data: AlignmentData, recipe: Align, seed: int, frozen: FrozenPolicies) -> ObjectiveContext:
    """Return what the objective is built from."""
    held_out, context = data.held_out, data.context._replace(policy=frozen.reference.policy)
    return ObjectiveContext(
        policy=policy,
        reference=frozen.reference,
        source=data.source,
        data=lambda: context,
        frozen_copy=frozen.copy,
        normalize=recipe.normalize,
        steps=recipe.steps,
        batch_size=recipe.optimization.batch_size,
        parts=recipe.optimization.accumulate,
        seed=seed,
        validation=None if held_out is None else select_users(held_out, MAX_USERS, "validation"),
        history_length=data.history_length,
    )


@torch.no_grad()
def check_same_start(context: ObjectiveContext, examples: SequenceBatch) -> None:
    """Raise NumericsError unless policy and reference give the same log-probabilities in evaluation mode, before any step."""
    assert context.reference is not None
    device = device_of(context.policy)
    rows = SequenceBatch(*(each.to(device) for each in examples))
    items = torch.stack([rows.target, rows.target.roll(1)], 1)
    both = (context.policy, context.reference.policy)
    with evaluation_mode(context.policy):
        ours, theirs = (log_probs(scores_of(each, rows, None, rows, context.normalize).level_log_prob(items)) for each in both)
    check_start(ours, theirs)


@torch.no_grad()
def probe_metrics(context: ObjectiveContext, examples: SequenceBatch, seed: int) -> dict[str, float]:
    """Return metrics of fixed training examples, comparable across steps because the examples stay the same.

    `chosen_log_prob` is the mean log-probability of the logged item, independent of the reference. The others describe Semantic IDs
    sampled without constraints: entropy, KL to the reference, and the share of valid ones (see
    `genrec.model.unconstrained_sampling.unconstrained_statistics`).
    """
    assert context.reference is not None
    device = device_of(context.policy)
    rows = SequenceBatch(*(each.to(device) for each in examples))
    scores = scores_of(context.policy, rows, None, rows, context.normalize)
    chosen = scores.level_log_prob(rows.target.unsqueeze(1)).sum(-1).mean()
    return {"chosen_log_prob": float(chosen)} | unconstrained_statistics(
        context.policy, context.reference.policy, rows.history, 1, generator(seed, "probe")
    )
