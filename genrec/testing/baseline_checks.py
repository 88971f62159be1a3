"""Contract checks for baselines: recommenders that are fitted on the training interactions, without training steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from pandas import DataFrame
from torch import Tensor
from torch.nn.functional import pad

from genrec.baselines.fitted_parts import fitted_parts
from genrec.errors import InputError, UsageError
from genrec.store import describe
from genrec.testing.encoder_checks import encoder_world
from genrec.testing.plugin_watch import call_plugin, check_no_global_draws
from genrec.testing.ranking_checks import LIST_LENGTH, NUM_ALLOWED, checked_lists
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import Baseline, ItemScorer, Ranking, Recommender, UserRecommender
from genrec.value_forms import form_of

HISTORY_LENGTH, MAX_USERS = 5, 16  # of the histories that lists are made for


def check_baseline(baseline: Baseline, interactions: DataFrame | None = None, item_count: int | None = None) -> None:
    """Raise ContractError if a baseline breaks `genrec.types.Baseline`, on a small synthetic training set or on yours.

    Pass both `interactions` (user, item, time; int64, sorted by user and time) and `item_count`, or neither. Checked:

    - it is a frozen dataclass with a stable description, and `fit` returns a recommender;
    - the parts that a `genrec.types.PartsBaseline` is fitted on do not include the test;
    - lists are distinct items 1..item_count without those of `exclude`, best first, with 0 and -inf at the end of a short list;
    - this holds for an empty history, for a list longer than the catalog, and when nearly all items are excluded;
    - a second call and a second fit give the same lists, alone, padded and in a batch;
    - `recommend_to` of a `genrec.types.UserRecommender` keeps all this too, and gives a user without training interactions the list
      of `recommend`;
    - `score_items` of a `genrec.types.ItemScorer` gives the scores of these lists, and -inf for item 0;
    - the interactions, the arguments and global random state stay unchanged.
    """
    check_specification(baseline, Baseline, "fit(interactions, item_count)")
    if (interactions is None) != (item_count is None):
        raise UsageError("check_baseline needs interactions and item_count together, or neither")
    if interactions is None or item_count is None:
        items, interactions = encoder_world()
        item_count = len(items)
    name = type(baseline).__name__
    try:
        describe(baseline, Path(), name)
        fitted_parts(baseline)
    except (UsageError, InputError) as error:
        raise ContractError(str(error)) from None
    first, second = (_fit(name, baseline, interactions, item_count) for _ in range(2))
    methods, again = (_methods(name, each, item_count) for each in (first, second))
    user, history = _users(interactions)
    for method, refitted in zip(methods, again, strict=True):
        _check_method(method, user, history)
        _check_same(method, "a second fit gives", method.lists(user, history), refitted.lists(user, history))
    if len(methods) > 1:
        unknown = torch.full_like(user, int(user.max()))
        change = "unlike in recommend, a user without training interactions gets"
        _check_same(methods[1], change, methods[0].lists(unknown, history), methods[1].lists(unknown, history))
    if isinstance(first, ItemScorer):
        _check_scores(name, first, methods[-1], user, history)


class _Method(NamedTuple):
    """A method of a recommender that makes lists."""

    name: str  # with the name of the baseline, for messages
    recommend: Callable[[Tensor, Tensor, int, Tensor | None], Ranking]  # users, histories, n, excluded items -> lists
    item_count: int

    def lists(self, user: Tensor, history: Tensor, exclude: Tensor | None = None, n: int = LIST_LENGTH) -> Ranking:
        """Return the lists of users int64 [B] with histories int64 [B, T]; raise ContractError if they break the contract."""
        with check_no_global_draws(self.name, "a list must be deterministic"):
            return checked_lists(self.name, partial(self.recommend, user), history, n, exclude, self.item_count)


def _methods(name: str, recommender: Recommender, item_count: int) -> list[_Method]:
    """Return `recommend`, and `recommend_to` if the recommender knows users."""
    by_history = _Method(f"{name}: recommend", lambda user, *arguments: recommender.recommend(*arguments), item_count)
    if not isinstance(recommender, UserRecommender):
        return [by_history]
    return [by_history, _Method(f"{name}: recommend_to", recommender.recommend_to, item_count)]


def _fit(name: str, baseline: Baseline, interactions: DataFrame, item_count: int) -> Recommender:
    given = interactions.copy()
    with check_no_global_draws(name, "take randomness from a seed that is a field"):
        fitted = call_plugin(name, "fit(interactions, item_count)", lambda: baseline.fit(given, item_count))
    if isinstance(fitted, type) or not isinstance(fitted, Recommender):
        raise ContractError(f"{name}: fit must return an object with recommend(history, n, exclude), got {fitted!r}")
    if not given.equals(interactions) or list(given.columns) != list(interactions.columns):
        raise ContractError(f"{name}: fit modified the interactions, but others read them too; work on a copy")
    return fitted


def _users(interactions: DataFrame) -> tuple[Tensor, Tensor]:
    """Return some users int64 [B] and their last items int64 [B, T]; row 0 is a user without training interactions and history."""
    rows, users = [torch.zeros(HISTORY_LENGTH, dtype=torch.int64)], [int(interactions["user"].max()) + 1]
    for user in sorted(interactions["user"].unique().tolist())[: MAX_USERS - 1]:
        last = torch.tensor(interactions["item"].to_numpy()[interactions["user"].to_numpy() == user][-HISTORY_LENGTH:])
        rows.append(pad(last, (HISTORY_LENGTH - len(last), 0)))
        users.append(user)
    return torch.tensor(users), torch.stack(rows)


def _check_method(method: _Method, user: Tensor, history: Tensor) -> None:
    """Check lists with and without excluded items, padded, alone, and longer than the catalog."""
    nearly_all = torch.arange(1, method.item_count + 1 - NUM_ALLOWED).expand(len(history), -1).contiguous()
    for exclude in (None, history, nearly_all):
        _check_repeated(method, user, history, exclude)
    first = method.lists(user, history)
    _check_same(method, "a history with more padding gets", first, method.lists(user, pad(history, (3, 0))))
    for row in range(min(4, len(history))):
        alone = Ranking(*(part[row : row + 1] for part in first))
        _check_same(method, "a user alone gets", alone, method.lists(user[row : row + 1], history[row : row + 1]))
    method.lists(user, history, n=method.item_count + 5)


def _check_scores(name: str, scorer: ItemScorer, method: _Method, user: Tensor, history: Tensor) -> None:
    """Check the scores of given items against those of the lists."""
    ranking = method.lists(user, history)
    found = call_plugin(name, "score_items(user, history, items)", lambda: scorer.score_items(user, history, ranking.items.clone()))
    if not isinstance(found, Tensor) or found.dtype != torch.float32 or found.shape != ranking.scores.shape:
        raise ContractError(
            f"{name}: score_items must return float32 {list(ranking.items.shape)}, a score for each item; got {form_of(found)}"
        )
    empty = scorer.score_items(user, history, torch.zeros_like(ranking.items))
    if not bool(empty.isneginf().all()):
        raise ContractError(f"{name}: score_items must return -inf for item 0, which is padding")
    wrong = ~torch.isclose(found, ranking.scores, rtol=1e-4, atol=1e-5) & (ranking.items > 0)
    if bool(wrong.any()):
        row, place = wrong.nonzero()[0].tolist()
        raise ContractError(
            f"{name}: score_items gives item {int(ranking.items[row, place])} the score {float(found[row, place]):g}, but "
            f"{method.name.rpartition(' ')[2]} ranks it by {float(ranking.scores[row, place]):g}; return the scores of the lists"
        )


def _check_repeated(method: _Method, user: Tensor, history: Tensor, exclude: Tensor | None) -> None:
    """Check the lists, and that a second call gives the same and leaves the arguments unchanged."""
    copies = user.clone(), history.clone(), None if exclude is None else exclude.clone()
    first = method.lists(*copies)
    unchanged = exclude is None or copies[2] is None or torch.equal(copies[2], exclude)
    if not (torch.equal(copies[0], user) and torch.equal(copies[1], history) and unchanged):
        raise ContractError(f"{method.name} modified its arguments, but others read them too; work on a copy")
    _check_same(method, "a second call gives", first, method.lists(user, history, exclude))


def _check_same(method: _Method, call: str, first: Ranking, second: Ranking) -> None:
    if not torch.equal(first.items, second.items):
        row = int((first.items != second.items).any(1).nonzero()[0])
        raise ContractError(
            f"{method.name}: {call} another list, {second.items[row].tolist()} instead of {first.items[row].tolist()}; a list must "
            "depend on its arguments and on the training interactions only"
        )
