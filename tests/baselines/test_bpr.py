"""BPR: its step compared with autograd and with arithmetic by hand, its triples, a world with a known answer, and edge cases."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from torch import Tensor
from torch.nn.functional import logsigmoid

from genrec.baselines import BPR
from genrec.baselines.bpr import Factors, _Triples, update
from genrec.baselines.user_items import user_item_matrix
from genrec.errors import InputError, NumericsError, UsageError
from genrec.testing import check_baseline, encoder_world
from genrec.types import Baseline, UserRecommender

GROUPS = 4  # of users and items in `world`
PER_GROUP = 10  # items
NOTHING = torch.zeros(1, 3, dtype=torch.int64)


def test_one_step_by_hand() -> None:
    """p = (1, 0), q_i = (2, 1), q_j = (1, 3), b = (0.5, 0): score_ui - score_uj = 2 - 1 + 0.5 = 1.5, weight 1 / (1 + e^1.5)."""
    factors = Factors(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.tensor([0.5, 0.0]))
    update(factors, torch.tensor([0]), torch.tensor([0]), torch.tensor([1]), learning_rate=0.1, l2=0.2)
    weight = 1 / (1 + math.exp(1.5))
    expected = [
        [[1 + 0.1 * (weight * 1 - 0.2 * 1), 0.1 * (weight * -2)]],
        [[2 + 0.1 * (weight * 1 - 0.2 * 2), 1 + 0.1 * (-0.2 * 1)], [1 + 0.1 * (-weight * 1 - 0.2 * 1), 3 + 0.1 * (-0.2 * 3)]],
        [0.5 + 0.1 * (weight - 0.2 * 0.5), -0.1 * weight],
    ]
    for part, value in zip(factors, expected, strict=True):
        torch.testing.assert_close(part, torch.tensor(value))


@given(st.integers(0, 2**31), st.integers(1, 12), st.sampled_from([0.0, 0.01, 0.5]))
def test_a_step_is_the_gradient_of_the_objective(seed: int, batch: int, l2: float) -> None:
    """The sum of ln sigmoid(score_ui - score_uj) - l2 / 2 of the squared parameters of each triple, with repeated rows."""
    draws = torch.Generator().manual_seed(seed)
    shapes = ((3, 5), (4, 5), (4,))
    factors = Factors(*(torch.randn(shape, generator=draws, dtype=torch.float64) for shape in shapes))
    leaves = [part.clone().requires_grad_() for part in factors]
    user, positive, negative = (torch.randint(high, (batch,), generator=draws) for high in (3, 4, 4))
    users, items, bias = leaves
    p, q_i, q_j, b_i, b_j = users[user], items[positive], items[negative], bias[positive], bias[negative]
    margin = (p * q_i).sum(1) + b_i - (p * q_j).sum(1) - b_j
    penalty = (p**2 + q_i**2 + q_j**2).sum() + (b_i**2 + b_j**2).sum()
    gradients = torch.autograd.grad(logsigmoid(margin).sum() - l2 / 2 * penalty, leaves)
    before = [part.clone() for part in factors]
    update(factors, user, positive, negative, learning_rate=0.3, l2=l2)
    for part, start, gradient in zip(factors, before, gradients, strict=True):
        torch.testing.assert_close(part, start + 0.3 * gradient)


@given(st.lists(st.sets(st.integers(1, 7)), min_size=1, max_size=5))
def test_free_items_are_those_that_the_user_has_not_taken(taken: list[set[int]]) -> None:
    pairs = [(user, item) for user, items in enumerate(taken) for item in items]
    train = DataFrame(pairs, columns=["user", "item"], dtype="int64")
    triples = _Triples(user_item_matrix(train, 7))
    for user in range(len(triples.begin)):
        free = [item - 1 for item in range(1, 8) if item not in taken[user]]
        assert int(triples.free[user]) == len(free)
        number = torch.arange(len(free))
        assert triples.free_item(torch.full_like(number, user), number).tolist() == free


def test_triples_are_uniform_over_pairs_and_over_the_free_items_of_the_user() -> None:
    """User 0 has item 1 of 4, user 1 has items 2 and 3, user 2 has all four and can have no triple."""
    train = DataFrame({"user": [0, 1, 1, 2, 2, 2, 2], "item": [1, 2, 3, 1, 2, 3, 4]})
    triples = _Triples(user_item_matrix(train, 4))
    specification = BPR(batch_size=3)
    drawn = [torch.stack(batch, 1) for epoch in range(3_000) for batch in triples.batches(specification, epoch)]
    assert {len(batch) for batch in drawn} == {3, 1}  # 7 draws an epoch
    rows, counts = torch.cat(drawn).unique(dim=0, return_counts=True)
    expected = {(0, 0, 1): 1 / 9, (0, 0, 2): 1 / 9, (0, 0, 3): 1 / 9, **{(1, i, j): 1 / 6 for i in (1, 2) for j in (0, 3)}}
    assert {tuple(row) for row in rows.tolist()} == set(expected)
    shares = (counts / counts.sum()).tolist()
    assert shares == pytest.approx([expected[tuple(row)] for row in rows.tolist()], abs=0.01)  # 21,000 draws: deviation 0.0026


def world(seed: int = 0) -> tuple[DataFrame, list[set[int]]]:
    """Return training interactions, and each user's unseen items of the own group: users of a group take 5 of its 10 items."""
    random = np.random.default_rng(seed)
    rows, unseen = [], []
    for user in range(80):
        group = user % GROUPS
        own = np.arange(PER_GROUP) + 1 + PER_GROUP * group
        taken = random.choice(own, 5, replace=False)
        rows += [(user, item) for item in taken]
        unseen.append(set(own.tolist()) - set(taken.tolist()))
    return DataFrame(rows, columns=["user", "item"]), unseen


