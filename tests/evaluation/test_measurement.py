"""Metrics as plug-ins of evaluation: their contract, names and counts, the stored files, keys, and memory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from worlds import cyclic

from genrec import loading, pipeline
from genrec.baselines import ItemKNN, Popularity
from genrec.embeddings import TfidfSvd
from genrec.errors import InputError, UsageError
from genrec.evaluation import CandidateHitRate, IntraListDistance, ListOverlap
from genrec.evaluation.evaluate import Evaluate, evaluate
from genrec.evaluation.measurement import evaluated_of, measure
from genrec.experiment import BEYOND_ACCURACY, Experiment
from genrec.overrides import override
from genrec.testing import Shop, evaluated_world
from genrec.types import Evaluated, Ranking, SequenceBatch

Figures = Callable[[Evaluated], Any]


@dataclass(frozen=True)
class Mine:
    """A metric of a user, by default the first item of each list."""

    function: Figures = lambda evaluated: {"first@1": evaluated.items[:, 0].double()}

    def measure(self, evaluated: Evaluated) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.function(evaluated)
        return found


def values(evaluated: Evaluated) -> Tensor:
    return torch.zeros(len(evaluated.user), dtype=torch.float64)


def changing(change: Callable[[Evaluated], object]) -> Figures:
    """Return a metric that changes what later metrics read."""

    def measured(evaluated: Evaluated) -> dict[str, Tensor]:
        change(evaluated)
        return {"x": values(evaluated)}

    return measured


BROKEN: dict[str, tuple[Figures, str]] = {
    "no dictionary": (values, r"measure must return a dictionary of tensors by name, got Tensor"),
    "a number": (lambda e: {"x": 1.0}, r"'x' must be float64 \[40\], a value per user, or float64 \[\], on the CPU, got float"),
    "float32": (lambda e: {"x": values(e).float()}, r"'x' must be float64 \[40\].*got float32 \[40\]"),
    "some users": (lambda e: {"x": values(e)[:3]}, r"got float64 \[3\]"),
    "two columns": (lambda e: {"x": torch.zeros(40, 2, dtype=torch.float64)}, r"got float64 \[40, 2\]"),
    "another device": (lambda e: {"x": values(e).to("meta")}, r"on the CPU, got float64 \[40\] on meta"),
    "infinite": (lambda e: {"x": values(e) + math.inf}, r"'x' must be finite, or NaN for a user who is not counted"),
    "NaN figure": (lambda e: {"x": values(e).mean() / 0}, r"'x', one figure of all lists, is NaN; leave out a figure"),
    "no name": (lambda e: {1: values(e)}, r"a figure must be named like novelty, novelty@10 .* got 1"),
    "a path": (lambda e: {"a/b": values(e)}, r"got 'a/b'"),
    "no cut-off": (lambda e: {"x@0": values(e)}, r"got 'x@0'"),
    "user": (lambda e: {"user": values(e)}, r"and not 'user', got 'user'"),
    "standard": (lambda e: {"novelty@10": values(e)}, r"measure returned 'novelty@10', the name of another metric of this evaluation"),
    "taken": (lambda e: {"ndcg@10": values(e)}, r"'ndcg@10', the name of another metric"),
    "changed lists": (changing(lambda e: e.items[:, 0].copy_(e.target)), r"evaluated\.items was modified, .* work on a copy"),
    "changed history": (changing(lambda e: e.batches[0].items.fill_(1)), r"evaluated\.batches\[0\]\.items was modified"),
    "changed catalog": (changing(lambda e: e.catalog.insert(0, "x", 1)), r"evaluated\.catalog was modified"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_metric_that_breaks_its_contract_is_named(name: str) -> None:
    function, message = BROKEN[name]
    with pytest.raises(InputError, match=rf"^Mine \(.*test_measurement\.py:\d+\): .*{message}"):
        measure(evaluated_world(), (Mine(function),), ("ndcg@10",))


def test_two_metrics_need_two_names() -> None:
    with pytest.raises(InputError, match=r"ListOverlap: measure returned 'overlap@10', the name of another metric"):
        measure(evaluated_world(), (ListOverlap(ItemKNN()), ListOverlap(Popularity())))
    found = measure(evaluated_world(), (ListOverlap(ItemKNN()), ListOverlap(Popularity(), name="popular")))
    assert {"overlap@10", "popular@10"} <= found.means.keys()


def test_users_who_are_not_counted_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the values 1, 2, .. 40 the first three are NaN: the mean of 4 .. 40 is 22. A figure without a counted user has no mean."""

    def function(evaluated: Evaluated) -> dict[str, Tensor]:
        number = torch.arange(1, 41).double()
        nobody = torch.full((40,), math.nan, dtype=torch.float64)
        return {"number": number.masked_fill(number < 4, math.nan), "nobody@5": nobody, "spread": number.std()}

    found = measure(evaluated_world(), (Mine(function),))
    assert found.means["number"] == 22
    assert found.counts["number"] == 37
    assert found.means["spread"] == pytest.approx(math.sqrt(40 * 41 / 12))  # the variance of 1 .. n with divisor n - 1
    assert found.per_user["number"].isna().sum() == 3
    assert "spread" not in found.per_user
    for part in (found.means, found.counts, found.per_user):
        assert "nobody@5" not in part
    said = capsys.readouterr().err
    assert "evaluate: number of Mine" in said
    assert "counts 37 users of 40" in said
    assert "counts 0 users of 40" in said


