"""`genrec run --on`: shared stages are built once, a failure ends only its rows, and a plain run's results are repeated bit for bit.

Most tests run the tasks of a sweep in this process, one after the other (`Inline`). Two run worker processes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pandas import DataFrame
from preference_stages import stage
from worlds import cyclic

import genrec
from genrec import clean_command, failed_runs, live_runs, pipeline, results, run_experiments, run_files, sweeps
from genrec.__main__ import main
from genrec.baselines import ItemKNN, Popularity
from genrec.engines import Report, Task
from genrec.engines.task_reports import interrupted, lost, perform
from genrec.errors import InputError, NumericsError, UsageError, WorkerError
from genrec.experiment import Experiment
from genrec.preference.negatives import Uniform
from genrec.stage_tasks import Given
from genrec.stored_artifacts import uses
from genrec.sweeps import Sweep
from genrec.testing import Cyclic

PROJECT = Path(__file__).parents[1]
TESTS = str(PROJECT / "tests")


@dataclass(frozen=True)
class Ended:
    """A future of a task that has ended."""

    found: Report

    def done(self) -> bool:
        return True

    def report(self) -> Report:
        return self.found

    def cancel(self) -> None:
        pass


class Inline:
    """An engine and its pool: each task runs in this process when it is submitted. `broken` gives tasks other reports."""

    def __init__(self, **broken: Report) -> None:
        self.broken = broken
        self.titles: list[str] = []

    def start(self) -> Inline:
        return self

    def submit(self, tasks: Sequence[Task]) -> list[Ended]:
        self.titles += [task.title for task in tasks]
        return [Ended(self.broken.get(task.title.partition(" ")[0]) or perform(task)) for task in tasks]

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class FailingBaseline:
    """A baseline that can't be fitted."""

    def fit(self, interactions: DataFrame, item_count: int) -> Any:
        raise ZeroDivisionError("no items")


@dataclass(frozen=True)
class LargeCatalog(Popularity):
    """A baseline that refuses the catalog."""

    def check_catalog(self, num_items: int) -> None:
        raise UsageError(f"needs 1,000 items, got {num_items}")


@dataclass(frozen=True)
class RefusedSampler(Uniform):
    """A sampler that refuses the data before SFT begins."""

    def check_context(self, context: object) -> None:
        raise UsageError("these data have no ratings")


def popularity() -> Experiment:
    return replace(cyclic(), name="popular", policy=Popularity())


def itemknn() -> Experiment:
    return replace(popularity(), name="knn", policy=ItemKNN())


def failing() -> Experiment:
    return replace(popularity(), name="failing", policy=FailingBaseline())


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


def sweep(experiments: Sequence[Experiment], engine: Inline, refresh: str | None = None) -> None:
    run_experiments.run(experiments, refresh, sweep=Sweep(engine, Given(tuple(experiments))))


def failures() -> dict[str, tuple[str, str]]:
    return {each.name: (each.stage, each.message) for each in failed_runs.read_all()[0]}


def test_shared_stages_are_built_once_and_all_rows_are_recorded() -> None:
    first = cyclic(steps=2)
    rows = [popularity(), first, replace(first, seed=1)]
    engine = Inline()
    sweep(rows, engine)
    assert engine.titles == [
        "data of popular (seed 0)",
        "evaluate of popular (seed 0)",
        "embed of cyclic (seed 0)",
        "tokenize of cyclic (seed 0)",
        "sft of cyclic (seed 0)",
        "sft of cyclic (seed 1)",
        "evaluate of cyclic (seed 0)",
        "evaluate of cyclic (seed 1)",
    ]
    assert list(run_files.read("cyclic")["seeds"]) == ["0", "1"]
    assert live_runs.read_all() == ([], [])
    again = Inline()
    sweep(rows, again)
    assert again.titles == []


@dataclass(frozen=True)
class Unused:
    """Submits tasks to another pool, after it has noted what `genrec clean --unused` would remove."""

    pool: Inline
    seen: list[str]

    def start(self) -> Unused:
        return self

    def submit(self, tasks: Sequence[Task]) -> list[Ended]:
        self.seen.extend(map(str, clean_command.plan([], uses()).folders))
        return self.pool.submit(tasks)

    def close(self) -> None:
        pass


def test_artifacts_of_waiting_tasks_are_used() -> None:
    """No worker runs while tasks are submitted; the data and the Semantic IDs are done, and no run file has them yet."""
    engine = Unused(Inline(), [])
    rows = [cyclic(steps=2), replace(cyclic(steps=2), seed=1)]
    run_experiments.run(rows, sweep=Sweep(engine, Given(tuple(rows))))
    assert len(engine.pool.titles) == 7
    assert engine.seen == []


