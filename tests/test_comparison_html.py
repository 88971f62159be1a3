"""The report of a comparison: the figures of `compare`, hostile texts stay text, nothing is loaded, parts may be missing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape
from pandas import DataFrame
from worlds import cyclic

import genrec
from genrec import hashed_json, run_experiments, run_files, studies
from genrec.__main__ import main
from genrec.baselines import Popularity
from genrec.data.sources import Frames
from genrec.evaluation.compare import Comparison, Run, Spread, compare
from genrec.evaluation.comparison import comparison_report
from genrec.evaluation.comparison.table_cells import difference_cell, interval_cell, metric_cell, p_cell
from genrec.kept_rows import KeptRows
from genrec.reports import report_charts, report_curves, report_items, report_metrics, report_page, report_parts, report_users
from genrec.reports.report_charts import RowScale
from genrec.reports.report_content import ReportOptions, commands, content, differences_section, highlighted
from genrec.reports.report_tables import is_long, name_parts, printed_parts
from genrec.row_settings import training_hash
from genrec.semantic_ids import SemanticIds
from genrec.training.curve_panels import Axis
from genrec.types import NO_TEXT

HOSTILE = ("</script><script>alert(1)</script>", '<img src=x onerror="alert(1)">', "{{ 7 * 7 }} ' \" & <!-- \u2028 \u202e é 猫")
NAMES = ("pop", "sft", "aligned")
CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a baseline and two trained rows at two seeds. Three items have titles with markup, and so have all users."""
    folder = tmp_path_factory.mktemp("home")
    events = [(f"<b>{user}</b>", (user + place) % 40, place) for user in range(60) for place in range(8)]
    items = DataFrame({"item": range(40), "title": [*HOSTILE, *(f"Item {item}" for item in range(3, 40))]})
    source = Frames(interactions=DataFrame(events, columns=["user", "item", "time"]), items=items)
    aligned = replace(cyclic(steps=4, align_steps=2), name="aligned", source=source)
    rows = [replace(aligned, name="pop", policy=Popularity(), align=None)]
    rows += [replace(each, seed=seed) for seed in (0, 1) for each in (replace(aligned, name="sft", align=None), aligned)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(folder))
        run_experiments.run(rows)
    return folder


