"""Contract checks for proposers of candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.objectives.rows import rows_of, with_places
from genrec.plugin_source import name_with_place
from genrec.preference.candidates.invalid_codes import repeated_codes
from genrec.preference.candidates.row_scores import scores_of
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
    - behavior log-probabilities are float32 [X, M], finite where the mask is true, and at most 0;
    - codes are int64 [X, M, L], -1 for items and masked candidates; an item has none of the other sequences, no row has one twice, and
      `proposes_codes()` is true;
    - there are at most `most_candidates()` candidates, if the proposer has this method.
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


def _same_codes(first: Tensor | None, second: Tensor | None) -> bool:
    return first is second if first is None or second is None else same(first, second)


def _propose(name: str, proposer: Proposer, context: ObjectiveContext, batch: SequenceBatch | WindowBatch, step: int) -> Candidates:
    proposals = call_plugin(name, "build_proposals(context)", lambda: proposer.build_proposals(context))
    if not isinstance(proposals, Proposals):
        raise ContractError(f"{name}: build_proposals(context) must return genrec.types.Proposals, got {type(proposals).__name__}")
    if [proposals.on_host, proposals.in_step, proposals.listed].count(None) != 2:
        raise ContractError(f"{name}: give exactly one of Proposals.on_host, Proposals.in_step and Proposals.listed")
    if proposals.examples is not None:  # the proposer chooses its batches
        batch = proposals.examples.batch(torch.arange(min(16, len(proposals.examples))))
    rows, places = with_places(batch)
    if proposals.begin is not None:
        proposals.begin(step)
    host, in_step = proposals.on_host, proposals.in_step
    if host is not None:
        return call_plugin(name, "on_host(rows, step)", lambda: host(rows, step))
    assert in_step is not None
    scores = scores_of(context.policy, batch, places, rows, "codes")
    return call_plugin(name, "in_step(rows, host, step, scores)", lambda: in_step(rows, rows, step, scores))


def _check(name: str, kind: str, proposer: Proposer, candidates: Candidates, count: int, context: ObjectiveContext) -> None:
    if not isinstance(candidates, Candidates):
        raise ContractError(f"{name}: must return genrec.types.Candidates, got {type(candidates).__name__}")
    items, mask, num_items = candidates.items, candidates.mask, context.data().item_count
    _check_tensor(name, f"items, for a batch of {kind},", items, torch.int64, (count, items.shape[-1]))
    _check_tensor(name, "mask", mask, torch.bool, tuple(items.shape))
    coded = torch.zeros_like(mask) if candidates.codes is None else _check_codes(name, proposer, candidates, context)
    if bool(((items < 0) | (items > num_items)).any()) or bool((items[mask & ~coded] == 0).any()):
        raise ContractError(f"{name}: items must lie in 1..{num_items}, or be 0 where the mask is false")
    ordered = items.masked_fill(~mask, 0).sort(1).values
    if bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any()):
        raise ContractError(f"{name}: a row has the same item twice")
    if candidates.rows is not None:
        _check_tensor(name, "rows", candidates.rows, torch.bool, (count,))
    taking_part = torch.ones(count, dtype=torch.bool) if candidates.rows is None else candidates.rows
    if not bool(mask.any(1)[taking_part].all()):
        raise ContractError(f"{name}: a row that takes part has no candidate; set Candidates.rows to false there")
    if candidates.behavior is not None:
        _check_tensor(name, "behavior", candidates.behavior, torch.float32, tuple(items.shape))
        chosen = candidates.behavior[mask]
        if not bool(chosen.isfinite().all()) or bool((chosen > 1e-4).any()):
            raise ContractError(f"{name}: behavior must hold finite log-probabilities of at most 0 where the mask is true")
    if isinstance(proposer, SizedProposer) and items.shape[1] > proposer.most_candidates():
        raise ContractError(f"{name}: a row has {items.shape[1]} candidates, but most_candidates() is {proposer.most_candidates()}")


def _check_codes(name: str, proposer: Proposer, candidates: Candidates, context: ObjectiveContext) -> Tensor:
    """Check the code sequences of candidates that no item has, and return where they are, bool [X, M]."""
    items, mask, codes, semantic_ids = candidates.items, candidates.mask, candidates.codes, context.data().semantic_ids
    _check_tensor(name, "codes", codes, torch.int64, (*items.shape, semantic_ids.levels))
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


def _check_tensor(name: str, what: str, value: object, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if not isinstance(value, Tensor) or value.dtype != dtype or tuple(value.shape) != shape:
        got = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ContractError(f"{name}: {what} must be {str(dtype).removeprefix('torch.')} {list(shape)}, got {got}")