def test_a_refresh_rebuilds_this_stage_and_later_ones_once(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [popularity(), itemknn()]
    sweep(rows, Inline())
    engine = Inline()
    sweep(rows, engine, refresh="data")
    assert engine.titles == ["data of popular (seed 0)", "evaluate of popular (seed 0)", "evaluate of knn (seed 0)"]
    assert "seconds per stage: data " in capsys.readouterr().err.splitlines()[-1]
    engine = Inline()
    sweep(rows, engine, refresh="evaluate")
    assert engine.titles == ["evaluate of popular (seed 0)", "evaluate of knn (seed 0)"]


def test_a_failing_stage_fails_its_row_alone(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    with pytest.raises(InputError, match=r"FailingBaseline \(\S+\) raised ZeroDivisionError\('no items'\)"):
        sweep([failing(), popularity(), itemknn()], Inline())
    assert run_files.names_of_rows() == ["knn", "popular"]
    ((name, (stage, message)),) = failures().items()
    assert (name, stage) == ("failing", "evaluate")
    assert "ZeroDivisionError: no items" in message
    printed = capsys.readouterr().err
    assert "failing (seed 0) ended in evaluate: FailingBaseline (" in printed
    assert "2 of 3 experiments finished (popular (seed 0), knn (seed 0)); failing (seed 0) did not" in printed


def test_a_shared_stage_that_fails_ends_all_rows_that_need_it() -> None:
    engine = Inline(embed=Report(kind="NumericsError", message="a vector is nan", exit_code=6))
    first = cyclic(steps=2)
    with pytest.raises(NumericsError, match="a vector is nan"):
        sweep([first, popularity(), replace(first, seed=1)], engine)
    assert {(each.name, each.seed, each.stage) for each in failed_runs.read_all()[0]} == {
        ("cyclic", 0, "embed"),
        ("cyclic", 1, "embed"),
    }
    assert run_files.names_of_rows() == ["popular"]


def test_a_lost_worker_is_recorded_and_the_same_command_goes_on() -> None:
    with pytest.raises(WorkerError, match="was killed"):
        sweep([popularity()], Inline(evaluate=lost("the worker process 7 was killed")))
    assert failures() == {"popular": ("evaluate", "the worker process 7 was killed")}
    engine = Inline()
    sweep([popularity()], engine)
    assert engine.titles == ["evaluate of popular (seed 0)"]
    assert failures() == {}


def test_an_interrupted_worker_is_recorded_as_stopped() -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep([popularity()], Inline(data=interrupted()))
    (failure,), _ = failed_runs.read_all()
    assert (failure.stopped, failure.message) == (True, "interrupted")


def test_a_row_that_refuses_the_data_fails_before_its_first_stage() -> None:
    """The check of one row is not that of the rows that share its stages."""
    engine, refused = Inline(), replace(cyclic(steps=2), name="refused", align=stage(negatives=Uniform()))
    refused = replace(refused, policy=LargeCatalog(), align=None)
    with pytest.raises(UsageError, match="needs 1,000 items, got 40"):
        sweep([refused, popularity()], engine)
    assert engine.titles == ["data of refused (seed 0)", "evaluate of popular (seed 0)"]
    assert failures()["refused"] == ("evaluate", "needs 1,000 items, got 40")


def test_sft_that_an_alignment_refuses_is_trained_for_the_row_without_it() -> None:
    """SFT checks the alignment of its row, which is not part of its key."""
    sft, engine = cyclic(steps=2), Inline()
    refused = replace(sft, name="refused", align=stage(negatives=RefusedSampler()))
    with pytest.raises(UsageError, match="these data have no ratings"):
        sweep([refused, sft], engine)
    assert [title for title in engine.titles if title.startswith("sft")] == ["sft of refused (seed 0)", "sft of cyclic (seed 0)"]
    assert run_files.names_of_rows() == ["cyclic"]
    assert failures() == {"refused": ("sft", "these data have no ratings")}


def test_other_settings_in_a_worker_are_refused() -> None:
    given, other = popularity(), replace(popularity(), source=Cyclic(num_items=30, num_users=50, length=8))
    with pytest.raises(InputError, match=r"the settings or files of popular \(seed 0\) are not those of the command"):
        run_experiments.run([given], sweep=Sweep(Inline(), Given((other,))))


def test_classes_of_a_script_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailingBaseline, "__module__", "__main__")
    with pytest.raises(UsageError, match="FailingBaseline of failing is defined in a script or notebook"):
        sweeps.given([failing()])


def test_a_worker_keeps_a_record_with_the_command_that_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["genrec", "run", "mine.py:rows", "--on", "local:2", "--refresh", "data"])
    seen = []
    build = pipeline._build

    def watched(*arguments: Any) -> None:
        (run,) = (each for each in live_runs.read_all()[0] if not each.waits)
        seen.append((run.name, run.content["stage"], run.content["row"], run.content["rows"], run.content["command"]))
        build(*arguments)

    monkeypatch.setattr(pipeline, "_build", watched)
    sweep([popularity(), itemknn()], Inline())
    command = "genrec run mine.py:rows --on local:2"
    assert seen == [("popular", "data", 1, 2, command), ("popular", "evaluate", 1, 2, command), ("knn", "evaluate", 2, 2, command)]


