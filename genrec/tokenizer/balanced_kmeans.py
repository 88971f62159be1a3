"""Stage 3: balanced k-means. In: points float32 [N, D]. Out: centers float32 [C, D] and prices float32 [C].

A point belongs to argmin_c |x - e_c|^2 + price_c: a power diagram. For given centers some prices give every cell N/C points, and that
assignment is the cheapest of all balanced ones (Aurenhammer, Hoffmann & Aronov 1998). They are found by Sinkhorn iterations with less
and less smoothing, and then without: prices rise where a cell is too large and fall where it is too small, and the step of each grows
while its sign stays, and halves when it turns (Riedmiller & Braun 1993). In between, centers move to the means of their cells.

OneRec (Deng et al. 2025, 2502.18965, algorithm 1) instead lets the centers, one after the other, take their N/C nearest of the points
that are left: exactly equal cells, but the last center gets what nobody wanted, and nothing says where an item goes that comes later.
Here the rule that made the cells encodes later items too, and the cells are nearly equal. Equal points have equal costs, so that no
prices can split them: a group of them larger than N/C stays together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from genrec.tokenizer.kmeans import kmeans, means, nearest, squared_distances

MOVING, FEW, MANY = 24, 64, 512  # points per center on which prices are found: while centers move, at last, and at last unsmoothed
ROUNDS = 6  # times that the centers move
SMOOTHING = tuple(0.5**power for power in range(1, 10))  # in standard deviations of a point's costs
SMOOTH_STEPS = 8  # with each of them
SHARP_STEPS, LAST_STEPS = 60, 300  # without smoothing, at most, while the centers move, and at last
LARGEST_STEP = 0.05  # of a price, in those units; without it a cell of equal points, which can't be split, drives prices without bound
LEAST_SHARE = 1e-30  # of a code, so that its logarithm is finite


class BalancedCenters(NamedTuple):
    """The centers of a power diagram, and their prices."""

    centers: Tensor  # float32 [C, D]
    prices: Tensor  # float32 [C]  their mean is 0


def balanced_kmeans(points: Tensor, count: int, iterations: int, generator: Generator) -> BalancedCenters:
    """Centers from k-means, then moved and priced so that their cells are nearly equal."""
    centers, prices = kmeans(points, count, iterations, generator), torch.zeros(count)
    many = points
    if len(points) > MOVING * count:
        many = points[torch.randperm(len(points), generator=generator)[: MANY * count]]
    for _ in range(ROUNDS):
        costs = squared_distances(many[: MOVING * count], centers)
        prices = sharp_prices(costs, smooth_prices(costs, prices), SHARP_STEPS)
        centers = means(points, nearest(points, centers, prices), centers)
    prices = smooth_prices(squared_distances(many[: FEW * count], centers), prices)
    return BalancedCenters(centers, sharp_prices(squared_distances(many, centers), prices, LAST_STEPS))


def smooth_prices(costs: Tensor, prices: Tensor) -> Tensor:
    """Costs float32 [N, C] -> prices float32 [C] under which every code gets about N/C of the points, shared out softly.

    A point is shared by softmax over c of -(cost_c + price_c) / s; price_c += s ln(share of c / (N/C)) makes the shares equal for this
    s (Sinkhorn iterations, Cuturi 2013, 1306.0895), however far a price has to go; s then is halved.
    """
    scale, target = float(costs.std(1, correction=0).mean()), len(costs) / costs.shape[1]
    table = torch.empty_like(costs)
    for width in [share * scale for share in SMOOTHING] if scale > 0 else []:
        for _ in range(SMOOTH_STEPS):
            torch.add(costs, prices, out=table)
            table.sub_(table.amin(1, keepdim=True)).mul_(-1 / width).exp_()
            shares = (1 / table.sum(1)) @ table
            prices = prices + width * (shares / target).clamp(min=LEAST_SHARE).log()
    return prices - prices.mean()


def sharp_prices(costs: Tensor, prices: Tensor, steps: int) -> Tensor:
    """Costs float32 [N, C] -> the prices float32 [C], of those that were tried, whose cells differ least from N/C in squares."""
    target, scale = len(costs) / costs.shape[1], float(costs.std(1, correction=0).mean())
    step = torch.full_like(prices, SMOOTHING[-1] * scale)
    best, least, last = prices, float("inf"), torch.zeros_like(prices)
    total = torch.empty_like(costs)
    for _ in range(steps):
        excess = torch.bincount(torch.add(costs, prices, out=total).argmin(1), minlength=len(prices)) - target
        if (squares := float(excess.square().sum())) < least:
            best, least = prices, squares
        if float(excess.abs().max()) < 1:
            break
        sign = excess.sign()
        step = step * torch.where(sign * last > 0, 1.2, torch.where(sign * last < 0, 0.5, 1.0))
        step = step.clamp(max=LARGEST_STEP * scale)
        prices, last = prices + step * sign, sign
    return best - best.mean()
