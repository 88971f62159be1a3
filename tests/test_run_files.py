"""Run files: their hash and shape, the environment of each seed, the nearest name, and the list of rows and failures."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import cyclic

from genrec import dry_run, failed_runs, hashed_json, pipeline, run_experiments, run_files, run_list
from genrec.__main__ import main
from genrec.baselines import Popularity
from genrec.data.sources import Frames
from genrec.environment import environment
from genrec.errors import ArtifactError, GenrecError, InputError, NumericsError, Stopped, UsageError
from genrec.evaluation.comparison.settings_in_words import differences_in_words
from genrec.experiment import Experiment
from genrec.store import Artifact


def baseline(name: str = "cyclic-popularity", seed: int = 0) -> Experiment:
    """An experiment that needs no training."""
    return replace(cyclic(), name=name, policy=Popularity(), seed=seed)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A data folder with the row cyclic-popularity, and the bytes of its run file."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(home))
        run_experiments.run([baseline()])
    return home, (home / "runs" / "cyclic-popularity.json").read_bytes()


@pytest.fixture
def row(made: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run file of cyclic-popularity, as it was written; other rows and failures are removed."""
    home, content = made
    monkeypatch.setenv("GENREC_HOME", str(home))
    for path in (home / "runs").rglob("*.json"):
        path.unlink()
    path = home / "runs" / "cyclic-popularity.json"
    path.write_bytes(content)
    return path


def rewrite(path: Path, **entries: object) -> None:
    """Replace entries of a run file (None removes one), with a hash that fits the new content."""
    content = json.loads(path.read_text()) | entries
    del content["sha256"]
    path.write_text(json.dumps(hashed_json.add_hash({name: value for name, value in content.items() if value is not None})))


SEED = {
    "recorded": "2026-01-02T03:04:05Z",
    "artifacts": {"data": "0" * 16, "evaluate": "1" * 16},
    "seconds": {"data": 1},
    "environment": {},
    "metrics": {"ndcg@10": 0.5},
}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"configuration": None}, "the content has no entry configuration"),
        ({"protocol": None}, "the content has no entry protocol"),
        ({"protocol": []}, r"protocol is \[\], expected an object"),
        ({"seeds": None}, "the content has no entry seeds"),
        ({"seeds": {}}, "seeds has no entry"),
        ({"seeds": []}, r"seeds is \[\], expected an object"),
        ({"seeds": {"0": 3}}, r"seeds\.0 is 3, expected an object"),
        ({"seeds": {"one": SEED}}, "seeds has an entry 'one', which is not allowed"),
        ({"seeds": {"0": SEED | {"metrics": {"ndcg@10": None}}}}, r"seeds\.0\.metrics\.ndcg@10 is None, expected a number"),
        ({"seeds": {"0": SEED | {"artifacts": {"data": "0" * 16}}}}, r"seeds\.0\.artifacts has no entry evaluate"),
        ({"seeds": {"0": SEED | {"artifacts": {"data": "0" * 16, "evaluate": "../../x"}}}}, r"artifacts\.evaluate is '\.\./\.\./x'"),
        ({"format": "3"}, "format is '3', expected an integer"),
        ({"format": 2}, "an earlier version of genrec, without a hash"),
        ({"format": 4}, r"a newer version of genrec \(format 4, this version reads 3\)"),
    ],
)
def test_a_run_file_of_another_shape_is_refused(row: Path, entries: dict[str, object], said: str) -> None:
    rewrite(row)
    assert run_files.read("cyclic-popularity")["name"] == "cyclic-popularity"  # the hash fits
    rewrite(row, **entries)
    with pytest.raises(ArtifactError, match=rf"cyclic-popularity\.json .*{said}.*move the file away"):
        run_files.read("cyclic-popularity")


