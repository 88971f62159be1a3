"""Stage 3: what a set of Semantic IDs is worth before anything is trained on it. Out: `health.json`, shown by `genrec tokenize`.

Formulas, for a level of C codes with frequencies p_c over the items:
    perplexity        exp(- sum over c of p_c ln p_c): 1 when one code is used, C when all are used equally
    dead, dead_share  how many of the C codes no item has, and their share
    reconstruction    sum_i |x_i - x'_i|^2 / sum_i |x_i - mean|^2: 0 is perfect, 1 is what the mean vector alone reaches;
                      null where all vectors are equal, and for codes that are listed item by item
    could_use         how many of a level's codes the vectors could use: min(C, distinct vectors), counted for later levels over
                      the items whose vector the codes before have not yet told apart from another one
Items are `collided` where they share all of their codes with another item. Of those, no quantizer can tell equal vectors apart: they
are counted for themselves, and so are vectors that differ by next to nothing (NEAR).
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

NEAR = 1e-3  # vectors so far apart are near, in units of the catalog's root mean square distance from its mean
ROWS = 1 << 16  # vectors at a time
LOW_PERPLEXITY = 0.5  # of the least usage: a level with a lower perplexity is warned of


class Collapse(NamedTuple):
    """What is wrong with the usage of codes; None where nothing is."""

    error: str | None  # the first level has collapsed: the Semantic IDs are worth nothing
    warning: str | None  # a later level has, or few codes have most of the items


def health(
    semantic_ids: SemanticIds,
    vectors: ndarray,
    reconstructed: ndarray,
    encoded: Tensor,
    sizes: tuple[int, ...],
    items: DataFrame | None = None,
    interactions: DataFrame | None = None,
) -> dict[str, Any]:
    """Plain values for JSON. `levels` and `prefixes` describe the Semantic IDs, `encoded_levels` the quantizer's own codes.

    `encoded` int64 [N, Lq] are those codes, from before collisions were dealt with, `sizes` their levels' sizes, and `reconstructed`
    float32 [N, D] what they stand for. `items`: the catalog, for its categories. `interactions`: *training* events, in the order of
    user and time.
    """
    _check(semantic_ids, vectors, reconstructed, encoded, sizes)
    with Progress("health of the Semantic IDs", total=6) as progress:
        groups, own = list(prefix_groups(semantic_ids.codes)), list(prefix_groups(encoded))
        progress.advance()
        vector = equal_rows(vectors)
        progress.advance()
        spread = _squared_error(vectors, vectors.mean(0, dtype=np.float64, keepdims=True).astype(np.float32)) if vector.any() else 0.0
        could_use = [int(vector.max()) + 1, *(_undecided(each.group.numpy(), vector) for each in own[:-1])]
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


def collapse(figures: dict[str, Any], minimum_usage: float) -> Collapse:
    """Whether a level uses less than `minimum_usage` of the codes it could use (fault S2); `figures` are `health`'s."""
    first, *later = figures["encoded_levels"]
    if figures["distinct_vectors"] == 1:  # whatever the codes, nothing is told apart
        first = first | {"could_use": min(first["size"], figures["items"])}
    error = None
    if first["used"] < minimum_usage * first["could_use"]:
        error = (
            f"{_share_used(first)}, less than the {minimum_usage:.1%} of Tokenize.min_usage: the Semantic IDs have collapsed. "
            + (f"All {figures['items']:,} vectors are equal. " if figures["distinct_vectors"] == 1 else "")
            + "Check that the vectors differ, ask for fewer codes, or lower minimum_usage to allow it"
        )
    found = [_share_used(level) for level in later if level["used"] < minimum_usage * level["could_use"]]
    found += [
        f"few codes of level {level['level']} have most of the items (perplexity {level['perplexity']:.1f} of {level['size']:,})"
        for level in (first, *later)
        if level["could_use"] == level["size"]
        and level["used"] >= minimum_usage * level["size"]
        and level["perplexity"] < LOW_PERPLEXITY * minimum_usage * level["size"]
    ]
    return Collapse(error, "; ".join(found) + ": ask for fewer codes or levels, or train the quantizer for longer" if found else None)


def _share_used(level: dict[str, Any]) -> str:
    used, could = level["used"], level["could_use"]
    return f"level {level['level']} uses {used:,} of {could:,} codes ({used / could:.1%})"


