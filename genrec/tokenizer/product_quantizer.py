"""`ProductQuantizer`: product quantization, one independent code per subspace.

Sources: Jegou et al. 2011 (product quantization); Ge et al. 2013 (OPQ: a rotation before it). VQ-Rec (Hou et al. 2023, 2210.12316) and
RPG (Hou et al. 2025, 2506.05781) make Semantic IDs in this way. The codes are unordered: an early code is no coarser than a late one.

The rotation is fitted here rather than by faiss. It therefore needs no faiss, the codebook size may be any number (faiss requires
powers of two), and the error is that of faiss within a few per cent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy import ndarray
from torch import Generator, Tensor
from torch.nn import functional

from genrec.errors import ArtifactError, InputError
from genrec.progress import Progress, track
from genrec.tokenizer.kmeans import kmeans, lloyd, nearest, squared_distances
from genrec.tokenizer.residual_quantization import (
    LARGEST_CODEBOOK,
    ROWS,
    as_codes,
    as_points,
    automatic_size,
    check_at_least,
    check_codebook_size,
    fitted_size,
    sizes_of,
)

SAMPLE = 128  # vectors per code used to fit the rotation; the codebooks are fitted to all vectors


@dataclass(frozen=True)
class ProductQuantizer:
    """A product quantizer with `num_levels` subspaces and a codebook per subspace.

    Vectors are padded with zeros to a multiple of `num_levels` dimensions. Vectors with fewer dimensions raise `InputError`.
    """

    num_levels: int = 4  # number of subspaces L, at least 1
    codebook_size: int | None = None  # codes per subspace, at least 1; None: by the number of items, see `automatic_size`
    rotation: bool = True  # rotate the vectors first, so that subspaces have similar variance and little correlation (OPQ)
    rounds: int = 20  # rounds of the rotation's fit, at least 1
    iterations: int = 25  # most k-means iterations per subspace, at least 1
    shrink: bool = False  # with fewer items than codes: reduce the codebook size to the number of items instead of an error

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_levels", "rounds", "iterations")
        check_codebook_size(self, self.codebook_size)

    def level_sizes(self) -> tuple[int, ...]:
        """Return the number of codes of each subspace. A reduced codebook leaves the other codes unused."""
        return sizes_of(self, self.num_levels, self.codebook_size)

    def for_items(self, items: int) -> ProductQuantizer:
        """Return the quantizer with the codebook size that it has for this number of items."""
        return self if self.codebook_size is not None else replace(self, codebook_size=automatic_size(items))

    def fit(self, vectors: ndarray, generator: Generator) -> FittedProductQuantizer:
        """Fit rotation and codebooks to vectors float32 [N, D]."""
        points = as_points(vectors)
        if points.shape[1] < self.num_levels:
            raise InputError(f"vectors of {points.shape[1]} dimensions have no {self.num_levels} subspaces: reduce num_levels")
        size = fitted_size(len(points), self.codebook_size, self.shrink)
        rotation = torch.eye(-(-points.shape[1] // self.num_levels) * self.num_levels)
        if self.rotation:
            rotation = _fit_rotation(points, self.num_levels, size, self.rounds, generator)
        codebooks = [
            kmeans(_rotated(points, rotation, self.num_levels, level), size, self.iterations, generator)
            for level in track(range(self.num_levels), "codebooks")
        ]
        return FittedProductQuantizer(torch.stack(codebooks), rotation[: points.shape[1]])

    def restore(self, state: dict[str, ndarray]) -> FittedProductQuantizer:
        """Restore a fitted quantizer from its stored codebooks and rotation."""
        codebooks, rotation = state.get("codebooks"), state.get("rotation")
        most = LARGEST_CODEBOOK if self.codebook_size is None else self.codebook_size
        valid = codebooks is not None and codebooks.ndim == 3 and len(codebooks) == self.num_levels and codebooks.shape[1] <= most
        if not valid or rotation is None or rotation.ndim != 2 or rotation.shape[1] != codebooks.shape[0] * codebooks.shape[2]:  # type: ignore[union-attr]
            found = {name: list(array.shape) for name, array in state.items()}
            raise ArtifactError(
                f"ProductQuantizer needs codebooks [{self.num_levels}, at most {most}, W] "
                f"and a rotation [D, {self.num_levels} W], the stored state has {found}"
            )
        return FittedProductQuantizer(torch.tensor(codebooks), torch.tensor(rotation))


class FittedProductQuantizer:
    """A `genrec.types.PricedCodes` with codebooks float32 [L, C, W] and a rotation float32 [D, L W] of orthonormal rows."""

    def __init__(self, codebooks: Tensor, rotation: Tensor) -> None:
        self.codebooks, self.rotation = codebooks, rotation

    def encode(self, vectors: ndarray) -> ndarray:
        """Return the code of the nearest entry in each subspace: float32 [N, D] -> int64 [N, L]."""
        parts = torch.split(as_points(vectors, width=len(self.rotation)), ROWS)
        return torch.cat([quantize_subspaces(part @ self.rotation, self.codebooks) for part in parts]).numpy()

    def reconstruct(self, codes: ndarray) -> ndarray:
        """Concatenate the codes' entries and rotate back: int64 [N, L] -> float32 [N, D]."""
        levels, size, _ = self.codebooks.shape
        parts = torch.split(as_codes(codes, levels, size), ROWS)
        return torch.cat([side_by_side(part, self.codebooks) @ self.rotation.T for part in parts]).numpy()

    def last_level_costs(self, vectors: ndarray, codes: ndarray) -> ndarray:
        """Return the squared error over all subspaces for each code of the last subspace, float32 [M, C]."""
        levels, size, width = self.codebooks.shape
        points, known = as_points(vectors, len(self.rotation)), as_codes(codes, levels, size)
        costs = np.empty((len(points), size), dtype=np.float32)
        for begin in range(0, len(points), ROWS):
            rows = slice(begin, begin + ROWS)
            rotated = points[rows] @ self.rotation
            error = (rotated - side_by_side(known[rows], self.codebooks)).square()[:, :-width].sum(1, keepdim=True)
            costs[rows] = (squared_distances(rotated[:, -width:], self.codebooks[-1]) + error).numpy()
        return costs

    def state(self) -> dict[str, ndarray]:
        """Return the codebooks and the rotation."""
        return {"codebooks": self.codebooks.numpy(), "rotation": np.ascontiguousarray(self.rotation.numpy())}


