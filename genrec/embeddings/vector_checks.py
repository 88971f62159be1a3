"""Checks of item vectors before they are stored (fault S1), and of the texts and training interactions that encoders receive."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from genrec.embeddings.id_files import preview
from genrec.errors import InputError, counted
from genrec.types import NO_TEXT

if TYPE_CHECKING:
    from pandas import DataFrame

SMALLEST, LARGEST = 1e-12, 1e12  # range of the largest absolute entry of a vector
_LETTER = re.compile(r"[^\W\d_]")
NEAR = 1e-6  # relative difference of two vectors up to which they count as nearly equal
BLOCK = 1 << 14  # rows compared at once


def check_vectors(vectors: ndarray, item_ids: Sequence[str]) -> None:
    """Raise InputError for a wrong shape and for NaN, infinite and all-zero vectors; warn of equal and of nearly equal ones.

    `vectors` is float [N, D], and `item_ids[i]` is the id of row i.
    """
    if vectors.ndim != 2 or len(vectors) != len(item_ids) or vectors.shape[1] == 0 or vectors.dtype.kind != "f":
        raise InputError(f"item vectors must be float [{len(item_ids)}, D], got {vectors.dtype} {list(vectors.shape)}")
    for fault, rows in (
        ("NaN", np.isnan(vectors).any(1)),
        ("infinite", np.isinf(vectors).any(1)),
        ("all-zero", (vectors == 0).all(1)),
        (f"of a size outside {SMALLEST:.0e}..{LARGEST:.0e}, where float32 squares are not exact,", ~_squarable(vectors)),
    ):
        if rows.any():
            raise InputError(
                f"{rows.sum()} of {len(vectors)} item vectors are {fault}: items {_preview(rows, item_ids)}; "
                "an item encoder must return a finite, non-zero vector of a usual scale for every item"
            )
    _warn_of_equal(vectors, item_ids)
    _warn_of_nearly_equal(vectors, item_ids)


def _squarable(vectors: ndarray) -> ndarray:
    """Return where float32 can square and sum up the entries of a row, bool [N]."""
    largest = np.abs(vectors).max(1)
    squarable: ndarray = (largest >= SMALLEST) & (largest <= LARGEST)
    return squarable


def _warn_of_equal(vectors: ndarray, item_ids: Sequence[str]) -> None:
    rows = np.ascontiguousarray(vectors + 0.0)  # -0.0 becomes 0.0, because bytes are compared
    keys = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
    equal = counts[group] > 1
    if equal.any():
        groups = counted(int((counts > 1).sum()), "group")
        warnings.warn(
            f"{equal.sum()} of {len(vectors)} items share their vector with another item, in {groups}; the largest has "
            f"{counts.max()} items: {_preview(group == counts.argmax(), item_ids)}. No quantizer can distinguish them; add "
            "columns to the text, or vectors of interactions: Concatenated((..., Item2Vec())), or Collaborative() in its place",
            stacklevel=3,
        )


def _warn_of_nearly_equal(vectors: ndarray, item_ids: Sequence[str]) -> None:
    """Warn of vectors that differ by rounding only, such as those of one text encoded in two batches.

    Rows are sorted by a random projection and compared with the next row, so that the count is a lower bound.
    """
    direction = np.random.default_rng(0).normal(size=(vectors.shape[1], 1)).astype(vectors.dtype)
    order = (vectors @ direction)[:, 0].argsort(kind="stable")
    near = np.zeros(len(vectors), bool)
    for begin in range(0, len(order) - 1, BLOCK):
        rows = vectors[order[begin : begin + BLOCK + 1]]
        difference, size = np.abs(rows[1:] - rows[:-1]).max(1), np.abs(rows[1:]).max(1)
        pairs = begin + np.flatnonzero((difference > 0) & (difference <= NEAR * size))
        near[order[pairs]] = near[order[pairs + 1]] = True
    if near.any():
        warnings.warn(
            f"at least {near.sum()} of {len(vectors)} items have a vector within {NEAR:g} of another item's, relative to its size: "
            f"{_preview(near, item_ids)}. No quantizer is likely to distinguish them",
            stacklevel=3,
        )


def _preview(rows: ndarray, item_ids: Sequence[str]) -> str:
    """Return the first few ids of the items marked in bool [N]."""
    return preview([item_ids[row] for row in rows.nonzero()[0].tolist()])


def has_text(items: DataFrame) -> ndarray:
    """Return which items have a text, bool [N]: one that is neither empty nor the catalog's placeholder."""
    if "text" not in items:
        return np.zeros(len(items), dtype=bool)
    text = items["text"].fillna("").astype(str)
    found: ndarray = ((text.str.strip() != "") & (text != NO_TEXT)).to_numpy(dtype=bool)
    return found


def has_word(items: DataFrame) -> ndarray:
    """Return which items have a text with a word, bool [N]: one with a letter, unlike a price or a number alone."""
    if "text" not in items:
        return np.zeros(len(items), dtype=bool)
    letter = items["text"].fillna("").astype(str).str.contains(_LETTER)
    found: ndarray = has_text(items) & letter.to_numpy(dtype=bool)
    return found


def training_items(interactions: DataFrame, num_items: int, encoder: str) -> ndarray:
    """Return the item of every training interaction, int64 [E], 1..N. `encoder` is the name in messages."""
    if interactions.empty:
        raise InputError(f"{encoder} needs training interactions, got none")
    item: ndarray = interactions["item"].to_numpy(np.int64)
    if item.min() < 1 or item.max() > num_items:
        raise InputError(f"training interactions must have items 1..{num_items}, got {item.min()}..{item.max()}")
    return item
