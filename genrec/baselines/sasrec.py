"""SASRec: causal self-attention over item ids, trained with the full softmax over the catalog.

It is the policy without Semantic IDs to compare with: one level, in which item i has code i - 1. The same loop trains, aligns and
evaluates it.

Source: W.-C. Kang and J. McAuley, "Self-Attentive Sequential Recommendation" (2018), arXiv 1808.09781. Deviations from the paper:

- The loss is the cross-entropy over all items (paper: binary, with one sampled negative per place). `loss` chooses another one, with
  sampled negatives: `GBCE` (gSASRec) or `SampledSoftmax` (eSASRec's), see `genrec.baselines.item_losses`.
- A block is x + f(norm(x)), and its keys and values are normalized too (the authors' code normalizes only the queries).
- An item's position is the number of items before it in the history (paper: its place in a padded sequence of fixed length), so that
  the score after a prefix depends neither on padding nor on later items.
- With `repeat_score` the items of the history get a learned score more (see `genrec.repeat_score`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from genrec.baselines import item_policy
from genrec.errors import UsageError
from genrec.repeat_score import RepeatScore
from genrec.semantic_ids import SemanticIds
from genrec.store import NEW_IN_KEY
from genrec.types import ItemLoss, Ranking
from genrec.types.specification import check_at_least, check_dropout


@dataclass(frozen=True)
class SASRec:
    """The architecture of a SASRec policy; it needs an experiment with `tokenize=None`."""

    causal: ClassVar[bool] = True  # the policy is a `genrec.types.SequencePolicy`

    d_model: int = 64  # width of the residual stream and of the item embeddings, which are the output weights too
    d_ff: int = 64  # width of the feed-forward layers; d_model in the paper
    num_layers: int = 2  # blocks of attention and feed-forward
    num_heads: int = 1  # attention heads, a divisor of d_model
    dropout: float = 0.2  # rate for embeddings, attention weights and both branches of a block, in [0, 1)
    max_positions: int = 50  # learned positions, the length of the longest history
    loss: ItemLoss | None = field(default=None, metadata=NEW_IN_KEY)  # of SFT; None: softmax over all items
    repeat_score: bool = field(default=False, metadata=NEW_IN_KEY)  # a learned score for items of the history; needs loss None

    def __post_init__(self) -> None:
        check_at_least(self, "policy", 1, "d_model", "d_ff", "num_layers", "num_heads", "max_positions")
        if self.d_model % self.num_heads:
            raise UsageError(f"policy.num_heads must divide policy.d_model, got {self.num_heads} and {self.d_model}")
        check_dropout(self.dropout, "policy")
        item_policy.check_loss(self.loss, self.repeat_score)

    def check(self, experiment: Any) -> None:
        """Raise UsageError unless the experiment has no tokenizer and its longest history fits the learned positions."""
        item_policy.check_experiment("SASRec", experiment)
        if self.max_positions < experiment.history_length:
            raise UsageError(
                f"{experiment.name}: SASRec reads at most policy.max_positions = {self.max_positions} items, but history_length is "
                f"{experiment.history_length}; raise policy.max_positions"
            )

    def has_history_states(self) -> bool:
        """Return that the policy gives states of histories; see `genrec.types.HistoryStates`."""
        return True

    def has_label_smoothing(self) -> bool:
        """Return whether SFT maximizes the likelihood, which it may smooth; see `genrec.types.LabelSmoothing`."""
        return self.loss is None

    def build(self, semantic_ids: SemanticIds) -> SASRecPolicy:
        """Return an untrained policy over all items."""
        return SASRecPolicy(self, item_policy.catalog_size("SASRec", semantic_ids))


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer with ReLU (equations 2 to 8 of the paper)."""

    def __init__(self, specification: SASRec) -> None:
        super().__init__()
        width, inner, self.heads = specification.d_model, specification.d_ff, specification.num_heads
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.dropout = nn.Dropout(specification.dropout)

    def forward(self, states: Tensor, visible: Tensor) -> Tensor:
        """Apply the block to states float32 [B, T, D]; `visible`, bool [B, 1, T, T], is true where a query (row) attends to a key."""
        batch, length, width = states.shape
        packed = self.queries_keys_values(self.attention_norm(states)).view(batch, length, 3, self.heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        dropout = self.dropout.p if self.training else 0.0
        attended = scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
        states = states + self.dropout(self.out(attended.transpose(1, 2).reshape(batch, length, width)))
        inner = self.dropout(self.up(self.forward_norm(states)).relu())
        result: Tensor = states + self.dropout(self.down(inner))
        return result


class SASRecPolicy(nn.Module):
    """A `genrec.types.SequencePolicy` over items 1..N that ranks the whole catalog, without beam search."""

    def __init__(self, specification: SASRec, items: int) -> None:
        super().__init__()
        self.specification = specification
        self.embedding = nn.Embedding(items + 1, specification.d_model, padding_idx=0)
        self.position = nn.Embedding(specification.max_positions, specification.d_model)
        self.blocks = nn.ModuleList(Block(specification) for _ in range(specification.num_layers))
        self.norm = nn.LayerNorm(specification.d_model)
        self.dropout = nn.Dropout(specification.dropout)
        self.repeat_score = RepeatScore() if specification.repeat_score else None
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.embedding.weight[0].zero_()

    def encode(self, history: Tensor) -> Tensor:
        """Encode histories of items, int64 [B, T], 0 = none: float32 [B, T, D]; the state of place t depends on places 0..t only."""
        is_item = history > 0
        position = is_item.cumsum(1) - 1
        longest = history.shape[1]
        if longest > self.specification.max_positions:
            raise UsageError(
                f"got a history of {longest} items, but policy.max_positions is {self.specification.max_positions}; set it to "
                "history_length or more"
            )
        states = self.embedding(history) * self.specification.d_model**0.5 + self.position(position.clamp(min=0))
        states = self.dropout(states)
        place = torch.arange(longest, device=history.device)
        visible = (place[None, :] <= place[:, None]) & is_item.unsqueeze(1)
        visible = visible | (place[None, :] == place[:, None])  # padding attends to itself, so that its softmax is not empty
        for block in cast(Iterable[Block], self.blocks):
            states = block(states, visible.unsqueeze(1))
        result: Tensor = self.norm(states)
        return result

    def history_states(self, history: Tensor) -> Tensor:
        """Return the state that scores the next item, float32 [B, D], of histories int64 [B, T]; see `genrec.types.HistoryStates`."""
        return self.encode(history)[:, -1]

    def output_weights(self) -> Tensor:
        """Return the item embeddings, float32 [N + 1, D]."""
        return self.embedding.weight

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return log p(item | history), int64 [B, T] and candidates int64 [B, M] -> float32 [B, M, 1]; the candidate 0 gets -inf."""
        return item_policy.level_log_prob(self, history, items)

    def smoothed_level_log_prob(self, history: Tensor, items: Tensor, label_smoothing: float) -> Tensor:
        """Return `level_log_prob` with label smoothing over all items, float32 [B, M, 1]; see `genrec.types.LabelSmoothing`."""
        return item_policy.level_log_prob(self, history, items, label_smoothing)

    def constrained_level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return `level_log_prob`, since every code is an item."""
        return self.level_log_prob(history, items)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return log p(item | history), int64 [B, T] and candidates int64 [B, M] -> float32 [B, M]; -inf where the candidate is 0."""
        return self.level_log_prob(history, items).squeeze(-1)

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        """Score the target after every place: history and targets int64 [B, T] (0 = none) -> float32 [B, T, 1]."""
        return item_policy.sequence_log_prob(self, history, targets)

    def smoothed_sequence_log_prob(self, history: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Return `sequence_log_prob` with label smoothing, float32 [B, T, 1]; see `genrec.types.SequenceLabelSmoothing`."""
        return item_policy.sequence_log_prob(self, history, targets, label_smoothing)

    def place_level_log_prob(self, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
        """Score candidates int64 [X, M] after places int64 [X, 2] of histories: float32 [X, M, 1]; see `WindowPolicy`."""
        return item_policy.place_level_log_prob(self, history, places, items)

    def constrained_place_level_log_prob(self, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
        """Return `place_level_log_prob`, since every code is an item."""
        return self.place_level_log_prob(history, places, items)

    def catalog_log_prob(self, history: Tensor, places: Tensor) -> Tensor:
        """Return log p of all items after places int64 [X, 2] of histories: float32 [X, N]; see `genrec.types.CatalogPolicy`."""
        return item_policy.catalog_log_prob(self, history, places)

    def sequence_loss(self, history: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor | None:
        """Return the loss of the specification, a scalar; see `genrec.types.LossPolicy`."""
        return item_policy.sequence_loss(self, self.specification.loss, history, targets, generator)

    def item_vectors(self) -> Tensor:
        """Return a copy of the item embeddings, float32 [N + 1, D]; row 0 is zero."""
        return self.embedding.weight.detach().clone()

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best of all items; see `genrec.types.Recommender`."""
        return item_policy.recommend(self, history, n, exclude)

    def recommend_exactly(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return `recommend`, which does not prune."""
        return self.recommend(history, n, exclude)
