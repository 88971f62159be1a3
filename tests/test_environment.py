"""What manifests and `genrec doctor` say of the machine, and folders that can't be written, before anything is trained."""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from worlds import cyclic

from genrec import doctor, environment, run_experiments, workspace
from genrec.__main__ import main
from genrec.baselines import Popularity
from genrec.errors import GenrecError, ResourceError, UsageError
from genrec.storage_errors import explain
from genrec.store import Store

PROJECT = Path(__file__).parents[1]


def test_processor_and_instructions_of_x86_and_arm(tmp_path: Path) -> None:
    """The names are those of /proc/cpuinfo; only instruction sets that decide which code runs are listed."""
    x86, arm = tmp_path / "x86", tmp_path / "arm"
    x86.write_text("processor\t: 0\nmodel name\t: Chip 9\nflags\t\t: fpu sse avx2 avx512f amx_bf16\n\nmodel name\t: Chip 9\n")
    arm.write_text("processor\t: 0\nFeatures\t: fp asimd bf16 sve\n\nModel\t\t: Board 4\n")
    assert (environment.processor(x86), environment.instructions(x86)) == ("Chip 9", ["avx2", "avx512f", "amx_bf16"])
    assert (environment.processor(arm), environment.instructions(arm)) == ("Board 4", ["asimd", "bf16", "sve"])
    assert environment.processor(tmp_path / "nothing")
    assert environment.instructions(tmp_path / "nothing") == []


def test_environment_is_short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = environment.environment()
    assert all(isinstance(value, str) and value for value in found.values())
    assert found["threads"] == str(torch.get_num_threads())
    assert "OMP_NUM_THREADS=3" in found["settings"]


def test_environments_are_joined_in_order() -> None:
    once = environment.joined([{"threads": "2", "gpu": "none"}, {"threads": "1", "gpu": "none"}])
    assert once == {"threads": "2 / 1", "gpu": "none"}
    assert environment.joined([once, {"threads": "1"}, {"threads": "4"}]) == {"threads": "2 / 1 / 4", "gpu": "none"}


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/a/b\n", {"a/memory.max": "300", "a/b/memory.max": "max"}, 300),  # version 2: the parent's limit counts too
        ("0::/\n", {"memory.max": "max"}, None),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "500", "memory/memory.limit_in_bytes": str(2**63 - 4096)}, 500),
        ("3:cpuset,cpu:/a\n", {"cpuset,cpu/a/memory.max": "1"}, None),  # not the controller of memory
    ],
)
def test_memory_limit_of_a_container(tmp_path: Path, membership: str, files: dict[str, str], expected: int | None) -> None:
    (tmp_path / "cgroup").write_text(membership)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert environment.memory_limit(tmp_path / "cgroup", tmp_path) == expected
    assert environment.memory_limit(tmp_path / "nothing", tmp_path) is None


def test_odd_control_groups_are_no_memory_limit(tmp_path: Path) -> None:
    """A path that is not UTF-8 is followed; a line without a path and a limit below zero are passed over."""
    folder = os.fsencode(tmp_path) + b"/job\xff"
    os.mkdir(folder)
    Path(os.fsdecode(folder), "memory.max").write_text("300\n")
    (tmp_path / "memory.max").write_text("-1\n")
    (tmp_path / "cgroup").write_bytes(b"no group\n0::/job\xff\n")
    assert environment.memory_limit(tmp_path / "cgroup", tmp_path) == 300
    (tmp_path / "cgroup").write_bytes(b"0:/\n0::/\n")
    assert environment.memory_limit(tmp_path / "cgroup", tmp_path) is None


def test_memory_that_is_no_number_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_bytes(b"MemTotal: many\xff kB\nMemAvailable: 1024 kB\n")
    assert environment.memory(tmp_path / "meminfo") == {"available": 1024 * 1024}


def test_memory_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:    2048 kB\nMemFree:  100 kB\nMemAvailable:   1024 kB\n")
    assert environment.memory(tmp_path / "meminfo") == {"total": 2048 * 1024, "available": 1024 * 1024}
    assert environment.memory(tmp_path / "nothing") == {}


