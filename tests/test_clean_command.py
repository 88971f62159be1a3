"""`genrec list --disk` and `genrec clean`: sizes, what is shared, what may be removed, and a removal that is interrupted."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from test_run_files import baseline

from genrec import artifact_folders, clean_command, disk_usage, failed_runs, hashed_json, run_experiments, run_files, store
from genrec.__main__ import main
from genrec.errors import NumericsError
from genrec.live_runs import QueuedRow, queued, recorded
from genrec.stored_artifacts import size_of, stored, uses
from genrec.workspace import home

SHORT = replace(baseline("short"), history_length=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two rows that share their data, as data and evaluation alone."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(folder))
        run_experiments.run([baseline(), SHORT])
    return folder


@pytest.fixture(autouse=True)
def data(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the data folder."""
    shutil.copytree(made, tmp_path / "home")
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def keys(name: str) -> dict[str, str]:
    found: dict[str, str] = run_files.read(name)["seeds"]["0"]["artifacts"]
    return found


def folder(stage: str, key: str) -> Path:
    return home() / "artifacts" / stage / key


def names() -> set[str]:
    return {str(each) for each in stored()}


def test_sizes_in_words() -> None:
    sizes = (0, 999, 1_000, 999_949, 999_950, 12_345_678, 1_500_000_000, 7 * 10**15)
    assert [disk_usage.in_words(size) for size in sizes] == [
        "0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "12.3 MB", "1.5 GB", "7000.0 TB",
    ]  # fmt: skip


def test_list_disk_counts_every_byte_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Data of 3,000 bytes are shared; the evaluations have 2,000 and 500 bytes of their own, and nothing uses 100."""
    shared, long, short = keys("short")["data"], keys("cyclic-popularity")["evaluate"], keys("short")["evaluate"]
    for stage, key, size in (("data", shared, 3000), ("evaluate", long, 2000), ("evaluate", short, 500), ("sft", "f" * 16, 100)):
        shutil.rmtree(folder(stage, key), ignore_errors=True)
        folder(stage, key).mkdir(parents=True)
        (folder(stage, key) / "file").write_bytes(b"." * size)
    assert main(["list", "--disk"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in printed[:3]] == [
        ["row", "size", "alone", "shared"],
        ["cyclic-popularity", "5.0", "kB", "2.0", "kB", "3.0", "kB"],
        ["short", "3.5", "kB", "500", "B", "3.0", "kB"],
    ]
    assert printed[5].split() == [f"data/{shared}", "3.0", "kB", "cyclic-popularity,", "short"]
    assert printed[8].split() == [f"sft/{'f' * 16}", "100", "B", "-"]
    assert printed[10] == "artifacts: 5.6 kB; used by rows 5.5 kB, by unfinished runs alone 0 B, by nothing 100 B"
    assert main(["list", "--disk", "--data", "zzz"]) == 0
    assert capsys.readouterr().out.startswith(f"{home()} has no rows\n")


def test_a_row_goes_with_what_it_alone_uses(capsys: pytest.CaptureFixture[str]) -> None:
    own, shared = keys("short")["evaluate"], keys("short")["data"]
    size = disk_usage.in_words(size_of(folder("evaluate", own)))
    assert main(["clean", "short", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines() == [
        f"row short: {home() / 'runs' / 'short.json'}",
        f"evaluate/{own}  {size}",
        f"to remove: 1 folder, {size}",
    ]
    assert folder("evaluate", own).is_dir()
    assert main(["clean", "short", "--yes"]) == 0
    assert capsys.readouterr().out == f"{shown}removed {size}\n"
    assert run_files.names_of_rows() == ["cyclic-popularity"]
    assert names() == {f"data/{shared}", f"evaluate/{keys('cyclic-popularity')['evaluate']}"}
    for stage, key in keys("cyclic-popularity").items():
        store.Store(home() / "artifacts").get(stage, key)
    run_experiments.run([SHORT])  # the row can be made again
    assert folder("evaluate", own).is_dir()


def test_the_question(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for answer, left in (("\n", True), ("", True), ("no\n", True), ("y\n", False)):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        assert main(["clean", "short"]) == 0
        assert capsys.readouterr().out.rstrip().endswith("nothing was removed") is left
        assert ("short" in run_files.names_of_rows()) is left
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["clean", "cyclic-popularity"]) == 2
    assert "there is no terminal to ask on; add --yes" in capsys.readouterr().err
    assert run_files.names_of_rows() == ["cyclic-popularity"]


def test_a_row_that_changes_while_the_question_is_open_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another process records the row again, as `genrec run` does for a further seed."""
    path = home() / "runs" / "short.json"

    def answered() -> bool:
        path.write_text(f"{path.read_text()}\n")
        return True

    monkeypatch.setattr(clean_command, "_confirmed", answered)
    before = names()
    assert main(["clean", "short"]) == 2
    assert "a row has changed while the question was open, and nothing was removed" in capsys.readouterr().err
    assert path.is_file()
    assert names() == before


