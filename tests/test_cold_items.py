"""A world in which a cold item's vector tells its group: LIGER and TIGER's quota from the data to lists, exports and resumption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import genrec
from genrec import pipeline, run_experiments
from genrec.baselines import Popularity
from genrec.data.sources import Frames
from genrec.data.splits import GlobalTemporal
from genrec.embeddings import TfidfSvd
from genrec.experiment import SFT, Align, Evaluate, Experiment, Optimization, Tokenize, Validation
from genrec.model import Liger, Tiger
from genrec.objectives import Preference
from genrec.preference.candidates import Sampled
from genrec.preference.losses import SoftmaxDPO
from genrec.preference.negatives import Uniform
from genrec.serving import export
from genrec.tokenizer import RQKMeans

GROUPS, WARM, COLD, USERS = 6, 12, 4, 240  # items of a group: more warm ones than a list has places
NAMES = ("amber", "bronze", "copper", "denim", "ebony", "flint")
SMALL = Tiger(
    d_model=32, d_ff=64, num_heads=2, d_kv=16, num_encoder_layers=1, num_decoder_layers=1, dropout=0.1, history="items", num_beams=50
)
PROJECT = Path(__file__).parents[1]
KILLED = """
import os, signal
from genrec.__main__ import main
from genrec.training import lightning_module, loop

rate = lightning_module.learning_rate

def killed(plan, step):
    if step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return rate(plan, step)

loop.CHECKPOINT_SECONDS = -1.0
lightning_module.learning_rate = killed
main()
"""


def world() -> Frames:
    """Return users who go from group to group in a circle, to any item of the next group.

    Warm items are taken on the days 0 to 7; the event of day 8 is the validation target, that of day 9 the test target. Every
    second test target is a cold item, which nobody has taken before. The text of an item is the name of its group and a number.
    """
    rng = np.random.default_rng(0)
    events = []
    for user in range(USERS):
        start = int(rng.integers(GROUPS))
        for time in range(10):
            group, last = (start + time) % GROUPS, time == 9
            number = int(rng.integers(WARM)) if not (last and user % 2) else WARM + int(rng.integers(COLD))
            events.append((f"u{user}", f"{NAMES[group]}-{number}", 86_400 * time + user))
    numbers = range(WARM + COLD)
    items = [(f"{name}-{number}", f"{name} {name} {name} number{number}") for name in NAMES for number in numbers]
    return Frames(pd.DataFrame(events, columns=["user", "item", "time"]), pd.DataFrame(items, columns=["item", "text"]))


def tiger() -> Experiment:
    return Experiment(
        name="tiger",
        source=world(),
        split=GlobalTemporal(validation_from="1970-01-09", test_from="1970-01-10", core=0),
        embed=TfidfSvd(dim=16, min_df=1),
        tokenize=Tokenize(quantizer=RQKMeans(num_levels=2, codebook_size=8), fit_on="trained"),
        policy=SMALL,
        sft=SFT(
            optimization=Optimization(max_steps=150, batch_size=64, learning_rate=5e-3, warmup_steps=20),
            validation=Validation(every=75),
        ),
        history_length=5,
        evaluate=Evaluate(cutoffs=(1, 5, 10)),
    )


def liger() -> Experiment:
    return replace(tiger(), name="liger", policy=Liger(tiger=SMALL, num_beams=20))


@pytest.fixture(autouse=True)
def home(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one folder for the module, so that experiments share their stages, also those of other workers."""
    monkeypatch.setenv("GENREC_HOME", str(shared_folder / "cold-items"))


def metrics(experiment: Experiment) -> dict[str, float]:
    folder = pipeline.run(experiment)["evaluate"].folder
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text())
    return found


def quota(share: float = 0.5, steps: int = 150) -> Experiment:
    return replace(short(tiger(), steps), name=f"quota-{share}", evaluate=replace(tiger().evaluate, cold_quota=share))


