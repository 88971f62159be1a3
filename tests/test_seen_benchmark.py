"""The benchmark `seen.py`: shares of already seen items, and margins."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

SEEN = runpy.run_path(str(Path(__file__).parents[1] / "experiments" / "benchmarks" / "seen.py"))


def test_shares_by_hand() -> None:
    """User 1 has 1, 2, 3, 4 before the test item 5: of 4, 2, 9, 5, item 4 is in the window of two, and 2 is older. User 2 has 6.

    Of six positions, two are recent (4 and 6) and one is older (2); positions beyond ten are not counted.
    """
    corpus = SimpleNamespace(bounds=np.array([[0, 3, 4, 5], [5, 6, 6, 7]]), item=np.array([1, 2, 3, 4, 5, 6, 8]))
    lists = pd.DataFrame({"user": [1, 1, 1, 1, 2, 2, 1], "position": [1, 2, 3, 4, 1, 2, 11], "item": [4, 2, 9, 5, 6, 7, 3]})
    assert SEEN["shares"](corpus, lists, 2) == (pytest.approx(2 / 6), pytest.approx(1 / 6))


def test_margins_are_those_of_the_last_step(tmp_path: Path) -> None:
    rows = [{"loss": 1.0, "margin": 0.1, "margin_level_1": 0.1}, {"loss": 0.5, "margin": 0.25, "margin_level_1": -0.2}, {"step": 9}]
    pd.DataFrame(rows).to_parquet(tmp_path / "curves.parquet")
    assert SEEN["margins"](tmp_path) == "margin +0.250, margin_level_1 -0.200"
