"""The ids that users and items have in the source, for messages. Everything else works with their numbers, 1..U and 1..N."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class OwnIds(NamedTuple):
    """Two functions from a number to the id in the source. They are called only for messages, so large tables are read only then."""

    user: Callable[[int], str]
    item: Callable[[int], str]


def name_user(ids: OwnIds | None, number: int) -> str:
    """Return `user 'A1' (number 71)`, or `user 71` if the ids are not known."""
    return f"user {number}" if ids is None else f"user {ids.user(number)!r} (number {number})"


def name_item(ids: OwnIds | None, number: int) -> str:
    """Return `'B7' (number 7)`, or `7` if the ids are not known."""
    return str(number) if ids is None else f"{ids.item(number)!r} (number {number})"


def name_row(ids: OwnIds | None, user: int, target: int) -> str:
    """Return `user 'A1' (number 71), target 'B7' (number 7)`, the history and the target of an example."""
    return f"{name_user(ids, user)}, target {name_item(ids, target)}"
