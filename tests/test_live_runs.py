"""Records of running processes and `genrec status`: alive, killed, failed, without a record, damaged; and nothing that stops a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from test_run_files import baseline

from genrec import failed_runs, hashed_json, live_runs, progress, run_experiments, run_files, run_list, run_status, store
from genrec.errors import NumericsError
from genrec.held_locks import command_of, holder, is_held
from genrec.live_runs import QueuedRow, Recorder, queued, recorded
from genrec.workspace import running_folder

KEYS = {"data": "0" * 16, "sft": "1" * 16}
STATE = progress.State("SFT", 600, 2000, 2.5, 560.0, "loss 3.2, ndcg@10 0.0312 (best 0.0330 at step 400)")
KILLED = """
import os, signal, sys
from genrec.live_runs import recorded
sys.argv = ["genrec", "run", "mine.py:row", "--refresh", "sft"]
with recorded() as recorder:
    recorder.row(2, 3, "row", 4, {"data": "0" * 16, "sft": "1" * 16})
    recorder.stage("sft")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that a recorder reads."""
    seconds = [0.0]
    monkeypatch.setattr(live_runs, "Recorder", lambda path: Recorder(path, lambda: seconds[0]))
    return seconds


def test_a_run_is_shown_while_it_runs_and_its_record_goes_with_it(home: Path, clock: list[float]) -> None:
    with recorded() as recorder:
        recorder.row(2, 3, "row", 4, KEYS)
        first, _, second = run_status.lines()[:3]
        assert first == f"1 running in {home}"
        assert second.startswith(f"row (seed 4): data, run 2 of 3, process {os.getpid()} on ")
        recorder.stage("sft")
        recorder.watch(STATE._replace(done=0, rate=None, seconds_left=None, note=""))
        assert run_status.lines()[3].startswith("  SFT: 0 of 2,000 (last progress ")  # the steps in all, from the start
        recorder.watch(STATE)  # at once after the last record
        assert "SFT: 0 of 2,000" in "\n".join(run_status.lines())
        clock[0] = live_runs.WRITE_SECONDS
        recorder.watch(STATE)
        line = run_status.lines()[3]
        expected = "  SFT: 600 of 2,000, 2.5/s, about 9 min left, loss 3.2, ndcg@10 0.0312 (best 0.0330 at step 400) (last progress "
        assert line.startswith(expected)
    assert run_status.lines() == [f"nothing runs in {home}"]
    assert not list(running_folder().iterdir())


def test_the_progress_of_a_stage_is_recorded(clock: list[float]) -> None:
    with recorded() as recorder:
        recorder.row(1, 1, "row", 0, KEYS)
        clock[0] = live_runs.WRITE_SECONDS
        assert list(progress.track(range(3), "reading")) == [0, 1, 2]
        (run,), _ = live_runs.read_all()
    assert (run.content["work"], run.content["done"], run.content["total"]) == ("reading", 1, 3)  # the others came too soon
    assert progress._watchers == []


def test_a_training_is_followed_from_before_its_first_step(clock: list[float]) -> None:
    """A resumed training may validate for minutes before it makes a step."""
    with recorded() as recorder:
        recorder.row(1, 1, "row", 0, KEYS)
        with progress.Progress("SFT", 2000) as bar:
            bar.begin(400)
            with progress.Progress("validation", 5) as inner:
                inner.begin(3)
            assert run_status.lines()[3].startswith("  SFT: 400 of 2,000 (last progress ")
            bar.advance()
        assert bar.done == 401


@pytest.mark.parametrize("known", [True, False], ids=["holder", "progress"])
def test_a_process_that_waits_for_the_lock_of_another_is_not_running(
    known: bool, home: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Process 7 holds the lock of the training; this process wants the same artifact. Not every system names the holder."""
    monkeypatch.setattr(run_status, "holder", lambda path: 7 if known else None)
    lock = store.Store(home / "artifacts").lock("sft", KEYS["sft"])
    lock.parent.mkdir(parents=True)
    with recorded() as first, recorded() as second, FileLock(lock):
        first.content["process"] = 7
        for recorder in (second, first):
            recorder.row(1, 1, "row", 0, KEYS, "sft")
        first.watch(STATE)
        lines = run_status.lines()
        assert lines[0] == f"1 running, 1 waiting in {home}"
        assert lines[2].startswith("row (seed 0): sft, process 7 on ")
        assert lines[3].startswith("  SFT: 600 of 2,000")
        assert lines[5].startswith(f"row (seed 0): sft, process {os.getpid()} on ")
        assert lines[6] == f"  waits for process 7, which builds sft {KEYS['sft']}"
        second.watch(STATE)  # it has got the lock
        assert run_status.lines()[0] == f"2 running in {home}"


