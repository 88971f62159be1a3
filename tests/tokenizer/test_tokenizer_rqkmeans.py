"""Residual quantization against NumPy, and residual k-means: by hand, learnability, restoring and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.errors import ArtifactError, InputError, UsageError
from genrec.tokenizer import RQKMeans
from genrec.tokenizer.residual_quantization import as_points, chosen_entries, codes_of, quantize
from genrec.tokenizer.rqkmeans import FittedRQKMeans
from genrec.types import FittedQuantizer, PricedCodes, Quantizer


def fit(vectors: np.ndarray, specification: RQKMeans, seed: int = 0) -> FittedRQKMeans:
    return specification.fit(vectors, torch.Generator().manual_seed(seed))


def grouped(groups: int = 8, each: int = 25, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors in well separated groups, and the group of each."""
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(groups), each)
    centers = 10 * np.eye(groups, width) + 10 * np.eye(groups, width, k=-width)[:, ::-1] - 5 * (np.arange(groups)[:, None] >= width)
    return (centers[group] + 0.1 * generator.standard_normal((len(group), width))).astype(np.float32), group


def test_satisfies_the_protocols() -> None:
    assert isinstance(RQKMeans(), Quantizer)
    assert isinstance(fit(grouped()[0], RQKMeans(codebook_size=4)), FittedQuantizer)
    assert isinstance(fit(grouped()[0], RQKMeans(codebook_size=4)), PricedCodes)
    assert RQKMeans(num_levels=2, codebook_size=9).level_sizes() == (9, 9)


def test_quantize_by_hand() -> None:
    """(7, 1): the nearest entry of level 1 is (8, 0), the residual is (-1, 1), and the nearest entry of level 2 is (-1, 2)."""
    codebooks = torch.tensor([[[0.0, 0], [8, 0]], [[-1, 2], [1, -2]]])
    codes, residuals = quantize(torch.tensor([[7.0, 1]]), codebooks)
    assert codes.tolist() == [[1, 0]]
    assert residuals.tolist() == [[[7, 1]], [[-1, 1]]]
    assert chosen_entries(codes, codebooks).sum(0).tolist() == [[7, 2]]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 4), st.integers(1, 8), st.integers(1, 6))
def test_quantize_against_numpy(seed: int, items: int, levels: int, codes: int, width: int) -> None:
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((items, width)).astype(np.float32)
    codebooks = generator.standard_normal((levels, codes, width)).astype(np.float32)
    found = FittedRQKMeans(torch.tensor(codebooks)).encode(vectors)
    for item, residual in enumerate(vectors.astype(np.float64)):
        for level, codebook in enumerate(codebooks):
            squares = ((residual - codebook) ** 2).sum(1)
            assert squares[found[item, level]] == pytest.approx(squares.min(), rel=1e-4, abs=1e-5)
            residual = residual - codebook[found[item, level]]


def test_codes_types_and_ranges() -> None:
    vectors, _ = grouped()
    fitted = fit(vectors, RQKMeans(num_levels=2, codebook_size=16))
    codes = fitted.encode(vectors)
    assert (codes.shape, codes.dtype) == ((200, 2), np.int64)
    assert codes.min() >= 0
    assert codes.max() < 16
    assert (fitted.reconstruct(codes).shape, fitted.reconstruct(codes).dtype) == ((200, 6), np.float32)


def test_separated_groups_get_one_first_code_each() -> None:
    vectors, group = grouped()
    for seed in range(5):
        first = fit(vectors, RQKMeans(num_levels=2, codebook_size=8), seed).encode(vectors)[:, 0]
        assert len({(one, code) for one, code in zip(group, first, strict=True)}) == len(set(first)) == 8


