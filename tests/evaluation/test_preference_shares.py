"""The share of rows with a preference: from curves by hand, the note below a table, and a run with a hit gate."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from pandas import DataFrame
from worlds import TINY

from genrec.evaluation.compare import Row, Spread
from genrec.evaluation.comparison.preference_shares import MAX_LISTED, preference_share, preference_share_notes
from genrec.experiment import SFT, Align, Experiment, Optimization
from genrec.objectives import Preference
from genrec.pipeline import run
from genrec.preference.candidates import TopItems
from genrec.testing import Shop


def test_by_hand() -> None:
    """Rows of the curves without training steps, such as validations, have no value."""
    assert preference_share(DataFrame({"step": [0, 20, 40], "preference_share": [math.nan, 0.01, 0.03]})) == {
        "preference_share": pytest.approx(0.02)
    }
    assert preference_share(DataFrame({"step": [20], "gradient_share": [0.5]})) == {"preference_share": 0.5}
    assert preference_share(DataFrame({"step": [20], "loss": [0.5]})) == {}
    assert preference_share(DataFrame({"step": [0], "preference_share": [math.nan]})) == {}


def row(name: str, share: float | None) -> Row:
    metrics = {} if share is None else {"preference_share": Spread(share, None)}
    return Row(name, (0,), {}, metrics, 0.1, None, None, {})


def test_the_note_begins_with_the_smallest_share() -> None:
    (note,) = preference_share_notes([row("sft", None), row("gated", 0.013), row("grpo", 0.0049)])
    assert "gave a preference: grpo 0.5 %; gated 1.3 %. The others" in note
    assert preference_share_notes([row("sft", None)]) == []
    (note,) = preference_share_notes([row(f"row-{number}", number / 100) for number in range(MAX_LISTED + 2)])
    assert "row-7 7.0 %; 2 more rows have a larger share. The others" in note


def test_a_gated_row_has_a_share_and_sft_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    optimization = Optimization(max_steps=2, batch_size=16, learning_rate=1e-3)
    base = Experiment(
        name="base", source=Shop(num_items=60, num_users=80), policy=replace(TINY, num_beams=50), sft=SFT(optimization=optimization)
    )
    gated = Preference(candidates=TopItems(size=4), likelihood=1.0)
    rows = [base, replace(base, name="gated", align=Align(objective=gated, optimization=optimization))]
    metrics = [json.loads((run(each)["evaluate"].folder / "metrics.json").read_text()) for each in rows]
    assert "preference_share" not in metrics[0]
    assert 0 <= metrics[1]["preference_share"] < 1


def test_nothing_is_said_of_other_rows_where_all_gave_a_preference() -> None:
    (note,) = preference_share_notes([row("all", 1.0), row("nearly all", 0.9996)])
    assert note == "Rows of the alignment that gave a preference: nearly all 100.0 %; all 100.0 %."
    (note,) = preference_share_notes([row("all", 1.0), row("most", 0.99)])
    assert "The others train by the likelihood alone" in note
