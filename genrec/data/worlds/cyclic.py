"""Stage 1, a world with one right answer to every history: whatever learns sequences must solve it. Out: `RawTables`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pandas import DataFrame

from genrec.data.worlds.generated_log import ADJECTIVES, BEGIN, DAY, check_at_least, item_id, log, word
from genrec.types import RawTables


@dataclass(frozen=True)
class Cyclic:
    """The next item is a function of the last one: a cycle through all items, in an order drawn from the seed."""

    VERSION: ClassVar[int] = 1
    num_items: int = 60  # 2 or more
    num_users: int = 200  # 1 or more
    length: int = 12  # events of every user, 3 or more
    seed: int = 0  # of the cycle and of where each user begins

    def __post_init__(self) -> None:
        check_at_least(self, num_items=2, num_users=1, length=3, seed=0)

    def load(self, root: Path) -> RawTables:
        """Generate the world; nothing is read."""
        random = np.random.default_rng(self.seed)
        cycle = random.permutation(self.num_items)
        begin = random.permutation(np.arange(self.num_users) % self.num_items)  # all items get about the same number of events
        taken = cycle[(begin[:, None] + np.arange(self.length)) % self.num_items]
        times = np.broadcast_to(BEGIN + DAY * np.arange(self.length), taken.shape)
        titles = [f"{word(item)} {ADJECTIVES[item % len(ADJECTIVES)]}" for item in range(self.num_items)]
        items = DataFrame({"item": [item_id(item) for item in range(self.num_items)], "text": titles, "title": titles})
        return RawTables(log(taken, times, np.full(self.num_users, self.length)), items)
