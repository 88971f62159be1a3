"""Nearest-neighbor negatives: neighbors of the positive or of the history by item vectors, found with faiss.

The relative margin follows positive-aware mining, TopK-PercPos, of NV-Retriever (Moreira et al. 2024, arXiv 2407.15831).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from genrec.errors import InputError, UsageError, given
from genrec.preference.example_randomness import ExampleRandomness
from genrec.preference.exclusions import Exclusions, on_cpu, rows_of
from genrec.preference.vectors import Content, checked_vectors
from genrec.progress import track
from genrec.types import Draw, ItemVectors, SamplerContext, SequenceBatch
from genrec.types.specification import check_types
from genrec.vector_search import Kind, VectorIndex

MAX_EXACT_ITEMS = 2**17  # up to this catalog size `index="auto"` is exact, and the pools of all items are computed once
MAX_TABLE_CELLS = 2**25  # largest table of precomputed pools: 128 MB of int32
FIRST_CANDIDATES = 4  # candidates per negative in the first pass, before the whole pool is searched
SEARCH_CHUNK = 4096  # items searched at a time


@dataclass(frozen=True)
class FaissNeighbors:
    """Nearest neighbors: a uniform draw without replacement among the neighbors of rank `skip + 1` to `skip + pool_size`.

    With `of="positive"` neighbors are ranked by cosine to the target, without the target itself: a catalog of N items has N - 1
    ranks. With `of="history"` all N items are ranked by cosine to the history, the mean of its items' unit vectors, each weighted by
    `recency` to the power of its age; a row without history has no neighbors. `max_similarity` and `margin` then remove neighbors
    that are too near.

    A row with fewer than `num_negatives` allowed items in its pool has a shortfall. With a margin to the history this is common
    unless `pool_size` is large, because items nearer than the target fill the first ranks. Cosines are those of the index: with ivf
    they are off by some thousandths.
    """

    pool_size: int = 200  # neighbors to draw from, at least 1
    skip: int = 0  # nearest neighbors to leave out, 0 or more; near-duplicates of the positive teach nothing
    of: Literal["positive", "history"] = "positive"  # the query of the search
    recency: float = 1.0  # weight of an item relative to the next newer one, over 0 to 1; 1: plain mean
    vectors: ItemVectors = field(default_factory=Content)  # item vectors to search
    max_similarity: float = 1.0  # largest cosine of a neighbor, -1 to 1
    margin: float | None = None  # a neighbor's cosine must be this share below the positive's, 0 to 1; None: no margin
    index: Literal["auto", "flat", "ivf", "hnsw"] = "auto"  # faiss index; auto: flat (exact) up to 131,072 items, then ivf
    effort: int = 0  # ivf: lists to probe; hnsw: candidates to keep; 0: 8 lists, or twice the number of neighbors

    def __post_init__(self) -> None:
        check_types(self, "FaissNeighbors")
        if self.pool_size < 1:
            raise UsageError(f"FaissNeighbors.pool_size must be at least 1, got {self.pool_size}")
        for name in ("skip", "effort"):
            if getattr(self, name) < 0:
                raise UsageError(f"FaissNeighbors.{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 < self.recency <= 1:
            raise UsageError(f"FaissNeighbors.recency must be above 0 and at most 1, got {self.recency}")
        if not -1 <= self.max_similarity <= 1:
            raise UsageError(f"FaissNeighbors.max_similarity must be in -1..1, got {self.max_similarity}")
        if self.margin is not None and not 0 <= self.margin <= 1:
            raise UsageError(f"FaissNeighbors.margin must be None or in 0..1, got {self.margin}")
        if isinstance(self.vectors, type) or not isinstance(self.vectors, ItemVectors):
            raise UsageError(
                f"FaissNeighbors.vectors must be item vectors such as Content() (genrec.types.ItemVectors), got {given(self.vectors)}"
            )

    def most_negatives(self, experiment: Any) -> float:
        """Return the size of the pool."""
        return float(self.pool_size)

    def check_context(self, context: SamplerContext) -> None:
        """Raise InputError or UsageError if the catalog has too few items."""
        ranks = self._ranks(context)
        if ranks < 1:
            raise InputError(f"FaissNeighbors needs a catalog of at least 2 items, got {context.item_count}")
        if self.skip >= ranks:
            raise UsageError(f"FaissNeighbors.skip must be below {ranks}, the number of neighbors in the catalog, got {self.skip}")

    def _ranks(self, context: SamplerContext) -> int:
        """Return the number of neighbors that a query has."""
        return context.item_count - (self.of == "positive")

    def build(self, context: SamplerContext) -> Draw:
        """Build the draw. The pools of all items are computed here, once, if they fit into `MAX_TABLE_CELLS`."""
        self.check_context(context)
        vectors = checked_vectors(self.vectors, context)
        pools = _PoolSearch(self, vectors, min(self.skip + self.pool_size, self._ranks(context)))
        if self.of == "history" or context.item_count > MAX_EXACT_ITEMS or context.item_count * pools.width > MAX_TABLE_CELLS:
            return Draw(draw=_DrawFromPools(Exclusions(context), pools), by_example=True)
        table = _pool_table(pools, context.item_count)
        draw = _DrawFromPools(Exclusions(context), lambda batch: table[batch.target].long())
        return Draw(draw=draw, by_example=True)


class _PoolSearch:
    """Searches the pools of a batch. Items are sorted by id, so a draw does not depend on the order of near ties."""

    def __init__(self, specification: FaissNeighbors, vectors: Tensor, last_rank: int) -> None:
        self.specification, self.width = specification, last_rank - specification.skip
        self.unit = normalize(vectors.detach().float().cpu(), dim=1)  # float32 [N + 1, D]
        items = len(vectors) - 1
        kind: Kind = ("flat" if items <= MAX_EXACT_ITEMS else "ivf") if specification.index == "auto" else specification.index
        self.index = VectorIndex(self.unit[1:], last_rank + (specification.of == "positive"), kind, specification.effort)

    def __call__(self, batch: SequenceBatch) -> Tensor:
        """Return the pool of each row, int64 [B, width], 0 where a neighbor is removed."""
        specification, target = self.specification, batch.target.unsqueeze(1)
        of_positive = specification.of == "positive"
        query = self.unit[batch.target] if of_positive else self._history_vector(batch.items)
        cosine, found = self.index.search(query)
        pool = found + 1
        pool = pool.masked_fill((cosine > self._limit(query, batch.target)) & (pool != target), 0)
        pool = _drop_item(pool, target) if of_positive else pool.masked_fill((batch.items == 0).all(1, keepdim=True), 0)
        return torch.from_numpy(np.sort(pool[:, specification.skip :].numpy(), 1))  # several times faster than torch on short rows

    def _history_vector(self, history: Tensor) -> Tensor:
        """Return the weighted mean of a history, int64 [B, T] with the newest item last, as unit vectors float32 [B, D]."""
        age = torch.arange(history.shape[1] - 1, -1, -1)
        weight = self.specification.recency**age * (history > 0)
        return normalize(torch.einsum("bt,btd->bd", weight.float(), self.unit[history]), dim=1)

    def _limit(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the largest cosine that a neighbor may have, float32 [B, 1].

        With s the positive's cosine, the margin's limit is s - margin |s|. For s < 0, (1 - margin) s would be above s.
        """
        largest, margin = self.specification.max_similarity, self.specification.margin
        # At 1 there is no limit: rounding can put the cosine of equal vectors above 1.
        limit = torch.full((len(query), 1), largest if largest < 1 else torch.inf)
        if margin is not None:
            positive = (query * self.unit[target]).sum(1, keepdim=True)
            limit = limit.minimum(positive - margin * positive.abs())
        return limit


