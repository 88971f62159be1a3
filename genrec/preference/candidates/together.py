"""The candidates of several proposers in one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genrec.errors import UsageError, given
from genrec.item_rows import repeated
from genrec.objective_state import JoinedStates
from genrec.plugin_source import name_with_place
from genrec.preference.candidates.invalid_codes import repeated_codes
from genrec.preference.candidates.pair_file import Pairs
from genrec.preference.candidates.rollouts import Rollouts
from genrec.preference.exclusions import representatives
from genrec.types import (
    Candidates,
    CheckedContext,
    CheckedSpecification,
    CodeProposer,
    ObjectiveContext,
    Proposals,
    Proposer,
    RowScores,
    SamplerContext,
    SequenceBatch,
)

OWN_EXAMPLES = "Together can't join {!r}, which has examples of its own; use it alone"


@dataclass(frozen=True)
class Together:
    """The logged item, and the other candidates of several proposers that begin with it, such as `TopItems` and `History`.

    Of candidates with one Semantic ID the first is kept and the others are masked. A gate masks the columns of its own proposer only;
    a row is a preference if a column is left beside the target.
    """

    proposers: tuple[Proposer, ...]  # two or more

    def __post_init__(self) -> None:
        object.__setattr__(self, "proposers", tuple(self.proposers))
        if len(self.proposers) < 2:
            raise UsageError(f"Together.proposers needs two or more proposers, got {len(self.proposers)}")
        for number, proposer in enumerate(self.proposers):
            if isinstance(proposer, Pairs):
                raise UsageError(OWN_EXAMPLES.format(proposer))
            if isinstance(proposer, type) or not isinstance(proposer, Proposer):
                raise UsageError(f"Together.proposers[{number}] must be a proposer, such as TopItems(), got {given(proposer)}")
            if isinstance(proposer, Rollouts):
                raise UsageError(
                    f"Together.proposers[{number}] must propose the target first, got {proposer!r}, which does not; use TopItems"
                )

    def check(self, experiment: Any) -> None:
        """Check every proposer that has a check."""
        for proposer in self.proposers:
            if isinstance(proposer, CheckedSpecification):
                proposer.check(experiment)

    def check_context(self, context: SamplerContext) -> None:
        """Check every proposer that checks its data."""
        for proposer in self.proposers:
            if isinstance(proposer, CheckedContext):
                proposer.check_context(context)

    def proposes_codes(self) -> bool:
        """Return whether one of the proposers gives code sequences of no item."""
        return any(isinstance(proposer, CodeProposer) and proposer.proposes_codes() for proposer in self.proposers)

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        """Return the proposer for one policy and one training set."""
        parts = [_build(proposer, number, context) for number, proposer in enumerate(self.proposers)]
        representative, static = representatives(context.data()), all(part.static for part in parts)

        def on_host(rows: SequenceBatch, step: int) -> Candidates:
            return joined([_on_host(part, rows, step) for part in parts], rows.target, representative, self.proposers)

        def in_step(rows: SequenceBatch, host: SequenceBatch, step: int, scores: RowScores) -> Candidates:
            device = rows.target.device
            found = [_in_step(part, rows, host, step, scores) for part in parts]
            return joined(found, rows.target, representative.to(device), self.proposers)

        proposing = [part.for_validation for part in parts if part.for_validation is not None]

        def for_validation(rows: SequenceBatch) -> Candidates:
            return joined([propose(rows) for propose in proposing], rows.target, representative)

        begins = [part.begin for part in parts if part.begin is not None]
        saves = [part.save for part in parts if part.save is not None]
        reads_policy = any(part.in_step is not None for part in parts)
        return Proposals(
            on_host=None if reads_policy else on_host,
            in_step=in_step if reads_policy else None,
            static=static,
            begin=_call_all(begins) if begins else None,
            state=JoinedStates({str(number): part.state for number, part in enumerate(parts)}),
            for_validation=for_validation if proposing else None,
            save=_save_all(saves) if saves else None,
        )


def joined(parts: list[Candidates], target: Tensor, representative: Tensor, proposers: tuple[Proposer, ...] = ()) -> Candidates:
    """Return the target int64 [X] and the other candidates of all parts; of one Semantic ID the first candidate is kept.

    `representative` int64 [N + 1] is the lowest item with the same Semantic ID. `proposers` are those of the parts, for messages.
    """
    given_more = [place for place, part in enumerate(parts) if part.behavior is not None or part.weight is not None]
    if given_more:
        name = name_with_place(type(proposers[given_more[0]])) if proposers else "a proposer"
        raise UsageError(
            f"Together joins candidates without behavior log-probabilities or weights, got some from {name}; use it alone, or "
            "proposers such as TopItems, History, Sampled and InvalidIds"
        )
    items, masks = [target.unsqueeze(1)], [torch.ones_like(target, dtype=torch.bool).unsqueeze(1)]
    for part in parts:
        items.append(part.items[:, 1:])
        masks.append(part.mask[:, 1:] if part.rows is None else part.mask[:, 1:] & part.rows.unsqueeze(1))
    every, mask = torch.cat(items, 1), torch.cat(masks, 1)
    kept = representative[every.masked_fill(~mask, 0)]
    codes = _joined_codes(parts)
    distinct = (kept > 0) & ~repeated(kept)
    if codes is not None:
        invalid = mask & (codes[..., 0] >= 0)
        distinct = distinct | (invalid & ~repeated_codes(codes, invalid))
    mask = mask & distinct
    codes = None if codes is None else codes.masked_fill(~mask.unsqueeze(-1), -1)
    return Candidates(every, mask, mask[:, 1:].any(1), codes=codes)


def _joined_codes(parts: list[Candidates]) -> Tensor | None:
    """Return the codes of no item of all parts, int64 [X, M, L], -1 for items; None if all candidates are items."""
    given = [part.codes for part in parts if part.codes is not None]
    if not given:
        return None
    none = torch.full_like(given[0][:, :1], -1)
    every = [none.expand(-1, part.items.shape[1] - 1, -1) if part.codes is None else part.codes[:, 1:] for part in parts]
    return torch.cat([none, *every], 1)


def _build(proposer: Proposer, number: int, context: ObjectiveContext) -> Proposals:
    """Build a proposer whose frozen copies have names of their own."""
    part = proposer.build_proposals(context._replace(frozen_copy=lambda name: context.frozen_copy(f"{name} {number}")))
    if part.examples is not None:
        raise UsageError(OWN_EXAMPLES.format(proposer))
    return part


def _on_host(part: Proposals, rows: SequenceBatch, step: int) -> Candidates:
    assert part.on_host is not None
    return part.on_host(rows, step)


def _in_step(part: Proposals, rows: SequenceBatch, host: SequenceBatch, step: int, scores: RowScores) -> Candidates:
    """Return the candidates of a part on the device of the rows."""
    if part.in_step is not None:
        return part.in_step(rows, host, step, scores)
    found, device = _on_host(part, host, step), rows.target.device
    return Candidates(*(each.to(device) if each is not None else None for each in found))  # type: ignore[arg-type]


def _call_all(functions: list[Callable[[int], None]]) -> Callable[[int], None]:
    def call(step: int) -> None:
        for function in functions:
            function(step)

    return call


def _save_all(functions: list[Callable[[Path], None]]) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        for function in functions:
            function(folder)

    return save
