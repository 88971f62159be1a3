"""The scores of a baseline, fitted on the training events, as a reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genrec.errors import InputError, UsageError, given
from genrec.plugin_source import name_with_place
from genrec.preference.rewards.reward_tables import mask_padding
from genrec.types import Baseline, ItemScorer, Rating, SamplerContext, SequenceBatch
from genrec.types.specification import check_choices, check_fitted_on_training

ROWS = 1024  # rows that are scored at once, which bounds the memory


@dataclass(frozen=True)
class BaselineScore:
    """The score of an item by a baseline such as `ItemKNN`, `EASE`, `BPR` or `Popularity`, fitted on the training events.

    A baseline knows what the policy may not, such as which items share users. The scores are those that it ranks by, on its own
    scale; they are computed on the CPU, so a step on a GPU waits for them.
    """

    baseline: Baseline  # its fitted recommender is a `genrec.types.ItemScorer`
    reads: Literal["history", "user"] = "history"  # "user": also the user's other training events, the logged item among them

    def __post_init__(self) -> None:
        check_choices(self, "BaselineScore")
        if isinstance(self.baseline, type) or not isinstance(self.baseline, Baseline):
            raise UsageError(f"BaselineScore.baseline must be a baseline, such as ItemKNN(), got {given(self.baseline)}")
        check_fitted_on_training(self, self.baseline)

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set; fits the baseline. Raises InputError if it does not score given items."""
        name = name_with_place(type(self.baseline))
        events = context.interactions[["user", "item", "time"]].sort_values(["user", "time"], kind="stable")
        fitted = self.baseline.fit(events, context.item_count)
        if not isinstance(fitted, ItemScorer):
            raise InputError(
                f"BaselineScore needs a baseline that scores given items, but {name} fits a {type(fitted).__name__} without "
                "score_items(user, history, items); add this method (genrec.types.ItemScorer), or use ItemKNN() or EASE()"
            )

        def rate_items(batch: SequenceBatch, items: Tensor) -> Tensor:
            user = batch.user if self.reads == "user" else torch.full_like(batch.user, -1)
            inputs = [part.cpu() for part in (user, batch.items, items)]
            scores = torch.cat([fitted.score_items(*(part[i : i + ROWS] for part in inputs)) for i in range(0, len(items), ROWS)])
            return mask_padding(scores, items)

        return Rating(rate=rate_items)
