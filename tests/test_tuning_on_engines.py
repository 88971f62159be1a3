"""`genrec tune --on`: rounds of trials in workers have the results of the same rounds in one process, also if a worker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_sweeps import Inline, Unused
from worlds import cyclic

from genrec import live_runs, studies, trial_search, trials, tuner, tuning_record
from genrec.__main__ import main
from genrec.baselines import ItemKNN
from genrec.engines import engine_of
from genrec.engines.task_reports import lost
from genrec.errors import UsageError, WorkerError
from genrec.experiment import Validation
from genrec.tuning import Choice, Distribution, IntUniform, LogUniform, Tuning, Uniform
from genrec.tuning_record import Record, Trial

PROJECT = Path(__file__).parents[1]
RATE = "sft.optimization.learning_rate"
SPACE: dict[str, Distribution] = {RATE: LogUniform(1e-4, 1e-1), "policy.dropout": Choice((0.0, 0.1))}


def sft(**changes: Any) -> Tuning:
    base = cyclic(steps=4)
    return Tuning(
        experiment=replace(base, sft=replace(base.sft, validation=Validation(every=2))),
        space=SPACE,
        **({"trials": 4, "round_size": 2} | changes),
    )


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("optuna")
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


def summary(record: Record) -> list[tuple[object, ...]]:
    return [(each.number, each.values, each.state, each.score, each.curve, each.settings, each.known) for each in record.trials]


def titles(engine: Inline) -> list[str]:
    """Return the titles of the tasks of an engine, which all end with the seed of the tuning."""
    assert all(title.endswith(" (seed 1000)") for title in engine.titles)
    return [title.removesuffix(" (seed 1000)") for title in engine.titles]


def test_a_round_on_an_engine_has_the_trials_of_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shared stages are built once, and the sampler knows no trial of the same round."""
    engine = Inline()
    found = tuner.tune(sft(), "own", engine=engine)
    assert titles(engine) == [
        "data of trial 1 of own", "embed of trial 1 of own", "tokenize of trial 1 of own",
        "sft of trial 1 of own", "sft of trial 2 of own", "sft of trial 3 of own", "sft of trial 4 of own",
    ]  # fmt: skip
    assert [each.known for each in found.trials] == [None, 0, None, 2]
    assert all(each.state == "finished" and each.seconds > 0 and list(each.curve) == [0, 2, 4] for each in found.trials)
    assert summary(tuning_record.read(found.path)) == summary(found)
    assert live_runs.read_all() == ([], [])
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "plain"))
    assert summary(tuner.tune(sft(), "own")) == summary(found)


