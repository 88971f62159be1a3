"""The warning that positives lose probability: when it comes, what it says, and when it does not come."""

from __future__ import annotations

import re

from genrec.training.curve_warnings import FallingPositives
from genrec.training.curves import Curves, Row


def row(step: int, chosen: float, rejected: float, drift: float = 0.0, other: float = 0.0) -> Row:
    return {"step": step, "chosen_log_prob": chosen, "rejected_log_prob": rejected, "chosen_drift": drift, "rejected_drift": other}


def test_it_says_once_by_how_much_both_fell_and_what_helps() -> None:
    """The first row's drifts are -.2 and -.5: at step 0 the log-probabilities were -5 and -8. In rows 3 and 4 the positive lies below
    -6; at row 4 it is -7.5, 2.5 lower, and the negatives are at -14, 6 lower.
    """
    watch = FallingPositives()
    rows = [row(20, -5.2, -8.5, -0.2, -0.5), row(40, -5.9, -9.0), row(60, -6.1, -11.0), row(80, -7.5, -14.0), row(100, -9.0, -19.0)]
    said = [watch({"step": 0, "validation_ndcg@10": 0.1}), *map(watch, rows)]
    assert [text is not None for text in said] == [False, False, False, False, True, False]
    assert said[4] is not None
    assert "by step 80 their log-probability fell by 2.50 nats a Semantic ID (-5.00 -> -7.50)" in said[4]
    assert "the negatives' by 6.00 (-8.00 -> -14.00)" in said[4]
    assert "the margin grows while both fall" in said[4]
    for remedy in ("Anchored(loss, alpha)", "smaller learning rate", "larger beta", "fewer steps", "ContinuedSFT()"):
        assert remedy in said[4]


def test_one_low_row_or_a_fall_of_less_says_nothing() -> None:
    """A row alone may be its examples; a nat is not reached by .9; what rises is no fall."""
    for chosen in ([-5.0, -7.0, -5.5, -7.0, -5.0], [-5.0, -5.9, -5.9, -5.9], [-5.0, -4.0, -2.0, -1.0]):
        watch = FallingPositives()
        assert [watch(row(20 * place, each, -9.0)) for place, each in enumerate(chosen)] == [None] * len(chosen)


def test_a_refreshed_reference_hides_no_fall() -> None:
    """The drift starts at 0 again at every refresh, and the log-probability goes on falling: .6 nats each time, from -5."""
    watch = FallingPositives()
    said = [watch(row(step, -5.0 - 0.6 * step / 20, -9.0, -0.6)) for step in (20, 40, 60)]
    assert said[:2] == [None, None]
    assert said[2] is not None
    assert re.search(r"fell by 1\.80 nats .*\(-5\.00 -> -6\.80\)", said[2])


def test_rows_of_sft_say_nothing() -> None:
    watch = FallingPositives()
    assert [watch({"step": step, "loss": 1.0 * step}) for step in range(5)] == [None] * 5


def test_after_a_resume_it_is_not_said_again() -> None:
    """The rows before the stop are shown to it: it knows step 0, and that it has spoken."""
    rows = [row(20, -5.0, -8.0), row(40, -7.0, -9.0), row(60, -7.5, -9.0)]
    assert FallingPositives()(rows[0]) is None
    resumed = Curves(rows, watchers=[FallingPositives()])
    resumed.rows.append(row(80, -8.0, -9.0))
    assert resumed.tell() == []
    stopped = Curves(rows[:2], watchers=[FallingPositives()])
    stopped.rows.append(rows[2])
    (said,) = stopped.tell()
    assert "(-5.00 -> -7.50)" in said
