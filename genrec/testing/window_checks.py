"""Checks of policies that score candidates, or the whole catalog, after any place of a history."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from genrec.item_rows import prefixes
from genrec.semantic_ids import SemanticIds
from genrec.testing.event_histories import same_histories
from genrec.testing.plugin_watch import call_plugin
from genrec.testing.specification_checks import ContractError
from genrec.types import (
    CatalogPolicy,
    CodePolicy,
    ConstrainedPolicy,
    ConstrainedWindowPolicy,
    PlaceSearchPolicy,
    Policy,
    WindowPolicy,
)
from genrec.types.event_history import items_of
from genrec.value_forms import form_of

TOLERANCE = 1e-4  # rounding error of a log-probability and, relative to the largest one, of a gradient
MAX_SEQUENCES = 2**10  # code sequences that are scored at once, at most
NUM_PLACES, NUM_CANDIDATES = 24, 3  # places and candidates of the check
LIST_LENGTH = 10  # items of a list and of a sample

Score = Callable[[Tensor, Tensor, Tensor], Tensor]  # (history [B, T], places [X, 2], items [X, M]) -> [X, M, L], or [X, M]


def check_windows(name: str, policy: Policy, history: Tensor, semantic_ids: SemanticIds) -> None:
    """Raise ContractError unless scores after places, of items and of their codes, equal those of prefixes, with the same gradients.

    `history` int64 [B, T] is left-padded. The places are after items, in random order and with repetitions; some candidates are 0.
    The policy is in evaluation mode.
    """
    num_items = semantic_ids.items
    places, items = _places_and_items(history, num_items)
    if isinstance(policy, WindowPolicy):
        _check(name, "place_level_log_prob", policy, policy.place_level_log_prob, policy.level_log_prob, history, places, items)
    if isinstance(policy, ConstrainedWindowPolicy) and isinstance(policy, ConstrainedPolicy):
        _check(
            name, "constrained_place_level_log_prob", policy, policy.constrained_place_level_log_prob,
            policy.constrained_level_log_prob, history, places, items,
        )  # fmt: skip
    if isinstance(policy, CodePolicy):
        _check_codes(name, policy, history, places, items, semantic_ids)
    if isinstance(policy, PlaceSearchPolicy):
        _check_search(name, policy, history, places)
    if isinstance(policy, CatalogPolicy):
        every = torch.arange(1, num_items + 1).expand(len(places), -1)
        catalog = policy.catalog_log_prob
        _check(name, "catalog_log_prob", policy, lambda h, p, _: catalog(h, p), policy.log_prob, history, places, every)
        total = catalog(history, places).exp().sum(1)
        if bool(((total - 1).abs() > TOLERANCE).any()):
            raise ContractError(
                f"{name}: the probabilities of catalog_log_prob add up to {total.min():g}..{total.max():g}, not 1; end in a "
                "log_softmax over all items"
            )


def _check_codes(name: str, policy: CodePolicy, history: Tensor, places: Tensor, items: Tensor, semantic_ids: SemanticIds) -> None:
    """Check the scores of the items' codes, and the sum of the probabilities of all code sequences if they are few."""
    table = torch.cat([torch.full((1, semantic_ids.levels), -1), semantic_ids.codes])
    score = policy.code_level_log_prob
    _check(name, "code_level_log_prob", policy, lambda h, p, i: score(h, p, table[i]), policy.level_log_prob, history, places, items)
    count = math.prod(semantic_ids.level_sizes)
    if count > MAX_SEQUENCES:
        return
    every = torch.stack(torch.unravel_index(torch.arange(count), semantic_ids.level_sizes), 1).expand(len(places), -1, -1)
    total = score(history, places, every).sum(2).exp().sum(1)
    if not bool(((total - 1).abs() <= TOLERANCE).all()):
        raise ContractError(
            f"{name}: the probabilities of all code sequences by code_level_log_prob add up to {total.min():g}..{total.max():g}, not "
            "1; normalize each level over all of its codes"
        )


