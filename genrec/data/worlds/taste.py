"""A generated shop in which ratings hold what events do not: users take what is shown, and like less than they take."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from pandas import DataFrame

from genrec.data.readers.item_text import sentences
from genrec.data.worlds.generated_log import ADJECTIVES, BEGIN, DAY, check_at_least, interaction_table, item_id, word
from genrec.data.worlds.taste_model import BRANDS, CATEGORIES, CELLS, TasteModel
from genrec.errors import UsageError
from genrec.store import NEW_IN_KEY
from genrec.types import RawTables


@dataclass(frozen=True)
class Taste:
    """A world in which preferences matter: most events are what the shop shows, and only ratings tell whether the user likes them.

    With `randomized`, each user's last events are of items that are drawn uniformly from the catalog, as in the tests of Yahoo! R3 and
    Coat, and rated by the same taste. Held out, they ask what the user likes, whatever the shop would have shown.
    """

    VERSION: ClassVar[int] = 1
    num_items: int = 192  # number of items, 64 or more: one for each category and brand at least
    num_users: int = 1200  # number of users, 1 or more
    seed: int = 0  # seed of all random draws, 0 or more
    chosen: float = 0.35  # probability that an event is the user's own choice, 0 to 1; the others are shown
    rating_noise: float = 0.8  # standard deviation of a rating before it is rounded, above 0
    min_length: int = 20  # minimum number of events of a user, 3 or more
    max_length: int = 30  # maximum number of events of a user, `min_length` or more
    randomized: int = field(default=0, metadata=NEW_IN_KEY)  # number of each user's last events whose items are drawn uniformly

    def __post_init__(self) -> None:
        check_at_least(self, num_items=CELLS, num_users=1, seed=0, min_length=3, max_length=self.min_length, randomized=0)
        if self.randomized > self.min_length:
            raise UsageError(f"Taste: randomized must be min_length ({self.min_length}) or less, got {self.randomized}")
        if not 0 <= self.chosen <= 1:
            raise UsageError(f"Taste: chosen must be 0 to 1, got {self.chosen}")
        if not 0 < self.rating_noise < float("inf"):
            raise UsageError(f"Taste: rating_noise must be above 0 and finite, got {self.rating_noise}")

    def has_ratings(self) -> bool:
        """Return True: every event has a rating of 1 to 5."""
        return True

    def load(self, root: Path) -> RawTables:
        """Generate the world. `root` is not used."""
        random = np.random.default_rng([self.seed, 1])
        users = np.arange(self.num_users)
        lengths = random.integers(self.min_length, self.max_length + 1, self.num_users)
        model = model_of(self)
        events = model.simulate(users, random.integers(0, CELLS, self.num_users), self.max_length, random)
        last = np.arange(self.max_length) - lengths[:, None]  # -1: a user's last event; 0 or more: none
        model.randomize(events, (last < 0) & (last >= -self.randomized), np.random.default_rng([self.seed, 2]))
        gaps = 1 + random.exponential(6 * DAY, events.items.shape).astype(np.int64)
        times = BEGIN + random.integers(0, 400 * DAY, (self.num_users, 1)) + gaps.cumsum(1)
        return RawTables(interaction_table(events.items, times, lengths, events.ratings), _catalog(self.num_items))


def model_of(world: Taste) -> TasteModel:
    """Return the latent parameters of a world. They are in none of its tables."""
    return TasteModel(world.num_items, world.num_users, world.seed, world.chosen, world.rating_noise)


def _catalog(items: int) -> DataFrame:
    """Return the table of items with id, text, title, brand and categories."""
    rows = []
    for number in range(items):
        (department, noun), brand = CATEGORIES[number % len(CATEGORIES)], number // len(CATEGORIES) % BRANDS
        model, name = number // CELLS, word(40 + 7 * brand).capitalize()
        title = f"{name} {ADJECTIVES[model % len(ADJECTIVES)]} {noun} {100 * (model + 1)}"
        text = sentences(("", title), ("brand", name), ("categories", f"{department}, {noun}"))
        rows.append((item_id(number), text, title, name, f"{department}|{noun}"))
    return DataFrame(rows, columns=["item", "text", "title", "brand", "categories"])
