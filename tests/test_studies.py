"""The record of what was tried: one file for each FILE.py:FUNCTION, written before anything is trained."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from worlds import cyclic, own_project

from genrec import hashed_json, run_experiments, run_files, studies
from genrec.__main__ import main
from genrec.errors import ArtifactError, UsageError
from genrec.evaluation import CandidateHitRate
from genrec.evaluation.compare import Study, compare
from genrec.experiment import Experiment, baselines

EXPERIMENTS = """
from dataclasses import dataclass, replace
from genrec.experiment import baselines, seeds
from worlds import cyclic

def one():
    return replace(cyclic(steps=3), name="one")

def two():
    return replace(cyclic(steps=4), name="two")

def grid():
    return baselines(one()) + seeds([one(), two()], 2)

@dataclass(frozen=True)
class Failing:
    def encode(self, items, interactions):
        raise KeyboardInterrupt if items is None else ZeroDivisionError("broken")

def chain():
    control = replace(cyclic(steps=3, align_steps=2), name="control")
    longer = replace(control.align, optimization=replace(control.align.optimization, max_steps=3))
    return seeds([replace(control, name="sft", align=None), control, replace(control, name="dpo", align=longer)], 2)

def failing():
    return replace(one(), name="failing", embed=Failing())
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_project(tmp_path, monkeypatch, EXPERIMENTS)


def recorded(study: str) -> list[tuple[str, list[str]]]:
    """The rows of a study with their seeds, in the order of the record."""
    return [(row["name"], list(row["seeds"])) for row in studies.read(studies.file_of(study))["rows"]]


def tried(name: str, seed: int = 0) -> tuple[Study, ...]:
    return next(run.studies for run in run_files.outcomes([name]) if run.seed == seed)


def test_a_row_knows_all_rows_that_were_run_with_it() -> None:
    """Two seeds of two rows from one function; the third seed of `one` was run alone. Baselines are no trained rows."""
    assert main(["run", "mine.py:grid"]) == 0
    assert main(["run", "mine.py:one", "--seeds", "2,"]) == 0
    assert recorded("mine.py:grid") == [("one", ["0", "1"]), ("two", ["0", "1"])]
    assert recorded("mine.py:one") == [("one", ["2"])]
    grid, alone = Study("mine.py:grid", frozenset({"one", "two"})), Study("mine.py:one", frozenset({"one"}))
    assert [(run.seed, run.studies) for run in run_files.outcomes(["one"])] == [(0, (grid,)), (1, (grid,)), (2, (alone,))]
    assert tried("two", 1) == (grid,)
    assert tried("one-popularity") == ()
    settings = studies.training_hash(run_files.read("one-popularity")["configuration"])
    assert studies.of_baseline(studies.read_all(), "one-popularity", settings) == ["mine.py:grid"]
    assert studies.of_baseline(studies.read_all(), "one-popularity", "0" * 16) == []
    assert main(["run", "mine.py:one"]) == 0  # seed 0 was run in both now
    assert tried("one", 0) == (grid, alone)


def test_the_sft_row_of_a_chain_is_no_attempt_against_the_control() -> None:
    """genrec compare control dpo --reference control: one test, although the study has the SFT row too; against dpo as well."""
    assert main(["run", "mine.py:chain"]) == 0
    assert [run.starts for run in run_files.outcomes(["sft", "control"], {"sft": {0}, "control": {0}})] == [set(), {"sft"}]
    for reference in ("control", "dpo"):
        (family,) = compare(run_files.outcomes(["control", "dpo"]), reference=reference, resamples=50).families
        assert (family.size, family.studies) == (1, ())
    (family,) = compare(run_files.outcomes(["sft", "dpo"]), reference="sft", resamples=50).families
    assert (family.rows, family.tried) == (("dpo",), ("control",))


def test_show_names_the_studies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "mine.py:grid"]) == 0
    capsys.readouterr()
    assert main(["show", "two"]) == 0
    assert "  run in mine.py:grid, 2 trained rows in all: one, two\n" in capsys.readouterr().out


def test_a_replaced_row_counts_as_tried_twice() -> None:
    """The same name with 3, 5 and 6 steps: three rows were tried. Settings that come back are no fourth one."""
    command = ["run", "mine.py:one", "--replace", "--sft.optimization.max-steps"]
    for steps in ("3", "5", "6"):
        assert main([*command, steps]) == 0
    rows = frozenset({"one", "one (replaced)", "one (replaced 2)"})
    assert tried("one") == (Study("mine.py:one", rows),)
    assert main([*command, "5"]) == 0
    assert tried("one") == (Study("mine.py:one", rows),)


