"""Kept rows: `genrec compare --from FOLDER` prints the table of the data folder, byte for byte, and loss and damage are refused."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from pandas.testing import assert_frame_equal
from worlds import cyclic

from genrec import disk_usage, hashed_json, kept_studies, run_experiments, run_files, seed_tables, studies, tuning_record
from genrec.__main__ import main
from genrec.errors import ArtifactError
from genrec.experiment import Experiment, baselines, seeds
from genrec.kept_rows import KeptRows

NAMES = ["cyclic-popularity", "sft", "longer", "control"]
STUDY = "/somewhere/project/mine.py:rows"
METRIC = "tail_recall@5"


def rows() -> list[Experiment]:
    """A baseline, and three trained rows with three seeds each."""
    control = replace(cyclic(steps=3, align_steps=2), name="control")
    sft = replace(control, name="sft", align=None)
    longer = replace(sft, name="longer", sft=replace(sft.sft, optimization=replace(sft.sft.optimization, max_steps=4)))
    return [replace(baselines(sft)[0], name="cyclic-popularity"), *seeds([sft, longer, control], 3)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the rows, the record of a tuning that selected `longer`, and the folder `kept`."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(root / "data"))
        run_experiments.run(rows(), study=STUDY)
        settings = studies.read(studies.file_of(STUDY))["rows"][1]["settings"]
        path = studies.file_of(STUDY, studies.TUNING)
        trials = [tuning_record.Trial(0, {}, "finished", {3: 0.5}, 0.5, 1.0, "", settings)]
        trials.append(tuning_record.Trial(1, {"x": 2}, "failed", message="no file /somewhere/secret"))
        tuning_record.Record(path, STUDY, "0" * 16, "sft: NDCG@10", 0, {}, trials).save()
        assert main(["keep", *NAMES, "--to", str(root / "kept"), "--metrics", METRIC]) == 0
    return root


@pytest.fixture
def kept(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the kept rows. The data folder is empty."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "empty"))
    return Path(shutil.copytree(made / "kept", tmp_path / "kept"))


@pytest.mark.parametrize(
    ("metric", "which"),
    [
        ("ndcg@10", ["--reference", "sft"]),
        ("recall@3", ["--reference", "control", "--seeds", "1,2"]),
        (METRIC, ["--reference", "control"]),
        ("coverage@10", ["--reference", "sft"]),
    ],
)
def test_the_table_is_that_of_the_data_folder(
    made: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], metric: str, which: list[str]
) -> None:
    """Rounded figures are not enough: all of the fields of every run are equal too."""
    command = ["compare", *NAMES, "--metric", metric, *which, "--markdown"]
    assert main([*command, str(kept / "kept.md"), "--from", str(kept)]) == 0
    printed = capsys.readouterr().out.replace("project/mine.py", "/somewhere/project/mine.py")
    found = KeptRows(kept).outcomes(NAMES, None, metric)
    monkeypatch.setenv("GENREC_HOME", str(made / "data"))
    assert main([*command, str(kept / "data.md")]) == 0
    assert printed.split() == capsys.readouterr().out.split()
    assert (kept / "data.md").read_text() == (kept / "kept.md").read_text().replace("project/mine.py", "/somewhere/project/mine.py")
    expected = run_files.outcomes(NAMES, None, metric)
    assert len(found) == len(expected) == 10
    for one, other in zip(found, expected, strict=True):
        assert_frame_equal(one.ranks, other.ranks)
        assert (one.user_metrics is None) == (other.user_metrics is None)
        if other.user_metrics is not None:
            assert_frame_equal(one.user_metrics, other.user_metrics)
        here, there = (each._replace(ranks=None, user_metrics=None, studies=(), tunings=()) for each in (one, other))  # type: ignore[arg-type]
        assert here == there
        assert [study.rows for study in one.studies] == [study.rows for study in other.studies]
        assert len(one.tunings) == len(other.tunings)


def test_no_folder_of_the_machine_is_kept(kept: Path) -> None:
    """The study and the tuning keep the last folder and the file of their name; a failed trial keeps no message."""
    for path in (kept / "studies").iterdir():
        content = json.loads(path.read_text())
        assert content["name"] == "project/mine.py:rows"
        assert "somewhere" not in path.read_text() + path.name
    assert sum(path.name.endswith(studies.TUNING) for path in (kept / "studies").iterdir()) == 1


def test_the_name_of_a_study_in_the_project_stays() -> None:
    assert kept_studies.portable_name("experiments/shop.py:sft") == "experiments/shop.py:sft"
    assert kept_studies.portable_name("Python") == "Python"
    assert kept_studies.portable_name("/a/b/experiments/shop.py:sft") == "experiments/shop.py:sft"


def test_a_metric_that_was_not_kept_is_refused(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its mean is in the run file; a test of the mean over seeds alone would be another test."""
    assert main(["compare", *NAMES, "--from", str(kept), "--metric", "head_recall@5"]) == 2
    assert f"genrec keep cyclic-popularity --to {kept} --metrics head_recall@5" in capsys.readouterr().err


