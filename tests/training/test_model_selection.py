"""The selection of the best step: columns, names, keys, protocol, and what is refused before any stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from trainings import RECIPE, likelihood, policy, train, training_examples
from worlds import TINY, cyclic

from genrec import pipeline, row_trainings, run_files
from genrec.baselines import Popularity
from genrec.errors import UsageError
from genrec.experiment import Align, Evaluate, Experiment, Selection, baselines
from genrec.inspect_commands import _curves_lines
from genrec.overrides import override
from genrec.training.curves import best_step
from genrec.training.model_selection import selection_of


@pytest.mark.parametrize(
    ("selection", "column", "title", "protocol"),
    [
        (Selection(), "ndcg@10", "NDCG@10", "NDCG@10 on validation, seen items kept"),
        (
            Selection(metric="recall", cutoff=5, filter_seen=True),
            "recall@5_filter_seen",
            "Recall@5 (seen items filtered)",
            "Recall@5 on validation, seen items filtered",
        ),
        (Selection(metric="mrr", cutoff=20), "mrr@20", "MRR@20", "MRR@20 on validation, seen items kept"),
    ],
)
def test_names_of_a_selection(selection: Selection, column: str, title: str, protocol: str) -> None:
    assert (selection.column, selection.title, selection.protocol) == (column, title, protocol)


def test_the_selection_decides_the_best_step_and_early_stopping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NDCG@10 rises all the time; recall@5 without seen items is best at step 20, and patience 1 stops at step 40."""
    built, recipe = policy(), replace(RECIPE, validation=replace(RECIPE.validation, patience=1))
    values = iter([(0.1, 0.5), (0.2, 0.6), (0.3, 0.4)])

    def validate() -> dict[str, float]:
        rising, selecting = next(values)
        return {"ndcg@10": rising, "recall@5_filter_seen": selecting}

    selection = Selection(metric="recall", cutoff=5, filter_seen=True)
    folder = tmp_path / "last"
    outcome = train(built, likelihood(built), training_examples(), recipe, 0, folder, validate, "SFT", selection=selection)
    assert (outcome.best_step, outcome.best_score, outcome.last_step) == (20, 0.6, 40)


def test_messages_name_the_selection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(recipe: object, scores: list[float]) -> str:
        built, values = policy(), iter(scores)
        train(
            built, likelihood(built), training_examples(), recipe, 0, tmp_path / str(len(scores)),  # type: ignore[arg-type]
            lambda: {"mrr@5": next(values)}, "test", selection=Selection(metric="mrr", cutoff=5),
        )  # fmt: skip
        return capsys.readouterr().err

    assert "no step improved MRR@5 on validation" in printed(RECIPE, [0.3, 0.2, 0.1, 0.1])
    last = Align(keep="last", optimization=replace(RECIPE.optimization, max_steps=40), validation=RECIPE.validation)
    assert "lowered MRR@5 on validation from 0.3000" in printed(last, [0.3, 0.2, 0.1])
    built = policy()
    with pytest.raises(UsageError, match=r"validate must return mrr@5, which selects the best step; got ndcg@10"):
        train(
            built, likelihood(built), training_examples(), RECIPE, 0, tmp_path / "other", lambda: {"ndcg@10": 1.0}, "test",
            selection=Selection(metric="mrr", cutoff=5),
        )  # fmt: skip


def keys(experiment: Experiment) -> dict[str, str]:
    return {step.stage: step.key for step in pipeline.plan(experiment)}


def test_the_selection_is_part_of_the_training_keys_and_one_policy_serves_both_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    experiment = cyclic(align_steps=20)
    default, other = keys(experiment), keys(replace(experiment, selection=Selection(filter_seen=True)))
    assert [stage for stage in default if default[stage] != other[stage]] == ["sft", "align", "evaluate"]
    filtered = keys(replace(experiment, evaluate=replace(experiment.evaluate, filter_seen=True)))
    assert [stage for stage in default if default[stage] != filtered[stage]] == ["evaluate"]
    for name in ("sft", "align"):
        step = next(step for step in pipeline.plan(experiment) if step.stage == name)
        assert step.specification["selection"] == {
            "class": "genrec.training.model_selection:Selection", "metric": "ndcg", "cutoff": 10, "filter_seen": False,
        }  # fmt: skip


