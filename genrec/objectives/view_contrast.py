"""The likelihood beside a contrast of views: two views of a history have similar states, views of different histories do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, normalize

from genrec import plugin_errors
from genrec.errors import InputError, UsageError, given
from genrec.item_rows import prefixes
from genrec.objectives.history_views import Augmentations
from genrec.objectives.scheduled_settings import ScheduledSettings
from genrec.objectives.supervised import check_causal, check_sequence_policy, examples_of, supervised_loss
from genrec.plugin_source import name_with_place
from genrec.preference.losses.log_ratios import at_least_float32
from genrec.preference.range_checks import check_range
from genrec.preference.rating_requirements import check_labels
from genrec.preference.schedules import check_scheduled, constant
from genrec.randomness import generator
from genrec.types import (
    Baseline,
    Feedback,
    HistoryInput,
    HistoryStates,
    HistoryStatesSpecification,
    HistoryViews,
    NumberOrSchedule,
    ObjectiveContext,
    Padding,
    Policy,
    SamplerContext,
    SequenceBatch,
    TrainingStep,
    TwoViews,
    WindowBatch,
)
from genrec.types.event_history import in_words, inputs_in, items_of, joined_rows, padded, without_events
from genrec.types.objective import Targets
from genrec.types.specification import check_types


@dataclass(frozen=True, kw_only=True)
class ViewContrast:
    """Minimize `loss of SFT + weight * NT-Xent` of two views of each history, in SFT or in an alignment; no reference is read.

    With `z_1..z_2B` the states of the views of B histories (`genrec.types.HistoryStates`) and `p(i)` the other view of the history
    of view i, NT-Xent is the mean over the 2B views of

        -log [ exp(sim(z_i, z_p(i)) / temperature) / sum over j != i of exp(sim(z_i, z_j) / temperature) ]

    `views=Augmentations()` is CL4SRec (arXiv 2010.14395), `views=SameTarget()` DuoRec (arXiv 2110.05730). The defaults are those of
    DuoRec's authors: weight 0.1, dot product, temperature 1. Deviations:

    - Views of histories with the same target, or of the same user, are no negatives of each other (DuoRec's code: all
      2 (B - 1) other views are).
    - A row is a history with its target. With targets "all" a step draws one of the targets of each window, and the row is the history
      before it (CL4SRec: the whole sequence of a user).
    - Both views are passes of their own, beside that of the loss of SFT.
    """

    views: HistoryViews = field(default_factory=Augmentations)  # who makes the two views of a history
    weight: NumberOrSchedule = 0.1  # weight of NT-Xent, 0 or more
    temperature: float = 1.0  # divides similarities, above 0
    similarity: Literal["dot", "cosine"] = "dot"  # of two states
    targets: Targets = "one"  # one target per prefix, or, for a causal policy, every target of a window
    padding: Padding = "zero"  # left padding of a window; see `Supervised.padding`
    feedback: Feedback = "all"  # which events are targets, by the labels of the split

    def __post_init__(self) -> None:
        check_types(self, "ViewContrast")
        check_scheduled(self, "weight", 0)
        check_range(self, "temperature", 0, above=True)
        if isinstance(self.views, type) or not isinstance(self.views, HistoryViews):
            raise UsageError(f"ViewContrast.views must be Augmentations(), SameTarget() or your own, got {given(self.views)}")
        if self.padding == "repeat" and self.targets == "one":
            raise UsageError(
                "ViewContrast.padding 'repeat' pads windows, which need targets 'all', got 'one'; set padding zero or targets all"
            )

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the policy gives no states or is not causal as `targets` needs, or if the split lacks the labels."""
        policy = experiment.policy
        gives = isinstance(policy, HistoryStatesSpecification) and policy.has_history_states()
        if not gives and not isinstance(policy, Baseline):
            raise UsageError(f"{experiment.name}: {_no_states(type(policy))}")
        check_causal(self, self.targets, experiment)
        check_labels(self, self.feedback, experiment)

    def check_context(self, context: SamplerContext) -> None:
        """Raise UsageError if the policy, which an alignment will train, gives no states."""
        if context.policy is not None:
            check_gives_states(context.policy)

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        """Return the objective for one policy and one training set."""
        check_gives_states(context.policy)
        check_sequence_policy(self, self.targets, context.policy)
        if context.part_size < 2:
            raise UsageError(
                "ViewContrast compares the histories of a batch, and a part of a step has one; raise optimization.batch_size or lower "
                "optimization.accumulate"
            )
        examples = examples_of(context.source, self.targets, self.padding, self.feedback)
        rows = examples if self.targets == "one" else examples_of(context.source, "one", feedback=self.feedback)
        with plugin_errors.attribute_to(self.views, "while the views were built"):
            views = self.views.build_views(context, rows)
        step = _ViewStep(self, context, views)
        return TrainingStep(examples=examples, loss=step.loss, prepare=step.prepare)


