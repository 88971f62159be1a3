"""check_sampler: built-in samplers and one written as by a user pass, and each broken sampler raises its message."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from stable_ids import stable_id
from torch import Generator, Tensor

from genrec.errors import InputError, ResourceError, UsageError
from genrec.preference.exclusions import Exclusions, take_first
from genrec.preference.losses import SoftmaxDPO
from genrec.preference.negatives import (
    AlreadySeen,
    Disliked,
    FaissNeighbors,
    InBatch,
    Popularity,
    PrefixNeighbors,
    Uniform,
)  # fmt: skip
from genrec.testing import ContractError, Cyclic, Shop, batches_of, check_sampler, sampler_context
from genrec.types import Draw, NegativeSampler, SamplerContext, SequenceBatch


@dataclass(frozen=True)
class RarelyTaken:
    """A sampler as a user would write it: less popular items are more likely."""

    power: float = 0.5

    def build(self, context: SamplerContext) -> Draw:
        weights = 1 / (1 + context.popularity.float()) ** self.power
        exclusions = Exclusions(context)

        def draw(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
            everything = torch.arange(context.item_count + 1).expand(len(batch.target), -1)
            likely = torch.where(exclusions(batch, everything), 0.0, weights)
            arrival = torch.empty_like(likely).exponential_(generator=generator) / likely
            order = arrival.argsort(1)
            return take_first(order, likely.gather(1, order) > 0, num_negatives)

        return Draw(draw=draw)


SAMPLERS: list[NegativeSampler] = [
    Uniform(), Popularity(), Popularity(0.0), Popularity(2.0), FaissNeighbors(), FaissNeighbors(pool_size=10, skip=5),
    FaissNeighbors(pool_size=1), RarelyTaken(), InBatch(), PrefixNeighbors(), PrefixNeighbors(2), AlreadySeen(), AlreadySeen(recent=2),
    Disliked(), Disliked(3.5),
]  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS, ids=stable_id)
def test_built_in_samplers_keep_the_contract(sampler: NegativeSampler) -> None:
    check_sampler(sampler)
    check_sampler(sampler, sampler_context(seed=7, items=200, users=15))


DrawFunction = Callable[[SequenceBatch, int, Generator], Tensor]
Break = Callable[[DrawFunction, SamplerContext], DrawFunction]


@dataclass(frozen=True)
class Broken:
    """Uniform, with its draw replaced by a broken one, and with further fields of the draw."""

    breaks: Break
    fields: Mapping[str, Any] = field(default_factory=dict)

    def build(self, context: SamplerContext) -> Draw:
        return Draw(draw=self.breaks(Uniform().build(context).draw, context), **self.fields)


def after(change: Callable[[Tensor, SequenceBatch, SamplerContext], Tensor]) -> Break:
    """Change the negatives after each draw."""
    return lambda draw, context: lambda batch, num_negatives, generator: change(draw(batch, num_negatives, generator), batch, context)


def around(action: Callable[[SequenceBatch, SamplerContext], object]) -> Break:
    """Run an action before each draw."""

    def wrap(draw: DrawFunction, context: SamplerContext) -> DrawFunction:
        def broken(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
            action(batch, context)
            return draw(batch, num_negatives, generator)

        return broken

    return wrap


def put_first(negatives: Tensor, items: Tensor) -> Tensor:
    """Put these items in the first place, except where they are 0."""
    return torch.cat([torch.where(items > 0, items, negatives[:, 0]).unsqueeze(1), negatives[:, 1:]], 1)


def same_semantic_id(negatives: Tensor, batch: SequenceBatch, context: SamplerContext) -> Tensor:
    """Draw another item with the target's Semantic ID, where there is one."""
    same = context.semantic_ids.prefix_depth(batch.target.unsqueeze(1), torch.arange(context.item_count + 1)) == 3
    same &= torch.arange(context.item_count + 1) != batch.target.unsqueeze(1)
    return put_first(negatives, torch.where(same.any(1), same.long().argmax(1), 0))