def test_python_code_runs_rows_in_worker_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two processes. The table is that of a run without them."""
    shown = genrec.run([popularity(), itemknn()], on="local:2").table
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "plain"))
    assert shown.equals(genrec.run([popularity(), itemknn()]).table)


MINE = """
from dataclasses import replace
import signal_at_step
from genrec.experiment import baselines
from worlds import cyclic

signal_at_step.install()

def rows():
    aligned = replace(cyclic(steps=5, align_steps=2), name="cyclic-sdpo")
    sft = replace(aligned, name="cyclic-sft", align=None)
    return [baselines(aligned)[0], sft, aligned, replace(aligned, seed=1)]
"""


def files_of(home: Path) -> dict[str, bytes]:
    """Return the files of all artifacts, by their paths, without times and TensorBoard's logs."""
    paths = sorted(path for path in home.glob("artifacts/*/[!.]*/**/*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in paths if path.suffix != ".parquet"}


def seeds_of(home: Path) -> dict[str, Any]:
    """Return artifacts, environment and metrics of each row and seed."""
    found = {}
    for path in sorted(home.glob("runs/*.json")):
        seeds = json.loads(path.read_text())["seeds"]
        found[path.stem] = {
            seed: {name: entry[name] for name in ("artifacts", "environment", "metrics")} for seed, entry in seeds.items()
        }
    return found


def run_command(home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the list of `MINE` on a data folder, with one thread."""
    environment = os.environ | {"GENREC_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(PROJECT), TESTS])}
    command = [sys.executable, "-m", "genrec", "run", "mine.py:rows", *options]
    return subprocess.run(command, cwd=home.parent, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the list, run in one process."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "mine.py").write_text(MINE)
    assert run_command(folder / "data").returncode == 0
    return folder / "data"


@pytest.mark.slow
def test_two_workers_repeat_a_plain_run_bit_for_bit(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    found = run_command(tmp_path / "data", "--on", "local:2")
    assert found.returncode == 0, found.stderr
    assert files_of(tmp_path / "data") == files_of(plain)
    assert seeds_of(tmp_path / "data") == seeds_of(plain)
    built = [line for line in found.stderr.splitlines() if line.endswith(" ...")]
    assert len(built) == len(set(built)) == len(list((tmp_path / "data" / "artifacts").glob("*/[!.]*")))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_goes_on_from_its_checkpoints(plain: Path, tmp_path: Path, number: signal.Signals) -> None:
    """A worker is killed, or the command gets Ctrl-C or SIGTERM, in step 3 of a training; then the same command."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"signal-{int(number)}").touch()
    first = run_command(tmp_path / "data", "--on", "local:2")
    assert first.returncode == {signal.SIGKILL: 1, signal.SIGINT: 130, signal.SIGTERM: 143}[number], first.stderr
    assert ("was killed in sft of cyclic-" in first.stderr) == (number == signal.SIGKILL)
    assert list((tmp_path / "data" / "artifacts" / "sft").glob(".*.partial/checkpoint/last"))
    again = run_command(tmp_path / "data", "--on", "local:2")
    assert again.returncode == 0, again.stderr
    assert "SFT: resuming from step" in again.stderr
    assert files_of(tmp_path / "data") == files_of(plain)
    assert seeds_of(tmp_path / "data") == seeds_of(plain)
    assert not list((tmp_path / "data" / "runs" / "failed").glob("*.json"))
    assert not list((tmp_path / "data" / "runs" / "running").glob("[!.]*.json"))


def test_a_command_line_loads_the_rows_in_each_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file, the overrides and the seeds: the worker's keys are those of the command."""
    (tmp_path / "own.py").write_text("from test_sweeps import popularity\n\ndef rows():\n    return [popularity()]\n")
    monkeypatch.chdir(tmp_path)
    engine = Inline()
    monkeypatch.setattr(results, "engine_of", lambda text: engine)
    assert main(["run", "own.py:rows", "--on", "local:2", "--evaluate.cutoffs", "1", "3", "--name", "renamed"]) == 0
    assert engine.titles == ["data of renamed (seed 0)", "evaluate of renamed (seed 0)"]
    assert main(["run", "own.py:rows", "--on", "loc:2"]) == 2
    assert "--on must be local:N" in capsys.readouterr().err