def test_sums_of_two_parts_are_recovered_exactly() -> None:
    """Vectors a_i + b_j with |b| far below |a| and the sum of b zero: level 1 finds i, level 2 finds j, the residual is 0."""
    coarse = np.array([[0, 0], [100, 0], [0, 100], [100, 100]])
    fine = np.array([[1, 2], [-1, -2], [2, -1], [-2, 1]])
    vectors = (coarse[:, None] + fine[None]).reshape(16, 2).astype(np.float32)
    fitted = fit(vectors, RQKMeans(num_levels=2, codebook_size=4))
    codes = fitted.encode(vectors)
    assert len({tuple(row) for row in codes.tolist()}) == 16
    assert all(len(set(codes[start : start + 4, 0])) == 1 for start in range(0, 16, 4))
    assert all(len(set(codes[start::4, 1])) == 1 for start in range(4))
    np.testing.assert_allclose(fitted.reconstruct(codes), vectors, atol=1e-4)


def test_every_level_lowers_the_error() -> None:
    vectors = np.random.default_rng(1).standard_normal((500, 8)).astype(np.float32)
    fits = [fit(vectors, RQKMeans(num_levels=levels, codebook_size=16)) for levels in (1, 2, 3)]
    errors = [float(((each.reconstruct(each.encode(vectors)) - vectors) ** 2).sum()) for each in fits]
    assert errors[2] < 0.9 * errors[1] < 0.9 * 0.9 * errors[0]