def past(negatives: Tensor, batch: SequenceBatch, context: SamplerContext) -> Tensor:
    """Draw the last item of the history, unless it shares the target's Semantic ID or is taken outside the history."""
    last = batch.history[:, -1:]
    again = Exclusions(context).outside_history(batch, last) | Exclusions(context).shares_semantic_id(batch, last)
    return put_first(negatives, last.masked_fill(again, 0)[:, 0])


def later(negatives: Tensor, batch: SequenceBatch, context: SamplerContext) -> Tensor:
    """Draw an item that the user takes after the target, like a sampler that excludes only the history."""
    rows = []
    for user, target, history in zip(batch.user.tolist(), batch.target.tolist(), batch.history.tolist(), strict=True):
        taken = context.interactions.loc[context.interactions["user"] == user, "item"].tolist()
        future = [item for item in taken if item != target and item not in history]
        shared = context.semantic_ids.prefix_depth(torch.tensor(future or [0]), torch.tensor(target)) == 3
        rows.append(next((item for item, same in zip(future, shared.tolist(), strict=False) if not same), 0))
    return put_first(negatives, torch.tensor(rows))


def by_rows(context: SamplerContext, generator: Generator | None) -> DrawFunction:
    """Draw few candidates per row, all at once, from the generator argument or from a generator with a fixed seed."""
    exclusions = Exclusions(context)

    def draw(batch: SequenceBatch, num_negatives: int, argument: Generator) -> Tensor:
        source = argument if generator is None else generator.manual_seed(3)
        drawn = torch.randint(1, context.item_count + 1, (len(batch.target), 10 * num_negatives), generator=source)
        return exclusions.take_allowed(batch, drawn, num_negatives)

    return draw


def fixed_seed(_: DrawFunction, context: SamplerContext) -> DrawFunction:
    return by_rows(context, torch.Generator())


