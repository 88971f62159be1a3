"""The command line as a user meets it: what it prints, what it writes, what it refuses and with which exit code."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from genrec.__main__ import main
from genrec.training import lightning_module, loop
from genrec.training.schedule import Schedule
from genrec.written_files import is_own_picture

PROJECT = Path(__file__).parents[1]
EXPERIMENTS = """
from dataclasses import replace
from genrec.experiment import Align, baselines, seeds
from worlds import cyclic

def sft():
    return cyclic()

def aligned():
    return replace(cyclic(align_steps=20), name="cyclic-sdpo")

def comparison():
    return baselines(replace(cyclic(), name="cyclic-sft")) + seeds([sft(), aligned()], (0, 1))

def broken():
    return 1 / 0

def wrong():
    return "no experiment"
"""


PLUGINS = """
from dataclasses import dataclass
from genrec.types import Draw

@dataclass(frozen=True)
class Target:
    def build(self, context):
        return Draw(draw=lambda batch, count, generator: batch.target[:, None].repeat(1, count))
"""


@pytest.fixture(scope="session")
def finished(shared_folder: Path) -> Path:
    """A folder with an experiment file, in which `genrec run mine.py:comparison` has been run, once for all workers."""
    folder = shared_folder / "finished"
    with FileLock(shared_folder / "finished.lock"), pytest.MonkeyPatch.context() as patch:
        if not (folder / "printed.txt").exists():
            folder.mkdir()
            (folder / "mine.py").write_text(EXPERIMENTS)
            patch.chdir(folder)
            patch.delenv("GENREC_HOME", raising=False)
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                assert main(["run", "mine.py:comparison"]) == 0
            (folder / "printed.txt").write_text(printed.getvalue())
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished folder, so that no test depends on another one."""
    return shutil.copytree(finished, tmp_path / "project")


@pytest.fixture(autouse=True)
def in_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.delenv("GENREC_HOME", raising=False)


def artifacts(project: Path) -> set[str]:
    return {str(path.relative_to(project)) for path in (project / "data").rglob("manifest.json")}


STAGES = ["data", "embed", "tokenize", "sft", "align", "evaluate"]


