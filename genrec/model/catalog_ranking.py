"""The best items of a whole catalog, whose scores come in blocks of items."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from genrec.item_rows import best_items, keys, ranking
from genrec.types import Ranking


def best_of_blocks(blocks: Iterable[tuple[int, Tensor]], n: int, exclude: Tensor | None) -> Ranking:
    """Return the `n` best of all items; equal scores are ordered by item id.

    Each block is (number of items before it, scores float32 [B, items of the block]). Items of `exclude`, int64 [B, E] (0 = none), are
    left out. Memory holds one block and the best `n` items so far.
    """
    found: Ranking | None = None
    for first, scores in blocks:
        best = best_items(scores, n, None if exclude is None else _inside(exclude, first, scores.shape[1]))
        best = Ranking((best.items + first).masked_fill(best.items == 0, 0), best.scores)
        found = best if found is None else _merged(found, best, n)
    assert found is not None
    return found


def _inside(exclude: Tensor, first: int, items: int) -> Tensor:
    """Return the excluded items as numbers within a block, int64 [B, E]; 0 for items outside of it."""
    local = exclude - first
    return local.masked_fill((local < 1) | (local > items), 0)


def _merged(first: Ranking, second: Ranking, n: int) -> Ranking:
    """Return the `n` best items of two rankings of different items."""
    items, scores = (torch.cat(pair, 1) for pair in zip(first, second, strict=True))
    return ranking(keys(scores, items), n, scores.isnan().any(1))
