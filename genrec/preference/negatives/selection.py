"""Negatives selected from another sampler's: the best of several candidates by a reward, or those that pass filters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Generator, Tensor

from genrec.errors import InputError, NumericsError, UsageError, given
from genrec.own_ids import OwnIds, name_item, name_user
from genrec.plugin_source import name_with_place
from genrec.preference.negatives.capabilities import (
    build_draw,
    check_is_sampler,
    check_one_refresh,
    combine,
    draw_at,
    most_negatives,
)
from genrec.preference.rewards import checked_rating
from genrec.types import (
    CandidateFilter,
    Draw,
    NegativeSampler,
    PolicyReward,
    Refresh,
    Reward,
    SamplerContext,
    SequenceBatch,
)
from genrec.types.specification import check_types

if TYPE_CHECKING:
    from genrec.types.preference import DrawNegatives, RateItems, RejectCandidates


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
        check_types(self, "BestOf")
        if isinstance(self.reward, type) or not isinstance(self.reward, Reward):
            raise UsageError(f"BestOf.reward must be a reward with rate(context), such as Popular(), got {given(self.reward)}")
        if self.num_candidates < 1:
            raise UsageError(f"BestOf.num_candidates must be at least 1, got {self.num_candidates}")
        if self.refresh_every < 0:
            raise UsageError(f"BestOf.refresh_every must be 0 (the reference) or more, got {self.refresh_every}")
        if isinstance(self.reward, PolicyReward):
            self._check_refresh(self.reward.needs_policy())
        check_one_refresh(self)

    def _check_refresh(self, reads_policy: bool) -> None:
        """Raise UsageError if there is a refresh for a reward that does not read the policy."""
        if self.refresh_every and not reads_policy:
            raise UsageError(
                f"BestOf.refresh_every needs a reward that reads the policy (Rating.reads_policy), got {self.reward!r}; "
                "use refresh_every = 0"
            )

    def most_negatives(self, experiment: Any) -> float:
        """Return the number of candidates, if the sampler can give so many."""
        return min(self.num_candidates, most_negatives(self.sampler, experiment))

    def inner_samplers(self) -> tuple[NegativeSampler, ...]:
        """Return the sampler of the candidates."""
        return (self.sampler,)

    def policy_refresh(self) -> Refresh | None:
        """Return the refresh of the policy that the reward reads, or None if it reads none as far as is known before it is built."""
        known = isinstance(self.reward, PolicyReward) and self.reward.needs_policy()
        return Refresh(self.refresh_every, self.refresh_unit) if known or self.refresh_every else None

    def check_context(self, context: SamplerContext) -> None:
        """Raise UsageError if there is a refresh for a reward that does not read the policy, as its rating shows."""
        if self.refresh_every and not isinstance(self.reward, PolicyReward):
            self._check_refresh(checked_rating(self.reward, context).reads_policy)

    def build(self, context: SamplerContext) -> Draw:
        """Build the draw."""
        candidates, rating = build_draw(self.sampler, context), checked_rating(self.reward, context)
        self._check_refresh(rating.reads_policy)
        if rating.reads_policy and context.policy is None:
            raise InputError(f"BestOf.reward {self.reward!r} reads the policy, got a context without one: pass SamplerContext.policy")
        refresh = Refresh(self.refresh_every, self.refresh_unit) if rating.reads_policy else None

        def best_of(inner: Draw) -> Draw:
            draw = _BestOf(inner.draw, rating.rate, self.num_candidates, context.own_ids)
            # A policy's scores depend on the batch by rounding, which can swap two candidates: such a draw is not by example.
            own = Draw(draw=draw, by_example=not rating.reads_policy, refresh=refresh)
            return combine("BestOf", [inner, own], draw)

        changes = candidates.at is not None
        return replace(best_of(candidates), at=(lambda progress: best_of(draw_at(candidates, progress))) if changes else None)


class _BestOf:
    def __init__(self, draw: DrawNegatives, rate: RateItems, num_candidates: int, own_ids: OwnIds | None) -> None:
        self.draw, self.rate, self.num_candidates, self.own_ids = draw, rate, num_candidates, own_ids

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
            row, place = (reward.isnan() & (drawn > 0)).nonzero()[0].tolist()
            raise NumericsError(
                f"BestOf.reward returned NaN for item {name_item(self.own_ids, int(drawn[row, place]))} of "
                f"{name_user(self.own_ids, int(batch.user[row]))}; return a number for every item but 0"
            )
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

    def most_negatives(self, experiment: Any) -> float:
        """Return the number of the sampler."""
        return most_negatives(self.sampler, experiment)

    def inner_samplers(self) -> tuple[NegativeSampler, ...]:
        """Return the sampler that is filtered."""
        return (self.sampler,)

    def build(self, context: SamplerContext) -> Draw:
        """Build the draw of the sampler, with the filters added to the context."""
        rejects = tuple(_checked_filter(each, context) for each in self.filters)
        return build_draw(self.sampler, context._replace(filters=context.filters + rejects))


def _checked_filter(candidate_filter: CandidateFilter, context: SamplerContext) -> RejectCandidates:
    """Build a filter's predicate. It raises InputError if the filter does not return bool [B, M]."""
    name, rejects = name_with_place(type(candidate_filter)), candidate_filter.refuse(context)
    if not callable(rejects):
        raise InputError(f"{name}: refuse(context) must return a callable with arguments (batch, candidates), got {rejects!r}")

    def checked(batch: SequenceBatch, candidates: Tensor) -> Tensor:
        mask = rejects(batch, candidates)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != candidates.shape:
            got = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise InputError(
                f"{name}: for candidates {list(candidates.shape)} the result must be bool {list(candidates.shape)}, true where a "
                f"candidate is rejected; got {got}"
            )
        return mask

    return checked
