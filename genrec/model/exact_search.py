"""Exact scoring: rank the whole catalog by traversing the trie of real Semantic IDs, instead of scoring item by item.

The input is a `Decoding` and the trie; the output is the `n` best items of each user, without pruning. It is the reference for beam
search. Each prefix is decoded once per user, however many items share it.

The traversal is depth first, in chunks. Children of consecutive nodes are consecutive, so that a chunk is a range of nodes, the
same for all users. A chunk is decoded as a whole, its children are visited chunk by chunk, and it is freed before the next one.
Memory holds one chunk per depth, and the best `n` leaves so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from genrec.item_rows import best, keys, ranking
from genrec.model.beam_search import Decoding, Level, State
from genrec.model.item_lists import LeafItems, parents
from genrec.progress import Progress
from genrec.semantic_ids import SemanticIds
from genrec.types import Ranking

MAX_PREFIXES = 2**13  # prefixes of all users that are decoded at once
MAX_CELLS = 2**23  # log-probabilities, or scores of leaves, of all users that a depth holds at once: 32 MB


def exact_search(
    decoding: Decoding,
    levels: Sequence[Level],
    leaves: LeafItems,
    semantic_ids: SemanticIds,
    n: int,
    excluded: Tensor | None,
) -> Ranking:
    """Return the `n` best of all items, ordered by score; equal scores are ordered by item id.

    `excluded` int64 [B, E] holds the places of excluded items, see `item_lists.ExcludedPlaces`.
    """
    log_prob, state = decoding.start()
    with Progress("exact scoring", semantic_ids.distinct) as progress:
        return _Search(decoding, levels, leaves, semantic_ids, n, excluded, progress).run(log_prob.unsqueeze(1), state)


@dataclass
class _Search:
    """The state of one traversal: the arguments of `exact_search`, and the best items so far."""

    decoding: Decoding
    levels: Sequence[Level]
    leaves: LeafItems
    semantic_ids: SemanticIds  # chunks are computed from its tables, which are on the CPU
    n: int
    excluded: Tensor | None
    progress: Progress

    def run(self, log_prob: Tensor, state: State) -> Ranking:
        """Traverse the trie from the root's log-probabilities float32 [B, 1, C] and state; return the ranking."""
        users, device = len(log_prob), log_prob.device
        self.best_keys = torch.empty(users, 0, dtype=torch.int64, device=device)
        self.has_nan = torch.zeros(users, dtype=torch.bool, device=device)
        self._visit(0, 0, torch.zeros(users, 1, device=device), log_prob, state)
        return ranking(self.best_keys, self.n, self.has_nan)

    def _visit(self, depth: int, node: int, score: Tensor, log_prob: Tensor, state: State) -> None:
        """Visit the M nodes of one depth from `node` on: scores float32 [B, M], log-probabilities float32 [B, M, C], and state."""
        level, start = self.levels[depth], self.semantic_ids.tables[depth].start
        self.has_nan = self.has_nan | log_prob[..., 0].isnan().any(1)
        last = depth == len(self.levels) - 1
        for begin, end in self._chunks(depth, int(start[node]), int(start[node + score.shape[1]]), len(score)):
            parent = parents(torch.arange(begin, end, device=score.device), level.start) - node
            code = level.code[begin:end].long()
            total = score[:, parent] + log_prob[:, parent, code]
            if last:
                self._update_best(total, begin, end)
                continue
            beam_and_code = (column.expand(len(score), -1) for column in (parent, code))
            self._visit(depth + 1, begin, total, *self.decoding.advance(depth, state, *beam_and_code))

    def _chunks(self, depth: int, begin: int, end: int, users: int) -> Iterator[tuple[int, int]]:
        """Return ranges of about equal size that cover the children `begin` .. `end` - 1 of one depth, within the memory limits."""
        cells, prefixes = MAX_CELLS // users, MAX_PREFIXES // users
        limit = cells if depth == len(self.levels) - 1 else min(prefixes, cells // self.levels[depth + 1].num_codes)
        count = -(-(end - begin) // max(1, limit))
        bounds = [begin + (end - begin) * index // count for index in range(count + 1)]
        return pairwise(bounds)

    def _update_best(self, score: Tensor, begin: int, end: int) -> None:
        """Merge the items of leaves `begin` .. `end` - 1, with scores float32 [B, M], into the best items so far."""
        leaf_start, _ = self.semantic_ids.items_by_leaf()
        first, until = int(leaf_start[begin]), int(leaf_start[end])
        if until - first > end - begin:  # some leaves are shared: repeat their score for each of their items
            score = score[:, parents(torch.arange(first, until, device=score.device), self.leaves.start) - begin]
        if self.excluded is not None:
            score = _mask_excluded(score, self.excluded, first, until)
        key = keys(score, self.leaves.items[first:until].long())
        self.best_keys = best(torch.cat([self.best_keys, key], 1), self.n)[0]
        self.progress.advance(end - begin)


def _mask_excluded(score: Tensor, excluded: Tensor, first: int, until: int) -> Tensor:
    """Return scores float32 [B, X] of places `first` .. `until` - 1, with -inf at the places in `excluded` int64 [B, E], ascending."""
    low = torch.searchsorted(excluded, torch.full((len(excluded), 1), first, device=excluded.device))
    window = low + torch.arange(min(excluded.shape[1], until - first), device=excluded.device)
    place = excluded.gather(1, window.clamp(max=excluded.shape[1] - 1))
    inside = (place >= first) & (place < until)
    slot = (place - first).masked_fill(~inside, 0)
    return score.scatter_reduce(1, slot, torch.where(inside, -torch.inf, torch.inf), "amin")