def check_gives_states(policy: Policy) -> None:
    """Raise UsageError unless a policy is a `HistoryStates`."""
    if not isinstance(policy, HistoryStates):
        raise UsageError(_no_states(type(policy)))


def _no_states(kind: type) -> str:
    return (
        f"ViewContrast compares states of histories, which {name_with_place(kind)} does not give; choose Tiger, Liger, Gpt, RPG, "
        "SASRec or GRU4Rec, or add history_states(history) to the policy and has_history_states() to its specification "
        "(genrec.types.HistoryStates)"
    )


class PreparedViews(NamedTuple):
    """The input of a step."""

    batch: SequenceBatch | WindowBatch
    histories: Tensor  # int64 [2X, T]  the first views of all rows, then the second ones
    excluded: Tensor  # bool [X, X]  rows that are no negatives of each other


class _ViewStep:
    """The built objective."""

    def __init__(
        self, objective: ViewContrast, context: ObjectiveContext, views: Callable[[SequenceBatch, Generator], TwoViews]
    ) -> None:
        self.objective, self.context, self.views, self.scheduled = objective, context, views, ScheduledSettings(objective)

    def prepare(self, batch: SequenceBatch | WindowBatch, step: int) -> PreparedViews:
        """Make the views of a batch. Runs on the CPU before the step needs it."""
        draw = generator(self.context.seed, "views", step)
        rows = drawn_rows(batch, draw)
        with plugin_errors.attribute_to(self.objective.views, f"while it made views for step {step}"):
            views = check_views(self.objective.views, self.views(rows, draw), len(rows.user), inputs_in(rows.history))
        longest = max(each.shape[1] for each in views)
        histories = joined_rows([padded(each, longest) for each in views])
        return PreparedViews(batch, histories, false_negatives(rows))

    def loss(self, prepared: PreparedViews, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a step and the metrics to log. With weight 0 it is that of SFT, and the views are not encoded."""
        objective = self.scheduled.at(self.objective, step)
        likelihood, weight = supervised_loss(self.context, prepared.batch, step), constant(objective, "weight")
        logs = {"likelihood_loss": likelihood.detach()} | self.scheduled.logs(step, likelihood.device)
        if weight == 0:
            return likelihood, logs
        first, second = cast(HistoryStates, self.context.policy).history_states(prepared.histories).chunk(2)
        with torch.autocast(first.device.type, enabled=False):
            scores = view_scores(first, second, prepared.excluded, objective.temperature, objective.similarity)
        partner = partners(len(first), scores.device)
        contrast = cross_entropy(scores, partner)
        found = (scores.argmax(1) == partner).float().mean()
        return likelihood + weight * contrast, logs | {"view_loss": contrast.detach(), "view_accuracy": found.detach()}


def drawn_rows(batch: SequenceBatch | WindowBatch, generator: Generator) -> SequenceBatch:
    """Return a batch of prefixes as it is, and of windows one of the targets of each, drawn uniformly, with the history before it."""
    if isinstance(batch, SequenceBatch):
        return batch
    chance = torch.rand(batch.target.shape, generator=generator).masked_fill(batch.target == 0, -1.0)
    place = torch.stack([torch.arange(len(chance)), chance.argmax(1)], 1)
    history = prefixes(batch.history, place)
    before = (items_of(history) == 0).flip(1).cummax(1).values.flip(1)  # padding, and repeats of the sequence before the last 0
    return SequenceBatch(batch.user, without_events(history, before), batch.target.gather(1, place[:, 1:]).squeeze(1))


def false_negatives(rows: SequenceBatch) -> Tensor:
    """Return which rows have the same target or the same user, bool [X, X]; the diagonal is true."""
    return (rows.target.unsqueeze(1) == rows.target) | (rows.user.unsqueeze(1) == rows.user)


def nt_xent(
    first: Tensor, second: Tensor, excluded: Tensor | None = None, temperature: float = 1.0,
    similarity: Literal["dot", "cosine"] = "dot",
) -> Tensor:  # fmt: skip
    """Return NT-Xent of the states of two views of B histories, float [B, D] each: a scalar, the mean over all 2B views.

    Views of rows with `excluded`, bool [B, B], are no negatives of each other; None: the other 2 (B - 1) views are negatives.
    Source: Chen et al. 2020, arXiv 2002.05709, Eq. 1.
    """
    if excluded is None:
        excluded = torch.eye(len(first), dtype=torch.bool, device=first.device)
    return cross_entropy(view_scores(first, second, excluded, temperature, similarity), partners(len(first), first.device))


def view_scores(first: Tensor, second: Tensor, excluded: Tensor, temperature: float, similarity: Literal["dot", "cosine"]) -> Tensor:
    """Return the similarities of all views divided by the temperature, float [2B, 2B], -inf where a view is not compared."""
    states = at_least_float32(torch.cat([first, second]))
    states = normalize(states, dim=1) if similarity == "cosine" else states
    size, own = len(first), partners(len(first), states.device).unsqueeze(1)
    hidden = excluded.repeat(2, 2).fill_diagonal_(True).scatter(1, own, False)
    assert hidden.shape == (2 * size, 2 * size)
    return (states @ states.T / temperature).masked_fill(hidden, -torch.inf)


def partners(size: int, device: torch.device) -> Tensor:
    """Return the number of the other view of the same history, int64 [2B], for each of the 2B views."""
    return torch.arange(2 * size, device=device).roll(size)


def check_views(maker: HistoryViews, views: object, rows: int, inputs: Sequence[HistoryInput] = ()) -> TwoViews:
    """Return the views, if each is a left-padded history for each row. Raise InputError with the class of their maker otherwise.

    `inputs` are those that the policy asks for: a view then is an `EventHistory` with them.
    """
    name = name_with_place(type(maker))
    if not isinstance(views, TwoViews):
        raise InputError(f"{name}: the views must be genrec.types.TwoViews(first, second), got a {type(views).__name__}")
    for which, view in zip(TwoViews._fields, views, strict=True):
        if inputs_in(view) != tuple(inputs):
            raise InputError(
                f"{name}: TwoViews.{which} must have the inputs of the rows' histories, {in_words(inputs)}, got "
                f"{in_words(inputs_in(view))}; make views by rows.history.at(rows, places), or choose Augmentations() or SameTarget()"
            )
        each = items_of(view)
        if not isinstance(each, Tensor) or each.dtype != torch.int64 or each.dim() != 2 or len(each) != rows or not each.shape[1]:
            got = f"{each.dtype} {list(each.shape)}" if isinstance(each, Tensor) else f"a {type(each).__name__}"
            raise InputError(f"{name}: TwoViews.{which} must be int64 [{rows}, T], a history for each row, got {got}")
        if not bool((each[:, -1] > 0).all()) or bool((each < 0).any()):
            raise InputError(f"{name}: TwoViews.{which} must have an item, 1 or more, in the last place of each row; pad on the left")
    return views
