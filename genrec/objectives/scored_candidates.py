"""Candidates as the policy and the reference score them: items, or code sequences where some candidates are no items."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec.objectives.prepared_rows import items_of
from genrec.preference.rewards.reward_tables import DeviceTable
from genrec.semantic_ids import SemanticIds
from genrec.types import Candidates, LogProbs, RowScores


class ScoredCandidates(NamedTuple):
    """Candidates to score."""

    items: Tensor  # int64 [X, M]  0 where masked, and where no item has the codes
    codes: Tensor | None = None  # int64 [X, M, L]  of all candidates, -1 where masked; None: all candidates are items

    def to(self, device: torch.device) -> ScoredCandidates:
        """Return the candidates on a device."""
        return ScoredCandidates(self.items.to(device), None if self.codes is None else self.codes.to(device))

    def level_log_prob(self, scores: RowScores) -> Tensor:
        """Return level log-probabilities float32 [X, M, L], -inf where masked."""
        return scores.level_log_prob(self.items) if self.codes is None else scores.code_level_log_prob(self.codes)

    def present(self, count: int) -> Tensor:
        """Return which of the first `count` candidates are not masked: bool [X, count]."""
        return (self.items > 0 if self.codes is None else self.codes[..., 0] >= 0)[:, :count]


class CandidateCodes:
    """The codes of candidates, those of items from the Semantic IDs."""

    def __init__(self, semantic_ids: SemanticIds) -> None:
        none = torch.full((1, semantic_ids.levels), -1)
        self.table = DeviceTable(torch.cat([none, semantic_ids.codes]))  # int64 [N + 1, L]

    def scored(self, candidates: Candidates, mismatched: Tensor | None = None) -> ScoredCandidates:
        """Return candidates to score, with a further item int64 [X] (0 = none) at the end of each row if there is one."""
        items, codes = items_of(candidates), candidates.codes
        if mismatched is not None:
            items = torch.cat([items, mismatched.unsqueeze(1)], 1)
        if codes is None:
            return ScoredCandidates(items)
        codes = codes.masked_fill(~candidates.mask.unsqueeze(-1), -1)
        if mismatched is not None:
            codes = torch.cat([codes, torch.full_like(codes[:, :1], -1)], 1)
        return ScoredCandidates(items, torch.where((items > 0).unsqueeze(-1), self.table.on(items.device)[items], codes))


def log_probs(levels: Tensor, num_rejected: int | None = None, rewards: Tensor | None = None) -> LogProbs:
    """Sum level log-probabilities float32 [X, 1 + K (+ 1), L] of the positive, K negatives (and a mismatched item) over the levels.

    `num_rejected` is K; None means that all candidates but the first are negatives.
    """
    total = levels.sum(-1)
    count = total.shape[1] - 1 if num_rejected is None else num_rejected
    mismatched = total[:, 1 + count] if total.shape[1] > 1 + count else None
    return LogProbs(total[:, 0], total[:, 1 : 1 + count], levels.shape[-1], mismatched, rewards, levels[:, : 1 + count])
