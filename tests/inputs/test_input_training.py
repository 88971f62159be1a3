"""Policies with inputs through the stages: learnable worlds, resumption, alignment, views, lists for users, and what is refused."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from event_inputs_worlds import ALL, GPT, TIGER, world
from torch import Tensor

import genrec
from genrec import pipeline, run_experiments
from genrec.__main__ import main
from genrec.baselines import ItemKNN, Popularity
from genrec.data.corpus import Corpus
from genrec.data.examples import CorpusExamples, examples
from genrec.errors import Stopped, UsageError
from genrec.experiment import SFT, Align, Experiment, Optimization, Validation
from genrec.model import Tiger
from genrec.objectives import (
    Augmentations,
    ListPolicyGradient,
    PolicyGradient,
    Preference,
    PrefixContrast,
    ProximalPolicy,
    SameTarget,
    Supervised,
    ViewContrast,
)
from genrec.preference.candidates import History, InvalidIds, LaterItems, Pairs, Rollouts, Sampled, TopItems
from genrec.preference.losses import DPO, SoftmaxDPO
from genrec.preference.negatives import AlreadySeen, FaissNeighbors, ModelBeams, Uniform
from genrec.preference.reward_models import BradleyTerry
from genrec.preference.rewards import BaselineScore, LogProbability, RatingRecency
from genrec.semantic_ids import SemanticIds
from genrec.serving import export
from genrec.stage_inputs import held_out_events, load_policy, load_semantic_ids, training_data
from genrec.testing import Cyclic
from genrec.training.align import AlignmentData, align
from genrec.training.sft import build_policy, fine_tune

WINDOWS = Supervised(targets="all")
INPUT = {"user": {"user_tokens": 2_000}, "rating": {"ratings": (1, 2, 3, 4, 5)}, "time": {"time_buckets": 32}}
# By chance: one of 8 favorites (some of which more users have), and the more frequent one of two or three next items.
MOST_WITHOUT = {"user": 0.35, "rating": 0.65, "time": 0.7}


@pytest.fixture(autouse=True)
def home(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one folder for the module, so that experiments share their stages, also those of other workers."""
    monkeypatch.setenv("GENREC_HOME", str(shared_folder / "inputs"))


def recall(experiment: Experiment) -> float:
    folder = pipeline.run(experiment)["evaluate"].folder
    return float(json.loads((folder / "metrics.json").read_text())["recall@1"])


@pytest.mark.parametrize("depends_on", INPUT)
def test_tiger_learns_from_an_input_what_items_do_not_tell(depends_on: Any) -> None:
    plain = world(depends_on)
    assert recall(plain) <= MOST_WITHOUT[depends_on]
    assert recall(replace(plain, name=f"{plain.name}-input", policy=replace(TIGER, **INPUT[depends_on]))) >= 0.9


@pytest.mark.parametrize(
    "depends_on", [pytest.param("user", marks=pytest.mark.slow), "rating", pytest.param("time", marks=pytest.mark.slow)]
)
def test_gpt_learns_it_from_windows(depends_on: Any) -> None:
    """All targets of a window in one pass, so that an input of a target's own event would be seen here as a leak."""
    plain = world(depends_on, policy=GPT)
    plain = replace(plain, name=f"{plain.name}-gpt", sft=replace(plain.sft, objective=WINDOWS))
    assert recall(plain) <= MOST_WITHOUT[depends_on]
    assert recall(replace(plain, name=f"{plain.name}-input", policy=replace(GPT, **INPUT[depends_on]))) >= 0.9


@cache
def trained(causal: bool = False) -> Experiment:
    """Return an experiment with all inputs and a short SFT that the following tests align."""
    name = "world-causal" if causal else "world-all"
    policy = replace(GPT, **ALL) if causal else replace(TIGER, **ALL)
    return replace(world("rating", steps=20), name=name, policy=policy, history_length=5)


def parts(experiment: Experiment) -> tuple[Any, Any, Corpus]:
    """Return the policy of SFT, the data of an alignment and the corpus."""
    folders = {stage: artifact.folder for stage, artifact in pipeline.run(experiment).items()}
    corpus = Corpus.load(folders["data"])
    semantic_ids = load_semantic_ids(corpus, folders)
    policy = load_policy(experiment, semantic_ids, folders["sft"])
    inputs, length = ("user", "time", "rating"), experiment.history_length
    source = CorpusExamples(corpus, length, inputs)  # type: ignore[arg-type]
    held_out = examples(corpus, "validation", length, inputs=inputs)  # type: ignore[arg-type]
    data = training_data(corpus, semantic_ids, folders)
    return policy, AlignmentData(source, data, held_out, length, lambda: held_out_events(corpus)), corpus


