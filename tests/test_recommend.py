"""`genrec recommend` and `genrec.load`: lists equal those of the evaluation, in the user's ids, and wrong input is explained."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from worlds import cyclic

import genrec
from genrec import command_parser, failed_runs, loading, run_experiments, run_files
from genrec.__main__ import main
from genrec.baselines import Popularity, SASRec
from genrec.errors import ArtifactError, GenrecError, InputError, UsageError
from genrec.experiment import Experiment
from genrec.serving import CatalogItems, TrainedRow, bulk_lists, item_recommender, recommend_command, table_files
from genrec.serving.history_files import read_requests
from genrec.workspace import store

PLUGIN = """
from dataclasses import dataclass
from genrec.baselines import ItemKNN

@dataclass(frozen=True)
class Mine:
    neighbors: int = 5

    def fit(self, interactions, item_count):
        return ItemKNN(num_neighbors=self.neighbors).fit(interactions, item_count)
"""
ROWS = ("cyclic", "cyclic-sasrec", "cyclic-popularity")


def sasrec() -> Experiment:
    return replace(cyclic(steps=10), name="cyclic-sasrec", tokenize=None, policy=SASRec(d_model=16, d_ff=16))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with rows of TIGER at two seeds, SASRec, popularity and a baseline of the user's own file."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "mine.py").write_text(PLUGIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(folder))
        mine = loading.component(f"{folder / 'mine.py'}:Mine")
        baselines = [
            replace(cyclic(), name=f"cyclic-{name}", policy=policy) for name, policy in (("popularity", Popularity()), ("mine", mine))
        ]
        run_experiments.run([cyclic(steps=15), cyclic(steps=15, seed=1), sasrec(), *baselines])
    return folder


@pytest.fixture(autouse=True)
def _in_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(home))


@pytest.fixture(scope="module")
def tiger(home: Path) -> TrainedRow:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(home))
        return genrec.load("cyclic")


def evaluated(name: str, row: TrainedRow) -> pd.DataFrame:
    """Return the lists of the evaluation in the ids of the data."""
    key = run_files.read(name)["seeds"][str(row.seed)]["artifacts"]["evaluate"]
    table = pd.read_parquet(store().folder("evaluate", key) / "recommendations.parquet")
    ids = row.items.catalog.ids
    users, items = [str(row.corpus.user_ids[user - 1]) for user in table["user"]], [ids[item - 1] for item in table["item"]]
    return pd.DataFrame({"user_id": users, "position": table["position"], "item_id": items, "score": table["score"]})


@pytest.mark.parametrize("name", ROWS)
def test_lists_are_those_of_the_evaluation(name: str) -> None:
    row = genrec.load(name)
    expected = evaluated(name, row)
    found = row.recommend_users(list(dict.fromkeys(expected["user_id"])), n=10, before="test")
    assert found[["user_id", "position", "item_id"]].values.tolist() == expected[["user_id", "position", "item_id"]].values.tolist()
    assert found["score"].tolist() == pytest.approx(expected["score"].tolist(), abs=1e-5)


def test_a_history_gives_the_list_of_the_user_who_has_it(tiger: TrainedRow) -> None:
    user = str(tiger.corpus.user_ids[3])
    history = tiger.history(user=user)
    ids = [tiger.items.catalog.ids[number - 1] for number in history.items]
    titles = [tiger.items.catalog.titles[number - 1] for number in history.items]
    pd.testing.assert_frame_equal(tiger.recommend(ids, n=5), tiger.recommend(user=user, n=5))
    pd.testing.assert_frame_equal(tiger.recommend(titles, n=5), tiger.recommend(user=user, n=5))


def test_what_is_no_text_is_never_a_word_of_a_title(tiger: TrainedRow) -> None:
    """Titles end with a number ('Item 3'), so an integer that is no id must not find one. A Series of ids is a history."""
    catalog = tiger.items.catalog
    word = catalog.titles[2].split()[-1]
    assert catalog.search(word)
    with pytest.raises(InputError, match=r"history\[1\]: no item has the id '3'"):
        tiger.recommend(["item-3", 3])
    for wrong in (None, float("nan"), True, 3.0):
        with pytest.raises(UsageError, match=r"history\[0\] must be the id or the title of an item, a text or an integer, got "):
            tiger.recommend([wrong])  # type: ignore[list-item]
    ids = ["item-3", "item-7"]
    pd.testing.assert_frame_equal(tiger.recommend(pd.Series(ids), n=5), tiger.recommend(ids, n=5))  # type: ignore[arg-type]


def test_integers_of_numpy_are_integers(tiger: TrainedRow, tmp_path: Path) -> None:
    history = ["item-3"]
    pd.testing.assert_frame_equal(tiger.recommend(history, n=np.int64(4)), tiger.recommend(history, n=4))  # type: ignore[arg-type]
    assert len(genrec.load("cyclic", seed=np.int64(1), num_beams=np.int32(30)).recommend(history, n=30)) == 30  # type: ignore[arg-type]
    for user in (7, np.int64(7)):
        with pytest.raises(InputError, match=r"cyclic has no user '7' among"):
            tiger.recommend(user=user)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"cyclic has no user '7' among"):
            tiger.recommend_users([user])  # type: ignore[list-item]


def test_lists_of_no_user_and_of_a_user_twice(tiger: TrainedRow) -> None:
    user = str(tiger.corpus.user_ids[0])
    found, empty = tiger.recommend_users([user], n=3), tiger.recommend_users([], n=3)
    assert (len(empty), list(empty.columns), list(empty.dtypes)) == (0, list(found.columns), list(found.dtypes))
    with pytest.raises(UsageError, match=f"recommend_users got the user '{user}' twice; give each user once"):
        tiger.recommend_users([user, "user-1", user])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda row: genrec.load(None), "load needs the name of a row or the folder of an export, got None"),
        (lambda row: genrec.load(""), "load needs the name of a row or the folder of an export, got ''"),
        (lambda row: genrec.load("cyclic", seed="1"), "seed must be an integer of 0 or more, got '1'"),
        (lambda row: genrec.load("cyclic", num_beams="60"), "num_beams, the least number of beams .*, got '60'"),
        (lambda row: genrec.load("cyclic", num_beams=-1), "num_beams, the least number of beams .*, got -1"),
        (lambda row: genrec.load("cyclic", code=3), "code must be FILE.py or MODULE, got 3"),
        (lambda row: genrec.serving.export(None, "out"), "the name of the row must be a text or a path, got None"),
        (lambda row: row.recommend(7), r"history must be a list of items, got 7; write \[7\]"),
        (lambda row: row.recommend(b"item-3"), r"history must be a list of items, got b'item-3'; write \['item-3'\]"),
        (lambda row: row.recommend_users(b"u"), r"recommend_users needs a list of user ids, got b'u'; write \['u'\]"),
        (lambda row: row.recommend({"item-3", "item-7"}), "history must be a list of items, oldest first; a set has no such order"),
        (lambda row: row.recommend(frozenset()), "history must be a list of items, oldest first; a frozenset has no such order"),
        (lambda row: row.recommend({"item-3": 1}), "history must be a list of items, oldest first; a dict has no such order, got {"),
        (lambda row: row.search(" "), "search needs words of a title, a text, got ' '"),
        (lambda row: row.recommend(["item-3"], n=np.array([1, 2])), "n, the number of items of a list, must be an integer of 1"),
        (lambda row: row.recommend(["item-3"], exclude_seen="no"), "exclude_seen must be True, False or None"),
        (lambda row: row.recommend_users(7), r"recommend_users needs a list of user ids, got 7; write \[7\]"),
        (lambda row: row.recommend_users([None]), r"users\[0\] must be the id of a user, a text or an integer, got None"),
        (lambda row: row.recommend_users([], n=0), "n, the number of items of a list, must be an integer of 1 or more, got 0"),
        (lambda row: row.search(3), "search needs words of a title, a text, got 3"),
    ],
)
def test_arguments_of_another_type_are_explained(call: Callable[[TrainedRow], object], message: str, tiger: TrainedRow) -> None:
    with pytest.raises(UsageError, match=message):
        call(tiger)


def test_the_score_is_the_log_probability(tiger: TrainedRow) -> None:
    found = tiger.recommend(["item-3", "item-7"], n=4)
    numbers = torch.tensor([[tiger.items.catalog.numbers[item] for item in found["item_id"]]])
    history = torch.tensor([[tiger.items.catalog.numbers[item] for item in ("item-3", "item-7")]])
    log_prob = tiger.items.recommender.log_prob(history, numbers)  # type: ignore[attr-defined]
    assert found["score"].tolist() == pytest.approx(log_prob[0].tolist(), abs=1e-5)
    assert list(found["position"]) == [1, 2, 3, 4]
    assert found["score"].is_monotonic_decreasing
    semantic_ids = tiger.semantic_ids().set_index("item_id")["semantic_id"]
    assert list(found["semantic_id"]) == list(semantic_ids[found["item_id"]])


def test_taken_items_are_left_out_also_beyond_the_history_length(tiger: TrainedRow) -> None:
    """The policy reads 5 items; 12 are given, and none of them is recommended."""
    history = [f"item-{number}" for number in range(12)]
    every = tiger.recommend(history, n=20)
    kept = tiger.recommend(history, n=20, exclude_seen=True)
    assert set(every["item_id"]) & set(history)
    assert not set(kept["item_id"]) & set(history)
    pd.testing.assert_frame_equal(tiger.recommend(history[-5:], n=20), every)


def test_a_list_is_no_longer_than_the_beams_or_the_catalog(tiger: TrainedRow) -> None:
    with pytest.raises(UsageError, match=r"needs at least 30 beams.*genrec.load\('cyclic', num_beams=30\)"):
        tiger.recommend(["item-1"], n=30)
    assert len(genrec.load("cyclic", num_beams=100).recommend(["item-1"], n=100)) == 40
    assert len(genrec.load("cyclic-popularity").recommend(["item-1"], n=100)) == 40


def test_seeds(tiger: TrainedRow, capsys: pytest.CaptureFixture[str]) -> None:
    assert (tiger.seed, tiger.seeds) == (0, (0, 1))
    assert repr(tiger) == "TrainedRow(cyclic, seed 0 of 0, 1: Tiger, 40 items, 100 users)"
    html = replace(tiger, name="<b>", warning="untrained & more")._repr_html_()
    cells = ("<th>row</th><td>&lt;b&gt;</td>", "<td>0 of 0, 1</td>", "<td>40</td>", "<td>100</td>", "<td>untrained &amp; more</td>")
    assert all(cell in html for cell in cells)
    assert "warning" not in replace(tiger, warning="")._repr_html_()
    other = genrec.load("cyclic", seed=1)
    assert other.recommend(["item-1"])["score"].tolist() != tiger.recommend(["item-1"])["score"].tolist()
    with pytest.raises(UsageError, match=r"cyclic has no result of seed 7, only of seeds 0 and 1; train it with"):
        genrec.load("cyclic", seed=7)
    assert main(["recommend", "cyclic", "--search", "item"]) == 0
    assert "has the seeds 0, 1; this is seed 0" in capsys.readouterr().err


def test_a_search_lists_n_items(tiger: TrainedRow, capsys: pytest.CaptureFixture[str]) -> None:
    """Titles with the letter 'a', of which there are more than three and fewer than 100."""
    matches = sum("a" in title.casefold() for title in tiger.items.catalog.titles)
    assert 3 < matches < 100
    for n, count in ((3, 3), (100, matches)):
        assert main(["recommend", "cyclic", "--search", "a", "--n", str(n), "--json"]) == 0
        shown = capsys.readouterr()
        assert len(found := json.loads(shown.out)) == count
        assert found == tiger.search("a", count).to_dict("records")
        assert (f"{matches} items match, and these are the 3 most popular ones; --n {matches} lists all" in shown.err) == (n == 3)


def test_a_search_reads_the_titles_once_and_says_what_it_lists(
    tiger: TrainedRow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    searched, plain = [], CatalogItems.search
    monkeypatch.setattr(CatalogItems, "search", lambda *arguments: searched.append(arguments[1]) or plain(*arguments))
    for text, shown, message in (("light", True, ""), ("lihgt", True, "have similar ones"), ("zzzz", False, "or similar ones")):
        searched.clear()
        assert main(["recommend", "cyclic", "--search", text, "--n", "50"]) == 0
        assert searched == [text]
        found = capsys.readouterr()
        assert (" light" in found.out, bool(found.out)) == (shown, shown)
        assert ("no title has these words" in found.err) == bool(message)
        assert message in found.err
    assert main(["recommend", "cyclic", "--search", "zzzz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_list_longer_than_the_catalog_is_announced_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--history", "item-3"], ["--all-users", "--out", str(tmp_path / "lists.csv")]):
        for n in (40, 41):
            assert main(["recommend", "cyclic-popularity", *arguments, "--n", str(n)]) == 0
            announced = capsys.readouterr().err.count("--n 41: cyclic-popularity has 40 items, so no list is longer")
            assert announced == (n == 41)


def test_a_plugin_needs_its_file_as_it_was(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mine")
    with pytest.raises(UsageError, match=r"policy is Mine, a plug-in of your own in the module mine.*--code FILE.py"):
        genrec.load("cyclic-mine")
    row = genrec.load("cyclic-mine", code=str(home / "mine.py"))
    assert len(row.recommend(["item-1"], n=3)) == 3
    (tmp_path / "mine.py").write_text(PLUGIN.replace("num_neighbors=self.neighbors", "num_neighbors=0"))
    with pytest.raises(ArtifactError, match="the code of mine:Mine has changed since the row was trained"):
        genrec.load("cyclic-mine", code=str(tmp_path / "mine.py"))


def test_a_removed_artifact_is_named_with_the_command_that_builds_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home, tmp_path / "copy")
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "copy"))
    shutil.rmtree(tmp_path / "copy" / "artifacts" / "evaluate")
    assert len(genrec.load("cyclic").recommend(["item-1"])) == 10  # an evaluation is not needed
    shutil.rmtree(tmp_path / "copy" / "artifacts" / "sft")
    with pytest.raises(ArtifactError, match=r"cyclic \(seed 0\) needs the artifact sft/\w{16}, which is no longer in .*genrec run"):
        genrec.load("cyclic")


def test_a_failed_run_is_named_with_the_command_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["genrec", "run", "mine.py:sft"])
    failed_runs.record(cyclic(), ["data"], ValueError("no"))
    with pytest.raises(UsageError, match=r"cyclic has no result yet: seed 0 failed in embed; go on with: genrec run mine.py:sft"):
        genrec.load("cyclic")
    with pytest.raises(UsageError, match="there is no run 'cyclik'"):
        genrec.load("cyclik")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nothing to recommend to: give --history"),
        (["--search", ""], 2, "--search needs words of a title, got ''"),
        (["--search", " "], 2, "--search needs words of a title, got ' '"),
        (["--history", "3"], 3, "a number is not searched in titles, write 'title:3' for that"),
        (["--history"], 3, "the history is empty, and a trained policy needs at least one item"),
        (["--history", "item-99"], 3, "no item has the id 'item-99'"),
        (["--history", "ITEM-3"], 3, "use the same capital letters in both"),
        (["--user", "nobody-at-all"], 3, "cyclic has no user 'nobody-at-all' among the 100 users"),
        (["--user", "user-3", "-n", "0"], 2, "--n must be 1 or more, got 0"),
        (["--history", "item-3", "--before", "test"], 2, "--before ends the history of a user of the data"),
        (["--all-users"], 2, "name the file for them with --out lists.parquet"),
        (["--file", "users.csv", "--out", "lists.xlsx"], 2, "--out must end in .parquet, .csv, .jsonl, got 'lists.xlsx'"),
        (["--file", "absent.csv", "--out", "lists.csv"], 3, "there is no file absent.csv"),
        (["--user", "user-3", "--skip-unknown"], 2, "--skip-unknown leaves out unknown users and items of a --file"),
        (["--all-users", "--out", "absent/lists.csv"], 2, "absent/lists.csv cannot be written"),
        (["--semantic-ids", "absent/ids.csv"], 2, "absent/ids.csv cannot be written"),
    ],
)
def test_wrong_input_is_explained(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recommend", "cyclic", *arguments]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--history -abc B", {"history": ["-abc", "B"]}),
        ("--history A -7 -n3Fab -hello --json", {"history": ["A", "-7", "-n3Fab", "-hello"], "json": True}),
        ("--hist -abc -n5 --exclude-seen", {"history": ["-abc"], "n": 5, "exclude_seen": True}),
        ("--history B --history=-n5 --history=--json", {"history": ["B", "-n5", "--json"], "n": 10, "json": False}),
        ("--history -- -n5 --json", {"history": ["-n5", "--json"], "n": 10, "json": False}),
        ("--user -7", {"user": "-7"}),
        ("--user -abc -n 5", {"user": "-abc", "n": 5}),
        ("--user=--json", {"user": "--json", "json": False}),
        ("--search -abc", {"search": "-abc"}),
    ],
)
def test_ids_may_begin_with_a_dash(arguments: str, expected: dict[str, object]) -> None:
    options, _ = command_parser.parse(command_parser.build(), ["recommend", "cyclic", *arguments.split()])
    assert {name: getattr(options, name) for name in expected} == expected
    assert options.name == "cyclic"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--history A --abc", "there is no option --abc; did you mean '--search'? If it is an id or a text, write --history=--abc"),
        ("--user --qqqqq", "there is no option --qqqqq. If it is an id or a text, write --user=--qqqqq"),
        ("--history=-abc B", "unrecognized arguments: B; --history=ITEM takes one item, repeat it for each item"),
        ("--user -abc -xyz", "unrecognized arguments: -xyz"),
    ],
)
def test_an_id_that_reads_as_an_option_is_explained(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["recommend", "cyclic", *arguments.split()])
    assert message in capsys.readouterr().err


def test_a_dashed_id_reaches_the_lookup(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "cyclic", "--history", "-abc", "item-3"]) == 3
    assert "no item has the id '-abc'" in capsys.readouterr().err


def test_an_empty_history_gets_the_list_of_a_baseline() -> None:
    row = genrec.load("cyclic-popularity")
    assert list(row.recommend([], n=3)["item_id"]) == list(row.recommend(["item-1"], n=3)["item_id"])


def test_json_and_text_hold_the_list(tiger: TrainedRow, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "cyclic", "--history", "item-3", "--n", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = tiger.recommend(["item-3"], n=2)
    assert found["recommendations"] == expected.to_dict("records")
    assert [item["item_id"] for item in found["history"]] == ["item-3"]
    assert main(["recommend", "cyclic", "--history", "item-3", "--n", "2"]) == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()[-2:]]
    assert [line[1] for line in lines] == list(expected["item_id"])
    assert [" ".join(line[2:4]) for line in lines] == list(expected["title"])
    assert [line[-1] for line in lines] == list(expected["semantic_id"])


def test_a_pipe_gets_short_titles_and_a_terminal_lines_that_fit(
    tiger: TrainedRow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A title of 300 characters in the list and in the history: 60 of them in a pipe; the terminal has 70 columns."""
    catalog, title = tiger.items.catalog, " ".join(["kettle"] * 43)[:300]
    long = replace(tiger, items=tiger.items._replace(catalog=CatalogItems(catalog.ids, (title,) * 40, catalog.num_interactions)))
    monkeypatch.setattr(recommend_command, "load", lambda *_: long)
    monkeypatch.setenv("COLUMNS", "70")
    command = ["recommend", "cyclic", "--history", "item-3", "--n", "2"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.count(title[:57] + "...") == 3
    assert title[:58] not in out
    assert main([*command, "--json"]) == 0
    assert capsys.readouterr().out.count(title) == 3
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(command) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "kettle" in line]
    assert len(lines) == 3
    assert max(map(len, lines)) < 70
    assert all("..." in line for line in lines)


