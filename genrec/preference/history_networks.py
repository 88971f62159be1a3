"""Networks that read a history without a policy, for reward models and value functions: vectors of items, and a state of the history.

An item's vector is a linear map of the item encoder's vector plus a learned embedding. The state is a mean of the vectors of the
history, with weights that fall with the age by a learned rate, next to the vector of the last item.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize, softplus


class ItemTable(nn.Module):
    """Vectors of all items, from the item encoder and learned."""

    content: Tensor

    def __init__(self, vectors: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("content", normalize(vectors.float(), dim=1), persistent=False)  # float32 [N + 1, D]
        self.project = nn.Linear(vectors.shape[1], dim, bias=False)
        self.learned = nn.Parameter(0.01 * torch.randn(len(vectors), dim))

    def forward(self) -> Tensor:
        """Return the vectors of all items, float32 [N + 1, dim]; row 0 is zeros."""
        table = self.project(self.content) + self.learned
        return torch.cat([torch.zeros_like(table[:1]), table[1:]])


class HistoryState(nn.Module):
    """The state of a history, float32 [B, 2 * dim]: the mean of its items, weighted by recency, and its last item."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(-2.0))  # softplus of it is the rate at which weights fall with the age, in items

    def forward(self, table: Tensor, history: Tensor) -> Tensor:
        """Return the states of histories int64 [B, T], left-padded with 0, by the vectors float32 [N + 1, dim] of all items."""
        read = history > 0
        age = read.flip(1).cumsum(1).flip(1) - 1  # of the item among those of the history; 0 is the newest
        weight = torch.exp(-softplus(self.rate) * age.clamp(min=0)) * read
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-6)
        vectors = embedding(history, table)
        last = (vectors * (read & (age == 0)).unsqueeze(2)).sum(1)
        return torch.cat([(vectors * weight.unsqueeze(2)).sum(1), last], 1)
