"""Contract checks for candidate filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genrec.errors import InputError
from genrec.own_ids import name_user
from genrec.preference.exclusions import rows_of
from genrec.testing.check_worlds import batches_of, context_or_small
from genrec.testing.plugin_watch import call_plugin, check_unchanged
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import CandidateFilter, SamplerContext, SequenceBatch
from genrec.value_forms import form_of

if TYPE_CHECKING:
    from genrec.types.preference import RejectCandidates

MAX_EXAMPLES = 64  # training examples to check


def check_filter(candidate_filter: CandidateFilter, context: SamplerContext | None = None) -> None:
    """Raise ContractError if a filter breaks `genrec.types.CandidateFilter`.

    The filter runs on a small synthetic training set, or on your own `context`. Checked:

    - it is a frozen dataclass, and `refuse(context)` returns a callable;
    - the result is bool [B, M] for every M, with item 0 among the candidates;
    - it is the same on a second call, and does not depend on the other rows or the other candidates;
    - not every item is rejected;
    - the batch, the candidates, the context and global random state stay unchanged.
    """
    check_specification(candidate_filter, CandidateFilter, "refuse(context)")
    with context_or_small(context, "check_filter") as known:
        _check_on(known, candidate_filter)


def _check_on(context: SamplerContext, candidate_filter: CandidateFilter) -> None:
    name = type(candidate_filter).__name__
    batch = next(batches_of(context, MAX_EXAMPLES), None)
    if batch is None:
        raise InputError("the context is too small to check a filter: no user has 2 training items")
    everything = torch.arange(context.item_count + 1).repeat(len(batch.target), 1)
    with check_unchanged(name, context, {}, "a filter must be deterministic"):
        rejects = call_plugin(name, "refuse(context)", lambda: candidate_filter.refuse(context))
        if not callable(rejects):
            raise ContractError(f"{name}: refuse(context) must return a callable with arguments (batch, candidates), got {rejects!r}")
        expected = _call(name, rejects, batch, everything)
    if bool(expected[:, 1:].all()):
        raise ContractError(
            f"{name}: all {context.item_count} items are rejected for all of {len(expected)} examples; return True only for "
            "candidates to exclude"
        )
    with check_unchanged(name, context, {}, "a filter must be deterministic"):
        _check_independence(name, rejects, batch, everything, expected, context)


def _check_independence(
    name: str, rejects: RejectCandidates, batch: SequenceBatch, items: Tensor, expected: Tensor, context: SamplerContext
) -> None:  # fmt: skip
    """Check that a second call, other candidates and other rows do not change the result."""
    if not torch.equal(_call(name, rejects, batch, items), expected):
        raise ContractError(f"{name}: a second call with the same candidates gives another result; keep no state, and draw nothing")
    reversed_ = _call(name, rejects, batch, items.flip(1)).flip(1)
    if not torch.equal(reversed_, expected) or not torch.equal(_call(name, rejects, batch, items[:, 1:4]), expected[:, 1:4]):
        raise ContractError(f"{name}: the result for a candidate depends on the other candidates; judge each candidate on its own")
    for row in range(min(4, len(items))):
        one = torch.tensor([row])
        if not torch.equal(_call(name, rejects, rows_of(batch, one), items[one]), expected[one]):
            raise ContractError(
                f"{name}: the result for {name_user(context.own_ids, int(batch.user[row]))} depends on the other rows of the batch; "
                "judge each row on its own"
            )
    _call(name, rejects, batch, items[:, :0])


def _call(name: str, rejects: RejectCandidates, batch: SequenceBatch, candidates: Tensor) -> Tensor:
    """Call the filter and check the form of the result, and that the inputs stay unchanged."""
    inputs = SequenceBatch(*(tensor.clone() for tensor in batch)), candidates.clone()
    result = call_plugin(name, f"a call with candidates {list(candidates.shape)}", lambda: rejects(*inputs))
    if not isinstance(result, Tensor) or result.dtype != torch.bool or result.shape != candidates.shape:
        raise ContractError(
            f"{name}: for candidates {list(candidates.shape)} the result must be bool {list(candidates.shape)}, true where a "
            f"candidate is rejected; got {form_of(result)}"
        )
    if not torch.equal(inputs[1], candidates) or not all(map(torch.equal, inputs[0], batch)):
        raise ContractError(f"{name}: the batch or the candidates were modified, but other components read them too; work on a copy")
    return result