def test_a_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    assert main(["run", "mine.py:aligned", "--dry-run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:7]] == STAGES
    assert all(line.endswith("  to run") for line in printed[1:7])
    assert printed[7] == "total: 1 experiment; 6 artifacts to build, 0 done"
    assert [line.split()[0] for line in printed[8:14]] == STAGES
    assert all("1 to build, unknown: no earlier artifact of this stage" in line for line in printed[8:14])
    assert printed[14] == "estimated time: unknown"
    home = tmp_path / "data"
    assert printed[15] == f"outputs: {home}/artifacts, the rows in {home}/runs, pictures in {home}/reports; nothing was written"
    assert not home.exists()


def test_run_compare_and_show(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list of experiments shares its stages, a second run builds nothing, and compare and show read what was written."""
    first = (project / "printed.txt").read_text()
    for name in ("cyclic-popularity", "cyclic-itemknn", "cyclic", "cyclic-sdpo"):
        assert name in first
    assert "filter_seen False" in first
    assert "NDCG@10 compared with cyclic" in first
    made = artifacts(project)
    # 1 corpus, 1 set of vectors, 1 of Semantic IDs; 2 SFT policies, 2 aligned ones; 2 baselines and 4 policies evaluated
    count = {stage: sum(f"/{stage}/" in path for path in made) for stage in ("data", "embed", "tokenize", "sft", "align", "evaluate")}
    assert count == {"data": 1, "embed": 1, "tokenize": 1, "sft": 2, "align": 2, "evaluate": 6}
    assert main(["run", "mine.py:comparison"]) == 0
    second = capsys.readouterr()
    assert second.out == first
    assert "finished in" not in second.err

    assert main(["compare", "cyclic", "cyclic-sdpo", "--metric", "recall@5", "--markdown", "table.md"]) == 0
    assert "Recall@5 compared with cyclic" in capsys.readouterr().out
    assert "| cyclic-sdpo | 0, 1 |" in (project / "table.md").read_text()
    assert main(["compare", "cyclic", "--reference", "other"]) == 2
    assert main(["compare", "cyclic", "nobody"]) == 2
    assert "there are: cyclic, cyclic-itemknn" in capsys.readouterr().err
    assert main(["show", "cyclic-sdpo"]) == 0
    shown = capsys.readouterr().out
    assert "align.objective.loss.loss.beta = 1.0" in shown
    assert "ndcg@10 = " in shown


def test_a_dry_run_counts_shared_stages_once_and_estimates_the_time(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four experiments with 30 steps instead of 60: two SFT policies, two aligned ones, four evaluations; half the time of the SFT."""
    assert main(["run", "mine.py:comparison"]) == 0
    capsys.readouterr()
    before = artifacts(project)
    command = ["run", "mine.py:comparison", "--sft.optimization.max-steps", "30", "--name", "dry"]
    assert main([*command, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "total: 6 experiments; 8 artifacts to build, 5 done" in printed  # data, embed, tokenize, 2 baselines
    assert printed.count("to run, shared") == 2
    assert re.search(
        r"^  sft       2 to build, about [\d.]+ s \(from 2 earlier artifacts of this stage on this machine\)$", printed, re.M
    )
    assert re.search(r"^estimated time: about [\d.]+ s$", printed, re.M)
    assert artifacts(project) == before
    assert main(["run", "mine.py:comparison", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "0 artifacts to build, 13 done" in printed
    assert "estimated" not in printed


def test_payloads(project: Path) -> None:
    """Every stage's files, as the design lists them; nothing is pickled."""
    payload = {
        "data": {
            *("event_item.npy", "event_time.npy", "bounds.npy", "stats.json"),
            *(f"{name}.parquet" for name in ("interactions", "items", "users", "split", "set_aside")),
        },
        "embed": {"vectors.safetensors"},
        "tokenize": {"codes.safetensors", "quantizer.safetensors", "health.json"},
        "sft": {"policy.safetensors", "curves.parquet", "curves.csv", "recipe.json", "baselines.json"},
        "align": {
            *("policy.safetensors", "curves.parquet", "curves.csv", "recipe.json", "negatives.json", "baselines.json"),
            "drawn_negatives.parquet",
        },
        "evaluate": {"ranks.parquet", "recommendations.parquet", "user_metrics.parquet", "user_counts.json", "metrics.json"},
    }
    for stage, names in payload.items():
        for folder in (project / "data" / "artifacts" / stage).glob("[!.]*"):
            assert {path.name for path in folder.iterdir()} == names | {"manifest.json"}
    folder = next((project / "data" / "artifacts" / "evaluate").glob("[!.]*"))
    ranks = pd.read_parquet(folder / "ranks.parquet")
    assert list(ranks.columns) == ["user", "target", "rank"]
    assert len(ranks) == 100
    negatives = next((project / "data" / "artifacts" / "align").glob("[!.]*")) / "negatives.json"
    assert {"cosine_to_positive", "prefix_depth_shares", "shortfall_share"} <= set(json.loads(negatives.read_text()))


def test_refresh_builds_a_stage_and_what_follows_anew(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "mine.py:sft", "--refresh", "sft"]) == 0
    made = [line.split(": ")[1].split()[0] for line in capsys.readouterr().err.splitlines() if "finished in" in line]
    assert made == ["sft", "evaluate"]
    assert main(["run", "mine.py:sft", "--refresh", "sftt"]) == 2
    assert "the stages are data, embed, tokenize, reward, sft, align, evaluate" in capsys.readouterr().err


def test_a_row_with_other_settings_is_replaced_only_on_request(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 before anything is trained, naming the setting, both values and both ways on. --refresh is no change."""
    path = project / "data" / "runs" / "short.json"
    short = ["run", "mine.py:sft", "--name", "short", "--sft.optimization.max-steps"]
    assert main([*short, "20"]) == 0
    assert main([*short, "20", "--seed", "1"]) == 0
    assert main([*short, "20", "--refresh", "evaluate"]) == 0
    content, made = json.loads(path.read_text()), artifacts(project)
    assert list(content["seeds"]) == ["0", "1"]
    capsys.readouterr()
    for further in ([], ["--dry-run"], ["--refresh", "sft"]):
        assert main([*short, "21", *further]) == 2
        said = capsys.readouterr().err
        assert "data/runs/short.json: sft.optimization.max_steps is 20 there, 21 now" in said
        assert "--name OTHER" in said
        assert "--replace" in said
    assert (json.loads(path.read_text()), artifacts(project)) == (content, made)
    assert main([*short, "21", "--replace", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "--replace would start the row short again, without its results of seed 0, 1: sft.optimization.max_steps is 20 there, 21 now"
    )
    assert (json.loads(path.read_text()), artifacts(project)) == (content, made)
    assert main([*short, "20", "--replace", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "--replace would change nothing: no row that exists has other settings"
    assert main([*short, "21", "--replace"]) == 0
    assert "the configuration has changed" in capsys.readouterr().err
    assert list(json.loads(path.read_text())["seeds"]) == ["0"]
    assert main([*short, "21", "--replace", "--seed", "1"]) == 0  # nothing to replace
    assert list(json.loads(path.read_text())["seeds"]) == ["0", "1"]


def test_an_edited_file_and_changed_data_are_other_settings(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command, whose file or data differ."""
    log = "user,item,time\n" + "".join(f"u{user},i{(user + k) % 6},{k}\n" for user in range(12) for k in range(6))
    (project / "log.csv").write_text(log)
    code = """
from dataclasses import replace
from genrec.baselines import Popularity
from genrec.data.sources import Frames
from mine import sft

def row():
    return replace(sft(), name="edited", policy=Popularity(), source=Frames(interactions="log.csv"))
"""
    (project / "edited.py").write_text(code)
    assert main(["run", "edited.py:row"]) == 0
    (project / "edited.py").write_text(code.replace("Popularity()", "Popularity(), history_length=3"))
    assert main(["run", "edited.py:row"]) == 2
    assert "history_length is 5 there, 3 now" in capsys.readouterr().err
    (project / "edited.py").write_text(code)
    (project / "log.csv").write_text(log.replace("u3,", "v3,"))
    assert main(["run", "edited.py:row"]) == 2
    assert "the data files have changed (source.fingerprint)" in capsys.readouterr().err


@pytest.mark.parametrize("seeds", ["(0, 0)", "(0, 1)"])
def test_one_name_for_two_configurations_is_refused_before_anything_is_trained(
    project: Path, capsys: pytest.CaptureFixture[str], seeds: str
) -> None:
    (project / "twice.py").write_text(
        "from worlds import cyclic\n"
        f"def rows():\n    first, second = {seeds}\n    return [cyclic(steps=31, seed=first), cyclic(steps=32, seed=second)]\n"
    )
    made = artifacts(project)
    assert main(["run", "twice.py:rows"]) == 2
    said = capsys.readouterr().err
    assert "two experiments of the list have the name 'cyclic'" in said
    assert "sft.optimization.max_steps is 31 in one, 32 in the other" in said
    assert artifacts(project) == made


def test_a_name_of_a_list_is_a_prefix_and_lost_seeds_are_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "two.py").write_text(
        "from dataclasses import replace\nfrom genrec.experiment import baselines, seeds\nfrom mine import sft\n"
        "def rows():\n    return seeds(baselines(sft()), (0, 1))\n"
    )
    assert main(["run", "two.py:rows", "--name", "mine"]) == 0
    runs = project / "data" / "runs"
    for name in ("mine-cyclic-popularity", "mine-cyclic-itemknn"):
        assert list(json.loads((runs / f"{name}.json").read_text())["seeds"]) == ["0", "1"]
    assert not (runs / "mine.json").exists()
    capsys.readouterr()
    assert main(["run", "two.py:rows", "--name", "mine", "--seed", "1"]) == 0
    said = capsys.readouterr().err
    assert "4 experiments became 2" in said
    assert "mine-cyclic-popularity (seed 1), mine-cyclic-itemknn (seed 1); the run files keep their results of other seeds" in said
    assert list(json.loads((runs / "mine-cyclic-itemknn.json").read_text())["seeds"]) == ["0", "1"]


def test_rows_of_different_protocols_are_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "mine.py:sft", "--evaluate.filter-seen", "True", "--name", "filtered"]) == 0
    assert main(["compare", "cyclic", "filtered"]) == 4
    assert "filter_seen" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "mine.py:sft", "--sft.stpes", "3"], 2, "the nearest: --sft.optimization.max-steps"),
        (["run", "mine.py:sft", "--sft.optimization.max-steps", "many"], 2, "expected an integer or None, got 'many'"),
        (
            ["run", "mine.py:sft", "--sft.optimization.max-steps", "0"],
            2,
            "optimization.max_steps must be at least 1, got 0",
        ),
        (["run", "mine.py:aligned", "--align.loss.loss.beta", "nan"], 2, "beta must be above 0 and finite, got nan"),
        (["run", "mine.py:sft", "stray"], 2, "expected an override"),
        (["run", "mine.py:sft", "--name", "../up"], 2, "name must be letters"),
        (["run", "mine.py:nothing"], 2, "mine.py has no 'nothing'; it has: sft, aligned, comparison"),
        (["run", "nowhere.py:sft"], 2, "there is no file nowhere.py"),
        (["run", "mine.py:algined"], 2, "did you mean 'aligned'?"),
        (["run", "mine.py"], 2, "for example: genrec run mine.py:sft"),
        (["run", "mine.py:sft", "--sed", "3"], 2, "Experiment has no field 'sed'; the nearest: --seed"),
        (["run", "mine.py:sft", "--sft.stpes", "3"], 2, "list all fields: genrec run mine.py:sft --fields"),
        (["data", "mine.py:sft", "--source.no", "3"], 2, "list all fields: genrec run mine.py:sft --fields"),
        (["run", "leaving.py:row"], 2, "leaving.py, line 3: sys.exit(4) was called (sys.exit(4))"),
        (["run", "mine.py:broken"], 2, "ZeroDivisionError"),
        (["run", "mine.py:wrong"], 2, "must return an Experiment or a list of them, got str"),
        (["show", "nobody"], 2, "there is no run 'nobody'"),
    ],
)
def test_what_is_refused(project: Path, arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "leaving.py").write_text("import sys\n\nsys.exit(4)\n")
    assert main(arguments) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu", "mine.py:sft"], "there is no command 'rnu'; the commands are run, data, "),
        (["rnu", "mine.py:sft"], "; did you mean 'run'?"),
        (["run", "mine.py:sft", "--dryrun"], "there is no option --dryrun; did you mean '--dry-run'?"),
        (["run", "mine.py:sft", "--trak", "wandb"], "there is no option --trak; did you mean '--track'?"),
        (["data", "mine.py:sft", "--refesh"], "did you mean '--refresh'?"),
        (["compare", "a", "b", "--metrc", "ndcg@10"], "there is no option --metrc; did you mean '--metric'?"),
        (["compare", "a", "b", "--zzz"], "unrecognized arguments: --zzz; see genrec compare --help"),
    ],
)
def test_a_misspelled_command_or_option_gets_the_nearest(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_an_exit_of_a_plug_in_in_a_stage_is_an_error_with_its_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "exits.py").write_text(
        "import sys\nfrom dataclasses import dataclass, replace\nfrom mine import sft\n"
        "@dataclass(frozen=True)\nclass Leaving:\n    def encode(self, items, interactions):\n        sys.exit(0)\n"
        "def row():\n    return replace(sft(), name='exits', embed=Leaving())\n"
    )
    assert main(["run", "exits.py:row"]) == 3
    assert "raised SystemExit(0) at exits.py:7" in capsys.readouterr().err


