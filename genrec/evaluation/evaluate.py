"""Evaluation of a recommender: the rank of each user's held-out item in the full catalog, and metrics.

`evaluate` ranks one target per user with any `genrec.types.Recommender`; `metrics_of` averages over users, never over batches. The
pipeline stores the results as `ranks.parquet`, `recommendations.parquet`, `user_metrics.parquet` and `metrics.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from pandas import DataFrame
from torch import Tensor

from genrec.errors import InputError, ResourceError, UsageError
from genrec.evaluation import metrics
from genrec.evaluation.cold_metrics import cold_metrics
from genrec.evaluation.cold_quota import check_cold_quota
from genrec.evaluation.scored_lists import ScoredLists, lists_of, naming, recommend_batch, score_lists
from genrec.evaluation.shared_id_ties import COLUMNS, check_shared, per_user, semantic_id_values
from genrec.own_ids import OwnIds
from genrec.plugin_source import name_with_place
from genrec.policy_modules import evaluation_mode
from genrec.progress import say, track
from genrec.store import NEW_IN_KEY, NOT_IN_KEY
from genrec.types import Baseline, EvaluationMetric, ExactRecommender, Ranking, Recommender, SequenceBatch
from genrec.types.specification import check_types

Seen = Callable[[Tensor], Tensor]  # users int64 [B] -> all items each user took before the target, int64 [B, E], padded with 0
Recommend = Callable[[SequenceBatch, int, Tensor | None], Ranking]  # batch, number of items, items to exclude -> lists


@dataclass(frozen=True)
class Evaluate:
    """The evaluation protocol. All rows of a results table share it."""

    cutoffs: tuple[int, ...] = (1, 5, 10, 20, 50)  # cut-offs n of the metrics, ascending; lists have as many items as the last
    filter_seen: bool = False  # exclude items that the user has already taken from the list
    scoring: Literal["beam", "exact"] = "beam"  # rank by the policy's beam search, or by scores of all items
    num_beams: int = 0  # beams in evaluation; 0 uses the policy's own number
    max_users: int = 0  # test users, sampled once for all rows and seeds; 0 takes all
    batch_size: int = field(default=256, metadata=NOT_IN_KEY)  # users per batch, at least 1; does not change results
    metrics: tuple[EvaluationMetric, ...] = field(default=(), metadata=NEW_IN_KEY)  # such as `experiment.BEYOND_ACCURACY`
    cold_quota: float | None = field(default=None, metadata=NEW_IN_KEY)  # largest share of a list for cold items, 0 to 1 (TIGER)

    def __post_init__(self) -> None:
        check_types(self, "evaluate")
        if not self.cutoffs or self.cutoffs[0] < 1 or any(a >= b for a, b in zip(self.cutoffs, self.cutoffs[1:], strict=False)):
            raise UsageError(f"evaluate.cutoffs must be at least one number, ascending and 1 or more, got {self.cutoffs}")
        if not isinstance(self.metrics, tuple) or not all(_is_metric(each) for each in self.metrics):
            raise UsageError(
                "evaluate.metrics must be a tuple of metrics with a method `measure`, such as (CandidateHitRate(),), got "
                f"{self.metrics!r}"
            )
        for place, metric in enumerate(self.metrics):
            if metric in self.metrics[:place]:
                raise UsageError(f"evaluate.metrics holds {metric!r} twice, and names of figures must differ; leave one out")
        if self.batch_size < 1:
            raise UsageError(f"evaluate.batch_size must be at least 1, got {self.batch_size}")
        for name, default in (("num_beams", "the policy's own"), ("max_users", "all")):
            if getattr(self, name) < 0:
                raise UsageError(f"evaluate.{name} must be 0 ({default}) or more, got {getattr(self, name)}")
        if self.num_beams and self.scoring == "exact":
            raise UsageError(f"evaluate.scoring 'exact' has no beams, got evaluate.num_beams = {self.num_beams}; leave it at 0")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the beam search has fewer beams than the items it must rank, or the policy takes no quota.

        Exact scoring ranks any number.
        """
        check_cold_quota(self.cold_quota, experiment)
        own = getattr(experiment.policy, "num_beams", None)
        if own is None:
            if self.num_beams and not isinstance(experiment.policy, Baseline):
                raise UsageError(
                    f"evaluate.num_beams = {self.num_beams}, but the policy has no beams, got {experiment.policy!r}; leave it at 0"
                )
            return
        ranked = self.cutoffs[-1] if self.scoring == "beam" else 0
        needed = 10 if self.num_beams else max(10, ranked)  # validation ranks 10 items with the policy's own beams
        if own < needed:
            raise UsageError(
                f"policy.num_beams must be at least {needed}, the number of items to rank (evaluate.cutoffs), got {own}"
                if needed > 10
                else f"policy.num_beams must be at least {needed}, the number of items that validation ranks, got {own}"
            )
        if 0 < self.num_beams < ranked:
            raise UsageError(
                f"evaluate.num_beams must be at least {ranked}, the number of items to rank (evaluate.cutoffs), got {self.num_beams}"
            )


