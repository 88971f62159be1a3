"""Balanced k-means: centers and prices for which all cells have nearly the same number of points.

A point belongs to the cell argmin_c |x - e_c|^2 + price_c (a power diagram). For given centers there are prices with N/C points in
every cell, and the resulting assignment is the cheapest balanced one (Aurenhammer, Hoffmann & Aronov 1998). The prices are found
with Sinkhorn iterations of decreasing smoothing, then without smoothing: the price of a cell rises if the cell is too large and
falls if it is too small. The step grows while its sign stays the same and halves when the sign changes (Riedmiller & Braun 1993).
Between price updates, centers move to the means of their cells.

OneRec (Deng et al. 2025, 2502.18965, algorithm 1) instead lets each center in turn take the N/C nearest of the remaining points. Its
cells are exactly equal, but the last centers take distant points, and there is no rule to encode new items. Here the rule that makes
the cells also encodes new items, and the cells are nearly equal. Equal points have equal costs, so prices cannot separate them: a
group of more than N/C equal points stays together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from genrec.tokenizer.kmeans import kmeans, means, nearest, squared_distances

MOVING_SAMPLE = 24  # points per center for prices while the centers move
SMOOTH_SAMPLE = 64  # points per center for the final smoothed prices
SHARP_SAMPLE = 512  # points per center for the final prices
ROUNDS = 6  # updates of the centers
SMOOTHING = tuple(0.5**power for power in range(1, 10))  # smoothing widths, in standard deviations of a point's costs
SMOOTH_STEPS = 8  # iterations per smoothing width
SHARP_STEPS, FINAL_STEPS = 60, 300  # most iterations without smoothing: while the centers move, and at the end
LARGEST_STEP = 0.05  # largest price change, in standard deviations of costs; bounds prices for cells of equal points
LEAST_SHARE = 1e-30  # lower bound of a code's share, which keeps its logarithm finite


class BalancedCenters(NamedTuple):
    """The centers and prices of a power diagram."""

    centers: Tensor  # float32 [C, D]
    prices: Tensor  # float32 [C], with mean 0


def balanced_kmeans(points: Tensor, count: int, iterations: int, generator: Generator) -> BalancedCenters:
    """Run k-means on points float32 [N, D], then move and price the centers until their cells are nearly equal."""
    centers, prices = kmeans(points, count, iterations, generator), torch.zeros(count)
    sample = points
    if len(points) > MOVING_SAMPLE * count:
        sample = points[torch.randperm(len(points), generator=generator)[: SHARP_SAMPLE * count]]
    for _ in range(ROUNDS):
        costs = squared_distances(sample[: MOVING_SAMPLE * count], centers)
        prices = sharp_prices(costs, smooth_prices(costs, prices), SHARP_STEPS)
        centers = means(points, nearest(points, centers, prices), centers)
    prices = smooth_prices(squared_distances(sample[: SMOOTH_SAMPLE * count], centers), prices)
    return BalancedCenters(centers, sharp_prices(squared_distances(sample, centers), prices, FINAL_STEPS))


def smooth_prices(costs: Tensor, prices: Tensor) -> Tensor:
    """Return prices float32 [C] for which every code gets about N/C points in a soft assignment, for costs float32 [N, C].

    A point's shares are softmax over c of -(cost_c + price_c) / s. The update price_c += s ln(share_c / (N/C)) makes the shares
    equal for this s (Sinkhorn iterations, Cuturi 2013, 1306.0895), from any starting prices. Then s is halved.
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
    """Refine prices without smoothing, for costs float32 [N, C].

    Return the best prices float32 [C] of all iterations: those with the least sum over cells of (size - N/C)^2.
    """
    target, scale = len(costs) / costs.shape[1], float(costs.std(1, correction=0).mean())
    step = torch.full_like(prices, SMOOTHING[-1] * scale)
    best, least, last = prices, float("inf"), torch.zeros_like(prices)
    total = torch.empty_like(costs)
    for _ in range(steps):
        excess = torch.bincount(torch.add(costs, prices, out=total).argmin(1), minlength=len(prices)) - target
        if (imbalance := float(excess.square().sum())) < least:
            best, least = prices, imbalance
        if float(excess.abs().max()) < 1:
            break
        sign = excess.sign()
        step = step * torch.where(sign * last > 0, 1.2, torch.where(sign * last < 0, 0.5, 1.0))
        step = step.clamp(max=LARGEST_STEP * scale)
        prices, last = prices + step * sign, sign
    return best - best.mean()
