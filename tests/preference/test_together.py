"""Items of the history as candidates, and the candidates of several proposers in one row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from proposals import TablePolicy, context_of, copies_of, data_of, one_level, rows_of
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.candidates import History, Rollouts, Together, TopItems
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.candidates.together import joined
from genrec.semantic_ids import SemanticIds
from genrec.types import Candidates, ObjectiveContext, Proposals, Proposer, SequenceBatch

S = torch.tensor([[1.2, 0.3, -0.4, 0.9, -1.0, 0.1], [0.2, 1.5, 0.7, -0.3, 0.4, -2.0]])


def in_step(proposer: Any, policy: TablePolicy, rows: SequenceBatch) -> Candidates:
    proposals = proposer.build_proposals(context_of(policy, data_of(one_level(6))))
    assert proposals.in_step is not None
    return proposals.in_step(rows, rows, 0, scores_of(policy, rows, None, rows, "codes"))


def on_host(proposer: Any, rows: SequenceBatch, ids: SemanticIds | None = None) -> Candidates:
    proposals = proposer.build_proposals(context_of(TablePolicy(S), data_of(ids or one_level(6))))
    assert proposals.on_host is not None
    return proposals.on_host(rows, 0)


def test_the_history_gives_its_newest_distinct_items_without_the_target() -> None:
    rows = rows_of([[1, 2, 3, 2, 4], [5], [6]], [4, 6, 6])
    candidates = on_host(History(size=3), rows)
    assert candidates.items.tolist() == [[4, 2, 3], [6, 5, 0], [6, 0, 0]]
    assert candidates.mask.tolist() == [[True, True, True], [True, True, False], [True, False, False]]
    assert candidates.rows is not None
    assert candidates.rows.tolist() == [True, True, False]


def test_items_of_one_semantic_id_are_one_item_of_the_history() -> None:
    shared = SemanticIds(torch.tensor([[0], [1], [0], [1], [2], [3]]), (4,))  # {1, 3}, {2, 4}
    candidates = on_host(History(size=4), rows_of([[1, 2, 3, 4, 5]], [3]), shared)
    assert candidates.items.tolist() == [[3, 5, 4, 0]]


def test_the_history_is_static_and_offers_validation_pairs() -> None:
    proposals = History().build_proposals(context_of(TablePolicy(S), data_of(one_level(6))))
    assert proposals.static
    assert proposals.for_validation is not None
    rows = rows_of([[1, 2]], [3])
    assert proposals.for_validation(rows).items[0, :3].tolist() == [3, 2, 1]


def test_a_gate_masks_the_columns_of_its_own_proposer_only() -> None:
    """Row 1 passes K = 2 (item 1 is better than 4). Row 2 does not, and keeps the items of its history."""
    rows = rows_of([[5, 6, 1], [3, 2]], [4, 6])
    candidates = in_step(Together((TopItems(size=2), History(size=3))), TablePolicy(S), rows)
    assert candidates.items.tolist() == [[4, 1, 1, 6], [6, 2, 2, 3]]
    assert candidates.mask.tolist() == [[True, True, False, True], [True, False, True, True]]  # 1 is repeated; 2 is gated once
    assert candidates.rows is not None
    assert candidates.rows.tolist() == [True, True]


def test_a_row_without_any_candidate_takes_no_part() -> None:
    nothing = joined([Candidates(torch.tensor([[3, 0]]), torch.tensor([[True, False]]))], torch.tensor([3]), torch.arange(7))
    assert nothing.rows is not None
    assert nothing.rows.tolist() == [False]
    assert nothing.mask.tolist() == [[True, False]]


@given(st.integers(0, 1000))
def test_kept_candidates_are_distinct_and_complete(seed: int) -> None:
    """The kept candidates of a row are the union of the parts', each Semantic ID once, the target first."""
    generator = torch.Generator().manual_seed(seed)
    representative = torch.tensor([0, 1, 2, 1, 4, 2, 6, 7])
    target = torch.randint(1, 8, (4,), generator=generator)
    parts = []
    for width in (3, 2):
        items = torch.cat([target[:, None], torch.randint(0, 8, (4, width), generator=generator)], 1)
        mask = (torch.rand(items.shape, generator=generator) < 0.7) & (items > 0)
        mask[:, 0] = True
        parts.append(Candidates(items, mask, torch.rand(4, generator=generator) < 0.7))
    both = joined(parts, target, representative)
    for row in range(4):
        kept = [int(representative[item]) for item in both.items[row, both.mask[row]]]
        wanted = {int(representative[target[row]])}
        for part in parts:
            assert part.rows is not None
            if part.rows[row]:
                wanted |= {int(representative[item]) for item in part.items[row, part.mask[row]]}
        assert kept[0] == int(representative[target[row]])
        assert sorted(kept) == sorted(wanted)
        assert bool(both.rows[row]) == (len(kept) > 1)  # type: ignore[index]