def _is_metric(value: object) -> bool:
    return isinstance(value, EvaluationMetric) and not isinstance(value, type)


class Evaluation(NamedTuple):
    """The results of an evaluation. Both tables are sorted by user."""

    ranks: DataFrame  # user, target, rank: int64, rank 0 = missed; first, ties, sid_rank if Semantic IDs are shared (`shared_id_ties`)
    recommendations: DataFrame  # user, position (from 1), item: int64, score: float32; invalid slots are left out
    invalid: int  # slots that were empty or repeated an item of the same list, also beyond the size of the catalog
    excluded_targets: int  # with `filter_seen`: users who had already taken their target, which makes it a miss
    batch_size: int  # users that were ranked at once in the end: `Evaluate.batch_size`, or less after an out-of-memory error


def evaluate(
    recommender: Recommender,
    batches: Iterable[SequenceBatch],
    spec: Evaluate,
    seen: Seen | None = None,
    shared: Tensor | None = None,
    own_ids: OwnIds | None = None,
) -> Evaluation:
    """Rank the target of every user. Each user must occur once, and histories are passed on as they are.

    - `recommender` must be a `genrec.types.ExactRecommender` if `spec.scoring` is "exact".
    - `batches` holds users, histories and targets. At most `spec.batch_size` users are ranked at a time, and half as many after an
      out-of-memory error. This does not change the results.
    - `spec` is the protocol. Its `num_beams` and `max_users` are not used here: apply them to `recommender` and `batches`.
    - `seen` returns the items to exclude if `spec.filter_seen` is true: all items that a user has taken before, including those
      beyond the given history. A target that the user has already taken is excluded too and counts as a miss, because an
      exception would reveal it.
    - `shared` int64 [N + 1] is the number of each item's Semantic ID, 1 or more, and 0 for row 0. It is needed if several items
      share a Semantic ID; the ranks then have the columns that `shared_id_ties.per_user` needs.
    - `own_ids` gives the ids of the source for messages about a list that breaks the contract of `Recommender`.
    """
    if spec.filter_seen and seen is None:
        raise UsageError(
            "evaluate with filter_seen needs `seen`, a function that returns the items that users have already taken; got none"
        )
    if shared is not None:
        shared = shared.cpu()
        check_shared(shared)
    recommend = _recommend(recommender, spec)
    users: set[int] = set()
    parts: list[ScoredLists] = []
    size = spec.batch_size
    with evaluation_mode(recommender), torch.no_grad():
        for batch in track(batches, "evaluate"):
            _check_batch(batch, users)
            while len(batch.user):
                part = _head(batch, size)
                with naming(recommender):
                    scored = _score_if_it_fits(recommend, part, spec, seen if spec.filter_seen else None, shared, own_ids)
                if scored is None:
                    size = _halved(len(part.user))
                    continue
                parts.append(scored)
                batch = SequenceBatch(*(column[size:] for column in batch))
    if not parts:
        raise InputError("evaluate got no users, expected at least one; check that the split leaves test users")
    return _collect(parts, shared is not None, size)


