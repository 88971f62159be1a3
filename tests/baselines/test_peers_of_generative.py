"""RPG and TIGER beside cornac's, without cornac: the length of the trainings, the peer's data and ranks, and the table."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from worlds import cyclic

from genrec import pipeline
from genrec.data.splits import LeaveOneOut
from genrec.model import RPG, Tiger
from genrec.objectives import Supervised

PEERS = Path(__file__).parents[2] / "experiments" / "benchmarks" / "peers"


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(PEERS.parents[1]))
    monkeypatch.syspath_prepend(str(PEERS))
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "home"))


@pytest.fixture
def driver(paths: None) -> ModuleType:
    return importlib.import_module("generative")


@pytest.fixture
def own(paths: None) -> ModuleType:
    return importlib.import_module("generative_genrec")


@pytest.fixture
def peer(paths: None) -> ModuleType:
    return importlib.import_module("cornac_generative")


def test_the_peers_plan_uses_all_of_the_seconds(peer: ModuleType) -> None:
    """Steps of 0.5 s, 40 an epoch: an epoch takes 20 s. 50 s are 2.5 epochs of 100 steps, 10 of them warm-up.

    400 s are 20 epochs, of which validation takes a tenth: 18 epochs, a validation every second one, 9 in all. A user takes 0.1 s, so
    40 s are 400 users, 44 in each validation.
    """
    assert peer.plan(50, 0.5, 40, 0.1) == (3, 1, 0, 10, True)
    assert peer.plan(10, 0.5, 40, 0.1) == (1, 1, 0, 2, False)
    assert peer.plan(400, 0.5, 40, 0.1) == (18, 2, 44, 80, True)
    assert peer.plan(400, 0.5, 40, 1e-4).users == peer.VALIDATION_USERS
    arguments = {"n_epochs": 3, "val_eval_every": 1, "val_sample": 0, "warmup_steps": 10, "model_selection": "last"}
    assert peer.arguments_of(peer.plan(50, 0.5, 40, 0.1)) == arguments
    assert peer.arguments_of(peer.plan(10, 0.5, 40, 0.1))["lr_schedule"] == "constant"
    assert "model_selection" not in peer.arguments_of(peer.plan(400, 0.5, 40, 0.1))


def test_sessions_of_windows_have_each_target_once(peer: ModuleType) -> None:
    assert list(peer.cut([1, 2, 3, 4, 5, 6], 2)) == [[1, 2, 3], [3, 4, 5], [5, 6]]
    assert list(peer.cut([1, 2, 3], 2)) == [[1, 2, 3]]
    assert list(peer.cut([1, 2, 3], None)) == [[1, 2, 3]]
    assert list(peer.cut([1], 2)) == []
    assert peer.rows([(7, [3, 1]), (8, [2])]) == [("7", "0", "3", 0), ("7", "0", "1", 1), ("8", "1", "2", 0)]
    assert peer.by_user(np.array([[1, 5, 0], [1, 4, 1], [2, 5, 0]])) == {1: [5, 4], 2: [5]}


def test_the_steps_of_the_peers_epoch(peer: ModuleType) -> None:
    """Sessions of 1, 3 and 7 items, histories of 4: TIGER has 2 + 6 rows, RPG one for the short session and 7 - 4 for the long one."""
    model = SimpleNamespace(max_len=4, batch_size=3)
    assert peer.steps_of_epoch("TIGER", [1, 3, 7], model) == 3
    assert peer.steps_of_epoch("RPG", [1, 3, 7], model) == 2


def steps_under(clock: Any, most: int) -> int:
    """Train a weight for at most this number of steps under a clock, and return the steps taken."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)

    def train(number: int) -> None:
        for _ in range(number):
            weight.grad = torch.ones(1)
            optimizer.step()

    clock.around(train)(most)
    return -int(weight.item())


def test_the_clock_ends_a_training_and_leaves_others_alone(peer: ModuleType) -> None:
    limited = peer.Clock(most_steps=3)
    assert steps_under(limited, 10) == 3
    assert len(limited.steps) == 3
    assert limited.step_seconds == pytest.approx((limited.steps[2] - limited.steps[0]) / 2)
    assert steps_under(peer.Clock(most_seconds=0.0), 10) == 1  # the step that is over the limit counts
    free = peer.Clock()
    assert steps_under(free, 10) == len(free.steps) == 10
    assert free.seconds >= free.steps[-1] - free.began
    assert len(limited.steps) == 3  # its hook is gone


