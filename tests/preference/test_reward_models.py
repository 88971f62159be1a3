"""The Bradley-Terry reward model: its losses by hand, its pairs, what it learns, what it is refused for."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from safetensors.torch import load_file
from torch import Tensor

from genrec.errors import InputError, UsageError
from genrec.preference.candidates import History, InvalidIds, Pairs, Sampled, TopItems
from genrec.preference.negatives import AlreadySeen, Curriculum, DislikedItems, Uniform
from genrec.preference.reward_models import BradleyTerry
from genrec.preference.reward_models.pair_losses import bradley_terry, center_penalty, pair_accuracy, plackett_luce
from genrec.preference.reward_models.reward_network import catalog_rewards, held_out_rows
from genrec.preference.reward_models.training_pairs import TrainingPairs, training_prefixes
from genrec.semantic_ids import SemanticIds
from genrec.testing import check_reward, sampler_context
from genrec.types import Candidates, ObjectiveContext, Proposals, SamplerContext, SequenceBatch

CHOSEN, REJECTED = torch.tensor([1.2], dtype=torch.float64), torch.tensor([[0.3, -0.5, 0.9]], dtype=torch.float64)
LIKED = Sampled(DislikedItems(), 1)
ALL = torch.ones(1, 3, dtype=torch.bool)


def test_the_losses_are_the_vectors() -> None:
    """One preferred item with 1.2 against .3, -.5 and .9: the mean over pairs, the first place, the mean with 0.01 of the squares."""
    chosen = CHOSEN.clone().requires_grad_()
    pairs = bradley_terry(chosen, REJECTED, ALL)
    assert float(pairs.detach()) == pytest.approx(0.354431716, abs=1e-9)
    assert float(plackett_luce(CHOSEN, REJECTED, ALL)) == pytest.approx(0.845898913, abs=1e-9)
    assert float((pairs + 0.01 * center_penalty(chosen, REJECTED, ALL)).detach()) == pytest.approx(0.378265050, abs=1e-9)
    pairs.sum().backward()
    assert chosen.grad is not None
    assert float(chosen.grad) == pytest.approx(-0.289691082, abs=1e-9)


def test_gradients_are_those_of_finite_differences() -> None:
    source = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(4, dtype=torch.float64, generator=source), torch.randn(4, 3, dtype=torch.float64, generator=source)
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
    for loss in (bradley_terry, plackett_luce, center_penalty):
        assert torch.autograd.gradcheck(
            lambda first, second, loss=loss: loss(first, second, mask), (chosen.requires_grad_(), rejected.requires_grad_())
        )


@given(st.floats(-20, 20), st.floats(-5, 5), st.floats(-5, 5))
def test_a_constant_changes_nothing_and_one_pair_is_one_place(constant: float, first: float, second: float) -> None:
    one = torch.ones(1, 1, dtype=torch.bool)
    chosen, rejected = torch.tensor([first]).double(), torch.tensor([[second]]).double()
    for loss in (bradley_terry, plackett_luce):
        torch.testing.assert_close(loss(CHOSEN + constant, REJECTED + constant, ALL), loss(CHOSEN, REJECTED, ALL))
    torch.testing.assert_close(bradley_terry(chosen, rejected, one), plackett_luce(chosen, rejected, one))
    torch.testing.assert_close(bradley_terry(chosen, chosen.unsqueeze(1), one), torch.tensor([math.log(2)]).double())


def test_masked_items_change_nothing() -> None:
    """A row without rejected items has a loss and a gradient of 0."""
    mask = torch.tensor([[True, False, False], [False, False, False]])
    chosen = torch.tensor([1.0, 2.0], requires_grad=True)
    rejected = torch.tensor([[0.5, 9.0, -9.0], [1.0, 2.0, 3.0]])
    for loss in (bradley_terry, plackett_luce, center_penalty):
        found = loss(chosen, rejected, mask)
        torch.testing.assert_close(found[:1], loss(chosen[:1], rejected[:1, :1], mask[:1, :1]))
        assert float(found[1].detach()) == 0.0
        (gradient,) = torch.autograd.grad(found.sum(), chosen)
        assert gradient[1] == 0.0
        assert gradient[0] != 0.0


def test_accuracy_counts_ties_half() -> None:
    found = pair_accuracy(torch.tensor([1.0, 2.0]), torch.tensor([[0.0, 1.0], [3.0, 9.0]]), torch.tensor([[1, 1], [1, 0]]).bool())
    assert float(found) == pytest.approx((1 + 0.5 + 0) / 3)


def tastes(users: int = 240, noise: float = 0.0, seed: int = 0) -> SamplerContext:
    """Two kinds of items, 20 each. A user likes one kind, takes 9 items of it and 3 of the other kind, in random order, and dislikes
    the latter. `noise` is the share of labels that are drawn by a coin.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(1, users + 1):
        kind = rng.integers(2)
        own, other = (1 + 20 * each + rng.choice(20, count, replace=False) for each, count in ((kind, 9), (1 - kind, 3)))
        for time, item in enumerate(rng.permutation(np.concatenate([own, other]))):
            liked = (item > 20) == bool(kind) if rng.random() >= noise else rng.random() < 0.5
            rows.append((user, item, time, 1 if liked else -1))
    events = DataFrame(rows, columns=["user", "item", "time", "label"])
    popularity = torch.bincount(torch.from_numpy(events["item"].to_numpy(copy=True)), minlength=41)
    vectors = torch.cat([torch.zeros(1, 4), torch.from_numpy(rng.normal(size=(40, 4))).float()])
    vectors[1:21, 0] += 3
    vectors[21:, 1] += 3
    return SamplerContext(40, events, popularity, vectors, SemanticIds(torch.arange(40).unsqueeze(1), (40,)))


