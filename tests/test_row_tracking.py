"""Trackers: one that fails or hangs stops nothing, a resumed row goes on in its run, and the real libraries work offline."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from test_run_files import baseline

from genrec import row_tracking, run_experiments
from genrec.__main__ import main
from genrec.errors import ResourceError, UsageError
from genrec.row_tracking import RowLog, trackers_of
from genrec.trackers import MLflow, TensorBoard, TrackingThread, WandB
from genrec.training import tensorboard_log
from genrec.training.curves import Row
from genrec.types import TrackedRow, TrackedRun, Tracker

KEYS = {"data": "0" * 16, "sft": "1" * 16}


@dataclass
class Fake:
    """A tracker that keeps what it receives; `fails` names the call that raises an error."""

    fails: str = ""
    message: str = "No space left on device"
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    waits: threading.Event | None = None
    reached: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        self._call("check")

    def start(self, row: TrackedRow, identifier: str | None) -> TrackedRun:
        self._call("start", row.name, row.seed, identifier)
        self.run = identifier or f"run-{len(self.calls)}"
        return self

    def identifier(self) -> str:
        return self.run

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        if self.waits is not None:
            self.reached.set()
            self.waits.wait()
        self._call("log", stage, step, dict(values))

    def finish(self, metrics: Mapping[str, float]) -> None:
        self._call("finish", dict(metrics))

    def close(self) -> None:
        self._call("close")

    def _call(self, name: str, *arguments: Any) -> None:
        if name == self.fails:
            raise OSError(28, self.message)
        self.calls.append((name, *arguments))


def row(folder: Path, seed: int = 0) -> TrackedRow:
    return TrackedRow("row", seed, {"sft.optimization.max_steps": 60, "align": None, "evaluate.cutoffs": [1, 10], "a": "b"}, folder)


def thread(tracker: Tracker, folder: Path, anew: bool = False, keys: Mapping[str, str] = KEYS) -> TrackingThread:
    return TrackingThread(tracker, "fake", row(folder), keys, folder / "tracking" / "row-fake.json", anew)


def points(*steps: int) -> list[Row]:
    return [{"step": step, "loss": step / 10, "validation_ndcg@10": float("nan")} for step in steps]


def track(tracker: Tracker, folder: Path, steps: tuple[int, ...], metrics: Mapping[str, float] | None = None, **options: Any) -> str:
    """Send points, and metrics at the end; return the error."""
    session = thread(tracker, folder, **options)
    for point in points(*steps):
        session.log("sft", point)
    if metrics is not None:
        session.finish(metrics)
    session.close()
    return session.error


def test_a_resumed_row_goes_on_in_its_run_without_repeated_points(tmp_path: Path) -> None:
    """The first command ends after step 60, its checkpoint is of step 40: steps 40 and 60 come again, and 80 is new."""
    tracker = Fake()
    assert track(tracker, tmp_path, (20, 40, 60)) == ""
    assert track(tracker, tmp_path, (40, 60, 80), {"ndcg@10": 0.5, "odd": float("inf")}) == ""
    assert track(tracker, tmp_path, (20, 40, 60, 80), {"ndcg@10": 0.5}) == ""  # a third command finds all done
    values = [("log", "sft", step, {"loss": step / 10}) for step in (20, 40, 60, 80)]  # NaN is left out
    first, again = ("start", "row", 0, None), ("start", "row", 0, "run-1")
    ends = ("finish", {"ndcg@10": 0.5})
    assert tracker.calls == [first, *values[:3], ("close",), again, values[3], ends, ("close",), again, ("close",)]


@pytest.mark.parametrize("options", [{"anew": True}, {"keys": {"data": "2" * 16}}])
def test_another_training_gets_another_run(tmp_path: Path, options: dict[str, Any]) -> None:
    tracker = Fake()
    track(tracker, tmp_path, (20,))
    track(tracker, tmp_path, (20,), **options)
    assert [call for call in tracker.calls if call[0] == "start"] == [("start", "row", 0, None)] * 2
    assert [call[2] for call in tracker.calls if call[0] == "log"] == [20, 20]


def test_a_run_that_the_tracker_has_lost_starts_again_with_all_points(tmp_path: Path) -> None:
    track(Fake(), tmp_path, (20, 40))
    other = Fake(calls=[("earlier",)])  # its run has another identifier
    other.start = lambda row, identifier: Fake.start(other, row, None)  # type: ignore[method-assign]
    track(other, tmp_path, (20, 40))
    assert [call[2] for call in other.calls if call[0] == "log"] == [20, 40]


def test_a_damaged_state_counts_as_none(tmp_path: Path) -> None:
    track(Fake(), tmp_path, (20,))
    (path,) = (tmp_path / "tracking").iterdir()
    for damage in ("{", "[]", json.dumps({"keys": KEYS, "run": 3, "steps": {}, "metrics": ""})):
        path.write_text(damage)
        tracker = Fake()
        assert track(tracker, tmp_path, (20,)) == ""
        assert tracker.calls[0] == ("start", "row", 0, None)


@pytest.mark.parametrize("fails", ["start", "log", "finish", "close"])
def test_a_tracker_that_fails_warns_once_and_gets_no_more_calls(
    tmp_path: Path, fails: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Fake(fails=fails)
    assert "No space left on device" in track(tracker, tmp_path, (20, 40), {"ndcg@10": 0.5})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fake no longer tracks row (seed 0) and what follows it: OSError: [Errno 28] No space left on device; the ")
    names = [call[0] for call in tracker.calls]
    assert names == ["start", "log", "log", "finish", "close"][: {"start": 0, "log": 1, "finish": 3, "close": 4}[fails]]


def test_an_error_of_a_tracker_reaches_the_terminal_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    track(Fake(fails="log", message="\x1b[2J\x1b]0;title\x07 full"), tmp_path, (20,))
    assert "OSError: [Errno 28]  [2J ]0;title  full; the training goes on" in capsys.readouterr().err


def test_a_tracker_that_hangs_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Fake(waits=threading.Event())
    session = thread(tracker, tmp_path)
    for point in points(20, 40):
        session.log("sft", point)
    tracker.reached.wait()
    session.close(seconds=0.01)
    assert session.error == "it has not finished in 0 s"
    assert capsys.readouterr().err.count("no longer tracks") == 1
    assert tracker.waits is not None
    tracker.waits.set()
    session._thread.join()
    assert [call[0] for call in tracker.calls] == ["start", "log"]  # nothing is sent after the error


def test_rows_go_on_without_a_tracker_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two rows, two trackers: the broken one is warned about at the first row and not asked at the second."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    broken, sound = Fake(fails="start"), Fake()
    run_experiments.run([baseline("one"), baseline("two")], trackers={"broken": broken, "sound": sound})
    assert capsys.readouterr().err.count("broken no longer tracks") == 1
    assert [call[:2] for call in sound.calls if call[0] == "start"] == [("start", "one"), ("start", "two")]
    finished = [call[1] for call in sound.calls if call[0] == "finish"]
    assert len(finished) == 2
    assert finished[0]["ndcg@10"] == json.loads((tmp_path / "runs" / "one.json").read_text())["seeds"]["0"]["metrics"]["ndcg@10"]
    assert {path.name for path in (tmp_path / "tracking").iterdir()} == {"one-seed-0-sound.json", "two-seed-0-sound.json"}


def test_a_tracker_that_cannot_be_used_is_refused_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    for name, module, extra in (
        ("tensorboard", "torch.utils.tensorboard", "track"),
        ("wandb", "wandb", "wandb"),
        ("mlflow", "mlflow", "mlflow"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ResourceError, match=rf"--track {name} needs {name} .*: pip install 'genrec\[{extra}\]'"):
            run_experiments.run([baseline()], trackers=trackers_of([name]))
        assert main(["run", "genrec.quickstart:sft", "--track", name, "--dry-run"]) == ResourceError.exit_code
    assert not (tmp_path / "artifacts").exists()


def test_a_check_that_raises_another_error_is_refused_too() -> None:
    with pytest.raises(UsageError, match=r"the tracker mine can't be used: its method check raised .*leave out --track mine"):
        run_experiments.run([baseline()], trackers={"mine": Fake(fails="check")})


def test_trackers_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("from test_row_tracking import Fake\nclass Other:\n    pass\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    found = trackers_of(["mlflow", f"{tmp_path / 'mine.py'}:Fake"])
    assert list(found) == ["mlflow", "Fake"]
    assert all(isinstance(tracker, Tracker) for tracker in found.values())
    with pytest.raises(UsageError, match=r"--track must be tensorboard, wandb, mlflow or FILE.py:CLASS, got 'comet'"):
        trackers_of(["comet"])
    with pytest.raises(UsageError, match=r"Other is no tracker: genrec.types.Tracker has the methods check and start"):
        trackers_of([f"{tmp_path / 'mine.py'}:Other"])
    (tmp_path / "theirs.py").write_text("from test_row_tracking import Fake\n")
    with pytest.raises(UsageError, match=r"mine\.py:Fake and .*theirs\.py:Fake have one name, Fake, for their records; rename one"):
        trackers_of([f"{tmp_path / 'mine.py'}:Fake", f"{tmp_path / 'theirs.py'}:Fake"])
    assert list(trackers_of(["mlflow", "mlflow"])) == ["mlflow"]
    assert main(["run", "genrec.quickstart:sft", "--track", "comet"]) == 2


def test_rows_of_a_stage_that_another_row_has_trained_are_sent_from_its_curves(tmp_path: Path) -> None:
    import pandas as pd

    from genrec.store import Artifact

    pd.DataFrame(points(20, 40)).to_parquet(tmp_path / "curves.parquet")
    (tmp_path / "metrics.json").write_text('{"ndcg@10": 0.25}')
    tracker = Fake()
    session = thread(tracker, tmp_path)
    for stage in ("data", "sft", "evaluate"):
        RowLog([session]).on_artifact(Artifact(stage, "1" * 16, tmp_path, {}))
    session.close()
    assert [call[1:3] for call in tracker.calls if call[0] == "log"] == [("sft", 20), ("sft", 40)]
    assert ("finish", {"ndcg@10": 0.25}) in tracker.calls


def test_the_tensorboard_log_of_a_training_ends_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch.utils.tensorboard")
    (tmp_path / "file").touch()
    with tensorboard_log.tensorboard(tmp_path / "file") as write:  # a file in the place of the folder
        assert write is not None
        for point in ({"step": 0, "loss": 1.0}, {"step": 20, "loss": 0.5}):
            write(point)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"TensorBoard files in {tmp_path / 'file'} end here (")


def sessions(tracker: Tracker, folder: Path) -> None:
    """Track a row in two commands, of which the second repeats a point."""
    tracker.check()
    assert track(tracker, folder, (20, 40)) == ""
    assert track(tracker, folder, (40, 60), {"ndcg@10": 0.5, "popularity percentile (mean)": 0.25}) == ""


def test_tensorboard(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sessions(TensorBoard(), tmp_path)
    found = events.EventAccumulator(str(tmp_path / "tensorboard" / "row" / "seed-0")).Reload()
    assert [(each.step, round(each.value, 6)) for each in found.Scalars("sft/loss")] == [(20, 2.0), (40, 4.0), (60, 6.0)]
    assert [each.value for each in found.Scalars("test/ndcg@10")] == [0.5]
    assert '"sft.optimization.max_steps": 60' in found.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    track(TensorBoard(), tmp_path, (20,), anew=True)
    found = events.EventAccumulator(str(tmp_path / "tensorboard" / "row" / "seed-0")).Reload()
    assert [each.step for each in found.Scalars("sft/loss")] == [20]


def test_mlflow_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'genrec[mlflow]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "a folder"
    sessions(MLflow(), folder)
    client = mlflow.MlflowClient(tracking_uri=(folder / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("genrec").experiment_id])
    assert run.info.run_name == "row (seed 0)"
    assert run.info.status == "FINISHED"
    assert [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "sft/loss")] == [(20, 2), (40, 4), (60, 6)]
    assert run.data.metrics["test/ndcg_at_10"] == 0.5
    assert run.data.metrics["test/popularity percentile _mean_"] == 0.25
    assert run.data.params == {
        "name": "row",
        "seed": "0",
        "sft.optimization.max_steps": "60",
        "align": "null",
        "evaluate.cutoffs": "[1, 10]",
        "a": "b",
    }


def test_wandb_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'genrec[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    sessions(WandB(), tmp_path)
    wandb.teardown()  # its service writes the end of the file after the session has ended
    run = json.loads((tmp_path / "tracking" / "row-fake.json").read_text())["run"]
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert folders
    assert {folder.name.rpartition("-")[2] for folder in folders} == {run}
    written = b"".join(path.read_bytes() for folder in folders for path in folder.glob("*.wandb"))
    for text in (b"sft/loss", b"sft/step", b"test/ndcg@10", b"row (seed 0)", b"sft.optimization.max_steps"):
        assert text in written


def test_wandb_without_a_login_is_refused_and_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'genrec[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "online")
    asked: list[dict[str, bool]] = []
    monkeypatch.setattr(wandb, "login", lambda **options: asked.append(options))
    with pytest.raises(UsageError, match="--track wandb found no login of W&B; run 'wandb login', set WANDB_API_KEY"):
        WandB().check()
    assert asked == [{"prompt": False, "verify": False}]


def test_the_list_of_trackers_is_that_of_the_help() -> None:
    assert list(row_tracking.TRACKERS) == ["tensorboard", "wandb", "mlflow"]
