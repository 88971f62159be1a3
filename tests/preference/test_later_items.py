"""A user's later items and their step-discounted ratings: the data of RecPO."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignments import align, corpus, parts, recipe
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from proposals import TablePolicy, context_of, one_level, rows_of
from torch import Tensor
from worlds import cyclic

from genrec.data.examples import CorpusExamples
from genrec.data.splits import PARTS
from genrec.errors import InputError, Stopped, UsageError
from genrec.objectives import Preference
from genrec.objectives.preferred_candidates import best_first
from genrec.objectives.rows import rows_of as rows_of_batch
from genrec.preference.candidates import LaterItems, Sampled, Together
from genrec.preference.future_events import FutureEvents
from genrec.preference.losses import Anchored, RecPO
from genrec.preference.negatives import Uniform
from genrec.preference.rewards import StepDiscountedRating
from genrec.semantic_ids import SemanticIds
from genrec.testing import check_objective, check_proposer, check_reward, objective_world, sampler_context
from genrec.training.recipes import Align
from genrec.types import Candidates, LogProbs, ObjectiveContext, SamplerContext, SequenceBatch
from genrec.types.data import Histories

NAN = float("nan")
TOGETHER = Together((LaterItems(size=10), Sampled(Uniform(), 10)))
RECPO = Preference(loss=RecPO(weight=0.5), candidates=TOGETHER, reward=StepDiscountedRating(), chosen="best", likelihood=1.0)


def context(
    events: dict[int, list[tuple[int, float]]], items: int = 9, ids: SemanticIds | None = None, histories: Histories = "all"
) -> SamplerContext:
    """Return training data: the items of each user in order, with their ratings. Ratings of 2 or less are dislikes."""
    table = DataFrame(
        [(user, item, time, rating) for user, row in events.items() for time, (item, rating) in enumerate(row)],
        columns=["user", "item", "time", "rating"],
    )
    table["label"] = np.where(table["rating"] <= 2, -1, np.where(table["rating"] >= 4, 1, 0)).astype("int8")
    popularity = torch.bincount(torch.from_numpy(table["item"].to_numpy(copy=True)), minlength=items + 1)
    vectors = torch.zeros(items + 1, 2)
    return SamplerContext(items, table, popularity, vectors, ids or one_level(items), histories=histories)


def later(data: SamplerContext, rows: SequenceBatch, size: int = 4) -> Candidates:
    proposals = LaterItems(size=size).build_proposals(context_of(TablePolicy(torch.zeros(1, 9)), data))
    assert proposals.on_host is not None
    return proposals.on_host(rows, 0)


def phi(data: SamplerContext, rows: SequenceBatch, items: Tensor, **fields: float) -> Tensor:
    return StepDiscountedRating(**fields).rate(data).rate(rows, items)


USER = {1: [(5, 3.0), (1, 2.0), (2, 5.0), (3, NAN), (4, 4.0), (6, 1.0)], 2: [(2, 1.0), (3, 5.0)]}


def test_later_items_follow_the_target_in_their_order() -> None:
    """User 1 after item 5 takes 1, then 2, 3, 4; user 1 near the end has one later item, and user 2's events are not user 1's."""
    found = later(context(USER), rows_of([[5], [2, 3], [3, 4], [2]], [1, 4, 6, 3], [1, 1, 1, 2]))
    assert found.items.tolist() == [[1, 2, 3, 4], [4, 6, 0, 0], [6, 0, 0, 0], [3, 0, 0, 0]]
    assert torch.equal(found.mask, found.items > 0)
    assert found.rows is not None
    assert found.rows.tolist() == [True, True, False, False]


def test_phi_by_hand() -> None:
    """After item 5: item 1 at step 0 with 2, 2 at step 1 with 5, 3 at step 2 without a rating, 6 at step 4 with 1.

    Items 5 and 9 come no more and have 3 / (1 + 10)^0.5 = 0.904534.
    """
    found = phi(context(USER), rows_of([[5]], [1]), torch.tensor([[1, 2, 3, 6, 5, 9, 0]]))
    expected = [2, 5 / math.sqrt(2), 3 / math.sqrt(3), 1 / math.sqrt(5), 3 / math.sqrt(11), 3 / math.sqrt(11), -math.inf]
    assert found[0].tolist() == pytest.approx(expected)
    plain = phi(context(USER), rows_of([[5]], [1]), torch.tensor([[1, 2, 3, 9]]), default_rating=1.0, decay=0.0)
    assert plain[0].tolist() == pytest.approx([2, 5, 1, 1])


def test_the_vector_of_the_authors_data() -> None:
    """phi = 5, 2 / 2^0.5 and twice 3 / 11^0.5; margins 0.5 * 5 / phi_k; D_w = 1.8 and D_k = -1.3, 0.4, 2.0."""
    data, rows = context({1: [(7, 3.0), (1, 5.0), (2, 2.0)]}), rows_of([[7]], [1])
    rewards = phi(data, rows, torch.tensor([[1, 2, 8, 9]])).double()
    margins = 0.5 * rewards[0, 0] / rewards[0, 1:]
    assert margins.tolist() == pytest.approx([1.767766953, 2.763853992, 2.763853992], rel=1e-6)
    reference = LogProbs(torch.tensor([-5.0]).double(), torch.full((1, 3), -7.0).double())
    start = RecPO(weight=0.5)(reference._replace(rewards=rewards), reference).loss
    moved = LogProbs(reference.chosen + 1.8, reference.rejected + torch.tensor([[-1.3, 0.4, 2.0]]).double(), rewards=rewards)
    assert float(start) == pytest.approx(3.652720112, abs=1e-6)
    assert float(RecPO(weight=0.5)(moved, reference).loss) == pytest.approx(3.200614700, abs=1e-6)


def test_the_best_of_the_next_items_is_preferred_to_the_target() -> None:
    """5 / 2^0.5 = 3.5 at step 1 beats the target's 2 at step 0. Item 9 is not taken, and follows by its phi of 0.90."""
    data, rows = context(USER), rows_of([[5]], [1])
    items = torch.tensor([[1, 2, 6, 9]])
    found, _ = best_first(Candidates(items, items > 0), phi(data, rows, items), 0.0)
    assert found.items.tolist() == [[2, 1, 9, 6]]
    assert found.mask.all()


