"""Code sequences that no item has: by search or by samples without the trie, or by replacing codes of an item.

Sequences are int64 [X, M, L]; a row with fewer sequences ends in -1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genrec.item_rows import best, keys, sample_columns, scores
from genrec.preference.rewards.reward_tables import DeviceTable
from genrec.semantic_ids import SemanticIds
from genrec.types import DecodingPolicy

MAX_CELLS = 2**22  # probabilities that a search or a sampling holds at once, 16 MB


class RealCodes:
    """Tells which code sequences are Semantic IDs of items. Works on every device without waiting for it."""

    def __init__(self, semantic_ids: SemanticIds) -> None:
        self.sizes = semantic_ids.level_sizes
        self.edges = []  # of each level: ascending keys (node x number of codes + code) of the trie's edges
        for table, size in zip(semantic_ids.tables, self.sizes, strict=True):
            node = torch.repeat_interleave(torch.arange(len(table.start) - 1), table.start.diff().long())
            self.edges.append(DeviceTable(node * size + table.code))

    def __call__(self, codes: Tensor) -> Tensor:
        """Return whether an item has codes int64 [..., L], each in 0..size - 1 of its level: bool [...]."""
        node = torch.zeros(codes.shape[:-1], dtype=torch.int64, device=codes.device)
        found = torch.ones_like(node, dtype=torch.bool)
        for level, size in enumerate(self.sizes):
            edges, wanted = self.edges[level].on(codes.device), node * size + codes[..., level]
            node = torch.searchsorted(edges, wanted).clamp(max=len(edges) - 1)
            found = found & (edges[node] == wanted)
        return found


def has_invalid_codes(semantic_ids: SemanticIds) -> bool:
    """Return whether some sequence of codes belongs to no item."""
    return semantic_ids.distinct < math.prod(semantic_ids.level_sizes)


@torch.no_grad()
def most_probable(policy: DecodingPolicy, history: Tensor, real: RealCodes, count: int, num_beams: int) -> Tensor:
    """Return the most probable sequences of no item after histories int64 [X, T], best first: int64 [X, count, L].

    A beam search without the trie, which keeps `num_beams` prefixes a level; sequences of items are left out on the last level. With
    `num_beams` of all prefixes it is exact. Equal scores are ordered by the codes. The policy is in evaluation mode.
    """
    rows = max(1, MAX_CELLS // (num_beams * max(real.sizes)))
    return torch.cat([_search(policy, part, real, count, num_beams) for part in torch.split(history, rows)])


def _search(policy: DecodingPolicy, history: Tensor, real: RealCodes, count: int, num_beams: int) -> Tensor:
    decoding, last = policy.decoding(history), len(real.sizes) - 1
    log_prob, state = decoding.start()
    total = log_prob.float().unsqueeze(1)  # [X, W, C]  of each beam with each next code
    codes = torch.zeros(len(history), 1, 0, dtype=torch.int64, device=history.device)
    for level, size in enumerate(real.sizes):
        if level == last:
            total = total.masked_fill(real(_continued(codes, size)), -torch.inf)
        number = torch.arange(total[0].numel(), device=history.device)
        key, _ = best(keys(total.flatten(1), number), count if level == last else num_beams)
        place = key & (2**32 - 1)
        beam, code = place // size, place % size
        codes = torch.cat([codes.gather(1, beam.unsqueeze(-1).expand(-1, -1, level)), code.unsqueeze(-1)], -1)
        if level < last:
            log_prob, state = decoding.advance(level, state, beam, code)
            total = scores(key).unsqueeze(-1) + log_prob.float()
    codes = codes.masked_fill(scores(key).isneginf().unsqueeze(-1), -1)
    return torch.nn.functional.pad(codes, (0, 0, 0, count - codes.shape[1]), value=-1)


def _continued(codes: Tensor, size: int) -> Tensor:
    """Return prefixes int64 [X, W, L - 1] with each of `size` last codes: int64 [X, W, size, L]."""
    every = torch.arange(size, device=codes.device).expand(*codes.shape[:2], -1)
    return torch.cat([codes.unsqueeze(2).expand(-1, -1, size, -1), every.unsqueeze(-1)], -1)


@torch.no_grad()
def sampled(policy: DecodingPolicy, history: Tensor, sizes: tuple[int, ...], uniform: Tensor) -> Tensor:
    """Sample code sequences without the trie after histories int64 [X, T], by uniform numbers float64 [X, S, L]: int64 [X, S, L].

    Sequences of items, and repeated ones, are among them. The policy is in evaluation mode.
    """
    rows = max(1, MAX_CELLS // (uniform.shape[1] * max(sizes)))
    parts = zip(torch.split(history, rows), torch.split(uniform.to(history.device), rows), strict=True)
    return torch.cat([_sample(policy, *part) for part in parts])


def _sample(policy: DecodingPolicy, history: Tensor, uniform: Tensor) -> Tensor:
    decoding = policy.decoding(history)
    log_prob, state = decoding.start()
    log_prob = log_prob.unsqueeze(1)
    beam = torch.zeros(uniform.shape[:2], dtype=torch.int64, device=history.device)  # all samples continue the one empty beam
    codes: list[Tensor] = []
    for level in range(uniform.shape[2]):
        if level:
            log_prob, state = decoding.advance(level - 1, state, beam, codes[-1])
            beam = torch.arange(uniform.shape[1], device=history.device).expand(len(history), -1)
        codes.append(sample_columns(log_prob.double().exp(), uniform[..., level]))
    return torch.stack(codes, -1)


def corrupted(codes: Tensor, sizes: tuple[int, ...], num_replaced: int, uniform: Tensor) -> Tensor:
    """Replace codes of sequences int64 [X, L] by other codes of their levels: int64 [X, P, L].

    The first half of the uniform numbers float64 [X, P, 2 L] chooses `num_replaced` of the levels with two codes or more, the second
    half the new codes. Sequences of items, and repeated ones, are among the results.
    """
    size = torch.tensor(sizes)
    choice, value = uniform.masked_fill((size == 1).repeat(2), 2.0).tensor_split(2, -1)
    replaced = choice.argsort(-1).argsort(-1) < num_replaced
    own = codes.unsqueeze(1)
    other = (value * (size - 1)).long().minimum((size - 2).clamp(min=0))
    return torch.where(replaced, other + (other >= own), own)


def take_first_codes(codes: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Return the first distinct allowed sequences of each row, int64 [X, count, L], of int64 [X, P, L] and bool [X, P]."""
    kept = allowed & ~repeated_codes(codes, allowed)
    order = (~kept).int().argsort(dim=1, stable=True)[:, :count]
    taken = codes.gather(1, order.unsqueeze(-1).expand(-1, -1, codes.shape[2]))
    return taken.masked_fill(~kept.gather(1, order).unsqueeze(-1), -1)


def repeated_codes(codes: Tensor, allowed: Tensor) -> Tensor:
    """Return where an allowed sequence of int64 [X, P, L] has occurred earlier in its row: bool [X, P]; `allowed` is bool [X, P]."""
    same = allowed.unsqueeze(1) & allowed.unsqueeze(2)
    for level in codes.unbind(-1):
        same = same & (level.unsqueeze(1) == level.unsqueeze(2))
    return same.tril(-1).any(2)
