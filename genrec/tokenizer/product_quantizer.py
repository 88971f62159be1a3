"""Stage 3: product quantization, codes in parallel. In: float32 [N, D]. Out: codes int64 [N, L], one a subspace.

Sources: Jegou et al. 2011 (product quantization); Ge et al. 2013 (OPQ: a rotation before it). VQ-Rec (Hou et al. 2023, 2210.12316) and
RPG (Hou et al. 2025, 2506.05781) make their Semantic IDs so. The codes have no order: a prefix says nothing more than its codes.

The rotation is fitted here rather than by faiss: it then is there where faiss is not, any number of codes works (faiss wants powers of
two), and the error is the same within a few per cent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray
from torch import Generator, Tensor
from torch.nn import functional

from genrec.errors import ArtifactError, InputError
from genrec.progress import Progress, track
from genrec.tokenizer.kmeans import kmeans, lloyd, nearest, squared_distances
from genrec.tokenizer.residual_quantization import ROWS, as_codes, as_points, check_at_least, codebook_size

SAMPLE = 128  # vectors per code on which the rotation is found; the codebooks are then fitted to all


@dataclass(frozen=True)
class ProductQuantizer:
    """`levels` subspaces, each with a codebook of `codes` codes.

    Vectors whose width is no multiple of `levels` are padded with zeros; those with fewer dimensions than levels are refused.
    """

    num_levels: int = 4  # L, the subspaces, at least 1
    codebook_size: int = 256  # codes of each subspace, at least 1
    rotation: bool = True  # whether vectors are rotated first, so that the subspaces carry alike and are little correlated (OPQ)
    rounds: int = 20  # of the rotation's fit, at least 1
    iterations: int = 25  # most iterations of each subspace's k-means, at least 1
    shrink: bool = False  # whether fewer items than codes make codebooks of one code an item, instead of an error

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_levels", "codebook_size", "rounds", "iterations")

    def level_sizes(self) -> tuple[int, ...]:
        """Number of codes of each subspace; a codebook that shrank leaves the rest unused."""
        return (self.codebook_size,) * self.num_levels

    def fit(self, vectors: ndarray, generator: Generator) -> FittedProductQuantizer:
        """Train on float32 [N, D]."""
        points = as_points(vectors)
        if points.shape[1] < self.num_levels:
            raise InputError(f"vectors of {points.shape[1]} dimensions have no {self.num_levels} subspaces: ask for fewer levels")
        codes = codebook_size(len(points), self.codebook_size, self.shrink)
        rotation = torch.eye(-(-points.shape[1] // self.num_levels) * self.num_levels)
        if self.rotation:
            rotation = _fit_rotation(points, self.num_levels, codes, self.rounds, generator)
        codebooks = [
            kmeans(_rotated(points, rotation, self.num_levels, level), codes, self.iterations, generator)
            for level in track(range(self.num_levels), "codebooks")
        ]
        return FittedProductQuantizer(torch.stack(codebooks), rotation[: points.shape[1]])

    def restore(self, state: dict[str, ndarray]) -> FittedProductQuantizer:
        """The fitted quantizer again, from its stored codebooks and rotation."""
        codebooks, rotation = state.get("codebooks"), state.get("rotation")
        fits = (
            codebooks is not None
            and codebooks.ndim == 3
            and len(codebooks) == self.num_levels
            and codebooks.shape[1] <= self.codebook_size
        )
        if not fits or rotation is None or rotation.ndim != 2 or rotation.shape[1] != codebooks.shape[0] * codebooks.shape[2]:  # type: ignore[union-attr]
            found = {name: list(array.shape) for name, array in state.items()}
            raise ArtifactError(
                f"ProductQuantizer needs codebooks [{self.num_levels}, at most {self.codebook_size}, W] and a rotation [D, {self.num_levels} W], "
                f"the stored state has {found}"
            )
        return FittedProductQuantizer(torch.tensor(codebooks), torch.tensor(rotation))


class FittedProductQuantizer:
    """A `genrec.types.PricedCodes`: codebooks float32 [L, C, W], rotation float32 [D, L W] with orthonormal rows."""

    def __init__(self, codebooks: Tensor, rotation: Tensor) -> None:
        self.codebooks, self.rotation = codebooks, rotation

    def encode(self, vectors: ndarray) -> ndarray:
        """float32 [N, D] -> int64 [N, L]."""
        parts = torch.split(as_points(vectors, width=len(self.rotation)), ROWS)
        return torch.cat([quantize_subspaces(part @ self.rotation, self.codebooks) for part in parts]).numpy()

    def reconstruct(self, codes: ndarray) -> ndarray:
        """int64 [N, L] -> float32 [N, D], the codes' entries side by side, rotated back."""
        levels, size, _ = self.codebooks.shape
        parts = torch.split(as_codes(codes, levels, size), ROWS)
        return torch.cat([side_by_side(part, self.codebooks) @ self.rotation.T for part in parts]).numpy()

    def last_level_costs(self, vectors: ndarray, codes: ndarray) -> ndarray:
        """The squared error of all subspaces, float32 [M, C], with each code of the last one in turn."""
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
        """The codebooks and the rotation."""
        return {"codebooks": self.codebooks.numpy(), "rotation": np.ascontiguousarray(self.rotation.numpy())}


