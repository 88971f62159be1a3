"""SASRec: causal self-attention over item ids, trained with the full softmax over the catalog; the rival of Semantic IDs.

In: histories and candidates as items. Out: log p(item | history) of items, or the ranking of all of them. It is a policy like any
other (one level, item i has code i - 1), so that the same loop trains, aligns and evaluates it. Source: W.-C. Kang and J. McAuley,
"Self-Attentive Sequential Recommendation" (2018), 1808.09781. Deviations:

- the loss is the cross-entropy over all items (theirs: binary, one drawn negative a place);
- a block is x + f(norm(x)), its keys and values normalized too (in their code only the queries are);
- an item's position counts the items before it in what is read (theirs: places of a sequence of fixed length, padding included), so
  that the score after a prefix depends on neither padding nor what follows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from genrec.errors import UsageError
from genrec.item_rows import keys, ranking
from genrec.semantic_ids import SemanticIds
from genrec.types import Ranking

LOGITS = 2**25  # logits that are held at once in training, 128 MB; more are computed in pieces, and again on the way back


@dataclass(frozen=True)
class SASRec:
    """The architecture of a SASRec policy; it needs an experiment with `tokenize=None`."""

    causal: ClassVar[bool] = True
    d_model: int = 64  # of the residual stream and of an item's embedding, which is its output row too
    d_ff: int = 64  # of the feed-forward layers; the paper's is the width
    num_layers: int = 2  # blocks
    num_heads: int = 1  # attention heads; they divide the width
    dropout: float = 0.2  # of embeddings, attention weights and both branches of a block, in [0, 1)
    max_positions: int = 50  # learned positions: the longest history that can be read

    def __post_init__(self) -> None:
        for name in ("d_model", "d_ff", "num_layers", "num_heads", "max_positions"):
            if getattr(self, name) < 1:
                raise UsageError(f"policy.{name} must be at least 1, got {getattr(self, name)}")
        if self.d_model % self.num_heads:
            raise UsageError(f"policy.num_heads must divide policy.d_model, got {self.num_heads} and {self.d_model}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"policy.dropout must lie in [0, 1), got {self.dropout}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError unless the experiment has no tokenizer and its histories fit the learned positions."""
        if experiment.tokenize is not None:
            raise UsageError(f"{experiment.name}: SASRec scores items, not Semantic IDs: set tokenize=None")
        if self.max_positions < experiment.history_length:
            raise UsageError(
                f"{experiment.name}: SASRec reads at most policy.max_positions = {self.max_positions} items, but history_length is "
                f"{experiment.history_length}: raise policy.max_positions"
            )

    def build(self, semantic_ids: SemanticIds) -> SASRecPolicy:
        """An untrained policy over this many items."""
        items = semantic_ids.items
        if semantic_ids.level_sizes != (items,) or not torch.equal(semantic_ids.codes[:, 0], torch.arange(items)):
            raise UsageError(
                f"SASRec scores items, not Semantic IDs: set tokenize=None in the experiment; got {items} items with Semantic IDs of "
                f"{semantic_ids.levels} level(s) of {', '.join(map(str, semantic_ids.level_sizes))} codes"
            )
        return SASRecPolicy(self, items)


class Block(nn.Module):
    """Causal self-attention, then a feed-forward layer with ReLU (equations 2 to 8 of the paper)."""

    def __init__(self, specification: SASRec) -> None:
        super().__init__()
        width, inner, self.heads = specification.d_model, specification.d_ff, specification.num_heads
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.dropout = nn.Dropout(specification.dropout)

    def forward(self, states: Tensor, visible: Tensor) -> Tensor:
        """States float32 [B, T, D], visible bool [B, 1, T, T] (query, key) -> states float32 [B, T, D]."""
        batch, length, width = states.shape
        mixed = self.queries_keys_values(self.attention_norm(states)).view(batch, length, 3, self.heads, -1)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        dropout = self.dropout.p if self.training else 0.0
        read = scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
        states = states + self.dropout(self.out(read.transpose(1, 2).reshape(batch, length, width)))
        inner = self.dropout(self.up(self.forward_norm(states)).relu())
        result: Tensor = states + self.dropout(self.down(inner))
        return result


