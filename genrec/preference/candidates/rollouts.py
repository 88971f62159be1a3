"""Groups of candidates by the policy itself: its beams, its exact best items, or samples without replacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.plugin_source import name_with_place
from genrec.preference.candidates.gumbel_top_k import gumbel_top_k
from genrec.preference.candidates.left_out_items import LeftOutItems
from genrec.preference.candidates.proposing_policy import ProposingPolicy
from genrec.preference.candidates.top_items import check_beams
from genrec.randomness import seed_of
from genrec.types import Candidates, CatalogPolicy, ObjectiveContext, Policy, Proposals, RowScores, SamplerContext, SequenceBatch
from genrec.types.specification import check_at_least, check_types


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Candidates of the policy, for objectives that compare the candidates of a row by their rewards.

    - `by="beams"`: the policy's list, by beam search in evaluation mode or, for a policy that scores the whole catalog, exactly. Beams
      are no sample: the surrogate of a policy gradient is then a contrast with on-policy hard negatives.
    - `by="top"`: the exact best items; needs a `genrec.types.CatalogPolicy`.
    - `by="samples"`: distinct items drawn by Gumbel top-k (`gumbel_top_k`), with their log-probabilities as the behavior's; needs a
      `CatalogPolicy`. Random numbers depend on the seed and the step, and on the kind of device.

    The logged item is a candidate where the policy proposes it, or everywhere with `include_target`. Candidates are best first, and
    samples in the order of the draws. The behavior's log-probabilities are given for samples and for `refresh` other than 1.
    """

    size: int = 16  # candidates of a row, at least 2; at most the policy's num_beams if it searches with beams
    by: Literal["beams", "top", "samples"] = "beams"  # beam search, the exact best items, or samples without replacement
    include_target: bool = False  # where no candidate has the target's Semantic ID, the target takes the last place
    refresh: int = 1  # steps between copies of the policy that proposes; 1: the policy in training itself, 0: the reference
    seen: bool = True  # whether items of the history may be candidates

    def __post_init__(self) -> None:
        check_types(self, "Rollouts")
        check_at_least(self, "Rollouts", 2, "size")
        check_at_least(self, "Rollouts", 0, "refresh")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if `size` exceeds the policy's beams."""
        check_beams(self, self.size, experiment)

    def check_context(self, context: SamplerContext) -> None:
        """Raise UsageError if the candidates need exact scores that the policy does not have."""
        if context.policy is not None:
            self._check_policy(context.policy)

    def most_candidates(self) -> int:
        """Return the largest number of candidates of a row."""
        return self.size

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        """Return the proposer for one policy and one training set."""
        self._check_policy(context.policy)
        left_out = LeftOutItems(context.data(), self.seen, later=True)
        proposing = ProposingPolicy("Rollouts", self.refresh, context, "rollouts")

        @torch.no_grad()
        def in_step(rows: SequenceBatch, host: SequenceBatch, step: int, scores: RowScores) -> Candidates:
            tables, source = left_out.to(rows.target.device), proposing.scores(rows, scores)
            excluded = tables(rows, host)
            if self.by == "samples":
                items = _sample(
                    source, excluded, self.size, len(tables.representative) - 1, rows, seed_of(context.seed, "rollouts", step)
                )
            else:
                items = source.top(self.size, excluded).items
            if self.include_target:
                missed = ~tables.shares_semantic_id(rows.target, items).any(1)
                items = torch.cat([items[:, :-1], torch.where(missed, rows.target, items[:, -1]).unsqueeze(1)], 1)
            mask = items > 0
            if self.by != "samples" and self.refresh == 1:
                return Candidates(items, mask)
            behavior = source.level_log_prob(items).sum(-1).masked_fill(~mask, 0.0)
            return Candidates(items, mask, behavior=behavior)

        return Proposals(in_step=in_step, begin=proposing.begin)

    def _check_policy(self, policy: Policy) -> None:
        if self.by == "beams" or isinstance(policy, CatalogPolicy):
            return
        raise UsageError(
            f'Rollouts(by="{self.by}") needs a policy that scores the whole catalog exactly (genrec.types.CatalogPolicy), such as '
            f'SASRec or GRU4Rec, got {name_with_place(type(policy))}, which searches with beams; use Rollouts(by="beams")'
        )


def _sample(scores: RowScores, excluded: Tensor | None, size: int, num_items: int, rows: SequenceBatch, seed: int) -> Tensor:
    """Return distinct items drawn by the policy's probabilities, int64 [X, size], 0 at the end of a row with fewer items."""
    device = rows.target.device
    items = torch.arange(1, num_items + 1, device=device).expand(len(rows.target), -1)
    log_prob = scores.level_log_prob(items).sum(-1)
    if excluded is not None:
        log_prob = torch.nn.functional.pad(log_prob, (1, 0)).scatter(1, excluded, -torch.inf)[:, 1:]
    drawn = gumbel_top_k(log_prob, size, torch.Generator(device).manual_seed(seed))
    return (drawn.columns + 1).masked_fill(~drawn.drawn, 0)
