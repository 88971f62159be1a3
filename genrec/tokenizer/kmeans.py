"""Stage 3: k-means. In: points float32 [N, D]. Out: centres float32 [C, D]. Deterministic from the generator.

Sources: Lloyd 1982; k-means++ initialisation (Arthur & Vassilvitskii 2007), here on a sample of the points.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

SAMPLE = 64  # points per centre that the initialisation looks at
CELLS = 2**24  # entries of the largest distance table


def kmeans(points: Tensor, count: int, iterations: int, generator: Generator) -> Tensor:
    """Centres that locally minimise the inertia sum_i min_c |x_i - e_c|^2; stops early once no point changes its centre.

    A centre that has lost all its points moves to the point farthest from its own centre (the second, third, ... farthest for
    more of them).
    """
    centres = _initial_centres(points, count, generator)
    labels = nearest(points, centres)
    for _ in range(iterations):
        centres = _means(points, labels, centres)
        previous, labels = labels, nearest(points, centres)
        if torch.equal(previous, labels):
            break
    return centres


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """argmin_c |x_i - e_c|^2 for every point, int64 [N]; the lowest c where several are as near.

    |x - e|^2 = |x|^2 - 2 x.e + |e|^2, and |x|^2 is the same for all c. Both are shifted to the centres' mean first, since the
    formula loses digits far from the origin.
    """
    shift = centres.mean(0)
    centres = centres - shift
    half_squares = centres.square().sum(1) / 2
    parts = torch.split(points, max(1, CELLS // len(centres)))
    return torch.cat([(half_squares - (part - shift) @ centres.T).argmin(1) for part in parts])


def _initial_centres(points: Tensor, count: int, generator: Generator) -> Tensor:
    """Greedy k-means++: each next centre is a point drawn with a probability proportional to its squared distance to the centres
    so far; of 2 + ln(count) such points, the one that leaves the least inertia, as scikit-learn does.
    """
    sample = points
    if len(points) > SAMPLE * count:
        sample = points[torch.randperm(len(points), generator=generator)[: SAMPLE * count]]
    draws = torch.rand(count, 2 + int(math.log(count)), generator=generator, dtype=torch.float64)
    chosen = [int(draws[0, 0] * len(sample))]
    distance = _squared_distances(sample[chosen], sample)[0]
    for draw in draws[1:]:
        cumulative = distance.double().cumsum(0)  # all zero once every distinct point is a centre: then the last point again
        places = torch.searchsorted(cumulative, draw * cumulative[-1], right=True).clamp(max=len(sample) - 1)
        distances = torch.minimum(distance, _squared_distances(sample[places], sample))
        best = int(distances.sum(1).argmin())
        chosen.append(int(places[best]))
        distance = distances[best]
    return sample[chosen]


def _squared_distances(some: Tensor, points: Tensor) -> Tensor:
    """float32 [M, D], [N, D] -> [M, N]; exactly 0 between equal points."""
    return torch.cdist(some, points, compute_mode="donot_use_mm_for_euclid_dist").square()


def _means(points: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """The mean of each centre's points; empty centres move to the points farthest from their own centre."""
    counts = torch.bincount(labels, minlength=len(centres))
    means = torch.zeros_like(centres).index_add_(0, labels, points) / counts.clamp(min=1)[:, None]
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        distance = (points - centres[labels]).square().sum(1)
        means[empty] = points[distance.topk(len(empty)).indices]
    return means
