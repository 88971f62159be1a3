"""Training and evaluation examples, gathered from the corpus's flat item array without a Python loop per example.

An example is a position in the array of all users' items: the item there is the target, and the user's items before it are the
history. Training has one example for every prefix of length 1 or more. Validation and test have one for each user, with all earlier
events as the history (S. Rajput et al., "Recommender Systems with Generative Retrieval" (2023), section 4). Memory holds a few
numbers per user and none per example; the items may be memory-mapped.

Policies that score every position of a sequence at once train on windows (`WindowBatch`) with the same targets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genrec.data.corpus import Corpus
from genrec.data.splits import BEGIN, END, PARTS, TEST, VALIDATION, Part
from genrec.errors import InputError, UsageError
from genrec.randomness import generator
from genrec.types import Padding, SequenceBatch, WindowBatch

_COLUMNS = {"train": (BEGIN, VALIDATION), "validation": (VALIDATION, TEST), "test": (TEST, END)}  # of bounds: begin and end of a part


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of one part. The targets of a user are consecutive items."""

    items: Tensor  # int32 or int64 [E]  items of all events by user, then time
    users: Tensor  # int64 [R]  users with an example, ascending
    begin: Tensor  # int64 [R]  position of the user's first event in `items`
    first_target: Tensor  # int64 [R]  position of the user's first target in `items`
    cumulative_count: Tensor  # int64 [R]  number of examples of this user and of all users before
    history_length: int  # maximum number of items in a history; older ones are cut off
    selected: Tensor | None = None  # int64 [X]  indices of the examples in use; None: all

    def __len__(self) -> int:
        if self.selected is not None:
            return len(self.selected)
        return int(self.cumulative_count[-1]) if len(self.cumulative_count) else 0

    def batch(self, index: Tensor) -> SequenceBatch:
        """Gather the examples int64 [B], each 0..len-1; histories are padded on the left with 0 to the longest one."""
        run, position = self.places(index)
        length = (position - self.begin[run]).clamp(max=self.history_length)
        longest = int(length.max()) if len(length) else 0
        steps = torch.arange(longest, 0, -1)  # distance from the target
        place = (position[:, None] - steps).clamp(min=0)
        history = torch.where(steps <= length[:, None], self.items[place].long(), 0)
        return SequenceBatch(self.users[run], history, self.items[position].long())

    def places(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return each example's row in `users` and the position of its target in `items`, int64 [B] each."""
        number = index if self.selected is None else self.selected[index]
        run = torch.searchsorted(self.cumulative_count, number, right=True)
        before = torch.where(run > 0, self.cumulative_count[run - 1], 0)
        return run, self.first_target[run] + number - before

    def select(self, index: Tensor) -> Examples:
        """Return the examples int64 [X] in this order."""
        return replace(self, selected=index if self.selected is None else self.selected[index])


def examples(corpus: Corpus, part: Part, history_length: int) -> Examples:
    """Return the examples of one part.

    Training: every event but a user's first is a target. Validation and test: a user's first event in the part is the target; a user
    without an earlier event has no example.
    """
    _check_length(history_length)
    if part not in PARTS:
        raise UsageError(f"a part is one of {', '.join(PARTS)}, got {part!r}")
    bounds = torch.from_numpy(corpus.bounds)
    begin, first, end = bounds[:, BEGIN], bounds[:, _COLUMNS[part][0]], bounds[:, _COLUMNS[part][1]]
    has_target = ((end > first) & (first > begin)).long()
    count = (end - begin - 1).clamp(min=0) if part == "train" else has_target
    if not int(count.sum()):
        raise InputError(f"the part {part!r} holds no example: no user has an event before one of its events")
    targets = begin + 1 if part == "train" else first
    rows = count.nonzero().squeeze(1)
    return Examples(torch.from_numpy(corpus.item), rows + 1, begin[rows], targets[rows], count[rows].cumsum(0), history_length)


@dataclass(frozen=True, eq=False)
class Windows:
    """Training sequences cut into overlapping windows. Over all windows every training target counts once.

    A user with n targets has n items that are followed by one. Up to `history_length` of them form one window. More form several
    windows of that length at a stride of half of it, and the last one ends with the sequence. A window counts the targets that the
    window before it did not contain, so that a target deep in a sequence has more than half a window of history.
    """

    items: Tensor  # int32 or int64 [E]  items of all events by user, then time
    users: Tensor  # int64 [R]  users with a training target, ascending
    begin: Tensor  # int64 [R]  position of the user's first event in `items`
    count: Tensor  # int64 [R]  n, the number of the user's training targets
    cumulative_count: Tensor  # int64 [R]  number of windows of this user and of all users before
    history_length: int  # maximum number of items in a window
    padding: Padding = "zero"  # padding of short sequences, see `windows`

    def __len__(self) -> int:
        return int(self.cumulative_count[-1])

    def batch(self, index: Tensor) -> WindowBatch:
        """Gather the windows int64 [B], each 0..len-1, padded on the left to the longest one."""
        run, stride = torch.searchsorted(self.cumulative_count, index, right=True), _stride(self.history_length)
        number = index - torch.where(run > 0, self.cumulative_count[run - 1], 0)  # among the user's windows
        count = self.count[run]
        end = torch.minimum(count, self.history_length + number * stride)
        first_counted = torch.where(number > 0, self.history_length + (number - 1) * stride, 0)  # first item with a counted target
        length = end.clamp(max=self.history_length)
        width = self.history_length if self.padding == "repeat" else int(length.max()) if len(length) else 0
        place = end[:, None] - torch.arange(width, 0, -1)  # position among the user's items; negative for padding
        is_item, is_counted = place >= (end - length)[:, None], place >= first_counted[:, None]
        if self.padding == "repeat":
            place = place.remainder(count[:, None] + 1)  # a 0 after the user's n items, then the same items again
            is_item = place < count[:, None]
            is_counted = is_item & (place >= first_counted[:, None])
        position = self.begin[run][:, None] + place.clamp(min=0)
        target = self.items[position + 1 if len(position) else position].long()
        history = torch.where(is_item, self.items[position].long(), 0)
        return WindowBatch(self.users[run], history, torch.where(is_counted, target, 0))


def windows(corpus: Corpus, history_length: int, padding: Padding = "zero") -> Windows:
    """Cut the training sequences into windows of at most `history_length` items. A user with one training event has none.

    `padding="zero"` pads a short sequence with 0. `padding="repeat"` pads it with repeats of itself, separated by a 0; the leftmost
    repeat is cut at the window's begin. Targets count in repeats too, which gives short sequences more weight. Source: Y. Dang et
    al., "Repeated Padding for Sequential Recommendation" (2024), the variant that fills the whole length. Deviation: their code draws
    the number of repeats and whether a 0 separates them; here as many as fit are used, with a 0.
    """
    _check_length(history_length)
    if padding not in ("zero", "repeat"):
        raise UsageError(f"padding is 'zero' or 'repeat', got {padding!r}")
    bounds = torch.from_numpy(corpus.bounds)
    begin = bounds[:, BEGIN]
    count = bounds[:, VALIDATION] - begin - 1
    rows = (count > 0).nonzero().squeeze(1)
    if not len(rows):
        raise InputError("the part 'train' holds no example: no user has two training events")
    cumulative = num_windows(count[rows], history_length).cumsum(0)
    return Windows(torch.from_numpy(corpus.item), rows + 1, begin[rows], count[rows], cumulative, history_length, padding)


def num_windows(count: Tensor, history_length: int) -> Tensor:
    """Return the number of windows of users with `count` targets, int64 [R] each."""
    stride = _stride(history_length)
    return 1 + (count - history_length + stride - 1).clamp(min=0) // stride


@dataclass(frozen=True, eq=False)
class CorpusExamples:
    """The training events of a corpus as examples (`genrec.types.ExampleSource`)."""

    corpus: Corpus
    history_length: int  # maximum number of items in a history or window

    def prefixes(self) -> Examples:
        """Return one example for each training event but a user's first."""
        return examples(self.corpus, "train", self.history_length)

    def windows(self, padding: Padding = "zero") -> Windows:
        """Return windows with a target after every item; see `windows`."""
        return windows(self.corpus, self.history_length, padding)


def _stride(history_length: int) -> int:
    """Return the distance between consecutive windows of a sequence, in items."""
    return (history_length + 1) // 2


def _check_length(history_length: int) -> None:
    if history_length < 1:
        raise UsageError(f"history_length must be 1 or more, got {history_length}")


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Return a permutation int64 [count] that depends on the seed and the epoch only."""
    return torch.randperm(count, generator=generator(seed, "order", epoch))
