"""Contract checks for baselines: recommenders that are fitted on the training interactions, without training steps."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from pandas import DataFrame
from torch import Tensor
from torch.nn.functional import pad

from genrec.errors import UsageError
from genrec.store import describe
from genrec.testing.encoder_checks import encoder_world
from genrec.testing.plugin_watch import call_plugin, check_no_global_draws
from genrec.testing.ranking_checks import LIST_LENGTH, NUM_ALLOWED, checked_lists
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import Baseline, Ranking, Recommender

HISTORY_LENGTH, MAX_USERS = 5, 16  # of the histories that lists are made for


def check_baseline(baseline: Baseline, interactions: DataFrame | None = None, item_count: int | None = None) -> None:
    """Raise ContractError if a baseline breaks `genrec.types.Baseline`, on a small synthetic training set or on yours.

    Pass both `interactions` (user, item, time; int64, sorted by user and time) and `item_count`, or neither. Checked:

    - it is a frozen dataclass with a stable description, and `fit` returns a recommender;
    - lists are distinct items 1..item_count without those of `exclude`, best first, with 0 and -inf at the end of a short list;
    - this holds for an empty history, for a list longer than the catalog, and when nearly all items are excluded;
    - a second call and a second fit give the same lists, alone, padded and in a batch;
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
    except UsageError as error:
        raise ContractError(str(error)) from None
    recommender, history = _fit(name, baseline, interactions, item_count), _histories(interactions)
    nearly_all = torch.arange(1, item_count + 1 - NUM_ALLOWED).expand(len(history), -1).contiguous()
    for exclude in (None, history, nearly_all):
        _check_lists(name, recommender, history, exclude, item_count)
    first = _lists(name, recommender, history, None, item_count)
    _check_same(
        name, "a second fit gives", first, _lists(name, _fit(name, baseline, interactions, item_count), history, None, item_count)
    )
    _check_same(name, "a history with more padding gets", first, _lists(name, recommender, pad(history, (3, 0)), None, item_count))
    for row in range(min(4, len(history))):
        alone = Ranking(*(part[row : row + 1] for part in first))
        _check_same(name, "a user alone gets", alone, _lists(name, recommender, history[row : row + 1], None, item_count))
    checked_lists(f"{name}: recommend", recommender.recommend, history, item_count + 5, None, item_count)


def _fit(name: str, baseline: Baseline, interactions: DataFrame, item_count: int) -> Recommender:
    given = interactions.copy()
    with check_no_global_draws(name, "take randomness from a seed that is a field"):
        fitted = call_plugin(name, "fit(interactions, item_count)", lambda: baseline.fit(given, item_count))
    if isinstance(fitted, type) or not isinstance(fitted, Recommender):
        raise ContractError(f"{name}: fit must return an object with recommend(history, n, exclude), got {fitted!r}")
    if not given.equals(interactions) or list(given.columns) != list(interactions.columns):
        raise ContractError(f"{name}: fit modified the interactions, but others read them too; work on a copy")
    return fitted


def _histories(interactions: DataFrame) -> Tensor:
    """Return the last items of some users, int64 [B, T], and in row 0 an empty history."""
    rows = [torch.zeros(HISTORY_LENGTH, dtype=torch.int64)]
    for _, items in list(interactions.groupby("user", sort=True)["item"])[: MAX_USERS - 1]:
        last = torch.tensor(items.to_numpy()[-HISTORY_LENGTH:])
        rows.append(pad(last, (HISTORY_LENGTH - len(last), 0)))
    return torch.stack(rows)


def _check_lists(name: str, recommender: Recommender, history: Tensor, exclude: Tensor | None, item_count: int) -> None:
    """Check the lists, and that a second call gives the same and leaves the arguments unchanged."""
    copies = history.clone(), None if exclude is None else exclude.clone()
    first = _lists(name, recommender, *copies, item_count)
    if not torch.equal(copies[0], history) or (exclude is not None and not torch.equal(cast(Tensor, copies[1]), exclude)):
        raise ContractError(f"{name}: recommend modified its arguments, but others read them too; work on a copy")
    _check_same(name, "a second call gives", first, _lists(name, recommender, history, exclude, item_count))


def _lists(name: str, recommender: Recommender, history: Tensor, exclude: Tensor | None, item_count: int) -> Ranking:
    with check_no_global_draws(name, "a list must be deterministic"):
        return checked_lists(f"{name}: recommend", recommender.recommend, history, LIST_LENGTH, exclude, item_count)


def _check_same(name: str, call: str, first: Ranking, second: Ranking) -> None:
    if not torch.equal(first.items, second.items):
        row = int((first.items != second.items).any(1).nonzero()[0])
        raise ContractError(
            f"{name}: {call} another list, {second.items[row].tolist()} instead of {first.items[row].tolist()}; a list must depend on "
            "the history and on the training interactions only"
        )
