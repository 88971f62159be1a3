"""Splits: which events are for training, validation and test.

A split is a frozen dataclass with filters as fields. From the sorted events of all users it computes where each user's validation and
test begin. Your own split may be simpler: see `genrec.types.Split`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy import ndarray
from pandas import DataFrame

from genrec.data.event_filters import Filters, Repeats, seconds
from genrec.errors import InputError, UsageError
from genrec.plugin_source import name_with_place
from genrec.store import NEW_IN_KEY
from genrec.types import RatedSource, Split, TieOrder, TieOrderingSplit
from genrec.types.specification import check_types

Part = Literal["train", "validation", "test"]
Ties = Literal["file", "random", "random-per-seed"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")  # in temporal order
BEGIN, VALIDATION, TEST, END = range(4)  # columns of bounds: where a user's events, validation and test begin, and where they end
MIN_EVENTS = 3  # of a user: one event in each part
DAY = 86_400  # seconds
CHUNK = 1 << 22  # events in memory at once


@dataclass(frozen=True)
class LeaveOneOut:
    """Leave-one-out: each user's last event is the test, the one before it validation, the others training."""

    core: int = 5  # minimum number of events of a user and of an item; 0 keeps all
    item_core: int | None = None  # minimum number of events of an item; None: as for users
    min_rating: float | None = None  # drop events with a lower rating or without one; None keeps all
    since: str | None = None  # drop events before this time, such as "2010-01-31" or "2010-01-31T12:00" (UTC)
    until: str | None = None  # drop events at or after this time
    repeats: Repeats = "exact"  # keep all repeats, drop exact ones, or keep the first or last event of a user with an item
    ties: Ties = field(default="file", metadata=NEW_IN_KEY)  # order of equal times: of the rows, random, or random for each seed
    ties_seed: int = field(default=0, metadata=NEW_IN_KEY)  # of a random order; "random-per-seed" adds the experiment's seed

    def __post_init__(self) -> None:
        check_types(self, "split")
        self.filters()
        self.tie_order()

    def check(self, experiment: Any) -> None:
        """Raise UsageError if `min_rating` is set although the source has no ratings."""
        _check_ratings(self.min_rating, experiment.source)

    def filters(self) -> Filters:
        """Return the filters; every user keeps at least one event for each part."""
        return Filters(self.core, self.item_core, self.min_rating, self.since, self.until, self.repeats, MIN_EVENTS)

    def tie_order(self) -> TieOrder:
        """Return the order of a user's events with equal times."""
        return _tie_order(self.ties, self.ties_seed)

    def divide(self, begin: ndarray, end: ndarray, time: ndarray) -> ndarray:
        """Return where each user's validation and test begin, int64 [U, 2]; the user's events are begin..end, int64 [U]."""
        return np.stack([np.maximum(end - 2, begin), np.maximum(end - 1, begin)], axis=1)

    def assign(self, interactions: DataFrame) -> ndarray:
        """Return the part of each row, str [rows]; the rows are sorted by user and time."""
        return assign_parts(self, interactions)


