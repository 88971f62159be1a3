"""Stage 3: the control: codes that know nothing of the items. In: float32 [N, D], of which only N counts. Out: codes int64 [N, L].

What Semantic IDs are worth is the distance between them and these (TIGER, Rajput et al. 2023, 2305.05065, section 4.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import shake_128

import numpy as np
import torch
from numpy import ndarray
from torch import Generator

from genrec.errors import ArtifactError
from genrec.tokenizer.listed_codes import FittedListedCodes, restore_listed
from genrec.tokenizer.residual_quantization import as_points, check_at_least


@dataclass(frozen=True)
class RandomCodes:
    """Every code of every item is drawn uniformly, on its own; those of items that come later too."""

    num_levels: int = 3  # L, at least 1
    codebook_size: int = 256  # codes of each level, at least 1

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_levels", "codebook_size")

    def level_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level."""
        return (self.codebook_size,) * self.num_levels

    def fit(self, vectors: ndarray, generator: Generator) -> FittedRandomCodes:
        """Draw codes for the rows of float32 [N, D]."""
        points = as_points(vectors)
        codes = torch.randint(self.codebook_size, (len(points), self.num_levels), generator=generator)
        seed = int(torch.randint(2**62, (), generator=generator))
        return FittedRandomCodes(FittedListedCodes(codes, points, self.level_sizes()), seed)

    def restore(self, state: dict[str, ndarray]) -> FittedRandomCodes:
        """The drawn codes again."""
        if "seed" not in state:
            raise ArtifactError(f"RandomCodes needs a seed beside its codes, the stored state has {sorted(state)}")
        listed = {name: array for name, array in state.items() if name != "seed"}
        return FittedRandomCodes(restore_listed(listed, self.level_sizes()), int(state["seed"][0]))


class FittedRandomCodes:
    """A `genrec.types.ListedCodes`: the listed items' draws, and a seed for those of items that come later."""

    def __init__(self, listed: FittedListedCodes, seed: int) -> None:
        self.listed, self.seed = listed, seed

    def listed_codes(self) -> ndarray:
        """int64 [N, L], in the items' order."""
        return self.listed.listed_codes()

    def encode(self, vectors: ndarray) -> ndarray:
        """For items that come later: int64 [M, L], drawn by a hash of the seed and the vector's bytes, which knows no similarity."""
        points = as_points(vectors, width=self.listed.points.shape[1])
        key = self.seed.to_bytes(8, "little")
        rows = np.ascontiguousarray((points + 0.0).numpy())  # -0.0 equals 0.0, their bytes do not
        drawn = [shake_128(key + row.tobytes()).digest(8 * len(self.listed.level_sizes)) for row in rows]
        numbers = np.frombuffer(b"".join(drawn), dtype="<u8").reshape(len(rows), -1)
        return (numbers % np.array(self.listed.level_sizes, dtype=np.uint64)).astype(np.int64)

    def reconstruct(self, codes: ndarray) -> ndarray:
        """The mean vector of the listed items with the longest known prefix of the codes."""
        return self.listed.reconstruct(codes)

    def state(self) -> dict[str, ndarray]:
        """Codes, vectors, level sizes and the seed."""
        return self.listed.state() | {"seed": np.array([self.seed])}
