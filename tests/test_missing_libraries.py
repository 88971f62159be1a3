"""A machine without faiss, duckdb, tyro and optuna: everything after the data stage runs there, and an error names what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from genrec.__main__ import main

PROJECT = Path(__file__).parents[1]
EXPERIMENTS = """
from dataclasses import replace
from genrec.experiment import Evaluate, baselines
from genrec.preference.candidates import Sampled
from genrec.preference.negatives import FaissNeighbors
from genrec.testing import Cyclic
from genrec.tokenizer import RQKMeans
from genrec.tuning import Tuning, Uniform
from worlds import cyclic

def rows():
    aligned = replace(cyclic(steps=4, align_steps=2), name="cyclic-sdpo")
    return [*baselines(aligned), replace(aligned, name="cyclic-sft", align=None), aligned]

def sampler():
    aligned = rows()[-1]
    objective = replace(aligned.align.objective, candidates=Sampled(FaissNeighbors(), 3))
    return replace(aligned, name="neighbors", align=replace(aligned.align, objective=objective))

def engine():
    row = cyclic(steps=4)
    quantizer = RQKMeans(num_levels=2, codebook_size=8, engine="faiss")
    return replace(row, name="engine", tokenize=replace(row.tokenize, quantizer=quantizer))

def tuning():
    return Tuning(experiment=rows()[-2], space={"policy.dropout": Uniform(0.0, 0.5)})

def unprepared():
    return replace(cyclic(steps=4), name="unprepared", source=Cyclic(num_items=30, num_users=50, length=8))
"""
BLOCKED = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("faiss", "duckdb", "tyro", "optuna"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import genrec
for module in pkgutil.walk_packages(genrec.__path__, "genrec."):
    importlib.import_module(module.name)
from genrec import run_experiments
from genrec.__main__ import main
run_experiments._draw_curves = lambda *_: None  # `curves` draws
for line in sys.stdin:
    print(f"exit {main(line.split())} of {line}", end="")
"""
WORKING = [
    "run mine.py:rows",
    "compare cyclic-sft cyclic-sdpo",
    "show cyclic-sdpo",
    "data mine.py:rows",
    "tokenize mine.py:rows",
    "curves cyclic-sdpo",
    "check genrec.preference.negatives:Uniform",
]
NEEDING = {  # command -> what its error says
    "run mine.py:rows --seed 1": "overrides and --fields need tyro, which is not installed: pip install",
    "run mine.py:rows --fields": "overrides and --fields need tyro",
    "run mine.py:unprepared": "preparing data needs duckdb, which is not installed: pip install",
    "run mine.py:sampler": "nearest-neighbor search needs faiss, which is not installed: pip install",
    "tune mine.py:tuning": "genrec tune needs optuna, which is not installed: pip install",
    "run mine.py:engine": "engine='faiss' needs faiss, which is not installed: pip install",
}


def test_everything_after_the_data_stage_runs_without_faiss_duckdb_and_tyro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data come from a machine that has duckdb. Every module is imported, every command without overrides works."""
    pytest.importorskip("duckdb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), str(PROJECT / "tests")]))
    (tmp_path / "mine.py").write_text(EXPERIMENTS)
    assert main(["data", "mine.py:rows"]) == 0
    commands = [*WORKING, *NEEDING]
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED], input="\n".join(commands) + "\n", cwd=tmp_path, capture_output=True, text=True, check=True
    )
    codes = [line for line in result.stdout.splitlines() if line.startswith("exit ")]
    assert codes == [*(f"exit 0 of {command}" for command in WORKING), *(f"exit 5 of {command}" for command in NEEDING)], result.stderr
    assert "NDCG@10 compared with cyclic-sft" in result.stdout
    for said in NEEDING.values():
        assert f"genrec: {said}" in result.stderr


def test_collecting_the_tests_imports_none_of_these_libraries(imported_by_collection: list[str]) -> None:
    """Otherwise the whole suite would stop on a machine that lacks them."""
    assert imported_by_collection == []