def test_it_learns_which_group_a_user_belongs_to() -> None:
    """The answer is known: the five other items of the user's group. Popularity, the same list for all, finds at most a quarter."""
    train, unseen = world()
    fitted = BPR(dim=8, epochs=60, l2=0.05).fit(train, GROUPS * PER_GROUP)
    users = torch.arange(80)
    seen = torch.tensor(train.groupby("user")["item"].agg(list).tolist())
    found = fitted.recommend_to(users, torch.zeros(80, 1, dtype=torch.int64), 5, seen).items
    assert [set(row) for row in found.tolist()] == unseen


def test_the_seed_determines_the_lists() -> None:
    train, _ = world()
    users, history = torch.arange(80), torch.zeros(80, 1, dtype=torch.int64)

    def scores(baseline: BPR) -> Tensor:
        return baseline.fit(train, 40).recommend_to(users, history, 40).scores

    short = BPR(dim=4, epochs=3)
    assert torch.equal(scores(short), scores(short))
    assert not torch.equal(scores(short), scores(replace(short, seed=1)))
    assert not torch.equal(scores(short), scores(replace(short, epochs=4)))


def test_a_user_without_training_interactions_gets_the_items_by_their_bias() -> None:
    train, _ = world()
    fitted = BPR(dim=4, epochs=5).fit(train.assign(user=train["user"] + 3), 41)  # users 3..82; item 41 has no interaction
    order = sorted(range(41), key=lambda item: -fitted.bias[item])
    assert len(set(fitted.bias.astype(np.float32))) == 41  # no ties
    for user in (0, 2, 83, 10_000, -1):
        found = fitted.recommend_to(torch.tensor([user]), NOTHING, 41)
        assert found.items[0].tolist() == [item + 1 for item in order]
        assert torch.equal(found.items, fitted.recommend(NOTHING, 41).items)
    assert order[-1] == 40  # never a positive, always a negative


def test_the_history_and_repeated_interactions_change_nothing() -> None:
    train, _ = world()
    specification = BPR(dim=4, epochs=2)
    fitted = specification.fit(train, 40)
    user = torch.tensor([5])
    assert isinstance(specification, Baseline)
    assert isinstance(fitted, UserRecommender)
    assert torch.equal(fitted.recommend_to(user, NOTHING, 9).items, fitted.recommend_to(user, NOTHING + 7, 9).items)
    twice = specification.fit(DataFrame(np.repeat(train.to_numpy(), 2, axis=0), columns=["user", "item"]), 40)
    assert torch.equal(fitted.recommend_to(user, NOTHING, 9).scores, twice.recommend_to(user, NOTHING, 9).scores)


def test_without_a_triple_there_is_a_list_nevertheless() -> None:
    everything = DataFrame({"user": [1, 1], "item": [1, 2]})  # the user has taken the whole catalog
    assert sorted(BPR().fit(everything, 2).recommend_to(torch.tensor([1]), NOTHING, 2).items[0].tolist()) == [1, 2]
    assert BPR().fit(everything.head(0), 3).recommend_to(torch.tensor([1]), NOTHING, 3).items.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("baseline", [BPR(), BPR(dim=3, epochs=2, batch_size=7, seed=5)], ids=["default", "small"])
def test_it_keeps_the_contract(baseline: BPR) -> None:
    check_baseline(baseline)
    items, interactions = encoder_world(seed=4)
    check_baseline(baseline, interactions, len(items))


def test_divergence_raises() -> None:
    with pytest.raises(NumericsError, match=r"BPR: non-finite parameters in epoch \d+ with policy\.learning_rate = 1000 .* lower one"):
        BPR(dim=4, epochs=300, learning_rate=1_000.0, l2=1.0).fit(world()[0], 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, r"policy\.dim must be at least 1, got 0"),
        ({"epochs": 0}, r"policy\.epochs must be at least 1, got 0"),
        ({"batch_size": 0}, r"policy\.batch_size must be at least 1, got 0"),
        ({"l2": -0.1}, r"policy\.l2 must be at least 0, got -0\.1"),
        ({"l2": math.nan}, r"policy\.l2 must be at least 0, got nan"),
        ({"learning_rate": 0.0}, r"policy\.learning_rate must be above 0 and finite, got 0\.0"),
        ({"learning_rate": math.inf}, r"policy\.learning_rate must be above 0 and finite, got inf"),
        ({"seed": -1}, r"policy\.seed must be at least 0, got -1"),
        ({"dim": 2.5}, r"policy\.dim must be an integer, got 2\.5"),
    ],
)
def test_fields_are_checked(change: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BPR(**change)  # type: ignore[arg-type]


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"interactions: items must lie in 0\.\.3, got 1\.\.40"):
        BPR().fit(world()[0], 3)
    with pytest.raises(InputError, match=r"history: items must lie in 0\.\.40, got 41\.\.41"):
        BPR(dim=2, epochs=1).fit(world()[0], 40).recommend(torch.tensor([[41]]), 2)
