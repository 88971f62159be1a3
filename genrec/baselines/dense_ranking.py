"""Ranking of dense scores: by score, then by the number of training interactions, then by the lower item id.

No two items are equal in this order, so that a list depends neither on the batch nor on the sorting algorithm.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray
from pandas import DataFrame
from torch import Tensor
from torch.nn.functional import pad

from genrec import item_rows
from genrec.errors import InputError
from genrec.types import Ranking


def item_counts(interactions: DataFrame, item_count: int) -> ndarray:
    """Return the number of interactions of items 1..item_count, int64 [N]; entry i belongs to item i + 1."""
    items = interactions["item"].to_numpy(dtype=np.int64)
    check_items(items, item_count, "interactions")
    if (items == 0).any():
        raise InputError("interactions contain item 0, which is not an item; item ids start at 1")
    return np.bincount(items, minlength=item_count + 1)[1:]


def precedence(counts: ndarray) -> ndarray:
    """Return each item's precedence among items of equal score, a permutation of 1..N with N first; counts are int64 [N]."""
    order = np.lexsort((np.arange(len(counts)), -counts))
    result = np.empty(len(counts), dtype=np.int64)
    result[order] = np.arange(len(counts), 0, -1)
    return result


def best(scores: ndarray, precedence: ndarray, n: int, exclude: Tensor | None) -> Ranking:
    """Return the `n` best items of scores float32 [B, N], without the items of `exclude` int64 [B, E] (0 = none).

    `precedence` int64 [N] orders items of equal score.
    """
    items = scores.shape[1]
    allowed = pad(torch.from_numpy(scores), (1, 0), value=-torch.inf)  # column 0 is no item
    if exclude is not None:
        excluded = exclude.cpu()
        check_items(excluded.numpy(), items, "exclude")
        allowed = allowed.scatter(1, excluded, -torch.inf)
    key, place = item_rows.best(item_rows.keys(allowed, pad(items - torch.from_numpy(precedence), (1, 0), value=items)), n)
    score = item_rows.scores(key)
    missing = (0, n - score.shape[1])
    return Ranking(pad(place.masked_fill(score == -torch.inf, 0), missing), pad(score, missing, value=-torch.inf))


def given_scores(scores: ndarray, items: Tensor) -> Tensor:
    """Return the scores of items int64 [B, M] from those of the whole catalog, float32 [B, N]: float32 [B, M], -inf for item 0."""
    check_items(items.cpu().numpy(), scores.shape[1], "items")
    return pad(torch.from_numpy(scores), (1, 0), value=-torch.inf).gather(1, items.cpu()).to(items.device)


def check_items(items: ndarray, item_count: int, argument: str) -> None:
    """Raise InputError unless all items lie in 0..item_count; `argument` names them in the message."""
    if items.size and (items.min() < 0 or items.max() > item_count):
        raise InputError(f"{argument}: items must lie in 0..{item_count}, got {items.min()}..{items.max()}")