STEPS = Optimization(max_steps=3, batch_size=16, learning_rate=1e-3)
LIKES = BradleyTerry(pairs=Sampled(negatives=Uniform(), num_negatives=1), min_accuracy=0.0, steps=5)
OBJECTIVES = {
    "s-dpo": Preference(loss=SoftmaxDPO(), candidates=Sampled(negatives=Uniform(), num_negatives=3)),
    "windows": Preference(loss=SoftmaxDPO(), candidates=TopItems(size=4), targets="all"),
    "beams": Preference(loss=DPO(), candidates=Sampled(negatives=ModelBeams(num_beams=10, refresh_every=1), num_negatives=1)),
    "seen": Preference(loss=DPO(), candidates=Sampled(negatives=AlreadySeen(), num_negatives=1)),
    "neighbors": Preference(loss=DPO(), candidates=Sampled(negatives=FaissNeighbors(of="history"), num_negatives=1)),
    "ecpo": PolicyGradient(candidates=Rollouts(size=6)),
    "samples": PolicyGradient(candidates=Rollouts(size=6, by="samples"), targets="all"),
    "likelihood": PolicyGradient(candidates=Rollouts(size=6), reward=LogProbability(), gate=False),
    "judged": PolicyGradient(candidates=Rollouts(size=6), reward=BaselineScore(ItemKNN()), gate=False),
    "lists": ListPolicyGradient(),
    "ppo": ProximalPolicy(),
    "prefixes": PrefixContrast(candidates=Sampled(negatives=Uniform(), num_negatives=20)),
    "history": Preference(loss=SoftmaxDPO(), candidates=History(size=3)),
    "later": Preference(loss=SoftmaxDPO(), candidates=LaterItems(size=3)),
    "invalid": Preference(loss=SoftmaxDPO(), candidates=InvalidIds()),
    "rated": PolicyGradient(candidates=Rollouts(size=6, refresh=0, seen=False), reward=RatingRecency(), gate=False),
    "model": PolicyGradient(candidates=Rollouts(size=6), reward=LIKES, gate=False),
    "children": PolicyGradient(candidates=Rollouts(size=6), targets="all"),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_alignments_run_from_the_policy_of_sft(name: str) -> None:
    """Every objective draws, scores policy and reference, and validates with the inputs; the first step equals the reference."""
    objective: Any = OBJECTIVES[name]
    base = trained(getattr(objective, "targets", "one") == "all")
    recipe = Align(objective, optimization=STEPS, validation=Validation(every=1, users=20), keep="last")
    recipe = replace(recipe, normalize="children") if name in ("lists", "children", "ppo") else recipe
    aligned = replace(base, name=f"{base.name}-{name}", align=recipe)
    folder = pipeline.run(aligned)["align"].folder
    curves = pd.read_csv(folder / "curves.csv")
    assert curves["validation_kl_to_sft"].dropna().iloc[0] == pytest.approx(0, abs=1e-6)
    assert np.isfinite(curves["validation_chosen_log_prob"].dropna()).all()
    if name == "s-dpo":  # equal log-ratios of 1 + 3 candidates
        assert curves["preference_loss"].dropna().iloc[0] == pytest.approx(math.log(4), abs=1e-5)


@pytest.mark.parametrize("views", [Augmentations(reorder=0.0), SameTarget()])
@pytest.mark.parametrize("targets", ["one", "all"])
def test_views_keep_the_inputs_of_their_events(views: Any, targets: Any) -> None:
    base = trained(targets == "all")
    sft = replace(base.sft, objective=ViewContrast(views=views, targets=targets), optimization=STEPS)
    assert 0 <= recall(replace(base, name=f"{base.name}-{type(views).__name__}", sft=sft)) <= 1


def test_a_view_has_the_inputs_of_the_events_that_it_keeps() -> None:
    """Crop, mask and reorder move each event with its inputs: an item of a view has a time and rating that it has in the history."""
    _, data, _ = parts(trained())
    rows = data.source.prefixes().batch(torch.arange(60))
    make = Augmentations().build_views(None, None)  # type: ignore[arg-type]
    for view in make(rows, torch.Generator().manual_seed(0)):
        assert torch.equal(view.user, rows.history.user)  # type: ignore[attr-defined]
        for row in range(60):
            known = set(zip(*events(rows.history[row : row + 1]), strict=True))
            assert {each for each in zip(*events(view[row : row + 1]), strict=True) if each[0]} <= known


def events(history: Any) -> tuple[list[int], list[int], list[float]]:
    return history.items[0].tolist(), history.time[0].tolist(), history.rating[0].nan_to_num(-1).tolist()


def stop_at(number: int) -> Any:
    """Return a validation that interrupts the process at a call; 0: never."""
    calls: list[int] = []

    def validate() -> dict[str, float]:
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return {"ndcg@10": 0.1}

    return validate


def test_a_resumed_training_gives_the_same_weights(tmp_path: Path) -> None:
    """SFT and an alignment on windows, interrupted at the second validation and run again, equal those without an interruption."""
    experiment = trained(causal=True)
    _, data, corpus = parts(experiment)
    optimization, validation = Optimization(max_steps=9, batch_size=16, learning_rate=1e-3), Validation(every=3)
    sft = SFT(objective=WINDOWS, optimization=optimization, validation=validation)
    preference = Align(OBJECTIVES["windows"], optimization=optimization, validation=validation, keep="last")  # type: ignore[arg-type]

    def run(stage: str, folder: str, stop: int) -> dict[str, Tensor]:
        policy: Any = build_policy(experiment.policy, data.context.semantic_ids, 0)  # type: ignore[arg-type]
        if stage == "sft":
            fine_tune(policy, data.source, sft, 0, tmp_path / stage / folder / "last", stop_at(stop))
        else:
            align(policy, data, preference, 0, tmp_path / stage / folder / "last", stop_at(stop))
        return {name: value.clone() for name, value in policy.state_dict().items()}

    for stage in ("sft", "align"):
        whole = run(stage, "whole", 0)
        with pytest.raises(Stopped):
            run(stage, "parts", 2)
        again = run(stage, "parts", 0)
        assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert corpus.user_count == 100


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(folder))
        run_experiments.run([trained()])
    return folder