@pytest.fixture
def data(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENREC_HOME", str(home))
    return home


def compared(names: tuple[str, ...] = NAMES, reference: str = "sft") -> tuple[Comparison, list[Run]]:
    runs = run_files.outcomes(names, None, "ndcg@10")
    return compare(runs, "ndcg@10", reference, resamples=200), runs


def made(names: tuple[str, ...] = NAMES, reference: str = "sft") -> dict[str, Any]:
    return content(*compared(names, reference), ReportOptions(users=20, command="genrec compare <a>"))


def section(found: dict[str, Any], anchor: str) -> dict[str, Any]:
    return next(each for each in found["sections"] if each["anchor"] == anchor)


class Page(HTMLParser):
    """The elements of a page: tags with their attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in self.raw:
            self.raw[tag].append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag in self.raw and self.cdata_elem == self.lasttag:
            self.raw[self.lasttag][-1] += data


def test_the_figures_are_those_of_compare(data: Path) -> None:
    comparison, runs = compared()
    found = content(comparison, runs, ReportOptions())
    for row, line in zip(comparison.rows, found["headline"]["rows"], strict=True):
        cells = dict(zip(found["headline"]["columns"], line["cells"], strict=True))
        assert cells["NDCG@10"].split("\n")[0] == metric_cell(row, "ndcg@10")
        assert cells["Recall@10"] == metric_cell(row, "recall@10")
        assert (row.test is None) == (cells["Result"] == "reference")
        assert row.test is None or cells["Difference"].split("\n")[0] == difference_cell(row.test).replace("\n", " ")
        assert row.test is None or cells["Difference"].split("\n")[1] == interval_cell(row.test.interval, "+.5f")
        assert row.test is None or cells["p (Holm)"] == p_cell(row.test.p_holm)
        assert bool(line["bold"]) == (row.test is not None and row.test.p_holm is not None and row.test.p_holm < 0.05)
    drawn = section(found, "differences")["charts"]
    points = {each["row"]: each for chart in drawn for each in chart["spec"]["data"]["values"]}
    seeds = [each for chart in drawn for layer in chart["spec"]["layer"] for each in layer.get("data", {}).get("values", [])]
    by_name = {row.name: row for row in comparison.rows}
    assert points.keys() == {"pop", "aligned"}
    for name, point in points.items():
        test = by_name[name].test
        assert test is not None
        assert test.interval is not None
        assert (point["difference"], point["low"], point["high"]) == pytest.approx((test.difference, *test.interval), rel=1e-5)
        assert [each["difference"] for each in seeds if each["row"] == name] == pytest.approx(list(test.by_seed), rel=1e-5)
    for stem, chart in zip(("recall", "ndcg"), section(found, "ranking")["charts"], strict=False):
        values = chart["spec"]["data"]["values"]
        assert {each["n"] for each in values} == {1, 5, 10}
        for each in values:
            assert each["value"] == pytest.approx(by_name[each["row"]].metrics[f"{stem}@{each['n']}"].mean, rel=1e-5)


def test_curves_are_means_of_the_seeds() -> None:
    """Two seeds with 1 and 3 at step 20: 2 between 1 and 3. A step without a value is left out, and a long curve is thinned."""
    one, other = (DataFrame({"step": [0, 20], "loss": [float("nan"), value]}) for value in (1.0, 3.0))
    assert report_curves.curve_values({"row": [one, other]}, ["loss"]) == [
        {"row": "row", "column": "loss", "step": 20, "value": 2.0, "low": 1.0, "high": 3.0}
    ]
    long = report_curves.curve_values({"row": [DataFrame({"step": range(1000), "loss": 0.5})]}, ["loss"])
    assert len(long) == report_curves.MAX_POINTS
    assert (long[0]["step"], long[-1]["step"]) == (0, 999)


def test_a_curve_with_one_step_is_a_mark() -> None:
    """Row a has one step and row b two: the last mark of each is visible, the first one of b shows on the pointer alone."""
    steps = {"a": [20], "b": [0, 20]}
    tables = {row: [DataFrame({"step": found, "validation_ndcg@10": 0.5})] for row, found in steps.items()}
    (chart,) = report_curves._charts("sft", tables, {}, RowScale(["a", "b"]))
    assert [(each["row"], each["single"]) for each in chart.spec["data"]["values"]] == [("a", True), ("b", False), ("b", False)]
    (mark,) = [layer for layer in chart.spec["layer"] if layer["mark"]["type"] == "point"]
    assert mark["encoding"]["opacity"] == {"condition": {"test": "datum.last", "value": 1}, "value": 0}
    assert [each["last"] for each in chart.spec["data"]["values"]] == [True, False, True]
    assert "opacity" not in mark["mark"]
    assert report_curves.SINGLE in chart.about
    (lines,) = report_curves._charts("sft", {"b": tables["b"]}, {}, RowScale(["b"]))
    assert report_curves.SINGLE not in lines.about


def test_code_usage_and_prefix_groups() -> None:
    """Codes (0 0), (0 1), (1 0) of 2 x 4: all first codes, half of the second ones; groups of 2, 2, 1 and then 1, 1, 1 items."""
    semantic_ids = SemanticIds(torch.tensor([[0, 0], [0, 1], [1, 0]]), [2, 4])
    assert report_items.code_usage(semantic_ids) == [1.0, 0.5]
    assert report_items.prefix_groups(semantic_ids) == pytest.approx([5 / 3, 1.0])


def test_an_axis_of_equal_numbers_has_the_number_as_its_tick() -> None:
    """Both rows have Recall@1 0.05, with an axis from 0.045 to 0.055, and Recall@50 0.2 and 0.4, with an axis of Vega."""
    means = [{"row": "a", "x": 0.05, "y": 0.2}, {"row": "b", "x": 0.05, "y": 0.4}]
    scale = RowScale(["a", "b"])
    for layer in report_charts.against(scale, means, [], "Recall@1", "Recall@50")["layer"]:
        x, y = layer["encoding"]["x"], layer["encoding"]["y"]
        assert x["scale"]["domain"] == pytest.approx([0.045, 0.055])
        assert x["axis"]["values"] == [0.05]
        assert "domain" not in y["scale"]
    nothing = [each | {"x": 0.0} for each in means]
    assert report_charts.against(scale, nothing, [], "x", "y")["layer"][1]["encoding"]["x"]["scale"]["domain"] == [-0.01, 0.01]


def test_close_labels_of_lines_are_joined() -> None:
    """Labels 0.1 high: the one at 0.5 also names the line at 0.45; the line at 0.375 is more than a label below."""
    lines = {"far": 0.1, "second": 0.45, "first": 0.5, "third": 0.375}
    assert report_charts.joined(lines, 0.1) == [("first, second", 0.5), ("", 0.45), ("third", 0.375), ("far", 0.1)]
    spec = report_charts.curves(RowScale(["a"]), [], {"EASE": 0.5, "ItemKNN": 0.499}, "NDCG", (0.0, 1.0))
    marks = [layer["mark"]["type"] for layer in spec["layer"][-3:]]
    assert marks == ["rule", "text", "rule"]


def test_a_chart_without_seeds_has_no_layer_for_them() -> None:
    """Vega reports an infinite extent of a layer without data. The line at 0 ends below the name of a row, where its numbers begin."""
    tests = [{"row": "a", "difference": 0.1, "low": 0.1, "high": 0.1, "significant": False, "p": None}]
    spec = report_charts.differences(RowScale(["a"]), tests, [], "NDCG@10")
    assert all(layer.get("data", {"values": tests})["values"] for layer in spec["layer"])
    zero, name = spec["layer"][0], spec["layer"][-1]
    assert (zero["encoding"]["x"], zero["encoding"]["y2"]) == ({"datum": 0}, {"field": "row"})
    assert zero["mark"]["yOffset"] >= name["mark"]["yOffset"] + name["mark"]["fontSize"] / 2
    assert zero["mark"]["y2Offset"] <= report_charts.ROW_HEIGHT + name["mark"]["yOffset"] - name["mark"]["fontSize"] / 2


def test_parts_of_a_table_on_paper() -> None:
    """A page has 114 characters: 9 of the first column with its gap, and 5 columns of 19 + 1. The longest word of a head counts."""
    columns = ["Row", *(f"a_word_of_letters_{place} b" for place in range(8))]
    assert {len(column.split()[0]) for column in columns[1:]} == {19}
    assert printed_parts(columns, [["row-name", *(["0.1234"] * 8)]]) == [[0, 1, 2, 3, 4, 5], [0, 6, 7, 8]]
    assert printed_parts(["Row", "n"], [["row", "0.1"]]) == [[0, 1]]
    assert printed_parts(["Row", "n", "m"], [["row", "0.1", "x" * 500]]) == [[0, 1, 2]]  # wraps
    assert name_parts("policy.batch_size") == ["policy.", "batch_", "size"]
    assert is_long("short\n" + "x" * 25)
    assert not is_long("0.1234 ± 0.0002\n[0.1, 0.2]")


def test_a_wide_table_is_cut_in_parts_on_paper(data: Path) -> None:
    """Every part begins with the names of the rows, and the parts together have all columns."""
    found = made()
    wide = next(each for each in found["tables"] if len(each["parts"]) > 1)
    assert [place for part in wide["parts"] for place in part[1:]] == list(range(1, len(wide["columns"])))
    text = report_page.page(found)
    assert text.count('class="part"') == sum(len(each["parts"]) for each in found["tables"] if len(each["parts"]) > 1)
    assert re.search(r"@media print \{.*table\.whole \{ display: none; \}", text, re.DOTALL)


@pytest.mark.parametrize("reference", ["sft", "pop"])
def test_differences_by_cutoff_have_trained_rows_and_baselines(data: Path, reference: str) -> None:
    """Of rows with the seeds of the reference: the difference of the means of the table."""
    comparison, runs = compared(NAMES, reference)
    rows = {row.name: row for row in comparison.rows}
    found = report_metrics.minus_reference(comparison, runs, "recall", [5, 10])
    assert [(each["row"], each["n"]) for each in found] == [(name, n) for name in NAMES for n in (5, 10)]
    for each in found:
        one, other = (rows[name].metrics[f"recall@{each['n']}"].mean for name in (each["row"], reference))
        assert each["value"] == pytest.approx(one - other, abs=1e-6)


def test_differences_by_cutoff_are_at_the_seeds_that_both_rows_have(data: Path) -> None:
    """`aligned` has seeds 0 and 1, and `sft` seed 0: the difference is that of seed 0. Without a common seed a sentence says so."""
    runs = [run for run in run_files.outcomes(NAMES, None, "ndcg@10") if (run.name, run.seed) != ("sft", 1)]
    found = report_metrics.minus_reference(compare(runs, "ndcg@10", "sft", resamples=20), runs, "recall", [10])
    at_zero = {run.name: run.metrics["recall@10"] for run in runs if run.seed == 0}
    values = {each["row"]: each["value"] for each in found}
    assert values == pytest.approx({name: at_zero[name] - at_zero["sft"] for name in NAMES}, abs=1e-6)
    apart = [run for run in runs if (run.name, run.seed) != ("aligned", 0)]
    section = report_metrics.ranking_section(compare(apart, "ndcg@10", "sft", resamples=20), apart, RowScale(NAMES))
    assert section.notes == ["aligned has no seed of sft, so the difference from it is not drawn."]


def test_levels_stand_in_their_order(data: Path) -> None:
    """Not sorted as text, where level 10 comes before level 2."""
    charts = section(made(), "codes")["charts"]
    assert [layer["encoding"]["x"]["sort"] for chart in charts for layer in chart["spec"]["layer"]] == [None] * 4


def test_popularity_counts_lists_histories_and_targets(data: Path) -> None:
    found = section(made(), "popularity")["charts"][0]["spec"]["data"]["values"]
    for name in (*NAMES, report_items.HISTORIES, report_items.TARGETS):
        assert sum(each["value"] for each in found if each["row"] == name) == pytest.approx(1.0, abs=1e-5)


def test_the_browser_shows_lists_of_the_artifacts(data: Path) -> None:
    _, runs = compared()
    found = made()["users"]
    keys = json.loads((data / "runs" / "aligned.json").read_text())["seeds"]["0"]["artifacts"]
    table = pd.read_parquet(data / "artifacts" / "evaluate" / keys["evaluate"] / "recommendations.parquet")
    ids = pd.read_parquet(data / "artifacts" / "data" / keys["data"] / "users.parquet")["user_id"].tolist()
    codes = SemanticIds.load(data / "artifacts" / "tokenize" / keys["tokenize"] / "codes.safetensors").codes
    targets = runs[0].ranks.set_index("user")["target"]
    assert len(found["users"]) == 20
    for user in found["users"]:
        number = ids.index(user["id"]) + 1
        assert user["target"] == targets[number]
        assert user["lists"]["aligned"] == table[table["user"] == number].sort_values("position")["item"].tolist()[:10]
    for item, about in found["items"].items():
        assert about["codes"] == [codes[int(item) - 1].tolist()]


def test_items_have_their_ids_and_a_stand_in_is_no_title(data: Path) -> None:
    """The titles of two items hold markup alone, so they are empty; the ids are those of the data."""
    items = made()["users"]["items"].values()
    found = {about["id"]: about["title"] for about in items}
    assert found["7"] == "Item 7"
    assert {name: title for name, title in found.items() if not title}.keys() <= {"0", "1"}
    assert NO_TEXT not in found.values()


def test_the_sample_of_users_depends_on_its_seed_alone() -> None:
    users = DataFrame({"user": range(1, 101)})["user"].to_numpy()
    first = report_users.sampled_users(users, 10, seed=0)
    assert first == report_users.sampled_users(users, 10, seed=0) == sorted(set(first))
    assert first != report_users.sampled_users(users, 10, seed=1)
    assert report_users.sampled_users(users, 1000, seed=0) == list(range(1, 101))


@given(st.recursive(st.text() | st.sampled_from(HOSTILE), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_in_a_script_element_holds_no_markup(value: object) -> None:
    text = report_page.json_in_html(value)
    assert not re.search(r"[<>&\u2028\u2029]", text)
    assert json.loads(text) == value


def hostile(found: dict[str, Any]) -> dict[str, Any]:
    """Return a content in which texts of users and files hold markup: titles, ids, settings, notes and the protocol."""
    for item, about in found["users"]["items"].items():
        about["title"] = HOSTILE[int(item) % len(HOSTILE)]
    for text in HOSTILE:
        found["protocol"].append({"label": text, "text": text})
        found["reading"].append(text)
        found["tables"].append({"title": text, "columns": [text], "rows": [[text]], "notes": [text], "parts": [[0]]})
    return found


def test_hostile_texts_stay_text(data: Path) -> None:
    found = hostile(made())
    page = Page(text := report_page.page(found))
    assert [attributes.get("type") for tag, attributes in page.tags if tag == "script"] == ["application/json", None, None]
    assert not [tag for tag, _ in page.tags if tag in ("img", "b")]
    assert "genrec compare &lt;a&gt;" in text
    titles = {each["title"] for each in json.loads(page.raw["script"][0])["users"]["items"].values()}
    assert titles == set(HOSTILE)
    assert text.count(str(escape(HOSTILE[0]))) == 8


def visible_head(text: str) -> str:
    """Return the header of a page, which has no closed part."""
    head = text[text.index("<header>") : text.index("</header>")]
    assert "<details" not in head
    return head


def test_warnings_stand_in_the_head_of_the_page_as_on_the_terminal(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An alignment that kept step 0, negatives that were held-out items and a note on few seeds; a share of 0 is no warning."""
    comparison, runs = compared()
    share = Spread(0.25, None)
    zero = {"negatives_heldout_share": share._replace(mean=0.0), "negatives_test_share": share, "negatives_validation_share": share}
    for metrics, is_warning in ((zero | {"negatives_heldout_share": share}, True), (zero, False)):
        rows = [
            row._replace(metrics=row.metrics | metrics, kept_first={"align": (0, 1)}) if row.name == "aligned" else row
            for row in comparison.rows
        ]
        found = content(comparison._replace(rows=tuple(rows)), runs, ReportOptions(users=0))
        comparison_report.terminal(comparison._replace(rows=tuple(rows)))
        terminal = " ".join(capsys.readouterr().out.split())
        assert all(warning in terminal for warning in found["warnings"])
        head = visible_head(report_page.page(found))
        assert all(str(escape(warning)) in head for warning in found["warnings"])
        assert "Alignment kept step 0, the SFT policy, in seeds 0 and 1 of aligned." in found["warnings"]
        assert any(warning.startswith("Few seeds: ") for warning in found["warnings"])
        held_out = "Drawn negatives that were the user's own held-out items: aligned"
        assert any(warning.startswith(held_out) for warning in found["warnings"]) == is_warning
        assert held_out in terminal


def test_the_page_loads_nothing(data: Path) -> None:
    """No attribute names another file, no style imports one, and the policy of the page forbids requests and unknown scripts."""
    page = Page(report_page.page(made()))
    for _, attributes in page.tags:
        assert not attributes.keys() & {"src", "srcset", "data", "action", "onload", "onerror", "onclick"}
        assert str(attributes.get("href", "#")).startswith("#")
    assert "link" not in {tag for tag, _ in page.tags}
    assert not re.search(r"@import|url\(", "".join(page.raw["style"]))
    policy = next(str(each["content"]) for tag, each in page.tags if tag == "meta" and "http-equiv" in each)
    hashes = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in page.raw["script"][1:]]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    assert policy.startswith(f"default-src 'none'; script-src {allowed}; ")


