"""The latent parameters of the world `Taste`: what users like, what the shop shows, and the probabilities that follow from both.

Items are a grid of cells, each a category and a brand, with several models. Brands stand on a circle of tastes, and so do categories:
a user with the angles a and c values an item of a brand at the angle b and a category at the angle d by

    z = BRAND_WEIGHT cos(a - b) + CATEGORY_WEIGHT cos(c - d)

An event is chosen (probability `chosen`): a cell with a probability proportional to exp(CHOICE_SHARPNESS z). Or it is shown: the
category follows from the last item's or is popular, and the brand is popular, whatever the user likes. The model is drawn by
popularity. The user rates the item RATING_MEAN + RATING_SLOPE z + noise, rounded and clipped to 1..5. The events of a
randomized period (`Taste.randomized`) are neither chosen nor shown: every item of the catalog has the same probability. Ratings follow
the same rule.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import ndarray
from numpy.random import Generator
from scipy.special import ndtr

CATEGORIES = (  # (department, noun); the shop shows the last item's category, the next one, or a popular one
    *(("camping", noun) for noun in ("tent", "lantern")),
    *(("hiking", noun) for noun in ("backpack", "jacket")),
    *(("audio", noun) for noun in ("headphones", "amplifier")),
    *(("kitchen", noun) for noun in ("kettle", "toaster")),
)
BRANDS = 8
CELLS = len(CATEGORIES) * BRANDS  # number of an item = category + len(CATEGORIES) * (brand + BRANDS * model)
SKEW = 1.3  # Zipf exponent of the popularity of categories, brands and models
STAY, FOLLOW = 0.4, 0.2  # probability that the shop shows the last item's category again, or the next one; else one by popularity
BRAND_WEIGHT, CATEGORY_WEIGHT = 1.0, 0.5  # of a brand and a category in a user's value of an item
CHOICE_SHARPNESS = 3.0  # of choices: factor on the value
RATING_MEAN = 2.6  # rating of an item with the value 0
RATING_SLOPE = 1.5  # rating points for each unit of value


class TasteModel:
    """The latent parameters of all users and items, and probabilities. Users and items are numbered from 0, cells too."""

    def __init__(self, num_items: int, num_users: int, seed: int, chosen: float, rating_noise: float) -> None:
        random = np.random.default_rng([seed, 0])
        self.num_items, self.chosen, self.rating_noise = num_items, chosen, rating_noise
        brand_angle = 2 * np.pi * random.permutation(BRANDS) / BRANDS  # popularity says nothing about the place on the circle
        category_angle = 2 * np.pi * random.permutation(len(CATEGORIES)) / len(CATEGORIES)
        likes_brand, likes_category = 2 * np.pi * random.random((2, num_users, 1))
        cell = np.arange(CELLS)
        self.value: ndarray = BRAND_WEIGHT * np.cos(likes_brand - brand_angle[cell // len(CATEGORIES)])  # float64 [U, cells]
        self.value = self.value + CATEGORY_WEIGHT * np.cos(likes_category - category_angle[cell % len(CATEGORIES)])
        weights = np.exp(CHOICE_SHARPNESS * self.value)
        self.choice: ndarray = weights / weights.sum(1, keepdims=True)  # float64 [U, cells], rows sum to 1
        self.shown = _shown()  # float64 [cells, cells]  next cell given the last one
        self.models = _models(num_items)  # float64 [models, cells]  popularity within the cell, columns sum to 1

    @property
    def item_cell(self) -> ndarray:
        """The cell of every item, int64 [N]."""
        return np.arange(self.num_items) % CELLS

    @property
    def within_cell(self) -> ndarray:
        """The probability of every item in its cell, float64 [N]."""
        return self.models.reshape(-1)[: self.num_items]

    def next_cell(self, users: ndarray, last: ndarray) -> ndarray:
        """Return the probability of each next cell, float64 [B, cells], of users int64 [B] with the last cells int64 [B]."""
        found: ndarray = self.chosen * self.choice[users] + (1 - self.chosen) * self.shown[last]
        return found

    def rating_probability(self, lowest: float, highest: float) -> ndarray:
        """Return the probability of a rating from `lowest` to `highest`, float64 [U, cells]."""
        mean = RATING_MEAN + RATING_SLOPE * self.value
        upper = np.inf if highest >= 5 else np.floor(highest) + 0.5
        lower = -np.inf if lowest <= 1 else np.ceil(lowest) - 0.5
        found: ndarray = ndtr((upper - mean) / self.rating_noise) - ndtr((lower - mean) / self.rating_noise)
        return found

    def simulate(self, users: ndarray, last: ndarray, steps: int, random: Generator) -> Events:
        """Draw the next `steps` events of users int64 [B] with the last cells int64 [B]."""
        items, ratings = np.zeros((len(users), steps), dtype=np.int64), np.zeros((len(users), steps))
        models = self.models.T
        for step in range(steps):
            last = _draw(self.next_cell(users, last), random)
            items[:, step] = last + CELLS * _draw(models[last], random)
            ratings[:, step] = self.rate(users, last, random)
        return Events(items, ratings)

    def randomize(self, events: Events, where: ndarray, random: Generator) -> None:
        """Replace the events at bool [U, steps], in place, by items that are drawn uniformly from the catalog, and rate them."""
        users = np.nonzero(where)[0]
        events.items[where] = random.integers(0, self.num_items, len(users))
        events.ratings[where] = self.rate(users, self.item_cell[events.items[where]], random)

    def rate(self, users: ndarray, cells: ndarray, random: Generator) -> ndarray:
        """Draw the ratings, float64 [B], that users int64 [B] give to items of the cells int64 [B]."""
        noise = self.rating_noise * random.standard_normal(len(users))
        found: ndarray = np.clip(np.rint(RATING_MEAN + RATING_SLOPE * self.value[users, cells] + noise), 1, 5)
        return found


class Events(NamedTuple):
    """Events in temporal order."""

    items: ndarray  # int64 [B, steps]
    ratings: ndarray  # float64 [B, steps]


def _shown() -> ndarray:
    """Return the probability of the next cell that the shop shows, given the last cell, float64 [cells, cells]."""
    categories = len(CATEGORIES)
    same: ndarray = np.eye(categories)
    category = STAY * same + FOLLOW * np.roll(same, 1, axis=1) + (1 - STAY - FOLLOW) * _zipf(categories)
    brand: ndarray = np.tile(_zipf(BRANDS), (BRANDS, 1))
    return np.kron(brand, category)  # a cell is category + categories * brand


def _models(items: int) -> ndarray:
    """Return the popularity of the models of each cell, float64 [models, cells]; 0 where there is no item."""
    rows = -(-items // CELLS)
    weights: ndarray = np.zeros(rows * CELLS)
    weights[:items] = (1.0 + np.arange(items) // CELLS) ** -SKEW
    table: ndarray = weights.reshape(rows, CELLS)
    table /= table.sum(0)
    return table


def _draw(probability: ndarray, random: Generator) -> ndarray:
    """Draw a column of each row of float64 [B, C]: int64 [B]."""
    total = probability.cumsum(1)
    found: ndarray = (total <= random.random((len(total), 1)) * total[:, -1:]).sum(1)
    return found


def _zipf(count: int) -> ndarray:
    """Return the popularity of `count` things, float64 [count], which sums to 1."""
    weights: ndarray = (1.0 + np.arange(count)) ** -SKEW
    weights /= weights.sum()
    return weights
