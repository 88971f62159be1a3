"""Label smoothing in SFT: a policy learns the smoothed probabilities, refusals before any stage, keys, and the command line."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from worlds import TINY, cyclic

from genrec.__main__ import main
from genrec.baselines import GBCE, GRU4Rec, Popularity, SampledSoftmax, SASRec
from genrec.errors import UsageError
from genrec.experiment import Align, Optimization
from genrec.model import RPG, Liger
from genrec.objectives import Supervised
from genrec.objectives.supervised import window_loss
from genrec.semantic_ids import SemanticIds
from genrec.store import describe
from genrec.testing import check_objective, objective_world
from genrec.types import SequenceBatch, WindowBatch

NUM_ITEMS, E = 40, 0.2
SMOOTHED = Supervised(label_smoothing=E)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-0.1, r"must be in \[0, 1\), got -0\.1"),
        (1.0, r"must be in \[0, 1\), got 1\.0"),
        (math.nan, r"must be in \[0, 1\), got nan"),
        ("0.1", "must be"),
        (True, "must be"),
    ],
)
def test_values_out_of_range_are_refused(value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=rf"Supervised\.label_smoothing {message}"):
        Supervised(label_smoothing=value)


def test_keys_without_smoothing_stay(tmp_path: Path) -> None:
    assert "label_smoothing" not in json.dumps(describe(Supervised(), tmp_path))
    assert describe(SMOOTHED, tmp_path)["label_smoothing"] == E


@pytest.mark.parametrize("targets", ["one", "all"])
def test_the_objective_keeps_its_contract(targets: Any) -> None:
    check_objective(Supervised(label_smoothing=E, targets=targets))


@pytest.mark.parametrize("label_smoothing", [0.0, E])
def test_a_policy_learns_the_smoothed_probability_of_a_certain_item(label_smoothing: float) -> None:
    """In a cycle the next item is certain. The loss is least at p(next item) = 1 - e + e / N, which is 0.805 for e = 0.2."""
    histories = (torch.arange(NUM_ITEMS)[:, None] + torch.arange(5)) % NUM_ITEMS + 1
    targets = histories % NUM_ITEMS + 1
    torch.manual_seed(0)
    policy = SASRec(d_model=64, d_ff=64, dropout=0.0).build(SemanticIds(torch.arange(NUM_ITEMS)[:, None]))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(200):
        loss = window_loss(policy, WindowBatch(histories[:, 0], histories, targets), label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = policy.sequence_log_prob(histories, targets).exp().mean()
    assert float(found.detach()) == pytest.approx(1 - label_smoothing + label_smoothing / NUM_ITEMS, abs=0.01)


@dataclass(frozen=True)
class Unsmoothed:
    """TIGER without the method that announces smoothed log-probabilities."""

    causal: ClassVar[bool] = False

    def build(self, semantic_ids: Any) -> Any:
        return TINY.build(semantic_ids)


@pytest.mark.parametrize("policy", [Unsmoothed(), Liger()])
def test_a_policy_without_smoothed_log_probabilities_is_refused_before_any_stage(policy: Any) -> None:
    """Also in an alignment. A baseline in the place of the policy has no SFT, and stays allowed; so does the likelihood alone."""
    name = type(policy).__name__
    message = (
        rf"cyclic: Supervised\.label_smoothing needs a policy that gives .*which {name}.* does not; set label_smoothing 0, choose"
    )
    smoothed = replace(cyclic(), sft=replace(cyclic().sft, objective=SMOOTHED))
    with pytest.raises(UsageError, match=message):
        replace(smoothed, policy=policy)
    align = Align(SMOOTHED, optimization=Optimization(max_steps=5, batch_size=8, learning_rate=1e-3))
    with pytest.raises(UsageError, match=message):
        replace(cyclic(), policy=policy, align=align)
    assert replace(cyclic(), policy=policy).policy == policy
    assert replace(smoothed, policy=Popularity()).policy == Popularity()


@pytest.mark.parametrize(
    "policy",
    [SASRec(loss=GBCE(num_negatives=4)), GRU4Rec(loss=SampledSoftmax(num_negatives=4)), RPG(loss=SampledSoftmax(num_negatives=4))],
)
def test_a_loss_with_sampled_negatives_is_refused_before_any_stage(policy: Any) -> None:
    name = type(policy).__name__
    experiment = cyclic() if name == "RPG" else replace(cyclic(), policy=SASRec(), tokenize=None)
    experiment = replace(experiment, sft=replace(experiment.sft, objective=SMOOTHED))
    message = rf"cyclic: .*smooths the likelihood, but {name}.* trains with a loss of its own here.*\(policy\.loss None\)"
    with pytest.raises(UsageError, match=message):
        replace(experiment, policy=policy)
    assert replace(experiment, policy=replace(policy, loss=None)).policy.loss is None


def test_built_policies_are_refused_too() -> None:
    """Without an experiment: when the step is built, or at the first step if only the loss of its own tells."""
    ids = SemanticIds(torch.arange(objective_world().data().item_count)[:, None])
    own = objective_world()._replace(policy=SASRec(loss=GBCE(num_negatives=4)).build(ids))
    history = torch.tensor([[1, 2]])
    with pytest.raises(UsageError, match=r"SASRecPolicy.* trains with a loss of its own here"):
        SMOOTHED.build_step(own).loss(SequenceBatch(torch.tensor([1]), history, torch.tensor([3])), 0)
    liger = objective_world()._replace(policy=Liger().build(ids))
    with pytest.raises(UsageError, match=r"needs a policy that gives smoothed log-probabilities, which LigerPolicy"):
        SMOOTHED.build_step(liger)


EXPERIMENT = """
from dataclasses import replace
from worlds import cyclic

def row():
    return replace(cyclic(steps=12), name="smoothed")
"""


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A whole row with smoothing; its artifacts are not those without, and a value out of range names the flag's field."""
    file = tmp_path / "mine.py"
    file.write_text(EXPERIMENT)
    assert main(["run", f"{file}:row"]) == 0
    assert main(["run", f"{file}:row", "--sft.objective.label-smoothing", "0.1", "--name", "smoothed-tenth"]) == 0
    capsys.readouterr()
    stored = {path.parent: json.loads(path.read_text()) for path in (tmp_path / "data").rglob("manifest.json") if "/sft/" in str(path)}
    weights = {(folder / "policy.safetensors").read_bytes() for folder in stored}
    assert len(stored) == len(weights) == 2
    assert sum('"label_smoothing": 0.1' in json.dumps(each) for each in stored.values()) == 1
    assert main(["show", "smoothed-tenth"]) == 0
    assert "sft.objective.label_smoothing = 0.1" in capsys.readouterr().out
    assert main(["run", f"{file}:row", "--sft.objective.label-smoothing", "1"]) == 2
    assert "label_smoothing must be in [0, 1), got 1" in capsys.readouterr().err
