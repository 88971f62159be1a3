"""Metrics of preference on the validation or test users of a corpus with labels, and the users who have no target.

A user with a disliked held-out event and no liked one has no target of a ranking, but a list that may hold the disliked item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from genrec.data.corpus import Corpus
from genrec.data.examples import Examples
from genrec.data.feedback_statistics import HeldOutPart
from genrec.data.held_out_feedback import disliked_examples, held_out_items
from genrec.evaluation.evaluate import Evaluate, Evaluation, evaluate
from genrec.evaluation.feedback_metrics import disliked_of_lists, mean_pairwise_accuracy
from genrec.policy_modules import device_of
from genrec.training.user_batches import batches, select_users
from genrec.types import HistoryInput, Policy, Recommender, SequenceBatch
from genrec.types.event_history import inputs_of

CUTOFF = 10  # of disliked@n in validation


def users_without_target(
    corpus: Corpus, part: HeldOutPart, history_length: int, ranked: int, sampled: int, inputs: Sequence[HistoryInput] = ()
) -> Examples | None:
    """Return the users with a disliked event in the part and no target; None if there are none.

    If `sampled` of the `ranked` users with a target are drawn (0 = all), the same share of these users is drawn, at least one.
    """
    entries = disliked_examples(corpus, part, history_length, inputs)
    if entries is None or not 0 < sampled < ranked:
        return entries
    return select_users(entries, max(1, round(len(entries) * sampled / ranked)), f"{part} without target")


def disliked_without_target(
    recommender: Recommender, corpus: Corpus, part: HeldOutPart, entries: Examples | None, spec: Evaluate, seen: Any
) -> tuple[Tensor, dict[str, Tensor]] | None:
    """Return the users without a target, int64 [V], and their `disliked@n` at the cut-offs of `spec`, float64 [V]; None without any.

    `entries` are those of `users_without_target`; for `seen` see `genrec.evaluation.evaluate.evaluate`.
    """
    held_out = held_out_items(corpus, part)
    if entries is None or held_out is None:
        return None
    users = batches(entries, spec.batch_size, device_of(recommender))
    return disliked_of_lists(evaluate(recommender, users, spec, seen, own_ids=corpus.own_ids), held_out, spec.cutoffs)


class ValidationFeedback:
    """Measures preferences on the validation users. Without labels it measures nothing."""

    def __init__(self, policy: Policy, corpus: Corpus, experiment: Any, ranked: int, sampled: int, shared: Tensor | None) -> None:
        self.policy, self.corpus, self.shared = policy, corpus, shared
        self.held_out = held_out_items(corpus, "validation")
        inputs = inputs_of(experiment.policy)
        self.without_target = users_without_target(corpus, "validation", experiment.history_length, ranked, sampled, inputs)

    def pairs(self, users: Sequence[SequenceBatch]) -> dict[str, float]:
        """Return `pairwise_accuracy` by name; empty if no user has a pair."""
        if self.held_out is None:
            return {}
        return mean_pairwise_accuracy(self.policy, users, self.held_out, self.corpus.item_count, self.shared)

    def disliked(self, result: Evaluation, spec: Evaluate, seen: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return `disliked@10` by name, of the ranked users and of those without a target; empty if no user has a disliked event."""
        if self.held_out is None:
            return {}
        spec = Evaluate(cutoffs=(CUTOFF,), batch_size=spec.batch_size, filter_seen=spec.filter_seen)
        name = f"disliked@{CUTOFF}"
        values = disliked_of_lists(result, self.held_out, spec.cutoffs)[1][name]
        more = disliked_without_target(self.policy, self.corpus, "validation", self.without_target, spec, seen)
        values = values if more is None else torch.cat([values, more[1][name]])
        known = values[~values.isnan()]
        return {name: float(known.mean())} if len(known) else {}
