"""Stage 1, a world that looks like a shop: popularity, tastes that drift, noise, and purchases that follow from the one before.

Items are a grid of categories, brands and models, all named in their text, and what follows from an item is a function of these
three. Popularity, co-occurrence and the order of purchases are therefore worth something each, in this order, and the last can be
learned from text or from Semantic IDs. Out: `RawTables`; `transitions` is what an oracle of first order knows.
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
from genrec.data.worlds.generated_log import ADJECTIVES, BEGIN, DAY, check_at_least, item_id, log, word
from genrec.errors import UsageError
from genrec.types import RawTables

CATEGORIES = (  # department, noun; tastes drift from a category to the two after it
    *(("camping", noun) for noun in ("tent", "sleeping bag", "camping stove", "lantern")),
    *(("hiking", noun) for noun in ("backpack", "trekking poles", "hiking boots", "rain jacket")),
    *(("audio", noun) for noun in ("headphones", "loudspeaker", "record player", "amplifier")),
    *(("home", noun) for noun in ("projector", "armchair", "floor lamp", "bookshelf")),
    *(("kitchen", noun) for noun in ("coffee grinder", "espresso machine", "kettle", "toaster")),
)
BRANDS = 10
CELL = len(CATEGORIES) * BRANDS  # an item's number is category + categories * (brand + brands * model)
COMPLEMENTS = (3, 8)  # how many categories further an item's two complements are, for the first brand
FOLLOWING = (0.60, 0.25, 0.15)  # what follows: first complement, second complement, next model
SKEW = 1.0  # Zipf exponent of categories', brands' and models' popularity
DRIFT = 0.6  # probability that taste goes on from the last item's category, else from a category that the user likes
HOMES = 3  # categories that a user likes
LIKED = 2  # brands that a user likes ...
LIKING = 6.0  # ... and how many times more often they are taken


@dataclass(frozen=True)
class Shop:
    """Every purchase follows from the last one, or is noise (any item), or is a matter of taste."""

    VERSION: ClassVar[int] = 1
    num_items: int = 1000  # 60 or more
    num_users: int = 1000  # 1 or more
    seed: int = 0  # of everything that is drawn
    following: float = 0.5  # probability that a purchase follows from the last item, 0 to 1
    noise: float = 0.2  # probability that a purchase is noise, 0 to 1; the rest is taste
    min_length: int = 8  # events of a user, 3 or more
    max_length: int = 30  # events of a user, `shortest` or more

    def __post_init__(self) -> None:
        check_at_least(self, num_items=60, num_users=1, seed=0, min_length=3, max_length=self.min_length)
        if not (self.following >= 0 and self.noise >= 0 and self.following + self.noise <= 1):
            raise UsageError(f"following and noise are probabilities of one choice, got {self.following} and {self.noise}")

    def load(self, root: Path) -> RawTables:
        """Generate the world; nothing is read."""
        random = np.random.default_rng(self.seed)
        lengths = random.integers(self.min_length, self.max_length + 1, self.num_users)
        taken, ratings = self._purchases(random)
        gaps = 1 + random.exponential(6 * DAY, taken.shape).astype(np.int64)
        times = BEGIN + random.integers(0, 400 * DAY, (self.num_users, 1)) + gaps.cumsum(1)
        return RawTables(log(taken, times, lengths, ratings), _catalog(self.num_items))

    def transitions(self) -> ndarray:
        """float64 [N, N]: the next item's probability after every item, over users of average taste; rows sum to 1."""
        result = np.full((self.num_items, self.num_items), self.noise / self.num_items)
        for share, following in zip(FOLLOWING, _followers(self.num_items), strict=True):
            result[np.arange(self.num_items), following] += self.following * share
        category = _grid(self.num_items)[0]
        within = _popularity(self.num_items)[np.arange(self.num_items) // len(CATEGORIES), category]
        result += (1 - self.following - self.noise) * _drift()[category][:, category] * within
        return result

    def _purchases(self, random: Generator) -> tuple[ndarray, ndarray]:
        """Items int64 [users, longest] and ratings, 1 to 5: noise disappoints."""
        shape = (self.num_users, self.max_length)
        kind = random.choice(3, shape, p=[self.following, self.noise, 1 - self.following - self.noise])
        kind[:, 0] = np.where(kind[:, 0] == 0, 2, kind[:, 0])  # nothing to follow from
        followers, taste = _followers(self.num_items), _Taste(self.num_items, self.num_users, random)
        deck = np.concatenate([random.permutation(self.num_items) for _ in range(-(-kind.size // self.num_items))])[
            : kind.size
        ].reshape(shape)
        taken = np.zeros(shape, dtype=np.int64)
        last: ndarray | None = None
        for step in range(self.max_length):
            liked = taste.draw(last, random)
            followed = liked if last is None else followers[random.choice(3, self.num_users, p=FOLLOWING), last]
            item = np.choose(kind[:, step], (followed, deck[:, step], liked))
            again = (taken[:, :step] == item[:, None]).any(1)
            last = taken[:, step] = np.where(again, random.integers(0, self.num_items, self.num_users), item)
        return taken, np.choose(kind, (4, 1, 3)) + random.integers(0, 2, shape)


class _Taste:
    """Which categories and brands each user likes, and what they buy for that."""

    def __init__(self, items: int, users: int, random: Generator) -> None:
        self.popularity = _popularity(items).T
        self.homes = random.choice(len(CATEGORIES), (users, HOMES), p=_zipf(len(CATEGORIES)))
        self.liking = np.ones((users, BRANDS))
        np.put_along_axis(self.liking, random.choice(BRANDS, (users, LIKED), p=_zipf(BRANDS)), LIKING, axis=1)

    def draw(self, last: ndarray | None, random: Generator) -> ndarray:
        """One item for each user, int64 [U], after the last ones."""
        users = len(self.homes)
        category = self.homes[np.arange(users), random.integers(0, HOMES, users)]
        if last is not None:
            onward = (last + random.integers(0, 3, users)) % len(CATEGORIES)
            category = np.where(random.random(users) < DRIFT, onward, category)
        weights = self.popularity[category] * self.liking[:, np.arange(self.popularity.shape[1]) % BRANDS]
        total = weights.cumsum(1)
        row: ndarray = (total < random.random((users, 1)) * total[:, -1:]).sum(1)
        return np.asarray(row * len(CATEGORIES) + category)


def _grid(items: int) -> tuple[ndarray, ndarray, ndarray]:
    """Category, brand and model of every item, int64 [N] each."""
    number = np.arange(items)
    return number % len(CATEGORIES), number // len(CATEGORIES) % BRANDS, number // CELL


def _followers(items: int) -> ndarray:
    """int64 [3, N]: for every item, brand and model again in two other categories, then the next model (else the next brand's)."""
    category, brand, _ = _grid(items)
    number = np.arange(items)
    complements = [(number - category + (category + step + brand) % len(CATEGORIES)) % items for step in COMPLEMENTS]
    return np.stack([*complements, np.where(number + CELL < items, number + CELL, (number + len(CATEGORIES)) % items)])


def _popularity(items: int) -> ndarray:
    """float64 [rows, categories]: of each item within its category; 0 where the grid's last row holds none."""
    category, brand, model = _grid(items)
    weights: ndarray = np.zeros((-(-items // len(CATEGORIES)), len(CATEGORIES)))
    weights[np.arange(items) // len(CATEGORIES), category] = ((1.0 + brand) * (1.0 + model)) ** -SKEW
    weights /= weights.sum(0)
    return weights


def _drift() -> ndarray:
    """float64 [categories, categories]: how taste goes from one to the next, over all users."""
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
    """Ids, titles, brands, categories and text."""
    rows = []
    for number, (category, brand, model) in enumerate(zip(*_grid(items), strict=True)):
        department, noun = CATEGORIES[category]
        name = word(len(CATEGORIES) + 7 * int(brand)).capitalize()
        title = f"{name} {ADJECTIVES[(3 * brand + model) % len(ADJECTIVES)]} {noun} {100 * (model + 1)}"
        text = sentences(("", title), ("brand", name), ("categories", f"{department}, {noun}"))
        rows.append((item_id(number), text, title, name, f"{department}|{noun}"))
    return DataFrame(rows, columns=["item", "text", "title", "brand", "categories"])
