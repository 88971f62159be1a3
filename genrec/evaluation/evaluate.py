"""Stage 6: a recommender -> the rank of every user's held-out item, and everybody's list.

In: anything that is a `genrec.types.Recommender`, and batches of users. Out: `ranks.parquet`, `recommendations.parquet`,
`metrics.json`. Ranking is over the full catalog and of items, one target per user; averages are over users, never over batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from pandas import DataFrame
from torch import Tensor, nn

from genrec.errors import InputError, ResourceError, UsageError
from genrec.evaluation import metrics
from genrec.evaluation.cold_metrics import cold_metrics
from genrec.evaluation.scored_lists import ScoredLists, score_lists
from genrec.evaluation.shared_id_ties import COLUMNS, check_shared, per_user
from genrec.progress import say, track
from genrec.store import NOT_IN_KEY
from genrec.types import Baseline, ExactRecommender, Ranking, Recommender, SequenceBatch

Seen = Callable[[Tensor], Tensor]  # users int64 [B] -> all items each took before the target, int64 [B, E], 0 = none
Recommend = Callable[[Tensor, int, Tensor | None], Ranking]  # what `Recommender.recommend` is


@dataclass(frozen=True)
class Evaluate:
    """The protocol of an evaluation; rows of one table share it."""

    cutoffs: tuple[int, ...] = (1, 5, 10, 20, 50)  # of the metrics, ascending; lists are as long as the last
    filter_seen: bool = False  # whether items that the user already took are left out of the list
    scoring: Literal["beam", "exact"] = "beam"  # of a policy: its beam search, or every item of the catalog, none pruned
    num_beams: int = 0  # of beam search, in evaluation alone; 0 = the policy's own
    max_users: int = 0  # of the test users, so many, drawn once for all rows and seeds; 0 = all
    batch_size: int = field(default=256, metadata=NOT_IN_KEY)  # users at once; changes no result

    def __post_init__(self) -> None:
        if not self.cutoffs or self.cutoffs[0] < 1 or any(a >= b for a, b in zip(self.cutoffs, self.cutoffs[1:], strict=False)):
            raise UsageError(f"evaluate.cutoffs must be ascending numbers from 1 on, got {self.cutoffs}")
        if self.batch_size < 1:
            raise UsageError(f"evaluate.batch_size must be at least 1, got {self.batch_size}")
        if self.scoring not in ("beam", "exact"):
            raise UsageError(f"evaluate.scoring must be 'beam' or 'exact', got {self.scoring!r}")
        for name, default in (("num_beams", "the policy's own"), ("max_users", "all")):
            if getattr(self, name) < 0:
                raise UsageError(f"evaluate.{name} must be 0 ({default}) or more, got {getattr(self, name)}")
        if self.num_beams and self.scoring == "exact":
            raise UsageError(f"evaluate.scoring 'exact' has no beams, got evaluate.num_beams = {self.num_beams}; leave it at 0")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if a beam search would have to rank more items than it has beams. Exact scoring ranks any number."""
        own = getattr(experiment.policy, "num_beams", None)
        if own is None:
            if self.num_beams and not isinstance(experiment.policy, Baseline):
                raise UsageError(f"evaluate.num_beams = {self.num_beams}, but the policy has no beams: {experiment.policy!r}")
            return
        ranked = self.cutoffs[-1] if self.scoring == "beam" else 0
        needed = 10 if self.num_beams else max(10, ranked)  # validation ranks ten items with the policy's own beams
        if own < needed:
            raise UsageError(f"policy.num_beams must be at least {needed}, the most items ranked (evaluate.cutoffs), got {own}")
        if 0 < self.num_beams < ranked:
            raise UsageError(
                f"evaluate.num_beams must be at least {ranked}, the most items ranked (evaluate.cutoffs), got {self.num_beams}"
            )


class Evaluation(NamedTuple):
    """What came of it, sorted by user."""

    ranks: DataFrame  # user, target, rank: int64; rank 0 = missed; with shared Semantic IDs also first, ties, sid_rank: see `ties`
    recommendations: DataFrame  # user, position (from 1), item: int64, score: float32; invalid slots are left out
    invalid: int  # slots that were empty or repeated an item of the same list
    excluded_targets: int  # users whose target they had already taken, under `filter_seen`: misses by the protocol


