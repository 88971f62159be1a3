"""All samplers: distributions compared with exact probabilities, shortfalls, randomness and field checks."""

from __future__ import annotations

from itertools import permutations

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from stable_ids import stable_id
from torch import Tensor

from genrec.errors import InputError, UsageError
from genrec.preference.draw_contract import check_draw
from genrec.preference.exclusions import Exclusions, rows_of
from genrec.preference.negatives import (
    AlreadySeen,
    Disliked,
    FaissNeighbors,
    InBatch,
    Popularity,
    PrefixNeighbors,
    Uniform,
    without_replacement,
)
from genrec.semantic_ids import SemanticIds
from genrec.testing import batches_of, sampler_context
from genrec.types import NegativeSampler, SamplerContext, SequenceBatch

NO_PAIRS: list[tuple[int, int]] = []
SAMPLERS = [
    Uniform(), Popularity(), Popularity(0.0), Popularity(3.0), FaissNeighbors(), FaissNeighbors(pool_size=8, skip=3), InBatch(),
    PrefixNeighbors(), PrefixNeighbors(2), AlreadySeen(), AlreadySeen(recent=2), Disliked(3.0),
]  # fmt: skip
WHOLE_CATALOG = (Uniform, Popularity)  # samplers that draw from all items


def world(events: list[int], taken: list[tuple[int, int]] = NO_PAIRS, vectors: Tensor | None = None) -> SamplerContext:
    """Return a catalog with distinct Semantic IDs and these training events per item; `taken` are (user, item) pairs."""
    count = len(events)
    return SamplerContext(
        item_count=count,
        interactions=pd.DataFrame({"user": [u for u, _ in taken], "item": [i for _, i in taken], "time": 0}, dtype="int64"),
        popularity=torch.tensor([0, *events]),
        vectors=vectors if vectors is not None else torch.eye(count + 1),
        semantic_ids=SemanticIds(torch.arange(count).unsqueeze(1)),
    )


def rows(count: int, target: int = 1, user: int = 0, history: tuple[int, ...] = (0,)) -> SequenceBatch:
    """Return one history and target for `count` users from `user` on, so that each row has its own random numbers."""
    return SequenceBatch(
        torch.arange(user, user + count), torch.tensor(history).expand(count, -1).clone(), torch.full((count,), target)
    )


def draw(sampler: NegativeSampler, context: SamplerContext, batch: SequenceBatch, count: int, seed: int = 0) -> Tensor:
    return sampler.build(context).draw(batch, count, torch.Generator().manual_seed(seed))


def ordered_draws(weights: dict[int, float], count: int) -> dict[tuple[int, ...], float]:
    """Return the probability of every ordered draw of `count` items without replacement."""
    result = {}
    for order in permutations(weights, count):
        probability, left = 1.0, sum(weights.values())
        for item in order:
            probability *= weights[item] / left
            left -= weights[item]
        result[order] = probability
    return result


