"""Constrained beam search over the trie of real Semantic IDs, as tensor operations without a Python loop over beams or users.

The input is a `Decoding`, which gives the next level's log-probabilities, and the levels of the trie; the output is leaves of the
trie. Every candidate is the child of a node and no two beams share a node, so that beams are real and distinct by construction.

Candidates have one order on every device and in every batch: by score; equal scores by node, which is lexicographic order of the codes
so far; on the last level, where a node is a Semantic ID, equal scores by the lowest item of it that the user may get.

A level has at most (children of a node) x beams candidates. Where most nodes have children for most codes, all codes are candidates,
and a dense table masks those without a child. Elsewhere the existing children are laid out side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.item_rows import best, keys, scores
from genrec.model.item_lists import Beams, ExcludedPlaces, LeafItems, parents
from genrec.types.decoding import Decoding, State

__all__ = ["Beams", "Decoding", "Level", "Prefix", "State", "beam_search"]

MAX_CELLS = {"cpu": 2**19}  # candidates that are processed at once; on a CPU they stay in its caches
DEFAULT_MAX_CELLS = 2**25  # on other devices


class Level(NamedTuple):
    """The nodes of one depth of the trie and their children."""

    start: Tensor  # int32 [nodes + 1]  the children of node i are nodes start[i] .. start[i+1]-1 of the next depth
    code: Tensor  # int32 [children]  the code that leads to each child
    num_codes: int  # C, the number of codes of the level
    full: bool  # whether every node has a child for every code; the child then is node x C + code
    child: Tensor | None  # int32 [nodes, C]  dense table of children, -1 where there is none; None where `full` or too large

    @property
    def num_nodes(self) -> int:
        """Return the number of nodes at this depth."""
        return len(self.start) - 1

    @property
    def dense(self) -> bool:
        """Return whether all codes are candidates."""
        return self.full or self.child is not None


class Prefix(NamedTuple):
    """The first codes of all beams of a user, and the node that they lead to."""

    code: Tensor  # int64 [B, depth]
    node: Tensor  # int64 [B]
    valid: Tensor  # bool [B]  a user where it is false gets no beams


class Candidates(NamedTuple):
    """The candidates of one level, beam after beam, the children of each in the order of their codes."""

    score: Tensor  # float32 [B, X]  -inf where there is no child
    first: Tensor  # int64 [B, W]  the place of each beam's first candidate
    beam: Tensor | None  # int64 [B, X]  the beam that each candidate continues; None on a dense level, where it follows from the place
    child: Tensor | None  # int64 [B, X]  the node of each candidate; None on a dense level


class SelectedBeams(NamedTuple):
    """The beams that survive a level: ascending by node, but best first on the last level."""

    node: Tensor  # int64 [B, W]  the number of nodes where there is no beam
    score: Tensor  # float32 [B, W]  -inf where there is no beam
    beam: Tensor  # int64 [B, W]  the beam of the level before that each continues
    code: Tensor  # int64 [B, W]  the code that each appends


def beam_search(
    decoding: Decoding,
    levels: Sequence[Level],
    leaves: LeafItems,
    width: int,
    excluded: ExcludedPlaces | None = None,
    prefix: Prefix | None = None,
) -> Beams:
    """Return the `width` most probable leaves, found level by level.

    `excluded` rules out items per user; a node with excluded items only is never followed, so that it costs no beam. `prefix` is where
    each user's search begins. The result is exact if `width` is at least the number of leaves.
    """
    node, score, log_prob, state = _initial_beams(decoding, prefix, len(levels))
    has_nan, prefix_length = score.isnan().any(1), 0 if prefix is None else prefix.code.shape[1]
    for depth, level in enumerate(levels[prefix_length:], prefix_length):
        has_nan = has_nan | log_prob[..., 0].isnan().any(1)  # a softmax with a NaN anywhere is NaN everywhere
        last = depth == len(levels) - 1
        parts = []
        for rows in row_chunks(log_prob):
            candidates = children(level, node[rows], score[rows], log_prob[rows])
            number = tie_breakers(level, node[rows], candidates, leaves if last else None, shared_root=depth == 0)
            if excluded is not None:
                number = mask_excluded(level, node[rows], candidates, number, excluded.rows(rows), depth, last)
            parts.append(select(level, node[rows], candidates, number, width, last))
        node, score, beam, code = concatenate(parts, len(level.code))
        if not last:
            log_prob, state = decoding.advance(depth, state, beam, code)
    return Beams(node, score.masked_fill(has_nan.unsqueeze(1), torch.nan))


def row_chunks(log_prob: Tensor) -> Iterator[slice]:
    """Return ranges of rows whose candidates are processed at once; `log_prob` is float32 [B, W, C]."""
    chunk = max(1, MAX_CELLS.get(log_prob.device.type, DEFAULT_MAX_CELLS) // log_prob[0].numel())
    return (slice(begin, begin + chunk) for begin in range(0, len(log_prob), chunk))


def _initial_beams(decoding: Decoding, prefix: Prefix | None, num_levels: int) -> tuple[Tensor, Tensor, Tensor, State]:
    """Return one beam per user after the prefix: node and score [B, 1], the next level's log-probabilities [B, 1, C], and the state.

    After a prefix of all levels there is no next level, and the last two belong to the last level.
    """
    log_prob, state = decoding.start()
    log_prob = log_prob.unsqueeze(1)
    node = torch.zeros(len(log_prob), 1, dtype=torch.int64, device=log_prob.device)
    score = torch.zeros(node.shape, device=node.device)
    if prefix is None:
        return node, score, log_prob, state
    for depth in range(prefix.code.shape[1]):
        code = prefix.code[:, depth, None]
        score = score + log_prob.gather(2, code.unsqueeze(-1)).squeeze(-1)
        if depth < num_levels - 1:
            log_prob, state = decoding.advance(depth, state, node, code)
    return prefix.node.unsqueeze(1), score.masked_fill(~prefix.valid.unsqueeze(1), -torch.inf), log_prob, state


def children(level: Level, node: Tensor, score: Tensor, log_prob: Tensor) -> Candidates:
    """Return the children of beams of nodes int64 [B, W], scores float32 [B, W], -inf: no beam, and log-probabilities [B, W, C]."""
    return (_all_codes if level.dense else _existing_children)(level, node, score, log_prob)


def _all_codes(level: Level, node: Tensor, score: Tensor, log_prob: Tensor) -> Candidates:
    """Return every code of every beam, of nodes int64 [B, W], scores float32 [B, W] and log-probabilities float32 [B, W, C]."""
    total = score.unsqueeze(-1) + log_prob
    if level.child is not None:
        total.masked_fill_(level.child[node.clamp(max=level.num_nodes - 1)] < 0, -torch.inf)
    first = torch.arange(0, total[0].numel(), level.num_codes, device=node.device).expand(len(node), -1)
    return Candidates(total.flatten(1), first, None, None)


def _existing_children(level: Level, node: Tensor, score: Tensor, log_prob: Tensor) -> Candidates:
    """Return the existing children of every beam, as wide as the user with most of them; arguments as in `_all_codes`."""
    known = node.clamp(max=level.num_nodes - 1)
    begin = level.start[known].long()
    count = (level.start[known + 1] - begin).masked_fill(score == -torch.inf, 0)
    until = count.cumsum(1)
    place = torch.arange(max(1, int(until[:, -1].max())), device=node.device).expand(len(node), -1)
    beam = torch.searchsorted(until, place.contiguous(), right=True).clamp(max=node.shape[1] - 1)
    first = until - count
    child = (place + (begin - first).gather(1, beam)).clamp(max=len(level.code) - 1)
    total = score.gather(1, beam) + log_prob.flatten(1).gather(1, beam * level.num_codes + level.code[child])
    return Candidates(total.masked_fill_(place >= until[:, -1:], -torch.inf), first, beam, child)


def beam_and_child(level: Level, node: Tensor, candidates: Candidates, place: Tensor) -> tuple[Tensor, Tensor]:
    """Return the beam that the candidates at `place` int64 [B, X] continue, and their nodes, int64 [B, X] each."""
    if candidates.beam is not None and candidates.child is not None:
        return candidates.beam.gather(1, place), candidates.child.gather(1, place)
    beam, code = place // level.num_codes, place % level.num_codes
    parent = node.gather(1, beam).clamp(max=level.num_nodes - 1)
    return beam, parent * level.num_codes + code if level.child is None else level.child[parent, code].long().clamp(min=0)


def tie_breakers(level: Level, node: Tensor, candidates: Candidates, leaves: LeafItems | None, shared_root: bool) -> Tensor:
    """Return the numbers that order candidates of equal score, int64 [B or 1, X]: their place, or with `leaves` their lowest item."""
    place = torch.arange(candidates.score.shape[1], device=node.device).unsqueeze(0)
    if leaves is None:
        return place
    if shared_root and candidates.child is None:  # all users are at the root
        node = node[:1]
    return leaves.lowest_item(beam_and_child(level, node, candidates, place.expand(len(node), -1))[1])


def mask_excluded(
    level: Level, node: Tensor, candidates: Candidates, number: Tensor, excluded: ExcludedPlaces, depth: int, last: bool
) -> Tensor:
    """Set the scores of excluded children to -inf, in place; return the tie-breakers without excluded items."""
    place, found = _find_children(level, node, candidates, excluded.nodes[depth])
    bound = torch.where(found, -torch.inf, torch.inf)
    candidates.score.scatter_reduce_(1, place, bound, "amin")
    if not last or excluded.leaf is None or excluded.lowest_item is None:
        return number
    place, found = _find_children(level, node, candidates, excluded.leaf)
    return number.expand(candidates.score.shape).scatter_reduce(1, place, excluded.lowest_item * found, "amax")


def _find_children(level: Level, node: Tensor, candidates: Candidates, child: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of children int64 [B, F] among the candidates, and whether they are candidates (the place is 0 if not)."""
    parent = parents(child, level.start)
    beam = torch.searchsorted(node, parent).clamp(max=node.shape[1] - 1)
    found = (node.gather(1, beam) == parent) & (parent < level.num_nodes)
    known = child.clamp(max=len(level.code) - 1)
    offset = level.code[known] if level.dense else known - level.start[parent.clamp(max=level.num_nodes - 1)]
    return (candidates.first.gather(1, beam) + offset).masked_fill(~found, 0), found


def select(level: Level, node: Tensor, candidates: Candidates, number: Tensor, width: int, last: bool) -> SelectedBeams:
    """Return the `width` best candidates."""
    key, place = best(keys(candidates.score, number), width)
    score = scores(key)
    if not last:
        place, order = place.masked_fill(score == -torch.inf, candidates.score.shape[1]).sort(1)
        place, score = place.clamp(max=candidates.score.shape[1] - 1), score.gather(1, order)
    beam, child = beam_and_child(level, node, candidates, place)
    return SelectedBeams(child.masked_fill(score == -torch.inf, len(level.code)), score, beam, level.code[child].long())


def concatenate(parts: list[SelectedBeams], no_node: int) -> SelectedBeams:
    """Concatenate the beams of all users, padded to the widest part; `no_node` fills the nodes."""
    widest = max(part.node.shape[1] for part in parts)
    columns = zip(zip(*parts, strict=True), (no_node, -torch.inf, 0, 0), strict=True)
    return SelectedBeams(
        *(torch.cat([pad(part, (0, widest - part.shape[1]), value=fill) for part in column]) for column, fill in columns)
    )
