"""Labels of events: liked, neutral or disliked, from the bounds of ratings that a split sets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy import ndarray

from genrec.errors import InputError, UsageError
from genrec.plugin_source import name_with_place
from genrec.types import FeedbackBounds, LabelingSplit, RatedSource, Split
from genrec.types.data import DISLIKED, LIKED, Histories


def labels_of(rating: ndarray, bounds: FeedbackBounds) -> ndarray:
    """Return the label of each event, int8 [E], from its rating float64 [E]; NaN, a missing rating, is neutral."""
    labels = np.zeros(len(rating), dtype=np.int8)
    labels[rating >= bounds.liked] = LIKED
    if bounds.disliked is not None:
        labels[rating <= bounds.disliked] = DISLIKED
    return labels


def check_labels(label: ndarray, rating: ndarray, bounds: FeedbackBounds) -> None:
    """Raise InputError if no event is liked, so that nobody has a target. `label` is int8 [E], `rating` float64 [E], not empty."""
    if label.max() == LIKED:
        return
    highest = np.fmax.reduce(rating)  # NaN only if all are
    found = "no event has a rating" if np.isnan(highest) else f"the highest rating is {highest:g}"
    advice = "" if np.isnan(highest) else f"; set split.liked to {highest:g} or less"
    raise InputError(f"split.liked = {bounds.liked:g} labels no event as liked, but targets are liked events: {found}{advice}")


def feedback_of(split: Split) -> FeedbackBounds | None:
    """Return the bounds of a split's labels; None if its events have none."""
    bounds = split.feedback() if isinstance(split, LabelingSplit) else None
    if bounds is not None and not isinstance(bounds, FeedbackBounds):
        raise InputError(f"{name_with_place(type(split))}: feedback must return a genrec.types.FeedbackBounds or None, got {bounds!r}")
    return bounds


def check_feedback(liked: float | None, disliked: float | None, histories: Histories, min_rating: float | None) -> None:
    """Raise UsageError if the bounds of a split do not fit each other or its filter."""
    for name, bound in (("liked", liked), ("disliked", disliked)):
        if bound is not None and not math.isfinite(bound):
            raise UsageError(f"split.{name} must be a finite number or None, got {bound}")
    if liked is None and disliked is not None:
        raise UsageError(f"split.disliked = {disliked} needs split.liked, since targets are liked events; set split.liked, such as 4")
    if histories == "without disliked" and disliked is None:
        raise UsageError("split.histories 'without disliked' needs split.disliked, such as 2, got None; set it, or histories 'all'")
    if liked is None or disliked is None:
        return
    if disliked >= liked:
        raise UsageError(f"split.disliked must be below split.liked, got {disliked} and {liked}")
    if min_rating is not None and min_rating > disliked:
        raise UsageError(
            f"split.min_rating = {min_rating} drops every event that split.disliked = {disliked} would label; set split.min_rating to "
            f"None or at most {disliked}, or split.disliked to None"
        )


def check_rated(source: Any, **bounds: float | None) -> None:
    """Raise UsageError if a split has bounds of ratings, by field name, and the source is known to have no ratings."""
    for name, bound in bounds.items():
        if bound is not None and isinstance(source, RatedSource) and not source.has_ratings():
            raise UsageError(f"split.{name} = {bound} needs ratings, but the source {source!r} has none; set it to None")


def last_liked(begin: ndarray, end: ndarray, label: ndarray) -> ndarray:
    """Return the positions of each user's second last and last liked event, int64 [U, 2]; `end` twice if there are fewer than two.

    A user's events are begin..end, int64 [U]; `label` is int8 [E], and all users are in it.
    """
    liked = np.flatnonzero(label == LIKED)
    after = np.searchsorted(liked, end)
    enough = after - np.searchsorted(liked, begin) >= 2
    found = np.stack([end, end], axis=1)
    found[enough] = liked[after[enough, None] + np.array([-2, -1])]
    return found


def users_filter(bounds: FeedbackBounds) -> str:
    """Return the name of the filter that leaves out users with too few liked events."""
    return f"users with {bounds.min_liked} liked events or more"
