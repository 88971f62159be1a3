"""Generated data sets in which the next item depends on one input of a history alone, and a small experiment on each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pandas import DataFrame
from worlds import cyclic

from genrec.experiment import SFT, Experiment, Optimization, Validation
from genrec.model import Gpt, Tiger
from genrec.types import RawTables

ALL = {"user_tokens": 2_000, "time_buckets": 32, "ratings": (1, 2, 3, 4, 5)}
SIZES = {"d_model": 32, "d_ff": 64, "num_heads": 2, "d_kv": 16, "dropout": 0.0, "num_beams": 20}
TIGER = Tiger(num_encoder_layers=1, num_decoder_layers=1, **SIZES)  # type: ignore[arg-type]
GPT = Gpt(num_layers=1, **SIZES)  # type: ignore[arg-type]
DECISION = 20  # an item before each favorite item, in the world of users


@dataclass(frozen=True)
class InputWorld:
    """Users with events of 40 items: 40 users with 33 events in the world of users, and 100 users with 17 events in the others.

    - "user": every fourth event is the user's favorite, one of the items 0 to 7, after the item `DECISION`. The two events before them
      are random, so that the last two items do not tell the user.
    - "rating": the next item is 1 further in a cycle after a rating of 2, and 2 further after one of 4. One event in ten has no
      rating, and is followed by the item 3 further.
    - "time": the next item is 1 further if the last one came 60 seconds after the one before it, and 2 further if after 20 days.
    """

    depends_on: Literal["user", "rating", "time"]

    def has_ratings(self) -> bool:
        return True

    def load(self, root: Path) -> RawTables:
        rng, rows = np.random.default_rng(0), []
        for user in range(40 if self.depends_on == "user" else 100):
            item, time, favorite = int(rng.integers(40)), int(rng.integers(10**6)), int(rng.integers(8))
            for event in range(33 if self.depends_on == "user" else 17):
                gap = int(rng.choice([60, 20 * 86_400]))
                rating = float(rng.choice([2.0, 4.0])) if rng.random() < 0.9 else np.nan
                time += gap
                if self.depends_on == "user":
                    item = (favorite, int(rng.integers(21, 40)), int(rng.integers(21, 40)), DECISION)[event % 4]
                rows.append((f"user-{user}", f"item-{item:02}", time, rating))
                if self.depends_on == "rating":
                    item += 3 if np.isnan(rating) else int(rating) // 2
                if self.depends_on == "time":
                    item += 1 if gap == 60 else 2
                item %= 40
        names = [f"item-{item:02}" for item in range(40)]
        interactions = DataFrame(rows, columns=["user", "item", "time", "rating"])
        return RawTables(interactions, DataFrame({"item": names, "text": [f"word{item} kind{item // 8}" for item in range(40)]}))


def world(depends_on: Literal["user", "rating", "time"], steps: int = 500, **change: Any) -> Experiment:
    """Return an experiment on a world, with the tiny TIGER and no input unless `change` has another policy."""
    sft = SFT(
        optimization=Optimization(max_steps=steps, batch_size=64, learning_rate=5e-3, warmup_steps=20),
        validation=Validation(every=max(1, steps // 2), users=0),
    )
    found = replace(cyclic(), name=f"world-{depends_on}", source=InputWorld(depends_on), policy=TIGER, sft=sft, history_length=2)
    return replace(found, **change)
