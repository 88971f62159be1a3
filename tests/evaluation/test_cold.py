"""Cold start: metrics of unseen targets, the ranking among unseen items, random order, and the evaluate stage."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from safetensors.torch import save_file
from torch import Tensor
from worlds import TINY, cyclic

from genrec.baselines import ItemKNN, Popularity
from genrec.data.corpus import Corpus
from genrec.data.corpus_builder import prepare
from genrec.data.sources import Frames
from genrec.data.splits import LeaveOneOut
from genrec.errors import InputError
from genrec.evaluation import cold_ranking
from genrec.evaluation.cold_metrics import chance, cold_metrics, cold_only_metrics
from genrec.evaluation.cold_ranking import announcement, evaluate_unseen
from genrec.evaluation.evaluate import Evaluate, evaluate, metrics_of
from genrec.evaluation.metrics import ndcg, recall
from genrec.evaluation_stage import build_evaluate
from genrec.experiment import Experiment
from genrec.semantic_ids import SemanticIds
from genrec.stage_inputs import load_policy
from genrec.training.validation import validation_score
from genrec.types import Ranking, SequenceBatch

POPULARITY = torch.tensor([0, 5, 0, 2, 0, 0, 1])  # items 2, 4 and 5 have no training interaction


class Ordered:
    """Recommends items 6, 5, ..., 1 without excluded ones, and records excluded items and histories."""

    def __init__(self) -> None:
        self.excluded: list[list[list[int]]] = []
        self.histories: list[list[int]] = []

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        taken = [[] for _ in history] if exclude is None else exclude.tolist()
        self.excluded.append(taken)
        self.histories += history.tolist()
        rows = [[item for item in range(6, 0, -1) if item not in out][:n] for out in taken]
        items = torch.tensor([row + [0] * (n - len(row)) for row in rows])
        return Ranking(items, torch.zeros(items.shape).masked_fill(items == 0, -torch.inf))


def users(targets: list[int], first: int = 1, width: int = 2) -> SequenceBatch:
    user = torch.arange(first, first + len(targets))
    return SequenceBatch(user, torch.ones(len(targets), width, dtype=torch.int64), torch.tensor(targets))


def test_unseen_targets_are_ranked_among_unseen_items() -> None:
    """Batches have several widths. Only users 1, 4 and 6 have unseen targets, 2, 5 and 4; the order is 5, 4, 2."""
    batches = [users([2, 3]), users([1, 5, 6], first=3, width=4), users([4], first=6, width=1)]
    model = Ordered()
    found = evaluate_unseen(model, batches, Evaluate(cutoffs=(1, 3)), POPULARITY)
    assert found.to_dict("list") == {"user": [1, 4, 6], "target": [2, 5, 4], "rank": [3, 1, 2]}
    assert model.excluded == [[[1, 3, 6]] * 3]
    assert model.histories == [[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]]  # padded on the left
    figures = cold_only_metrics(found, (1, 3))
    assert figures["cold_only_recall@1"] == pytest.approx(1 / 3)
    assert figures["cold_only_recall@3"] == 1
    assert figures["cold_only_ndcg@3"] == pytest.approx((1 / 2 + 1 + 1 / math.log2(3)) / 3)


def test_unseen_targets_in_the_ranking_of_all_items() -> None:
    """The order is 6, 5, 4, ...: targets 2, 5 and 4 have ranks 5, 2 and 3. Target 3 has training interactions and does not count."""
    result = evaluate(Ordered(), [users([2, 5, 4, 3])], Evaluate(cutoffs=(2, 3)))
    found = metrics_of(result.ranks, result.recommendations, (2, 3), 6, POPULARITY)
    assert {key: found[key] for key in found if key.startswith("cold")} == cold_metrics(result.ranks, (2, 3), POPULARITY)
    assert (found["cold_users"], found["cold_items"]) == (3, 3)
    assert found["cold_recall@2"] == pytest.approx(1 / 3)
    assert found["cold_ndcg@3"] == pytest.approx((1 / math.log2(3) + 1 / 2) / 3)
    assert not any(key.startswith("cold") for key in metrics_of(result.ranks, result.recommendations, (2, 3), 6))
    seen = metrics_of(result.ranks.tail(1), result.recommendations[result.recommendations["user"] == 4], (2, 3), 6, POPULARITY)
    assert not any(key.startswith("cold") for key in seen)


def test_seen_items_are_excluded_only_with_filter_seen() -> None:
    def seen(user: Tensor) -> Tensor:
        return torch.tensor([[5, 0], [2, 2]])[user - 1]  # user 2 has already taken the target: a miss

    spec, model = Evaluate(cutoffs=(3,), filter_seen=True), Ordered()
    assert evaluate_unseen(model, [users([4, 2])], spec, POPULARITY, seen)["rank"].tolist() == [1, 0]
    assert model.excluded == [[[1, 3, 6, 5, 0], [1, 3, 6, 2, 2]]]
    assert evaluate_unseen(Ordered(), [users([4, 2])], Evaluate(cutoffs=(3,)), POPULARITY, seen)["rank"].tolist() == [2, 3]


def test_users_are_ranked_in_chunks_that_limit_the_memory(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A user has three excluded items of 8 bytes: 48 bytes hold two users; 23 bytes hold less than one, with a message."""
    batches = [users([2, 4, 5, 2, 4])]
    whole = evaluate_unseen(Ordered(), batches, Evaluate(cutoffs=(3,)), POPULARITY)
    for limit, sizes in ((48, [2, 2, 1]), (23, [1] * 5)):
        monkeypatch.setattr(cold_ranking, "EXCLUDE_BYTES", limit)
        model = Ordered()
        pd.testing.assert_frame_equal(evaluate_unseen(model, batches, Evaluate(cutoffs=(3,)), POPULARITY), whole)
        assert [len(taken) for taken in model.excluded] == sizes
        assert ("one at a time" in capsys.readouterr().err) == (limit == 23)