def metrics_of(
    ranks: DataFrame, recommendations: DataFrame, cutoffs: Sequence[int], item_count: int, popularity: Tensor | None = None
) -> dict[str, float]:
    """Return all metrics by name, averaged over users. For the definitions see `genrec.evaluation.metrics`.

    The names are recall@n, ndcg@n, mrr@n, coverage@n, gini@n, entropy@n, div_ratio@n and or_ratio@n for every cut-off n, users, and
    invalid (invalid slots in lists of the last cut-off; in a catalog of fewer items, without the slots that no list of its items can
    fill). Items that `filter_seen` leaves out are not known here: in a catalog with fewer other items than the last cut-off, the slots
    that they leave empty are in this number, for every recommender. `popularity` int64 [N + 1], the number of training interactions
    of each item, adds popularity@n, and `cold_metrics` if a target has no training interaction.

    If Semantic IDs are shared, recall, ndcg and mrr are expectations over the order of the items that share one, and sid_recall@n
    and sid_ndcg@n are metrics of the rank of the Semantic ID.
    """
    lists = lists_of(ranks, recommendations, max(cutoffs))
    result: dict[str, float] = {}
    for n in cutoffs:
        for metric in (metrics.recall, metrics.ndcg, metrics.mrr):
            result[f"{metric.__name__}@{n}"] = float(per_user(metric, ranks, n).mean())
        top = lists[:, :n]
        for list_metric in (metrics.coverage, metrics.gini, metrics.entropy, metrics.div_ratio, metrics.or_ratio):
            result[f"{list_metric.__name__}@{n}"] = list_metric(top, item_count)
        if popularity is not None:
            result[f"popularity@{n}"] = metrics.average_popularity(top, popularity)
    result |= {name: float(values.mean()) for name, values in semantic_id_values(ranks, cutoffs).items()}
    if popularity is not None:
        result |= cold_metrics(ranks, cutoffs, popularity)
    invalid = len(ranks) * min(lists.shape[1], item_count) - int((lists > 0).sum())
    return result | {"users": float(len(ranks)), "invalid": float(invalid)}


def _check_batch(batch: SequenceBatch, users: set[int]) -> None:
    """Raise InputError if a user is already in `users`, to which the batch is added, or if a target is not an item."""
    for user, target in zip(batch.user.tolist(), batch.target.tolist(), strict=True):
        if user in users:
            raise InputError(f"user {user} occurs twice; give each test user once")
        if target < 1:
            raise InputError(f"user {user} has the target {target}; a test user needs a held-out item, 1 or more")
        users.add(user)


def _head(batch: SequenceBatch, size: int) -> SequenceBatch:
    return SequenceBatch(*(column[:size] for column in batch))


def _recommend(recommender: Recommender, spec: Evaluate) -> Recommend:
    """Return the function that makes the lists: beam search or exact scoring."""
    if spec.scoring == "beam":
        return partial(recommend_batch, recommender)
    check_scoring(recommender, spec)
    exactly = cast(ExactRecommender, recommender).recommend_exactly
    return lambda batch, n, exclude: exactly(batch.history, n, exclude)


def check_scoring(recommender: Recommender, spec: Evaluate) -> None:
    """Raise UsageError if a recommender, trained or not, lacks the method that `spec.scoring` needs."""
    if spec.scoring == "exact" and not isinstance(recommender, ExactRecommender):
        raise UsageError(
            f"evaluate.scoring 'exact' needs a genrec.types.ExactRecommender, but {name_with_place(type(recommender))} has no method "
            "recommend_exactly; add it, or set evaluate.scoring beam, which is exact for a recommender that prunes nothing"
        )


def _score_if_it_fits(
    recommend: Recommend,
    batch: SequenceBatch,
    spec: Evaluate,
    seen: Seen | None,
    shared: Tensor | None,
    own_ids: OwnIds | None,
) -> ScoredLists | None:
    """Score a batch. Return None if it does not fit into memory."""
    n = spec.cutoffs[-1]
    try:
        exclude = None if seen is None else _excluded(seen, batch.user)
        ranking = recommend(batch, n, exclude)
        return score_lists(batch, ranking, n, exclude, shared, own_ids)
    except (RuntimeError, MemoryError) as error:  # both torch.OutOfMemoryError and the error of the CPU allocator are RuntimeErrors
        text = str(error).lower()
        if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
            return None
        raise


def _excluded(seen: Seen, users: Tensor) -> Tensor:
    exclude = seen(users)
    if exclude.ndim != 2 or len(exclude) != len(users) or exclude.dtype != torch.int64:
        raise InputError(f"seen must return int64 items [{len(users)}, E], padded with 0, got {exclude.dtype} {tuple(exclude.shape)}")
    return exclude


def _halved(size: int) -> int:
    """Return half the batch size, after freeing the GPU memory of the failed attempt."""
    if size == 1:
        raise ResourceError("evaluate: out of memory with a single user; try fewer beams, a shorter history or a smaller policy")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    say(f"evaluate: out of memory with {size} users per batch; continuing with {size // 2}, which does not change the results")
    return size // 2


def _collect(parts: list[ScoredLists], shared: bool, batch_size: int) -> Evaluation:
    columns = ScoredLists(*(torch.cat(column) for column in zip(*parts, strict=True)))
    order = columns.user.argsort()
    result = ScoredLists(*(column[order] for column in columns))
    user, items, scores, excluded = result.user, result.items, result.scores, result.excluded
    row, slot = items.nonzero(as_tuple=True)
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
        batch_size,
    )
