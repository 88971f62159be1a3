"""Stage 2: vectors of items from which items users took near each other, by skip-grams with negative sampling.

In: *training* interactions, each user's in the order of time. Out: float32 [N, D], rows of length 1.
Source: item2vec (Barkan and Koenigstein 2016, 1603.04259), word2vec (Mikolov et al. 2013, 1310.4546). For items i of context c, both
taken by one user at most `window` events apart, with negatives n drawn from (training events)^exponent,

    loss = - log s(v_i . u_c) - sum over n of log s(-v_i . u_n)          s the logistic function; v is the result

Deviations: batches and Adagrad instead of one pair at a time with a falling rate; the negatives are drawn once for an event instead of
once for each of its pairs and weighed by their number, which has the same mean. A user's repeats of one item are no pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from genrec.embeddings.mean_fill import fill_with_mean
from genrec.embeddings.truncated_svd import check_svd_fields
from genrec.embeddings.vector_checks import training_items
from genrec.errors import InputError, UsageError
from genrec.progress import Progress
from genrec.randomness import generator

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas import DataFrame
    from torch import Generator, Tensor

BATCH = 4096  # events whose pairs make one step, at most
STEPS = 32  # in an epoch, at least, where there are enough events: a small log takes smaller steps


@dataclass(frozen=True)
class Item2Vec:
    """Items whose neighbors in users' histories are alike become near.

    `Collaborative` asks who took an item; this asks beside what. Items without a training pair get the mean vector of the others,
    and a warning counts them. On one machine the same seed gives the same bits.
    """

    dim: int = 64  # dimensions, at least 1
    window: int = 5  # events before and after an event that are its context, at least 1
    epochs: int = 10  # passes over the training interactions, at least 1
    num_negatives: int = 10  # drawn for each event, at least 1
    exponent: float = 0.75  # of the negatives' popularity, finite: 0 is uniform, 1 as often as taken
    learning_rate: float = 0.3  # of Adagrad, above 0
    seed: int = 0  # of the first vectors, the order and the negatives, 0..2**32-1

    def __post_init__(self) -> None:
        check_svd_fields(self, self.dim, self.seed)
        for name in ("window", "epochs", "num_negatives"):
            if getattr(self, name) < 1:
                raise UsageError(f"Item2Vec.{name} must be at least 1, got {getattr(self, name)}")
        if not np.isfinite(self.exponent):
            raise UsageError(f"Item2Vec.exponent must be finite, got {self.exponent}")
        if not 0 < self.learning_rate < np.inf:
            raise UsageError(f"Item2Vec.learning_rate must be above 0 and finite, got {self.learning_rate}")

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Items (row i is item i+1) and training interactions (user, item in 1..N; by user and time) -> float32 [N, D]."""
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
    """Training interactions, by user and time."""

    user: Tensor  # int64 [E]
    item: Tensor  # int64 [E]  0..N-1


def _events(interactions: DataFrame, item_count: int) -> _Events:
    import pandas as pd
    import torch

    item = training_items(interactions, item_count, "Item2Vec")
    user, _ = pd.factorize(interactions["user"])
    return _Events(torch.from_numpy(user.astype(np.int64)), torch.from_numpy(item - 1))


def _context(events: _Events, center: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Places of events [B] -> the items around them int64 [B, 2 window], and which of those are pairs, bool [B, 2 window]."""
    import torch

    place = center.unsqueeze(1) + torch.tensor([step for step in range(-window, window + 1) if step])
    inside = place.clamp(0, len(events.item) - 1)
    item = events.item[inside]
    alike = events.user[inside] == events.user[center].unsqueeze(1)
    return item, (place == inside) & alike & (item != events.item[center].unsqueeze(1))


def _has_pair(events: _Events, window: int) -> Tensor:
    """Which events have a context, bool [E]."""
    import torch

    places = torch.split(torch.arange(len(events.item)), 1 << 16)
    return torch.cat([_context(events, part, window)[1].any(1) for part in places])


def _train(spec: Item2Vec, events: _Events, item_count: int) -> Tensor:
    """The vectors v, float32 [N, D]."""
    import torch

    source = generator(spec.seed, "item2vec")
    inner = torch.nn.Parameter((torch.rand(item_count, spec.dim, generator=source) - 0.5) / spec.dim)
    outer = torch.nn.Parameter(torch.zeros(item_count, spec.dim))
    optimizer = torch.optim.Adagrad([inner, outer], lr=spec.learning_rate)
    weight = torch.bincount(events.item, minlength=item_count).double()
    ladder = torch.where(weight > 0, weight.pow(spec.exponent), 0.0).cumsum(0)
    batch = min(BATCH, max(1, len(events.item) // STEPS))
    unchecked = torch.sparse.check_sparse_tensor_invariants(False)  # type: ignore[no-untyped-call]  # the gradients are right; not to say so is a warning
    with unchecked, Progress("item2vec", spec.epochs * len(events.item)) as progress:
        for _ in range(spec.epochs):
            for center in torch.split(torch.randperm(len(events.item), generator=source), batch):
                drawn = _draw(ladder, (len(center), spec.num_negatives), source)
                loss = _loss(inner, outer, events, center, drawn, spec.window)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                progress.advance(len(center))
    return inner.detach()


def _draw(ladder: Tensor, shape: tuple[int, int], source: Generator) -> Tensor:
    """Items drawn by their weights, whose running sum is float64 [N]: int64 [B, K]."""
    import torch

    place = torch.rand(shape, generator=source, dtype=torch.float64) * ladder[-1]
    return torch.searchsorted(ladder, place, right=True).clamp(max=len(ladder) - 1)


def _loss(inner: Tensor, outer: Tensor, events: _Events, center: Tensor, negatives: Tensor, window: int) -> Tensor:
    """The loss of the events at `center` [B], a mean over events; a negative that is the event's item or context is left out."""
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
