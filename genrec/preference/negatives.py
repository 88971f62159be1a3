"""Stage 5, where negatives come from: samplers, as frozen specifications that build what draws.

In: a `SamplerContext` once, then a batch, a count and a `torch.Generator` on the CPU, the only source of randomness. Out: negatives
int64 [B, count] on the batch's device: real items, distinct in a row, never what `Forbidden` names, 0 at the end of a row where
none is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from genrec.errors import InputError, UsageError
from genrec.preference.forbidden import Forbidden, on_cpu, rows_of, take_first
from genrec.types import DrawNegatives, SamplerContext, SequenceBatch
from genrec.vector_search import largest_inner_products

__all__ = ["FaissNeighbours", "Popularity", "Uniform"]

ROUNDS = (8, 64)  # candidates drawn with replacement for each negative asked for, in a first and in a second round
DENSE = 1 << 22  # candidates looked at together when whole rows of the catalogue are searched


@dataclass(frozen=True)
class Uniform:
    """Every allowed item is as likely as every other: a uniform draw without replacement."""

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws."""
        return _Weighted(context, torch.ones(context.item_count, dtype=torch.float64))


@dataclass(frozen=True)
class Popularity:
    """An item is as likely as its training events to the power `alpha`, without replacement.

    The negatives of a row are drawn one after another, each among the allowed items not yet drawn, with
    `p(item) = events^alpha / sum of events^alpha` over those. Items without a training event are never drawn unless alpha is 0,
    which is `Uniform`.
    """

    alpha: float = 1.0  # 0 or more; 0 is uniform, 1 proportional to popularity

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise UsageError(f"Popularity.alpha must be 0 or more and finite, got {self.alpha}")

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws."""
        events = context.popularity[1:].double().cpu()
        if events.numel() == 0 or float(events.max()) <= 0:
            raise InputError(f"Popularity needs training events, got none for any of the {context.item_count} items")
        return _Weighted(context, (events / events.max()) ** self.alpha)


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


class _Weighted:
    """Draws item `i` with weight `weights[i - 1]`, successively without replacement."""

    def __init__(self, context: SamplerContext, weights: Tensor) -> None:
        self.forbidden = Forbidden(context)
        self.items = weights.nonzero().squeeze(1) + 1  # int64 [P]  those that can be drawn
        self.weights = weights[self.items - 1]  # float64 [P]
        self.cumulative = self.weights.cumsum(0)

    def __call__(self, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
        """Draw with replacement and pass over what is forbidden or drawn already, which *is* drawing without replacement.

        Rows that two rounds leave short go on, from what they have, with an exact draw over the whole catalogue.
        """
        rows = on_cpu(batch)
        negatives = torch.zeros(len(rows.target), count, dtype=torch.int64)
        for factor in ROUNDS:
            short = (negatives[:, -1] == 0).nonzero().squeeze(1)
            candidates = self._with_replacement(len(short), factor * count, generator)
            negatives[short] = self._extend(rows_of(rows, short), negatives[short], candidates)
        left = (negatives[:, -1] == 0).nonzero().squeeze(1)
        for short in torch.split(left, max(1, DENSE // len(self.items))):
            part = rows_of(rows, short)
            negatives[short] = self._extend(part, negatives[short], self._successive(part, count, generator))
        return negatives.to(batch.target.device)

    def _extend(self, rows: SequenceBatch, negatives: Tensor, candidates: Tensor) -> Tensor:
        """The negatives so far, then the candidates that may follow: int64 [B, count]."""
        both = torch.cat([negatives, candidates], 1)
        return take_first(both, ~self.forbidden(rows, both), negatives.shape[1])

    def _with_replacement(self, rows: int, count: int, generator: Generator) -> Tensor:
        """Candidates by inverse transform, int64 [rows, count]."""
        point = torch.rand(rows, count, generator=generator, dtype=torch.float64) * self.cumulative[-1]
        place = torch.searchsorted(self.cumulative, point, right=True)
        return self.items[place.clamp_(max=len(self.items) - 1)]

    def _successive(self, rows: SequenceBatch, count: int, generator: Generator) -> Tensor:
        """The first `count` allowed items of an exact successive draw, int64 [B, <= count]; forbidden ones where none is left.

        An exponential race (the Gumbel-top-k trick of Kool et al. 2019, 1903.06059, without the logarithm): item i arrives after an
        exponential time of rate `weights[i]`, and the order of arrival is that of successive draws.
        """
        candidates = self.items.expand(len(rows.target), -1)
        arrival = torch.empty(candidates.shape, dtype=torch.float64).exponential_(generator=generator) / self.weights
        arrival.masked_fill_(self.forbidden(rows, candidates), torch.inf)
        return self.items[arrival.topk(min(count, len(self.items)), largest=False).indices]


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
