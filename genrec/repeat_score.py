"""A learned score for the items that a history already holds, which a policy adds to its own scores of the catalog.

It falls in training if users take each item once, as with films and most products, and rises if they come back to items, as with songs
and groceries. Without it a policy has to learn this for each item. It starts at 0, which changes nothing, and is one number for all
items and places.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genrec.item_rows import contains, last_places, prefixes, repeated

SCALE = 10.0  # the score is the weight times this, since a weight moves by about the learning rate in a step
LARGEST_SHARE = 1 - 1e-6  # of the probability that items of the history have together, so that the others keep some


def items_so_far(history: Tensor, places: Tensor) -> Tensor:
    """Return the distinct items of histories int64 [B, T] up to and including places int64 [X, 2]: int64 [X, T], 0 elsewhere.

    A 0 within a history separates copies of one sequence (`Supervised(padding="repeat")`). Only items of the last copy are returned.
    """
    items = prefixes(history, places)
    in_copy = (items == 0).flip(1).cumsum(1).flip(1) == 0
    items = items.masked_fill(~in_copy, 0)
    return items.masked_fill(repeated(items), 0)


class RepeatScore(nn.Module):
    """One learned number that is added to the scores of the items of the history.

    The argument `seen`, int64 [X, T], holds the items of the history of each row, as `items_so_far` returns them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def value(self) -> Tensor:
        """Return the number that is added, float32 [1]."""
        return self.weight.float() * SCALE

    def added(self, scores: Tensor, seen: Tensor, *, first: int = 0) -> Tensor:
        """Add the number to the scores of seen items. `scores`, float32 [X, N], are those of items `first` + 1 to `first` + N."""
        column = seen - 1 - first
        inside = (seen > 0) & (column >= 0) & (column < scores.shape[1])
        return scores.scatter_add(1, column.masked_fill(~inside, 0), self.value() * inside)

    def of_candidates(self, items: Tensor, seen: Tensor) -> Tensor:
        """Return what is added to the scores of items int64 [X, M], float32 [X, M]: the number for seen items, 0 for others."""
        return self.value() * contains(seen, items)

    def mean_added(self, seen: Tensor, num_items: int) -> Tensor:
        """Return the mean over the catalog of what is added to the scores of its items, float32 [X]."""
        return self.value() * (seen > 0).sum(1) / num_items

    def log_normalizer(self, total: Tensor, seen_scores: Tensor) -> Tensor:
        """Return the log-sum-exp of the catalog's scores with the number added.

        `total` float32 [X] is the log-sum-exp without it, and `seen_scores` float32 [X, T] are the scores without it of the items of
        the history, each once, -inf where there is none. In float32 the error is below 0.01 while these items have up to 0.99999 of
        the probability without the number.
        """
        share = (seen_scores - total.unsqueeze(1)).exp().sum(1).clamp(max=LARGEST_SHARE)
        return total + torch.log1p(share * torch.expm1(self.value()))


def seen_items(repeat_score: RepeatScore | None, history: Tensor, places: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return the items of each history up to each place, by default the last one (`items_so_far`); () without a repeat score."""
    if repeat_score is None:
        return ()
    return (items_so_far(history, last_places(history) if places is None else places),)
