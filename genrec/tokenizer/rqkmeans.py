"""Stage 3: residual k-means, the tokenizer that needs no network. In: float32 [N, D]. Out: codes int64 [N, L].

Source: the residual quantisation of Lee et al. 2022 (2203.01941) with each level's codebook fitted by k-means, as in OneRec
(Deng et al. 2025, 2502.18965), but without OneRec's balancing of the clusters. Seconds instead of an RQ-VAE's half an hour or more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy import ndarray
from torch import Generator, Tensor

from genrec.errors import ArtifactError
from genrec.tokenizer.residual import as_codes, as_points, check_at_least, chosen_entries, codebook_size, fit_codebooks, quantise


@dataclass(frozen=True)
class RQKMeans:
    """Residual k-means: `levels` codebooks of `codes` codes."""

    levels: int = 3  # L, at least 1
    codes: int = 256  # codes of each level, at least 1
    iterations: int = 25  # most iterations of each level's k-means, at least 1
    shrink: bool = False  # whether fewer items than codes make codebooks of one code an item, instead of an error

    def __post_init__(self) -> None:
        check_at_least(self, 1, "levels", "codes", "iterations")

    def level_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level; a codebook that shrank leaves the rest unused."""
        return (self.codes,) * self.levels

    def fit(self, vectors: ndarray, generator: Generator) -> FittedRQKMeans:
        """Train on float32 [N, D]."""
        points = as_points(vectors)
        codes = codebook_size(len(points), self.codes, self.shrink)
        return FittedRQKMeans(fit_codebooks(points, self.levels, codes, self.iterations, generator))

    def restore(self, state: dict[str, ndarray]) -> FittedRQKMeans:
        """The fitted quantizer again, from its stored codebooks."""
        codebooks = state.get("codebooks")
        if codebooks is None or codebooks.ndim != 3 or len(codebooks) != self.levels or codebooks.shape[1] > self.codes:
            found = {name: list(array.shape) for name, array in state.items()}
            raise ArtifactError(f"RQKMeans needs codebooks [{self.levels}, at most {self.codes}, D], the stored state has {found}")
        return FittedRQKMeans(torch.tensor(codebooks))


class FittedRQKMeans:
    """A `genrec.types.FittedQuantizer`: codebooks float32 [L, C, D]."""

    def __init__(self, codebooks: Tensor) -> None:
        self.codebooks = codebooks

    def encode(self, vectors: ndarray) -> ndarray:
        """float32 [N, D] -> int64 [N, L]."""
        return quantise(as_points(vectors, width=self.codebooks.shape[2]), self.codebooks)[0].numpy()

    def reconstruct(self, codes: ndarray) -> ndarray:
        """int64 [N, L] -> float32 [N, D], the sum of the codes' entries."""
        levels, size, _ = self.codebooks.shape
        return chosen_entries(as_codes(codes, levels, size), self.codebooks).sum(0).numpy()

    def state(self) -> dict[str, ndarray]:
        """The codebooks."""
        return {"codebooks": self.codebooks.numpy()}
