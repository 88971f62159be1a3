"""The warning about falling positives: when it is given, its text, and when it is not given."""

from __future__ import annotations

import re

import pytest
from worlds import cyclic

from genrec.objectives.curve_warnings import ADVICE, FallingPositives
from genrec.overrides import override
from genrec.training.curves import Curves, Row


def row(step: int, chosen: float, rejected: float, drift: float = 0.0, other: float = 0.0) -> Row:
    return {"step": step, "chosen_log_prob": chosen, "rejected_log_prob": rejected, "chosen_drift": drift, "rejected_drift": other}


def test_the_warning_is_given_once_with_both_falls_and_advice() -> None:
    """The drifts of the first row are -0.2 and -0.5, so the log-probabilities at step 0 were -5 and -8. Rows 3 and 4 have the positive
    below -6. In row 4 it is at -7.5, 2.5 lower, and the negatives are at -14, 6 lower.
    """
    watcher = FallingPositives()
    rows = [row(20, -5.2, -8.5, -0.2, -0.5), row(40, -5.9, -9.0), row(60, -6.1, -11.0), row(80, -7.5, -14.0), row(100, -9.0, -19.0)]
    messages = [watcher({"step": 0, "validation_ndcg@10": 0.1}), *map(watcher, rows)]
    assert [message is not None for message in messages] == [False, False, False, False, True, False]
    assert messages[4] is not None
    assert "by step 80 their log-probability fell by 2.50 nats per Semantic ID (-5.00 -> -7.50)" in messages[4]
    assert "that of the negatives fell by 6.00 (-8.00 -> -14.00)" in messages[4]
    assert "The margin between them grew by 3.50 (3.00 -> 6.50) while both fell" in messages[4]
    for advice in ("Anchored(loss, alpha)", "smaller learning rate", "larger beta", "fewer steps", "--align.objective Supervised"):
        assert advice in messages[4]


@pytest.mark.parametrize(
    "flags",
    [
        ["--align.likelihood", "1"],
        ["--align.optimization.learning-rate", "1e-5"],
        ["--align.optimization.max-steps", "10"],
        ["--align.objective", "Supervised"],
    ],
    ids=lambda words: words[0],
)
def test_the_flags_of_the_advice_exist(flags: list[str]) -> None:
    """So do those of the warnings about the lists and the distance from SFT."""
    assert flags[0] in ADVICE
    base = cyclic(align_steps=20)
    for given in (flags, ["--align.keep", "best"], ["--align.reference", "sft"]):
        override([base], given)


@pytest.mark.parametrize(
    ("rejected", "moved", "margin"),
    [
        (
            -8.5,
            "fell by 0.50 (-8.00 -> -8.50)",
            "shrank by 1.50 (3.00 -> 1.50), because the positives fell further than the negatives",
        ),
        (-7.0, "rose by 1.00 (-8.00 -> -7.00)", "shrank by 3.00 (3.00 -> 0.00), because the positives fell and the negatives rose"),
        (-10.5, "fell by 2.50 (-8.00 -> -10.50)", "grew by 0.50 (3.00 -> 3.50) while both fell"),
        (-10.0, "fell by 2.00 (-8.00 -> -10.00)", "stayed at 3.00"),
    ],
)
def test_the_message_says_whether_the_margin_grew_or_shrank(rejected: float, moved: str, margin: str) -> None:
    """The positives fall from -5 to -7, by 2; the negatives start at -8."""
    watcher = FallingPositives()
    watcher(row(20, -5.0, -8.0))
    watcher(row(40, -7.0, rejected))
    message = watcher(row(60, -7.0, rejected))
    assert message is not None
    assert f"that of the negatives {moved}. The margin between them {margin}" in message
    assert sum(word in message for word in ("grew by", "shrank by", "stayed at")) == 1


def test_one_low_row_or_a_smaller_fall_gives_no_warning() -> None:
    """One row may have hard examples; 0.9 is below the limit of 1 nat; the last case rises."""
    for chosen in ([-5.0, -7.0, -5.5, -7.0, -5.0], [-5.0, -5.9, -5.9, -5.9], [-5.0, -4.0, -2.0, -1.0]):
        watcher = FallingPositives()
        assert [watcher(row(20 * index, each, -9.0)) for index, each in enumerate(chosen)] == [None] * len(chosen)


def test_a_fall_across_refreshed_references_is_detected() -> None:
    """The drift restarts at 0 at every refresh, while the log-probability falls by 0.6 nats each time, from -5."""
    watcher = FallingPositives()
    messages = [watcher(row(step, -5.0 - 0.6 * step / 20, -9.0, -0.6)) for step in (20, 40, 60)]
    assert messages[:2] == [None, None]
    assert messages[2] is not None
    assert re.search(r"fell by 1\.80 nats .*\(-5\.00 -> -6\.80\)", messages[2])


def test_dropout_alone_is_no_fall() -> None:
    """Weights that stay: dropout lowers the log-probability from -5, that of the reference, to -6.2 in every row. A fall of 1.1 nats
    below the first row is one, also where a refreshed reference moves the drift.
    """
    rows = [row(step, -6.2, -9.1, -1.2, -1.1) for step in (20, 40, 60)]
    without, with_dropout = FallingPositives(), FallingPositives(dropout=True)
    assert [without(each) is None for each in rows] == [True, False, True]
    assert [with_dropout(each) for each in rows] == [None] * 3
    assert with_dropout(row(80, -7.3, -9.1, -1.2)) is None
    message = with_dropout(row(100, -7.3, -9.1, -1.2))
    assert message is not None
    assert "fell by 1.10 nats per Semantic ID (-6.20 -> -7.30), that of the negatives fell by 0.00 (-9.10 -> -9.10)" in message


def test_rows_of_sft_give_no_warning() -> None:
    watcher = FallingPositives()
    assert [watcher({"step": step, "loss": 1.0 * step}) for step in range(5)] == [None] * 5


def test_a_resumed_run_does_not_warn_again() -> None:
    """The watcher sees the saved rows: it knows the values at step 0, and whether it has warned."""
    rows = [row(20, -5.0, -8.0), row(40, -7.0, -9.0), row(60, -7.5, -9.0)]
    assert FallingPositives()(rows[0]) is None
    resumed = Curves(rows, watchers=[FallingPositives()])
    resumed.rows.append(row(80, -8.0, -9.0))
    assert resumed.emit() == []
    stopped = Curves(rows[:2], watchers=[FallingPositives()])
    stopped.rows.append(rows[2])
    (message,) = stopped.emit()
    assert "(-5.00 -> -7.50)" in message
