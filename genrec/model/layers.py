"""The layers of T5 (Raffel et al. 2020, arXiv 1910.10683), as the policy needs them: tensors in, tensors out.

Pre-norm residual blocks without biases, unscaled dot-product attention with a learnt relative position bias. One deviation: dropout
is applied to embeddings, residual branches and the feed-forward layer, not to attention probabilities, so that attention stays one
fused kernel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

BUCKETS = 32  # of relative positions
MAX_DISTANCE = 128  # beyond it all positions share the last bucket


def relative_buckets(queries: Tensor, keys: Tensor, bidirectional: bool) -> Tensor:
    """Positions int64 [Q] and [S] -> bucket int64 [Q, S]: exact for near ones, logarithmic beyond (arXiv 1910.10683, section 2.1)."""
    distance = keys[None, :] - queries[:, None]
    buckets = BUCKETS
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


class RelativeBias(nn.Module):
    """A learnt bias per head and bucket of relative positions, shared by all layers of a stack."""

    def __init__(self, heads: int, bidirectional: bool) -> None:
        super().__init__()
        self.bidirectional = bidirectional
        self.table = nn.Embedding(BUCKETS, heads)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions int64 [Q] and [S] -> float32 [1, H, Q, S]."""
        bias: Tensor = self.table(relative_buckets(queries, keys, self.bidirectional))
        return bias.permute(2, 0, 1).unsqueeze(0)


class Attention(nn.Module):
    """Multi-head attention; keys and values are made apart, so that they can be cached and shared by many queries."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.query = nn.Linear(width, heads * head_width, bias=False)
        self.key_value = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.output = nn.Linear(heads * head_width, width, bias=False)
        nn.init.normal_(self.query.weight, std=(width * head_width) ** -0.5)
        nn.init.normal_(self.key_value.weight, std=width**-0.5)
        nn.init.normal_(self.output.weight, std=(heads * head_width) ** -0.5)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [B, S, D] -> keys and values, each float32 [B, H, S, head width]."""
        batch, length, _ = states.shape
        both = self.key_value(states).view(batch, length, 2, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        return both[0], both[1]

    def forward(self, states: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Queries' states float32 [B, Q, D], keys and values [B, H, S, head width], bias broadcast to [B, H, Q, S] -> [B, Q, D]."""
        batch, length, _ = states.shape
        query = self.query(states).view(batch, length, self.heads, self.head_width).transpose(1, 2)
        if bias is not None:
            bias = bias.to(query.dtype)
        mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=1.0)
        result: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, -1))
        return result


class FeedForward(nn.Module):
    """Two linear layers with ReLU between."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, inner, bias=False)
        self.output = nn.Linear(inner, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.inner.weight, std=width**-0.5)
        nn.init.normal_(self.output.weight, std=inner**-0.5)

    def forward(self, states: Tensor) -> Tensor:
        """float32 [..., D] -> float32 [..., D]."""
        result: Tensor = self.output(self.dropout(functional.relu(self.inner(states))))
        return result


class Residual(nn.Module):
    """`x + dropout(branch(norm(x)))`: the norm and the dropout of one branch."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(dropout)


class EncoderLayer(nn.Module):
    """Self-attention over the history, then feed-forward."""

    def __init__(self, width: int, inner: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, head_width)
        self.feed_forward = FeedForward(width, inner, dropout)
        self.around_attention = Residual(width, dropout)
        self.around_feed_forward = Residual(width, dropout)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """float32 [B, S, D], bias [B, H, S, S] -> float32 [B, S, D]."""
        normed = self.around_attention.norm(states)
        states = states + self.around_attention.dropout(self.attention(normed, *self.attention.keys_values(normed), bias))
        normed = self.around_feed_forward.norm(states)
        result: Tensor = states + self.around_feed_forward.dropout(self.feed_forward(normed))
        return result


class DecoderLayer(nn.Module):
    """Self-attention over a candidate's codes, attention to the history, feed-forward.

    The states are [B, M, Q, D]: `Q` codes of each of `M` candidates (or beams) of a user. Self-attention runs inside a candidate; for
    the attention to the history all candidates' codes are simply more queries, so that the history's keys are never copied.
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
        history: tuple[Tensor, Tensor],
        history_bias: Tensor,
        bias: Tensor,
        past: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """States float32 [B, M, Q, D] -> the same, and this layer's keys and values, each [B * M, H, past + Q, head width].

        `history`: the encoded history's keys and values, [B, H, S, head width]; `history_bias` [B, 1, 1, S] hides its padding;
        `bias` [1, H, Q, past + Q] is causal; `past`: the keys and values of the codes before these.
        """
        batch, candidates, length, width = states.shape
        normed = self.around_attention.norm(states).view(batch * candidates, length, width)
        keys, values = self.attention.keys_values(normed)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        attended = self.attention(normed, keys, values, bias).view(states.shape)
        states = states + self.around_attention.dropout(attended)
        normed = self.around_history.norm(states).view(batch, candidates * length, width)
        attended = self.history_attention(normed, *history, history_bias).view(states.shape)
        states = states + self.around_history.dropout(attended)
        normed = self.around_feed_forward.norm(states)
        return states + self.around_feed_forward.dropout(self.feed_forward(normed)), (keys, values)
