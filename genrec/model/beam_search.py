"""Constrained beam search over the trie of real Semantic IDs, as tensor arithmetic: no Python per beam, none per user.

In: a policy that gives the next level's log-probabilities, and the trie's levels. Out: leaves of the trie. Beams are real items and
unique by construction: every candidate is a child of a node, and no two beams are at one node.

Which candidates survive a level is one order, whatever the device or the batch: by score; equal scores by node, that is by the
codes so far, lexicographically; on the last level, where a node is a Semantic ID, by the lowest item that the user may get of it.

A level offers at most (children of a node) x beams candidates. Where most nodes have most of the level's codes, all codes are
candidates, and those without a child are masked by a dense table; elsewhere the children there are stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.item_rows import best, keys, scores
from genrec.model.item_lists import Beams, ExcludedPlaces, LeafItems, parents

__all__ = ["Beams", "Decoding", "Level", "Prefix", "State", "beam_search"]

State = Any  # what a policy keeps of the beams so far; generation only hands it back
CELLS = {"cpu": 2**19}  # candidates that are looked at at once: on a CPU they stay in its caches
CELLS_ELSEWHERE = 2**25


class Decoding(Protocol):
    """A policy that has read the histories of B users and writes Semantic IDs, one level at a time."""

    def start(self) -> tuple[Tensor, State]:
        """The first level's log-probabilities, float32 [B, C1], and the state of one empty beam a user."""
        ...

    def advance(self, level: int, state: State, beam: Tensor, code: Tensor) -> tuple[Tensor, State]:
        """One level further: the log-probabilities of level `level + 1`, float32 [B, W, C], and the state of the W beams.

        `beam` int64 [B, W]: which of the beams of `state` each continues (any number of times, in any order); `code` int64 [B, W]:
        the code of level `level` (from 0) that it took. `state` is left as it is: it may be continued again.
        """
        ...


class Level(NamedTuple):
    """The trie's nodes of one depth and their children."""

    start: Tensor  # int32 [nodes + 1]  children of node i are nodes start[i] .. start[i+1]-1 of the next depth
    code: Tensor  # int32 [children]  the code that leads to each child
    codes: int  # C, the level's codes
    full: bool  # whether every node has a child for every code, which then is node x C + code
    child: Tensor | None  # int32 [nodes, C]  the child of each code, -1 where there is none; None where full, or not worth a table

    @property
    def nodes(self) -> int:
        """How many nodes there are at this depth."""
        return len(self.start) - 1

    @property
    def dense(self) -> bool:
        """Whether all codes are candidates."""
        return self.full or self.child is not None


class Prefix(NamedTuple):
    """The first codes that every beam of a user has, and the node that they lead to."""

    code: Tensor  # int64 [B, depth]
    node: Tensor  # int64 [B]
    real: Tensor  # bool [B]  false: this user gets no beam


class Candidates(NamedTuple):
    """What a level offers: beam after beam, the children of each in the order of their codes."""

    score: Tensor  # float32 [B, X]  -inf where there is no child
    first: Tensor  # int64 [B, W]  where those of each beam begin
    beam: Tensor | None  # int64 [B, X]  the beam that each continues, and
    child: Tensor | None  # int64 [B, X]  the node that it is; None on a dense level, where both follow from its place


class Kept(NamedTuple):
    """The beams that a level leaves: ascending by node, but best first on the last level."""

    node: Tensor  # int64 [B, W]  one beyond the others where there is no beam
    score: Tensor  # float32 [B, W]  -inf where there is no beam
    beam: Tensor  # int64 [B, W]  the one of the level before that each continues
    code: Tensor  # int64 [B, W]  the code that it took