def quantize_subspaces(rotated: Tensor, codebooks: Tensor) -> Tensor:
    """Return the code of the nearest entry in each subspace: rotated vectors float32 [N, L W] -> int64 [N, L]."""
    parts = rotated.chunk(len(codebooks), dim=1)
    return torch.stack([nearest(part.contiguous(), codebook) for part, codebook in zip(parts, codebooks, strict=True)], 1)


def side_by_side(codes: Tensor, codebooks: Tensor) -> Tensor:
    """Concatenate the entries of the codes: int64 [N, L] -> float32 [N, L W]."""
    return torch.cat([codebook[code] for codebook, code in zip(codebooks, codes.T, strict=True)], 1)


def _rotated(points: Tensor, rotation: Tensor, levels: int, level: int) -> Tensor:
    """Return one subspace of the rotated points, float32 [N, W], without storing the other subspaces."""
    columns = rotation[: points.shape[1]].chunk(levels, dim=1)[level]
    return torch.cat([part @ columns for part in torch.split(points, ROWS)])


def _fit_rotation(points: Tensor, levels: int, size: int, rounds: int, generator: Generator) -> Tensor:
    """Return an orthogonal R, float32 [L W, L W], that reduces sum |x R - q(x R)|^2 (Ge et al., section 3.1, started as in 3.2).

    Each round runs one k-means iteration per subspace, then computes the best R for the codes: R = U V' for X' q(X R) = U S V'.
    """
    if len(points) > SAMPLE * size:
        points = points[torch.randperm(len(points), generator=generator)[: SAMPLE * size]]
    points = functional.pad(points, (0, -points.shape[1] % levels))
    rotation = _balanced_principal_axes(points, levels)
    codebooks: list[Tensor] = []
    with Progress("rotation", rounds) as progress:
        for _ in range(rounds):
            parts = (points @ rotation).chunk(levels, dim=1)
            old = codebooks or [kmeans(part, size, 1, generator) for part in parts]
            codebooks = [lloyd(part, codebook, 1) for part, codebook in zip(parts, old, strict=True)]
            entries = [codebook[nearest(part, codebook)] for part, codebook in zip(parts, codebooks, strict=True)]
            left, _, right = torch.linalg.svd(points.T @ torch.cat(entries, 1))
            rotation = left @ right
            progress.advance()
    return rotation


def _balanced_principal_axes(points: Tensor, levels: int) -> Tensor:
    """Assign principal axes, by decreasing variance, to the subspace with room and the smallest product of variances."""
    centered = (points - points.mean(0)).double()
    variances, axes = torch.linalg.eigh(centered.T @ centered)
    logarithms = (variances / variances[-1].clamp(min=1e-300)).clamp(min=1e-12).log()
    room, filled = points.shape[1] // levels, torch.zeros(levels, dtype=torch.float64)
    subspaces: list[list[int]] = [[] for _ in range(levels)]
    for axis in reversed(range(len(variances))):
        free = torch.tensor([len(subspace) < room for subspace in subspaces])
        place = int(torch.where(free, filled, torch.inf).argmin())
        subspaces[place].append(axis)
        filled[place] += logarithms[axis] + 30.0  # positive for every axis, so that empty subspaces are filled first
    ordered: Tensor = axes[:, [axis for subspace in subspaces for axis in subspace]].float()
    return ordered
