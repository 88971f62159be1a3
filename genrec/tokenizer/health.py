"""Stage 3: what a set of Semantic IDs is worth before anything is trained on it. Out: `health.json`, shown by `genrec show`.

Formulas, for a level of C codes with frequencies p_c over the items:
    perplexity        exp(- sum over c of p_c ln p_c): 1 when one code is used, C when all are used equally
    dead_share        the share of the C codes that no item has
    reconstruction    sum_i |x_i - x'_i|^2 / sum_i |x_i - mean|^2: 0 is perfect, 1 is what the mean vector alone reaches;
                      null where all vectors are equal
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from genrec.semantic_ids import SemanticIds
from genrec.tokenizer.collisions import prefix_groups


def health(semantic_ids: SemanticIds, vectors: ndarray, reconstructed: ndarray, quantised_levels: int) -> dict[str, Any]:
    """Plain values for JSON; `quantised_levels` of the levels are the quantizer's, one more is that which separates collisions."""
    prefixes = [
        {
            "length": length,
            "distinct": len(sizes),
            "collided_items": int(sizes[sizes > 1].sum()),
            "largest_group": int(sizes.max()),
        }
        for length, (_, sizes) in enumerate(prefix_groups(semantic_ids.codes), start=1)
    ]
    return {
        "items": semantic_ids.items,
        "levels": [
            {"level": level, **_usage(codes, size)}
            for level, (codes, size) in enumerate(zip(semantic_ids.codes.T, semantic_ids.level_sizes, strict=True), start=1)
        ],
        "prefixes": prefixes,
        "quantised_levels": quantised_levels,
        "collided_before_separation": prefixes[quantised_levels - 1]["collided_items"],
        "largest_group_before_separation": prefixes[quantised_levels - 1]["largest_group"],
        "collided": semantic_ids.collided,
        "reconstruction": _relative_error(vectors, reconstructed),
    }


def _usage(codes: Tensor, size: int) -> dict[str, Any]:
    """How one level's codes int64 [N] are used."""
    share = torch.bincount(codes, minlength=size).double() / len(codes)
    used = int((share > 0).sum())
    perplexity = float(torch.special.entr(share).sum().exp())
    return {"size": size, "used": used, "dead_share": 1 - used / size, "perplexity": perplexity}


def _relative_error(vectors: ndarray, reconstructed: ndarray) -> float | None:
    """Squared error relative to the spread around the mean, or None without spread."""
    spread = float(np.square(vectors - vectors.mean(0)).sum(dtype=np.float64))
    return float(np.square(vectors - reconstructed).sum(dtype=np.float64)) / spread if spread > 0 else None
