"""Training and evaluation examples, gathered from the corpus's flat item array without a Python loop per example.

An example is a position in the array of all users' items: the item there is the target, and the user's items before it are the
history. Training has one example for every prefix of length 1 or more. Validation and test have one for each user, with all earlier
events as the history (S. Rajput et al., "Recommender Systems with Generative Retrieval" (2023), section 4). Memory holds a few
numbers per user and none per example; the items may be memory-mapped.

Policies that score every position of a sequence at once train on windows (`WindowBatch`) with the same targets.

Where events have labels, the target of validation and test is the first liked event of the part, and the history is what came before
the part. Which events are targets of training, `feedback` says. Disliked events stand in histories unless the split leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genrec.data.corpus import Corpus
from genrec.data.event_inputs import EventInputs, event_inputs
from genrec.data.feedback_statistics import HELD_OUT, HeldOutPart, first_with
from genrec.data.feedback_targets import KeptEvents, allowed_targets, kept_events
from genrec.data.splits import BEGIN, CHUNK, PARTS, VALIDATION, Part
from genrec.errors import InputError, UsageError
from genrec.randomness import generator
from genrec.types import Feedback, HistoryInput, Padding, SequenceBatch, WindowBatch
from genrec.types.data import DISLIKED, LIKED

WINDOWS_AT_ONCE = 4096  # windows that are searched for a target at once


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
    history_end: Tensor | None = None  # int64 [R]  position in `items` before which the histories of a user end; None: at the target
    kept: KeptEvents | None = None  # the events of histories; None: all
    inputs: EventInputs | None = None  # of these events, if the policy asks for any; None: histories are items alone

    def __len__(self) -> int:
        if self.selected is not None:
            return len(self.selected)
        return int(self.cumulative_count[-1]) if len(self.cumulative_count) else 0

    def batch(self, index: Tensor) -> SequenceBatch:
        """Gather the examples int64 [B], each 0..len-1; histories are padded on the left with 0 to the longest one."""
        run, position = self.places(index)
        begin, end = self._histories(run, position)
        items = self.items if self.kept is None else self.kept.items
        length = (end - begin).clamp(max=self.history_length)
        longest = int(length.max()) if len(length) else 0
        steps = torch.arange(longest, 0, -1)  # distance from the end of the history
        place = (end[:, None] - steps).clamp(min=0)
        history = torch.where(steps <= length[:, None], items[place].long(), 0)
        if self.inputs is not None:
            history = self.inputs.beside(history, self.users[run], place)
        return SequenceBatch(self.users[run], history, self.items[position].long())

    def history_lengths(self, index: Tensor) -> Tensor:
        """Return the number of items in each example's history, int64 [B], not cut to `history_length`."""
        begin, end = self._histories(*self.places(index))
        return end - begin

    def _histories(self, run: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the histories of examples begin and end among the events of histories, int64 [B] each."""
        begin, end = self.begin[run], position if self.history_end is None else self.history_end[run]
        return (begin, end) if self.kept is None else (self.kept.before[begin], self.kept.before[end])

    def places(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return each example's row in `users` and the position of its target in `items`, int64 [B] each."""
        number = index if self.selected is None else self.selected[index]
        run = torch.searchsorted(self.cumulative_count, number, right=True)
        before = torch.where(run > 0, self.cumulative_count[run - 1], 0)
        return run, self.first_target[run] + number - before

    def select(self, index: Tensor) -> Examples:
        """Return the examples int64 [X] in this order."""
        return replace(self, selected=index if self.selected is None else self.selected[index])


def examples(
    corpus: Corpus, part: Part, history_length: int, feedback: Feedback = "not disliked", inputs: Sequence[HistoryInput] = ()
) -> Examples:
    """Return the examples of one part, with the inputs of histories that the policy asks for.

    Training: every event but a user's first is a target, if `feedback` makes it one (see `allowed_targets`). Validation and test: a
    user's first event in the part is the target, or the first liked one where events have labels. A user without an event in the
    history has no example.
    """
    _check_length(history_length)
    if part not in PARTS:
        raise UsageError(f"a part is one of {', '.join(PARTS)}, got {part!r}")
    entries = _training(corpus, history_length) if part == "train" else held_out_examples(corpus, part, history_length, LIKED)
    allowed = allowed_targets(corpus, feedback) if part == "train" else None
    kept = kept_events(corpus)
    entries = select_examples(replace(entries, kept=kept, inputs=event_inputs(corpus, inputs, kept)), allowed)
    if not len(entries):
        wanted = feedback if part == "train" else "liked"
        label = "" if corpus.label is None or wanted == "all" else f" that is {wanted}"
        raise InputError(f"the part {part!r} holds no example: no user has an event before one of its events{label}")
    return entries


def _training(corpus: Corpus, history_length: int) -> Examples:
    """Return an example for every training event but a user's first."""
    bounds = torch.from_numpy(corpus.bounds)
    begin = bounds[:, BEGIN]
    count = (bounds[:, VALIDATION] - begin - 1).clamp(min=0)
    rows = count.nonzero().squeeze(1)
    return Examples(torch.from_numpy(corpus.item), rows + 1, begin[rows], begin[rows] + 1, count[rows].cumsum(0), history_length)


def held_out_examples(corpus: Corpus, part: HeldOutPart, history_length: int, value: int) -> Examples:
    """Return an example for each user with an event before the part and a target in it: the first with the label `value`."""
    bounds = torch.from_numpy(corpus.bounds)
    begin, first, end = bounds[:, BEGIN], bounds[:, HELD_OUT[part][0]], bounds[:, HELD_OUT[part][1]]
    target = first if corpus.label is None else torch.from_numpy(first_with(corpus.label, first.numpy(), end.numpy(), value))
    rows = ((end > target) & (first > begin)).nonzero().squeeze(1)
    number = torch.arange(1, len(rows) + 1)
    ends = None if corpus.label is None else first[rows]
    return Examples(torch.from_numpy(corpus.item), rows + 1, begin[rows], target[rows], number, history_length, history_end=ends)


def select_examples(entries: Examples, allowed: Tensor | None) -> Examples:
    """Return the examples with an allowed target, bool [E] (None: all), and an event in the history."""
    if allowed is None and entries.kept is None:
        return entries
    chosen = []
    for index in torch.split(torch.arange(len(entries)), CHUNK):
        position = entries.places(index)[1]
        use = entries.history_lengths(index) > 0
        chosen.append(index[use if allowed is None else use & allowed[position]])
    return entries.select(torch.cat(chosen) if chosen else torch.arange(0))


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
    allowed: Tensor | None = None  # bool [E]  which items may be targets; None: all
    selected: Tensor | None = None  # int64 [X]  the windows with a target; None: all
    inputs: EventInputs | None = None  # of the events, if the policy asks for any; None: windows are items alone

    def __len__(self) -> int:
        return int(self.cumulative_count[-1]) if self.selected is None else len(self.selected)

    def batch(self, index: Tensor) -> WindowBatch:
        """Gather the windows int64 [B], each 0..len-1, padded on the left to the longest one."""
        index = index if self.selected is None else self.selected[index]
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
        # Of the 0 between repeats the following event may lie behind the last one; it is not counted.
        following = (position + 1).clamp(max=len(self.items) - 1)
        target = self.items[following].long()
        if self.allowed is not None:
            is_counted = is_counted & self.allowed[following]
        history = torch.where(is_item, self.items[position].long(), 0)
        if self.inputs is not None:
            history = self.inputs.beside(history, self.users[run], position)
        return WindowBatch(self.users[run], history, torch.where(is_counted, target, 0))


def windows(
    corpus: Corpus, history_length: int, padding: Padding = "zero", feedback: Feedback = "not disliked",
    inputs: Sequence[HistoryInput] = (),
) -> Windows:  # fmt: skip
    """Cut the training sequences into windows of at most `history_length` items. A user with one training event has none.

    `padding="zero"` pads a short sequence with 0. `padding="repeat"` pads it with repeats of itself, separated by a 0; the leftmost
    repeat is cut at the window's begin. Targets count in repeats too, which gives short sequences more weight. Source: Y. Dang et
    al., "Repeated Padding for Sequential Recommendation" (2024), the variant that fills the whole length. Deviation: their code draws
    the number of repeats and whether a 0 separates them; here as many as fit are used, with a 0.

    `feedback` says which events are targets (see `allowed_targets`); windows without a target are left out. Raises UsageError for
    targets that are no item of the window, because the split leaves disliked events out of histories.
    """
    _check_length(history_length)
    if padding not in ("zero", "repeat"):
        raise UsageError(f"padding is 'zero' or 'repeat', got {padding!r}")
    allowed, kept = allowed_targets(corpus, feedback), kept_events(corpus)
    begin, end = (torch.from_numpy(corpus.bounds[:, column]) for column in (BEGIN, VALIDATION))
    items = torch.from_numpy(corpus.item)
    if kept is not None:
        if feedback == "all":
            raise UsageError(
                "feedback 'all' has disliked targets, which are in no window, because split.histories is 'without disliked'; set "
                "feedback 'not disliked', targets 'one', or split.histories 'all'"
            )
        allowed = None if allowed is None else allowed[torch.from_numpy(corpus.label) != DISLIKED]
        begin, end, items = kept.before[begin], kept.before[end], kept.items
    count = end - begin - 1
    rows = (count > 0).nonzero().squeeze(1)
    cumulative = num_windows(count[rows], history_length).cumsum(0)
    known = event_inputs(corpus, inputs, kept)
    found = Windows(items, rows + 1, begin[rows], count[rows], cumulative, history_length, padding, allowed, inputs=known)
    found = with_targets(found) if len(rows) else found
    if not len(rows) or not len(found):
        label = "" if allowed is None else f", the later one {feedback}"
        raise InputError(f"the part 'train' holds no example: no user has two training events{label}")
    return found


def with_targets(found: Windows) -> Windows:
    """Return the windows with at least one allowed target."""
    if found.allowed is None:
        return found
    parts = torch.split(torch.arange(len(found)), WINDOWS_AT_ONCE)
    return replace(found, selected=torch.cat([index[(found.batch(index).target > 0).any(1)] for index in parts]))


def num_windows(count: Tensor, history_length: int) -> Tensor:
    """Return the number of windows of users with `count` targets, int64 [R] each."""
    stride = _stride(history_length)
    return 1 + (count - history_length + stride - 1).clamp(min=0) // stride


@dataclass(frozen=True, eq=False)
class CorpusExamples:
    """The training events of a corpus as examples (`genrec.types.ExampleSource`)."""

    corpus: Corpus
    history_length: int  # maximum number of items in a history or window
    inputs: tuple[HistoryInput, ...] = ()  # that the policy asks for beside the items

    def prefixes(self, feedback: Feedback = "not disliked") -> Examples:
        """Return one example for each training event but a user's first; see `examples`."""
        return examples(self.corpus, "train", self.history_length, feedback, self.inputs)

    def windows(self, padding: Padding = "zero", feedback: Feedback = "not disliked") -> Windows:
        """Return windows with a target after every item; see `windows`."""
        return windows(self.corpus, self.history_length, padding, feedback, self.inputs)


def _stride(history_length: int) -> int:
    """Return the distance between consecutive windows of a sequence, in items."""
    return (history_length + 1) // 2


def _check_length(history_length: int) -> None:
    if history_length < 1:
        raise UsageError(f"history_length must be 1 or more, got {history_length}")


def epoch_steps(examples: int, batch_size: int) -> int:
    """Return the number of batches that hold every example once."""
    return -(-examples // batch_size)


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Return a permutation int64 [count] that depends on the seed and the epoch only."""
    return torch.randperm(count, generator=generator(seed, "order", epoch))