@pytest.mark.parametrize(
    "content", ["[]", "null", "{}", "3", '"a"', "", "{", "[" * 100_000, '{"format": 1}', '{"format": true}', "\xff"]
)
@pytest.mark.parametrize("command", [["show"], ["compare"], ["curves"]], ids=lambda command: command[0])
def test_json_that_is_no_run_file_is_refused(row: Path, capsys: pytest.CaptureFixture[str], content: str, command: list[str]) -> None:
    row.write_text(content, encoding="latin-1")
    assert main([*command, "cyclic-popularity"]) == 4
    said = capsys.readouterr().err
    assert said.startswith(f"genrec: {row} is damaged (")
    assert "move the file away and run the experiment again" in said


def test_a_damaged_run_file_is_refused_before_anything_runs(row: Path) -> None:
    row.write_text("null")
    with pytest.raises(ArtifactError, match="expected an object"):
        run_experiments.run([replace(baseline(), seed=5)])
    assert not (row.parent / "failed").exists()


def assert_found_or_harmless(path: Path, content: bytes, place: int, value: int) -> None:
    """A byte of the run file is replaced: it is refused, or its content is the same."""
    path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
    try:
        found = run_files.read("cyclic-popularity")
    except ArtifactError as error:
        found = str(error)
    finally:
        path.write_bytes(content)
    assert found == json.loads(content) or (isinstance(found, str) and path.name in found)


def test_flipped_bits_of_a_run_file_are_found(row: Path) -> None:
    content = row.read_bytes()
    for place in range(0, len(content), 5):
        assert_found_or_harmless(row, content, place, content[place] ^ 1 << place % 8)


