"""k-means, deterministic for a given generator.

Sources: Lloyd 1982; k-means++ initialization (Arthur & Vassilvitskii 2007), here on a sample of the points. Lloyd's iterations use all
points. The memory beyond the points is one distance table of `CELLS` entries, for any number of points.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

SAMPLE = 64  # points per center in the initialization
CELLS = 2**24  # entries of the largest distance table
CLOSE = 1e-4  # relative squared distance below which |x|^2 - 2 x.e + |e|^2 is too imprecise


def kmeans(points: Tensor, count: int, iterations: int, generator: Generator) -> Tensor:
    """Return centers float32 [count, D] that locally minimize the inertia sum_i min_c |x_i - e_c|^2 over points float32 [N, D].

    The iterations stop early if no point changes its center. A center without points moves to the point farthest from its center;
    several such centers move to the farthest, second farthest, ... points.
    """
    return lloyd(points, initial_centers(points, count, generator), iterations)


def lloyd(points: Tensor, centers: Tensor, iterations: int) -> Tensor:
    """Return the centers after at most `iterations` of Lloyd's algorithm."""
    labels = nearest(points, centers)
    for _ in range(iterations):
        centers = means(points, labels, centers)
        previous, labels = labels, nearest(points, centers)
        if torch.equal(previous, labels):
            break
    return centers


def nearest(points: Tensor, centers: Tensor, prices: Tensor | None = None) -> Tensor:
    """Return argmin_c |x_i - e_c|^2 + price_c for every point, int64 [N]; the lowest c on ties. Prices default to 0.

    Computed from |x - e|^2 = |x|^2 - 2 x.e + |e|^2 without |x|^2, which is the same for all c. Points and centers are shifted by
    the mean of the centers first, because the formula loses precision far from the origin.
    """
    shift = centers.mean(0)
    centers = centers - shift
    halves = centers.square().sum(1) / 2
    if prices is not None:
        halves = halves + prices / 2
    parts = torch.split(points, max(1, CELLS // len(centers)))
    return torch.cat([torch.addmm(halves, part - shift, centers.T, alpha=-1).argmin(1) for part in parts])


def squared_distances(points: Tensor, centers: Tensor) -> Tensor:
    """Return |x_i - e_c|^2 for every pair, float32 [N, C], at least 0. Shifted as in `nearest`."""
    shift = centers.mean(0)
    points, centers = points - shift, centers - shift
    squares = points.square().sum(1, keepdim=True) + centers.square().sum(1)
    return squares.addmm_(points, centers.T, alpha=-2).clamp_(min=0)


def means(points: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Return the mean of each center's points. Centers without points move to the points farthest from their centers."""
    counts = torch.bincount(labels, minlength=len(centers))
    result = torch.zeros_like(centers).index_add_(0, labels, points) / counts.clamp(min=1)[:, None]
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        parts = zip(*(torch.split(each, max(1, CELLS // points.shape[1])) for each in (points, labels)), strict=True)
        distance = torch.cat([(part - centers[label]).square().sum(1) for part, label in parts])
        result[empty] = points[distance.topk(len(empty)).indices]
    return result


def initial_centers(points: Tensor, count: int, generator: Generator) -> Tensor:
    """Return initial centers float32 [count, D] by greedy k-means++.

    Candidates for the next center are drawn with probabilities proportional to the squared distance to the nearest center so far. Of
    2 + ln(count) candidates, the one with the least inertia becomes a center, as in scikit-learn.
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
        cumulative = distance.double().cumsum(0)  # all 0 if every distinct point is a center; the last point is then repeated
        places = torch.searchsorted(cumulative, draw * cumulative[-1], right=True).clamp(max=len(sample) - 1)
        distances = torch.minimum(distance, _distances(centered, squares, places.tolist()))
        best = int(distances.sum(1).argmin())
        chosen.append(int(places[best]))
        distance = torch.minimum(distance, _exact_where_close(distances[best], centered, squares, chosen[-1]))
    return sample[chosen]


def _distances(points: Tensor, squares: Tensor, rows: list[int]) -> Tensor:
    """Return squared distances of these rows to all points, float32 [rows, N], computed as |x|^2 - 2 x.e + |e|^2."""
    return torch.addmm(squares, points[rows], points.T, alpha=-2).add_(squares[rows][:, None]).clamp_(min=0)


def _exact_where_close(distance: Tensor, points: Tensor, squares: Tensor, row: int) -> Tensor:
    """Recompute the squared distances of close points from the difference, which is exactly 0 for equal points."""
    close = (distance <= CLOSE * (squares + squares[row])).nonzero()[:, 0]
    return distance.index_copy(0, close, (points[close] - points[row]).square().sum(1))