@pytest.mark.parametrize("arguments", [[], ["short", "--unused"]])
def test_either_rows_or_unused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", *arguments]) == 2
    assert "name the rows to remove, such as 'genrec clean ROW', or give --unused" in capsys.readouterr().err


def test_an_unknown_row_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", "shor", "--yes"]) == 2
    assert "did you mean 'short'?" in capsys.readouterr().err


def partial(stage: str, key: str) -> Path:
    path = home() / "artifacts" / stage / f".{key}.partial"
    (path / "checkpoint" / "last").mkdir(parents=True)
    (path / "checkpoint" / "last" / "progress.json").write_text("{}")
    return path


def test_unused_removes_what_no_row_and_no_run_uses(capsys: pytest.CaptureFixture[str]) -> None:
    """A failed run keeps the stages that it has finished and its checkpoint, so that it can be resumed; `clean ROW` removes them."""
    before = names()
    folder("sft", "f" * 16).mkdir(parents=True)
    loose, kept = partial("sft", "e" * 16), partial("align", "d" * 16)
    artifacts = {"data": keys("short")["data"], "sft": "c" * 16, "align": "d" * 16}
    folder("sft", "c" * 16).mkdir()
    failed_runs.record(baseline("fails"), [], NumericsError("nan"), artifacts=artifacts)
    assert main(["clean", "--unused", "--yes"]) == 0
    assert kept.is_dir()
    assert not loose.exists()
    assert names() == before | {f"sft/{'c' * 16}", f"align/{'d' * 16} (unfinished)"}
    assert main(["clean", "fails", "--yes"]) == 0
    assert names() == before
    assert failed_runs.read_all() == ([], [])
    capsys.readouterr()
    assert main(["clean", "--unused"]) == 0
    assert capsys.readouterr().out == f"nothing to remove in {home()}\n"


def test_a_running_row_is_refused_and_its_artifacts_stay(capsys: pytest.CaptureFixture[str]) -> None:
    folder("sft", "f" * 16).mkdir(parents=True)
    with recorded() as recorder:
        recorder.row(1, 1, "short", 0, {**keys("short"), "sft": "f" * 16})
        assert main(["clean", "short", "--yes"]) == 2
        assert "short runs in process" in capsys.readouterr().err
        assert main(["clean", "--unused", "--yes"]) == 0
        assert folder("sft", "f" * 16).is_dir()
        recorder.row(1, 1, "other", 0, keys("short"))
        assert main(["clean", "short", "--yes"]) == 0
        assert folder("evaluate", keys_of_running()["evaluate"]).is_dir()


def keys_of_running() -> dict[str, str]:
    (run,) = uses().running
    found: dict[str, str] = run.content["artifacts"]
    return found


def test_a_build_without_a_record_stops_clean(capsys: pytest.CaptureFixture[str]) -> None:
    partial("sft", "e" * 16)
    with FileLock(store.Store(home() / "artifacts").lock("sft", "e" * 16)):
        for arguments in (["--unused"], ["short"]):
            assert main(["clean", *arguments, "--yes"]) == 2
            assert f"builds sft/{'e' * 16} and keeps no record of the artifacts that it reads" in capsys.readouterr().err
    assert main(["clean", "--unused", "--yes"]) == 0  # a stale lock stops nothing
    assert not list((home() / "artifacts" / "sft").glob(".*.partial"))


def test_an_artifact_that_is_used_meanwhile_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """A row begins to use one artifact after the list was shown, and a process builds another."""
    folder("sft", "f" * 16).mkdir(parents=True)
    folder("sft", "e" * 16).mkdir(parents=True)
    found = clean_command.plan([], uses())
    with recorded() as recorder, FileLock(store.Store(home() / "artifacts").lock("sft", "e" * 16)):
        recorder.row(1, 1, "late", 0, {"data": keys("short")["data"], "sft": "f" * 16})
        freed, kept = clean_command.remove(found)
    assert freed == 0
    assert sorted(line.partition(":")[0] for line in kept) == [f"kept sft/{'e' * 16}", f"kept sft/{'f' * 16}"]
    assert folder("sft", "f" * 16).is_dir()
    assert folder("sft", "e" * 16).is_dir()


