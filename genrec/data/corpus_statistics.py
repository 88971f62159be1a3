"""Stage 1, what a data set's report says. In: the sorted events' times and every user's bounds. Out: plain JSON values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from genrec.data.splits import BEGIN, END, PARTS, TEST, chunks


def statistics_of(time: ndarray, bounds: ndarray, items: int) -> dict[str, Any]:
    """Size, shape, and two warnings: how many held-out items a tie in time decides, and how far training looks into the future.

    Times int64 [E], bounds int64 [U, 4] (where each user's events, validation, test begin, and where they end).
    """
    events = bounds[:, END] - bounds[:, BEGIN]
    users, interactions = len(bounds), int(events.sum())
    return {
        "users": users,
        "items": items,
        "interactions": interactions,
        "density": interactions / (users * items),
        "events_per_user_mean": float(events.mean()),
        "events_per_user_median": float(np.median(events)),
        "parts": dict(zip(PARTS, np.diff(bounds, axis=1).sum(0).tolist(), strict=True)),
        "first_time": int(time[bounds[:, BEGIN]].min()),
        "last_time": int(time[bounds[:, END] - 1].max()),
        "users_tested": int(np.count_nonzero((bounds[:, END] > bounds[:, TEST]) & (bounds[:, TEST] > bounds[:, BEGIN]))),
        "share_of_users_with_tied_last_events": _tied(time, bounds),
        **leakage(time, bounds),
    }


def _tied(time: ndarray, bounds: ndarray) -> float:
    """The share of users whose last two events have one time, so that the order of rows chose the held-out item."""
    last = bounds[bounds[:, END] - bounds[:, BEGIN] > 1, END] - 1
    return float(np.count_nonzero(time[last] == time[last - 1]) / len(bounds))


def leakage(time: ndarray, bounds: ndarray) -> dict[str, float]:
    """How much of training happened after what is predicted.

    `leakage_share`: training events that are later than the earliest test event. `leakage_share_mean`: the same for one test event,
    averaged over all of them: what a model has seen of the future of the average prediction.
    """
    tests = np.concatenate([time[rows][parts == PARTS.index("test")] for rows, parts in chunks(bounds)])
    moments, counts = np.unique(tests, return_counts=True)
    earlier = np.append(0, counts.cumsum())  # tests before the moment of this place
    later = pairs = training = 0
    for rows, parts in chunks(bounds):
        train = time[rows][parts == PARTS.index("train")]
        earlier_tests = earlier[np.searchsorted(moments, train, side="left")]
        training += len(train)
        later += int(np.count_nonzero(earlier_tests))
        pairs += int(earlier_tests.sum())
    return {"leakage_share": later / training, "leakage_share_mean": pairs / (training * len(tests))}
