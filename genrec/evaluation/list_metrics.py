"""Metrics to choose in `Evaluate.metrics`: intra-list distance, overlap with a baseline's lists, hit rate among few candidates.

    Evaluate(metrics=(IntraListDistance(TfidfSvd()), ListOverlap(ItemKNN()), CandidateHitRate()))

`genrec.experiment.BEYOND_ACCURACY` holds these three with default settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from genrec.errors import UsageError
from genrec.evaluation.scored_lists import recommend_batch
from genrec.evaluation.user_metrics import shown_cutoff
from genrec.item_rows import contains
from genrec.types import Baseline, Evaluated, ItemEncoder, Recommender, SequenceBatch
from genrec.types.specification import check_at_least

CELLS = 2**23  # items that are excluded at once, int64: 64 MB


@dataclass(frozen=True)
class IntraListDistance:
    """`ild@n`: the mean cosine distance of all pairs of items in the first n slots of a user's list, higher is more diverse.

    The encoder makes the item vectors from the catalog and the training interactions once per evaluation, so rows with the same
    encoder are comparable, whatever vectors they were trained with. A list with fewer than two items is not counted. Sources: Smyth
    & McClave 2001 (ICCBR); Ziegler et al. 2005 (WWW).
    """

    encoder: ItemEncoder  # item vectors, such as TextOrInteractions()

    def __post_init__(self) -> None:
        if isinstance(self.encoder, type) or not isinstance(self.encoder, ItemEncoder):
            raise UsageError(f"IntraListDistance.encoder must be a genrec.types.ItemEncoder, got {self.encoder!r}")

    def measure(self, evaluated: Evaluated) -> dict[str, Tensor]:
        """Return ild@10, or at the next smaller cut-off."""
        n = shown_cutoff(evaluated.cutoffs)
        vectors = torch.from_numpy(np.asarray(self.encoder.encode(evaluated.catalog, evaluated.train()), dtype=np.float32))
        return {f"ild@{n}": intra_list_distance(evaluated.items[:, :n], vectors)}


@dataclass(frozen=True)
class ListOverlap:
    """`overlap@n`: the share of the first n items of a user's list that are also in the first n items of a baseline's list.

    The baseline is fitted on the training interactions and ranks under the same protocol. Near 1 the recommender has learned little
    that the baseline, such as ItemKNN, does not know.
    """

    baseline: Baseline  # such as ItemKNN()

    def __post_init__(self) -> None:
        if isinstance(self.baseline, type) or not isinstance(self.baseline, Baseline):
            raise UsageError(f"ListOverlap.baseline must be a genrec.types.Baseline, such as ItemKNN(), got {self.baseline!r}")

    def measure(self, evaluated: Evaluated) -> dict[str, Tensor]:
        """Return overlap@10, or at the next smaller cut-off."""
        n = shown_cutoff(evaluated.cutoffs)
        fitted = self.baseline.fit(evaluated.train(), len(evaluated.popularity) - 1)
        lists = torch.zeros(int(evaluated.user.max()) + 1, n, dtype=torch.int64)
        for batch in evaluated.batches:
            users = batch.user.cpu()
            exclude = evaluated.seen(users) if evaluated.filter_seen else None
            on_cpu = SequenceBatch(*(column.cpu() for column in batch))
            lists[users] = recommend_batch(fitted, on_cpu, n, exclude).items.cpu()
        return {f"overlap@{n}": list_overlap(evaluated.items[:, :n], lists[evaluated.user])}


@dataclass(frozen=True)
class CandidateHitRate:
    """`hit_rate@1[20 candidates]`: whether the target is ranked first among itself and 19 other items of the catalog.

    This is the protocol of papers on LLM recommenders (LLaRA, S-DPO); it says little about the full catalog. The other candidates of a
    user are the first items of a random order of the catalog, from a seed of its own and the user's number, that are neither the
    target nor among the user's events before it. The order does not depend on the target, the recommender or the experiment's seed, so
    all rows have the same candidates. Users with too few other items are not counted.
    """

    num_candidates: int = 20  # candidates with the target, at least 2
    seed: int = 0  # seed of the draw

    def __post_init__(self) -> None:
        check_at_least(self, "CandidateHitRate", 2, "num_candidates")
        check_at_least(self, "CandidateHitRate", 0, "seed")

    def measure(self, evaluated: Evaluated) -> dict[str, Tensor]:
        """Return the hit rate. The recommender ranks with all items but the candidates excluded."""
        hits = torch.full((int(evaluated.user.max()) + 1,), torch.nan, dtype=torch.float64)
        catalog = len(evaluated.popularity) - 1
        for batch in _parts(evaluated.batches, max(1, CELLS // catalog)):
            users, target = batch.user.cpu(), batch.target.cpu()
            others = self.others(users, target, evaluated.seen(users), catalog)
            counted = (others > 0).all(1)
            if bool(counted.any()):
                kept = counted.to(batch.history.device)
                part = SequenceBatch(*(column[kept] for column in batch))
                first = _best(evaluated.recommender, part, others[counted], catalog)
                hits[users[counted]] = (first == target[counted]).double()
        return {f"hit_rate@1[{self.num_candidates} candidates]": hits[evaluated.user]}

    def others(self, user: Tensor, target: Tensor, seen: Tensor, items: int) -> Tensor:
        """Return the other candidates of users, int64 [B, num_candidates - 1], 0 where a user has too few.

        `user` and `target` int64 [B]; `seen` int64 [B, E], the user's events before the target, 0 = none; `items` is N.
        """
        found = torch.zeros(len(user), self.num_candidates - 1, dtype=torch.int64)
        unwanted = torch.cat([seen.cpu(), target.unsqueeze(1)], 1)
        for row, number in enumerate(user.tolist()):
            order = torch.from_numpy(np.random.default_rng((self.seed, number)).permutation(items) + 1)
            chosen = order[~contains(unwanted[row : row + 1], order.unsqueeze(0))[0]][: self.num_candidates - 1]
            found[row, : len(chosen)] = chosen
        return found


def intra_list_distance(items: Tensor, vectors: Tensor) -> Tensor:
    """Return the mean of 1 - cos over all pairs of distinct filled slots of each list, float64 [U]; NaN for fewer than two items.

    `items` int64 [U, n], 0 for an empty slot; `vectors` float32 [N, D], row i - 1 belongs to item i. The cosine with an all-zero
    vector is 0. With unit vectors x of k items the sum of all cosines of pairs is (|sum x|^2 - sum |x|^2) / 2.
    """
    unit = torch.cat([torch.zeros(1, vectors.shape[1]), normalize(vectors)]).double()
    found = []
    for part in torch.split(items, max(1, CELLS // (items.shape[1] * vectors.shape[1]))):
        rows = unit[part]  # float64 [U, n, D]
        count = (part > 0).sum(1).double()
        cosines = (rows.sum(1).square().sum(1) - rows.square().sum((1, 2))) / 2
        pairs = count * (count - 1) / 2
        found.append(torch.where(pairs > 0, 1 - cosines / pairs.clamp(min=1), torch.nan))
    return torch.cat(found)


def list_overlap(items: Tensor, others: Tensor) -> Tensor:
    """Return the share of the n slots of each list that hold an item of the other list, float64 [U]; both int64 [U, n], 0 = empty."""
    return contains(others, items).double().mean(1)


def _parts(batches: Sequence[SequenceBatch], size: int) -> Iterator[SequenceBatch]:
    """Yield batches of at most `size` users."""
    for batch in batches:
        for begin in range(0, len(batch.user), size):
            yield SequenceBatch(*(column[begin : begin + size] for column in batch))


def _best(recommender: Recommender, batch: SequenceBatch, others: Tensor, items: int) -> Tensor:
    """Return the best of each target and its other candidates, int64 [B]."""
    candidates = torch.cat([batch.target.cpu().unsqueeze(1), others], 1)
    exclude = torch.arange(1, items + 1).repeat(len(candidates), 1).scatter_(1, candidates - 1, 0)
    return recommend_batch(recommender, batch, 1, exclude.to(batch.history.device)).items.cpu()[:, 0]