def test_a_baseline_alone_lacks_most_parts(data: Path) -> None:
    found = made(("pop",), "pop")
    assert section(found, "curves")["notes"] == ["No row is trained, so there are no training curves."]
    assert section(found, "codes")["notes"] == ["No row has Semantic IDs of its own, so there are no codes to show."]
    assert section(found, "differences")["notes"] == ["There is no second row to compare with the reference."]
    assert "No row is trained" in report_page.page(found)


def test_removed_artifacts_are_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the data set there are no users and no popularity; without a training there is no curve of it."""
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    monkeypatch.setenv("GENREC_HOME", str(copy))
    keys = json.loads((copy / "runs" / "aligned.json").read_text())["seeds"]["0"]["artifacts"]
    shutil.rmtree(copy / "artifacts" / "align" / keys["align"])
    found = made()
    assert section(found, "curves-align")["notes"] == [
        "pop and sft have no stage align, so they are not drawn.",
        "The trainings of aligned are not in the data folder, so their curves are left out.",
    ]
    shutil.rmtree(copy / "artifacts" / "data" / keys["data"])
    found = made()
    assert found["users"] is None
    assert "The data set is not in the data folder, so this part is left out." in report_page.page(found)


def test_a_report_of_kept_rows_has_what_was_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine with an empty data folder: the figures of the rows, and a sentence for each part that needs the artifacts."""
    full, path = made(), tmp_path / "report.html"
    assert main(["keep", *NAMES, "--to", str(tmp_path / "kept")]) == 0
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "empty"))
    assert main(["compare", *NAMES, "--reference", "sft", "--from", str(tmp_path / "kept"), "--html", str(path)]) == 0
    kept = KeptRows(tmp_path / "kept")
    runs = kept.outcomes(NAMES, None, "ndcg@10")
    found = content(compare(runs, "ndcg@10", "sft", resamples=200), runs, ReportOptions(kept=kept))
    assert found["headline"] == full["headline"]
    for anchor in ("differences", "ranking", "trade-off"):
        assert section(found, anchor)["charts"] == section(full, anchor)["charts"]
    gone = "The trainings of sft and aligned are not in the data folder, so their curves are left out."
    assert gone in section(found, "curves-sft")["notes"]
    assert section(found, "codes")["notes"] == [
        "The Semantic IDs of sft and aligned are not in the data folder, so they are left out."
    ]
    assert found["users"] is None
    assert found["commands"][-1]["command"] == "runs/pop.json\nruns/sft.json\nruns/aligned.json"
    text = path.read_text(encoding="utf-8")
    assert "The data set is not in the data folder" in text
    assert "--from kept --html report.html" in text


