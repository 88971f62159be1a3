"""Peers of the policies over items: both sides get the same events, targets and settings, and ranks are compared by user."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from genrec import pipeline
from genrec.baselines import GBCE, GRU4Rec, SampledSoftmax, SASRec
from genrec.data.corpus import Corpus
from genrec.data.examples import examples
from genrec.testing import Cyclic

FOLDER = Path(__file__).parents[2] / "experiments" / "benchmarks" / "peers"
WORLD = Cyclic(num_items=40, num_users=100, length=30)


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look up their module, and the scripts import each other
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def export() -> ModuleType:
    return load("export")


@pytest.fixture(scope="module")
def driver(export: ModuleType) -> ModuleType:
    return load("item_policies")


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path_factory.getbasetemp() / "peers"))


@pytest.mark.usefixtures("home")
def test_the_peer_gets_the_events_of_the_experiment(export: ModuleType, driver: ModuleType, tmp_path: Path) -> None:
    """All events by user in their order, each in its part; the test events are the targets of the evaluation."""
    artifact = pipeline.run(driver.experiment_of("row", driver.ROWS["sasrec"], WORLD, 100), last="data")["data"].folder
    data, corpus = export.write_parts(artifact, tmp_path), Corpus.load(artifact)
    parts = {part: export.read_part(data, part) for part in export.PARTS}
    events = np.concatenate(list(parts.values()))
    events = events[events[:, 2].argsort()]
    assert events[:, :2].tolist() == corpus.interactions[["user", "item"]].to_numpy().tolist()
    assert {part: len(rows) for part, rows in parts.items()} == {part: len(corpus.part(part)) for part in export.PARTS}
    test = examples(corpus, "test", 20)
    batch = test.batch(torch.arange(len(test)))
    assert parts["test"][:, :2].tolist() == [list(row) for row in zip(batch.user.tolist(), batch.target.tolist(), strict=True)]
    assert export.item_count(data) == 40

    driver.write_windows(artifact, data)
    windows = export.read_part(data, "windows")
    counted = windows[windows[:, 3] == 1]
    assert len(counted) == len(parts["train"]) - corpus.user_count  # every training event but a user's first, once
    lengths = np.bincount(windows[:, 0])
    assert lengths.max() == 21  # 20 items and the target of the last one
    first = windows[windows[:, 0] == 0]
    assert first[:, 1].tolist() == parts["train"][parts["train"][:, 0] == 1][: len(first), 1].tolist()


@pytest.mark.usefixtures("home")
def test_own_ranks_give_the_metrics_of_the_evaluation(export: ModuleType, driver: ModuleType) -> None:
    row = replace(driver.ROWS["gru4rec"], epochs=2, width=8, hidden=8)
    folder = pipeline.run(driver.experiment_of("row", row, WORLD, 2000))["evaluate"].folder
    expected = json.loads((folder / "metrics.json").read_text())
    ranks = export.own_ranks(folder)
    for metric in driver.METRICS:
        found = export.compare([ranks], [ranks], metric)
        assert found.ours == pytest.approx(expected[metric], abs=1e-7)
        assert (found.users, found.difference, found.within_two) == (100, 0.0, True)


def test_the_comparison_by_hand(export: ModuleType) -> None:
    """NDCG@10 of the ranks 1 and 3 is 1 and 1/2, of 0 and 11 it is 0.

    User 1: (1 + 1/2) / 2 - (0 + 0) / 2 = 0.75. User 2: 0 - (1 + 1/2) / 2 = -0.75. User 3: 1 - 1 = 0. The mean is 0, the deviation
    0.75, the standard error 0.75 / sqrt(3).
    """
    ours, peer = [{1: 1, 2: 0, 3: 1}, {1: 3, 2: 11, 3: 1}], [{1: 0, 2: 1, 3: 1}, {1: 11, 2: 3, 3: 1}]
    found = export.compare(ours, peer, "ndcg@10")
    assert found[:4] == (3, pytest.approx(1.75 / 3), pytest.approx(1.75 / 3), pytest.approx(0.0))
    assert found.standard_error == pytest.approx(0.75 / math.sqrt(3))
    assert found.within_two
    users = range(1, 101)
    far = export.compare([dict.fromkeys(users, 1)], [{user: user % 10 for user in users}], "recall@10")
    assert (far.difference, far.within_two) == (pytest.approx(0.1), False)  # 10 of 100 missed: 0.1 > 2 x 0.3015 / 10
    with pytest.raises(SystemExit, match="the sides rank other users"):
        export.compare([{1: 1}], [{2: 1}], "ndcg@10")


def test_ranks_count_better_items_and_equal_ones_with_a_lower_id(export: ModuleType) -> None:
    """Scores of items 1..4: for the target 3, item 4 is better and item 1 equal with a lower id; item 2 is worse."""
    scores = np.array([[0.5, 0.1, 0.5, 0.9], [0.5, 0.1, 0.5, 0.9]])
    assert export.ranks_of(scores, np.array([3, 1])).tolist() == [3, 2]


def test_ranks_and_versions_are_read_back(export: ModuleType, tmp_path: Path) -> None:
    export.write_ranks(tmp_path, [2, 1], [5, 0], ["numpy"])
    assert export.read_ranks(tmp_path / "ranks.tsv") == {2: 5, 1: 0}
    assert json.loads((tmp_path / "versions.json").read_text())["numpy"] == np.__version__


def test_the_error_of_a_failed_peer_is_shown(export: ModuleType, tmp_path: Path) -> None:
    """The peer fails, since RecBole is missing or the folder has no data, and its error is part of the message."""
    with pytest.raises(SystemExit, match=r"(?s)the peer failed with this error:.*Error"):
        export.run_peer(Path(sys.executable), "recbole_models.py", tmp_path / "data", tmp_path / "out", {"seed": 0})


def test_both_sides_have_the_settings_of_the_row(driver: ModuleType) -> None:
    rows = driver.ROWS
    assert driver.policy_of(rows["sasrec"]) == SASRec(d_model=32, d_ff=32, num_layers=1, dropout=0.2, max_positions=20)
    assert driver.policy_of(rows["gru4rec"]) == GRU4Rec(d_model=32, hidden_size=64, dropout=0.2)
    assert driver.policy_of(rows["gsasrec"]).loss == GBCE(64, 0.75)
    assert driver.policy_of(rows["sampled"]).loss == SampledSoftmax(64)
    recipe = driver.experiment_of("row", rows["gsasrec"], WORLD, 640).sft
    assert (recipe.objective.targets, recipe.optimization.max_steps, recipe.validation.every) == ("all", 160, 160)
    assert driver.settings_of(rows["gsasrec"], 3).items() >= {"seed": 3, "epochs": 16, "negatives": 64, "history": 20}.items()


def test_the_recorded_rows_agree_with_their_peers() -> None:
    """The record that the page shows: every row within two standard errors over users, in both metrics."""
    record = json.loads((FOLDER.parents[1] / "results" / "item-policy-peers.json").read_text())
    assert {"sasrec", "gru4rec", "gsasrec"} <= set(record["rows"])
    assert all(each["largest_difference"] < 1e-12 for each in record["losses"].values())
    for row in record["rows"].values():
        for metric in ("ndcg@10", "recall@10"):
            found = row[metric]
            assert abs(found["difference"] - (found["ours"] - found["peer"])) < 2e-5
            assert found["within_two"] == (abs(found["difference"]) <= 2 * found["standard_error"])
            assert found["within_two"]
