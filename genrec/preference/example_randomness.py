"""Stage 5, random numbers of examples: a function of what the generator gave and of the example, not of the batch that it is in.

In: a batch and a `torch.Generator`, of which one number is taken. Out: uniform numbers for each row. An example is known by its user,
its history and its target; two that agree in all of them get the same numbers. The numbers come from counters by SplitMix64
(Steele et al. 2014, "Fast splittable pseudorandom number generators"), in NumPy, since torch has no unsigned shifts.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray
from torch import Generator, Tensor

from genrec.types import SequenceBatch

GAMMA = np.uint64(0x9E3779B97F4A7C15)  # of SplitMix64


class ExampleRandomness:
    """ExampleRandomness of uniform numbers, one an example and label."""

    def __init__(self, batch: SequenceBatch, generator: Generator) -> None:
        salt = int(torch.randint(2**62, (), generator=generator))
        history, age = _unsigned(batch.history), np.arange(batch.history.shape[1], dtype=np.uint64)[::-1]
        read = np.where(history > 0, _mixed(_mixed(history) + age), np.uint64(0)).sum(1, dtype=np.uint64)  # whatever the padding
        self.keys: ndarray = _mixed(_mixed(_mixed(read + np.uint64(salt)) + _unsigned(batch.user)) + _unsigned(batch.target))

    def uniform(self, count: int, label: int = 0, rows: Tensor | None = None) -> Tensor:
        """`count` numbers of each example's stream `label`, float64 [B, count] in [0, 1); `rows` int64 [R]: of these alone."""
        keys = self.keys if rows is None else self.keys[rows.numpy()]
        begin = _mixed(keys + np.uint64(label))[:, None]
        bits = _mixed(begin + GAMMA * np.arange(1, count + 1, dtype=np.uint64))
        return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _unsigned(values: Tensor) -> ndarray:
    return values.cpu().numpy().astype(np.uint64)


def _mixed(bits: ndarray) -> ndarray:
    """SplitMix64's finaliser; products wrap."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: ndarray = bits ^ (bits >> np.uint64(31))
    return result
