"""Seeds and generators that depend only on the run's seed and on the purpose of the draw.

Global random state is never used. The order of the work, resuming and restarts therefore change no draw.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor


class PartOfStep(int):
    """The number of a training step, which also knows the part of the step's batch (`Optimization.accumulate`).

    It is the number in all arithmetic, so that a schedule depends on the step alone. Random numbers that are drawn for it by
    `seed_of` and `generator` depend on the part too: parts of one batch have draws of their own.
    """

    part: int  # from 0

    def __new__(cls, step: int, part: int = 0) -> PartOfStep:
        """Return the number `step` with its part."""
        made = super().__new__(cls, step)
        made.part = part
        return made


def seed_of(*parts: int | str) -> int:
    """Return a seed in 0 .. 2**63 - 1 from the run's seed and the purpose of the draw, as in `seed_of(seed, "order", epoch)`.

    Of a `PartOfStep` after the first, its part counts too.
    """
    parts = tuple(f"{int(each)} part {each.part}" if isinstance(each, PartOfStep) and each.part else each for each in parts)
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded with `seed_of(*parts)`."""
    return torch.Generator().manual_seed(seed_of(*parts))


def gumbel(location: Tensor, source: torch.Generator) -> Tensor:
    """Draw independent Gumbel samples with locations float [...]; `source` is on their device."""
    noise = torch.empty_like(location).exponential_(generator=source).clamp_(min=torch.finfo(location.dtype).tiny)
    return location - noise.log_()  # -log of an Exp(1) sample is a Gumbel sample


def splitmix64(state: ndarray) -> ndarray:
    """Return 64 pseudo-random bits for each number, uint64 of the same shape, by the finalizer of SplitMix64 (Steele et al. 2014)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits: ndarray = state ^ (state >> np.uint64(31))
    return bits
