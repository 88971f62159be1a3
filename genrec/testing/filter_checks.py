"""The checks of filters of candidates. In: a filter's specification, and the context to ask in. Out: nothing, or a `ContractError`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genrec.errors import InputError
from genrec.preference.exclusions import rows_of
from genrec.testing.check_worlds import batches_of, sampler_context
from genrec.testing.plugin_watch import call_plugin, check_unchanged
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import CandidateFilter, SamplerContext, SequenceBatch

if TYPE_CHECKING:
    from genrec.types.preference import Refuses

EXAMPLES = 64  # looked at, at most


def check_filter(candidate_filter: CandidateFilter, context: SamplerContext | None = None) -> None:
    """Refuse a filter that breaks `genrec.types.CandidateFilter`, on a synthetic world or on your own `context`.

    Checked: a frozen dataclass; bool [B, M] for any M, item 0 among the candidates; the same answer twice; that neither other rows nor
    other candidates change it; that not everything is refused; batch, candidates, context and global random state left alone. What
    the filter raises is told with the call that raised it.
    """
    check_specification(candidate_filter, CandidateFilter, "refuse(context)")
    name = type(candidate_filter).__name__
    context = context if context is not None else sampler_context()
    batch = next(batches_of(context, EXAMPLES), None)
    if batch is None:
        raise InputError("the context is too small to check a filter: no user has two items")
    everything = torch.arange(context.item_count + 1).repeat(len(batch.target), 1)
    with check_unchanged(name, context, {}, "a filter draws nothing"):
        refuses = call_plugin(name, "refuse(context)", lambda: candidate_filter.refuse(context))
        if not callable(refuses):
            raise ContractError(f"{name}: refuse must return what refuses, called with (batch, candidates); got {refuses!r}")
        whole = _ask(name, refuses, batch, everything)
    if bool(whole[:, 1:].all()):
        raise ContractError(f"{name}: every one of {context.item_count} items is refused for all of {len(whole)} examples")
    with check_unchanged(name, context, {}, "a filter draws nothing"):
        _check_company(name, refuses, batch, everything, whole)


def _check_company(name: str, refuses: Refuses, batch: SequenceBatch, items: Tensor, whole: Tensor) -> None:
    """Asked again, in other company: the same answers."""
    if not torch.equal(_ask(name, refuses, batch, items), whole):
        raise ContractError(f"{name}: the same candidates are refused one time and not another; keep no state, and draw nothing")
    turned = _ask(name, refuses, batch, items.flip(1)).flip(1)
    if not torch.equal(turned, whole) or not torch.equal(_ask(name, refuses, batch, items[:, 1:4]), whole[:, 1:4]):
        raise ContractError(f"{name}: whether a candidate is refused depends on the other candidates; look at each by itself")
    for row in range(min(4, len(items))):
        one = torch.tensor([row])
        if not torch.equal(_ask(name, refuses, rows_of(batch, one), items[one]), whole[one]):
            raise ContractError(f"{name}: what is refused for user {int(batch.user[row])} depends on the other rows of the batch")
    _ask(name, refuses, batch, items[:, :0])


def _ask(name: str, refuses: Refuses, batch: SequenceBatch, candidates: Tensor) -> Tensor:
    """The answer, of the right form, and what was asked as it was."""
    given = SequenceBatch(*(tensor.clone() for tensor in batch)), candidates.clone()
    answer = call_plugin(name, f"asked of candidates {list(candidates.shape)}, it", lambda: refuses(*given))
    if not isinstance(answer, Tensor) or answer.dtype != torch.bool or answer.shape != candidates.shape:
        got = (
            f"{str(answer.dtype).removeprefix('torch.')} {list(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
        )
        raise ContractError(
            f"{name}: candidates {list(candidates.shape)} must be answered by bool {list(candidates.shape)}, got {got}"
        )
    if not torch.equal(given[1], candidates) or not all(map(torch.equal, given[0], batch)):
        raise ContractError(f"{name}: the batch or the candidates were modified, which others read too; work on a copy")
    return answer