def _places_and_items(history: Tensor, num_items: int) -> tuple[Tensor, Tensor]:
    """Return places int64 [X, 2] after items, in random order, and candidates int64 [X, M]."""
    generator = torch.Generator().manual_seed(3)
    after_items = items_of(history).nonzero()
    places = after_items[torch.randint(len(after_items), (NUM_PLACES,), generator=generator)]
    return places, torch.randint(0, num_items + 1, (NUM_PLACES, NUM_CANDIDATES), generator=generator)


def _check(
    name: str, method: str, policy: Policy, score: Score, of_prefix: Callable[[Tensor, Tensor], Tensor], history: Tensor,
    places: Tensor, items: Tensor,
) -> None:  # fmt: skip
    """Compare scores after places with those of every prefix alone, and the gradients of their sums."""
    with torch.enable_grad():
        expected = torch.cat(
            [
                of_prefix(history[row : row + 1, : place + 1], candidates.unsqueeze(0))
                for (row, place), candidates in zip(places.tolist(), items, strict=True)
            ]
        )
        copies = history.clone(), places.clone(), items.clone()
        found = call_plugin(name, method, lambda: score(*copies))
        if not isinstance(found, Tensor) or found.dtype != torch.float32 or found.shape != expected.shape:
            raise ContractError(f"{name}: {method} must return float32 {list(expected.shape)}, got {form_of(found)}")
        if not same_histories(copies[0], history) or not all(map(torch.equal, copies[1:], (places, items))):
            raise ContractError(f"{name}: {method} modified its input in place; work on a copy")
        difference = _difference(found.detach(), expected.detach())
        if not difference <= TOLERANCE:
            raise ContractError(f"{name}: {method} is not the score of every prefix (they differ by up to {difference:g})")
        if not found.requires_grad:
            raise ContractError(f"{name}: {method} has no gradient; remove detach and no_grad")
        parameters = list(cast(nn.Module, policy).parameters())
        gradients = [
            torch.autograd.grad(_finite(each).sum(), parameters, allow_unused=True, materialize_grads=True)
            for each in (found, expected)
        ]
    for mine, theirs in zip(*gradients, strict=True):
        if not (mine - theirs).abs().max() <= TOLERANCE * max(1.0, float(theirs.abs().max())):
            raise ContractError(f"{name}: {method} has other gradients than the scores of every prefix")


def _check_search(name: str, policy: PlaceSearchPolicy, history: Tensor, places: Tensor) -> None:
    """Compare lists and draws after places with those of the prefixes, in which the items of the history are excluded."""
    prefix = prefixes(history, places)
    read = items_of(prefix)
    listed = call_plugin(name, "recommend_after", lambda: policy.recommend_after(history, places, LIST_LENGTH, read))
    expected = policy.recommend(prefix, LIST_LENGTH, read)
    if listed.scores.shape != expected.scores.shape or not _difference(listed.scores, expected.scores) <= TOLERANCE:
        raise ContractError(f"{name}: recommend_after is not recommend of every prefix, with the same items excluded")
    generators = (torch.Generator().manual_seed(0) for _ in range(2))
    drawn = call_plugin(
        name, "sample_items_after", lambda: policy.sample_items_after(history, places, LIST_LENGTH, read, next(generators))
    )
    of_prefixes = policy.sample_items(prefix, LIST_LENGTH, read, next(generators))
    if drawn.items.shape != of_prefixes.items.shape or not _difference(drawn.log_prob, of_prefixes.log_prob) <= TOLERANCE:
        raise ContractError(f"{name}: sample_items_after does not draw as sample_items of every prefix by the same generator")


def _finite(log_probs: Tensor) -> Tensor:
    return log_probs.masked_fill(log_probs == -torch.inf, 0.0)


def _difference(first: Tensor, second: Tensor) -> float:
    """Return the largest difference; infinity where only one of them is -inf."""
    either = (first == -torch.inf) | (second == -torch.inf)
    if not torch.equal(first == -torch.inf, second == -torch.inf):
        return torch.inf
    return float((first - second).masked_fill(either, 0.0).abs().max())
