"""The trie of real Semantic IDs on a policy's device, shared by all policies: tokens and codes of items, scoring and search.

`Trie` turns the log-probabilities of codes into those of items, over all codes or over the codes that lead to a real item. It turns a
`Decoding` into a ranking of real items, by constrained beam search (also below a prefix) or exactly, and into samples of them.

Tables are int32, and nothing is stored that follows from another table: about 40 bytes per item with four levels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import embedding_bag

from genrec.errors import UsageError
from genrec.model.beam_search import Decoding, Level, Prefix, beam_search
from genrec.model.exact_search import exact_search
from genrec.model.item_lists import Beams, LeafItems, exclude_items, lowest_items, parents, rank_items
from genrec.model.stochastic_beam_search import stochastic_beam_search
from genrec.semantic_ids import PrefixTable, SemanticIds
from genrec.smoothed_log_probs import gather_smoothed
from genrec.types import ItemSample, Ranking

SMALL_TABLE = 2**16  # cells; a dense table up to this size is affordable for any catalog
MAX_CELLS_PER_CHILD = 4  # of a dense table: to mask a cell costs about a quarter of gathering a child


@dataclass(frozen=True, eq=False)
class ItemCodes:
    """The codes of items as a table: `codes[items]` maps items int64 [...] to codes int64 [..., L], 0 for item 0."""

    tokens: Tensor  # int32 [N + 1, L]
    first: Tensor  # int32 [L]  the token of code 0 of each level

    def __getitem__(self, items: Tensor) -> Tensor:
        return (self.tokens[items] - self.first).clamp(min=0).long()


class Trie(nn.Module):
    """The trie of real Semantic IDs: non-persistent buffers that follow the policy to its device, and no parameters."""

    def __init__(self, semantic_ids: SemanticIds) -> None:
        super().__init__()
        self.semantic_ids = semantic_ids
        self.tokens: Tensor  # int32 [N + 1, L]  row 0 is padding
        self.first_tokens: Tensor  # int32 [L]  the token of code 0 of each level
        all_items = torch.arange(semantic_ids.items + 1)
        self._register("tokens", semantic_ids.tokens(all_items).int())
        self._register("first_tokens", (semantic_ids.offsets + 1).int())
        start, items = semantic_ids.items_by_leaf()
        place = torch.full((semantic_ids.items + 1,), semantic_ids.items, dtype=torch.int32)
        place[items.long()] = torch.arange(semantic_ids.items, dtype=torch.int32)
        for name, leaf_table in (("leaf_start", start), ("leaf_items", items), ("leaf_place", place)):
            self._register(name, leaf_table)
        self.largest_leaf = int(start.diff().max())
        self.full: list[bool] = []  # per level, see `Level.full`
        for level, (table, num_codes) in enumerate(zip(semantic_ids.tables, semantic_ids.level_sizes, strict=True)):
            self._register(f"start_{level}", table.start)
            self._register(f"code_{level}", table.code)
            self._register(f"child_{level}", _dense_children(table, num_codes, semantic_ids.items))
            self.full.append(len(table.code) == (len(table.start) - 1) * num_codes)

    def _register(self, name: str, table: Tensor | None) -> None:
        self.register_buffer(name, table, persistent=False)

    @property
    def codes(self) -> ItemCodes:
        """Return the codes of items, on the policy's device."""
        return ItemCodes(self.tokens, self.first_tokens)

    @property
    def levels(self) -> list[Level]:
        """Return the levels of the trie, on the policy's device."""
        sizes, buffers = self.semantic_ids.level_sizes, self._buffers
        result = []
        for level, (num_codes, full) in enumerate(zip(sizes, self.full, strict=True)):
            start, code = self.get_buffer(f"start_{level}"), self.get_buffer(f"code_{level}")
            result.append(Level(start, code, num_codes, full, buffers[f"child_{level}"]))
        return result

    @property
    def leaves(self) -> LeafItems:
        """Return the items of the trie's leaves, on the policy's device."""
        start, items, place = (self.get_buffer(f"leaf_{name}") for name in ("start", "items", "place"))
        return LeafItems(start, items, place, self.largest_leaf)

    def first_token(self, level: int) -> int:
        """Return the token of code 0 of a level (from 0)."""
        return 1 + int(self.semantic_ids.offsets[level])

    def nodes(self, items: Tensor) -> list[Tensor]:
        """Return the nodes of the items' prefixes of 0..L codes: items int64 [...], each 1..N -> L + 1 tensors int64 [...]."""
        place = self.get_buffer("leaf_place")[items].long()
        path = [place if self.largest_leaf == 1 else parents(place, self.get_buffer("leaf_start"))]
        for level in reversed(self.levels):
            path.append(parents(path[-1], level.start))
        return path[::-1]

    def item_log_probs(self, levels: Iterable[Tensor], items: Tensor, constrained: bool) -> Tensor:
        """Return the log-probabilities of the codes of items int64 [B, M], float32 [B, M, L]; -inf for item 0.

        `levels` gives each level's log-probabilities of all codes, float32 [B, M or 1, C]. It is consumed one level at a time, so
        that a generator can compute them when they are needed. With `constrained`, each level is normalized over the children of
        the item's prefix only.
        """
        return self.token_log_probs(levels, self.tokens[items], items if constrained else None)

    def code_tokens(self, codes: Tensor) -> Tensor:
        """Return the tokens of code sequences int64 [B, M, L], -1 for none: int32 [B, M, L], 0 for none."""
        return torch.where(codes < 0, 0, codes + self.first_tokens).int()

    def token_log_probs(
        self, levels: Iterable[Tensor], tokens: Tensor, items: Tensor | None = None, label_smoothing: float = 0.0
    ) -> Tensor:
        """Return the log-probabilities of the codes of tokens int32 [B, M, L], 0 for none: float32 [B, M, L], -inf for none.

        `levels` is as in `item_log_probs`. With the `items` int64 [B, M] that the tokens belong to, each level is normalized over the
        children of the item's prefix only. With label smoothing they are smoothed over the codes that a level is normalized over.
        """
        codes = (tokens - self.first_tokens).clamp(min=0).long()
        nodes = [] if items is None else self.nodes(items.clamp(min=1))
        result = []
        for depth, log_probs in enumerate(levels):
            expanded = log_probs.expand(*tokens.shape[:-1], -1)
            code = codes[..., depth, None]
            if items is None:
                result.append(gather_smoothed(expanded, code, label_smoothing))
            else:
                result.append(self._normalize_over_children(depth, expanded, code, nodes, label_smoothing))
        return torch.cat(result, -1).masked_fill(tokens[..., :1] == 0, -torch.inf)

    def _normalize_over_children(
        self, depth: int, log_probs: Tensor, code: Tensor, nodes: list[Tensor], label_smoothing: float
    ) -> Tensor:
        """Return the smoothed log-softmax of the items' codes among the children of their prefixes, float32 [B, M, 1].

        `log_probs` is float32 [B, M, C], `code` int64 [B, M, 1]. With a dense table the softmax is over all C codes, masked;
        elsewhere it is as wide as the node with the most children.
        """
        level, node = self.levels[depth], nodes[depth]
        if level.full:
            return gather_smoothed(log_probs, code, label_smoothing)
        if level.child is not None:
            missing = level.child[node] < 0
            return gather_smoothed(log_probs.masked_fill(missing, -torch.inf).log_softmax(-1), code, label_smoothing, missing)
        child, exists, codes = self._children(depth, node)
        missing = ~exists
        siblings = log_probs.gather(-1, codes).masked_fill(missing, -torch.inf)
        place = nodes[depth + 1].unsqueeze(-1) - child[..., :1]
        return gather_smoothed(siblings.log_softmax(-1), place, label_smoothing, missing)

    def _children(self, depth: int, node: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the children of nodes int64 [...], side by side, whether each exists, and its code, [..., most children] each."""
        level = self.levels[depth]
        child = level.start[node].long().unsqueeze(-1) + torch.arange(self.semantic_ids.tables[depth].branch, device=node.device)
        exists = child < level.start[node + 1].unsqueeze(-1)
        return child, exists, level.code[child.clamp(max=len(level.code) - 1)].long()

    def child(self, depth: int, node: Tensor, code: Tensor) -> Tensor:
        """Return the child of nodes int64 [...] by codes int64 [...]: int64 [...], an arbitrary node where there is none."""
        level = self.levels[depth]
        if level.full:
            return node * level.num_codes + code
        if level.child is not None:
            return level.child[node, code].long().clamp(min=0)
        child, exists, codes = self._children(depth, node)
        place = ((codes == code.unsqueeze(-1)) & exists).int().argmax(-1, keepdim=True)
        return child.gather(-1, place).squeeze(-1)

    def log_prob_of_children(self, depth: int, node: Tensor, log_prob: Tensor) -> Tensor:
        """Normalize log-probabilities of all codes over the children of nodes: int64 [B, W] and float32 [B, W, C] -> [B, W, C].

        Codes without a child get -inf. Where a log-probability is NaN, all of its node are.
        """
        level = self.levels[depth]
        if level.full:
            return log_prob
        if level.child is not None:
            of_children = log_prob.masked_fill(level.child[node] < 0, -torch.inf)
        else:
            _, exists, codes = self._children(depth, node)
            values = log_prob.gather(-1, codes).masked_fill(~exists, -torch.inf)
            of_children = torch.full_like(log_prob, -torch.inf).scatter_reduce(-1, codes, values, "amax")
        return of_children.log_softmax(-1).masked_fill(log_prob.isnan().any(-1, keepdim=True), torch.nan)

    @torch.no_grad()
    def item_vectors(self, embedding: Tensor) -> Tensor:
        """Return the sum of the token embeddings float32 [V, D] of each item's codes: float32 [N + 1, D]; row 0 is zero."""
        return embedding_bag(self.tokens, embedding, mode="sum", padding_idx=0)

    def recommend(self, decoding: Decoding, num_beams: int, n: int, exclude: Tensor | None) -> Ranking:
        """Return the `n` best items by beam search; items of `exclude`, int64 [B, E] (0 = none), are never returned.

        A beam is a Semantic ID; if several items share it, each of them takes a slot of the list. Equal scores are ordered by item id
        among all candidates of the last level, and by the codes so far on the levels before it.
        """
        _check_num_beams(n, num_beams)
        levels, leaves = self.levels, self.leaves
        excluded = exclude_items(leaves, [level.start for level in levels], exclude)
        return rank_items(beam_search(decoding, levels, leaves, num_beams, excluded), leaves, excluded, n)

    def recommend_below(self, decoding: Decoding, num_beams: int, items: Tensor, depth: int, n: int) -> Ranking:
        """Return the `n` best items among those that share the first `depth` codes with items int64 [B], by beam search.

        Scores are log-probabilities of whole Semantic IDs. Item 0 has no codes: from depth 1 on its list is empty.
        """
        _check_num_beams(n, num_beams)
        if not 0 <= depth <= self.semantic_ids.levels:
            raise UsageError(f"depth must lie in 0..{self.semantic_ids.levels}, the codes of a Semantic ID, got {depth}")
        real = items.clamp(min=1)
        prefix = Prefix(self.codes[real][:, :depth], self.nodes(real)[depth], (items > 0) | (depth == 0))
        return rank_items(beam_search(decoding, self.levels, self.leaves, num_beams, prefix=prefix), self.leaves, None, n)

    def recommend_exactly(self, decoding: Decoding, n: int, exclude: Tensor | None) -> Ranking:
        """Return the `n` best of all items, without pruning: by score, equal scores by item id; `exclude` as in `recommend`."""
        levels, leaves = self.levels, self.leaves
        excluded = exclude_items(leaves, [level.start for level in levels], exclude)
        return exact_search(decoding, levels, leaves, n, excluded)

    def sample(self, decoding: Decoding, n: int, exclude: Tensor | None, generator: Generator) -> ItemSample:
        """Draw `n` Semantic IDs of each row without replacement, and return the lowest allowed item of each; `exclude` as above.

        All are drawn if there are no more than `n`. `generator` is on the device of the decoding.
        """
        levels, leaves = self.levels, self.leaves
        excluded = exclude_items(leaves, [level.start for level in levels], exclude)
        drawn = stochastic_beam_search(decoding, levels, n, generator, excluded)
        items = lowest_items(Beams(drawn.leaf, drawn.perturbed), leaves, excluded)
        missing = (items == 0) & ~drawn.log_prob.isnan()  # a row of NaN stays so: which of its leaves are found depends on the sort
        log_prob, constrained = (each.masked_fill(missing, -torch.inf) for each in (drawn.log_prob, drawn.constrained))
        return ItemSample(items, log_prob, constrained, drawn.threshold)


def _check_num_beams(n: int, num_beams: int) -> None:
    if n > num_beams:
        raise UsageError(f"a list of {n} items needs at least {n} beams, got policy.num_beams = {num_beams}")


def _dense_children(table: PrefixTable, num_codes: int, items: int) -> Tensor | None:
    """Return the child of every code of every node, int32 [nodes, C], -1 where there is none; None if full or too large."""
    num_nodes, num_children = len(table.start) - 1, len(table.code)
    cells = num_nodes * num_codes
    if cells == num_children or cells > MAX_CELLS_PER_CHILD * num_children or cells > max(SMALL_TABLE, 2 * items):
        return None
    parent = torch.repeat_interleave(torch.arange(num_nodes), table.start.diff().long())
    child = torch.full((num_nodes, num_codes), -1, dtype=torch.int32)
    child[parent, table.code.long()] = torch.arange(num_children, dtype=torch.int32)
    return child
