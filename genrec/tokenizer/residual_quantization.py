"""Residual quantization of points float32 [N, D] with codebooks float32 [L, C, D].

Source: Lee et al. 2022 (2203.01941), section 3.1: r_0 = z;  k_l = argmin_c |r_{l-1} - e_l(c)|^2;  r_l = r_{l-1} - e_l(k_l).
The reconstruction of the codes is the sum over l of e_l(k_l).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy import ndarray
from torch import Generator, Tensor
from torch.nn import functional

from genrec.errors import InputError, UsageError
from genrec.progress import track
from genrec.tokenizer.kmeans import kmeans, nearest, squared_distances

FitCenters = Callable[[Tensor, int, int, Generator], Tensor]  # points, count, iterations, generator -> centers float32 [count, D]
LARGEST = 1e12  # largest absolute value of a vector's entries
ROWS = 65536  # points per chunk
ITEMS_PER_CODE = 8  # items per code of an automatic codebook size, at least: fewer give centers of single items
SMALLEST_CODEBOOK, LARGEST_CODEBOOK = 4, 256  # range of automatic codebook sizes; TIGER and its reproductions use 256


def fit_codebooks(points: Tensor, levels: int, size: int, iterations: int, generator: Generator, fit: FitCenters = kmeans) -> Tensor:
    """Fit codebooks float32 [L, C, D] level by level: each is the k-means centers of the residuals of the earlier levels."""
    codebooks, residuals = [], points.clone()
    for level in track(range(levels), "codebooks"):
        codebooks.append(fit(residuals, size, iterations, generator))
        if level + 1 < levels:
            subtract_entries(residuals, nearest(residuals, codebooks[-1]), codebooks[-1])
    return torch.stack(codebooks)


def subtract_entries(residuals: Tensor, codes: Tensor, codebook: Tensor) -> None:
    """Subtract each point's entry in place: r_i -= e(k_i). Works in chunks to save memory."""
    for part, code in zip(torch.split(residuals, ROWS), torch.split(codes, ROWS), strict=True):
        part.sub_(codebook[code])


def quantize(points: Tensor, codebooks: Tensor, prices: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return codes int64 [N, L] and residuals float32 [L, N, D], the input of each level. `prices` is float32 [L, C]."""
    codes, residuals = [], [points]
    for level, codebook in enumerate(codebooks):
        codes.append(nearest(residuals[-1], codebook, None if prices is None else prices[level]))
        residuals.append(residuals[-1] - codebook[codes[-1]])
    return torch.stack(codes, 1), torch.stack(residuals[:-1])


def codes_of(points: Tensor, codebooks: Tensor, prices: Tensor | None = None) -> Tensor:
    """Return the codes of `quantize`, int64 [N, L], in chunks and without keeping the residuals."""
    parts = []
    for part in torch.split(points, ROWS):
        residuals, codes = part.clone(), []
        for level, codebook in enumerate(codebooks):
            codes.append(nearest(residuals, codebook, None if prices is None else prices[level]))
            residuals -= codebook[codes[-1]]
        parts.append(torch.stack(codes, 1))
    return torch.cat(parts)


def chosen_entries(codes: Tensor, codebooks: Tensor) -> Tensor:
    """Return the codebook entries e_l(k_l), float32 [L, N, D]. Their sum over levels is the reconstruction.

    Uses `embedding`, which has a deterministic gradient; the gradient of indexing depends on the order of threads.
    """
    return torch.stack([functional.embedding(code, codebook) for codebook, code in zip(codebooks, codes.T, strict=True)])


def last_level_costs(points: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Return |r_L - e_L(c)|^2, float32 [N, C], where r_L is the residual of the points after all but the last of codes [N, L]."""
    residuals = points - chosen_entries(codes[:, :-1], codebooks[:-1]).sum(0) if len(codebooks) > 1 else points
    return squared_distances(residuals, codebooks[-1])


def automatic_size(items: int) -> int:
    """Return the codebook size that `codebook_size=None` stands for.

    It is the largest power of two that is at most items / 8, but at least 4 and at most 256: 8 for 120 items, 256 from 2,048 items on.
    Fewer than 4 items get a code each.
    """
    power = 1 << max(0, (items // ITEMS_PER_CODE).bit_length() - 1)
    return min(items, max(SMALLEST_CODEBOOK, min(LARGEST_CODEBOOK, power)))


def fitted_size(items: int, codebook_size: int | None, shrink: bool) -> int:
    """Return the codebook size to fit: at most one code per item. Raise `InputError` if it is smaller and `shrink` is False."""
    if codebook_size is None:
        return automatic_size(items)
    if items < codebook_size and not shrink:
        raise InputError(
            f"{items} items cannot fill codebooks of {codebook_size} codes: set codebook_size to at most {items}, leave it at None "
            f"(here {automatic_size(items)} codes), or set shrink=True to reduce it to the number of items"
        )
    return min(items, codebook_size)


def sizes_of(owner: object, num_levels: int, codebook_size: int | None) -> tuple[int, ...]:
    """Return the level sizes of a specification. Raise `UsageError` if the codebook size depends on the number of items."""
    if codebook_size is None:
        raise UsageError(
            f"{type(owner).__name__}.codebook_size is None, so the number of codes depends on the number of items: call "
            "for_items(items) first, or set codebook_size"
        )
    return (codebook_size,) * num_levels


def as_points(vectors: ndarray, width: int | None = None) -> Tensor:
    """Return vectors as a tensor float32 [N, D]. Raise `InputError` for another shape or width, and for non-finite values.

    Contiguous float32 vectors are not copied, so the tensor must not be modified.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or 0 in vectors.shape or (width is not None and vectors.shape[1] != width):
        raise InputError(f"a quantizer needs vectors [N, {width or 'D'}], got shape {list(vectors.shape)}")
    wrong = ~np.isfinite(vectors).all(1)
    if wrong.any():
        raise InputError(f"{wrong.sum()} of {len(vectors)} vectors are non-finite, the first in row {wrong.argmax()}")
    if (size := max(float(vectors.max()), -float(vectors.min()))) > LARGEST:
        raise InputError(
            f"vectors have entries of up to {size:.3g}, too large for sums of squares in float32: scale them to below {LARGEST:.0e}"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)  # the tensor is only read
        return torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32).reshape(vectors.shape))


def as_codes(codes: ndarray, levels: int, size: int) -> Tensor:
    """Return codes as a tensor int64 [N, L]. Raise `InputError` for another number of levels and for codes outside 0..size-1."""
    if codes.ndim != 2 or codes.shape[1] != levels:
        raise InputError(f"this quantizer needs codes [N, {levels}], got shape {list(codes.shape)}")
    if codes.size and (codes.min() < 0 or codes.max() >= size):
        raise InputError(f"this quantizer's codes must lie in 0..{size - 1}, got {codes.min()}..{codes.max()}")
    return torch.tensor(np.asarray(codes, dtype=np.int64))


def check_codebook_size(owner: object, codebook_size: int | None) -> None:
    """Raise `UsageError` unless the codebook size is None or an integer of at least 1."""
    if codebook_size is not None:
        check_at_least(owner, 1, "codebook_size")


def check_at_least(owner: object, least: int, *names: str) -> None:
    """Raise `UsageError` if a field of a specification is not an integer or is below `least`."""
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise UsageError(f"{type(owner).__name__}.{name} must be an integer, got {value!r}")
        if value < least:
            raise UsageError(f"{type(owner).__name__}.{name} must be at least {least}, got {value}")
