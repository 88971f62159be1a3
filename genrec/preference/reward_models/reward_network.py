"""The network of a reward model, its training on pairs and its figures on pairs that are held out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import embedding

from genrec.preference.history_networks import HistoryState, ItemTable
from genrec.preference.reward_models.pair_losses import pair_accuracy
from genrec.preference.reward_models.training_pairs import PairRows, TrainingPairs
from genrec.randomness import generator

ROWS = 512  # rows that are rated at once, which bounds the memory
MEASURED_ROWS = 20_000  # rows with pairs that the figures are computed of, at most
MEASURED_HISTORIES = 256  # histories for which the whole catalog is rated


class RewardNetwork(nn.Module):
    """r(history, item): a head of two layers on the state of the history, the vector of the item, and their product."""

    shift: Tensor
    scale: Tensor

    def __init__(self, vectors: Tensor, dim: int) -> None:
        super().__init__()
        self.items, self.state = ItemTable(vectors, dim), HistoryState()
        self.query = nn.Linear(2 * dim, dim)
        self.hidden = nn.Linear(3 * dim, 2 * dim)
        self.output = nn.Linear(2 * dim, 1)
        self.dropout = nn.Dropout(0.2)
        self.register_buffer("shift", torch.zeros(()))  # with `scale`: mean 0 and deviation 1, see `standardize`
        self.register_buffer("scale", torch.ones(()))

    def forward(self, history: Tensor, items: Tensor) -> Tensor:
        """Return the rewards float32 [B, M] of items int64 [B, M] after histories int64 [B, T]."""
        table = self.items()
        state = self.query(self.dropout(self.state(table, history))).unsqueeze(1)
        vectors = self.dropout(embedding(items, table))
        together = torch.cat([state.expand_as(vectors), vectors, state * vectors], 2)
        raw: Tensor = self.output(torch.relu(self.hidden(together))).squeeze(2)
        return (raw - self.shift) / self.scale


class RewardFigures(NamedTuple):
    """How well a reward model orders pairs that it was not trained on, and how far it follows popularity."""

    accuracy: float  # share of the held-out pairs in the right order, ties 1/2
    pairs: int  # held-out pairs
    rows: int  # held-out rows with a pair
    popularity_accuracy: float  # the same share by the number of training events of the items
    popularity_correlation: float  # mean over held-out histories of Spearman's correlation of reward and popularity over the catalog
    train_pairs: int  # pairs of all steps of the training
    train_loss: float  # mean loss of the last 100 steps


def batches(index: Tensor, size: int, seed: int) -> Iterator[Tensor]:
    """Iterate without end over numbers of examples, `size` at once, in an order of its own for each pass over all of them."""
    for epoch in count():
        order = torch.randperm(len(index), generator=generator(seed, "order of a reward model", epoch))
        yield from torch.split(index[order], size)


@torch.no_grad()
def rate(network: RewardNetwork, history: Tensor, items: Tensor) -> Tensor:
    """Return the rewards float32 [B, M] of items int64 [B, M] in evaluation mode, in chunks of rows, without autocast."""
    network.eval()
    with torch.autocast(items.device.type, enabled=False):
        parts = [network(history[i : i + ROWS], items[i : i + ROWS]) for i in range(0, len(items), ROWS)]
    return torch.cat(parts) if parts else torch.zeros(items.shape, device=items.device)


def held_out_rows(pairs: TrainingPairs, seed: int) -> list[PairRows]:
    """Return the held-out rows with their rejected items, drawn once, at most `MEASURED_ROWS` of them."""
    order = torch.randperm(len(pairs.held_out), generator=generator(seed, "held-out rows of a reward model"))[:MEASURED_ROWS]
    return [pairs.rows(index, number) for number, index in enumerate(torch.split(pairs.held_out[order], ROWS))]


def standardize(network: RewardNetwork, rows: list[PairRows], item_count: int) -> None:
    """Shift and scale the rewards to mean 0 and deviation 1 over the catalog, for the histories of these rows.

    The order of items does not change, and a weight of the divergence means the same for every reward model (Ziegler et al. 2019,
    arXiv 1909.08593, section 2.1).
    """
    values = torch.cat([each.flatten() for each in catalog_rewards(network, rows, item_count)])
    network.shift.copy_(values.mean())
    network.scale.copy_(values.std().clamp(min=1e-6))


def catalog_rewards(network: RewardNetwork, rows: list[PairRows], item_count: int) -> list[Tensor]:
    """Return the rewards of items 1..N, float32 [N] for each of the first `MEASURED_HISTORIES` histories."""
    catalog, found = torch.arange(1, item_count + 1).unsqueeze(0), list[Tensor]()
    for each in rows:
        histories = each.history[: MEASURED_HISTORIES - len(found)]
        found += [rate(network, history.unsqueeze(0), catalog)[0] for history in histories]
    return found


def figures_of(network: RewardNetwork, rows: list[PairRows], popularity: Tensor, train_pairs: int, train_loss: float) -> RewardFigures:
    """Return the figures of a reward model on held-out rows. `popularity` is int64 [N + 1]."""
    pairs = right = by_popularity = with_pair = 0.0
    for each in rows:
        rewards = rate(network, each.history, torch.cat([each.chosen.unsqueeze(1), each.rejected], 1))
        of_rows = float(each.mask.sum())
        if not of_rows:
            continue
        events = popularity.double()
        right += of_rows * float(pair_accuracy(rewards[:, 0], rewards[:, 1:], each.mask))
        by_popularity += of_rows * float(pair_accuracy(events[each.chosen], events[each.rejected], each.mask))
        pairs, with_pair = pairs + of_rows, with_pair + float(each.mask.any(1).sum())
    of_catalog = catalog_rewards(network, rows, len(popularity) - 1)
    varies = len(torch.unique(popularity[1:])) > 1
    correlations = [float(spearmanr(each.numpy(), popularity[1:].numpy()).statistic) for each in of_catalog if varies]
    known = [each for each in correlations if each == each]
    total = max(pairs, 1.0)
    return RewardFigures(
        accuracy=right / total,
        pairs=int(pairs),
        rows=int(with_pair),
        popularity_accuracy=by_popularity / total,
        popularity_correlation=sum(known) / len(known) if known else 0.0,
        train_pairs=train_pairs,
        train_loss=train_loss,
    )
