"""The value function of PPO: a separate network that predicts the expected reward of an item from each prefix of its codes."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn

from genrec.preference.history_networks import HistoryState, ItemTable

SCALE = 10.0  # of the values: the learning rate is the policy's, which is small for a network that is trained from its start


class ValueFunction(nn.Module):
    """Predict V(history, y_1..y_{t-1}) for t = 1..L. All values are 0 before training.

    The network reads the history itself, so it is the same for every policy. A policy that scores an item as one
    code has no prefixes: the value depends on the history alone.
    """

    first: Tensor

    def __init__(self, vectors: Tensor, level_sizes: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.items, self.state = ItemTable(vectors, dim), HistoryState()
        self.query = nn.Linear(2 * dim, dim)
        self.levels = nn.Parameter(torch.zeros(len(level_sizes), dim))
        before = level_sizes[:-1]  # the last code leads to no further value
        self.codes = nn.Embedding(max(1, sum(before)), dim)
        self.register_buffer("first", torch.tensor([0, *accumulate(before)][: len(before)], dtype=torch.int64), persistent=False)
        self.output = nn.Linear(dim, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, history: Tensor, codes: Tensor) -> Tensor:
        """Return the values before each code, float32 [X, M, L], of histories int64 [X, T] and Semantic IDs int64 [X, M, L]."""
        state = self.query(self.state(self.items(), history))[:, None, None]  # [X, 1, 1, dim]
        written = self.codes(codes[..., : len(self.first)] + self.first).cumsum(2)  # [X, M, L - 1, dim]
        prefix = torch.cat([torch.zeros_like(state).expand(*codes.shape[:2], 1, -1), written], 2)
        hidden = torch.tanh(state + prefix + self.levels)
        values: Tensor = SCALE * self.output(hidden).squeeze(3)
        return values
