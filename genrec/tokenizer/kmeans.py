"""Stage 3: k-means. In: points float32 [N, D]. Out: centers float32 [C, D]. Deterministic from the generator.

Sources: Lloyd 1982; k-means++ initialization (Arthur & Vassilvitskii 2007), here on a sample of the points. Lloyd's iterations look at
every point. Beside the points, the memory is that of one distance table of `CELLS` entries, however many points there are.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

SAMPLE = 64  # points per center that the initialization looks at
CELLS = 2**24  # entries of the largest distance table
CLOSE = 1e-4  # relative squared distance below which |x|^2 - 2 x.e + |e|^2 has too few digits left


def kmeans(points: Tensor, count: int, iterations: int, generator: Generator) -> Tensor:
    """Centers that locally minimize the inertia sum_i min_c |x_i - e_c|^2; stops early once no point changes its center.

    A center that has lost all its points moves to the point farthest from its own center (the second, third, ... farthest for
    more of them).
    """
    return lloyd(points, initial_centers(points, count, generator), iterations)


def lloyd(points: Tensor, centers: Tensor, iterations: int) -> Tensor:
    """The centers after at most so many iterations from these."""
    labels = nearest(points, centers)
    for _ in range(iterations):
        centers = means(points, labels, centers)
        previous, labels = labels, nearest(points, centers)
        if torch.equal(previous, labels):
            break
    return centers


def nearest(points: Tensor, centers: Tensor, prices: Tensor | None = None) -> Tensor:
    """argmin_c |x_i - e_c|^2 + price_c for every point, int64 [N]; the lowest c where several are as near. No prices are zeros [C].

    |x - e|^2 = |x|^2 - 2 x.e + |e|^2, and |x|^2 is the same for all c. Both are shifted to the centers' mean first, since the
    formula loses digits far from the origin.
    """
    shift = centers.mean(0)
    centers = centers - shift
    halves = centers.square().sum(1) / 2
    if prices is not None:
        halves = halves + prices / 2
    parts = torch.split(points, max(1, CELLS // len(centers)))
    return torch.cat([torch.addmm(halves, part - shift, centers.T, alpha=-1).argmin(1) for part in parts])


def squared_distances(points: Tensor, centers: Tensor) -> Tensor:
    """|x_i - e_c|^2 for every pair, float32 [N, C], at least 0; shifted as in `nearest`."""
    shift = centers.mean(0)
    points, centers = points - shift, centers - shift
    squares = points.square().sum(1, keepdim=True) + centers.square().sum(1)
    return squares.addmm_(points, centers.T, alpha=-2).clamp_(min=0)


def means(points: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """The mean of each center's points; empty centers move to the points farthest from their own center."""
    counts = torch.bincount(labels, minlength=len(centers))
    result = torch.zeros_like(centers).index_add_(0, labels, points) / counts.clamp(min=1)[:, None]
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        parts = zip(*(torch.split(each, max(1, CELLS // points.shape[1])) for each in (points, labels)), strict=True)
        distance = torch.cat([(part - centers[label]).square().sum(1) for part, label in parts])
        result[empty] = points[distance.topk(len(empty)).indices]
    return result


def initial_centers(points: Tensor, count: int, generator: Generator) -> Tensor:
    """Greedy k-means++: each next center is a point drawn with a probability proportional to its squared distance to the centers
    so far; of 2 + ln(count) such points, the one that leaves the least inertia, as scikit-learn does.
    """
    sample = points
    if len(points) > SAMPLE * count:
        sample = points[torch.randperm(len(points), generator=generator)[: SAMPLE * count]]
    centered = sample - sample.mean(0)
    squares = centered.square().sum(1)
    draws = torch.rand(count, 2 + int(math.log(count)), generator=generator, dtype=torch.float64)
    chosen = [int(draws[0, 0] * len(sample))]
    distance = _exact_where_close(_distances(centered, squares, chosen)[0], centered, squares, chosen[0])
    for draw in draws[1:]:
        cumulative = distance.double().cumsum(0)  # all zero once every distinct point is a center: then the last point again
        places = torch.searchsorted(cumulative, draw * cumulative[-1], right=True).clamp(max=len(sample) - 1)
        distances = torch.minimum(distance, _distances(centered, squares, places.tolist()))
        best = int(distances.sum(1).argmin())
        chosen.append(int(places[best]))
        distance = torch.minimum(distance, _exact_where_close(distances[best], centered, squares, chosen[-1]))
    return sample[chosen]


def _distances(points: Tensor, squares: Tensor, rows: list[int]) -> Tensor:
    """Squared distances of these rows to all points, float32 [rows, N], by |x|^2 - 2 x.e + |e|^2."""
    return torch.addmm(squares, points[rows], points.T, alpha=-2).add_(squares[rows][:, None]).clamp_(min=0)


def _exact_where_close(distance: Tensor, points: Tensor, squares: Tensor, row: int) -> Tensor:
    """The squared distances of one row, with those of close points computed from the difference: exactly 0 between equal points."""
    close = (distance <= CLOSE * (squares + squares[row])).nonzero()[:, 0]
    return distance.index_copy(0, close, (points[close] - points[row]).square().sum(1))