def test_an_item_that_is_not_taken_is_never_preferred_to_the_target() -> None:
    """The target's phi of 0.5 is below 0.904534, the default, which is then lowered to it; equal rewards keep the order."""
    data, rows, items = context({1: [(7, 3.0), (1, 0.5), (2, 4.0)]}), rows_of([[7], [7, 1]], [1, 2]), torch.tensor([[1, 9], [2, 9]])
    found = phi(data, rows, items)
    assert found.flatten().tolist() == pytest.approx([0.5, 0.5, 4, 3 / math.sqrt(11)])
    ordered, _ = best_first(Candidates(items, items > 0), found, 0.0)
    assert ordered.items[:, 0].tolist() == [1, 2]


def test_items_that_are_taken_again_are_found_by_the_history() -> None:
    """User 1 takes 8, 1, 8, 2, 8, 3: the history tells which 8 is the target, and the step of 8 is that of its next event."""
    data = context({1: [(8, 5.0), (1, 4.0), (8, 3.0), (2, 4.0), (8, 1.0), (3, 4.0)]})
    rows = rows_of([[8, 1], [8, 1, 8, 2], [2], [8]], [8, 8, 8, 1])
    assert FutureEvents(data).positions(rows).tolist() == [2, 4, 4, 1]
    assert later(data, rows, size=3).items.tolist() == [[8, 2, 0], [8, 3, 0], [8, 3, 0], [1, 8, 2]]  # 8 is the target once more
    assert phi(data, rows, torch.full((4, 1), 8), decay=1.0).flatten().tolist() == pytest.approx([3, 1, 1, 3 / 2])


def test_items_of_one_semantic_id_are_proposed_once() -> None:
    ids = SemanticIds(torch.tensor([[0], [1], [0], [1], [2], [3], [4], [5], [6]]), (7,))  # {1, 3}, {2, 4}
    found = later(context(USER, ids=ids), rows_of([[5]], [1]), size=5)
    assert found.items.tolist() == [[1, 2, 6, 0, 0]]  # 3 has the target's, 4 that of 2


def test_a_row_of_validation_has_no_later_item() -> None:
    """A held-out target; a history that is not the one before the target; an unknown user. Position 8 stands for no event."""
    data, rows = context(USER), rows_of([[3, 4, 6], [4, 6], [2]], [9, 2, 3], [1, 1, 7])
    assert FutureEvents(data).positions(rows).tolist() == [8, 8, 8]
    assert later(data, rows).items.tolist() == [[9, 0, 0, 0], [2, 0, 0, 0], [3, 0, 0, 0]]
    assert phi(data, rows, torch.tensor([[9], [2], [3]])).flatten().tolist() == pytest.approx([3 / math.sqrt(11)] * 3)


