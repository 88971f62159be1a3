"""Preferred items are counted where they may be others than the logged ones: own proposers, and the choice of a reward."""

from __future__ import annotations

import math
import os
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from alignments import align, built_step, constant, parts, recipe, take
from torch import Tensor

from genrec.errors import Stopped
from genrec.objectives import Preference, Rounds, Supervised
from genrec.objectives.preference_state import PreferenceState
from genrec.preference.candidates import History, Sampled, Together, TopItems
from genrec.preference.losses import KTO, SoftmaxDPO
from genrec.preference.negatives import Uniform
from genrec.types import Candidates, ObjectiveContext, Proposals, Rating, RowScores, SamplerContext, SequenceBatch


@dataclass(frozen=True)
class Others:
    """A proposer of the two items after the target and the target; of every third row the first candidate is masked."""

    on_host: bool = True
    rows: bool = False  # whether only rows with an even target take part

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        num_items = context.data().item_count

        def propose(target: Tensor) -> Candidates:
            items = (target.unsqueeze(1) + torch.tensor([0, 1, -1])) % num_items + 1
            mask = torch.ones_like(items, dtype=torch.bool)
            mask[::3, 0] = False
            return Candidates(items, mask, target % 2 == 0 if self.rows else None)

        def in_step(rows: SequenceBatch, host: SequenceBatch, step: int, scores: RowScores) -> Candidates:
            return propose(rows.target)

        return Proposals(on_host=lambda rows, step: propose(rows.target)) if self.on_host else Proposals(in_step=in_step)


@dataclass(frozen=True)
class LowestItem:
    """A reward that prefers the item with the lowest number."""

    def rate(self, context: SamplerContext) -> Rating:
        return Rating(rate=lambda batch, items: torch.where(items > 0, -items.float(), -math.inf))


def counted(state: PreferenceState) -> Counter[tuple[int, int]]:
    assert state.preferred is not None
    return Counter({(user, item): count for user, item, count in state.preferred.table().itertuples(index=False)})


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize(("rows", "likelihood"), [(False, 0.0), (True, 0.0), (True, 0.5)])
def test_the_first_candidates_of_an_own_proposer_are_counted(on_host: bool, rows: bool, likelihood: float) -> None:
    """Masked ones are not, and those of rows that take no part only if their likelihood is raised."""
    proposer = Others(on_host, rows)
    step, _, frozen, batch = built_step(recipe(objective=Preference(KTO(paired=False), proposer, likelihood=likelihood)))
    for number in range(2):
        take(step, frozen, batch, number)
    assert isinstance(step.state, PreferenceState)
    expected: Counter[tuple[int, int]] = Counter()
    for place, (user, target) in enumerate(zip(batch.user.tolist(), batch.target.tolist(), strict=True)):
        if place % 3 and (not rows or likelihood or target % 2 == 0):
            expected[user, target % 40 + 1] += 2
    assert counted(step.state) == expected


def test_the_choices_of_a_reward_are_counted() -> None:
    objective = Preference(SoftmaxDPO(), Sampled(Uniform(), 3), reward=LowestItem(), chosen="best")
    step, _, frozen, batch = built_step(recipe(objective=objective))
    assert step.prepare is not None
    assert isinstance(step.state, PreferenceState)
    lowest = step.prepare(batch, 0).candidates.items.amin(1)
    assert (lowest != batch.target).any()
    take(step, frozen, batch, 0)
    assert counted(step.state) == Counter(zip(batch.user.tolist(), lowest.tolist(), strict=True))


@pytest.mark.parametrize(
    "proposer",
    [Sampled(), TopItems(size=4), History(size=3), Together((TopItems(size=4), History(size=3)))],
    ids=lambda each: type(each).__name__,
)
def test_nothing_is_counted_or_kept_where_the_logged_item_is_preferred(proposer: Any, tmp_path: Path) -> None:
    """Checkpoints and artifacts are as before."""
    step, _, frozen, batch = built_step(recipe(objective=Preference(SoftmaxDPO(), proposer)))
    take(step, frozen, batch, 0)
    assert isinstance(step.state, PreferenceState)
    assert not any("preferred" in name for name in step.state.tensors())
    assert step.save is not None
    step.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"negatives.json", "drawn_negatives.parquet"}


def test_counts_are_files_of_the_artifact_and_resume(tmp_path: Path) -> None:
    objective = Preference(KTO(paired=False), Others())

    def run(folder: str, stop: bool) -> pd.DataFrame:
        calls: list[int] = []

        def validate() -> dict[str, float]:
            calls.append(1)
            if stop and len(calls) == 2:
                os.kill(os.getpid(), signal.SIGINT)  # in the validation after step 20
            return {"ndcg@10": 0.1}

        align(*parts(), recipe(objective=objective), 0, tmp_path / folder / "last", validate)
        return pd.read_parquet(tmp_path / folder / "last files" / "preferred_items.parquet")

    whole = run("whole", stop=False)
    assert list(whole.columns) == ["user", "item", "count"]
    with pytest.raises(Stopped):
        run("parts", stop=True)
    pd.testing.assert_frame_equal(run("parts", stop=False), whole)


def test_rounds_add_up_the_parts_that_count(tmp_path: Path) -> None:
    """Parts 1 and 4 count, 10 steps of 30 examples each, of which two thirds have a preferred item; part 3 does not."""
    own, logged = Preference(KTO(paired=False), Others()), Preference(SoftmaxDPO(), Sampled(Uniform(), 2))
    objective = Rounds(objectives=(own, Supervised(), logged, own), steps=(1, 1, 1, 1))
    align(*parts(), recipe(objective=objective, batch_size=30), 0, tmp_path / "a" / "last", constant)
    found = pd.read_parquet(tmp_path / "a" / "last files" / "preferred_items.parquet")
    assert found["count"].sum() == 2 * 10 * 20
    assert not found.duplicated(["user", "item"]).any()