def test_the_order_in_which_trials_end_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that take the trials of a round backwards: the next round is the same."""
    monkeypatch.setattr(trials, "score", lambda experiment, *_: experiment.policy.dropout + experiment.sft.optimization.learning_rate)

    class Backwards(Inline):
        def submit(self, tasks: Sequence[Any]) -> list[Any]:
            return super().submit(tasks[::-1])[::-1]

    there, back = tuner.tune(sft(trials=9, round_size=3), "a", engine=Inline()), Backwards()
    assert summary(tuner.tune(sft(trials=9, round_size=3), "b", engine=back)) == summary(there)
    assert titles(back)[:3] == [f"sft of trial {number} of b" for number in (3, 2, 1)]


def test_artifacts_of_waiting_trials_are_used() -> None:
    """Those of trials that are finished are not: a tuning keeps their scores."""
    engine = Unused(Inline(), [])
    tuner.tune(sft(trials=2), "own", engine=engine)
    assert len(engine.pool.titles) == 5
    assert engine.seen == []


def test_a_lost_worker_leaves_its_trial_to_the_same_command(home: Path) -> None:
    class LosesTheThird(Inline):
        def submit(self, tasks: Sequence[Any]) -> list[Any]:
            self.broken = {"sft": lost("killed")} if any("trial 3" in task.title for task in tasks) else {}
            first, later = tasks[:1], tasks[1:]
            found = super().submit(first)
            self.broken = {}
            return found + super().submit(later)

    with pytest.raises(WorkerError, match="killed"):
        tuner.tune(sft(), "own", engine=LosesTheThird())
    (stored,) = tuning_record.read_all()
    assert [each.state for each in stored.trials] == ["finished", "finished", "running", "finished"]
    engine = Inline()
    found = tuner.tune(sft(), "own", engine=engine)
    assert titles(engine) == ["sft of trial 3 of own"]
    assert summary(found) == summary(tuner.tune(sft(), "other"))


def test_a_stage_that_fails_leaves_its_trials_to_the_same_command() -> None:
    with pytest.raises(WorkerError, match="out of memory"):
        tuner.tune(sft(), "own", engine=Inline(tokenize=lost("out of memory")))
    (stored,) = tuning_record.read_all()
    assert [each.state for each in stored.trials] == ["running", "running"]


def test_trials_of_a_round_are_not_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def below(scores: Sequence[float], others: Sequence[Trial]) -> bool:
        seen.append(len(others))
        return len(others) == 2 and len(scores) == 2

    monkeypatch.setattr(trials, "is_below_median", below)
    found = tuner.tune(sft(), "own", engine=Inline())
    assert [each.state for each in found.trials] == ["finished", "finished", "pruned", "pruned"]
    assert set(seen) == {0, 2}


def test_an_interrupted_trial_has_the_curve_of_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of a trial in a worker has no curve yet: what it had before the interruption counts for the median rule."""
    saved = [{"step": 0, "validation_ndcg@10": 0.25, "loss": 2.0}, {"step": 1, "loss": 1.0}, {"step": 2, "validation_ndcg@10": 0.5}]
    monkeypatch.setattr(trials.checkpoint, "saved_rows", lambda folder: saved)
    curves: list[list[float]] = []

    def score(experiment: object, stage: str, trial: Trial, on_row: Any, *_: object) -> float:
        on_row({"step": 4, "validation_ndcg@10": 0.125})
        return 0.5

    monkeypatch.setattr(trials, "score", score)
    monkeypatch.setattr(trials, "is_below_median", lambda scores, others: curves.append(list(scores)) or False)
    tuner.tune(sft(trials=1), "own", engine=Inline())
    assert curves == [[0.25, 0.5, 0.125]]


def test_waiting_trials_are_counted_as_tried_but_have_no_result() -> None:
    """By hand: of four settings three are tried, one of them without a result; the fourth one is left, then the space is exhausted."""
    space: dict[str, Distribution] = {"policy.dropout": Choice((0.0, 0.1)), "policy.num_encoder_layers": IntUniform(1, 2)}
    tuning = Tuning(experiment=cyclic(), space=space)
    settings = [{"policy.dropout": rate, "policy.num_encoder_layers": layers} for rate in (0.0, 0.1) for layers in (1, 2)]
    known = [Trial(number, settings[number], "finished", {0: 0.5}, 0.5) for number in range(2)]
    waiting = [Trial(2, settings[2])]
    found = trial_search.propose(tuning, known, waiting)
    assert found == settings[3] == trial_search.propose(tuning, known, waiting)
    assert trial_search.is_exhausted(tuning, [*known, *waiting, Trial(3, found)])


def test_the_estimator_follows_the_values_of_waiting_trials() -> None:
    """With the same seed and the same results: a trial that waits near the best one so far moves the proposal away from there."""
    tuning = Tuning(experiment=cyclic(), space={"policy.dropout": Uniform(0.0, 0.9)})
    places = (0.1, 0.19, 0.2, 0.21, 0.5, 0.8)
    known = [Trial(number, {"policy.dropout": x}, "finished", {0: 0.0}, 1 - abs(x - 0.2)) for number, x in enumerate(places)]

    def proposed(waiting: float) -> float:
        return float(trial_search.propose(tuning, known, [Trial(6, {"policy.dropout": waiting})])["policy.dropout"])

    near, far = proposed(0.201), proposed(0.9)
    assert abs(near - 0.2) > abs(far - 0.2)
    assert far == proposed(0.9)


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_a_cluster_needs_the_size_of_a_round(name: str) -> None:
    engine = engine_of(name)
    with pytest.raises(UsageError, match="need --round-size N"):
        tuner.round_size_of(sft(round_size=None), engine)
    assert tuner.round_size_of(sft(round_size=5), engine) == 5
    assert tuner.round_size_of(sft(round_size=None), engine_of("local:3")) == 3
    assert tuner.round_size_of(sft(round_size=None), None) == 1


