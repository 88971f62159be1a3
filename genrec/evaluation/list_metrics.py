"""Metrics of lists to choose in `Evaluate.metrics`: intra-list distance, and overlap with a baseline's lists.

    Evaluate(metrics=(IntraListDistance(TfidfSvd()), ListOverlap(ItemKNN()), CandidateHitRate()))

`genrec.experiment.BEYOND_ACCURACY` holds these three with default settings; for the last see `candidate_hit_rate`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from genrec.errors import InputError, UsageError, given
from genrec.evaluation.scored_lists import recommend_batch
from genrec.evaluation.user_metrics import shown_cutoff
from genrec.item_rows import contains, repeated
from genrec.plugin_source import name_with_place
from genrec.types import Baseline, Evaluated, ItemEncoder, Ranking, SequenceBatch
from genrec.types.specification import check_fitted_on_training

CELLS = 2**23  # numbers of item vectors that are held at once: 64 MB


@dataclass(frozen=True)
class IntraListDistance:
    """`ild@n`: the mean cosine distance of all pairs of items in the first n slots of a user's list, higher is more diverse.

    The encoder makes the item vectors from the catalog and the training interactions once per evaluation, so rows with the same
    encoder are comparable, whatever vectors they were trained with. A list with fewer than two items is not counted. Sources: Smyth
    & McClave 2001 (ICCBR); Ziegler et al. 2005 (WWW).
    """

    encoder: ItemEncoder  # item vectors, such as TextOrInteractions()

    def __post_init__(self) -> None:
        if isinstance(self.encoder, str | type) or not isinstance(self.encoder, ItemEncoder):  # a text has `encode` too
            raise UsageError(f"IntraListDistance.encoder must be a genrec.types.ItemEncoder, got {given(self.encoder)}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if lists have no pair of items."""
        if experiment.evaluate.cutoffs[-1] < 2:
            raise UsageError(f"IntraListDistance needs a cut-off of 2 or more, got evaluate.cutoffs {experiment.evaluate.cutoffs}")

    def measure(self, evaluated: Evaluated) -> dict[str, Tensor]:
        """Return ild@10, or at the last cut-off if 10 is none."""
        n, vectors = shown_cutoff(evaluated.cutoffs), self.encoder.encode(evaluated.catalog, evaluated.train())
        self._check_vectors(vectors, evaluated)
        return {f"ild@{n}": intra_list_distance(evaluated.items[:, :n], torch.from_numpy(np.ascontiguousarray(vectors)))}

    def _check_vectors(self, vectors: object, evaluated: Evaluated) -> None:
        """Raise InputError unless these are finite vectors with a direction, one per item."""
        name, items = name_with_place(type(self.encoder)), len(evaluated.catalog)
        if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or len(vectors) != items or vectors.dtype.kind != "f":
            got = f"{vectors.dtype} {list(vectors.shape)}" if isinstance(vectors, np.ndarray) else type(vectors).__name__
            raise InputError(f"{name}: item vectors must be float [{items}, D], got {got}")
        wrong = ~np.isfinite(vectors).all(1) | ~vectors.any(1)
        if wrong.any():
            first = evaluated.catalog["item_id"].iloc[int(wrong.argmax())]
            raise InputError(
                f"{name}: item vectors must be finite and not zero; {int(wrong.sum())} are not, the first of item {first!r}"
            )


@dataclass(frozen=True)
class ListOverlap:
    """`overlap@n`: the share of the first n items of a user's list that are also in the first n items of a baseline's list.

    The baseline is fitted on the training interactions alone and ranks the same histories; with `filter_seen` its lists leave out
    the same items. Near 1 the recommender has learned little that the baseline, such as ItemKNN, does not know. See `list_overlap`
    for short lists. A user with two empty lists is not counted.
    """

    baseline: Baseline  # such as ItemKNN()
    name: str = "overlap"  # of the figure, before @n; several baselines need several names

    def __post_init__(self) -> None:
        if isinstance(self.baseline, type) or not isinstance(self.baseline, Baseline):
            raise UsageError(f"ListOverlap.baseline must be a genrec.types.Baseline, such as ItemKNN(), got {given(self.baseline)}")
        check_fitted_on_training(self, self.baseline)
        if re.fullmatch("[A-Za-z][A-Za-z0-9_]*", self.name) is None:
            raise UsageError(f"ListOverlap.name must be letters, digits and '_', and begin with a letter, got {self.name!r}")

    def measure(self, evaluated: Evaluated) -> dict[str, Tensor]:
        """Return overlap@10, or at the last cut-off if 10 is none."""
        n = shown_cutoff(evaluated.cutoffs)
        fitted = self.baseline.fit(evaluated.train(), len(evaluated.popularity) - 1)

        def lists(batch: SequenceBatch) -> Tensor:
            batch = SequenceBatch(batch.user.cpu(), batch.items.cpu(), batch.target.cpu())
            ranking = recommend_batch(fitted, batch, n, evaluated.exclude(batch.user))
            if not isinstance(ranking, Ranking) or tuple(ranking.items.shape) != (len(batch.user), n):
                name = name_with_place(type(self.baseline))
                raise InputError(f"{name}: recommend must return a genrec.types.Ranking [{len(batch.user)}, {n}]")
            return ranking.items

        return {f"{self.name}@{n}": list_overlap(evaluated.items[:, :n], evaluated.by_user(lists))}


def intra_list_distance(items: Tensor, vectors: Tensor) -> Tensor:
    """Return the mean of 1 - cos over all pairs of filled slots of each list, float64 [U], 0 to 2; NaN for fewer than two items.

    `items` int64 [U, n], distinct in a row, 0 for an empty slot; `vectors` float [N, D], row i - 1 belongs to item i, none all-zero.
    With k items and s the sum of their unit vectors, the cosines of all pairs add up to (|s|^2 - k) / 2.
    """
    unit = torch.cat([torch.zeros(1, vectors.shape[1], dtype=torch.float64), normalize(vectors.double(), eps=0.0)])
    found = []
    for part in torch.split(items, max(1, CELLS // (items.shape[1] * vectors.shape[1]))):
        count = (part > 0).sum(1)
        mean_cosine = (unit[part].sum(1).square().sum(1) - count) / (count * (count - 1))
        found.append((1 - mean_cosine).clamp(0, 2).masked_fill(count < 2, torch.nan))  # clamped against rounding
    return torch.cat(found)


def list_overlap(items: Tensor, others: Tensor) -> Tensor:
    """Return the number of items that two lists have in common / the filled slots of the longer list: float64 [U].

    `items` and `others` are int64 [U, n], 0 for an empty slot; repeated items count once. The divisor is n where a list is full, so
    that equal lists have the overlap 1 also in a small catalog. NaN for two empty lists.
    """
    items, others = (rows.masked_fill(repeated(rows), 0) for rows in (items, others))
    filled = torch.maximum((items > 0).sum(1), (others > 0).sum(1))
    return contains(others, items).sum(1).double() / filled  # 0 / 0 is NaN
