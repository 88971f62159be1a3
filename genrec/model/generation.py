"""Constrained beam search over the trie of real Semantic IDs, as tensor arithmetic: no Python per beam, none per user.

In: a policy that gives the next level's log-probabilities, and the prefix tables of `SemanticIds`. Out: leaves of the trie. Beams
are real items and unique by construction: every candidate is a child of a node, and no two beams are at one node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from genrec.semantic_ids import PrefixTable

State = Any  # what a policy keeps of the beams so far; generation only hands it back


class Decoding(Protocol):
    """A policy that has read the histories of B users and writes Semantic IDs, one level at a time."""

    def start(self) -> tuple[Tensor, State]:
        """The first level's log-probabilities, float32 [B, C1], and the state of one empty beam a user."""
        ...

    def advance(self, level: int, state: State, beam: Tensor, code: Tensor) -> tuple[Tensor, State]:
        """One level further: the log-probabilities of level `level + 1`, float32 [B, W, C], and the state of the W beams.

        `beam` int64 [B, W]: which of the beams of `state` each continues (any number of times, in any order); `code` int64 [B, W]:
        the code of level `level` (from 0) that it took.
        """
        ...


class Beams(NamedTuple):
    """The best leaves of each user."""

    leaf: Tensor  # int64 [B, W]  best first; meaningless where the score is -inf
    score: Tensor  # float32 [B, W]  log-probability of the whole Semantic ID; -inf where there is no beam


def children(table: PrefixTable, node: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes int64 [B, W] -> their children int64 [B, W, branch] and whether each exists, bool [B, W, branch]."""
    child = table.start[node].unsqueeze(-1) + torch.arange(table.branch, device=node.device)
    real = child < table.start[node + 1].unsqueeze(-1)
    return child.clamp(max=len(table.code) - 1), real


def beam_search(decoding: Decoding, tables: Sequence[PrefixTable], width: int, forbidden: Tensor | None = None) -> Beams:
    """The `width` most probable leaves found level by level.

    `forbidden` bool [B, leaves]: leaves never returned; a
    prefix with no other leaf below it is not followed, so that no beam is lost to them. With `width` at least the number of leaves
    the result is exact.
    """
    first, state = decoding.start()
    node = torch.zeros(first.shape[0], 1, dtype=torch.int64, device=first.device)
    score = first.new_zeros(node.shape, dtype=torch.float32)
    log_prob = first.unsqueeze(1)
    before = None if forbidden is None else nn.functional.pad(forbidden.cumsum(1), (1, 0))  # forbidden leaves before each leaf
    for level, table in enumerate(tables):
        child, real = children(table, node)
        if before is not None:
            first_leaf, end = table.leaf[child].flatten(1), table.leaf[child + 1].flatten(1)
            real &= (before.gather(1, end) - before.gather(1, first_leaf) < end - first_leaf).view(child.shape)
        code = table.code[child]
        total = score.unsqueeze(-1) + log_prob.gather(-1, code)
        total = total.masked_fill(~real, -torch.inf).flatten(1)
        score, place = total.topk(min(width, total.shape[1]), sorted=True)
        beam = place // table.branch
        node = child.flatten(1).gather(1, place)
        if level < len(tables) - 1:
            # A beam without a child has no code of its own; it keeps score -inf, whatever follows.
            log_prob, state = decoding.advance(level, state, beam, code.flatten(1).gather(1, place))
    return Beams(node, score)
