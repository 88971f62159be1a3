"""The stage `reward`: its key, who shares it, what it must not read, and alignments by its model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from worlds import cyclic

from genrec import pipeline
from genrec.baselines import SASRec
from genrec.data.sources import Frames
from genrec.data.splits import LeaveOneOut
from genrec.embeddings import Collaborative
from genrec.errors import InputError, UsageError
from genrec.evaluation.comparison.reward_model_notes import reward_model_notes
from genrec.experiment import SFT, Align, Experiment, Optimization, Validation
from genrec.objectives import PolicyGradient, Preference, ProximalPolicy
from genrec.objectives.reward_measure import reward_measure
from genrec.preference.candidates import Rollouts, Sampled, TopItems
from genrec.preference.negatives import ModelBeams
from genrec.preference.policy_gradient import LeaveOneOutAdvantage, Reinforce
from genrec.preference.reward_models import BradleyTerry
from genrec.preference.rewards import Novelty, WeightedSum
from genrec.results import compare, run
from genrec.store import Artifact
from genrec.testing.objective_worlds import objective_world
from genrec.types import Objective

MODEL = BradleyTerry(steps=60, dim=8)
MODEL_FILE, POLICY_FILE = "reward_model.safetensors", "policy.safetensors"


def weights_of(artifact: Artifact, name: str) -> dict[str, torch.Tensor]:
    return load_file(artifact.folder / name)


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))


def rloo(reward: object = MODEL, **fields: Any) -> PolicyGradient:
    return PolicyGradient(
        candidates=Rollouts(size=4, by="samples"), reward=reward, advantage=LeaveOneOutAdvantage(), surrogate=Reinforce(),  # type: ignore[arg-type]
        kl_in="reward", gate=False, likelihood=0, **({"kl": 0.05} | fields),
    )  # fmt: skip


def aligned(objective: Objective, steps: int = 4, learning_rate: float = 1e-3, **fields: Any) -> Experiment:
    optimization = Optimization(max_steps=steps, batch_size=32, learning_rate=learning_rate, warmup_steps=1)
    align = Align(objective, optimization=optimization, validation=Validation(every=steps // 2), keep="last")
    base = replace(cyclic(steps=40), tokenize=None, policy=SASRec(d_model=16, d_ff=16), name="aligned", align=align)
    return replace(base, **fields)


def keys(experiment: Experiment) -> dict[str, str]:
    return {step.stage: step.key for step in pipeline.plan(experiment)}


def test_rows_and_seeds_share_the_model_and_others_have_no_such_stage() -> None:
    """The model depends on data, item vectors and its own settings; SFT does not depend on it."""
    row = aligned(rloo())
    assert row.stages == ("data", "embed", "reward", "sft", "align", "evaluate")
    first, without = keys(row), keys(replace(row, align=Align(Preference())))
    assert "reward" not in without
    assert all(first[stage] == without[stage] for stage in ("data", "embed", "sft"))
    for other in (
        replace(row, seed=1),
        aligned(ProximalPolicy(reward=MODEL)),
        aligned(rloo(WeightedSum((MODEL, Novelty()), (1.0, 0.1)))),
        replace(row, history_length=3),
        replace(cyclic(), align=row.align),
    ):
        assert keys(other)["reward"] == first["reward"]
        assert keys(other)["align"] != first["align"]
    changed = keys(aligned(rloo(replace(MODEL, seed=1))))
    assert changed["reward"] != first["reward"]
    assert changed["align"] != first["align"]
    assert changed["sft"] == first["sft"]
    in_sft = keys(replace(row, sft=replace(row.sft, objective=rloo(kl=0)), align=None))
    assert in_sft["reward"] == first["reward"]
    assert in_sft["sft"] != first["sft"]


def test_the_alignment_depends_on_the_model_of_its_own_recipe_alone() -> None:
    """Of a chain, only the stage with the reward has the reward's artifact among its parents."""
    row = aligned(rloo())
    assert isinstance(row.align, Align)
    chain = replace(row, align=(replace(row.align, objective=Preference()), row.align))
    parents = {step.stage: step.parents for step in pipeline.plan(chain)}
    assert "reward" in parents["align-2"]
    assert "reward" not in parents["align"]
    assert "reward" not in parents["sft"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (BradleyTerry(feedback="liked"), r"aligned: BradleyTerry\.feedback 'liked' needs labels.*set split\.liked"),
        (BradleyTerry(pairs=TopItems(size=4)), r"BradleyTerry\.pairs TopItems.* reads a policy, which does not exist yet"),
        (BradleyTerry(pairs=Sampled(ModelBeams(num_beams=10), 1)), r"BradleyTerry\.pairs Sampled.* reads a policy"),
    ],
)
def test_what_the_settings_show_is_refused_before_any_stage(model: BradleyTerry, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        aligned(rloo(model))


def test_an_experiment_has_one_reward_model() -> None:
    both = WeightedSum((MODEL, replace(MODEL, seed=1)))
    with pytest.raises(
        UsageError, match=r"aligned: an experiment has one reward model, but align\.objective\.reward\.rewards\.1 differs"
    ):
        aligned(rloo(both))


def test_a_refused_model_ends_the_run_before_sft(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"BradleyTerry: the reward model has .* expected at least 99\.9 % \(min_accuracy\)"):
        pipeline.run(aligned(rloo(replace(MODEL, min_accuracy=0.999, steps=1))))
    assert not (tmp_path / "data" / "artifacts" / "sft").exists()
    assert not [each for each in (tmp_path / "data" / "artifacts" / "reward").iterdir() if each.name[0] != "."]


def test_the_model_is_built_again_bit_for_bit_and_read_by_the_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    """--refresh gives the same weights and the same alignment; the alignment reads the artifact and trains no model."""
    row = aligned(rloo())
    made = pipeline.run(row, last="align")
    model, policy = weights_of(made["reward"], MODEL_FILE), weights_of(made["align"], POLICY_FILE)
    assert json.loads((made["reward"].folder / "reward_model.json").read_text())["pairs"] > 0
    again = pipeline.run(row, refresh="reward", last="reward")
    assert equal(weights_of(again["reward"], MODEL_FILE), model)

    def refused(*_: object) -> None:
        raise AssertionError("the model was trained again")

    monkeypatch.setattr(BradleyTerry, "_fit", refused)
    last = pipeline.run(row, refresh="align", last="align")
    assert equal(weights_of(last["align"], POLICY_FILE), policy)


def test_held_out_events_do_not_change_the_model(tmp_path: Path) -> None:
    """Two data sets that differ in the validation and test items of every user give the same weights."""
    weights, data = [], []
    for name, shift in (("one", 0), ("two", 7)):
        rows = [
            (f"user-{user}", f"item-{(3 * user + time * (1 + user % 3) + (shift if time >= 8 else 0)) % 20}", time)
            for time in range(10)  # all items occur at time 0, so both data sets number them alike
            for user in range(80)
        ]
        file = tmp_path / f"{name}.csv"
        pd.DataFrame(rows, columns=["user", "item", "time"]).to_csv(file, index=False)
        row = aligned(
            rloo(replace(MODEL, min_accuracy=0)),
            source=Frames(interactions=file),
            split=LeaveOneOut(core=0),
            embed=Collaborative(dim=4),
        )
        made = pipeline.run(row, last="reward")
        weights.append(load_file(made["reward"].folder / MODEL_FILE))
        data.append(made["data"].key)
    assert data[0] != data[1]
    assert equal(*weights)


TOP = PolicyGradient(candidates=Rollouts(by="top", size=8), reward=MODEL, gate=False, likelihood=0)


@pytest.mark.parametrize("objective", [rloo(), ProximalPolicy(reward=MODEL, samples=4), TOP], ids=["rloo", "ppo", "top"])
def test_training_raises_the_reward_of_the_lists(objective: Objective) -> None:
    """The curves have the reward of the lists on validation users beside NDCG, at every validation."""
    made = pipeline.run(aligned(objective, steps=40, learning_rate=1e-2), last="align")
    curves = pd.read_parquet(made["align"].folder / "curves.parquet")
    validated = curves[curves["validation_reward"].notna()]
    assert validated["step"].tolist() == [0, 20, 40]
    assert validated["validation_ndcg@10"].notna().all()
    assert validated["validation_reward"].iloc[-1] > validated["validation_reward"].iloc[0] + 0.2


def test_the_table_tells_accuracy_and_popularity() -> None:
    rows = [
        aligned(rloo(), name="with-rloo"),
        aligned(ProximalPolicy(reward=MODEL), name="with-ppo"),
        replace(aligned(rloo()), name="sft", align=None),
    ]
    run(rows)
    found = compare([each.name for each in rows], metric="ndcg@10")
    text = "Reward models: held-out pairs in the right order, and rank correlation with popularity: with-rloo, with-ppo "
    assert found.markdown().count(text) == 1
    assert {"reward_model_accuracy", "reward_model_pairs"} <= set(found.comparisons[0].rows[0].metrics)
    assert reward_model_notes([row for row in found.comparisons[0].rows if row.name == "sft"]) == []


def test_the_measured_reward_by_hand() -> None:
    """The mean over users of the reward of their first 10 items; other rewards are not measured."""
    context = objective_world()
    rating = BradleyTerry(steps=5, min_accuracy=0).rate(context.data())
    measure = reward_measure(WeightedSum((BradleyTerry(steps=5, min_accuracy=0),)), rating.rate, context)
    assert measure is not None
    assert context.validation is not None
    batch = context.validation.batch(torch.arange(len(context.validation)))
    expected = rating.rate(batch, context.policy.recommend(batch.history, 10).items).mean()
    assert measure()["reward"] == pytest.approx(float(expected), abs=1e-5)
    assert reward_measure(Novelty(), rating.rate, context) is None
    assert reward_measure(BradleyTerry(), rating.rate, context._replace(validation=None)) is None


def test_a_preference_by_the_model_of_the_policys_own_items() -> None:
    """The reward model chooses the preferred one of the policy's best items."""
    objective = Preference(candidates=TopItems(size=4, gate=False), reward=MODEL, chosen="best", min_gap=0.1)
    made = pipeline.run(aligned(objective), last="align")
    assert "reward" in made["align"].manifest["parents"]
    assert SFT().reads_vectors is False
