"""Nearest neighbours equal brute force; k-means iterations by faiss."""

from __future__ import annotations

import sys

import pytest
import torch

from genrec import vector_search
from genrec.errors import InputError, ResourceError, UsageError
from genrec.vector_search import faiss_lloyd, largest_inner_products


@pytest.mark.parametrize("chunk", [7, 4096])
def test_equal_to_brute_force(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_search, "CHUNK", chunk)
    source = torch.Generator().manual_seed(0)
    vectors, queries = torch.randn(300, 12, generator=source), torch.randn(50, 12, generator=source)
    scores, rows = largest_inner_products(vectors, queries, 20)
    expected = (queries @ vectors.T).topk(20, dim=1)
    torch.testing.assert_close(scores, expected.values, rtol=1e-5, atol=1e-5)
    assert torch.equal(rows, expected.indices)
    assert rows.dtype == torch.int64


def test_all_of_them_in_half_precision_and_any_layout() -> None:
    vectors = torch.randn(6, 9, generator=torch.Generator().manual_seed(1)).half().T
    scores, rows = largest_inner_products(vectors, vectors[:4], 9)
    assert rows.sort(1).values.tolist() == [list(range(9))] * 4
    assert (scores.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("k", [0, 6])
def test_more_neighbours_than_vectors_are_refused(k: int) -> None:
    with pytest.raises(UsageError, match=rf"k must lie in 1\.\.5.*got {k}"):
        largest_inner_products(torch.ones(5, 2), torch.ones(1, 2), k)


def test_broken_vectors_are_refused() -> None:
    vectors = torch.ones(5, 2)
    vectors[3, 1] = float("nan")
    with pytest.raises(InputError, match=r"vectors must be finite, got 1 of 5 rows with NaN or infinity, first row 3"):
        largest_inner_products(vectors, torch.ones(1, 2), 2)


def test_missing_faiss_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ResourceError, match=r"genrec\[cpu\].*genrec\[gpu\]"):
        largest_inner_products(torch.ones(5, 2), torch.ones(1, 2), 2)


def test_iterations_by_hand() -> None:
    """Means of 0 and 2, and of 10 and 14, from any start that tells the two groups apart."""
    points = torch.tensor([[0.0], [2.0], [10.0], [14.0]])
    centres = faiss_lloyd(points, torch.tensor([[0.0], [10.0]]), 5, torch.Generator().manual_seed(0))
    assert centres.tolist() == [[1.0], [12.0]]


def test_iterations_look_at_every_point_and_are_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    """600 points of one centre, of which faiss would take 256; and fewer than 39 of each of two, at which it would warn."""
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