def requests(folder: Path, ending: str) -> Path:
    """Write two histories in a format; one user's id has leading zeros."""
    path, users, lists = folder / f"asked{ending}", ["007", "b"], [["item-3", "item-7"], ["item-1"]]
    if ending == ".csv":
        lines = [f"{user},{item}\n" for user, items in zip(users, lists, strict=True) for item in items]
        path.write_text("user_id,item_id\n" + "".join(lines))
    elif ending == ".parquet":
        pq.write_table(pa.table({"user_id": users, "history": lists}), path)
    else:
        path.write_text("".join(f"{json.dumps({'user_id': u, 'history': h})}\n" for u, h in zip(users, lists, strict=True)))
    return path


def read(path: Path) -> pd.DataFrame:
    """Return a written table with ids as text."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    ids = {"user_id": str, "item_id": str}
    return pd.read_csv(path, dtype=ids) if path.suffix == ".csv" else pd.read_json(path, lines=True, dtype=ids)


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_histories_of_a_file(ending: str, tiger: TrainedRow, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"lists{ending}"
    assert main(["recommend", "cyclic", "--file", str(requests(tmp_path, ending)), "--out", str(out), "--n", "3"]) == 0
    found = read(out)
    assert list(found.columns) == ["user_id", "position", "item_id", "score"]
    assert list(found["user_id"]) == ["007"] * 3 + ["b"] * 3
    alone = [*tiger.recommend(["item-3", "item-7"], n=3)["item_id"], *tiger.recommend(["item-1"], n=3)["item_id"]]
    assert list(found["item_id"]) == alone
    assert "6 lines written" in capsys.readouterr().err


def test_all_users_are_written_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 users of 4 items in batches of 8: a row group is written as soon as 60 lines wait, which are two batches of 32."""
    monkeypatch.setattr(bulk_lists, "BATCH_SIZE", 8)
    monkeypatch.setattr(item_recommender, "BATCH_SIZE", 8)
    monkeypatch.setattr(table_files, "ROW_GROUP", 60)
    out = tmp_path / "lists.parquet"
    assert main(["recommend", "cyclic-popularity", "--all-users", "--out", str(out), "-n", "4"]) == 0
    about = pq.ParquetFile(out).metadata
    assert (about.num_rows, about.num_row_groups, about.row_group(0).num_rows) == (400, 7, 64)
    row = genrec.load("cyclic-popularity")
    pd.testing.assert_frame_equal(pd.read_parquet(out), row.recommend_users(n=4))
    with pytest.raises(UsageError, match=r"recommend_users needs a list of user ids, got '10'; write"):
        row.recommend_users("10")


