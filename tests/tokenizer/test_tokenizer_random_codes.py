"""Random codes are uniform and independent of the vectors; listed codes for new items and unknown codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.errors import ArtifactError, InputError, UsageError
from genrec.tokenizer import RandomCodes
from genrec.tokenizer.listed_codes import FittedListedCodes, restore_listed
from genrec.tokenizer.random_codes import FittedRandomCodes
from genrec.types import ListedCodes, Quantizer


def fit(vectors: np.ndarray, specification: RandomCodes, seed: int = 0) -> FittedRandomCodes:
    return specification.fit(vectors, torch.Generator().manual_seed(seed))


def normal(count: int, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def test_satisfies_the_protocols() -> None:
    assert isinstance(RandomCodes(), Quantizer)
    assert isinstance(fit(normal(5), RandomCodes()), ListedCodes)
    assert RandomCodes(num_levels=2, codebook_size=9).level_sizes() == (9, 9)


def test_codes_are_uniform_and_independent_of_the_vectors() -> None:
    """8,000 items on 8 codes: 1,000 per code with a standard deviation of 30; 125 per pair of codes with one of 11."""
    codes = fit(normal(8000), RandomCodes(num_levels=2, codebook_size=8)).listed_codes()
    assert codes.dtype == np.int64
    assert all(abs(np.bincount(level, minlength=8) - 1000).max() < 130 for level in codes.T)
    assert abs(np.bincount(codes[:, 0] * 8 + codes[:, 1], minlength=64) - 125).max() < 50
    np.testing.assert_array_equal(fit(normal(8000, seed=1), RandomCodes(num_levels=2, codebook_size=8)).listed_codes(), codes)
    assert (fit(normal(8000), RandomCodes(num_levels=2, codebook_size=8), seed=1).listed_codes() != codes).mean() > 0.8


def test_codes_of_new_items_are_uniform_and_independent_of_the_vectors() -> None:
    """They are reproducible, independent of the batch, and not the codes of the listed item with a nearly equal vector."""
    vectors = normal(4000)
    fitted = fit(vectors, RandomCodes(num_levels=2, codebook_size=8))
    close = fitted.encode(vectors + 1e-4)
    assert all(abs(np.bincount(level, minlength=8) - 500).max() < 110 for level in close.T)
    assert (close == fitted.listed_codes()).all(1).mean() == pytest.approx(1 / 64, abs=0.01)
    np.testing.assert_array_equal(fitted.encode(vectors[7:9] + 1e-4), close[7:9])
    assert (fit(vectors, RandomCodes(num_levels=2, codebook_size=8), seed=1).encode(vectors + 1e-4) != close).any(1).mean() > 0.9


def test_new_items_get_the_listed_codes_of_the_nearest_item() -> None:
    vectors = normal(300)
    listed = fit(vectors, RandomCodes()).listed
    np.testing.assert_array_equal(listed.encode(vectors), listed.listed_codes())
    new = normal(100, seed=5)
    nearest = ((new[:, None].astype(np.float64) - vectors[None]) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(listed.encode(new), listed.listed_codes()[nearest])


def test_ties_go_to_the_first_item_and_close_vectors_are_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1,000, vectors 0.001 apart differ by less than the rounding of their squares."""
    points = torch.tensor([[1000.0], [1000.001], [1000.0], [-5000.0]])
    fitted = FittedListedCodes(torch.arange(4)[:, None], points, (4,))
    monkeypatch.setattr("genrec.tokenizer.listed_codes.CELLS", 5)  # one query at a time
    assert fitted.encode(points.numpy()).tolist() == [[0], [1], [0], [3]]


def test_reconstruction_is_the_mean_of_the_longest_known_prefix() -> None:
    points = torch.tensor([[0.0], [2], [10], [14], [100]])
    codes = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 1], [2, 0]])
    fitted = FittedListedCodes(codes, points, (4, 2))
    wanted = np.array([[0, 1], [1, 1], [1, 0], [2, 1], [3, 1], [3, 0]])
    # (0, 1) has one item, (1, 1) two; (1, 0) and (2, 1) are unknown: the means of codes 1 and 2; 3 is unknown: the mean of all
    assert fitted.reconstruct(wanted)[:, 0].tolist() == pytest.approx([2, 12, 12, 100, 25.2, 25.2])


def test_restored_codes_are_equal() -> None:
    vectors, specification = normal(50), RandomCodes(num_levels=4, codebook_size=5)
    fitted = fit(vectors, specification)
    restored = specification.restore({name: array.copy() for name, array in fitted.state().items()})
    np.testing.assert_array_equal(restored.listed_codes(), fitted.listed_codes())
    np.testing.assert_array_equal(restored.encode(normal(9, seed=2)), fitted.encode(normal(9, seed=2)))
    with pytest.raises(ArtifactError, match=r"level sizes \(5, 5, 5, 5\) do not match .*\(6, 6, 6, 6\)"):
        RandomCodes(num_levels=4, codebook_size=6).restore(fitted.state())
    with pytest.raises(ArtifactError, match=r"need codes, vectors and level_sizes, the stored state has \['codes'\]"):
        restore_listed({"codes": fitted.listed_codes()})
    with pytest.raises(ArtifactError, match="needs a seed"):
        specification.restore(fitted.listed.state())
    with pytest.raises(ArtifactError, match="do not match each other"):
        restore_listed({**fitted.listed.state(), "vectors": vectors[:49]})


def test_invalid_vectors_and_fields_raise() -> None:
    vectors = normal(9)
    fitted = fit(vectors, RandomCodes())
    with pytest.raises(InputError, match=r"vectors \[N, 4\], got shape \[9, 3\]"):
        fitted.encode(vectors[:, :3])
    vectors[2, 1] = np.nan
    with pytest.raises(InputError, match="the first in row 2"):
        fit(vectors, RandomCodes())
    with pytest.raises(UsageError, match=r"RandomCodes\.codebook_size must be at least 1, got 0"):
        RandomCodes(codebook_size=0)


def test_listed_codes_are_a_copy() -> None:
    fitted = fit(normal(5), RandomCodes())
    fitted.listed_codes()[:] = 0
    assert fitted.listed_codes().any()
