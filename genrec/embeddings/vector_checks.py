"""Stage 2: what the encoders of interactions are given, and what every encoder's answer must satisfy before it is stored (fault S1).

In: vectors float32 [N, D] and the items' own ids. Out: nothing, an InputError that names items, or a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from genrec.embeddings.id_files import some
from genrec.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

SMALLEST, LARGEST = 1e-12, 1e12  # of a row's largest entry
NEAR = 1e-6  # of a vector's largest entry: a difference up to this is rounding
BLOCK = 1 << 14  # rows compared at one time


def check_vectors(vectors: ndarray, item_ids: Sequence[str]) -> None:
    """Refuse vectors of a wrong shape, and NaN, infinite and all-zero ones; warn of equal and of nearly equal ones.

    `item_ids[i]` belongs to row i.
    """
    if vectors.ndim != 2 or len(vectors) != len(item_ids) or vectors.shape[1] == 0 or vectors.dtype.kind != "f":
        raise InputError(f"item vectors must be float [{len(item_ids)}, D], got {vectors.dtype} {list(vectors.shape)}")
    for fault, wrong in (
        ("NaN", np.isnan(vectors).any(1)),
        ("infinite", np.isinf(vectors).any(1)),
        ("all-zero", (vectors == 0).all(1)),
        (f"of a size outside {SMALLEST:.0e}..{LARGEST:.0e}, whose squares are not exact,", ~_squarable(vectors)),
    ):
        if wrong.any():
            raise InputError(
                f"{wrong.sum()} of {len(vectors)} item vectors are {fault}: items {_named(wrong, item_ids)}; "
                "an item encoder must give every item a finite vector that is not zero, of a usual scale"
            )
    _warn_of_equal(vectors, item_ids)
    _warn_of_near(vectors, item_ids)


def _squarable(vectors: ndarray) -> ndarray:
    """Bool [N]: whether a row's largest entry is of a size that float32 can square and add up."""
    largest = np.abs(vectors).max(1)
    squarable: ndarray = (largest >= SMALLEST) & (largest <= LARGEST)
    return squarable


def _warn_of_equal(vectors: ndarray, item_ids: Sequence[str]) -> None:
    rows = np.ascontiguousarray(vectors + 0.0)  # -0.0 equals 0.0, their bytes do not
    keys = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
    equal = counts[group] > 1
    if equal.any():
        warnings.warn(
            f"{equal.sum()} of {len(vectors)} items share their vector with another item, in {(counts > 1).sum()} groups; the largest "
            f"has {counts.max()} items: {_named(group == counts.argmax(), item_ids)}. No quantizer can tell them apart",
            stacklevel=3,
        )


def _warn_of_near(vectors: ndarray, item_ids: Sequence[str]) -> None:
    """Count items whose vector is another's but for rounding, as from one text encoded in two batches.

    Rows are compared with the next one in the order of a projection, where near rows are side by side but for chance: the count is
    what was found, not all there may be.
    """
    direction = np.random.default_rng(0).normal(size=(vectors.shape[1], 1)).astype(vectors.dtype)
    order = (vectors @ direction)[:, 0].argsort(kind="stable")
    near = np.zeros(len(vectors), bool)
    for begin in range(0, len(order) - 1, BLOCK):
        rows = vectors[order[begin : begin + BLOCK + 1]]
        apart, size = np.abs(rows[1:] - rows[:-1]).max(1), np.abs(rows[1:]).max(1)
        found = begin + np.flatnonzero((apart > 0) & (apart <= NEAR * size))
        near[order[found]] = near[order[found + 1]] = True
    if near.any():
        warnings.warn(
            f"at least {near.sum()} of {len(vectors)} items have a vector within {NEAR:g} of another's, relative to it: "
            f"{_named(near, item_ids)}. No quantizer is likely to tell them apart",
            stacklevel=3,
        )


def _named(rows: ndarray, item_ids: Sequence[str]) -> str:
    """The first few of the items marked in bool [N]."""
    return some([item_ids[row] for row in rows.nonzero()[0].tolist()])


def training_items(interactions: DataFrame, item_count: int, encoder: str) -> ndarray:
    """The item of every training interaction, int64 [E], 1..N; `encoder` is who needs them."""
    if interactions.empty:
        raise InputError(f"{encoder} needs training interactions, got none")
    item: ndarray = interactions["item"].to_numpy(np.int64)
    if item.min() < 1 or item.max() > item_count:
        raise InputError(f"training interactions must name items 1..{item_count}, got {item.min()}..{item.max()}")
    return item
