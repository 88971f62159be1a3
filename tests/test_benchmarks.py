"""Benchmarks compare like with like, and print what they measured: both sides of the data benchmark give the same arrays."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

FILE = Path(__file__).parents[1] / "experiments" / "benchmarks" / "data.py"


def loaded(file: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"{file.stem}_benchmark", file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return loaded(FILE)


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


TOKENIZER = FILE.with_name("tokenizer.py")


def test_the_tokenizer_benchmark_runs_and_prints_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parts that need no data set, small; what tells items apart does."""
    module = loaded(TOKENIZER)
    arguments = ["tokenizer.py", "million", "collisions", "--rounds", "1", "--items", "30000", "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    module.main()
    printed = capsys.readouterr().out
    rows = {row["side"]: row for row in map(json.loads, (line for line in printed.splitlines() if line.startswith("{")))}
    assert rows["append"]["collided"] == rows["reassign"]["collided"] == 0 < rows["append"]["collided_before"]
    assert rows["sinkhorn"]["collided"] < rows["sinkhorn"]["collided_before"]
    assert rows["ours, torch"]["error"] == pytest.approx(rows["faiss ResidualQuantizer"]["error"], rel=0.05)
    assert "| million | seconds | / faiss ResidualQuantizer |" in printed
    assert "| collisions | seconds | / a dictionary |" in printed


@pytest.mark.realdata
def test_the_tokenizer_benchmarks_quality_of_beauty(real_data: Path, tmp_path: Path) -> None:
    module = loaded(TOKENIZER)
    options = argparse.Namespace(beauty=real_data / "amazon-2014")
    row = {"side": "random codes", **module.worth("random codes", tmp_path, options)}
    assert row["health"]["collided_before_separation"] <= 10  # of 12,101 items with 256^4 codes
    assert row["health"]["equal_vectors"]["items"] == 122
    table = "\n".join(module.quality_table([row]))
    assert "12,101 items, of which 122 share their vector" in table
    lift = row["health"]["co_occurrence"]["prefixes"][0]["lift"]
    assert lift == pytest.approx(1.0, abs=0.1)  # the control says nothing of items
