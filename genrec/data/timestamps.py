"""Stage 1, the policy for times, in one place.

In: the times of interactions as a source read them, piece by piece. Out: which can be relied on, and the order of these.

    null, fractional, not finite    set aside and counted
    negative                        set aside and counted: no such data are older than 1970, and -1 means "unknown" in some
    milliseconds (from 10^11 on)    converted by dropping the fraction, and counted; the order within a second stays
    larger than 10^14               refused: micro- or nanoseconds, which the source has to convert
    ties                            the order of rows decides: every sort is stable

Above 1 % set aside, the data are refused.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import ndarray

from genrec.data.readers.bad_rows import BadRows
from genrec.data.readers.raw_tables import NEGATIVE_TIME, NO_TIME
from genrec.errors import InputError

MILLISECONDS_FROM = 10**11  # in seconds the year 5138, in milliseconds 1973
REFUSED_FROM = 10**14
TOLERATED = 0.01  # share of events that may have no usable time


class Moments(NamedTuple):
    """The times of one piece."""

    good: ndarray  # bool [rows]
    moment: ndarray  # int64 [good rows]  milliseconds since 1970, to sort by; the time is the whole seconds in it


class Times:
    """Settles the times of a log piece by piece and counts what it did."""

    def __init__(self) -> None:
        self.ledger = BadRows("interactions")  # line: the row's number in the log, from 1
        self.rows = self.milliseconds = self.good = 0

    def settle(self, times: ndarray) -> Moments:
        """Apply the policy to the next piece: int64 or float64 [rows], NaN where there is no time."""
        before, self.rows = self.rows, self.rows + len(times)
        whole = np.ones(len(times), dtype=bool)
        if times.dtype != np.int64:
            with np.errstate(invalid="ignore"):
                whole = np.isfinite(times) & (times == np.floor(times))
        with np.errstate(invalid="ignore"):
            late = whole & (times >= REFUSED_FROM)
            negative = whole & (times < 0)
        if late.any():
            raise InputError(
                f"row {before + int(late.argmax()) + 1} has time {times[late.argmax()]:.0f}: neither seconds nor milliseconds since "
                "1970; divide micro- and nanoseconds before"
            )
        for mask, reason in ((~whole, NO_TIME), (negative, NEGATIVE_TIME)):
            for place in np.flatnonzero(mask).tolist():
                self.ledger.malformed(before + place + 1, reason)
        good = whole & ~negative
        exact = times[good].astype(np.int64)
        fine = exact >= MILLISECONDS_FROM
        self.good += len(exact)
        self.milliseconds += int(fine.sum())
        return Moments(good, np.where(fine, exact, exact * 1000))

    def check(self) -> None:
        """Refuse a log of which too many events have no usable time."""
        self.ledger.check(self.good, TOLERATED, "repair the times, or leave the column out where the order of rows is time")
