"""Contract checks for proposers of candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from genrec.objectives.prepared_rows import equal_identities, identities_of
from genrec.objectives.rows import rows_of, with_places
from genrec.plugin_source import name_with_place
from genrec.preference.candidate_contract import (
    candidates_fault,
    name_candidate,
    proposals_fault,
    tensor_fault,
    values_fault,
    without_target_first,
)
from genrec.preference.candidates.invalid_codes import repeated_codes
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.exclusions import Exclusions, representatives
from genrec.progress import say
from genrec.testing.objective_worlds import batches_of_kind, objective_world
from genrec.testing.plugin_watch import call_plugin, change_weights
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import Candidates, CodeProposer, ObjectiveContext, Proposals, Proposer, SequenceBatch, SizedProposer, WindowBatch
from genrec.unchanged_values import same

LATER = 7  # a step after the first
RANDOM = (
    "equal seeds and steps gave other candidates; take all random numbers from "
    "genrec.randomness.generator(context.seed, purpose, step)"
)
COUNTED = (
    f"the candidates of step {LATER} differ between a training from step 0 on and one that resumes at step {LATER}; let them "
    "depend on context.seed, the step and the rows alone, not on a counter or on earlier calls, or keep what changes in "
    "Proposals.state"
)
WEIGHTS = (
    "the candidates of on_host change with the weights of the policy in training; on_host runs before its step begins, so a resumed "
    "training would get other candidates; give the function as in_step, which gets the scores of the present policy"
)
HELD_OUT = (
    "the candidates change with the held-out items of context.validation, which are for measuring alone; training would learn the "
    "items that it is tested on; use context.data(), the training data"
)


def check_proposer(proposer: Proposer) -> None:
    """Raise ContractError if a proposer breaks `genrec.types.Proposer`.

    Checked, on batches of prefixes and of windows:

    - it is a frozen dataclass, and `build_proposals(context)` returns `Proposals` with one of `on_host`, `in_step` and
      `listed`;
    - candidates are int64 [X, M] with a mask bool [X, M]; items are in the catalog, or 0 where masked; a row has no item twice;
    - `rows` is bool [X], and a row that takes part has a candidate; a row with one is a single label, for `KTO(paired=False)`;
    - equal seeds and steps give equal candidates, also in a training that resumes at the step, unless there is a `state`;
    - candidates of `on_host` do not depend on weights that change;
    - the batch stays unchanged, and the candidates do not depend on the held-out items of `context.validation`;
    - with `static`, other steps and other batches of the same rows give equal candidates too, items and codes;
    - behavior log-probabilities are float32 [X, M], finite where the mask is true, and at most 0;
    - codes are int64 [X, M, L], -1 for items and masked candidates; an item has none of the other sequences, no row has one twice, and
      `proposes_codes()` is true;
    - weights are float32 [X], finite and above 0;
    - there are at most `most_candidates()` candidates, if the proposer has this method.

    Printed, because they are no violations: in how many rows the first candidate, which `Preference` prefers, is not the target, and
    otherwise in how many another candidate is a training item of the user.
    """
    check_specification(proposer, Proposer, "build_proposals(context)")
    name = name_with_place(type(proposer))
    for kind, batch in batches_of_kind(objective_world()).items():
        first = Trial(name, proposer, kind, batch)
        start, later = first.propose(0), first.propose(LATER)
        other = Trial(name, proposer, kind, batch, held_out=1).propose(0)
        if not _equal(start, other):
            again = Trial(name, proposer, kind, batch).propose(0)
            raise ContractError(f"{name}: {HELD_OUT if _equal(start, again) else RANDOM}")
        resumed = Trial(name, proposer, kind, batch).propose(LATER)
        if first.proposals.state is None and not _equal(later, resumed):
            raise ContractError(f"{name}: {COUNTED}")
        if first.proposals.on_host is not None and first.proposals.state is None:
            change_weights(first.context)
            if not _equal(start, first.propose(0)):
                raise ContractError(f"{name}: {WEIGHTS}")
        if kind == "prefixes":
            _tell_of_choices(first, start)


def _equal(first: Candidates, second: Candidates) -> bool:
    """Return whether the candidates of two calls are the same."""
    if (first.codes is None) != (second.codes is None) or not same(first.items, second.items):
        return False
    return first.codes is None or second.codes is None or same(first.codes, second.codes)


class Trial:
    """A proposer that is built on the small world, with its candidates of one batch. All candidates are checked.

    `held_out` seeds the held-out items of `context.validation`.
    """

    def __init__(
        self, name: str, proposer: Proposer, kind: str, batch: SequenceBatch | WindowBatch, held_out: int = 0
    ) -> None:  # fmt: skip
        self.name, self.proposer, self.kind, self.context = name, proposer, kind, objective_world(held_out=held_out)
        proposals = call_plugin(name, "build_proposals(context)", lambda: proposer.build_proposals(self.context))
        fault = proposals_fault(proposals)
        if fault is not None:
            raise ContractError(f"{name}: {fault}")
        self.proposals = proposals
        own = proposals.examples
        self.batch = batch if own is None else own.batch(torch.arange(min(16, len(own))))  # of a proposer that chooses its batches

    def propose(self, step: int) -> Candidates:
        """Return the candidates of the batch for a step."""
        proposals, rows = self.proposals, rows_of(self.batch)
        if proposals.static and proposals.in_step is None:
            _check_static(self.name, proposals, rows, step)
        if proposals.begin is not None:
            proposals.begin(step)
        found = self._candidates(step)
        _check(self.name, self.kind, self.proposer, found, rows, self.context)
        return found

    def _candidates(self, step: int) -> Candidates:
        """Call the proposer, and check that it leaves its batch as it is."""
        host, in_step, listed = self.proposals.on_host, self.proposals.in_step, self.proposals.listed
        batch = type(self.batch)(*(each.clone() for each in self.batch))
        rows, places = with_places(batch)
        if listed is not None:
            return call_plugin(self.name, "listed(numbers)", lambda: listed(torch.arange(len(rows.target))))
        if host is not None:
            with _unchanged(self.name, "on_host(rows, step)", rows, "rows"):
                return call_plugin(self.name, "on_host(rows, step)", lambda: host(rows, step))
        assert in_step is not None
        action, on_cpu = "in_step(rows, host, step, scores)", SequenceBatch(*(each.clone() for each in rows))
        scores = scores_of(self.context.policy, batch, places, rows, "codes")
        with _unchanged(self.name, action, rows, "rows"), _unchanged(self.name, action, on_cpu, "host"):
            return call_plugin(self.name, action, lambda: in_step(rows, on_cpu, step, scores))


@contextmanager
def _unchanged(name: str, action: str, rows: SequenceBatch, argument: str) -> Iterator[None]:
    """Raise ContractError if the body changes a tensor of the rows in place."""
    before = [each.clone() for each in rows]
    yield
    for field, old, new in zip(rows._fields, before, rows, strict=True):
        if not same(old, new):
            raise ContractError(
                f"{name}: {action} modified {argument}.{field} in place, but the loss reads it too; work on a copy, such as "
                f"{argument}.{field}.clone()"
            )


def _tell_of_choices(trial: Trial, candidates: Candidates) -> None:
    """Print in how many rows the first candidate is not the target, or else another one is a training item of the user.

    A proposer with examples of its own chooses the targets.
    """
    if trial.proposals.examples is not None:
        return
    rows, data = rows_of(trial.batch), trial.context.data()
    found = without_target_first(candidates, rows, representatives(data))
    if found is not None:
        say(
            f"{trial.name}: {found}; Preference prefers the first candidate, whatever the user took; PolicyGradient takes them in any "
            "order"
        )
        return
    taken = (Exclusions(data)(rows, candidates.items) & candidates.mask & (candidates.items > 0))[:, 1:].any(1)
    number, total = int(taken.sum()), len(taken)
    if number:
        say(
            f"{trial.name}: in {number / total:.1%} of the rows ({number} of {total}) a candidate after the first is a training item "
            "of the user, or has the Semantic ID of one, and Preference rejects it; unless this is on purpose, leave such items out "
            "by genrec.preference.exclusions.Exclusions(context.data())"
        )


def _check_static(name: str, proposals: Proposals, rows: SequenceBatch, step: int) -> None:
    """Raise ContractError if the candidates of rows depend on the step or on the other rows, by comparing two halves of the rows."""

    def propose(places: Tensor, number: int) -> Tensor:
        if proposals.listed is not None:
            found = proposals.listed(places)
        else:
            assert proposals.on_host is not None
            found = proposals.on_host(SequenceBatch(*(each[places] for each in rows)), number)
        return identities_of(found)

    every = torch.arange(len(rows.target))
    whole, later = propose(every, step), propose(every, step + 1)
    halves = [propose(each, step) for each in (every[::2], every[1::2])]
    for found, other, cause in ((later, whole, "step"), (halves[0], whole[::2], "batch"), (halves[1], whole[1::2], "batch")):
        if not bool(equal_identities(found, other).all()):  # rows may be padded to the longest of their batch
            raise ContractError(
                f"{name}: Proposals.static is true, but the candidates of a row changed with the {cause}; they must depend on the row "
                "alone, or static must be False"
            )


def _check(
    name: str, kind: str, proposer: Proposer, candidates: Candidates, rows: SequenceBatch, context: ObjectiveContext
) -> None:  # fmt: skip
    data, count = context.data(), len(rows.target)
    fault = candidates_fault(candidates, count, f"items, for a batch of {kind},")
    fault = values_fault(candidates, rows, data.item_count, data.own_ids) if fault is None else fault
    if fault is not None:
        raise ContractError(f"{name}: {fault}")
    items, mask = candidates.items, candidates.mask

    def first(broken: Tensor) -> str:
        return name_candidate(candidates, rows, data.item_count, data.own_ids, broken)

    if candidates.codes is not None:
        nothing = mask & ~_check_codes(name, proposer, candidates, context, first) & (items == 0)
        if bool(nothing.any()):
            raise ContractError(f"{name}: items must be above 0 where the mask is true and there are no codes; {first(nothing)}")
    taking_part = torch.ones(count, dtype=torch.bool) if candidates.rows is None else candidates.rows
    empty = taking_part & ~mask.any(1)
    if bool(empty.any()):
        raise ContractError(f"{name}: a row that takes part has no candidate; set Candidates.rows to false there; {first(empty)}")
    if isinstance(proposer, SizedProposer) and items.shape[1] > proposer.most_candidates():
        raise ContractError(f"{name}: a row has {items.shape[1]} candidates, but most_candidates() is {proposer.most_candidates()}")


def _check_codes(
    name: str, proposer: Proposer, candidates: Candidates, context: ObjectiveContext, first: Callable[[Tensor], str]
) -> Tensor:  # fmt: skip
    """Check the code sequences of candidates that no item has, and return where they are, bool [X, M].

    `first` names the first true place of a tensor bool [X, M].
    """
    items, mask, codes, semantic_ids = candidates.items, candidates.mask, candidates.codes, context.data().semantic_ids
    fault = tensor_fault("codes", codes, torch.int64, (*items.shape, semantic_ids.levels))
    if fault is not None:
        raise ContractError(f"{name}: {fault}")
    assert codes is not None
    if not isinstance(proposer, CodeProposer) or not proposer.proposes_codes():
        raise ContractError(f"{name}: gives Candidates.codes, so it needs a method proposes_codes() that returns True")
    coded = (codes >= 0).all(2)
    taken = torch.zeros_like(coded).masked_scatter(coded, semantic_ids.lookup(codes[coded]) > 0)
    outside = ((codes >= 0).any(2) != coded) | (codes >= torch.tensor(semantic_ids.level_sizes)).any(2)
    for fault, broken in (
        (f"codes must lie in 0..size - 1 of their levels, {semantic_ids.level_sizes}, or all be -1", outside),
        ("codes must be -1 where a candidate is an item or is masked", coded & ((items > 0) | ~mask)),
        ("a sequence of codes is the Semantic ID of an item; give the item instead", taken),
        ("a row has the same sequence of codes twice", repeated_codes(codes, coded)),
    ):
        if bool(broken.any()):
            raise ContractError(f"{name}: {fault}; {first(broken)}")
    return coded