def test_unknown_users_and_items_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "asked.csv", tmp_path / "lists.csv"
    path.write_text("user_id,item_id\na,item-3\na,item-99\nb,item-98\n")
    earlier = "user_id,position,item_id,score\n"  # a file of genrec, which may be replaced
    out.write_text(earlier)
    command = ["recommend", "cyclic", "--file", str(path), "--out", str(out), "--n", "2"]
    assert main(command) == 3
    assert f"{path}, row 2: user 'a': no item has the id 'item-99'" in capsys.readouterr().err
    assert out.read_text() == earlier
    assert main([*command, "--skip-unknown"]) == 0
    assert "left out: 2 unknown items, 1 user without a history" in capsys.readouterr().err
    assert list(read(out)["user_id"]) == ["a", "a"]
    path.write_text("user_id\nnobody\n")
    assert main(command) == 3
    assert f"{path}, row 2: cyclic has no user 'nobody'" in capsys.readouterr().err
    assert main([*command, "--skip-unknown"]) == 3
    assert "no user with a history to recommend to" in capsys.readouterr().err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["asked.csv", "lists.csv"]


def test_users_of_a_file_have_the_history_of_the_data(tiger: TrainedRow, tmp_path: Path) -> None:
    path, out = tmp_path / "users.jsonl", tmp_path / "lists.jsonl"
    users = [str(user) for user in tiger.corpus.user_ids[:2]]
    path.write_text("".join(f"{json.dumps({'user_id': user})}\n" for user in users))
    assert main(["recommend", "cyclic", "--file", str(path), "--out", str(out), "--before", "test"]) == 0
    assert list(read(out)["item_id"]) == list(tiger.recommend_users(users, before="test")["item_id"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "user,item\n1,2\n", "has the columns user, item; expected user_id alone"),
        ("a.csv", "user_id,history\n1,item-3\n", "CSV has no lists; give user_id and item_id"),
        ("a.csv", "user_id,user_id\n1,2\n", "has two columns user_id; remove one of them"),
        ("a.csv", "user_id,item_id\na,item-3\nb,item-3\na,item-4\n", "row 4: user 'a' occurs again"),
        ("a.csv", "", "can't be read"),
        ("a.parquet", "no Parquet", "can't be read"),
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", '{"user_id": "a", "history": "item-3"}\n', "line 1: history must be a list of items, got 'item-3'"),
        ("a.jsonl", '{"user_id": "a", "history": ["item-3"]}\n{"user_id": "b"}\n', "line 2: history is missing"),
        ("a.jsonl", '{"user_id": "a"}\n{"user_id": "b", "history": ["item-3"]}\n', "line 2: the first line has no history"),
        ("a.jsonl", '{"user_id": "a"}\n[1]\n', "line 2 holds list"),
        ("a.jsonl", '{"user_id": 1.5}\n', "user_id must be text or an integer and not empty, got 1.5"),
        ("a.csv", "user_id,item_id\na,item-3\n,item-3\n", "a.csv, row 3: user_id must be text or an integer and not empty, got ''"),
        ("a.csv", "user_id,item_id\na,\n", "a.csv, row 2: item_id must be text or an integer and not empty, got ''"),
        ("a.csv", 'user_id\n""\n', "a.csv, row 2: user_id must be text or an integer and not empty, got ''"),
        ("a.jsonl", '{"user_id": ""}\n', "a.jsonl, line 1: user_id must be text or an integer and not empty, got ''"),
        ("a.jsonl", '{"user_id": "\\ud800"}\n', "line 1: user_id must be text or an integer and not empty"),
        ("a.txt", "a\n", "must end in .parquet, .csv, .jsonl"),
    ],
)
def test_damaged_files_are_explained(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(GenrecError) as raised:
        list(read_requests(tmp_path / name))
    assert message in str(raised.value)


def test_a_column_that_is_not_read_may_hold_anything(tmp_path: Path) -> None:
    """The type of `note` changes far beyond the first block of the file."""
    lines = [f"{user},item-3,1" for user in range(120_000)]
    (tmp_path / "a.csv").write_text("\n".join(["user_id,item_id,note", *lines, "last,item-3,hello", ""]))
    assert [*read_requests(tmp_path / "a.csv")][-1][:2] == ("last", ["item-3"])


def test_integers_of_a_file_are_ids(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"user_id": 7, "history": [1, "02"]}\n')
    assert [request[:2] for request in read_requests(tmp_path / "a.jsonl")] == [("7", ["1", "02"])]
    pq.write_table(pa.table({"user_id": [7, 7], "item_id": [1, 2]}), tmp_path / "a.parquet")
    assert [request[:2] for request in read_requests(tmp_path / "a.parquet")] == [("7", ["1", "2"])]


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_semantic_ids_are_written_in_the_ids_of_the_data(ending: str, tiger: TrainedRow, tmp_path: Path) -> None:
    path = tmp_path / f"semantic_ids{ending}"
    assert main(["recommend", "cyclic", "--semantic-ids", str(path)]) == 0
    found = read(path)
    assert tiger.items.semantic_ids is not None
    levels = tiger.items.semantic_ids.levels
    assert found[[f"code_{level}" for level in range(1, levels + 1)]].to_numpy().tolist() == tiger.items.semantic_ids.codes.tolist()
    assert list(found["item_id"]) == list(tiger.items.catalog.ids)
    assert main(["recommend", "cyclic-sasrec", "--semantic-ids", str(path)]) == 2


def test_titles_that_begin_like_formulas_are_marked_in_csv_as_the_help_says(
    tiger: TrainedRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = tiger.items.catalog
    formulas = replace(tiger, items=tiger.items._replace(catalog=replace(catalog, titles=("=1+1",) * 40)))
    monkeypatch.setattr(recommend_command, "load", lambda *_: formulas)
    for ending, expected in ((".csv", "'=1+1"), (".parquet", "=1+1")):
        path = tmp_path / f"semantic_ids{ending}"
        assert main(["recommend", "cyclic", "--semantic-ids", str(path)]) == 0
        assert set(read(path)["title"]) == {expected}
    with pytest.raises(SystemExit):
        main(["recommend", "--help"])
    assert "in .csv a title that begins with = + - @ gets a leading apostrophe" in " ".join(capsys.readouterr().out.split())


def test_wrong_arguments_from_python(tiger: TrainedRow) -> None:
    for arguments in ({}, {"history": ["item-1"], "user": "user-1"}):
        with pytest.raises(UsageError, match="either a history, a list of items, or user=ID"):
            tiger.recommend(**arguments)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"history must be a list of items, got 'item-1'; write"):
        tiger.recommend("item-1")
    with pytest.raises(UsageError, match="before must be 'validation', 'test' or None, got 'train'"):
        tiger.recommend(user=str(tiger.corpus.user_ids[0]), before="train")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="must be an integer of 1 or more, got 0"):
        tiger.recommend(["item-1"], n=0)
    with pytest.raises(InputError, match="is in the titles of"):
        tiger.recommend(["title:light"])


def test_a_user_may_be_an_integer(tiger: TrainedRow) -> None:
    """Ids of the data are text: an integer stands for its digits, and anything else is refused with a reason."""
    with pytest.raises(InputError, match="has no user '7'"):
        tiger.recommend(user=7)
    with pytest.raises(UsageError, match=r"user must be the id of a user, a text or an integer, got 7\.5"):
        tiger.recommend(user=7.5)  # type: ignore[arg-type]