def test_a_model_of_two_tastes_is_near_the_oracle_and_follows_no_popularity(tmp_path: Path) -> None:
    """The kind that most items of the history have tells which of two items is liked, in nearly all pairs."""
    world, model = tastes(500), BradleyTerry(pairs=LIKED, feedback="liked", steps=300)
    figures = model.save_model(world, DataFrame({"user": [], "item": []}), tmp_path)
    pairs = TrainingPairs(LIKED, world, "liked", 20, 0.1, 0, 256)
    right = total = 0
    for rows in held_out_rows(pairs, 0):
        kinds = ((rows.history > 20).sum(1) > (rows.history > 0).sum(1) / 2).unsqueeze(1)
        right += int((((rows.chosen.unsqueeze(1) > 20) == kinds) & rows.mask).sum())
        total += int(rows.mask.sum())
    assert figures.pairs == total > 150
    assert figures.accuracy > 0.85
    assert figures.accuracy > right / total - 0.05  # the history's majority is the oracle but for the first events
    assert abs(figures.popularity_correlation) < 0.3
    assert figures.accuracy > figures.popularity_accuracy + 0.15
    assert json.loads((tmp_path / "reward_model.json").read_text()) == figures._asdict()
    loaded = model.rate(world._replace(reward_model=tmp_path))
    batch = SequenceBatch(torch.tensor([1, 2]), torch.tensor([[1, 2, 3], [21, 22, 23]]), torch.tensor([4, 24]))
    found = loaded.rate(batch, torch.tensor([[10, 30, 0], [10, 30, 0]]))
    assert found[0, 0] > found[0, 1] + 0.5
    assert found[1, 1] > found[1, 0] + 0.5
    assert found[:, 2].isneginf().all()
    torch.testing.assert_close(found, model.rate(world).rate(batch, torch.tensor([[10, 30, 0], [10, 30, 0]])))  # trained in place


def test_the_form_over_all_candidates_learns_too(tmp_path: Path) -> None:
    model = BradleyTerry(pairs=Sampled(DislikedItems(), 3), feedback="liked", loss="softmax", steps=300, center=0)
    assert model.save_model(tastes(), DataFrame({"user": [], "item": []}), tmp_path).accuracy > 0.85


