"""GRU4Rec: a recurrent network over item ids, trained with the full softmax over the catalog.

Like `SASRec` it is a policy without Semantic IDs: one level, in which item i has code i - 1. The same loop trains, aligns and
evaluates it.

    h_t = GRU(e(x_t), h_{t-1}),  h_0 = 0            (B. Hidasi et al. 2016, equations 1 to 4)
    score(i | x_1 .. x_t) = (W h_t + b) . w(i)      w(i) is the item's embedding e(i) if tied, else a weight of its own

Source: B. Hidasi, A. Karatzoglou, L. Baltrunas, D. Tikk, "Session-based Recommendations with Recurrent Neural Networks" (2016), arXiv
1511.06939; B. Hidasi and A. Karatzoglou, "Recurrent Neural Networks with Top-k Gains for Session-based Recommendations" (2018), arXiv
1706.03847. Deviations from the papers:

- The loss is the cross-entropy over all items (papers: over the targets of a mini-batch and sampled items, or BPR-max over them).
  `loss` chooses sampled negatives, see `genrec.baselines.item_losses`.
- A history is a user's last items, encoded from the state 0 (papers: sessions, whose state is carried over mini-batches).
- The state is mapped to the width of the embeddings before the dot product, so that both widths are free; an item has no bias.
- The gates are PyTorch's: the reset gate acts after the product with the recurrent weights, not before it.
- Dropout acts on the input of each layer (authors' code: on embeddings and on states, with a rate for each).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from genrec.baselines import item_policy
from genrec.semantic_ids import SemanticIds
from genrec.types import ItemLoss, Ranking
from genrec.types.specification import check_at_least, check_dropout, check_types


@dataclass(frozen=True)
class GRU4Rec:
    """The architecture of a GRU4Rec policy; it needs an experiment with `tokenize=None`."""

    causal: ClassVar[bool] = True  # the policy is a `genrec.types.SequencePolicy`

    d_model: int = 64  # width of the item embeddings
    hidden_size: int = 128  # width of the state
    num_layers: int = 1  # recurrent layers
    dropout: float = 0.2  # rate for the input of each layer, in [0, 1)
    tied: bool = True  # score items with their embeddings; False: with weights of their own
    loss: ItemLoss | None = None  # of SFT; None: softmax over all items

    def __post_init__(self) -> None:
        check_types(self, "policy")
        check_at_least(self, "policy", 1, "d_model", "hidden_size", "num_layers")
        check_dropout(self.dropout, "policy")
        item_policy.check_loss(self.loss)

    def check(self, experiment: Any) -> None:
        """Raise UsageError unless the experiment has no tokenizer."""
        item_policy.check_experiment("GRU4Rec", experiment)

    def has_history_states(self) -> bool:
        """Return that the policy gives states of histories; see `genrec.types.HistoryStates`."""
        return True

    def has_label_smoothing(self) -> bool:
        """Return whether SFT maximizes the likelihood, which it may smooth; see `genrec.types.LabelSmoothing`."""
        return self.loss is None

    def build(self, semantic_ids: SemanticIds) -> GRU4RecPolicy:
        """Return an untrained policy over all items."""
        return GRU4RecPolicy(self, item_policy.catalog_size("GRU4Rec", semantic_ids))


class GRU4RecPolicy(nn.Module):
    """A `genrec.types.SequencePolicy` over items 1..N that ranks the whole catalog, without beam search."""

    def __init__(self, specification: GRU4Rec, items: int) -> None:
        super().__init__()
        self.specification = specification
        width, hidden = specification.d_model, specification.hidden_size
        self.embedding = nn.Embedding(items + 1, width, padding_idx=0)
        self.output = None if specification.tied else nn.Embedding(items + 1, width, padding_idx=0)
        inputs = [width, *[hidden] * (specification.num_layers - 1)]
        self.layers = nn.ModuleList(nn.GRU(size, hidden, batch_first=True) for size in inputs)
        self.query = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(specification.dropout)
        for table in (self.embedding, self.output):
            if table is not None:
                nn.init.xavier_normal_(table.weight)
                with torch.no_grad():
                    table.weight[0].zero_()

    def encode(self, history: Tensor) -> Tensor:
        """Encode histories of items, int64 [B, T], 0 = none: float32 [B, T, D]; the state of place t depends on places 0..t only.

        Items are moved to the left, so that the network reads them without the zeros before and between them. The state of a place is
        then that after the items up to there, and the state 0 before the first one.
        """
        is_item = history > 0
        read = is_item.cumsum(1)  # items up to and including each place
        longest = history.shape[1]
        column = torch.where(is_item, read - 1, longest)  # zeros go to a column that is cut off
        packed = history.new_zeros(len(history), longest + 1).scatter(1, column, history)[:, :longest]
        states = self.embedding(packed)
        for layer in cast(Iterable[nn.GRU], self.layers):
            states = layer(self.dropout(states))[0]
        states = pad(states, (0, 0, 1, 0))  # row 0: the state before any item
        width = self.specification.hidden_size
        result: Tensor = self.query(states.gather(1, read.unsqueeze(-1).expand(-1, -1, width)))
        return result

    def history_states(self, history: Tensor) -> Tensor:
        """Return the state that scores the next item, float32 [B, D], of histories int64 [B, T]; see `genrec.types.HistoryStates`."""
        return self.encode(history)[:, -1]

    def output_weights(self) -> Tensor:
        """Return the weights of all items in a score, float32 [N + 1, D]."""
        return self.embedding.weight if self.output is None else self.output.weight

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
