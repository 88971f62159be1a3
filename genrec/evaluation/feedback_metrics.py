"""Metrics of preference on held-out events with labels: liked over disliked items, and disliked items in the lists.

With labels, the target of a ranking is the first liked event of the held-out part, so that `ndcg@n` is the NDCG of liked items. The
metrics of this module read all events of the part. A user whom a metric does not count has NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from genrec.errors import InputError, NumericsError, counted
from genrec.evaluation.evaluate import Evaluation
from genrec.evaluation.scored_lists import lists_of, recommend_batch
from genrec.item_rows import contains
from genrec.plugin_source import name_with_place
from genrec.types import Evaluated, HeldOutItems, Policy, Ranking, Recommender, SequenceBatch, UserRecommender

PAIRWISE = "pairwise_accuracy"
LISTED_CELLS = 2**24  # slots of whole-catalog lists that are held at once: 192 MB
PAIR_CELLS = 2**22  # pairs of held-out items that are compared at once: 64 MB


def pairwise_accuracy(scores: Tensor, label: Tensor) -> Tensor:
    """Return the share of (liked, disliked) pairs in which the liked item has the higher score, ties 1/2: float64 [B], NaN for none.

    `scores` are float [B, M], `label` int8 [B, M]: 1 liked, -1 disliked, 0 neither.
    """
    above = scores.unsqueeze(2) > scores.unsqueeze(1)
    wins = above.double() + (scores.unsqueeze(2) == scores.unsqueeze(1)).double() / 2
    pairs = (label == 1).unsqueeze(2) & (label == -1).unsqueeze(1)
    return torch.where(pairs, wins, 0.0).sum((1, 2)) / pairs.sum((1, 2))  # 0 / 0 is NaN


def disliked_in_list(items: Tensor, held_out: HeldOutItems) -> Tensor:
    """Return 1 if a list holds an item that the user dislikes in the held-out part, else 0: float64 [B], NaN without such an item.

    `items` are int64 [B, n], 0 for an empty slot.
    """
    disliked = held_out.items.masked_fill(held_out.label != -1, 0)
    hit = (contains(disliked, items) & (items > 0)).any(1) if disliked.shape[1] else torch.zeros(len(items), dtype=torch.bool)
    return hit.double().masked_fill(~(disliked > 0).any(1), torch.nan)


def pair_values(recommender: Recommender, batch: SequenceBatch, held_out: HeldOutItems, items: int, shared: Tensor | None) -> Tensor:
    """Return the pairwise accuracy of the users of a batch, float64 [B], on the CPU.

    A policy scores the held-out items by their log-probability. Any other recommender ranks the whole catalog of `items` items, seen
    ones too, and gives the scores of its list; an item that is in no list is below all others. Items with one Semantic ID (`shared`
    int64 [N + 1]) have one score.
    """
    found = torch.full((len(batch.user),), torch.nan, dtype=torch.float64)
    have_pair = ((held_out.label == 1).any(1) & (held_out.label == -1).any(1)).nonzero().squeeze(1)
    for rows in torch.split(have_pair, max(1, PAIR_CELLS // max(1, held_out.items.shape[1] ** 2))):
        part = SequenceBatch(*(column[rows.to(column.device)] for column in batch))
        chosen = HeldOutItems(held_out.items[rows], held_out.label[rows])
        by_policy = isinstance(recommender, Policy) and not isinstance(recommender, UserRecommender)
        score = _policy_scores if by_policy else partial(_list_scores, num_items=items)
        scores = score(recommender, part, chosen.items)
        if shared is not None:
            scores = _one_score(scores, shared[chosen.items])
        found[rows] = pairwise_accuracy(scores, chosen.label)
    return found


def _policy_scores(policy: Recommender, batch: SequenceBatch, items: Tensor) -> Tensor:
    """Return the log-probabilities of items int64 [B, M], float32 [B, M]."""
    assert isinstance(policy, Policy)
    scores = policy.log_prob(batch.history, items.to(batch.history.device)).cpu()
    _check_scores(policy, scores, items)
    return scores


def _list_scores(recommender: Recommender, batch: SequenceBatch, items: Tensor, num_items: int) -> Tensor:
    """Return the scores of items int64 [B, M] in a list of the whole catalog, float32 [B, M]; -inf for an item that is not listed."""
    size, found = max(1, LISTED_CELLS // (num_items + 1)), []
    for begin in range(0, len(items), size):
        part, wanted = SequenceBatch(*(column[begin : begin + size] for column in batch)), items[begin : begin + size]
        ranking = recommend_batch(recommender, part, num_items, None)
        if not isinstance(ranking, Ranking) or tuple(ranking.items.shape) != (len(wanted), num_items):
            name = name_with_place(type(recommender))
            raise InputError(f"{name}: recommend must return a genrec.types.Ranking [{len(wanted)}, {num_items}]")
        listed = torch.full((len(wanted), num_items + 1), -torch.inf)
        listed.scatter_(1, ranking.items.cpu(), ranking.scores.cpu().float())
        found.append(listed.gather(1, wanted))
    scores = torch.cat(found)
    _check_scores(recommender, scores, items)
    return scores


def _one_score(scores: Tensor, numbers: Tensor) -> Tensor:
    """Give the items of a row with one Semantic ID, whose number is int64 [B, M], the score of the first of them."""
    first = (numbers.unsqueeze(2) == numbers.unsqueeze(1)).int().argmax(2)
    return scores.gather(1, first)


def _check_scores(recommender: Recommender, scores: Tensor, items: Tensor) -> None:
    broken = (scores.isnan() & (items > 0)).any(1)
    if bool(broken.any()):
        name = name_with_place(type(recommender))
        raise NumericsError(f"{name}: NaN scores of held-out items for {counted(int(broken.sum()), 'user')} of a batch")


def feedback_values(evaluated: Evaluated) -> dict[str, Tensor]:
    """Return the metrics of preference of each user by name, float64 [U]; empty without labels.

    - `pairwise_accuracy`: see `pairwise_accuracy`; of the users with a liked and a disliked held-out event
    - `disliked@n`: see `disliked_in_list`; of the users with a disliked held-out event
    """
    held_out, recommender = evaluated.held_out, evaluated.recommender
    if held_out is None:
        return {}
    items, shared = len(evaluated.popularity) - 1, evaluated.shared
    found = {PAIRWISE: evaluated.by_user(lambda batch: pair_values(recommender, batch, held_out(batch.user), items, shared))}
    events = held_out(evaluated.user)
    return found | disliked_values(evaluated.items, events, evaluated.cutoffs)


def disliked_values(lists: Tensor, held_out: HeldOutItems, cutoffs: Sequence[int]) -> dict[str, Tensor]:
    """Return `disliked@n` of each user for every cut-off, float64 [U]; `lists` are int64 [U, n]."""
    return {f"disliked@{n}": disliked_in_list(lists[:, :n], held_out) for n in cutoffs}


def disliked_of_lists(
    result: Evaluation, held_out: Callable[[Tensor], HeldOutItems], cutoffs: Sequence[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the users of an evaluation, int64 [U], and their `disliked@n`, float64 [U] each."""
    user = torch.from_numpy(result.ranks["user"].to_numpy("int64", copy=True))
    lists = lists_of(result.ranks, result.recommendations, cutoffs[-1])
    return user, disliked_values(lists, held_out(user), cutoffs)


def user_counts(counts: Mapping[str, int]) -> dict[str, float]:
    """Return `pair_users` and `disliked_users`, the users whom the metrics of preference count; those without a user are left out.

    `counts` is `measurement.Measured.counts`.
    """
    disliked = [count for name, count in counts.items() if name.startswith("disliked@")]
    found = {"pair_users": counts.get(PAIRWISE), "disliked_users": max(disliked, default=None)}
    return {name: float(count) for name, count in found.items() if count}


def mean_pairwise_accuracy(
    recommender: Recommender,
    batches: Iterable[SequenceBatch],
    held_out: Callable[[Tensor], HeldOutItems],
    items: int,
    shared: Tensor | None,
) -> dict[str, float]:
    """Return `pairwise_accuracy`, the mean over the users with a pair, by name; empty if there is none."""
    with torch.no_grad():
        values = torch.cat([pair_values(recommender, batch, held_out(batch.user), items, shared) for batch in batches])
    known = values[~values.isnan()]
    return {PAIRWISE: float(known.mean())} if len(known) else {}
