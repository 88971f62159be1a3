"""Checks of what a split returns: a part for each row, or where each user's parts begin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray

from genrec.data.splits import PARTS
from genrec.errors import InputError
from genrec.plugin_source import name_with_place
from genrec.types import Split


def events_before(split: Split, parts: Any, users: ndarray, user_ids: ndarray) -> ndarray:
    """Return each user's number of events before validation and before the test, int64 [U, 2], from what `split.assign` returned.

    `users` int64 [E], sorted, and `user_ids` str [E] are the user of each event. Raises InputError if a row has no part, or if the
    parts of a user are not in the order train, validation, test.
    """
    name, assigned = name_with_place(type(split)), np.asarray(parts, dtype=object)
    if assigned.shape != (len(users),):
        raise InputError(f"{name}: assign must return a part for each of {len(users)} rows, got {describe_array(parts)}")
    known = np.isin(assigned.astype(str), PARTS)
    if not known.all():
        row = int(known.argmin())
        raise InputError(
            f"{name}: assign must return only {', '.join(PARTS)}, got {assigned[row]!r} for row {row}, an event of user "
            f"{user_ids[row]!r} ({int((~known).sum())} such rows)"
        )
    position = np.select([assigned == "train", assigned == "validation"], [0, 1], 2)
    backwards = np.flatnonzero((np.diff(users) == 0) & (np.diff(position) < 0))
    if len(backwards):
        row = int(backwards[0])
        raise InputError(
            f"{name}: assign puts a later event of user {user_ids[row]!r} into an earlier part ({assigned[row]}, then "
            f"{assigned[row + 1]}, rows {row} and {row + 1}); expected the order train, validation, test"
        )
    return np.stack([np.bincount(users[position < part], minlength=users.max() + 1)[1:] for part in (1, 2)], axis=1)


def check_divided(split: Split, divided: Any, begin: ndarray, end: ndarray, user_id: Callable[[int], str]) -> None:
    """Raise InputError unless `divided`, which `split.divide` returned, is int64 [U, 2] between the ends of each user's events.

    `user_id` returns the id of the user with a number, 1..U.
    """
    name = name_with_place(type(split))
    if not isinstance(divided, ndarray) or divided.shape != (len(begin), 2) or divided.dtype.kind not in "iu":
        raise InputError(f"{name}: divide must return an array int64 [{len(begin)}, 2], got {describe_array(divided)}")
    wrong = (np.diff(np.concatenate([begin[:, None], divided, end[:, None]], axis=1), axis=1) < 0).any(1)
    if wrong.any():
        user = int(wrong.argmax())
        raise InputError(
            f"{name}: divide returns {divided[user].tolist()} for user {user_id(user + 1)!r}, with events {begin[user]}..{end[user]}; "
            "expected begin <= validation <= test <= end"
        )


def describe_array(value: Any) -> str:
    """Return type and shape of an array or table, or the type of another value."""
    if isinstance(value, ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else f"{type(value).__name__}"
