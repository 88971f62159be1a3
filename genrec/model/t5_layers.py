"""The transformer layers of T5 (Raffel et al. 2020, arXiv 1910.10683), as the policies use them.

Pre-norm residual blocks without biases, unscaled dot-product attention, and a learned bias of relative positions; the arithmetic is in
`kernels`. One deviation from T5: dropout is applied to embeddings, residual branches and the feed-forward layer, but not to attention
weights.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from genrec.model import kernels

NUM_BUCKETS = 32  # buckets of relative positions
EPS = 1e-6  # of the norms
MASK_VALUE = -1e30  # added to the logits of masked keys: their weight is 0, and a row of masked keys is not NaN, in bfloat16 either
MAX_DISTANCE = 128  # positions at this distance or beyond share the last bucket


def relative_buckets(queries: Tensor, keys: Tensor, bidirectional: bool) -> Tensor:
    """Return the bucket of each pair of positions int64 [Q] and [S]: int64 [Q, S].

    Near distances have a bucket each, larger ones are grouped on a logarithmic scale (arXiv 1910.10683, section 2.1).
    """
    distance = keys[None, :] - queries[:, None]
    buckets = NUM_BUCKETS
    result = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        result = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    scaled = torch.log(distance.clamp(min=1).float() / exact) / math.log(MAX_DISTANCE / exact) * (buckets - exact)
    far = (exact + scaled.long()).clamp(max=buckets - 1)
    return result + torch.where(distance < exact, distance, far)


def additive_mask(masked: Tensor) -> Tensor:
    """Return float32 values to add to logits: MASK_VALUE where the bool tensor is true, else 0."""
    return torch.zeros(masked.shape, device=masked.device).masked_fill(masked, MASK_VALUE)


def attention_mask(empty: Tensor, future: Tensor | None = None) -> Tensor | None:
    """Return an additive mask of padded and future keys, float32 [B or 1, 1, Q or 1, S]; None where (on a CPU) no key is masked.

    `empty` bool [B, S] is true for padded keys, `future` bool [Q, S] for keys after a query. A query without any other key attends to
    padding, so that an empty history is finite.
    """
    if empty.device.type == "cpu" and not empty.any():
        masked = None if future is None else future[None]
    elif future is None:
        masked = (empty & ~empty.all(1, keepdim=True)).unsqueeze(1)
    else:
        has_key = (~empty.unsqueeze(1) & ~future).any(-1, keepdim=True)
        masked = empty.unsqueeze(1) & has_key | future
    if masked is None:
        return None
    return additive_mask(masked).unsqueeze(1)


def code_log_probs(states: Tensor, head: nn.Module) -> Tensor:
    """Return the log-probabilities of one level's C codes, float32 [..., C], of states [..., D] and the level's output layer."""
    return kernels.linear(states, cast(nn.Linear, head).weight).float().log_softmax(-1)


class RelativeBias(nn.Module):
    """A learned attention bias per head and bucket of relative positions, shared by all layers of a stack."""

    def __init__(self, heads: int, bidirectional: bool) -> None:
        super().__init__()
        self.bidirectional = bidirectional
        self.table = nn.Embedding(NUM_BUCKETS, heads)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the bias of positions int64 [Q] and [S], float32 [1, H, Q, S]."""
        bias: Tensor = self.table(relative_buckets(queries, keys, self.bidirectional))
        return bias.permute(2, 0, 1).unsqueeze(0)


class RMSNorm(nn.Module):
    """Root mean square normalization with one weight per dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, states: Tensor) -> Tensor:
        """Normalize float32 [..., D]; the result is in autocast's precision."""
        return kernels.rms_norm(states, self.weight, EPS)


