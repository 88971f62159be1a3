"""Stage 3: vectors become Semantic IDs. In: float32 [N, D], row i for item i+1. Out: `SemanticIds`, the quantizer, its health.

Source: TIGER (Rajput et al. 2023, 2305.05065), section 3.1.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from numpy import ndarray

from genrec.errors import InputError, NumericsError, UsageError
from genrec.semantic_ids import SemanticIds
from genrec.tokenizer.collisions import separate_collisions
from genrec.tokenizer.health import health
from genrec.tokenizer.rqkmeans import RQKMeans
from genrec.types import FittedQuantizer, Quantizer


@dataclass(frozen=True)
class Tokenize:
    """How items get their Semantic IDs."""

    quantizer: Quantizer = field(default_factory=RQKMeans)  # what turns a vector into codes
    separate: bool = True  # whether a last level tells apart the items that share their codes
    minimum_usage: float = 0.5  # share of the first level's codes that must be used, in [0, 1]; fewer is a collapse
    seed: int = 0  # of the quantizer, 0..2**63-1

    def __post_init__(self) -> None:
        if not isinstance(self.quantizer, Quantizer):
            raise UsageError(f"Tokenize.quantizer must have fit, restore and level_sizes, got {self.quantizer!r}")
        if not 0 <= self.minimum_usage <= 1:
            raise UsageError(f"Tokenize.minimum_usage must lie in [0, 1], got {self.minimum_usage}")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"Tokenize.seed must lie in 0..2**63-1, got {self.seed}")


class Tokenized(NamedTuple):
    """What the stage stores."""

    semantic_ids: SemanticIds
    quantizer: FittedQuantizer
    health: dict[str, Any]  # see genrec.tokenizer.health


def tokenize(vectors: ndarray, specification: Tokenize) -> Tokenized:
    """Fit the quantizer, encode every item, separate collisions, and refuse a collapse (fault S2)."""
    sizes = specification.quantizer.level_sizes()
    quantizer = specification.quantizer.fit(vectors, torch.Generator().manual_seed(specification.seed))
    encoded = quantizer.encode(vectors)
    if encoded.shape != (len(vectors), len(sizes)) or encoded.dtype.kind != "i":
        raise InputError(
            f"{type(specification.quantizer).__name__} must encode {len(vectors)} vectors to codes "
            f"int64 [{len(vectors)}, {len(sizes)}], got {encoded.dtype} {list(encoded.shape)}"
        )
    codes = torch.as_tensor(encoded, dtype=torch.int64)
    if specification.separate:
        separated = separate_collisions(codes)
        semantic_ids = SemanticIds(separated, (*sizes, int(separated[:, -1].max()) + 1))
    else:
        semantic_ids = SemanticIds(codes, sizes)
    figures = health(semantic_ids, vectors, quantizer.reconstruct(encoded), quantised_levels=len(sizes))
    _check_usage(figures, specification.minimum_usage)
    if semantic_ids.collided:
        warnings.warn(
            f"{semantic_ids.collided} of {semantic_ids.items} items share their Semantic ID with another item; "
            "Tokenize(separate=True) tells them apart",
            stacklevel=2,
        )
    return Tokenized(semantic_ids, quantizer, figures)


def _check_usage(figures: dict[str, Any], minimum: float) -> None:
    """Refuse a first level of which too few codes are used; with fewer items than codes, one code an item is the most."""
    used, size = figures["levels"][0]["used"], min(figures["levels"][0]["size"], figures["items"])
    if used < minimum * size:
        raise NumericsError(
            f"level 1 uses {used} of {size} codes ({used / size:.1%}), less than the {minimum:.1%} of Tokenize.minimum_usage: the "
            "Semantic IDs have collapsed. Check that the vectors differ, ask for fewer codes, or lower minimum_usage to allow it"
        )