@given(data=st.data())
def test_any_replaced_byte_of_a_run_file_is_found(made: tuple[Path, bytes], data: st.DataObject) -> None:
    home, content = made
    place = data.draw(st.integers(0, len(content) - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(home))
        assert_found_or_harmless(home / "runs" / "cyclic-popularity.json", content, place, data.draw(st.integers(0, 255)))


def test_metrics_that_were_edited_by_hand_are_not_believed(row: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = row.read_text()
    row.write_text(re.sub(r'"ndcg@10": [0-9.e-]+', '"ndcg@10": 0.9', text))
    assert main(["compare", "cyclic-popularity"]) == 4
    assert "cyclic-popularity.json has changed since it was written" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["show", "compare", "curves"])
def test_a_misspelled_row_gets_the_nearest_name(row: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([command, "cyclic-poplarity"]) == 2
    assert "did you mean 'cyclic-popularity'? there are: cyclic-popularity" in capsys.readouterr().err
    for name in ("x" * 300, "../x", "a\0b"):
        assert main([command, name]) == 2
        assert "there is no run" in capsys.readouterr().err


def trained(stage: str, **values: str) -> Artifact:
    """An artifact with this environment."""
    here = {
        "processor": "P",
        "instructions": "avx2",
        "threads": "1",
        "settings": "none",
        "gpu": "none",
        "cuda": "none",
        "torch": "2.11",
    }
    return Artifact(stage, "0" * 16, Path(), {"environment": here | {"genrec": "0.1"} | values})


def test_the_environment_of_a_seed_is_that_of_its_trainings() -> None:
    """Values that differ between SFT and alignment are joined; evaluation counts only if nothing was trained."""
    artifacts = {"sft": trained("sft"), "align": trained("align", threads="4", gpu="H"), "evaluate": trained("evaluate", torch="2.13")}
    expected = {"processor": "P", "instructions": "avx2", "threads": "1 / 4", "gpu": "none / H", "torch": "2.11", "genrec": "0.1"}
    assert run_files.environment_of(artifacts) == expected
    assert run_files.environment_of({"evaluate": artifacts["evaluate"]}) == {
        "processor": "P", "instructions": "avx2", "threads": "1", "gpu": "none", "torch": "2.13", "genrec": "0.1",
    }  # fmt: skip


def test_manifests_and_run_files_record_the_environment(row: Path) -> None:
    artifacts = pipeline.run(baseline())
    for artifact in artifacts.values():
        assert artifact.manifest["environment"] == environment()
        assert artifact.manifest["versions"]["genrec"] == environment()["genrec"]
    recorded = run_files.read("cyclic-popularity")["seeds"]["0"]["environment"]
    assert recorded.items() <= environment().items()
    assert {"processor", "instructions", "threads", "torch", "genrec"} <= recorded.keys()
    (run,) = run_files.outcomes(["cyclic-popularity"])
    assert run.environment == recorded


@dataclass(frozen=True)
class Interrupted:
    """An encoder that writes part of its vectors, then is interrupted in its first try."""

    def encode_into(self, items: object, interactions: object, folder: Path) -> object:
        import numpy as np

        if not folder.exists():
            folder.mkdir(parents=True)
            raise KeyboardInterrupt
        return np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)

    def encode(self, items: object, interactions: object) -> object:
        raise AssertionError("the pipeline takes encode_into where there is one")


def test_a_stage_that_resumes_with_other_threads_records_both(
    row: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = replace(cyclic(), embed=Interrupted())  # type: ignore[arg-type]
    monkeypatch.setattr(pipeline, "environment", lambda: environment() | {"threads": "1"})
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(experiment, last="embed")
    monkeypatch.setattr(pipeline, "environment", lambda: environment() | {"threads": "8"})
    artifact = pipeline.run(experiment, last="embed")["embed"]
    assert artifact.manifest["environment"]["threads"] == "1 / 8"
    assert "resumed in another environment (threads 1 / 8)" in capsys.readouterr().err
    assert not list(artifact.folder.parent.glob(".*.attempts.json"))


def test_list_shows_rows_seeds_and_results(row: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two seeds with NDCG@10 of 0.25 and 0.5: the mean is 0.375."""
    seeds = {
        "10": SEED | {"metrics": {"ndcg@10": 0.25, "recall@10": 0.5}, "recorded": "2126-01-02T03:04:05Z"},
        "9": SEED | {"metrics": {"ndcg@10": 0.5}},
    }
    other = row.with_name("other.json")
    other.write_bytes(row.read_bytes())
    rewrite(other, name="other", seeds=seeds, protocol={"data": "Shop()"})
    assert main(["list"]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", header) == ["row", "last run", "seeds", "R@10", "N@10", "stages", "data"]
    when = run_list.local_time("2126-01-02T03:04:05Z")
    assert re.split(r"\s{2,}", first) == ["other", when, "9, 10", "-", "0.3750", "data evaluate", "Shop()"]  # the latest first
    metrics = json.loads(row.read_text())["seeds"]["0"]["metrics"]
    assert re.split(r"\s{2,}", second)[2:5] == ["0", f"{metrics['recall@10']:.4f}", f"{metrics['ndcg@10']:.4f}"]
    assert main(["list", "--data", "shop"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["row", "other"]
    assert main(["list", "--data", "beauty"]) == 0
    assert "has no rows on data with 'beauty' in the name" in capsys.readouterr().out


def test_list_shows_damaged_files_and_goes_on(row: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row.with_name("broken.json").write_text("null")
    failed = row.parent / "failed"
    failed.mkdir(exist_ok=True)
    (failed / "x-seed-0.json").write_text("[]")
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert "\ncyclic-popularity " in printed
    for path in (row.with_name("broken.json"), failed / "x-seed-0.json"):
        assert f"unreadable: {path} is damaged" in printed


def test_list_of_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "nothing"))
    assert main(["list"]) == 0
    assert "has no rows; 'genrec run FILE.py:FUNCTION' adds some" in capsys.readouterr().out
    assert not (tmp_path / "nothing").exists()


def exit_by_lightning() -> SystemExit:
    """What Lightning makes of Ctrl-C in a training."""
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)
    except SystemExit as error:
        return error


@pytest.mark.parametrize(
    ("length", "error", "line"),  # each has artifacts of its own, by its length of the history
    [
        (6, NumericsError("the loss is nan\nmore"), "failed in evaluate, .*: NumericsError: the loss is nan$"),
        (7, Stopped(15, "stopped at step 7, checkpoint saved"), "stopped in evaluate, .*: stopped at step 7, checkpoint saved$"),
        (8, KeyboardInterrupt(), "stopped in evaluate, .*: interrupted$"),
        (9, exit_by_lightning(), r"stopped in evaluate, .*: interrupted$"),
    ],
)
def test_a_failed_run_leaves_a_record_until_it_succeeds(
    row: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], length: int, error: BaseException, line: str
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    experiment = replace(baseline(f"fails-{type(error).__name__}", seed=3), history_length=length)
    with monkeypatch.context() as patch:
        patch.setitem(pipeline.stages.BUILDERS, "evaluate", fail)
        patch.setattr(sys, "argv", ["/bin/genrec", "run", "mine.py:row", "--refresh", "data", "--seed", "3"])
        with pytest.raises(type(error)):
            run_experiments.run([experiment])
    record = json.loads((row.parent / "failed" / f"{experiment.name}-seed-3.json").read_text())
    assert record["message"] == (str(error) if isinstance(error, GenrecError) else "interrupted")
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"^{experiment.name} \(seed 3\) {line}\n  \S.*: genrec run mine\.py:row --seed 3$", printed, re.MULTILINE)
    run_experiments.run([experiment])
    assert not list((row.parent / "failed").iterdir())


def test_a_list_that_fails_says_what_is_finished(
    row: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second of three experiments fails; a single experiment needs no such line."""
    run = pipeline.run

    def fail(experiment: Experiment, *others: object, **more: object) -> dict[str, Artifact]:
        if experiment.name == "second":
            raise NumericsError("the loss is nan")
        return run(experiment, *others, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "run", fail)
    three = [baseline(), baseline("second", seed=1), baseline("third")]
    with pytest.raises(NumericsError):
        run_experiments.run(three)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == (
        "1 of 3 experiments finished (cyclic-popularity (seed 0)); second (seed 1) did not; run the same command again to go on: "
        "what is finished is kept"
    )
    with pytest.raises(NumericsError):
        run_experiments.run(three[1:], refresh="evaluate")
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("0 of 2 experiments finished; second (seed 1) did not; run the same command again without --refresh to go")
    with pytest.raises(NumericsError):
        run_experiments.run([three[1]])
    assert "experiments finished" not in capsys.readouterr().err


def test_a_row_that_cannot_be_recorded_is_a_failed_run(row: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ArtifactError("changed meanwhile")

    monkeypatch.setattr(run_files, "record", fail)
    with pytest.raises(ArtifactError):
        run_experiments.run([baseline("unrecorded")])
    (failure,), damaged = failed_runs.read_all()
    assert (failure.stage, failure.command, damaged) == ("", "", [])
    assert "failed after the last stage" in "\n".join(run_list.lines())


def test_list_fits_into_the_terminal(row: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The first of the columns to go are the stages; the command that resumes a run stays in one line."""
    rewrite(row, protocol={"data": "Frames(a-file-with-a-long-name.csv, another-file-with-a-long-name.csv, separator=;)"})
    error = NumericsError(f"the loss is nan {'in this very long step ' * 9}")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["genrec", "run", f"{'long' * 30}.py:row"])
        failed_runs.record(baseline("fails"), [], error)
    for width, left_out in ((78, {"stages"}), (110, set[str]())):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(["list"]) == 0
        *printed, command = capsys.readouterr().out.splitlines()
        assert max(map(len, printed)) <= width
        assert set(run_list.COLUMNS) - set(re.split(r"\s{2,}", printed[0])) == left_out
        assert printed[1].endswith("...")
        assert command == f"  run again: genrec run {'long' * 30}.py:row"


def test_list_shows_the_failures_of_the_wanted_data_with_their_exception(row: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = (
        "mine.py: check(experiment) failed; its own error:\nTraceback (most recent call last):\n  1 / 0\nZeroDivisionError: by zero\n"
    )
    failed_runs.record(baseline("fails"), [], UsageError(own))
    assert main(["list"]) == 0
    assert "UsageError: mine.py: check(experiment) failed: ZeroDivisionError: by zero\n" in capsys.readouterr().out
    failed_runs.record(baseline("fails"), [], InputError("mine.py raised ValueError('odd'); its own error:\nValueError: odd"))
    assert main(["list", "--data", "cyclic"]) == 0
    assert "InputError: mine.py raised ValueError('odd')\n" in capsys.readouterr().out
    assert main(["list", "--data", "zzz"]) == 0
    assert "fails" not in capsys.readouterr().out


def test_the_resuming_command_does_not_begin_again() -> None:
    for flags in (["--refresh", "sft"], ["--refresh=sft"], ["--refr", "sft"]):
        arguments = ["/x/genrec/__main__.py", "run", "m.py:a b", *flags, "--seed", "1"]
        assert failed_runs.resuming(arguments) == "genrec run 'm.py:a b' --seed 1"
    assert failed_runs.resuming(["/bin/pytest", "run", "x"]) == ""
    assert failed_runs.resuming(["genrec", "data", "x"]) == ""


def test_names_of_rows_fit_into_file_names() -> None:
    assert baseline("a" * 100).name == "a" * 100
    for name in ("a" * 101, "a" * 300, 3, None, "a\n"):
        with pytest.raises(UsageError, match=r"name must be letters, digits, '-', '_' or '\.', at most 100 of them"):
            baseline(name)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"seed must be below 2\*\*63, got a number of 64 bits"):
        baseline(seed=2**63)


def test_a_copied_run_file_is_no_other_row(row: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row.with_name("other.json").write_bytes(row.read_bytes())
    assert main(["compare", "cyclic-popularity", "other"]) == 4
    assert "other.json holds the row 'cyclic-popularity', expected 'other': a file was copied or renamed" in capsys.readouterr().err


def test_list_goes_on_after_odd_files(row: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = [row.with_name(name) for name in ("cyclic (1).json", "-x.json", "é.json")]
    for path in odd:
        path.write_bytes(row.read_bytes())
    link, folder, failed = row.with_name("link.json"), row.with_name("folder.json"), row.parent / "failed" / "folder.json"
    link.symlink_to("nowhere")
    folder.mkdir()
    failed.mkdir(parents=True)
    try:
        assert main(["list"]) == 0
        printed = capsys.readouterr().out
        assert "\ncyclic-popularity " in printed
        assert run_files.names_of_rows() == ["cyclic-popularity"]
        for path in odd:
            assert f"unreadable: {path} has a name that no row can have; move it away" in printed
        for path in (link, folder, failed):
            assert f"unreadable: {path} is not a file that can be read; move it away" in printed
    finally:
        folder.rmdir()
        failed.rmdir()


@pytest.mark.parametrize("stage", ["data", "evaluate"])
def test_a_row_has_one_version_of_each_stage(row: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    monkeypatch.setitem(pipeline.VERSIONS, stage, 99)
    before = row.read_bytes()
    with pytest.raises(UsageError, match=rf"stages\.{stage}\.version is \d there, 99 now"):
        run_experiments.run([baseline(seed=7)])
    assert row.read_bytes() == before


def test_a_row_has_one_protocol(row: Path) -> None:
    """The settings are the same, but the data stage gave other data."""
    rewrite(row, protocol=json.loads(row.read_text())["protocol"] | {"interactions": 3, "data": "Renamed()"})
    with pytest.raises(
        UsageError, match=r"the same settings and another protocol: interactions is 3 there, 1000 now; keep both with --name"
    ):
        run_experiments.run([baseline(seed=7)])
    rewrite(row, protocol=json.loads(row.read_text())["protocol"] | {"interactions": 1000})
    run_experiments.run([baseline(seed=7)])
    assert list(run_files.read("cyclic-popularity")["seeds"]) == ["0", "7"]


LOG = "user,item,time\n" + "".join(f"u{user},i{(user + k) % 6},{k}\n" for user in range(12) for k in range(6))


def test_data_that_change_while_they_are_read_are_not_stored(row: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.csv"
    log.write_text(LOG)
    build = pipeline.stages.BUILDERS["data"]

    def change_first(*arguments: object) -> None:
        log.write_text(LOG.replace("u3,", "v3,"))
        build(*arguments)  # type: ignore[arg-type]

    experiment = replace(baseline("changing"), source=Frames(interactions=log))
    key = pipeline.plan(experiment)[0].key
    with monkeypatch.context() as patch:
        patch.setitem(pipeline.stages.BUILDERS, "data", change_first)
        with pytest.raises(InputError, match=r"the files of source \(log\.csv\) changed while data read them; run again"):
            pipeline.run(experiment)
    assert not pipeline.store().has("data", key)
    assert pipeline.run(experiment, last="data")["data"].key != key


def test_a_parent_that_another_process_removes_is_named(row: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose_parent(experiment: Experiment, parents: dict[str, Path], folder: Path) -> None:
        shutil.rmtree(parents["data"])
        (parents["data"] / "stats.json").read_text()

    monkeypatch.setitem(pipeline.stages.BUILDERS, "evaluate", lose_parent)
    with pytest.raises(
        ArtifactError, match=r"data/\w+ was removed or built again by another process while evaluate read it; run again"
    ):
        pipeline.run(replace(baseline("parentless"), history_length=4))


def test_a_missing_file_of_the_user_is_not_blamed_on_another_process(row: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise FileNotFoundError("mine.csv")

    monkeypatch.setitem(pipeline.stages.BUILDERS, "evaluate", fail)
    with pytest.raises(FileNotFoundError, match=r"mine\.csv"):
        pipeline.run(replace(baseline("fileless"), history_length=4))


def test_a_file_name_that_is_no_text_gets_a_label(row: Path, tmp_path: Path) -> None:
    log = tmp_path / os.fsdecode(b"e\xff.csv")
    log.write_text(LOG)
    artifact = pipeline.run(replace(baseline("bytes"), source=Frames(interactions=log)), last="data")["data"]
    assert artifact.manifest["file_names"] == {"source": ["e\ufffd.csv"]}


def test_a_failed_refresh_keeps_the_artifact_and_says_how_to_begin_again(row: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise NumericsError("the loss is nan")

    before = pipeline.run(baseline())["evaluate"].manifest
    monkeypatch.setitem(pipeline.stages.BUILDERS, "evaluate", fail)
    monkeypatch.setattr(sys, "argv", ["genrec", "run", "mine.py:row", "--refresh", "evaluate"])
    with pytest.raises(NumericsError):
        run_experiments.run([baseline()], refresh="evaluate")
    assert pipeline.run(baseline())["evaluate"].manifest == before
    (failure,), _ = failed_runs.read_all()
    assert failure.command == "genrec run mine.py:row --refresh evaluate"


@pytest.mark.parametrize("kind", ["file", "loop", "read-only", "lock"])
def test_a_dry_run_refuses_what_the_run_would(row: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    home = tmp_path / "home"
    if kind == "file":
        home.write_text("x")
    elif kind == "loop":
        home.symlink_to(home)
    elif kind == "read-only":
        monkeypatch.setattr("os.access", lambda path, mode: False)
    else:
        lock = home / "artifacts" / "data" / f".{pipeline.plan(baseline())[0].key}.lock"
        lock.mkdir(parents=True)
    monkeypatch.setenv("GENREC_HOME", str(home))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=re.escape(str(tmp_path))):
        list(dry_run.lines([baseline()]))
    assert sorted(tmp_path.rglob("*")) == before


def test_settings_that_differ_are_named_by_class_names() -> None:
    """Without modules and `.class`; a component beside a plain value is one setting; equal class names show their modules."""
    one = {"a": 1, "align.class": "m:Align", "loss.class": "m:DPO", "own.class": "one:Mine", "weight": 0.5, "old": None}
    other = {"a": 1, "align": None, "loss.class": "n:SoftmaxDPO", "own.class": "two:Mine", "weight.class": "s:Linear", "weight.end": 3}
    assert differences_in_words(one, other) == {
        "align": ("Align", "None"),
        "loss": ("DPO", "SoftmaxDPO"),
        "own.class": ("'one:Mine'", "'two:Mine'"),
        "old": ("None", "absent"),
        "weight": ("0.5", "Linear"),
        "weight.end": ("absent", "3"),
    }
