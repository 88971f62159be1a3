"""Randomness as a function of what it is for: never global state, so that order of work and restarts change no draw."""

from __future__ import annotations

import hashlib

import torch


def seed_of(*parts: int | str) -> int:
    """A seed from the run's seed and what is drawn: `seed_of(seed, "order", epoch)`; in 0 .. 2**63 - 1."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A generator on the CPU, seeded by `seed_of(*parts)`."""
    return torch.Generator().manual_seed(seed_of(*parts))
