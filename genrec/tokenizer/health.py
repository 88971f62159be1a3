"""Diagnostics of Semantic IDs, stored as `health.json` and shown by `genrec tokenize`.

For a level of C codes with frequencies p_c over the items:
    perplexity        exp(- sum over c of p_c ln p_c), the effective number of codes: 1 for a single code, C for equal use of all codes
    dead, dead_share  number and share of the C codes that no item has
    reconstruction    sum_i |x_i - x'_i|^2 / sum_i |x_i - mean|^2: 0 is exact, 1 is the error of the mean vector; null if all vectors
                      are equal, and for listed codes
    could_use         number of the level's codes that the vectors could use: min(C, distinct vectors). For later levels, only vectors
                      that share all earlier codes with a different vector are counted. The others also get codes, but need none, so
                      that a later level may use more
An item is `collided` if it shares all of its codes with another item. No quantizer can distinguish equal vectors, so their collisions
are counted separately, and so are those of nearly equal vectors (see `NEAR`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy import ndarray
from pandas import DataFrame
from torch import Tensor

from genrec.errors import InputError
from genrec.progress import Progress
from genrec.semantic_ids import SemanticIds
from genrec.tokenizer.collisions import Groups, prefix_groups
from genrec.tokenizer.purity import category_purity, co_occurrence

NEAR = 1e-3  # largest distance of nearly equal vectors, in units of the root mean square distance from the mean vector
ROWS = 1 << 16  # vectors per chunk
LOW_PERPLEXITY = 0.5  # warn of a level with a perplexity below this share of min_usage * size


class Collapse(NamedTuple):
    """Messages about low code usage; None if there is nothing to report."""

    error: str | None  # the first level has collapsed, so that the Semantic IDs are useless
    warning: str | None  # a later level has collapsed, or a few codes have most of the items


def health(
    semantic_ids: SemanticIds,
    vectors: ndarray,
    reconstructed: ndarray,
    encoded: Tensor,
    sizes: tuple[int, ...],
    items: DataFrame | None = None,
    interactions: DataFrame | None = None,
) -> dict[str, Any]:
    """Return the diagnostics as plain values for JSON.

    `levels` and `prefixes` describe the Semantic IDs, `encoded_levels` the quantizer's codes before collisions were resolved.

    - `vectors`: float32 [N, D].
    - `reconstructed`: float32 [N, D], the vectors that the quantizer's codes stand for.
    - `encoded`: int64 [N, Lq], the quantizer's codes; `sizes` are their level sizes.
    - `items`: the catalog, for category purity.
    - `interactions`: *training* interactions, sorted by user and time, for co-occurrence.
    """
    _check(semantic_ids, vectors, reconstructed, encoded, sizes)
    with Progress("health of the Semantic IDs", total=6) as progress:
        groups, own = list(prefix_groups(semantic_ids.codes)), list(prefix_groups(encoded))
        progress.advance()
        vector = equal_rows(vectors)
        progress.advance()
        spread = _squared_error(vectors, vectors.mean(0, dtype=np.float64, keepdims=True).astype(np.float32)) if vector.any() else 0.0
        could_use = [int(vector.max()) + 1, *(_ambiguous(each.group.numpy(), vector) for each in own[:-1])]
        figures = {
            "items": semantic_ids.items,
            "levels": _levels(semantic_ids.codes, semantic_ids.level_sizes),
            "encoded_levels": [
                level | {"could_use": min(level["size"], could)}
                for level, could in zip(_levels(encoded, sizes), could_use, strict=True)
            ],
            "prefixes": [_prefix(length, each.sizes) for length, each in enumerate(groups, start=1)],
            "quantized_levels": len(sizes),
        }
        progress.advance()
        figures |= _collisions(own[-1], vectors, vector, spread) | {
            "moved": int((semantic_ids.codes[:, : len(sizes)] != encoded).any(1).sum()),
            "collided": semantic_ids.collided,
            "reconstruction": _squared_error(vectors, reconstructed) / spread if spread > 0 else None,
        }
        progress.advance()
        rows = [each.group.numpy() for each in groups]
        figures["category_purity"] = category_purity(rows, items)
        progress.advance()
        figures["co_occurrence"] = co_occurrence(rows, interactions)
        progress.advance()
    return figures


def collapse(figures: dict[str, Any], min_usage: float) -> Collapse:
    """Check each level for a usage below `min_usage`, relative to the codes it could use. `figures` is the result of `health`."""
    first, *later = figures["encoded_levels"]
    if figures["distinct_vectors"] == 1:  # no quantizer can distinguish the items
        first = first | {"could_use": min(first["size"], figures["items"])}
    error = None
    if first["used"] < min_usage * first["could_use"]:
        error = (
            f"{_share_used(first)}, less than the {min_usage:.1%} of Tokenize.min_usage: the Semantic IDs have collapsed. "
            + (f"All {figures['items']:,} vectors are equal. " if figures["distinct_vectors"] == 1 else "")
            + "Check that the vectors differ, reduce the codebook size, or lower min_usage to allow it"
        )
    found = [_share_used(level) for level in later if level["used"] < min_usage * level["could_use"]]
    found += [
        f"a few codes of level {level['level']} have most of the items (perplexity {level['perplexity']:.1f} of {level['size']:,})"
        for level in (first, *later)
        if level["could_use"] == level["size"]
        and level["used"] >= min_usage * level["size"]
        and level["perplexity"] < LOW_PERPLEXITY * min_usage * level["size"]
    ]
    advice = "reduce the codebook size or the number of levels, or train the quantizer for longer"
    return Collapse(error, f"{'; '.join(found)}: {advice}" if found else None)


def _share_used(level: dict[str, Any]) -> str:
    """Return the first part of a message about low usage."""
    used, could = level["used"], level["could_use"]
    return f"level {level['level']} uses {used:,} of {could:,} codes ({used / could:.1%})"


def _check(semantic_ids: SemanticIds, vectors: ndarray, reconstructed: ndarray, encoded: Tensor, sizes: tuple[int, ...]) -> None:
    """Raise `InputError` if shapes do not match."""
    if vectors.shape != reconstructed.shape or len(vectors) != semantic_ids.items:
        raise InputError(
            f"{semantic_ids.items} items need a vector and a reconstructed vector each, of equal width; "
            f"got {list(vectors.shape)} and {list(reconstructed.shape)}"
        )
    if tuple(encoded.shape) != (semantic_ids.items, len(sizes)) or len(sizes) > semantic_ids.levels:
        raise InputError(
            f"Semantic IDs of {semantic_ids.items} items and {semantic_ids.levels} levels do not match codes "
            f"{list(encoded.shape)} with {len(sizes)} level sizes"
        )


def _levels(codes: Tensor, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return the usage of every level of codes int64 [N, L]."""
    return [{"level": level, **_usage(codes[:, level - 1], size)} for level, size in enumerate(sizes, start=1)]


