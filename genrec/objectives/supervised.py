"""The supervised objective: the likelihood of the next item."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.errors import UsageError
from genrec.plugin_source import name_with_place
from genrec.preference.range_checks import check_range
from genrec.preference.rating_requirements import check_labels
from genrec.randomness import generator
from genrec.store import NEW_IN_KEY
from genrec.types import (
    Baseline,
    ExampleSource,
    Feedback,
    LabelSmoothing,
    LabelSmoothingSpecification,
    LossPolicy,
    ObjectiveContext,
    Padding,
    Policy,
    SequenceBatch,
    SequenceLabelSmoothing,
    SequencePolicy,
    TrainingExamples,
    TrainingStep,
    WindowBatch,
)
from genrec.types.objective import Targets
from genrec.types.specification import check_types


@dataclass(frozen=True, kw_only=True)
class Supervised:
    """Maximize the likelihood of the next item: the mean of -log p(code | history, previous codes) over targets and levels.

    In an alignment this is continued SFT, the control of every preference. A policy with a loss of its own
    (`genrec.types.LossPolicy`) trains with that loss.

    With label smoothing e, the loss of a code is

        (1 - e) (-log p(code)) + e (mean over the possible codes of the level, the code among them, of -log p)

    The possible codes are those that the policy's softmax is over: all codes of the level, those that lead to a real item, or all
    items. This is `torch.nn.CrossEntropyLoss(label_smoothing=e)`, the `label_smoothing_factor` of Hugging Face (Szegedy et al. 2016,
    arXiv 1512.00567). The loss of training is then the smoothed one; metrics on validation users stay as they are.
    """

    targets: Targets = "one"  # one target per prefix, or, for a causal policy, every target of a window in one pass
    padding: Padding = "zero"  # left padding of a window; "repeat" fills it with copies of the sequence, separated by a 0
    feedback: Feedback = field(default="all", metadata=NEW_IN_KEY)  # which events are targets, by the labels of the split
    label_smoothing: float = field(default=0.0, metadata=NEW_IN_KEY)  # e, in [0, 1); 0: the likelihood alone

    def __post_init__(self) -> None:
        check_types(self, "Supervised")
        check_range(self, "label_smoothing", 0, 1)
        if self.padding == "repeat" and self.targets == "one":
            raise UsageError(
                "Supervised.padding 'repeat' pads windows, which need targets 'all', got 'one'; set padding zero or targets all"
            )

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the policy is not causal as `targets` needs, cannot smooth labels, or if the split lacks the labels."""
        check_causal(self, self.targets, experiment)
        policy = experiment.policy
        if self.label_smoothing and not isinstance(policy, Baseline):
            if not isinstance(policy, LabelSmoothingSpecification):
                raise UsageError(f"{experiment.name}: {_no_smoothing(policy)}")
            if not policy.has_label_smoothing():
                raise UsageError(f"{experiment.name}: {_own_loss(policy)}")
        check_labels(self, self.feedback, experiment)

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        """Return the objective for one policy and one training set."""
        examples = examples_of(context.source, self.targets, self.padding, self.feedback)
        check_sequence_policy(self, self.targets, context.policy)
        needed = SequenceLabelSmoothing if self.targets == "all" else LabelSmoothing
        if self.label_smoothing and not isinstance(context.policy, needed):
            raise UsageError(_no_smoothing(context.policy))

        def loss(batch: SequenceBatch | WindowBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            return supervised_loss(context, batch, step, self.label_smoothing), {}

        return TrainingStep(examples=examples, loss=loss)


def examples_of(
    source: ExampleSource, targets: Targets, padding: Padding = "zero", feedback: Feedback = "not disliked"
) -> TrainingExamples:
    """Return the training examples of an objective: prefixes with one target, or windows with a target after every item."""
    return source.windows(padding, feedback) if targets == "all" else source.prefixes(feedback)


def check_causal(objective: object, targets: Targets, experiment: Any) -> None:
    """Raise UsageError if an objective trains on all targets of a window and the experiment's policy is not causal."""
    policy = experiment.policy
    if targets == "all" and not getattr(policy, "causal", False) and not isinstance(policy, Baseline):
        raise UsageError(
            f"{experiment.name}: {type(objective).__name__}.targets 'all' needs a causal policy, in which each position sees only "
            f"earlier items; {type(policy).__name__} is bidirectional; set targets one or choose a causal policy"
        )


def check_sequence_policy(objective: object, targets: Targets, policy: Policy) -> None:
    """Raise UsageError if an objective trains on all targets of a window and the policy cannot score them in one pass."""
    if targets == "all" and not isinstance(policy, SequencePolicy):
        raise UsageError(
            f"{type(objective).__name__}.targets 'all' needs a policy that scores all positions of a sequence "
            f"(genrec.types.SequencePolicy), got {name_with_place(type(policy))}; set targets one"
        )


def _no_smoothing(policy: object) -> str:
    """Return that a policy, or its specification, gives no smoothed log-probabilities, and what to do."""
    return (
        f"Supervised.label_smoothing needs a policy that gives smoothed log-probabilities, which {name_with_place(type(policy))} does "
        "not; set label_smoothing 0, choose Tiger, Gpt, RPG, SASRec or GRU4Rec, or add smoothed_level_log_prob and, if the policy is "
        "causal, smoothed_sequence_log_prob to the policy and has_label_smoothing() to its specification (genrec.types.LabelSmoothing)"
    )


def _own_loss(policy: object) -> str:
    """Return that a policy, or its specification, trains with a loss of its own, and what to do."""
    return (
        f"Supervised.label_smoothing smooths the likelihood, but {name_with_place(type(policy))} trains with a loss of its own here, "
        "such as one with sampled negatives; set label_smoothing 0, or train with the likelihood (policy.loss None)"
    )


def supervised_loss(context: ObjectiveContext, batch: SequenceBatch | WindowBatch, step: int, label_smoothing: float = 0.0) -> Tensor:
    """Return the policy's own loss of a batch, if it has one, else the negative log-likelihood: a scalar.

    Raises UsageError if the policy has a loss of its own and labels are to be smoothed.
    """
    policy = context.policy
    loss = own_loss(policy, batch, context.seed, step) if isinstance(policy, LossPolicy) else None
    if loss is not None and label_smoothing:
        raise UsageError(_own_loss(policy))
    if loss is not None:
        return loss
    if isinstance(batch, WindowBatch):
        return window_loss(cast(SequencePolicy, policy), batch, label_smoothing)
    return negative_log_likelihood(policy, batch, label_smoothing)


def negative_log_likelihood(policy: Policy, batch: SequenceBatch, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean of -log p(code | history, previous codes) over batch and levels: a scalar, in nats per code.

    With label smoothing log p is the smoothed one of a `LabelSmoothing`.
    """
    target = batch.target.unsqueeze(1)
    if label_smoothing == 0:
        return -policy.level_log_prob(batch.history, target).mean()
    return -cast(LabelSmoothing, policy).smoothed_level_log_prob(batch.history, target, label_smoothing).mean()


def window_loss(policy: SequencePolicy, batch: WindowBatch, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean of -log p over all targets of the windows and over levels: a scalar, in nats per code.

    With label smoothing log p is the smoothed one of a `SequenceLabelSmoothing`.
    """
    if label_smoothing == 0:
        levels = policy.sequence_log_prob(batch.history, batch.target)
    else:
        levels = cast(SequenceLabelSmoothing, policy).smoothed_sequence_log_prob(batch.history, batch.target, label_smoothing)
    counts = (batch.target > 0).unsqueeze(-1)
    return -torch.where(counts, levels, 0.0).sum() / (counts.sum() * levels.shape[-1])


def own_loss(policy: LossPolicy, batch: SequenceBatch | WindowBatch, seed: int, step: int) -> Tensor | None:
    """Return the policy's own loss of a batch, a scalar, or None if it has none. Random numbers depend on the seed and the step."""
    targets = batch.target
    if isinstance(batch, SequenceBatch):
        targets = pad(targets.unsqueeze(1), (batch.history.shape[1] - 1, 0))
    return policy.sequence_loss(batch.history, targets, generator(seed, "sft loss", step))
