"""What every policy over Semantic IDs needs of them, on its device: tokens and codes of items, and the trie to decode over.

In: a policy that has read histories (`Decoding`). Out: a ranking of real items, by constrained beam search.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genrec.errors import UsageError
from genrec.model.generation import Decoding, beam_search
from genrec.model.leaves import LeafItems, allow, rank_items
from genrec.semantic_ids import PrefixTable, SemanticIds
from genrec.types import Ranking


class Trie(nn.Module):
    """Buffers only, none of them stored with the weights."""

    def __init__(self, semantic_ids: SemanticIds) -> None:
        super().__init__()
        self.semantic_ids = semantic_ids
        self.tokens: Tensor  # int64 [N + 1, L]  row 0 is padding
        self.codes: Tensor  # int64 [N + 1, L]
        self.leaf_start: Tensor  # int64 [leaves + 1]
        self.leaf_items: Tensor  # int64 [N]
        self.register_buffer("tokens", semantic_ids.tokens(torch.arange(semantic_ids.items + 1)), persistent=False)
        self.register_buffer("codes", nn.functional.pad(semantic_ids.codes, (0, 0, 1, 0)), persistent=False)
        start, items = semantic_ids.items_by_leaf()
        self.register_buffer("leaf_start", start, persistent=False)
        self.register_buffer("leaf_items", items, persistent=False)
        self.largest_leaf = int(start.diff().max())
        for level, table in enumerate(semantic_ids.tables):
            self.register_buffer(f"start_{level}", table.start, persistent=False)
            self.register_buffer(f"code_{level}", table.code, persistent=False)
            self.register_buffer(f"leaf_{level}", table.leaf, persistent=False)

    @property
    def tables(self) -> list[PrefixTable]:
        """The trie's tables, on the policy's device."""
        result = []
        for level, table in enumerate(self.semantic_ids.tables):
            start, code, leaf = (self.get_buffer(f"{name}_{level}") for name in ("start", "code", "leaf"))
            result.append(PrefixTable(start, code, leaf, table.branch))
        return result

    @property
    def leaves(self) -> LeafItems:
        """The items of the trie's leaves, on the policy's device."""
        return LeafItems(self.leaf_start, self.leaf_items, self.largest_leaf)

    def first_token(self, level: int) -> int:
        """The token of code 0 of a level (from 0)."""
        return 1 + int(self.semantic_ids.offsets[level])

    def recommend(self, decoding: Decoding, beams: int, n: int, exclude: Tensor | None) -> Ranking:
        """The `n` best items by beam search; `exclude` int64 [B, E] (0 = none) is never returned.

        A beam is a Semantic ID; where several items share it, it fills as many slots of the list.
        """
        if n > beams:
            raise UsageError(f"{n} items need as many beams, got policy.beams = {beams}")
        leaves = self.leaves
        allowed = allow(leaves, exclude)
        forbidden = None if allowed is None else allowed.forbidden
        return rank_items(beam_search(decoding, self.tables, beams, forbidden), leaves, allowed, n)
