"""Stage 1, what training and evaluation read: histories and targets, gathered from one flat array without Python per example.

In: a corpus. Out: `SequenceBatch`. An example is a place in the flat array of all users' items: its history ends just before it.
Training has one example per prefix of length 1 or more; validation and test have one per user, whose history is all that came
before: S. Rajput et al., "Recommender Systems with Generative Retrieval" (2023), section 4. What is kept in memory is a few
numbers a user, none an example: the items themselves may be memory-mapped.

For a policy that scores every place of a sequence at once, training has windows (`WindowBatch`) instead, with the same targets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from genrec.data.corpus import Corpus
from genrec.data.splits import BEGIN, END, PARTS, TEST, VALIDATION, Part
from genrec.errors import InputError, UsageError
from genrec.randomness import generator
from genrec.types import SequenceBatch, WindowBatch

Padding = Literal["zero", "repeat"]  # what stands left of a short sequence: nothing, or the sequence again and again
_RUNS = {"train": (BEGIN, VALIDATION), "validation": (VALIDATION, TEST), "test": (TEST, END)}  # where the part begins and ends


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of one part: of each user a run of targets, one after the other."""

    items: Tensor  # int32 or int64 [E]  the items of all events, user by user, oldest first
    users: Tensor  # int64 [R]  those with an example, ascending
    begin: Tensor  # int64 [R]  where the user's events begin in `items`
    first: Tensor  # int64 [R]  where the user's first target is; the history is what lies between
    until: Tensor  # int64 [R]  examples of this user and of those before
    history_length: int  # of the history only the last so many items are given
    chosen: Tensor | None = None  # int64 [X]  the examples that count, where it is not all

    def __len__(self) -> int:
        if self.chosen is not None:
            return len(self.chosen)
        return int(self.until[-1]) if len(self.until) else 0

    def batch(self, index: Tensor) -> SequenceBatch:
        """Examples int64 [B], each 0..len-1 -> their batch, as long as its longest history, left-padded with 0."""
        run, position = self.places(index)
        length = (position - self.begin[run]).clamp(max=self.history_length)
        longest = int(length.max()) if len(length) else 0
        steps = torch.arange(longest, 0, -1)  # places back from the target
        place = (position[:, None] - steps).clamp(min=0)
        history = torch.where(steps <= length[:, None], self.items[place].long(), 0)
        return SequenceBatch(self.users[run], history, self.items[position].long())

    def places(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Examples int64 [B] -> the run of each, and where its target is in `items`, int64 [B] each."""
        number = index if self.chosen is None else self.chosen[index]
        run = torch.searchsorted(self.until, number, right=True)
        before = torch.where(run > 0, self.until[run - 1], 0)
        return run, self.first[run] + number - before

    def select(self, index: Tensor) -> Examples:
        """Only these examples, in this order."""
        return replace(self, chosen=index if self.chosen is None else self.chosen[index])


def examples(corpus: Corpus, part: Part, history_length: int) -> Examples:
    """The examples of one part: every training event but a user's first; of validation and test a user's first event there.

    A user whose first event of all is in the part has no history to predict it from, and no example.
    """
    _check_length(history_length)
    if part not in PARTS:
        raise UsageError(f"a part is one of {', '.join(PARTS)}, got {part!r}")
    bounds = torch.from_numpy(corpus.bounds)
    begin, first, end = bounds[:, BEGIN], bounds[:, _RUNS[part][0]], bounds[:, _RUNS[part][1]]
    one = ((end > first) & (first > begin)).long()
    count = (end - begin - 1).clamp(min=0) if part == "train" else one
    if not int(count.sum()):
        raise InputError(f"the part {part!r} holds no example: no user has an event before one of its events")
    targets = begin + 1 if part == "train" else first
    some = count.nonzero().squeeze(1)
    return Examples(torch.from_numpy(corpus.item), some + 1, begin[some], targets[some], count[some].cumsum(0), history_length)


@dataclass(frozen=True, eq=False)
class Windows:
    """Training sequences cut into windows; over all windows every training target counts once.

    A user with n targets has n items that are followed by one. Up to `history_length` of them are one window. More are several, each
    `history_length` long and half of that further on (the last one as far as there are items), and each counts what the one before
    it did not reach: a target deep in a sequence sees more than half a window before it.
    """

    items: Tensor  # int32 or int64 [E]  the items of all events, user by user, oldest first
    users: Tensor  # int64 [R]  those with a training target, ascending
    begin: Tensor  # int64 [R]  where the user's events begin in `items`
    count: Tensor  # int64 [R]  n, the user's training targets
    until: Tensor  # int64 [R]  windows of this user and of those before
    history_length: int  # items of a window, at most
    padding: Padding = "zero"  # "repeat" as in `windows`

    def __len__(self) -> int:
        return int(self.until[-1])

    def batch(self, index: Tensor) -> WindowBatch:
        """Windows int64 [B], each 0..len-1 -> their batch, as long as its longest, padded on the left."""
        run, step = torch.searchsorted(self.until, index, right=True), _stride(self.history_length)
        number = index - torch.where(run > 0, self.until[run - 1], 0)  # among the user's windows
        count = self.count[run]
        end = torch.minimum(count, self.history_length + number * step)
        counted = torch.where(number > 0, self.history_length + (number - 1) * step, 0)  # the first item whose target counts
        length = end.clamp(max=self.history_length)
        width = self.history_length if self.padding == "repeat" else int(length.max()) if len(length) else 0
        place = end[:, None] - torch.arange(width, 0, -1)  # of each item among the user's; negative where there is none
        real, counts = place >= (end - length)[:, None], place >= counted[:, None]
        if self.padding == "repeat":
            place = place.remainder(count[:, None] + 1)  # a 0 after the user's n items, then they come again
            real = place < count[:, None]
            counts = real & (place >= counted[:, None])
        where = self.begin[run][:, None] + place.clamp(min=0)
        target = self.items[where + 1 if len(where) else where].long()
        return WindowBatch(self.users[run], torch.where(real, self.items[where].long(), 0), torch.where(counts, target, 0))


def windows(corpus: Corpus, history_length: int, padding: Padding = "zero") -> Windows:
    """The training sequences in windows of at most `history_length` items; a user with fewer than two training events has none.

    `padding="repeat"`: a sequence shorter than a window fills it with itself, a 0 between repeats, the leftmost one cut where the
    window begins; targets count in repeats too, so that short sequences weigh more. Y. Dang et al., "Repeated Padding for Sequential
    Recommendation" (2024), the form that repeats until the length is reached. Their code instead draws at random, every time, how
    many repeats (from 1 up to that many) stand there, with or without the 0: here it is always as many as fit.
    """
    _check_length(history_length)
    if padding not in ("zero", "repeat"):
        raise UsageError(f"padding is 'zero' or 'repeat', got {padding!r}")
    bounds = torch.from_numpy(corpus.bounds)
    begin = bounds[:, BEGIN]
    count = bounds[:, VALIDATION] - begin - 1
    some = (count > 0).nonzero().squeeze(1)
    if not len(some):
        raise InputError("the part 'train' holds no example: no user has two training events")
    step = _stride(history_length)
    number = 1 + (count[some] - history_length + step - 1).clamp(min=0) // step
    items = torch.from_numpy(corpus.item)
    return Windows(items, some + 1, begin[some], count[some], number.cumsum(0), history_length, padding)


def _stride(history_length: int) -> int:
    """From one window of a sequence to the next, in items."""
    return (history_length + 1) // 2


def _check_length(history_length: int) -> None:
    if history_length < 1:
        raise UsageError(f"history_length must be 1 or more, got {history_length}")


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """A permutation int64 [count], a function of the seed and the epoch only."""
    return torch.randperm(count, generator=generator(seed, "order", epoch))
