"""Static candidates that are code sequences of no item: codes are compared with those that were scored, as items are."""

from __future__ import annotations

from dataclasses import dataclass

import alignments
import pytest
import torch
from alignments import built_step, recipe, take
from torch import Tensor

from genrec.errors import UsageError
from genrec.objectives.prepared_rows import equal_identities, identities_of, in_words
from genrec.preference.candidates import InvalidIds
from genrec.semantic_ids import SemanticIds
from genrec.testing import ContractError, check_proposer
from genrec.types import Candidates, ObjectiveContext, Proposals, SequenceBatch


@dataclass(frozen=True)
class OtherCodes:
    """A proposer that is declared static, with two invalid Semantic IDs that change places in odd steps; their items stay 0."""

    changes: bool = True

    def proposes_codes(self) -> bool:
        return True

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        original = InvalidIds(by="corruptions", num_negatives=2).build_proposals(context).on_host
        assert original is not None

        def propose(rows: SequenceBatch, step: int) -> Candidates:
            found = original(rows, step)
            assert found.codes is not None
            both = found.mask.all(1)[:, None, None] & (step % 2 == 1 and self.changes)
            return found._replace(codes=torch.where(both, found.codes[:, [0, 2, 1]], found.codes))

        return Proposals(on_host=propose, static=True)


def test_the_contract_compares_codes() -> None:
    check_proposer(OtherCodes(changes=False))
    with pytest.raises(ContractError, match=r"Proposals\.static is true, but the candidates of a row changed with the step"):
        check_proposer(OtherCodes())


def test_a_training_compares_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignments, "IDS", SemanticIds(alignments.IDS.codes, (8, 7)))  # codes 5 and 6 of level 2 are no item's
    step, _, frozen, _ = built_step(recipe(candidates=OtherCodes(), batch_size=16))
    batch = step.examples.batch(torch.arange(16))
    for number in (0, 2):
        take(step, frozen, batch, number)
    with pytest.raises(
        UsageError, match=r"a static proposer gave the candidates \[\d+, \(\d, \d\), \(\d, \d\)\] for example \d+ and \["
    ):
        take(step, frozen, batch, 1)


def candidates(items: list[int], codes: list[list[int]] | None, mask: list[bool]) -> Candidates:
    """Return candidates of one row."""
    found: Tensor | None = None if codes is None else torch.tensor([codes])
    return Candidates(torch.tensor([items]), torch.tensor([mask]), codes=found)


def test_identities_by_hand() -> None:
    """Item 5, codes (0, 3), and a masked place: item and codes + 1. Without codes it is the item alone, equal to that with none."""
    mixed = identities_of(candidates([5, 0, 7], [[-1, -1], [0, 3], [-1, -1]], [True, True, False]))
    assert mixed.tolist() == [[[5, 0, 0], [0, 1, 4], [0, 0, 0]]]
    assert in_words(mixed[0]) == "[5, (0, 3), 0]"
    items = identities_of(candidates([5, 6], None, [True, True]))
    assert items.tolist() == [[[5], [6]]]
    as_codes = identities_of(candidates([5, 6, 0], [[-1, -1]] * 3, [True, True, False]))
    assert equal_identities(items, as_codes).tolist() == [True]
    assert equal_identities(items, mixed).tolist() == [False]
    other = identities_of(candidates([5, 0, 7], [[-1, -1], [0, 2], [-1, -1]], [True, True, False]))
    assert equal_identities(mixed, other).tolist() == [False]
