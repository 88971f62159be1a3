"""Stage 3: codes that are listed item by item, as they do not follow from vectors. In: codes int64 [N, L] and vectors float32 [N, D].

Out: the codes of those items; for items that come later, and for other codes, an answer from the listed items nearest to them.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from genrec.errors import ArtifactError
from genrec.tokenizer.kmeans import CELLS
from genrec.tokenizer.residual_quantization import as_codes, as_points

CANDIDATES = 8  # neighbors by the quick formula, whose distances are then computed from the difference


class FittedListedCodes:
    """A `genrec.types.ListedCodes`: codes int64 [N, L] and vectors float32 [N, D] of the items it was made for."""

    def __init__(self, codes: Tensor, points: Tensor, level_sizes: tuple[int, ...]) -> None:
        self.codes, self.points, self.level_sizes = codes, points, level_sizes

    def listed_codes(self) -> ndarray:
        """int64 [N, L], in the items' order."""
        return self.codes.numpy().copy()

    def encode(self, vectors: ndarray) -> ndarray:
        """For items that come later: the codes of the item with the nearest vector (of equals, the first), int64 [M, L]."""
        queries = as_points(vectors, width=self.points.shape[1])
        parts = torch.split(queries, max(1, CELLS // len(self.points)))
        return self.codes[torch.cat([_nearest_rows(part, self.points) for part in parts])].numpy()

    def reconstruct(self, codes: ndarray) -> ndarray:
        """For each row the mean vector of the items with the longest prefix of it that any item has; the mean of all for none."""
        wanted = as_codes(codes, len(self.level_sizes), max(self.level_sizes))
        result = self.points.mean(0).expand(len(wanted), -1).clone()
        node, asked = torch.zeros(len(self.codes), dtype=torch.int64), torch.zeros(len(wanted), dtype=torch.int64)
        known = torch.ones(len(wanted), dtype=torch.bool)
        for level, size in enumerate(self.level_sizes):
            keys, node = torch.unique(node * size + self.codes[:, level], return_inverse=True)
            key = asked * size + wanted[:, level]
            asked = torch.searchsorted(keys, key).clamp(max=len(keys) - 1)
            known &= (keys[asked] == key) & (wanted[:, level] < size)
            sums = torch.zeros(len(keys), self.points.shape[1]).index_add_(0, node, self.points)
            means = sums / torch.bincount(node, minlength=len(keys))[:, None]
            result[known] = means[asked[known]]
        return result.numpy()

    def state(self) -> dict[str, ndarray]:
        """Codes, vectors and level sizes."""
        return {"codes": self.codes.numpy(), "vectors": self.points.numpy(), "level_sizes": np.array(self.level_sizes)}


def restore_listed(state: dict[str, ndarray], level_sizes: tuple[int, ...] | None = None) -> FittedListedCodes:
    """The fitted codes again; refuses a state of other level sizes than these."""
    if state.keys() != {"codes", "vectors", "level_sizes"}:
        raise ArtifactError(f"listed codes need codes, vectors and level_sizes, the stored state has {sorted(state)}")
    codes, sizes = state["codes"], tuple(int(size) for size in state["level_sizes"])
    fits = codes.ndim == 2 and codes.shape[1] == len(sizes) and state["vectors"].shape[:1] == codes.shape[:1] and len(codes) > 0
    if not fits or (codes < 0).any() or (codes >= np.array(sizes)).any() or (level_sizes is not None and sizes != level_sizes):
        raise ArtifactError(
            f"listed codes {list(codes.shape)} with vectors {list(state['vectors'].shape)} and level sizes {sizes} do not fit each "
            f"other, or the specification's level sizes {level_sizes}"
        )
    return FittedListedCodes(torch.tensor(codes), torch.tensor(state["vectors"]), sizes)


def _nearest_rows(queries: Tensor, points: Tensor) -> Tensor:
    """argmin_i |q - x_i|^2, int64 [M]; the lowest i of equals. The quick formula picks candidates, the difference decides."""
    shift = points.mean(0)
    centered = points - shift
    quick = torch.addmm(centered.square().sum(1) / 2, queries - shift, centered.T, alpha=-1)
    candidates = quick.topk(min(CANDIDATES, len(points)), dim=1, largest=False).indices.sort(1).values
    exact = (points[candidates] - queries[:, None]).square().sum(2)
    return candidates.gather(1, exact.argmin(1, keepdim=True))[:, 0]
