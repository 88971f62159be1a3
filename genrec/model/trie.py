"""What every policy over Semantic IDs needs of them, on its device: tokens and codes of items, and the trie to decode over.

In: a policy that has read histories (`Decoding`). Out: a ranking of real items, by constrained beam search or exactly.

Tables are int32, and nothing is kept that follows from another one: about 40 bytes an item with four levels (a test bounds them).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genrec.errors import UsageError
from genrec.model.exact import exact_search
from genrec.model.generation import Decoding, Level, beam_search
from genrec.model.leaves import LeafItems, forbid, rank_items
from genrec.semantic_ids import PrefixTable, SemanticIds
from genrec.types import Ranking

SMALL = 2**16  # cells of a dense table that no catalogue is too small for
SPARSE = 4  # a dense table has at most so many cells a child: masking a cell costs about a quarter of gathering a child


@dataclass(frozen=True, eq=False)
class ItemCodes:
    """The codes of items, read like a table: `codes[items]`, items int64 [...] -> int64 [..., L]; 0 for item 0, which has none."""

    tokens: Tensor  # int32 [N + 1, L]
    first: Tensor  # int32 [L]  the token of code 0 of each level

    def __getitem__(self, items: Tensor) -> Tensor:
        return (self.tokens[items] - self.first).clamp(min=0).long()


class Trie(nn.Module):
    """Buffers only, none of them stored with the weights."""

    def __init__(self, semantic_ids: SemanticIds) -> None:
        super().__init__()
        self.semantic_ids = semantic_ids
        self.tokens: Tensor  # int32 [N + 1, L]  row 0 is padding
        self.first_tokens: Tensor  # int32 [L]  the token of code 0 of each level
        everything = torch.arange(semantic_ids.items + 1)
        self._keep("tokens", semantic_ids.tokens(everything).int())
        self._keep("first_tokens", (semantic_ids.offsets + 1).int())
        start, items = semantic_ids.items_by_leaf()
        place = torch.full((semantic_ids.items + 1,), semantic_ids.items, dtype=torch.int32)
        place[items.long()] = torch.arange(semantic_ids.items, dtype=torch.int32)
        for name, leaf_table in (("leaf_start", start), ("leaf_items", items), ("leaf_place", place)):
            self._keep(name, leaf_table)
        self.largest_leaf = int(start.diff().max())
        self.full: list[bool] = []  # of each level
        for level, (table, codes) in enumerate(zip(semantic_ids.tables, semantic_ids.level_sizes, strict=True)):
            self._keep(f"start_{level}", table.start)
            self._keep(f"code_{level}", table.code)
            self._keep(f"child_{level}", _dense(table, codes, semantic_ids.items))
            self.full.append(len(table.code) == (len(table.start) - 1) * codes)

    def _keep(self, name: str, table: Tensor | None) -> None:
        self.register_buffer(name, table, persistent=False)

    @property
    def codes(self) -> ItemCodes:
        """The items' codes, on the policy's device."""
        return ItemCodes(self.tokens, self.first_tokens)

    @property
    def levels(self) -> list[Level]:
        """The trie's levels, on the policy's device."""
        sizes, buffers = self.semantic_ids.level_sizes, self._buffers
        result = []
        for level, (codes, full) in enumerate(zip(sizes, self.full, strict=True)):
            start, code = self.get_buffer(f"start_{level}"), self.get_buffer(f"code_{level}")
            result.append(Level(start, code, codes, full, buffers[f"child_{level}"]))
        return result

    @property
    def leaves(self) -> LeafItems:
        """The items of the trie's leaves, on the policy's device."""
        start, items, place = (self.get_buffer(f"leaf_{name}") for name in ("start", "items", "place"))
        return LeafItems(start, items, place, self.largest_leaf)

    def first_token(self, level: int) -> int:
        """The token of code 0 of a level (from 0)."""
        return 1 + int(self.semantic_ids.offsets[level])

    def recommend(self, decoding: Decoding, beams: int, n: int, exclude: Tensor | None) -> Ranking:
        """The `n` best items by beam search; `exclude` int64 [B, E] (0 = none) is never returned.

        A beam is a Semantic ID; where several items share it, it fills as many slots of the list. Equal scores: by item id, among
        all candidates of the last level; before that by the codes so far.
        """
        if n > beams:
            raise UsageError(f"{n} items need as many beams, got policy.beams = {beams}")
        levels, leaves = self.levels, self.leaves
        forbidden = forbid(leaves, [level.start for level in levels], exclude)
        return rank_items(beam_search(decoding, levels, leaves, beams, forbidden), leaves, forbidden, n)

    def recommend_exactly(self, decoding: Decoding, n: int, exclude: Tensor | None) -> Ranking:
        """The `n` best of all items, none pruned: by score, equal scores by item id; `exclude` as of `recommend`."""
        levels, leaves = self.levels, self.leaves
        forbidden = forbid(leaves, [level.start for level in levels], exclude)
        return exact_search(decoding, levels, leaves, self.semantic_ids, n, None if forbidden is None else forbidden.places)


def _dense(table: PrefixTable, codes: int, items: int) -> Tensor | None:
    """The child of every code of every node, int32 [nodes, C], -1 where there is none; None where that is not worth its memory."""
    nodes, children = len(table.start) - 1, len(table.code)
    cells = nodes * codes
    if cells == children or cells > SPARSE * children or cells > max(SMALL, 2 * items):
        return None
    parent = torch.repeat_interleave(torch.arange(nodes), table.start.diff().long())
    child = torch.full((nodes, codes), -1, dtype=torch.int32)
    child[parent, table.code.long()] = torch.arange(children, dtype=torch.int32)
    return child