@given(st.integers(0, 10_000), st.sampled_from(["all", "without disliked"]))
def test_against_a_loop(seed: int, histories: Histories) -> None:
    """Random sequences with repeats, in a table of any order; histories are cut, and hold no dislikes if the split says so."""
    drawn = np.random.default_rng(seed)
    events = {
        user: [(int(drawn.integers(1, 7)), float(drawn.choice([1, 3, 5, NAN]))) for _ in range(drawn.integers(2, 8))]
        for user in range(3)
    }
    data = context(events, histories=histories)
    data = data._replace(interactions=data.interactions.sample(frac=1, random_state=seed))
    labels = {user: [not row[1] <= 2 for row in rows] for user, rows in events.items()}
    length, histories_, targets, users, places = int(drawn.integers(1, 8)), [], [], [], []
    for user, sequence in events.items():
        for place in range(1, len(sequence)):
            kept = [item for (item, _), keep in zip(sequence[:place], labels[user], strict=False) if keep or histories == "all"]
            if kept:
                histories_.append(kept[-length:])
                targets.append(sequence[place][0])
                users.append(user)
                places.append(place)
    if not targets:
        return
    rows, every = rows_of(histories_, targets, users), torch.arange(10).expand(len(targets), 10)
    found, values = later(data, rows), phi(data, rows, every)
    for row, (user, place) in enumerate(zip(users, places, strict=True)):
        sequence = events[user]
        matching = [
            other for other in range(1, len(sequence))
            if sequence[other][0] == targets[row]
            and [item for (item, _), keep in zip(sequence[:other], labels[user], strict=False) if keep or histories == "all"][
                -len(histories_[row]) :
            ] == histories_[row]
        ]  # fmt: skip
        first = min(matching)
        assert place in matching
        distinct = list(dict.fromkeys(item for item, _ in sequence[first + 1 : first + 4] if item != targets[row]))
        assert found.items[row].tolist() == [targets[row], *distinct] + [0] * (3 - len(distinct))
        own = 3.0 if math.isnan(sequence[first][1]) else sequence[first][1]
        for item in range(1, 10):
            expected = min(3 / math.sqrt(11), own)
            for step, (other, rating) in enumerate(sequence[first:]):
                if other == item:
                    expected = (3.0 if math.isnan(rating) else rating) / math.sqrt(1 + step)
                    break
            assert float(values[row, item]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("windows", [False, True])
def test_only_training_events_are_proposed_in_their_order(windows: bool) -> None:
    """On a corpus: the later items of each row are the training events after its target, and nothing held out is among them."""
    data, source = parts()[2], CorpusExamples(corpus(), 8)
    entries = source.windows() if windows else source.prefixes()
    rows = rows_of_batch(entries.batch(torch.arange(len(entries))))
    found = later(data, rows, size=20)
    held_out = corpus().interactions.query("part != 'train'")
    hidden = set(zip(held_out["user"], held_out["item"], strict=True))
    sequences = corpus().interactions.query("part == 'train'").groupby("user")["item"].apply(list)
    assert set(held_out["part"]) == set(PARTS) - {"train"}
    assert len(rows.target) == sum(len(each) - 1 for each in sequences)
    for user, items in zip(rows.user.tolist(), found.items.tolist(), strict=True):
        taken = [item for item in items if item]
        sequence = sequences[user]
        assert taken == sequence[sequence.index(taken[0]) :]
        assert all((user, item) not in hidden for item in taken)


def step_of(objective: Preference) -> tuple[Any, ObjectiveContext]:
    world = objective_world()
    return objective.build_step(world), world


@pytest.mark.parametrize("targets", ["one", "all"])
def test_the_preferred_item_of_a_step_is_a_next_item_with_the_highest_phi(targets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from genrec.objectives import preference_step

    taken: list[Candidates] = []

    def noting(*arguments: Any) -> tuple[Candidates, Tensor]:
        taken.append(best_first(*arguments)[0])
        return best_first(*arguments)

    monkeypatch.setattr(preference_step, "best_first", noting)
    step, world = step_of(replace(RECPO, targets=targets))
    rate, labels = StepDiscountedRating().rate(world.data()).rate, world.data().interactions.set_index(["user", "item"])["label"]
    relabeled = 0
    for number in range(4):
        prepared = step.prepare(step.examples.batch(torch.arange(8 * number, 8 * number + 8)), number)
        loss, _ = step.loss(prepared, number)
        assert bool(loss.isfinite())
        proposed, rows, chosen = prepared.candidates, prepared.rows, taken[-1]
        values = rate(rows, proposed.items).masked_fill(~proposed.mask, -torch.inf)
        for row in range(len(rows.target)):
            user, best = int(rows.user[row]), int(chosen.items[row, 0])
            allowed = [
                (float(value), item) for value, item in zip(values[row], proposed.items[row, :10].tolist(), strict=False)
                if value > -math.inf and (item == int(rows.target[row]) or labels[user, item] != -1)
            ]  # fmt: skip
            assert float(rate(rows, chosen.items)[row, 0]) == max(allowed)[0]
            assert best in [item for _, item in allowed]
            relabeled += best != int(rows.target[row])
    assert relabeled > 0


def test_equal_rows_have_equal_candidates_in_any_batch() -> None:
    """The sampled items are a function of seed, epoch and example, not of the other rows or their order."""
    step, _ = step_of(RECPO)
    index = torch.arange(16)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    first, second = (step.prepare(step.examples.batch(each), 3).candidates for each in (index, index[order]))
    assert torch.equal(first.items[order], second.items)
    assert torch.equal(first.mask[order], second.mask)


def test_contracts() -> None:
    check_proposer(LaterItems())
    check_proposer(LaterItems(size=2))
    check_proposer(TOGETHER)
    check_reward(StepDiscountedRating())
    check_reward(StepDiscountedRating(1.0, 0.0, 2.0), sampler_context(seed=3, items=30, users=5))
    check_objective(RECPO)
    check_objective(replace(RECPO, targets="all"))


def rated_parts() -> tuple[Any, Any, SamplerContext]:
    """Return the policy and data of the tests of alignment, with ratings of 1 to 5."""
    built, entries, data = parts()
    table = data.interactions.assign(rating=np.random.default_rng(0).integers(1, 6, len(data.interactions)).astype(float))
    return built, entries, data._replace(interactions=table)


def test_a_resumed_training_gives_the_same_weights(tmp_path: Path) -> None:
    settings = recipe(loss=Anchored(RecPO(weight=0.5)), reward=StepDiscountedRating(), chosen="best", candidates=TOGETHER, keep="last")

    def trained(folder: str, stop: bool) -> dict[str, Tensor]:
        built, entries, data = rated_parts()
        calls: list[int] = []

        def validate() -> dict[str, float]:
            calls.append(1)
            if stop and len(calls) == 2:
                os.kill(os.getpid(), signal.SIGINT)  # in the validation after step 20
            return {"ndcg@10": 0.1}

        align(built, entries, data, settings, 0, tmp_path / folder / "last", validate)
        return built.state_dict()

    whole = trained("whole", stop=False)
    with pytest.raises(Stopped, match="stopped at step 20"):
        trained("parts", stop=True)
    again = trained("parts", stop=False)
    assert all(torch.equal(value, whole[name]) for name, value in again.items())
    assert any(not torch.equal(value, rated_parts()[0].state_dict()[name]) for name, value in whole.items())


def test_data_without_ratings_are_refused() -> None:
    with pytest.raises(UsageError, match=r"StepDiscountedRating needs ratings, but the source Cyclic\("):
        replace(cyclic(), align=Align(RECPO))
    bare = context(USER)._replace(interactions=context(USER).interactions.drop(columns=["rating", "label"]))
    with pytest.raises(InputError, match=r"StepDiscountedRating needs ratings, got training interactions with the columns user, item"):
        StepDiscountedRating().check_context(bare)
    assert later(bare, rows_of([[5]], [1])).items.tolist() == [[1, 2, 3, 4]]  # the proposer alone reads no rating


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LaterItems(size=1), r"LaterItems\.size must be at least 2, got 1"),
        (lambda: LaterItems(size=2.5), r"LaterItems\.size must be an integer, got 2\.5"),
        (lambda: StepDiscountedRating(default_rating=0.0), r"StepDiscountedRating\.default_rating must be above 0"),
        (lambda: StepDiscountedRating(default_step=-1.0), r"StepDiscountedRating\.default_step must be 0 or more"),
        (lambda: StepDiscountedRating(decay=-0.5), r"StepDiscountedRating\.decay must be 0 or more"),
        (lambda: Preference(loss=RecPO(), candidates=LaterItems()), r"RecPO needs rewards"),
    ],
)  # fmt: skip
def test_fields_are_checked(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
