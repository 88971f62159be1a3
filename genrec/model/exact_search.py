"""Exact scoring: the whole catalog ranked, by going through the trie of real Semantic IDs and not through the items.

In: a policy that has read histories (`Decoding`), and the trie. Out: the `n` best items of each user, none pruned: what a beam search
is measured against. A prefix is decoded once a user, however many items share it.

Depth by depth, in pieces: children of consecutive nodes are consecutive, so a piece is a range of nodes, the same for all users. It
is decoded whole, its children are gone through piece by piece, and it is dropped before the next one. What is held is one piece a
depth, and of the leaves the best `n` so far.
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

ROWS = 2**13  # prefixes of all users that are decoded at once
CELLS = 2**23  # log-probabilities, or leaves' scores, of all users that are held at once, a depth: 32 MB


def exact_search(
    decoding: Decoding,
    levels: Sequence[Level],
    leaves: LeafItems,
    semantic_ids: SemanticIds,
    n: int,
    excluded: Tensor | None,
) -> Ranking:
    """The `n` best of all items: by score, equal scores by item id; `excluded` int64 [B, E], places as of `leaves.Exclusions`."""
    log_prob, state = decoding.start()
    with Progress("exact scoring", semantic_ids.distinct) as progress:
        return _Search(decoding, levels, leaves, semantic_ids, n, excluded, progress).run(log_prob.unsqueeze(1), state)


@dataclass
class _Search:
    """What the pieces share: the arguments of `exact_search`, and the best items so far."""

    decoding: Decoding
    levels: Sequence[Level]
    leaves: LeafItems
    semantic_ids: SemanticIds  # its tables are on the CPU, where pieces are cut
    n: int
    excluded: Tensor | None
    progress: Progress

    def run(self, log_prob: Tensor, state: State) -> Ranking:
        """From the root, whose log-probabilities float32 [B, 1, C] and state are given."""
        users, device = len(log_prob), log_prob.device
        self.kept = torch.empty(users, 0, dtype=torch.int64, device=device)
        self.broken = torch.zeros(users, dtype=torch.bool, device=device)
        self._visit(0, 0, torch.zeros(users, 1, device=device), log_prob, state)
        return ranking(self.kept, self.n, self.broken)

    def _visit(self, depth: int, node: int, score: Tensor, log_prob: Tensor, state: State) -> None:
        """The nodes of one depth from `node` on: scores float32 [B, M], log-probabilities float32 [B, M, C], and their state."""
        level, start = self.levels[depth], self.semantic_ids.tables[depth].start
        self.broken = self.broken | log_prob[..., 0].isnan().any(1)
        last = depth == len(self.levels) - 1
        for begin, end in self._pieces(depth, int(start[node]), int(start[node + score.shape[1]]), len(score)):
            parent = parents(torch.arange(begin, end, device=score.device), level.start) - node
            code = level.code[begin:end].long()
            total = score[:, parent] + log_prob[:, parent, code]
            if last:
                self._offer(total, begin, end)
                continue
            beams = (column.expand(len(score), -1) for column in (parent, code))
            self._visit(depth + 1, begin, total, *self.decoding.advance(depth, state, *beams))

    def _pieces(self, depth: int, begin: int, end: int, users: int) -> Iterator[tuple[int, int]]:
        """Children `begin` .. `end` - 1 of one depth, in pieces of about one size that the budget allows."""
        cells, rows = CELLS // users, ROWS // users
        most = cells if depth == len(self.levels) - 1 else min(rows, cells // self.levels[depth + 1].codes)
        count = -(-(end - begin) // max(1, most))
        cuts = [begin + (end - begin) * place // count for place in range(count + 1)]
        return pairwise(cuts)

    def _offer(self, score: Tensor, begin: int, end: int) -> None:
        """Leaves `begin` .. `end` - 1 with their scores float32 [B, M]: their items, against the best so far."""
        leaf_start, _ = self.semantic_ids.items_by_leaf()
        first, until = int(leaf_start[begin]), int(leaf_start[end])
        if until - first > end - begin:  # a shared leaf's score is that of all its items
            score = score[:, parents(torch.arange(first, until, device=score.device), self.leaves.start) - begin]
        if self.excluded is not None:
            score = _without(score, self.excluded, first, until)
        key = keys(score, self.leaves.items[first:until].long())
        self.kept = best(torch.cat([self.kept, key], 1), self.n)[0]
        self.progress.advance(end - begin)


def _without(score: Tensor, excluded: Tensor, first: int, until: int) -> Tensor:
    """Scores of places `first` .. `until` - 1, float32 [B, X], -inf where a place is among `excluded` int64 [B, E], ascending."""
    low = torch.searchsorted(excluded, torch.full((len(excluded), 1), first, device=excluded.device))
    window = low + torch.arange(min(excluded.shape[1], until - first), device=excluded.device)
    place = excluded.gather(1, window.clamp(max=excluded.shape[1] - 1))
    there = (place >= first) & (place < until)
    slot = (place - first).masked_fill(~there, 0)
    return score.scatter_reduce(1, slot, torch.where(there, -torch.inf, torch.inf), "amin")