def test_no_gradients_are_recorded() -> None:
    def function(evaluated: Evaluated) -> dict[str, Tensor]:
        weight = next(evaluated.recommender.parameters())  # type: ignore[attr-defined]
        return {"weight": (weight.detach().requires_grad_() * 2).sum().double()}

    assert not Mine(function).measure(evaluated_world())["weight"].isnan()
    assert "weight" in measure(evaluated_world(), (Mine(function),)).means


def test_values_are_in_the_order_of_users_whatever_the_batches() -> None:
    evaluated = evaluated_world()
    users = evaluated.by_user(lambda batch: batch.user)
    assert users.tolist() == evaluated.user.tolist() == sorted(users.tolist())
    assert torch.equal(evaluated.by_user(lambda batch: batch.target), evaluated.target)
    assert evaluated.exclude(evaluated.user) is None
    excluded = evaluated_world(filter_seen=True).exclude(evaluated.user)
    assert excluded is not None
    assert torch.equal((excluded > 0).sum(1), evaluated.history_length)


@pytest.mark.parametrize("metrics", [[CandidateHitRate()], (CandidateHitRate,), (ItemKNN(),), CandidateHitRate(), None])
def test_other_objects_are_no_metrics(metrics: object) -> None:
    with pytest.raises(UsageError, match=r"evaluate\.metrics must be a tuple of metrics with a method `measure`"):
        Evaluate(metrics=metrics)  # type: ignore[arg-type]


def test_equal_metrics_are_refused() -> None:
    with pytest.raises(UsageError, match=r"evaluate\.metrics holds CandidateHitRate\(num_candidates=20, seed=0\) twice"):
        Evaluate(metrics=(CandidateHitRate(), Mine(), CandidateHitRate()))


class Small:
    """A recommender of item 1 that runs out of memory with more than three users."""

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        if len(history) > 3:
            raise MemoryError
        items = torch.zeros(len(history), n, dtype=torch.int64)
        items[:, 0] = 1
        return Ranking(items, torch.zeros(items.shape).masked_fill(items == 0, -torch.inf))


def test_metrics_get_batches_that_fit_into_memory() -> None:
    """The ranking halves 7 users to 3; a metric that calls the recommender on 7 would fail again."""
    user, spec = torch.arange(1, 11), Evaluate(cutoffs=(1,), batch_size=7)
    batches = [SequenceBatch(user[part], user[part].unsqueeze(1), torch.ones_like(user[part])) for part in (slice(0, 7), slice(7, 10))]
    result = evaluate(Small(), batches, spec)
    assert result.batch_size == 3

    def seen(users: Tensor) -> Tensor:
        return users.unsqueeze(1)

    evaluated = evaluated_of(result, spec, torch.ones(21, dtype=torch.int64), pd.DataFrame, pd.DataFrame(), Small(), batches, seen)
    assert [len(batch.user) for batch in evaluated.batches] == [3, 3, 1, 3]
    again = evaluated.by_user(lambda batch: evaluated.recommender.recommend(batch.history, 1).items)
    assert torch.equal(again, evaluated.items)
    assert evaluated.history_length.tolist() == [1] * 10


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "home"))
    return tmp_path


def row(*metrics: object) -> Experiment:
    """Return ItemKNN on the cyclic world, with further metrics."""
    return replace(cyclic(), policy=ItemKNN(), evaluate=Evaluate(cutoffs=(1, 10), metrics=metrics))  # type: ignore[arg-type]


