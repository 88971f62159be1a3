"""TensorBoard logging: the points in the event files, also after a resume, and runs without TensorBoard."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from genrec.training.curves import Curves, Row
from genrec.training.tensorboard_log import tag, tensorboard

EVENTS = "tensorboard.backend.event_processing.event_accumulator"
WRITER = "tensorboard.summary.writer.event_file_writer"


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the points that TensorBoard reads from a folder, by tag."""
    accumulator = pytest.importorskip(EVENTS).EventAccumulator(str(folder)).Reload()
    return {name: [(each.step, each.value) for each in accumulator.Scalars(name)] for name in accumulator.Tags()["scalars"]}


def row(step: int, loss: float) -> Row:
    return {"step": step, "loss": loss, "validation_ndcg@10": step / 64}


@pytest.fixture
def ninth_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next event files of this process have the numbers 9 and 10, whose names sort the other way around within one second."""
    writer = pytest.importorskip(WRITER)
    monkeypatch.setattr(writer, "_global_uid", type(writer._global_uid)(9))


def test_rows_are_written_at_once_in_two_groups(tmp_path: Path) -> None:
    with tensorboard(tmp_path) as write:
        assert write is not None
        write({"step": 0, "validation_ndcg@10": 0.5})
        write({"step": 20, "loss": 2.0, "margin_level_1": 0.25})
        found = points(tmp_path)  # before the writer is closed
    assert found == points(tmp_path)
    assert found == {"validation/ndcg@10": [(0, 0.5)], "training/loss": [(20, 2.0)], "training/margin_level_1": [(20, 0.25)]}
    assert tag("validation_recall@1") == "validation/recall@1"


@pytest.mark.usefixtures("ninth_file")
def test_a_resumed_run_writes_no_point_twice(tmp_path: Path) -> None:
    """Rows up to step 60 were written and the checkpoint is of step 20: points from step 20 on are dropped and written again."""
    with tensorboard(tmp_path) as write:
        assert write is not None
        for step in (20, 40, 60):
            write(row(step, float(step)))
    with tensorboard(tmp_path) as write:
        curves = Curves([row(20, 20.0)], write)
        curves.rows += [row(40, 41.0), row(60, 61.0), row(80, 81.0)]
        curves.emit()
    assert points(tmp_path)["training/loss"] == [(20, 20.0), (40, 41.0), (60, 61.0), (80, 81.0)]
    assert [step for step, _ in points(tmp_path)["validation/ndcg@10"]] == [20, 40, 60, 80]


@pytest.mark.usefixtures("ninth_file")
def test_a_new_run_drops_older_points_in_its_folder(tmp_path: Path) -> None:
    for loss in (1.0, 2.0):
        with tensorboard(tmp_path) as write:
            assert write is not None
            write({"step": 0, "validation_ndcg@10": loss})
            write({"step": 20, "loss": loss})
    assert points(tmp_path) == {"validation/ndcg@10": [(0, 2.0)], "training/loss": [(20, 2.0)]}


def test_without_tensorboard_nothing_is_written_or_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with tensorboard(tmp_path) as write:
        assert write is None
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")
