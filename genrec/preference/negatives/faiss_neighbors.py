"""Stage 5, negatives near the positive or near the history: neighbors of item vectors, by faiss.

Source of the margin: NV-Retriever's positive-aware mining, TopK-PercPos (Moreira et al. 2024, arXiv 2407.15831).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from genrec.errors import InputError, UsageError
from genrec.preference.example_randomness import ExampleRandomness
from genrec.preference.exclusions import Exclusions, on_cpu, rows_of
from genrec.preference.vectors import Content
from genrec.progress import track
from genrec.types import DrawNegatives, ItemVectors, SamplerContext, SequenceBatch
from genrec.vector_search import Kind, VectorIndex

EXACT = 2**17  # items up to which `index="auto"` is exact, and the neighbors of all items are found once
CELLS = 2**25  # neighbors of all items that are kept at most: 128 MB
FIRST = 4  # candidates looked at for each negative asked for, before the whole pool is
ROWS = 4096  # items whose neighbors are found at a time


@dataclass(frozen=True)
class FaissNeighbors:
    """A uniform draw without replacement among the neighbors of rank `skip + 1` to `skip + pool`, the allowed ones of them.

    Neighbors of the target are ranked by cosine, the target itself left out: a catalog of N items has N - 1 ranks. With
    `of="history"` all N items are ranked by their cosine to the history, the mean of its items' unit vectors, each weighted by
    `recency` to the power of its age; a row without history has no neighbors. Of these ranks, `max_similarity` and `margin` leave
    out those that are too near. A row whose pool holds fewer than `count` allowed items has a shortfall; with a margin to the history
    it often has unless `pool` is large, since what is nearer than the target fills the first ranks. Cosines are the index's: those of
    ivf are off by some thousandths.
    """

    pool_size: int = 200  # neighbors to draw among, at least 1
    skip: int = 0  # nearest neighbors left out, 0 or more: near-duplicates teach nothing
    of: Literal["positive", "history"] = "positive"  # whose neighbors
    recency: float = 1.0  # weight of an item beside the one after it in the history, over 0 to 1; 1: the plain mean
    vectors: ItemVectors = field(default_factory=Content)  # by what items are near each other
    max_similarity: float = 1.0  # largest cosine of a neighbor, -1 to 1
    margin: float | None = None  # share of the positive's own cosine by which a neighbor's must be smaller, 0 to 1; None: no matter
    index: Literal["auto", "flat", "ivf", "hnsw"] = "auto"  # of faiss; auto is flat (exact) up to 131,072 items, ivf beyond
    effort: int = 0  # lists that ivf looks into, candidates that hnsw keeps; 0: 8 lists, twice as many candidates as neighbors

    def __post_init__(self) -> None:
        if self.pool_size < 1:
            raise UsageError(f"FaissNeighbors.pool_size must be at least 1, got {self.pool_size}")
        for name in ("skip", "effort"):
            if getattr(self, name) < 0:
                raise UsageError(f"FaissNeighbors.{name} must be 0 or more, got {getattr(self, name)}")
        for name, known in (("of", ("positive", "history")), ("index", ("auto", "flat", "ivf", "hnsw"))):
            if getattr(self, name) not in known:
                raise UsageError(f"FaissNeighbors.{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not 0 < self.recency <= 1:
            raise UsageError(f"FaissNeighbors.recency must be over 0 and at most 1, got {self.recency}")
        if not -1 <= self.max_similarity <= 1:
            raise UsageError(f"FaissNeighbors.max_similarity must lie in -1..1, got {self.max_similarity}")
        if self.margin is not None and not 0 <= self.margin <= 1:
            raise UsageError(f"FaissNeighbors.margin must lie in 0..1, or be None, got {self.margin}")
        if not isinstance(self.vectors, ItemVectors):
            raise UsageError(f"FaissNeighbors.vectors must have vectors(context) (genrec.types.ItemVectors), got {self.vectors!r}")

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws; the neighbors of all items are found here, once, where that is worth its time and memory."""
        ranks = context.item_count - (self.of == "positive")
        if ranks < 1:
            raise InputError(f"FaissNeighbors needs a catalog with neighbors, got {context.item_count} item(s)")
        if self.skip >= ranks:
            raise UsageError(f"FaissNeighbors.skip must be below {ranks}, the catalog's ranks, got {self.skip}")
        vectors = self.vectors.vectors(context)
        if len(vectors) != context.item_count + 1:
            raise InputError(f"{self.vectors!r} must give a row for none and {context.item_count} items, got {len(vectors)} rows")
        near = _Near(self, vectors, min(self.skip + self.pool_size, ranks))
        if self.of == "history" or context.item_count > EXACT or context.item_count * near.width > CELLS:
            return _Pooled(Exclusions(context), near)
        table = _of_all_items(near, context.item_count)
        return _Pooled(Exclusions(context), lambda rows: table[rows.target].long())


