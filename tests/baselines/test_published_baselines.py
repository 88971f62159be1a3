"""Popularity and ItemKNN reproduce their published metrics on Amazon Beauty, from the review file on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch
from pandas import DataFrame
from torch import Tensor

from genrec.baselines import ItemKNN, Popularity
from genrec.evaluation.evaluate import Evaluate, evaluate, metrics_of
from genrec.types import Baseline, SequenceBatch

pytestmark = pytest.mark.realdata


class Beauty(NamedTuple):
    train: DataFrame
    known: DataFrame  # training and validation interactions
    test: SequenceBatch  # users 0, 1, ... with their whole histories
    items: int


@pytest.fixture(scope="module")
def beauty(real_data: Path) -> Beauty:
    """Split the reviews by leave-one-out; ties of time keep the file order; the validation item is part of the test history."""
    with gzip.open(real_data / "amazon-2014" / "reviews_Beauty_5.json.gz", "rt") as file:
        events = DataFrame([json.loads(line) for line in file])
    events["user"] = pd.factorize(events["reviewerID"])[0]
    events["item"] = pd.factorize(events["asin"])[0] + 1
    events = events.sort_values(["user", "unixReviewTime"], kind="stable")
    left = events.groupby("user").cumcount(ascending=False)
    histories = [torch.tensor(items) for items in events[left >= 1].groupby("user")["item"].agg(list)]
    history = torch.nn.utils.rnn.pad_sequence(histories, batch_first=True, padding_side="left")
    target = torch.from_numpy(events[left == 0]["item"].to_numpy(copy=True))
    test = SequenceBatch(torch.arange(len(target)), history, target)
    return Beauty(events[left >= 2][["user", "item"]], events[left >= 1][["user", "item"]], test, int(events["item"].max()))


def measure(baseline: Baseline, beauty: Beauty, fitted_on: DataFrame, filter_seen: bool) -> dict[str, float]:
    def seen(user: Tensor) -> Tensor:
        return beauty.test.history[user]

    spec = Evaluate(cutoffs=(5, 10), filter_seen=filter_seen)
    result = evaluate(baseline.fit(fitted_on, beauty.items), [beauty.test], spec, seen)
    assert result.excluded_targets == 0  # no test item of Beauty is in its user's history
    return metrics_of(result.ranks, result.recommendations, spec.cutoffs, beauty.items)


@pytest.mark.parametrize(("filter_seen", "recall", "ndcg"), [(False, 0.0551, 0.0308), (True, 0.0642, 0.0385)])
@pytest.mark.parametrize("neighbors", [0, 1000])
def test_itemknn(beauty: Beauty, neighbors: int, filter_seen: bool, recall: float, ndcg: float) -> None:
    found = measure(ItemKNN(num_neighbors=neighbors), beauty, beauty.train, filter_seen)
    assert found["users"] == 22_363
    tolerance = 5e-5 if neighbors == 0 else 2e-4
    assert found["recall@10"] == pytest.approx(recall, abs=tolerance)
    assert found["ndcg@10"] == pytest.approx(ndcg, abs=tolerance)


def test_popularity(beauty: Beauty) -> None:
    """The published R@10 of 0.01145 and N@10 of 0.00535 also count the validation interactions."""
    found = measure(Popularity(), beauty, beauty.train, False)
    assert found["recall@10"] == pytest.approx(0.01145, rel=0.03)
    assert found["ndcg@10"] == pytest.approx(0.00535, rel=0.03)
    assert measure(Popularity(), beauty, beauty.known, False)["recall@10"] == pytest.approx(0.01145, abs=5e-6)
