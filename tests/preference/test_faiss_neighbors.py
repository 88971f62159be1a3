"""FaissNeighbors: every field compared with brute force, approximate indices, and independence of the batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from torch.nn.functional import normalize

from genrec.errors import InputError, UsageError
from genrec.preference.draw_contract import check_draw
from genrec.preference.exclusions import Exclusions
from genrec.preference.negatives import FaissNeighbors, faiss_neighbors
from genrec.semantic_ids import SemanticIds
from genrec.testing import batches_of, check_sampler, sampler_context
from genrec.types import SamplerContext, SequenceBatch

NO_INTERACTIONS = pd.DataFrame({"user": [], "item": [], "time": []}, dtype="int64")


def world(vectors: Tensor) -> SamplerContext:
    """Return a catalog with these vectors, float32 [N, D], distinct Semantic IDs and no interactions."""
    count = len(vectors)
    popularity, ids = torch.ones(count + 1, dtype=torch.int64), SemanticIds(torch.arange(count).unsqueeze(1))
    return SamplerContext(count, NO_INTERACTIONS, popularity, torch.cat([torch.zeros(1, vectors.shape[1]), vectors]), ids)


def circle(*degrees: float) -> Tensor:
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], 1)


def rows(count: int, history: list[int], target: int) -> SequenceBatch:
    """Return one history and target for `count` users."""
    return SequenceBatch(torch.arange(count), torch.tensor([history]).repeat(count, 1), torch.full((count,), target))


def draw(sampler: FaissNeighbors, context: SamplerContext, batch: SequenceBatch, count: int, seed: int = 0) -> Tensor:
    return sampler.build(context).draw(batch, count, torch.Generator().manual_seed(seed))


def pool(sampler: FaissNeighbors, context: SamplerContext, batch: SequenceBatch) -> list[set[int]]:
    """Return all items that each row can get, by drawing as many as the catalog has."""
    return [set(row) - {0} for row in draw(sampler, context, batch, context.item_count).tolist()]


FAN = circle(0, 10, 30, 60, 100, 150)  # items 1..6; cosines to item 1: 1, 0.985, 0.866, 0.5, -0.174, -0.866


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (FaissNeighbors(), {2, 3, 4, 5, 6}),
        (FaissNeighbors(pool_size=2, skip=1), {3, 4}),
        (FaissNeighbors(max_similarity=0.9), {3, 4, 5, 6}),
        (FaissNeighbors(pool_size=2, max_similarity=0.9), {3}),  # ranks 1 and 2; item 2 is too near
        (FaissNeighbors(margin=0.4), {4, 5, 6}),  # at most 0.6
        (FaissNeighbors(margin=0.4, max_similarity=0.0), {5, 6}),
    ],
)
def test_neighbors_of_the_positive(sampler: FaissNeighbors, expected: set[int]) -> None:
    assert pool(sampler, world(FAN), rows(3, [0, 0], 1)) == [expected] * 3


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        # Items 1 and 4 are at 0 and 60 degrees. Their mean is at 30 degrees, like item 3.
        # Cosines: target 5 0.342, item 2 0.940, item 6 -0.5.
        (FaissNeighbors(of="history", pool_size=1), {3}),
        (FaissNeighbors(of="history", pool_size=2), {3, 2}),
        (FaissNeighbors(of="history", pool_size=4), {3, 2}),  # 1 and 4 have ranks 3 and 4, and are excluded
        (FaissNeighbors(of="history"), {3, 2, 6}),
        (FaissNeighbors(of="history", max_similarity=0.95), {2, 6}),
        (FaissNeighbors(of="history", margin=0.05), {6}),  # at most 0.95 x 0.342 = 0.325
        # Item 1 has a tenth of the weight of item 4: the mean is at atan2(0.866, 0.6) = 55 degrees.
        # Cosines: item 4 0.996, 3 0.905, 2 and 5 0.707, 1 0.57, 6 -0.09.
        (FaissNeighbors(of="history", recency=0.1, pool_size=2), {3}),
    ],
)
def test_neighbors_of_the_history(sampler: FaissNeighbors, expected: set[int]) -> None:
    assert pool(sampler, world(FAN), rows(2, [0, 1, 4], 5)) == [expected] * 2


def test_a_margin_below_a_negative_cosine() -> None:
    """The history is item 1. The positive 6 has cosine -0.866 and item 7 -0.94; margin 0.5 gives the limit -0.866 - 0.433 = -1.3."""
    context = world(circle(0, 10, 30, 60, 100, 150, 160))
    assert pool(FaissNeighbors(of="history", margin=0.0), context, rows(1, [1], 6)) == [{7}]
    assert pool(FaissNeighbors(of="history", margin=0.5), context, rows(1, [1], 6)) == [set()]


def test_without_history_there_are_no_neighbors() -> None:
    batch = SequenceBatch(torch.arange(2), torch.tensor([[0, 0], [0, 1]]), torch.tensor([5, 5]))
    assert pool(FaissNeighbors(of="history"), world(FAN), batch) == [set(), {2, 3, 4, 6}]


@given(
    st.integers(0, 2**16),
    st.integers(1, 60),
    st.integers(0, 20),
    st.sampled_from(["positive", "history"]),
    st.sampled_from([1.0, 0.5]),
    st.sampled_from([1.0, 0.9, 0.3]),
    st.sampled_from([None, 0.0, 0.05, 0.5]),
    st.integers(1, 12),
)
def test_equal_to_brute_force(
    seed: int, size: int, skip: int, of: str, recency: float, largest: float, margin: float | None, num_negatives: int
) -> None:
    """The pool, computed item by item in float64, and the size of a draw from it."""
    context = sampler_context(seed)
    batch = next(batches_of(context, 16))
    sampler = FaissNeighbors(size, skip, of=of, recency=recency, max_similarity=largest, margin=margin)
    allowed = ~Exclusions(context)(batch, torch.arange(61).expand(len(batch.target), -1))
    representative = Exclusions(context).representative.tolist()
    found, drawn = pool(sampler, context, batch), draw(sampler, context, batch, num_negatives, seed)
    check_draw(batch, drawn, num_negatives, context)
    unit = normalize(context.vectors.double(), dim=1)
    for row, (history, target) in enumerate(zip(batch.history.tolist(), batch.target.tolist(), strict=True)):
        query = unit[target]
        if of == "history":
            query = normalize(sum(recency**age * unit[item] for age, item in enumerate(reversed(history)) if item), dim=0)
        cosine = (unit @ query).tolist()
        order = sorted((item for item in range(1, 61) if of == "history" or item != target), key=lambda item: -cosine[item])
        limit = largest if margin is None else min(largest, cosine[target] - margin * abs(cosine[target]))
        clear = [item for item in order[skip : skip + size] if abs(cosine[item] - limit) > 1e-6]  # clear of rounding
        expected = {item for item in clear if (cosine[item] < limit or limit == 1) and bool(allowed[row, item])}
        found_ids, drawn_ids = ({representative[item] for item in items if item} for items in (found[row], drawn[row].tolist()))
        assert {representative[item] for item in expected} <= found_ids  # one item per Semantic ID is drawn
        assert {item for item in found[row] if item in clear} <= expected
        assert drawn_ids <= found_ids
        assert int((drawn[row] > 0).sum()) == len(drawn_ids) == min(num_negatives, len(found_ids))


def test_draws_are_uniform_without_replacement() -> None:
    """Two of items 3, 4 and 5, in every order, with a first pass over few candidates and over none."""
    for first in (4, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(faiss_neighbors, "FIRST_CANDIDATES", first)
            drawn = draw(FaissNeighbors(pool_size=3, skip=1), world(FAN), rows(6_000, [0], 1), 2)
        counts = [int((drawn == torch.tensor(order)).all(1).sum()) for order in permutations((3, 4, 5), 2)]
        assert sum(counts) == len(drawn)
        assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    "limits",
    [{"MAX_EXACT_ITEMS": 0}, {"MAX_TABLE_CELLS": 0}, {"FIRST_CANDIDATES": 0}, {"SEARCH_CHUNK": 7}, {"FIRST_CANDIDATES": 1000}],
)
@pytest.mark.parametrize(
    "sampler", [FaissNeighbors(pool_size=20, index="flat"), FaissNeighbors(pool_size=8, skip=3, index="flat", margin=0.1)]
)
def test_draws_do_not_depend_on_the_search_limits(
    sampler: FaissNeighbors, limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pools of all items at once or per batch, and a first pass over few or all candidates."""
    context = sampler_context()
    batch = next(batches_of(context, 64))
    expected = draw(sampler, context, batch, 3)
    for name, value in limits.items():
        monkeypatch.setattr(faiss_neighbors, name, value)
    assert torch.equal(draw(sampler, context, batch, 3), expected)


