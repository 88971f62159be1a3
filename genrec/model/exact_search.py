"""Exact scoring: the best items of the whole catalog, by traversing the trie of real Semantic IDs instead of scoring item by item.

The input is a `Decoding` and the trie; the output is the `n` best items of each user. It is the reference for beam search. A prefix is
decoded at most once per user, however many items share it.

The traversal is depth first, in chunks, the best prefixes first (branch and bound). A log-probability is at most 0, so that no item
below a prefix scores higher than the prefix. Once `n` Semantic IDs are found, prefixes that score lower than the last of them are left
out, which changes no list; a NaN below such a prefix is not seen, as in beam search. Of a trained policy a few per cent of the
prefixes remain; of an untrained one, nearly all.

Memory holds one chunk per depth, and the best `n` leaves so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.item_rows import best, keys, padded_keys, scores
from genrec.model.beam_search import Decoding, Level, State, beam_and_child, children, mask_excluded, row_chunks, tie_breakers
from genrec.model.item_lists import Beams, ExcludedPlaces, LeafItems, rank_items
from genrec.progress import Progress
from genrec.types import Ranking

MAX_PREFIXES = 2**13  # prefixes of all users that are decoded at once
MAX_CELLS = 2**23  # log-probabilities of all users that a depth holds at once: 32 MB


def exact_search(decoding: Decoding, levels: Sequence[Level], leaves: LeafItems, n: int, excluded: ExcludedPlaces | None) -> Ranking:
    """Return the `n` best of all items, ordered by score; equal scores are ordered by item id. Items of `excluded` are left out."""
    log_prob, state = decoding.start()
    with Progress("exact scoring", len(levels[0].code)) as progress:
        return _Search(decoding, levels, leaves, n, excluded, progress).run(log_prob.unsqueeze(1), state)


@dataclass
class _Search:
    """The state of one traversal: the arguments of `exact_search`, and the best leaves so far."""

    decoding: Decoding
    levels: Sequence[Level]
    leaves: LeafItems
    n: int
    excluded: ExcludedPlaces | None
    progress: Progress

    def run(self, log_prob: Tensor, state: State) -> Ranking:
        """Traverse the trie from the root's log-probabilities float32 [B, 1, C] and state; return the ranking."""
        root = torch.zeros(len(log_prob), 1, dtype=torch.int64, device=log_prob.device)
        self.keys, self.leaf = root[:, :0], root[:, :0]  # int64 [B, <= n]  of the best leaves so far, best first
        self.bound = torch.full_like(log_prob[:, 0, :1], -torch.inf)  # float32 [B, 1]  the score of the n-th of them
        self.has_nan = torch.zeros(len(log_prob), dtype=torch.bool, device=log_prob.device)
        self._visit(0, root, torch.zeros_like(self.bound), log_prob, state)
        ranking = rank_items(Beams(self.leaf, scores(self.keys)), self.leaves, self.excluded, self.n)
        return Ranking(ranking.items, ranking.scores.masked_fill(self.has_nan.unsqueeze(1), torch.nan))

    def _visit(self, depth: int, node: Tensor, score: Tensor, log_prob: Tensor, state: State) -> None:
        """Visit nodes of one depth, int64 [B, W], ascending: scores float32 [B, W], log-probabilities float32 [B, W, C], and state.

        A node with the score -inf is none.
        """
        level, last = self.levels[depth], depth == len(self.levels) - 1
        self.has_nan = self.has_nan | log_prob[..., 0].isnan().any(1)
        if last:
            parts = [self._best_leaves(node[rows], score[rows], log_prob[rows], rows) for rows in row_chunks(log_prob)]
            self._update(*join_rows(*zip(*parts, strict=True)))
            return
        candidates = children(level, node, score, log_prob)
        value = candidates.score.nan_to_num(-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        value, place = value.topk(max(1, self._alive(value)))
        limit = max(1, min(MAX_PREFIXES, MAX_CELLS // self.levels[depth + 1].num_codes) // len(node))
        for begin in range(0, value.shape[1], limit):
            end = min(begin + limit, self._alive(value))
            if begin >= end:
                break
            found = value[:, begin:end]
            found = found.masked_fill(found < self.bound, -torch.inf)
            ordered, order = place[:, begin:end].masked_fill(found == -torch.inf, candidates.score.shape[1]).sort(1)
            found = found.gather(1, order)
            beam, child = beam_and_child(level, node, candidates, ordered.clamp(max=candidates.score.shape[1] - 1))
            next_node = child.masked_fill(found == -torch.inf, len(level.code))
            self._visit(depth + 1, next_node, found, *self.decoding.advance(depth, state, beam, level.code[child].long()))
            if depth == 0:
                self.progress.advance(end - begin)

    def _alive(self, score: Tensor) -> int:
        """Return the largest number of candidates of a user that may have one of the best leaves below them."""
        return int(((score >= self.bound) & (score > -torch.inf)).sum(1).max())

    def _best_leaves(self, node: Tensor, score: Tensor, log_prob: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Return the keys and numbers of the `n` best leaves below nodes of the last depth, int64 [rows, <= n] each."""
        level, depth = self.levels[-1], len(self.levels) - 1
        candidates = children(level, node, score, log_prob)
        number = tie_breakers(level, node, candidates, self.leaves, shared_root=depth == 0)
        if self.excluded is not None:
            number = mask_excluded(level, node, candidates, number, self.excluded.rows(rows), depth, last=True)
        key, place = best(keys(candidates.score, number), self.n)
        return key, beam_and_child(level, node, candidates, place)[1]

    def _update(self, key: Tensor, leaf: Tensor) -> None:
        """Merge the keys and numbers of leaves, int64 [B, X] each, into the best leaves so far."""
        self.keys, place = best(torch.cat([self.keys, key], 1), self.n)
        self.leaf = torch.cat([self.leaf, leaf], 1).gather(1, place)
        if self.keys.shape[1] == self.n:
            self.bound = scores(self.keys[:, -1:])


def join_rows(key: Sequence[Tensor], leaf: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Concatenate rows of keys and of leaves, padded to the widest part by keys of the score -inf and by leaf 0."""
    widest = max(part.shape[1] for part in key)
    leaves = [pad(part, (0, widest - part.shape[1])) for part in leaf]
    return torch.cat([padded_keys(part, widest) for part in key]), torch.cat(leaves)
