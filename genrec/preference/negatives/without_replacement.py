"""Stage 5, how negatives are drawn: successively without replacement, from candidates of each row's own.

In: where each row's candidates are, what is forbidden, and the row's stream of random numbers. Out: negatives int64 [B, count]. A
row's draw is a function of its stream alone, whichever of the ways below is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from genrec.preference.example_randomness import ExampleRandomness
from genrec.preference.exclusions import Exclusions, rows_of
from genrec.types import SequenceBatch

ROUNDS = (8, 64)  # candidates drawn with replacement for each negative asked for, in a first and in a second round
FEW = 8  # a row with at most so many candidates for each negative asked for is drawn exactly at once
DENSE = 1 << 22  # candidates looked at together when all of a row's are searched
ALL = len(ROUNDS)  # the label of the numbers for that


class Candidates(NamedTuple):
    """What each row of a batch draws from: its candidates stand at places 0 .. size - 1, each with a weight."""

    size: Tensor  # int64 [B]
    item: Callable[[Tensor, Tensor], Tensor]  # rows int64 [R], places int64 [R, M], each below the row's size -> items int64 [R, M]
    weights: Tensor | None = None  # float64 [P]  above 0, by place, where all rows have P candidates; None: all alike
    cumulative: Tensor | None = None  # float64 [P]  of the weights


def draw_successively(
    rows: SequenceBatch, count: int, candidates: Candidates, forbidden: Exclusions, streams: ExampleRandomness
) -> Tensor:
    """Negatives int64 [B, count]: drawn with replacement, passing over what is forbidden or drawn, which *is* drawing without.

    Rows that two rounds leave short go on, from what they have, with an exact draw among all of their candidates.
    """
    negatives = torch.zeros(len(rows.target), count, dtype=torch.int64)

    def extend(some: Tensor, found: Tensor) -> None:
        negatives[some] = forbidden.take(rows_of(rows, some), torch.cat([negatives[some], found], 1), count)

    many = candidates.size > FEW * count
    for label, factor in enumerate(ROUNDS):
        short = ((negatives[:, -1] == 0) & many).nonzero().squeeze(1)
        if len(short):
            extend(short, _with_replacement(candidates, short, streams.uniform(factor * count, label, short)))
    most = 2 * count * forbidden.largest  # what `count` new ones need, if all that are drawn already, and twins of both, come first
    for short, width in _parts((negatives[:, -1] == 0).nonzero().squeeze(1), candidates.size):
        numbers = streams.uniform(width, ALL, short)
        extend(short, _in_order(candidates, short, numbers, forbidden, rows_of(rows, short), most))
    return negatives


def _with_replacement(candidates: Candidates, some: Tensor, numbers: Tensor) -> Tensor:
    """One draw for each number of [0, 1), by inverse transform: float64 [R, M] -> items int64 [R, M]."""
    last = candidates.size[some].unsqueeze(1) - 1
    if candidates.cumulative is None:
        place = (numbers * (last + 1)).long()
    else:
        place = torch.searchsorted(candidates.cumulative, numbers * candidates.cumulative[-1], right=True)
    return candidates.item(some, torch.minimum(place, last))


def _in_order(candidates: Candidates, some: Tensor, numbers: Tensor, forbidden: Exclusions, rows: SequenceBatch, most: int) -> Tensor:
    """The first `most` allowed candidates of an exact successive draw, in order: a number each, float64 [R, W] -> items, 0 at the end.

    An exponential race (the Gumbel-top-k trick of Kool et al. 2019, 1903.06059, without the logarithm): place i arrives after an
    exponential time of rate `weights[i]`, and the order of arrival is that of successive draws. Equal weights need no logarithm.
    """
    size, place = candidates.size[some].unsqueeze(1), torch.arange(numbers.shape[1])
    items = candidates.item(some, torch.minimum(place, size - 1))
    arrival = numbers if candidates.weights is None else -torch.log1p(-numbers) / candidates.weights
    arrival = torch.where((place < size) & ~forbidden(rows, items), arrival, torch.inf)
    first = arrival.topk(min(most, len(place)), largest=False)
    return items.gather(1, first.indices) * (first.values < torch.inf)


def _parts(some: Tensor, size: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Rows int64 [R] in parts of about `DENSE` candidates, each with the most that a row of it has; rows without any are left out."""
    some = some[size[some].argsort(descending=True, stable=True)]
    begin = 0
    while begin < len(some) and (width := int(size[some[begin]])) > 0:
        part = some[begin : begin + max(1, DENSE // width)]
        part = part[size[part] > 0]
        yield part, width
        begin += len(part)