def test_an_axis_of_what_cannot_be_negative_begins_at_zero() -> None:
    """Values 0 to 0.2 on an axis that is at least 1 high: 0 to 1. Values around 0 have the missing 0.8 on both sides."""
    axis = Axis("KL divergence", "kl", span=1.0)
    assert report_curves._domain(axis, [{"low": 0.0, "high": 0.2}], {}) == pytest.approx((0.0, 1.0))
    assert report_curves._domain(axis, [{"low": -0.1, "high": 0.1}], {}) == pytest.approx((-0.5, 0.5))
    assert report_curves._domain(axis, [{"low": 4.0, "high": 4.4}], {}) == pytest.approx((3.7, 4.7))


def test_long_names_stand_outside_the_title(data: Path) -> None:
    assert made()["title"] == "NDCG@10 of pop, sft and aligned"
    names = ("sft", *many(data, 10))
    assert made(names)["title"] == "NDCG@10 of 11 rows"
    assert [made(rows)["beside"] for rows in (NAMES, ("sft",), names)] == [True, False, False]


def test_one_seed_has_no_interval(data: Path) -> None:
    runs = [run for run in run_files.outcomes(NAMES, None, "ndcg@10") if run.seed == 0]
    found = content(compare(runs, "ndcg@10", "sft", resamples=200), runs, ReportOptions())
    assert any(note.startswith("aligned has a difference without an interval: ") for note in section(found, "differences")["notes"])
    runs += [run._replace(name="again") for run in runs if run.name == "aligned"]
    both = differences_section(compare(runs, "ndcg@10", "sft", resamples=200), RowScale([*NAMES, "again"])).notes
    assert any(note.startswith("aligned and again have differences without intervals: ") for note in both)


