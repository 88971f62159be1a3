"""Layers of a decoder-only transformer whose history is read once, for any number of continuations ("branches") of it.

In: a history's token states, then states of the tokens that each branch adds (a candidate's codes, a beam's). Out: new states, and
keys and values to go on from. The branches of a user share the history's keys and values, which are never copied. Pre-norm blocks
without biases, unscaled dot products and a position bias, as in T5 (Raffel et al. 2020, arXiv 1910.10683); dropout as in `layers`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genrec.model import kernels
from genrec.model.t5_layers import FeedForward, Residual

KeysValues = tuple[Tensor, Tensor]


class CausalLayer(nn.Module):
    """Self-attention and feed-forward, over a history or over branches of it, with the same weights."""

    def __init__(self, width: int, inner: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.query_key_value = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.output = nn.Linear(heads * head_width, width, bias=False)
        self.feed_forward = FeedForward(width, inner, dropout)
        self.around_attention = Residual(width, dropout)
        self.around_feed_forward = Residual(width, dropout)
        nn.init.normal_(self.query_key_value.weight, std=width**-0.5)
        nn.init.normal_(self.query_key_value.weight[: heads * head_width], std=(width * head_width) ** -0.5)
        nn.init.normal_(self.output.weight, std=(heads * head_width) ** -0.5)

    def read(self, states: Tensor, bias: Tensor, hidden: Tensor | None, keep: int) -> tuple[Tensor, KeysValues]:
        """History float32 [B, S, D], bias and mask as in `kernels.attention` -> the states of its last `keep` places.

        Also all keys and values, each [B, H, S, head width].
        """
        query, keys, values = self._split(self.around_attention.norm(states))
        hidden = None if hidden is None else hidden[:, :, -keep:]
        mixed = kernels.attention(query[:, :, -keep:], keys, values, bias[:, :, -keep:], hidden)
        return self._finish(states[:, -keep:], mixed.transpose(1, 2).flatten(2)), (keys, values)

    def branch(
        self, states: Tensor, history: KeysValues, history_bias: Tensor, own_bias: Tensor, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Branches' states float32 [B, M, Q, D] -> the same, and their keys and values, each [B, M, H, past + Q, head width].

        `history_bias` is broadcast to [B, H, M, Q, S], `own_bias` [H, Q, past + Q] is causal; `past`: keys and values of the tokens
        before these, in each branch.
        """
        batch, branches, length, width = states.shape
        normed = self.around_attention.norm(states).view(batch * branches, length, width)
        query, *new = (part.view(batch, branches, *part.shape[1:]) for part in self._split(normed))
        keys, values = new if past is None else (torch.cat(pair, 3) for pair in zip(past, new, strict=True))
        mixed = _attend(query, history, (keys, values), history_bias, own_bias)
        return self._finish(states, mixed), (keys, values)

    def _split(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """float32 [R, Q, D] -> queries, keys and values, each [R, H, Q, head width]."""
        rows, length, _ = normed.shape
        packed = kernels.linear(normed, self.query_key_value.weight)
        query, keys, values = packed.view(rows, length, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4).unbind(0)
        return query, keys, values

    def _finish(self, states: Tensor, mixed: Tensor) -> Tensor:
        """Attention's output projected and added, then the feed-forward layer."""
        states = self.around_attention.dropout.add(states, kernels.linear(mixed, self.output.weight))
        return self.around_feed_forward.dropout.add(states, self.feed_forward(self.around_feed_forward.norm(states)))


def _attend(query: Tensor, history: KeysValues, own: KeysValues, history_bias: Tensor, own_bias: Tensor) -> Tensor:
    """One softmax over the history's keys and the branch's own -> [B, M, Q, H * head width].

    `query` [B, M, H, Q, head width]. All branches' queries of a user meet the history in one product, so that it is not copied.
    """
    (batch, branches, heads, length, head_width), size = query.shape, history[0].shape[2]
    rows = query.transpose(1, 2).reshape(batch, heads, branches * length, head_width)
    seen = (rows @ history[0].transpose(-1, -2)).view(batch, heads, branches, length, size) + history_bias
    written = (query @ own[0].transpose(-1, -2) + own_bias).transpose(1, 2)
    share = torch.cat([seen, written], -1).softmax(-1).to(history[1].dtype)
    of_history = share[..., :size].reshape(batch, heads, branches * length, size) @ history[1]
    of_own = share[..., size:].transpose(1, 2) @ own[1]
    mixed = of_history.view(batch, heads, branches, length, head_width).transpose(1, 2) + of_own
    return mixed.transpose(2, 3).reshape(batch, branches, length, heads * head_width)
