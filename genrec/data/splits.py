"""Stage 1, protocol: which interactions are kept, and which of them are for training, for validation, for the test.

In: filters as fields, and the log of kept events, user by user in the order of time. Out: for every user where validation and test
begin. A split of one's own may be simpler: see `genrec.types.Split`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy import ndarray
from pandas import DataFrame

from genrec.data.event_filters import Filters, Repeats, seconds
from genrec.errors import UsageError

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")  # in the order of time
BEGIN, VALIDATION, TEST, END = range(4)  # columns of bounds: where a user's events, validation and test begin, and where they end
SHORTEST = 3  # events of a user: one of each part
DAY = 86_400  # seconds
CHUNK = 1 << 22  # events in memory at one time


@dataclass(frozen=True)
class LeaveOneOut:
    """Of every user the last event is the test, the one before it validation, the rest training."""

    core: int = 5  # events that every user and every item keeps at least; 0 keeps all
    item_core: int | None = None  # the same for items, where it differs
    min_rating: float | None = None  # events below it are dropped, and so are events without a rating; None keeps all
    since: str | None = None  # events from this moment on, as "2010-01-31" or "2010-01-31T12:00" (UTC)
    until: str | None = None  # events before this moment
    repeats: Repeats = "exact"  # dropped: none; repeats in user, item, time and rating; all but the first (last) of user and item

    def __post_init__(self) -> None:
        self.filters()

    def filters(self) -> Filters:
        """What is kept; a user needs an event of each part."""
        return Filters(self.core, self.item_core, self.min_rating, self.since, self.until, self.repeats, SHORTEST)

    def divide(self, begin: ndarray, end: ndarray, time: ndarray) -> ndarray:
        """Each user's events lie at begin..end, int64 [U] -> where validation and test begin, int64 [U, 2]."""
        return np.stack([np.maximum(end - 2, begin), np.maximum(end - 1, begin)], axis=1)

    def assign(self, interactions: DataFrame) -> ndarray:
        """Interactions sorted by user and time -> text [rows]: the part of each."""
        return assigned(self, interactions)


