"""Product quantization: by hand, against faiss's OPQ, the gain from rotation, widths, costs, restoring and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.errors import ArtifactError, InputError, UsageError
from genrec.tokenizer import ProductQuantizer
from genrec.tokenizer.product_quantizer import FittedProductQuantizer
from genrec.types import PricedCodes, Quantizer


def fit(vectors: np.ndarray, specification: ProductQuantizer, seed: int = 0) -> FittedProductQuantizer:
    return specification.fit(vectors, torch.Generator().manual_seed(seed))


def error(vectors: np.ndarray, fitted: FittedProductQuantizer) -> float:
    return float(((fitted.reconstruct(fitted.encode(vectors)) - vectors) ** 2).sum(1).mean())


def correlated(count: int = 3000, width: int = 16) -> np.ndarray:
    """Return rotated normal vectors with standard deviations that decrease by a third from axis to axis."""
    source = np.random.default_rng(0)
    rotation = np.linalg.qr(source.normal(size=(width, width)))[0]
    return (source.normal(size=(count, width)) * 0.67 ** np.arange(width) @ rotation).astype(np.float32)


def test_satisfies_the_protocols() -> None:
    assert isinstance(ProductQuantizer(), Quantizer)
    assert isinstance(fit(correlated(), ProductQuantizer(codebook_size=8)), PricedCodes)
    assert ProductQuantizer(num_levels=2, codebook_size=9).level_sizes() == (9, 9)


def test_by_hand() -> None:
    """Two subspaces of one dimension: 7 is nearest to 8, -2 to -1."""
    fitted = FittedProductQuantizer(torch.tensor([[[0.0], [8]], [[-1], [5]]]), torch.eye(2))
    codes = fitted.encode(np.array([[7, -2], [1, 4]], dtype=np.float32))
    assert codes.tolist() == [[1, 0], [0, 1]]
    assert fitted.reconstruct(codes).tolist() == [[8, -1], [0, 5]]
    costs = fitted.last_level_costs(np.array([[7, -2]], dtype=np.float32), codes[:1])
    assert costs.tolist() == [[1 + 1, 1 + 49]]


def test_pairs_of_values_are_recovered_exactly() -> None:
    """All sixteen pairs of four values in each of two subspaces."""
    values = np.array([0.0, 1, 5, 9])
    vectors = np.stack([np.repeat(values, 4), np.tile(values, 4)], 1).astype(np.float32)
    fitted = fit(vectors, ProductQuantizer(num_levels=2, codebook_size=4, rotation=False))
    assert len({tuple(row) for row in fitted.encode(vectors).tolist()}) == 16
    np.testing.assert_allclose(fitted.reconstruct(fitted.encode(vectors)), vectors, atol=1e-6)


def test_error_equals_that_of_faiss() -> None:
    """faiss's OPQ and product quantizer on the same vectors, with and without rotation."""
    faiss = pytest.importorskip("faiss")
    vectors = correlated()
    for rotation in (False, True):
        ours = error(vectors, fit(vectors, ProductQuantizer(num_levels=4, codebook_size=64, rotation=rotation)))
        rotated = vectors
        if rotation:
            matrix = faiss.OPQMatrix(16, 4)
            matrix.pq = (inner := faiss.ProductQuantizer(16, 4, 6))
            inner.cp.min_points_per_centroid = 1
            matrix.train(vectors)
            rotated = matrix.apply(vectors)
        theirs = faiss.ProductQuantizer(16, 4, 6)
        theirs.train(rotated)
        expected = ((theirs.decode(theirs.compute_codes(rotated)) - rotated) ** 2).sum(1).mean()
        assert ours == pytest.approx(float(expected), rel=0.06) or ours < expected


def test_rotation_lowers_the_error_on_correlated_vectors() -> None:
    vectors = correlated()
    with_rotation, without = (
        error(vectors, fit(vectors, ProductQuantizer(codebook_size=32, rotation=each))) for each in (True, False)
    )
    assert with_rotation < 0.85 * without


