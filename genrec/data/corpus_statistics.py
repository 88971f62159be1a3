"""Statistics of a corpus, as plain JSON values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from genrec.data.splits import BEGIN, END, PARTS, TEST, chunks, user_chunks


def statistics_of(item: ndarray, time: ndarray, tied: ndarray, bounds: ndarray, num_items: int) -> dict[str, Any]:
    """Return size and shape, the shares of users with ties that matter, and the leakage of the future into training.

    `item` is int32 [E] and `time` int64 [E], in seconds since 1970, by user and time. `tied` is bool [E]: whether an event has the
    exact time (milliseconds included) of the event before it, of the same user. `bounds` is int64 [U, 4], where each user's events,
    validation and test begin, and where they end. The density is the share of all pairs of a user and an item that occur.
    """
    events = bounds[:, END] - bounds[:, BEGIN]
    users, interactions, pairs = len(bounds), int(events.sum()), _distinct_pairs(item, bounds, num_items)
    tested = bounds[(bounds[:, END] > bounds[:, TEST]) & (bounds[:, TEST] > bounds[:, BEGIN])]
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
        "users_tested": len(tested),
        "share_of_users_with_tied_last_events": float(np.count_nonzero(tied[bounds[:, END] - 1]) / users),
        "share_of_targets_decided_by_ties": _share_decided_by_ties(tied, tested),
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


def _share_decided_by_ties(tied: ndarray, tested: ndarray) -> float:
    """Return the share of tested users with a target that the order of ties decides: an event beside it has the same time.

    `tested` is the bounds of the tested users, int64 [U', 4]. A target is the first event of a user's test part.
    """
    target = tested[:, TEST]
    after = np.minimum(target + 1, tested[:, END] - 1)
    decided = tied[target] | (tied[after] & (after > target))
    return float(np.count_nonzero(decided) / max(1, len(tested)))


def leakage(time: ndarray, bounds: ndarray) -> dict[str, float]:
    """Return the shares of training events that are later than test events.

    `leakage_share`: training events later than the earliest test event. `leakage_share_mean`: training events later than a test
    event, averaged over all test events. `leakage_share_mean_time`: training events later than the mean time of the test events.
    """
    tests = np.concatenate([time[rows][parts == PARTS.index("test")] for rows, parts in chunks(bounds)])
    moments, counts = np.unique(tests, return_counts=True)
    tests_before = np.append(0, counts.cumsum())  # test events before each of the moments, and all of them
    mean_time = tests.mean()
    late = pairs = after_mean = training = 0
    for rows, parts in chunks(bounds):
        train = time[rows][parts == PARTS.index("train")]
        earlier_tests = tests_before[np.searchsorted(moments, train, side="left")]
        training += len(train)
        late += int(np.count_nonzero(earlier_tests))
        pairs += int(earlier_tests.sum())
        after_mean += int(np.count_nonzero(train > mean_time))
    return {
        "leakage_share": late / training,
        "leakage_share_mean": pairs / (training * len(tests)),
        "leakage_share_mean_time": after_mean / training,
    }


def protocol_of(statistics: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a data set that stand in the protocol of a table. Without times there are neither ties nor leakage."""
    timed = not statistics["times_are_row_numbers"]
    return {
        "users": statistics["users"],
        "items": statistics["items"],
        "interactions": statistics["interactions"],
        "ties": statistics["ties"] if timed else "none, without times",
        "targets decided by ties": statistics["share_of_targets_decided_by_ties"],
        "training later than the mean test time": statistics["leakage_share_mean_time"] if timed else None,
    }
