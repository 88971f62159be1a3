"""SQL queries of the event log: the filters, and the events in order."""

from __future__ import annotations

from genrec.data.event_filters import Filters, seconds

NamedQuery = tuple[str, str]  # name of a filter in reports, and the SQL query of the events that it keeps


def filter_queries(filters: Filters) -> list[NamedQuery]:
    """Return the queries of the filters on rating, time, and repeats of a user with an item."""
    queries: list[NamedQuery] = []
    if filters.min_rating is not None:
        query = f"SELECT * FROM events WHERE rating >= {number(filters.min_rating)}"
        queries.append((f"rating of {filters.min_rating:g} or more", query))
    since, until = seconds(filters.since, "since"), seconds(filters.until, "until")
    if since is not None:
        queries.append((f"events from {filters.since} on", f"SELECT * FROM events WHERE time_ms >= {since * 1000}"))
    if until is not None:
        queries.append((f"events before {filters.until}", f"SELECT * FROM events WHERE time_ms < {until * 1000}"))
    if filters.repeats in ("first", "last"):
        order = "ASC" if filters.repeats == "first" else "DESC"
        window = f"OVER (PARTITION BY user_index, item_index ORDER BY time_ms {order}, row {order})"
        name = f"{filters.repeats} event of a user with an item"
        queries.append((name, f"SELECT * FROM events QUALIFY row_number() {window} = 1"))
    return queries


def sorted_events(ties_seed: int | None, until_liked: float | None) -> str:
    """Return the query of the numbered events by user, time, `random_order` and row.

    With `until_liked`, a user's events end with the last one that has this rating or a higher one.
    """
    order = f"time_ms, {'' if ties_seed is None else random_order(ties_seed)}row"
    following = f"OVER (PARTITION BY user_number ORDER BY {order} ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)"
    kept = "" if until_liked is None else f"QUALIFY coalesce(bool_or(rating >= {number(until_liked)}) {following}, false) "
    return (
        'SELECT user_number AS "user", item_number AS item, time_ms // 1000 AS time, rating FROM events '
        f"JOIN user_numbers USING (user_index) JOIN item_numbers USING (item_index) {kept}"
        f"ORDER BY user_number, {order}"
    )


def random_order(seed: int) -> str:
    """Return sort keys in SQL: 64 bits of the MD5 of seed, time and both ids, then the rating. They do not depend on the rows."""
    return f"md5_number_lower(concat('ties {seed} ', time_ms, ' ', strlen(user_id), ' ', user_id, item_id)), rating, "


def number(value: float) -> str:
    """Return a number as SQL text. The representation of a NumPy number, such as `np.float64(4.0)`, is not valid SQL."""
    return repr(float(value))
