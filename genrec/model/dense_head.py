"""The dense head of LIGER: item vectors in the space of a history's state, the loss of their cosines, and lists by cosine.

Source: Yang et al. 2024, arXiv 2411.18814; the authors' code, facebookresearch/liger `src/training.py` and `src/evaluation.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from genrec.item_rows import contains, keys, ranking
from genrec.row_chunks import in_chunks
from genrec.types import Ranking

MAX_LOGITS = 2**25  # logits held at once in training, 128 MB; more are computed in chunks, and recomputed in the backward pass


def cosine_loss(states: Tensor, vectors: Tensor, targets: Tensor, temperature: float, unseen: Tensor | None = None) -> Tensor:
    """Return the mean over targets of -log softmax(cos(h, e_i) / temperature) at the target, a scalar in nats.

    The softmax is over the items that are not `unseen`, as in the authors' code, which sets the logits of unseen items to -100.

    Args:
        states: float [X, D], the states h of the histories.
        vectors: float [N, D], the vectors e of the items.
        targets: int64 [X], the rows of `vectors` that follow, none of them unseen.
        temperature: divides the cosines, above 0.
        unseen: bool [N], the items that are left out; None leaves out none.

    """
    states, vectors = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (states, vectors))  # bfloat16 is too coarse
    states, vectors = normalize(states, dim=-1), normalize(vectors, dim=-1)

    def losses(states: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            logits = states @ vectors.T / temperature
        if unseen is not None:
            logits = logits.masked_fill(unseen, -torch.inf)
        return cross_entropy(logits, targets, reduction="none")

    return in_chunks(losses, MAX_LOGITS // max(1, len(vectors)), states, targets).mean()


def rank_candidates(listed: Tensor, cold: Tensor, scores: Tensor, n: int, exclude: Tensor | None) -> Ranking:
    """Return the `n` best of each row's own candidates and of the cold items, each item once; equal scores are ordered by item id.

    `listed` int64 [B, K] holds a row's own candidates, distinct, 0 for none; `cold` int64 [C] the cold items. `scores` float32
    [B, K + C] are those of both. Items of `exclude`, int64 [B, E], are left out; those of `listed` must be left out already.
    """
    everywhere = cold.expand(len(listed), -1)
    dropped = contains(listed, everywhere)  # they are candidates already
    if exclude is not None:
        dropped = dropped | contains(exclude, everywhere)
    dropped = torch.cat([listed == 0, dropped], 1)
    kept = scores.masked_fill(dropped, -torch.inf)
    return ranking(keys(kept, torch.cat([listed, everywhere], 1)), n, scores.isnan().any(1))


class DenseHead(nn.Module):
    """The vectors of all items, which are no weights, and the layers that map them into the space of a history's state.

    Vectors and cold items are part of the state_dict. A head that has not read any takes the width of those that it loads.
    """

    def __init__(self, num_items: int, width: int, dropout: float) -> None:
        super().__init__()
        self.width, self.dropout = width, dropout
        self.vectors: Tensor  # float32 [N + 1, I]  of the item encoder, row 0 is zero
        self.is_cold: Tensor  # bool [N + 1]  items without training interactions; False for row 0
        self.read(torch.zeros(num_items + 1, 0), torch.zeros(num_items + 1, dtype=torch.bool))

    def read(self, vectors: Tensor, is_cold: Tensor) -> None:
        """Take vectors float32 [N + 1, I] and cold items bool [N + 1]; the layers get new initial weights."""
        self.register_buffer("vectors", vectors.clone())
        self.register_buffer("is_cold", is_cold.clone())
        size, width = vectors.shape[1], self.width
        hidden = (nn.Linear(size, width), nn.LayerNorm(width), nn.ReLU(), nn.Dropout(self.dropout)) if size else ()
        self.layers = nn.Sequential(*hidden, *((nn.Linear(width, width),) if size else ()))

    @property
    def is_empty(self) -> bool:
        """Return whether no vectors were read."""
        return self.vectors.shape[1] == 0

    @property
    def cold(self) -> Tensor:
        """Return the cold items, int64 [C], ascending."""
        return self.is_cold.nonzero().squeeze(1)

    def forward(self, items: Tensor) -> Tensor:
        """Return the vectors of items int64 [...] in the space of states, float32 [..., D]."""
        mapped: Tensor = self.layers(self.vectors[items])
        return mapped

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: object) -> None:
        """Take the width of the stored vectors before they are loaded."""
        stored = state_dict.get(f"{prefix}vectors")
        if stored is not None and self.is_empty and stored.ndim == 2 and stored.shape[1]:
            device = self.vectors.device
            with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
                self.read(torch.zeros(len(self.vectors), stored.shape[1], device=device), self.is_cold)
            self.layers.to(device)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