def test_settings_of_two_studies_are_two_attempts_without_a_run_file() -> None:
    """`c` was tried with other settings in each study. Without its run file (removed, or not kept) it still counts twice."""

    def row(name: str, settings: str) -> dict[str, Any]:
        return {"name": name, "settings": settings, "protocol": "p", "seeds": ["0"]}

    records = [{"name": "one", "rows": [row("a", "1"), row("c", "2")]}, {"name": "two", "rows": [row("a", "1"), row("c", "3")]}]
    for current, former in (({"c": "3"}, "one"), ({"c": "2"}, "two"), ({}, "one")):
        rows = {study.name: study.rows for study in studies.of_run(records, "a", "1", 0, current.get)}
        assert rows.pop(former) == {"a", "c (replaced)"}
        assert [*rows.values()] == [{"a", "c"}]


def test_another_evaluation_is_no_further_attempt() -> None:
    """One training that was evaluated with other cutoffs, and again: one row was tried."""
    assert main(["run", "mine.py:one", "--replace", "--evaluate.cutoffs", "1", "10"]) == 0
    assert main(["run", "mine.py:one", "--replace"]) == 0
    assert tried("one") == (Study("mine.py:one", frozenset({"one"})),)
    assert len(studies.read(studies.file_of("mine.py:one"))["rows"]) == 1


def measured(*metrics: object) -> Experiment:
    """Seed 0 of the row `cyclic` with these further metrics."""
    row = cyclic(steps=2)
    return replace(row, evaluate=replace(row.evaluate, metrics=metrics))


def test_a_further_metric_keeps_the_row(capsys: pytest.CaptureFixture[str]) -> None:
    """The row keeps its seeds without --replace, nothing is trained again, and seed 1 waits until it is evaluated the same way."""
    rows = [measured(), replace(measured(), seed=1)]
    run_experiments.run(rows)
    trained = sorted(os.listdir("data/artifacts/sft"))
    capsys.readouterr()
    hit_rate = CandidateHitRate(num_candidates=3)
    run_experiments.run([measured(hit_rate)])
    said = "cyclic: seed 1 was evaluated with other evaluate.metrics than the last run, [CandidateHitRate(num_candidates=3, seed=0)]; "
    assert f"{said}run this seed again, which trains nothing" in capsys.readouterr().err
    assert sorted(run_files.read("cyclic")["seeds"]) == ["0", "1"]
    with pytest.raises(
        ArtifactError, match=r"row cyclic: seeds 0 and 1 were evaluated with different evaluate\.metrics; .*--seeds 0,1"
    ):
        compare(run_files.outcomes(["cyclic"]))
    figure = "hit_rate@1[3 candidates]"
    assert figure in compare(run_files.outcomes(["cyclic"], {"cyclic": {0}})).rows[0].metrics
    assert figure not in compare(run_files.outcomes(["cyclic"], {"cyclic": {1}})).rows[0].metrics
    run_experiments.run([replace(measured(hit_rate), seed=1)])
    assert "other evaluate.metrics" not in capsys.readouterr().err
    assert figure in compare(run_files.outcomes(["cyclic"])).rows[0].metrics
    assert sorted(os.listdir("data/artifacts/sft")) == trained
    with pytest.raises(UsageError, match="the settings differ from those of rows that exist"):
        run_experiments.run([replace(measured(), evaluate=replace(measured().evaluate, cutoffs=(1, 5)))])


def test_rows_of_other_protocols_are_told_apart() -> None:
    """Filtered rows are another table. Other cutoffs are another look at the same rows, whatever their names: no further attempt."""
    assert main(["run", "mine.py:grid"]) == 0
    assert main(["run", "mine.py:grid", "--evaluate.filter-seen", "True", "--name", "filtered"]) == 0
    assert main(["run", "mine.py:grid", "--evaluate.cutoffs", "1", "10", "--name", "short"]) == 0
    assert tried("one") == (Study("mine.py:grid", frozenset({"one", "two"})),)
    assert tried("short-two") == (Study("mine.py:grid", frozenset({"one", "short-two"})),)
    assert tried("filtered-one") == (Study("mine.py:grid", frozenset({"filtered-one", "filtered-two"})),)