def test_a_killed_run_that_goes_on_or_has_finished_is_not_listed(home: Path, clock: list[float]) -> None:
    """Its row and seed, its command, or its result is there; a result of other artifacts is not that of the run."""

    def state() -> str:
        return "\n".join(run_status.lines())

    run_experiments.run([baseline()])
    keys = run_files.read("cyclic-popularity")["seeds"]["0"]["artifacts"]
    killed = {
        "process": 1,
        "host": "here",
        "command": "genrec run mine.py:rows",
        "started": "2020-01-01T00:00:00Z",
        "row": 2,
        "rows": 3,
    }
    killed |= {"name": "cyclic-popularity", "seed": 0, "stage": "evaluate", "artifacts": keys, "work": "", "done": 0, "note": ""}
    running_folder().mkdir(parents=True, exist_ok=True)

    def write(**changes: object) -> None:
        store.write_json(running_folder() / "1-a.json", hashed_json.add_hash({**killed, "updated": "2020-01-01T00:00:01Z"} | changes))

    write()
    assert "was killed" not in state()  # the row has its result since
    for changes in ({"updated": "2999-01-01T00:00:00Z"}, {"seed": 1}, {"artifacts": keys | {"data": "0" * 16}}):
        write(**changes)
        assert "cyclic-popularity (seed" in state()
        assert "was killed in evaluate" in state()
    write(seed=1)
    waited = hashed_json.add_hash(
        {**killed, "seed": 1, "updated": "2020-01-01T00:00:09Z", "process": 2, "command": "genrec run b.py:row"}
    )
    store.write_json(running_folder() / "2-b.json", waited)
    assert "1 not finished" in state()  # two processes of one row, of which one has waited for the other
    (running_folder() / "2-b.json").unlink()
    with recorded() as recorder:
        recorder.content["command"] = "genrec run mine.py:other"
        recorder.row(1, 3, "before", 0, KEYS)
        assert "was killed" in state()
        recorder.content["command"] = "genrec run mine.py:rows"
        recorder.row(1, 3, "before", 0, KEYS)
        assert "was killed" not in state()  # the list will reach the row


def test_a_failed_run_that_is_run_again_is_only_running() -> None:
    failed_runs.record(baseline(), [], NumericsError("nan"))
    assert "failed in data" in "\n".join(run_status.lines())
    assert "failed in data" in "\n".join(run_list.lines())
    with recorded() as recorder:
        recorder.row(1, 1, "cyclic-popularity", 0, KEYS)
        assert "failed in data" not in "\n".join(run_status.lines())
        assert "failed in data" not in "\n".join(run_list.lines())
        assert run_list.lines()[-1] == "1 run in progress or waiting; 'genrec status' shows them"


def test_a_killed_run_is_recognized_by_its_free_lock_and_can_be_resumed() -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert killed.returncode == -9
    (lock,) = running_folder().glob(".*.lock")
    assert not is_held(lock)
    assert run_status.lines()[0].startswith("nothing runs in ")
    assert run_status.lines()[2] == "1 not finished"
    text = "\n".join(run_status.lines())
    assert "row (seed 4) was killed in sft, after " in text
    assert text.endswith("  resume: genrec run mine.py:row")  # without --refresh, which would begin again
    with recorded() as recorder:
        recorder.row(1, 1, "row", 5, KEYS)
        assert "was killed" in "\n".join(run_status.lines())  # another seed
        recorder.row(1, 1, "row", 4, KEYS)
        assert "was killed" not in "\n".join(run_status.lines())
    assert not list(running_folder().iterdir())


def test_a_failed_run_leaves_its_keys_and_no_record_of_a_running_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        assert live_runs.read_all()[0][0].is_alive
        raise NumericsError("the loss is nan")

    monkeypatch.setattr(run_experiments.pipeline, "run", fail)
    with pytest.raises(NumericsError):
        run_experiments.run([baseline()])
    assert live_runs.read_all() == ([], [])
    (failure,), _ = failed_runs.read_all()
    assert list(failure.artifacts) == ["data", "evaluate"]
    assert "cyclic-popularity (seed 0) failed in data" in "\n".join(run_status.lines())


def test_a_record_that_cannot_be_written_is_said_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(live_runs, "write_json", full)
    with recorded() as recorder:
        recorder.row(1, 1, "row", 0, KEYS)
        recorder.stage("sft")
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert printed[0].startswith("'genrec status' cannot follow this run, which goes on: ")


def test_damaged_records_are_named() -> None:
    running_folder().mkdir(parents=True)
    (running_folder() / "1-a.json").write_text("{")
    assert run_status.lines()[-1].startswith(f"unreadable: {running_folder() / '1-a.json'} is damaged")


def checkpoint(home: Path, key: str) -> Path:
    """Write the progress of an interrupted training and return its lock."""
    last = home / "artifacts" / "sft" / f".{key}.partial" / "checkpoint" / "last"
    last.mkdir(parents=True)
    curves = [{"step": 20, "loss": 2.5}, {"step": 20, "validation_ndcg@10": 0.25}]
    (last / "progress.json").write_text(json.dumps({"step": 40, "best_step": 20, "best_score": 0.25, "curves": curves}))
    return home / "artifacts" / "sft" / f".{key}.lock"


