"""Checks of the ratings that a component needs, against the source and the split of an experiment."""

from __future__ import annotations

from typing import Any

from genrec.errors import UsageError
from genrec.types import Feedback, FilteringSplit, LabelingSplit, RatedSource


def check_has_ratings(component: object, experiment: Any) -> None:
    """Raise UsageError if the experiment's source is known to have no ratings."""
    if isinstance(experiment.source, RatedSource) and not experiment.source.has_ratings():
        raise UsageError(
            f"{experiment.name}: {type(component).__name__} needs ratings, but the source {experiment.source!r} has none; use a "
            "source with ratings, or a component that reads none"
        )


def check_keeps_ratings(component: object, field: str, experiment: Any) -> None:
    """Raise UsageError if the split drops all events with a rating of at most the component's `field`."""
    filters = experiment.split.filters() if isinstance(experiment.split, FilteringSplit) else None
    lowest, highest = getattr(filters, "min_rating", None), getattr(component, field)
    if lowest is not None and highest < lowest:
        name = type(component).__name__
        raise UsageError(
            f"{experiment.name}: {name}.{field} = {highest} needs events with a rating of {highest} or less, but split.min_rating = "
            f"{lowest} drops every event with a rating below {lowest}; set split.min_rating to None or at most {highest}, or use "
            "another sampler, such as AlreadySeen()"
        )


def check_below_liked(component: object, field: str, experiment: Any) -> None:
    """Raise UsageError if the component's `field`, a highest rating of dislikes, reaches ratings that the split labels as liked."""
    bounds = experiment.split.feedback() if isinstance(experiment.split, LabelingSplit) else None
    highest = getattr(component, field)
    if bounds is not None and highest >= bounds.liked:
        name = type(component).__name__
        below = f", such as split.disliked = {bounds.disliked:g}" if bounds.disliked is not None else ""
        raise UsageError(
            f"{experiment.name}: {name}.{field} = {highest:g} makes negatives of items that split.liked = {bounds.liked:g} labels as "
            f"liked; set {name}.{field} below {bounds.liked:g}{below}"
        )


def check_has_dislikes(component: object, experiment: Any) -> None:
    """Raise UsageError if the experiment's split labels no event as disliked."""
    bounds = experiment.split.feedback() if isinstance(experiment.split, LabelingSplit) else None
    if bounds is None or bounds.disliked is None:
        raise UsageError(
            f"{experiment.name}: {type(component).__name__} needs events that are labeled as disliked, and "
            f"{type(experiment.split).__name__} has no bound for them; set split.liked and split.disliked, such as 4 and 2"
        )


def check_labels(component: object, feedback: Feedback, experiment: Any) -> None:
    """Raise UsageError if a component trains on liked events and the experiment's split labels none."""
    bounds = experiment.split.feedback() if isinstance(experiment.split, LabelingSplit) else None
    if feedback == "liked" and bounds is None:
        raise UsageError(
            f"{experiment.name}: {type(component).__name__}.feedback 'liked' needs labels, and the split sets no bounds of ratings; "
            "set split.liked, such as 4, or another feedback"
        )