def test_the_codes_of_a_trial_are_taken_again(peer: ModuleType) -> None:
    class RPG:
        """cornac's way of fitting, in small."""

        def _opq_tokenize(self, vectors: int) -> list[int]:
            return [vectors]

        def _fit_backbone(self, rows: int) -> None:
            self.trained = rows

        def fit(self, train: int, validation: int) -> None:
            self.codes = self._opq_tokenize(train)
            self._fit_backbone(validation)

    evaluation = SimpleNamespace(train_set=5, val_set=6)
    first, again = RPG(), RPG()
    codes, seconds = peer.fit(first, evaluation, peer.Clock())
    assert (codes, first.codes, first.trained) == ([5], [5], 6)
    assert seconds >= 0
    peer.fit(again, evaluation, peer.Clock(), [9])
    assert again.codes == [9]
    assert vars(again) == {"codes": [9], "trained": 6}  # the class's methods are back, so that it can be saved


def test_the_peers_ranks_follow_its_item_numbers(peer: ModuleType, tmp_path: Path) -> None:
    """cornac numbers the items 1, 2, 3 as 2, 0, 1. Scores by its numbers are 0.2, -1e10, 0.7: item 1 is first, item 2 second."""
    (tmp_path / "catalog.json").write_text(json.dumps({"items": 3}))
    (tmp_path / "train.tsv").write_text("user\titem\ttime\n1\t3\t0\n1\t2\t1\n")
    seen: list[tuple[int, list[int]]] = []

    def score(user: int, history: list[int]) -> np.ndarray:
        seen.append((user, history))
        return np.array([0.2, -1e10, 0.7])

    model = SimpleNamespace(iid_map={"1": 2, "2": 0, "3": 1}, score=score)
    targets = np.array([[1, 1, 2], [1, 2, 2], [1, 3, 2]])
    assert peer.ranks(model, tmp_path, targets, ("train",)).tolist() == [1, 2, 0]
    assert seen == [(1, [1, 0])] * 3


def test_the_steps_of_genrec_that_fit(own: ModuleType) -> None:
    """5 steps and a validation take 1 s, 20 and a validation 2.5 s: a step 0.1 s, a validation 0.5 s. 10 s leave 3 s for steps."""
    short, long = own.Trial(1.0, 9.0), own.Trial(2.5, 2.0)
    assert own.steps_that_fit(10.01, short, long) == 30
    with pytest.raises(SystemExit, match=r"10 validations of 0\.5 s leave no time to train; raise --seconds"):
        own.steps_that_fit(7.5, short, long)


def test_the_recipes_have_the_protocol(own: ModuleType) -> None:
    for data in ("movielens", "beauty"):
        rpg, tiger = own.recipe(data, "RPG", Path("data")), own.recipe(data, "TIGER", None)
        assert isinstance(rpg.policy, RPG)
        assert not rpg.policy.item_embedding
        assert isinstance(tiger.policy, Tiger)
        for row in (rpg, tiger):
            assert (row.split, row.history_length, row.evaluate.scoring) == (LeaveOneOut(), 20, "exact")
            assert not row.evaluate.filter_seen
        assert (rpg.source.path, tiger.source.path) == (Path("data"), None)
    shorter = own.with_steps(own.recipe("movielens", "TIGER", None), 400, 40).sft  # 100 of 4,000 steps of the recipe are warm-up
    assert (shorter.optimization.max_steps, shorter.optimization.warmup_steps) == (400, 10)
    assert (shorter.validation.every, shorter.validation.patience) == (40, None)


def world(data: str, model: str, path: Path | None) -> Any:
    base = cyclic()
    assert isinstance(base.policy, Tiger)
    return replace(
        base,
        name="peers",
        policy=replace(base.policy, encoder="causal"),
        sft=replace(base.sft, objective=Supervised(targets="all")),
        history_length=20,
        evaluate=replace(base.evaluate, scoring="exact"),
    )


def test_genrecs_side_is_the_pipeline(own: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "recipe", world)
    trial = own.measured(world("", "", None), 1)
    assert min(trial) > 0
    monkeypatch.setattr(own, "measured", lambda _, steps: own.Trial({own.SHORT: 1.0, own.LONG: 2.5}[steps], 2.0))
    figures = own.own_side("", "", None, 10.11)
    metrics = json.loads((pipeline.run(own.with_steps(world("", "", None), 31, 3))["evaluate"].folder / "metrics.json").read_text())
    assert figures["steps"] == 31
    assert [user for user, _ in figures["ranks"]] == list(range(1, 101))
    found = np.mean([own.export.gain(rank, "ndcg@10") for _, rank in figures["ranks"]])
    assert found == pytest.approx(metrics["ndcg@10"], abs=1e-7)
    assert 0 <= figures["validation"] <= 1
    assert figures["epochs"] == pytest.approx(31 * 64 / 100)  # 100 users with eight training items each: a window each


