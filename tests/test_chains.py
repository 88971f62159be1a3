"""Chains of alignments: each stage has an artifact, begins from the stage before, and has its reference and random numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from preference_stages import stage
from safetensors.torch import load_file
from torch import Tensor
from worlds import cyclic

from genrec import pipeline, stage_names
from genrec.__main__ import main
from genrec.errors import UsageError
from genrec.experiment import Align, Experiment, Optimization, Validation
from genrec.objectives import Preference, Supervised
from genrec.policy_modules import as_module
from genrec.preference.negatives import Uniform
from genrec.store import Artifact
from genrec.training import loop
from genrec.types import Draw, ObjectiveContext, SamplerContext, SequenceBatch, TrainingStep

PROJECT = Path(__file__).parents[1]
FILE = """
from dataclasses import replace

from worlds import cyclic

from genrec.experiment import Align, Optimization, Validation
from genrec.objectives import Supervised

def single():
    return replace(cyclic(steps=12, align_steps=8), name="cyclic-sdpo")

def chain():
    second = Align(
        Supervised(),
        reference="sft",
        optimization=Optimization(max_steps=16, batch_size=32, learning_rate=1e-3),
        validation=Validation(every=8),
        keep="last",
    )
    return replace(single(), name="cyclic-chain", align=(single().align, second))

def other():
    return replace(chain(), name="cyclic-other")
