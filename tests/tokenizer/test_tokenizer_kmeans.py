"""k-means and balanced k-means: by hand, against scikit-learn, on repeated points, and determinism."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Generator, Tensor

from genrec.tokenizer.balanced_kmeans import balanced_kmeans, sharp_prices, smooth_prices
from genrec.tokenizer.kmeans import initial_centers, kmeans, means, nearest, squared_distances


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def inertia(points: Tensor, centers: Tensor) -> float:
    return float((points - centers[nearest(points, centers)]).square().sum())


def test_two_clusters_by_hand() -> None:
    """The means of (0, 0), (0, 2) and of (10, 0), (10, 2), (10, 4)."""
    points = torch.tensor([[0.0, 0], [10, 0], [0, 2], [10, 2], [10, 4]])
    for seed in range(20):
        centers = kmeans(points, 2, 25, seeded(seed))
        assert sorted(centers.tolist()) == [[0, 1], [10, 2]]


def test_as_many_centers_as_distinct_points() -> None:
    points = torch.tensor([[1.0], [5], [9]]).repeat(4, 1)
    assert sorted(kmeans(points, 3, 25, seeded()).tolist()) == [[1], [5], [9]]


def test_more_centers_than_distinct_points() -> None:
    points = torch.tensor([[1.0], [5]]).repeat(4, 1)
    centers = kmeans(points, 4, 25, seeded())
    assert {row[0] for row in centers.tolist()} == {1, 5}
    assert inertia(points, centers) == 0


def test_equal_points_and_one_center() -> None:
    assert kmeans(torch.full((6, 2), 3.0), 4, 25, seeded()).tolist() == [[3, 3]] * 4
    assert kmeans(torch.tensor([[1.0, 2], [3, 6]]), 1, 25, seeded()).tolist() == [[2, 4]]


def test_nearest_far_from_the_origin() -> None:
    """At 10,000, squares in float32 have no precision left for differences of 0.01."""
    centers = torch.tensor([[0.0, 0.0], [0.02, 0.0], [0.0, 0.02]]) + 10000
    assert nearest(centers.clone(), centers).tolist() == [0, 1, 2]


def test_nearest_takes_the_lowest_center_on_ties() -> None:
    assert nearest(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [-1.0], [1.0]])).tolist() == [0, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 8), st.integers(1, 5))
def test_nearest_against_brute_force(seed: int, points: int, centers: int, width: int) -> None:
    x, e = torch.randn(points, width, generator=seeded(seed)), torch.randn(centers, width, generator=seeded(seed + 1))
    squares = ((x.double()[:, None] - e.double()[None]) ** 2).sum(2)
    torch.testing.assert_close(squares[torch.arange(points), nearest(x, e)], squares.amin(1), rtol=1e-5, atol=1e-6)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    points, centers = torch.randn(500, 4, generator=seeded(1)), torch.randn(16, 4, generator=seeded(2))
    whole = nearest(points, centers)
    monkeypatch.setattr("genrec.tokenizer.kmeans.CELLS", 16 * 7)
    assert torch.equal(nearest(points, centers), whole)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(5, 60), st.integers(1, 5))
def test_every_center_has_points_and_inertia_never_rises(seed: int, points: int, count: int) -> None:
    x = torch.randn(points, 3, generator=seeded(seed))
    fits = [kmeans(x, count, iterations, seeded(seed)) for iterations in (0, 1, 5, 50)]
    assert len(nearest(x, fits[-1]).unique()) == count
    inertias = [inertia(x, centers) for centers in fits]
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in pairwise(inertias))


def test_empty_centers_move_to_the_farthest_points() -> None:
    points = torch.tensor([[0.0], [2.0], [30.0]])
    centers = torch.tensor([[1.0], [99.0]])
    assert means(points, torch.tensor([0, 0, 0]), centers).flatten().tolist() == pytest.approx([32 / 3, 30])


@pytest.mark.parametrize("clusters", [None, 40])
def test_inertia_is_that_of_scikit_learn(clusters: int | None) -> None:
    points = torch.randn(3000, 8, generator=seeded())
    if clusters:
        points = points * 0.3 + torch.randn(clusters, 8, generator=seeded(1))[torch.arange(3000) % clusters]
    ours = np.mean([inertia(points, kmeans(points, 64, 25, seeded(seed))) for seed in range(3)])
    theirs = np.mean([KMeans(64, n_init=1, max_iter=25, random_state=seed).fit(points.numpy()).inertia_ for seed in range(3)])
    assert ours < 1.02 * theirs


def test_initialization_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.randn(4000, 4, generator=seeded())
    whole = inertia(points, kmeans(points, 16, 25, seeded()))
    monkeypatch.setattr("genrec.tokenizer.kmeans.SAMPLE", 4)
    assert inertia(points, kmeans(points, 16, 25, seeded())) < 1.05 * whole


def test_depends_on_the_generator_only() -> None:
    points = torch.randn(400, 6, generator=seeded())
    state = torch.get_rng_state()
    first = kmeans(points, 16, 10, seeded(3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(kmeans(points, 16, 10, seeded(3)), first)
    assert not torch.equal(kmeans(points, 16, 10, seeded(4)), first)
    torch.set_rng_state(state)


def test_initial_centers_separate_close_points() -> None:
    """Pairs 0.001 apart, in two clusters 2,000 apart: |x|^2 - 2 x.e + |e|^2 has no precision left for them."""
    points = torch.tensor([[-1000.0], [-1000.001], [1000.0], [1000.001]]).repeat(5, 1)
    for seed in range(10):
        assert len(initial_centers(points, 4, seeded(seed)).unique(dim=0)) == 4


def test_squared_distances_by_hand() -> None:
    points, centers = torch.tensor([[0.0, 0], [3, 4]]) + 1000, torch.tensor([[0.0, 0], [0, 4]]) + 1000
    torch.testing.assert_close(squared_distances(points, centers), torch.tensor([[0.0, 16], [25, 9]]), atol=1e-3, rtol=1e-5)
    assert (squared_distances(points, points) >= 0).all()


def test_prices_move_the_border() -> None:
    """Between centers 0 and 4, a price of 8 moves the border to x^2 + 8 = (x - 4)^2, at x = 1."""
    points, centers = torch.tensor([[0.9], [1.1], [1.9], [2.1]]), torch.tensor([[0.0], [4.0]])
    assert nearest(points, centers).tolist() == [0, 0, 0, 1]
    assert nearest(points, centers, torch.tensor([8.0, 0])).tolist() == [0, 1, 1, 1]


def test_balancing_prices_by_hand() -> None:
    """Points 0, 1, 2, 9, centers 0 and 9. Balance needs 2 in the second cell, 2^2 + p > (2 - 9)^2, and 1 in the first: 45 < p < 63."""
    costs = torch.tensor([0.0, 1, 2, 9])[:, None].sub(torch.tensor([0.0, 9])).square()
    prices = sharp_prices(costs, smooth_prices(costs, torch.zeros(2)), 300)
    assert (costs + prices).argmin(1).tolist() == [0, 0, 1, 1]
    assert 45 < float(prices[0] - prices[1]) < 63


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 12), st.integers(1, 6))
def test_balanced_cells(seed: int, count: int, width: int) -> None:
    """Unequal clusters. No exchange of two points lowers the cost, so the labels are the cheapest with these cell sizes."""
    generator = seeded(seed)
    points = torch.randn(40 * count, width, generator=generator)
    points[: 20 * count] = points[: 20 * count] * 0.1 + 3
    centers, prices = balanced_kmeans(points, count, 10, generator)
    labels = nearest(points, centers, prices)
    sizes = torch.bincount(labels, minlength=count)
    assert sizes.max() <= 1.15 * 40
    assert sizes.min() >= 0.85 * 40
    costs = squared_distances(points.double(), centers.double())
    own = costs.gather(1, labels[:, None])
    gain = (own - costs).max()  # gain of the best single move
    swap = (own - costs)[:, labels] + (own - costs)[:, labels].T  # gain of exchanging the cells of two points
    assert swap.max() < 1e-3 * (1 + gain.abs())


def test_equal_points_stay_together_and_prices_stay_bounded() -> None:
    """Half of the points are equal: no price can separate them, and prices must not diverge."""
    points = torch.randn(400, 4, generator=seeded())
    points[:200] = 0
    centers, prices = balanced_kmeans(points, 8, 10, seeded())
    labels = nearest(points, centers, prices)
    assert len(labels[:200].unique()) == 1
    assert torch.bincount(labels, minlength=8).max() < 300
    assert prices.abs().max() < 100
    assert inertia(points, centers) < float((points - points.mean(0)).square().sum())


def test_balanced_on_equal_points_and_as_many_centers_as_points() -> None:
    centers, prices = balanced_kmeans(torch.ones(6, 2), 3, 5, seeded())
    assert centers.tolist() == [[1, 1]] * 3
    assert prices.tolist() == [0, 0, 0]
    points = torch.randn(9, 3, generator=seeded())
    centers, prices = balanced_kmeans(points, 9, 5, seeded())
    assert sorted(nearest(points, centers, prices).tolist()) == list(range(9))
