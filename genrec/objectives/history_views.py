"""Two views of a history for `ViewContrast`, which compares their states: random augmentations, or histories with the same target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from genrec.errors import UsageError
from genrec.types import EventHistory, ObjectiveContext, SequenceBatch, TrainingExamples, TwoViews
from genrec.types.event_history import as_tensor, chosen_rows, inputs_of, padded
from genrec.types.specification import check_types

EXAMPLES_AT_ONCE = 4096  # training examples that are read at once to find those of each target


@dataclass(frozen=True, kw_only=True)
class Augmentations:
    """Augment each history twice, by two different ones of crop, mask and reorder (CL4SRec, arXiv 2010.14395).

    - crop: keep `max(1, floor(crop * n))` consecutive items of the n items;
    - mask: hide `floor(mask * n)` items;
    - reorder: shuffle `floor(reorder * n)` consecutive items.

    Places and order are uniform. Deviation: a masked item becomes 0, no item (paper: a mask token with an embedding), since policies
    have no such token. `Tiger`, `Gpt` and `RPG` see the gap in the distances of the other items; `SASRec` and `GRU4Rec`, which count
    the items before a place, read the history without the item. Where the last items are masked, the view ends before them. Of a
    policy that asks for inputs beside the items, an event keeps its own; a view that shuffles events has no times, and is refused.
    """

    crop: float = 0.6  # share of the items that stay, in (0, 1]
    mask: float = 0.3  # share of the items that are hidden, in [0, 1)
    reorder: float = 0.6  # share of the items that are shuffled, in [0, 1]

    def __post_init__(self) -> None:
        check_types(self, "Augmentations")
        for name, inside, interval in (
            ("crop", 0 < self.crop <= 1, "(0, 1]"),
            ("mask", 0 <= self.mask < 1, "[0, 1)"),
            ("reorder", 0 <= self.reorder <= 1, "[0, 1]"),
        ):
            if not inside:
                raise UsageError(f"Augmentations.{name} must lie in {interval}, got {getattr(self, name)}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if events are shuffled for a policy that reads their times."""
        if self.reorder and "time" in inputs_of(experiment.policy):
            raise UsageError(
                f"{experiment.name}: Augmentations.reorder = {self.reorder} shuffles events, and {type(experiment.policy).__name__} "
                "reads the times between them, which no history has then; set reorder to 0, or the policy's input time off"
            )

    def build_views(self, context: ObjectiveContext, examples: TrainingExamples) -> Callable[[SequenceBatch, Generator], TwoViews]:
        """Return the function that augments the histories of rows."""

        def views(rows: SequenceBatch, generator: Generator) -> TwoViews:
            history, row = _numbers(rows.history), torch.arange(len(rows.history))
            first, second = torch.rand(len(history), 3, generator=generator).argsort(1)[:, :2].unbind(1)  # two different ones of 3
            made = torch.stack(
                [
                    crop_items(history, self.crop, generator),
                    mask_items(history, self.mask, generator),
                    reorder_items(history, self.reorder, generator),
                ]
            )
            return TwoViews(_events(rows.history, made[first, row]), _events(rows.history, made[second, row]))

        return views


@dataclass(frozen=True)
class SameTarget:
    """Compare a history with another user's history before the same target (DuoRec, arXiv 2110.05730).

    The first view is the history itself, in a pass of its own, with other dropout than the likelihood's. The second is drawn uniformly
    from the training examples with the same target; if no other user has the target, it is the history once more, which differs by
    dropout alone, as in the authors' code. Deviation: another example of the same user is not drawn.
    """

    def build_views(self, context: ObjectiveContext, examples: TrainingExamples) -> Callable[[SequenceBatch, Generator], TwoViews]:
        """Return the function that draws another history for each row. Reads all training examples once."""
        draw = _OtherHistories(examples)
        return lambda rows, generator: TwoViews(rows.history, draw(rows, generator))


