"""Stage 1, what a data set's report says. In: numbered, sorted, split interactions. Out: plain JSON values."""

from __future__ import annotations

from typing import Any

import numpy as np
from pandas import DataFrame

from genrec.data.splits import PARTS


def statistics_of(interactions: DataFrame, users: int, items: int) -> dict[str, Any]:
    """Size, shape, and two warnings: how many held-out items a tie in time decides, and how far training looks into the future."""
    events = np.bincount(interactions["user"])[1:]
    return {
        "users": users,
        "items": items,
        "interactions": len(interactions),
        "density": len(interactions) / (users * items),
        "events_per_user_mean": float(events.mean()),
        "events_per_user_median": float(np.median(events)),
        "parts": {name: int((interactions["part"] == name).sum()) for name in PARTS},
        "share_of_users_with_tied_last_events": _tied(interactions),
        "leakage_share": _leakage(interactions),
    }


def removed(before: DataFrame, after: DataFrame) -> dict[str, int]:
    """How many interactions, users and items a filter removed."""
    return {
        "interactions": len(before) - len(after),
        "users": int(before["user"].nunique() - after["user"].nunique()),
        "items": int(before["item"].nunique() - after["item"].nunique()),
    }


def _tied(interactions: DataFrame) -> float:
    """The share of users whose last two events have one time, so that the order of rows chose the held-out item."""
    user, time = interactions["user"].to_numpy(), interactions["time"].to_numpy()
    last = np.flatnonzero(np.append(np.diff(user) != 0, True))
    last = last[last > 0]
    tied = (user[last] == user[last - 1]) & (time[last] == time[last - 1])
    return float(tied.sum() / len(np.unique(user)))


def _leakage(interactions: DataFrame) -> float:
    """The share of training events that are later than the earliest test event."""
    first = interactions.loc[interactions["part"] == "test", "time"].min()
    return float((interactions.loc[interactions["part"] == "train", "time"] > first).mean())