def without_use(draw: DrawFunction, context: SamplerContext) -> DrawFunction:
    """Draw a random number and ignore it."""

    def broken(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        torch.rand(1, generator=generator)
        return nearest(draw, context)(batch, num_negatives, generator)

    return broken


def nearest(_: DrawFunction, context: SamplerContext) -> DrawFunction:
    """Draw the next items by id, without randomness."""
    exclusions = Exclusions(context)

    def draw(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        return exclusions.take_allowed(
            batch, (batch.target[:, None] + torch.arange(context.item_count)) % context.item_count + 1, num_negatives
        )

    return draw


def half(draw: DrawFunction, _: SamplerContext) -> DrawFunction:
    """Draw nothing for every other row of the batch."""

    def broken(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        negatives = draw(batch, num_negatives, generator).clone()
        negatives[::2] = 0
        return negatives

    return broken


def few_candidates(change: Callable[[Tensor], Tensor]) -> Break:
    """Draw few candidates, so that some seeds give nothing to users with two items left."""
    return lambda _, context: lambda batch, num_negatives, generator: change(by_rows(context, None)(batch, num_negatives, generator))


def undeclared_policy(_: DrawFunction, context: SamplerContext) -> DrawFunction:
    """Draw from the policy's list, although the `Draw` has no `refresh`."""
    policy, exclusions = context.policy, Exclusions(context)

    def draw(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        listed = policy.recommend(batch.history, 20).items  # type: ignore[union-attr]
        order = torch.rand(listed.shape, generator=generator).argsort(1)
        return exclusions.take_allowed(batch, listed.gather(1, order), num_negatives)

    return draw


def trains(_: SequenceBatch, context: SamplerContext) -> None:
    context.policy.train()  # type: ignore[union-attr]


def clock_seed(draw: DrawFunction, _: SamplerContext) -> DrawFunction:
    return lambda batch, num_negatives, generator: draw(
        batch, num_negatives, torch.Generator().manual_seed(time.perf_counter_ns() % 2**40)
    )


def stateful(draw: DrawFunction, _: SamplerContext) -> DrawFunction:
    drawn: list[Tensor] = []

    def broken(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        drawn.append(draw(batch, num_negatives, generator))
        return drawn[-1] if len(drawn) % 2 else draw(batch, num_negatives, generator)

    return broken


def repeats(negatives: Tensor, *_: object) -> Tensor:
    """Fill the shortfall with repeats."""
    return torch.where(negatives == 0, negatives[:, :1], negatives)


BROKEN: dict[str, tuple[Break, str]] = {
    "target": (
        after(lambda negatives, batch, _: put_first(negatives, batch.target)),
        r"target ('item-\d+').*: negative \1 .*target itself",
    ),
    "semantic id": (after(same_semantic_id), r"user 'user-\d+' \(number \d+\), target 'item-\d+' .*has the target's Semantic ID"),
    "history": (after(past), r"user 'user-\d+'.*is in the history"),
    "future": (after(later), r"user 'user-\d+' .*is a training item of the user, before or after the target; .*Exclusions\(context\)"),
    "repeats": (after(repeats), r"user 'user-40' \(number 40\), target 'item-1' \(number 1\): negative 'item-\d+' .*is repeated"),
    "outside": (after(lambda negatives, *_: negatives + 58), r"negative \d+ .*is not in the catalog; draw items 1\.\.60"),
    "zero first": (after(lambda negatives, *_: negatives.flip(1)), r"user 'user-40' .*comes after a 0"),
    "short": (after(lambda negatives, *_: negatives[:, :3]), r"must have shape \[256, 5\], got \[256, 3\]"),
    "flat": (after(lambda negatives, *_: negatives.squeeze()), r"must have shape \[256, 1\], got \[256\]"),
    "type": (after(lambda negatives, *_: negatives.int()), r"must be int64, got torch.int32"),
    "numpy": (after(lambda negatives, *_: negatives.numpy()), r"must be a tensor int64 \[256, 1\], got ndarray"),
    "nothing": (after(lambda negatives, *_: negatives * 0), r"no negative was drawn for any of \d+ examples"),
    "fixed seed": (fixed_seed, r"generators with different seeds give the same \d+ rows, although the draw is random"),
    "unused": (
        without_use,
        r"generators with different seeds give the same \d+ rows, although the draw is random: it used the generator",
    ),
    "half": (half, r"gets \d negatives, and \d in another place of the same batch, like 256 of 256 rows"),
    "repeats of few": (few_candidates(lambda drawn: torch.where(drawn == 0, drawn[:, :1], drawn)), r"user 'user-4\d' .*is repeated"),
    "zeros first of few": (few_candidates(lambda drawn: drawn.flip(1)), r"user 'user-4\d' .*comes after a 0"),
    "undeclared policy": (undeclared_policy, r"the negatives depend on context.policy; .*refresh=Refresh\(every, unit\)"),
    "mode": (around(trains), r"context.policy was left in another mode"),
    "clock seed": (clock_seed, r"two draws from generators with the same seed differ"),
    "state": (stateful, r"two draws from generators with the same seed differ.*keep no state"),
    "torch's generator": (around(lambda *_: torch.rand(1)), r"torch's global generator was drawn from or seeded"),
    "NumPy's generator": (around(lambda *_: np.random.seed(0)), r"NumPy's global generator was drawn from or seeded"),  # noqa: NPY002
    "Python's generator": (around(lambda *_: random.random()), r"Python's global generator was drawn from or seeded"),
    "batch": (around(lambda batch, _: batch.history.fill_(2)), r"batch.history was modified"),
    "context": (around(lambda _, context: context.popularity.add_(1)), r"context.popularity was modified"),
    "table": (around(lambda _, context: context.interactions.insert(0, "row", 0, True)), r"context.interactions was modified"),
    "crash": (
        after(lambda negatives, *_: negatives[:, 9]),
        r"a draw with num_negatives = 1 for 256 examples raised Ind",
    ),
    "catalog": (around(lambda _, context: context.items.insert(0, "row", 0, True)), r"context.items was modified"),
    "no tensor": (after(lambda negatives, *_: negatives.tolist()), r"must be a tensor int64 \[256, 1\], got list"),
    "arity of a draw": (
        lambda *_: lambda batch, num_negatives: batch.target,
        r"a draw with num_negatives = 1 for .* raised TypeError.*positional",
    ),
    "no draw": (lambda *_: None, r"Draw.draw must be a callable draw\(batch, num_negatives, generator\), got None"),  # type: ignore[dict-item, return-value]
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_sampler_raises_its_message(name: str) -> None:
    breaks, message = BROKEN[name]
    with pytest.raises(ContractError, match=rf"^Broken: .*{message}") as caught:
        check_sampler(Broken(breaks))
    assert isinstance(caught.value, InputError)


def test_a_draw_without_randomness_passes() -> None:
    check_sampler(Broken(nearest))
    check_sampler(Broken(lambda _, context: by_rows(context, None)))


@dataclass(frozen=True)
class BuildRaises:
    def build(self, context: SamplerContext) -> Draw:
        raise KeyError("weights")


@dataclass(frozen=True)
class WithoutContext:
    def build(self) -> Draw:
        return Uniform().build(sampler_context())


@pytest.mark.parametrize(("sampler", "raised"), [(BuildRaises(), "KeyError"), (WithoutContext(), "TypeError.*positional")])
def test_exceptions_of_build_are_named(sampler: NegativeSampler, raised: str) -> None:
    with pytest.raises(ContractError, match=rf"^{type(sampler).__name__}: build\(context\) raised {raised}"):
        check_sampler(sampler)


def test_a_single_row_is_checked() -> None:
    only_many = after(lambda negatives, batch, _: negatives.view(len(batch.target), -1) if len(batch.target) > 1 else negatives[0])
    with pytest.raises(ContractError, match=r"must have shape \[1, 1\], got \[1\]"):
        check_sampler(Broken(only_many))


@dataclass
class NotFrozen:
    def build(self, context: SamplerContext) -> Draw:
        return Uniform().build(context)


class Plain(NotFrozen):
    pass


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (NotFrozen(), r"NotFrozen is not a frozen dataclass.*@dataclass\(frozen=True\)"),
        (Plain(), r"Plain is not a frozen dataclass"),
        (Uniform, r"Uniform does not implement NegativeSampler: pass an instance, such as Uniform\(\)"),
        (SoftmaxDPO(), r"SoftmaxDPO does not implement NegativeSampler.*with build\(context\)"),
    ],
)
def test_a_specification_is_a_frozen_dataclass(plugin: NegativeSampler, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_sampler(plugin)


def test_genrec_errors_pass_unchanged() -> None:
    def missing(*_: object) -> None:
        raise ResourceError("needs more memory")

    with pytest.raises(ResourceError, match="needs more memory"):
        check_sampler(Broken(around(missing)))


def test_a_small_context_raises() -> None:
    context = sampler_context()
    with pytest.raises(InputError, match="too small to check a sampler"):
        check_sampler(Uniform(), context._replace(interactions=context.interactions.drop_duplicates("user")))


def test_the_synthetic_context() -> None:
    context = sampler_context(seed=3, items=50, users=30)
    assert context.semantic_ids.items == context.item_count == 50
    assert context.semantic_ids.collided >= 20
    assert context.popularity.sum() == len(context.interactions)
    assert set(context.interactions.columns) == {"user", "item", "time", "rating"}
    assert context.interactions["rating"].between(1, 5).all()
    assert context.items is not None
    assert context.items.columns.tolist() == ["item_id", "text"]
    assert len(context.items) == 50
    assert context.vectors.shape == (51, 16)
    assert torch.equal(context.vectors, sampler_context(seed=3, items=50, users=30).vectors)
    assert not torch.equal(context.vectors, sampler_context(seed=4, items=50, users=30).vectors)
    with pytest.raises(UsageError, match="at least 20 items, got 19"):
        sampler_context(items=19)


def test_batches_are_all_prefixes() -> None:
    context = sampler_context(users=9)
    events = context.interactions.sample(frac=1, random_state=0)  # shuffled
    found = set()
    for batch in batches_of(context._replace(interactions=events), size=7, length=3):
        for user, history, target in zip(*(tensor.tolist() for tensor in batch), strict=True):
            found.add((user, tuple(item for item in history if item), target))
    expected = set()
    for user, items in context.interactions.groupby("user")["item"]:
        taken = items.tolist()
        expected |= {(user, tuple(taken[max(0, place - 3) : place]), taken[place]) for place in range(1, len(taken))}
    assert found == expected


def test_worlds_are_exported() -> None:
    assert Cyclic().num_items
    assert Shop().num_items
