"""Groups of items that share the first codes of their Semantic IDs: the nodes of the trie at one depth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.semantic_ids import SemanticIds


def first_leaves(semantic_ids: SemanticIds, depth: int) -> Tensor:
    """Return the first leaf below each node at a depth, followed by the number of leaves: int64 [nodes + 1]."""
    leaves = torch.arange(len(semantic_ids.tables[depth].start))
    for table in semantic_ids.tables[depth:]:
        leaves = table.start[leaves].long()
    return leaves


def nodes(semantic_ids: SemanticIds, depth: int) -> Tensor:
    """Return the node of each item at a depth: int64 [N + 1], equal for items that share the first `depth` codes; -1 for item 0."""
    leaf = semantic_ids.leaf(torch.arange(1, semantic_ids.items + 1))
    node = torch.searchsorted(first_leaves(semantic_ids, depth), leaf, right=True) - 1
    return torch.cat([torch.tensor([-1]), node])


def check_depth(sampler: object, depth: int, experiment: Any) -> None:
    """Raise UsageError if the experiment's Semantic IDs are known to have at most `depth` levels."""
    levels = getattr(getattr(experiment.tokenize, "quantizer", None), "num_levels", None)
    if levels is None:
        return
    levels += experiment.tokenize.collisions == "append"
    if depth >= levels:
        raise UsageError(f"align.negatives: {sampler!r} must share fewer codes than the {levels} of a Semantic ID")
