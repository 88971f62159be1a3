"""The time that a dry run estimates from earlier artifacts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from worlds import TINY, cyclic

from genrec import dry_run, pipeline
from genrec.dry_run import Earlier, Estimate, Trained
from genrec.environment import environment
from genrec.experiment import Experiment

MACHINE = ("processor", "2", "none")
EXAMPLES = 700  # with a batch size of 64 an epoch has 11 steps, so None stands for the least number of steps, 500


def sft(steps: int | None = 60, **changes: object) -> Experiment:
    experiment = cyclic(align_steps=20)
    optimization = replace(experiment.sft.optimization, max_steps=steps)
    return replace(experiment, sft=replace(experiment.sft, optimization=optimization), **changes)  # type: ignore[arg-type]


def made(experiment: Experiment, stage: str, seconds: float, steps: int = 60) -> Earlier:
    step = next(step for step in pipeline.plan(experiment) if step.stage == stage)
    training = Trained(steps, EXAMPLES) if stage in ("sft", "align") else None
    return Earlier(*step, seconds, MACHINE, training)


def estimate(wanted: Experiment, stage: str, earlier: Sequence[Earlier], others: Sequence[Experiment] = ()) -> Estimate | None:
    """Estimate a stage. The artifacts of all stages of `wanted` and `others` are known."""
    steps = [step for experiment in (wanted, *others) for step in pipeline.plan(experiment)]
    described = {step.key: (step.specification, step.parents) for step in steps}
    return dry_run.estimate(next(step for step in steps if step.stage == stage), earlier, described)


def test_an_estimate_is_the_median_and_follows_the_steps() -> None:
    """10, 12 and 60 s for 60 steps are 24 s for 120 steps. A training that stopped after 30 of its 60 steps took 10 s: 40 s."""
    wanted, before = sft(120, seed=3), sft(60)
    earlier = [made(before, "sft", seconds) for seconds in (10.0, 60.0, 12.0)]
    assert estimate(wanted, "sft", earlier, [before]) == Estimate(24.0, 3, False)
    assert estimate(wanted, "sft", [made(before, "sft", 10.0, steps=30)], [before]) == Estimate(40.0, 1, False)
    assert estimate(wanted, "sft", []) is None


def test_an_estimate_is_a_duration_in_the_words_of_progress() -> None:
    """3 h and 30 min of two artifacts; an estimate is at least a second."""
    assert dry_run._sum([Estimate(3_600.0, 1, False), Estimate(9_000.0, 2, False)]) == "about 3 h 30 min"
    assert dry_run._sum([Estimate(0.2, 1, True)]) == "at most about 1 s"


def test_the_default_number_of_steps_is_resolved_by_the_examples() -> None:
    """500 steps instead of 100 take 5 times as long, and 50 instead of 500 a tenth."""
    assert estimate(sft(None), "sft", [made(sft(100), "sft", 7.0, 100)], [sft(100)]) == Estimate(35.0, 1, False)
    assert estimate(sft(50), "sft", [made(sft(None), "sft", 8.0, 500)], [sft(None)]) == Estimate(0.8, 1, False)


def test_a_far_shorter_training_gives_a_limit_and_only_without_others() -> None:
    """5 steps in 6 s are mostly start and validations: 500 steps take at most 600 s; 50 steps in 20 s give 200 s."""
    five, fifty = made(sft(5), "sft", 6.0, 5), made(sft(50), "sft", 20.0, 50)
    assert estimate(sft(None), "sft", [five], [sft(5)]) == Estimate(600.0, 1, True)
    assert estimate(sft(None), "sft", [five, fifty], [sft(5), sft(50)]) == Estimate(200.0, 1, False)


@pytest.mark.parametrize("stage", ["sft", "align", "evaluate"])
@pytest.mark.parametrize(
    "other",
    [
        sft(policy=replace(TINY, d_model=64)),
        sft(history_length=7),
        sft(source=replace(cyclic().source, num_users=50)),
        sft(embed=replace(cyclic().embed, dim=8)),
    ],
    ids=["a larger model", "longer histories", "other data", "other vectors"],
)
def test_other_settings_give_no_estimate(stage: str, other: Experiment) -> None:
    """Alignment and evaluation depend on the model by their parents alone. Another seed and number of steps are no other settings."""
    wanted, alike = sft(60), sft(30, seed=5)
    steps = 30 if stage == "sft" else 20
    assert estimate(wanted, stage, [made(other, stage, 9.0, steps)], [other]) is None
    found = estimate(wanted, stage, [made(other, stage, 9.0, steps), made(alike, stage, 4.0, steps)], [other, alike])
    assert found == Estimate(8.0 if stage == "sft" else 4.0, 1, False)


def test_the_lines_read_the_steps_that_artifacts_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training of 60 planned steps stopped at step 40 after 20 s; 500 steps take at most 250 s. A damaged recipe is ignored."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    for seed, examples in ((0, EXAMPLES), (1, None)):
        for step in pipeline.plan(sft(60, seed=seed)):
            folder = tmp_path / "artifacts" / step.stage / step.key
            folder.mkdir(parents=True, exist_ok=True)
            manifest = {
                "specification": step.specification, "parents": step.parents, "seconds": 20.0, "environment": environment()
            }  # fmt: skip
            (folder / "manifest.json").write_text(json.dumps(manifest))
            if step.stage == "sft":
                (folder / "recipe.json").write_text(json.dumps({"examples": examples} if examples else {}))
                pd.DataFrame({"step": [0, 20, 40]}).to_parquet(folder / "curves.parquet")
    printed = list(dry_run.lines([replace(sft(None), align=None)]))
    basis = "from 1 earlier artifact of this stage on this machine, with far fewer steps"
    assert f"  sft       1 to build, at most about 4 min ({basis})" in printed
    assert any(line.startswith("estimated time: at most about 4 min") for line in printed)