def test_no_unseen_target_is_refused() -> None:
    with pytest.raises(InputError, match="no user's target is unseen"):
        evaluate_unseen(Ordered(), [users([1, 3])], Evaluate(cutoffs=(3,)), POPULARITY)


@given(st.integers(1, 40), st.integers(1, 40))
def test_metrics_of_a_random_order(n: int, items: int) -> None:
    assert chance(recall, n, items) == pytest.approx(min(1, n / items))
    assert chance(ndcg, n, items) == pytest.approx(sum(1 / math.log2(r + 1) for r in range(1, min(n, items) + 1)) / items)


def parents_of(folder: Path, codes: Tensor | None = None) -> dict[str, Path]:
    """Write a corpus of 30 users with items a, b, c, then v for validation and one of ten new items for test; return its folders."""
    events = [(f"u{user}", item) for user in range(30) for item in ("a", "b", "c", "v", f"new{user % 10}")]
    frame = DataFrame(events, columns=["user", "item"]).assign(time=range(len(events)))
    names = sorted(set(frame["item"]))
    data = folder / "data"
    data.mkdir(parents=True)
    items = DataFrame({"item": names, "text": names})
    corpus = prepare(Frames(frame, items).load(folder), LeaveOneOut(core=0), data)
    assert corpus.item_count == 14
    if codes is None:
        return {"data": data}
    (folder / "tokenize").mkdir()
    (folder / "sft").mkdir()
    ids = SemanticIds(codes)
    ids.save(folder / "tokenize" / "codes.safetensors")
    torch.manual_seed(0)
    save_file(TINY.build(ids).state_dict(), folder / "sft" / "policy.safetensors")
    return {"data": data, "tokenize": folder / "tokenize", "sft": folder / "sft"}