def test_doctor_describes_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    monkeypatch.setenv("GENREC_MIRROR", "https://me:secret@mirror.org/data")
    assert main(["doctor"]) == 0
    printed = {line[:21].strip(): line[22:] for line in capsys.readouterr().out.splitlines()}
    assert {"python", "genrec", "torch", "tensorboard", "OpenMP", "GPU" if "GPU" in printed else "GPU 0"} <= printed.keys()
    assert printed["processor"].startswith(environment.processor())
    assert printed["instructions"].split() == environment.instructions()
    assert re.search(r"\d usable of \d+, quota ", printed["cores"])
    assert re.search(r"total [\d.]+ GiB, available [\d.]+ GiB, limit ", printed["memory"])
    assert printed["data folder"].startswith(f"{tmp_path} (")
    assert f"GENREC_HOME={tmp_path}" in printed["variables"]
    assert "mirror.org" in printed["variables"]
    assert "secret" not in printed["variables"]


def impossible_homes(folder: Path) -> dict[str, str]:
    """Data folders that can't be created, and what is said of each."""
    (folder / "file").write_text("x")
    (folder / "dangling").symlink_to(folder / "nothing" / "at all")
    return {
        str(folder / "file"): "file is not a folder",
        str(folder / "file" / "below"): "file is not a folder",
        str(folder / "dangling"): "dangling is not a folder",
        str(folder / ("a" * 300)): "is too long",
        "/".join([str(folder), *["a" * 200] * 30]): "is too long",
        "~nobody-of-this-name/data": "is not a usable path",
        "/proc/genrec": "the data folder /proc/genrec can't be used",
        str(folder / "\udcff"): "is not a usable path",
    }