@pytest.mark.parametrize(
    ("rounds", "exact_factor"),
    [((8, 64), 0), ((1,), 0), ((), 0), ((8, 64), 8)],
    ids=["with replacement", "both", "exact", "exact at once"],
)
@pytest.mark.parametrize(
    ("sampler", "weights"),
    [
        (Uniform(), {2: 1, 3: 1, 4: 1, 6: 1}),
        (Popularity(), {2: 9, 3: 4, 4: 1, 6: 30}),
        (Popularity(0.5), {2: 3, 3: 2, 4: 1, 6: 30**0.5}),
        (Popularity(0.0), {2: 1, 3: 1, 4: 1, 6: 1}),
    ],
    ids=["uniform", "popularity", "square root", "alpha 0"],
)
def test_the_distribution_is_the_documented_one(
    sampler: NegativeSampler, weights: dict[int, float], rounds: tuple[int, ...], exact_factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The joint distribution of ordered draws, for each way to draw. Item 1 is the target, 5 is in the history."""
    monkeypatch.setattr(without_replacement, "ROUNDS", rounds)
    monkeypatch.setattr(without_replacement, "EXACT_FACTOR", exact_factor)
    drawn = draw(sampler, world([7, 9, 4, 1, 50, 30]), rows(20_000, history=(0, 5)), 3)
    expected = ordered_draws(weights, 3)
    index = {order: place for place, order in enumerate(expected)}
    counts = torch.bincount(torch.tensor([index[tuple(row)] for row in drawn.tolist()]), minlength=len(index))
    frequencies = [probability * len(drawn) for probability in expected.values()]
    assert chisquare(counts.tolist(), frequencies).pvalue > 1e-3


def test_exact_draws_are_split_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(without_replacement, "MAX_CELLS", 25)
    drawn = draw(Uniform(), world([1] * 10), rows(31), 4)
    assert (drawn > 1).all()
    assert len(set(map(tuple, drawn.tolist()))) > 25


def test_neighbors_are_drawn_uniformly() -> None:
    drawn = draw(FaissNeighbors(pool_size=4, skip=1), world([1] * 7, vectors=line(7)), rows(20_000), 2)
    expected = ordered_draws({3: 1, 4: 1, 5: 1, 6: 1}, 2)
    counts = [int((drawn == torch.tensor(order)).all(1).sum()) for order in expected]
    assert sum(counts) == len(drawn)
    assert chisquare(counts).pvalue > 1e-3


def line(count: int) -> Tensor:
    """Return vectors on an arc, with different norms: the neighbors of item 1 are 2, 3, 4, ... in this order."""
    angle = torch.arange(count + 1) * 0.1
    return torch.stack([angle.cos(), angle.sin()], 1) * (1 + torch.arange(count + 1) % 3).unsqueeze(1)


@pytest.mark.parametrize(
    ("pool", "skip", "target", "expected"),
    [
        (3, 0, 1, {2, 3, 4}),
        (3, 2, 1, {4, 5, 6}),
        (1, 0, 9, {8}),
        (2, 7, 9, {1}),  # rank 8 is the last of 9 items
        (200, 0, 1, {2, 3, 4, 5, 6, 7, 8, 9}),
    ],
)
def test_the_window_of_neighbors(pool: int, skip: int, target: int, expected: set[int]) -> None:
    drawn = draw(FaissNeighbors(pool, skip), world([1] * 9, vectors=line(9)), rows(60, target), 8)
    assert set(drawn.flatten().tolist()) - {0} == expected
    assert (drawn[:, : len(expected)] > 0).all()
    assert (drawn[:, len(expected) :] == 0).all()


def test_equal_vectors_do_not_make_an_item_its_own_neighbor() -> None:
    drawn = draw(FaissNeighbors(pool_size=2), world([1] * 6, vectors=torch.ones(7, 3)), SequenceBatch(
        torch.arange(6), torch.zeros(6, 1, dtype=torch.int64), torch.arange(1, 7)), 2)  # fmt: skip
    assert (drawn > 0).all()
    assert (drawn != torch.arange(1, 7).unsqueeze(1)).all()


def test_items_without_events_have_popularity_weight_0() -> None:
    context = world([5, 0, 2, 0, 1])
    assert set(draw(Popularity(), context, rows(50), 4).flatten().tolist()) == {0, 3, 5}
    assert set(draw(Popularity(0.0), context, rows(50), 4).flatten().tolist()) == {2, 3, 4, 5}


def test_popularity_without_events_raises() -> None:
    with pytest.raises(InputError, match=r"Popularity needs training events.*5 items"):
        Popularity().build(world([0] * 5))


def test_a_large_alpha_does_not_overflow() -> None:
    assert draw(Popularity(400.0), world([10, 1000, 999, 1000]), rows(5), 2).ne(0).all()


@pytest.mark.parametrize("sampler", [Uniform(), Popularity(), FaissNeighbors()], ids=stable_id)
def test_users_who_have_taken_all_items_get_zeros(sampler: NegativeSampler) -> None:
    """Users 0 to 2 have taken all items, users 3 to 5 all but 5 and 6."""
    taken = [(user, item) for user in range(6) for item in range(1, 7 if user < 3 else 5)]
    context = world([1] * 6, taken)
    drawn = draw(sampler, context, rows(6), 4)
    assert not drawn[:3].any()
    assert drawn[3:].sort(1).values.tolist() == [[0, 0, 5, 6]] * 3
    assert (drawn[3:, :2] > 0).all()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=stable_id)
def test_an_empty_batch(sampler: NegativeSampler) -> None:
    assert draw(sampler, sampler_context(), rows(0), 3).shape == (0, 3)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=stable_id)
def test_draws_depend_only_on_the_generator(sampler: NegativeSampler) -> None:
    context = sampler_context()
    batch = next(batches_of(context, 64))
    torch.manual_seed(1)
    first = draw(sampler, context, batch, 3)
    torch.manual_seed(2)
    assert torch.equal(first, draw(sampler, context, batch, 3))
    assert not torch.equal(first, draw(sampler, context, batch, 3, seed=1))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=stable_id)
@given(st.integers(0, 2**16), st.integers(20, 60), st.integers(1, 12), st.integers(1, 40))
@settings(max_examples=5)
def test_the_contract_in_random_worlds(sampler: NegativeSampler, seed: int, items: int, users: int, count: int) -> None:
    """The contract holds, and the shortfall is as small as possible."""
    context = sampler_context(seed, items, users)
    batch = next(batches_of(context, 32))
    drawn = draw(sampler, context, batch, count, seed)
    check_draw(batch, drawn, count, context, offers_history=isinstance(sampler, AlreadySeen | Disliked))
    allowed = ~Exclusions(context)(batch, torch.arange(items + 1).expand(len(batch.target), -1))
    if isinstance(sampler, Popularity) and sampler.alpha > 0:
        allowed &= context.popularity > 0
    if isinstance(sampler, WHOLE_CATALOG):
        assert (drawn > 0).sum(1).tolist() == [min(count, len(set(ids))) for ids in semantic_ids_of(context, allowed)]


def semantic_ids_of(context: SamplerContext, items: Tensor) -> list[list[int]]:
    """Return the leaves of each row's items, bool [B, N + 1]. Items that share a Semantic ID count once."""
    return [context.semantic_ids.leaf(row.nonzero().squeeze(1)).tolist() for row in items]


@pytest.mark.parametrize("wrong", [-0.5, float("nan"), float("inf")])
def test_alpha_is_checked(wrong: float) -> None:
    with pytest.raises(UsageError, match=r"Popularity.alpha must be 0 or more and finite, got"):
        Popularity(wrong)


def test_pool_and_skip_are_checked() -> None:
    with pytest.raises(UsageError, match=r"FaissNeighbors.pool_size must be at least 1, got 0"):
        FaissNeighbors(pool_size=0)
    with pytest.raises(UsageError, match=r"FaissNeighbors.skip must be 0 or more, got -1"):
        FaissNeighbors(skip=-1)
    with pytest.raises(UsageError, match=r"FaissNeighbors.skip must be below 8.*got 8"):
        FaissNeighbors(skip=8).build(world([1] * 9))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sampler", SAMPLERS, ids=stable_id)
def test_negatives_are_on_the_batch_s_device(sampler: NegativeSampler) -> None:
    context = sampler_context()
    batch = next(batches_of(context, 64))
    on_gpu = SequenceBatch(*(tensor.cuda() for tensor in batch))
    drawn = draw(sampler, context, on_gpu, 3)
    assert drawn.is_cuda
    assert torch.equal(drawn.cpu(), draw(sampler, context, batch, 3))


@pytest.mark.parametrize("sampler", [each for each in SAMPLERS if not isinstance(each, InBatch | FaissNeighbors)], ids=stable_id)
def test_negatives_of_an_example_do_not_depend_on_its_batch(sampler: NegativeSampler) -> None:
    """A row alone, in another order, or in a batch with longer histories gets the same negatives."""
    context = sampler_context()
    batch = next(batches_of(context, 64))
    drawn = draw(sampler, context, batch, 3)
    assert sampler.build(context).by_example
    for order in (torch.tensor([5]), torch.arange(63, -1, -1), torch.tensor([1, 1, 60])):
        assert torch.equal(draw(sampler, context, rows_of(batch, order), 3), drawn[order])
    padded = batch._replace(history=torch.cat([torch.zeros(64, 3, dtype=torch.int64), batch.history], 1))
    assert torch.equal(draw(sampler, context, padded, 3), drawn)


def test_successive_draws_differ() -> None:
    context, generator = sampler_context(), torch.Generator().manual_seed(0)
    batch, draw = next(batches_of(context, 64)), Uniform().build(context).draw
    assert not torch.equal(draw(batch, 3, generator), draw(batch, 3, generator))