def test_parts_on_the_host_stay_on_the_host() -> None:
    rows = rows_of([[1, 2, 3]], [4])
    candidates = on_host(Together((History(size=2), History(size=3))), rows)
    assert candidates.items.tolist() == [[4, 3, 3, 2]]
    assert candidates.mask.tolist() == [[True, True, False, True]]


class Counter:
    """An `ObjectiveState` of one number."""

    def __init__(self) -> None:
        self.value = torch.zeros(1)

    def tensors(self) -> dict[str, Tensor]:
        return {"value": self.value}

    def restore(self, saved: Any) -> None:
        self.value = saved["value"]


@dataclass(frozen=True)
class Fixed:
    """A proposer for tests, with the given parts of `Proposals`."""

    parts: Any

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        return Proposals(**self.parts)


def test_states_beginnings_and_files_of_all_parts_are_used() -> None:
    states, begun, saved = [Counter(), Counter()], [], []
    make = lambda rows, step: Candidates(rows.target[:, None], rows.target[:, None] > 0)  # noqa: E731
    parts = tuple(Fixed({"on_host": make, "state": state, "begin": begun.append, "save": saved.append}) for state in states)
    proposals = Together(parts).build_proposals(context_of(TablePolicy(S), data_of(one_level(6))))
    assert proposals.state is not None
    assert proposals.begin is not None
    assert proposals.save is not None
    states[1].value = torch.ones(1)
    tensors = proposals.state.tensors()
    assert {name: float(value) for name, value in tensors.items()} == {"0.value": 0.0, "1.value": 1.0}
    proposals.state.restore({"0.value": torch.full((1,), 5.0), "1.value": torch.full((1,), 6.0)})
    assert [float(state.value) for state in states] == [5.0, 6.0]
    proposals.begin(3)
    proposals.save("folder")  # type: ignore[arg-type]
    assert (begun, saved) == ([3, 3], ["folder", "folder"])


def test_each_part_has_a_frozen_copy_of_its_own() -> None:
    context = context_of(TablePolicy(S), data_of(one_level(6)))
    Together((TopItems(refresh=2), TopItems(refresh=5, seen=False))).build_proposals(context)
    assert set(copies_of(context)) == {"top items 0", "top items 1"}


@dataclass(frozen=True)
class Weighted:
    """The target and item 1, with a weight for each row."""

    how: str

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        def propose(rows: SequenceBatch) -> Candidates:
            items = torch.stack([rows.target, torch.ones_like(rows.target)], 1)
            return Candidates(items, items > 0, weight=torch.ones(len(items)))

        if self.how == "host":
            return Proposals(on_host=lambda rows, step: propose(rows))
        return Proposals(in_step=lambda rows, host, step, scores: propose(rows))


@pytest.mark.parametrize(("how", "call"), [("host", on_host), ("step", lambda both, rows: in_step(both, TablePolicy(S), rows))])
def test_weights_of_a_part_are_refused_by_the_name_of_the_proposer(how: str, call: Any) -> None:
    with pytest.raises(
        UsageError, match=r"got some from Weighted \(.*test_together\.py:\d+\); use it alone, or proposers such as Top"
    ):
        call(Together((History(), Weighted(how))), rows_of([[1, 2]], [4]))


def test_refusals() -> None:
    with pytest.raises(UsageError, match="needs two or more proposers, got 1"):
        Together((TopItems(),))
    with pytest.raises(UsageError, match=r"proposers\[1\] must be a proposer, such as TopItems\(\), got 3"):
        Together((TopItems(), 3))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"proposers\[0\] must propose the target first, got Rollouts"):
        Together((Rollouts(), TopItems()))
    with pytest.raises(UsageError, match="which has examples of its own"):
        Together((Fixed({"examples": [1]}), TopItems())).build_proposals(context_of(TablePolicy(S), data_of(one_level(6))))
    with pytest.raises(UsageError, match="without behavior log-probabilities or weights, got some from a proposer; use it alone"):
        joined([Candidates(torch.ones(1, 2), torch.ones(1, 2) > 0, behavior=torch.zeros(1, 2))], torch.ones(1), torch.arange(3))
    with pytest.raises(UsageError, match=r"History\.size must be at least 2, got 1"):
        History(size=1)
    assert isinstance(Together((TopItems(), History())), Proposer)
