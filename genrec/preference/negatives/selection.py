"""Negatives selected from another sampler's: the best of several candidates by a reward, or those that pass filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Generator, Tensor

from genrec.errors import InputError, UsageError
from genrec.preference.negatives.capabilities import Capabilities, at, capabilities, check_is_sampler, combine
from genrec.types import CandidateFilter, DrawNegatives, NegativeSampler, Reward, SamplerContext, SequenceBatch

if TYPE_CHECKING:
    from genrec.types.preference import RateItems


@dataclass(frozen=True)
class BestOf:
    """Dynamic negatives: of `num_candidates` items drawn by `sampler`, those with the highest reward, best first.

    With a reward that reads the policy, such as `LogProbability`, these are the hardest negatives for the reference or, with
    `refresh_every`, for a recent copy of the policy. After W. Zhang et al., "Optimizing top-n collaborative filtering via dynamic
    negative item sampling" (2013), with a reward in place of the model's score.
    """

    sampler: NegativeSampler
    reward: Reward
    num_candidates: int = 16  # candidates per row, at least the number of negatives
    refresh_every: int = 0  # `refresh_unit`s between refreshes of the policy that the reward reads; 0: the reference
    refresh_unit: Literal["steps", "epochs"] = "steps"

    def __post_init__(self) -> None:
        check_is_sampler("BestOf.sampler", self.sampler)
        if isinstance(self.reward, type) or not isinstance(self.reward, Reward):
            raise UsageError(f"BestOf.reward must be a reward with rate(context), such as Popular(), got {self.reward!r}")
        if self.num_candidates < 1:
            raise UsageError(f"BestOf.num_candidates must be at least 1, got {self.num_candidates}")
        if self.refresh_every < 0:
            raise UsageError(f"BestOf.refresh_every must be 0 (the reference) or more, got {self.refresh_every}")
        if self.refresh_every and not getattr(self.reward, "reads_policy", False):
            raise UsageError(
                f"BestOf.refresh_every needs a reward that reads the policy (reads_policy = True), got {self.reward!r}; "
                "use refresh_every = 0"
            )

    def build(self, context: SamplerContext) -> DrawNegatives:
        """Build the draw."""
        draw, reads = self.sampler.build(context), bool(getattr(self.reward, "reads_policy", False))
        if reads and context.policy is None:
            raise InputError(f"BestOf.reward {self.reward!r} reads the policy, got a context without one: pass SamplerContext.policy")
        # A policy's scores depend on the batch by rounding, which can swap two candidates: such a draw is not by example.
        own = Capabilities(not reads, False, self.refresh_every if reads else None, self.refresh_unit)
        combined = combine("BestOf", [capabilities(draw), own])
        return _BestOf(draw, self.reward.rate(context), self.num_candidates, combined)


class _BestOf:
    def __init__(self, draw: DrawNegatives, rate: RateItems, num_candidates: int, combined: Capabilities) -> None:
        self.draw, self.rate, self.num_candidates, self.combined = draw, rate, num_candidates, combined
        combined.set_on(self)

    def at(self, progress: float) -> DrawNegatives:
        """Return the selection from the candidates of this point of the training."""
        return _BestOf(at(self.draw, progress), self.rate, self.num_candidates, self.combined)

    def __call__(self, batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
        """Draw candidates and keep the best. Candidates with equal rewards stay in the order of the draw."""
        if num_negatives > self.num_candidates:
            raise UsageError(
                f"BestOf.num_candidates must be at least the number of negatives, {num_negatives}, got {self.num_candidates}"
            )
        drawn = self.draw(batch, self.num_candidates, generator)
        with torch.no_grad():
            reward = self.rate(batch, drawn).to(drawn.device)
        if bool((reward.isnan() & (drawn > 0)).any()):
            raise InputError("BestOf.reward returned NaN for an item; return a number for every item but 0")
        # The sort is stable, so the zeros at the end of a row stay there.
        order = reward.masked_fill(drawn == 0, -torch.inf).argsort(dim=1, descending=True, stable=True)
        return drawn.gather(1, order)[:, :num_negatives]


@dataclass(frozen=True)
class Filtered:
    """A sampler without the items that the filters reject.

    The filters take effect through `Exclusions`. A sampler that does not use it is not filtered.
    """

    sampler: NegativeSampler
    filters: tuple[CandidateFilter, ...]  # at least one

    def __post_init__(self) -> None:
        check_is_sampler("Filtered.sampler", self.sampler)
        valid = isinstance(self.filters, tuple) and all(isinstance(each, CandidateFilter) for each in self.filters)
        if not valid or not self.filters:
            raise UsageError(f"Filtered.filters must be a tuple of filters, such as (NearDuplicates(),), got {self.filters!r}")

    def build(self, context: SamplerContext) -> DrawNegatives:
        """Build the draw of the sampler, with the filters added to the context."""
        rejects = tuple(each.refuse(context) for each in self.filters)
        return self.sampler.build(context._replace(filters=context.filters + rejects))