def test_a_run_selects_by_its_selection_and_its_protocol_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curves hold both ways of counting, and the row, its baselines and `genrec curves` name the one that selected."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    experiment = replace(cyclic(steps=80), selection=Selection(metric="recall", cutoff=3, filter_seen=True))
    artifacts = pipeline.run(experiment)
    curves = pd.read_parquet(artifacts["sft"].folder / "curves.parquet")
    assert {"validation_ndcg@10", "validation_ndcg@10_filter_seen", "validation_recall@3", "validation_recall@3_filter_seen"} < set(
        curves
    )
    run_files.record(experiment, artifacts)
    content = run_files.read("cyclic")
    assert content["protocol"]["selection"] == "Recall@3 on validation, seen items filtered"
    assert content["configuration"]["selection.filter_seen"] is True
    popularity = baselines(experiment)[0]
    run_files.record(popularity, pipeline.run(popularity))
    assert run_files.by_protocol(["cyclic", popularity.name]) == [["cyclic", popularity.name]]
    best, score = best_step(curves, "recall@3_filter_seen")
    assert f"step {best}, recall@3_filter_seen {score:.4f}" in _curves_lines(row_trainings.trainings(["cyclic"]))[0]


def test_a_training_that_recorded_no_selection_was_selected_by_the_default() -> None:
    assert selection_of({"sft": {}}) == Selection()
    described = {"class": "genrec.training.model_selection:Selection", "metric": "mrr", "cutoff": 3, "filter_seen": True}
    assert selection_of({"selection": described}) == Selection("mrr", 3, True)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Selection(metric="map"), r"selection\.metric must be one of 'ndcg', 'recall', 'mrr', got 'map'"),  # type: ignore[arg-type]
        (lambda: Selection(cutoff=0), r"selection\.cutoff must be at least 1, got 0"),
        (lambda: Selection(cutoff=2.5), r"selection\.cutoff must be of type int, got 2\.5"),  # type: ignore[arg-type]
        (lambda: Selection(filter_seen="yes"), r"selection\.filter_seen must be of type bool, got 'yes'"),  # type: ignore[arg-type]
        (lambda: replace(cyclic(), selection=None), r"selection must be Selection\(\.\.\.\), got None"),  # type: ignore[arg-type]
        (
            lambda: replace(cyclic(), selection=Selection(cutoff=30)),
            r"cyclic: selection\.cutoff must be at most policy\.num_beams = 20, .* got 30; set a smaller",
        ),
        (
            lambda: replace(
                cyclic(), policy=replace(TINY, num_beams=5), selection=Selection(cutoff=5), evaluate=Evaluate(cutoffs=(1, 5))
            ),
            r"policy\.num_beams must be at least 10, the number of items that validation ranks, got 5$",
        ),
        (lambda: override([cyclic()], ["--selection.cutoff", "30"]), r"^--selection\.cutoff 30: cyclic: selection\.cutoff must"),
    ],
)
def test_an_impossible_selection_is_refused_before_any_stage(build: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()  # type: ignore[operator]


def test_a_cutoff_of_few_beams_gets_advice_that_validation_allows() -> None:
    few = SimpleNamespace(name="few", policy=replace(TINY, num_beams=5))
    with pytest.raises(UsageError, match=r"num_beams = 5, .* got 7; set at least 10 as policy\.num_beams$"):
        Selection(cutoff=7).check(few)


def test_a_cutoff_beyond_the_catalog_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    experiment = replace(cyclic(steps=2), policy=replace(cyclic().policy, num_beams=60), selection=Selection(cutoff=41))  # type: ignore[type-var]
    with pytest.raises(UsageError, match=r"selection\.cutoff must be at most 40 in a catalog of 40 items, got 41"):
        pipeline.run(experiment)
    Selection().check_catalog(3)


def test_a_baseline_has_no_beams_to_select_with() -> None:
    assert (
        replace(cyclic(), policy=Popularity(), selection=Selection(cutoff=50), evaluate=Evaluate(cutoffs=(1,))).selection.cutoff == 50
    )
