"""Stage 5, negatives of several samplers: mixed in a row, or one sampler after another as training goes on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from genrec.errors import UsageError
from genrec.preference.example_randomness import ExampleRandomness
from genrec.preference.exclusions import one_of_each
from genrec.preference.negatives.capabilities import Capabilities, at, capabilities, check_samplers, together
from genrec.preference.negatives.simple_samplers import PrefixNeighbors
from genrec.preference.negatives.weighted_samplers import Uniform
from genrec.types import DrawNegatives, NegativeSampler, SamplerContext, SequenceBatch


@dataclass(frozen=True)
class Mix:
    """Each place of a row goes to one of the samplers, drawn by weight; the negatives of a row are distinct whoever drew them.

    The places of a sampler that has nothing more to offer go to the others, by their weights: a row is short only where all samplers
    of a weight above 0 are. Weights are relative; shares change linearly from `weights` to `final_weights` over the training.
    """

    samplers: tuple[NegativeSampler, ...]
    weights: tuple[float, ...]  # of each sampler, 0 or more, not all 0
    final_weights: tuple[float, ...] | None = None  # at the end of training; None: as at the start

    def __post_init__(self) -> None:
        check_samplers("Mix", self.samplers)
        for name in ("weights", "final_weights"):
            weights = getattr(self, name)
            if weights is None:
                continue
            if len(weights) != len(self.samplers):
                raise UsageError(f"Mix.{name} must hold a weight for each of {len(self.samplers)} samplers, got {weights}")
            if not all(0 <= weight < float("inf") for weight in weights) or sum(weights) == 0:
                raise UsageError(f"Mix.{name} must be 0 or more and finite, not all 0, got {weights}")

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws."""
        draws = [sampler.build(context) for sampler in self.samplers]
        both = [_shares(self.weights), _shares(self.final_weights or self.weights)]
        return _Mixed(draws, both, 0.0, one_of_each(context), together("Mix", [capabilities(draw) for draw in draws]))


class _Mixed:
    """Draws with every part, then shares out the places."""

    def __init__(
        self, draws: Sequence[DrawNegatives], both: Sequence[Tensor], progress: float, one: Tensor, said: Capabilities
    ) -> None:
        self.draws, self.both, self.one, self.said = draws, both, one, said
        self.shares = both[0] + progress * (both[1] - both[0])  # float64 [S]
        said.declare(self)

    def at(self, progress: float) -> DrawNegatives:
        """With the shares, and the parts, of that time."""
        return _Mixed([at(draw, progress) for draw in self.draws], self.both, progress, self.one, self.said)

    def __call__(self, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
        """A part's negatives come in the order in which it drew them; what another has drawn is passed over.

        Which part a place goes to is an exponential race at the rates `shares`, run by those that have something left.
        """
        numbers = ExampleRandomness(batch, generator).uniform(count * len(self.draws)).view(-1, count, len(self.draws))
        arrival = torch.where(self.shares > 0, -torch.log1p(-numbers) / self.shares, torch.inf)  # float64 [B, K, S]
        offered = torch.stack([draw(batch, count, generator).cpu() for draw in self.draws], 1)  # int64 [B, S, K]
        ids, left = self.one[offered], offered > 0
        row, negatives = torch.arange(len(offered)), offered.new_zeros(len(offered), count)
        for place in range(count):
            first, part = arrival[:, place].masked_fill(~left.any(2), torch.inf).min(1)
            chosen = left[row, part].long().argmax(1)  # the first that the part has left
            given = first < torch.inf
            negatives[:, place] = offered[row, part, chosen] * given
            left &= ids != ids[row, part, chosen].view(-1, 1, 1)
        return negatives.to(batch.target.device)


def _shares(weights: Sequence[float]) -> Tensor:
    """Weights -> float64 [S], which add up to 1."""
    largest = torch.tensor(weights, dtype=torch.float64) / max(weights)
    return largest / largest.sum()


@dataclass(frozen=True)
class Curriculum:
    """One sampler after another as training goes on: from easy to hard, as given.

    `until` holds the progress at which each but the last ends; without it all get equal parts. Within its part, a sampler that itself
    changes with progress goes from its 0 to its 1.
    """

    samplers: tuple[NegativeSampler, ...] = (Uniform(), PrefixNeighbors(1), PrefixNeighbors(2))
    until: tuple[float, ...] | None = None  # of each sampler but the last, rising, between 0 and 1; None: equal parts

    def __post_init__(self) -> None:
        check_samplers("Curriculum", self.samplers)
        if self.until is None:
            return
        rising = all(low < high for low, high in zip((0.0, *self.until), (*self.until, 1.0), strict=True))
        if len(self.until) != len(self.samplers) - 1 or not rising:
            raise UsageError(
                f"Curriculum.until must hold {len(self.samplers) - 1} rising numbers between 0 and 1, when each sampler but the last "
                f"ends, got {self.until}"
            )

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws; at first, and until `at` is asked, the first sampler."""
        draws = [sampler.build(context) for sampler in self.samplers]
        equal = tuple(place / len(draws) for place in range(1, len(draws)))
        return _Curriculum(draws, (0.0, *(equal if self.until is None else self.until), 1.0))


class _Curriculum:
    def __init__(self, draws: Sequence[DrawNegatives], bounds: Sequence[float]) -> None:
        self.draws, self.bounds = draws, bounds
        together("Curriculum", [capabilities(draw) for draw in draws]).declare(self)

    def at(self, progress: float) -> DrawNegatives:
        """The part whose time it is, as it is then."""
        part = min(bisect_right(self.bounds, progress), len(self.draws)) - 1
        begin, end = self.bounds[part : part + 2]
        return at(self.draws[part], (progress - begin) / (end - begin))

    def __call__(self, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
        return self.draws[0](batch, count, generator)
