"""The network of parallel policies: a causal transformer over items that scores every digit of the next item at once.

An item is one input: the mean of the embeddings of its digits. The layers are those of `Gpt` (pre-norm, as in T5), with a learned
attention bias for each distance in items, so that the state of a place depends neither on padding nor on later items, and a history
may have any length.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag, normalize, pad, silu

from genrec.model import kernels
from genrec.model.digit_sums import Block, Catalog, DigitTable
from genrec.model.shared_history_layers import CausalLayer
from genrec.model.t5_layers import MASK_VALUE, Dropout, RMSNorm, additive_mask
from genrec.semantic_ids import SemanticIds

if TYPE_CHECKING:
    from genrec.model.parallel import RPG


MAX_SCORES = 2**25  # scores of digits and candidates held at once in training, 128 MB; more are computed in chunks of places

TABLES = ("network.embedding.weight",)  # weights of a policy that grow with the codes of the last level


class ParallelNetwork(nn.Module):
    """The encoder of histories, one head for each digit, and the embeddings of digits and items."""

    def __init__(self, specification: RPG, semantic_ids: SemanticIds) -> None:
        super().__init__()
        width, heads = specification.d_model, specification.num_heads
        self.temperature = specification.temperature_of(semantic_ids.levels)
        self.digits = DigitTable(semantic_ids)
        self.embedding = nn.Embedding(semantic_ids.vocabulary, width, padding_idx=0)  # row 0 is no item
        self.item_embedding = nn.Embedding(semantic_ids.items + 1, width, padding_idx=0) if specification.item_embedding else None
        layer = (width, specification.d_ff, heads, width // heads, specification.dropout)
        self.layers = nn.ModuleList(CausalLayer(*layer) for _ in range(specification.num_layers))
        self.distance_bias = nn.Embedding(specification.recency_positions, heads)
        self.norm = RMSNorm(width)
        self.dropout = Dropout(specification.dropout)
        num_heads = semantic_ids.levels + (self.item_embedding is not None)
        self.heads = nn.Linear(width, num_heads * width, bias=False)  # W of every head, one below the other
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.distance_bias.weight)  # a distance beyond all training histories then has no effect
        for table in (self.embedding, self.item_embedding):
            if table is not None:
                nn.init.normal_(table.weight, std=width**-0.5)
                with torch.no_grad():
                    table.weight[0].zero_()

    def embed(self, items: Tensor) -> Tensor:
        """Return the vectors of items int64 [R], float32 [R, D], 0 for item 0: the mean of the digits' embeddings, plus the item's."""
        tokens = (self.digits.of(items) + 1).masked_fill((items == 0).unsqueeze(1), 0)
        vectors = embedding_bag(tokens, self.embedding.weight, mode="mean", padding_idx=0)
        return vectors if self.item_embedding is None else vectors + self.item_embedding(items)

    def encode(self, history: Tensor, num_states: int | None = None) -> Tensor:
        """Encode histories of items, int64 [B, T], 0 = none: float32 [B, T, D], or only the last `num_states` places.

        The state of a place depends on the items up to there only. Padding attends to itself only.
        """
        history = history if history.shape[1] else pad(history, (1, 0))
        length = history.shape[1]
        places = torch.arange(length, device=history.device)
        distance = places[:, None] - places[None, :]
        bias = self.distance_bias(distance.clamp(0, self.distance_bias.num_embeddings - 1)).permute(2, 0, 1).unsqueeze(0)
        bias = bias.masked_fill(distance < 0, MASK_VALUE)
        empty = history == 0
        mask = additive_mask(empty[:, None, None, :] & (distance != 0))
        scale = self.embedding.embedding_dim**0.5
        states = self.dropout(self.embed(history.flatten()).view(*history.shape, -1) * scale)
        for depth, layer in enumerate(cast(Iterable[CausalLayer], self.layers)):
            last = depth == len(self.layers) - 1
            states, _ = layer.encode_history(states, bias, mask, num_states if num_states is not None and last else length)
        result: Tensor = self.norm(states)
        return result

    def states_after(self, history: Tensor, places: Tensor) -> Tensor:
        """Return the states of places int64 [X, 2] of histories int64 [B, T], encoded once: float32 [X, D]."""
        row, place = places.unbind(1)
        return self.encode(history)[row, place]

    def scores(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the scores of all digit values, float32 [X, S], and the states that score items, float32 [X, D], of states [X, D].

        Head j is h = x + SiLU(W_j x), and the score of value c of digit j is cosine(h, embedding of c) / temperature. With item
        embeddings the last head scores items; its states are normalized and divided by the temperature.
        """
        branches = silu(kernels.linear(states, self.heads.weight)).view(len(states), -1, states.shape[-1])
        heads = normalize((states.unsqueeze(1) + branches).float(), dim=-1) / self.temperature
        table = normalize(self.embedding.weight[1:].float(), dim=-1)
        levels = zip(heads.unbind(1), torch.split(table, self.digits.level_sizes), strict=False)
        with torch.autocast(states.device.type, enabled=False):  # a sum of many large scores needs float32
            scores = torch.cat([kernels.linear(head, values) for head, values in levels], 1)
        return scores, None if self.item_embedding is None else heads[:, -1]

    def candidate_scores(self, scores: Tensor, states: Tensor | None, catalog: Catalog, items: Tensor) -> Tensor:
        """Return the scores of items int64 [X, M], float32 [X, M], -inf for item 0, of the results of `scores`."""
        digits = self.digits.of(items)
        result = scores.gather(1, digits.flatten(1)).view(digits.shape).sum(-1)
        if states is not None and catalog.weights is not None:
            result = result + (embedding((items - 1).clamp(min=0), catalog.weights) * states.unsqueeze(1)).sum(-1)
        return result.masked_fill(items == 0, -torch.inf)

    def mean_scores(self, scores: Tensor, states: Tensor | None, catalog: Catalog) -> Tensor:
        """Return the mean score of the items of the catalog, float32 [X], of the results of `scores`, without a score of every item.

        Each digit value counts with the share of the items that have it, and the states meet the mean of the item embeddings.
        """
        with torch.autocast(scores.device.type, enabled=False):
            result = scores @ self.digits.shares
            return result if states is None or catalog.weights is None else result + states @ catalog.weights.mean(0)

    def row_size(self, num_candidates: int) -> int:
        """Return how many scores a place with this number of candidates takes in training."""
        of_candidate = self.digits.digits.shape[1] + (0 if self.item_embedding is None else self.item_embedding.embedding_dim)
        return self.embedding.num_embeddings + self.heads.out_features + num_candidates * of_candidate

    def catalog(self) -> Catalog:
        """Return the digits of all items and, with item embeddings, their normalized embeddings."""
        return Catalog(self.digits.blocks, self.item_weights())

    def item_weights(self, block: Block | None = None) -> Tensor | None:
        """Return the normalized embeddings of the items of a block, or of all items, float32 [N, D]; None without item embeddings."""
        if self.item_embedding is None:
            return None
        first, last = (0, None) if block is None else (block.first, block.first + len(block.digits))
        return normalize(self.item_embedding.weight[1:][first:last].float(), dim=-1)

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Return the vectors of all items, float32 [N + 1, D]; row 0 is zero."""
        digits = self.digits.digits
        return self.embed(torch.arange(len(digits) + 1, device=digits.device))