def test_lists_for_users_are_those_of_the_evaluation(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`recommend` reads user, times and ratings from the data: its lists equal the stored ones, also for many users at once."""
    monkeypatch.setenv("GENREC_HOME", str(served))
    row = genrec.load("world-all")
    stored = pd.read_parquet(pipeline.run(trained())["evaluate"].folder / "recommendations.parquet")
    users = ["user-0", "user-57", "user-99"]
    numbers = {user: row.user_number(user) for user in users}
    for user in users:
        found = row.recommend(user=user, before="test", n=10)
        expected = stored[(stored["user"] == numbers[user]) & (stored["position"] <= 10)].sort_values("position")
        assert [row.items.catalog.numbers[each] for each in found["item_id"]] == expected["item"].tolist()
        assert found["score"].tolist() == pytest.approx(expected["score"].tolist(), abs=1e-4)
    together = row.recommend_users(users, n=10, before="test")
    assert (
        together[together["user_id"] == "user-57"]["item_id"].tolist()
        == row.recommend(user="user-57", before="test")["item_id"].tolist()
    )


def test_lists_of_items_and_exports_are_refused(served: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENREC_HOME", str(served))
    row = genrec.load("world-all")
    message = "world-all: Tiger reads user, time, rating of a history, which a list of items does not have"
    with pytest.raises(UsageError, match=message):
        row.recommend(["item-01", "item-02"])
    with pytest.raises(UsageError, match="world-all cannot be exported: Tiger reads user, time, rating of a history"):
        export("world-all", tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
    from genrec.serving.serve_command import check_reads_items

    with pytest.raises(UsageError, match="world-all cannot be served"):
        check_reads_items([row])


RUN = """
from dataclasses import replace
from event_inputs_worlds import TIGER, world

def known():
    return replace(world("user", 2), name="known", policy=replace(TIGER, user_tokens=10))
"""


def test_a_run_offers_no_command_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    (tmp_path / "mine.py").write_text(RUN)
    assert main(["run", str(tmp_path / "mine.py:known")]) == 0
    printed = capsys.readouterr().out
    commands = printed[printed.index("Next:") :]
    assert "genrec recommend known --user ID" in commands
    assert "export" not in commands
    assert "--search" not in commands


RATED = Tiger(ratings=(1, 2, 3, 4, 5))


def test_settings_that_cannot_work_are_refused_before_any_stage(tmp_path: Path) -> None:
    """Ratings of a source without any, shuffled events with times, and histories of a file that have items alone."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"user": "user-1", "chosen": "item-01", "rejected": ["item-02"]}\n')
    of_file = Align(Preference(loss=DPO(), candidates=Pairs(path=pairs)))
    shuffled = replace(trained().sft, objective=ViewContrast(views=Augmentations()))
    for change, message in (
        ({"source": Cyclic(), "policy": RATED}, "Tiger needs ratings, but the source Cyclic"),
        ({"policy": replace(TIGER, time_buckets=8), "sft": shuffled}, r"Augmentations.reorder = 0.6 shuffles events, and Tiger reads"),
        ({"policy": RATED, "align": of_file}, "the histories of Pairs are items alone, and Tiger reads rating beside them"),
    ):
        with pytest.raises(UsageError, match=message):
            replace(trained(), **change)  # type: ignore[arg-type]
    assert replace(trained(), policy=TIGER, align=of_file).align is not None
    assert replace(trained(), policy=replace(TIGER, user_tokens=10), sft=shuffled).policy != TIGER
    assert replace(trained(), policy=Popularity(), sft=SFT()).stages == ("data", "evaluate")


def test_the_semantic_ids_do_not_depend_on_inputs() -> None:
    """Rows with and without inputs share the stages before SFT, and differ in SFT."""
    with_inputs, without = (pipeline.run(each) for each in (trained(), replace(trained(), name="plain", policy=TIGER)))
    assert with_inputs["tokenize"].key == without["tokenize"].key != with_inputs["sft"].key != without["sft"].key
    assert isinstance(SemanticIds.load(without["tokenize"].folder / "codes.safetensors"), SemanticIds)
