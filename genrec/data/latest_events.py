"""The moment from which on at most a share of all events lie, for splits in time."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

DAY = 86_400  # seconds
CHUNK = 1 << 22  # events in memory at once


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


def _time_chunks(time: ndarray) -> list[ndarray]:
    return [time[begin : begin + CHUNK] for begin in range(0, len(time), CHUNK)]


def _by_day(time: ndarray, days: int) -> list[ndarray]:
    return [np.bincount(chunk // DAY, minlength=days) for chunk in _time_chunks(time)]
