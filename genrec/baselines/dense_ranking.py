"""Dense scores -> a `Ranking` in one stated order: by score, then the item that training has more often, then the lower item id.

No two items are equal in that order, so a list depends neither on the batch nor on the sort.
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
    """Interactions (item) -> how often each of items 1..item_count occurs, int64 [N]; column i is item i+1."""
    items = interactions["item"].to_numpy(dtype=np.int64)
    check_items(items, item_count, "interactions")
    if (items == 0).any():
        raise InputError("interactions hold item 0, which stands for no item; items begin at 1")
    return np.bincount(items, minlength=item_count + 1)[1:]


def precedence(counts: ndarray) -> ndarray:
    """Counts int64 [N] -> int64 [N], a permutation of 1..N: N for the item that comes first among items of equal score."""
    order = np.lexsort((np.arange(len(counts)), -counts))
    result = np.empty(len(counts), dtype=np.int64)
    result[order] = np.arange(len(counts), 0, -1)
    return result


def best(scores: ndarray, first: ndarray, n: int, exclude: Tensor | None) -> Ranking:
    """Scores float32 [B, N] and `precedence` int64 [N] -> the `n` best items that `exclude` int64 [B, E] allows."""
    items = scores.shape[1]
    allowed = pad(torch.from_numpy(scores), (1, 0), value=-torch.inf)  # column 0 is no item
    if exclude is not None:
        excluded = exclude.cpu()
        check_items(excluded.numpy(), items, "exclude")
        allowed = allowed.scatter(1, excluded, -torch.inf)
    key, place = item_rows.best(item_rows.keys(allowed, pad(items - torch.from_numpy(first), (1, 0), value=items)), n)
    found = item_rows.scores(key)
    missing = (0, n - found.shape[1])
    return Ranking(pad(place.masked_fill(found == -torch.inf, 0), missing), pad(found, missing, value=-torch.inf))


def check_items(items: ndarray, item_count: int, what: str) -> None:
    """Refuse what is not in the catalog."""
    if items.size and (items.min() < 0 or items.max() > item_count):
        raise InputError(f"{what}: items must lie in 0..{item_count}, got {items.min()}..{items.max()}")
