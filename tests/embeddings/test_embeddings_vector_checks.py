"""Fault S1: invalid vectors are an error that names items; equal ones are a warning."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from genrec.embeddings import check_vectors
from genrec.errors import InputError

IDS = ["007", "B 1", "nan", "NA"]


def good() -> np.ndarray:
    return np.arange(1, 9, dtype=np.float32).reshape(4, 2)


def test_good_vectors_pass_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_vectors(good(), IDS)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_non_finite_vectors_are_an_error(value: float, word: str) -> None:
    vectors = good()
    vectors[[0, 2], 1] = value
    with pytest.raises(InputError, match=f"2 of 4 item vectors are {word}: items '007', 'nan';") as error:
        check_vectors(vectors, IDS)
    assert error.value.exit_code == 3


def test_all_zero_vectors_are_an_error() -> None:
    vectors = good()
    vectors[3] = 0
    with pytest.raises(InputError, match="1 of 4 item vectors are all-zero: items 'NA'"):
        check_vectors(vectors, IDS)


def test_a_message_names_five_items_and_counts_the_others() -> None:
    with pytest.raises(InputError, match=r"9 of 9 .*: items '0', '1', '2', '3', '4' and 4 more;"):
        check_vectors(np.zeros((9, 2), dtype=np.float32), [str(place) for place in range(9)])


@pytest.mark.parametrize("vectors", [np.ones((3, 2)), np.ones(4), np.ones((4, 0)), np.ones((4, 2), dtype=np.int64)])
def test_a_wrong_shape_or_type_is_an_error(vectors: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"must be float \[4, D\], got"):
        check_vectors(vectors, IDS)


def test_equal_vectors_are_a_warning_with_counts() -> None:
    """Rows 0 and 2 are equal, because -0.0 is 0.0; rows 1, 3 and 4 are equal too."""
    vectors = np.array([[0.0, 1], [2, 3], [-0.0, 1], [2, 3], [2, 3], [2, 4]], dtype=np.float32)
    with pytest.warns(
        UserWarning, match=r"5 of 6 items share .* in 2 groups; the largest has 3 items: 'b', 'd', 'e'\. No quantizer .* add"
    ):
        check_vectors(vectors, list("abcdef"))
    with pytest.warns(UserWarning, match=r"3 of 4 items share .* in 1 group; the largest has 3 items"):
        check_vectors(vectors[[1, 3, 4, 5]], IDS)


def test_one_group_of_equal_vectors_is_in_singular() -> None:
    with pytest.warns(UserWarning, match=r"2 of 3 items share .* in 1 group; the largest"):
        check_vectors(np.array([[1.0, 2], [1, 2], [2, 1]], dtype=np.float32), list("abc"))


def test_nearly_equal_vectors_are_a_warning_with_a_count() -> None:
    """Rows 10 and 11 of 50 differ from rows 0 and 1 by 5e-7 of their largest entry; row 12 differs from row 2 by 1e-4."""
    vectors = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    vectors[10:13] = vectors[:3] + np.array([[5e-7], [5e-7], [1e-4]]) * np.abs(vectors[:3]).max(1, keepdims=True)
    with pytest.warns(
        UserWarning, match=r"at least 4 of 50 items have a vector within 1e-06 .*: '0', '1', '10', '11'\. No"
    ) as warnings_:
        check_vectors(vectors, [str(place) for place in range(50)])
    assert len(warnings_) == 1  # no warning of equal vectors


def test_near_vectors_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrec.embeddings.vector_checks.BLOCK", 1)
    vectors = np.array([[1.0, 1], [2, 2], [1.0000005, 1], [2.0000005, 2]])
    with pytest.warns(UserWarning, match="at least 4 of 4"):
        check_vectors(vectors, IDS)


@pytest.mark.parametrize("size", [1e20, 1e-25])
def test_sizes_that_float32_cannot_square_are_an_error(size: float) -> None:
    vectors = np.ones((3, 2), dtype=np.float32)
    vectors[1] *= np.float32(size)
    with pytest.raises(InputError, match=r"1 of 3 item vectors are of a size outside 1e-12\.\.1e\+12.*'b'"):
        check_vectors(vectors, ["a", "b", "c"])