class _DrawFromPools:
    """Draws uniformly among the allowed items of each row's pool.

    The negatives of an example do not depend on its batch. Where pools are searched per batch, rounding of the similarities can
    change the last items of a pool.
    """

    def __init__(self, exclusions: Exclusions, pools: Callable[[SequenceBatch], Tensor]) -> None:
        self.exclusions, self.pools = exclusions, pools

    def __call__(self, batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        """Shuffle each row's pool and take the first allowed items. Most rows need only the first few candidates."""
        cpu_batch = on_cpu(batch)
        pool = self.pools(cpu_batch)
        order = torch.from_numpy(np.argsort(ExampleRandomness(cpu_batch, generator).uniform(pool.shape[1]).numpy(), 1))
        negatives = self._take(cpu_batch, pool, order[:, : FIRST_CANDIDATES * num_negatives], num_negatives)
        short = (negatives[:, -1] == 0).nonzero().squeeze(1)
        negatives[short] = self._take(rows_of(cpu_batch, short), pool[short], order[short], num_negatives)
        return negatives.to(batch.target.device)

    def _take(self, batch: SequenceBatch, pool: Tensor, order: Tensor, num_negatives: int) -> Tensor:
        """Take the first allowed items of pools int64 [B, P], visited in an order int64 [B, M]."""
        return self.exclusions.take_allowed(batch, pool.gather(1, order), num_negatives)


def _pool_table(pools: _PoolSearch, items: int) -> Tensor:
    """Return the pools of all items, [N + 1, width]: int32, half the memory of int64."""
    parts = [torch.zeros(1, pools.width, dtype=torch.int32)]
    for begin in track(range(1, items + 1, SEARCH_CHUNK), "nearest neighbors"):
        target = torch.arange(begin, min(begin + SEARCH_CHUNK, items + 1))
        padding = torch.zeros_like(target)
        parts.append(pools(SequenceBatch(padding, padding.unsqueeze(1), target)).int())
    return torch.cat(parts)


def _drop_item(neighbors: Tensor, item: Tensor) -> Tensor:
    """Remove each row's own item, int64 [B, 1], from its neighbors int64 [B, k + 1] and return int64 [B, k].

    Equal vectors or an approximate search can push the item out of its own neighbors; the last neighbor is then removed.
    """
    drop = neighbors == item
    drop[:, -1] |= ~drop.any(1)
    return neighbors[~drop].view(len(neighbors), neighbors.shape[1] - 1)