def many(data: Path, count: int) -> tuple[str, ...]:
    """Write copies of the row `aligned` under other names."""
    kept = {key: value for key, value in json.loads((data / "runs" / "aligned.json").read_text()).items() if key != "sha256"}
    names = tuple(f"row-{number}" for number in range(count))
    for name in names:
        (data / "runs" / f"{name}.json").write_text(json.dumps(hashed_json.add_hash(kept | {"name": name})))
    return names


def test_fifty_rows(data: Path) -> None:
    """Eight rows have a color at first, among them the reference; every row is in the table and in the charts."""
    names = ("sft", *many(data, 49))
    found = made(names)
    assert len(found["headline"]["rows"]) == 50
    assert len(found["highlighted"]) == 8
    assert 0 in found["highlighted"]
    drawn = {each["row"] for each in section(found, "ranking")["charts"][0]["spec"]["data"]["values"]}
    assert drawn == set(names)
    assert report_page.page(found).count("data-row=") == 50


def test_trained_rows_have_a_color_before_baselines(data: Path) -> None:
    """Of 16 rows 12 are baselines, all better than the four trained rows, of which one is the reference: 4 baselines have a color."""
    comparison, _ = compared()
    by_name = {row.name: row for row in comparison.rows}
    trained = [by_name["sft"], *(by_name["aligned"]._replace(name=f"aligned-{place}", value=0.1) for place in range(3))]
    best = [by_name["pop"]._replace(name=f"pop-{place}", value=0.9 - place / 100) for place in range(12)]
    assert highlighted(comparison._replace(rows=tuple(best + trained))) == [0, 1, 2, 3, 12, 13, 14, 15]


