"""Preference accuracy on validation users: pairs of the held-out item and a negative, which are never trained on.

The accuracy in training is over the pairs of the batch that the step then learns, so it also rises if the policy memorizes them. Here
the positive is the validation item, and the negatives come from the alignment's own sampler, under its
exclusions. They are drawn once, before the first step, by the SFT policy if the sampler reads one, so all validations judge the same
pairs. They select nothing, and their draws are not in the statistics of the negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from genrec.objectives.prepared_rows import items_of
from genrec.policy_modules import device_of
from genrec.preference.candidates.row_scores import scores_of
from genrec.types import Candidates, ObjectiveContext, Policy, SequenceBatch

MAX_USERS = 512  # validation users with pairs, a sample that is the same for all seeds and rows


class ValidationPairs(NamedTuple):
    """Validation users with their negatives. All tensors are on the CPU."""

    batch: SequenceBatch  # [U]  histories and held-out items
    negatives: Tensor  # int64 [U, K]  0 where the sampler has no candidate left


class PairMetrics:
    """Measures preferences on validation users. Their candidates are drawn once, when the objective is built."""

    def __init__(self, context: ObjectiveContext, propose: Callable[[SequenceBatch], Candidates] | None) -> None:
        self.context, self.pairs = context, None
        if context.validation is not None and propose is not None:
            batch = context.validation.batch(torch.arange(len(context.validation)))
            candidates = propose(batch)
            self.pairs = ValidationPairs(batch, items_of(candidates)[:, 1:])

    @torch.no_grad()
    def measure(self) -> Mapping[str, float]:
        """Return the metrics of `pair_metrics`, in batches as in training; empty without validation users."""
        pairs, reference, size = self.pairs, self.context.reference, self.context.part_size
        if pairs is None or reference is None:
            return {}
        items, scored = torch.cat([pairs.batch.target.unsqueeze(1), pairs.negatives], 1), []
        parts = [torch.split(each, size) for each in (*pairs.batch, items)]
        for user, history, target, candidates in zip(*parts, strict=True):
            rows = SequenceBatch(user, history, target)
            scored.append([self._levels(each, rows, candidates) for each in (self.context.policy, reference.policy)])
        levels, frozen = (torch.cat(each) for each in zip(*scored, strict=True))
        return pair_metrics(levels, frozen, pairs.negatives)

    def _levels(self, policy: Policy, rows: SequenceBatch, items: Tensor) -> Tensor:
        device = device_of(policy)
        rows = SequenceBatch(*(each.to(device) for each in rows))
        return scores_of(policy, rows, None, rows, self.context.normalize).level_log_prob(items.to(device)).cpu()


def pair_metrics(levels: Tensor, reference: Tensor, negatives: Tensor) -> dict[str, float]:
    """Return the metrics of pairs, by name. Empty if there is no pair.

    - `preference_accuracy`: share of pairs with a margin above 0, ties counted as 1/2. Where a loss has the implicit reward beta times
      log-ratio, these are the pairs with the higher reward for the held-out item. It is 1/2 where policy and reference are equal.
    - `margin`: log-ratio of the held-out item minus log-ratio of the negative, log p(y) - log p_ref(y) each, mean over pairs, in nats
      per Semantic ID. The definition of `margin` in `genrec.objectives.preference_logs`, so no reward of a loss enters.
    - `likelihood_accuracy`: share of pairs in which the policy gives the held-out item the higher log-probability, ties as 1/2.

    Arguments: `levels` and `reference` float32 [U, 1 + K, L] are level log-probabilities under the policy and the reference;
    `negatives` int64 [U, K], 0 where masked.
    """
    valid = negatives > 0
    if not bool(valid.any()):
        return {}
    drift, total = levels.double() - reference.double(), levels.double()
    margin, above = (((each[:, :1] - each[:, 1:]).sum(-1))[valid] for each in (drift, total))
    return {"preference_accuracy": _share(margin), "margin": float(margin.mean()), "likelihood_accuracy": _share(above)}


def _share(difference: Tensor) -> float:
    """Return the share of differences above 0, with 1/2 for those of 0."""
    return float(((difference > 0).double() + (difference == 0).double() / 2).mean())
