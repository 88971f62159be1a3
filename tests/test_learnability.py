"""Generated data sets with a known solution, which the recommenders must find."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from preference_stages import stage
from worlds import cyclic

from genrec import pipeline
from genrec.baselines import ItemKNN, Popularity
from genrec.experiment import SFT, Align, Experiment, Optimization, Tokenize, Validation
from genrec.model import Tiger
from genrec.objectives import Preference, Rounds, Supervised
from genrec.preference.candidates import InvalidIds, Sampled
from genrec.preference.losses import DPO, Anchored, SoftmaxDPO
from genrec.preference.negatives import FaissNeighbors, ModelBeams
from genrec.preference.negatives import Popularity as PopularNegatives
from genrec.testing import Shop
from genrec.tokenizer import RQVAE, RQKMeans
from genrec.types import Objective

LEARNER = Tiger(
    d_model=64, d_ff=128, num_heads=4, d_kv=16, num_encoder_layers=1, num_decoder_layers=1, dropout=0.0, history="items", num_beams=20
)
LONG_SFT = SFT(
    optimization=Optimization(max_steps=240, batch_size=64, learning_rate=3e-3, warmup_steps=50, weight_decay=0.035),
    validation=Validation(every=120, patience=15),
)  # 200 steps give a Recall@1 of 1 for seeds 0, 1, 2


@pytest.fixture(autouse=True)
def home(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one folder for the module, so that experiments share their stages, also those of other workers."""
    monkeypatch.setenv("GENREC_HOME", str(shared_folder / "learnability"))


def metrics(experiment: Experiment) -> dict[str, float]:
    folder = pipeline.run(experiment)["evaluate"].folder
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text())
    return found


@pytest.mark.parametrize("history", ["items", pytest.param("codes", marks=pytest.mark.slow)])
def test_the_cyclic_world_is_solved(history: str) -> None:
    """The next item is a function of the last one: Recall@1 is at least 0.95."""
    solved = replace(cyclic(), policy=replace(LEARNER, history=history), sft=LONG_SFT)
    assert metrics(solved)["recall@1"] >= 0.95


def test_popularity_cannot_solve_it() -> None:
    """Each item follows one other item, which popularity does not model."""
    assert metrics(replace(cyclic(), policy=Popularity()))["recall@1"] < 0.2


