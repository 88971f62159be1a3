"""Nearest neighbors against brute force, and k-means iterations with faiss."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.nn.functional import normalize

from genrec import vector_search
from genrec.errors import InputError, ResourceError, UsageError
from genrec.vector_search import Kind, VectorIndex, faiss_lloyd


def clustered(count: int, width: int = 16, seed: int = 0) -> torch.Tensor:
    """Return unit vectors around 50 centers."""
    source = torch.Generator().manual_seed(seed)
    centers = torch.randn(50, width, generator=source)
    places = torch.randint(50, (count,), generator=source)
    return normalize(centers[places] + 0.4 * torch.randn(count, width, generator=source), dim=1)


def recall(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the share of expected int64 [Q, k] that is among found int64 [Q, k]."""
    return float((expected.unsqueeze(2) == found.unsqueeze(1)).any(2).double().mean())


@pytest.mark.parametrize("chunk", [7, 4096])
def test_equal_to_brute_force(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_search, "CHUNK", chunk)
    source = torch.Generator().manual_seed(0)
    vectors, queries = torch.randn(300, 12, generator=source), torch.randn(50, 12, generator=source)
    scores, rows = VectorIndex(vectors, 20).search(queries)
    expected = (queries @ vectors.T).topk(20, dim=1)
    torch.testing.assert_close(scores, expected.values, rtol=1e-5, atol=1e-5)
    assert torch.equal(rows, expected.indices)
    assert rows.dtype == torch.int64


def test_all_vectors_in_half_precision_and_any_memory_layout() -> None:
    vectors = torch.randn(6, 9, generator=torch.Generator().manual_seed(1)).half().T
    scores, rows = VectorIndex(vectors, 9).search(vectors[:4])
    assert rows.sort(1).values.tolist() == [list(range(9))] * 4
    assert (scores.diff(dim=1) <= 0).all()


@pytest.mark.parametrize(("kind", "least"), [("flat", 1.0), ("ivf", 0.9), ("hnsw", 0.95)])
def test_approximations_find_most_neighbors(kind: Kind, least: float) -> None:
    """Their scores are the inner products: exact for `flat` and `hnsw`, within the error of one byte per number for `ivf`."""
    vectors = clustered(4000)
    queries = vectors[::40]
    expected = (queries @ vectors.T).topk(50, dim=1).indices
    scores, rows = VectorIndex(vectors, 50, kind).search(queries)
    assert recall(rows, expected) >= least
    assert (scores.diff(dim=1) <= 0).all()
    exact = (queries.unsqueeze(1) * vectors[rows]).sum(-1)
    torch.testing.assert_close(scores, exact, rtol=0, atol=0.01 if kind == "ivf" else 1e-5)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_more_effort_finds_more(kind: Kind) -> None:
    vectors = clustered(3000)
    expected = (vectors[:200] @ vectors.T).topk(20, dim=1).indices
    low, high = (recall(VectorIndex(vectors, 20, kind, effort).search(vectors[:200])[1], expected) for effort in (1, 3000))
    assert low < 0.9 < high


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_the_same_index_from_the_same_vectors(kind: Kind) -> None:
    """The result depends neither on global random state nor on the number of threads."""
    vectors = clustered(3000)
    one, other = (VectorIndex(vectors, 20, kind).search(vectors[:100]) for seed in (1, 2) if torch.manual_seed(seed))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_indices_of_few_vectors(kind: Kind) -> None:
    """With one list, all vectors are found."""
    for count in (1, 5, 60):
        vectors = clustered(count)
        assert VectorIndex(vectors, count, kind).search(vectors[:1])[1].sort(1).values.tolist() == [list(range(count))]


def test_fewer_neighbors_than_requested_are_padded() -> None:
    """50 separate groups of 80 vectors; one list is searched, and 500 neighbors are requested."""
    scores, rows = VectorIndex(clustered(4000), 500, "ivf", effort=1).search(clustered(4000)[:10])
    assert (rows[:, -1] == -1).all()
    assert (scores[rows < 0] == -torch.inf).all()
    assert (rows[:, 0] >= 0).all()


@pytest.mark.gpu
def test_flat_search_on_a_gpu_equals_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = pytest.importorskip("faiss")
    if faiss.get_num_gpus() == 0:
        pytest.skip("the installed faiss has no GPU")
    vectors, queries = torch.randn(5000, 32, generator=torch.Generator().manual_seed(0)), torch.randn(100, 32)
    there = VectorIndex(vectors, 50).search(queries)
    monkeypatch.setattr(vector_search, "GPU_LARGEST_K", 0)
    here = VectorIndex(vectors, 50).search(queries)
    torch.testing.assert_close(there[0], here[0], rtol=1e-5, atol=1e-4)
    assert recall(there[1], here[1]) > 0.999  # near ties may swap


@pytest.mark.parametrize("k", [0, 6])
def test_k_out_of_range_raises(k: int) -> None:
    with pytest.raises(UsageError, match=rf"k must lie in 1\.\.5.*got {k}"):
        VectorIndex(torch.ones(5, 2), k).search(torch.ones(1, 2))


def test_non_finite_vectors_raise() -> None:
    vectors = torch.ones(5, 2)
    vectors[3, 1] = float("nan")
    with pytest.raises(InputError, match=r"vectors must be finite, got 1 of 5 rows with NaN or infinity, first row 3"):
        VectorIndex(vectors, 2).search(torch.ones(1, 2))
    with pytest.raises(InputError, match=r"queries must be finite, got 1 of 5 rows"):
        VectorIndex(torch.ones(5, 2), 2).search(vectors)


def test_missing_faiss_raises_with_install_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ResourceError, match=r"genrec\[cpu\].*genrec\[gpu\]"):
        VectorIndex(torch.ones(5, 2), 2).search(torch.ones(1, 2))


def test_iterations_by_hand() -> None:
    """The means of 0 and 2, and of 10 and 14, from any start that separates the two groups."""
    points = torch.tensor([[0.0], [2.0], [10.0], [14.0]])
    centers = faiss_lloyd(points, torch.tensor([[0.0], [10.0]]), 5, torch.Generator().manual_seed(0))
    assert centers.tolist() == [[1.0], [12.0]]


def test_iterations_use_every_point_and_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """By default faiss samples 256 of the 600 points of one center, and warns below 39 points per center."""
    points = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
    one = faiss_lloyd(points, points[:1], 2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(one[0], points.mean(0), rtol=1e-4, atol=1e-5)
    few = faiss_lloyd(points[:20], points[:2], 3, torch.Generator().manual_seed(0))
    assert few.shape == (2, 3)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_iterations_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ResourceError, match=r"engine='faiss' needs faiss.*genrec\[cpu\].*engine='torch'"):
        faiss_lloyd(torch.ones(5, 2), torch.ones(1, 2), 2, torch.Generator())
