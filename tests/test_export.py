"""`genrec export`: a folder gives the lists and probabilities of its row without the data, and damage is explained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from worlds import cyclic

import genrec
from genrec import kept_steps, loading, run_experiments, run_files, studies
from genrec.__main__ import main
from genrec.baselines import BPR, EASE, ItemKNN, Popularity, SASRec
from genrec.disk_usage import in_words
from genrec.errors import ArtifactError, UsageError
from genrec.experiment import Evaluate
from genrec.hashed_json import add_hash
from genrec.model import RPG
from genrec.serving import TrainedRow, export, export_files
from genrec.serving.model_card import MAIN

PLUGIN = """
from dataclasses import dataclass
from genrec.baselines import SASRec

@dataclass(frozen=True)
class Mine:
    width: int = 16
    causal = True

    def build(self, semantic_ids):
        return SASRec(d_model=self.width, d_ff=16).build(semantic_ids)
"""
NAMES = ("cyclic", "exact", "rpg", "sasrec")
BASELINES = {"popularity": Popularity(), "itemknn": ItemKNN(num_neighbors=5), "ease": EASE(l2=10.0)}
HISTORIES = (["item-3"], ["item-30", "item-31", "item-7"], [f"item-{number}" for number in range(12)])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with rows of TIGER (two seeds; and aligned, ranked exactly), RPG, SASRec, a plug-in and baselines."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "own_policy.py").write_text(PLUGIN)
    exact = replace(
        cyclic(steps=10, align_steps=5), name="exact", evaluate=Evaluate(cutoffs=(1, 5), scoring="exact", filter_seen=True)
    )
    rpg = replace(cyclic(steps=10), name="rpg", policy=RPG(d_model=16, d_ff=16, num_heads=2, num_layers=1))
    sasrec = replace(cyclic(steps=10), name="sasrec", tokenize=None, policy=SASRec(d_model=16, d_ff=16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(folder))
        own = replace(sasrec, name="own", policy=loading.component(f"{folder / 'own_policy.py'}:Mine"))
        fitted = [replace(cyclic(), name=name, policy=policy) for name, policy in (BASELINES | {"bpr": BPR(epochs=1)}).items()]
        rows = [cyclic(steps=10), cyclic(steps=10, seed=1), exact, rpg, sasrec, own, *fitted]
        run_experiments.run(rows, study="/home/someone/lab/experiments/tiny.py:rows")
    return folder


@pytest.fixture(autouse=True)
def _in_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(home))


@pytest.fixture
def exported(home: Path, tmp_path: Path) -> Path:
    """A fresh export of the row of TIGER."""
    export("cyclic", str(tmp_path / "out"))  # text and Path alike
    return tmp_path / "out"


def log_probs(row: TrainedRow) -> torch.Tensor:
    """Return log p of all items after a history, float32 [1, N]."""
    every = torch.arange(1, len(row.items.catalog) + 1).unsqueeze(0)
    with torch.no_grad():
        return row.items.recommender.log_prob(torch.tensor([[3, 7]]), every)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_an_export_gives_the_lists_of_its_row_without_the_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = genrec.load(name)
    expected = [row.recommend(history, n=5) for history in HISTORIES]
    written = export(name, tmp_path / "parent" / "out")
    assert {path.name for path in written} == {path.name for path in (tmp_path / "parent" / "out").iterdir()}
    shutil.move(tmp_path / "parent" / "out", tmp_path / "moved")
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "absent"))
    found = genrec.load(tmp_path / "moved")
    for history, table in zip(HISTORIES, expected, strict=True):
        pd.testing.assert_frame_equal(found.recommend(history, n=5), table, check_exact=True)
    assert torch.equal(log_probs(found), log_probs(row))
    assert (found.name, found.seed, found.filter_seen, found.items.exactly) == (name, 0, name == "exact", name == "exact")
    assert not (tmp_path / "absent").exists()
    assert ("semantic_ids.safetensors" in {path.name for path in written}) == (name != "sasrec")


def test_all_files_have_the_permissions_of_the_process(exported: Path, home: Path) -> None:
    """safetensors writes files that their owner alone may read; an export is handed on, and artifacts may be shared."""
    umask = os.umask(0)
    os.umask(umask)
    weights = next((home / "artifacts").glob("*/[!.]*/policy.safetensors"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in [*exported.iterdir(), weights]}
    assert modes == dict.fromkeys(modes, 0o666 & ~umask)


def test_a_process_without_the_data_prints_the_list(exported: Path, tmp_path: Path) -> None:
    environment = {
        "GENREC_HOME": str(tmp_path / "absent"),
        "PYTHONPATH": str(Path(genrec.__file__).parents[1]),
        "PATH": "/usr/bin:/bin",
    }
    command = [sys.executable, "-m", "genrec", "recommend", "out", "--history", "item-3", "--n", "3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    expected = genrec.load("cyclic").recommend(["item-3"], n=3)
    assert json.loads(done.stdout)["recommendations"] == expected.to_dict("records")


def test_a_row_comes_before_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export("rpg", Path("cyclic"))
    assert genrec.load("cyclic").corpus is not None
    assert genrec.load("./cyclic").name == "rpg"
    with pytest.raises(UsageError, match="there is no run 'nothing'"):
        genrec.load("nothing")
    with pytest.raises(UsageError, match=r"the folder nothing does not exist; write one with: genrec export NAME ./nothing"):
        genrec.load("./nothing")


def test_seeds_and_beams(exported: Path, tmp_path: Path) -> None:
    export("cyclic", tmp_path / "one", seed=1)
    assert genrec.load(tmp_path / "one").recommend(["item-3"])["score"].tolist() == pytest.approx(
        genrec.load("cyclic", seed=1).recommend(["item-3"])["score"].tolist(), abs=0
    )
    with pytest.raises(UsageError, match="holds seed 0 of cyclic, not seed 1"):
        genrec.load(exported, seed=1)
    with pytest.raises(UsageError, match=r"needs at least 30 beams.*genrec.load\('.*out', num_beams=30\)"):
        genrec.load(exported).recommend(["item-3"], n=30)
    assert len(genrec.load(exported, num_beams=40).recommend(["item-3"], n=40)) == 40


@pytest.mark.parametrize(
    "arguments", [["--user", "user-3"], ["--all-users", "--out", "lists.csv"], ["--file", "users.csv", "--out", "lists.csv"]]
)
def test_an_export_has_no_users(
    arguments: list[str], exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users.csv").write_text("user_id\nuser-3\n")
    assert main(["recommend", "out", *arguments]) == 2
    assert "out is an export, which holds items and weights but no users; give a history of items" in capsys.readouterr().err
    assert not (tmp_path / "lists.csv").exists()


def test_histories_of_a_file_need_no_users(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asked.csv").write_text("user_id,item_id\na,item-3\n")
    assert main(["recommend", "./out", "--file", "asked.csv", "--out", "lists.csv", "--n", "2"]) == 0
    assert list(pd.read_csv("lists.csv")["item_id"]) == list(genrec.load("cyclic").recommend(["item-3"], n=2)["item_id"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 3'))


def point(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", cut, r"model.safetensors has [\d,]+ bytes, expected [\d,]+; export the row again"),
        ("model.safetensors", flip, "model.safetensors has changed since the export"),
        ("model.safetensors", point, "it is a pointer of Git LFS; run 'git lfs pull'"),
        ("semantic_ids.safetensors", flip, "semantic_ids.safetensors has changed since the export"),
        ("items.parquet", flip, "items.parquet has changed since the export"),
        ("items.parquet", Path.unlink, "items.parquet is missing from the export"),
        ("genrec.json", cut, "genrec.json is damaged"),
        ("genrec.json", edit, "genrec.json has changed since it was written"),
    ],
)
def test_damage_is_found_when_the_export_is_loaded(name: str, damage: object, message: str, exported: Path) -> None:
    damage(exported / name)  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=message):
        genrec.load(exported)


def rewritten(folder: Path, **changes: object) -> None:
    """Change the settings of an export, with their hash."""
    content = json.loads((folder / "genrec.json").read_text())
    del content["sha256"]
    (folder / "genrec.json").write_text(json.dumps(add_hash(content | changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, r"written by a newer version of genrec \(format 2, this version reads 1\)"),
        ({"files": {}}, "files has no entry model.safetensors"),
        ({"files": {"model.safetensors": 1, "items.parquet": 1, "../x": 1}}, "model.safetensors is 1, expected an object"),
    ],
)
def test_settings_of_another_form(changes: dict[str, object], message: str, exported: Path) -> None:
    rewritten(exported, **changes)
    with pytest.raises(ArtifactError, match=message):
        genrec.load(exported)


def test_a_version_that_computes_other_scores_is_refused(exported: Path) -> None:
    """Another version may load the export as long as it gives the probabilities of the probe."""
    before = json.loads((exported / "genrec.json").read_text())["probe"]
    assert len(before["items"]) == len(before["log_prob"]) == 5
    rewritten(exported, genrec="0.0.9")
    assert genrec.load(exported).name == "cyclic"
    rewritten(exported, probe=before | {"log_prob": [value + 0.002 for value in before["log_prob"]]})
    with pytest.raises(ArtifactError, match=r"was written by genrec 0.0.9, and genrec .* computes other scores .*0.002"):
        genrec.load(exported)


def test_an_empty_text_is_no_folder_and_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, what in ((["cyclic", ""], "folder of the export"), (["", "out"], "name of the row")):
        assert main(["export", *arguments]) == 2
        assert f"the {what} is an empty text; give the row and a new or empty folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_refused_and_a_failure_leaves_it_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("kept")
    with pytest.raises(UsageError, match=r"a is not empty, it holds mine.txt; name a new or empty folder"):
        export("cyclic", tmp_path / "a")
    with pytest.raises(UsageError, match=r"mine.txt is a file; name a new or empty folder"):
        export("cyclic", tmp_path / "a" / "mine.txt")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("genrec.serving.row_export.model_card", lambda *_: 1 / 0)
    for name in ("empty", "new"):
        with pytest.raises(ZeroDivisionError):
            export("cyclic", tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty"]
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("name", BASELINES)
def test_an_exported_baseline_gives_the_lists_of_its_row(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = genrec.load(name)
    histories = ([], *HISTORIES)  # a baseline recommends to an empty history, too
    expected = [row.recommend(history, n=5, exclude_seen=True) for history in histories]
    export(name, tmp_path / "out")
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "absent"))
    found = genrec.load(tmp_path / "out")
    for history, table in zip(histories, expected, strict=True):
        pd.testing.assert_frame_equal(found.recommend(history, n=5, exclude_seen=True), table, check_exact=True)
    assert type(found.items.specification) is type(BASELINES[name])
    assert not (tmp_path / "absent").exists()


def test_a_baseline_and_a_policy_are_served_side_by_side(exported: Path, tmp_path: Path) -> None:
    from genrec.serving.service_app import recommended

    export("itemknn", tmp_path / "knn")
    wanted = {"history": ["item-3"], "n": 4}
    lists = [recommended(genrec.load(folder), wanted, 10) for folder in (exported, tmp_path / "knn")]
    assert [(each["row"], len(each["items"])) for each in lists] == [("cyclic", 4), ("itemknn", 4)]


def test_a_baseline_that_needs_its_users_is_refused(tmp_path: Path) -> None:
    """BPR ranks by a vector of each user; without the user it would recommend the same items to every history."""
    with pytest.raises(UsageError, match="bpr is the baseline BPR, which cannot be exported: it recommends by"):
        export("bpr", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_untrained_row_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """By `recommend`, `export`, the model card and the export itself; a row that has learned is not."""
    assert main(["recommend", "cyclic", "--history", "item-3"]) == 0
    assert "warning" not in capsys.readouterr().err
    monkeypatch.setattr(kept_steps, "kept_step", lambda artifact: 0)
    said = "warning: cyclic, seed 0: the policy is untrained: step 0 was the best on validation, so its lists are those of random"
    assert main(["recommend", "cyclic", "--history", "item-3"]) == 0
    assert said in capsys.readouterr().err
    assert main(["export", "cyclic", str(tmp_path / "out")]) == 0
    assert said in capsys.readouterr().err
    assert "> **Warning:** the policy is untrained: step 0 was the best" in (tmp_path / "out" / "README.md").read_text()
    monkeypatch.undo()
    assert main(["recommend", str(tmp_path / "out"), "--history", "item-3"]) == 0
    assert said in capsys.readouterr().err


def test_an_alignment_that_changed_nothing_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_steps, "kept_step", lambda artifact: 0 if artifact.stage == "align" else 10)
    assert genrec.load("exact").warning == "align changed nothing: step 0 was the best on validation, so this is the SFT policy"
    monkeypatch.setattr(kept_steps, "kept_step", lambda artifact: 0)
    assert genrec.load("exact").warning.startswith("the policy is untrained")


def test_a_policy_of_ones_own_needs_its_code(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = str(home / "own_policy.py")
    written = export("own", tmp_path / "out", code=code)
    assert "own_policy.py" not in {path.name for path in written}
    assert 'genrec.load("PATH/TO/FOLDER", code="FILE.py")' in (tmp_path / "out" / "README.md").read_text()
    monkeypatch.delitem(sys.modules, "own_policy")
    with pytest.raises(UsageError, match=r"policy is Mine, a plug-in of your own in the module own_policy.*--code FILE.py"):
        genrec.load(tmp_path / "out")
    expected = genrec.load("own", code=code).recommend(["item-3"])
    pd.testing.assert_frame_equal(genrec.load(tmp_path / "out", code=code).recommend(["item-3"]), expected)


def test_the_model_card_has_the_figures_of_show(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "cyclic"]) == 0
    shown = capsys.readouterr().out.partition("seed 0\n")[2].partition("seed 1\n")[0]
    card = (exported / "README.md").read_text()
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in card.splitlines() if line.startswith("|")]
    values = {line[0].replace("\\", ""): line[1] for line in table}
    metrics = run_files.read("cyclic")["seeds"]["0"]["metrics"]
    assert metrics
    for name in metrics:
        assert f"  {name} = {values[name]}\n" in shown
    for name, value in run_files.read("cyclic")["protocol"].items():
        assert values[name].replace("\\", "") == str(value)
    assert "genrec run experiments/tiny.py:rows --seeds 0," in card
    assert "/home/someone" not in card + (exported / "genrec.json").read_text()
    assert "mean of 2 seeds" in card
    assert "## License and data" in card


def test_the_card_says_what_the_command_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the command line, where they were changed, or where an earlier version did not record it."""
    lacks, unknown = "It lacks settings that were changed on the command line", "if there were any, are only below"
    for number, (overridden, said, not_said) in enumerate(
        ((False, "The path is", lacks), (True, lacks, unknown), (None, unknown, lacks))
    ):
        monkeypatch.setattr(studies, "was_overridden", lambda *_, found=overridden: found)
        export("sasrec", tmp_path / str(number))
        card = (tmp_path / str(number) / "README.md").read_text()
        assert said in card
        assert not_said not in card
    monkeypatch.setattr(studies, "of_run", lambda *_: ())
    export("sasrec", tmp_path / "python")
    assert "The row was run by Python code, for which `FILE.py:FUNCTION` stands." in (tmp_path / "python" / "README.md").read_text()