"""
STAGES = ("data", "embed", "tokenize", "sft", "align", "align-2", "evaluate")
LAST = {
    "optimization": Optimization(max_steps=16, batch_size=32, learning_rate=1e-3),
    "validation": Validation(every=8),
    "keep": "last",
}


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with the experiment file. All tests share its artifacts, but for those that need others."""
    folder = tmp_path_factory.mktemp("chains")
    (folder / "mine.py").write_text(FILE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GENREC_HOME", str(folder / "data"))
        yield folder


def chained(*stages: Align | Preference | Supervised) -> Experiment:
    """Return the experiment of the file with other alignments after its S-DPO."""
    single = cyclic(steps=12, align_steps=8)
    return replace(single, name="cyclic-own", align=(single.align, *stages))


def weights(artifact: Artifact) -> dict[str, Tensor]:
    return load_file(artifact.folder / "policy.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_chain_runs_all_stages_and_shares_the_first_ones() -> None:
    chain = chained(Align(Supervised(), **LAST))
    made = pipeline.run(chain)
    assert tuple(made) == STAGES == chain.stages
    alone = pipeline.run(replace(chain, align=chain.alignments[0]))
    assert {name: each.key for name, each in alone.items() if name != "evaluate"} == {
        name: made[name].key for name in STAGES if name not in ("align-2", "evaluate")
    }
    assert made["align-2"].manifest["parents"].keys() == {"data", "embed", "tokenize", "align"}
    assert "align-2" in made["evaluate"].manifest["parents"]
    assert "align" not in made["evaluate"].manifest["parents"]
    assert made["align-2"].folder.parent.name == "align-2"
    assert not same(weights(made["align"]), weights(made["align-2"]))
    assert made["evaluate"].key != alone["evaluate"].key


SEEN: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []


@dataclass(frozen=True)
class Watched:
    """Supervised training that records the first weights of the policy and of the reference."""

    label: str = "watched"

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        assert context.reference is not None
        both = (as_module(context.policy), as_module(context.reference.policy))
        SEEN.append(tuple({name: value.clone() for name, value in each.state_dict().items()} for each in both))  # type: ignore[arg-type]
        return Supervised().build_step(context)


def test_the_first_stage_has_one_key_for_both_references() -> None:
    """The stage before the first one is SFT. In the second stage the reference changes the key."""
    last = chained(Align(Supervised(), **LAST))
    first, second = last.alignments
    keys = [
        tuple(step.key for step in pipeline.plan(replace(last, align=(replace(first, reference=one), replace(second, reference=two)))))
        for one, two in (("previous", "previous"), ("sft", "previous"), ("previous", "sft"))
    ]
    assert keys[0] == keys[1]
    assert [ours == others for ours, others in zip(keys[0], keys[2], strict=True)] == [True] * 5 + [False] * 2


@pytest.mark.parametrize(("reference", "expected"), [("previous", "align"), ("sft", "sft")])
def test_the_reference_of_a_later_stage_is_the_stage_before_or_sft(reference: Any, expected: str) -> None:
    """The policy begins from the stage before in both cases."""
    SEEN.clear()
    chain = chained(Align(Watched(), reference=reference, **LAST))
    first, second = chain.alignments
    made = pipeline.run(replace(chain, align=(replace(first, keep="last"), second)), last="align-2")  # the best step may be SFT's
    ((policy, frozen),) = SEEN
    saved = {name: weights(made[name]) for name in ("sft", "align")}
    assert not same(saved["sft"], saved["align"])
    assert same(policy, {name: saved["align"].get(name, value) for name, value in policy.items()})
    assert same(frozen, {name: saved[expected].get(name, value) for name, value in frozen.items()})
    assert ("sft" in made["align-2"].manifest["parents"]) == (reference == "sft")
    curves = pd.read_parquet(made["align-2"].folder / "curves.parquet")
    assert (curves["validation_kl"].iloc[0] > 0) == (reference == "sft")


def test_the_first_stage_has_one_key_for_both_references_only_by_its_setting() -> None:
    """At the first alignment the stage before is SFT, so `sft` and `previous` train the same policy."""
    steps = {each: pipeline.plan(replace(cyclic(align_steps=8), align=stage(reference=each)))[4] for each in ("previous", "sft")}
    assert steps["sft"].parents == steps["previous"].parents


def test_an_objective_stands_for_a_stage_of_default_settings() -> None:
    base = cyclic(steps=12)
    assert replace(base, align=Preference()) == replace(base, align=Align(Preference()))  # type: ignore[arg-type]
    chain = replace(base, align=[Preference(), Align(Supervised(), **LAST), Supervised()])  # type: ignore[arg-type]
    assert chain.align == (Align(Preference()), Align(Supervised(), **LAST), Align(Supervised()))
    assert chain.stages[4:] == ("align", "align-2", "align-3", "evaluate")
    assert hash(chain) == hash(replace(chain))
    with pytest.raises(UsageError, match=r"align\.1 must be Align\(\.\.\.\), got 'Supervised'"):
        replace(base, align=(Preference(), "Supervised"))  # type: ignore[arg-type]


DRAWN: list[tuple[list[int], list[list[int]]]] = []


@dataclass(frozen=True)
class Recorded:
    """Uniform negatives that are recorded with the batch's targets."""

    label: str = "recorded"

    def build(self, context: SamplerContext) -> Draw:
        uniform = Uniform().build(context)

        def draw(batch: SequenceBatch, num_negatives: int, generator: torch.Generator) -> Tensor:
            negatives = uniform.draw(batch, num_negatives, generator)
            DRAWN.append((batch.target.tolist(), negatives.tolist()))
            return negatives

        return Draw(draw=draw)


def test_stages_of_a_chain_have_random_numbers_of_their_own() -> None:
    """Two stages of equal settings see other batches and draw other negatives; a stage alone and first in a chain the same ones."""
    recorded = stage(negatives=Recorded(), optimization=Optimization(max_steps=3, batch_size=24, learning_rate=1e-4))
    batches = []
    base = cyclic(steps=12)
    for chain, last in ((replace(base, align=recorded), "align"), (replace(base, align=(recorded, recorded)), "align-2")):
        DRAWN.clear()
        pipeline.run(chain, last=last, refresh=last)
        batches.append([each for each in DRAWN if len(each[0]) == 24][:3])
    first, second = batches
    assert len(first) == len(second) == 3
    assert all(ours[0] != theirs[0] and ours[1] != theirs[1] for ours, theirs in zip(first, second, strict=True))


def test_the_command_line_runs_shows_and_compares_chains(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "mine.py:single"]) == 0
    capsys.readouterr()
    assert main(["run", "mine.py:chain", "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert [line.partition("(flags: ")[2] for line in planned.splitlines() if "(flags: " in line] == [
        "--align.0.FIELD)", "--align.1.FIELD)",
    ]  # fmt: skip
    assert main(["run", "mine.py:chain"]) == 0
    assert "(flags: --align.1.FIELD) ..." in capsys.readouterr().err
    content = json.loads((project / "data" / "runs" / "cyclic-chain.json").read_text())
    assert tuple(content["seeds"]["0"]["artifacts"]) == STAGES
    configuration = content["configuration"]
    assert (configuration["align.objective.candidates.num_negatives"], configuration["align-2.objective.targets"]) == (3, "one")
    assert configuration["stages.align-2.version"] == pipeline.VERSIONS["align"]

    assert main(["run", "mine.py:chain", "--dry-run"]) == 0
    assert "0 artifacts to build, 7 done" in capsys.readouterr().out
    assert main(["curves", "cyclic-chain", "--stage", "align-2", "--csv", "curves.csv"]) == 0
    assert capsys.readouterr().out.startswith("cyclic-chain, align-2\n  seed 0: 16 steps")
    table = pd.read_csv("curves.csv")
    assert table["stage"].unique().tolist() == ["align-2"]
    assert table["step"].tolist() == [0, 8, 16]
    assert main(["curves", "cyclic-chain"]) == 0
    assert capsys.readouterr().out.startswith("cyclic-chain, align-2\n")
    assert main(["curves", "cyclic-chain", "cyclic-sdpo"]) == 0
    assert "cyclic-chain, cyclic-sdpo, align\n" in capsys.readouterr().out

    assert main(["compare", "cyclic-sdpo", "cyclic-chain"]) == 0
    compared = capsys.readouterr().out
    settings = compared.partition("Configuration differences\n")[2].partition("\n\n")[0].splitlines()
    own = {
        "align-2": "Align",
        "align-2.objective": "Supervised",
        "align-2.objective.targets": "one",
        "align-2.objective.padding": "zero",
    }
    assert [line.split() for line in settings[2:]] == [[path, "-", value] for path, value in own.items()]


def test_a_later_stage_alone_is_refreshed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "mine.py:other"]) == 0
    before = {path: path.stat().st_mtime_ns for path in (project / "data" / "artifacts").glob("*/[!.]*/manifest.json")}
    capsys.readouterr()
    assert main(["run", "mine.py:other", "--refresh", "align-2"]) == 0
    said = capsys.readouterr().err
    assert "(seed 0): align-2 " in said
    assert "(seed 0): align " not in said
    after = {path: path.stat().st_mtime_ns for path in (project / "data" / "artifacts").glob("*/[!.]*/manifest.json")}
    assert {path.parents[1].name for path in before if before[path] != after[path]} == {"align-2", "evaluate"}
    assert main(["run", "mine.py:other", "--refresh", "align-1"]) == 2
    assert "there is no stage 'align-1'" in capsys.readouterr().err


KILLED = """
import os, signal
from genrec.training import lightning_module, loop
from genrec.__main__ import main

learning_rate, loop.CHECKPOINT_SECONDS = lightning_module.learning_rate, -1.0

def killed(plan, step):
    if step == 13:  # reached by the second alignment alone
        os.kill(os.getpid(), signal.SIGKILL)
    return learning_rate(plan, step)

lightning_module.learning_rate = killed
main()
"""


def test_the_names_of_the_stages_of_a_chain() -> None:
    names = [stage_names.align_stage(place) for place in range(11)]
    assert [*names[:3], names[10]] == ["align", "align-2", "align-3", "align-11"]
    assert [stage_names.place_of(name) for name in names] == list(range(11))
    assert {stage_names.kind_of_stage(name) for name in names} == {"align"}


@pytest.mark.slow
def test_a_run_that_is_killed_in_the_second_alignment_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL in the middle of align-2, whose reference is SFT; the same command resumes it: bit for bit the uninterrupted run."""
    assert main(["run", "mine.py:chain"]) == 0
    whole = pipeline.run(_chain_of_file())["align-2"]
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = ["run", "mine.py:chain"]
    assert subprocess.run([sys.executable, "-c", KILLED, *command], env=environment).returncode == -signal.SIGKILL
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "alignment (align-2): resuming from step 8" in said
    assert said.count("resuming") == 1
    assert same(weights(whole), weights(pipeline.run(_chain_of_file())["align-2"]))


def _chain_of_file() -> Experiment:
    from genrec import loading

    (experiment,) = loading.load("mine.py:chain")
    return experiment