def evaluate_stage(experiment: Experiment, folder: Path, codes: Tensor | None = None) -> dict[str, float]:
    parents = parents_of(folder, codes)
    build_evaluate(experiment, parents, folder)
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text())
    return found


@pytest.mark.parametrize("shared", [False, True])
def test_the_stage_stores_the_tables_behind_the_metrics(tmp_path: Path, shared: bool) -> None:
    """Of 14 items 11 have no training interaction (v for validation, ten for test), among them the targets of all 30 users."""
    codes = torch.stack([torch.arange(14) // 3, torch.arange(14) % 3], 1) if not shared else (torch.arange(14) // 3)[:, None]
    found = evaluate_stage(replace(cyclic(), evaluate=Evaluate(cutoffs=(1, 5, 20))), tmp_path, codes)
    ranks, cold = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("ranks", "cold"))
    assert (found["cold_users"], found["cold_items"]) == (30, 11)
    assert found["cold_recall@5"] == pytest.approx(found["recall@5"])
    assert cold_only_metrics(cold, (1, 5, 20)).items() <= found.items()
    assert found["cold_only_recall@20"] == 1
    assert found["cold_only_recall@5"] >= found["cold_recall@5"]
    assert cold["user"].tolist() == ranks["user"].tolist()
    assert ("ties" in ranks) == ("ties" in cold) == ("sid_recall@5" in found) == shared
    if shared:
        counts = torch.bincount(torch.arange(14) // 3)
        assert ranks["ties"].tolist() == [int(counts[(target - 1) // 3]) for target in ranks["target"]]
        assert (cold["ties"] <= ranks["ties"]).all()  # among unseen items alone, fewer share
        assert found["sid_recall@5"] == 1  # five Semantic IDs in all


@pytest.mark.parametrize("baseline", [Popularity(), ItemKNN()])
def test_baselines_rank_unseen_items_by_id(tmp_path: Path, baseline: Popularity | ItemKNN) -> None:
    """The three items with training interactions come first; unseen items follow by item id."""
    found = evaluate_stage(replace(cyclic(), policy=baseline, evaluate=Evaluate(cutoffs=(1, 3, 20))), tmp_path)
    assert found["cold_recall@3"] == 0
    assert found["cold_only_recall@3"] == pytest.approx(6 / 30)
    assert "sid_recall@3" not in found


def test_validation_scores_items_not_semantic_ids(tmp_path: Path) -> None:
    """All 14 items share one Semantic ID and ten are in the list, so the target has each of the 14 ranks with probability 1/14."""
    parents = parents_of(tmp_path, torch.zeros(14, 1, dtype=torch.int64))
    ids, corpus = SemanticIds.load(parents["tokenize"] / "codes.safetensors"), Corpus.load(parents["data"])
    experiment = cyclic()
    policy = load_policy(experiment, ids, parents["sft"])
    found = validation_score(policy, corpus, experiment, experiment.sft, ids)()
    assert found["ndcg@10"] == pytest.approx(sum(1 / math.log2(1 + place) for place in range(1, 11)) / 14)


def test_without_unseen_targets_there_is_no_second_ranking(tmp_path: Path) -> None:
    from genrec.testing import Cyclic

    (tmp_path / "data").mkdir()
    prepare(Cyclic(num_items=20, num_users=60, length=8).load(tmp_path), LeaveOneOut(), tmp_path / "data")
    build_evaluate(replace(cyclic(), policy=Popularity(), evaluate=Evaluate(cutoffs=(5,))), {"data": tmp_path / "data"}, tmp_path)
    assert not (tmp_path / "cold.parquet").exists()
    assert "cold_users" not in json.loads((tmp_path / "metrics.json").read_text())


def test_the_line_about_unseen_targets_counts_in_plain_words() -> None:
    assert announcement(1, 5) == "evaluate: the target of 1 user is unseen in training; ranking again among the 5 such items"
    assert announcement(3, 1) == "evaluate: the targets of 3 users are unseen in training; ranking again among the only such item"