def test_run_files_are_read_again_only_if_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows and three folders: two run files are read for the first folder, and one more after a row was recorded meanwhile.

    The row `cyclic-popularity` begins to use the third folder when the first one is removed.
    """
    for digit in "abc":
        folder("sft", digit * 16).mkdir(parents=True)
    found = clean_command.plan([], uses())
    taken = found.folders[2]
    read: list[str] = []
    of_file, discard = run_files.read, artifact_folders.discard

    def counted(name: str) -> dict[str, Any]:
        read.append(name)
        return of_file(name)

    def recorded_meanwhile(path: Path) -> None:
        if path == found.folders[0].path:
            file = home() / "runs" / "cyclic-popularity.json"
            content = {name: value for name, value in json.loads(file.read_text()).items() if name != "sha256"}
            content["seeds"]["0"]["artifacts"]["sft"] = taken.key
            store.write_json(file, hashed_json.add_hash(content))
        discard(path)

    monkeypatch.setattr(run_files, "read", counted)
    monkeypatch.setattr(artifact_folders, "discard", recorded_meanwhile)
    _, kept = clean_command.remove(found)
    assert kept == [f"kept sft/{taken.key}: cyclic-popularity uses it"]
    assert [each.path.exists() for each in found.folders] == [False, False, True]
    assert sorted(read) == ["cyclic-popularity", "cyclic-popularity", "short"]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_interrupted_removal_leaves_a_store_that_works(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The removal of both rows is killed at its first, second or third deletion, after the first file of the folder is gone."""
    count = 0

    def interrupted(path: Path) -> None:
        nonlocal count
        if path.is_dir():
            count += 1
            if count == step:
                next(each for each in path.rglob("*") if each.is_file()).unlink()
                raise KeyboardInterrupt
            shutil.rmtree(path)

    with monkeypatch.context() as patch:
        patch.setattr(artifact_folders, "remove", interrupted)
        assert main(["clean", "short", "cyclic-popularity", "--yes"]) == 130
    artifacts = store.Store(home() / "artifacts")
    for each in stored():
        if each.kind == "artifact":
            artifacts.get(*each.id)
            for parent in artifacts.get(*each.id).manifest["parents"].items():
                artifacts.get(*parent)  # what an artifact was made from outlives it
    assert run_files.names_of_rows() == []
    assert main(["list"]) == 0
    assert main(["list", "--disk"]) == 0
    if step == 2:
        run_experiments.run([SHORT])
        assert run_files.names_of_rows() == ["short"]
    assert main(["clean", "--unused", "--yes"]) == 0
    assert len(stored()) == (2 if step == 2 else 0)