@dataclass(frozen=True)
class GlobalTemporal:
    """A split at two moments that are the same for all users, so that no training event is later than a test event.

    Only a user's first event in a part is a target; all events before it are the history. Users without an event in the test part
    are not tested. Filters apply to all events before the split, as in the published protocols.
    """

    validation_from: str | None = None  # begin of validation, such as "2013-10-01"; None: from `validation_share`
    test_from: str | None = None  # begin of the test, later than `validation_from`; None: from `test_share`
    validation_share: float = 0.1  # maximum share of the events in validation, between 0 and 1
    test_share: float = 0.1  # maximum share of the events in the test, between 0 and 1
    core: int = 5  # minimum number of events of a user and of an item; 0 keeps all
    item_core: int | None = None  # minimum number of events of an item; None: as for users
    min_rating: float | None = None  # drop events with a lower rating or without one; None keeps all
    since: str | None = None  # drop events before this time, such as "2010-01-31" or "2010-01-31T12:00" (UTC)
    until: str | None = None  # drop events at or after this time
    repeats: Repeats = "exact"  # keep all repeats, drop exact ones, or keep the first or last event of a user with an item
    ties: Ties = field(default="file", metadata=NEW_IN_KEY)  # order of equal times: of the rows, random, or random for each seed
    ties_seed: int = field(default=0, metadata=NEW_IN_KEY)  # of a random order; "random-per-seed" adds the experiment's seed

    def __post_init__(self) -> None:
        check_types(self, "split")
        self.filters()
        self.tie_order()
        for name in ("validation_share", "test_share"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.validation_share + self.test_share >= 1:
            shares = f"{self.validation_share} and {self.test_share}"
            raise UsageError(f"validation_share and test_share must leave a share for training, got {shares}")
        validation, test = seconds(self.validation_from, "validation_from"), seconds(self.test_from, "test_from")
        if validation is not None and test is not None and validation >= test:
            raise UsageError(f"validation_from must be before test_from, got {self.validation_from} and {self.test_from}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if `min_rating` is set although the source has no ratings."""
        _check_ratings(self.min_rating, experiment.source)

    def filters(self) -> Filters:
        """Return the filters."""
        return Filters(self.core, self.item_core, self.min_rating, self.since, self.until, self.repeats)

    def tie_order(self) -> TieOrder:
        """Return the order of a user's events with equal times."""
        return _tie_order(self.ties, self.ties_seed)

    def moments(self, time: ndarray) -> tuple[int, int]:
        """Return when validation and the test begin, in seconds since 1970, for events at the times int64 [E]."""
        test = seconds(self.test_from, "test_from")
        if test is None:
            test = start_of_latest(time, self.test_share)
        validation = seconds(self.validation_from, "validation_from")
        if validation is None:
            tested = np.count_nonzero(time >= test) / len(time)
            validation = start_of_latest(time, self.validation_share + tested)
        return min(validation, test), test

    def divide(self, begin: ndarray, end: ndarray, time: ndarray) -> ndarray:
        """Return where each user's validation and test begin, int64 [U, 2].

        The user's events are begin..end, int64 [U], of the times int64 [E].
        """
        validation, test = self.moments(time)
        result = np.empty((len(begin), 2), dtype=np.int64)
        for first, last in user_chunks(end):
            low, high = int(begin[first]), int(end[last - 1])
            starts = begin[first:last] - low
            for column, moment in enumerate((validation, test)):
                before = np.add.reduceat((time[low:high] < moment).astype(np.int64), starts) if len(starts) else starts
                result[first:last, column] = begin[first:last] + before
        return result

    def assign(self, interactions: DataFrame) -> ndarray:
        """Return the part of each row, str [rows]; the rows are sorted by user and time."""
        return assign_parts(self, interactions)


def _check_ratings(min_rating: float | None, source: object) -> None:
    """Raise UsageError if a source that is known to have no ratings is filtered by rating."""
    if min_rating is not None and isinstance(source, RatedSource) and not source.has_ratings():
        raise UsageError(f"split.min_rating = {min_rating} needs ratings, but the source {source!r} has none; set it to None")


def _tie_order(ties: Ties, seed: int) -> TieOrder:
    """Return the order of ties that two fields of a split describe. Raise UsageError for a seed that has no use."""
    if seed < 0:
        raise UsageError(f"split.ties_seed must be 0 or more, got {seed}")
    if ties == "file":
        if seed:
            raise UsageError(f"split.ties_seed = {seed} needs a random order: set split.ties to 'random' or 'random-per-seed'")
        return TieOrder()
    return TieOrder(seed, per_seed=ties == "random-per-seed")


def tie_order_of(split: Split) -> TieOrder:
    """Return a split's order of a user's events with equal times: the source's, unless the split has another."""
    if not isinstance(split, TieOrderingSplit):
        return TieOrder()
    order = split.tie_order()
    if not isinstance(order, TieOrder):
        raise InputError(f"{name_with_place(type(split))}: tie_order must return a genrec.types.TieOrder, got {order!r}")
    return order


def start_of_latest(time: ndarray, share: float) -> int:
    """Return the earliest moment, in seconds, such that at most this share of the times int64 [E] is at or after it.

    The share allows at least one event. If more events than allowed tie for the last time, no event is at or after the result. The
    moment is found by day and then within that day, which avoids a sorted copy of all times.
    """
    allowed = max(1, int(share * len(time)))
    days: ndarray = np.sum(_by_day(time, int(time.max()) // DAY + 1), axis=0)
    from_day = np.cumsum(days[::-1])[::-1]  # events on each day and after it
    day = int(np.flatnonzero(from_day > allowed).max(initial=0))
    after = int(from_day[day + 1]) if day + 1 < len(from_day) else 0
    on_day = np.concatenate([chunk[chunk // DAY == day] for chunk in _time_chunks(time)])
    moments, counts = np.unique(on_day, return_counts=True)
    fitting = np.flatnonzero(after + np.cumsum(counts[::-1])[::-1] <= allowed)
    return int(moments[fitting[0]]) if len(fitting) else (day + 1) * DAY


def assign_parts(split: LeaveOneOut | GlobalTemporal, interactions: DataFrame) -> ndarray:
    """Return the part of each row, str [rows], from the split's `divide`; the rows are sorted by user and time."""
    user = interactions["user"].to_numpy()
    begin = np.flatnonzero(np.append(True, user[1:] != user[:-1])) if len(user) else np.zeros(0, dtype=np.int64)
    end = np.append(begin[1:], len(user))
    bounds = np.concatenate([begin[:, None], split.divide(begin, end, interactions["time"].to_numpy()), end[:, None]], axis=1)
    parts: ndarray = np.array(PARTS)[part_of_events(bounds)]
    return parts


def part_of_events(bounds: ndarray) -> ndarray:
    """Return the part of each event as an index of PARTS, int8 [E], from the bounds int64 [U, 4]."""
    parts: ndarray = np.repeat(np.tile(np.arange(3, dtype=np.int8), len(bounds)), np.diff(bounds, axis=1).ravel())
    return parts


def events_before(split: Split, parts: Any, users: ndarray, user_ids: ndarray) -> ndarray:
    """Return each user's number of events before validation and before the test, int64 [U, 2], from what `split.assign` returned.

    `users` int64 [E], sorted, and `user_ids` str [E] are the user of each event. Raises InputError if a row has no part, or if the
    parts of a user are not in the order train, validation, test.
    """
    name, assigned = name_with_place(type(split)), np.asarray(parts, dtype=object)
    if assigned.shape != (len(users),):
        raise InputError(f"{name}: assign must return a part for each of {len(users)} rows, got {describe_array(parts)}")
    known = np.isin(assigned.astype(str), PARTS)
    if not known.all():
        row = int(known.argmin())
        raise InputError(
            f"{name}: assign must return only {', '.join(PARTS)}, got {assigned[row]!r} for row {row}, an event of user "
            f"{user_ids[row]!r} ({int((~known).sum())} such rows)"
        )
    position = np.select([assigned == "train", assigned == "validation"], [0, 1], 2)
    backwards = np.flatnonzero((np.diff(users) == 0) & (np.diff(position) < 0))
    if len(backwards):
        row = int(backwards[0])
        raise InputError(
            f"{name}: assign puts a later event of user {user_ids[row]!r} into an earlier part ({assigned[row]}, then "
            f"{assigned[row + 1]}, rows {row} and {row + 1}); expected the order train, validation, test"
        )
    return np.stack([np.bincount(users[position < part], minlength=users.max() + 1)[1:] for part in (1, 2)], axis=1)


def check_divided(split: Split, divided: Any, begin: ndarray, end: ndarray, user_id: Callable[[int], str]) -> None:
    """Raise InputError unless `divided`, which `split.divide` returned, is int64 [U, 2] between the ends of each user's events.

    `user_id` returns the id of the user with a number, 1..U.
    """
    name = name_with_place(type(split))
    if not isinstance(divided, ndarray) or divided.shape != (len(begin), 2) or divided.dtype.kind not in "iu":
        raise InputError(f"{name}: divide must return an array int64 [{len(begin)}, 2], got {describe_array(divided)}")
    wrong = (np.diff(np.concatenate([begin[:, None], divided, end[:, None]], axis=1), axis=1) < 0).any(1)
    if wrong.any():
        user = int(wrong.argmax())
        raise InputError(
            f"{name}: divide returns {divided[user].tolist()} for user {user_id(user + 1)!r}, with events {begin[user]}..{end[user]}; "
            "expected begin <= validation <= test <= end"
        )


def describe_array(value: Any) -> str:
    """Return type and shape of an array or table, or the type of another value."""
    if isinstance(value, ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else f"{type(value).__name__}"


def chunks(bounds: ndarray) -> Iterator[tuple[slice, ndarray]]:
    """Yield slices of whole users' events that fit into memory, and the part of each event as an index of PARTS, int8."""
    for first, last in user_chunks(bounds[:, END]):
        yield slice(int(bounds[first, BEGIN]), int(bounds[last - 1, END])), part_of_events(bounds[first:last])


def _time_chunks(time: ndarray) -> list[ndarray]:
    return [time[begin : begin + CHUNK] for begin in range(0, len(time), CHUNK)]


def _by_day(time: ndarray, days: int) -> list[ndarray]:
    return [np.bincount(chunk // DAY, minlength=days) for chunk in _time_chunks(time)]


def user_chunks(end: ndarray) -> list[tuple[int, int]]:
    """Return ranges of users (first, last + 1) with about `CHUNK` events each, from where each user's events end, int64 [U]."""
    edges = np.searchsorted(end, np.arange(0, int(end[-1]) + CHUNK, CHUNK), side="left") if len(end) else np.zeros(1, dtype=np.int64)
    edges = np.unique(np.append(edges, len(end)))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
