"""GRPO over samples without replacement of a policy that searches with beams, from the experiment to its artifact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from worlds import cyclic

from genrec import pipeline
from genrec.experiment import Align, Experiment, Optimization, Validation
from genrec.model import Gpt, Tiger
from genrec.objectives import PolicyGradient
from genrec.preference.candidates import Rollouts
from genrec.preference.policy_gradient import Clip, GroupAdvantage

SMALL: dict[str, Any] = {"d_model": 32, "d_ff": 64, "num_heads": 2, "d_kv": 16, "dropout": 0.1, "num_beams": 12}
CAUSAL = Tiger(**SMALL, num_encoder_layers=1, num_decoder_layers=1, history="items", encoder="causal")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(tmp_path_factory.mktemp("samples") / "data"))
        yield


def grpo(policy: Any, steps: int, **change: Any) -> Experiment:
    """Return GRPO over 16 samples, more than the policy has beams, after a short SFT."""
    objective = PolicyGradient(
        candidates=Rollouts(size=16, by="samples"), advantage=GroupAdvantage(), surrogate=Clip(), kl=1e-3, likelihood=0.0, **change
    )
    align = Align(
        objective, keep="last", optimization=Optimization(max_steps=steps, batch_size=32, learning_rate=2e-3),
        validation=Validation(every=5),
    )  # fmt: skip
    return replace(cyclic(steps=10), name="cyclic-samples", policy=policy, align=align)


def curves(experiment: Experiment) -> pd.DataFrame:
    return pd.read_parquet(pipeline.run(experiment)["align"].folder / "curves.parquet")


@pytest.mark.parametrize("targets", ["one", pytest.param("all", marks=pytest.mark.slow)])
def test_grpo_over_samples_makes_hits_more_likely(targets: Any) -> None:
    """Samples of the policy in training have the ratio 1, so that nothing is clipped; hits become more likely and frequent."""
    found = curves(grpo(CAUSAL, 40, targets=targets))
    steps = found[found["hit_share"].notna()]
    assert (steps["clip_share"] == 0).all()
    first, last = steps.iloc[0], steps.iloc[-1]
    assert last["hit_share"] > first["hit_share"] + 0.1
    assert last["reward"] > first["reward"]
    assert last["hit_log_prob"] > first["hit_log_prob"]


def test_a_run_again_gives_the_same_curves_and_a_decoder_alone_draws_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = grpo(Gpt(**SMALL, num_layers=1), 6)
    first = curves(experiment)
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "again"))
    again = curves(experiment)
    names = ["step", "hit_share", "reward", "kl", "hit_log_prob"]
    assert first[names].notna().any().all()
    pd.testing.assert_frame_equal(first[names], again[names])


def test_a_behavior_copy_that_is_refreshed_every_few_steps_clips() -> None:
    """With a copy of 20 steps the policy moves away from it: some candidates leave the clip's range."""
    experiment = grpo(CAUSAL, 40)
    objective = replace(experiment.alignments[0].objective, candidates=Rollouts(size=16, by="samples", refresh=20))
    found = curves(replace(experiment, align=replace(experiment.alignments[0], objective=objective)))
    assert found["clip_share"].max() > 0