class _Near:
    """Finds the pools of rows: their items in ascending order, so that a draw does not hang on the order of near ties."""

    def __init__(self, specification: FaissNeighbors, vectors: Tensor, reach: int) -> None:
        self.specification, self.width = specification, reach - specification.skip
        self.unit = normalize(vectors.detach().float().cpu(), dim=1)  # float32 [N + 1, D]
        items = len(vectors) - 1
        kind: Kind = ("flat" if items <= EXACT else "ivf") if specification.index == "auto" else specification.index
        self.index = VectorIndex(self.unit[1:], reach + (specification.of == "positive"), kind, specification.effort)

    def __call__(self, rows: SequenceBatch) -> Tensor:
        """A batch -> items int64 [B, width], 0 for none."""
        asked, target = self.specification, rows.target.unsqueeze(1)
        query = self.unit[rows.target] if asked.of == "positive" else self._of_history(rows.history)
        cosine, found = self.index.search(query)
        pool = found + 1
        pool = pool.masked_fill((cosine > self._limit(query, rows.target)) & (pool != target), 0)
        pool = _without(pool, target) if asked.of == "positive" else pool.masked_fill((rows.history == 0).all(1, keepdim=True), 0)
        return torch.from_numpy(np.sort(pool[:, asked.skip :].numpy(), 1))  # for short rows several times as fast as torch

    def _of_history(self, history: Tensor) -> Tensor:
        """Items int64 [B, T], newest last -> unit vectors float32 [B, D]."""
        age = torch.arange(history.shape[1] - 1, -1, -1)
        weight = self.specification.recency**age * (history > 0)
        return normalize(torch.einsum("bt,btd->bd", weight.float(), self.unit[history]), dim=1)

    def _limit(self, query: Tensor, target: Tensor) -> Tensor:
        """The largest cosine that a neighbor may have, float32 [B, 1].

        Where the positive's cosine s is below 0, (1 - margin) s would be nearer than s itself: the limit is s - margin |s|.
        """
        largest, margin = self.specification.max_similarity, self.specification.margin
        limit = torch.full((len(query), 1), largest if largest < 1 else torch.inf)  # equal vectors have 1, but for rounding
        if margin is not None:
            own = (query * self.unit[target]).sum(1, keepdim=True)
            limit = limit.minimum(own - margin * own.abs())
        return limit


class _Pooled:
    """Draws uniformly among the allowed items of each row's pool.

    An example's negatives do not depend on its batch; where neighbors are found a batch at a time, but for the rounding of
    similarities at the end of the pool.
    """

    by_example = True

    def __init__(self, forbidden: Exclusions, pools: Callable[[SequenceBatch], Tensor]) -> None:
        self.forbidden, self.pools = forbidden, pools

    def __call__(self, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
        """Shuffle each row's pool and take the first `count` allowed; a few candidates do for most rows, the others look at all."""
        rows = on_cpu(batch)
        pool = self.pools(rows)
        order = torch.from_numpy(np.argsort(ExampleRandomness(rows, generator).uniform(pool.shape[1]).numpy(), 1))
        negatives = self._take(rows, pool, order[:, : FIRST * count], count)
        short = (negatives[:, -1] == 0).nonzero().squeeze(1)
        negatives[short] = self._take(rows_of(rows, short), pool[short], order[short], count)
        return negatives.to(batch.target.device)

    def _take(self, rows: SequenceBatch, pool: Tensor, order: Tensor, count: int) -> Tensor:
        """The first `count` allowed items of pools int64 [B, P] in an order int64 [B, M]."""
        return self.forbidden.take(rows, pool.gather(1, order), count)


def _of_all_items(near: _Near, items: int) -> Tensor:
    """The pools of all items, int32 [N + 1, width]; half the memory of int64."""
    parts = [torch.zeros(1, near.width, dtype=torch.int32)]
    for begin in track(range(1, items + 1, ROWS), "nearest neighbors"):
        target = torch.arange(begin, min(begin + ROWS, items + 1))
        none = torch.zeros_like(target)
        parts.append(near(SequenceBatch(none, none.unsqueeze(1), target)).int())
    return torch.cat(parts)


def _without(neighbors: Tensor, own: Tensor) -> Tensor:
    """Neighbors int64 [B, k + 1] of items int64 [B, 1] -> int64 [B, k], without the item itself, or the last where it is not there.

    It is not where equal vectors hide it, or an approximate search misses it.
    """
    drop = neighbors == own
    drop[:, -1] |= ~drop.any(1)
    return neighbors[~drop].view(len(neighbors), neighbors.shape[1] - 1)
