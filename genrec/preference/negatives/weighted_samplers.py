"""Samplers over the whole catalog: uniform, or weighted by popularity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from genrec.errors import InputError
from genrec.preference.example_randomness import ExampleRandomness
from genrec.preference.exclusions import Exclusions, on_cpu
from genrec.preference.negatives.without_replacement import Candidates, draw_without_replacement
from genrec.preference.range_checks import check_range
from genrec.types import Draw, SamplerContext, SequenceBatch


@dataclass(frozen=True)
class Uniform:
    """Uniform negatives: a uniform draw without replacement among all allowed items."""

    def build(self, context: SamplerContext) -> Draw:
        """Build the draw."""
        draw = _Weighted(Exclusions(context), torch.arange(1, context.item_count + 1))
        return Draw(draw=draw, by_example=True)


@dataclass(frozen=True)
class Popularity:
    """Popularity negatives: a draw without replacement with weights `events^alpha`.

    The negatives of a row are drawn one after another, each with `p(item) = events^alpha / sum of events^alpha` over the allowed
    items that are not drawn yet. Items without a training event are drawn only if alpha is 0, which equals `Uniform`.
    """

    alpha: float = 1.0  # exponent, 0 or more; 0: uniform, 1: proportional to popularity

    def __post_init__(self) -> None:
        check_range(self, "alpha", 0)

    def build(self, context: SamplerContext) -> Draw:
        """Build the draw."""
        events = context.popularity[1:].double().cpu()
        if events.numel() == 0 or float(events.max()) <= 0:
            raise InputError(f"Popularity needs training events, got none for any of the {context.item_count} items")
        weights = (events / events.max()) ** self.alpha
        items = weights.nonzero().squeeze(1) + 1  # items with a weight above 0
        return Draw(draw=_Weighted(Exclusions(context), items, weights[items - 1]), by_example=True)


class _Weighted:
    """Draws among the same items for every row, uniformly or by weight."""

    def __init__(self, exclusions: Exclusions, items: Tensor, weights: Tensor | None = None) -> None:
        self.exclusions = exclusions
        self.items = items  # int64 [P]
        self.weights = weights  # float64 [P]
        self.cumulative = None if weights is None else weights.cumsum(0)

    def __call__(self, batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        cpu_batch = on_cpu(batch)
        randomness = ExampleRandomness(cpu_batch, generator)
        size = torch.full((len(cpu_batch.target),), len(self.items))
        candidates = Candidates(size, lambda _, places: self.items[places], self.weights, self.cumulative)
        negatives = draw_without_replacement(cpu_batch, num_negatives, candidates, self.exclusions, randomness)
        return negatives.to(batch.target.device)
