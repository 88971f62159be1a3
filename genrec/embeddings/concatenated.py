"""Concatenation of the vectors of several encoders, such as one of texts and one of interactions."""

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
    """Concatenated blocks w_k x_k / |x_k|, one for each encoder k.

    The squared distance of two items is the sum over k of w_k^2 |x_k/|x_k| - y_k/|y_k||^2. A zero block stays zero. It is a
    `genrec.types.ResumableEncoder`: each resumable encoder in it gets its own folder.
    """

    encoders: tuple[ItemEncoder, ...]  # at least one; a list is accepted
    weights: tuple[float, ...] = ()  # length of each encoder's block, above 0; (): all 1

    def __post_init__(self) -> None:
        if not isinstance(self.encoders, tuple | list):
            raise UsageError(f"Concatenated.encoders must be a list of item encoders, got {self.encoders!r}")
        object.__setattr__(self, "encoders", tuple(self.encoders))
        weights = tuple(map(float, self.weights)) or (1.0,) * len(self.encoders)  # 1 and 1.0 give the same key
        object.__setattr__(self, "weights", weights)
        for position, encoder in enumerate(self.encoders):
            if not isinstance(encoder, ItemEncoder) or isinstance(encoder, str | type):  # str and classes also have `encode`
                raise UsageError(f"Concatenated.encoders[{position}] must have encode(items, interactions), got {encoder!r}")
        if not self.encoders or len(self.encoders) != len(self.weights):
            raise UsageError(
                f"Concatenated needs one weight for each encoder, got {len(self.encoders)} encoders and {len(self.weights)} weights"
            )
        for position, weight in enumerate(self.weights):
            if not 0 < weight < math.inf:
                raise UsageError(f"Concatenated.weights[{position}] must be above 0 and finite, got {weight}")

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Return vectors float32 [N, sum of D] from the catalog and the training interactions."""
        return self._encode(items, interactions, None)

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        """Return the vectors of `encode`; the encoder at position k saves its intermediate results in `folder`/k."""
        return self._encode(items, interactions, folder)

    def _encode(self, items: DataFrame, interactions: DataFrame, folder: Path | None) -> ndarray:
        blocks = []
        for position, (encoder, weight) in enumerate(zip(self.encoders, self.weights, strict=True)):
            if folder is not None and isinstance(encoder, ResumableEncoder):
                block = encoder.encode_into(items, interactions, folder / str(position))
            else:
                block = encoder.encode(items, interactions)
            if block.ndim != 2 or len(block) != len(items):
                raise InputError(f"{type(encoder).__name__} must return vectors [{len(items)}, D], got shape {block.shape}")
            length = np.linalg.norm(block, axis=1, keepdims=True)
            blocks.append(weight * block / np.where(length > 0, length, 1.0))
        return np.concatenate(blocks, axis=1).astype(np.float32)