@dataclass(frozen=True)
class GlobalTemporal:
    """Before one moment is training, from another on is the test, for all users alike: nothing of the future is trained on.

    A user's target is the first event of the part, and all events before it are the history; users without one are not tested.
    Filters see the whole log, as in the published protocols.
    """

    validation_from: str | None = None  # a moment such as "2013-10-01"; None: from the share
    test_from: str | None = None  # a later moment; None: from the share
    validation_share: float = 0.1  # of the events, at most, where no moment is given; above 0
    test_share: float = 0.1  # of the events, at most, where no moment is given; above 0
    core: int = 5  # events that every user and every item keeps at least; 0 keeps all
    item_core: int | None = None  # the same for items, where it differs
    min_rating: float | None = None  # events below it are dropped, and so are events without a rating; None keeps all
    since: str | None = None  # events from this moment on
    until: str | None = None  # events before this moment
    repeats: Repeats = "exact"  # dropped: none; repeats in user, item, time and rating; all but the first (last) of user and item

    def __post_init__(self) -> None:
        self.filters()
        for name in ("validation_share", "test_share"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.validation_share + self.test_share >= 1:
            shares = f"{self.validation_share} and {self.test_share}"
            raise UsageError(f"validation_share and test_share must leave a share for training, got {shares}")
        validation, test = seconds(self.validation_from, "validation_from"), seconds(self.test_from, "test_from")
        if validation is not None and test is not None and validation >= test:
            raise UsageError(f"validation_from must be before test_from, got {self.validation_from} and {self.test_from}")

    def filters(self) -> Filters:
        """What is kept."""
        return Filters(self.core, self.item_core, self.min_rating, self.since, self.until, self.repeats)

    def moments(self, time: ndarray) -> tuple[int, int]:
        """When validation and when the test begins, in seconds, for events at these times, int64 [E]."""
        test = seconds(self.test_from, "test_from")
        if test is None:
            test = latest(time, self.test_share)
        validation = seconds(self.validation_from, "validation_from")
        if validation is None:
            earlier = np.count_nonzero(time >= test) / len(time)
            validation = latest(time, self.validation_share + earlier)
        return min(validation, test), test

    def divide(self, begin: ndarray, end: ndarray, time: ndarray) -> ndarray:
        """Each user's events lie at begin..end, int64 [U], at times int64 [E] -> where validation and test begin, int64 [U, 2]."""
        validation, test = self.moments(time)
        result = np.empty((len(begin), 2), dtype=np.int64)
        for first, last in user_blocks(end):
            low, high = int(begin[first]), int(end[last - 1])
            starts = begin[first:last] - low
            for column, moment in enumerate((validation, test)):
                before = np.add.reduceat((time[low:high] < moment).astype(np.int64), starts) if len(starts) else starts
                result[first:last, column] = begin[first:last] + before
        return result

    def assign(self, interactions: DataFrame) -> ndarray:
        """Interactions sorted by user and time -> text [rows]: the part of each."""
        return assigned(self, interactions)


def latest(time: ndarray, share: float) -> int:
    """The earliest moment from which on at most this share of the events int64 [E] lies, above 0 events where that is possible.

    Found in two passes, by day and then within one day, so that no copy of all times is sorted.
    """
    allowed = max(1, int(share * len(time)))
    days: ndarray = np.sum(_by_day(time, int(time.max()) // DAY + 1), axis=0)
    later = np.cumsum(days[::-1])[::-1]  # events of this day and after it
    day = int(np.flatnonzero(later > allowed).max(initial=0))
    after = int(later[day + 1]) if day + 1 < len(later) else 0
    within = np.concatenate([block[block // DAY == day] for block in _blocks(time)])
    moments, counts = np.unique(within, return_counts=True)
    fitting = np.flatnonzero(after + np.cumsum(counts[::-1])[::-1] <= allowed)
    return int(moments[fitting[0]]) if len(fitting) else (day + 1) * DAY


def assigned(split: LeaveOneOut | GlobalTemporal, interactions: DataFrame) -> ndarray:
    """The part of each row of interactions sorted by user and time, as text, by the split's own `divide`."""
    user = interactions["user"].to_numpy()
    begin = np.flatnonzero(np.append(True, user[1:] != user[:-1])) if len(user) else np.zeros(0, dtype=np.int64)
    end = np.append(begin[1:], len(user))
    bounds = np.concatenate([begin[:, None], split.divide(begin, end, interactions["time"].to_numpy()), end[:, None]], axis=1)
    parts: ndarray = np.array(PARTS)[part_of_rows(bounds)]
    return parts


def part_of_rows(bounds: ndarray) -> ndarray:
    """Where each user's events, validation, test begin, and where they end, int64 [U, 4] -> number of the part, int8 [E]."""
    parts: ndarray = np.repeat(np.tile(np.arange(3, dtype=np.int8), len(bounds)), np.diff(bounds, axis=1).ravel())
    return parts


def chunks(bounds: ndarray) -> Iterator[tuple[slice, ndarray]]:
    """Runs of whole users' events that fit into memory, and the number of each event's part (an index of PARTS), int8."""
    for first, last in user_blocks(bounds[:, END]):
        yield slice(int(bounds[first, BEGIN]), int(bounds[last - 1, END])), part_of_rows(bounds[first:last])


def _blocks(time: ndarray) -> list[ndarray]:
    return [time[begin : begin + CHUNK] for begin in range(0, len(time), CHUNK)]


def _by_day(time: ndarray, days: int) -> list[ndarray]:
    return [np.bincount(block // DAY, minlength=days) for block in _blocks(time)]


def user_blocks(end: ndarray) -> list[tuple[int, int]]:
    """Where each user's events end, int64 [U] -> runs of users (first, last + 1) that hold about `CHUNK` events each."""
    edges = np.searchsorted(end, np.arange(0, int(end[-1]) + CHUNK, CHUNK), side="left") if len(end) else np.zeros(1, dtype=np.int64)
    edges = np.unique(np.append(edges, len(end)))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
