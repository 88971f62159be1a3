"""Layers of a decoder-only transformer that encode a history once and share it among any number of continuations ("branches").

A branch holds the tokens that follow the history: a candidate's codes, or a beam's. All branches of a user attend to the history's
keys and values, which are never copied. Blocks are pre-norm, without biases, with unscaled dot products and a position bias, as in
T5 (Raffel et al. 2020, arXiv 1910.10683); dropout is placed as in `t5_layers`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genrec.model import kernels
from genrec.model.t5_layers import FeedForward, Residual

KeysValues = tuple[Tensor, Tensor]


class CausalLayer(nn.Module):
    """Self-attention and feed-forward, applied to a history or to branches of it with the same weights."""

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

    def encode_history(self, states: Tensor, bias: Tensor, mask: Tensor | None, num_states: int) -> tuple[Tensor, KeysValues]:
        """Apply the layer to a history, float32 [B, S, D]; return the states of its last `num_states` places, and all keys and values.

        `bias` and `mask` are as in `kernels.attention`. Keys and values are [B, H, S, head width] each.
        """
        query, keys, values = self._queries_keys_values(self.around_attention.norm(states))
        mask = None if mask is None else mask[:, :, -num_states:]
        mixed = kernels.attention(query[:, :, -num_states:], keys, values, bias[:, :, -num_states:], mask)
        return self._project_and_feed_forward(states[:, -num_states:], mixed.transpose(1, 2).flatten(2)), (keys, values)

    def encode_branches(
        self, states: Tensor, history: KeysValues, history_bias: Tensor, branch_bias: Tensor, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Apply the layer to branches, float32 [B, M, Q, D]; also return their keys and values, each [B, M, H, past + Q, head width].

        `history_bias` is broadcast to [B, H, M, Q, S]. `branch_bias` [H, Q, past + Q] is causal. `past` holds the keys and values of
        each branch's tokens before these.
        """
        batch, branches, length, width = states.shape
        normed = self.around_attention.norm(states).view(batch * branches, length, width)
        query, *new = (part.view(batch, branches, *part.shape[1:]) for part in self._queries_keys_values(normed))
        keys, values = new if past is None else (torch.cat(pair, 3) for pair in zip(past, new, strict=True))
        mixed = _attend(query, history, (keys, values), history_bias, branch_bias)
        return self._project_and_feed_forward(states, mixed), (keys, values)

    def _queries_keys_values(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of float32 [R, Q, D], each [R, H, Q, head width]."""
        rows, length, _ = normed.shape
        packed = kernels.linear(normed, self.query_key_value.weight)
        query, keys, values = packed.view(rows, length, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4).unbind(0)
        return query, keys, values

    def _project_and_feed_forward(self, states: Tensor, mixed: Tensor) -> Tensor:
        """Add the projected attention results to the states, then apply the feed-forward branch."""
        states = self.around_attention.dropout.add(states, kernels.linear(mixed, self.output.weight))
        return self.around_feed_forward.dropout.add(states, self.feed_forward(self.around_feed_forward.norm(states)))


def _attend(query: Tensor, history: KeysValues, branch: KeysValues, history_bias: Tensor, branch_bias: Tensor) -> Tensor:
    """Return attention with one softmax over the history's keys and the branch's own keys: [B, M, Q, H * head width].

    `query` is [B, M, H, Q, head width]. The queries of all branches of a user form one product with the history, which is not copied.
    """
    (batch, branches, heads, length, head_width), size = query.shape, history[0].shape[2]
    rows = query.transpose(1, 2).reshape(batch, heads, branches * length, head_width)
    history_scores = (rows @ history[0].transpose(-1, -2)).view(batch, heads, branches, length, size) + history_bias
    branch_scores = (query @ branch[0].transpose(-1, -2) + branch_bias).transpose(1, 2)
    weights = torch.cat([history_scores, branch_scores], -1).softmax(-1).to(history[1].dtype)
    from_history = weights[..., :size].reshape(batch, heads, branches * length, size) @ history[1]
    from_branch = weights[..., size:].transpose(1, 2) @ branch[1]
    mixed = from_history.view(batch, heads, branches, length, head_width).transpose(1, 2) + from_branch
    return mixed.transpose(2, 3).reshape(batch, branches, length, heads * head_width)