class SASRecPolicy(nn.Module):
    """A `genrec.types.SequencePolicy` and an `ExactRecommender` over items 1..N."""

    def __init__(self, specification: SASRec, items: int) -> None:
        super().__init__()
        self.specification = specification
        self.embedding = nn.Embedding(items + 1, specification.d_model, padding_idx=0)
        self.position = nn.Embedding(specification.max_positions, specification.d_model)
        self.blocks = nn.ModuleList(Block(specification) for _ in range(specification.num_layers))
        self.norm = nn.LayerNorm(specification.d_model)
        self.dropout = nn.Dropout(specification.dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.embedding.weight[0].zero_()

    def encode(self, history: Tensor) -> Tensor:
        """Items int64 [B, T], 0 where there is none -> states float32 [B, T, D]; place t has read the items of places 0..t."""
        real = history > 0
        position = real.cumsum(1) - 1
        longest = history.shape[1]
        if longest > self.specification.max_positions:
            raise UsageError(
                f"a history of {longest} items, but policy.max_positions is {self.specification.max_positions}: set it to "
                "history_length or more"
            )
        states = self.embedding(history) * self.specification.d_model**0.5 + self.position(position.clamp(min=0))
        states = self.dropout(states)
        place = torch.arange(longest, device=history.device)
        visible = (place[None, :] <= place[:, None]) & real.unsqueeze(1)
        visible = visible | (place[None, :] == place[:, None])  # padding reads itself, so that no row of weights is empty
        for block in cast(Iterable[Block], self.blocks):
            states = block(states, visible.unsqueeze(1))
        result: Tensor = self.norm(states)
        return result

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """History int64 [B, T], candidates int64 [B, M] -> float32 [B, M, 1]; a candidate 0 (none) gets -inf."""
        scores = self._log_prob(self._last(history)).gather(1, (items - 1).clamp(min=0))
        return scores.masked_fill(items == 0, -torch.inf).unsqueeze(-1)

    def constrained_level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """`level_log_prob`: every code is an item."""
        return self.level_log_prob(history, items)

    def item_vectors(self) -> Tensor:
        """The items' embeddings, float32 [N + 1, D], row 0 zeros; a copy."""
        return self.embedding.weight.detach().clone()

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """History int64 [B, T], candidates int64 [B, M] -> float32 [B, M], log p(item | history); -inf where the candidate is 0."""
        return self.level_log_prob(history, items).squeeze(-1)

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        """History int64 [B, T], the item after each place int64 [B, T] (0 = none) -> float32 [B, T, 1], -inf where there is none.

        Only places with a target are scored, in pieces where their logits are many.
        """
        counts = targets > 0
        states, wanted = self.encode(history)[counts], targets[counts]
        rows = max(1, LOGITS // self.embedding.num_embeddings)
        if len(wanted) <= rows:
            found = self._target_log_prob(states, wanted)
        else:
            pieces = -(-len(wanted) // rows)
            parts = zip(states.chunk(pieces), wanted.chunk(pieces), strict=True)
            found = torch.cat([checkpoint(self._target_log_prob, *part, use_reentrant=False) for part in parts])
        empty = found.new_full(targets.shape, -torch.inf)
        return empty.masked_scatter(counts, found).unsqueeze(-1)

    @torch.no_grad()
    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """The `n` best of all items: int64 [B, T] -> Ranking [B, n]; `exclude` int64 [B, E] is never returned."""
        scores = pad(self._log_prob(self._last(history)), (1, 0), value=-torch.inf)
        if exclude is not None:
            scores = scores.scatter(1, exclude, -torch.inf)
        return rank_all(scores, n)

    def recommend_exactly(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """What `recommend` returns: nothing is pruned."""
        return self.recommend(history, n, exclude)

    def _last(self, history: Tensor) -> Tensor:
        return self.encode(history)[:, -1]

    def _logits(self, states: Tensor) -> Tensor:
        return (states @ self.embedding.weight[1:].T).float()

    def _log_prob(self, states: Tensor) -> Tensor:
        """States float32 [B, D] -> float32 [B, N], log p of items 1..N."""
        return self._logits(states).log_softmax(-1)

    def _target_log_prob(self, states: Tensor, targets: Tensor) -> Tensor:
        """States float32 [C, D], targets int64 [C], each 1..N -> float32 [C]."""
        return -nn.functional.cross_entropy(self._logits(states), targets - 1, reduction="none")


def rank_all(scores: Tensor, n: int) -> Ranking:
    """Scores float32 [B, N + 1], column 0 of no item and -inf where none may be -> the `n` best; equal scores by lower item id."""
    return ranking(keys(scores, torch.arange(scores.shape[1], device=scores.device)), n, scores.isnan().any(1))
