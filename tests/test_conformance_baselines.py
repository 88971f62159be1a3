"""check_baseline: the built-in baselines and one written as by a user pass, and each broken baseline raises its message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pandas import DataFrame
from stable_ids import stable_id
from torch import Tensor

from genrec.baselines import BPR, EASE, ItemKNN, Popularity
from genrec.errors import UsageError
from genrec.item_rows import contains, keys, ranking
from genrec.testing import ContractError, check_baseline, encoder_world
from genrec.types import Baseline, Ranking

Change = Callable[[Ranking, Tensor, Tensor | None], object]


class Counts:
    """A recommender by training events, with lists changed by a function."""

    def __init__(self, counts: Tensor, change: Change) -> None:
        self.counts, self.change = counts, change

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Any:
        catalog = torch.arange(1, len(self.counts) + 1).expand(len(history), -1)
        scores = self.counts.expand(len(history), -1)
        if exclude is not None:
            scores = scores.masked_fill(contains(exclude, catalog), -torch.inf)
        lists = ranking(keys(scores, catalog), n, scores.isnan().any(1))
        return self.change(lists, history, exclude)


@dataclass(frozen=True)
class MostTaken:
    """The items with the most training events."""

    change: Change = lambda lists, history, exclude: lists
    fit_change: Callable[[DataFrame], object] = lambda interactions: None
    result: Callable[[Counts], object] = lambda fitted: fitted

    def fingerprint(self, root: object) -> str:
        return "a function has no description"

    def fit(self, interactions: DataFrame, item_count: int) -> Any:
        self.fit_change(interactions)
        counts = torch.bincount(torch.tensor(interactions["item"].to_numpy()), minlength=item_count + 1)[1:].float()
        return self.result(Counts(counts, self.change))


PASSING = [Popularity(), Popularity(count_validation=True), ItemKNN(), ItemKNN(num_neighbors=5, decay=1.0), EASE(), BPR(), MostTaken()]


@pytest.mark.parametrize("baseline", PASSING, ids=stable_id)
def test_built_in_baselines_and_one_of_a_user_keep_the_contract(baseline: Baseline) -> None:
    check_baseline(baseline)
    items, interactions = encoder_world(seed=4)
    check_baseline(baseline, interactions, len(items))


def first_place(value: Callable[[Tensor], Tensor]) -> Change:
    """Put an item in the first place of each list."""

    def change(lists: Ranking, history: Tensor, exclude: Tensor | None) -> Ranking:
        items = lists.items.clone()
        items[:, 0] = value(history)
        return Ranking(items, lists.scores)

    return change


ALL = Counts(torch.ones(36), lambda lists, *_: lists)  # ignores `exclude`
BROKEN: dict[str, tuple[MostTaken, str]] = {
    "excluded": (MostTaken(lambda lists, history, exclude: lists if exclude is None else ALL.recommend(history, 10)), r"`exclude`"),
    "twice": (MostTaken(lambda lists, *_: Ranking(lists.items[:, :1].expand(-1, lists.items.shape[1]), lists.scores)), "twice"),
    "outside": (
        MostTaken(first_place(lambda history: torch.full((len(history),), 99))),
        r"items \d+\.\.99; items are 1\.\.36",
    ),
    "order": (MostTaken(lambda lists, *_: Ranking(lists.items.flip(1), lists.scores.flip(1))), "best item first|must end in items 0"),
    "tuple": (MostTaken(lambda lists, *_: (lists.items, lists.scores)), r"must return a genrec\.types\.Ranking of .*, got tuple"),
    "int32": (MostTaken(lambda lists, *_: Ranking(lists.items.int(), lists.scores)), r"got int32"),
    "short": (MostTaken(lambda lists, *_: Ranking(lists.items[:, :3], lists.scores[:, :3])), r"got int64 \[16, 3\]"),
    "NaN": (MostTaken(lambda lists, *_: Ranking(lists.items, lists.scores * torch.nan)), "must end in items 0|NaN score"),
    "random": (MostTaken(first_place(lambda history: torch.randint(1, 4, (len(history),)))), "global generator was drawn from|twice"),
    "batch": (
        MostTaken(lambda lists, history, exclude: lists if len(history) > 1 else Ranking(lists.items.roll(1, 1), lists.scores)),
        r"a user alone gets another list|best item first",
    ),
    "padding": (
        MostTaken(lambda lists, history, exclude: lists if history.shape[1] < 8 else Ranking(lists.items.roll(1, 1), lists.scores)),
        r"a history with more padding gets another list|best item first",
    ),
    "history": (MostTaken(lambda lists, history, exclude: (history.fill_(1), lists)[1]), "recommend modified its arguments"),
    "fit writes": (MostTaken(fit_change=lambda interactions: interactions.insert(0, "row", 0)), "fit modified the interactions"),
    "fit draws": (MostTaken(fit_change=lambda interactions: torch.rand(1)), "torch's global generator was drawn from"),
    "fit fails": (
        MostTaken(fit_change=lambda interactions: interactions["rating"]),
        r"fit\(.*\) raised KeyError",
    ),
    "no recommender": (
        MostTaken(result=lambda fitted: fitted.counts),
        r"fit must return an object with recommend",
    ),
    "class": (MostTaken(result=lambda fitted: Counts), r"fit must return an object with recommend"),
    "crash": (
        MostTaken(lambda lists, *_: lists.missing),
        r"a list of 10 items for 16 users raised .* at .*baselines\.py:\d+",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_baseline_raises_its_message(name: str) -> None:
    baseline, message = BROKEN[name]
    with pytest.raises(ContractError, match=rf"^MostTaken.*({message})"):
        check_baseline(baseline)


class UserCounts(Counts):
    """A recommender that knows users: their lists are those by training events, changed by a function."""

    def recommend_to(self, user: Tensor, history: Tensor, n: int, exclude: Tensor | None = None) -> Any:
        return self.change(Counts(self.counts, lambda lists, *_: lists).recommend(history, n, exclude), user, exclude)

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Any:
        return Counts(self.counts, lambda lists, *_: lists).recommend(history, n, exclude)


def known_users(change: Callable[[Ranking], Ranking]) -> Change:
    """Change the lists of the users with training interactions, who have the numbers 1 to 60 in the world."""

    def changed(lists: Ranking, user: Tensor, exclude: Tensor | None) -> Ranking:
        other = change(lists)
        known = (user <= 60).unsqueeze(1)
        return Ranking(torch.where(known, other.items, lists.items), torch.where(known, other.scores, lists.scores))

    return changed


def for_users(change: Change) -> MostTaken:
    return MostTaken(change, result=lambda fitted: UserCounts(fitted.counts, change))


def second_first(lists: Ranking) -> Ranking:
    """Swap the first two items, which stays a valid list if their scores are equal."""
    items, scores = lists.items.clone(), lists.scores.clone()
    items[:, :2] = items[:, :2].flip(1)
    scores[:, :2] = scores[:, :1]
    return Ranking(items, scores)


CALLS: list[int] = []


def every_other_call(lists: Ranking, user: Tensor, exclude: Tensor | None) -> Ranking:
    CALLS.append(1)
    return second_first(lists) if len(CALLS) % 2 else lists


BROKEN_FOR_USERS: dict[str, tuple[MostTaken, str]] = {
    "unknown": (
        for_users(lambda lists, *_: second_first(lists)),
        r"unlike in recommend, a user without training .* gets another list",
    ),
    "order": (for_users(lambda lists, *_: Ranking(lists.items.flip(1), lists.scores.flip(1))), "best item first|must end in items 0"),
    "writes": (for_users(lambda lists, user, exclude: (user.fill_(1), lists)[1]), "modified its arguments"),
    "random": (for_users(every_other_call), "a second call gives another list"),
    "alone": (
        for_users(lambda lists, user, exclude: known_users(second_first)(lists, user, exclude) if len(user) == 1 else lists),
        "a user alone gets another list",
    ),
    "excluded": (
        for_users(lambda lists, user, exclude: lists if exclude is None else ALL.recommend(user.unsqueeze(1), 10)),
        "`exclude`",
    ),
}


@pytest.mark.parametrize("name", BROKEN_FOR_USERS)
def test_a_broken_recommend_to_raises_its_message(name: str) -> None:
    baseline, message = BROKEN_FOR_USERS[name]
    with pytest.raises(ContractError, match=rf"^MostTaken: recommend_to.*({message})"):
        check_baseline(baseline)


def test_a_recommender_may_change_the_lists_of_the_users_that_it_knows() -> None:
    check_baseline(for_users(known_users(second_first)))


def test_data_of_ones_own_are_given_together() -> None:
    with pytest.raises(UsageError, match="needs interactions and item_count together"):
        check_baseline(Popularity(), encoder_world()[1])


def test_a_baseline_that_is_no_frozen_dataclass_is_refused() -> None:
    class Plain:
        def fit(self, interactions: DataFrame, item_count: int) -> Any:
            raise NotImplementedError

    with pytest.raises(ContractError, match="is not a frozen dataclass"):
        check_baseline(Plain())


class Scoring:
    """The same recommender with scores of given items, changed by a function."""

    def __init__(self, fitted: Counts, change_scores: Callable[[Tensor, Tensor], object]) -> None:
        self.recommend, self.counts = fitted.recommend, fitted.counts
        self.change_scores = change_scores

    def score_items(self, user: Tensor, history: Tensor, items: Tensor) -> Any:
        scores = torch.cat([torch.tensor([-torch.inf]), self.counts])[items]
        return self.change_scores(scores, items)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores, items: scores.double(), r"score_items must return float32 \[\d+, 10\], .*; got float64"),
        (lambda scores, items: scores.tolist(), r"score_items must return float32 .*; got list"),
        (lambda scores, items: scores[:, 0], r"score_items must return float32 .*; got float32 \[\d+\]"),
        (lambda scores, items: scores.masked_fill(items == 0, 0.0), r"score_items must return -inf for item 0, which is padding"),
        (lambda scores, items: scores / 2, r"score_items gives item \d+ the score [\d.]+, but recommend ranks it by [\d.]+; return"),
    ],
)
def test_scores_of_given_items_are_those_of_the_lists(change: Callable[[Tensor, Tensor], object], message: str) -> None:
    check_baseline(MostTaken(result=lambda fitted: Scoring(fitted, lambda scores, items: scores)))
    with pytest.raises(ContractError, match=f"^MostTaken: {message}"):
        check_baseline(MostTaken(result=lambda fitted: Scoring(fitted, change)))