def evaluate(
    recommender: Recommender,
    batches: Iterable[SequenceBatch],
    spec: Evaluate,
    seen: Seen | None = None,
    shared: Tensor | None = None,
) -> Evaluation:
    """Rank every user's target; each user must come once.

    `shared` int64 [N + 1] is given where several items have one Semantic ID: the number of each item's, 1 or more, 0 for row 0. The
    ranks then say where the target's Semantic ID stands and how many share it; `per_user` knows what that is worth.

    With `filter_seen` the recommender is given `seen(users)`, which knows the whole history and not only the last
    `history_length` items. A target that the user had taken before stays excluded and is a miss: letting it through would tell
    which item it is. A batch that does not fit into memory is halved, which changes no figure.

    With scoring "exact" the recommender must be a `genrec.types.ExactRecommender`. `spec.beams` and `spec.users` are for whoever
    makes recommender and batches.
    """
    if spec.filter_seen and seen is None:
        raise UsageError("evaluate with filter_seen needs `seen`, which gives the items that users already took; got none")
    if shared is not None:
        shared = shared.cpu()
        check_shared(shared)
    recommend = _recommend(recommender, spec)
    known: set[int] = set()
    parts: list[ScoredLists] = []
    size = spec.batch_size
    with _evaluation_mode(recommender), torch.no_grad():
        for batch in track(batches, "evaluate"):
            _check_batch(batch, known)
            while len(batch.user):
                part = _head(batch, size)
                scored = _attempt(recommend, part, spec, seen if spec.filter_seen else None, shared)
                if scored is None:
                    size = _smaller(len(part.user))
                    continue
                parts.append(scored)
                batch = SequenceBatch(*(column[size:] for column in batch))
    if not parts:
        raise InputError("evaluate got no users; the split left none to test")
    return _collect(parts, shared is not None)


def metrics_of(
    ranks: DataFrame, recommendations: DataFrame, cutoffs: Sequence[int], item_count: int, popularity: Tensor | None = None
) -> dict[str, float]:
    """Every metric at every cut-off: recall@n, ndcg@n, mrr@n, coverage@n, gini@n, entropy@n, div_ratio@n, or_ratio@n, then users
    and invalid (slots of lists of the last cut-off). Definitions: `metrics`.

    `popularity` int64 [N + 1] adds popularity@n, and `cold_metrics` where a target has no training event. Where Semantic IDs are
    shared, the first three are expectations over the order of the items that share one, and sid_recall@n and sid_ndcg@n stand beside
    them: the Semantic ID's place among those of the list.
    """
    lists = _lists(ranks, recommendations, max(cutoffs))
    result: dict[str, float] = {}
    for n in cutoffs:
        for metric in (metrics.recall, metrics.ndcg, metrics.mrr):
            result[f"{metric.__name__}@{n}"] = float(per_user(metric, ranks, n).mean())
        top = lists[:, :n]
        for breadth in (metrics.coverage, metrics.gini, metrics.entropy, metrics.div_ratio, metrics.or_ratio):
            result[f"{breadth.__name__}@{n}"] = breadth(top, item_count)
        if popularity is not None:
            result[f"popularity@{n}"] = metrics.average_popularity(top, popularity)
    if "sid_rank" in ranks:
        sid_rank = torch.from_numpy(ranks["sid_rank"].to_numpy(dtype=np.int64, copy=True))
        result |= {
            f"sid_{m.__name__}@{n}": float(m(sid_rank, n).double().mean()) for n in cutoffs for m in (metrics.recall, metrics.ndcg)
        }
    if popularity is not None:
        result |= cold_metrics(ranks, cutoffs, popularity)
    return result | {"users": float(len(ranks)), "invalid": float((lists == 0).sum())}


