"""`genrec tune`: trials are scored on validation alone, repeat, resume, are pruned, and are all recorded."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import TINY, cyclic

from genrec import hashed_json, pipeline, studies, trial_search, trials, tuner, tuning_record, tuning_report
from genrec.__main__ import main
from genrec.baselines import ItemKNN
from genrec.data.corpus import Corpus
from genrec.data.sources import Frames
from genrec.data.splits import LeaveOneOut
from genrec.errors import ArtifactError, NumericsError, UsageError
from genrec.experiment import Experiment, Selection, Validation
from genrec.training import lightning_module, loop
from genrec.training.schedule import Schedule
from genrec.training.validation import baseline_scores
from genrec.tuning import Choice, Distribution, IntUniform, LogUniform, Tuning, Uniform
from genrec.tuning_record import Record, Trial

PARTS: tuple[Literal["train", "validation"], ...] = ("train", "validation")
RATE = "sft.optimization.learning_rate"
EXPERIMENTS = """
from dataclasses import replace
from genrec.baselines import ItemKNN
from genrec.experiment import Validation
from genrec.tuning import Choice, IntUniform, LogUniform, Tuning
from worlds import cyclic

def quick(**changes):
    base = cyclic(steps=12, **changes)
    return replace(base, sft=replace(base.sft, validation=Validation(every=3)))

def sft():
    space = {"sft.optimization.learning_rate": LogUniform(1e-4, 1e-1), "policy.dropout": Choice((0.0, 0.1))}
    return Tuning(experiment=quick(), space=space, trials=3)

def long():
    base = cyclic(steps=40)
    experiment = replace(base, sft=replace(base.sft, validation=Validation(every=20)))
    return Tuning(experiment=experiment, space={"sft.optimization.learning_rate": LogUniform(1e-3, 1e-2)}, trials=2, prune=False)

def aligned():
    return Tuning(experiment=quick(align_steps=4), space={"align.loss.beta": LogUniform(0.1, 1.0)}, trials=2)

def knn():
    return Tuning(experiment=replace(cyclic(), policy=ItemKNN()), space={"policy.num_neighbors": IntUniform(1, 30)}, trials=3)

def plain():
    return cyclic()

def several():
    return [sft(), sft()]

def unknown():
    return Tuning(experiment=cyclic(), space={"sft.optimization.learning_rat": LogUniform(1e-4, 1e-1)})

def measured_otherwise():
    return Tuning(experiment=cyclic(), space={"sft.validation.users": Choice((20, 0))})

