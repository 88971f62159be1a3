"""k-means: by hand, against scikit-learn, on points that repeat, and its determinism."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Generator, Tensor

from genrec.tokenizer.kmeans import _means, kmeans, nearest


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def inertia(points: Tensor, centres: Tensor) -> float:
    return float((points - centres[nearest(points, centres)]).square().sum())


def test_two_clusters_by_hand() -> None:
    """Means of (0, 0), (0, 2) and of (10, 0), (10, 2), (10, 4)."""
    points = torch.tensor([[0.0, 0], [10, 0], [0, 2], [10, 2], [10, 4]])
    for seed in range(20):
        centres = kmeans(points, 2, 25, seeded(seed))
        assert sorted(centres.tolist()) == [[0, 1], [10, 2]]


def test_as_many_centres_as_distinct_points() -> None:
    points = torch.tensor([[1.0], [5], [9]]).repeat(4, 1)
    assert sorted(kmeans(points, 3, 25, seeded()).tolist()) == [[1], [5], [9]]


def test_more_centres_than_distinct_points() -> None:
    points = torch.tensor([[1.0], [5]]).repeat(4, 1)
    centres = kmeans(points, 4, 25, seeded())
    assert {row[0] for row in centres.tolist()} == {1, 5}
    assert inertia(points, centres) == 0


def test_equal_points_and_one_centre() -> None:
    assert kmeans(torch.full((6, 2), 3.0), 4, 25, seeded()).tolist() == [[3, 3]] * 4
    assert kmeans(torch.tensor([[1.0, 2], [3, 6]]), 1, 25, seeded()).tolist() == [[2, 4]]


def test_nearest_far_from_the_origin() -> None:
    """At 10,000 the squares alone would leave float32 no digit for differences of 0.01."""
    centres = torch.tensor([[0.0, 0.0], [0.02, 0.0], [0.0, 0.02]]) + 10000
    assert nearest(centres.clone(), centres).tolist() == [0, 1, 2]


def test_nearest_takes_the_lowest_of_equals() -> None:
    assert nearest(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [-1.0], [1.0]])).tolist() == [0, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 8), st.integers(1, 5))
def test_nearest_against_brute_force(seed: int, points: int, centres: int, width: int) -> None:
    x, e = torch.randn(points, width, generator=seeded(seed)), torch.randn(centres, width, generator=seeded(seed + 1))
    squares = ((x.double()[:, None] - e.double()[None]) ** 2).sum(2)
    torch.testing.assert_close(squares[torch.arange(points), nearest(x, e)], squares.amin(1), rtol=1e-5, atol=1e-6)


def test_parts_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    points, centres = torch.randn(500, 4, generator=seeded(1)), torch.randn(16, 4, generator=seeded(2))
    whole = nearest(points, centres)
    monkeypatch.setattr("genrec.tokenizer.kmeans.CELLS", 16 * 7)
    assert torch.equal(nearest(points, centres), whole)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(5, 60), st.integers(1, 5))
def test_every_centre_has_points_and_iterations_never_hurt(seed: int, points: int, count: int) -> None:
    x = torch.randn(points, 3, generator=seeded(seed))
    fits = [kmeans(x, count, iterations, seeded(seed)) for iterations in (0, 1, 5, 50)]
    assert len(nearest(x, fits[-1]).unique()) == count
    figures = [inertia(x, centres) for centres in fits]
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in pairwise(figures))


def test_empty_centres_move_to_the_farthest_points() -> None:
    points = torch.tensor([[0.0], [2.0], [30.0]])
    centres = torch.tensor([[1.0], [99.0]])
    assert _means(points, torch.tensor([0, 0, 0]), centres).flatten().tolist() == pytest.approx([32 / 3, 30])


@pytest.mark.parametrize("clusters", [None, 40])
def test_inertia_is_that_of_scikit_learn(clusters: int | None) -> None:
    points = torch.randn(3000, 8, generator=seeded())
    if clusters:
        points = points * 0.3 + torch.randn(clusters, 8, generator=seeded(1))[torch.arange(3000) % clusters]
    ours = np.mean([inertia(points, kmeans(points, 64, 25, seeded(seed))) for seed in range(3)])
    theirs = np.mean([KMeans(64, n_init=1, max_iter=25, random_state=seed).fit(points.numpy()).inertia_ for seed in range(3)])
    assert ours < 1.02 * theirs


def test_initialisation_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.randn(4000, 4, generator=seeded())
    whole = inertia(points, kmeans(points, 16, 25, seeded()))
    monkeypatch.setattr("genrec.tokenizer.kmeans.SAMPLE", 4)
    assert inertia(points, kmeans(points, 16, 25, seeded())) < 1.05 * whole


def test_a_function_of_the_generator_alone() -> None:
    points = torch.randn(400, 6, generator=seeded())
    state = torch.get_rng_state()
    first = kmeans(points, 16, 10, seeded(3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(kmeans(points, 16, 10, seeded(3)), first)
    assert not torch.equal(kmeans(points, 16, 10, seeded(4)), first)
    torch.set_rng_state(state)