@pytest.mark.parametrize("of", ["positive", "history"])
@pytest.mark.parametrize("index", ["flat", "ivf", "hnsw"])
def test_a_row_does_not_depend_on_the_batch(of: str, index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_neighbors, "MAX_EXACT_ITEMS", 0)  # pools are searched per batch
    context = sampler_context()
    built, batch = FaissNeighbors(pool_size=15, of=of, index=index).build(context), next(batches_of(context, 24))
    assert built.by_example
    together = built.draw(batch, 3, torch.Generator().manual_seed(4))
    for row in range(24):
        length = int((batch.history[row] > 0).sum())
        alone = SequenceBatch(batch.user[row : row + 1], batch.history[row : row + 1, -length:], batch.target[row : row + 1])
        assert torch.equal(built.draw(alone, 3, torch.Generator().manual_seed(4)), together[row : row + 1])
    assert not torch.equal(built.draw(batch, 3, torch.Generator().manual_seed(5)), together)


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_approximate_indices_find_most_neighbors(index: str) -> None:
    """3,000 items around 60 centers: at least 90 % of the 20 nearest are found."""
    source = torch.Generator().manual_seed(0)
    centers = torch.randn(60, 16, generator=source)
    context = world(centers[torch.randint(60, (3000,), generator=source)] + 0.3 * torch.randn(3000, 16, generator=source))
    batch = SequenceBatch(torch.arange(100), torch.zeros(100, 1, dtype=torch.int64), torch.arange(1, 3001, 30))
    near, exact = (
        FaissNeighbors(pool_size=20, index=kind).build(context).draw(batch, 20, torch.Generator()) for kind in (index, "flat")
    )
    hits = (exact.unsqueeze(2) == near.unsqueeze(1)).any(2)
    assert float(hits.double().mean()) > 0.9
    assert (near != batch.target.unsqueeze(1)).all()


