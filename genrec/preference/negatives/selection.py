"""Stage 5, negatives of another sampler, chosen: the best of more candidates by a reward, or those that pass filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Generator, Tensor

from genrec.errors import InputError, UsageError
from genrec.preference.negatives.capabilities import Capabilities, at, capabilities, check_is_sampler, together
from genrec.types import CandidateFilter, DrawNegatives, NegativeSampler, Reward, SamplerContext, SequenceBatch

if TYPE_CHECKING:
    from genrec.types.preference import Rates


@dataclass(frozen=True)
class BestOf:
    """Dynamic negatives: of `candidates` drawn by `sampler` those with the highest reward, best first.

    With a reward of the policy's own scores, such as `LogProbability`, these are the hardest for it: for the reference, or with
    `refresh_every` for a copy of the policy that is so many steps old at most. W. Zhang et al., "Optimizing top-n collaborative
    filtering via dynamic negative item sampling" (2013), with the reward in place of the model's score.
    """

    sampler: NegativeSampler
    reward: Reward
    num_candidates: int = 16  # drawn for each row, at least the negatives asked for
    refresh_every: int = 0  # of a reward that reads the policy (its `reads_policy`): 0: it reads the reference; else how often
    refresh_unit: Literal["steps", "epochs"] = "steps"

    def __post_init__(self) -> None:
        check_is_sampler("BestOf.sampler", self.sampler)
        if isinstance(self.reward, type) or not isinstance(self.reward, Reward):
            raise UsageError(f"BestOf.reward must have rate(context), got {self.reward!r}")
        if self.num_candidates < 1:
            raise UsageError(f"BestOf.num_candidates must be at least 1, got {self.num_candidates}")
        if self.refresh_every < 0:
            raise UsageError(f"BestOf.refresh_every must be 0 (the reference) or more, got {self.refresh_every}")
        if self.refresh_every and not getattr(self.reward, "reads_policy", False):
            raise UsageError(f"BestOf.refresh_every is for a reward that reads the policy (reads_policy = True), got {self.reward!r}")

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws."""
        draw, reads = self.sampler.build(context), bool(getattr(self.reward, "reads_policy", False))
        if reads and context.policy is None:
            raise InputError(f"BestOf.reward {self.reward!r} reads the policy, but the context has none")
        # what a policy says of an example differs by rounding from batch to batch, and with it, which of two like candidates is better
        own = Capabilities(not reads, False, self.refresh_every if reads else None, self.refresh_unit)
        said = together("BestOf", [capabilities(draw), own])
        return _Best(draw, self.reward.rate(context), self.num_candidates, said)


class _Best:
    def __init__(self, draw: DrawNegatives, rates: Rates, candidates: int, said: Capabilities) -> None:
        self.draw, self.rates, self.candidates, self.said = draw, rates, candidates, said
        said.declare(self)

    def at(self, progress: float) -> DrawNegatives:
        """With the candidates of that time."""
        return _Best(at(self.draw, progress), self.rates, self.candidates, self.said)

    def __call__(self, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
        """Equal rewards stay in the order in which they were drawn."""
        if count > self.candidates:
            raise UsageError(f"BestOf.num_candidates must be at least the negatives asked for, {count}, got {self.candidates}")
        drawn = self.draw(batch, self.candidates, generator)
        with torch.no_grad():
            reward = self.rates(batch, drawn).to(drawn.device)
        if bool((reward.isnan() & (drawn > 0)).any()):
            raise InputError("BestOf.reward gave NaN for an item; a reward is a number for every item but 0")
        order = reward.masked_fill(drawn == 0, -torch.inf).argsort(dim=1, descending=True, stable=True)  # zeros were last, and stay so
        return drawn.gather(1, order)[:, :count]


@dataclass(frozen=True)
class Filtered:
    """A sampler that is not given what the filters refuse: they are asked wherever the sampler asks `Exclusions`.

    A sampler of one's own that does not ask it is not filtered.
    """

    sampler: NegativeSampler
    filters: tuple[CandidateFilter, ...]  # at least one

    def __post_init__(self) -> None:
        check_is_sampler("Filtered.sampler", self.sampler)
        right = isinstance(self.filters, tuple) and all(isinstance(each, CandidateFilter) for each in self.filters)
        if not right or not self.filters:
            raise UsageError(f"Filtered.filters must be a tuple of filters, such as (NearDuplicates(),), got {self.filters!r}")

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws."""
        refuses = tuple(each.refuse(context) for each in self.filters)
        return self.sampler.build(context._replace(filters=context.filters + refuses))
