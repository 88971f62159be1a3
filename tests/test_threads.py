"""OpenMP settings of the command line: waiting, the number of threads under a quota, and what the user has set."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genrec import threads

PROJECT = Path(__file__).parents[1]
NAMES = (threads.NUMBER, *threads.CHOICES)


@pytest.fixture(autouse=True)
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not imported torch, on four cores without a quota."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 4)
    monkeypatch.setattr(threads, "cpu_quota", lambda: None)


def configured(**environment: str) -> dict[str, str]:
    threads.configure(environment)
    return environment


def test_idle_threads_soon_sleep_and_their_number_is_left_to_torch() -> None:
    """Weights depend on the number of threads: without a quota it stays what torch chooses."""
    assert configured() == {"GOMP_SPINCOUNT": "10000"}


@pytest.mark.parametrize(("quota", "number"), [(0.5, "1"), (1.0, "1"), (1.5, "2"), (3.0, "3"), (3.5, None), (4.0, None), (64.0, None)])
def test_a_quota_below_the_cores_sets_the_number(quota: float, number: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert configured().get("OMP_NUM_THREADS") == number


def test_what_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of threads alone, and waiting as a whole: GOMP_SPINCOUNT would undo an active OMP_WAIT_POLICY."""
    monkeypatch.setattr(threads, "cpu_quota", lambda: 2.0)
    assert configured(OMP_NUM_THREADS="9") == {"OMP_NUM_THREADS": "9", **threads.WAITING}
    assert configured(OMP_WAIT_POLICY="active") == {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "2"}


def test_nothing_is_set_after_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", threads)
    assert configured() == {}


def groups(folder: Path, lines: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Write control files and the list of a process's groups."""
    for name, text in files.items():
        (folder / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "root" / name).write_text(text)
    (folder / "cgroup").write_text(lines)
    return folder / "cgroup", folder / "root"


@pytest.mark.parametrize(
    ("lines", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/job\n", {"a/cpu.max": "200000 100000", "a/job/cpu.max": "400000 100000"}, 2.0),  # the least of a group and its parents
        ("0::/user/job\n", {"cpu.max": "50000 100000"}, 0.5),  # the path is the host's
        ("4:cpu,cpuacct:/job\n", {"cpu,cpuacct/job/cpu.cfs_quota_us": "300000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"}, 3.0),
        ("4:cpu,cpuacct:/job\n", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3.0),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("3:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "1", "cpuset/cpu.cfs_period_us": "1"}, None),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        ("0::/\n", {"cpu.max": "50000"}, None),
        ("0::/\n", {"cpu.max": "50000 100000 7"}, None),
        ("0::/\n", {"cpu.max": f"{10**400} 100000"}, None),
        ("0::/a\n", {"cpu.max": "50000", "a/cpu.max": "200000 100000"}, 2.0),  # the other groups count
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "300000 1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("0::/\n", {}, None),
        ("no control group", {}, None),
    ],
)
def test_the_quota_is_read_from_both_versions_of_control_groups(
    lines: str, files: dict[str, str], quota: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert threads.cpu_quota(*groups(tmp_path, lines, files)) == quota
    assert threads.cpu_quota(tmp_path / "absent", tmp_path) is None


def test_names_that_are_not_utf8_do_not_stop_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a control group is bytes, and its quota counts; so is the list of siblings of a processor."""
    monkeypatch.undo()
    folder = os.fsencode(tmp_path) + b"/job\xff"
    os.mkdir(folder)
    Path(os.fsdecode(folder), "cpu.max").write_text("150000 100000")
    (tmp_path / "cgroup").write_bytes(b"0::/job\xff\n")
    assert threads.cpu_quota(tmp_path / "cgroup", tmp_path) == 1.5
    if sys.platform == "linux":
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
        (tmp_path / "cpu0" / "topology").mkdir(parents=True)
        (tmp_path / "cpu0" / "topology" / "thread_siblings_list").write_bytes(b"\xff")
        assert threads.cores(tmp_path) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads the affinity of Linux")
def test_threads_of_one_core_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six processors that this process may use: two cores of two threads each, one thread of a third core, one without a file."""
    monkeypatch.undo()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 4, 5, 6, 9})
    for number, siblings in {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5", 6: "2,6"}.items():
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    assert threads.cores(tmp_path) == 4


def run(code: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True, cwd=PROJECT).stdout.strip()


def test_the_command_line_sets_the_variables_and_the_library_does_not() -> None:
    shown = "; import os; print({name: os.environ.get(name) for name in " + repr(NAMES) + "})"
    assert eval(run("import genrec.experiment" + shown)) == dict.fromkeys(NAMES)
    by_command = eval(run("from genrec.__main__ import main; main(['show', 'nothing'])" + shown))
    assert {name: by_command[name] for name in threads.WAITING} == threads.WAITING


@pytest.mark.skipif(threads.cpu_quota() is not None, reason="a quota changes the number of threads")
def test_the_number_of_threads_is_that_of_torch_alone() -> None:
    """Results depend on it."""
    alone = run("import torch; print(torch.get_num_threads())")
    assert run("from genrec import threads; threads.configure(); import torch; print(torch.get_num_threads())") == alone


def test_the_benchmark_measures_and_clears_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for each side, with the variables of that side alone."""
    monkeypatch.undo()
    specification = importlib.util.spec_from_file_location("threads_benchmark", PROJECT / "experiments" / "benchmarks" / "threads.py")
    assert specification is not None
    assert specification.loader is not None
    benchmark = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(benchmark)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    assert benchmark.measure("one thread", 0.01) > 0
    seen: list[dict[str, str]] = []

    def recorded(command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.append({name: env[name] for name in NAMES if name in env})
        return subprocess.CompletedProcess(command, 0, stdout="1.5")

    monkeypatch.setattr(subprocess, "run", recorded)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert [benchmark.measure(side, 1.0) for side in benchmark.SIDES] == [1.5] * 4
    assert seen == [{}, threads.WAITING, benchmark.PASSIVE, {"OMP_NUM_THREADS": "1"}]
