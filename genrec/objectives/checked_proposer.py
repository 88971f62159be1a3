"""A proposer that is built for one training: candidates are proposed on the host or within the step, and all of them are checked.

Every objective with a field `candidates` calls its proposer through this class, so that errors name the proposer and the step.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from genrec import plugin_errors
from genrec.errors import UsageError
from genrec.objectives.prepared_rows import HostRows, PreparedRows
from genrec.objectives.rows import with_places
from genrec.policy_modules import device_of
from genrec.preference.candidate_contract import CandidateCheck, checked_proposals
from genrec.preference.candidates.row_scores import scores_of
from genrec.types import (
    Candidates,
    ObjectiveContext,
    Proposals,
    Proposer,
    RowScores,
    SequenceBatch,
    TrainingExamples,
    TrainingStep,
    WindowBatch,
)

LISTED = "{}.candidates {!r} lists candidates in their order; use Preference(candidates=...)"


class CheckedProposer:
    """The proposer of an objective for one training set.

    `masks`: the objective masks items 0 and items that a row has twice itself, so these are allowed.
    """

    def __init__(self, proposer: Proposer, context: ObjectiveContext, masks: bool = False) -> None:
        self.proposer = proposer
        self.proposals: Proposals = checked_proposals(proposer, proposer.build_proposals(context))
        data = context.data()
        self._check = CandidateCheck(proposer, data.item_count, data.own_ids, masks)

    def check_not_listed(self, objective: object) -> None:
        """Raise UsageError if the candidates belong to numbered examples, for an objective without numbers."""
        if self.proposals.listed is not None:
            raise UsageError(LISTED.format(type(objective).__name__, self.proposer))

    def on_host(self, rows: SequenceBatch, step: int, number: Tensor | None = None) -> Candidates | None:
        """Return the candidates of rows on the CPU, the examples `number` int64 [X]; None if they are proposed within the step."""
        if self.proposals.in_step is not None:
            return None
        with plugin_errors.attribute_to(self.proposer, f"while it proposed candidates for step {step}"):
            if self.proposals.listed is not None:
                assert number is not None
                return self._check(self.proposals.listed(number), rows)
            assert self.proposals.on_host is not None
            return self._check(self.proposals.on_host(rows, step), rows)

    def prepare(self, batch: SequenceBatch | WindowBatch, step: int) -> PreparedRows:
        """Return the input of a step. Runs on the CPU before the step needs it."""
        rows, places = with_places(batch)
        candidates = self.on_host(rows, step)
        return PreparedRows(batch, places, rows, candidates, None, HostRows(rows, candidates))

    def within(self, prepared: PreparedRows, step: int, scores: RowScores) -> Candidates:
        """Return the candidates of a step on the device of its rows: those of the host, or proposed now from the policy's scores."""
        if prepared.candidates is not None:
            return prepared.candidates
        assert self.proposals.in_step is not None
        with plugin_errors.attribute_to(self.proposer, f"while it proposed candidates in step {step}"):
            return self._check(self.proposals.in_step(prepared.rows, prepared.host.rows, step, scores), prepared.rows)

    def of_examples(self, examples: TrainingExamples, number: Tensor, context: ObjectiveContext) -> Candidates:
        """Return the candidates of the examples `number` int64 [X], as step 0 would have them."""
        device = device_of(context.policy)
        batch = examples.batch(number)
        host, _ = with_places(batch)
        candidates = self.on_host(host, 0, number)
        if candidates is not None:
            return candidates
        if self.proposals.begin is not None:
            self.proposals.begin(0)
        moved = type(batch)(*(each.to(device) for each in batch))
        rows, places = with_places(moved)
        scores = scores_of(context.policy, moved, places, rows, context.normalize)
        return self.within(PreparedRows(moved, places, rows, None, None, HostRows(host, None)), 0, scores)

    def complete(self, step: TrainingStep) -> TrainingStep:
        """Return a step with the proposer's parts: its own examples, `begin`, `state` and `save`."""
        found = self.proposals
        return replace(step, examples=self.examples(step.examples), begin=found.begin, state=found.state, save=found.save)

    def examples(self, given: TrainingExamples) -> TrainingExamples:
        """Return the proposer's own examples, or `given` if it has none."""
        return given if self.proposals.examples is None else self.proposals.examples