def _lists(ranks: DataFrame, recommendations: DataFrame, n: int) -> Tensor:
    """Stored recommendations -> lists int64 [U, n], users as in `ranks`, 0 where a slot is invalid."""
    if ranks.empty:
        raise InputError("there are no ranks to average: the evaluation has no users")
    row = pd.Index(ranks["user"]).get_indexer(pd.Index(recommendations["user"]))
    if (row < 0).any():
        raise InputError(f"user {recommendations['user'].iloc[int(row.argmin())]} has recommendations but no rank")
    column = recommendations["position"].to_numpy(dtype=np.int64) - 1
    lists = np.zeros((len(ranks), n), dtype=np.int64)
    kept = column < n
    lists[row[kept], column[kept]] = recommendations["item"].to_numpy(dtype=np.int64)[kept]
    return torch.from_numpy(lists)


@contextmanager
def _evaluation_mode(recommender: Recommender) -> Iterator[None]:
    """Dropout off, and afterwards every module as it was."""
    training = [module for module in recommender.modules() if module.training] if isinstance(recommender, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check_batch(batch: SequenceBatch, known: set[int]) -> None:
    """Refuse a user that came before (`known` grows) and a target that is no item."""
    for user, target in zip(batch.user.tolist(), batch.target.tolist(), strict=True):
        if user in known:
            raise InputError(f"user {user} comes twice; every test user is scored exactly once")
        if target < 1:
            raise InputError(f"user {user} has the target {target}; a test user needs a held-out item, 1 or more")
        known.add(user)


def _head(batch: SequenceBatch, size: int) -> SequenceBatch:
    return SequenceBatch(*(column[:size] for column in batch))


def _recommend(recommender: Recommender, spec: Evaluate) -> Recommend:
    """How lists are made."""
    if spec.scoring == "beam":
        return recommender.recommend
    if not isinstance(recommender, ExactRecommender):
        raise UsageError(
            f"evaluate.scoring 'exact' needs a genrec.types.ExactRecommender, and {type(recommender).__name__} has no "
            "recommend_exactly; one that prunes nothing is exact by its recommend: leave evaluate.scoring at 'beam'"
        )
    return recommender.recommend_exactly


def _attempt(
    recommend: Recommend, batch: SequenceBatch, spec: Evaluate, seen: Seen | None, shared: Tensor | None
) -> ScoredLists | None:
    """Score a batch, or None when memory does not suffice."""
    n = spec.cutoffs[-1]
    try:
        exclude = None if seen is None else _excluded(seen, batch.user)
        ranking = recommend(batch.history, n, exclude)
        return score_lists(batch, ranking, n, exclude, shared)
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError, as is what its CPU allocator raises
        text = str(error).lower()
        if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
            return None
        raise


def _excluded(seen: Seen, users: Tensor) -> Tensor:
    exclude = seen(users)
    if exclude.ndim != 2 or len(exclude) != len(users) or exclude.dtype != torch.int64:
        raise InputError(f"seen must return int64 items [{len(users)}, E], 0 for none; got {exclude.dtype} {tuple(exclude.shape)}")
    return exclude


def _smaller(size: int) -> int:
    """Half the batch, after what the failed try held is given back."""
    if size == 1:
        raise ResourceError("out of memory with a single user; try fewer beams, a shorter history or a smaller policy")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    say(f"evaluate: out of memory with {size} users at once; goes on with {size // 2}, the figures stay the same")
    return size // 2


def _collect(parts: list[ScoredLists], shared: bool) -> Evaluation:
    columns = ScoredLists(*(torch.cat(column) for column in zip(*parts, strict=True)))
    order = columns.user.argsort()
    result = ScoredLists(*(column[order] for column in columns))
    user, items, scores, excluded = result.user, result.items, result.scores, result.excluded
    row, slot = items.nonzero(as_tuple=True)
    if bool(excluded.any()):
        say(f"evaluate: {int(excluded.sum())} users had taken their target before; filter_seen makes them misses")
    return Evaluation(
        DataFrame({name: getattr(result, name).numpy() for name in ("user", "target", "rank", *(COLUMNS if shared else ()))}),
        DataFrame(
            {
                "user": user[row].numpy(),
                "position": (slot + 1).numpy(),
                "item": items[row, slot].numpy(),
                "score": scores[row, slot].numpy(),
            }
        ),
        int((items == 0).sum()),
        int(excluded.sum()),
    )
