"""The comparison with cornac, without cornac: the exported events give a peer what it needs for the same ranks."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from worlds import cyclic

from genrec.baselines import BPR, EASE, Popularity
from genrec.experiment import Evaluate, Experiment
from genrec.testing import Shop
from genrec.types import Baseline

PEERS = Path(__file__).parents[2] / "experiments" / "benchmarks" / "peers"


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Import the script as it runs, beside `export`, and let it read a small world instead of MovieLens."""
    monkeypatch.syspath_prepend(str(PEERS))
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "home"))
    module = importlib.import_module("linear")

    def row(baseline: Baseline, filter_seen: bool, path: Path | None) -> Experiment:
        evaluate = Evaluate(cutoffs=(10, 200), filter_seen=filter_seen)
        return replace(cyclic(), name="peer", source=Shop(num_items=150, num_users=80), policy=baseline, evaluate=evaluate)

    monkeypatch.setattr(module, "row", row)
    return module


def numpy_peer(export: ModuleType, data: Path, settings: Mapping[str, Any]) -> dict[int, int]:
    """Compute the ranks from the exported tables, with `np.linalg.inv` and dense matrices."""
    train, validation, test = (export.read_part(data, part) for part in export.PARTS)
    matrix = np.zeros((train[:, 0].max() + 1, export.item_count(data)))
    matrix[train[:, 0], train[:, 1] - 1] = 1
    known = matrix.copy()
    known[validation[:, 0], validation[:, 1] - 1] = 1
    if settings["model"] == "EASE":
        inverse = np.linalg.inv(matrix.T @ matrix + settings["l2"] * np.eye(matrix.shape[1]))
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        scores = known @ weights
    else:
        scores = np.tile(np.bincount(train[:, 1], minlength=matrix.shape[1] + 1)[1:], (len(matrix), 1)).astype(float)
    scores = scores.round(9)[test[:, 0]]
    if settings["filter_seen"]:
        scores[known[test[:, 0]] > 0] = -np.inf
    seen = settings["filter_seen"] & (known[test[:, 0], test[:, 1] - 1] > 0)  # such a target is a miss
    ranks = np.where(seen, 0, export.ranks_of(scores, test[:, 1]))
    return dict(zip(test[:, 0].tolist(), ranks.tolist(), strict=True))


@pytest.mark.parametrize("filter_seen", [False, True])
def test_a_peer_with_the_exported_events_gets_the_same_ranks_of_ease(
    linear: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], filter_seen: bool
) -> None:
    given: list[Mapping[str, Any]] = []

    def run_peer(
        python: Path, script: str, data: Path, out: Path, settings: Mapping[str, Any]
    ) -> tuple[dict[int, int], dict[str, str]]:
        assert (PEERS / script).is_file()
        given.append(json.loads(json.dumps(settings)))
        return numpy_peer(linear.export, data, settings), {"numpy": np.__version__}

    monkeypatch.setattr(linear.export, "run_peer", run_peer)
    options = argparse.Namespace(path=None, seeds=2)
    rows = linear.lines(EASE(l2=20.0), filter_seen, options, Path("python"), tmp_path)
    assert given == [{"l2": 20.0, "max_items": 40_000, "model": "EASE", "filter_seen": filter_seen, "seed": 0}]
    for line, metric in zip(rows, ("recall@10", "ndcg@10"), strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:3] == ["EASE", "filtered" if filter_seen else "kept", metric]
        assert cells[4] == cells[5] != "0.00000"
        assert cells[6:] == ["+0.00000", "0.00000", "yes", "100.0 %"]
    linear.lines(BPR(dim=2, epochs=1), filter_seen, options, Path("python"), tmp_path)
    assert [settings["seed"] for settings in given[1:]] == [0, 1]
    capsys.readouterr()
    header = [*linear.lines(Popularity(), filter_seen, options, Path("python"), tmp_path)]
    assert header[0].startswith("| Popularity |")
    assert ("| model | seen items | metric |" in capsys.readouterr().out) is not filter_seen