def test_the_hub_reads_the_front_matter(exported: Path) -> None:
    data = ModelCard.load(exported / "README.md").data
    metrics = run_files.read("cyclic")["seeds"]["0"]["metrics"]
    assert (data.library_name, data.license, data.model_name) == ("genrec", "other", "cyclic")
    found = {each.metric_type: each.metric_value for each in data.eval_results}
    assert found == {name: value for name, value in metrics.items() if name.startswith(MAIN) and "[" not in name}
    assert set(found) >= {"recall@10", "ndcg@10"}


def test_hostile_names_and_values_stay_text(exported: Path) -> None:
    """The cells of the card hold values of a user's own classes, which may contain any character."""
    from genrec.serving.model_card import _table

    assert _table(("a",), [("x|y\n<b>`[1](u)",)]).splitlines()[-1] == r"| x\|y \<b\>\`\[1\](u) |"
    catalog = export_files.read_items(exported / "items.parquet")
    assert catalog.ids == genrec.load("cyclic").items.catalog.ids


def test_the_command_prints_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "sasrec", "out"]) == 0
    said = capsys.readouterr().out
    size = sum(path.stat().st_size for path in Path("out").iterdir())
    assert f"out: README.md, genrec.json, items.parquet, model.safetensors, {in_words(size)}; try it with" in said
    assert "genrec recommend ./out --search TEXT" in said
    assert main(["recommend", "./out", "--search", "robust"]) == 0
    assert main(["export", "sasrec", "out"]) == 2
    assert "the folder out is not empty" in capsys.readouterr().err