@pytest.fixture
def asked(driver: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """Replace cornac: the second setting is better on validation, and its rank is 2 for every test user."""
    calls: list[Mapping[str, Any]] = []

    def run_peer(
        python: Path, script: str, data: Path, out: Path, settings: Mapping[str, Any]
    ) -> tuple[dict[int, int], dict[str, str]]:
        assert (PEERS / script).is_file()
        assert np.load(data / "vectors.npy").shape == (40, 16)
        calls.append(settings)
        out.mkdir(parents=True, exist_ok=True)
        (out / "training.json").write_text('{"tokenizer_seconds": 1, "seconds": 9, "steps": 1200, "epochs": 1.5, "peak_mb": 900}')
        if settings["task"] == "rank":
            return dict.fromkeys(range(1, 101), 2), {}
        return dict.fromkeys(range(1, 101), 1 if len(calls) == 2 else 5), {"cornac": "3.0.1"}

    monkeypatch.setattr(driver, "recipe", world)
    monkeypatch.setattr(driver.export, "run_peer", run_peer)
    return calls


def test_validation_chooses_the_setting_that_is_ranked_on_test(
    driver: ModuleType, asked: list[Mapping[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = argparse.Namespace(data="movielens", path=None, seconds=9.0, scoring="exact", shipped=True)
    ours = {"tokenizer_seconds": 2, "seconds": 8.7, "steps": 70, "epochs": 3.2, "peak_mb": 700.4, "validation": 0.5}
    place = tmp_path / "movielens-RPG" / "genrec.json"
    place.parent.mkdir()
    ranks = [[user, 1 if user <= 50 else 0] for user in range(1, 101)]
    place.write_text(json.dumps(ours | {"ranks": ranks, "asked": {"data": "movielens", "model": "RPG", "seconds": 9.0}}))
    table = driver.lines(options, "RPG", Path("python"), tmp_path)
    assert [call["task"] for call in asked] == ["train", "train", "train", "rank"]
    assert asked[3]["name"] == asked[1]["name"] == "RPG_CONFIG, genrec's size, 0.01"
    assert (asked[1]["changes"]["learning_rate"], asked[2]["changes"], asked[2]["sessions"]) == (1e-2, {}, "whole")
    rest = "1 | 9 | 1.5 | 1,200 | 900 |"
    assert table == [
        "| RPG | genrec | the recipe | 0.5000 | 0.5000 | 0.5000 | 2 | 9 | 3.2 | 70 | 700 |",
        f"| RPG | cornac | RPG_CONFIG, genrec's size, 0.002 | not ranked | not ranked | 0.3869 | {rest}",  # 1 / log2(6)
        f"| RPG | cornac | RPG_CONFIG, genrec's size, 0.01 | 0.6309 | 1.0000 | 1.0000 | {rest}",  # 1 / log2(3)
        f"| RPG | cornac | RPG_CONFIG as shipped | not ranked | not ranked | 0.3869 | {rest}",
    ]
    assert driver.lines(options, "RPG", Path("python"), tmp_path) == table
    assert len(asked) == 4  # nothing is run again
    other = argparse.Namespace(**{**vars(options), "shipped": False})
    assert len(driver.lines(other, "RPG", Path("python"), tmp_path)) == 3
    capsys.readouterr()


def test_other_users_are_an_error(driver: ModuleType, asked: list[Mapping[str, Any]], tmp_path: Path) -> None:
    options = argparse.Namespace(data="movielens", path=None, seconds=9.0, scoring="exact", shipped=False)
    place = tmp_path / "movielens-TIGER" / "genrec.json"
    place.parent.mkdir()
    ours = {"tokenizer_seconds": 2, "seconds": 8.7, "steps": 70, "epochs": 3.2, "peak_mb": 700.4, "validation": 0.5, "ranks": [[1, 1]]}
    place.write_text(json.dumps(ours | {"asked": {"data": "movielens", "model": "TIGER", "seconds": 9.0}}))
    with pytest.raises(SystemExit, match="the sides rank other users; remove the folder --scratch and run again"):
        driver.lines(options, "TIGER", Path("python"), tmp_path)
