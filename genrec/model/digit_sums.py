"""Sums of digit scores over the digits of every item, and their log-sum-exp over the catalog.

With S digit values in all (the sum of the level sizes), scores q float32 [X, S] of X places and m digits an item, the score of item i
is the sum of q at the m digit values of i. As a matrix product this is q times a sparse matrix [S, N] with m ones a column. On a CPU
it is computed for a few places at once, so that a column of scores is one vector that stays in the cache.

Items are divided into blocks, so that no tensor has a cell for every place and every item unless it is the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from genrec.semantic_ids import SemanticIds

ITEMS_OF_BLOCK = 2**15  # items of a block
PLACES_AT_ONCE = 32  # places that are summed at once on a CPU
MAX_CELLS = 2**25  # sums that other devices hold at once, 128 MB


class Block(NamedTuple):
    """A range of items and its digits, as rows by item and as rows by digit value."""

    first: int  # the number of items before the block: its items are first + 1, first + 2, ...
    digits: Tensor  # int32 [N, m]  the digit values of each item, 0..S - 1
    items: Tensor  # int32 [N m]  the items of each digit value one after the other, counted from 0 in the block
    start: Tensor  # int32 [S]  where the items of each digit value begin


class Catalog(NamedTuple):
    """The digits of all items in blocks, and the weights of a dense part of their scores."""

    blocks: list[Block]
    weights: Tensor | None = None  # float32 [N, D]

    def weights_of(self, block: Block) -> Tensor | None:
        """Return the weights of the items of a block, None without weights."""
        return None if self.weights is None else self.weights[_items(block)]


class DigitTable(nn.Module):
    """The digits of items 1..N: non-persistent buffers that follow the policy to its device, and no parameters."""

    def __init__(self, semantic_ids: SemanticIds) -> None:
        super().__init__()
        values = semantic_ids.vocabulary - 1
        self.level_sizes, self.block_size = list(semantic_ids.level_sizes), ITEMS_OF_BLOCK
        digits = torch.cat([(part + semantic_ids.offsets).int() for part in torch.split(semantic_ids.codes, self.block_size)])
        by_digit, starts = zip(*(_transposed(part, values) for part in torch.split(digits, self.block_size)), strict=True)
        self.digits: Tensor  # int32 [N, m]  the digit values of each item, 0..S - 1
        self.items: Tensor  # int32 [N m]  the items of each digit value, block by block
        self.starts: Tensor  # int32 [blocks, S]
        self.register_buffer("digits", digits, persistent=False)
        self.register_buffer("items", torch.cat(by_digit), persistent=False)
        self.register_buffer("starts", torch.stack(starts), persistent=False)

    def of(self, items: Tensor) -> Tensor:
        """Return the digit values of items int64 [...], int64 [..., m] in 0..S - 1; item 0 gets those of item 1."""
        return self.digits[(items - 1).clamp(min=0)].long()

    @property
    def blocks(self) -> list[Block]:
        """Return the blocks of items, on the policy's device."""
        digits, size = torch.split(self.digits, self.block_size), self.block_size * self.digits.shape[1]
        parts = zip(digits, torch.split(self.items, size), self.starts, strict=True)
        return [Block(number * self.block_size, *part) for number, part in enumerate(parts)]

    @property
    def shares(self) -> Tensor:
        """Return the share of the items that have each digit value, float32 [S]."""
        sizes = self.starts.new_tensor([part.numel() for part in torch.split(self.digits, self.block_size)])
        ends = torch.cat([self.starts[:, 1:], sizes.unsqueeze(1)], 1)
        return (ends - self.starts).sum(0) / len(self.digits)


