"""With chosen="best", an item that the user dislikes is rejected or left out, but never preferred."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from alignments import IDS, built_step, recipe, take
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genrec.objectives import Preference
from genrec.objectives.preference_state import PreferenceState
from genrec.objectives.preferred_candidates import Dislikes, best_first
from genrec.preference.candidates import History, Sampled
from genrec.preference.disliked_pairs import DislikedPairs
from genrec.preference.exclusions import representatives
from genrec.preference.losses import SoftmaxDPO
from genrec.preference.negatives import Disliked, Uniform
from genrec.preference.rewards import Popular
from genrec.testing import objective_world
from genrec.types import Candidates, Proposer, Rating, SamplerContext

ITEMS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 0, 0], [5, 6, 7, 8]])
MASK = ITEMS > 0
REWARDS = torch.tensor([[1.0, 9.0, 3.0, 0.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, -math.inf, -math.inf], [1.0, 2.0, 3.0, 4.0]])
DISLIKED = torch.tensor(
    [[False, True, False, False], [True, False, True, False], [True, True, False, False], [False, False, False, False]]
)
TARGET = torch.tensor([1, 5, 9, 5])


def test_a_disliked_candidate_is_not_preferred() -> None:
    """Row 0: 3 is the best but for 2, which is disliked and better, so it is masked. Row 1: 8 is best, disliked 7 and 5 are rejected.

    Row 2: only dislikes, so there is no preference, and the logged item 9 stands for the likelihood. Row 3: no dislikes.
    """
    found, rewards = best_first(Candidates(ITEMS, MASK), REWARDS, 0.0, DISLIKED, TARGET)
    shown = found.items.masked_fill(~found.mask, 0)
    assert shown.tolist() == [[3, 0, 1, 4], [8, 7, 6, 5], [9, 0, 0, 0], [8, 7, 6, 5]]
    assert found.rows is not None
    assert found.rows.tolist() == [True, True, False, True]
    assert rewards[:2].tolist() == [[3.0, 9.0, 1.0, 0.0], [4.0, 3.0, 2.0, 1.0]]


@given(st.integers(0, 2**31), st.integers(0, 8))
def test_against_a_loop(seed: int, quarters: int) -> None:
    min_gap = quarters / 4  # exact in float32
    drawn = torch.Generator().manual_seed(seed)
    items = torch.stack([torch.randperm(9, generator=drawn)[:5] + 1 for _ in range(6)])
    mask, disliked = (torch.rand(6, 5, generator=drawn) < share for share in (0.8, 0.4))
    rewards, target = torch.randint(0, 4, (6, 5), generator=drawn).float(), torch.full((6,), 10)
    found, _ = best_first(Candidates(items, mask), rewards, min_gap, disliked, target)
    assert found.rows is not None
    for row in range(6):
        allowed = [place for place in range(5) if mask[row, place] and not disliked[row, place]]
        preferred = max(allowed, key=lambda place: float(rewards[row, place]), default=None)
        limit = -math.inf if preferred is None else float(rewards[row, preferred]) - min_gap
        rejected = {int(items[row, place]) for place in range(5) if mask[row, place] and float(rewards[row, place]) < limit}
        assert set(found.items[row, 1:][found.mask[row, 1:]].tolist()) == rejected
        assert bool(found.rows[row]) == bool(rejected)
        if preferred is not None:
            assert int(found.items[row, 0]) == int(items[row, preferred])
            assert bool(found.mask[row, 0])
        elif bool(mask[row].any()):
            assert int(found.items[row, 0]) == 10
            assert bool(found.mask[row, 0])


def test_without_dislikes_the_order_is_that_without_labels() -> None:
    nothing = torch.zeros_like(MASK)
    for each, other in zip(
        best_first(Candidates(ITEMS, MASK), REWARDS, 1.0, nothing, TARGET),
        best_first(Candidates(ITEMS, MASK), REWARDS, 1.0),
        strict=True,
    ):
        assert all(torch.equal(a, b) for a, b in zip(each, other, strict=True) if isinstance(a, Tensor))


def test_the_logged_item_is_no_dislike() -> None:
    """Some users take an item again and dislike it then. The earlier event is a target, so the item may be preferred there."""
    context = objective_world().data()
    events = context.interactions
    event = events[events["label"] == -1].iloc[0]
    rows = objective_world().source.prefixes().batch(torch.arange(1))
    rows = rows._replace(user=torch.tensor([event["user"]]), target=torch.tensor([event["item"]]))
    items = torch.tensor([[event["item"]]])
    assert DislikedPairs(context, representatives(context)).contains(rows.user, items).all()
    found = Dislikes(context).among(rows, items)
    assert found is not None
    assert not found.any()
    assert Dislikes(context._replace(interactions=events.drop(columns="label"))).among(rows, items) is None


@pytest.mark.parametrize("proposer", [Sampled(Disliked(max_rating=2.0), 3), History(size=5)])
def test_no_preferred_item_of_a_training_is_disliked(proposer: Proposer, monkeypatch: pytest.MonkeyPatch) -> None:
    from genrec.objectives import preference_step

    context, taken = objective_world(), []

    def noting(*arguments: object) -> tuple[Candidates, Tensor]:
        taken.append(best_first(*arguments)[0])  # type: ignore[arg-type]
        return best_first(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(preference_step, "best_first", noting)
    step = Preference(loss=SoftmaxDPO(), candidates=proposer, reward=Popular(), chosen="best", likelihood=1.0).build_step(context)
    assert step.prepare is not None
    pairs, compared = DislikedPairs(context.data(), representatives(context.data())), 0
    for number in range(5):
        prepared = step.prepare(step.examples.batch(torch.arange(16 * number, 16 * number + 16)), number)
        loss, _ = step.loss(prepared, number)
        assert bool(loss.isfinite())
        first = taken[-1].items[:, :1]
        disliked = pairs.contains(prepared.rows.user, first) & (first != prepared.rows.target.unsqueeze(1))
        assert not disliked.any()
        compared += int(taken[-1].rows.sum())  # type: ignore[union-attr]
    assert compared > 20


@dataclass(frozen=True)
class LowestItem:
    """A reward that prefers the item with the lowest number."""

    def rate(self, context: SamplerContext) -> Rating:
        return Rating(rate=lambda batch, items: torch.where(items > 0, -items.float(), -math.inf))


def test_statistics_are_of_the_candidates_that_the_reward_rejects() -> None:
    """Every row compares all of its candidates, so the counts are those of all but the lowest item, the logged item among them."""
    step, _, frozen, batch = built_step(recipe(candidates=Sampled(Uniform(), 3), reward=LowestItem(), chosen="best"))
    assert step.prepare is not None
    assert isinstance(step.state, PreferenceState)
    items = step.prepare(batch, 0).candidates.items.sort(1).values
    assert (items[:, 0] != batch.target).any()
    _, logs = take(step, frozen, batch, 0)
    expected = Counter((int(user), int(item)) for user, row in zip(batch.user, items, strict=True) for item in row[1:])
    table = step.state.draw_counts.table()
    assert Counter(dict(zip(zip(table["user"], table["item"], strict=True), table["count"], strict=True))) == expected
    depth = IDS.prefix_depth(items[:, 1:].flatten(), items[:, :1].expand(-1, 3).flatten())
    assert float(logs["drawn_depth"]) == pytest.approx(float(depth.float().mean()), abs=1e-6)
