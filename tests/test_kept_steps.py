"""The step that a training has kept, in `genrec show` and below the table: an untrained policy is no reference without a word."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from worlds import cyclic

from genrec import run_experiments, run_files
from genrec.__main__ import main
from genrec.errors import ArtifactError
from genrec.evaluation.compare import compare
from genrec.evaluation.comparison.comparison_tables import tables
from genrec.experiment import Align, Experiment
from genrec.kept_steps import kept_steps
from genrec.workspace import store


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))


def without_learning(experiment: Experiment, stage: str) -> Experiment:
    """The experiment with a learning rate that changes no rank in one stage, and a validation after every step."""
    spec = getattr(experiment, stage)
    optimization = replace(spec.optimization, learning_rate=1e-12, warmup_steps=0)
    return replace(experiment, **{stage: replace(spec, optimization=optimization, validation=replace(spec.validation, every=1))})


def notes(*names: str) -> list[str]:
    return tables(compare(run_files.outcomes(names)))[0].notes


def test_step_zero_is_in_the_table_and_in_show(capsys: pytest.CaptureFixture[str]) -> None:
    """SFT learns nothing at seed 0 of `still` and of `aligned`, which shares its SFT; `learned` learns."""
    still = without_learning(replace(cyclic(steps=2), name="still"), "sft")
    aligned = replace(still, name="aligned", align=cyclic(align_steps=2).align)
    learned = replace(cyclic(steps=60), name="learned", seed=0)
    assert isinstance(aligned.align, Align)
    kept_best = without_learning(replace(aligned, name="best", align=replace(aligned.align, keep="best")), "align")
    kept_last = without_learning(replace(aligned, name="last", align=replace(aligned.align, keep="last")), "align")
    run_experiments.run([still, kept_best, kept_last, learned])
    found = notes("still", "best", "last", "learned")
    assert "SFT kept step 0, the untrained policy, in seed 0 of still, best and last." in found
    assert "Alignment kept step 0, the SFT policy, in seed 0 of best." in found
    assert not any("kept step 0" in note for note in notes("learned"))
    capsys.readouterr()
    assert main(["show", "last"]) == 0
    printed = capsys.readouterr().out
    assert "  sft kept step 0, the untrained policy\n" in printed
    assert "  align kept step 2\n" in printed
    assert main(["show", "learned"]) == 0
    assert "untrained" not in capsys.readouterr().out


def test_a_training_that_is_no_longer_stored_has_no_step() -> None:
    run_experiments.run([without_learning(cyclic(steps=1), "sft")])
    keys = run_files.read("cyclic")["seeds"]["0"]["artifacts"]
    assert kept_steps(keys, store()) == {"sft": 0}
    shutil.rmtree(store().folder("sft", keys["sft"]))
    assert kept_steps(keys, store()) == {}
    assert not any("kept step 0" in note for note in notes("cyclic"))


def test_a_table_needs_no_weights(capsys: pytest.CaptureFixture[str]) -> None:
    """Damaged weights end no comparison, which reads the curves alone; damaged curves do."""
    run_experiments.run([cyclic(steps=1), replace(cyclic(steps=1), name="other", seed=1)])
    folder = store().folder("sft", run_files.read("cyclic")["seeds"]["0"]["artifacts"]["sft"])
    (folder / "policy.safetensors").write_bytes(b"damaged")
    assert main(["compare", "cyclic", "other"]) == 0
    assert main(["recommend", "cyclic", "--history", "item-3"]) == ArtifactError.exit_code
    (folder / "curves.parquet").write_bytes(b"damaged")
    capsys.readouterr()
    assert main(["compare", "cyclic", "other"]) == ArtifactError.exit_code
    assert "curves.parquet is missing or has changed" in capsys.readouterr().err