def test_same_generator_same_codes() -> None:
    vectors = np.random.default_rng(1).standard_normal((300, 8)).astype(np.float32)
    one, same, other = (fit(vectors, RQKMeans(codebook_size=16), seed).encode(vectors) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_restored_encodes_the_same_also_new_items() -> None:
    vectors, _ = grouped()
    specification = RQKMeans(num_levels=2, codebook_size=16)
    fitted = fit(vectors, specification)
    restored = specification.restore({name: array.copy() for name, array in fitted.state().items()})
    new = np.random.default_rng(5).standard_normal((50, 6)).astype(np.float32)
    np.testing.assert_array_equal(restored.encode(new), fitted.encode(new))
    np.testing.assert_array_equal(restored.reconstruct(restored.encode(new)), fitted.reconstruct(fitted.encode(new)))


def test_codes_do_not_depend_on_the_batch() -> None:
    vectors, _ = grouped()
    fitted = fit(vectors, RQKMeans(num_levels=2, codebook_size=8))
    np.testing.assert_array_equal(np.concatenate([fitted.encode(row[None]) for row in vectors]), fitted.encode(vectors))


def test_fewer_items_than_codes() -> None:
    vectors = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    with pytest.raises(InputError, match=r"10 items cannot fill codebooks of 16 codes.*shrink=True") as error:
        fit(vectors, RQKMeans(codebook_size=16))
    assert error.value.exit_code == 3
    specification = RQKMeans(codebook_size=16, shrink=True)
    fitted = fit(vectors, specification)
    assert fitted.state()["codebooks"].shape == (3, 10, 4)
    assert len(set(fitted.encode(vectors)[:, 0])) == 10
    np.testing.assert_allclose(fitted.reconstruct(fitted.encode(vectors)), vectors, atol=1e-6)
    np.testing.assert_array_equal(specification.restore(fitted.state()).encode(vectors), fitted.encode(vectors))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_vectors_raise(value: float) -> None:
    vectors, _ = grouped()
    vectors[17, 2] = value
    with pytest.raises(InputError, match="1 of 200 vectors are non-finite, the first in row 17"):
        fit(vectors, RQKMeans(codebook_size=8))


def test_another_width_or_shape_raises() -> None:
    vectors, _ = grouped()
    fitted = fit(vectors, RQKMeans(codebook_size=8))
    with pytest.raises(InputError, match=r"vectors \[N, 6\], got shape \[200, 5\]"):
        fitted.encode(vectors[:, :5])
    with pytest.raises(InputError, match=r"vectors \[N, D\], got shape \[6\]"):
        fit(vectors[0], RQKMeans(codebook_size=8))
    with pytest.raises(InputError, match=r"codes \[N, 3\], got shape \[1, 2\]"):
        fitted.reconstruct(np.zeros((1, 2), dtype=np.int64))
    with pytest.raises(InputError, match=r"must lie in 0\.\.7, got 8\.\.8"):
        fitted.reconstruct(np.full((1, 3), 8))


def test_a_state_that_does_not_match_raises() -> None:
    state = fit(grouped()[0], RQKMeans(codebook_size=8)).state()
    for specification in (RQKMeans(num_levels=2, codebook_size=8), RQKMeans(codebook_size=4)):
        with pytest.raises(ArtifactError, match=r"needs codebooks .* has \{'codebooks': \[3, 8, 6\]\}"):
            specification.restore(state)
    with pytest.raises(ArtifactError, match=r"has \{\}"):
        RQKMeans().restore({})


@pytest.mark.parametrize("field", [{"num_levels": 0}, {"codebook_size": 0}, {"iterations": 0}])
def test_fields_out_of_range_raise(field: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=rf"RQKMeans\.{next(iter(field))} must be at least 1, got 0"):
        RQKMeans(**field)  # type: ignore[arg-type]


def trained(levels: int = 3, codes: int = 16) -> tuple[np.ndarray, FittedRQKMeans]:
    vectors = np.random.default_rng(3).standard_normal((600, 8)).astype(np.float32)
    return vectors, fit(vectors, RQKMeans(num_levels=levels, codebook_size=codes))


def test_codes_equal_those_of_faiss() -> None:
    """faiss's residual quantizer with a beam of 1 and the same codebooks."""
    faiss = pytest.importorskip("faiss")
    vectors, fitted = trained()
    theirs = faiss.ResidualQuantizer(8, 3, 4)
    theirs.max_beam_size = 1
    faiss.copy_array_to_vector(fitted.codebooks.numpy().ravel(), theirs.codebooks)
    theirs.is_trained = True
    packed = theirs.compute_codes(vectors)
    codes = np.stack([packed[:, 0] & 15, packed[:, 0] >> 4, packed[:, 1] & 15], 1)  # 4 bits per level
    np.testing.assert_array_equal(fitted.encode(vectors), codes)
    np.testing.assert_allclose(fitted.reconstruct(codes), theirs.decode(packed), atol=1e-5)


def test_codes_equal_those_of_vector_quantize_pytorch() -> None:
    library = pytest.importorskip("vector_quantize_pytorch")
    vectors, fitted = trained()
    theirs = library.ResidualVQ(dim=8, num_quantizers=3, codebook_size=16).eval()
    for layer, codebook in zip(theirs.layers, fitted.codebooks, strict=True):
        layer._codebook.embed.data.copy_(codebook[None])
        layer._codebook.initted.data.fill_(True)
    with torch.no_grad():
        quantized, codes, _ = theirs(torch.from_numpy(vectors)[None])
    np.testing.assert_array_equal(fitted.encode(vectors), codes[0].numpy())
    np.testing.assert_allclose(fitted.reconstruct(fitted.encode(vectors)), quantized[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("count", [1, 7])
def test_chunks_do_not_change_the_result(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, fitted = trained()
    whole = (
        fitted.encode(vectors),
        fitted.reconstruct(fitted.encode(vectors)),
        fitted.last_level_costs(vectors, fitted.encode(vectors)),
    )
    for module in ("residual_quantization", "rqkmeans"):
        monkeypatch.setattr(f"genrec.tokenizer.{module}.ROWS", count)
    np.testing.assert_array_equal(fitted.encode(vectors), whole[0])
    np.testing.assert_array_equal(fitted.reconstruct(whole[0]), whole[1])
    np.testing.assert_allclose(fitted.last_level_costs(vectors, whole[0]), whole[2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fit(vectors, RQKMeans(codebook_size=16)).codebooks, fitted.codebooks)


def test_codes_of_equals_quantize() -> None:
    vectors, fitted = trained()
    points = torch.from_numpy(vectors)
    prices = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    for each in (None, prices):
        assert torch.equal(codes_of(points, fitted.codebooks, each), quantize(points, fitted.codebooks, each)[0])
    np.testing.assert_array_equal(points.numpy(), vectors)  # not modified in place


@pytest.mark.parametrize("levels", [1, 3])
def test_last_level_costs_are_reconstruction_errors(levels: int) -> None:
    vectors, fitted = trained(levels)
    codes = fitted.encode(vectors)
    costs = fitted.last_level_costs(vectors, codes)
    assert (costs.shape, costs.dtype) == ((600, 16), np.float32)
    for code in range(16):
        other = codes.copy()
        other[:, -1] = code
        np.testing.assert_allclose(costs[:, code], ((vectors - fitted.reconstruct(other)) ** 2).sum(1), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(costs.argmin(1), codes[:, -1])


def test_faiss_has_the_same_error() -> None:
    pytest.importorskip("faiss")
    vectors, ours = trained()
    theirs, again = (fit(vectors, RQKMeans(codebook_size=16, engine="faiss")) for _ in range(2))
    assert torch.equal(theirs.codebooks, again.codebooks)
    errors = [float(((each.reconstruct(each.encode(vectors)) - vectors) ** 2).sum()) for each in (ours, theirs)]
    assert errors[1] == pytest.approx(errors[0], rel=0.03)


def test_balanced_cells_on_every_level_and_for_new_items() -> None:
    source = np.random.default_rng(2)
    vectors = (source.standard_normal((3000, 6)) * source.exponential(1, (3000, 1))).astype(np.float32)
    specification = RQKMeans(codebook_size=20, balanced=True)
    fitted = fit(vectors, specification)
    plain, even = (np.stack([np.bincount(level, minlength=20) for level in each.encode(vectors).T]) / 150 for each in (
        fit(vectors, RQKMeans(codebook_size=20)), fitted))  # fmt: skip
    assert plain.max() > 2
    assert even.max() < 1.08
    assert even.min() > 0.92
    later = (source.standard_normal((3000, 6)) * source.exponential(1, (3000, 1))).astype(np.float32)
    assert max(np.bincount(level).max() for level in fitted.encode(later).T) < 1.4 * 150  # sampling alone gives 1.25 times the mean
    restored = specification.restore({name: array.copy() for name, array in fitted.state().items()})
    np.testing.assert_array_equal(restored.encode(later), fitted.encode(later))
    with pytest.raises(ArtifactError, match=r"balanced=False\) needs no prices"):
        RQKMeans(codebook_size=20).restore(fitted.state())
    with pytest.raises(ArtifactError, match=r"balanced=True\) needs prices \[3, 20\]"):
        specification.restore({"codebooks": fitted.codebooks.numpy()})


@pytest.mark.parametrize("balanced", [False, True])
def test_one_item_one_dimension_and_equal_vectors(balanced: bool) -> None:
    specification = RQKMeans(num_levels=2, codebook_size=4, shrink=True, balanced=balanced)
    for vectors in (np.ones((1, 3)), np.arange(9.0)[:, None], np.full((7, 2), 3.0)):
        fitted = fit(vectors.astype(np.float32), specification)
        codes = fitted.encode(vectors.astype(np.float32))
        assert codes.shape == (len(vectors), 2)
        assert np.isfinite(fitted.reconstruct(codes)).all()
    assert len({tuple(row) for row in codes.tolist()}) == 1  # equal vectors have equal codes
    np.testing.assert_allclose(fitted.reconstruct(codes), 3, atol=1e-6)


def test_vectors_are_neither_copied_nor_modified() -> None:
    vectors, _ = trained()
    original = vectors.copy()
    assert as_points(vectors).data_ptr() == vectors.ctypes.data
    vectors.flags.writeable = False
    fit(vectors, RQKMeans(codebook_size=16, balanced=True)).encode(vectors)  # the array is read-only
    np.testing.assert_array_equal(vectors, original)
    assert as_points(vectors[:, ::2].astype(np.float64)).dtype == torch.float32


def test_unknown_engines_raise() -> None:
    with pytest.raises(UsageError, match=r"engine must be 'torch' or 'faiss', got 'numpy'"):
        RQKMeans(engine="numpy")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"balanced needs engine='torch'"):
        RQKMeans(engine="faiss", balanced=True)
