"""Combinations of several samplers: mixed within a row (`Mix`), or one after another over the training (`Curriculum`)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from genrec.errors import UsageError
from genrec.preference.example_randomness import ExampleRandomness
from genrec.preference.exclusions import representatives
from genrec.preference.negatives.capabilities import (
    build_draw,
    check_one_refresh,
    check_samplers,
    combine,
    draw_at,
    most_negatives,
)
from genrec.preference.negatives.simple_samplers import PrefixNeighbors
from genrec.preference.negatives.weighted_samplers import Uniform
from genrec.types import Draw, NegativeSampler, SamplerContext, SequenceBatch
from genrec.types.specification import check_types


@dataclass(frozen=True)
class Mix:
    """A mixture: each place of a row is given to one of the samplers, chosen at random by weight.

    The negatives of a row are distinct across samplers. When a sampler has no candidate left, its places go to the others by weight,
    so a row is short only if all samplers with a weight above 0 are. Weights are relative. Shares change linearly from `weights` to
    `final_weights` over the training.
    """

    samplers: tuple[NegativeSampler, ...]
    weights: tuple[float, ...]  # one per sampler, 0 or more, not all 0
    final_weights: tuple[float, ...] | None = None  # weights at the end of training; None: constant

    def __post_init__(self) -> None:
        check_samplers("Mix", self.samplers)
        check_types(self, "Mix")
        check_one_refresh(self)
        for name in ("weights", "final_weights"):
            weights = getattr(self, name)
            if weights is None:
                continue
            if len(weights) != len(self.samplers):
                raise UsageError(f"Mix.{name} must have one weight for each of the {len(self.samplers)} samplers, got {weights}")
            if not all(0 <= weight < float("inf") for weight in weights) or sum(weights) == 0:
                raise UsageError(f"Mix.{name} must be 0 or more and finite, not all 0, got {weights}")

    def most_negatives(self, experiment: Any) -> float:
        """Return the sum over the samplers that have a weight above 0 at some time."""
        weights = [max(pair) for pair in zip(self.weights, self.final_weights or self.weights, strict=True)]
        return sum(most_negatives(each, experiment) for each, weight in zip(self.samplers, weights, strict=True) if weight > 0)

    def inner_samplers(self) -> tuple[NegativeSampler, ...]:
        """Return the samplers of the mixture."""
        return self.samplers

    def build(self, context: SamplerContext) -> Draw:
        """Build the draw, with the shares of the start of training."""
        parts = [build_draw(sampler, context) for sampler in self.samplers]
        first, last = _shares(self.weights), _shares(self.final_weights or self.weights)
        representative = representatives(context)

        def at(progress: float) -> Draw:
            """Return the mixture with the shares, and the parts, of this point of the training."""
            now = [draw_at(part, progress) for part in parts]
            return combine("Mix", parts, _Mixed(now, first + progress * (last - first), representative), at)

        return at(0.0)


class _Mixed:
    """Draws from every sampler, then assigns the places of each row. `shares` is float64 [S], `representative` int64 [N + 1]."""

    def __init__(self, parts: Sequence[Draw], shares: Tensor, representative: Tensor) -> None:
        self.parts, self.shares, self.representative = parts, shares, representative

    def __call__(self, batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        """Fill the places of each row in order.

        An exponential race with rates `shares`, among the samplers that still have candidates, decides which sampler fills a place.
        It gives its next negative, in its own order, that the row does not have yet.
        """
        numbers = ExampleRandomness(batch, generator).uniform(num_negatives * len(self.parts))
        numbers = numbers.view(-1, num_negatives, len(self.parts))
        arrival = torch.where(self.shares > 0, -torch.log1p(-numbers) / self.shares, torch.inf)  # float64 [B, K, S]
        offered = torch.stack([part.draw(batch, num_negatives, generator).cpu() for part in self.parts], 1)  # int64 [B, S, K]
        ids, left = self.representative[offered], offered > 0
        row, negatives = torch.arange(len(offered)), offered.new_zeros(len(offered), num_negatives)
        for place in range(num_negatives):
            first, part = arrival[:, place].masked_fill(~left.any(2), torch.inf).min(1)
            chosen = left[row, part].long().argmax(1)  # the first that the sampler has left
            negatives[:, place] = offered[row, part, chosen] * (first < torch.inf)
            left &= ids != ids[row, part, chosen].view(-1, 1, 1)
        return negatives.to(batch.target.device)


def _shares(weights: Sequence[float]) -> Tensor:
    """Normalize weights to shares that sum to 1: float64 [S]."""
    scaled = torch.tensor(weights, dtype=torch.float64) / max(weights)  # dividing first keeps the sum finite
    return scaled / scaled.sum()


@dataclass(frozen=True)
class Curriculum:
    """A curriculum: one sampler after another over the training, for example from easy to hard.

    `until` gives the progress at which each sampler but the last ends; by default all have equal parts. A sampler that itself changes
    with progress goes from 0 to 1 within its part.
    """

    samplers: tuple[NegativeSampler, ...] = (Uniform(), PrefixNeighbors(1), PrefixNeighbors(2))
    until: tuple[float, ...] | None = None  # end of each sampler but the last, increasing, between 0 and 1; None: equal parts

    def __post_init__(self) -> None:
        check_samplers("Curriculum", self.samplers)
        check_types(self, "Curriculum")
        check_one_refresh(self)
        if self.until is None:
            return
        increasing = all(low < high for low, high in zip((0.0, *self.until), (*self.until, 1.0), strict=True))
        if len(self.until) != len(self.samplers) - 1 or not increasing:
            raise UsageError(
                f"Curriculum.until must have {len(self.samplers) - 1} increasing numbers between 0 and 1, the end of each sampler "
                f"but the last, got {self.until}"
            )

    def most_negatives(self, experiment: Any) -> float:
        """Return the number of the sampler that can give the fewest."""
        return min(most_negatives(each, experiment) for each in self.samplers)

    def inner_samplers(self) -> tuple[NegativeSampler, ...]:
        """Return the samplers of the curriculum."""
        return self.samplers

    def build(self, context: SamplerContext) -> Draw:
        """Build the draw. It uses the first sampler until `at` is called."""
        parts = [build_draw(sampler, context) for sampler in self.samplers]
        equal = tuple(place / len(parts) for place in range(1, len(parts)))
        bounds = (0.0, *(equal if self.until is None else self.until), 1.0)

        def at(progress: float) -> Draw:
            """Return the draw of the current part, at the progress within that part."""
            part = min(bisect_right(bounds, progress), len(parts)) - 1
            begin, end = bounds[part : part + 2]
            return draw_at(parts[part], (progress - begin) / (end - begin))

        return combine("Curriculum", parts, at(0.0).draw, at)