def test_an_evaluation_stores_values_counts_and_means(home: Path) -> None:
    """Every value per user is stored; its mean over the counted users is the metric. Earlier metrics stay as they were."""
    plain, more = (pipeline.run(each)["evaluate"].folder for each in (row(), row(*BEYOND_ACCURACY)))
    before, means, counts = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (plain / "metrics.json", more / "metrics.json", more / "user_counts.json")
    )
    table = pd.read_parquet(more / "user_metrics.parquet")
    assert set(means) - set(before) == {"ild@10", "overlap@10", "hit_rate@1[20 candidates]"}
    assert {name: means[name] for name in before} == before
    assert table["user"].tolist() == list(range(1, 101))
    assert list(table.columns[1:]) == list(counts)
    assert set(table.dtypes[1:].astype(str)) == {"float64"}
    for name in counts:
        assert means[name] == pytest.approx(table[name].mean(), abs=1e-12)
        assert counts[name] == table[name].notna().sum()
    assert means["overlap@10"] == 1
    assert "valid_share" not in means


def test_a_policy_has_a_share_of_valid_semantic_ids(home: Path) -> None:
    experiment = replace(cyclic(steps=2), evaluate=Evaluate(cutoffs=(1, 10)))
    folder = pipeline.run(experiment)["evaluate"].folder
    table = pd.read_parquet(folder / "user_metrics.parquet")
    assert set(table["valid_share"]) <= {0.0, 1.0}
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["valid_share"] == table["valid_share"].mean()


OWN = """
from dataclasses import dataclass

import torch

FACTOR = 1.0


@dataclass(frozen=True)
class Own:
    scale: float = 1.0

    def measure(self, evaluated):
        return {"own": FACTOR * self.scale * evaluated.rank.double()}
"""


def test_metrics_and_their_code_are_in_the_key(home: Path) -> None:
    """The class, its fields, its code and the code that it uses; nothing is trained again."""
    source, keys = home / "own.py", {}
    for name, text in {"first": OWN, "comment": f"# a comment\n{OWN}", "edited": OWN.replace("FACTOR = 1.0", "FACTOR = 2.0")}.items():
        source.write_text(text, encoding="utf-8")
        keys[name] = pipeline.plan(row(loading.component(f"{source}:Own", reuse=False)))[-1].key
    keys |= {"none": pipeline.plan(row())[-1].key, "more": pipeline.plan(row(CandidateHitRate()))[-1].key}
    keys["other"] = pipeline.plan(row(CandidateHitRate(seed=1)))[-1].key
    assert keys["first"] == keys["comment"]
    assert len(set(keys.values())) == len(keys) - 1
    trained = [pipeline.plan(replace(cyclic(), evaluate=each.evaluate))[:-1] for each in (row(), row(CandidateHitRate()))]
    assert trained[0] == trained[1]


def test_an_error_of_a_metric_names_its_line(home: Path) -> None:
    source = home / "failing.py"
    source.write_text(OWN.replace("return {", "return evaluated.nothing, {"), encoding="utf-8")
    component = loading.component(f"{source}:Own")
    with pytest.raises(InputError, match=r"Own \(.*failing\.py:9\) raised AttributeError.* at .*failing\.py:14 in stage evaluate"):
        pipeline.run(row(component))


def test_the_command_line_reaches_the_fields_of_metrics(home: Path) -> None:
    flags = ["--evaluate.metrics.2.num-candidates", "5", "--evaluate.metrics.1.baseline.num-neighbors", "7"]
    (changed,) = override([row(*BEYOND_ACCURACY)], flags)
    assert changed.evaluate.metrics == (BEYOND_ACCURACY[0], ListOverlap(ItemKNN(num_neighbors=7)), CandidateHitRate(num_candidates=5))
    assert override([row()], ["--evaluate.batch-size", "3"])[0].evaluate == replace(row().evaluate, batch_size=3)
    with pytest.raises(UsageError, match="num_candidates must be at least 2"):
        override([row(*BEYOND_ACCURACY)], ["--evaluate.metrics.2.num-candidates", "1"])


def test_the_public_metrics_are_values_of_an_experiment() -> None:
    assert [type(each) for each in BEYOND_ACCURACY] == [IntraListDistance, ListOverlap, CandidateHitRate]
    experiment = Experiment(name="x", source=Shop(), evaluate=Evaluate(metrics=BEYOND_ACCURACY))
    assert experiment.evaluate.metrics == BEYOND_ACCURACY
    with pytest.raises(UsageError, match="min_df"):
        Experiment(name="x", source=Shop(), evaluate=Evaluate(metrics=(IntraListDistance(TfidfSvd(min_df=0)),)))
