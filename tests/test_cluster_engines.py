"""Engines of clusters: the script that SLURM gets, jobs of submitit's local executor, and a Ray cluster of two workers."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engines import Call, held, kill_itself, process_and_threads, raise_again, report_of, wait_for
from test_sweeps import MINE, files_of, popularity, run_command, seeds_of
from test_tuning_on_engines import sft
from test_tuning_on_engines import summary as trials_of
from worlds import cyclic

from genrec import run_experiments, tuner
from genrec.engines import Engine, Future, engine_of
from genrec.engines.ray_workers import RayEngine, RayPool
from genrec.engines.slurm_jobs import SlurmEngine
from genrec.errors import NumericsError, ResourceError, WorkerError
from genrec.stage_tasks import Given
from genrec.sweeps import Sweep
from genrec.workspace import jobs_folder

PROJECT = Path(__file__).parents[1]
SBATCH = '#!/bin/sh\nfor file; do cp "$file" "{folder}/script"; done\necho "Submitted batch job 1234"\n'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    path = [str(PROJECT), str(PROJECT / "tests"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    return tmp_path / "data"


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of stand-ins for SLURM's commands; `sbatch` copies its script there."""
    pytest.importorskip("submitit")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH.format(folder=folder)), ("srun", "#!/bin/sh\n"), ("scancel", "#!/bin/sh\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_the_script_of_an_array_has_the_options(scripts: Path) -> None:
    pool = engine_of("slurm:partition=gpu,hours=8,mem_gb=32,gpus=1,cpus=4,account=lab,parallel=3").start()
    first, second = pool.submit([Call(abs, (-3,)), Call(abs, (-4,))])
    lines = (scripts / "script").read_text().splitlines()
    given = {
        "partition=gpu", "time=480", "mem=32GB", "gpus-per-node=1", "cpus-per-task=4", "account=lab", "array=0-1%2", "job-name=genrec",
    }  # fmt: skip
    assert given <= {line.removeprefix("#SBATCH --") for line in lines}
    assert "export OMP_NUM_THREADS=4" in lines
    command = next(line for line in lines if line.startswith("srun "))
    assert str(jobs_folder().absolute()) in command
    assert (first.job.job_id, second.job.job_id) == ("1234_0", "1234_1")


def test_one_task_is_a_job_with_the_clusters_defaults(scripts: Path) -> None:
    (future,) = engine_of("slurm").start().submit([Call(abs, (-3,))])
    text = (scripts / "script").read_text()
    assert "#SBATCH --time=1440" in text
    assert not any(f"--{name}" in text for name in ("partition", "mem", "gpus", "array", "qos"))
    assert future.job.job_id == "1234"


def test_a_machine_without_slurm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ResourceError, match="--on slurm needs the commands of SLURM"):
        SlurmEngine().start()


def requeued(folder: Path) -> str:
    """Get the signal of a time limit at the first call, in the middle of the work; return at the second."""
    if (folder / "first").exists():
        return "went on"
    (folder / "first").touch()
    os.kill(os.getpid(), signal.SIGUSR2)
    signal.pause()
    raise AssertionError("the signal did not end the work")


def ended(future: Future) -> Any:
    """Return the value of a task that has ended."""
    report = report_of(future)
    assert report.error is None, report
    return report.value


@pytest.mark.slow
def test_jobs_return_values_errors_and_are_queued_again(tmp_path: Path) -> None:
    """submitit's local executor runs the script's command without SLURM."""
    pytest.importorskip("submitit")
    pool = SlurmEngine(cluster="local", hours=1.0).start()
    calls = [Call(os.getpid), Call(raise_again, (NumericsError("nan"),)), Call(requeued, (tmp_path,))]
    process, wrong, again = pool.submit(calls)
    (killed,) = pool.submit([Call(kill_itself, (), "sft of row")])
    assert ended(process) != os.getpid()
    assert isinstance(report_of(wrong).error, NumericsError)
    assert ended(again) == "went on"
    error = report_of(killed).error
    assert isinstance(error, WorkerError)
    assert "ended in sft of row without a result" in str(error)
    assert str(jobs_folder()) in str(error)
    pool.close()


@pytest.mark.slow
def test_a_cancelled_job_is_interrupted(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    pool = SlurmEngine(cluster="local").start()
    (future,) = pool.submit([Call(held, (tmp_path,))])
    wait_for(tmp_path / "begun")
    future.cancel()
    assert isinstance(report_of(future).error, KeyboardInterrupt)
    assert (tmp_path / "saved").exists()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayPool]:
    """A pool on a Ray cluster of this process with two workers."""
    ray = pytest.importorskip("ray")
    environment = {"PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "tests"), os.environ.get("PYTHONPATH", "")])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # writes no token to the user's folder
        patch.setenv("RAY_enable_worker_prestart", "0")
        for name in ("agent_register_timeout_ms", "gcs_server_port_wait_time_s", "worker_register_timeout_seconds"):
            patch.setenv(f"RAY_{name}", str(600_000 if name.endswith("_ms") else 600))  # Ray aborts after 30 s on a busy machine
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, runtime_env={"env_vars": environment})
        yield RayEngine().start()
        ray.shutdown()