def _usage(codes: Tensor, size: int) -> dict[str, Any]:
    """Return the usage of one level's codes int64 [N]."""
    share = torch.bincount(codes, minlength=size).double() / len(codes)
    used = int((share > 0).sum())
    perplexity = float(torch.special.entr(share).sum().exp())
    return {"size": size, "used": used, "dead": size - used, "dead_share": 1 - used / size, "perplexity": perplexity}


def _prefix(length: int, sizes: Tensor) -> dict[str, int]:
    """Summarize the groups of items that share a prefix of this length; `sizes` is int64 [groups]."""
    return {
        "length": length,
        "distinct": len(sizes),
        "collided_items": int(sizes[sizes > 1].sum()),
        "largest_group": int(sizes.max()),
    }


def _collisions(own: Groups, vectors: ndarray, vector: ndarray, spread: float) -> dict[str, Any]:
    """Count the collisions of the quantizer's codes, and those due to equal or nearly equal vectors.

    `vector` int64 [N] has equal numbers for equal rows; `spread` is the sum of squared distances from the mean vector.
    """
    group, sizes, equal = own.group.numpy(), own.sizes.numpy(), np.bincount(vector)
    collided = sizes[group] > 1
    mixed = _distinct_in(group, vector)[group] > 1  # items that share their codes with a different vector
    return {
        "distinct_vectors": len(equal),
        "equal_vectors": {
            "items": int(equal[equal > 1].sum()),
            "groups": int((equal > 1).sum()),
            "largest": int(equal.max()),
            "collided_before_separation": int((collided & (equal[vector] > 1)).sum()),
        },
        "distinct_before_separation": len(sizes),
        "collided_before_separation": int(collided.sum()),
        "collided_before_separation_unequal": int(mixed.sum()),
        "collided_before_separation_near_equal": _near_equal(
            vectors, group, np.flatnonzero(mixed), limit=NEAR**2 * spread / len(vectors)
        ),
        "largest_group_before_separation": int(sizes.max()),
    }


