"""Stage 1, what training and evaluation read: histories and targets, gathered from one flat array without Python per example.

In: a corpus. Out: `SequenceBatch`. An example is a place in the flat array of all users' items: its history ends just before it.
Training has one example per prefix of length 1 or more; validation and test have one per user, whose history is all that came
before: S. Rajput et al., "Recommender Systems with Generative Retrieval" (2023), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from genrec.data.corpus import Corpus
from genrec.data.splits import PARTS, Part
from genrec.errors import InputError, UsageError
from genrec.randomness import generator
from genrec.types import SequenceBatch


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of one part."""

    items: Tensor  # int64 [E]  the items of all events, user by user, oldest first
    user: Tensor  # int64 [X]
    start: Tensor  # int64 [X]  where the user's events begin in `items`
    position: Tensor  # int64 [X]  where the target is in `items`; the history is what lies between
    history_length: int  # of the history only the last so many items are given

    def __len__(self) -> int:
        return len(self.user)

    def batch(self, index: Tensor) -> SequenceBatch:
        """Examples int64 [B], each 0..len-1 -> their batch, as long as its longest history, left-padded with 0."""
        position = self.position[index]
        length = (position - self.start[index]).clamp(max=self.history_length)
        longest = int(length.max()) if len(length) else 0
        steps = torch.arange(longest, 0, -1)  # how far before the target
        place = (position[:, None] - steps).clamp(min=0)
        history = torch.where(steps <= length[:, None], self.items[place], 0)
        return SequenceBatch(self.user[index], history, self.items[position])

    def select(self, index: Tensor) -> Examples:
        """Only these examples, in this order."""
        return replace(self, user=self.user[index], start=self.start[index], position=self.position[index])


def examples(corpus: Corpus, part: Part, history_length: int) -> Examples:
    """The examples of one part: every training event but a user's first; of validation and test a user's first event there.

    A user whose first event of all is in the part has no history to predict it from, and no example.
    """
    if history_length < 1:
        raise UsageError(f"history_length must be 1 or more, got {history_length}")
    if part not in PARTS:
        raise UsageError(f"a part is one of {', '.join(PARTS)}, got {part!r}")
    user = corpus.interactions["user"].to_numpy()
    chosen = corpus.interactions["part"].to_numpy() == part
    first = np.append(True, user[1:] != user[:-1])
    start = np.maximum.accumulate(np.where(first, np.arange(len(user)), 0))
    if part != "train":
        chosen = chosen & ~(np.append(False, chosen[:-1]) & ~first)  # the first event of the part
    position = np.flatnonzero(chosen & ~first)
    if not len(position):
        raise InputError(f"the part {part!r} holds no example: no user has an event before one of its events")
    return Examples(
        items=torch.tensor(corpus.interactions["item"].to_numpy()),
        user=torch.tensor(user[position]),
        start=torch.tensor(start[position]),
        position=torch.tensor(position),
        history_length=history_length,
    )


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """A permutation int64 [count], a function of the seed and the epoch only."""
    return torch.randperm(count, generator=generator(seed, "order", epoch))
