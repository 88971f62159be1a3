"""A small synthetic training set for negative samplers, and its batches. Out: `SamplerContext`, `SequenceBatch`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from pandas import DataFrame

from genrec.data.batches import Examples
from genrec.errors import UsageError
from genrec.semantic_ids import SemanticIds
from genrec.types import SamplerContext, SequenceBatch


def sampler_context(seed: int = 0, items: int = 60, users: int = 40) -> SamplerContext:
    """A small synthetic training set: skewed popularity, vectors that follow the codes, and items that share a Semantic ID.

    `items` is at least 20. Every user takes between 3 and 12 items, each once.
    """
    if items < 20:
        raise UsageError(f"a world for samplers needs at least 20 items, got {items}")
    source = np.random.default_rng(seed)
    codes = source.integers(0, 4, (items, 3))
    codes[items - items // 5 :] = codes[: items // 5]  # the last fifth shares the Semantic IDs of the first
    vectors = sum(source.normal(size=(4, 16))[codes[:, level]] / 2**level for level in range(3))
    vectors = np.concatenate([np.zeros((1, 16)), vectors + 0.05 * source.normal(size=(items, 16))])
    weights = 1 / (source.permutation(items) + 1.0)
    taken = [source.choice(items, source.integers(3, 13), replace=False, p=weights / weights.sum()) + 1 for _ in range(users)]
    interactions = DataFrame(
        {
            "user": np.repeat(np.arange(users), [len(row) for row in taken]),
            "item": np.concatenate(taken),
            "time": np.concatenate([np.arange(len(row)) for row in taken]),
        }
    )
    interactions["rating"] = source.integers(1, 6, len(interactions)).astype(float)
    popularity = torch.bincount(torch.from_numpy(interactions["item"].to_numpy(copy=True)), minlength=items + 1)
    vectors_ = torch.from_numpy(vectors).float()
    return SamplerContext(items, interactions, popularity, vectors_, SemanticIds(torch.from_numpy(codes), (4, 4, 4)))


def batches_of(context: SamplerContext, size: int = 32, length: int = 20) -> Iterator[SequenceBatch]:
    """All training examples of a context, one per prefix of length 1 or more, in a fixed shuffled order: `size` a batch."""
    table = context.interactions.sort_values(["user", "time"], kind="stable")
    user, item = (torch.from_numpy(table[name].to_numpy("int64", copy=True)) for name in ("user", "item"))
    users, counts = torch.unique_consecutive(user, return_counts=True)
    begin, some = counts.cumsum(0) - counts, counts > 1
    examples = Examples(item, users[some], begin[some], begin[some] + 1, (counts[some] - 1).cumsum(0), length)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
    for begin in range(0, len(order), size):
        yield examples.batch(order[begin : begin + size])
