"""Stage 3: residual quantization. In: points float32 [N, D] and codebooks float32 [L, C, D]. Out: codes int64 [N, L], and back.

Source: Lee et al. 2022 (2203.01941), section 3.1: r_0 = z;  k_l = argmin_c |r_{l-1} - e_l(c)|^2;  r_l = r_{l-1} - e_l(k_l).
What the codes stand for is the sum over l of e_l(k_l).
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
LARGEST = 1e12  # of a vector's entries
ROWS = 65536  # points whose entries are looked up at once


def fit_codebooks(points: Tensor, levels: int, codes: int, iterations: int, generator: Generator, fit: FitCenters = kmeans) -> Tensor:
    """Codebooks float32 [L, C, D]: level by level, the centers of a k-means of what the levels before have left over."""
    codebooks, residuals = [], points.clone()
    for level in track(range(levels), "codebooks"):
        codebooks.append(fit(residuals, codes, iterations, generator))
        if level + 1 < levels:
            subtract_entries(residuals, nearest(residuals, codebooks[-1]), codebooks[-1])
    return torch.stack(codebooks)


def subtract_entries(residuals: Tensor, codes: Tensor, codebook: Tensor) -> None:
    """r_i -= e(k_i), in place and in parts, since a copy of many points is large."""
    for part, code in zip(torch.split(residuals, ROWS), torch.split(codes, ROWS), strict=True):
        part.sub_(codebook[code])


def quantize(points: Tensor, codebooks: Tensor, prices: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Codes int64 [N, L], and residuals float32 [L, N, D]: what each level had to approximate. Prices: float32 [L, C]."""
    codes, residuals = [], [points]
    for level, codebook in enumerate(codebooks):
        codes.append(nearest(residuals[-1], codebook, None if prices is None else prices[level]))
        residuals.append(residuals[-1] - codebook[codes[-1]])
    return torch.stack(codes, 1), torch.stack(residuals[:-1])


def codes_of(points: Tensor, codebooks: Tensor, prices: Tensor | None = None) -> Tensor:
    """The codes that `quantize` gives, int64 [N, L], in parts and without keeping the residuals of many points."""
    parts = []
    for part in torch.split(points, ROWS):
        residuals, codes = part.clone(), []
        for level, codebook in enumerate(codebooks):
            codes.append(nearest(residuals, codebook, None if prices is None else prices[level]))
            residuals -= codebook[codes[-1]]
        parts.append(torch.stack(codes, 1))
    return torch.cat(parts)


def chosen_entries(codes: Tensor, codebooks: Tensor) -> Tensor:
    """The codebooks' entries e_l(k_l), float32 [L, N, D]; their sum over levels is what the codes stand for.

    By `embedding`, whose gradient is the same in every run; that of indexing adds up in the order in which threads come.
    """
    return torch.stack([functional.embedding(code, codebook) for codebook, code in zip(codebooks, codes.T, strict=True)])


def last_level_costs(points: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """|r_L - e_L(c)|^2 float32 [N, C], r_L being what the codes int64 [N, L] before the last have left over of the points."""
    left = points - chosen_entries(codes[:, :-1], codebooks[:-1]).sum(0) if len(codebooks) > 1 else points
    return squared_distances(left, codebooks[-1])


def codebook_size(items: int, codes: int, shrink: bool) -> int:
    """`codes`, or one a item where there are fewer items and `shrink` allows it (fault S2)."""
    if items < codes and not shrink:
        raise InputError(
            f"{items} items cannot fill codebooks of {codes} codes: ask for at most {items} codes, or for a smaller codebook where "
            "there are fewer items (shrink=True)"
        )
    return min(items, codes)


def as_points(vectors: ndarray, width: int | None = None) -> Tensor:
    """Vectors as a tensor float32 [N, D]; refuses another shape or width, and NaN and infinite ones (fault S1).

    Nothing is copied where they are float32 in rows: the tensor is to be read only.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or 0 in vectors.shape or (width is not None and vectors.shape[1] != width):
        raise InputError(f"a quantizer needs vectors [N, {width or 'D'}], got shape {list(vectors.shape)}")
    wrong = ~np.isfinite(vectors).all(1)
    if wrong.any():
        raise InputError(f"{wrong.sum()} of {len(vectors)} vectors are not finite, the first in row {wrong.argmax()}")
    if (size := max(float(vectors.max()), -float(vectors.min()))) > LARGEST:
        raise InputError(
            f"vectors have entries of up to {size:.3g}, whose squares float32 cannot add up: scale them to below {LARGEST:.0e}"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)  # nor is it written
        return torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32).reshape(vectors.shape))


def as_codes(codes: ndarray, levels: int, size: int) -> Tensor:
    """Codes as a tensor int64 [N, L]; refuses another number of levels, and codes outside 0..size-1."""
    if codes.ndim != 2 or codes.shape[1] != levels:
        raise InputError(f"this quantizer has codes [N, {levels}], got shape {list(codes.shape)}")
    if codes.size and (codes.min() < 0 or codes.max() >= size):
        raise InputError(f"this quantizer's codes lie in 0..{size - 1}, got {codes.min()}..{codes.max()}")
    return torch.tensor(np.asarray(codes, dtype=np.int64))


def check_at_least(owner: object, least: int, *names: str) -> None:
    """Refuse fields of a specification that are no whole numbers, or smaller than `least`."""
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise UsageError(f"{type(owner).__name__}.{name} must be a whole number, got {value!r}")
        if value < least:
            raise UsageError(f"{type(owner).__name__}.{name} must be at least {least}, got {value}")
