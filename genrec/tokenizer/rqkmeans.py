"""Stage 3: residual k-means, the tokenizer that needs no network. In: float32 [N, D]. Out: codes int64 [N, L].

Source: the residual quantization of Lee et al. 2022 (2203.01941) with each level's codebook fitted by k-means, as in OneRec
(Deng et al. 2025, 2502.18965); how its balancing differs from OneRec's: see `genrec.tokenizer.balanced_kmeans`. Seconds instead of an
RQ-VAE's half an hour or more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from numpy import ndarray
from torch import Generator, Tensor

from genrec.errors import ArtifactError, UsageError
from genrec.progress import track
from genrec.tokenizer.balanced_kmeans import balanced_kmeans
from genrec.tokenizer.kmeans import initial_centers, kmeans, nearest
from genrec.tokenizer.residual_quantization import (
    ROWS,
    as_codes,
    as_points,
    check_at_least,
    chosen_entries,
    codebook_size,
    codes_of,
    fit_codebooks,
    last_level_costs,
    subtract_entries,
)
from genrec.vector_search import faiss_lloyd


@dataclass(frozen=True)
class RQKMeans:
    """Residual k-means: `levels` codebooks of `codes` codes.

    `balanced` makes the cells of every level nearly equal on the training vectors: with up to 512 vectors a code, the largest cell is
    within about 8 % of the mean (without: 5 times it on level 1 of Amazon Beauty, 40 to 80 times below), with more, as prices are
    found on 512 a code, within about 15 %. Equal vectors can't be split, and lengths that differ by orders of magnitude are balanced
    less. It costs some 2 to 3 times the seconds. Both engines begin with the same k-means++ centers and look at every vector.
    """

    num_levels: int = 3  # L, at least 1
    codebook_size: int = 256  # codes of each level, at least 1
    iterations: int = 25  # most iterations of each level's k-means, at least 1
    shrink: bool = False  # whether fewer items than codes make codebooks of one code an item, instead of an error
    engine: Literal["torch", "faiss"] = "torch"  # whose k-means; faiss's is as good and no slower, but is not installed everywhere
    balanced: bool = False  # whether all codes of a level get nearly as many items; by torch only

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_levels", "codebook_size", "iterations")
        if self.engine not in ("torch", "faiss"):
            raise UsageError(f"RQKMeans.engine must be 'torch' or 'faiss', got {self.engine!r}")
        if self.balanced and self.engine == "faiss":
            raise UsageError("RQKMeans.balanced needs engine='torch': faiss has no balanced k-means")

    def level_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level; a codebook that shrank leaves the rest unused."""
        return (self.codebook_size,) * self.num_levels

    def fit(self, vectors: ndarray, generator: Generator) -> FittedRQKMeans:
        """Train on float32 [N, D]."""
        points = as_points(vectors)
        codes = codebook_size(len(points), self.codebook_size, self.shrink)
        if self.balanced:
            return FittedRQKMeans(*_balanced_codebooks(points, self.num_levels, codes, self.iterations, generator))
        fit = kmeans if self.engine == "torch" else _faiss_kmeans
        return FittedRQKMeans(fit_codebooks(points, self.num_levels, codes, self.iterations, generator, fit))

    def restore(self, state: dict[str, ndarray]) -> FittedRQKMeans:
        """The fitted quantizer again, from its stored codebooks (and prices)."""
        codebooks, prices = state.get("codebooks"), state.get("prices")
        if codebooks is None or codebooks.ndim != 3 or len(codebooks) != self.num_levels or codebooks.shape[1] > self.codebook_size:
            raise ArtifactError(
                f"RQKMeans needs codebooks [{self.num_levels}, at most {self.codebook_size}, D], the stored state has {_shapes(state)}"
            )
        if self.balanced != (prices is not None) or (prices is not None and prices.shape != codebooks.shape[:2]):
            wanted = f"prices {list(codebooks.shape[:2])}" if self.balanced else "no prices"
            raise ArtifactError(f"RQKMeans(balanced={self.balanced}) needs {wanted}, the stored state has {_shapes(state)}")
        return FittedRQKMeans(torch.tensor(codebooks), None if prices is None else torch.tensor(prices))


class FittedRQKMeans:
    """A `genrec.types.PricedCodes`: codebooks float32 [L, C, D], and prices float32 [L, C] where the cells are balanced."""

    def __init__(self, codebooks: Tensor, prices: Tensor | None = None) -> None:
        self.codebooks, self.prices = codebooks, prices

    def encode(self, vectors: ndarray) -> ndarray:
        """float32 [N, D] -> int64 [N, L]."""
        return codes_of(as_points(vectors, width=self.codebooks.shape[2]), self.codebooks, self.prices).numpy()

    def reconstruct(self, codes: ndarray) -> ndarray:
        """int64 [N, L] -> float32 [N, D], the sum of the codes' entries."""
        levels, size, _ = self.codebooks.shape
        parts = torch.split(as_codes(codes, levels, size), ROWS)
        return torch.cat([chosen_entries(part, self.codebooks).sum(0) for part in parts]).numpy()

    def last_level_costs(self, vectors: ndarray, codes: ndarray) -> ndarray:
        """|r_L - e_L(c)|^2 float32 [M, C], r_L being what the codes before the last have left over; prices are no part of it."""
        levels, size, width = self.codebooks.shape
        points, known = as_points(vectors, width), as_codes(codes, levels, size)
        parts = zip(torch.split(points, ROWS), torch.split(known, ROWS), strict=True)
        return torch.cat([last_level_costs(part, code, self.codebooks) for part, code in parts]).numpy()

    def state(self) -> dict[str, ndarray]:
        """The codebooks, and the prices where there are some."""
        prices = {} if self.prices is None else {"prices": self.prices.numpy()}
        return {"codebooks": self.codebooks.numpy(), **prices}


def _faiss_kmeans(points: Tensor, count: int, iterations: int, generator: Generator) -> Tensor:
    """Our initial centers, faiss's iterations: its own k-means++ ends some 10 % worse on items' vectors."""
    return faiss_lloyd(points, initial_centers(points, count, generator), iterations, generator)


def _balanced_codebooks(points: Tensor, levels: int, codes: int, iterations: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Codebooks float32 [L, C, D] and prices float32 [L, C], level by level on what is left over."""
    fits, residuals = [], points.clone()
    for level in track(range(levels), "balanced codebooks"):
        fits.append(balanced_kmeans(residuals, codes, iterations, generator))
        if level + 1 < levels:
            subtract_entries(residuals, nearest(residuals, *fits[-1]), fits[-1].centers)
    return torch.stack([fit.centers for fit in fits]), torch.stack([fit.prices for fit in fits])


def _shapes(state: dict[str, ndarray]) -> dict[str, list[int]]:
    return {name: list(array.shape) for name, array in state.items()}
