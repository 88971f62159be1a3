"""Rounds: several objectives in turn on the same batches, for example SFT and DPO against the policy's own outputs (SPRec)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from genrec.errors import UsageError, given
from genrec.objective_state import JoinedStates
from genrec.objectives.built_steps import build_step
from genrec.objectives.column_parts import columns_of_part, of_part
from genrec.objectives.list_policy_gradient import ListPolicyGradient
from genrec.objectives.numbered_examples import NumberedExamples, without_numbers
from genrec.objectives.policy_gradient import PolicyGradient
from genrec.objectives.preference_state import preference_states, save_together
from genrec.objectives.preferences import Preference
from genrec.objectives.prefix_contrast import PrefixContrast
from genrec.objectives.proximal_policy import ProximalPolicy
from genrec.objectives.supervised import Supervised
from genrec.objectives.view_contrast import ViewContrast
from genrec.preference.candidates import Pairs
from genrec.progress import say
from genrec.types import Feedback, Objective, ObjectiveContext, StepFault, TrainingStep
from genrec.types.specification import check_types

if TYPE_CHECKING:
    from genrec.types.objective import CurveRow

_STRICTER: tuple[Feedback, ...] = ("all", "not disliked", "liked")  # each has some of the targets of the one before
_LABELED = (
    Supervised,
    Preference,
    PolicyGradient,
    ListPolicyGradient,
    ProximalPolicy,
    PrefixContrast,
    ViewContrast,
)  # objectives that choose their targets by labels

OWN_EXAMPLES = (
    "Rounds.objectives train on the same batches, got {!r}, which has examples of its own; use a chain of alignments, align=(..., ...)"
)


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Train by several objectives in turn: `steps[0]` steps of the first, `steps[1]` of the second, and again from the first.

    Before each part `refresh_before` the reference becomes a copy of the policy. All parts train on the same batches, so all have one
    target per prefix or all have every target of a window. They also have the strictest `feedback` of the parts: with `Supervised()`
    ("all") and `Preference()` ("not disliked"), no part has a disliked target.

    With `Rounds(objectives=(Supervised(), Preference(...)), steps=(20, 20))` this is the scheme of SPRec (Gao et al. 2024, arXiv
    2412.09243).
    """

    objectives: tuple[Objective, ...] = (Supervised(), Preference())  # at least one
    steps: tuple[int, ...] = (20, 20)  # optimizer steps of each objective in a round, at least 1 each
    refresh_before: int | None = -1  # the objective before which the reference becomes a copy of the policy; -1: the last; None: never

    def __post_init__(self) -> None:
        check_types(self, "Rounds")
        for place, objective in enumerate(self.objectives):
            if isinstance(objective, type) or not isinstance(objective, Objective):
                raise UsageError(f"Rounds.objectives[{place}] must be an objective, such as Preference(), got {given(objective)}")
        if not self.objectives or len(self.steps) != len(self.objectives) or min(self.steps) < 1:
            raise UsageError(
                f"Rounds.steps must have a number of 1 or more for each of the {len(self.objectives)} objectives, got {self.steps}"
            )
        for objective in self.objectives:
            if isinstance(objective, Preference) and isinstance(objective.candidates, Pairs):
                raise UsageError(OWN_EXAMPLES.format(objective))
        last = len(self.objectives)
        if self.refresh_before is not None and not -last <= self.refresh_before < last:
            raise UsageError(f"Rounds.refresh_before must be None or in {-last}..{last - 1}, got {self.refresh_before}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the steps of an alignment end within a round."""
        for alignment in experiment.alignments:
            if alignment.objective == self and alignment.steps % sum(self.steps):
                raise UsageError(
                    f"{experiment.name}: a round has {sum(self.steps)} steps ({' + '.join(map(str, self.steps))}), which must divide "
                    f"align.optimization.max_steps = {alignment.steps}"
                )

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        """Return the objective for one policy and one training set."""
        steps = [build_step(objective, context) for objective in _with_one_feedback(self.objectives, context)]
        for objective, step in zip(self.objectives, steps, strict=True):
            if isinstance(step.examples, NumberedExamples) and step.examples.own:
                raise UsageError(OWN_EXAMPLES.format(objective))
        examples = [without_numbers(step.examples) for step in steps]
        lengths = {(type(each), len(each)) for each in examples}
        if len(lengths) > 1:
            found = ", ".join(f"{length:,} {kind.__name__}" for kind, length in sorted(lengths, key=str))
            raise UsageError(f"Rounds.objectives must train on the same batches, got {found}; give all the same targets and feedback")
        built = _Rounds(self, context, steps)
        return TrainingStep(
            examples=examples[0],
            loss=built.loss,
            prepare=built.prepare,
            begin=built.begin,
            state=JoinedStates({str(number): step.state for number, step in enumerate(steps)}),
            modules=tuple(module for step in steps for module in step.modules),
            measure=built.measure,
            watchers=built.watchers(),
            save=built.save,
            fault=built.fault,
        )


def _with_one_feedback(objectives: tuple[Objective, ...], context: ObjectiveContext) -> tuple[Objective, ...]:
    """Return the objectives with the strictest `feedback` of all, and report it if it changes the targets of one of them."""
    found = {each.feedback for each in objectives if isinstance(each, _LABELED)}
    if len(found) < 2:
        return objectives
    strictest: Any = max(found, key=_STRICTER.index)
    if "label" in context.data().interactions:
        say(f"Rounds: all objectives train on the same targets, those that are {strictest} (feedback)")
    return tuple(replace(each, feedback=strictest) if isinstance(each, _LABELED) else each for each in objectives)


def _told_apart(objectives: tuple[Objective, ...]) -> frozenset[int]:
    """Return the places of the objectives that may log the names of another one. The likelihood alone logs only `sft_loss`."""
    likelihoods = [number for number, each in enumerate(objectives) if isinstance(each, Supervised)]
    others = [number for number, each in enumerate(objectives) if not isinstance(each, Supervised)]
    return frozenset(number for numbers in (likelihoods, others) if len(numbers) > 1 for number in numbers)


def _watch(watcher: Callable[[CurveRow], str | None], number: int, row: CurveRow) -> str | None:
    """Return what a watcher of objective `number`, from 1, tells of the columns of this objective."""
    return watcher(columns_of_part(row, number))


class _Part(NamedTuple):
    """The part of a round that a step belongs to."""

    number: int
    first: bool  # whether it is the first step of the part


class _Rounds:
    """The built objectives."""

    def __init__(self, specification: Rounds, context: ObjectiveContext, steps: Sequence[TrainingStep]) -> None:
        self.specification, self.reference, self.parts = specification, context.reference, steps
        self.told_apart = _told_apart(specification.objectives)
        refresh = specification.refresh_before
        self.refreshed = None if refresh is None else refresh % len(steps)
        if self.reference is not None and self.refreshed is not None:
            self.reference.keep()

    def part(self, step: int) -> _Part:
        """Return the part of a step."""
        place, number = step % sum(self.specification.steps), 0
        while place >= self.specification.steps[number]:
            place -= self.specification.steps[number]
            number += 1
        return _Part(number, place == 0)

    def prepare(self, batch: Any, step: int) -> Any:
        """Prepare the batch by the objective of the step."""
        prepare = self.parts[self.part(step).number].prepare
        return batch if prepare is None else prepare(batch, step)

    def begin(self, step: int) -> None:
        """Refresh the reference, then begin the step by all objectives.

        A copy of the policy that an objective refreshes every so many steps may be due in a step of another one.
        """
        part = self.part(step)
        if part.first and part.number == self.refreshed and self.reference is not None:
            self.reference.refresh()
        for each in self.parts:
            if each.begin is not None:
                each.begin(step)

    def loss(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the objective of the step. The likelihood of SFT steps is logged as `sft_loss`.

        Objectives that may log the same names log each of them a second time, with the objective's number: a row of the curves then
        has `margin`, the mean over the steps of all of them, and `margin_part_2`.
        """
        number = self.part(step).number
        loss, logs = self.parts[number].loss(batch, step)
        if isinstance(self.specification.objectives[number], Supervised):
            logs = logs | {"sft_loss": loss.detach()}
        if number in self.told_apart:
            own = {of_part(name, number + 1): value for name, value in logs.items()}
            logs = logs | own | ({} if "sft_loss" in logs else {of_part("loss", number + 1): loss.detach()})
        return loss, logs

    def watchers(self) -> tuple[Callable[[CurveRow], str | None], ...]:
        """Return the watchers of all parts. Those of an objective get its own columns, not the means over several objectives."""
        return tuple(
            partial(_watch, watcher, number + 1) if number in self.told_apart else watcher
            for number, part in enumerate(self.parts)
            for watcher in part.watchers
        )

    def measure(self) -> dict[str, float]:
        """Return the metrics of all parts. A name that several parts give has the part's number at its end, as `margin_part_2`."""
        found = {number: part.measure() for number, part in enumerate(self.parts, 1) if part.measure is not None}
        times = Counter(name for each in found.values() for name in each)
        return {
            (name if times[name] == 1 else of_part(name, number)): value
            for number, each in found.items()
            for name, value in each.items()
        }

    def fault(self) -> StepFault | None:
        """Return the first fault of all parts, or None."""
        faults = [part.fault() for part in self.parts if part.fault is not None]
        return min((each for each in faults if each is not None), default=None, key=lambda each: each.step)

    def save(self, folder: Path) -> None:
        """Write the files of all parts. The negatives of several preferences are counted together."""
        for part in self.parts:
            if part.save is not None:
                part.save(folder)
        states = [state for part in self.parts for state in preference_states(part.state)]
        if len(states) > 1:
            save_together(states, folder)