@pytest.mark.slow
def test_ray_workers_return_values_and_errors(cluster: RayPool) -> None:
    first, wrong = cluster.submit([Call(process_and_threads), Call(raise_again, (NumericsError("nan"),))])
    process, threads = ended(first)
    assert process != os.getpid()
    assert threads == "1"
    assert isinstance(report_of(wrong).error, NumericsError)


@pytest.mark.slow
def test_a_killed_ray_worker_fails_its_own_task_alone(cluster: RayPool, tmp_path: Path) -> None:
    (running,) = cluster.submit([Call(held, (tmp_path,))])
    wait_for(tmp_path / "begun")
    killed, after = cluster.submit([Call(kill_itself, (), "sft of row"), Call(abs, (-3,))])
    error = report_of(killed).error
    assert isinstance(error, WorkerError)
    assert "the Ray worker of sft of row was lost" in str(error)
    assert ended(after) == 3
    assert not running.done()
    running.cancel()
    assert isinstance(report_of(running).error, KeyboardInterrupt)
    wait_for(tmp_path / "saved")


def sweep(engine: Engine | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Run a baseline and a trained row on a data folder, and return the weights and the metrics by their paths."""
    monkeypatch.setenv("GENREC_HOME", str(folder))
    rows = [popularity(), cyclic(steps=2), replace(cyclic(steps=2), seed=1)]
    run_experiments.run(rows, sweep=None if engine is None else Sweep(engine, Given(tuple(rows))))
    paths = [*folder.glob("artifacts/*/[!.]*/policy.safetensors"), *folder.glob("artifacts/*/[!.]*/metrics.json")]
    assert len(paths) == 5
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def tuned(engine: Engine | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Run a tuning with two trials in a round on a data folder, and return its trials."""
    pytest.importorskip("optuna")
    monkeypatch.setenv("GENREC_HOME", str(folder))
    record = tuner.tune(sft(trials=3), "own", engine=engine)
    assert [each.state for each in record.trials] == ["finished"] * 3
    return {"trials": repr(trials_of(record)).encode()}


@pytest.fixture(params=["slurm", "ray"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Workers with one thread each: Ray's have one for each core of a task."""
    if request.param == "slurm":
        pytest.importorskip("submitit")
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        return SlurmEngine(cluster="local")
    request.getfixturevalue("cluster")
    return RayEngine()


@pytest.mark.slow
@pytest.mark.parametrize("run", [sweep, tuned])
def test_a_cluster_repeats_the_run_of_one_process(
    run: Callable[[Engine | None, Path, pytest.MonkeyPatch], dict[str, bytes]],
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        plain = run(None, tmp_path / "plain", monkeypatch)
    finally:
        torch.set_num_threads(threads)
    assert run(engine, tmp_path / "cluster", monkeypatch) == plain


@pytest.fixture(scope="module")
def address(cluster: RayPool) -> str:
    """The address of the cluster, for another process."""
    return str(cluster.ray.get_runtime_context().gcs_address)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the list of `MINE`, run in one process."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "mine.py").write_text(MINE)
    found = run_command(folder / "data")
    assert found.returncode == 0, found.stderr
    return folder / "data"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_command_on_ray_goes_on_from_its_checkpoints(
    address: str, plain: Path, tmp_path: Path, home: Path, number: signal.Signals
) -> None:
    """In step 3 of a training its worker is killed, or the command gets Ctrl-C; then the same command."""
    (tmp_path / "mine.py").write_text(MINE)
    home.mkdir()
    (home / f"signal-{int(number)}").touch()
    first = run_command(home, "--on", f"ray:{address}")
    assert first.returncode == {signal.SIGKILL: 1, signal.SIGINT: 130}[number], first.stderr
    assert ("the Ray worker of sft of cyclic-" in first.stderr) == (number == signal.SIGKILL)
    assert list(home.glob("artifacts/sft/.*.partial/checkpoint/last"))
    again = run_command(home, "--on", f"ray:{address}")
    assert again.returncode == 0, again.stderr
    assert files_of(home) == files_of(plain)
    assert seeds_of(home) == seeds_of(plain)
    assert not list(home.glob("runs/failed/*.json"))
    assert not list(home.glob("runs/running/[!.]*.json"))