def short(experiment: Experiment, steps: int = 20) -> Experiment:
    recipe = experiment.sft
    return replace(experiment, sft=replace(recipe, optimization=replace(recipe.optimization, max_steps=steps)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_cold_items_are_found_by_their_vectors_and_by_a_quota(seed: int) -> None:
    """A list of 10 has fewer places than a group has warm items, which TIGER prefers; popularity has no way to a cold item.

    LIGER orders the 16 items of the group by vectors that differ little: it finds a third of the cold targets (0.34, seed 0), where
    a random order of the group would find 10 / 16. The quota gives 5 of 10 places to the group's 4 cold items.
    """
    found = {row.name: metrics(replace(row, seed=seed)) for row in (tiger(), quota(), quota(0.1), liger())}
    popular = metrics(replace(tiger(), name="popularity", policy=Popularity()))
    assert popular["cold_recall@10"] == 0
    assert found["tiger"]["cold_recall@10"] == 0
    assert found["tiger"]["recall@10"] > 0.35  # half of the targets are cold
    assert found["liger"]["cold_recall@10"] > 0.15
    assert found["liger"]["recall@10"] > found["tiger"]["recall@10"]
    assert found["quota-0.5"]["cold_recall@10"] > 0.6
    assert 0 < found["quota-0.1"]["cold_recall@10"] < found["quota-0.5"]["cold_recall@10"]
    assert found["quota-0.5"]["cold_only_recall@10"] == found["tiger"]["cold_only_recall@10"]  # which has no quota


def test_rows_are_loaded_and_exported_with_their_cold_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LIGER's vectors are among its weights; the quota is among the settings of the evaluation."""
    rows = [short(liger()), quota(0.2, steps=20), quota(0.0, steps=20)]
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "home"))
    run_experiments.run(rows, study="mine.py:rows")
    history = ["amber-3", "bronze-1", "copper-7"]
    lists = {row.name: genrec.load(row.name).recommend(history, n=10) for row in rows}
    assert lists["quota-0.0"]["cold"].sum() == 0
    assert lists["quota-0.2"]["cold"].sum() <= 2
    assert lists["liger"]["score"].is_monotonic_decreasing
    assert lists["liger"]["score"].abs().max() <= 1 / 0.07 + 1e-4
    for name in lists:
        export(name, tmp_path / name)
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "absent"))
    for name, expected in lists.items():
        pd.testing.assert_frame_equal(genrec.load(tmp_path / name).recommend(history, n=10), expected, check_exact=True)


def test_the_lists_of_a_loaded_row_are_those_of_its_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    rows = [short(liger()), quota(0.3, steps=20)]
    run_experiments.run(rows, study="mine.py:rows")
    for row in rows:
        stored = pd.read_parquet(pipeline.run(row)["evaluate"].folder / "recommendations.parquet")
        loaded, user = genrec.load(row.name), int(stored["user"].iloc[0])
        ids = loaded.corpus.user_ids  # type: ignore[union-attr]
        numbers = stored.loc[stored["user"] == user, "item"]
        found = loaded.recommend(user=str(ids[user - 1]), n=10, before="test")
        assert found["item_id"].tolist() == [loaded.items.catalog.ids[number - 1] for number in numbers]


def test_alignment_trains_the_decoder_and_keeps_the_dense_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objectives read `level_log_prob`; the encoder moves, and the dense head and its vectors stay."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    preferences = Preference(loss=SoftmaxDPO(), candidates=Sampled(Uniform(), 3))
    optimization = Optimization(max_steps=5, batch_size=32, learning_rate=1e-3, warmup_steps=1)
    align = Align(preferences, optimization=optimization, keep="last", validation=Validation(every=5))
    artifacts = pipeline.run(replace(short(liger(), 5), align=align))
    before, after = (load_file(artifacts[stage].folder / "policy.safetensors") for stage in ("sft", "align"))
    assert {name for name, value in before.items() if not torch.equal(value, after[name])} == {
        name for name in before if name.startswith("tiger.")
    }
    assert (artifacts["evaluate"].folder / "cold.parquet").is_file()


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL in step 6 of SFT; the same command resumes it: bit for bit the weights and vectors of the uninterrupted run."""
    file = tmp_path / "mine.py"
    file.write_text("from test_cold_items import liger, short\n\n\ndef row():\n    return short(liger(), 12)\n")
    whole = load_file(pipeline.run(short(liger(), 12))["sft"].folder / "policy.safetensors")
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "home"))
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILLED, "run", f"{file}:row"]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    resumed = load_file(pipeline.run(short(liger(), 12))["sft"].folder / "policy.safetensors")
    assert whole.keys() == resumed.keys()
    assert {"dense.vectors", "dense.is_cold"} < whole.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