@pytest.mark.parametrize(
    "align",
    [
        stage(
            loss=Anchored(SoftmaxDPO()),
            negatives=FaissNeighbors(pool_size=10),
            num_negatives=3,
            optimization=Optimization(max_steps=60, batch_size=32, learning_rate=1e-4, warmup_steps=50),
            validation=Validation(every=20),
        ),
        pytest.param(
            stage(
                loss=Anchored(DPO(beta=0.5)),
                negatives=PopularNegatives(),
                num_negatives=1,
                optimization=Optimization(max_steps=60, batch_size=32, learning_rate=1e-4, warmup_steps=50),
                validation=Validation(every=20),
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["s-dpo", "dpo"],
)
def test_alignment_improves_an_undertrained_policy(align: Align) -> None:
    """After a short SFT, 60 steps of anchored alignment raise NDCG@10 by more than 0.02."""
    undertrained = replace(
        cyclic(),
        sft=SFT(
            optimization=Optimization(max_steps=60, batch_size=64, learning_rate=3e-3, warmup_steps=20, weight_decay=0.035),
            validation=Validation(every=20, patience=15),
        ),
    )
    before = metrics(undertrained)
    after = metrics(
        replace(undertrained, align=replace(align, optimization=replace(align.optimization, learning_rate=3e-3, warmup_steps=5)))
    )
    assert after["ndcg@10"] > before["ndcg@10"] + 0.02


BEAMS = Sampled(negatives=ModelBeams(num_beams=10), num_negatives=1)
REFRESHED_BEAMS = Sampled(negatives=ModelBeams(num_beams=10, refresh_every=10), num_negatives=3)
SELF_PLAY = Align(
    objective=Rounds(objectives=(Supervised(), Preference(loss=DPO(beta=0.5), candidates=BEAMS)), steps=(10, 10)),
    keep="last",
    optimization=Optimization(max_steps=60, batch_size=32, learning_rate=3e-3, warmup_steps=5),
    validation=Validation(every=20),
)


@pytest.mark.parametrize(
    "align",
    [
        SELF_PLAY,
        pytest.param(
            replace(SELF_PLAY, objective=Preference(loss=Anchored(DPO(beta=0.5)), candidates=BEAMS), refresh_reference=20),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            replace(SELF_PLAY, objective=Preference(loss=Anchored(SoftmaxDPO()), candidates=REFRESHED_BEAMS)), marks=pytest.mark.slow
        ),
    ],
    ids=["self-play", "reference refreshed", "beams refreshed"],
)
def test_iterated_alignment_improves_an_undertrained_policy(align: Align) -> None:
    """After a short SFT, alignment against the policy's own beams raises NDCG@10 by more than 0.05."""
    undertrained = replace(
        cyclic(),
        sft=SFT(
            optimization=Optimization(max_steps=60, batch_size=64, learning_rate=3e-3, warmup_steps=20, weight_decay=0.035),
            validation=Validation(every=20, patience=15),
        ),
    )
    assert metrics(replace(undertrained, align=align))["ndcg@10"] > metrics(undertrained)["ndcg@10"] + 0.05


@pytest.mark.slow
def test_the_cyclic_world_is_solved_with_an_rqvae() -> None:
    quantizer = RQVAE(num_levels=2, codebook_size=8, hidden_dims=(32,), latent_dim=8, epochs=60, batch_size=64)
    solved = replace(
        cyclic(),
        tokenize=Tokenize(quantizer=quantizer, min_usage=0.2),
        policy=LEARNER,
        sft=LONG_SFT,
    )
    assert metrics(solved)["recall@1"] >= 0.95


SHOP = Experiment(
    name="shop",
    source=Shop(num_items=240, num_users=300, seed=3),
    tokenize=Tokenize(quantizer=RQKMeans(num_levels=2, codebook_size=16)),
    policy=Tiger(d_model=48, d_ff=192, num_heads=4, d_kv=12, num_encoder_layers=1, num_decoder_layers=1, history="items"),
    sft=SFT(
        optimization=Optimization(max_steps=800, batch_size=64, learning_rate=4e-3, warmup_steps=50, weight_decay=0.035),
        validation=Validation(every=200, patience=15),
    ),
)


GOLDEN_COUNTS = (300, 240, 5672)
GOLDEN_POPULARITY = 0.0173768
GOLDEN_ITEMKNN = 0.1116651
GOLDEN_SFT = 0.17  # seeds 0, 1, 2 gave 0.191, 0.152, 0.171; another machine rounds differently, which acts like another seed


def test_golden_counts_and_baselines() -> None:
    """Data and baselines from a fixed seed are exact."""
    popularity = replace(SHOP, policy=Popularity())
    statistics = json.loads((pipeline.run(popularity)["data"].folder / "stats.json").read_text())
    assert (statistics["users"], statistics["items"], statistics["interactions"]) == GOLDEN_COUNTS
    assert metrics(popularity)["ndcg@10"] == pytest.approx(GOLDEN_POPULARITY, abs=1e-6)
    assert metrics(replace(SHOP, policy=ItemKNN()))["ndcg@10"] == pytest.approx(GOLDEN_ITEMKNN, abs=1e-6)


@pytest.mark.slow
def test_golden_run() -> None:
    """The whole pipeline from a fixed seed: SFT lies in a band because of rounding, above ItemKNN."""
    sft = metrics(SHOP)["ndcg@10"]
    assert sft == pytest.approx(GOLDEN_SFT, abs=0.05)
    assert sft > GOLDEN_ITEMKNN


def test_keys_do_not_depend_on_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = pipeline.plan(SHOP)
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    assert pipeline.plan(SHOP) == here


def test_keys_depend_on_the_specification_and_the_parents() -> None:
    """The key of a stage changes with its own specification and with those of its parents, and with nothing else."""

    def changed(experiment: Experiment) -> list[str]:
        return [a.stage for a, b in zip(pipeline.plan(SHOP), pipeline.plan(experiment), strict=True) if a.key != b.key]

    assert changed(replace(SHOP, name="other")) == []
    assert changed(replace(SHOP, evaluate=replace(SHOP.evaluate, batch_size=7))) == []
    assert changed(replace(SHOP, seed=1)) == ["sft", "evaluate"]
    assert changed(replace(SHOP, history_length=5)) == ["sft", "evaluate"]
    assert changed(replace(SHOP, evaluate=replace(SHOP.evaluate, filter_seen=True))) == ["evaluate"]
    assert changed(replace(SHOP, tokenize=replace(SHOP.tokenize, seed=1))) == ["tokenize", "sft", "evaluate"]
    assert changed(replace(SHOP, source=Shop(seed=9))) == ["data", "embed", "tokenize", "sft", "evaluate"]


@pytest.mark.slow
def test_invalid_negatives_teach_valid_semantic_ids() -> None:
    """After a short SFT, greedy decoding without the trie ends in a real item more often than after as many steps of SFT.

    512 sequences or more stand beside 40 items. The mean share over two seeds rises by more than 0.1 over that of the control.
    """
    short = SFT(
        optimization=Optimization(max_steps=15, batch_size=64, learning_rate=5e-3, warmup_steps=15, weight_decay=0.035),
        validation=Validation(every=15),
    )
    base = replace(cyclic(), tokenize=Tokenize(quantizer=RQKMeans(num_levels=3, codebook_size=8)), sft=short)

    def share(objective: Objective) -> float:
        align = Align(
            objective=objective,
            keep="last",
            optimization=Optimization(max_steps=80, batch_size=32, learning_rate=3e-4, warmup_steps=5),
            validation=Validation(every=80),
        )
        return sum(metrics(replace(base, align=align, seed=seed))["valid_share"] for seed in (0, 1)) / 2

    invalid = Preference(loss=SoftmaxDPO(beta=0.5), candidates=InvalidIds(by="beams"), likelihood=1.0)
    assert share(invalid) > share(Supervised()) + 0.1
