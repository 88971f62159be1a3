"""Training curves: means per row, emitted rows, and the table."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec.errors import UsageError
from genrec.training.curves import Curves, Row, best_step, last_values, mean_and_error, means, save, scores, table


def logged(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_a_row_is_the_mean_over_the_steps_that_logged_a_metric() -> None:
    """loss (1 + 2 + 6) / 3 = 3; margin (4 + 8) / 2 = 6, without the step that logged none; names in the order of first logging."""
    found = means([logged(margin=4.0, loss=1.0), logged(loss=2.0), logged(loss=6.0, margin=8.0, late=7.0)])
    assert found == {"margin": 6.0, "loss": 3.0, "late": 7.0}
    assert list(found) == ["margin", "loss", "late"]


def test_a_mean_leaves_out_the_steps_in_which_a_metric_is_nan() -> None:
    """hit_log_prob (-4 - 2) / 2 = -3 over the two steps with a hit; none of them has `none`; the loss has no NaN."""
    steps = [logged(loss=1.0, hit_log_prob=-4.0, none=math.nan), logged(loss=2.0, hit_log_prob=math.nan, none=math.nan)]
    found = means([*steps, logged(loss=6.0, hit_log_prob=-2.0, none=math.nan)])
    assert (found["loss"], found["hit_log_prob"], math.isnan(found["none"])) == (3.0, -3.0, True)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40))
def test_a_mean_without_nan_is_torchs_mean_to_the_digit(values: list[float]) -> None:
    assert means([logged(loss=value) for value in values])["loss"] == torch.tensor(values).mean().item()


def test_a_validation_metric_has_the_standard_error_over_users() -> None:
    """Values 0, 1, 1, 0: mean 0.5, variance 4 * 0.25 / 3 = 1 / 3, standard error sqrt(1 / 3 / 4); one user has none."""
    found = mean_and_error("ndcg@10", torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64))
    assert found == {"ndcg@10": 0.5, "ndcg@10_standard_error": pytest.approx(math.sqrt(1 / 12))}
    assert mean_and_error("ndcg@10", torch.tensor([0.25])) == {"ndcg@10": 0.25}


def test_rows_are_emitted_once_and_when_they_are_complete() -> None:
    """Validation metrics join the row of their step; at another step they make a new row."""
    emitted: list[Row] = []
    curves = Curves([], emitted.append, [lambda row: f"loss {row['loss']}" if row.get("loss", 0) > 1 else None])
    curves.add_validation(0, {"ndcg@10": 0.1, "recall@1": 0.0})
    assert curves.emit() == []
    curves.pending += [logged(loss=1.0), logged(loss=3.0)]
    curves.flush(2)
    assert len(emitted) == 1
    curves.add_validation(2, {"ndcg@10": 0.2, "recall@1": 0.1})
    assert curves.emit() == ["loss 2.0"]
    assert curves.emit() == []
    first = {"step": 0, "validation_ndcg@10": 0.1, "validation_recall@1": 0.0}
    assert emitted == curves.rows == [first, {"step": 2, "loss": 2.0, "validation_ndcg@10": 0.2, "validation_recall@1": 0.1}]
    assert scores(curves.rows) == {0: 0.1, 2: 0.2}


def test_validation_needs_the_selection_metric() -> None:
    with pytest.raises(UsageError, match=r"validate must return ndcg@10.*got recall@1$"):
        Curves([]).add_validation(0, {"recall@1": 0.5})
    with pytest.raises(UsageError, match="got nothing"):
        Curves([]).add_validation(0, {})


def replay(curves: Curves, steps: range, every: int) -> None:
    for step in steps:
        curves.pending.append(logged(loss=float(step)))
        if step % every == 0:
            curves.flush(step)
            curves.emit()


@given(total=st.integers(1, 30), every=st.integers(1, 5), saved=st.integers(0, 30), stopped=st.integers(0, 30))
def test_a_resumed_run_gives_the_rows_of_an_uninterrupted_run(total: int, every: int, saved: int, stopped: int) -> None:
    """A run is killed after `stopped` steps and resumes from a checkpoint of an earlier step, within a row or at its end. `on_row` has
    each row once after it drops the rows from the first row of the second part on. A watcher sees each row once.
    """
    stopped = min(stopped, total)
    saved = min(saved, stopped)
    whole = Curves([])
    replay(whole, range(1, total + 1), every)

    received: list[Row] = []
    first = Curves([], received.append)
    replay(first, range(1, stopped + 1), every)
    at_save = Curves([])
    replay(at_save, range(1, saved + 1), every)
    assert at_save.rows == [row for row in first.rows if row["step"] <= saved]
    again: list[Row] = []
    watched: list[Row] = []
    second = Curves(at_save.rows, again.append, [watched.append], pending=at_save.pending_values())  # type: ignore[list-item]
    replay(second, range(saved + 1, total + 1), every)
    void = again[0]["step"] if again else math.inf
    assert second.rows == whole.rows == watched
    if again:
        assert [row for row in received if row["step"] < void] + again == whole.rows


def test_the_table_is_ordered_and_empty_for_missing_metrics(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"step": 0, "validation_ndcg@10": 0.5},
        {"step": 20, "margin": 1.5, "loss": 0.25},
        {"step": 40, "margin": 2.5, "loss": 0.125, "drawn_depth": 1.0, "validation_ndcg@10": 0.75},
    ]
    assert list(table(rows)) == ["step", "loss", "margin", "drawn_depth", "validation_ndcg@10"]
    save(rows, tmp_path)
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert lines == ["step,loss,margin,drawn_depth,validation_ndcg@10", "0,,,,0.5", "20,0.25,1.5,,", "40,0.125,2.5,1.0,0.75"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "curves.csv"), pd.read_parquet(tmp_path / "curves.parquet"))


def test_the_best_step_is_the_first_of_equals_and_last_values_skip_gaps() -> None:
    """Training keeps the first step with the best score: 0.7 at step 20, not 0.7 at step 60."""
    found = table([{"step": step, "validation_ndcg@10": score} for step, score in ((0, 0.5), (20, 0.7), (40, 0.6), (60, 0.7))])
    found = pd.concat([found, pd.DataFrame({"step": [80], "loss": [2.0]})], ignore_index=True).assign(never=float("nan"))
    assert best_step(found) == (20, 0.7)
    assert last_values(found) == {"validation_ndcg@10": 0.7, "loss": 2.0}
