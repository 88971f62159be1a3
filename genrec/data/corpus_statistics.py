"""Statistics of a corpus, as plain JSON values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from genrec.data.corpus import Corpus
from genrec.data.feedback_statistics import feedback_protocol, first_with, has_history
from genrec.data.splits import BEGIN, END, PARTS, TEST, chunks, user_chunks
from genrec.types import TieOrder
from genrec.types.data import LIKED, Histories


def statistics_of(
    item: ndarray, time: ndarray, bounds: ndarray, num_items: int, label: ndarray | None = None, histories: Histories = "all"
) -> dict[str, Any]:
    """Return size and shape, the share of users with tied last events, and the leakage of the future into training.

    `item` is int32 [E] and `time` int64 [E], in seconds since 1970, by user and time; `bounds` is int64 [U, 4], where each user's
    events, validation and test begin, and where they end.
    `label` is int8 [E] where events have labels. The density is the share of all pairs of a user and an item that occur.
    """
    events = bounds[:, END] - bounds[:, BEGIN]
    users, interactions, pairs = len(bounds), int(events.sum()), _distinct_pairs(item, bounds, num_items)
    return {
        "users": users,
        "items": num_items,
        "interactions": interactions,
        "density": pairs / (users * num_items),
        "repeated_pairs": interactions - pairs,  # events of a user with an item that the user has an earlier event with
        "events_per_user_mean": float(events.mean()),
        "events_per_user_median": float(np.median(events)),
        "parts": dict(zip(PARTS, np.diff(bounds, axis=1).sum(0).tolist(), strict=True)),
        "first_time": int(time[bounds[:, BEGIN]].min()),
        "last_time": int(time[bounds[:, END] - 1].max()),
        "users_tested": len(test_targets(bounds, label, histories)[1]),
        "share_of_users_with_tied_last_events": _tied_share(time, bounds),
        **leakage(time, bounds),
    }


def _distinct_pairs(item: ndarray, bounds: ndarray, num_items: int) -> int:
    """Return the number of pairs of a user and an item with at least one event."""
    count = 0
    for first, last in user_chunks(bounds[:, END]):
        lengths = bounds[first:last, END] - bounds[first:last, BEGIN]
        user = np.repeat(np.arange(last - first, dtype=np.int64), lengths)
        items = item[bounds[first, BEGIN] : bounds[last - 1, END]]
        count += len(np.unique(user * (num_items + 1) + items))
    return count


def _tied_share(time: ndarray, bounds: ndarray) -> float:
    """Return the share of users with equal times of the last two events: there the source's order decides which one is held out."""
    last = bounds[bounds[:, END] - bounds[:, BEGIN] > 1, END] - 1
    return float(np.count_nonzero(time[last] == time[last - 1]) / len(bounds))


def leakage(time: ndarray, bounds: ndarray) -> dict[str, float]:
    """Return the shares of training events that are later than test events.

    `leakage_share`: training events later than the earliest test event. `leakage_share_mean`: training events later than a test
    event, averaged over all test events.
    """
    tests = np.concatenate([time[rows][parts == PARTS.index("test")] for rows, parts in chunks(bounds)])
    moments, counts = np.unique(tests, return_counts=True)
    tests_before = np.append(0, counts.cumsum())  # test events before each of the moments, and all of them
    late = pairs = training = 0
    for rows, parts in chunks(bounds):
        train = time[rows][parts == PARTS.index("train")]
        earlier_tests = tests_before[np.searchsorted(moments, train, side="left")]
        training += len(train)
        late += int(np.count_nonzero(earlier_tests))
        pairs += int(earlier_tests.sum())
    return {"leakage_share": late / training, "leakage_share_mean": pairs / (training * len(tests))}


def test_targets(bounds: ndarray, label: ndarray | None, histories: Histories) -> tuple[ndarray, ndarray]:
    """Return the bounds of the tested users, int64 [R, 4], and the positions of their targets, int64 [R].

    A user is tested with a history and an event in the test part, which is liked where events have labels.
    """
    tested = bounds[(bounds[:, END] > bounds[:, TEST]) & has_history(bounds, TEST, label, histories)]
    if label is None:
        return tested, tested[:, TEST]
    target = first_with(label, tested[:, TEST], tested[:, END], LIKED)
    found = target < tested[:, END]
    return tested[found], target[found]


def order_of_ties(statistics: dict[str, Any]) -> str:
    """Return the order of a user's events with equal times, in words."""
    return str(statistics.get("ties", TieOrder().words))


def share_decided_by_ties(corpus: Corpus) -> float:
    """Return the share of tested users with a target that the order of ties decides: an event beside it has the same time.

    A target is the first event of a user's test part, or the first liked one; the event before it may belong to the history. Times
    are compared in seconds.
    """
    histories: Histories = "all" if corpus.feedback is None else corpus.feedback.histories
    tested, target = test_targets(corpus.bounds, corpus.label, histories)
    last = tested[:, END] - 1
    time = corpus.time[target]
    decided = (corpus.time[target - 1] == time) | ((last > target) & (corpus.time[np.minimum(target + 1, last)] == time))
    return float(np.count_nonzero(decided) / max(1, len(tested)))


def protocol_of(corpus: Corpus) -> dict[str, Any]:
    """Return the entries on a data set in the protocol of a table. Those on times are None for a data set without times."""
    statistics = corpus.statistics
    timed = not statistics["times_are_row_numbers"]
    return {
        "users": statistics["users"],
        "items": statistics["items"],
        "interactions": statistics["interactions"],
        "ties": order_of_ties(statistics) if timed else None,
        "targets decided by ties": share_decided_by_ties(corpus) if timed else None,
        "training later than a test event": statistics["leakage_share_mean"] if timed else None,
        **feedback_protocol(corpus),
    }
