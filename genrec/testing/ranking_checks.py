"""The checks of lists. In: a policy, histories, and what all items are worth. Out: nothing, or a `ContractError`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genrec.errors import GenrecError
from genrec.testing.specification_checks import ContractError
from genrec.types import ExactRecommender, Policy, Ranking

LISTED = 10  # items of a list
LEFT = 4  # items that are left when nearly all are excluded
CLOSE = 1e-3  # between a list's scores and log_prob

Recommend = Callable[[Tensor, int, Tensor | None], Ranking]


def check_rankings(name: str, policy: Policy, history: Tensor, log_probs: Tensor) -> None:
    """Hold `recommend`, and `recommend_exactly` where there is one, against the log-probabilities float32 [B, 1 + N] of all items."""
    methods: list[tuple[str, Recommend, bool]] = [("recommend", policy.recommend, False)]
    if isinstance(policy, ExactRecommender):
        methods.append(("recommend_exactly", policy.recommend_exactly, True))
    items = log_probs.shape[1] - 1
    nearly_all = torch.arange(1, items + 1 - LEFT).expand(len(history), -1).contiguous()
    states = torch.get_rng_state()
    for method, recommend, exact in methods:
        for exclude in (None, history, nearly_all):
            ranking = _list(f"{name}: {method}", recommend, history, exclude, log_probs)
            if exact:
                _check_exact(f"{name}: {method}", ranking, exclude, log_probs)
            again = _list(f"{name}: {method}", recommend, history, exclude, log_probs)
            if not torch.equal(ranking.items, again.items) or not torch.equal(torch.get_rng_state(), states):
                raise ContractError(
                    f"{name}: {method} gives another list the second time, or draws random numbers; it must do neither"
                )


def _list(name: str, recommend: Recommend, history: Tensor, exclude: Tensor | None, log_probs: Tensor) -> Ranking:
    """One list a user, held against the contract."""
    try:
        ranking = recommend(history, LISTED, exclude)
    except GenrecError:
        raise
    except Exception as error:
        raise ContractError(f"{name} of {LISTED} items for {len(history)} users raised {error!r}") from error
    _check_form(name, ranking, (len(history), LISTED))
    items, scores = ranking
    if int(items.min()) < 0 or int(items.max()) >= log_probs.shape[1]:
        raise ContractError(
            f"{name} gives items {int(items.min())}..{int(items.max())}, the items are 1..{log_probs.shape[1] - 1}, and 0 is none"
        )
    none = items == 0
    if not torch.equal(none, scores == -torch.inf) or bool((none[:, :-1] & ~none[:, 1:]).any()):
        raise ContractError(f"{name}: 0 and -inf stand together, at the end of a list that has fewer items; got {items[0].tolist()}")
    for row, entries in enumerate(items.tolist()):
        _check_row(name, [item for item in entries if item], exclude if exclude is None else exclude[row])
    if bool((scores[:, 1:] > scores[:, :-1]).any()):
        raise ContractError(f"{name} must give the best item first, got scores {scores[0].tolist()}")
    gap = (scores - log_probs.gather(1, items)).masked_fill(none, 0).abs().max()
    if not gap <= CLOSE:
        raise ContractError(f"{name}: an item's score must be its log_prob, from which it is up to {gap:g} off")
    return ranking


def _check_form(name: str, ranking: Any, shape: tuple[int, int]) -> None:
    wanted = f"genrec.types.Ranking of items int64 {list(shape)} and scores float32 {list(shape)}"
    if not isinstance(ranking, Ranking):
        raise ContractError(f"{name} must give a {wanted}, got {type(ranking).__name__}")
    for part, kind in zip(ranking, (torch.int64, torch.float32), strict=True):
        if tuple(part.shape) != shape or part.dtype != kind:
            raise ContractError(f"{name} must give a {wanted}, got {part.dtype} {list(part.shape)}")


def _check_row(name: str, items: list[int], exclude: Tensor | None) -> None:
    if len(set(items)) < len(items):
        raise ContractError(f"{name} names an item twice in one list: {items}; a slot of a list is one item")
    forbidden = set() if exclude is None else set(exclude.tolist()) & set(items)
    if forbidden:
        raise ContractError(f"{name} names item {min(forbidden)}, which the user must not get (exclude); leave it out of the search")


def _check_exact(name: str, ranking: Ranking, exclude: Tensor | None, log_probs: Tensor) -> None:
    """The best of all items, whose log-probabilities are known."""
    if exclude is not None:
        log_probs = log_probs.scatter(1, exclude, -torch.inf)
    best = log_probs.sort(dim=1, descending=True).values[:, :LISTED]
    gap = (best.masked_fill(best == -torch.inf, 0) - ranking.scores.masked_fill(ranking.scores == -torch.inf, 0)).abs().max()
    if not gap <= CLOSE:
        raise ContractError(f"{name} must give the best of all items; a better one is left out (scores up to {gap:g} off)")
