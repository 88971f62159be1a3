"""check_reward: built-in rewards pass, and each broken reward raises its message."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_ids import stable_id
from torch import Tensor

from genrec.baselines import BPR, EASE, ItemKNN, Popularity
from genrec.errors import InputError, UsageError
from genrec.preference.losses import DPO
from genrec.preference.reward_models import BradleyTerry
from genrec.preference.rewards import (
    BaselineScore,
    Hit,
    LogProbability,
    Novelty,
    Popular,
    PrefixMatch,
    RankPenalty,
    Rated,
    RatingRecency,
    Similarity,
    WeightedSum,
    checked_rating,
)
from genrec.testing import ContractError, check_component, check_reward, sampler_context
from genrec.types import Rating, Reward, SamplerContext, SequenceBatch

REWARDS: list[Reward] = [
    LogProbability(), Similarity(), RatingRecency(), RatingRecency(2.0, 0.0), Popular(), Popular(-0.5), Rated(), Rated(0.0), Novelty(),
    Hit(), RankPenalty(), PrefixMatch(), PrefixMatch((0, 0.01, 0.1, 1)), BaselineScore(ItemKNN()), BaselineScore(EASE(), "user"),
    BaselineScore(BPR(epochs=2), "user"), BaselineScore(Popularity()), WeightedSum((Hit(), RankPenalty())),
    WeightedSum((LogProbability(), Novelty()), (1.0, 0.1)), BradleyTerry(steps=20),
]  # fmt: skip


@pytest.mark.parametrize("reward", REWARDS, ids=stable_id)
def test_built_in_rewards_keep_the_contract(reward: Reward) -> None:
    check_reward(reward)


@pytest.mark.parametrize("reward", [Similarity(), Popular()], ids=stable_id)
def test_a_custom_context(reward: Reward) -> None:
    check_reward(reward, sampler_context(seed=3, items=30, users=5))


Rate = Callable[[SamplerContext, SequenceBatch, Tensor], Tensor]


@dataclass(frozen=True)
class MyReward:
    """A valid reward as a user would write it: occurrences in the history plus training events."""

    function: Rate = lambda context, batch, items: (
        (batch.history.unsqueeze(1) == items.unsqueeze(2)).sum(2) + context.popularity[items]
    ).float()

    def rate(self, context: SamplerContext) -> Rating:
        return Rating(rate=lambda batch, items: self.function(context, batch, items))


def valid(context: SamplerContext, batch: SequenceBatch, items: Tensor) -> Tensor:
    return context.popularity[items].float()


def with_state() -> Rate:
    calls = [0]

    def function(context: SamplerContext, batch: SequenceBatch, items: Tensor) -> Tensor:
        calls[0] += 1
        return valid(context, batch, items) + calls[0]

    return function


def draws(context: SamplerContext, batch: SequenceBatch, items: Tensor) -> Tensor:
    """Draw from a generator with a random seed."""
    own = torch.Generator().manual_seed(random.SystemRandom().getrandbits(40))
    return torch.rand(items.shape, generator=own)


def numpy_draw(context: SamplerContext, batch: SequenceBatch, items: Tensor) -> Tensor:
    np.random.rand()  # noqa: NPY002
    return valid(context, batch, items)


def python_draw(context: SamplerContext, batch: SequenceBatch, items: Tensor) -> Tensor:
    random.random()
    return valid(context, batch, items)


def torch_seed(context: SamplerContext, batch: SequenceBatch, items: Tensor) -> Tensor:
    torch.manual_seed(0)
    return valid(context, batch, items)


def forgets_times(context: SamplerContext, batch: SequenceBatch, items: Tensor) -> Tensor:
    context.interactions.loc[:, "time"] = 0
    return valid(context, batch, items)


def learns(context: SamplerContext, batch: SequenceBatch, items: Tensor) -> Tensor:
    return valid(context, batch, items).requires_grad_()


def in_place(context: SamplerContext, batch: SequenceBatch, items: Tensor) -> Tensor:
    rewards = valid(context, batch, items)
    items.clamp_(min=1)
    return rewards


def changes_vectors(context: SamplerContext, batch: SequenceBatch, items: Tensor) -> Tensor:
    context.vectors.div_(2)
    return valid(context, batch, items)


def trains(context: SamplerContext, batch: SequenceBatch, items: Tensor) -> Tensor:
    context.policy.train()  # type: ignore[union-attr]
    return valid(context, batch, items)


def unlearns(context: SamplerContext, batch: SequenceBatch, items: Tensor) -> Tensor:
    for parameter in context.policy.parameters():  # type: ignore[union-attr]
        parameter.data.zero_()
    return valid(context, batch, items)


def of_five(context: SamplerContext, batch: SequenceBatch, items: Tensor) -> Tensor:
    return valid(context, batch, items) + torch.zeros(5)


BROKEN: dict[str, tuple[Rate, str]] = {
    "shape": (lambda c, b, i: valid(c, b, i).sum(1), r"must return float32 \[64, 5\] on cpu, one reward per item; got float32 \[64\]"),
    "dtype": (
        lambda c, b, i: valid(c, b, i).double(),
        r"must return float32 \[64, 5\] on cpu, one reward per item; got float64 \[64, 5\]",
    ),
    "no tensor": (lambda c, b, i: 1.0, r"must return float32 .*; got float"),  # type: ignore[dict-item, return-value]
    "attached": (learns, r"rewards must be detached"),
    "NaN": (
        lambda c, b, i: valid(c, b, i) / 0 * 0,
        r"a real item must be finite, got nan for item 'item-\d+' .*of example 1;",
    ),
    "infinite": (
        lambda c, b, i: (valid(c, b, i) - 1).clamp(min=0).log(),
        r"the reward of a real item must be finite, got -inf for item 'item-\d+' ",
    ),
    "random": (draws, r"a second call with the same batch gives other rewards; draw nothing"),
    "state": (with_state(), r"a second call with the same batch gives other rewards; .*keep no state"),
    "batch": (lambda c, b, i: valid(c, b, i) - valid(c, b, i)[i > 0].mean(), r"an example gets other rewards in another batch"),
    "place": (lambda c, b, i: valid(c, b, i) + torch.arange(len(i))[:, None], r"not depend on the other rows, nor on its place"),
    "numpy": (numpy_draw, r"NumPy's global generator was drawn from or seeded; a reward must be deterministic"),
    "python": (python_draw, r"Python's global generator was drawn from"),
    "seed": (torch_seed, r"torch's global generator was drawn from or seeded"),
    "interactions": (forgets_times, r"context.interactions was modified"),
    "items": (in_place, r"items was modified"),
    "vectors": (changes_vectors, r"context.vectors was modified"),
    "mode": (trains, r"context.policy was left in another mode"),
    "weights": (unlearns, r"context.policy's vectors was modified"),
    "codes": (lambda c, b, i: (valid(c, b, i), c.semantic_ids.codes.zero_())[0], r"context.semantic_ids was modified"),
    "share of the row": (
        lambda c, b, i: valid(c, b, i) / valid(c, b, i).sum(1, keepdim=True),
        r"an item gets another reward beside other items",
    ),
    "column": (lambda c, b, i: valid(c, b, i) + torch.arange(i.shape[1]), r"or in another place of the row"),
    "number": (of_five, r"rating 2 items .* raised RuntimeError|must return float32 \[64, 1\]"),
    "raises": (lambda c, b, i: valid(c, b, i + 100), r"rating 5 items \(0 = padding\) for 64 examples raised IndexError"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_reward_raises_its_message(name: str) -> None:
    function, message = BROKEN[name]
    with pytest.raises(ContractError, match=rf"^MyReward: .*{message}"):
        check_reward(MyReward(function))


def test_a_valid_reward_passes_and_is_recognized(tmp_path: Path) -> None:
    check_reward(MyReward())
    check_component(MyReward(), tmp_path)
    with pytest.raises(ContractError, match="one reward per item"):
        check_component(MyReward(BROKEN["shape"][0]), tmp_path)
    with pytest.raises(UsageError, match=r"implements none of the protocols .*Reward \(rate\)"):
        check_component(object(), tmp_path)


@dataclass(frozen=True)
class NoPadding:
    """A higher reward for a lower item number, 0 included."""

    def rate(self, context: SamplerContext) -> Rating:
        return Rating(rate=lambda batch, items: -items.float())


@dataclass(frozen=True)
class Returns:
    """A reward with the wrong result of `rate(context)`."""

    result: object

    def rate(self, context: SamplerContext) -> object:
        return self.result


def per_item(batch: SequenceBatch, items: Tensor) -> Tensor:
    return items.float()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.zeros(2), r"rate\(context\) must return a genrec\.types\.Rating, got tensor.*write return Rating\(rate=FUNCTION\)"),
        (per_item, r"rate\(context\) returned a function, .* write return Rating\(rate=FUNCTION\), with reads_policy=True if"),
        (None, r"rate\(context\) must return a genrec\.types\.Rating, got None"),
        (Rating, r"rate\(context\) must return a genrec\.types\.Rating, got <class"),
        (Rating(rate=torch.zeros(3)), r"Rating\.rate must be a function of a batch and items, got tensor"),  # type: ignore[arg-type]
    ],
    ids=stable_id,
)
def test_rate_returns_a_rating(result: object, message: str) -> None:
    with pytest.raises(ContractError, match=f"^Returns: {message}"):
        check_reward(Returns(result))  # type: ignore[arg-type]


def test_an_empty_place_has_no_reward_whatever_a_plug_in_gives_it() -> None:
    """`NoPadding` gives item 0 the highest reward of all, which the contract allows."""
    context = sampler_context()
    check_reward(NoPadding())
    batch = SequenceBatch(torch.tensor([1]), torch.tensor([[2]]), torch.tensor([3]))
    assert NoPadding().rate(context).rate(batch, torch.tensor([[3, 1, 0]])).tolist() == [[-3.0, -1.0, 0.0]]
    assert checked_rating(NoPadding(), context).rate(batch, torch.tensor([[3, 1, 0]])).tolist() == [[-3.0, -1.0, -math.inf]]


def test_training_refuses_a_function_with_the_same_remedy() -> None:
    with pytest.raises(InputError, match=r"^Returns \(.*\): rate\(context\) returned a function, .* write return Rating\("):
        checked_rating(Returns(per_item), sampler_context())  # type: ignore[arg-type]


def test_a_reward_is_a_frozen_dataclass() -> None:
    with pytest.raises(ContractError, match=r"DPO does not implement Reward.*with rate\(context\)"):
        check_reward(DPO())  # type: ignore[arg-type]

    class Loose:
        def rate(self, context: SamplerContext) -> Rating:
            return Popular().rate(context)

    with pytest.raises(ContractError, match=r"Loose is not a frozen dataclass"):
        check_reward(Loose())


@dataclass(frozen=True)
class Former:
    reads_policy: bool = True

    def rate(self, context: SamplerContext) -> Rating:
        return Popular().rate(context)


@dataclass(frozen=True)
class Misspelt:
    def rate(self, context: SamplerContext) -> Rating:
        return Popular().rate(context)

    def check_contxt(self, context: SamplerContext) -> None:
        raise InputError("never called")


@dataclass(frozen=True)
class Undecided:
    """It declares that it reads the policy, and its rating does not."""

    def needs_policy(self) -> bool:
        return True

    def rate(self, context: SamplerContext) -> Rating:
        return Popular().rate(context)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (Former(), r"the attribute reads_policy has no effect; return Rating\(rate=\.\.\., reads_policy=True\)"),
        (Misspelt(), r"the attribute check_contxt has no effect; did you mean 'check_context'\?"),
        (Undecided(), r"needs_policy\(\) is True, but Rating\.reads_policy is False; return the same from both"),
    ],
    ids=stable_id,
)
def test_capabilities_that_have_no_effect_are_named(reward: Reward, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_reward(reward)


def test_genrec_errors_of_a_reward_pass_unchanged() -> None:
    with pytest.raises(InputError, match="RatingRecency needs ratings"):
        world = sampler_context()
        check_reward(RatingRecency(), world._replace(interactions=world.interactions.drop(columns="rating")))
    one = sampler_context(users=1)
    with pytest.raises(InputError, match="too small to check a reward"):
        check_reward(Popular(), one._replace(interactions=one.interactions.iloc[:1]))


def test_a_reward_that_reads_the_policy_must_declare_it() -> None:
    @dataclass(frozen=True)
    class Undeclared:
        def rate(self, context: SamplerContext) -> Rating:
            return replace(LogProbability().rate(context), reads_policy=False)

    check_reward(LogProbability())
    with pytest.raises(
        ContractError, match=r"Undeclared: the rewards depend on context\.policy.*Rating\(rate=\.\.\., reads_policy=True\)"
    ):
        check_reward(Undeclared())


def test_exceptions_of_rate_are_named() -> None:
    @dataclass(frozen=True)
    class Genre:
        def rate(self, context: SamplerContext) -> Rating:
            raise KeyError("genre")

    with pytest.raises(ContractError, match=r"^Genre: rate\(context\) raised KeyError\('genre'\)"):
        check_reward(Genre())
