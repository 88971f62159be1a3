"""Per-example random numbers that do not depend on the batch an example is in.

The numbers are a function of one draw from a `torch.Generator` and of the example (user, history, target). Equal examples get equal
numbers. They are computed by counter with SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators"), in
NumPy because torch has no unsigned shifts.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray
from torch import Generator, Tensor

from genrec.randomness import splitmix64
from genrec.types import SequenceBatch

GAMMA = np.uint64(0x9E3779B97F4A7C15)  # increment of SplitMix64


class ExampleRandomness:
    """Uniform random numbers for each example of a batch. Takes one number from the generator."""

    def __init__(self, batch: SequenceBatch, generator: Generator) -> None:
        salt = int(torch.randint(2**62, (), generator=generator))
        history, age = _unsigned(batch.items), np.arange(batch.items.shape[1], dtype=np.uint64)[::-1]
        # Padding adds 0, so the width of the history does not matter.
        history_hash = np.where(history > 0, splitmix64(splitmix64(history) + age), np.uint64(0)).sum(1, dtype=np.uint64)
        self.keys: ndarray = splitmix64(
            splitmix64(splitmix64(history_hash + np.uint64(salt)) + _unsigned(batch.user)) + _unsigned(batch.target)
        )

    def uniform(self, count: int, stream: int = 0, rows: Tensor | None = None) -> Tensor:
        """Return the first `count` numbers of a stream for each example: float64 [B, count] in [0, 1).

        Different values of `stream` give independent numbers. `rows`, int64 [R], selects examples; the result is then [R, count].
        """
        keys = self.keys if rows is None else self.keys[rows.numpy()]
        begin = splitmix64(keys + np.uint64(stream))[:, None]
        bits = splitmix64(begin + GAMMA * np.arange(1, count + 1, dtype=np.uint64))
        return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _unsigned(values: Tensor) -> ndarray:
    return values.cpu().numpy().astype(np.uint64)
