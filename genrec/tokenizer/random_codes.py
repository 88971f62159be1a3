"""`RandomCodes`: random codes, the control for Semantic IDs (TIGER, Rajput et al. 2023, 2305.05065, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import shake_128

import numpy as np
import torch
from numpy import ndarray
from torch import Generator

from genrec.errors import ArtifactError
from genrec.tokenizer.listed_codes import FittedListedCodes, restore_listed
from genrec.tokenizer.residual_quantization import as_points, automatic_size, check_at_least, check_codebook_size, sizes_of


@dataclass(frozen=True)
class RandomCodes:
    """Uniform, independent codes for every item, new items included. The vectors have no influence on the codes of listed items."""

    num_levels: int = 3  # number of levels L, at least 1
    codebook_size: int | None = None  # codes per level, at least 1; None: by the number of items, see `automatic_size`

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_levels")
        check_codebook_size(self, self.codebook_size)

    def level_sizes(self) -> tuple[int, ...]:
        """Return the number of codes of each level."""
        return sizes_of(self, self.num_levels, self.codebook_size)

    def for_items(self, items: int) -> RandomCodes:
        """Return the quantizer with the codebook size that it has for this number of items."""
        return self if self.codebook_size is not None else replace(self, codebook_size=automatic_size(items))

    def fit(self, vectors: ndarray, generator: Generator) -> FittedRandomCodes:
        """Draw codes for the rows of float32 [N, D]."""
        points = as_points(vectors)
        sizes = self.for_items(len(points)).level_sizes()
        codes = torch.randint(sizes[0], (len(points), self.num_levels), generator=generator)
        seed = int(torch.randint(2**62, (), generator=generator))
        return FittedRandomCodes(FittedListedCodes(codes, points, sizes), seed)

    def restore(self, state: dict[str, ndarray]) -> FittedRandomCodes:
        """Restore the drawn codes from their stored state."""
        if "seed" not in state:
            raise ArtifactError(f"RandomCodes needs a seed in addition to its codes, the stored state has {sorted(state)}")
        listed = {name: array for name, array in state.items() if name != "seed"}
        sizes = None if self.codebook_size is None else self.level_sizes()
        return FittedRandomCodes(restore_listed(listed, sizes), int(state["seed"][0]))


class FittedRandomCodes:
    """A `genrec.types.ListedCodes` with the codes of the listed items and a seed for the codes of new items."""

    def __init__(self, listed: FittedListedCodes, seed: int) -> None:
        self.listed, self.seed = listed, seed

    def listed_codes(self) -> ndarray:
        """Return the listed codes, int64 [N, L], in item order."""
        return self.listed.listed_codes()

    def encode(self, vectors: ndarray) -> ndarray:
        """Draw codes for new items from a hash of the seed and the vector's bytes: float32 [M, D] -> int64 [M, L].

        Similar vectors get independent codes.
        """
        points = as_points(vectors, width=self.listed.points.shape[1])
        key = self.seed.to_bytes(8, "little")
        rows = np.ascontiguousarray((points + 0.0).numpy())  # turns -0.0 into 0.0, which has other bytes
        drawn = [shake_128(key + row.tobytes()).digest(8 * len(self.listed.level_sizes)) for row in rows]
        numbers = np.frombuffer(b"".join(drawn), dtype="<u8").reshape(len(rows), -1)
        return (numbers % np.array(self.listed.level_sizes, dtype=np.uint64)).astype(np.int64)

    def reconstruct(self, codes: ndarray) -> ndarray:
        """Return the mean vector of the listed items with the longest known prefix of each row: int64 [M, L] -> float32 [M, D]."""
        return self.listed.reconstruct(codes)

    def state(self) -> dict[str, ndarray]:
        """Return codes, vectors, level sizes and the seed."""
        return self.listed.state() | {"seed": np.array([self.seed])}
