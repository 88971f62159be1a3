"""Benchmarks compare like with like: both sides of the data benchmark give the same arrays."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

FILE = Path(__file__).parents[1] / "experiments" / "benchmarks" / "data.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    specification = importlib.util.spec_from_file_location("data_benchmark", FILE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_both_sides_of_the_data_benchmark_give_the_same(benchmark: ModuleType, tmp_path: Path) -> None:
    benchmark.generate(tmp_path / "log.parquet", 30_000)
    outcomes = {}
    for side in ("ours", "in_pandas"):
        (tmp_path / side).mkdir()
        outcomes[side] = getattr(benchmark, side)(tmp_path / "log.parquet", tmp_path / side)
    assert outcomes["ours"] == outcomes["in_pandas"]
    assert 20_000 < outcomes["ours"]["kept"] < 30_000
    for name in ("event_item", "event_time", "event_rating", "bounds"):
        np.testing.assert_array_equal(*(np.load(tmp_path / side / f"{name}.npy") for side in outcomes))
    for name, column in (("split", "part"), ("users", "user_id"), ("interactions", "item")):
        one, other = (pd.read_parquet(tmp_path / side / f"{name}.parquet")[column].tolist() for side in outcomes)
        assert one == other


def test_the_data_benchmark_runs_and_prints_its_table(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["data.py", "--events", "5e3", "--rounds", "1", "--work", str(tmp_path)])
    benchmark.main()
    assert "| | ours / pandas |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["data.py", "--read", "500", "--work", str(tmp_path)])
    benchmark.main()
    assert '"events": 500' in capsys.readouterr().out