def refused():
    return Tuning(experiment=cyclic(), space={"policy.dropout": Choice((0.1, 1.5))})
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("optuna")
    (tmp_path / "mine.py").write_text(EXPERIMENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    return tmp_path


def stored(function: str = "sft") -> Record:
    return tuning_record.read(studies.file_of(f"mine.py:{function}", studies.TUNING))


def summary(record: Record) -> list[tuple[dict[str, Any], str, float | None, dict[int, float]]]:
    return [(trial.values, trial.state, trial.score, trial.curve) for trial in record.trials]


def home(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use another data folder beside the experiment file."""
    monkeypatch.setenv("GENREC_HOME", str(Path.cwd() / name))


def test_trials_are_trained_scored_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The first trial is the experiment as it is. Scores are the best of the stored curves; no stage reads the test."""
    assert main(["tune", "mine.py:sft"]) == 0
    printed = capsys.readouterr().out
    trials = stored().trials
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert trials[0].values == {RATE: 0.005, "policy.dropout": 0.1}
    assert all(1e-4 <= trial.values[RATE] <= 1e-1 and trial.values["policy.dropout"] in (0.0, 0.1) for trial in trials)
    assert all(trial.state == "finished" and trial.seconds > 0 for trial in trials)
    curves = [pd.read_parquet(path) for path in Path("data/artifacts/sft").glob("[!.]*/curves.parquet")]
    assert sorted(curve["validation_ndcg@10"].max() for curve in curves) == sorted(trial.score for trial in trials)
    assert [list(trial.curve) for trial in trials] == [[0, 3, 6, 9, 12]] * 3
    assert all(trial.score == max(trial.curve.values()) for trial in trials)
    assert sorted(os.listdir("data/artifacts")) == ["data", "embed", "sft", "tokenize"]
    assert [path for path in Path("data/runs").rglob("*") if path.is_file()] == []
    best = max(trials, key=lambda trial: trial.score)
    assert f"best: trial {best.number + 1}, {best.score:.4f} on validation" in printed
    assert "The score is the best of 3 trials on validation, so it is too high and no result" in printed
    command = printed.partition("confirm it on fresh seeds: genrec ")[2].splitlines()[0].split()
    assert command[:2] == ["run", "mine.py:sft"]
    assert command[-2:] == ["--seeds", "5"]
    assert main([*command, "--dry-run"]) == 0  # a function that returns a tuning gives its experiment
    planned = capsys.readouterr().out
    assert planned.count("(seed ") == 5
    chosen = "  chosen among 3 trials on validation (mine.py:sft, seed 1000)\n"
    assert main([*command[:-1], "0,", "--evaluate.filter-seen", "True"]) == 0  # the evaluation is no part of a tuning
    assert main(["run", "mine.py:sft", "--name", "other", "--policy.dropout", "0.3"]) == 0
    capsys.readouterr()
    for name, is_chosen in ((command[command.index("--name") + 1] if best.number else "cyclic", True), ("other", False)):
        assert main(["show", name]) == 0
        assert (chosen in capsys.readouterr().out) == is_chosen
        assert main(["compare", name]) == 0
        selected = f"{name}: settings selected by genrec tune among 3 trials on validation (mine.py:sft, seed 1000)."
        assert (selected in " ".join(capsys.readouterr().out.split())) == is_chosen
    assert main(["list"]) == 0
    assert "tuning mine.py:sft: 3 trials on validation" in capsys.readouterr().out
    assert main(["tune", "mine.py:sft"]) == 0  # nothing is left to do
    again = capsys.readouterr()
    assert again.out == printed
    assert "finished in" not in again.err


def test_a_dry_run_prints_the_first_trial_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "mine.py:sft", "--dry-run", "--trials", "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "2 trials at most, none starts after 4 processor-hours"
    assert "  --policy.dropout: Choice(values=(0.0, 0.1))" in printed
    assert [line.split()[0] for line in printed if line.endswith("  to run")] == ["data", "embed", "tokenize", "sft"]  # no evaluate
    assert not Path("data/studies").exists()
    assert not Path("data/artifacts").exists()
    assert main(["tune", "mine.py:sft", "--trials", "1"]) == 0
    capsys.readouterr()
    main(["tune", "mine.py:sft", "--dry-run"])
    assert "0 artifacts to build, 4 done" in capsys.readouterr().out


def test_the_test_items_do_not_matter(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tuning of a log with other test items, and of the first one, have the same trials to the last digit."""
    for name, last in (("one", "(user * 3 + 7) % 9"), ("other", "(user * 5 + 1) % 9")):
        lines = [f"u{user},i{(user + k) % 9},{k}" for user in range(30) for k in range(6)]
        test = [f"u{user},i{eval(last, {'user': user})},9" for user in range(30)]
        (project / f"{name}.csv").write_text("\n".join(["user,item,time", *lines, *test]))
        code = EXPERIMENTS.replace("cyclic(steps=12, **changes)", f"replace(cyclic(steps=12), source=Frames('{name}.csv'))")
        code = code.replace("experiment=quick()", "experiment=replace(quick(), split=LeaveOneOut(core=0), embed=Collaborative(dim=4))")
        imports = (
            "from genrec.data.sources import Frames\nfrom genrec.data.splits import LeaveOneOut\n"
            "from genrec.embeddings import Collaborative\n"
        )
        (project / f"log_{name}.py").write_text(imports + code)
        home(name, monkeypatch)
        assert main(["tune", f"log_{name}.py:sft"]) == 0
    one, other = (tuning_record.read(next((project / name / "studies").glob("[!.]*.tuning.json"))) for name in ("one", "other"))
    assert summary(one) == summary(other)
    parts = [pd.read_parquet(next(Path(name).glob("artifacts/data/[!.]*/interactions.parquet"))) for name in ("one", "other")]
    assert not parts[0].equals(parts[1])


def test_test_items_number_the_catalog(project: Path) -> None:
    """Two users exchange their test items x and y: the same training and validation events by own ids, but x and y exchange numbers.

    So trials can differ by chance; docs/tuning.md states it.
    """
    found = []
    for first, second in ("xy", "yx"):
        histories = ["abcd" + first, "abcd" + second, "xyabcd"]
        lines = [f"u{user},{item},{place}" for user, history in enumerate(histories) for place, item in enumerate(history)]
        path = project / f"{first}.csv"
        path.write_text("\n".join(["user,item,time", *lines]))
        experiment = replace(cyclic(), source=Frames(path), split=LeaveOneOut(core=0))
        corpus = Corpus.load(pipeline.run(experiment, last="data")["data"].folder)
        own = corpus.items["item_id"].tolist()
        read = [
            [(user, own[item - 1]) for user, item in zip(*map(corpus.part(part).get, ("user", "item")), strict=True)] for part in PARTS
        ]
        found.append((own, read))
    assert found[0][1] == found[1][1]
    assert (found[0][0], found[1][0]) == ([*"abcdxy"], [*"abcdyx"])


def test_a_tuning_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed gives the same trials; another seed gives others."""
    assert main(["tune", "mine.py:sft"]) == 0
    first = summary(stored())
    home("second", monkeypatch)
    assert main(["tune", "mine.py:sft"]) == 0
    assert summary(stored()) == first
    home("third", monkeypatch)
    assert main(["tune", "mine.py:sft", "--seed", "7"]) == 0
    other = summary(stored())
    assert stored().seed == 7
    assert other[0][0] == first[0][0]
    assert [values for values, *_ in other[1:]] != [values for values, *_ in first[1:]]
    assert other[0][2] != first[0][2]  # trained with seed 7


def test_an_interrupted_tuning_goes_on_within_the_trial(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGTERM at step 30 of the second trial: exit 143; the next command resumes this trial from its checkpoint."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    assert main(["tune", "mine.py:long"]) == 0
    whole = summary(stored("long"))
    home("parts", monkeypatch)
    learning_rate, steps = lightning_module.learning_rate, []

    def stopped(plan: Schedule, step: int) -> float:
        steps.append(step)
        if steps.count(30) == 2:  # in the second trial
            steps.append(30)
            os.kill(os.getpid(), signal.SIGTERM)
        return learning_rate(plan, step)

    with monkeypatch.context() as patch:
        patch.setattr(lightning_module, "learning_rate", stopped)
        assert main(["tune", "mine.py:long"]) == 143
    interrupted = stored("long")
    assert [trial.state for trial in interrupted.trials] == ["finished", "running"]
    assert list(interrupted.trials[1].curve) == [0, 20]
    capsys.readouterr()
    assert main(["tune", "mine.py:long"]) == 0
    said = capsys.readouterr().err
    assert "SFT: resuming from step 31" in said
    assert "trial 1 of" not in said
    assert summary(stored("long")) == whole
    assert stored("long").trials[1].seconds > interrupted.trials[1].seconds


def test_ctrl_c_keeps_the_trial_and_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        sum(range(100_000))
        raise KeyboardInterrupt

    monkeypatch.setattr(trials, "score", interrupted)
    monkeypatch.setattr(trials.time, "process_time", iter(range(0, 100, 3)).__next__)
    assert main(["tune", "mine.py:sft"]) == 130
    (trial,) = stored().trials
    assert (trial.state, trial.seconds) == ("running", 3)
    assert main(["tune", "mine.py:sft"]) == 130
    assert [trial.seconds for trial in stored().trials] == [6]


def test_the_budget_counts_trials_and_processor_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each trial takes 1,800 s of processor time here: two of them use up one hour. Larger budgets go on."""
    seconds = iter(range(0, 10**9, 1_800))
    monkeypatch.setattr(trials, "score", lambda *_: 0.5)
    monkeypatch.setattr(trials.time, "process_time", seconds.__next__)
    assert main(["tune", "mine.py:sft", "--trials", "9", "--hours", "1"]) == 0
    assert "2 of at most 9 trials, 1.00 of at most 1 processor-hours" in capsys.readouterr().out
    assert main(["tune", "mine.py:sft", "--trials", "9", "--hours", "2"]) == 0
    assert len(stored().trials) == 4
    assert main(["tune", "mine.py:sft", "--trials", "6", "--hours", "90"]) == 0
    assert len(stored().trials) == 6
    assert main(["tune", "mine.py:sft", "--hours", "90"]) == 0  # the tuning's own three trials are done
    assert len(stored().trials) == 6


def trial(curve: Sequence[float], state: tuning_record.State = "finished") -> Trial:
    return Trial(0, {}, state, dict(enumerate(curve)), max(curve) if state == "finished" else None)


def test_the_median_rule_by_hand() -> None:
    """At validation 2 the finished trials have 0.1, 0.2, 0.4 and 0.8: the median is 0.3. Pruned trials do not count."""
    others = [trial([0.0, 0.0, score, 0.9]) for score in (0.1, 0.2, 0.4, 0.8)] + [trial([0.9] * 4, "pruned")] * 5
    assert trial_search.is_below_median([0.0, 0.0, 0.29], others)
    assert not trial_search.is_below_median([0.0, 0.0, 0.31], others)
    assert not trial_search.is_below_median([0.0, 0.31, 0.0], others)  # the best so far counts
    assert not trial_search.is_below_median([0.0, 0.0], others)  # too early
    assert not trial_search.is_below_median([0.0, 0.0, 0.0], others[1:])  # three finished trials are too few
    assert not trial_search.is_below_median([0.0] * 5, others)  # no other trial was validated as often


def test_a_pruned_trial_leaves_no_files(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The third trial is stopped at its second validation, with a checkpoint."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(trials, "is_below_median", lambda scores, others: len(others) == 2 and len(scores) == 3)
    assert main(["tune", "mine.py:sft"]) == 0
    assert "(0." in capsys.readouterr().out
    assert [(trial.state, list(trial.curve)) for trial in stored().trials][2] == ("pruned", [0, 3, 6])
    assert stored().trials[2].score is None
    left = [path.name for path in Path("data/artifacts/sft").iterdir() if not path.name.endswith(".lock")]
    assert len(left) == 2
    assert not any(name.startswith(".") for name in left)
    assert main(["tune", "mine.py:sft", "--trials", "4"]) == 0
    assert [trial.state for trial in stored().trials] == ["finished", "finished", "pruned", "finished"]


def test_stored_artifacts_change_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a record, stored artifacts give the same values, states, curves and steps; also those of a tuning without pruning.

    The third trial is stopped at its third validation if the two before it have whole curves, as the median rule needs them.
    """

    def below_first(scores: Sequence[float], others: Sequence[Trial]) -> bool:
        return len(others) == 2 and len(scores) == 3 and [*others[0].curve] == [*others[1].curve] == [0, 3, 6, 9, 12]

    monkeypatch.setattr(trials, "is_below_median", below_first)
    assert main(["tune", "mine.py:sft"]) == 0
    first = summary(stored())
    assert [(state, [*curve]) for _, state, _, curve in first] == [("finished", [0, 3, 6, 9, 12])] * 2 + [("pruned", [0, 3, 6])]
    stored().path.unlink()
    assert main(["tune", "mine.py:sft"]) == 0
    assert summary(stored()) == first
    stored().path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(trials, "is_below_median", lambda *_: False)  # now the third trial has an artifact too
        assert main(["tune", "mine.py:sft"]) == 0
    assert [trial.state for trial in stored().trials] == ["finished"] * 3
    stored().path.unlink()
    assert main(["tune", "mine.py:sft"]) == 0
    assert summary(stored()) == first
    left = [path for path in Path("data/artifacts/sft").iterdir() if not path.name.startswith(".")]
    assert len(left) == 3  # pruning removes no finished artifact


def test_a_trial_that_diverges_is_recorded_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverging(experiment: Experiment, *_: object) -> float:
        if experiment.sft.optimization.learning_rate != 0.005:
            raise NumericsError("the loss is nan\nand so on")
        return 0.25

    monkeypatch.setattr(trials, "score", diverging)
    assert main(["tune", "mine.py:sft"]) == 0
    assert [trial.state for trial in stored().trials] == ["finished", "failed", "failed"]
    printed = capsys.readouterr().out
    assert "trial 2: the loss is nan\ntrial 3: the loss is nan\n" in printed
    assert "settings: the experiment as it is" in printed


@dataclass(frozen=True)
class Picky:
    """An encoder that refuses two values together."""

    dim: int = 4

    def encode(self, items: object, interactions: object) -> object:
        raise NotImplementedError

    def check(self, experiment: Any) -> None:
        if self.dim == 5 and experiment.policy.dropout == 0.0:
            raise UsageError("dim 5 needs dropout")


def test_the_step_in_the_report_is_that_of_the_score() -> None:
    """The best score is at step 1, twice; a finished trial with keep="last" has the score of step 3."""
    tuning = Tuning(experiment=cyclic(align_steps=3), space={"align.loss.beta": LogUniform(0.1, 1.0)}, trials=2)
    assert tuning.experiment.align is not None
    last = replace(tuning, experiment=replace(tuning.experiment, align=replace(tuning.experiment.align, keep="last")))
    curve = [0.1, 0.4, 0.4, 0.2]
    done, stopped = (replace(trial(curve, state), values={"align.loss.beta": 1.0}) for state in ("finished", "pruned"))
    record = Record(Path("record"), "mine.py:aligned", "0" * 16, "align", 0, {}, [done, replace(stopped, number=1)])

    def steps(tuning: Tuning) -> list[str]:
        header, *rows = [line.split() for line in tuning_report.lines(tuning, record, "mine.py:aligned")][1:4]
        return [cells[header.index("step")] for cells in rows]

    assert steps(tuning) == ["1", "1"]
    assert steps(last) == ["3", "1"]


def test_values_that_are_refused_together_are_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = replace(cyclic(), embed=Picky())  # type: ignore[arg-type]
    tuning = Tuning(experiment=experiment, space={"embed.dim": Choice((4, 5)), "policy.dropout": Choice((0.0, 0.1))}, trials=3)
    proposed = iter([{"embed.dim": 5, "policy.dropout": 0.0}, {"embed.dim": 5, "policy.dropout": 0.1}])
    monkeypatch.setattr(trials, "score", lambda *_: 0.5)
    monkeypatch.setattr(tuner, "propose", lambda *_: next(proposed))
    record = tuner.tune(tuning, "picky")
    assert [trial.state for trial in record.trials] == ["finished", "refused", "finished"]
    assert "dim 5 needs dropout" in record.trials[1].message


def test_alignment_is_tuned_with_one_sft_policy() -> None:
    assert main(["tune", "mine.py:aligned"]) == 0
    record = stored("aligned")
    assert record.objective == "align: NDCG@10 on validation, seen items kept"
    assert record.trials[0].values == {"align.loss.beta": 1.0}  # of the loss inside `Anchored`
    count = {stage: len(list(Path("data/artifacts", stage).glob("[!.]*"))) for stage in ("sft", "align")}
    assert count == {"sft": 1, "align": 2}
    assert [list(trial.curve) for trial in record.trials] == [[0, 4], [0, 4]]


def test_the_score_is_that_of_the_kept_step() -> None:
    """With keep="last" the last validation, with keep="best" the best one; by the metric of the selection."""
    folder = Path("artifact")
    folder.mkdir()
    columns = {"validation_ndcg@10": [0.1, 0.3, None, 0.2], "validation_recall@5": [0.5, 0.1, None, 0.4]}
    pd.DataFrame({"step": [0, 5, 7, 10], **columns}).to_parquet(folder / "curves.parquet")
    experiment = cyclic(align_steps=10)
    assert experiment.align is not None
    last = replace(experiment, align=replace(experiment.align, keep="last"))
    artifact = pipeline.Artifact("align", "0" * 16, folder, {})
    assert trials.trained_score(experiment, artifact) == 0.3
    assert trials.trained_score(last, artifact) == 0.2
    assert trials.trained_score(last, artifact._replace(stage="sft")) == 0.3
    assert trials.trained_score(replace(last, selection=Selection("recall", 5)), artifact) == 0.4


def test_a_baseline_is_scored_on_validation(capsys: pytest.CaptureFixture[str]) -> None:
    """The first score is ItemKNN's line in the pictures of training curves; 40 items in a cycle are known by all neighbors."""
    assert main(["tune", "mine.py:knn"]) == 0
    assert "evaluate it: genrec run mine.py:knn" in capsys.readouterr().out
    record = stored("knn")
    assert os.listdir("data/artifacts") == ["data"]
    corpus = Corpus.load(next(Path("data/artifacts/data").glob("[!.]*")))
    experiment = replace(cyclic(), policy=ItemKNN())
    assert record.trials[0].score == pytest.approx(baseline_scores(corpus, experiment, experiment.sft)["ItemKNN"])
    filtered = replace(experiment, selection=Selection(filter_seen=True))
    assert trials.baseline_score(corpus, filtered) != record.trials[0].score


def test_other_settings_start_again_only_on_request(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The earlier trials stay in the record, and are mentioned. Another number of trials is no other setting."""
    monkeypatch.setattr(trials, "score", lambda *_: 0.5)
    assert main(["tune", "mine.py:sft"]) == 0
    for change in (["--seed", "3"], ["--history-length", "4"]):
        assert main(["tune", "mine.py:sft", *change]) == 2
        assert "has 3 trials of other settings" in capsys.readouterr().err
    (project / "mine.py").write_text(EXPERIMENTS.replace('1e-4, 1e-1), "policy', '1e-3, 1e-1), "policy'))
    assert main(["tune", "mine.py:sft"]) == 2
    assert main(["tune", "mine.py:sft", "--replace", "--trials", "2"]) == 0
    assert "3 trials of other settings came before (--replace)" in capsys.readouterr().out
    assert (len(stored().trials), len(stored().replaced)) == (2, 3)
    assert main(["tune", "mine.py:sft", "--replace"]) == 0  # the same settings: nothing is replaced
    assert (len(stored().trials), len(stored().replaced)) == (3, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["mine.py:plain"], 2, "mine.py:plain must return a genrec.tuning.Tuning, got Experiment"),
        (["mine.py:several"], 2, "must return a genrec.tuning.Tuning, got a list of 2"),
        (["mine.py:unknown"], 2, "the nearest: --sft.optimization.learning-rate"),
        (["mine.py:refused"], 2, "the space of mine.py:refused has a value that the experiment refuses: --policy.dropout 1.5: "),
        (["mine.py:measured_otherwise"], 2, "sft.validation.users cannot be tuned: the score of a trial is measured by these"),
        (["mine.py:sft", "--policy.dropuot", "0"], 2, "the nearest: --policy.dropout"),
        (["mine.py:sft", "--trials", "0"], 2, "Tuning: trials must be an integer of 1 or more, got 0"),
        (["mine.py:sft", "--hours", "nan"], 2, "Tuning: hours must be above 0, got nan"),
        (["mine.py:nothing"], 2, "mine.py has no 'nothing'; it has: quick, sft, long"),
    ],
)
def test_what_is_refused(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", *arguments]) == code
    assert said in capsys.readouterr().err
    assert not Path("data").exists()


def test_optuna_may_be_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tune", "mine.py:sft"]) == 5
    assert "genrec tune needs optuna, which is not installed: pip install 'genrec[tune]'" in capsys.readouterr().err
    assert not Path("data").exists()


def rehashed(content: dict[str, Any]) -> dict[str, Any]:
    return hashed_json.add_hash({name: value for name, value in content.items() if name != "sha256"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content | {"seed": 5}, "has changed since it was written"),
        (lambda content: rehashed(content | {"format": 2}), "a newer version of genrec"),
        (lambda content: rehashed(content | {"trials": [{"number": 0}]}), r"trials\[0\] has no entry values"),
    ],
)
def test_a_damaged_record_is_refused(
    change: Callable[[dict[str, Any]], object], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trials, "score", lambda *_: 0.5)
    assert main(["tune", "mine.py:sft"]) == 0
    path = stored().path
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ArtifactError, match=said):
        stored()
    assert main(["tune", "mine.py:sft"]) == 4


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: LogUniform(0.0, 1.0), "LogUniform: low must be above 0, got 0.0"),
        (lambda: Uniform(1.0, 1.0), "Uniform needs two finite numbers, the smaller one first, got 1.0 and 1.0"),
        (lambda: Uniform(0.0, float("inf")), "Uniform needs two finite numbers"),
        (lambda: Uniform(float("nan"), 1.0), "Uniform needs two finite numbers"),
        (lambda: IntUniform(1, 2.5), "IntUniform: bounds must be integers"),  # type: ignore[arg-type]
        (lambda: Choice((1,)), "Choice needs two or more different"),
        (lambda: Choice((1, 1)), "Choice needs two or more different"),
        (lambda: Choice(("a", TINY)), "Choice needs two or more different"),  # type: ignore[arg-type]
        (lambda: Tuning(experiment=cyclic(), space={}), "space must hold at least one key path"),
        (lambda: Tuning(experiment=cyclic(), space={RATE: (1, 2)}), "learning_rate must have LogUniform, Uniform, IntUniform or"),  # type: ignore[dict-item]
        (lambda: Tuning(experiment=cyclic(), space={"seed": IntUniform(0, 9)}), "seed cannot be tuned"),
        (lambda: Tuning(experiment=cyclic(), space={"evaluate.filter-seen": Choice((True, False))}), "cannot be tuned"),
        (lambda: Tuning(experiment=cyclic(), space={"history-length": IntUniform(2, 9)}), "history-length cannot be tuned: .* share"),
        (lambda: Tuning(experiment=cyclic(), space={"sft.validation.users": Choice((20, 0))}), "sft.validation.users cannot be tuned"),
        (lambda: Tuning(experiment=cyclic(), space={"sft.validation.every": IntUniform(1, 9)}), "more validations can raise it"),
        (lambda: Tuning(experiment=cyclic(), space={"sft.validation": Choice(("A", "B"))}), "sft.validation cannot be tuned"),
        (lambda: Tuning(experiment=cyclic(), space={"align.validation.users": Choice((20, 0))}), "set it in the experiment, for all"),
        (lambda: Tuning(experiment=cyclic(), space={"align.validation.patience": Choice((1, 9))}), "patience cannot be tuned"),
        (lambda: Tuning(experiment=cyclic(), space={"align.1.validation.every": Choice((1, 9))}), "every cannot be tuned"),
        (lambda: Tuning(experiment=[cyclic()], space={RATE: LogUniform(1, 2)}), "experiment must be an Experiment"),  # type: ignore[arg-type]
        (lambda: Tuning(experiment=cyclic(), space={RATE: LogUniform(1, 2)}, hours=0), "hours must be above 0, got 0"),
        (lambda: Tuning(experiment=cyclic(), space={RATE: LogUniform(1, 2)}, seed=-1), "seed must be an integer of 0 or more"),
        (lambda: Tuning(experiment=cyclic(), space={RATE: LogUniform(1, 2)}, trials=True), "trials must be an integer of 1 or more"),
    ],
)
def test_what_is_no_tuning(build: Callable[[], object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build()


def test_the_default_budget_is_the_same_for_all() -> None:
    tuning = Tuning(experiment=cyclic(), space={RATE: LogUniform(1e-4, 1e-2)})
    assert (tuning.trials, tuning.hours, tuning.seed, tuning.prune) == (12, 4.0, 1000, True)


def discrete(trials: int = 9, seed: int = 1000) -> Tuning:
    """Return a tuning with 2 * 3 settings, one of them the experiment as it is."""
    space: dict[str, Distribution] = {"policy.dropout": Choice((0.1, 0.0)), "policy.num_encoder_layers": IntUniform(1, 3)}
    return Tuning(experiment=cyclic(), space=space, trials=trials, seed=seed)


def test_a_discrete_space_is_tried_without_repetition_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six settings, six trials, although nine may run; the estimator alone proposes the best values again and again."""
    monkeypatch.setattr(trials, "score", lambda experiment, *_: 0.5 - experiment.policy.dropout)
    for seed in range(3):
        record = tuner.tune(discrete(seed=seed), f"discrete-{seed}")
        tried = [tuple(trial.values.values()) for trial in record.trials]
        assert sorted(tried) == [(dropout, layers) for dropout in (0.0, 0.1) for layers in (1, 2, 3)]
        printed = "\n".join(tuning_report.lines(discrete(seed=seed), record, "mine.py:discrete"))
        assert "6 of at most 9 trials" in printed
        assert "all settings of the space were tried, so the tuning has ended" in printed
        assert "The score is the best of 6 trials on validation" in printed
    shorter = tuner.tune(discrete(trials=5), "shorter")
    assert len(shorter.trials) == 5
    assert "all settings" not in "\n".join(tuning_report.lines(discrete(trials=5), shorter, "mine.py:discrete"))


def test_replaced_proposals_depend_on_seed_and_trials_alone() -> None:
    tried = [Trial(0, {"policy.dropout": 0.1, "policy.num_encoder_layers": 1}, "finished", {0: 0.5}, 0.5)]
    for number in range(1, 6):
        found = trial_search.propose(discrete(), tried)
        assert found == trial_search.propose(discrete(), tried)
        assert not trial_search.is_exhausted(discrete(), tried)
        tried.append(Trial(number, found, "refused"))  # what was refused is not asked for again
    assert trial_search.is_exhausted(discrete(), tried)
    with_rate = replace(discrete(), space={**discrete().space, RATE: Uniform(0.1, 0.2)})
    for trial in tried:
        trial.values[RATE] = 0.15
    assert not trial_search.is_exhausted(with_rate, tried)


def test_settings_that_were_tried_twice_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole number is the same setting as the float; the experiment as it is has dropout 0.1 and one layer."""
    proposed = iter([{"policy.dropout": 0, "policy.num_encoder_layers": 1}, {"policy.dropout": 0.0, "policy.num_encoder_layers": 1}])
    monkeypatch.setattr(trials, "score", lambda *_: 0.5)
    monkeypatch.setattr(tuner, "propose", lambda *_: next(proposed))
    record = tuner.tune(discrete(trials=3), "twice")
    printed = "\n".join(tuning_report.lines(discrete(trials=3), record, "mine.py:discrete"))
    assert "The score is the best of 3 trials, 2 different settings, on validation, so it is too high" in printed


SPACE: dict[str, Distribution] = {
    "a": LogUniform(0.00012345, 0.3),
    "b": Uniform(-0.98765, 1.23456),
    "c": IntUniform(2, 5),
    "d": Choice((None, True, "Uniform", 0.5)),
}


@given(st.integers(0, 2**40), st.lists(st.floats(0, 1), max_size=8))
def test_proposals_lie_in_the_space_and_depend_on_seed_and_trials_alone(seed: int, scores: list[float]) -> None:
    tuning = replace(Tuning(experiment=cyclic(), space={RATE: LogUniform(1, 2)}), seed=seed)
    object.__setattr__(tuning, "space", SPACE)
    trials: list[Trial] = []
    for score in scores:
        trials.append(Trial(len(trials), trial_search.propose(tuning, trials), "finished", {0: score}, score))
    found = trial_search.propose(tuning, trials)
    assert found == trial_search.propose(tuning, trials)
    assert list(found) == list(SPACE)
    assert 0.00012345 <= found["a"] <= 0.3
    assert -0.98765 <= found["b"] <= 1.23456
    assert found["c"] in (2, 3, 4, 5)
    assert found["d"] in (None, True, "Uniform", 0.5)
    assert all(len(f"{abs(found[key]):e}".partition("e")[0].rstrip("0").replace(".", "")) <= 5 for key in "ab")


def test_the_first_trial_counts_for_the_search_only_within_the_space() -> None:
    tuning = Tuning(experiment=cyclic(), space={"policy.dropout": Choice((0.1, 0.2)), "policy.num_encoder_layers": IntUniform(1, 3)})
    assert trial_search._fits(Trial(0, {"policy.dropout": 0.1, "policy.num_encoder_layers": 1}), tuning)
    assert not trial_search._fits(Trial(0, {"policy.dropout": 0.3, "policy.num_encoder_layers": 1}), tuning)
    assert not trial_search._fits(Trial(0, {"policy.dropout": 0.1, "policy.num_encoder_layers": None}), tuning)
    assert not trial_search._fits(Trial(0, {"policy.dropout": 0.1, "policy.num_encoder_layers": 4}), tuning)


@pytest.mark.parametrize(("seed", "expected"), [(1000, "5"), (5, "5"), (0, "1,2,3,4,5"), (3, "0,1,2,4,5")])
def test_the_seeds_that_confirm_are_fresh(seed: int, expected: str) -> None:
    assert tuning_report._fresh(seed) == expected


def test_a_watched_stage_passes_its_rows_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every validation of the last stage, and none of an earlier one."""
    experiment = replace(cyclic(steps=6, align_steps=4))
    assert experiment.align is not None
    experiment = replace(experiment, sft=replace(experiment.sft, validation=Validation(every=3)))
    steps: list[int] = []
    pipeline.run(experiment, last="align", on_row=lambda row: steps.append(int(row["step"])))
    assert steps == [0, 4]
    pipeline.run(experiment, on_row=lambda row: steps.append(-1))  # no last stage: nothing is watched
    assert steps == [0, 4]
