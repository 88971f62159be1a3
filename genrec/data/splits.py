"""Splits: which events are for training, validation and test.

A split is a frozen dataclass with filters as fields. From the sorted events of all users it computes where each user's validation and
test begin. Your own split may be simpler: see `genrec.types.Split`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy import ndarray
from pandas import DataFrame

from genrec.data.event_filters import Filters, Repeats, seconds
from genrec.data.feedback import check_feedback, check_rated, feedback_of, labels_of, last_liked
from genrec.data.latest_events import start_of_latest
from genrec.errors import InputError, UsageError
from genrec.plugin_source import name_with_place
from genrec.store import NEW_IN_KEY
from genrec.types import DividingSplit, FeedbackBounds, LabelDividingSplit, Split, TieOrder, TieOrderingSplit
from genrec.types.data import Histories
from genrec.types.specification import check_types

Part = Literal["train", "validation", "test"]
Ties = Literal["file", "random", "random-per-seed"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")  # in temporal order
BEGIN, VALIDATION, TEST, END = range(4)  # columns of bounds: where a user's events, validation and test begin, and where they end
MIN_EVENTS = 3  # of a user: one event in each part
CHUNK = 1 << 22  # events in memory at once


@dataclass(frozen=True)
class LeaveOneOut:
    """Leave-one-out: each user's last event is the test, the one before it validation, the others training.

    With `liked`, events are labeled by their ratings, and the targets are the user's last two liked events. What is later than the
    last one is left out of the data, and so are users without two liked events.
    """

    core: int = 5  # minimum number of events of a user and of an item; 0 keeps all
    item_core: int | None = None  # minimum number of events of an item; None: as for users
    min_rating: float | None = None  # drop events with a lower rating or without one; None keeps all
    since: str | None = None  # drop events before this time, such as "2010-01-31" or "2010-01-31T12:00" (UTC)
    until: str | None = None  # drop events at or after this time
    repeats: Repeats = "exact"  # keep all repeats, drop exact ones, or keep the first or last event of a user with an item
    ties: Ties = field(default="file", metadata=NEW_IN_KEY)  # order of equal times: of the rows, random, or random for each seed
    ties_seed: int = field(default=0, metadata=NEW_IN_KEY)  # of a random order; "random-per-seed" adds the experiment's seed
    liked: float | None = field(default=None, metadata=NEW_IN_KEY)  # events rated so or higher are liked; None: no labels
    disliked: float | None = field(default=None, metadata=NEW_IN_KEY)  # events rated so or lower are disliked, below `liked`
    histories: Histories = field(default="all", metadata=NEW_IN_KEY)  # whether disliked events stand in histories

    def __post_init__(self) -> None:
        check_types(self, "split")
        self.filters()
        self.tie_order()
        check_feedback(self.liked, self.disliked, self.histories, self.min_rating)

    def check(self, experiment: Any) -> None:
        """Raise UsageError if a bound of ratings is set although the source has no ratings."""
        check_rated(experiment.source, min_rating=self.min_rating, liked=self.liked, disliked=self.disliked)

    def filters(self) -> Filters:
        """Return the filters; every user keeps at least one event for each part."""
        return Filters(self.core, self.item_core, self.min_rating, self.since, self.until, self.repeats, MIN_EVENTS)

    def tie_order(self) -> TieOrder:
        """Return the order of a user's events with equal times."""
        return _tie_order(self.ties, self.ties_seed)

    def feedback(self) -> FeedbackBounds | None:
        """Return the bounds of the labels; None without `liked`."""
        if self.liked is None:
            return None
        return FeedbackBounds(self.liked, self.disliked, self.histories, min_liked=2, ends_with_liked=True)

    def divide(self, begin: ndarray, end: ndarray, time: ndarray) -> ndarray:
        """Return where each user's validation and test begin, int64 [U, 2]; the user's events are begin..end, int64 [U]."""
        if self.liked is not None:
            raise UsageError("LeaveOneOut with labels divides by them; call divide_labeled(begin, end, time, label)")
        return np.stack([np.maximum(end - 2, begin), np.maximum(end - 1, begin)], axis=1)

    def divide_labeled(self, begin: ndarray, end: ndarray, time: ndarray, label: ndarray) -> ndarray:
        """Return the positions of each user's last two liked events, int64 [U, 2]; `end` for a user without two of them."""
        parts = [last_liked(begin[first:last], end[first:last], label) for first, last in user_chunks(end)]
        return np.concatenate(parts) if parts else np.zeros((0, 2), dtype=np.int64)

    def assign(self, interactions: DataFrame) -> ndarray:
        """Return the part of each row, str [rows]; the rows are sorted by user and time."""
        return assign_parts(self, interactions)


