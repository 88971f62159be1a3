"""A generated data set in which the last item determines the next one. Every sequence model should solve it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pandas import DataFrame

from genrec.data.worlds.generated_log import ADJECTIVES, BEGIN, DAY, check_at_least, interaction_table, item_id, word
from genrec.types import RawTables


@dataclass(frozen=True)
class Cyclic:
    """A world in which every user walks along one cycle through all items; the seed determines the cycle."""

    VERSION: ClassVar[int] = 1
    num_items: int = 60  # number of items, 2 or more
    num_users: int = 200  # number of users, 1 or more
    length: int = 12  # number of events of each user, 3 or more
    seed: int = 0  # seed of the cycle and of the users' first items, 0 or more

    def __post_init__(self) -> None:
        check_at_least(self, num_items=2, num_users=1, length=3, seed=0)

    def has_ratings(self) -> bool:
        """Return False: the events of this world have no ratings."""
        return False

    def load(self, root: Path) -> RawTables:
        """Generate the world. `root` is not used."""
        random = np.random.default_rng(self.seed)
        cycle = random.permutation(self.num_items)
        begin = random.permutation(np.arange(self.num_users) % self.num_items)  # spreads the events evenly over the items
        sequences = cycle[(begin[:, None] + np.arange(self.length)) % self.num_items]
        times = np.broadcast_to(BEGIN + DAY * np.arange(self.length), sequences.shape)
        titles = [f"{word(item)} {ADJECTIVES[item % len(ADJECTIVES)]}" for item in range(self.num_items)]
        items = DataFrame({"item": [item_id(item) for item in range(self.num_items)], "text": titles, "title": titles})
        return RawTables(interaction_table(sequences, times, np.full(self.num_users, self.length)), items)
