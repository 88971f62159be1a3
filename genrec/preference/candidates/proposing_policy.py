"""The policy that proposes candidates: the policy in training, a frozen copy that is refreshed, or the reference."""

from __future__ import annotations

from collections.abc import Callable

import torch

from genrec.errors import UsageError
from genrec.policy_modules import device_of, evaluation_mode
from genrec.preference.candidates.row_scores import scores_without_gradient
from genrec.types import Candidates, CatalogPolicy, FrozenPolicy, ObjectiveContext, Policy, RowScores, SequenceBatch

VALIDATION_ROWS = 256  # validation users that are scored at once


class ProposingPolicy:
    """The policy whose scores choose the candidates.

    `refresh` is the number of steps between copies of the policy in training: 1 is the policy in training itself, more is a frozen
    copy in evaluation mode, and 0 is the reference. `name` is the proposer's, for messages.
    """

    def __init__(self, name: str, refresh: int, context: ObjectiveContext, label: str) -> None:
        self.refresh, self.context = refresh, context
        self.frozen: FrozenPolicy | None = None
        if refresh == 0 and context.reference is None:
            raise UsageError(f"{name}.refresh = 0 reads the reference, which SFT has not; set refresh to 1 or more")
        if refresh != 1:
            self.frozen = context.reference if refresh == 0 else context.frozen_copy(label)
        self.is_exact = isinstance(context.policy, CatalogPolicy)

    @property
    def begin(self) -> Callable[[int], None] | None:
        """The function that refreshes the copy at the beginning of a step; None without a copy."""
        return self._refresh if self.refresh > 1 else None

    def _refresh(self, step: int) -> None:
        if step % self.refresh == 0:
            assert self.frozen is not None
            self.frozen.refresh()

    @property
    def policy(self) -> Policy:
        """The policy that proposes."""
        return self.context.policy if self.frozen is None else self.frozen.policy

    def scores(self, rows: SequenceBatch, scores: RowScores) -> RowScores:
        """Return the scores that choose the candidates of rows; `scores` are those of the policy in training."""
        return scores if self.frozen is None else scores_without_gradient(self.frozen.policy, rows, self.context.normalize)

    def at_start(self, rows: SequenceBatch, propose: Callable[[SequenceBatch, SequenceBatch, RowScores], Candidates]) -> Candidates:
        """Return the candidates of validation users on the CPU, by the reference, or by the policy in training without one."""
        policy = self.context.policy if self.context.reference is None else self.context.reference.policy
        device, parts = device_of(policy), []
        for begin in range(0, len(rows.target), VALIDATION_ROWS):
            host = SequenceBatch(*(each[begin : begin + VALIDATION_ROWS] for each in rows))
            moved = SequenceBatch(*(each.to(device) for each in host))
            with evaluation_mode(policy):
                found = propose(moved, host, scores_without_gradient(policy, moved, self.context.normalize))
            parts.append((found.items.cpu(), found.mask.cpu()))
        items, mask = (torch.cat(each) for each in zip(*parts, strict=True))
        return Candidates(items, mask)