@dataclass(frozen=True)
class HoldOutLast:
    """Hold out each user's last `n` events: the first half of them is validation, the second half the test.

    With `liked`, events are labeled by their ratings. The target of a half is its first liked event, and the pairs of a liked and a
    disliked event are judged too. The history is all that came before the half. Users with fewer than n + 1 events are left out.
    """

    n: int = 10  # events held out of each user, 2 or more; of an odd number the test has one more
    core: int = 5  # minimum number of events of a user and of an item; 0 keeps all
    item_core: int | None = None  # minimum number of events of an item; None: as for users
    min_rating: float | None = None  # drop events with a lower rating or without one; None keeps all
    since: str | None = None  # drop events before this time, such as "2010-01-31" or "2010-01-31T12:00" (UTC)
    until: str | None = None  # drop events at or after this time
    repeats: Repeats = "exact"  # keep all repeats, drop exact ones, or keep the first or last event of a user with an item
    ties: Ties = "file"  # order of equal times: of the rows, random, or random for each seed
    ties_seed: int = 0  # of a random order; "random-per-seed" adds the experiment's seed
    liked: float | None = None  # events rated so or higher are liked; None: no labels
    disliked: float | None = None  # events rated so or lower are disliked, below `liked`
    histories: Histories = "all"  # whether disliked events stand in histories

    def __post_init__(self) -> None:
        check_types(self, "split")
        if self.n < 2:
            raise UsageError(f"split.n must be 2 or more, an event for validation and one for the test, got {self.n}")
        self.filters()
        self.tie_order()
        check_feedback(self.liked, self.disliked, self.histories, self.min_rating)

    def check(self, experiment: Any) -> None:
        """Raise UsageError if a bound of ratings is set although the source has no ratings."""
        check_rated(experiment.source, min_rating=self.min_rating, liked=self.liked, disliked=self.disliked)

    def filters(self) -> Filters:
        """Return the filters; every user keeps at least one event for training beside those held out."""
        return Filters(self.core, self.item_core, self.min_rating, self.since, self.until, self.repeats, self.n + 1)

    def tie_order(self) -> TieOrder:
        """Return the order of a user's events with equal times."""
        return _tie_order(self.ties, self.ties_seed)

    def feedback(self) -> FeedbackBounds | None:
        """Return the bounds of the labels; None without `liked`."""
        return None if self.liked is None else FeedbackBounds(self.liked, self.disliked, self.histories)

    def divide(self, begin: ndarray, end: ndarray, time: ndarray) -> ndarray:
        """Return where each user's validation and test begin, int64 [U, 2]; the user's events are begin..end, int64 [U]."""
        return np.stack([np.maximum(end - self.n, begin), np.maximum(end - (self.n - self.n // 2), begin)], axis=1)

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
        check_rated(experiment.source, min_rating=self.min_rating)

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


def divide_users(split: DividingSplit, begin: ndarray, end: ndarray, time: ndarray, label: ndarray | None) -> ndarray:
    """Return where each user's validation and test begin, int64 [U, 2], by the labels int8 [E] if there are any and the split can."""
    if label is not None and isinstance(split, LabelDividingSplit):
        return split.divide_labeled(begin, end, time, label)
    return split.divide(begin, end, time)


def assign_parts(split: DividingSplit, interactions: DataFrame) -> ndarray:
    """Return the part of each row, str [rows], from the split's `divide`; the rows are sorted by user and time.

    Labels are the column `label`, or follow from the column `rating`. Raises InputError if labels are needed and both are missing.
    """
    bounds_of_labels, label = feedback_of(split), None
    if bounds_of_labels is not None:
        if "label" not in interactions and "rating" not in interactions:
            raise InputError(f"{type(split).__name__} needs ratings, got the columns {', '.join(map(str, interactions))}")
        given = "label" in interactions
        label = interactions["label"].to_numpy() if given else labels_of(interactions["rating"].to_numpy(float), bounds_of_labels)
    user = interactions["user"].to_numpy()
    begin = np.flatnonzero(np.append(True, user[1:] != user[:-1])) if len(user) else np.zeros(0, dtype=np.int64)
    end = np.append(begin[1:], len(user))
    divided = divide_users(split, begin, end, interactions["time"].to_numpy(), label)
    bounds = np.concatenate([begin[:, None], divided, end[:, None]], axis=1)
    parts: ndarray = np.array(PARTS)[part_of_events(bounds)]
    return parts


def part_of_events(bounds: ndarray) -> ndarray:
    """Return the part of each event as an index of PARTS, int8 [E], from the bounds int64 [U, 4]."""
    parts: ndarray = np.repeat(np.tile(np.arange(3, dtype=np.int8), len(bounds)), np.diff(bounds, axis=1).ravel())
    return parts


def chunks(bounds: ndarray) -> Iterator[tuple[slice, ndarray]]:
    """Yield slices of whole users' events that fit into memory, and the part of each event as an index of PARTS, int8."""
    for first, last in user_chunks(bounds[:, END]):
        yield slice(int(bounds[first, BEGIN]), int(bounds[last - 1, END])), part_of_events(bounds[first:last])


def user_chunks(end: ndarray) -> list[tuple[int, int]]:
    """Return ranges of users (first, last + 1) with about `CHUNK` events each, from where each user's events end, int64 [U]."""
    edges = np.searchsorted(end, np.arange(0, int(end[-1]) + CHUNK, CHUNK), side="left") if len(end) else np.zeros(1, dtype=np.int64)
    edges = np.unique(np.append(edges, len(end)))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