def test_the_command_writes_all_formats(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / f"report.{name}" for name in ("html", "latex", "csv", "markdown")}
    flags = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert main(["compare", *NAMES, "--reference", "sft", "--html-users", "5", "--html-seed", "3", *flags]) == 0
    assert f"--html: written to {files['html']}" in capsys.readouterr().err
    text = files["html"].read_text(encoding="utf-8")
    assert "5 of the 60 test users, drawn at random with seed 3" in text
    assert "--reference sft --html report.html --html-users 5 --html-seed 3" in text
    assert files["latex"].read_text().count(r"\toprule") == files["markdown"].read_text().count("| --- |")
    assert pd.read_csv(files["csv"])["row"].tolist() == list(NAMES)
    assert main(["compare", *NAMES, "--html", str(tmp_path / "report.html"), "--html-users", "-1"]) == 2


@pytest.mark.parametrize("option", ["html", "latex", "csv", "markdown"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_computed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    monkeypatch.setattr(run_files, "outcomes", lambda *_: pytest.fail("the rows were read"))
    for path in (tmp_path / "none" / "report", tmp_path, tmp_path / ("n" * 300)):
        assert main(["compare", *NAMES, f"--{option}", str(path)]) == 2
        assert f"the file {path} cannot be written (" in (shown := capsys.readouterr().err)
        assert f"choose another with --{option}" in shown
    (tmp_path / "mine").write_text("my notes")
    assert main(["compare", *NAMES, f"--{option}", str(tmp_path / "mine")]) == 2
    assert "was not written by genrec" in capsys.readouterr().err
    assert main(["compare", *NAMES, f"--{option}", str(tmp_path / "new"), "--reference", "absent"]) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine").read_text() == "my notes"


def test_a_row_that_is_named_twice_is_compared_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "sft", "pop", "sft"]) == 0
    shown = capsys.readouterr()
    assert "sft is named more than once; a row is not compared with itself" in shown.err
    once = genrec.compare(["sft", "pop"])
    assert capsys.readouterr().err == ""
    assert genrec.compare(["sft", "pop", "sft"]).markdown() == once.markdown()
    assert "sft is named more than once" in capsys.readouterr().err


