"""A generated shop: popular items, drifting tastes, noise, and purchases that follow from the one before.

Items are a grid of categories, brands and models, which their texts name. The successors of an item depend on these three. Popularity
predicts the next item worst, co-occurrence better, and the order of purchases best; the order can be learned from texts or Semantic
IDs. `Shop.transitions` returns the true first-order transition probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy import ndarray
from numpy.random import Generator
from pandas import DataFrame

from genrec.data.readers.item_text import sentences
from genrec.data.worlds.generated_log import ADJECTIVES, BEGIN, DAY, check_at_least, interaction_table, item_id, word
from genrec.errors import UsageError
from genrec.types import RawTables

CATEGORIES = (  # (department, noun); tastes drift from a category to itself and the two after it
    *(("camping", noun) for noun in ("tent", "sleeping bag", "camping stove", "lantern")),
    *(("hiking", noun) for noun in ("backpack", "trekking poles", "hiking boots", "rain jacket")),
    *(("audio", noun) for noun in ("headphones", "loudspeaker", "record player", "amplifier")),
    *(("home", noun) for noun in ("projector", "armchair", "floor lamp", "bookshelf")),
    *(("kitchen", noun) for noun in ("coffee grinder", "espresso machine", "kettle", "toaster")),
)
BRANDS = 10
CELL = len(CATEGORIES) * BRANDS  # items of one model; the number of an item is category + len(CATEGORIES) * (brand + BRANDS * model)
COMPLEMENTS = (3, 8)  # distance of an item's two complements, in categories, for the first brand
FOLLOWER_SHARES = (0.60, 0.25, 0.15)  # probability of the first complement, second complement and next model
SKEW = 1.0  # Zipf exponent of the popularity of categories, brands and models
DRIFT = 0.6  # probability that a taste purchase drifts from the last item's category; otherwise the user likes its category
LIKED_CATEGORIES = 3  # of a user
LIKED_BRANDS = 2  # of a user
BRAND_BOOST = 6.0  # factor on the weight of a liked brand


@dataclass(frozen=True)
class Shop:
    """A world in which a purchase follows from the last item, is noise (any item), or is a matter of taste."""

    VERSION: ClassVar[int] = 1
    num_items: int = 1000  # number of items, 60 or more
    num_users: int = 1000  # number of users, 1 or more
    seed: int = 0  # seed of all random draws, 0 or more
    following: float = 0.5  # probability that a purchase follows from the last item, 0 to 1
    noise: float = 0.2  # probability that a purchase is noise, 0 to 1; the rest is taste
    min_length: int = 8  # minimum number of events of a user, 3 or more
    max_length: int = 30  # maximum number of events of a user, `min_length` or more

    def __post_init__(self) -> None:
        check_at_least(self, num_items=60, num_users=1, seed=0, min_length=3, max_length=self.min_length)
        if not (self.following >= 0 and self.noise >= 0 and self.following + self.noise <= 1):
            raise UsageError(f"following and noise must be 0 or more and sum to at most 1, got {self.following} and {self.noise}")

    def load(self, root: Path) -> RawTables:
        """Generate the world. `root` is not used."""
        random = np.random.default_rng(self.seed)
        lengths = random.integers(self.min_length, self.max_length + 1, self.num_users)
        sequences, ratings = self._purchases(random)
        gaps = 1 + random.exponential(6 * DAY, sequences.shape).astype(np.int64)
        times = BEGIN + random.integers(0, 400 * DAY, (self.num_users, 1)) + gaps.cumsum(1)
        return RawTables(interaction_table(sequences, times, lengths, ratings), _catalog(self.num_items))

    def transitions(self) -> ndarray:
        """Return the probability of each next item given the last one, averaged over tastes, float64 [N, N]; rows sum to 1."""
        result = np.full((self.num_items, self.num_items), self.noise / self.num_items)
        for share, followers in zip(FOLLOWER_SHARES, _followers(self.num_items), strict=True):
            result[np.arange(self.num_items), followers] += self.following * share
        category = _grid(self.num_items)[0]
        within = _popularity(self.num_items)[np.arange(self.num_items) // len(CATEGORIES), category]
        result += (1 - self.following - self.noise) * _drift()[category][:, category] * within
        return result

    def _purchases(self, random: Generator) -> tuple[ndarray, ndarray]:
        """Return items int64 [U, max_length] and ratings 1 to 5 of the same shape; noise has low ratings."""
        shape = (self.num_users, self.max_length)
        kind = random.choice(3, shape, p=[self.following, self.noise, 1 - self.following - self.noise])
        kind[:, 0] = np.where(kind[:, 0] == 0, 2, kind[:, 0])  # the first purchase follows from none
        followers, taste = _followers(self.num_items), _Taste(self.num_items, self.num_users, random)
        rounds = -(-kind.size // self.num_items)
        noise = np.concatenate([random.permutation(self.num_items) for _ in range(rounds)])[: kind.size].reshape(shape)
        sequences = np.zeros(shape, dtype=np.int64)
        last: ndarray | None = None
        for step in range(self.max_length):
            liked = taste.draw(last, random)
            followed = liked if last is None else followers[random.choice(3, self.num_users, p=FOLLOWER_SHARES), last]
            item = np.choose(kind[:, step], (followed, noise[:, step], liked))
            repeated = (sequences[:, :step] == item[:, None]).any(1)
            last = sequences[:, step] = np.where(repeated, random.integers(0, self.num_items, self.num_users), item)
        return sequences, np.choose(kind, (4, 1, 3)) + random.integers(0, 2, shape)


class _Taste:
    """The categories and brands that each user likes, and purchases drawn from them."""

    def __init__(self, items: int, users: int, random: Generator) -> None:
        self.popularity = _popularity(items).T
        self.categories = random.choice(len(CATEGORIES), (users, LIKED_CATEGORIES), p=_zipf(len(CATEGORIES)))
        self.brand_weights = np.ones((users, BRANDS))
        liked = random.choice(BRANDS, (users, LIKED_BRANDS), p=_zipf(BRANDS))
        np.put_along_axis(self.brand_weights, liked, BRAND_BOOST, axis=1)

    def draw(self, last: ndarray | None, random: Generator) -> ndarray:
        """Draw one item for each user, int64 [U], given the last items int64 [U], or None for the first purchase."""
        users = len(self.categories)
        category = self.categories[np.arange(users), random.integers(0, LIKED_CATEGORIES, users)]
        if last is not None:
            drifted = (last + random.integers(0, 3, users)) % len(CATEGORIES)
            category = np.where(random.random(users) < DRIFT, drifted, category)
        weights = self.popularity[category] * self.brand_weights[:, np.arange(self.popularity.shape[1]) % BRANDS]
        total = weights.cumsum(1)
        row: ndarray = (total < random.random((users, 1)) * total[:, -1:]).sum(1)
        return np.asarray(row * len(CATEGORIES) + category)


def _grid(items: int) -> tuple[ndarray, ndarray, ndarray]:
    """Return the category, brand and model of every item, int64 [N] each."""
    number = np.arange(items)
    return number % len(CATEGORIES), number // len(CATEGORIES) % BRANDS, number // CELL


def _followers(items: int) -> ndarray:
    """Return three followers of every item, int64 [3, N].

    The first two have its brand and model and another category; the third is its next model, or an item of the next brand.
    """
    category, brand, _ = _grid(items)
    number = np.arange(items)
    complements = [(number - category + (category + step + brand) % len(CATEGORIES)) % items for step in COMPLEMENTS]
    return np.stack([*complements, np.where(number + CELL < items, number + CELL, (number + len(CATEGORIES)) % items)])


def _popularity(items: int) -> ndarray:
    """Return the popularity of each item within its category, float64 [rows, categories]; 0 at places without an item."""
    category, brand, model = _grid(items)
    weights: ndarray = np.zeros((-(-items // len(CATEGORIES)), len(CATEGORIES)))
    weights[np.arange(items) // len(CATEGORIES), category] = ((1.0 + brand) * (1.0 + model)) ** -SKEW
    weights /= weights.sum(0)
    return weights


def _drift() -> ndarray:
    """Return the probability of each next category of a taste purchase, over all users, float64 [categories, categories]."""
    number = np.arange(len(CATEGORIES))
    result = np.tile((1 - DRIFT) * _zipf(len(CATEGORIES)), (len(CATEGORIES), 1))
    for step in range(3):
        result[number, (number + step) % len(CATEGORIES)] += DRIFT / 3
    return result


def _zipf(count: int) -> ndarray:
    weights: ndarray = (1.0 + np.arange(count)) ** -SKEW
    weights /= weights.sum()
    return weights


def _catalog(items: int) -> DataFrame:
    """Return the table of items with id, text, title, brand and categories."""
    rows = []
    for number, (category, brand, model) in enumerate(zip(*_grid(items), strict=True)):
        department, noun = CATEGORIES[category]
        name = word(len(CATEGORIES) + 7 * int(brand)).capitalize()
        title = f"{name} {ADJECTIVES[(3 * brand + model) % len(ADJECTIVES)]} {noun} {100 * (model + 1)}"
        text = sentences(("", title), ("brand", name), ("categories", f"{department}, {noun}"))
        rows.append((item_id(number), text, title, name, f"{department}|{noun}"))
    return DataFrame(rows, columns=["item", "text", "title", "brand", "categories"])