@pytest.mark.parametrize(
    "content", [b'{"format": 3, "name": "short"', b"\xff\xfe\x00", b'{"format": 9}'], ids=["cut", "bytes", "newer"]
)
def test_a_run_file_that_cannot_be_read_keeps_what_it_may_use(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """Of `short` only the file is known. So the other row goes, and all artifacts stay until the file has been removed as well."""
    path, before = home() / "runs" / "short.json", names()
    total, keys_alone = disk_usage.in_words(sum(each.size for each in stored())), keys("cyclic-popularity")
    path.write_bytes(content)
    assert main(["list", "--disk"]) == 0
    listed = capsys.readouterr().out
    assert listed.splitlines()[1].startswith("cyclic-popularity ")
    assert f"unreadable: {path} " in listed
    assert "the unreadable files below may use what nothing else uses" in listed
    (home() / "artifacts" / "sft" / f".{'e' * 16}.removed").mkdir(parents=True)
    assert main(["clean", "--unused", "--dry-run"]) == 0
    assert f"sft/{'e' * 16} (half removed)" in capsys.readouterr().out
    assert main(["clean", "--unused", "--yes"]) == 0
    assert names() == before
    assert main(["clean", "cyclic-popularity", "--yes"]) == 0
    shown = capsys.readouterr().out
    assert "to remove: 0 folders, 0 B\n" in shown
    assert f"kept: {len(keys_alone)} folders" in shown
    assert f"  {path} " in shown
    assert "'genrec clean ROW' removes the run file of a row), then run 'genrec clean --unused'" in shown
    assert run_files.names_of_rows() == ["short"]
    assert names() == before
    assert main(["clean", "short", "--yes"]) == 0
    assert "short.json, which can't be read; its artifacts are not known and stay" in capsys.readouterr().out
    assert run_files.names_of_rows() == []
    assert names() == before
    assert main(["clean", "--unused", "--yes"]) == 0
    assert capsys.readouterr().out.endswith(f"removed {total}\n")
    assert stored() == []


def test_a_damaged_row_goes_with_another_one_in_one_command() -> None:
    """Without the damaged file no other row can use the artifacts of the readable one."""
    shared, own = keys("short")["data"], keys("short")["evaluate"]
    (home() / "runs" / "short.json").write_text("{")
    assert main(["clean", "short", "cyclic-popularity", "--yes"]) == 0
    assert names() == {f"evaluate/{own}"}
    assert not folder("data", shared).exists()


def test_a_damaged_record_of_a_failed_run_keeps_what_it_may_use(capsys: pytest.CaptureFixture[str]) -> None:
    before = names()
    folder("sft", "f" * 16).mkdir(parents=True)
    failed_runs.record(baseline("fails"), [], NumericsError("nan"), artifacts={"sft": "f" * 16})
    (record,) = (home() / "runs" / "failed").glob("*.json")
    record.write_text("{")
    assert main(["list", "--disk"]) == 0
    assert f"unreadable: {record} is damaged" in capsys.readouterr().out
    assert main(["clean", "--unused", "--yes"]) == 0
    assert f"  {record} is damaged" in capsys.readouterr().out
    assert names() == before | {f"sft/{'f' * 16}"}
    record.unlink()
    assert main(["clean", "--unused", "--yes"]) == 0
    assert names() == before


def test_a_run_file_that_is_damaged_during_a_removal_keeps_the_remaining_artifacts() -> None:
    folder("sft", "f" * 16).mkdir(parents=True)
    found = clean_command.plan([], uses())
    (home() / "runs" / "short.json").write_text("{")
    freed, kept = clean_command.remove(found)
    assert freed == 0
    assert kept[0].startswith(f"kept sft/{'f' * 16}: it may be used by an unreadable file: ")
    assert folder("sft", "f" * 16).is_dir()


def test_what_a_row_in_a_queue_uses_is_kept(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its data are done, and it waits for a worker: no run file has them any longer, and no worker runs."""
    found = keys("short")
    for name in ("short", "cyclic-popularity"):
        (data / "runs" / f"{name}.json").unlink()
    with queued([QueuedRow("short", 0, found)]):
        assert main(["clean", "--unused", "--yes"]) == 0
        assert names() == {f"{stage}/{key}" for stage, key in found.items()}
        assert main(["clean", "short", "--yes"]) == 2
        assert "short waits for a worker of process" in capsys.readouterr().err
    assert main(["clean", "--unused", "--yes"]) == 0
    assert names() == set()


def test_what_several_killed_runs_of_one_row_used_is_kept(data: Path) -> None:
    """Two processes with other settings of one row and seed were killed: each may go on with its own artifacts."""
    found, (first, second) = keys("short"), (data / "runs" / "running" / f"{place}-a.json" for place in (1, 2))
    for path, used in ((first, {"data": found["data"]}), (second, {"evaluate": found["evaluate"]})):
        with recorded() as recorder:
            recorder.row(1, 1, "short", 0, used)
            path.write_bytes(recorder.path.read_bytes())
    second.rename(data / "second")  # a process that begins with the row removes the records of killed ones
    with recorded() as recorder:
        recorder.row(1, 1, "short", 0, {"data": found["data"]})
        first.write_bytes(recorder.path.read_bytes())
    (data / "second").rename(second)
    for name in ("short", "cyclic-popularity"):
        (data / "runs" / f"{name}.json").unlink()
    assert main(["clean", "--unused", "--yes"]) == 0
    assert names() == {f"{stage}/{key}" for stage, key in found.items()}


def test_what_a_killed_command_had_in_its_queue_is_kept_until_its_rows_are_removed(data: Path) -> None:
    found = keys("short")
    with queued([QueuedRow("short", 0, found), QueuedRow("other", 0, {"data": found["data"]})]):
        (path,) = (data / "runs" / "running").glob("*.queue")
        content = path.read_bytes()
    path.write_bytes(content)  # as a command leaves it that is killed
    for name in ("short", "cyclic-popularity"):
        (data / "runs" / f"{name}.json").unlink()
    assert main(["clean", "--unused", "--yes"]) == 0
    assert names() == {f"{stage}/{key}" for stage, key in found.items()}
    assert main(["clean", "short", "--yes"]) == 0
    assert names() == {f"data/{found['data']}"}
    assert main(["clean", "other", "--yes"]) == 0
    assert names() == set()
    assert not path.exists()