def test_the_commands_name_the_function_of_baselines(data: Path) -> None:
    """A study that recorded its baselines names their function, an earlier one does not; runs from Python have no function."""
    comparison, runs = compared()
    (kept,) = [run for run in runs if run.name == "pop"]
    shows = "genrec show pop\ngenrec show sft\ngenrec show aligned"
    assert [each["command"] for each in commands(comparison, runs, ReportOptions())] == [shows]
    rows = [each for each in studies.read_all()[0]["rows"] if each["name"] == "sft"]
    content = {
        "format": studies.FORMAT,
        "name": "mine.py:rows",
        "rows": rows,
        "baselines": {"pop": [training_hash(kept.configuration)]},
    }
    path = studies.file_of("mine.py:rows")
    ends = "further options of the command are among the settings above"
    try:
        for baselines, expected in ((True, f"Rows pop and sft; {ends}:"), (False, f"Row sft; {ends}:")):
            shown = {key: value for key, value in content.items() if baselines or key != "baselines"}
            path.write_text(json.dumps(hashed_json.add_hash(shown)))
            found = commands(*compared(), ReportOptions())
            assert found[0]["command"] == "genrec run mine.py:rows"
            assert found[0]["about"] == expected
            assert found[1]["command"] == ("genrec show aligned" if baselines else "genrec show pop\ngenrec show aligned")
        path.unlink()
        path = studies.file_of("/elsewhere/study/mine.py:rows")
        path.write_text(json.dumps(hashed_json.add_hash(content | {"name": "/elsewhere/study/mine.py:rows"})))
        (moved, _) = commands(*compared(), ReportOptions())
        outside = "of a file outside the project only the last part of its path is given"
        assert moved == {"about": f"Rows pop and sft; {ends}; {outside}:", "command": "genrec run study/mine.py:rows"}
    finally:
        path.unlink()


