"""Vectors from interactions, and encoders side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genrec.embeddings import Collaborative, Concatenated
from genrec.embeddings.collaborative import normalized_matrix
from genrec.errors import InputError, UsageError
from genrec.store import describe, hash_of
from genrec.types import ItemEncoder


def items(count: int) -> pd.DataFrame:
    return pd.DataFrame({"item": [str(place) for place in range(count)], "text": ""})


def interactions(*pairs: tuple[int, int]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["user", "item"])


@dataclass(frozen=True)
class Constant:
    """A custom encoder."""

    rows: tuple[tuple[float, ...], ...]

    def encode(self, items: pd.DataFrame, interactions: pd.DataFrame) -> np.ndarray:
        return np.array(self.rows, dtype=np.float32)


def test_normalized_matrix_by_hand() -> None:
    """User 7 has items 1 and 2 (1 twice), user 9 has item 2: degrees 2, 1 of the users and 1, 2, 0 of the items."""
    matrix = normalized_matrix(interactions((7, 1), (7, 2), (9, 2), (7, 1)), 3).toarray()
    np.testing.assert_allclose(matrix, [[1 / math.sqrt(2), 0], [1 / 2, 1 / math.sqrt(2)], [0, 0]])


def test_items_of_the_same_users_are_near() -> None:
    """Two groups of users without a common item: cosines are 1 within a group and 0 across, for any popularity."""
    pairs = [(user, item) for user in range(6) for item in (1, 2, 3)] + [(user, item) for user in (6, 7) for item in (4, 5)]
    vectors = Collaborative(dim=2).encode(items(5), interactions(*pairs))
    assert vectors.dtype == np.float32
    same = np.array([[1, 1, 1, 0, 0]] * 3 + [[0, 0, 0, 1, 1]] * 2)
    np.testing.assert_allclose(vectors @ vectors.T, same, atol=1e-6)


def test_items_without_interactions_get_the_mean() -> None:
    with pytest.warns(UserWarning, match="1 of 3 items is without training interactions"):
        vectors = Collaborative(dim=2).encode(items(3), interactions((1, 1), (2, 2), (3, 1)))
    np.testing.assert_allclose(vectors[2], (vectors[0] + vectors[1]) / math.sqrt(2), atol=1e-6)


def test_same_seed_same_vectors() -> None:
    generator = np.random.default_rng(0)
    table = interactions(*zip(generator.integers(0, 50, 600), generator.integers(1, 41, 600), strict=True))
    first, second = (Collaborative(dim=8).encode(items(40), table) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    renamed = table.assign(user="u" + table["user"].astype(str))
    np.testing.assert_allclose(Collaborative(dim=8).encode(items(40), renamed), first, atol=1e-6)


@pytest.mark.parametrize("item", [0, 4])
def test_items_outside_the_catalog_are_an_error(item: int) -> None:
    with pytest.raises(InputError, match=r"items 1\.\.3"):
        Collaborative().encode(items(3), interactions((1, 1), (1, item)))


def test_no_interactions_are_an_error() -> None:
    with pytest.raises(InputError, match="got none"):
        Collaborative().encode(items(3), interactions())


@pytest.mark.parametrize("field", [{"dim": 0}, {"seed": -1}])
def test_fields_out_of_range_are_an_error(field: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=rf"Collaborative\.{next(iter(field))} must"):
        Collaborative(**field)


def test_concatenated_blocks_by_hand() -> None:
    """(3, 4) has length 5: with weight 2, (1.2, 1.6); a zero block stays zero."""
    both = Concatenated((Constant(((3, 4), (0, 0))), Constant(((-7,), (2,)))), weights=(2.0, 0.5))
    assert isinstance(both, ItemEncoder)
    vectors = both.encode(items(2), interactions())
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [[1.2, 1.6, -0.5], [0, 0, 0.5]], rtol=1e-6)


def test_invalid_fields_of_concatenated_are_an_error() -> None:
    one = Constant(((1.0,),))
    with pytest.raises(UsageError, match="1 encoders and 2 weights"):
        Concatenated((one,), (1.0, 1.0))
    with pytest.raises(UsageError, match="0 encoders"):
        Concatenated((), ())
    for weight in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match=r"weights\[0\] must be above 0"):
            Concatenated((one,), (weight,))
    with pytest.raises(UsageError, match=r"encoders\[1\].*got 3"):
        Concatenated((one, 3), (1.0, 1.0))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"Constant must return vectors \[3, D\], got shape \(1, 1\)"):
        Concatenated((one,), (1.0,)).encode(items(3), interactions())


def test_concatenated_accepts_lists_and_has_equal_default_weights() -> None:
    encoders = (Constant(((3, 4), (1, 0))), Constant(((-7,), (2,))))
    plain = Concatenated(list(encoders))  # type: ignore[arg-type]
    assert plain == Concatenated(encoders, weights=[1, 1])  # type: ignore[arg-type]
    assert hash(plain)
    assert hash_of(describe(plain, Path())) == hash_of(describe(Concatenated(encoders, (1.0, 1.0)), Path()))
    np.testing.assert_allclose(plain.encode(items(2), interactions()), [[0.6, 0.8, -1], [1, 0, 1]], rtol=1e-6)


@pytest.mark.parametrize("encoders", [["TfidfSvd"], [Collaborative], Collaborative()])
def test_concatenated_needs_instances_of_encoders(encoders: object) -> None:
    """str and the class of an encoder also have `encode`."""
    with pytest.raises(UsageError, match=r"Concatenated\.encoders"):
        Concatenated(encoders)  # type: ignore[arg-type]


@pytest.mark.parametrize("dim", [2.5, True, "a"])
def test_dim_is_a_whole_number(dim: object) -> None:
    with pytest.raises(UsageError, match=r"Collaborative\.dim must be a whole number"):
        Collaborative(dim=dim)  # type: ignore[arg-type]