def test_auto_is_exact_for_small_catalogs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = []
    search = faiss_neighbors.VectorIndex

    def recorded(vectors: Tensor, k: int, kind: str, effort: int) -> object:
        kinds.append((kind, effort))
        return search(vectors, k, kind, effort)

    monkeypatch.setattr(faiss_neighbors, "VectorIndex", recorded)
    FaissNeighbors().build(world(FAN))
    monkeypatch.setattr(faiss_neighbors, "MAX_EXACT_ITEMS", 5)
    FaissNeighbors(effort=7).build(world(FAN))
    FaissNeighbors(index="hnsw").build(world(FAN))
    assert kinds == [("flat", 0), ("ivf", 7), ("hnsw", 0)]


@dataclass(frozen=True)
class Reversed:
    """Item vectors in reverse order."""

    rows: int = 7

    def vectors(self, context: SamplerContext) -> Tensor:
        return torch.cat([context.vectors[:1], context.vectors[1:].flip(0)])[: self.rows]


def test_other_vectors_give_other_neighbors() -> None:
    """Item 2 moves from 10 degrees, between items 1 and 3, to 100 degrees; item 3 is then at 60, 1 at 150 and 4 at 30."""
    sampler = FaissNeighbors(pool_size=1, vectors=Reversed())
    assert pool(sampler, world(FAN), rows(1, [0], 2)) == [{3}]
    assert pool(FaissNeighbors(pool_size=1), world(FAN), rows(1, [0], 2)) == [{1}]
    with pytest.raises(InputError, match=r"Reversed \(.*:\d+\) must return 7 rows, one for padding and one per item, got \[6, 2\]"):
        replace(sampler, vectors=Reversed(6)).build(world(FAN))


def test_equal_vectors_give_reproducible_distinct_negatives() -> None:
    context = world(torch.ones(40, 3))
    batch = SequenceBatch(torch.arange(40), torch.zeros(40, 1, dtype=torch.int64), torch.arange(1, 41))
    for sampler in (
        FaissNeighbors(pool_size=5),
        FaissNeighbors(pool_size=5, index="ivf"),
        FaissNeighbors(pool_size=5, index="hnsw"),
    ):
        first, again = (draw(sampler, context, batch, 4) for _ in range(2))
        assert torch.equal(first, again)
        check_draw(batch, first, 4, context)
        assert (first > 0).all()


@pytest.mark.parametrize(
    "sampler",
    [
        FaissNeighbors(of="history"),
        FaissNeighbors(of="history", recency=0.5, pool_size=30, max_similarity=0.99),
        FaissNeighbors(index="ivf"),
        FaissNeighbors(index="hnsw", max_similarity=0.999),
    ],
)
def test_it_keeps_the_contract(sampler: FaissNeighbors) -> None:
    check_sampler(sampler)


def test_an_empty_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for of in ("positive", "history"):
        for exact in (100, 0):
            monkeypatch.setattr(faiss_neighbors, "MAX_EXACT_ITEMS", exact)
            assert draw(FaissNeighbors(of=of, margin=0.1), world(FAN), rows(0, [0, 1], 2), 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("field", "wrong", "message"),
    [
        ("effort", -1, r"FaissNeighbors.effort must be 0 or more, got -1"),
        ("of", "target", r"FaissNeighbors.of must be one of 'positive', 'history', got 'target'"),
        ("index", "lsh", r"FaissNeighbors.index must be one of 'auto', 'flat', 'ivf', 'hnsw', got 'lsh'"),
        ("recency", 0.0, r"FaissNeighbors.recency must be above 0 and at most 1, got 0.0"),
        ("max_similarity", 1.5, r"FaissNeighbors.max_similarity must be in -1..1, got 1.5"),
        ("margin", float("nan"), r"FaissNeighbors.margin must be None or in 0..1, got nan"),
        ("vectors", "content", r"FaissNeighbors.vectors must be item vectors such as Content\(\).*got 'content'"),
    ],
)
def test_fields_are_checked(field: str, wrong: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FaissNeighbors(**{field: wrong})


def test_skip_beyond_the_catalog_raises() -> None:
    assert pool(FaissNeighbors(skip=5, of="history"), world(FAN), rows(1, [1], 2)) == [{6}]
    for of, ranks in (("positive", 5), ("history", 6)):
        with pytest.raises(
            UsageError, match=rf"FaissNeighbors.skip must be below {ranks}, the number of neighbors in the catalog, got {ranks}"
        ):
            FaissNeighbors(skip=ranks, of=of).build(world(FAN))
