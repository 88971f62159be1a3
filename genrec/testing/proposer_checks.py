"""Contract checks for proposers of candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.objectives.prepared_rows import equal_identities, identities_of
from genrec.objectives.rows import rows_of, with_places
from genrec.plugin_source import name_with_place
from genrec.preference.candidate_contract import candidates_fault, proposals_fault, tensor_fault, values_fault, without_target_first
from genrec.preference.candidates.invalid_codes import repeated_codes
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.exclusions import representatives
from genrec.progress import say
from genrec.testing.objective_worlds import batches_of_kind, objective_world
from genrec.testing.plugin_watch import call_plugin, same
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import Candidates, CodeProposer, ObjectiveContext, Proposals, Proposer, SequenceBatch, SizedProposer, WindowBatch


def check_proposer(proposer: Proposer) -> None:
    """Raise ContractError if a proposer breaks `genrec.types.Proposer`.

    Checked, on batches of prefixes and of windows:

    - it is a frozen dataclass, and `build_proposals(context)` returns `Proposals` with one of `on_host`, `in_step` and
      `listed`;
    - candidates are int64 [X, M] with a mask bool [X, M]; items are in the catalog, or 0 where masked; a row has no item twice;
    - `rows` is bool [X], and a row that takes part has a candidate; a row with one is a single label, for `KTO(paired=False)`;
    - equal seeds and steps give equal candidates;
    - with `static`, other steps and other batches of the same rows give equal candidates too, items and codes;
    - behavior log-probabilities are float32 [X, M], finite where the mask is true, and at most 0;
    - codes are int64 [X, M, L], -1 for items and masked candidates; an item has none of the other sequences, no row has one twice, and
      `proposes_codes()` is true;
    - weights are float32 [X], finite and above 0;
    - there are at most `most_candidates()` candidates, if the proposer has this method.

    Printed, because it is no violation: in how many rows the first candidate, which `Preference` prefers, is not the target.
    """
    check_specification(proposer, Proposer, "build_proposals(context)")
    name = name_with_place(type(proposer))
    for kind, batch in batches_of_kind(objective_world()).items():
        found = [_propose(name, proposer, objective_world(), batch, step) for step in (0, 0, 7)]
        for candidates in found:
            _check(name, kind, proposer, candidates, len(rows_of(batch).target), objective_world())
        if not same(found[0].items, found[1].items) or not _same_codes(found[0].codes, found[1].codes):
            raise ContractError(
                f"{name}: equal seeds and steps gave other candidates; take all random numbers from "
                "genrec.randomness.generator(context.seed, purpose, step)"
            )
    _tell_of_other_targets(name, proposer)


def _tell_of_other_targets(name: str, proposer: Proposer) -> None:
    """Print in how many rows of prefixes the first candidate is not the target. A proposer with own examples chooses the targets."""
    context = objective_world()
    if proposer.build_proposals(context).examples is not None:
        return
    batch = batches_of_kind(context)["prefixes"]
    candidates = _propose(name, proposer, context, batch, 0)
    found = without_target_first(candidates, rows_of(batch), representatives(context.data()))
    if found is not None:
        say(f"{name}: {found}; Preference prefers the first candidate, whatever the user took; PolicyGradient takes them in any order")


def _same_codes(first: Tensor | None, second: Tensor | None) -> bool:
    return first is second if first is None or second is None else same(first, second)


def _propose(name: str, proposer: Proposer, context: ObjectiveContext, batch: SequenceBatch | WindowBatch, step: int) -> Candidates:
    proposals = call_plugin(name, "build_proposals(context)", lambda: proposer.build_proposals(context))
    fault = proposals_fault(proposals)
    if fault is not None:
        raise ContractError(f"{name}: {fault}")
    if proposals.examples is not None:  # the proposer chooses its batches
        batch = proposals.examples.batch(torch.arange(min(16, len(proposals.examples))))
    rows, places = with_places(batch)
    if proposals.static and proposals.in_step is None:
        _check_static(name, proposals, rows, step)
    if proposals.begin is not None:
        proposals.begin(step)
    host, in_step = proposals.on_host, proposals.in_step
    if host is not None:
        return call_plugin(name, "on_host(rows, step)", lambda: host(rows, step))
    if proposals.listed is not None:
        return proposals.listed(torch.arange(len(rows.target)))
    assert in_step is not None
    scores = scores_of(context.policy, batch, places, rows, "codes")
    return call_plugin(name, "in_step(rows, host, step, scores)", lambda: in_step(rows, rows, step, scores))


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


def _check(name: str, kind: str, proposer: Proposer, candidates: Candidates, count: int, context: ObjectiveContext) -> None:
    fault = candidates_fault(candidates, count, f"items, for a batch of {kind},")
    fault = values_fault(candidates, context.data().item_count) if fault is None else fault
    if fault is not None:
        raise ContractError(f"{name}: {fault}")
    items, mask = candidates.items, candidates.mask
    if candidates.codes is not None and bool((items[mask & ~_check_codes(name, proposer, candidates, context)] == 0).any()):
        raise ContractError(f"{name}: items must be above 0 where the mask is true and there are no codes")
    taking_part = torch.ones(count, dtype=torch.bool) if candidates.rows is None else candidates.rows
    if not bool(mask.any(1)[taking_part].all()):
        raise ContractError(f"{name}: a row that takes part has no candidate; set Candidates.rows to false there")
    if isinstance(proposer, SizedProposer) and items.shape[1] > proposer.most_candidates():
        raise ContractError(f"{name}: a row has {items.shape[1]} candidates, but most_candidates() is {proposer.most_candidates()}")


def _check_codes(name: str, proposer: Proposer, candidates: Candidates, context: ObjectiveContext) -> Tensor:
    """Check the code sequences of candidates that no item has, and return where they are, bool [X, M]."""
    items, mask, codes, semantic_ids = candidates.items, candidates.mask, candidates.codes, context.data().semantic_ids
    fault = tensor_fault("codes", codes, torch.int64, (*items.shape, semantic_ids.levels))
    if fault is not None:
        raise ContractError(f"{name}: {fault}")
    assert codes is not None
    if not isinstance(proposer, CodeProposer) or not proposer.proposes_codes():
        raise ContractError(f"{name}: gives Candidates.codes, so it needs a method proposes_codes() that returns True")
    coded = (codes >= 0).all(2)
    if bool(((codes >= 0).any(2) != coded).any()) or bool((codes >= torch.tensor(semantic_ids.level_sizes)).any()):
        raise ContractError(f"{name}: codes must lie in 0..size - 1 of their levels, {semantic_ids.level_sizes}, or all be -1")
    if bool((coded & ((items > 0) | ~mask)).any()):
        raise ContractError(f"{name}: codes must be -1 where a candidate is an item or is masked")
    if bool((semantic_ids.lookup(codes[coded]) > 0).any()):
        raise ContractError(f"{name}: a sequence of codes is the Semantic ID of an item; give the item instead")
    if bool(repeated_codes(codes, coded).any()):
        raise ContractError(f"{name}: a row has the same sequence of codes twice")
    return coded
