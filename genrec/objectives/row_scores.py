"""The policy in training on the rows of a batch (`genrec.types.RowScores`)."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor

from genrec.types import ConstrainedPolicy, Policy, Ranking, SequenceBatch, WindowBatch


class PrefixScores:
    """Scores of rows by the policy's own history encoder."""

    def __init__(self, policy: Policy, rows: SequenceBatch, normalize: Literal["codes", "children"]) -> None:
        self.policy, self.rows, self.normalize = policy, rows, normalize

    def level_log_prob(self, items: Tensor) -> Tensor:
        """Return level log-probabilities float32 [X, M, L]."""
        if self.normalize == "codes":
            return self.policy.level_log_prob(self.rows.history, items)
        return cast(ConstrainedPolicy, self.policy).constrained_level_log_prob(self.rows.history, items)

    @torch.no_grad()
    def top(self, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best items of each row by the policy's beams."""
        return self.policy.recommend(self.rows.history, n, exclude)

    def rank(self, items: Tensor) -> Tensor | None:
        """Return None: beams do not know the place of every item."""
        return None


def scores_of(
    policy: Policy,
    batch: SequenceBatch | WindowBatch,
    places: Tensor | None,
    rows: SequenceBatch,
    normalize: Literal["codes", "children"],
) -> PrefixScores:
    """Return the scores of a policy on the rows of a batch; `places` int64 [X, 2] are those of a window batch."""
    return PrefixScores(policy, rows, normalize)
