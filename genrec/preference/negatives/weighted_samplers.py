"""Stage 5, negatives by weight: every allowed item, uniformly or by popularity, successively without replacement."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from genrec.errors import InputError
from genrec.preference.example_randomness import ExampleRandomness
from genrec.preference.exclusions import Exclusions, on_cpu
from genrec.preference.negatives.without_replacement import Candidates, draw_successively
from genrec.preference.range_checks import check_range
from genrec.types import DrawNegatives, SamplerContext, SequenceBatch


@dataclass(frozen=True)
class Uniform:
    """Every allowed item is as likely as every other: a uniform draw without replacement."""

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws."""
        return _Weighted(Exclusions(context), torch.arange(1, context.item_count + 1))


@dataclass(frozen=True)
class Popularity:
    """An item is as likely as its training events to the power `alpha`, without replacement.

    The negatives of a row are drawn one after another, each among the allowed items not yet drawn, with
    `p(item) = events^alpha / sum of events^alpha` over those. Items without a training event are never drawn unless alpha is 0,
    which is `Uniform`.
    """

    alpha: float = 1.0  # 0 or more; 0 is uniform, 1 proportional to popularity

    def __post_init__(self) -> None:
        check_range(self, "alpha", 0)

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws."""
        events = context.popularity[1:].double().cpu()
        if events.numel() == 0 or float(events.max()) <= 0:
            raise InputError(f"Popularity needs training events, got none for any of the {context.item_count} items")
        weights = (events / events.max()) ** self.alpha
        items = weights.nonzero().squeeze(1) + 1  # those that can be drawn
        return _Weighted(Exclusions(context), items, weights[items - 1])


class _Weighted:
    """Draws among the same items for every row, with the same weights or alike."""

    by_example = True

    def __init__(self, forbidden: Exclusions, items: Tensor, weights: Tensor | None = None) -> None:
        self.forbidden = forbidden
        self.items = items  # int64 [P]
        self.weights = weights  # float64 [P]
        self.cumulative = None if weights is None else weights.cumsum(0)

    def __call__(self, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
        rows = on_cpu(batch)
        streams = ExampleRandomness(rows, generator)
        size = torch.full((len(rows.target),), len(self.items))
        candidates = Candidates(size, lambda _, places: self.items[places], self.weights, self.cumulative)
        return draw_successively(rows, count, candidates, self.forbidden, streams).to(batch.target.device)