def _transposed(digits: Tensor, values: int) -> tuple[Tensor, Tensor]:
    """Return the items of each digit value, and where they begin, of digits int32 [N, m]: int32 [N m] and [S]."""
    ordered, order = digits.flatten().sort(stable=True)
    return (order // digits.shape[1]).int(), torch.searchsorted(ordered, torch.arange(values, dtype=torch.int32)).int()


def item_sums(scores: Tensor, block: Block) -> Tensor:
    """Return the sum of the scores of each item's digits, [X, S] -> [X, N], for the N items of a block."""
    result: Tensor = _ItemSums.apply(scores, block)  # type: ignore[no-untyped-call]
    return result


def block_scores(scores: Tensor, states: Tensor | None, weights: Tensor | None, block: Block) -> Tensor:
    """Return the scores of the items of a block, [X, N]; `weights` [N, D] are theirs, other arguments as in `log_sum_exp`."""
    sums = item_sums(scores, block)
    if states is None or weights is None:
        return sums
    with torch.autocast(sums.device.type, enabled=False):
        return sums + states @ weights.T


def log_sum_exp(scores: Tensor, states: Tensor | None, catalog: Catalog) -> Tensor:
    """Return the log of the sum over all items of exp(score): [X].

    The score of an item is the sum of the `scores`, [X, S], of its digits, plus the product of `states` [X, D] and the item's
    weights, if the catalog has weights. The sums are not kept.
    """
    result: Tensor = _LogSumExp.apply(scores, states, catalog.weights, catalog.blocks)  # type: ignore[no-untyped-call]
    return result


def _places(scores: Tensor, weights: Tensor | None = None) -> Iterator[slice]:
    """Return ranges of places that are summed at once; a dense product with weights is faster for twice as many."""
    step = PLACES_AT_ONCE if weights is None else 2 * PLACES_AT_ONCE
    step = step if scores.device.type == "cpu" else MAX_CELLS // ITEMS_OF_BLOCK
    return (slice(begin, begin + step) for begin in range(0, len(scores), step))


def _sums(columns: Tensor, block: Block) -> Tensor:
    """Return the sums of the items of a block, [N, P], of scores [S, P]."""
    return embedding_bag(block.digits, columns, mode="sum")


def _spread(grad: Tensor, block: Block) -> Tensor:
    """Return the sum of the gradients of the items of each digit value, [N, P] -> [S, P]: the transpose of `_sums`."""
    return embedding_bag(block.items, grad, block.start, mode="sum")


class _ItemSums(Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, block: Block) -> Tensor:
        ctx.block = block
        result = scores.new_empty(len(scores), len(block.digits))
        for rows in _places(scores):
            result[rows] = _sums(scores[rows].T.contiguous(), block).T
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        result = grad.new_empty(len(grad), len(ctx.block.start))
        for rows in _places(grad):
            result[rows] = _spread(grad[rows].T.contiguous(), ctx.block).T
        return result, None


class _LogSumExp(Function):
    """With weights the backward pass computes the sums again. Without them the forward pass computes the gradient, up to a factor."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, states: Tensor | None, weights: Tensor | None, blocks: list[Block]) -> Tensor:
        ctx.blocks, ctx.with_weights = blocks, weights is not None
        with torch.autocast(scores.device.type, enabled=False):
            if weights is None and ctx.needs_input_grad[0]:
                result, shares = _sum_and_shares(scores, blocks)
                ctx.save_for_backward(shares)
                return result
            result = scores.new_full((len(scores),), -torch.inf)
            for rows in _places(scores, weights):
                columns = scores[rows].T.contiguous()
                for block in blocks:
                    sums = _all_sums(columns, block, None if states is None else states[rows], weights)
                    result[rows] = torch.logaddexp(result[rows], sums.logsumexp(0))
        ctx.save_for_backward(scores, states, weights, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        if not ctx.with_weights:
            (shares,) = ctx.saved_tensors
            return shares * grad.unsqueeze(1), None, None, None
        scores, states, weights, total = ctx.saved_tensors
        scores_grad, states_grad, weights_grad = map(torch.zeros_like, (scores, states, weights))
        with torch.autocast(scores.device.type, enabled=False):
            for rows in _places(scores, weights):
                columns = scores[rows].T.contiguous()
                for block in ctx.blocks:
                    share = _all_sums(columns, block, states[rows], weights).sub_(total[rows]).exp_().mul_(grad[rows])
                    scores_grad[rows] += _spread(share, block).T
                    items = _items(block)
                    states_grad[rows].addmm_(share.T, weights[items])
                    weights_grad[items].addmm_(share, states[rows])
        return scores_grad, states_grad, weights_grad, None


def _sum_and_shares(scores: Tensor, blocks: list[Block]) -> tuple[Tensor, Tensor]:
    """Return the log-sum-exp of scores [X, S], [X], and its derivative by each of them, [X, S].

    The derivative by a digit value's score is the sum of the probabilities of its items. Numbers are relative to the highest score
    so far, and change their base where a later block has a higher one.
    """
    result, shares = scores.new_empty(len(scores)), torch.empty_like(scores)
    for rows in _places(scores):
        columns = scores[rows].T.contiguous()
        highest = columns.new_full(columns.shape[1:], -torch.inf)
        total, spread = torch.zeros_like(highest), torch.zeros_like(columns)
        for block in blocks:
            sums = _sums(columns, block)
            before, highest = highest, torch.maximum(highest, sums.amax(0))
            base, parts = (before - highest).exp(), sums.sub_(highest).exp_()
            total = total * base + parts.sum(0)
            spread = _spread(parts, block) if len(blocks) == 1 else spread.mul_(base).add_(_spread(parts, block))
        result[rows], shares[rows] = total.log() + highest, (spread / total).T
    return result, shares


def _items(block: Block) -> slice:
    """Return the rows of the items of a block among all items."""
    return slice(block.first, block.first + len(block.digits))


def _all_sums(columns: Tensor, block: Block, states: Tensor | None, weights: Tensor | None) -> Tensor:
    """Return the scores of the items of a block, [N, P], of digit scores [S, P] and, with weights [N, D], of states [P, D]."""
    sums = _sums(columns, block)
    return sums if states is None or weights is None else sums.addmm_(weights[_items(block)], states.T)
