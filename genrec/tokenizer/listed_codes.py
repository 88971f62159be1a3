"""Codes that are stored per item because they cannot be computed from vectors (imported and random codes).

New items get the codes of the listed item with the nearest vector. Unknown codes are reconstructed from their longest known prefix.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from genrec.errors import ArtifactError
from genrec.tokenizer.kmeans import CELLS
from genrec.tokenizer.residual_quantization import as_codes, as_points

CANDIDATES = 8  # nearest rows by approximate distance, for which the exact distance is computed


class FittedListedCodes:
    """A `genrec.types.ListedCodes` with codes int64 [N, L] and vectors float32 [N, D] of the listed items."""

    def __init__(self, codes: Tensor, points: Tensor, level_sizes: tuple[int, ...]) -> None:
        self.codes, self.points, self.level_sizes = codes, points, level_sizes

    def listed_codes(self) -> ndarray:
        """Return a copy of the listed codes, int64 [N, L], in item order."""
        return self.codes.numpy().copy()

    def encode(self, vectors: ndarray) -> ndarray:
        """Return the codes of the listed item with the nearest vector (the first on ties): float32 [M, D] -> int64 [M, L]."""
        queries = as_points(vectors, width=self.points.shape[1])
        parts = torch.split(queries, max(1, CELLS // len(self.points)))
        return self.codes[torch.cat([_nearest_rows(part, self.points) for part in parts])].numpy()

    def reconstruct(self, codes: ndarray) -> ndarray:
        """Return the mean vector of the listed items with the longest known prefix of each row: int64 [M, L] -> float32 [M, D].

        If no item has the first code, return the mean of all vectors.
        """
        requested = as_codes(codes, len(self.level_sizes), max(self.level_sizes))
        result = self.points.mean(0).expand(len(requested), -1).clone()
        node, place = torch.zeros(len(self.codes), dtype=torch.int64), torch.zeros(len(requested), dtype=torch.int64)
        known = torch.ones(len(requested), dtype=torch.bool)
        for level, size in enumerate(self.level_sizes):
            keys, node = torch.unique(node * size + self.codes[:, level], return_inverse=True)
            key = place * size + requested[:, level]
            place = torch.searchsorted(keys, key).clamp(max=len(keys) - 1)
            known &= (keys[place] == key) & (requested[:, level] < size)
            sums = torch.zeros(len(keys), self.points.shape[1]).index_add_(0, node, self.points)
            means = sums / torch.bincount(node, minlength=len(keys))[:, None]
            result[known] = means[place[known]]
        return result.numpy()

    def state(self) -> dict[str, ndarray]:
        """Return codes, vectors and level sizes."""
        return {"codes": self.codes.numpy(), "vectors": self.points.numpy(), "level_sizes": np.array(self.level_sizes)}


def restore_listed(state: dict[str, ndarray], level_sizes: tuple[int, ...] | None = None) -> FittedListedCodes:
    """Restore listed codes. Raise `ArtifactError` if the state is incomplete or has other level sizes."""
    if state.keys() != {"codes", "vectors", "level_sizes"}:
        raise ArtifactError(f"listed codes need codes, vectors and level_sizes, the stored state has {sorted(state)}")
    codes, sizes = state["codes"], tuple(int(size) for size in state["level_sizes"])
    fits = codes.ndim == 2 and codes.shape[1] == len(sizes) and state["vectors"].shape[:1] == codes.shape[:1] and len(codes) > 0
    if not fits or (codes < 0).any() or (codes >= np.array(sizes)).any() or (level_sizes is not None and sizes != level_sizes):
        raise ArtifactError(
            f"listed codes {list(codes.shape)} with vectors {list(state['vectors'].shape)} and level sizes {sizes} do not match each "
            f"other or the specification's level sizes {level_sizes}"
        )
    return FittedListedCodes(torch.tensor(codes), torch.tensor(state["vectors"]), sizes)


def _nearest_rows(queries: Tensor, points: Tensor) -> Tensor:
    """Return argmin_i |q - x_i|^2 for every query, int64 [M]; the lowest i on ties.

    Candidates are found with the approximate distance of `nearest`; their exact distances select the row.
    """
    shift = points.mean(0)
    centered = points - shift
    approximate = torch.addmm(centered.square().sum(1) / 2, queries - shift, centered.T, alpha=-1)
    candidates = approximate.topk(min(CANDIDATES, len(points)), dim=1, largest=False).indices.sort(1).values
    exact = (points[candidates] - queries[:, None]).square().sum(2)
    return candidates.gather(1, exact.argmin(1, keepdim=True))[:, 0]
