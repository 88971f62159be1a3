"""The filters of a split, as a frozen value. `filtering` applies them.

Order: repeats, minimum rating, time range, first or last event of a user with an item, k-core, users with too few events. The
published default of the Amazon and MovieLens tables is the 5-core of users and items with all ratings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from genrec.errors import UsageError

Repeats = Literal["keep", "exact", "first", "last"]


@dataclass(frozen=True)
class Filters:
    """Which interactions are kept. Those that pass all filters keep their order.

    `repeats` is one of "keep" (keep all), "exact" (drop repeats with the same user, item, time and rating), "first" and "last" (keep
    one event of a user with an item).
    """

    core: int = 5  # minimum number of events of a user; 0 and 1 keep all
    item_core: int | None = None  # minimum number of events of an item; None: as for users
    min_rating: float | None = None  # drop events with a lower rating or without one; None keeps all
    since: str | None = None  # drop events before this time, such as "2010-01-31" or "2010-01-31T12:00" (UTC)
    until: str | None = None  # drop events at or after this time
    repeats: Repeats = "exact"  # which repeated events are dropped
    min_events: int = 0  # minimum number of events of a user after all other filters

    def __post_init__(self) -> None:
        for name in ("core", "item_core", "min_events"):
            if (getattr(self, name) or 0) < 0:
                raise UsageError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.min_rating is not None and not math.isfinite(self.min_rating):
            raise UsageError(f"min_rating must be a finite number, got {self.min_rating}")
        if self.repeats not in get_args(Repeats):
            raise UsageError(f"repeats must be one of {', '.join(get_args(Repeats))}, got {self.repeats!r}")
        since, until = seconds(self.since, "since"), seconds(self.until, "until")
        if since is not None and until is not None and since >= until:
            raise UsageError(f"since must be before until, got {self.since} and {self.until}")

    @property
    def cores(self) -> tuple[int, int]:
        """Minimum number of events of a user and of an item."""
        return self.core, self.core if self.item_core is None else self.item_core

    @property
    def core_name(self) -> str:
        """Name of the k-core in reports and messages."""
        users, items = self.cores
        return f"{users}-core of users and items" if users == items else f"{users}-core of users, {items}-core of items"


def seconds(moment: str | None, name: str) -> int | None:
    """Convert an ISO date, or date and time, to whole seconds since 1970. Without a time zone it is UTC.

    `name` is the field that a UsageError names.
    """
    if moment is None:
        return None
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        raise UsageError(f"{name} must be a date such as 2010-01-31 or 2010-01-31T12:00, got {moment!r}") from None
    return math.ceil((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())
