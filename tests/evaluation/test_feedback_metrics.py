"""Metrics of preference: by hand on a log of three users, against plain loops, through the pipeline and in a comparison."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame, Series
from torch import Tensor
from worlds import cyclic

from genrec import pipeline
from genrec.baselines import ItemKNN, Popularity
from genrec.data.corpus import Corpus
from genrec.data.corpus_builder import prepare
from genrec.data.examples import examples
from genrec.data.held_out_feedback import held_out_items
from genrec.data.sources import Frames
from genrec.data.splits import HoldOutLast
from genrec.errors import ArtifactError, InputError, NumericsError
from genrec.evaluation.compare import Run, compare
from genrec.evaluation.comparison.comparison_metric_tables import metric_tables
from genrec.evaluation.evaluate import Evaluate, evaluate
from genrec.evaluation.feedback_metrics import (
    disliked_in_list,
    feedback_values,
    mean_pairwise_accuracy,
    pair_values,
    pairwise_accuracy,
)
from genrec.evaluation.measurement import evaluated_of, measure, with_users
from genrec.testing import Shop
from genrec.training.user_batches import batches
from genrec.training.validation import seen_items
from genrec.training.validation_feedback import disliked_without_target, users_without_target
from genrec.types import HeldOutItems, Ranking, RawTables, SequenceBatch

NAN = math.nan
SPLIT = HoldOutLast(n=4, core=0, liked=4, disliked=2)

# Three users; the first event is for training, two are for validation, and two or three for the test. Ratings of the test half:
# u: c 5, d 1 (a pair); v: c 1, d 2 (disliked only); w: d 4, c 3 (liked only)
HAND = [
    *(("u", item, time, rating) for time, (item, rating) in enumerate(zip("abecd", (4, 5, 1, 5, 1), strict=True))),
    *(("v", item, time, rating) for time, (item, rating) in enumerate(zip("baecd", (4, 4, 1, 1, 2), strict=True))),
    *(("w", item, time, rating) for time, (item, rating) in enumerate(zip("eabdc", (4, 1, 4, 4, 3), strict=True))),
]
SCORES = {"a": 0.5, "b": 0.4, "c": 0.9, "d": 0.8, "e": 0.1}


def hand() -> Corpus:
    nothing = DataFrame({"item": Series(dtype=str), "text": Series(dtype=str)})
    return prepare(RawTables(DataFrame(HAND, columns=["user", "item", "time", "rating"]), nothing), SPLIT)


@dataclass(frozen=True, eq=False)
class Fixed:
    """A recommender with one score for each item, float32 [N + 1]."""

    scores: Tensor

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        scores = self.scores.repeat(len(history), 1)
        scores[:, 0] = -torch.inf
        if exclude is not None:
            scores.scatter_(1, exclude, -torch.inf)
        best = scores.topk(min(n, scores.shape[1] - 1), dim=1)
        items = best.indices.masked_fill(best.values == -torch.inf, 0)
        missing = n - items.shape[1]
        return Ranking(
            torch.nn.functional.pad(items, (0, missing)), torch.nn.functional.pad(best.values, (0, missing), value=-torch.inf)
        )


class FixedPolicy(Fixed):
    """A policy with the same log-probabilities for every history."""

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return self.log_prob(history, items).unsqueeze(2)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return self.scores[items].masked_fill(items == 0, -torch.inf)


def fixed(corpus: Corpus, kind: type[Fixed] = Fixed, **changed: float) -> Fixed:
    values = SCORES | changed
    return kind(torch.tensor([0.0, *(values[item] for item in corpus.items["item_id"])]))


def evaluated(corpus: Corpus, recommender: Any, spec: Evaluate, part: Any = "test") -> Any:
    users = batches(examples(corpus, part, 20), 2, torch.device("cpu"))
    seen = seen_items(corpus, part)
    result = evaluate(recommender, users, spec, seen)
    popularity = torch.from_numpy(corpus.popularity("train"))
    held_out = held_out_items(corpus, part)
    return evaluated_of(
        result, spec, popularity, lambda: corpus.part("train"), corpus.items, recommender, users, seen, held_out=held_out
    )


@pytest.mark.parametrize("kind", [Fixed, FixedPolicy])
def test_three_users_by_hand(kind: type[Fixed]) -> None:
    """The list is c d a b e for everybody.

    u has the pair (c, d), c is above d: 1. Its target c is first, and its first 1 items hold no dislike, its first 2 hold d. w has no
    dislike. Its target d is second. v has no target; c is the first item and disliked.
    """
    corpus = hand()
    spec = Evaluate(cutoffs=(1, 2, 5))
    world = evaluated(corpus, fixed(corpus, kind), spec)
    names = [str(corpus.user_ids[user - 1]) for user in world.user.tolist()]
    assert names == ["u", "w"]
    assert world.rank.tolist() == [1, 2]
    found = {name: values.tolist() for name, values in feedback_values(world).items()}
    assert found["pairwise_accuracy"] == pytest.approx([1.0, NAN], nan_ok=True)
    assert found["disliked@1"] == pytest.approx([0.0, NAN], nan_ok=True)
    assert found["disliked@2"] == pytest.approx([1.0, NAN], nan_ok=True)
    measured = measure(world, ())
    assert (measured.means["pairwise_accuracy"], measured.counts["pairwise_accuracy"]) == (1.0, 1)
    further = users_without_target(corpus, "test", 20, 2, 0)
    more = disliked_without_target(fixed(corpus, kind), corpus, "test", further, spec, None)
    assert more is not None
    together = with_users(measured, *more)
    assert together.per_user["user"].tolist() == [1, 2, 3]
    assert together.per_user["disliked@1"].tolist() == pytest.approx([0.0, 1.0, NAN], nan_ok=True)
    assert (together.means["disliked@1"], together.counts["disliked@1"]) == (0.5, 2)
    assert together.means["pairwise_accuracy"] == 1.0


def test_a_tie_is_a_half_and_a_lower_score_of_the_liked_item_is_no_win() -> None:
    corpus = hand()
    for d, expected in ((0.8, 1.0), (0.9, 0.5), (1.0, 0.0)):
        for kind in (Fixed, FixedPolicy):
            found = feedback_values(evaluated(corpus, fixed(corpus, kind, d=d), Evaluate(cutoffs=(1,))))
            assert found["pairwise_accuracy"][0] == expected


def test_items_with_one_semantic_id_have_one_score() -> None:
    """Rounding may part the scores of c and d, which share a Semantic ID: a tie. An item without a place is below all others."""
    scores = torch.tensor([0.0, 0.5, 0.5 + 1e-6, 0.1])
    batch = SequenceBatch(torch.tensor([1]), torch.tensor([[3]]), torch.tensor([1]))
    held_out = HeldOutItems(torch.tensor([[1, 2]]), torch.tensor([[1, -1]], dtype=torch.int8))
    shared = torch.tensor([0, 1, 1, 2])
    for kind in (Fixed, FixedPolicy):
        assert pair_values(kind(scores), batch, held_out, 3, None).tolist() == [0.0]
        assert pair_values(kind(scores), batch, held_out, 3, shared).tolist() == [0.5]
    unlisted = torch.tensor([0.0, 0.5, -torch.inf, 0.1])
    assert pair_values(Fixed(unlisted), batch, held_out, 3, None).tolist() == [1.0]


def test_scores_are_checked() -> None:
    batch = SequenceBatch(torch.tensor([1]), torch.tensor([[3]]), torch.tensor([1]))
    held_out = HeldOutItems(torch.tensor([[1, 2]]), torch.tensor([[1, -1]], dtype=torch.int8))
    with pytest.raises(NumericsError, match=r"FixedPolicy.*: NaN scores of held-out items for 1 user of a batch"):
        pair_values(FixedPolicy(torch.tensor([0.0, NAN, 0.1, 0.2])), batch, held_out, 3, None)

    class Short(Fixed):
        def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
            return super().recommend(history, n - 1, exclude)

    with pytest.raises(InputError, match=r"Short.*: recommend must return a genrec.types.Ranking \[1, 3\]"):
        pair_values(Short(torch.zeros(4)), batch, held_out, 3, None)


ROWS = st.lists(
    st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.sampled_from([-1, 0, 1])), min_size=4, max_size=4), min_size=1, max_size=6
)


@given(ROWS)
def test_pairwise_accuracy_equals_a_loop_over_pairs(rows: list[list[tuple[float, int]]]) -> None:
    expected = []
    for row in rows:
        pairs = [(a > b) + (a == b) / 2 for a, liked in row for b, other in row if liked == 1 and other == -1]
        expected.append(float(np.mean(pairs)) if pairs else NAN)
    scores = torch.tensor([[score for score, _ in row] for row in rows])
    label = torch.tensor([[value for _, value in row] for row in rows], dtype=torch.int8)
    assert pairwise_accuracy(scores, label).tolist() == pytest.approx(expected, nan_ok=True)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0))
    permuted = pairwise_accuracy(scores[:, order], label[:, order])
    assert permuted.tolist() == pytest.approx(expected, nan_ok=True)
    mirrored = pairwise_accuracy(scores, -label)  # exchanging likes and dislikes mirrors it
    assert mirrored.tolist() == pytest.approx([1 - value for value in expected], nan_ok=True)


@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from([-1, 0, 1])), max_size=5), st.integers(1, 4))
def test_disliked_in_list_equals_a_loop(events: list[tuple[int, int]], n: int) -> None:
    listed = [2, 5, 0, 3][:n]
    items = torch.tensor([[item for item, _ in events]], dtype=torch.int64).reshape(1, -1)
    label = torch.tensor([[value for _, value in events]], dtype=torch.int8).reshape(1, -1)
    disliked = {item for item, value in events if value == -1}
    expected = float(bool(disliked & set(listed))) if disliked else NAN
    assert disliked_in_list(torch.tensor([listed]), HeldOutItems(items, label)).tolist() == pytest.approx([expected], nan_ok=True)


def test_a_sample_of_users_keeps_the_share_without_a_target() -> None:
    tables = Shop(num_items=60, num_users=300, seed=1).load(Path())
    corpus = prepare(tables, HoldOutLast(n=4, core=0, liked=4, disliked=2))
    ranked = len(examples(corpus, "test", 20))
    everybody = users_without_target(corpus, "test", 20, ranked, 0)
    some = users_without_target(corpus, "test", 20, ranked, ranked // 4)
    assert everybody is not None
    assert some is not None
    assert len(some) == max(1, round(len(everybody) * (ranked // 4) / ranked)) < len(everybody)
    assert set(some.users[some.places(torch.arange(len(some)))[0]].tolist()) <= set(everybody.users.tolist())


def test_no_user_without_a_pair_is_a_figure() -> None:
    corpus = hand()
    held_out = held_out_items(corpus, "test")
    assert held_out is not None
    users = batches(examples(corpus, "test", 20).select(torch.tensor([1])), 2, torch.device("cpu"))
    assert mean_pairwise_accuracy(fixed(corpus), users, held_out, corpus.item_count, None) == {}


@pytest.fixture
def labeled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return an experiment on a shop with labels, small enough to train in a test."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "home"))
    tables = Shop(num_items=60, num_users=80, seed=2).load(Path())
    split = HoldOutLast(n=4, core=0, liked=4, disliked=2)
    return replace(cyclic(steps=20), name="shop-sft", source=Frames(tables.interactions, tables.items), split=split)


def test_the_pipeline_measures_preferences_in_validation_and_test(labeled: Any) -> None:
    found = pipeline.run(labeled)
    curves = pd.read_parquet(found["sft"].folder / "curves.parquet")
    for name in ("pairwise_accuracy", "disliked@10", "disliked@10_filter_seen", "ndcg@10"):
        values = curves[f"validation_{name}"].dropna()
        assert len(values)
        assert values.between(0, 1).all()
    folder = found["evaluate"].folder
    metrics = json.loads((folder / "metrics.json").read_text())
    counts = json.loads((folder / "user_counts.json").read_text())
    corpus = Corpus.load(found["data"].folder)
    users = corpus.statistics["feedback"]["users"]["test"]
    assert (metrics["users"], metrics["pair_users"], metrics["disliked_users"]) == (users["liked"], users["both"], users["disliked"])
    assert counts["disliked@10"] == users["disliked"]
    per_user = pd.read_parquet(folder / "user_metrics.parquet")
    assert len(per_user) == users["liked"] + users["disliked"] - users["both"]
    assert metrics["disliked@10"] == pytest.approx(per_user["disliked@10"].mean())
    for baseline in (Popularity(), ItemKNN()):
        row = pipeline.run(replace(labeled, name="shop-other", policy=baseline))
        other = json.loads((row["evaluate"].folder / "metrics.json").read_text())
        assert other["pair_users"] == users["both"]
        assert 0 <= other["pairwise_accuracy"] <= 1


def test_labels_of_the_test_change_no_artifact_of_a_training(labeled: Any) -> None:
    """The data have another key; item vectors, Semantic IDs, weights, curves and the alignment's negatives have equal bytes."""
    order = labeled.source.interactions.sort_values(["user", "time"], kind="stable").groupby("user").cumcount(ascending=False)
    flipped = labeled.source.interactions.copy()
    flipped.loc[order.sort_index() < 2, "rating"] = 6 - flipped["rating"]
    aligned = replace(labeled, align=cyclic(steps=20, align_steps=20).align)
    other = replace(aligned, source=Frames(flipped, labeled.source.items))
    one, two = (pipeline.run(each) for each in (aligned, other))
    assert one["data"].key != two["data"].key
    compared = 0
    for stage in ("embed", "tokenize", "sft", "align"):
        files = {name: content["sha256"] for name, content in one[stage].manifest["files"].items()}
        assert files == {name: two[stage].manifest["files"][name]["sha256"] for name in files}
        compared += len(files)
    assert compared > 8
    ranks = [pd.read_parquet(each["evaluate"].folder / "ranks.parquet") for each in (one, two)]
    assert not ranks[0].equals(ranks[1])


