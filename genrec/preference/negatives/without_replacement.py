"""Draws without replacement from the candidates of each row, uniform or weighted.

The negatives of a row depend only on its random numbers, not on the other rows of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from genrec.preference.example_randomness import ExampleRandomness
from genrec.preference.exclusions import Exclusions, rows_of
from genrec.types import SequenceBatch

ROUNDS = (8, 64)  # candidates per negative drawn with replacement in the first and in the second round
EXACT_FACTOR = 8  # rows with at most this many candidates per negative skip the rounds
MAX_CELLS = 1 << 22  # candidates in memory at a time during an exact draw
EXACT_STREAM = len(ROUNDS)  # stream of random numbers of the exact draw


class Candidates(NamedTuple):
    """The candidates of each row, at places 0 .. size - 1, with optional weights."""

    size: Tensor  # int64 [B]
    item: Callable[[Tensor, Tensor], Tensor]  # (rows int64 [R], places int64 [R, M] below each row's size) -> items int64 [R, M]
    weights: Tensor | None = None  # float64 [P]  above 0, by place, if all rows have the same P candidates; None: uniform
    cumulative: Tensor | None = None  # float64 [P]  cumulative sum of the weights


def draw_without_replacement(
    batch: SequenceBatch, num_negatives: int, candidates: Candidates, exclusions: Exclusions, randomness: ExampleRandomness
) -> Tensor:
    """Return negatives, int64 [B, num_negatives], with 0 at the end of a row that has too few allowed candidates.

    Each round draws with replacement and skips excluded and repeated items, which is equivalent to drawing without replacement. Rows
    that are still short keep their negatives and continue with an exact draw among all of their candidates.
    """
    negatives = torch.zeros(len(batch.target), num_negatives, dtype=torch.int64)

    def extend(rows: Tensor, drawn: Tensor) -> None:
        negatives[rows] = exclusions.take_allowed(rows_of(batch, rows), torch.cat([negatives[rows], drawn], 1), num_negatives)

    in_rounds = candidates.size > EXACT_FACTOR * num_negatives
    for stream, factor in enumerate(ROUNDS):
        short = ((negatives[:, -1] == 0) & in_rounds).nonzero().squeeze(1)
        if len(short):
            extend(short, _with_replacement(candidates, short, randomness.uniform(factor * num_negatives, stream, short)))
    # Enough for `num_negatives` new items even if all earlier negatives, and items with the same Semantic IDs, come first.
    limit = 2 * num_negatives * exclusions.max_shared
    for short, width in _blocks((negatives[:, -1] == 0).nonzero().squeeze(1), candidates.size):
        numbers = randomness.uniform(width, EXACT_STREAM, short)
        extend(short, _exact_draw(candidates, short, numbers, exclusions, rows_of(batch, short), limit))
    return negatives


def _with_replacement(candidates: Candidates, rows: Tensor, numbers: Tensor) -> Tensor:
    """Draw one item per number in [0, 1), float64 [R, M], by inverse transform: int64 [R, M]."""
    last = candidates.size[rows].unsqueeze(1) - 1
    if candidates.cumulative is None:
        place = (numbers * (last + 1)).long()
    else:
        place = torch.searchsorted(candidates.cumulative, numbers * candidates.cumulative[-1], right=True)
    return candidates.item(rows, torch.minimum(place, last))


def _exact_draw(
    candidates: Candidates, rows: Tensor, numbers: Tensor, exclusions: Exclusions, batch: SequenceBatch, limit: int
) -> Tensor:
    """Return the first `limit` allowed candidates of an exact draw, in order, 0 at the end. `numbers` is float64 [R, W].

    The draw is an exponential race (the Gumbel-top-k trick of Kool et al. 2019, arXiv 1903.06059, without the logarithm): place i
    arrives after an exponential time with rate `weights[i]`, and the order of arrival is distributed as successive draws without
    replacement. With equal weights the uniform numbers already have this order.
    """
    size, place = candidates.size[rows].unsqueeze(1), torch.arange(numbers.shape[1])
    items = candidates.item(rows, torch.minimum(place, size - 1))
    arrival = numbers if candidates.weights is None else -torch.log1p(-numbers) / candidates.weights
    arrival = torch.where((place < size) & ~exclusions(batch, items), arrival, torch.inf)
    first = arrival.topk(min(limit, len(place)), largest=False)
    return items.gather(1, first.indices) * (first.values < torch.inf)


def _blocks(rows: Tensor, size: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Split rows int64 [R] into blocks of about `MAX_CELLS` candidates and yield each with its widest row's size.

    Rows without candidates are left out.
    """
    rows = rows[size[rows].argsort(descending=True, stable=True)]
    begin = 0
    while begin < len(rows) and (width := int(size[rows[begin]])) > 0:
        block = rows[begin : begin + max(1, MAX_CELLS // width)]
        block = block[size[block] > 0]
        yield block, width
        begin += len(block)
