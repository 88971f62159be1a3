"""Metrics of every evaluation with a value per user: recall of head and tail, recall by group, novelty, valid share; and MGU, DGU.

All are computed from lists and ranks; none needs the recommender again, except the valid share. A user whom a metric does not count
has NaN. The mean over the counted users is the metric. `genrec.evaluation.measurement` adds the metrics of `Evaluate.metrics`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.evaluation import metrics
from genrec.evaluation.cold_metrics import cold_values
from genrec.evaluation.feedback_metrics import feedback_values
from genrec.evaluation.item_groups import (
    NUM_POPULARITY_GROUPS,
    dgu,
    groups_of_genres,
    groups_of_popularity,
    head_items,
    mgu,
    popularity_group,
)
from genrec.evaluation.shared_id_ties import per_user, semantic_id_values
from genrec.types import Evaluated

HISTORY_GROUPS = ((1, 4), (5, 9), (10, 19), (20, None))  # events before the target: first and last of each group
GENRES = "genres"  # column of the catalog with genres, separated by "|"


def standard_metrics(evaluated: Evaluated) -> dict[str, Tensor]:
    """Return the figures of every evaluation by name, float64 [U] with NaN for a user who is not counted, or float64 [].

    With n each cut-off, and m = 10, or the last cut-off if 10 is none:

    - `head_recall@n`, `tail_recall@n`: recall of the users whose target is in the head or the tail, see `item_groups.head_items`
    - `sid_recall@n`, `sid_ndcg@n`: metrics of the rank of the Semantic ID, if several items share one
    - `cold_recall@n`, `cold_ndcg@n`: of the users with a target that has no training interaction, if there are any
    - `novelty@n`: mean self-information of the first n items, see `novelty`
    - `recall@m[history 1-4]`, ...: recall of the users with so many events before the target
    - `recall@m[popularity 1 of 5]`, ...: recall of the users whose target is in this popularity group, the most popular first
    - `mgu_popularity@m`, `dgu_popularity@m`, `mgu_genres@m`, `dgu_genres@m`: see `item_groups.mgu`; genres if the catalog has them
    - `valid_share`: 1 if unconstrained greedy decoding of the user's history ends in the Semantic ID of a real item, else 0; only for
      policies that generate codes
    - `pairwise_accuracy`, `disliked@n`: with labels, see `feedback_metrics`

    If Semantic IDs are shared, recalls are expectations over the order of the items that share one.
    """
    parts = (_recalls, _novelties, _group_figures, _valid)
    found = {name: values for part in parts for name, values in part(evaluated).items()}
    ranks, cutoffs = evaluated.ranks, evaluated.cutoffs
    found |= semantic_id_values(ranks, cutoffs) | cold_values(ranks, cutoffs, evaluated.popularity)
    return found | feedback_values(evaluated)


def novelty(items: Tensor, popularity: Tensor) -> Tensor:
    """Return the mean self-information of the items of each list, in bits: float64 [U], NaN for an empty list.

    The self-information of item i is -log2(c_i / sum_j c_j), with c_i its training interactions (`popularity` int64 [N + 1]); an item
    without one counts as an item with one. `items` int64 [U, n], 0 for an empty slot. Sources: Zhou et al. 2010 (PNAS 107), with the
    share of all interactions as the probability of an item; Vargas & Castells 2011 (RecSys).
    """
    bits = -torch.log2(popularity.clamp(min=1).double() / popularity[1:].sum().clamp(min=1))
    filled = items > 0
    total = torch.where(filled, bits[items], 0.0).sum(1)
    return total / filled.sum(1)  # 0 / 0 is NaN


def shown_cutoff(cutoffs: tuple[int, ...]) -> int:
    """Return the cut-off of figures that have one only: 10 if it is a cut-off, else the last."""
    return 10 if 10 in cutoffs else cutoffs[-1]


def only(values: Tensor, counted: Tensor) -> Tensor:
    """Return values float64 [U] with NaN for the users who are not counted, bool [U]."""
    return values.double().masked_fill(~counted, torch.nan)


def _recalls(evaluated: Evaluated) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    head, group = head_items(evaluated.popularity)[evaluated.target], popularity_group(evaluated.popularity)[evaluated.target]
    for n in evaluated.cutoffs:
        recall = per_user(metrics.recall, evaluated.ranks, n)
        found |= {f"head_recall@{n}": only(recall, head), f"tail_recall@{n}": only(recall, ~head)}
    n = shown_cutoff(evaluated.cutoffs)
    recall, length = per_user(metrics.recall, evaluated.ranks, n), evaluated.history_length
    for first, last in HISTORY_GROUPS:
        counted = (length >= first) & (length <= (length.max() if last is None else last))
        found[f"recall@{n}[history {first}{'+' if last is None else f'-{last}'}]"] = only(recall, counted)
    for number in range(NUM_POPULARITY_GROUPS):
        found[f"recall@{n}[popularity {number + 1} of {NUM_POPULARITY_GROUPS}]"] = only(recall, group == number)
    return found


def _novelties(evaluated: Evaluated) -> dict[str, Tensor]:
    return {f"novelty@{n}": novelty(evaluated.items[:, :n], evaluated.popularity) for n in evaluated.cutoffs}


def _group_figures(evaluated: Evaluated) -> dict[str, Tensor]:
    n, popularity = shown_cutoff(evaluated.cutoffs), evaluated.popularity
    divisions = {"popularity": groups_of_popularity(popularity)}
    genres = groups_of_genres(evaluated.catalog[GENRES].fillna("").astype(str).tolist()) if GENRES in evaluated.catalog else None
    if genres is not None:
        divisions["genres"] = genres
    top = evaluated.items[:, :n]
    found: dict[str, Tensor] = {}
    for name, groups in divisions.items():
        figures = {f"mgu_{name}@{n}": mgu(top, groups, popularity), f"dgu_{name}@{n}": dgu(top, groups, popularity)}
        found |= {key: value for key, value in figures.items() if value is not None}
    return found


def _valid(evaluated: Evaluated) -> dict[str, Tensor]:
    greedy = evaluated.greedy
    if greedy is None:
        return {}
    return {"valid_share": evaluated.by_user(lambda batch: (greedy(batch.history) > 0).double())}