def test_labels_by_a_coin_are_refused(tmp_path: Path) -> None:
    message = (
        r"the reward model has \d+\.\d % of \d+ held-out pairs in the right order, expected at least 70 % \(min_accuracy\), after a "
        r"training on [\d,]+; popularity alone has \d+\.\d %\. A policy would learn its errors: give it more or clearer pairs"
    )
    model = BradleyTerry(pairs=LIKED, feedback="liked", min_accuracy=0.7, steps=100)
    with pytest.raises(InputError, match=message):
        model.save_model(tastes(noise=1.0), DataFrame({"user": [], "item": []}), tmp_path)
    assert not list(tmp_path.iterdir())
    assert BradleyTerry().min_accuracy == 0.55


def test_the_model_is_a_function_of_seed_and_data(tmp_path: Path) -> None:
    world, none = sampler_context(), DataFrame({"user": [], "item": []})
    weights = []
    for place, seed in enumerate((0, 0, 1)):
        (tmp_path / str(place)).mkdir()
        torch.manual_seed(place)
        state = torch.random.get_rng_state()
        BradleyTerry(min_accuracy=0, seed=seed, steps=20).save_model(world, none, tmp_path / str(place))
        assert torch.equal(torch.random.get_rng_state(), state)
        weights.append(load_file(tmp_path / str(place) / "reward_model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["output.weight"], weights[2]["output.weight"])
    assert "items.content" not in weights[0]  # the vectors are those of the embedding's artifact


def test_rewards_have_mean_0_and_deviation_1_over_the_catalog() -> None:
    world, model = tastes(), BradleyTerry(pairs=LIKED, feedback="liked", steps=20, min_accuracy=0)
    network = model._build(world)
    model._fit(network, world)
    rows = held_out_rows(TrainingPairs(LIKED, world, "liked", 20, 0.1, 0, 256), 0)
    values = torch.cat(catalog_rewards(network, rows, 40))
    assert float(values.mean()) == pytest.approx(0, abs=1e-4)
    assert float(values.std()) == pytest.approx(1, abs=1e-4)


def test_held_out_users_are_not_trained_on() -> None:
    pairs = TrainingPairs(Sampled(Uniform(), 2), tastes(), "not disliked", 20, 0.25, 0, 256)
    users = [set(pairs.examples.batch(each).user.tolist()) for each in (pairs.train, pairs.held_out)]
    assert not users[0] & users[1]
    assert len(users[1]) == 60
    assert len(users[0]) == 180
    assert len(pairs.train) + len(pairs.held_out) == len(pairs.examples)


def test_examples_have_the_events_before_their_target() -> None:
    """User 1 takes items 3, 1, 2 (disliked), 5 (liked); user 2 takes item 4 alone. Without disliked histories item 2 is in none."""
    rows = [(1, 5, 9, 1), (1, 3, 0, 0), (2, 4, 0, 1), (1, 2, 5, -1), (1, 1, 5, 1)]
    events = DataFrame(rows, columns=["user", "item", "time", "label"])
    events = events.iloc[[1, 4, 3, 0, 2]]  # of events at one time, the order of the table counts
    world = tastes()._replace(interactions=events, item_count=5)
    for feedback, histories, expected in (
        ("all", "all", {1: [3], 2: [3, 1], 5: [3, 1, 2]}),
        ("not disliked", "all", {1: [3], 5: [3, 1, 2]}),
        ("liked", "without disliked", {1: [3], 5: [3, 1]}),
    ):
        examples = training_prefixes(world._replace(histories=histories), feedback, 20)  # type: ignore[arg-type]
        batch = examples.batch(torch.arange(len(examples)))
        found = {int(target): history[history > 0].tolist() for history, target in zip(batch.history, batch.target, strict=True)}
        assert found == expected
        assert (batch.user == 1).all()
    short = training_prefixes(world, "liked", 2)
    assert short.batch(torch.arange(2)).history.tolist() == [[0, 3], [1, 2]]


def test_rejected_items_of_the_history_are_left_out() -> None:
    pairs = TrainingPairs(LIKED, tastes(), "liked", 20, 0.1, 0, 256)
    rows = pairs.rows(pairs.train, 0)
    within = (rows.history.unsqueeze(1) == rows.rejected.unsqueeze(2)).any(2) & rows.mask
    assert rows.mask.any()
    assert not within.any()
    assert (rows.rejected[~rows.mask] == 0).all()
    seen = TrainingPairs(Sampled(AlreadySeen(), 1), tastes(), "liked", 20, 0.1, 0, 256)
    assert not seen.rows(seen.train, 0).mask.any()


def test_a_sampler_that_changes_draws_as_at_its_start_in_every_step() -> None:
    """Its second sampler draws items of the history alone, all of which are left out."""
    pairs = TrainingPairs(Sampled(Curriculum((Uniform(), AlreadySeen())), 2), tastes(), "liked", 20, 0.1, 0, 256)
    rows = [pairs.rows(pairs.train[:64], step) for step in (0, 1, 500)]
    assert all(bool(each.mask.all()) for each in rows)
    assert not torch.equal(rows[0].rejected, rows[1].rejected)


def test_a_file_of_pairs(tmp_path: Path) -> None:
    """Rows with a history of their own; each counts as a user of its own."""
    world = tastes()
    lines = ["history,chosen,rejected"]
    rng = np.random.default_rng(0)
    for _ in range(400):
        kind = int(rng.integers(2))
        one, two, chosen = (1 + 20 * kind + rng.choice(20, 3, replace=False)).tolist()
        rejected = int(1 + 20 * (1 - kind) + rng.integers(20))
        lines.append(f'"[""{one}"", ""{two}""]",{chosen},{rejected}')
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    model = BradleyTerry(pairs=Pairs(tmp_path / "pairs.csv"), steps=100)
    figures = model.save_model(world, DataFrame({"user": [], "item": []}), tmp_path)
    assert figures.pairs == 40
    assert figures.accuracy > 0.9


def test_rows_of_a_file_have_their_weights(tmp_path: Path) -> None:
    """Half of the rows contradict the other half. Those that weigh a million times as much decide what is learned."""
    world, rng = tastes(), np.random.default_rng(1)
    lines: dict[str, list[str]] = {"first": ["history,chosen,rejected,weight"], "second": ["history,chosen,rejected,weight"]}
    for number in range(400):
        history = rng.integers(1, 21)
        one, two = int(rng.integers(1, 21)), int(rng.integers(21, 41))
        pair = (one, two) if number % 2 else (two, one)
        for name, heavy in (("first", 1), ("second", 0)):
            lines[name].append(f'"[""{history}""]",{pair[0]},{pair[1]},{1e3 if number % 2 == heavy else 1e-3}')
    rewards = {}
    for name, each in lines.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(each) + "\n")
        rating = BradleyTerry(pairs=Pairs(tmp_path / f"{name}.csv"), steps=60, min_accuracy=0).rate(world)
        batch = SequenceBatch(torch.tensor([1]), torch.tensor([[3]]), torch.tensor([4]))
        rewards[name] = rating.rate(batch, torch.arange(1, 41).unsqueeze(0))[0]
    assert rewards["first"][:20].mean() > rewards["first"][20:].mean() + 0.5
    assert rewards["second"][:20].mean() < rewards["second"][20:].mean() - 0.5


@dataclass(frozen=True)
class Own:
    """Prefers the item that is given."""

    item: int = 40

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        def on_host(rows: SequenceBatch, step: int) -> Candidates:
            other = rows.target.masked_fill(rows.target == self.item, 0)
            items = torch.stack([torch.full_like(other, self.item), other], 1)
            return Candidates(items, items > 0, other > 0)

        return Proposals(on_host=on_host)


def test_preferred_items_of_an_own_proposer_are_counted(tmp_path: Path) -> None:
    none = DataFrame({"user": [], "item": []})
    BradleyTerry(pairs=Own(), steps=5, min_accuracy=0).save_model(tastes(), none, tmp_path)
    counts = pd.read_parquet(tmp_path / "preferred_items.parquet")
    assert set(counts["item"]) == {40}
    assert 0 < counts["count"].sum() <= 5 * 256
    (tmp_path / "preferred_items.parquet").unlink()
    BradleyTerry(steps=5, min_accuracy=0).save_model(tastes(), none, tmp_path)  # training events are preferred
    assert not (tmp_path / "preferred_items.parquet").exists()


def test_a_file_that_prefers_a_held_out_event_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("user,chosen,rejected\n1,40,3\n")
    world = tastes()
    taken = set(world.interactions.query("user == 1")["item"])
    item = next(each for each in range(1, 41) if each not in taken)
    (tmp_path / "pairs.csv").write_text(f"user,chosen,rejected\n1,{item},{min(taken)}\n")
    model = BradleyTerry(pairs=Pairs(tmp_path / "pairs.csv"))
    with pytest.raises(InputError, match="chosen is a held-out event of the user"):
        model.save_model(world, DataFrame({"user": [1], "item": [item]}), tmp_path)


def test_built_in_models_keep_the_contract_of_rewards() -> None:
    check_reward(BradleyTerry(steps=20))
    check_reward(BradleyTerry(pairs=LIKED, feedback="liked", steps=5, min_accuracy=0), tastes(users=40))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (TopItems(size=4), r"BradleyTerry\.pairs TopItems.* reads a policy, which does not exist yet"),
        (History(), None),
    ],
)
def test_proposers_that_read_a_policy_are_refused(pairs: object, message: str | None) -> None:
    model, world = BradleyTerry(pairs=pairs, min_accuracy=0), tastes()  # type: ignore[arg-type]
    with pytest.raises((InputError, UsageError), match=message or "rows|held-out pairs"):
        model.rate(world)