def test_an_unknown_row_is_named(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "sft", "contrl", "--from", str(kept)]) == 2
    assert f"there is no run 'contrl' in {kept / 'runs'}; did you mean 'control'?" in capsys.readouterr().err


def damage(path: Path, how: str) -> None:
    if how == "remove":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif how == "change":
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    else:
        content = {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}
        content["protocol"]["history"] = 6
        path.write_text(json.dumps(hashed_json.add_hash(content)))


@pytest.mark.parametrize(
    ("file", "how", "said"),
    [
        ("ranks/sft.parquet", "change", "ranks/sft.parquet is missing or has changed since it was written"),
        ("user_metrics/sft.parquet", "remove", "user_metrics/sft.parquet is missing or has changed"),
        ("results/sft.json", "change", "results/sft.json is damaged (it is incomplete: "),
        ("results/sft.json", "remove", "there is no "),
        ("results/sft.json", "cut", "results/sft.json is damaged (it is incomplete: "),
        ("runs/sft.json", "cut", "runs/sft.json is damaged (it is incomplete: "),
        ("runs/sft.json", "change", "runs/sft.json is damaged (it is incomplete: "),
        ("runs/sft.json", "rewrite", "results/sft.json does not belong to "),
    ],
)
def test_damage_is_found(kept: Path, capsys: pytest.CaptureFixture[str], file: str, how: str, said: str) -> None:
    damage(kept / file, how)
    assert main(["compare", "sft", "control", "--from", str(kept)]) == 4
    printed = capsys.readouterr().err
    assert said in printed
    assert f"keep the row again: genrec keep sft --to {kept} --replace" in printed
    assert "run the experiment again" not in printed


