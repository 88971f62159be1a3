"""Stage 5, negatives near the positive: neighbours of item vectors, by faiss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from genrec.errors import UsageError
from genrec.preference.forbidden import Forbidden, on_cpu, take_first
from genrec.types import DrawNegatives, SamplerContext, SequenceBatch
from genrec.vector_search import largest_inner_products


@dataclass(frozen=True)
class FaissNeighbours:
    """A uniform draw without replacement among the target's neighbours of rank `skip + 1` to `skip + pool`, the allowed ones of them.

    Neighbours are ranked by the cosine of the item encoder's vectors, exactly, the target itself left out. A catalogue of N items
    has N - 1 ranks; a row whose pool holds fewer than `count` allowed items has a shortfall.
    """

    pool: int = 200  # neighbours to draw among, at least 1
    skip: int = 0  # nearest neighbours left out, 0 or more: near-duplicates teach nothing

    def __post_init__(self) -> None:
        if self.pool < 1:
            raise UsageError(f"FaissNeighbours.pool must be at least 1, got {self.pool}")
        if self.skip < 0:
            raise UsageError(f"FaissNeighbours.skip must be 0 or more, got {self.skip}")

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws; the neighbours of all items are found here, once."""
        reach = min(self.skip + self.pool, context.item_count - 1)
        if self.skip >= reach:
            raise UsageError(f"FaissNeighbours.skip must be below {context.item_count - 1}, the catalogue's ranks, got {self.skip}")
        vectors = normalize(context.vectors[1:].float(), dim=1)
        neighbours = _without_self(largest_inner_products(vectors, vectors, reach + 1)[1])[:, self.skip :] + 1
        none = torch.zeros(1, neighbours.shape[1], dtype=torch.int32)
        return _Pooled(Forbidden(context), torch.cat([none, neighbours.int()]))


class _Pooled:
    """Draws uniformly among the allowed items of the target's pool."""

    def __init__(self, forbidden: Forbidden, pools: Tensor) -> None:
        self.forbidden = forbidden
        self.pools = pools  # int32 [N + 1, P]  half the memory of int64

    def __call__(self, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
        """Shuffle each row's pool and take the first `count` allowed."""
        rows = on_cpu(batch)
        pool = self.pools[rows.target].long()
        candidates = pool.gather(1, torch.rand(pool.shape, generator=generator).argsort(1))
        return take_first(candidates, ~self.forbidden(rows, candidates), count).to(batch.target.device)


def _without_self(neighbours: Tensor) -> Tensor:
    """Rows int64 [N, k + 1] of nearest vectors -> int64 [N, k], line i without row i, or its last where equal vectors hid i."""
    drop = neighbours == torch.arange(len(neighbours)).unsqueeze(1)
    drop[:, -1] |= ~drop.any(1)
    return neighbours[~drop].view(len(neighbours), -1)
