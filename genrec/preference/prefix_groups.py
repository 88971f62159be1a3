"""Groups of items that share the first codes of their Semantic IDs: the nodes of the trie at one depth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.semantic_ids import SemanticIds
from genrec.types import AdaptiveQuantizer, CatalogQuantizer

MANY_ITEMS = 1 << 20  # a number of items for which every quantizer has a size


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


def known_levels(experiment: Any) -> int | None:
    """Return the number of levels of the experiment's Semantic IDs, or None if it is known only after reading a file of codes.

    Without a tokenizer every item is one code.
    """
    if experiment.tokenize is None:
        return 1
    quantizer = experiment.tokenize.quantizer
    if isinstance(quantizer, CatalogQuantizer):
        return None
    if isinstance(quantizer, AdaptiveQuantizer):  # the number of levels does not depend on the number of items
        quantizer = quantizer.for_items(MANY_ITEMS)
    levels: int = len(quantizer.level_sizes()) + (experiment.tokenize.collisions == "append")
    return levels


def check_depth(component: object, depth: int, experiment: Any) -> None:
    """Raise UsageError if the experiment's Semantic IDs are known to have at most `depth` levels."""
    levels = known_levels(experiment)
    if levels is not None and depth >= levels:
        why = "; without a tokenizer (tokenize=None) every item is one code" if experiment.tokenize is None else ""
        raise UsageError(f"align.negatives: {component!r} must share fewer codes than the {levels} of a Semantic ID{why}")