def _near_equal(vectors: ndarray, group: ndarray, rows: ndarray, limit: float) -> int:
    """Count the rows int64 [M] of groups in which every vector is within a squared distance `limit` of the group's first vector.

    `rows` must hold whole groups.
    """
    first = np.full(len(group), -1)
    first[group[::-1]] = np.arange(len(group))[::-1]  # the last assignment stays, which is the lowest row
    far = np.zeros(len(group), dtype=bool)
    for chunk in _chunks(len(rows)):
        part = rows[chunk]
        distance = np.square(vectors[part] - vectors[first[group[part]]]).sum(1)
        far[group[part[distance > limit]]] = True
    return int((~far[group[rows]]).sum())


def equal_rows(vectors: ndarray) -> ndarray:
    """Number the distinct rows of float32 [N, D] from 0: int64 [N], equal for equal rows.

    Rows are compared by a 64-bit hash; two different rows have the same hash with a probability of about 1e-19.
    """
    generator = np.random.default_rng(0)
    factor, offset = generator.integers(2**63, size=(2, vectors.shape[1]), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashed = np.empty(len(vectors), dtype=np.uint64)
    for rows in _chunks(len(vectors)):
        bits = (np.ascontiguousarray(vectors[rows], dtype=np.float32) + np.float32(0)).view(np.uint32).astype(np.uint64)  # -0 to 0
        bits = (bits + offset) * factor
        bits ^= bits >> np.uint64(29)
        bits *= offset
        bits ^= bits >> np.uint64(32)
        hashed[rows] = bits.sum(1)
    return np.unique(hashed, return_inverse=True)[1].astype(np.int64)


def _distinct_in(group: ndarray, vector: ndarray) -> ndarray:
    """Return the number of distinct vectors of each group, int64 [groups]."""
    count = int(vector.max()) + 1
    pairs = np.sort(group * count + vector)
    return np.bincount(pairs[np.append(True, pairs[1:] != pairs[:-1])] // count)


def _ambiguous(group: ndarray, vector: ndarray) -> int:
    """Return the number of distinct vectors that share a group with a different vector, at least 1."""
    distinct = _distinct_in(group, vector)
    return max(1, int(distinct[distinct > 1].sum()))


def _chunks(count: int) -> Iterator[slice]:
    """Split 0..count - 1 into slices of at most `ROWS`."""
    return (slice(begin, min(begin + ROWS, count)) for begin in range(0, count, ROWS))


def _squared_error(vectors: ndarray, others: ndarray) -> float:
    """Return the sum of squared differences between `vectors` and `others`, which has as many rows or a single one."""
    errors = (vectors[rows] - (others if len(others) == 1 else others[rows]) for rows in _chunks(len(vectors)))
    return sum(float(np.square(error).sum(dtype=np.float64)) for error in errors)
