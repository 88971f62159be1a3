"""Rewards of the user's own ratings in the training events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec.errors import InputError
from genrec.preference.future_events import FutureEvents
from genrec.preference.range_checks import check_range
from genrec.preference.rating_requirements import check_has_ratings
from genrec.preference.rewards.reward_tables import DeviceTable, mask_padding
from genrec.types import Rating, SamplerContext, SequenceBatch

DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class Rated:
    """The user's rating of an item in training, the last of several; `default` for an item that the user did not rate."""

    default: float = 3.0  # reward of an item without a rating, on the scale of the ratings; 3 is the middle of 1 to 5

    def __post_init__(self) -> None:
        check_range(self, "default")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the source is known to have no ratings."""
        check_has_ratings(self, experiment)

    def check_context(self, context: SamplerContext) -> None:
        """Raise InputError if there are no ratings."""
        _check_ratings(self, context)

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set."""
        self.check_context(context)
        events = _LastEvents(context)

        def rate_items(batch: SequenceBatch, items: Tensor) -> Tensor:
            _, rating, known = events.find(batch.user.to(items.device).unsqueeze(1), items)
            return mask_padding(torch.where(known & rating.isfinite(), rating, self.default).float(), items)

        return Rating(rate=rate_items)


@dataclass(frozen=True)
class RatingRecency:
    """The user's rating of an item, discounted by the delay: `phi = rating / (1 + days)^decay`, for `RecPO` (arXiv 2506.02261).

    `days` is the time between the user's events of the history's last item and of the item. Of an item that the user takes several
    times in training, its last event counts, with its time and rating: also where the item is the target of an earlier event, or
    ends the history at an earlier one. Where users repeat items, take `StepDiscountedRating`, which finds the event of the target.

    An item that the user did not rate in training has phi = `default`. The paper requires phi to grow with the rating and to fall
    with the delay; this form, which stays above 0, is ours.
    """

    default: float = 1.0  # phi of an item that the user did not rate, on the scale of the ratings, above 0
    decay: float = 0.5  # exponent of the delay, 0 or more; 0 ignores the delay

    def __post_init__(self) -> None:
        check_range(self, "default", 0, above=True)
        check_range(self, "decay", 0)

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the source is known to have no ratings."""
        check_has_ratings(self, experiment)

    def check_context(self, context: SamplerContext) -> None:
        """Raise InputError if there are no ratings."""
        _check_ratings(self, context)

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set."""
        self.check_context(context)
        events = _LastEvents(context)

        def rate_items(batch: SequenceBatch, items: Tensor) -> Tensor:
            user = batch.user.to(items.device).unsqueeze(1)
            seconds, rating, known = events.find(user, items)
            last_seconds, _, last_known = events.find(user, batch.items[:, -1:].to(items.device))
            days = torch.where(last_known, (seconds - last_seconds).abs() / DAY, 0.0)
            phi = torch.where(known & rating.isfinite(), rating * (1 + days) ** -self.decay, self.default)
            return mask_padding(phi.float(), items)

        return Rating(rate=rate_items)


@dataclass(frozen=True)
class StepDiscountedRating:
    """The rating of an item in the user's future, discounted by its place there: `phi = rating / (1 + step)^decay`, for `RecPO`.

    `step` counts the user's training events from the target on: 0 is the target. The first of several events of an item counts, and
    one without a rating has `default_rating`. An item that the user does not take from the target on has `default_rating` at
    `default_step`, but never a higher phi than the target, so that `Preference(chosen="best")` prefers an item that the user takes.

    Source: the data of the authors' code of RecPO (arXiv 2506.02261, github.com/HoytWen/RecPO), with its defaults. Deviations: phi is
    not rounded to 4 digits, and the limit for items that the user does not take is ours; with ratings from 1 on and the defaults it
    changes nothing.
    """

    default_rating: float = 3.0  # rating of an item without one, on the scale of the ratings, above 0
    default_step: float = 10.0  # step of an item that the user does not take from the target on, 0 or more
    decay: float = 0.5  # exponent of the step, 0 or more; 0 ignores the step

    def __post_init__(self) -> None:
        check_range(self, "default_rating", 0, above=True)
        check_range(self, "default_step", 0)
        check_range(self, "decay", 0)

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the source is known to have no ratings."""
        check_has_ratings(self, experiment)

    def check_context(self, context: SamplerContext) -> None:
        """Raise InputError if there are no ratings."""
        _check_ratings(self, context)

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set."""
        self.check_context(context)
        events = FutureEvents(context)
        values = torch.from_numpy(context.interactions["rating"].to_numpy("float64")[events.order])
        values = torch.where(values.isfinite(), values, self.default_rating)
        ratings = DeviceTable(torch.cat([values, values.new_tensor([self.default_rating])]))  # float64 [E + 1]

        def rate_items(batch: SequenceBatch, items: Tensor) -> Tensor:
            rows, rating = SequenceBatch(*(each.to(items.device) for each in batch)), ratings.on(items.device)
            events.follow(items.device)
            position = events.positions(rows)
            event = events.next_events(rows.user, position, items)
            phi = rating[event] * (1.0 + event - position.unsqueeze(1)) ** -self.decay
            other = rating[position].clamp(max=self.default_rating * (1 + self.default_step) ** -self.decay)
            return mask_padding(torch.where(event < events.count, phi, other.unsqueeze(1)).float(), items)

        return Rating(rate=rate_items)


class _LastEvents:
    """The last training event of every (user, item) pair, found by bisection."""

    def __init__(self, context: SamplerContext) -> None:
        table = context.interactions
        table = table.sort_values(["user", "item", "time"], kind="stable").drop_duplicates(["user", "item"], keep="last")
        user, item, time = (torch.from_numpy(table[name].to_numpy("int64", copy=True)) for name in ("user", "item", "time"))
        self.width = context.item_count + 1
        self.keys = DeviceTable(user * self.width + item)  # int64 [E]  sorted
        self.time = DeviceTable(time.double())
        self.rating = DeviceTable(torch.from_numpy(table["rating"].to_numpy("float64", copy=True)))

    def find(self, user: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return time in seconds and rating, float64 [B, M], and whether there is an event, bool [B, M].

        `user` is int64 [B, 1] and `items` int64 [B, M].
        """
        keys, time, rating = (table.on(items.device) for table in (self.keys, self.time, self.rating))
        wanted = user * self.width + items
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return time[place], rating[place], (keys[place] == wanted) & (items > 0)


def _check_ratings(reward: object, context: SamplerContext) -> None:
    """Raise InputError if the training interactions have no ratings."""
    if "rating" not in context.interactions:
        raise InputError(
            f"{type(reward).__name__} needs ratings, got training interactions with the columns "
            f"{', '.join(map(str, context.interactions.columns))}: use a source with ratings, or another reward such as Popular()"
        )
