"""The target against the policy's own best items, where the target is among them.

For a history with target y and the scores s of the policy,

    gate = 1[#{i != y: s_i > s_y} < K]          candidates = y, then the K - 1 best other items

Only rows past the gate are preferences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.candidates.left_out_items import LeftOutItems
from genrec.preference.candidates.proposing_policy import ProposingPolicy
from genrec.preference.exclusions import take_first
from genrec.types import Candidates, ObjectiveContext, Proposals, Ranking, Refresh, RowScores, SequenceBatch
from genrec.types.specification import check_at_least, check_types


@dataclass(frozen=True, kw_only=True)
class TopItems:
    """The logged item, which is preferred, and the policy's best other items: on-policy hard negatives with a hit gate.

    A policy that scores the whole catalog (`genrec.types.CatalogPolicy`) gives its exact best items. Other policies give the items of
    their beams, and the gate asks whether the target is among the first `size`. Items with the target's Semantic ID are no
    candidates; equal scores are ordered by item id.

    In a row without a preference all candidates but the target are masked: a row that the gate rejects, or without another item.
    """

    size: int = 16  # candidates of a row with the target, at least 1; at most the policy's num_beams if it searches with beams
    gate: bool = True  # only rows whose target is among the K best items are preferences
    refresh: int = 1  # steps between copies of the policy that proposes; 1: the policy in training itself, 0: the reference
    seen: bool = True  # whether items of the history may be candidates; they are common errors where lists keep seen items
    later: bool = True  # whether items that the user takes outside the history in training, mostly later, may be candidates

    def __post_init__(self) -> None:
        check_types(self, "TopItems")
        check_at_least(self, "TopItems", 1, "size")
        check_at_least(self, "TopItems", 0, "refresh")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if `size` exceeds the policy's beams."""
        check_beams(self, self.size, experiment)

    def most_candidates(self) -> int:
        """Return the largest number of candidates of a row."""
        return self.size

    def policy_refresh(self) -> Refresh | None:
        """Return the refresh of the copy that proposes, or None if the policy in training does."""
        return None if self.refresh == 1 else Refresh(self.refresh)

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        """Return the proposer for one policy and one training set."""
        left_out = LeftOutItems(context.data(), self.seen, self.later)
        proposing = ProposingPolicy("TopItems", self.refresh, context, "top items")

        def in_step(rows: SequenceBatch, host: SequenceBatch, step: int, scores: RowScores) -> Candidates:
            return self._propose(rows, host, proposing.scores(rows, scores), left_out, proposing.is_exact, self.gate)

        def for_validation(rows: SequenceBatch) -> Candidates:  # all pairs are measured, so without the gate
            return proposing.at_start(
                rows, lambda moved, host, scores: self._propose(moved, host, scores, left_out, proposing.is_exact, False)
            )

        return Proposals(in_step=in_step, begin=proposing.begin, for_validation=for_validation)

    @torch.no_grad()
    def _propose(
        self, rows: SequenceBatch, host: SequenceBatch, scores: RowScores, left_out: LeftOutItems, is_exact: bool, gate: bool
    ) -> Candidates:
        """Return the candidates of rows; `host` are the rows on the CPU."""
        excluded = _excluded(rows, host, left_out, with_target=is_exact)
        listed = scores.top(self.size, excluded)
        if is_exact:
            others = listed.items[:, : self.size - 1]
            passed = _passes_exactly(rows.target, scores, listed)
        else:
            hits = listed.items == rows.target.unsqueeze(1)
            others = take_first(listed.items, ~hits, self.size - 1)
            passed = hits.any(1)
        counted = (others > 0).any(1)
        counted = counted & passed if gate else counted
        items = torch.cat([rows.target.unsqueeze(1), others], 1)
        mask = (items > 0) & counted.unsqueeze(1)
        mask[:, 0] = True
        return Candidates(items, mask, counted)


def _excluded(rows: SequenceBatch, host: SequenceBatch, left_out: LeftOutItems, with_target: bool) -> Tensor | None:
    """Return the items that are no candidates, int64 [X, E]: items left out, those with the target's Semantic ID, and the target."""
    left_out = left_out.to(rows.target.device)
    lists = [left_out.twins[rows.target]]
    lists += [rows.target.unsqueeze(1)] if with_target else []
    others = left_out(rows, host)
    excluded = torch.cat(lists if others is None else [*lists, others], 1)
    return excluded if excluded.shape[1] else None


def _passes_exactly(target: Tensor, scores: RowScores, others: Ranking) -> Tensor:
    """Return whether fewer than K other items have a higher score than the target int64 [X]: bool [X].

    `others` holds the K best other items, so that this is whether the last of them has no higher score.
    """
    own = scores.level_log_prob(target.unsqueeze(1)).sum(-1).squeeze(1)
    return own >= others.scores[:, -1]


def check_beams(proposer: object, size: int, experiment: Any) -> None:
    """Raise UsageError if a proposer's list is longer than the beams of the experiment's policy; `size` is its length."""
    num_beams = getattr(experiment.policy, "num_beams", None)
    if num_beams is not None and size > num_beams:
        raise UsageError(
            f"{experiment.name}: {type(proposer).__name__}.size must be at most policy.num_beams = {num_beams}, got {size}: lower it "
            f"(--align.size {num_beams}), or raise policy.num_beams (--policy.num-beams {size})"
        )