class _OtherHistories:
    """The training examples in the order of target and user, to draw one of another user with the same target."""

    def __init__(self, examples: TrainingExamples) -> None:
        self.examples = examples
        users, targets = [], []
        for index in torch.split(torch.arange(len(examples)), EXAMPLES_AT_ONCE):
            batch: SequenceBatch = examples.batch(index)
            users.append(batch.user)
            targets.append(batch.target)
        user, target = torch.cat(users), torch.cat(targets)
        self.num_users = int(user.max()) + 1
        self.keys, self.order = (target * self.num_users + user).sort(stable=True)

    def __call__(self, rows: SequenceBatch, generator: Generator) -> Tensor:
        """Return a history for each row, int64 [X, T]: the row's own one if no other user has its target."""
        first_key = rows.target * self.num_users
        own_key = first_key + rows.user
        begin, own, after, end = (
            torch.searchsorted(self.keys, key) for key in (first_key, own_key, own_key + 1, first_key + self.num_users)
        )
        others = (end - begin) - (after - own)
        chance = torch.rand(len(rows.user), dtype=torch.float64, generator=generator)
        place = begin + (chance * others).long()
        place = torch.where(place >= own, place + after - own, place)
        drawn = self.examples.batch(self.order[place.clamp(max=len(self.keys) - 1)]).history
        longest = max(drawn.shape[1], rows.history.shape[1])
        drawn, kept = (padded(each, longest) for each in (drawn, rows.history))
        return chosen_rows(others > 0, drawn, kept)


def _numbers(history: Tensor) -> Tensor:
    """Return the items, int64 [X, T], or of an `EventHistory` the number of each event in its row from 1, 0 where there is none."""
    if not isinstance(history, EventHistory):
        return history
    return torch.arange(1, history.shape[1] + 1).expand(history.shape).masked_fill(history.items == 0, 0)


def _events(history: Tensor, view: Tensor) -> Tensor:
    """Return a view of `_numbers`, int64 [X, T], as a history of the kind of `history`, where each event keeps its inputs."""
    return as_tensor(history.at(torch.arange(len(history)), view - 1)) if isinstance(history, EventHistory) else view


def crop_items(history: Tensor, share: float, generator: Generator) -> Tensor:
    """Keep `max(1, floor(share * n))` consecutive items of each history int64 [X, T] of n items, at a uniform place."""
    lengths, column = _lengths(history), torch.arange(history.shape[1])
    count = _part(lengths, share).clamp(min=1)
    begin = history.shape[1] - lengths + _uniform(lengths - count + 1, generator)
    source = begin.unsqueeze(1) + column - (history.shape[1] - count).unsqueeze(1)
    kept = column >= (history.shape[1] - count).unsqueeze(1)
    return torch.where(kept, history.gather(1, source.clamp(0, history.shape[1] - 1)), 0)


def mask_items(history: Tensor, share: float, generator: Generator) -> Tensor:
    """Set `floor(share * n)` items of each history int64 [X, T] of n items to 0. The result ends with the last item that stays."""
    lengths = _lengths(history)
    noise = torch.rand(history.shape, generator=generator).masked_fill(history == 0, 2.0)
    rank = noise.argsort(1).argsort(1)  # of each item in the random order of its history
    masked = history.masked_fill(rank < _part(lengths, share).unsqueeze(1), 0)
    column = torch.arange(history.shape[1])
    hidden_at_end = history.shape[1] - 1 - torch.where(masked > 0, column, -1).amax(1)
    source = column - hidden_at_end.unsqueeze(1)
    return torch.where(source >= 0, masked.gather(1, source.clamp(min=0)), 0)


def reorder_items(history: Tensor, share: float, generator: Generator) -> Tensor:
    """Shuffle `floor(share * n)` consecutive items of each history int64 [X, T] of n items, at a uniform place."""
    lengths, column = _lengths(history), torch.arange(history.shape[1])
    count = _part(lengths, share)
    begin = history.shape[1] - lengths + _uniform(lengths - count + 1, generator)
    place = column - begin.unsqueeze(1)
    shuffled = (place >= 0) & (place < count.unsqueeze(1))
    noise = torch.rand(history.shape, dtype=torch.float64, generator=generator)
    position = torch.where(shuffled, begin.unsqueeze(1) - 0.5 + noise * count.unsqueeze(1), column.double())
    return history.gather(1, position.argsort(1))


def _lengths(history: Tensor) -> Tensor:
    """Return the number of items of each history, int64 [X]."""
    return (history > 0).sum(1)


def _part(lengths: Tensor, share: float) -> Tensor:
    """Return `floor(share * n)` of lengths int64 [X]."""
    return (lengths.double() * share).floor().long()


def _uniform(bound: Tensor, generator: Generator) -> Tensor:
    """Draw an integer in 0 .. bound - 1 for each bound int64 [X], 1 or more."""
    return (torch.rand(len(bound), dtype=torch.float64, generator=generator) * bound).long()