class Dropout(nn.Module):
    """Dropout, with a method for the residual sum that usually follows it."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, states: Tensor, rows: kernels.Rows | None = None) -> Tensor:
        """Apply dropout in training mode."""
        return kernels.dropout(states, self.rate, self.training, rows)

    def add(self, states: Tensor, branch: Tensor, rows: kernels.Rows | None = None) -> Tensor:
        """Return `states + dropout(branch)`."""
        return kernels.add_dropout(states, branch, self.rate, self.training, rows)


class Attention(nn.Module):
    """Multi-head attention; keys and values are computed separately, so that they can be cached and shared by many queries."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.query = nn.Linear(width, heads * head_width, bias=False)
        self.key_value = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.output = nn.Linear(heads * head_width, width, bias=False)
        nn.init.normal_(self.query.weight, std=(width * head_width) ** -0.5)
        nn.init.normal_(self.key_value.weight, std=width**-0.5)
        nn.init.normal_(self.output.weight, std=(heads * head_width) ** -0.5)

    def queries(self, states: Tensor) -> Tensor:
        """Return the queries of states float [B, Q, D]: [B, H, Q, head width]."""
        return kernels.linear(states, self.query.weight).view(*states.shape[:2], self.heads, -1).transpose(1, 2)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of states float [B, S, D], each [B, H, S, head width]."""
        both = kernels.linear(states, self.key_value.weight).view(*states.shape[:2], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        keys, values = both.unbind(0)
        return keys, values

    def self_attention(self, states: Tensor, bias: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `forward` of states [B, S, D] over themselves, with one product for queries, keys and values."""
        packed = self.queries_keys_values(states).view(*states.shape[:2], 3, self.heads, -1)
        return self.merge_heads(kernels.self_attention(packed, bias, mask))

    def queries_keys_values(self, states: Tensor) -> Tensor:
        """Return queries, keys and values of states float [..., D], by one product: [..., 3 * H * head width]."""
        return kernels.linear(states, torch.cat([self.query.weight, self.key_value.weight]))

    def merge_heads(self, mixed: Tensor) -> Tensor:
        """Return the output projection of the heads' results [B, H, Q, head width]: [B, Q, D]."""
        return kernels.linear(mixed.transpose(1, 2).flatten(2), self.output.weight)

    def forward(self, states: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """Attend from states [B, Q, D] to keys and values [B, H, S, head width]: [B, Q, D].

        `bias` and `mask` are as in `kernels.attention`.
        """
        return self.merge_heads(kernels.attention(self.queries(states), keys, values, bias, mask))

    def cross_attention(self, states: Tensor, memory: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return `forward` over the keys and values of `memory` [B, S, D], by the cheaper of two orders of products.

        (x Wq) (m Wk)' equals ((x Wq) Wk') m', and softmax(..) (m Wv) equals (softmax(..) m) Wv. With few queries it is cheaper to
        project the queries to the memory's width than to compute keys and values of the whole memory.
        """
        queries, length, width = states.shape[1], memory.shape[1], memory.shape[2]
        cost_of_keys = 2 * length * self.head_width * (width + queries)
        if cost_of_keys <= 2 * queries * width * (self.head_width + length):
            direct: Tensor = self(states, *self.keys_values(memory), bias, mask)
            return direct
        key, value = self.key_value.weight.view(2, self.heads, -1, width).unbind(0)  # each [H, head width, D]
        batch = len(states)
        query = torch.bmm(self.queries(states).transpose(0, 1).flatten(1, 2), key)  # [H, B * Q, D], as wide as the memory
        query = query.view(self.heads, batch, queries, width).transpose(0, 1).flatten(1, 2)  # [B, H * Q, D]
        scores = torch.bmm(query, memory.mT).view(batch, self.heads, queries, length)
        for added in (bias, mask):
            scores = scores if added is None else scores + added
        mixed = torch.bmm(torch.softmax(scores, -1).to(memory.dtype).flatten(1, 2), memory)  # [B, H * Q, D]
        mixed = mixed.view(batch, self.heads, queries, width).transpose(0, 1).flatten(1, 2)
        return self.merge_heads(torch.bmm(mixed, value.mT).view(self.heads, batch, queries, -1).transpose(0, 1))


class FeedForward(nn.Module):
    """Two linear layers with ReLU and dropout between them."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, inner, bias=False)
        self.output = nn.Linear(inner, width, bias=False)
        self.dropout = dropout
        nn.init.normal_(self.inner.weight, std=width**-0.5)
        nn.init.normal_(self.output.weight, std=inner**-0.5)

    def forward(self, states: Tensor, rows: kernels.Rows | None = None) -> Tensor:
        """Apply the layers to states float [..., D]."""
        return kernels.feed_forward(states, self.inner.weight, self.output.weight, self.dropout, self.training, rows)


class Residual(nn.Module):
    """The norm and the dropout of one residual branch, `x + dropout(branch(norm(x)))`."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.dropout = Dropout(dropout)


class EncoderLayer(nn.Module):
    """Self-attention over the history, then feed-forward."""

    def __init__(self, width: int, inner: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, head_width)
        self.feed_forward = FeedForward(width, inner, dropout)
        self.around_attention = Residual(width, dropout)
        self.around_feed_forward = Residual(width, dropout)

    def forward(self, states: Tensor, bias: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply the layer to states float32 [B, S, D], with a bias [1, H, S, S] and a mask broadcast to [B, H, S, S]."""
        attended = self.attention.self_attention(self.around_attention.norm(states), bias, mask)
        states = self.around_attention.dropout.add(states, attended)
        branch = self.feed_forward(self.around_feed_forward.norm(states))
        return self.around_feed_forward.dropout.add(states, branch)


class DecoderLayer(nn.Module):
    """Self-attention over a candidate's codes, cross-attention to the history, feed-forward.

    The states are [B, M, Q, D]: `Q` codes of each of `M` candidates (or beams) of a user. Self-attention is within a candidate. In the
    attention to the history the codes of all candidates are queries of one row, so that the history's keys are never copied.
    """

    def __init__(self, width: int, inner: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, head_width)
        self.history_attention = Attention(width, heads, head_width)
        self.feed_forward = FeedForward(width, inner, dropout)
        self.around_attention = Residual(width, dropout)
        self.around_history = Residual(width, dropout)
        self.around_feed_forward = Residual(width, dropout)

    def forward(
        self,
        states: Tensor,
        history: Tensor | tuple[Tensor, Tensor],
        history_bias: Tensor | None,
        history_mask: Tensor | None,
        bias: Tensor,
        past: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Apply the layer to states float32 [B, M, Q, D]; also return its keys and values, each [B * M, H, past + Q, head width].

        `history` is the encoded history [B, S, D], or its keys and values, each [B, H, S, head width]. `history_bias` [1, H, M * Q, S]
        and `history_mask` are as in `kernels.attention`. `bias` [1, H, Q, past + Q] is causal. `past` holds the keys and values of the
        codes before these.
        """
        batch, candidates, length, width = states.shape
        normed = self.around_attention.norm(states).view(batch * candidates, length, width)
        keys, values = self.attention.keys_values(normed)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        attended = self.attention(normed, keys, values, bias).view(states.shape)
        states = self.around_attention.dropout.add(states, attended)
        normed = self.around_history.norm(states).view(batch, candidates * length, width)
        if isinstance(history, Tensor):
            attended = self.history_attention.cross_attention(normed, history, history_bias, history_mask)
        else:
            attended = self.history_attention(normed, *history, history_bias, history_mask)
        states = self.around_history.dropout.add(states, attended.view(states.shape))
        branch = self.feed_forward(self.around_feed_forward.norm(states))
        return self.around_feed_forward.dropout.add(states, branch), (keys, values)
