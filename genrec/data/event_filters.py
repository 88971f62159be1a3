"""Stage 1, filters: which events a split keeps, as a value that the log of events (`log`) carries out.

Order: repeats, minimum rating, time range, one event a pair, k-core, users with too few events. The published default of the
Amazon and MovieLens tables is the 5-core of users and items, with all ratings.
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
    """What is kept. `interactions` that pass all filters keep their order."""

    core: int = 5  # events that every user keeps at least; 0 and 1 keep all
    item_core: int | None = None  # the same for items; None: as for users
    min_rating: float | None = None  # events below it are dropped, and so are events without a rating; None keeps all
    since: str | None = None  # events from this moment on, as "2010-01-31" or "2010-01-31T12:00" (UTC)
    until: str | None = None  # events before this moment
    repeats: Repeats = (
        "exact"  # events to drop: none; repeats in user, item, time and rating; all but the first (last) of user and item
    )
    min_events: int = 0  # events of a user, after all other filters

    def __post_init__(self) -> None:
        for name in ("core", "item_core", "min_events"):
            if (getattr(self, name) or 0) < 0:
                raise UsageError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.min_rating is not None and not math.isfinite(self.min_rating):
            raise UsageError(f"minimum_rating must be a number, got {self.min_rating}")
        if self.repeats not in get_args(Repeats):
            raise UsageError(f"repeats must be one of {', '.join(get_args(Repeats))}, got {self.repeats!r}")
        since, until = seconds(self.since, "since"), seconds(self.until, "until")
        if since is not None and until is not None and since >= until:
            raise UsageError(f"since must be before until, got {self.since} and {self.until}")

    @property
    def cores(self) -> tuple[int, int]:
        """Events that every user, and every item, keeps at least."""
        return self.core, self.core if self.item_core is None else self.item_core

    @property
    def core_name(self) -> str:
        """The k-core in words."""
        users, items = self.cores
        return f"{users}-core of users and items" if users == items else f"{users}-core of users, {items}-core of items"


def seconds(moment: str | None, name: str) -> int | None:
    """An ISO date or date and time, UTC where it names no zone -> whole seconds since 1970."""
    if moment is None:
        return None
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        raise UsageError(f"{name} must be a date such as 2010-01-31 or 2010-01-31T12:00, got {moment!r}") from None
    return math.ceil((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())
