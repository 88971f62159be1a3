"""Seeds and generators that depend only on the run's seed and on the purpose of the draw.

Global random state is never used. The order of the work, resuming and restarts therefore change no draw.
"""

from __future__ import annotations

import hashlib

import torch


def seed_of(*parts: int | str) -> int:
    """Return a seed in 0 .. 2**63 - 1 from the run's seed and the purpose of the draw, as in `seed_of(seed, "order", epoch)`."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded with `seed_of(*parts)`."""
    return torch.Generator().manual_seed(seed_of(*parts))
