"""The pairs that a reward model is trained on: rows of the training events with the candidates of a proposer, or rows of a file.

Everything is read from the training data (`genrec.types.SamplerContext`), which holds no event of validation or test. A rejected item
that stands in the history of its row is left out: a model would learn to recognize the history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from genrec.errors import InputError, UsageError
from genrec.item_rows import contains
from genrec.preference.candidate_contract import CandidateCheck, checked_proposals
from genrec.randomness import generator
from genrec.types import Feedback, FrozenPolicy, ObjectiveContext, Policy, Proposer, SamplerContext, SequenceBatch, TrainingExamples
from genrec.types.data import DISLIKED, LIKED, NO_USER

EXAMPLES = "Sampled(Uniform(), 1), Sampled(DislikedItems(), 1) or Pairs(...)"
READS_POLICY = "BradleyTerry.pairs {!r} reads a policy, which does not exist yet when a reward model is trained; use " + EXAMPLES
CHUNK = 16_384  # rows that are read at once


class PairRows(NamedTuple):
    """Rows with one preferred item and rejected ones. All tensors are on the CPU."""

    history: Tensor  # int64 [B, T]  items, oldest first, left-padded with 0
    chosen: Tensor  # int64 [B]
    rejected: Tensor  # int64 [B, K]
    mask: Tensor  # bool [B, K]  false: no rejected item
    user: Tensor  # int64 [B]
    weight: Tensor | None  # float32 [B]  of each row in the mean of the loss; None: all alike


@dataclass(frozen=True, eq=False)
class TrainingPrefixes:
    """One example for each training event of a context that is a target, with the events before it."""

    items: Tensor  # int64 [E]  items of all histories, by user and time
    user: Tensor  # int64 [R]
    target: Tensor  # int64 [R]
    begin: Tensor  # int64 [R]  where the row's history begins in `items`
    end: Tensor  # int64 [R]

    def __len__(self) -> int:
        return len(self.target)

    def batch(self, index: Tensor) -> SequenceBatch:
        """Return the examples int64 [B], their histories left-padded with 0."""
        begin, end = self.begin[index], self.end[index]
        place = end[:, None] - torch.arange(int((end - begin).max()) if len(index) else 0, 0, -1)
        history = torch.where(place >= begin[:, None], self.items[place.clamp(min=0)], 0)
        return SequenceBatch(self.user[index], history, self.target[index])


def training_prefixes(context: SamplerContext, feedback: Feedback, history_length: int) -> TrainingPrefixes:
    """Return the examples with targets by their labels (`feedback`). Raises InputError if "liked" finds no label."""
    table = context.interactions
    users, times, items = (table[name].to_numpy("int64") for name in ("user", "time", "item"))
    order = np.lexsort((times, users))  # stable: events at one time keep the order of the source
    user, item = torch.from_numpy(users[order]), torch.from_numpy(items[order])
    label = torch.from_numpy(table["label"].to_numpy("int8", copy=True)[order]) if "label" in table else None
    if label is None and feedback == "liked":
        raise InputError("a reward model of liked events needs labels; set split.liked and split.disliked, or feedback 'not disliked'")
    remembered, allowed = torch.ones_like(user, dtype=torch.bool), torch.ones_like(user, dtype=torch.bool)
    if label is not None and context.histories == "without disliked":
        remembered = label != DISLIKED
    if label is not None and feedback != "all":
        allowed = label == LIKED if feedback == "liked" else label != DISLIKED
    before = torch.cat([torch.zeros(1, dtype=torch.int64), remembered.cumsum(0)])
    _, inverse, counts = torch.unique_consecutive(user, return_inverse=True, return_counts=True)
    first = (counts.cumsum(0) - counts)[inverse]  # of each event, the user's first one
    begin, end = before[first], before[torch.arange(len(user))]
    rows = (allowed & (end > begin)).nonzero().squeeze(1)
    begin = torch.maximum(begin[rows], end[rows] - history_length)
    return TrainingPrefixes(item[remembered], user[rows], item[rows], begin, end[rows])


class TrainingPairs:
    """The pairs of a proposer on the training data, in two parts by user: to train on, and held out."""

    def __init__(
        self, proposer: Proposer, context: SamplerContext, feedback: Feedback, history_length: int, held_out: float, seed: int,
        batch_size: int,
    ) -> None:  # fmt: skip
        built = ObjectiveContext(
            policy=cast(Policy, None),  # there is none: pairs come before any policy
            reference=None,
            source=_NoSource(),
            data=lambda: context,
            frozen_copy=_no_copy,
            normalize="codes",
            steps=0,  # samplers that change over a training draw as at its start
            batch_size=batch_size,
            seed=seed,
            epoch_steps=1,
            history_length=history_length,
        )
        self.proposals = checked_proposals(proposer, proposer.build_proposals(built))
        if self.proposals.in_step is not None:
            raise UsageError(READS_POLICY.format(proposer))
        examples = self.proposals.examples
        self.examples: TrainingExamples = training_prefixes(context, feedback, history_length) if examples is None else examples
        self.check = CandidateCheck(proposer, context.item_count, context.own_ids)
        held = self._held_out(held_out, seed)
        everything = torch.arange(len(self.examples))
        self.train, self.held_out = everything[~held], everything[held]  # int64 [R], numbers of examples

    def _held_out(self, share: float, seed: int) -> Tensor:
        """Return the examples of the users that are held out, bool [R]. A row of a file without a user counts as one."""
        chunks = torch.split(torch.arange(len(self.examples)), CHUNK)
        user = torch.cat([self.examples.batch(index).user for index in chunks]) if len(self.examples) else torch.arange(0)
        group = torch.where(user == NO_USER, int(user.max()) + 1 + torch.arange(len(user)), user) if len(user) else user
        names, place = torch.unique(group, return_inverse=True)
        order = torch.randperm(len(names), generator=generator(seed, "users held out by a reward model"))
        return order[place] < round(share * len(names))

    def rows(self, index: Tensor, step: int) -> PairRows:
        """Return the pairs of the examples int64 [B]; random negatives are those of this step."""
        batch = self.examples.batch(index)
        if self.proposals.listed is not None:
            candidates = self.check(self.proposals.listed(index), batch)
        else:
            assert self.proposals.on_host is not None
            candidates = self.check(self.proposals.on_host(batch, step), batch)
        items = candidates.items.masked_fill(~candidates.mask, 0)
        rejected = items[:, 1:]
        mask = (rejected > 0) & ~contains(batch.history, rejected) & (items[:, :1] > 0)
        if candidates.rows is not None:
            mask = mask & candidates.rows.unsqueeze(1)
        return PairRows(batch.history, items[:, 0], rejected.masked_fill(~mask, 0), mask, batch.user, candidates.weight)


class _NoSource:
    """An `ExampleSource` without examples: the proposer of a reward model brings its own, or takes those of the training events."""

    def prefixes(self, feedback: Feedback = "not disliked") -> TrainingExamples:
        raise UsageError("a proposer for a reward model cannot read the examples of a training")

    def windows(self, padding: str = "zero", feedback: Feedback = "not disliked") -> TrainingExamples:
        raise UsageError("a proposer for a reward model cannot read the examples of a training")


def _no_copy(name: str) -> FrozenPolicy:
    raise UsageError("a proposer for a reward model cannot read a copy of a policy, because none is trained yet")
