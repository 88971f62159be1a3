"""Stage 1, the policy for times, in one place.

In: interactions as a source read them. Out: times in whole seconds since 1970, and the order they had.

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
from pandas import DataFrame

from genrec.data.sources.ledger import Ledger, table
from genrec.errors import InputError

MILLISECONDS_FROM = 10**11  # in seconds the year 5138, in milliseconds 1973
REFUSED_FROM = 10**14
TOLERATED = 0.01  # share of events that may have no usable time


class Timed(NamedTuple):
    """Interactions with times that can be relied on."""

    interactions: DataFrame  # time: int64, seconds
    order: ndarray  # int64 [rows]  milliseconds, to sort by
    milliseconds: int  # events whose time was converted
    set_aside: DataFrame  # file, line (the row's number, from 1), reason


def settle_times(interactions: DataFrame) -> Timed:
    """Apply the policy."""
    try:
        numbers = interactions["time"].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise InputError(f"a source's times must be int64 seconds since 1970, got {interactions['time'].dtype} ({error})") from error
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(numbers) & (numbers == np.floor(numbers))
        late = whole & (numbers >= REFUSED_FROM)
    if late.any():
        raise InputError(
            f"row {int(late.argmax()) + 1} has time {numbers[late.argmax()]:.0f}: neither seconds nor milliseconds since 1970; "
            "divide micro- and nanoseconds before"
        )
    ledger = Ledger("interactions")
    for mask, reason in ((~whole, "the time is null or no whole number of seconds"), (whole & (numbers < 0), "the time is negative")):
        for place in np.flatnonzero(mask).tolist():
            ledger.malformed(place + 1, reason)
    good = whole & (numbers >= 0)
    ledger.check(int(good.sum()), TOLERATED, "repair the times, or leave the column out where the order of rows is time")
    exact = np.where(good, numbers, 0).astype(np.int64)[good]
    fine = exact >= MILLISECONDS_FROM
    interactions = interactions[good].assign(time=np.where(fine, exact // 1000, exact))
    return Timed(interactions, np.where(fine, exact, exact * 1000), int(fine.sum()), table([ledger]))
