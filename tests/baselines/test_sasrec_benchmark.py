"""The SASRec benchmark: RecBole gets the same events, and both sides are scored as by the evaluation stage."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from genrec import pipeline
from genrec.data.corpus import Corpus
from genrec.testing import Cyclic

FILE = Path(__file__).parents[2] / "experiments" / "benchmarks" / "sasrec.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    specification = importlib.util.spec_from_file_location("sasrec_benchmark", FILE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["sasrec_benchmark"] = module  # dataclasses look up their module
    specification.loader.exec_module(module)
    return module


def test_the_peer_gets_the_same_events_and_figures_equal_the_evaluations_metrics(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`figures` scores both sides; for genrec's lists it equals the metrics of the evaluation."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    sizes = benchmark.Sizes(width=8, layers=1, batch=64, epochs=2)
    experiment = replace(benchmark.experiment_of(sizes, None, 700), source=Cyclic(num_items=40, num_users=100, length=10))
    artifacts = pipeline.run(experiment)
    folder = artifacts["data"].folder
    expected = json.loads((artifacts["evaluate"].folder / "metrics.json").read_text())
    found = benchmark.figures(folder, benchmark.ours(experiment))
    assert found == {name: pytest.approx(expected[name], abs=1e-7) for name in ("recall@10", "ndcg@10")}
    assert found["recall@10"] > 0

    benchmark.write_atomic_file(folder, tmp_path / "peer")
    table = pd.read_csv(tmp_path / "peer" / "ours.inter", sep="\t")
    events = Corpus.load(folder).interactions
    assert table["user_id:token"].tolist() == events["user"].tolist()
    assert table["item_id:token"].tolist() == events["item"].tolist()
    assert table["timestamp:float"].is_monotonic_increasing


def test_the_error_of_a_failed_peer_is_shown(benchmark: ModuleType, tmp_path: Path) -> None:
    """The peer fails, since RecBole is missing or the folder has no data, and its error is part of the message."""
    options = type("Options", (), {"peer": sys.executable, **vars(benchmark.Sizes())})()
    with pytest.raises(SystemExit, match=r"(?s)the peer failed with this error:.*Error"):
        benchmark.in_a_process(options, tmp_path, 0)
