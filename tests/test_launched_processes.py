"""Processes of a launcher: its variables, who follows whom, and torchrun on this machine, with one launcher and with two."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pandas import read_parquet
from pandas.testing import assert_frame_equal
from safetensors.torch import load_file
from test_training_processes import PROJECT
from worlds import cyclic

from genrec import launched_processes, process_group, results
from genrec.__main__ import main
from genrec.engines import Report
from genrec.errors import InputError, NumericsError, UsageError, WorkerError
from genrec.launched_processes import Launch, launch_of

TORCHRUN = {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


def test_the_place_of_a_process_is_that_of_the_launcher() -> None:
    launch = launch_of(4, TORCHRUN)
    assert launch is not None
    assert (launch.rank, launch.size, launch.local_rank, launch.local_size) == (2, 4, 0, 2)
    assert launch_of(4, TORCHRUN) is launch  # its announcements are counted over all runs of the process
    by_srun = launch_of(4, {name: value for name, value in TORCHRUN.items() if name != "LOCAL_WORLD_SIZE"})
    assert by_srun is not None
    assert by_srun.local_size == 1  # unknown


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1"}, TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"}])
def test_one_process_has_no_launcher(environment: dict[str, str]) -> None:
    assert launch_of(1, environment) is None


@pytest.mark.parametrize(
    ("devices", "changes", "message"),
    [
        (1, {}, r"WORLD_SIZE is 4, but --trainer\.devices is 1; give --trainer\.devices 4"),
        (2, {}, r"WORLD_SIZE is 4, but --trainer\.devices is 2; give --trainer\.devices 4"),
        (2, {"WORLD_SIZE": "1"}, r"WORLD_SIZE is 1, but --trainer\.devices is 2; .* or unset RANK and WORLD_SIZE"),
        (4, {"RANK": ""}, "WORLD_SIZE is 4, but RANK is not set; start the command by torchrun"),
        (4, {"MASTER_ADDR": "", "MASTER_PORT": ""}, "MASTER_ADDR, MASTER_PORT is not set"),
        (4, {"WORLD_SIZE": ""}, "WORLD_SIZE must be an integer of 1 or more, got ''"),
        (4, {"WORLD_SIZE": "four"}, "WORLD_SIZE must be an integer of 1 or more, got 'four'"),
        (4, {"RANK": "4"}, "RANK must be below WORLD_SIZE = 4, got 4"),
        (4, {"LOCAL_RANK": "-1"}, "LOCAL_RANK must be an integer of 0 or more, got '-1'"),
    ],
)
def test_variables_that_contradict_the_command_are_refused(devices: int, changes: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        launch_of(devices, TORCHRUN | changes)


def test_the_command_refuses_before_anything_is_built(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert main(["run", "genrec.quickstart:comparison", "--trainer.devices", "2"]) == 2
    assert "WORLD_SIZE is 4, but --trainer.devices is 2" in capsys.readouterr().err


@dataclass(frozen=True)
class Pair:
    """The first of two processes and the other one, in two threads of this process."""

    first: Launch
    other: Launch

    def run(self, lead: Callable[[], None], follow: Callable[[], None]) -> tuple[BaseException | None, BaseException | None]:
        """Run both to their ends and return their errors."""
        errors: list[BaseException | None] = [None, None]

        def noted(place: int, call: Callable[[], None]) -> None:
            try:
                call()
            except BaseException as error:
                errors[place] = error

        threads = [threading.Thread(target=noted, args=each) for each in enumerate((lead, follow))]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return errors[0], errors[1]


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Pair:
    """Both have a store in memory, and the training is left out."""
    store = dist.HashStore()
    monkeypatch.setattr(process_group, "launched_store", lambda: store)
    return Pair(Launch(0, 2, 0, 2), Launch(1, 2, 1, 2))


def announced(launch: Launch, folder: Path, key: str = "0" * 16) -> Report:
    """Announce a training and return the report of the other process."""
    launch.meet()
    place = launch.announcement()
    launched_processes._announce(place, {"number": 0, "stage": "sft", "key": key, "folder": str(folder)})
    (other,) = launch.others(place)
    other.store.wait([f"report {other.rank}"])
    assert other.done()
    return other.report()


def test_the_others_take_part_in_each_training_until_the_first_one_ends(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(launched_processes, "planned_here", lambda here, origin, number, stage, key: (origin()[number], []))
    monkeypatch.setattr(
        launched_processes, "take_part", lambda experiment, steps, stage, folder, place, *ranks: seen.append((stage, folder, *ranks))
    )

    def lead() -> None:
        with pair.first.leading():
            assert [announced(pair.first, tmp_path / each).error for each in ("one", "two")] == [None, None]

    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert pair.run(lead, lambda: pair.other.follow([cyclic()])) == (None, None)
    assert seen == [("sft", tmp_path / each, 1, 2, 1) for each in ("one", "two")]


def test_an_error_of_the_first_process_ends_the_others(pair: Pair) -> None:
    def lead() -> None:
        with pair.first.leading():
            raise NumericsError("the loss is nan")

    first, other = pair.run(lead, lambda: pair.other.follow([cyclic()]))
    assert isinstance(first, NumericsError)
    assert isinstance(other, WorkerError)
    assert str(other) == "process 2 of 2 ends with the first one: NumericsError: the loss is nan"


def test_other_settings_and_another_folder_are_reported(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ends its process, and the first one learns why."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    reports: list[Report] = []
    for folder, message in ((tmp_path, "expected 0000000000000000"), (tmp_path / "elsewhere", "give all machines one data folder")):
        _, other = pair.run(lambda folder=folder: reports.append(announced(pair.first, folder)), lambda: pair.other.follow([cyclic()]))
        assert isinstance(other, InputError)
        assert message in str(other)
        assert isinstance(reports[-1].error, InputError)
        assert str(reports[-1].error) == str(other)


def test_the_other_processes_return_no_tables(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def lead() -> None:
        with pair.first.leading():
            pass

    monkeypatch.setattr(results, "launch_of", lambda devices: pair.other)
    found: list[results.Results] = []
    assert pair.run(lead, lambda: found.append(results.run(cyclic(), devices=2))) == (None, None)
    assert found[0].comparisons == ()
    assert found[0].table.empty


EXPERIMENT = """
from dataclasses import replace
import signal_at_step
from genrec.experiment import Align, Optimization, Validation
from genrec.objectives import Preference
from genrec.preference.candidates import Sampled
from genrec.preference.losses import SoftmaxDPO
from genrec.preference.negatives import Uniform
from worlds import cyclic

