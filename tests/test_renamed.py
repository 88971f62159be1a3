"""Former names: files that still use them fail with a message that gives the present name."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from preference_stages import stage

import genrec.baselines
import genrec.embeddings
import genrec.experiment
import genrec.model
import genrec.objectives
import genrec.preference.filters
import genrec.preference.losses
import genrec.preference.negatives
import genrec.testing
import genrec.tokenizer
from genrec import former_modules, loading, renamed, run_experiments, run_files
from genrec.data import download, splits
from genrec.data import sources as data_sources
from genrec.errors import ArtifactError, UsageError
from genrec.experiment import Experiment
from genrec.overrides import override
from genrec.preference.losses import RosePO
from genrec.testing import Shop

HOUSES = [
    genrec.experiment, genrec.model, genrec.baselines, genrec.tokenizer, genrec.embeddings, genrec.preference.losses,
    genrec.preference.negatives, genrec.preference.filters, genrec.objectives, genrec.testing, data_sources, splits, download,
]  # fmt: skip


def component(name: str) -> type:
    """The class of this name, wherever a user imports it from."""
    return next(getattr(house, name) for house in HOUSES if hasattr(house, name))


HOLDERS = {"SFT": genrec.experiment.SFT, "Align": genrec.experiment.Align}  # classes with former fields that are now deeper


def field_names(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


@pytest.mark.parametrize("name", sorted(renamed.FIELDS))
def test_former_fields_are_gone_and_present_ones_exist(name: str) -> None:
    kind = component(name)
    for former, present in renamed.FIELDS[name].items():
        assert former not in field_names(kind)
        owner: object = HOLDERS[name]() if name in HOLDERS else kind
        for field in present.split("."):
            assert field in field_names(owner)
            owner = getattr(owner, field, None)


@pytest.mark.parametrize(("place", "present"), renamed.MOVED.items())
def test_fields_that_moved_to_another_class_exist_there(place: tuple[str, str], present: str) -> None:
    holder, _, field = present.partition(".")
    assert place[1] not in field_names(component(place[0]))
    assert field in field_names(component(holder))


def test_present_modules_exist() -> None:
    for present in former_modules.MODULES.values():
        head, _, tail = present.rpartition(".")
        try:
            importlib.import_module(present)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(head), tail)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("from genrec.experiment import SFT\ndef row():\n    return SFT(steps=3)", "SFT.steps is now SFT.optimization.max_steps"),
        (
            "from genrec.experiment import Align\ndef row():\n    return Align(count=3)",
            "Align.count is now Align.objective.candidates.num_negatives; write Align(objective=Preference(loss=..., "
            "candidates=Sampled(negatives=..., num_negatives=...))), with Preference from genrec.objectives and Sampled from",
        ),
        (
            "from genrec.experiment import Align\nfrom genrec.preference.losses import DPO\nfrom genrec.preference.negatives import "
            "Uniform\ndef row():\n    return Align(loss=DPO(), negatives=Uniform(), num_negatives=1)",
            "Align.loss is now Align.objective.loss; write Align(objective=Preference(loss=..., candidates=Sampled(",
        ),
        (
            "from genrec.experiment import Align\ndef row():\n    return Align().negatives",
            "Align.negatives is now Align.objective.candidates.negatives; write Align(objective=Preference(",
        ),
        (
            "from genrec.experiment import Align\ndef row():\n    return Align(rounds=4)",
            "Align.rounds is now Align.refresh_reference; write Align(refresh_reference=steps of a round)",
        ),
        (
            "from genrec.experiment import Align\ndef row():\n    return Align(round_sft_steps=20)",
            "Align.round_sft_steps is now Rounds.steps; write Align(objective=Rounds(objectives=(Supervised(), Preference(...)), ",
        ),
        (
            "from genrec.experiment import SFT\ndef row():\n    return SFT(targets='all')",
            "SFT.targets is now SFT.objective.targets; write SFT(objective=Supervised(targets=..., padding=...))",
        ),
        (
            "from genrec.preference.losses import RosePO\ndef row():\n    return RosePO(reward=None)",
            "RosePO.reward is now Preference.reward; write Preference(loss=RosePO(...), reward=...)",
        ),
        (
            "from genrec.preference.losses import RecPO\ndef row():\n    return RecPO(reward=None)",
            "RecPO.reward is now Preference.reward; write Preference(loss=RecPO(...), reward=...)",
        ),
        ("import genrec.training.plugin_errors", "genrec.training.plugin_errors is now genrec.plugin_errors"),
        ("from genrec.training.align import Alignment", "genrec.training.align.Alignment is now genrec.objectives.Preference"),
        (
            "from genrec.experiment import Evaluate\ndef row():\n    return Evaluate(history_length=9)",
            "Evaluate.history_length is now Experiment.history_length",
        ),
        ("from genrec.model import Tiger\ndef row():\n    return Tiger().width", "Tiger.width is now Tiger.d_model"),
        ("from genrec.preference.negatives import FaissNeighbours", "FaissNeighbours is now FaissNeighbors"),
        ("from genrec.types import DrawNegatives", "DrawNegatives is now Draw"),
        ("from genrec import runs", "genrec.runs is now genrec.run_files"),
        ("import genrec.model.generation", "genrec.model.generation is now genrec.model.beam_search"),
        ("from genrec.data.fetch import Archive", "genrec.data.fetch is now genrec.data.download"),
    ],
)
def test_an_experiment_file_with_a_former_name_fails_with_the_present_one(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "former.py").write_text(code)
    with pytest.raises(UsageError) as error:
        loading.load(f"{tmp_path / 'former.py'}:row")
    assert message in str(error.value)
    assert "Traceback" in str(error.value)


def test_other_errors_of_an_experiment_file_get_no_hint() -> None:
    for error in (TypeError("SFT.__init__() got an unexpected keyword argument 'colour'"), ValueError("steps"), ImportError("no")):
        assert renamed.explain(error) is None


def test_an_override_with_a_former_name_fails_with_the_present_one() -> None:
    row = Experiment(name="shop", source=Shop())
    for flag, present in (
        ("--sft.steps", "--sft.steps is now --sft.optimization.max-steps"),
        ("--policy.width", "--policy.width is now --policy.d-model"),
        ("--evaluate.history-length", "--evaluate.history-length is now --history-length"),
    ):
        with pytest.raises(UsageError) as error:
            override([row], [flag, "3"])
        assert present in str(error.value)


def test_an_override_of_an_alignment_with_a_former_name_fails_with_the_present_one() -> None:
    row = Experiment(name="shop", source=Shop(), align=stage(loss=RosePO()))
    for flag, present in (
        ("--align.rounds", "--align.rounds is now --align.refresh-reference; write Align(refresh_reference=steps of a round)"),
        ("--align.round-sft-steps", "--align.round-sft-steps is now Rounds.steps; write Align(objective=Rounds("),
        ("--align.count", "--align.count is now --align.objective.candidates.num-negatives"),
        ("--align.loss.reward", "--align.loss.reward is now --align.objective.reward; write Preference(loss=RosePO(...), reward=...)"),
    ):
        with pytest.raises(UsageError) as error:
            override([row], [flag, "3"])
        assert present in str(error.value)


def test_a_run_file_with_former_names_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    (tmp_path / "runs").mkdir()
    configuration = {
        "sft.class": "genrec.training.recipes:SFT",
        "sft.steps": 9,
        "evaluate.class": "m:Evaluate",
        "evaluate.history_length": 5,
    }
    (tmp_path / "runs" / "shop.json").write_text(json.dumps({"name": "shop", "configuration": configuration, "seeds": {}}))
    expected = (
        r"earlier version of genrec .*sft\.steps is now sft\.optimization\.max_steps, evaluate\.history_length is now history_length"
    )
    with pytest.raises(ArtifactError, match=expected):
        run_files.read("shop")
    with pytest.raises(ArtifactError, match="move the file away"):
        run_experiments.run([Experiment(name="shop", source=Shop())])
    assert not (tmp_path / "artifacts").exists()


def test_modules_are_loaded_by_name_with_the_same_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "former_module.py").write_text("from genrec.data.fetch import Archive")
    (tmp_path / "failing_module.py").write_text("1 / 0")
    with pytest.raises(UsageError, match=r"former_module cannot be imported: genrec\.data\.fetch is now genrec\.data\.download"):
        loading.load("former_module:row")
    with pytest.raises(UsageError, match=r"failing_module cannot be imported; its own error:\n(?s:.)*ZeroDivisionError"):
        loading.load("failing_module:row")
    with pytest.raises(UsageError, match=r"there is no module 'absent_module'"):
        loading.load("absent_module:row")


def test_components_that_cannot_be_built_or_found(tmp_path: Path) -> None:
    (tmp_path / "needs.py").write_text("class Needs:\n    def __init__(self, width):\n        self.width = width\n")
    with pytest.raises(UsageError, match=r"cannot be built without arguments .*'width'.*name a function that returns an instance"):
        loading.component(f"{tmp_path / 'needs.py'}:Needs")
    with pytest.raises(UsageError, match="FaissNeighbours is now FaissNeighbors"):
        loading.component("genrec.preference.negatives:FaissNeighbours")
    with pytest.raises(UsageError, match=r"has no 'Unifrom'; it has: .*Uniform"):
        loading.component("genrec.preference.negatives:Unifrom")
