"""Normalization of timestamps.

    null, fractional, not finite    set aside and counted
    negative                        set aside and counted: no data set is older than 1970, and -1 means "unknown" in some
    milliseconds (10^11 or more)    converted to seconds and counted; the order within a second is kept
    10^14 or more                   an InputError: micro- or nanoseconds, which the source must convert
    ties                            stay in the source's order, because every sort is stable

More than 1 % of rows set aside is an InputError.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import ndarray

from genrec.data.readers.bad_rows import BadRows
from genrec.data.readers.time_texts import NEGATIVE_TIME, NO_TIME
from genrec.errors import InputError

MILLISECONDS_FROM = 10**11  # in seconds the year 5138, in milliseconds 1973
REFUSED_FROM = 10**14
MAX_BAD_TIMES = 0.01  # share of interactions without a usable time, 0 to 1


class NormalizedTimes(NamedTuple):
    """The times of one table of interactions."""

    usable: ndarray  # bool [rows]
    time_ms: ndarray  # int64 [usable rows]  milliseconds since 1970


class TimeNormalizer:
    """Normalizes the times of consecutive tables and counts bad and converted ones."""

    def __init__(self) -> None:
        self.bad_rows = BadRows("interactions")  # by row number over all tables, from 1
        self.num_rows = self.num_usable = self.num_milliseconds = 0
        self.are_row_numbers = True  # 0, 1, 2, ...: what a source without times returns

    def normalize(self, times: ndarray) -> NormalizedTimes:
        """Normalize the times of the next table: int64 or float64 [rows], NaN for a missing time."""
        before, self.num_rows = self.num_rows, self.num_rows + len(times)
        self.are_row_numbers = self.are_row_numbers and bool((times == np.arange(before, self.num_rows)).all())
        whole = np.ones(len(times), dtype=bool)
        if times.dtype != np.int64:
            with np.errstate(invalid="ignore"):
                whole = np.isfinite(times) & (times == np.floor(times))
        with np.errstate(invalid="ignore"):
            too_large = whole & (times >= REFUSED_FROM)
            negative = whole & (times < 0)
        if too_large.any():
            raise InputError(
                f"row {before + int(too_large.argmax()) + 1} has time {times[too_large.argmax()]:.0f}: neither seconds nor "
                "milliseconds since 1970; divide micro- and nanoseconds in the source"
            )
        for mask, reason in ((~whole, NO_TIME), (negative, NEGATIVE_TIME)):
            for place in np.flatnonzero(mask).tolist():
                self.bad_rows.malformed(before + place + 1, reason)
        usable = whole & ~negative
        values = times[usable].astype(np.int64)
        in_milliseconds = values >= MILLISECONDS_FROM
        self.num_usable += len(values)
        self.num_milliseconds += int(in_milliseconds.sum())
        return NormalizedTimes(usable, np.where(in_milliseconds, values, values * 1000))

    def check(self) -> None:
        """Raise InputError if too many interactions have no usable time."""
        self.bad_rows.check(
            self.num_usable, MAX_BAD_TIMES, "repair the times, or leave the column out if the rows are in the order of time"
        )
