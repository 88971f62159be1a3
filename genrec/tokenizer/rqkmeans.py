"""`RQKMeans`: residual k-means, a tokenizer without a neural network.

Source: the residual quantization of Lee et al. 2022 (2203.01941) with a k-means codebook per level, as in OneRec (Deng et al. 2025,
2502.18965). `genrec.tokenizer.balanced_kmeans` states how balancing differs from OneRec's. It takes seconds; an RQ-VAE takes minutes
or longer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from numpy import ndarray
from torch import Generator, Tensor

from genrec.errors import ArtifactError, UsageError
from genrec.progress import track
from genrec.tokenizer.balanced_kmeans import balanced_kmeans
from genrec.tokenizer.kmeans import initial_centers, kmeans, nearest
from genrec.tokenizer.residual_quantization import (
    LARGEST_CODEBOOK,
    ROWS,
    as_codes,
    as_points,
    automatic_size,
    check_at_least,
    check_codebook_size,
    chosen_entries,
    codes_of,
    fit_codebooks,
    fitted_size,
    last_level_costs,
    sizes_of,
    subtract_entries,
)
from genrec.vector_search import faiss_lloyd


@dataclass(frozen=True)
class RQKMeans:
    """Residual k-means with `num_levels` codebooks of `codebook_size` codes.

    With `balanced`, the cells of every level have nearly the same number of training vectors. The largest cell is within about 8 % of
    the mean for up to 512 vectors per code, and within about 15 % for more, because prices are fitted on 512 vectors per code.
    Without, it is 5 times the mean on level 1 of Amazon Beauty, and 40 to 80 times on later levels. Equal vectors cannot be
    separated, and vectors with lengths of different orders of magnitude are balanced less well. Balancing takes 2 to 3 times as long.

    Both engines start from the same k-means++ centers and use every vector.
    """

    num_levels: int = 3  # number of levels L, at least 1
    codebook_size: int | None = None  # codes per level, at least 1; None: by the number of items, see `automatic_size`
    iterations: int = 25  # most k-means iterations per level, at least 1
    shrink: bool = False  # with fewer items than codes: reduce the codebook size to the number of items instead of an error
    engine: Literal["torch", "faiss"] = "torch"  # k-means implementation; faiss has the same quality and must be installed
    balanced: bool = False  # give all codes of a level nearly the same number of items; needs engine="torch"

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_levels", "iterations")
        check_codebook_size(self, self.codebook_size)
        if self.engine not in ("torch", "faiss"):
            raise UsageError(f"RQKMeans.engine must be 'torch' or 'faiss', got {self.engine!r}")
        if self.balanced and self.engine == "faiss":
            raise UsageError("RQKMeans.balanced needs engine='torch': faiss has no balanced k-means")

    def level_sizes(self) -> tuple[int, ...]:
        """Return the number of codes of each level. A reduced codebook leaves the other codes unused."""
        return sizes_of(self, self.num_levels, self.codebook_size)

    def for_items(self, items: int) -> RQKMeans:
        """Return the quantizer with the codebook size that it has for this number of items."""
        return self if self.codebook_size is not None else replace(self, codebook_size=automatic_size(items))

    def fit(self, vectors: ndarray, generator: Generator) -> FittedRQKMeans:
        """Fit the codebooks to vectors float32 [N, D]."""
        points = as_points(vectors)
        size = fitted_size(len(points), self.codebook_size, self.shrink)
        if self.balanced:
            return FittedRQKMeans(*_balanced_codebooks(points, self.num_levels, size, self.iterations, generator))
        fit = kmeans if self.engine == "torch" else _faiss_kmeans
        return FittedRQKMeans(fit_codebooks(points, self.num_levels, size, self.iterations, generator, fit))

    def restore(self, state: dict[str, ndarray]) -> FittedRQKMeans:
        """Restore a fitted quantizer from its stored codebooks and prices."""
        codebooks, prices = state.get("codebooks"), state.get("prices")
        most = LARGEST_CODEBOOK if self.codebook_size is None else self.codebook_size
        if codebooks is None or codebooks.ndim != 3 or len(codebooks) != self.num_levels or codebooks.shape[1] > most:
            raise ArtifactError(
                f"RQKMeans needs codebooks [{self.num_levels}, at most {most}, D], the stored state has {_shapes(state)}"
            )
        if self.balanced != (prices is not None) or (prices is not None and prices.shape != codebooks.shape[:2]):
            expected = f"prices {list(codebooks.shape[:2])}" if self.balanced else "no prices"
            raise ArtifactError(f"RQKMeans(balanced={self.balanced}) needs {expected}, the stored state has {_shapes(state)}")
        return FittedRQKMeans(torch.tensor(codebooks), None if prices is None else torch.tensor(prices))


class FittedRQKMeans:
    """A `genrec.types.PricedCodes` with codebooks float32 [L, C, D] and, if balanced, prices float32 [L, C]."""

    def __init__(self, codebooks: Tensor, prices: Tensor | None = None) -> None:
        self.codebooks, self.prices = codebooks, prices

    def encode(self, vectors: ndarray) -> ndarray:
        """Quantize vectors level by level: float32 [N, D] -> int64 [N, L]."""
        return codes_of(as_points(vectors, width=self.codebooks.shape[2]), self.codebooks, self.prices).numpy()

    def reconstruct(self, codes: ndarray) -> ndarray:
        """Return the sum of the codes' entries: int64 [N, L] -> float32 [N, D]."""
        levels, size, _ = self.codebooks.shape
        parts = torch.split(as_codes(codes, levels, size), ROWS)
        return torch.cat([chosen_entries(part, self.codebooks).sum(0) for part in parts]).numpy()

    def last_level_costs(self, vectors: ndarray, codes: ndarray) -> ndarray:
        """Return |r_L - e_L(c)|^2, float32 [M, C], where r_L is the residual after all codes but the last. Prices are not included."""
        levels, size, width = self.codebooks.shape
        points, known = as_points(vectors, width), as_codes(codes, levels, size)
        parts = zip(torch.split(points, ROWS), torch.split(known, ROWS), strict=True)
        return torch.cat([last_level_costs(part, code, self.codebooks) for part, code in parts]).numpy()

    def state(self) -> dict[str, ndarray]:
        """Return the codebooks and, if balanced, the prices."""
        prices = {} if self.prices is None else {"prices": self.prices.numpy()}
        return {"codebooks": self.codebooks.numpy(), **prices}


def _faiss_kmeans(points: Tensor, count: int, iterations: int, generator: Generator) -> Tensor:
    """Run faiss's iterations from our initial centers, because faiss's k-means++ gives about 10 % more error on item vectors."""
    return faiss_lloyd(points, initial_centers(points, count, generator), iterations, generator)


def _balanced_codebooks(points: Tensor, levels: int, size: int, iterations: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Fit codebooks float32 [L, C, D] and prices float32 [L, C] level by level to the residuals."""
    fits, residuals = [], points.clone()
    for level in track(range(levels), "balanced codebooks"):
        fits.append(balanced_kmeans(residuals, size, iterations, generator))
        if level + 1 < levels:
            subtract_entries(residuals, nearest(residuals, *fits[-1]), fits[-1].centers)
    return torch.stack([fit.centers for fit in fits]), torch.stack([fit.prices for fit in fits])


def _shapes(state: dict[str, ndarray]) -> dict[str, list[int]]:
    """Return the shape of each array, for messages."""
    return {name: list(array.shape) for name, array in state.items()}