def run(name: str, seed: int, values: list[float], users: list[int]) -> Run:
    """Return a run in which users 1 and 2 have a target, and the metric may have further users."""
    metrics = {
        "recall@10": 0.0, "ndcg@10": 0.5, "users": 2.0, "pair_users": 1.0, "disliked_users": 3.0, "pairwise_accuracy": 0.6,
        "disliked@10": float(np.nanmean(values)),
    }  # fmt: skip
    per_user = DataFrame({"user": users, "disliked@10": values})
    ranks = DataFrame({"user": [1, 2], "target": 1, "rank": 0})
    return Run(name, seed, ranks, metrics, {"feedback": "liked: rating of 4 or more"}, {"sft.steps": 5}, user_metrics=per_user)


def test_a_metric_of_users_without_a_target_is_tested_over_all_its_users() -> None:
    """Users 1 to 3 count, of whom 3 has no target. Differences 1, 0, 1 and 1, 1, 1: mean 5/6."""
    runs = [run("sft", seed, [0, 0, 0], [1, 2, 3]) for seed in (0, 1)]
    runs += [run("dpo", 0, [1, 0, 1], [1, 2, 3]), run("dpo", 1, [1, 1, 1], [1, 2, 3])]
    comparison = compare(runs, "disliked@10", resamples=20)
    test = comparison.rows[1].test
    assert test is not None
    assert (test.users, test.difference) == (3, pytest.approx(5 / 6))
    (table,) = [table for table in metric_tables(comparison) if table.title == "Liked and disliked items"]
    assert table.columns == ["Row", "Pairwise accuracy", "NDCG@10 of liked", "disliked@10"]
    assert table.rows == [["sft", "0.6000", "0.5000", "0.0000"], ["dpo", "0.6000", "0.5000", "0.8333"]]
    assert "the 1 user with a pair" in table.notes[0]
    assert "the 3 users with a disliked test item" in table.notes[2]
    with pytest.raises(ArtifactError, match=r"disliked@10 of sft \(seed 0\) is of 3 users, that of dpo \(seed 0\) of 2 users"):
        compare([*runs[:2], run("dpo", 0, [1, 0], [1, 2])], "disliked@10", resamples=20)