def beam_search(
    decoding: Decoding,
    levels: Sequence[Level],
    leaves: LeafItems,
    width: int,
    forbidden: ExcludedPlaces | None = None,
    prefix: Prefix | None = None,
) -> Beams:
    """The `width` most probable leaves found level by level; `forbidden` says what each user must not get, `prefix` where it begins.

    A prefix with nothing else below it is not followed, so that no beam is lost to it. With `width` at least the number of leaves
    the result is exact.
    """
    node, score, log_prob, state = _begin(decoding, prefix, len(levels))
    broken, written = score.isnan().any(1), 0 if prefix is None else prefix.code.shape[1]
    for depth, level in enumerate(levels[written:], written):
        broken = broken | log_prob[..., 0].isnan().any(1)  # a softmax that is NaN anywhere is NaN everywhere
        last = depth == len(levels) - 1
        size = max(1, CELLS.get(node.device.type, CELLS_ELSEWHERE) // log_prob[0].numel())
        parts = []
        for rows in (slice(begin, begin + size) for begin in range(0, len(node), size)):
            found = (_all_codes if level.dense else _children)(level, node[rows], score[rows], log_prob[rows])
            number = _numbers(level, node[rows], found, leaves if last else None, shared_root=depth == 0)
            if forbidden is not None:
                number = _forbid(level, node[rows], found, number, forbidden.rows(rows), depth, last)
            parts.append(_keep(level, node[rows], found, number, width, last))
        node, score, beam, code = _side_by_side(parts, len(level.code))
        if not last:
            log_prob, state = decoding.advance(depth, state, beam, code)
    return Beams(node, score.masked_fill(broken.unsqueeze(1), torch.nan))


def _begin(decoding: Decoding, prefix: Prefix | None, levels: int) -> tuple[Tensor, Tensor, Tensor, State]:
    """One beam a user, with the prefix written: its node and score [B, 1], the next level's log-probabilities [B, 1, C], its state.

    After a prefix of all `levels` there is no next level, and the last two are those of the level before.
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
        if depth < levels - 1:
            log_prob, state = decoding.advance(depth, state, node, code)
    return prefix.node.unsqueeze(1), score.masked_fill(~prefix.real.unsqueeze(1), -torch.inf), log_prob, state


def _all_codes(level: Level, node: Tensor, score: Tensor, log_prob: Tensor) -> Candidates:
    """Every code of every beam: nodes int64 [B, W], scores float32 [B, W], log-probabilities float32 [B, W, C]."""
    total = score.unsqueeze(-1) + log_prob
    if level.child is not None:
        total.masked_fill_(level.child[node.clamp(max=level.nodes - 1)] < 0, -torch.inf)
    first = torch.arange(0, total[0].numel(), level.codes, device=node.device).expand(len(node), -1)
    return Candidates(total.flatten(1), first, None, None)


def _children(level: Level, node: Tensor, score: Tensor, log_prob: Tensor) -> Candidates:
    """The children that there are, as many as the user with most of them has; arguments as of `_all_codes`."""
    known = node.clamp(max=level.nodes - 1)
    begin = level.start[known].long()
    count = (level.start[known + 1] - begin).masked_fill(score == -torch.inf, 0)
    until = count.cumsum(1)
    place = torch.arange(max(1, int(until[:, -1].max())), device=node.device).expand(len(node), -1)
    beam = torch.searchsorted(until, place.contiguous(), right=True).clamp(max=node.shape[1] - 1)
    first = until - count
    child = (place + (begin - first).gather(1, beam)).clamp(max=len(level.code) - 1)
    total = score.gather(1, beam) + log_prob.flatten(1).gather(1, beam * level.codes + level.code[child])
    return Candidates(total.masked_fill_(place >= until[:, -1:], -torch.inf), first, beam, child)


def _at(level: Level, node: Tensor, found: Candidates, place: Tensor) -> tuple[Tensor, Tensor]:
    """Candidates at `place` int64 [B, X] -> the beam that each continues and the child that it is, int64 [B, X] each."""
    if found.beam is not None and found.child is not None:
        return found.beam.gather(1, place), found.child.gather(1, place)
    beam, code = place // level.codes, place % level.codes
    parent = node.gather(1, beam).clamp(max=level.nodes - 1)
    return beam, parent * level.codes + code if level.child is None else level.child[parent, code].long().clamp(min=0)


def _numbers(level: Level, node: Tensor, found: Candidates, leaves: LeafItems | None, shared_root: bool) -> Tensor:
    """What orders candidates of equal score, int64 [B or 1, X]: their place, on the last level the lowest item of each."""
    place = torch.arange(found.score.shape[1], device=node.device).unsqueeze(0)
    if leaves is None:
        return place
    if shared_root and found.child is None:  # all users stand at the root
        node = node[:1]
    return leaves.first(_at(level, node, found, place.expand(len(node), -1))[1])


def _forbid(
    level: Level, node: Tensor, found: Candidates, number: Tensor, forbidden: ExcludedPlaces, depth: int, last: bool
) -> Tensor:
    """Take forbidden children out of the scores; the numbers, where a leaf has lost its lowest item with its next one."""
    slot, there = _slots(level, node, found, forbidden.nodes[depth])
    out = torch.where(there, -torch.inf, torch.inf)
    found.score.scatter_reduce_(1, slot, out, "amin")
    if not last or forbidden.touched is None or forbidden.lowest is None:
        return number
    slot, there = _slots(level, node, found, forbidden.touched)
    return number.expand(found.score.shape).scatter_reduce(1, slot, forbidden.lowest * there, "amax")


def _slots(level: Level, node: Tensor, found: Candidates, child: Tensor) -> tuple[Tensor, Tensor]:
    """Where children int64 [B, F] stand among the candidates, and whether they do (else the place is 0)."""
    parent = parents(child, level.start)
    beam = torch.searchsorted(node, parent).clamp(max=node.shape[1] - 1)
    there = (node.gather(1, beam) == parent) & (parent < level.nodes)
    known = child.clamp(max=len(level.code) - 1)
    step = level.code[known] if level.dense else known - level.start[parent.clamp(max=level.nodes - 1)]
    return (found.first.gather(1, beam) + step).masked_fill(~there, 0), there


def _keep(level: Level, node: Tensor, found: Candidates, number: Tensor, width: int, last: bool) -> Kept:
    """The best `width` candidates."""
    key, place = best(keys(found.score, number), width)
    score = scores(key)
    if not last:
        place, order = place.masked_fill(score == -torch.inf, found.score.shape[1]).sort(1)
        place, score = place.clamp(max=found.score.shape[1] - 1), score.gather(1, order)
    beam, child = _at(level, node, found, place)
    return Kept(child.masked_fill(score == -torch.inf, len(level.code)), score, beam, level.code[child].long())


def _side_by_side(parts: list[Kept], none: int) -> Kept:
    """Users' beams in one piece again, as wide as the widest part's."""
    widest = max(part.node.shape[1] for part in parts)
    columns = zip(zip(*parts, strict=True), (none, -torch.inf, 0, 0), strict=True)
    return Kept(*(torch.cat([pad(part, (0, widest - part.shape[1]), value=empty) for part in column]) for column, empty in columns))