@pytest.mark.parametrize("command", [["compare", "sft", "--from"], ["keep", "sft", "--replace", "--to"]])
def test_a_cut_study_is_not_moved_away(kept: Path, data: Path, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    """The advice of the data folder, to lose the record, would shrink Holm's family."""
    path = studies.file_of("project/mine.py:rows", folder=kept / "studies")
    damage(path, "cut")
    assert main([*command, str(kept)]) == 4
    printed = capsys.readouterr().err
    assert f"{path} is damaged (it is incomplete: " in printed
    assert "lost" not in printed
    path.unlink()
    assert main(["keep", "sft", "longer", "--replace", "--to", str(kept)]) == 0
    printed = capsys.readouterr().out
    sizes = [sum(file.stat().st_size for file in kept.glob(pattern) if file.is_file()) for pattern in ("*/longer.*", "**/*")]
    assert re.search(rf"^longer: \d seeds?, {disk_usage.in_words(sizes[0])}$", printed, re.MULTILINE)
    assert f" rows, {disk_usage.in_words(sizes[1])}; compare them with" in printed


TUNED = "project-mine.py-rows-*.tuning.json"


@pytest.mark.parametrize("file", ["project-mine.py-rows-????????.json", TUNED])
def test_a_missing_study_or_tuning_is_named(kept: Path, capsys: pytest.CaptureFixture[str], file: str) -> None:
    """Without it Holm's family would be smaller; only the rows that were in it are refused."""
    (path,) = (kept / "studies").glob(file)
    path.unlink()
    assert main(["compare", "longer", "control", "--from", str(kept)]) == 4
    assert f"{path} is missing, the record of what was tried beside longer: without it p (Holm)" in capsys.readouterr().err
    assert main(["compare", "cyclic-popularity", "--from", str(kept)]) == 0  # a baseline is in no study


def test_of_a_seed_that_was_run_on_two_machines_the_first_run_counts(kept: Path) -> None:
    """An endpoint that was named between the two runs was not named before the first one."""
    mine, theirs = (studies.file_of("project/mine.py:rows", folder=folder) for folder in (None, kept / "studies"))
    content = {name: value for name, value in studies.read(theirs).items() if name != "sha256"}
    mine.parent.mkdir(parents=True)
    for file, time in ((mine, "2026-01-01T00:00:00Z"), (theirs, "2026-02-02T00:00:00Z")):
        found = [row | {"seeds": dict.fromkeys(row["seeds"], time)} for row in content["rows"]]
        file.write_text(json.dumps(hashed_json.add_hash(content | {"rows": found})))
    kept_studies.keep({row["settings"] for row in content["rows"]}, kept)
    assert {time for row in studies.read(theirs)["rows"] for time in row["seeds"].values()} == {"2026-01-01T00:00:00Z"}


def test_a_study_that_holds_less_is_found(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An older file has one row and one seed less. A file with one row and one seed more is fine."""
    path = studies.file_of("project/mine.py:rows", folder=kept / "studies")
    content = {name: value for name, value in studies.read(path).items() if name != "sha256"}
    first, second, third = content["rows"]
    seeds = dict(list(first["seeds"].items())[1:])
    for rows, lost in (([first, second], "1 row"), ([first | {"seeds": seeds}, second], "2 rows")):
        path.write_text(json.dumps(hashed_json.add_hash(content | {"rows": rows})))
        assert main(["compare", "longer", "--from", str(kept)]) == 4
        assert f"{path} lacks {lost} with all seeds that it had when longer was kept" in capsys.readouterr().err
    more = [first | {"seeds": first["seeds"] | {"7": "now"}}, second, third, third | {"name": "another"}]
    path.write_text(json.dumps(hashed_json.add_hash(content | {"rows": more})))
    assert main(["compare", "longer", "--from", str(kept)]) == 0


def test_rows_that_were_kept_without_the_names_of_their_studies_are_refused(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = kept / "results" / "sft.json"
    content = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("sha256", "studies", "tunings")}
    path.write_text(json.dumps(hashed_json.add_hash(content | {"format": 1})))
    assert main(["compare", "sft", "--from", str(kept)]) == 4
    printed = capsys.readouterr().err
    assert "kept by an earlier version of genrec, which did not name the files in" in printed
    assert f"genrec keep sft --to {kept} --replace" in printed


def test_the_kept_rows_of_this_project_name_their_studies() -> None:
    """All can be compared; each trained row was in a study."""
    rows = KeptRows(Path(__file__).parents[1] / "experiments" / "results" / "kept")
    names = run_files.names_of_rows(rows.folder / "runs")
    assert len(names) >= 19
    assert {run.name for run in rows.outcomes(names)} == set(names)
    for name in names:
        named = json.loads(rows.file("results", name).read_text())["studies"]
        trained = "sft" in next(iter(rows.read(name)["seeds"].values()))["artifacts"]
        assert bool(named) == trained, name


@pytest.fixture
def data(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the data folder."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    return Path(shutil.copytree(made / "data", tmp_path / "data"))


def test_no_seed_is_lost(kept: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row of the data folder with fewer seeds, or with other settings, replaces a kept row only if asked."""
    path = data / "runs" / "sft.json"
    content = {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}
    del content["seeds"]["1"]
    path.write_text(json.dumps(hashed_json.add_hash(content)))
    before = {each: each.read_bytes() for each in kept.rglob("*.*")}
    assert main(["keep", "control", "sft", "--to", str(kept)]) == 2
    assert "sft.json holds sft with seed 1, which the data folder has not" in capsys.readouterr().err
    assert {each: each.read_bytes() for each in kept.rglob("*.*")} == before
    content["configuration"]["seen"] = "other"
    path.write_text(json.dumps(hashed_json.add_hash(content)))
    assert main(["keep", "sft", "--to", str(kept)]) == 2
    assert "holds sft with other settings than in the data folder" in capsys.readouterr().err
    assert main(["keep", "sft", "--to", str(kept), "--replace"]) == 0
    assert [run.seed for run in KeptRows(kept).outcomes(["sft"])] == [0, 2]
    assert not (kept / "user_metrics" / "sft.parquet").exists()


def test_a_row_that_was_trained_again_does_not_replace_the_kept_one(
    kept: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same settings may give other metrics on another machine; a table that was printed from the kept row must stay."""
    path = data / "runs" / "sft.json"
    content = {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}
    content["seeds"]["1"]["metrics"]["ndcg@10"] = 0.25
    path.write_text(json.dumps(hashed_json.add_hash(content)))
    before = {each: each.read_bytes() for each in kept.rglob("*.*")}
    assert main(["keep", "control", "sft", "--to", str(kept)]) == 2
    printed = capsys.readouterr().err
    assert "at seed 1, and the data folder has 0.25 (it was trained or evaluated again); keep it in another folder" in printed
    assert {each: each.read_bytes() for each in kept.rglob("*.*")} == before
    assert main(["keep", "control", "sft", "--to", str(kept), "--replace"]) == 0
    assert KeptRows(kept).read("sft")["seeds"]["1"]["metrics"]["ndcg@10"] == 0.25


def test_a_metric_without_values_per_user_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keep", "sft", "--to", str(tmp_path / "new"), "--metrics", "tail_recal@5"]) == 2
    printed = capsys.readouterr().err
    assert "--metrics tail_recal@5: sft (seed 0) has no values per user of it" in printed
    assert "did you mean 'tail_recall@5'?" in printed
    assert not (tmp_path / "new").exists()


def test_a_kept_study_loses_no_row(kept: Path, data: Path) -> None:
    """The record of the data folder was removed but for one row; that of the kept rows stays as it was."""
    path = studies.file_of("project/mine.py:rows", folder=kept / "studies")
    before, record = studies.read(path), studies.file_of(STUDY)
    content = studies.read(record)
    first = content["rows"][0]
    record.write_text(json.dumps(hashed_json.add_hash({"format": studies.FORMAT, "name": STUDY, "rows": [first]})))
    assert main(["keep", "sft", "--to", str(kept)]) == 0
    assert studies.read(path)["rows"] == before["rows"]
    assert len(before["rows"]) == 3
    assert main(["compare", "longer", "sft", "--from", str(kept)]) == 0


def test_a_kept_tuning_loses_no_trial(kept: Path, data: Path) -> None:
    """The tuning was started anew in the data folder: the earlier trials count among those of other settings."""
    record = tuning_record.read(studies.file_of(STUDY, studies.TUNING))
    record.trials[:] = [replace(record.trials[0], number=5)]
    record.save()
    assert main(["keep", "longer", "--to", str(kept), "--replace"]) == 0
    (kept_record,) = tuning_record.read_all(kept / "studies")
    assert ([trial.number for trial in kept_record.trials], [trial.number for trial in kept_record.replaced]) == ([5], [0, 1])
    assert main(["compare", "longer", "sft", "--from", str(kept)]) == 0


VALUES = st.sampled_from([0, 1, 2, 50, -1, 2**31, -(2**40)])
FIGURES = st.sampled_from([0.0, 1.0, 1 / 3, float("nan"), -1e-300])


@given(st.data(), st.integers(1, 3), st.integers(0, 6))
def test_tables_of_seeds_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, num: int, users: int
) -> None:
    """Columns that are equal at all seeds, at some or at none; int64 and float64 with NaN, also without users."""
    path = tmp_path_factory.mktemp("tables") / "x.parquet"
    tables = {}
    for seed in range(num):
        ranks = data.draw(st.lists(VALUES, min_size=users, max_size=users))
        figures = data.draw(st.lists(FIGURES, min_size=users, max_size=users))
        columns = {"user": np.arange(users) * 3, "rank": np.array(ranks, np.int64), "x of y@5": np.array(figures, np.float64)}
        tables[seed] = DataFrame(columns).astype({"user": np.int64})
    seed_tables.write(path, {seed: table[::-1] for seed, table in tables.items()})
    assert seed_tables.columns(path) == ["user", "rank", "x of y@5"]
    for seed, table in tables.items():
        assert_frame_equal(seed_tables.read(path, seed), table)


def test_seeds_with_other_users_are_refused(tmp_path: Path) -> None:
    tables = {0: DataFrame({"user": [1, 2]}), 4: DataFrame({"user": [1]})}
    with pytest.raises(ArtifactError, match="seeds 0 and 4 have other users"):
        seed_tables.write(tmp_path / "x.parquet", tables)


def test_a_seed_that_is_not_in_the_file_is_named(tmp_path: Path) -> None:
    seed_tables.write(tmp_path / "x.parquet", {seed: DataFrame({"user": [1, 2], "rank": [seed, 0]}) for seed in (0, 1)})
    with pytest.raises(ArtifactError, match="has no rank of seed 2"):
        seed_tables.read(tmp_path / "x.parquet", 2)
