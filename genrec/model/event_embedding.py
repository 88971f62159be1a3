"""The inputs of a history beside its items, for policies over Semantic IDs: a token of the user, and vectors of times and ratings.

- The user is one of `user_tokens` tokens, by the hash of the id in the data set. It stands before the oldest item, as in TIGER
  (Rajput et al. 2023, arXiv 2305.05065, which has 2,000), so that a history has one more place. Deviation: it fills the place of an
  item, which are L tokens for a policy that reads an item as L codes.
- The time of an event is the time since the event before it in the history, in seconds, by its bucket of the base-2 logarithm. An
  event without one directly before it has a bucket of its own: the oldest one, and the one after a hidden item.
- The rating of an event is one of `ratings`, the largest that it reaches, or the lowest one below all of them. An event without a
  rating has a bucket of its own.

The vectors of time and rating are added to those of the item's tokens. They begin as zeros, so that a bucket that no training history
has is without effect. Nothing depends on where a history starts: padding and the events after a place change no input of it.
"""

from __future__ import annotations

import itertools
import math
from typing import Protocol

import torch
from torch import Tensor, nn

from genrec.errors import UsageError
from genrec.types import EventHistory, HistoryInput
from genrec.types.event_history import as_tensor, checked_history, items_of
from genrec.types.specification import check_at_least

USER = -1  # stands for the user in the items of a history that is read


class InputFields(Protocol):
    """The fields of a specification that choose inputs."""

    @property
    def user_tokens(self) -> int:
        """Number of tokens that users are hashed to; 0: the user is no input."""
        ...

    @property
    def time_buckets(self) -> int:
        """Number of buckets of times; 0: times are no input."""
        ...

    @property
    def ratings(self) -> tuple[float, ...]:
        """The ratings with a vector each, ascending; (): ratings are no input."""
        ...


def check_inputs(specification: InputFields, path: str) -> None:
    """Raise UsageError for fields that are no numbers of tokens and buckets, or ratings that do not ascend."""
    check_at_least(specification, path, 0, "user_tokens", "time_buckets")
    if specification.user_tokens == 1:
        raise UsageError(f"{path}.user_tokens must be 0 or at least 2, got 1: one token of all users tells nothing")
    ratings: object = specification.ratings
    are_numbers = isinstance(ratings, tuple | list) and all(
        isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each) for each in ratings
    )
    if not are_numbers or any(low >= high for low, high in itertools.pairwise(specification.ratings)):
        raise UsageError(f"{path}.ratings must be finite numbers that ascend, such as (1, 2, 3, 4, 5), got {ratings!r}")


def chosen_inputs(specification: InputFields) -> tuple[HistoryInput, ...]:
    """Return the inputs that the fields choose; see `genrec.types.InputSpecification`."""
    user: tuple[HistoryInput, ...] = ("user",) if specification.user_tokens else ()
    time: tuple[HistoryInput, ...] = ("time",) if specification.time_buckets else ()
    rating: tuple[HistoryInput, ...] = ("rating",) if specification.ratings else ()
    return user + time + rating


