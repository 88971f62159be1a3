"""Stage 2: several encoders' vectors side by side, so that an item is near another by text and by who took it.

In: items and *training* interactions. Out: float32 [N, sum of D], each encoder's block scaled to its weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genrec.errors import InputError, UsageError
from genrec.types import ItemEncoder, ResumableEncoder

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas import DataFrame


@dataclass(frozen=True)
class Concatenated:
    """Blocks w_k x_k / |x_k|, so that squared distances add up as the sum over k of w_k^2 |x_k/|x_k| - y_k/|y_k||^2.

    A block that is zero for an item stays zero for it. A `genrec.types.ResumableEncoder`: each of its encoders that is one keeps what
    it has in a folder of its own.
    """

    encoders: tuple[ItemEncoder, ...]  # at least one; a list will do
    weights: tuple[float, ...] = ()  # one for each encoder, above 0: the length of its block; (): all 1

    def __post_init__(self) -> None:
        if not isinstance(self.encoders, tuple | list):
            raise UsageError(f"Concatenated.encoders must be a list of item encoders, got {self.encoders!r}")
        object.__setattr__(self, "encoders", tuple(self.encoders))
        weights = tuple(map(float, self.weights)) or (1.0,) * len(self.encoders)  # 1 and 1.0 are one key
        object.__setattr__(self, "weights", weights)
        for place, encoder in enumerate(self.encoders):
            if not isinstance(encoder, ItemEncoder) or isinstance(encoder, str | type):  # a text has `encode`, and so has a class
                raise UsageError(f"Concatenated.encoders[{place}] must have encode(items, interactions), got {encoder!r}")
        if not self.encoders or len(self.encoders) != len(self.weights):
            raise UsageError(
                f"Concatenated needs one weight for each encoder, got {len(self.encoders)} encoders and {len(self.weights)} weights"
            )
        for place, weight in enumerate(self.weights):
            if not 0 < weight < math.inf:
                raise UsageError(f"Concatenated.weights[{place}] must be above 0 and finite, got {weight}")

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Items (row i is item i+1) and training interactions -> float32 [N, sum of D]."""
        return self._encode(items, interactions, None)

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        """`encode`, where the encoder at place k may keep its work in `folder`/k."""
        return self._encode(items, interactions, folder)

    def _encode(self, items: DataFrame, interactions: DataFrame, folder: Path | None) -> ndarray:
        blocks = []
        for place, (encoder, weight) in enumerate(zip(self.encoders, self.weights, strict=True)):
            if folder is not None and isinstance(encoder, ResumableEncoder):
                block = encoder.encode_into(items, interactions, folder / str(place))
            else:
                block = encoder.encode(items, interactions)
            if block.ndim != 2 or len(block) != len(items):
                raise InputError(f"{type(encoder).__name__} must give vectors [{len(items)}, D], got shape {block.shape}")
            length = np.linalg.norm(block, axis=1, keepdims=True)
            blocks.append(weight * block / np.where(length > 0, length, 1.0))
        return np.concatenate(blocks, axis=1).astype(np.float32)