def _check(semantic_ids: SemanticIds, vectors: ndarray, reconstructed: ndarray, encoded: Tensor, sizes: tuple[int, ...]) -> None:
    """Refuse what does not belong together."""
    if vectors.shape != reconstructed.shape or len(vectors) != semantic_ids.items:
        raise InputError(
            f"{semantic_ids.items} items need a vector and a reconstructed vector each, of one width; "
            f"got {list(vectors.shape)} and {list(reconstructed.shape)}"
        )
    if tuple(encoded.shape) != (semantic_ids.items, len(sizes)) or len(sizes) > semantic_ids.levels:
        raise InputError(
            f"{semantic_ids.items} items with Semantic IDs of {semantic_ids.levels} levels do not come from codes "
            f"{list(encoded.shape)} with {len(sizes)} level sizes"
        )


def _levels(codes: Tensor, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    return [{"level": level, **_usage(codes[:, level - 1], size)} for level, size in enumerate(sizes, start=1)]


def _usage(codes: Tensor, size: int) -> dict[str, Any]:
    """How one level's codes int64 [N] are used."""
    share = torch.bincount(codes, minlength=size).double() / len(codes)
    used = int((share > 0).sum())
    perplexity = float(torch.special.entr(share).sum().exp())
    return {"size": size, "used": used, "dead": size - used, "dead_share": 1 - used / size, "perplexity": perplexity}


def _prefix(length: int, sizes: Tensor) -> dict[str, int]:
    """The groups of items that share so many first codes, by their sizes int64 [groups]."""
    return {
        "length": length,
        "distinct": len(sizes),
        "collided_items": int(sizes[sizes > 1].sum()),
        "largest_group": int(sizes.max()),
    }


def _collisions(own: Groups, vectors: ndarray, vector: ndarray, spread: float) -> dict[str, Any]:
    """Collisions before they were dealt with, and how many of them are the vectors' fault. `vector` int64 [N] numbers equal rows."""
    group, sizes, equal = own.group.numpy(), own.sizes.numpy(), np.bincount(vector)
    collided = sizes[group] > 1
    mixed = _distinct_in(group, vector)[group] > 1  # shares its codes with a different vector
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
    """How many of these rows int64 [M], whole groups, are in a group of which all vectors lie within NEAR of its first one."""
    first = np.full(len(group), -1)
    first[group[::-1]] = np.arange(len(group))[::-1]  # of several rows the last one written stays: the lowest
    far = np.zeros(len(group), dtype=bool)
    for chunk in _chunks(len(rows)):
        some = rows[chunk]
        off = np.square(vectors[some] - vectors[first[group[some]]]).sum(1)
        far[group[some[off > limit]]] = True
    return int((~far[group[rows]]).sum())


def equal_rows(vectors: ndarray) -> ndarray:
    """float32 [N, D] -> int64 [N]: numbers 0, 1, ..., the same for equal rows; by a 64-bit hash (two rows in 10^19 share one)."""
    generator = np.random.default_rng(0)
    odd, more = generator.integers(2**63, size=(2, vectors.shape[1]), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashed = np.empty(len(vectors), dtype=np.uint64)
    for rows in _chunks(len(vectors)):
        bits = (np.ascontiguousarray(vectors[rows], dtype=np.float32) + np.float32(0)).view(np.uint32).astype(np.uint64)  # -0 is 0
        bits = (bits + more) * odd
        bits ^= bits >> np.uint64(29)
        bits *= more
        bits ^= bits >> np.uint64(32)
        hashed[rows] = bits.sum(1)
    return np.unique(hashed, return_inverse=True)[1].astype(np.int64)


def _distinct_in(group: ndarray, vector: ndarray) -> ndarray:
    """How many different vectors each group holds, int64 [groups]."""
    count = int(vector.max()) + 1
    pairs = np.sort(group * count + vector)
    return np.bincount(pairs[np.append(True, pairs[1:] != pairs[:-1])] // count)


def _undecided(group: ndarray, vector: ndarray) -> int:
    """How many vectors share a group with a different one; 1 where none does, since every item has some code."""
    distinct = _distinct_in(group, vector)
    return max(1, int(distinct[distinct > 1].sum()))


def _chunks(count: int) -> Iterator[slice]:
    return (slice(begin, min(begin + ROWS, count)) for begin in range(0, count, ROWS))


def _squared_error(vectors: ndarray, others: ndarray) -> float:
    """Of each row, or of each row and the one other; summed."""
    errors = (vectors[rows] - (others if len(others) == 1 else others[rows]) for rows in _chunks(len(vectors)))
    return sum(float(np.square(error).sum(dtype=np.float64)) for error in errors)
