"""Stage 3: the control: codes that know nothing of the items. In: float32 [N, D], of which only N counts. Out: codes int64 [N, L].

What Semantic IDs are worth is the distance between them and these (TIGER, Rajput et al. 2023, 2305.05065, section 4.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy import ndarray
from torch import Generator

from genrec.tokenizer.listed import FittedListedCodes, restore_listed
from genrec.tokenizer.residual import as_points, check_at_least


@dataclass(frozen=True)
class RandomCodes:
    """Every code of every item is drawn uniformly, on its own; items that come later get the codes of their nearest item."""

    levels: int = 3  # L, at least 1
    codes: int = 256  # codes of each level, at least 1

    def __post_init__(self) -> None:
        check_at_least(self, 1, "levels", "codes")

    def level_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level."""
        return (self.codes,) * self.levels

    def fit(self, vectors: ndarray, generator: Generator) -> FittedListedCodes:
        """Draw codes for the rows of float32 [N, D]."""
        points = as_points(vectors)
        codes = torch.randint(self.codes, (len(points), self.levels), generator=generator)
        return FittedListedCodes(codes, points, self.level_sizes())

    def restore(self, state: dict[str, ndarray]) -> FittedListedCodes:
        """The drawn codes again."""
        return restore_listed(state, self.level_sizes())