@pytest.fixture
def held(home: Path) -> Iterator[str]:
    """The key of a training that this process holds without a record."""
    lock = FileLock(checkpoint(home, "a" * 16))
    with lock:
        yield "a" * 16


def test_a_training_without_a_record_is_found_by_its_lock(home: Path, held: str) -> None:
    """Earlier versions keep no record. TensorBoard's folder names the row; the lock names the process."""
    (home / "tensorboard" / "old-row" / f"seed-3-sft-{held}").mkdir(parents=True)
    lines = run_status.lines()
    assert lines[0] == f"1 running in {home}"
    process = holder(home / "artifacts" / "sft" / f".{held}.lock")
    assert process in (None, os.getpid())
    assert lines[2].startswith(f"old-row (seed 3): sft {held}, {'process' if process else 'a process'}")
    assert lines[3] == "  checkpoint of step 40, loss 2.5, best validation score 0.2500 at step 20"


def test_a_checkpoint_that_nobody_holds_is_not_running(home: Path) -> None:
    checkpoint(home, "b" * 16).touch()  # a stale lock
    for name in ("b" * 15, "z" * 16):
        checkpoint(home, name)  # no key of an artifact
    assert run_status.lines()[:3] == [f"nothing runs in {home}", "", "1 not finished"]
    assert run_status.lines()[4].startswith(f"an unnamed run has left sft {'b' * 16} unfinished: checkpoint of step 40")


def test_a_checkpoint_of_a_stopped_run_is_listed_once(home: Path) -> None:
    """The record of the stopped run names the artifact; no folder of TensorBoard names the row."""
    checkpoint(home, "b" * 16)
    failed_runs.record(baseline(), [], KeyboardInterrupt(), artifacts={"sft": "b" * 16})
    lines = run_status.lines()
    assert lines[:3] == [f"nothing runs in {home}", "", "1 not finished"]
    assert not any("has left" in line for line in lines)


def test_a_lock_is_held_or_stale(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    assert not is_held(path)
    with store.locked(path):
        assert is_held(path)
    path.touch()
    assert not is_held(path)
    assert "python" in command_of(os.getpid()) or not Path("/proc").is_dir()
    assert command_of(2**30) == ""


WAITING = (QueuedRow("row", 4, KEYS), QueuedRow("other", 0, {"data": "0" * 16}))
KILLED_QUEUE = """
import os, signal, sys
from genrec.live_runs import QueuedRow, queued
sys.argv = ["genrec", "run", "mine.py:rows", "--on", "local:2"]
rows = [QueuedRow(name, 0, {"data": "0" * 16}) for name in ("one", "two", "three")]
with queued(rows) as take_out:
    take_out("one", 0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_rows_that_wait_for_workers_are_shown(home: Path, clock: list[float]) -> None:
    with queued(WAITING) as take_out:
        lines = run_status.lines()
        assert lines[0] == f"0 running, 2 waiting in {home}"
        assert lines[2].startswith(f"waiting for workers of process {os.getpid()} on ")
        assert lines[2].endswith(": row (seed 4), other (seed 0)")
        with recorded() as recorder:  # a worker has taken up one of them
            recorder.row(1, 2, "row", 4, KEYS)
            lines = run_status.lines()
            assert lines[0] == f"1 running, 1 waiting in {home}"
            assert lines[-1].endswith(": other (seed 0)")
        take_out("row", 4)
        assert [(run.name, run.seed, run.waits) for run in live_runs.read_all()[0]] == [("other", 0, True)]
        take_out("other", 0)
        assert run_status.lines() == [f"nothing runs in {home}"]
    assert not list(running_folder().iterdir())


def test_the_rows_of_a_killed_command_wait_for_the_same_command(home: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED_QUEUE], check=False)
    lines = run_status.lines()
    assert lines[0] == f"nothing runs in {home}"
    assert lines[4].startswith("waiting for workers when their command was killed, after ")
    assert lines[4].endswith(": two (seed 0), three (seed 0)")
    assert lines[5] == "  resume: genrec run mine.py:rows --on local:2"
    live_runs.remove_killed("two", 0)
    assert [run.name for run in live_runs.read_all()[0]] == ["three"]
    with queued([QueuedRow("three", 0, {"data": "0" * 16})]):
        assert [(run.name, run.is_alive) for run in live_runs.read_all()[0]] == [("three", True)]
    assert not list(running_folder().iterdir())


def test_a_damaged_queue_is_named(home: Path) -> None:
    with queued(WAITING):
        (path,) = running_folder().glob("*.queue")
        path.write_text("{}")
        assert f"unreadable: {path}" in run_status.lines()[-1]
