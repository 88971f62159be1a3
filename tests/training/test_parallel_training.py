"""RPG in the stages of an experiment: it learns a world with a known solution, and gated on-policy S-DPO continues it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from worlds import cyclic

from genrec import pipeline
from genrec.experiment import SFT, Align, Experiment, Optimization, Tokenize, Validation
from genrec.model import RPG
from genrec.objectives import Preference, Supervised
from genrec.preference.candidates import TopItems
from genrec.preference.losses import SoftmaxDPO
from genrec.tokenizer import ProductQuantizer

POLICIES = {
    "catalog": RPG(d_model=32, d_ff=64, num_layers=1, num_heads=2),
    "items": RPG(d_model=32, d_ff=64, num_layers=1, num_heads=2, item_embedding=True),
    "digits": RPG(d_model=32, d_ff=64, num_layers=1, num_heads=2, normalization="digits"),
}
WINDOWS = SFT(
    objective=Supervised(targets="all"),
    optimization=Optimization(max_steps=120, batch_size=32, learning_rate=5e-3),
    validation=Validation(every=60, users=0),
)
GATED = Preference(loss=SoftmaxDPO(beta=1.0), candidates=TopItems(size=4), likelihood=1.0, targets="all")


@pytest.fixture(autouse=True)
def home(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one folder for the module, so that experiments share their stages, also those of other workers."""
    monkeypatch.setenv("GENREC_HOME", str(shared_folder / "parallel"))


def experiment(name: str) -> Experiment:
    quantizer = ProductQuantizer(num_levels=8, codebook_size=8)
    return replace(cyclic(), name=f"cyclic-{name}", tokenize=Tokenize(quantizer=quantizer), policy=POLICIES[name], sft=WINDOWS)


def recall(experiment: Experiment) -> float:
    folder = pipeline.run(experiment)["evaluate"].folder
    return float(json.loads((folder / "metrics.json").read_text())["recall@1"])


@pytest.mark.parametrize("name", POLICIES)
def test_the_cyclic_world_is_solved(name: str) -> None:
    """The next item is a function of the last one: Recall@1 is at least 0.95."""
    assert recall(experiment(name)) >= 0.95


@pytest.mark.parametrize("name", POLICIES)
def test_gated_alignment_starts_at_the_policy_of_sft(name: str) -> None:
    """Without dropout policy and reference are equal at first: S-DPO against three items is ln(4), and one step does no harm."""
    one_step = Optimization(max_steps=1, batch_size=16, learning_rate=1e-4)
    align = Align(GATED, optimization=one_step, validation=Validation(every=1, users=0), keep="last")
    aligned = replace(experiment(name), name=f"cyclic-{name}-gated", align=align)
    curves = pd.read_csv(pipeline.run(aligned)["align"].folder / "curves.csv")
    assert recall(aligned) >= 0.95
    assert curves["preference_share"].dropna().between(0.5, 1).all()
    assert curves["preference_loss"].dropna().iloc[0] == pytest.approx(math.log(4), abs=1e-4)
