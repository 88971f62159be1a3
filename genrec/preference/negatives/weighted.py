"""Stage 5, negatives by weight: every allowed item, uniformly or by popularity, successively without replacement."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from genrec.errors import InputError, UsageError
from genrec.preference.forbidden import Forbidden, on_cpu, rows_of, take_first
from genrec.types import DrawNegatives, SamplerContext, SequenceBatch

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