def test_liked_pairs_need_labels() -> None:
    world = tastes()
    unlabeled = world._replace(interactions=world.interactions.drop(columns="label"))
    with pytest.raises(InputError, match=r"a reward model of liked events needs labels; set split\.liked and split\.disliked"):
        BradleyTerry(feedback="liked").rate(unlabeled)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pairs": "file"}, r"BradleyTerry\.pairs must be a proposer, such as Sampled\(Uniform\(\), 1\)"),
        ({"pairs": InvalidIds(by="beams")}, r"BradleyTerry\.pairs must propose items"),
        ({"held_out": 0.0}, r"BradleyTerry\.held_out must be in \(0, 1\), got 0\.0"),
        ({"min_accuracy": 1.0}, r"BradleyTerry\.min_accuracy must be in \[0, 1\), got 1\.0"),
        ({"steps": 0}, r"BradleyTerry\.steps must be at least 1, got 0"),
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BradleyTerry(**fields)  # type: ignore[arg-type]


def test_a_row_does_not_depend_on_its_batch() -> None:
    world = tastes()
    rating = BradleyTerry(pairs=LIKED, feedback="liked", steps=5, min_accuracy=0).rate(world)
    history = torch.tensor([[0, 0, 1], [2, 21, 3]])
    items = torch.tensor([[5, 25], [7, 27]])

    def rated(rows: list[int], padded: int = 0) -> Tensor:
        part = torch.nn.functional.pad(history[rows], (padded, 0))
        return rating.rate(SequenceBatch(torch.tensor(rows), part, items[rows, 0]), items[rows])

    torch.testing.assert_close(rated([0, 1])[1:], rated([1]))
    torch.testing.assert_close(rated([0, 1]), rated([0, 1], padded=3))
    assert replace(BradleyTerry(), seed=3).seed == 3
