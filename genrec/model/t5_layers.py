"""The layers of T5 (Raffel et al. 2020, arXiv 1910.10683), as the policy needs them: tensors in, tensors out.

Pre-norm residual blocks without biases, unscaled dot-product attention with a learned relative position bias; the arithmetic is
`kernels`. One deviation: dropout is applied to embeddings, residual branches and the feed-forward layer, not to attention
probabilities.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from genrec.model import kernels

BUCKETS = 32  # of relative positions
EPS = 1e-6  # of the norms
HIDDEN = -1e30  # added to the logits of hidden keys: their weight is 0, and a row of hidden keys alone is no NaN, in bfloat16 either
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


def hidden_where(mask: Tensor) -> Tensor:
    """Bool -> float32 to add to logits: HIDDEN where true, else 0."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill(mask, HIDDEN)


def code_log_probs(states: Tensor, head: nn.Module) -> Tensor:
    """States [..., D] and the output layer of one level's C codes -> float32 [..., C]."""
    return kernels.linear(states, cast(nn.Linear, head).weight).float().log_softmax(-1)


class RelativeBias(nn.Module):
    """A learned bias per head and bucket of relative positions, shared by all layers of a stack."""

    def __init__(self, heads: int, bidirectional: bool) -> None:
        super().__init__()
        self.bidirectional = bidirectional
        self.table = nn.Embedding(BUCKETS, heads)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions int64 [Q] and [S] -> float32 [1, H, Q, S]."""
        bias: Tensor = self.table(relative_buckets(queries, keys, self.bidirectional))
        return bias.permute(2, 0, 1).unsqueeze(0)


class RMSNorm(nn.Module):
    """Root mean square normalization with a weight a dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, states: Tensor) -> Tensor:
        """float32 [..., D] -> [..., D], in autocast's precision."""
        return kernels.rms_norm(states, self.weight, EPS)


class Dropout(nn.Module):
    """Dropout, and the residual sum that most of it ends in."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, states: Tensor) -> Tensor:
        """Float [...] -> float [...]."""
        return kernels.dropout(states, self.rate, self.training)

    def add(self, states: Tensor, branch: Tensor) -> Tensor:
        """`states + dropout(branch)`."""
        return kernels.add_dropped(states, branch, self.rate, self.training)


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

    def queries(self, states: Tensor) -> Tensor:
        """Float [B, Q, D] -> [B, H, Q, head width]."""
        return kernels.linear(states, self.query.weight).view(*states.shape[:2], self.heads, -1).transpose(1, 2)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Float [B, S, D] -> keys and values, each [B, H, S, head width]."""
        both = kernels.linear(states, self.key_value.weight).view(*states.shape[:2], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        keys, values = both.unbind(0)
        return keys, values

    def to_itself(self, states: Tensor, bias: Tensor, hidden: Tensor | None = None) -> Tensor:
        """`forward` of states [B, S, D] over themselves, by one product."""
        weight = torch.cat([self.query.weight, self.key_value.weight])
        packed = kernels.linear(states, weight).view(*states.shape[:2], 3, self.heads, -1)
        return self.merge(kernels.self_attention(packed, bias, hidden))

    def merge(self, mixed: Tensor) -> Tensor:
        """What the heads found, [B, H, Q, head width] -> [B, Q, D]."""
        return kernels.linear(mixed.transpose(1, 2).flatten(2), self.output.weight)

    def forward(self, states: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, hidden: Tensor | None = None) -> Tensor:
        """Queries' states [B, Q, D], keys and values [B, H, S, head width] -> [B, Q, D]; bias and mask as in `kernels.attention`."""
        return self.merge(kernels.attention(self.queries(states), keys, values, bias, hidden))

    def over(self, states: Tensor, memory: Tensor, bias: Tensor | None, hidden: Tensor | None) -> Tensor:
        """`forward` with the keys and values of `memory` [B, S, D], by whichever order of products is cheaper.

        (x Wq) (m Wk)' is also ((x Wq) Wk') m', and softmax(..) (m Wv) is (softmax(..) m) Wv: with few queries it is cheaper to carry
        these to the memory's width than to make keys and values of all of the memory.
        """
        queries, length, width = states.shape[1], memory.shape[1], memory.shape[2]
        by_keys = 2 * length * self.head_width * (width + queries)
        if by_keys <= 2 * queries * width * (self.head_width + length):
            direct: Tensor = self(states, *self.keys_values(memory), bias, hidden)
            return direct
        key, value = self.key_value.weight.view(2, self.heads, -1, width).unbind(0)  # each [H, head width, D]
        batch = len(states)
        query = torch.bmm(self.queries(states).transpose(0, 1).flatten(1, 2), key)  # [H, B * Q, D]: of the memory's width
        query = query.view(self.heads, batch, queries, width).transpose(0, 1).flatten(1, 2)  # [B, H * Q, D]
        scores = torch.bmm(query, memory.mT).view(batch, self.heads, queries, length)
        for part in (bias, hidden):
            scores = scores if part is None else scores + part
        found = torch.bmm(torch.softmax(scores, -1).to(memory.dtype).flatten(1, 2), memory)  # [B, H * Q, D]
        found = found.view(batch, self.heads, queries, width).transpose(0, 1).flatten(1, 2)
        return self.merge(torch.bmm(found, value.mT).view(self.heads, batch, queries, -1).transpose(0, 1))


class FeedForward(nn.Module):
    """Two linear layers with ReLU between."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, inner, bias=False)
        self.output = nn.Linear(inner, width, bias=False)
        self.dropout = dropout
        nn.init.normal_(self.inner.weight, std=width**-0.5)
        nn.init.normal_(self.output.weight, std=inner**-0.5)

    def forward(self, states: Tensor) -> Tensor:
        """Float [..., D] -> [..., D]."""
        return kernels.feed_forward(states, self.inner.weight, self.output.weight, self.dropout, self.training)


class Residual(nn.Module):
    """`x + dropout(branch(norm(x)))`: the norm and the dropout of one branch."""

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

    def forward(self, states: Tensor, bias: Tensor, hidden: Tensor | None = None) -> Tensor:
        """float32 [B, S, D], bias [1, H, S, S], a mask that broadcasts to [B, H, S, S] -> float32 [B, S, D]."""
        attended = self.attention.to_itself(self.around_attention.norm(states), bias, hidden)
        states = self.around_attention.dropout.add(states, attended)
        branch = self.feed_forward(self.around_feed_forward.norm(states))
        return self.around_feed_forward.dropout.add(states, branch)


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
        history: Tensor | tuple[Tensor, Tensor],
        history_bias: Tensor | None,
        history_hidden: Tensor | None,
        bias: Tensor,
        past: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """States float32 [B, M, Q, D] -> the same, and this layer's keys and values, each [B * M, H, past + Q, head width].

        `history`: the encoded history [B, S, D], or its keys and values, [B, H, S, head width]; `history_bias` [1, H, M * Q, S] is
        learned, `history_hidden` hides, as in `kernels.attention`; `bias` [1, H, Q, past + Q] is causal; `past`: the keys and values
        of the codes before these.
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
            attended = self.history_attention.over(normed, history, history_bias, history_hidden)
        else:
            attended = self.history_attention(normed, *history, history_bias, history_hidden)
        states = self.around_history.dropout.add(states, attended.view(states.shape))
        branch = self.feed_forward(self.around_feed_forward.norm(states))
        return self.around_feed_forward.dropout.add(states, branch), (keys, values)