@pytest.mark.parametrize("width", [4, 5, 7, 16])
def test_any_width_and_orthonormal_rotation(width: int) -> None:
    vectors = correlated(600, width)
    fitted = fit(vectors, ProductQuantizer(codebook_size=10, rounds=3))
    assert fitted.rotation.shape == (width, -(-width // 4) * 4)
    torch.testing.assert_close(fitted.rotation @ fitted.rotation.T, torch.eye(width), atol=1e-4, rtol=0)
    assert fitted.encode(vectors).shape == (600, 4)
    assert error(vectors, fitted) < float(((vectors - vectors.mean(0)) ** 2).sum(1).mean())


def test_padding_changes_nothing_without_rotation() -> None:
    """Seven dimensions in subspaces of 2: an eighth dimension of zeros changes no code."""
    vectors = correlated(500, 7)
    padded = np.concatenate([vectors, np.zeros((500, 1), dtype=np.float32)], 1)
    codes = [fit(each, ProductQuantizer(codebook_size=10, rotation=False)).encode(each) for each in (vectors, padded)]
    np.testing.assert_array_equal(*codes)


def test_last_level_costs_are_errors_of_reconstruction() -> None:
    vectors = correlated(300)
    fitted = fit(vectors, ProductQuantizer(codebook_size=12, rounds=3))
    codes = fitted.encode(vectors)
    costs = fitted.last_level_costs(vectors, codes)
    for code in range(12):
        other = codes.copy()
        other[:, -1] = code
        np.testing.assert_allclose(costs[:, code], ((vectors - fitted.reconstruct(other)) ** 2).sum(1), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(costs.argmin(1), codes[:, -1])


def test_same_generator_same_codes() -> None:
    vectors = correlated(500)
    one, same, other = (fit(vectors, ProductQuantizer(codebook_size=16, rounds=3), seed).encode(vectors) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_the_rotation_is_fitted_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = correlated()
    whole = error(vectors, fit(vectors, ProductQuantizer(codebook_size=16)))
    monkeypatch.setattr("genrec.tokenizer.product_quantizer.SAMPLE", 40)
    assert error(vectors, fit(vectors, ProductQuantizer(codebook_size=16))) < 1.1 * whole


def test_restored_encodes_the_same_also_new_items() -> None:
    vectors = correlated(500, 10)
    specification = ProductQuantizer(num_levels=3, codebook_size=16, rounds=3)
    fitted = fit(vectors, specification)
    restored = specification.restore({name: array.copy() for name, array in fitted.state().items()})
    new = correlated(50, 10) + np.float32(0.1)
    np.testing.assert_array_equal(restored.encode(new), fitted.encode(new))
    np.testing.assert_array_equal(restored.reconstruct(restored.encode(new)), fitted.reconstruct(fitted.encode(new)))
    for other in (ProductQuantizer(num_levels=4, codebook_size=16), ProductQuantizer(num_levels=3, codebook_size=8)):
        with pytest.raises(ArtifactError, match=r"ProductQuantizer needs codebooks .*state has \{'codebooks': \[3, 16, 4\]"):
            other.restore(fitted.state())
    with pytest.raises(ArtifactError, match=r"the stored state has \{\}"):
        specification.restore({})


@pytest.mark.parametrize("rotation", [False, True])
def test_one_item_equal_vectors_and_few_items(rotation: bool) -> None:
    specification = ProductQuantizer(num_levels=1, codebook_size=4, shrink=True, rotation=rotation, rounds=2)
    for vectors in (np.ones((1, 3)), np.arange(9.0)[:, None], np.full((7, 2), 3.0)):
        fitted = fit(vectors.astype(np.float32), specification)
        assert np.isfinite(fitted.reconstruct(fitted.encode(vectors.astype(np.float32)))).all()
    np.testing.assert_allclose(fitted.reconstruct(fitted.encode(np.full((7, 2), 3.0))), 3, atol=1e-5)
    with pytest.raises(InputError, match="3 items cannot fill codebooks of 256 codes"):
        fit(correlated(3), ProductQuantizer(codebook_size=256, rotation=rotation))


def test_invalid_vectors_and_codes_raise() -> None:
    with pytest.raises(InputError, match="vectors of 3 dimensions have no 4 subspaces: reduce num_levels"):
        fit(correlated(width=3), ProductQuantizer())
    fitted = fit(correlated(300), ProductQuantizer(codebook_size=8, rounds=1))
    with pytest.raises(InputError, match=r"vectors \[N, 16\], got shape \[300, 5\]"):
        fitted.encode(correlated(300, 5))
    broken = correlated(300)
    broken[4, 2] = np.nan
    for action in (lambda: fitted.encode(broken), lambda: fit(broken, ProductQuantizer(codebook_size=8))):
        with pytest.raises(InputError, match="1 of 300 vectors are non-finite, the first in row 4"):
            action()
    with pytest.raises(InputError, match=r"lie in 0\.\.7, got 8\.\.8"):
        fitted.reconstruct(np.full((1, 4), 8))


@pytest.mark.parametrize("field", [{"num_levels": 0}, {"codebook_size": 0}, {"rounds": 0}, {"iterations": 0}])
def test_fields_out_of_range_raise(field: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=rf"ProductQuantizer\.{next(iter(field))} must be at least 1, got 0"):
        ProductQuantizer(**field)  # type: ignore[arg-type]
