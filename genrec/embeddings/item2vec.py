"""Item vectors by skip-grams with negative sampling on the users' histories.

Source: item2vec (Barkan and Koenigstein 2016, 1603.04259), word2vec (Mikolov et al. 2013, 1310.4546). For an item i and a context item
c of the same user, at most `window` events apart, and negatives n drawn in proportion to (training events)^exponent,

    loss = - log s(v_i . u_c) - sum over n of log s(-v_i . u_n)

with the logistic function s. The vectors v are the result.

Deviations: batches and Adagrad replace single pairs with a decaying learning rate. Negatives are drawn once for an event, not for each
of its pairs, and weighted by the number of pairs, which has the same mean. Two events of a user with the same item are no pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from genrec.embeddings.mean_fill import fill_with_mean
from genrec.embeddings.truncated_svd import check_dim_and_seed
from genrec.embeddings.vector_checks import training_items
from genrec.errors import InputError, UsageError
from genrec.progress import Progress
from genrec.randomness import generator

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas import DataFrame
    from torch import Generator, Tensor

MAX_BATCH = 4096  # maximum number of events in a batch
MIN_STEPS = 32  # minimum number of batches in an epoch: small data sets have smaller batches


@dataclass(frozen=True)
class Item2Vec:
    """Skip-gram vectors: items with similar neighbors in the users' histories get similar vectors.

    `Collaborative` uses the users of an item instead of its neighbors. Rows have length 1. Items without a training pair get the mean
    vector of the others, with a warning. On one machine the same seed gives the same bits.
    """

    dim: int = 64  # number of dimensions, at least 1
    window: int = 5  # number of context events before and after an event, at least 1
    epochs: int = 10  # passes over the training interactions, at least 1
    num_negatives: int = 10  # negatives per event, at least 1
    exponent: float = 0.75  # of the popularity in the sampling weights, finite: 0 is uniform, 1 is proportional
    learning_rate: float = 0.3  # of Adagrad, above 0
    seed: int = 0  # seed of initial vectors, order and negatives, 0..2**32-1

    def __post_init__(self) -> None:
        check_dim_and_seed(self, self.dim, self.seed)
        for name in ("window", "epochs", "num_negatives"):
            if getattr(self, name) < 1:
                raise UsageError(f"Item2Vec.{name} must be at least 1, got {getattr(self, name)}")
        if not np.isfinite(self.exponent):
            raise UsageError(f"Item2Vec.exponent must be finite, got {self.exponent}")
        if not 0 < self.learning_rate < np.inf:
            raise UsageError(f"Item2Vec.learning_rate must be above 0 and finite, got {self.learning_rate}")

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Return vectors float32 [N, D] from training interactions, sorted by user and time, with the columns user and item (1..N)."""
        events = _events(interactions, len(items))
        paired = np.zeros(len(items), bool)
        paired[events.item[_has_pair(events, self.window)]] = True
        if not paired.any():
            raise InputError("Item2Vec needs users with two different items, got none")
        vectors: ndarray = _train(self, events, len(items)).numpy()
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(length > 0, length, 1.0)
        return fill_with_mean(vectors, ~paired, "without a pair of training interactions")


class _Events(NamedTuple):
    """Training interactions sorted by user and time."""

    user: Tensor  # int64 [E]
    item: Tensor  # int64 [E]  0..N-1


def _events(interactions: DataFrame, num_items: int) -> _Events:
    import pandas as pd
    import torch

    item = training_items(interactions, num_items, "Item2Vec")
    user, _ = pd.factorize(interactions["user"])
    return _Events(torch.from_numpy(user.astype(np.int64)), torch.from_numpy(item - 1))


def _context(events: _Events, center: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Return the items around the events at `center` [B], int64 [B, 2 window], and which of them form pairs, bool [B, 2 window]."""
    import torch

    position = center.unsqueeze(1) + torch.tensor([step for step in range(-window, window + 1) if step])
    valid = position.clamp(0, len(events.item) - 1)
    item = events.item[valid]
    same_user = events.user[valid] == events.user[center].unsqueeze(1)
    return item, (position == valid) & same_user & (item != events.item[center].unsqueeze(1))


def _has_pair(events: _Events, window: int) -> Tensor:
    """Return which events have a pair, bool [E]."""
    import torch

    centers = torch.split(torch.arange(len(events.item)), 1 << 16)
    return torch.cat([_context(events, center, window)[1].any(1) for center in centers])


def _train(spec: Item2Vec, events: _Events, num_items: int) -> Tensor:
    """Return the vectors v, float32 [N, D]."""
    import torch

    source = generator(spec.seed, "item2vec")
    inner = torch.nn.Parameter((torch.rand(num_items, spec.dim, generator=source) - 0.5) / spec.dim)
    outer = torch.nn.Parameter(torch.zeros(num_items, spec.dim))
    optimizer = torch.optim.Adagrad([inner, outer], lr=spec.learning_rate)
    weight = torch.bincount(events.item, minlength=num_items).double()
    cumulative = torch.where(weight > 0, weight.pow(spec.exponent), 0.0).cumsum(0)
    batch = min(MAX_BATCH, max(1, len(events.item) // MIN_STEPS))
    # torch warns of sparse gradients unless the check of invariants is set explicitly
    no_check = torch.sparse.check_sparse_tensor_invariants(False)  # type: ignore[no-untyped-call]
    with no_check, Progress("item2vec", spec.epochs * len(events.item)) as progress:
        for _ in range(spec.epochs):
            for center in torch.split(torch.randperm(len(events.item), generator=source), batch):
                negatives = _draw(cumulative, (len(center), spec.num_negatives), source)
                loss = _loss(inner, outer, events, center, negatives, spec.window)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                progress.advance(len(center))
    return inner.detach()


def _draw(cumulative: Tensor, shape: tuple[int, int], source: Generator) -> Tensor:
    """Draw items int64 [B, K] in proportion to their weights, from the cumulative weights float64 [N]."""
    import torch

    point = torch.rand(shape, generator=source, dtype=torch.float64) * cumulative[-1]
    return torch.searchsorted(cumulative, point, right=True).clamp(max=len(cumulative) - 1)


def _loss(inner: Tensor, outer: Tensor, events: _Events, center: Tensor, negatives: Tensor, window: int) -> Tensor:
    """Return the mean loss of the events at `center` [B]. A negative that equals the event's item or a context item is masked."""
    import torch
    from torch.nn.functional import embedding, logsigmoid

    context, pair = _context(events, center, window)
    item = events.item[center].unsqueeze(1)
    others = torch.cat([context, negatives], dim=1)
    scores = (embedding(others, outer, sparse=True) @ embedding(item, inner, sparse=True).transpose(1, 2)).squeeze(2)
    clash = (negatives == item) | ((negatives.unsqueeze(2) == context.unsqueeze(1)) & pair.unsqueeze(1)).any(2)
    positive = logsigmoid(scores[:, : context.shape[1]]) * pair
    negative = logsigmoid(-scores[:, context.shape[1] :]) * ~clash * pair.sum(1, keepdim=True)
    return -(positive.sum() + negative.sum()) / len(center)