def test_a_row_with_another_protocol_is_left_out(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {key: value for key, value in json.loads((data / "runs" / "pop.json").read_text()).items() if key != "sha256"}
    other = kept | {"name": "other", "protocol": kept["protocol"] | {"data": "Shop()", "users": 7}}
    (data / "runs" / "other.json").write_text(json.dumps(hashed_json.add_hash(other)))
    path = tmp_path / "report.html"
    assert main(["compare", "sft", "other", "pop", "--html", str(path), "--html-users", "0"]) == 0
    sentence = "other is left out: it and sft have different protocols (data, users)."
    assert sentence in capsys.readouterr().err
    text = path.read_text(encoding="utf-8")
    assert sentence in text
    assert "This report was made without users (--html-users 0)." in text
    assert "&lt;b&gt;" not in text
    assert "\\u003cb" not in text
    assert main(["compare", "sft", "other", "pop"]) == 4  # without a report nothing is left out


def test_a_missing_library_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert main(["compare", *NAMES, "--html", str(tmp_path / "report.html")]) == 5
    assert "needs vl-convert-python, which is not installed: pip install 'genrec[report]'" in capsys.readouterr().err


PROBE = """
const faults = [];
addEventListener("securitypolicyviolation", (event) => faults.push(event.violatedDirective));
addEventListener("error", (event) => faults.push(event.message));
window.alert = () => faults.push("alert");
console.warn = console.error = (...texts) => faults.push(texts.join(" "));
addEventListener("load", () => {
  const report = () => {
    const drawn = document.querySelectorAll(".chart svg").length;
    if (document.body.dataset.ready !== "true") return setTimeout(report, 50);
    const own = document.documentElement;
    const titles = document.querySelector("#browser").textContent.length;
    const entries = [...document.querySelectorAll("#browser li")].filter((entry) => entry.textContent);
    const named = entries.every((entry) => entry.querySelector(".id").textContent);
    const turned = [...document.querySelectorAll("#user option")].filter((option) => /\\u202e/.test(option.text)).length;
    const shown = document.querySelector(".warnings").checkVisibility();
    document.body.dataset.found = JSON.stringify({
      drawn, faults, titles, named, shown, turned, width: own.scrollWidth, room: own.clientWidth, images: document.images.length });
  };
  report();
});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which this machine lacks")
@pytest.mark.parametrize("rows", [3, 50])
def test_chromium_draws_the_page_on_the_width_of_a_phone(data: Path, tmp_path: Path, rows: int) -> None:
    """All charts are drawn, no script is refused or fails, no hostile text acts, and the page does not scroll to the side."""
    found = hostile(made(NAMES if rows == 3 else ("sft", *many(data, 49))))
    text = report_page.page(found)
    digest = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src 'sha256-{digest}' ", 1).replace("<style>", f"<script>{PROBE}</script><style>", 1)
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=390,844"]
    command = [str(CHROMIUM), *flags, "--virtual-time-budget=60000", "--dump-dom", path.as_uri()]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    attribute = next(attributes["data-found"] for tag, attributes in Page(printed).tags if tag == "body")
    seen = json.loads(str(attribute))
    assert seen["faults"] == []
    assert seen["drawn"] == sum(len(each["charts"]) for each in found["sections"])
    assert seen["width"] <= seen["room"] <= 500
    assert seen["images"] == 0
    assert seen["titles"] > 0
    assert seen["named"] is True
    assert seen["shown"] is True
    assert seen["turned"] == 0


def test_charts_have_a_color_and_a_shape_for_each_row() -> None:
    first = [0, 8, 16, 24, 32, 40, 41, 42]
    scale = RowScale([f"row-{number}" for number in range(50)], first)
    assert len(set(scale.color()["scale"]["range"])) == 50
    shapes = scale.shape()["scale"]["range"]
    assert [shapes[place] for place in first] == list(report_charts.SHAPES)
    assert len(shapes) == 50
    assert report_parts.short(float("nan")) is None
    assert report_parts.short(1 / 3) == 0.333333
