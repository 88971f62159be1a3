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

from genrec import pipeline
from genrec.baselines import ItemKNN, Popularity
from genrec.data.sources import AmazonReviews2014
from genrec.evaluation.evaluate import Evaluate, evaluate, metrics_of
from genrec.experiment import Experiment
from genrec.types import Baseline, SequenceBatch

pytestmark = pytest.mark.realdata


class Beauty(NamedTuple):
    train: DataFrame
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
    return Beauty(events[left >= 2][["user", "item"]], test, int(events["item"].max()))


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
    """Training interactions alone, items of equal counts in the order of the review file."""
    found = measure(Popularity(), beauty, beauty.train, False)
    assert found["recall@10"] == pytest.approx(0.01118, abs=5e-6)
    assert found["ndcg@10"] == pytest.approx(0.00527, abs=5e-6)


def test_popularity_as_published(real_data: Path) -> None:
    """Training interactions with the item numbers of the published file: only the order of equal counts differs from the above."""
    with gzip.open(real_data / "amazon-2014" / "Beauty.txt.gz", "rt") as file:
        sequences = [[int(item) for item in line.split()[1:]] for line in file]
    train = DataFrame([(user, item) for user, items in enumerate(sequences) for item in items[:-2]], columns=["user", "item"])
    history = torch.tensor([items[-2:-1] for items in sequences])
    users = SequenceBatch(torch.arange(len(sequences)), history, torch.tensor([items[-1] for items in sequences]))
    spec = Evaluate(cutoffs=(10,))
    result = evaluate(Popularity().fit(train, 12_101), [users], spec)
    found = metrics_of(result.ranks, result.recommendations, spec.cutoffs, 12_101)
    assert (found["recall@10"], found["ndcg@10"]) == (pytest.approx(0.01145, abs=5e-6), pytest.approx(0.00535, abs=5e-6))


@pytest.mark.parametrize(("count_validation", "recall", "ndcg"), [(False, 0.01118, 0.00527), (True, 0.01145, 0.00538)])
def test_popularity_in_the_pipeline(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count_validation: bool, recall: float, ndcg: float
) -> None:
    """The stages pass the validation interactions to `count_validation=True`, and only to it: both figures to five digits."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    source = AmazonReviews2014("Beauty", path=real_data / "amazon-2014")
    row = Experiment(name="beauty-popularity", source=source, policy=Popularity(count_validation=count_validation))
    found = json.loads((pipeline.run(row)["evaluate"].folder / "metrics.json").read_text())
    assert found["users"] == 22_363
    assert (found["recall@10"], found["ndcg@10"]) == (pytest.approx(recall, abs=5e-6), pytest.approx(ndcg, abs=5e-6))