def test_a_chosen_component_is_run_and_recorded(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "mine.py:sft", "--policy", "ItemKNN", "--policy.num-neighbors", "3", "--name", "neighbors"]
    assert main(command) == 0
    settings = json.loads((project / "data" / "runs" / "neighbors.json").read_text())["configuration"]
    assert settings["policy.class"] == "genrec.baselines.itemknn:ItemKNN"
    assert settings["policy.num_neighbors"] == 3
    capsys.readouterr()
    assert main([*command[:4], "--fields"]) == 0
    assert "--policy.num-neighbors" in capsys.readouterr().out


def test_an_altered_artifact_is_found(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 4, naming the file and the command that mends it; the command then does."""
    assert main(["run", "mine.py:sft", "--sft.optimization.max-steps", "22", "--name", "altered"]) == 0
    key = json.loads((project / "data" / "runs" / "altered.json").read_text())["seeds"]["0"]["artifacts"]["sft"]
    path = project / "data" / "artifacts" / "sft" / key / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x01")
    assert main(["run", "mine.py:sft", "--sft.optimization.max-steps", "22", "--name", "altered"]) == 4
    assert "policy.safetensors is missing or has changed" in capsys.readouterr().err
    assert main(["run", "mine.py:sft", "--sft.optimization.max-steps", "22", "--name", "altered", "--refresh", "sft"]) == 0


def test_check_finds_what_breaks_the_contract(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "plugins.py").write_text(PLUGINS)
    assert main(["check", "genrec.preference.negatives:Uniform"]) == 0
    assert main(["check", "genrec.preference.losses:SoftmaxDPO"]) == 0
    assert "SoftmaxDPO(beta=1.0) keeps its contract" in capsys.readouterr().out
    assert main(["check", "plugins.py:Target"]) == 3
    assert "is the target itself" in capsys.readouterr().err
    assert main(["check", "plugins.py:Nothing"]) == 2
    assert main(["check", "genrec.store:Store"]) == 2
    assert main(["check", "nowhere.at.all:Store"]) == 2


def test_check_knows_encoders_and_quantizers(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("genrec.embeddings:TfidfSvd", "genrec.tokenizer:RQKMeans"):
        assert main(["check", name]) == 0
        assert "keeps its contract" in capsys.readouterr().out
    assert main(["check", "genrec.experiment:Evaluate"]) == 2
    message = capsys.readouterr().err
    assert "Quantizer (fit, level_sizes, restore), Baseline (fit(interactions, item_count)), ItemEncoder (encode)" in message


def test_tokenize_prints_and_draws_the_semantic_ids(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One description for rows that share their Semantic IDs; figures as the artifact has them."""
    assert main(["tokenize", "mine.py:comparison", "--picture", "ids.svg"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("picture: ids.svg") == 1
    assert "RQKMeans(num_levels=2, codebook_size=8" in printed
    folder = next(line for line in printed.splitlines() if line.startswith("data/artifacts/tokenize/"))
    figures = json.loads((project / folder / "health.json").read_text())
    assert figures["items"] == 40
    assert f"perplexity {figures['levels'][0]['perplexity']:.1f}" in printed
    assert "<svg" in (project / "ids.svg").read_text()
    assert is_own_picture(project / "ids.svg")


def test_tokenize_overrides_refreshes_and_refuses(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tokenize", "mine.py:sft", "--tokenize.collisions", "keep", "--tokenize.quantizer.codebook_size", "4"]
    assert main(command) == 0
    assert "finished in" in capsys.readouterr().err
    assert main(command) == 0
    said = capsys.readouterr()
    assert "finished in" not in said.err
    picture = project / said.out.rpartition("picture: ")[2].strip()
    assert picture.parent == project / "data" / "reports"
    assert picture.stat().st_size > 10_000
    assert main([*command, "--refresh"]) == 0
    assert "tokenize" in capsys.readouterr().err
    assert main(["tokenize", "mine.py:sft", "--picture", "ids.gif"]) == 2
    assert "--picture must end in .png" in capsys.readouterr().err
    (project / "item_rows.py").write_text(
        "from genrec.experiment import baselines\nfrom mine import sft\ndef rows(): return baselines(sft())"
    )
    assert main(["tokenize", "item_rows.py:rows"]) == 2
    assert "has no experiment with Semantic IDs" in capsys.readouterr().err


def test_curves_are_drawn_when_a_policy_is_trained(project: Path) -> None:
    """One picture for each training, also where rows share it; and what TensorBoard shows, beside the artifacts."""
    data = project / "data"
    trained = {f"{path.parent.name}-{path.name}" for stage in ("sft", "align") for path in (data / "artifacts" / stage).glob("[!.]*")}
    drawn = [path.stem for path in (data / "reports").glob("*-seed-*.png")]
    assert sorted(name.partition("-seed-")[2][2:] for name in drawn) == sorted(trained)  # seeds have one digit
    pytest.importorskip("tensorboard")
    shown = [path.parent.name for path in (data / "tensorboard").rglob("events.*")]
    assert {name.removeprefix("seed-")[2:] for name in shown} == trained
    assert (data / "tensorboard" / "cyclic-sdpo").is_dir()


def test_curves_prints_draws_and_writes_trainings(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Alignment where every row has it, else SFT; the table has a row for each seed and step, and the values of the artifacts."""
    assert main(["run", "mine.py:comparison"]) == 0
    capsys.readouterr()
    assert main(["curves", "cyclic-sdpo", "--csv", "curves.csv", "--picture", "curves.svg"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("cyclic-sdpo, align\n  seed 0: 20 steps, best on validation: step ")
    assert "last values, seeds 0, 1" in printed
    assert "picture: curves.svg" in printed
    assert is_own_picture(project / "curves.svg")
    picture = (project / "curves.svg").read_text()
    assert "<!-- Log-probability of the user's item and of the negatives -->" in picture
    assert "<!-- 95 % interval over users -->" in picture
    assert "<!-- SFT, " in picture
    assert "<!-- popularity -->" in picture
    assert "<!-- ItemKNN -->" in picture
    assert "<!-- Training loss (lower is better) -->" not in picture
    assert main(["curves", "cyclic-sdpo", "--all", "--picture", "all.svg"]) == 0
    assert "<!-- Training loss (lower is better) -->" in (project / "all.svg").read_text()
    table = pd.read_csv(project / "curves.csv")
    assert list(table.columns[:5]) == ["name", "seed", "stage", "step", "loss"]
    assert table[["seed", "step"]].to_numpy().tolist() == [[0, 0], [0, 20], [1, 0], [1, 20]]
    keys = json.loads((project / "data" / "runs" / "cyclic-sdpo.json").read_text())["seeds"]
    for seed, entry in keys.items():
        folder = project / "data" / "artifacts" / "align" / entry["artifacts"]["align"]
        kept = pd.read_csv(folder / "curves.csv")
        assert str(folder.relative_to(project)) in printed
        assert f"{kept['chosen_log_prob'].iloc[-1]:.5g}" in printed
        own = table[table["seed"] == int(seed)].drop(columns=["name", "seed", "stage"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(own, kept)

    assert main(["curves", "cyclic", "cyclic-sdpo"]) == 0
    printed = capsys.readouterr().out
    assert "cyclic has no alignment, so these are the curves of SFT\ncyclic, cyclic-sdpo, sft\n" in printed
    assert Path(printed.rpartition("picture: ")[2].strip()).parent == Path("data/reports")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody"], "there is no run 'nobody'"),
        (["cyclic-sdpo", "cyclic-popularity"], "cyclic-popularity has no curves of a stage 'sft'; it has the stages data, evaluate"),
        (["cyclic", "--stage", "align"], "cyclic has no curves of a stage 'align'; it has the stages data, embed, tokenize, sft"),
        (["cyclic", "--picture", "curves.gif"], "--picture must end in .png"),
        (["cyclic", "--csv", "nowhere/curves.csv"], "nowhere/curves.csv cannot be written"),
    ],
)
def test_curves_that_are_refused(project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(["run", "mine.py:comparison"]) == 0
    capsys.readouterr()
    assert main(["curves", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("drawn_curves")
def test_a_picture_that_cannot_be_drawn_stops_no_run(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Matplotlib is missing; the next run draws what this one did not."""
    command = ["run", "mine.py:sft", "--sft.optimization.max-steps", "23", "--name", "undrawn"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)
        assert main(command) == 0
    assert "the training curves could not be drawn" in capsys.readouterr().err
    assert not list((project / "data" / "reports").glob("undrawn-*"))
    assert main(command) == 0
    assert "curves drawn in" in capsys.readouterr().err
    (picture,) = (project / "data" / "reports").glob("undrawn-*")
    assert is_own_picture(picture)
    assert picture.stat().st_size > 10_000
    assert main(command) == 0
    assert "curves drawn in" not in capsys.readouterr().err


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "torch" in printed
    assert "GiB free" in printed
    assert "tensorboard" in printed


KILLED = """
import os, signal
from genrec.training import lightning_module, loop
from genrec.__main__ import main

learning_rate, loop.CHECKPOINT_SECONDS = lightning_module.learning_rate, -1.0

def killed(plan, step):
    if step == 30:
        os.kill(os.getpid(), signal.SIGKILL)
    return learning_rate(plan, step)

lightning_module.learning_rate = killed
main()
"""


def outcome(folder: Path) -> tuple[dict[str, object], pd.DataFrame]:
    """The final weights and every user's rank."""
    weights = load_file(next(folder.glob("artifacts/sft/[!.]*/policy.safetensors")))
    return weights, pd.read_parquet(next(folder.glob("artifacts/evaluate/[!.]*/ranks.parquet")))


def test_a_killed_run_goes_on_to_the_same_weights_and_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL in step 30 of SFT, then SIGTERM in step 45 (exit 143), then the same command: bit for bit the uninterrupted run."""
    command, parts, path = ["run", "mine.py:sft"], tmp_path / "parts", [str(PROJECT), str(PROJECT / "tests")]
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "whole"))
    assert main(command) == 0

    monkeypatch.setenv("GENREC_HOME", str(parts))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    assert subprocess.run([sys.executable, "-c", KILLED, *command], env=environment).returncode == -signal.SIGKILL
    with monkeypatch.context() as patch:
        learning_rate = lightning_module.learning_rate

        def stopped(plan: Schedule, step: int) -> float:
            if step == 45:
                os.kill(os.getpid(), signal.SIGTERM)
            return learning_rate(plan, step)

        patch.setattr(lightning_module, "learning_rate", stopped)
        assert main(command) == 143
    assert "SFT: resuming from step 20" in capsys.readouterr().err
    assert main(command) == 0
    assert "SFT: resuming from step 46" in capsys.readouterr().err
    weights, ranks = outcome(tmp_path / "whole")
    again, ranks_again = outcome(parts)
    assert all(value.equal(again[name]) for name, value in weights.items())  # type: ignore[attr-defined]
    pd.testing.assert_frame_equal(ranks, ranks_again)
