"""Checks of a policy's lists against the log-probabilities of all items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genrec.testing.plugin_watch import call_plugin
from genrec.testing.specification_checks import ContractError
from genrec.types import ExactRecommender, Policy, Ranking
from genrec.types.event_history import items_of
from genrec.value_forms import form_of

LIST_LENGTH = 10  # items of a list
NUM_ALLOWED = 4  # items that remain when nearly all are excluded
TOLERANCE = 1e-3  # between a list's scores and log_prob

Recommend = Callable[[Tensor, int, Tensor | None], Ranking]


def check_rankings(name: str, policy: Policy, history: Tensor, log_probs: Tensor) -> None:
    """Raise ContractError unless `recommend`, and `recommend_exactly` if there is one, agree with the items' scores.

    `log_probs`, float32 [B, 1 + N], holds those of all items for histories int64 [B, T], or the scores of an `ItemScorer`; column 0
    is no item.
    """
    methods: list[tuple[str, Recommend, bool]] = [("recommend", policy.recommend, False)]
    if isinstance(policy, ExactRecommender):
        methods.append(("recommend_exactly", policy.recommend_exactly, True))
    items = log_probs.shape[1] - 1
    nearly_all = torch.arange(1, items + 1 - NUM_ALLOWED).expand(len(history), -1).contiguous()
    states = torch.get_rng_state()
    for method, recommend, exact in methods:
        for exclude in (None, items_of(history), nearly_all):
            ranking = _checked_ranking(f"{name}: {method}", recommend, history, exclude, log_probs)
            if exact:
                _check_exact(f"{name}: {method}", ranking, exclude, log_probs)
            second = _checked_ranking(f"{name}: {method}", recommend, history, exclude, log_probs)
            if not torch.equal(ranking.items, second.items) or not torch.equal(torch.get_rng_state(), states):
                raise ContractError(
                    f"{name}: {method} returns another list when it is called again, or draws random numbers; it must do neither"
                )


def _checked_ranking(name: str, recommend: Recommend, history: Tensor, exclude: Tensor | None, log_probs: Tensor) -> Ranking:
    """Return the lists of all users; raise ContractError if one of them breaks the contract."""
    ranking = checked_lists(name, recommend, history, LIST_LENGTH, exclude, log_probs.shape[1] - 1)
    items, scores = ranking
    difference = (scores - log_probs.gather(1, items)).masked_fill(items == 0, 0).abs().max()
    if not difference <= TOLERANCE:
        raise ContractError(
            f"{name}: the score of an item must be its log_prob, or that of score_items; they differ by up to {difference:g}"
        )
    return ranking


def checked_lists(
    name: str, recommend: Recommend, history: Tensor, n: int, exclude: Tensor | None, item_count: int
) -> Ranking:  # fmt: skip
    """Return lists of `n` items for histories int64 [B, T]; raise ContractError unless they keep the contract of `Recommender`.

    The items must be distinct, in 1..item_count and not in `exclude`, best first, with 0 and -inf at the end of a short list.
    """
    ranking = call_plugin(name, f"a list of {n} items for {len(history)} users", lambda: recommend(history, n, exclude))
    _check_form(name, ranking, (len(history), n))
    items, scores = ranking
    if int(items.min()) < 0 or int(items.max()) > item_count:
        raise ContractError(
            f"{name} returned items {int(items.min())}..{int(items.max())}; items are 1..{item_count}, and 0 is no item"
        )
    empty = items == 0
    if not torch.equal(empty, scores == -torch.inf) or bool((empty[:, :-1] & ~empty[:, 1:]).any()):
        raise ContractError(
            f"{name}: a list with fewer items must end in items 0 with scores -inf, got items {items[0].tolist()} with scores "
            f"{scores[0].tolist()}"
        )
    if bool(scores.isnan().any()):
        raise ContractError(f"{name} returned a NaN score, got {scores[scores.isnan().any(1)][0].tolist()}; return numbers only")
    for row, entries in enumerate(items.tolist()):
        _check_row(name, [item for item in entries if item], exclude if exclude is None else exclude[row])
    if bool((scores[:, 1:] > scores[:, :-1]).any()):
        raise ContractError(f"{name} must return the best item first, got scores {scores[0].tolist()}")
    return ranking


def _check_form(name: str, ranking: Any, shape: tuple[int, int]) -> None:
    expected = f"genrec.types.Ranking of items int64 {list(shape)} and scores float32 {list(shape)}"
    if not isinstance(ranking, Ranking):
        raise ContractError(f"{name} must return a {expected}, got {type(ranking).__name__}")
    for part, dtype in zip(ranking, (torch.int64, torch.float32), strict=True):
        if not isinstance(part, Tensor) or tuple(part.shape) != shape or part.dtype != dtype:
            raise ContractError(f"{name} must return a {expected}, got {form_of(part)}")


def _check_row(name: str, items: list[int], exclude: Tensor | None) -> None:
    if len(set(items)) < len(items):
        raise ContractError(f"{name} returned an item twice in one list: {items}; the items of a list must be distinct")
    excluded = set() if exclude is None else set(exclude.tolist()) & set(items)
    if excluded:
        raise ContractError(f"{name} returned item {min(excluded)}, which `exclude` contains; leave it out of the search")


def _check_exact(name: str, ranking: Ranking, exclude: Tensor | None, log_probs: Tensor) -> None:
    """Raise ContractError unless the list holds the best of all items."""
    if exclude is not None:
        log_probs = log_probs.scatter(1, exclude, -torch.inf)
    best = log_probs.sort(dim=1, descending=True).values[:, :LIST_LENGTH]
    difference = (best.masked_fill(best == -torch.inf, 0) - ranking.scores.masked_fill(ranking.scores == -torch.inf, 0)).abs().max()
    if not difference <= TOLERANCE:
        raise ContractError(f"{name} must return the best of all items, but a better one is missing (scores differ by {difference:g})")
