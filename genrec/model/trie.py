"""What every policy over Semantic IDs needs of them, on its device: tokens and codes of items, and the trie to decode over.

In: a policy that has read histories (`Decoding`). Out: a ranking of real items, by constrained beam search (also below a prefix) or
exactly. In: log-probabilities of a level's codes. Out: those of items' codes, as they are or normalized over the codes that lead to a
real item.

Tables are int32, and nothing is kept that follows from another one: about 40 bytes an item with four levels (a test bounds them).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from genrec.errors import UsageError
from genrec.model.beam_search import Decoding, Level, Prefix, beam_search
from genrec.model.exact_search import exact_search
from genrec.model.item_lists import LeafItems, forbid, parents, rank_items
from genrec.semantic_ids import PrefixTable, SemanticIds
from genrec.types import Ranking

SMALL = 2**16  # cells of a dense table that no catalog is too small for
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

    def nodes(self, items: Tensor) -> list[Tensor]:
        """Items int64 [...], each 1..N -> the nodes of their prefixes of 0..L codes, int64 [...] each."""
        place = self.get_buffer("leaf_place")[items].long()
        path = [place if self.largest_leaf == 1 else parents(place, self.get_buffer("leaf_start"))]
        for level in reversed(self.levels):
            path.append(parents(path[-1], level.start))
        return path[::-1]

    def item_log_probs(self, levels: Iterable[Tensor], items: Tensor, constrained: bool) -> Tensor:
        """Log-probabilities of codes, float32 [B, M or 1, C] each level -> of items int64 [B, M], float32 [B, M, L]; -inf for item 0.

        `constrained`: each level is normalized anew, over the children of the item's prefix alone. The levels are gone through one by
        one, so that an iterator may make them as they are needed.
        """
        real = items.clamp(min=1)
        codes, nodes = self.codes[real], self.nodes(real) if constrained else []
        found = []
        for depth, log_probs in enumerate(levels):
            each = log_probs.expand(*items.shape, -1)
            code = codes[..., depth, None]
            found.append(self._among_children(depth, each, code, nodes) if constrained else each.gather(-1, code))
        return torch.cat(found, -1).masked_fill((items == 0).unsqueeze(-1), -torch.inf)

    def _among_children(self, depth: int, log_probs: Tensor, code: Tensor, nodes: list[Tensor]) -> Tensor:
        """Float32 [B, M, C], the items' codes int64 [B, M, 1] and `nodes` -> the codes' log softmax among siblings, [B, M, 1].

        No wider than C: by a dense table all codes are looked at, elsewhere as many as the node with most children has.
        """
        level, node = self.levels[depth], nodes[depth].unsqueeze(-1)
        if level.full:
            return log_probs.gather(-1, code)
        if level.child is not None:
            return log_probs.masked_fill(level.child[node.squeeze(-1)] < 0, -torch.inf).log_softmax(-1).gather(-1, code)
        begin = level.start[node].long()
        child = begin + torch.arange(self.semantic_ids.tables[depth].branch, device=node.device)
        siblings = log_probs.gather(-1, level.code[child.clamp(max=len(level.code) - 1)].long())
        siblings = siblings.masked_fill(child >= level.start[node + 1], -torch.inf)
        return siblings.log_softmax(-1).gather(-1, nodes[depth + 1].unsqueeze(-1) - begin)

    @torch.no_grad()
    def item_vectors(self, embedding: Tensor) -> Tensor:
        """Vectors of tokens float32 [V, D] -> of items, the sum of their codes', float32 [N + 1, D]; row 0 zeros."""
        return embedding_bag(self.tokens, embedding, mode="sum", padding_idx=0)

    def recommend(self, decoding: Decoding, beams: int, n: int, exclude: Tensor | None) -> Ranking:
        """The `n` best items by beam search; `exclude` int64 [B, E] (0 = none) is never returned.

        A beam is a Semantic ID; where several items share it, it fills as many slots of the list. Equal scores: by item id, among
        all candidates of the last level; before that by the codes so far.
        """
        _check_beams(n, beams)
        levels, leaves = self.levels, self.leaves
        forbidden = forbid(leaves, [level.start for level in levels], exclude)
        return rank_items(beam_search(decoding, levels, leaves, beams, forbidden), leaves, forbidden, n)

    def recommend_below(self, decoding: Decoding, beams: int, items: Tensor, depth: int, n: int) -> Ranking:
        """The `n` best items that share the first `depth` codes with items int64 [B], by beam search below that prefix.

        Scores are log-probabilities of whole Semantic IDs. Item 0 shares no code: from depth 1 on its row is empty.
        """
        _check_beams(n, beams)
        if not 0 <= depth <= self.semantic_ids.levels:
            raise UsageError(f"depth must lie in 0..{self.semantic_ids.levels}, the codes of a Semantic ID, got {depth}")
        real = items.clamp(min=1)
        prefix = Prefix(self.codes[real][:, :depth], self.nodes(real)[depth], (items > 0) | (depth == 0))
        return rank_items(beam_search(decoding, self.levels, self.leaves, beams, prefix=prefix), self.leaves, None, n)

    def recommend_exactly(self, decoding: Decoding, n: int, exclude: Tensor | None) -> Ranking:
        """The `n` best of all items, none pruned: by score, equal scores by item id; `exclude` as of `recommend`."""
        levels, leaves = self.levels, self.leaves
        forbidden = forbid(leaves, [level.start for level in levels], exclude)
        return exact_search(decoding, levels, leaves, self.semantic_ids, n, None if forbidden is None else forbidden.places)


def _check_beams(n: int, beams: int) -> None:
    if n > beams:
        raise UsageError(f"{n} items need as many beams, got policy.num_beams = {beams}")


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