def test_a_failed_run_is_recorded_and_a_dry_run_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    for further in (["--dry-run"], ["--fields"]):
        assert main(["run", "mine.py:failing", *further]) == 0
        assert not Path("data").exists()
    assert main(["run", "mine.py:failing"]) == 3
    assert "broken" in capsys.readouterr().err
    assert recorded("mine.py:failing") == [("failing", ["0"])]


def test_ctrl_c_in_the_first_stage_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_experiments.pipeline, "run", interrupted)
    assert main(["run", "mine.py:grid"]) == 130
    assert recorded("mine.py:grid") == [("one", ["0", "1"]), ("two", ["0", "1"])]


def test_a_refused_run_is_not_recorded() -> None:
    assert main(["run", "mine.py:one"]) == 0
    assert main(["run", "mine.py:one", "--sft.optimization.max-steps", "9"]) == 2  # other settings under the same name
    assert [len(studies.read(studies.file_of("mine.py:one"))["rows"])] == [1]


def test_one_function_has_one_name(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a relative or an absolute path, by a link, from another folder, as a module, and within the package."""
    (project / "named.py").write_text(EXPERIMENTS)  # a name that no other test imports
    (project / "link.py").symlink_to(project / "named.py")
    (project / "below").mkdir()
    monkeypatch.syspath_prepend(project)
    for where in ("named.py:one", "./named.py:one", "below/../named.py:one", f"{project}/named.py:one", "link.py:one", "named:one"):
        assert studies.study_name(where) == "named.py:one"
    monkeypatch.setenv("GENREC_HOME", str(project / "data"))
    monkeypatch.chdir(project / "below")
    assert studies.study_name("../named.py:one") == "named.py:one"
    monkeypatch.setenv("GENREC_HOME", str(project / "below" / "data"))
    assert studies.study_name("../named.py:one") == f"{project}/named.py:one"
    packaged = Path(studies.__file__).parent / "testing" / "__init__.py"
    assert studies.study_name(f"{packaged.parent}/check_worlds.py:rows") == "genrec.testing.check_worlds:rows"
    assert studies.study_name("genrec.testing.check_worlds:rows") == "genrec.testing.check_worlds:rows"
    quick = Path(__file__).parents[1] / "experiments" / "quickstart.py"
    assert studies.study_name("genrec.quickstart:comparison") == studies.study_name(f"{quick}:comparison")


def test_runs_from_python_are_recorded() -> None:
    run_experiments.run([replace(cyclic(steps=2), name="called"), *baselines(cyclic())])
    assert recorded(studies.FROM_PYTHON) == [("called", ["0"])]
    assert tried("called") == (Study("Python", frozenset({"called"})),)


def test_a_removed_record_is_forgotten() -> None:
    assert main(["run", "mine.py:grid"]) == 0
    studies.file_of("mine.py:grid").unlink()
    assert tried("one") == ()
    assert main(["run", "mine.py:one"]) == 0
    assert tried("one") == (Study("mine.py:one", frozenset({"one"})),)


def test_only_a_new_seed_changes_the_file() -> None:
    """The time is that of the first run."""
    assert main(["run", "mine.py:one"]) == 0
    path = studies.file_of("mine.py:one")
    before = path.read_bytes()
    assert main(["run", "mine.py:one"]) == 0
    assert path.read_bytes() == before
    assert main(["run", "mine.py:one", "--seed", "1"]) == 0
    (row,) = studies.read(path)["rows"]
    assert row["seeds"]["0"] == json.loads(before)["rows"][0]["seeds"]["0"]


def test_changed_settings_of_the_command_line_are_recorded() -> None:
    """Of each row the last run counts; the record of an earlier version has none."""

    def overridden(number: int = 0) -> bool | None:
        records = studies.read_all()
        return studies.was_overridden(records, "mine.py:one", records[0]["rows"][number]["settings"])

    assert main(["run", "mine.py:one", "--evaluate.batch-size", "7"]) == 0
    assert overridden() is True
    assert main(["run", "mine.py:one", "--seeds", "0,1"]) == 0
    assert overridden() is False
    content = studies.read(path := studies.file_of("mine.py:one"))
    rows = [{key: value for key, value in row.items() if key != "overridden"} for row in content["rows"]]
    path.write_text(json.dumps(hashed_json.add_hash({"format": 2, "name": content["name"], "rows": rows})))
    assert overridden() is None
    assert studies.was_overridden(studies.read_all(), "mine.py:two", rows[0]["settings"]) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content | {"rows": []}, "has changed since it was written"),
        (lambda content: hashed_json.add_hash({"format": 3, "name": "mine.py:one", "rows": []}), "a newer version of genrec"),
        (lambda content: hashed_json.add_hash({"format": 1, "name": "mine.py:one", "rows": []}), "an earlier version of genrec"),
        (lambda content: hashed_json.add_hash({"format": 2, "name": "mine.py:two", "rows": []}), "a file was copied or renamed"),
        (lambda content: hashed_json.add_hash({"format": 2, "name": "mine.py:one"}), "has no entry rows"),
        (lambda content: [], "expected an object"),
    ],
)
def test_a_damaged_record_is_refused_before_anything_runs(change: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "mine.py:one"]) == 0
    path = studies.file_of("mine.py:one")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    trained = sorted(os.listdir("data/artifacts/sft"))
    capsys.readouterr()
    for command in (["run", "mine.py:one", "--seed", "1"], ["compare", "one"], ["show", "one"]):
        assert main(command) == 4
        message = capsys.readouterr().err
        assert said in message
        assert "move the file away; the record of what was tried in this study is then lost" in message
    assert sorted(os.listdir("data/artifacts/sft")) == trained
    with pytest.raises(ArtifactError):
        studies.read_all()


@dataclass(frozen=True)
class Row:
    name: str
    settings: str
    protocol: str = "p"
    seeds: Sequence[int] = (0,)

    def entry(self) -> dict[str, Any]:
        protocol, seeds = {"data key": self.protocol}, {str(seed): "2026-01-01T00:00:00Z" for seed in self.seeds}
        return {"name": self.name, "settings": self.settings, "protocol": protocol, "seeds": seeds}


def test_names_of_replaced_settings_by_hand() -> None:
    """The run file of a has settings 1 of 1 and 2. Without a run file, b's last settings count. Another study has replaced c's."""
    rows = [Row("a", "1"), Row("a", "2"), Row("b", "3"), Row("b", "4"), Row("c", "5"), Row("a", "6", protocol="q")]
    record = {"name": "study", "rows": [row.entry() for row in rows]}
    present = {"a": "1", "c": "9"}
    (found,) = studies.of_run([record], "a", "1", 0, present.get)
    assert found == Study("study", frozenset({"a", "a (replaced)", "b", "b (replaced)", "c (replaced)"}))
    (renamed,) = studies.of_run([record], "final", "3", 0, present.get, {"1": "base"})
    assert renamed == Study("study", frozenset({"base", "final", "a (replaced)", "b", "c (replaced)"}))
    assert studies.of_run([record], "a", "1", 7, present.get) == ()
    assert studies.of_run([record], "a", "9", 0, present.get) == ()


def settings_of(experiment: Experiment) -> str:
    return studies.training_hash(studies.planned_configuration(studies.pipeline.plan(experiment)))


def test_the_hash_of_settings_ignores_the_versions_of_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment: Experiment = cyclic(steps=3)
    before = settings_of(experiment)
    monkeypatch.setitem(studies.pipeline.VERSIONS, "sft", 99)
    assert settings_of(experiment) == before
    longer = replace(experiment, history_length=4)
    assert settings_of(longer) != before


def test_the_list_counts_what_was_tried(capsys: pytest.CaptureFixture[str]) -> None:
    """Replaced settings count, and so do failed rows; a filter of the data keeps the studies of the listed rows."""
    assert main(["run", "mine.py:grid"]) == 0
    assert "Next:\n  genrec run mine.py:grid --seeds 5\n" in capsys.readouterr().out  # one seed is too few for a claim
    assert main(["run", "mine.py:failing"]) == 3
    capsys.readouterr()
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for line in ("grid: 2 rows tried", "failing: 1 row tried"):  # "trained" would be wrong of a row that failed before
        assert f"study mine.py:{line}\n" in printed
    assert main(["list", "--data", "cyclic"]) == 0
    printed = capsys.readouterr().out
    assert "study mine.py:grid: " in printed
    assert "study mine.py:failing: " not in printed
    studies.file_of("mine.py:grid").write_text("{}")
    assert main(["list"]) == 0
    assert "unreadable: " in capsys.readouterr().out