signal_at_step.install()

def row():
    optimization = Optimization(max_steps=4, batch_size=32, learning_rate=1e-3)
    objective = Preference(loss=SoftmaxDPO(), candidates=Sampled(Uniform(), 3))
    return replace(cyclic(steps=6), align=Align(objective=objective, optimization=optimization, validation=Validation(every=2)))

def failing():
    return replace(cyclic(), sft=replace(cyclic().sft, optimization=Optimization(max_steps=6, batch_size=64, learning_rate=1e30)))
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def command(folder: Path, *launcher: str, row: str = "row", **variables: str) -> subprocess.Popen[str]:
    """Start the command on a data folder in `folder`, by a launcher, with its variables, or without both."""
    (folder / "mine.py").write_text(EXPERIMENT)
    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    environment = os.environ | {"GENREC_HOME": str(folder / "data"), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths} | variables
    called = [sys.executable, "-m", *launcher, "genrec", "run", f"mine.py:{row}", "--trainer.devices", "2"]
    return subprocess.Popen(called, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def torchrun(*options: str) -> tuple[str, ...]:
    return ("torch.distributed.run", *options, "-m")


def files(folder: Path, stage: str) -> Path:
    (found,) = (path.parent for path in (folder / "data" / "artifacts" / stage).glob("[!.]*/manifest.json"))
    return found


def assert_equal(ours: Path, theirs: Path) -> None:
    """Weights, curves, negatives and ranks, to the last bit."""
    for stage in ("sft", "align"):
        one, other = files(ours, stage), files(theirs, stage)
        assert one.name == other.name
        assert_frame_equal(read_parquet(one / "curves.parquet"), read_parquet(other / "curves.parquet"))
        weights = [load_file(folder / "policy.safetensors") for folder in (one, other)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert (files(ours, "align") / "negatives.json").read_bytes() == (files(theirs, "align") / "negatives.json").read_bytes()
    ranks = [read_parquet(files(folder, "evaluate") / "ranks.parquet") for folder in (ours, theirs)]
    assert_frame_equal(*ranks)
    (run_file,) = (ours / "data" / "runs").glob("*.json")
    assert list(json.loads(run_file.read_text())["seeds"]) == ["0"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes that the command itself has started, with what it has printed in `printed`."""
    folder = tmp_path_factory.mktemp("plain")
    found = command(folder)
    printed, said = found.communicate()
    assert found.returncode == 0, said
    (folder / "printed").write_text(printed)
    return folder


@pytest.mark.slow
def test_torchrun_has_the_results_of_the_processes_of_the_command(plain: Path, tmp_path: Path) -> None:
    """The table is printed once."""
    found = command(tmp_path, *torchrun("--nproc-per-node", "2", "--master-port", str(free_port())))
    printed, said = found.communicate()
    assert found.returncode == 0, said
    assert printed.replace(str(tmp_path), str(plain)) == (plain / "printed").read_text()
    assert_equal(tmp_path, plain)


@pytest.mark.slow
def test_two_launchers_have_the_results_of_one(plain: Path, tmp_path: Path) -> None:
    """Two machines with a common folder, as far as one machine can be two."""
    port = str(free_port())
    options = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port, "--node-rank")
    both = [command(tmp_path, *torchrun(*options, str(rank))) for rank in range(2)]
    said = [each.communicate()[1] for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert_equal(tmp_path, plain)


@pytest.mark.slow
def test_variables_without_a_launcher_do_the_same(plain: Path, tmp_path: Path) -> None:
    """As srun starts the processes: the first one holds the store itself."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    both = [command(tmp_path, **shared, RANK=rank, LOCAL_RANK=rank) for rank in "01"]
    said = [each.communicate()[1] for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert_equal(tmp_path, plain)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_all_of_a_launcher_and_the_command_goes_on(plain: Path, tmp_path: Path) -> None:
    """One of the two, in the third step of SFT; then of the alignment. Nothing hangs; all is as if none had been killed."""
    called = torchrun("--nproc-per-node", "2", "--master-port", str(free_port()))
    for stage in ("sft", "align"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"signal-{int(signal.SIGKILL)}").touch()
        found = command(tmp_path, *called)
        _, said = found.communicate()
        assert found.returncode != 0
        assert f"{signal.SIGKILL.name}" in said
        assert not list((tmp_path / "data" / "artifacts" / stage).glob("[!.]*/manifest.json"))
        assert not list((tmp_path / "data").glob("signal-*"))
    found = command(tmp_path, *called)
    _, said = found.communicate()
    assert found.returncode == 0, said
    assert_equal(tmp_path, plain)


@pytest.mark.slow
def test_an_error_ends_all_processes_of_a_launcher(tmp_path: Path) -> None:
    """None hangs: the loss is not finite in every process."""
    found = command(tmp_path, *torchrun("--nproc-per-node", "2", "--master-port", str(free_port())), row="failing")
    _, said = found.communicate()
    assert found.returncode != 0
    assert "learning rate" in said
