"""Nearest neighbours equal brute force."""

from __future__ import annotations

import sys

import pytest
import torch

from genrec.errors import InputError, ResourceError, UsageError
from genrec.preference import neighbours
from genrec.preference.neighbours import nearest


@pytest.mark.parametrize("chunk", [7, 4096])
def test_equal_to_brute_force(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    source = torch.Generator().manual_seed(0)
    vectors, queries = torch.randn(300, 12, generator=source), torch.randn(50, 12, generator=source)
    scores, rows = nearest(vectors, queries, 20)
    expected = (queries @ vectors.T).topk(20, dim=1)
    torch.testing.assert_close(scores, expected.values, rtol=1e-5, atol=1e-5)
    assert torch.equal(rows, expected.indices)
    assert rows.dtype == torch.int64


def test_all_of_them_in_half_precision_and_any_layout() -> None:
    vectors = torch.randn(6, 9, generator=torch.Generator().manual_seed(1)).half().T
    scores, rows = nearest(vectors, vectors[:4], 9)
    assert rows.sort(1).values.tolist() == [list(range(9))] * 4
    assert (scores.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("k", [0, 6])
def test_more_neighbours_than_vectors_are_refused(k: int) -> None:
    with pytest.raises(UsageError, match=rf"k must lie in 1\.\.5.*got {k}"):
        nearest(torch.ones(5, 2), torch.ones(1, 2), k)


def test_broken_vectors_are_refused() -> None:
    vectors = torch.ones(5, 2)
    vectors[3, 1] = float("nan")
    with pytest.raises(InputError, match=r"vectors must be finite, got 1 of 5 rows with NaN or infinity, first row 3"):
        nearest(vectors, torch.ones(1, 2), 2)


def test_missing_faiss_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ResourceError, match=r"genrec\[cpu\].*genrec\[gpu\]"):
        nearest(torch.ones(5, 2), torch.ones(1, 2), 2)