@pytest.mark.parametrize("case", range(8))
def test_an_impossible_data_folder_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: int
) -> None:
    home, said = list(impossible_homes(tmp_path).items())[case]
    monkeypatch.setenv("GENREC_HOME", home)
    (tmp_path / "mine.py").write_text("from worlds import cyclic\ndef row(): return cyclic(steps=1)\n")
    assert main(["run", f"{tmp_path}/mine.py:row"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"genrec: .*{said}", line)
    assert "GENREC_HOME" in line
    for command in (["show", "x"], ["list"], ["doctor"]):
        assert main(command) in (0, 1, 2)
        assert all(line.startswith("genrec: ") for line in capsys.readouterr().err.splitlines())
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["dangling", "file", "mine.py"]


@pytest.mark.parametrize("name", ["runs", "runs/failed", "artifacts", "artifacts/evaluate", "reports", "tensorboard", "raw"])
def test_a_file_in_the_place_of_a_folder_is_found_before_the_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")
    with pytest.raises(UsageError, match=rf"{name} is not a folder, expected a folder or nothing; move it away"):
        run_experiments.run([cyclic(steps=1)])
    assert capsys.readouterr().err == ""
    assert (tmp_path / name).read_text() == "x"


def test_what_is_in_the_way_of_a_row_is_found_before_the_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    experiment = replace(cyclic(steps=1), policy=Popularity())
    (tmp_path / "runs" / ".cyclic.json.lock").mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as caught:
        run_experiments.run([experiment])
    assert re.match(r".*\.cyclic\.json\.lock can't be used \(Is a directory\); move it away", str(explain(caught.value)))
    (tmp_path / "runs" / ".cyclic.json.lock").rmdir()
    (tmp_path / "runs" / "cyclic.json").mkdir()
    with pytest.raises(UsageError, match=r"cyclic\.json is not a file; move it away"):
        run_experiments.run([experiment])
    (tmp_path / "runs" / "cyclic.json").rmdir()
    monkeypatch.setattr(Store, "has", lambda self, stage, key: False)
    key = run_experiments.pipeline.plan(experiment)[-1].key
    (tmp_path / "artifacts" / "evaluate").mkdir(parents=True)
    (tmp_path / "artifacts" / "evaluate" / f".{key}.partial").write_text("x")
    with pytest.raises(UsageError, match=rf"\.{key}\.partial is not a folder"):
        run_experiments.run([experiment])
    assert "data" not in capsys.readouterr().err  # the stage before it was not begun


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (errno.EROFS, UsageError, "can't be opened or written (Read-only file system); change its permissions"),
        (errno.EACCES, UsageError, "can't be opened or written (Permission denied); change its permissions"),
        (errno.EPERM, UsageError, "can't be opened or written (Operation not permitted); change its permissions"),
        (errno.ENOSPC, ResourceError, "the disk is full ([Errno 28] No space left on device: "),
        (errno.EDQUOT, ResourceError, "the disk quota is used up"),
        (errno.EFBIG, ResourceError, "a file has reached the size limit of this process"),
        (errno.EMFILE, ResourceError, "too many files are open"),
    ],
)
def test_a_data_folder_that_cannot_be_written_is_found_before_the_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, kind: type[GenrecError], said: str
) -> None:
    """As root nothing is forbidden, so the error of the system is simulated."""

    def refused(**arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    monkeypatch.setattr(workspace.tempfile, "TemporaryFile", refused)
    with pytest.raises(kind) as caught:
        run_experiments.run([cyclic(steps=1)])
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "genrec: /x/y can't be opened or written (Permission denied)"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/dev/null/y"), 2, ": /dev/null is not a folder; move it away"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300), 2, "(300 characters) is too long"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x/y"), 2, "genrec: there is no file or folder /x/y"),
        (OSError(errno.EFBIG, "File too large"), 5, "genrec: a file has reached the size limit of this process"),
    ],
)
def test_errors_of_the_file_system_become_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, code: int, said: str
) -> None:
    def fail() -> int:
        raise error

    monkeypatch.setattr(doctor, "report", fail)
    assert main(["doctor"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_other_errors_of_the_system_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise ChildProcessError(errno.ECHILD, "No child processes")

    monkeypatch.setattr(doctor, "report", fail)
    with pytest.raises(ChildProcessError):
        main(["doctor"])


@pytest.mark.parametrize("limit", [0, 6000])
def test_a_limit_of_file_sizes_ends_a_run_with_exit_code_5(tmp_path: Path, limit: int) -> None:
    """With 0 bytes nothing is begun; with 6000 the data stage fails, leaves no unfinished artifact, and is recorded."""
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\nfrom genrec.baselines import Popularity\nfrom worlds import cyclic\n"
        "def row(): return replace(cyclic(), policy=Popularity())\n"
    )
    home = tmp_path / "home"
    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    done = subprocess.run(
        [sys.executable, "-m", "genrec", "run", f"{tmp_path}/mine.py:row"],
        env={**os.environ, "GENREC_HOME": str(home), "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5
    assert re.match(
        r"genrec: a file has reached the size limit of this process \(.*; finished artifacts", done.stderr.splitlines()[-1]
    )
    assert [path.name for path in home.rglob("*.partial")] == []
    assert [path.name for path in (home / "runs").rglob("*.json")] == (["cyclic-seed-0.json"] if limit else [])
    assert len(list((home / "studies").glob("*.json"))) == (1 if limit else 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_read_only_data_folder_is_refused_and_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    tmp_path.chmod(0o555)
    with pytest.raises(UsageError, match=r"can't be opened or written \(Permission denied\)"):
        run_experiments.run([cyclic(steps=1)])
    assert main(["list"]) == 0
    assert main(["doctor"]) == 1
    assert "WRONG: " in capsys.readouterr().out
    tmp_path.chmod(0o755)


@dataclass(frozen=True)
class FullDisk:
    """A plug-in policy that is built while the disk is full."""

    def build(self, semantic_ids: object) -> object:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/weights")


def test_a_full_disk_is_not_blamed_on_the_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    with pytest.raises(ResourceError, match=r"the disk is full \(.*/x/weights"):
        run_experiments.run([replace(cyclic(steps=1), policy=FullDisk())])  # type: ignore[arg-type]