def test_a_baseline_is_tuned_on_an_engine() -> None:
    tuning = Tuning(
        experiment=replace(cyclic(), policy=ItemKNN()), space={"policy.num_neighbors": IntUniform(1, 30)}, trials=3, round_size=3
    )
    engine = Inline()
    found = tuner.tune(tuning, "knn", engine=engine)
    assert titles(engine) == [f"data of trial {number} of knn" for number in (1, 2, 3)]
    assert summary(found) == summary(tuner.tune(tuning, "plain"))


MINE = """
from dataclasses import replace
import signal_at_step
from genrec.experiment import Validation
from genrec.tuning import LogUniform, Tuning
from worlds import cyclic

signal_at_step.install()

def sft():
    base = cyclic(steps=6)
    experiment = replace(base, sft=replace(base.sft, validation=Validation(every=2)))
    return Tuning(experiment=experiment, space={"sft.optimization.learning_rate": LogUniform(1e-3, 1e-2)}, trials=6)
"""


def run_command(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the tuning of `MINE` in a folder with a data folder `data`, with one thread."""
    (folder / "mine.py").write_text(MINE)
    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    environment = os.environ | {"GENREC_HOME": str(folder / "data"), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "genrec", "tune", "mine.py:sft", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def result(folder: Path) -> tuple[list[tuple[object, ...]], dict[str, bytes]]:
    """Return the trials and the weights."""
    record = tuning_record.read(next((folder / "data" / "studies").glob(f"[!.]*{studies.TUNING}")))
    weights = {path.parent.name: path.read_bytes() for path in (folder / "data" / "artifacts").glob("sft/[!.]*/policy.safetensors")}
    return summary(record), weights


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tuple[object, ...]], dict[str, bytes]]:
    """The tuning in one process, two trials in a round."""
    folder = tmp_path_factory.mktemp("plain")
    found = run_command(folder, "--round-size", "2")
    assert found.returncode == 0, found.stderr
    return result(folder)


@pytest.mark.slow
def test_two_workers_repeat_the_tuning_of_one_process(plain: object, tmp_path: Path) -> None:
    """All six trials; the best one is printed with its command, and nothing is left of the workers' records."""
    found = run_command(tmp_path, "--on", "local:2")
    assert found.returncode == 0, found.stderr
    assert result(tmp_path) == plain
    assert "6 of at most 6 trials, 2 at a time" in found.stdout
    assert not list((tmp_path / "data" / "runs" / "running").glob("[!.]*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_tuning_goes_on(plain: object, tmp_path: Path, number: signal.Signals) -> None:
    """A worker is killed, or the command gets Ctrl-C or SIGTERM, in step 3 of a trial; the same command has the same trials."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"signal-{int(number)}").touch()
    first = run_command(tmp_path, "--on", "local:2")
    assert first.returncode == {signal.SIGKILL: 1, signal.SIGINT: 130, signal.SIGTERM: 143}[number], first.stderr
    assert ("was killed in sft of trial " in first.stderr) == (number == signal.SIGKILL)
    again = run_command(tmp_path, "--on", "local:2")
    assert again.returncode == 0, again.stderr
    assert "SFT: resuming from step" in again.stderr
    assert result(tmp_path) == plain


def test_a_command_line_runs_trials_on_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The workers load the file and the overrides themselves: their keys are those of the command."""
    (tmp_path / "own.py").write_text(
        "from test_tuning_on_engines import sft as tuned\n\ndef sft():\n    return tuned(round_size=None)\n"
    )
    monkeypatch.chdir(tmp_path)
    engine = Inline()
    monkeypatch.setattr("genrec.engines.engine_of", lambda text: engine)
    assert main(["tune", "own.py:sft", "--on", "local:2"]) == 2  # `Inline` tells no number of workers
    assert "--round-size" in capsys.readouterr().err
    assert main(["tune", "own.py:sft", "--on", "local:2", "--round-size", "2", "--trials", "2", "--policy.num-heads", "1"]) == 0
    assert titles(engine)[-2:] == ["sft of trial 1 of own.py:sft", "sft of trial 2 of own.py:sft"]
    assert main(["tune", "own.py:sft", "--round-size", "0"]) == 2
    assert "round_size must be an integer of 1 or more, got 0" in capsys.readouterr().err
