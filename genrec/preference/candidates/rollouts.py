"""Groups of candidates by the policy itself: its beams, its exact best items, or samples without replacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.plugin_source import name_with_place
from genrec.preference.candidates.left_out_items import LeftOutItems
from genrec.preference.candidates.proposing_policy import ProposingPolicy
from genrec.preference.candidates.top_items import check_beams
from genrec.randomness import seed_of
from genrec.types import (
    Candidates,
    CatalogPolicy,
    ObjectiveContext,
    Policy,
    Proposals,
    Refresh,
    RowScores,
    SamplerContext,
    SamplingPolicy,
    SequenceBatch,
)
from genrec.types.specification import check_at_least, check_types


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Candidates of the policy, for objectives that compare the candidates of a row by their rewards.

    - `by="beams"`: the policy's list, by beam search in evaluation mode or, for a policy that scores the whole catalog, exactly. Beams
      are no sample: the surrogate of a policy gradient is then a contrast with on-policy hard negatives.
    - `by="top"`: the exact best items; needs a `genrec.types.CatalogPolicy`.
    - `by="samples"`: distinct items drawn without replacement by Gumbel top-k, with their log-probabilities as the behavior's. A
      `CatalogPolicy` draws from its scores (`gumbel_top_k`), a `SamplingPolicy`, such as Tiger, by stochastic beam search in
      evaluation mode, from its probabilities over the codes of real items only; `size` may exceed its num_beams. The behavior's
      log-probabilities are normalized like the policy's in the loss (`Align.normalize`), so that without dropout the ratio on policy
      is 1. Random numbers depend on the seed and the step, and on the kind of device.

    The logged item is a candidate where the policy proposes it, or everywhere with `include_target`. Candidates are best first, and
    samples in the order of the draws. The behavior's log-probabilities are given for samples and for `refresh` other than 1.
    """

    size: int = 16  # candidates of a row, at least 2; beams: at most the policy's num_beams
    by: Literal["beams", "top", "samples"] = "beams"  # beams or exact best items; exact best items; samples without replacement
    include_target: bool = False  # where no candidate has the target's Semantic ID, the target takes the last place
    refresh: int = 1  # steps between copies of the policy that proposes; 1: the policy in training itself, 0: the reference
    seen: bool = True  # whether items of the history may be candidates

    def __post_init__(self) -> None:
        check_types(self, "Rollouts")
        check_at_least(self, "Rollouts", 2, "size")
        check_at_least(self, "Rollouts", 0, "refresh")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if `size` exceeds the policy's beams; the width of a search for samples follows from `size`."""
        if self.by != "samples":
            check_beams(self, self.size, experiment)

    def check_context(self, context: SamplerContext) -> None:
        """Raise UsageError if the candidates need exact scores, or samples, that the policy does not have."""
        if context.policy is not None:
            self._check_policy(context.policy)

    def most_candidates(self) -> int:
        """Return the largest number of candidates of a row."""
        return self.size

    def policy_refresh(self) -> Refresh | None:
        """Return the refresh of the copy that proposes, or None if the policy in training does."""
        return None if self.refresh == 1 else Refresh(self.refresh)

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        """Return the proposer for one policy and one training set."""
        self._check_policy(context.policy)
        left_out = LeftOutItems(context.data(), self.seen, later=True)
        proposing = ProposingPolicy("Rollouts", self.refresh, context, "rollouts")

        @torch.no_grad()
        def in_step(rows: SequenceBatch, host: SequenceBatch, step: int, scores: RowScores) -> Candidates:
            tables, source = left_out.to(rows.target.device), proposing.scores(rows, scores)
            excluded = tables(rows, host)
            behavior = None
            if self.by == "samples":
                random = torch.Generator(rows.target.device).manual_seed(seed_of(context.seed, "rollouts", step))
                items, behavior, *_ = source.sample(self.size, excluded, random)
            else:
                items = source.top(self.size, excluded).items
            if self.include_target:
                missed = ~tables.shares_semantic_id(rows.target, items).any(1)
                items = _with_last(items, missed, rows.target)
                if behavior is not None:
                    behavior = _with_last(behavior, missed, source.proposing_log_prob(rows.target.unsqueeze(1)).squeeze(1))
            mask = items > 0
            if behavior is None and self.refresh != 1:
                behavior = source.proposing_log_prob(items)
            return Candidates(items, mask, behavior=None if behavior is None else behavior.masked_fill(~mask, 0.0))

        return Proposals(in_step=in_step, begin=proposing.begin)

    def _check_policy(self, policy: Policy) -> None:
        if self.by == "beams" or isinstance(policy, CatalogPolicy) or (self.by == "samples" and isinstance(policy, SamplingPolicy)):
            return
        name = name_with_place(type(policy))
        if self.by == "samples":
            raise UsageError(
                f'Rollouts(by="samples") needs a policy that draws items (genrec.types.SamplingPolicy), such as Tiger or Gpt, or that '
                f"scores the whole catalog exactly (genrec.types.CatalogPolicy), such as SASRec, got {name}, which has no "
                'sample_items(history, n, exclude, generator); use Rollouts(by="beams")'
            )
        raise UsageError(
            f'Rollouts(by="{self.by}") needs a policy that scores the whole catalog exactly (genrec.types.CatalogPolicy), such as '
            f'SASRec or GRU4Rec, got {name}, which searches with beams; use Rollouts(by="beams")'
        )


def _with_last(values: Tensor, replaced: Tensor, last: Tensor) -> Tensor:
    """Return [X, M] with the last value of the rows where `replaced` bool [X] is true from `last` [X]."""
    return torch.cat([values[:, :-1], torch.where(replaced, last, values[:, -1]).unsqueeze(1)], 1)
