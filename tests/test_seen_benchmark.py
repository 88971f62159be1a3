"""The share of places that hold what a user has had."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

SEEN = runpy.run_path(str(Path(__file__).parents[1] / "experiments" / "benchmarks" / "seen.py"))


def test_shares_by_hand() -> None:
    """User 1 had 1, 2, 3, 4 before the test (5): of 4, 2, 9, 5 the window of two holds 4, and 2 is older. User 2 had 6: of 6, 7 half.

    Of six places two are recent (4 and 6), one is older (2); what stands beyond ten places does not count.
    """
    corpus = SimpleNamespace(bounds=np.array([[0, 3, 4, 5], [5, 6, 6, 7]]), item=np.array([1, 2, 3, 4, 5, 6, 8]))
    lists = pd.DataFrame({"user": [1, 1, 1, 1, 2, 2, 1], "position": [1, 2, 3, 4, 1, 2, 11], "item": [4, 2, 9, 5, 6, 7, 3]})
    assert SEEN["shares"](corpus, lists, 2) == (pytest.approx(2 / 6), pytest.approx(1 / 6))


def test_margins_are_of_the_last_steps(tmp_path: Path) -> None:
    rows = [{"loss": 1.0, "margin": 0.1, "margin_level_1": 0.1}, {"loss": 0.5, "margin": 0.25, "margin_level_1": -0.2}, {"step": 9}]
    pd.DataFrame(rows).to_parquet(tmp_path / "curves.parquet")
    assert SEEN["margins"](tmp_path) == "margin +0.250, margin_level_1 -0.200"