class EventEmbedding(nn.Module):
    """The vectors of the inputs of histories. Without inputs it has no weights and changes nothing."""

    powers: Tensor  # int64 [time_buckets]  1, 2, 4, ...
    bounds: Tensor  # float32 [ratings]

    def __init__(self, specification: InputFields, width: int) -> None:
        super().__init__()
        self.inputs = chosen_inputs(specification)
        self.policy, self.width = type(specification).__name__, width
        self.user = nn.Embedding(specification.user_tokens, width) if specification.user_tokens else None
        self.time = nn.Embedding(specification.time_buckets + 1, width) if specification.time_buckets else None
        self.rating = nn.Embedding(len(specification.ratings) + 1, width) if specification.ratings else None
        self.register_buffer("powers", 2 ** torch.arange(min(specification.time_buckets, 62)), persistent=False)
        self.register_buffer("bounds", torch.tensor(specification.ratings, dtype=torch.float32), persistent=False)
        if self.user is not None:
            nn.init.normal_(self.user.weight, std=width**-0.5)
        for table in (self.time, self.rating):
            if table is not None:
                nn.init.zeros_(table.weight)

    @property
    def places(self) -> int:
        """The number of places that a history has more when it is read: 1 with a token of the user, else 0."""
        return 0 if self.user is None else 1

    @property
    def describes_events(self) -> bool:
        """Whether the vectors of an item's tokens depend on its event, so that those of a target are not those of a history."""
        return self.time is not None or self.rating is not None

    def read(self, history: Tensor) -> Tensor:
        """Return the `EventHistory`, with the place of the user before its oldest item; `USER` stands there in its items.

        Raises UsageError for a history without the inputs.
        """
        if not self.inputs:
            return history
        given = checked_history(history, self.inputs, self.policy)
        return as_tensor(given if self.user is None else with_user_place(given))

    def shifted(self, places: Tensor) -> Tensor:
        """Return places int64 [X, 2], (row, place), of a history as those of the history that was read."""
        return places + places.new_tensor([0, self.places]) if self.places else places

    def forward(self, states: Tensor, history: Tensor, tokens: int, rows: Tensor | None = None) -> Tensor:
        """Add the inputs to the vectors of items, and put the vector of the user into its place.

        `states` are float32 [B, S, D] of a history that was read, of which each place has `tokens`; the last ones may be left out.
        With `rows` int64 [R], numbers among all of these tokens, they are float32 [R, D].
        """
        if not self.inputs:
            return states
        added, is_user = self._vectors(history, tokens)
        if rows is None:
            added, is_user = added[:, : states.shape[1]], is_user[:, : states.shape[1]]
        else:
            added, is_user = added.flatten(0, 1)[rows], is_user.flatten(0, 1)[rows]
        return torch.where(is_user, added, states + added)

    def _vectors(self, history: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Return the vector of each token, float32 [B, T x tokens, D], and whether it is the user's, bool [B, T x tokens, 1]."""
        read = checked_history(history, self.inputs, self.policy)
        is_user = (read.items == USER).unsqueeze(2)
        added = torch.zeros(*read.shape, self.width, device=read.device)
        if self.time is not None:
            added = added + self.time(self.time_bucket(read))
        if self.rating is not None:
            added = added + self.rating(self.rating_bucket(read))
        if self.user is not None:
            assert read.user is not None
            added = torch.where(is_user, self.user(read.user % self.user.num_embeddings).unsqueeze(1), added)
        return added.repeat_interleave(tokens, 1), is_user.repeat_interleave(tokens, 1)

    def time_bucket(self, history: EventHistory) -> Tensor:
        """Return the bucket of each event, int64 [B, T]: 0 without an event directly before it, else 1 + floor(log2(1 + seconds)).

        The last bucket has all larger times. Events that are not in the order of time count as simultaneous.
        """
        assert history.time is not None
        is_event = history.items > 0
        seconds = (history.time[:, 1:] - history.time[:, :-1]).clamp(min=0)
        bucket = torch.bucketize(seconds + 1, self.powers, right=True)
        bucket = bucket.masked_fill(~(is_event[:, 1:] & is_event[:, :-1]), 0)
        return nn.functional.pad(bucket, (1, 0))[:, : history.shape[1]]

    def rating_bucket(self, history: EventHistory) -> Tensor:
        """Return the bucket of each event, int64 [B, T]: 0 without a rating, else the number of `ratings` up to it, at least 1."""
        assert history.rating is not None
        bucket = torch.bucketize(history.rating.contiguous(), self.bounds, right=True).clamp(1, len(self.bounds))
        return bucket.masked_fill(history.rating.isnan(), 0)


def with_user_place(history: EventHistory) -> EventHistory:
    """Return histories with one more place, where `USER` stands directly before the oldest item; without items it stands last."""
    wide = history.padded(history.shape[1] + 1)
    first = (wide.items > 0).int().argmax(1)  # 0 without items, since the new place has none
    place = torch.where(first > 0, first - 1, wide.shape[1] - 1)
    return EventHistory(wide.items.scatter(1, place.unsqueeze(1), USER), wide.user, wide.time, wide.rating)


def item_numbers(history: Tensor) -> Tensor:
    """Return the items of histories that were read, int64 [B, T], with 0 for the user: numbers of rows of a table of items."""
    return history.items.clamp(min=0) if isinstance(history, EventHistory) else history


def with_next_item(history: Tensor, items: Tensor) -> Tensor:
    """Return histories that end with one more item, int64 [B, 1], for a policy whose inputs do not describe events."""
    if not isinstance(history, EventHistory):
        return torch.cat([history, items], 1)
    return as_tensor(EventHistory(torch.cat([items_of(history), items], 1), history.user))