def quantize_subspaces(rotated: Tensor, codebooks: Tensor) -> Tensor:
    """Rotated vectors float32 [N, L W] -> in each subspace the code of the nearest entry, int64 [N, L]."""
    parts = rotated.chunk(len(codebooks), dim=1)
    return torch.stack([nearest(part.contiguous(), codebook) for part, codebook in zip(parts, codebooks, strict=True)], 1)


def side_by_side(codes: Tensor, codebooks: Tensor) -> Tensor:
    """Codes int64 [N, L] -> their entries, float32 [N, L W]."""
    return torch.cat([codebook[code] for codebook, code in zip(codebooks, codes.T, strict=True)], 1)


def _rotated(points: Tensor, rotation: Tensor, levels: int, level: int) -> Tensor:
    """One subspace of the rotated points, float32 [N, W]; never all of them at once."""
    columns = rotation[: points.shape[1]].chunk(levels, dim=1)[level]
    return torch.cat([part @ columns for part in torch.split(points, ROWS)])


def _fit_rotation(points: Tensor, levels: int, codes: int, rounds: int, generator: Generator) -> Tensor:
    """An orthogonal R, float32 [L W, L W], that lowers sum |x R - q(x R)|^2 (Ge et al., section 3.1, from the start of 3.2).

    Rounds alternate one k-means iteration in every subspace with the best R for the codes: of X' q(X R) = U S V', R = U V'.
    """
    if len(points) > SAMPLE * codes:
        points = points[torch.randperm(len(points), generator=generator)[: SAMPLE * codes]]
    points = functional.pad(points, (0, -points.shape[1] % levels))
    rotation = _balanced_principal_axes(points, levels)
    codebooks: list[Tensor] = []
    with Progress("rotation", rounds) as progress:
        for _ in range(rounds):
            parts = (points @ rotation).chunk(levels, dim=1)
            old = codebooks or [kmeans(part, codes, 1, generator) for part in parts]
            codebooks = [lloyd(part, codebook, 1) for part, codebook in zip(parts, old, strict=True)]
            entries = [codebook[nearest(part, codebook)] for part, codebook in zip(parts, codebooks, strict=True)]
            left, _, right = torch.linalg.svd(points.T @ torch.cat(entries, 1))
            rotation = left @ right
            progress.advance()
    return rotation


def _balanced_principal_axes(points: Tensor, levels: int) -> Tensor:
    """The principal axes, dealt out by falling variance to the subspace with the smallest product of variances that has room."""
    centered = (points - points.mean(0)).double()
    variances, axes = torch.linalg.eigh(centered.T @ centered)
    logarithms = (variances / variances[-1].clamp(min=1e-300)).clamp(min=1e-12).log()
    room, filled = points.shape[1] // levels, torch.zeros(levels, dtype=torch.float64)
    subspaces: list[list[int]] = [[] for _ in range(levels)]
    for axis in reversed(range(len(variances))):
        free = torch.tensor([len(subspace) < room for subspace in subspaces])
        place = int(torch.where(free, filled, torch.inf).argmin())
        subspaces[place].append(axis)
        filled[place] += logarithms[axis] + 30.0  # positive for every axis, so that an empty subspace comes first
    dealt: Tensor = axes[:, [axis for subspace in subspaces for axis in subspace]].float()
    return dealt
