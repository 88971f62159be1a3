"""Comparison tables in Markdown and on the terminal: contents, and names with markup (E5)."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from pandas import DataFrame

from genrec.evaluation.compare import Comparison, Run, compare
from genrec.evaluation.comparison import comparison_report
from genrec.evaluation.comparison.table_cells import p_cell
from genrec.evaluation.evaluate import metrics_of

PROTOCOL: dict[str, object] = {
    "data": "MovieLens(variant=100k)", "split": "LeaveOneOut", "users": 50, "items": 30, "history": 20, "filter_seen": False,
    "cutoffs": [1, 5, 10, 20, 50],
}  # fmt: skip


def run(name: str, seed: int, configuration: dict[str, object]) -> Run:
    rng = np.random.default_rng([seed, len(name)])
    lists = np.stack([rng.permutation(30)[:20] + 1 for _ in range(50)])
    target = np.arange(50) % 30 + 1
    rank = np.where((lists == target[:, None]).any(1), (lists == target[:, None]).argmax(1) + 1, 0)
    users = np.arange(50)
    ranks = DataFrame({"user": users, "target": target, "rank": rank})
    recommendations = DataFrame(
        {"user": users.repeat(20), "position": np.tile(np.arange(1, 21), 50), "item": lists.ravel(), "score": 0.0}
    )
    return Run(name, seed, ranks, metrics_of(ranks, recommendations, (1, 5, 10, 20, 50), 30), PROTOCOL, configuration)


@pytest.fixture
def comparison() -> Comparison:
    sft = {"policy.num_beams": 50, "sft.optimization.max_steps": 10, "align": None}
    sdpo = {"policy.num_beams": 50, "sft.optimization.max_steps": 10, "align.loss.class": "genrec.preference.losses:SoftmaxDPO"}
    runs = [run("popularity", 0, {"policy.class": "Popularity"})]
    runs += [run(name, seed, found) for name, found in (("sft", sft), ("s-dpo", sdpo)) for seed in (0, 1)]
    return compare(runs, reference="sft", resamples=500)


def cells(line: str) -> list[str]:
    """Return the cells of a line of a Markdown table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def of_table(title: str, text: str) -> str:
    """Return the lines of a Markdown table."""
    return text.split(f"**{title}**\n\n")[1].split("\n\n")[0]


def test_the_table_notes_held_out_items_among_the_negatives() -> None:
    """Two seeds of one aligned row, 0.2 % and 0.4 %: their mean."""
    runs = [run("sft", seed, {}) for seed in (0, 1)] + [run("s-dpo", seed, {}) for seed in (0, 1)]
    for seed, share in ((2, 0.002), (3, 0.004)):
        runs[seed].metrics.update(negatives_heldout_share=share, negatives_test_share=share, negatives_validation_share=0.0)
    text = comparison_report.markdown(compare(runs, resamples=100))
    assert "held-out items: s-dpo 0.30 % (0.30 % test, 0.00 % validation)." in text


def test_many_rows_are_lines_of_the_configuration_table() -> None:
    """Ten rows that differ in one setting make ten lines, not ten columns."""
    rows = [run(f"row{number}", 0, {"policy.num_beams": 50, "align.num_negatives": number}) for number in range(10)]
    text = comparison_report.markdown(compare(rows, resamples=100))
    found = [cells(line) for line in of_table("Configuration differences", text).splitlines()]
    assert found[0] == ["Row", "align.num_negatives"]
    assert found[2:] == [[f"row{number}", str(number)] for number in range(10)]


def differing(**rows: object) -> dict[str, list[str]]:
    """Return the lines of the configuration table by setting."""
    made = [run(name, 0, {"policy.num_beams": 50, "align.negatives.filters": value}) for name, value in rows.items()]
    text = of_table("Configuration differences", comparison_report.markdown(compare(made, resamples=100)))
    return {key: line for key, *line in map(cells, text.splitlines()[2:])}


def test_components_in_a_list_are_shown_as_calls() -> None:
    """Such as `OddOnly(flip=0)`, without the hash of a plug-in's source, also for nested components."""
    odd = {"class": "plug:OddOnly", "source": "2b" * 32, "flip": 0}
    near = {"class": "genrec.preference.filters:NearDuplicates", "version": 2, "codes": 1, "unit": None}
    both = {"class": "plug:Both", "parts": [odd, near], "weights": [1.0, 0.5]}
    assert differing(a=[odd], b=[odd, near], c=[both]) == {
        "align.negatives.filters": [
            "OddOnly(flip=0)",
            "OddOnly(flip=0), NearDuplicates(codes=1)",
            "Both(parts=[OddOnly(flip=0), NearDuplicates(codes=1)], weights=[1.0, 0.5])",
        ]
    }
    assert differing(a=[1, 2], b=[3]) == {"align.negatives.filters": ["1, 2", "3"]}


def test_components_that_differ_in_their_source_alone_show_the_source() -> None:
    """A difference in the table is always visible."""
    odd, edited = ({"class": "plug:OddOnly", "source": source, "flip": 0} for source in ("1f", "2b"))
    assert differing(a=[odd], b=[edited]) == {"align.negatives.filters": ["OddOnly(source=1f, flip=0)", "OddOnly(source=2b, flip=0)"]}


def test_markdown(comparison: Comparison) -> None:
    text = comparison_report.markdown(comparison)
    lines = text.splitlines()
    tables = [[cells(line) for line in block.splitlines()] for block in text.split("\n\n") if block.startswith("|")]
    results, beyond, tests, diagnostic, differences = tables
    assert results[0] == [
        "Row", "Seeds", "Recall@1", "Recall@5", "Recall@10", "Recall@20", "Recall@50", "NDCG@5", "NDCG@10", "MRR@10", "Coverage@10",
        "NDCG@10, 95 % interval over users",
    ]  # fmt: skip
    assert [row[0] for row in results[2:]] == ["popularity", "sft", "s-dpo"]
    assert [row[1] for row in results[2:]] == ["0", "0, 1", "0, 1"]
    sft = comparison.rows[1].metrics["recall@10"]
    assert results[3][4] == f"{sft.mean:.4f}"
    assert "±" not in str(results)
    assert beyond[0] == ["Row", "gini@10", "entropy@10", "div_ratio@10", "or_ratio@10"]
    assert "**NDCG@10 compared with sft**" in lines
    assert tests[0] == ["Row", "Difference", "95 % interval", "p", "p (Holm)", "Detectable", "By seed", "Win / tie / loss"]
    assert differences[0] == ["Setting", "popularity", "sft", "s-dpo"]
    assert [row[0] for row in tests[2:]] == ["popularity", "s-dpo"]
    test = comparison.rows[2].test
    assert test is not None
    assert tests[3][1:] == [
        f"{test.difference:+.5f} ±{test.deviation:.5f}", f"[{test.interval[0]:+.5f}, {test.interval[1]:+.5f}]", f"{test.p:.4f}",
        f"{test.p_holm:.4f}", f"{test.detectable:.5f}", f"{test.by_seed[0]:+.4f}, {test.by_seed[1]:+.4f}",
        f"{test.wins} / {test.ties} / {test.losses}",
    ]  # type: ignore[index]  # fmt: skip
    assert "**Users only (diagnostic)**" in lines
    assert diagnostic[0] == ["Row", "Difference", "95 % interval over users", "p over users"]
    only = test.users_only
    assert only is not None
    assert diagnostic[3] == [
        "s-dpo", f"{test.difference:+.5f}", f"[{only.interval[0]:+.5f}, {only.interval[1]:+.5f}]", f"{only.p:.4f}",
    ]  # fmt: skip
    pool = comparison.pool
    assert (
        f"Standard deviation over seeds of a difference between trained rows: {pool.deviation:.5f} with 1 degree of freedom, of "
        "s-dpo. A trained row against a baseline has its own deviation."
    ) in lines
    assert ("- **Holm's families:** 1 test of trained rows against sft (s-dpo); 1 test of baselines against sft (popularity)") in lines
    assert ["align.loss", "-", "-", "SoftmaxDPO"] in differences
    assert all(len(row) == len(table[0]) for table in tables for row in table)
    assert "s-dpo: 500 slots of its lists were empty" in text  # 50 users, lists of 20 items for a last cut-off of 50, of 30 items


TRAINED: dict[str, object] = {"policy.class": "Tiger", "sft.optimization.max_steps": 10}


def test_rows_with_other_seeds_than_the_reference_get_a_warning() -> None:
    """The table names the seeds that are compared. A baseline has one result for all seeds and gets no warning."""
    runs = [run("sft", seed, TRAINED) for seed in (0, 1)] + [run("dpo", 0, TRAINED), run("late", 2, TRAINED)]
    runs.append(run("popularity", 0, {"policy.class": "Popularity"}))
    text = comparison_report.markdown(compare(runs, resamples=100))
    assert (
        "dpo has seed 0, but the reference has seeds 0 and 1. They are compared at seed 0 only. Run both with the same seeds before "
        "drawing a conclusion."
    ) in text
    assert "late has seed 2, but the reference has seeds 0 and 1. Run both with the same seeds" in text
    assert "late: no p: no seed in common with sft, which has seeds 0 and 1." in text
    assert "dpo: no p: one seed in common; run at least three seeds, better five." in text
    assert "popularity has" not in text
    table = tables_of(text)["NDCG@10 compared with sft"]
    assert table[0][-1] == "Seeds compared"
    assert [cell == "undefined" for cell in table[1][1:6]] == [False, True, True, False, False]  # dpo has a difference alone
    assert table[1][4:6] == ["-", "-"]
    assert {row[0]: row[-1] for row in table[1:]} == {"dpo": "0", "late": "none", "popularity": "0, 1"}
    assert table[2][1:] == ["undefined", "undefined", "undefined", "-", "-", "-", "-", "none"]
    same = comparison_report.markdown(compare([*runs[:2], runs[-1]], resamples=100))
    assert "Seeds compared" not in same


def test_the_terminal_shows_the_same_words(comparison: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    comparison_report.terminal(comparison)
    printed = capsys.readouterr().out
    words = set(re.findall(r"[^\s|*]+", comparison_report.markdown(comparison))) - {"-", "---", "---:"}
    assert words - set(printed.split()) == set()


@pytest.mark.parametrize(
    "name", ["a|b", "[red]x[/red]", "<script>alert(1)</script>", "*b* `c` _d_", "x](http://e.f)", "line\nfeed", "\x1b[31mred"]
)
def test_names_cannot_break_a_table(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """E5."""
    runs = [run("sft", 0, {"policy.num_beams": 50, "note": name}), run(name, 0, {"policy.num_beams": 50, "note": "plain"})]
    comparison = compare(runs, resamples=100)
    text = comparison_report.markdown(comparison)
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({len(cells(line)) for line in block.splitlines()}) == 1
    assert "<script" not in text
    assert "](http" not in text
    assert "\x1b" not in text
    comparison_report.terminal(comparison)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    if name.isprintable():
        assert name in printed


def test_one_row_and_undefined_tests() -> None:
    one = run("sft", 0, {"policy.num_beams": 50})
    assert "compared with" not in comparison_report.markdown(compare([one], resamples=10))
    alone = [entry._replace(ranks=entry.ranks.head(1)) for entry in (one, run("s-dpo", 0, {"policy.num_beams": 50}))]
    shifted = alone[1]._replace(ranks=alone[1].ranks.assign(rank=1 + alone[0].ranks["rank"]))
    text = comparison_report.markdown(compare([alone[0], shifted], metric="mrr@50", resamples=10))
    assert "undefined: one user" in text
    assert "s-dpo: no p: one user." in text


def test_the_tested_metric_is_always_shown() -> None:
    runs = [run(name, 0, {"policy.num_beams": beams}) for name, beams in (("a", 50), ("b", 60))]
    comparison = compare(runs, metric="ndcg@7", resamples=10)
    text = comparison_report.markdown(comparison)
    assert "| NDCG@7 | NDCG@7, 95 % interval over users |" in text
    assert f"{comparison.rows[0].value:.4f} | [" in text
    assert "beams of a 50; beams of b 60" in text


def tables_of(text: str) -> dict[str, list[list[str]]]:
    """Return the lines of each table by title, without the rule."""
    blocks, found = text.split("\n\n"), {}
    for title, table in pairwise(blocks):
        if table.startswith("|"):
            found[title.strip("*")] = [cells(line) for line in table.splitlines() if not line.startswith("| ---")]
    return found


def test_the_ranking_of_semantic_ids_is_a_separate_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Only rows with these metrics are in it, and the table of results stays the same."""
    plain, shared = run("plain", 0, {}), run("shared", 0, {})
    before = tables_of(comparison_report.markdown(compare([plain, shared], resamples=10)))
    figures = {f"sid_{name}@{n}": (n + (name == "ndcg")) / 100 for n in (1, 5, 10, 20, 50) for name in ("recall", "ndcg")}
    comparison = compare([plain, shared._replace(metrics=shared.metrics | figures)], resamples=10)
    tables = tables_of(comparison_report.markdown(comparison))
    assert list(before) == ["Results", "Beyond accuracy", "NDCG@10 compared with plain"]
    assert list(tables) == ["Results", "Ranking of Semantic IDs", "Beyond accuracy", "NDCG@10 compared with plain"]
    assert tables["Results"] == before["Results"]
    assert tables["Ranking of Semantic IDs"] == [
        ["Row", *(f"SID Recall@{n}" for n in (1, 5, 10, 20, 50)), "SID NDCG@5", "SID NDCG@10"],
        ["shared", "0.0100", "0.0500", "0.1000", "0.2000", "0.5000", "0.0600", "0.1100"],
    ]
    comparison_report.terminal(comparison)
    assert "SID Recall@10" in capsys.readouterr().out


NUMBER = re.compile(r"[\[+±-]*\d+\.\d+")


def wide_comparison() -> Comparison:
    """Return a table with names, seeds and figures that do not fit 80 columns."""
    runs = [run("shop-popularity", 0, {"policy.class": "m:Popularity"})]
    for name in ("shop-sft", "shop-sft-continued", "shop-sdpo-beta-0.125"):
        settings = TRAINED | {
            "policy.num_beams": 50,
            "align.num_negatives": len(name),
            "align.optimization.learning_rate": len(name) / 7e4,
        }
        runs += [run(name, seed, settings) for seed in range(5)]
    return compare(runs, reference="shop-sft", resamples=200)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 200, None])
def test_no_number_is_broken_at_any_width(
    width: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines fit the width, and every printed number is a number of the Markdown, which has all in full."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if width is not None:
        monkeypatch.setenv("COLUMNS", str(width))
    comparison = wide_comparison()
    comparison_report.terminal(comparison)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= (width or comparison_report.PIPE_WIDTH)
    known = set(NUMBER.findall(comparison_report.markdown(comparison)))
    found = {number for line in printed.splitlines() for number in NUMBER.findall(line)}
    assert found - known == set()
    assert re.findall(r"(?:^|\s)[\[+±-]*\d\.(?:\s|$)", printed) == []  # nor is one broken at its point
    for row in comparison.rows:  # the tested metric and its interval are in every width
        assert row.interval is not None
        assert f"[{row.interval[0]:.4f}, {row.interval[1]:.4f}]" in printed
        assert f"{row.metrics['ndcg@10'].mean:.4f}" in printed
    assert ("Not shown in" in printed) == (width is not None and width < 160)
    assert width is not None or found == known


def test_eighty_columns_show_the_most_important_columns_in_one_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    comparison = wide_comparison()
    comparison_report.terminal(comparison)
    printed = capsys.readouterr().out
    header = " ".join(printed.split("───")[0].split())
    assert header == "Results NDCG@10, 95 % interval over p Row Seeds Recall@10 NDCG@10 users Difference (Holm)"
    last = comparison.rows[-1]
    assert last.test is not None
    assert last.test.difference is not None
    assert last.test.p_holm is not None
    recall = last.metrics["recall@10"].mean
    assert re.search(
        rf"{recall:.4f} +{last.value:.4f} +\[.{{14}}\] +{re.escape(f'{last.test.difference:+.5f}')} +{last.test.p_holm:.4f}$",
        printed,
        flags=re.MULTILINE,
    )
    left_out = "Results: Recall@1, Recall@5, Recall@20, Recall@50, NDCG@5, MRR@10, Coverage@10"
    assert f"Not shown in 80 columns: {left_out}" in " ".join(printed.split())
    assert "--markdown FILE of genrec compare writes all" in " ".join(printed.split())


def test_settings_that_do_not_fit_are_a_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A row without the setting is not named."""
    monkeypatch.setenv("COLUMNS", "60")
    rows = [run(f"row-with-a-long-name-{number}", 0, {"sft.steps": 5, "align.num_negatives": number // 2}) for number in (0, 2, 3)]
    comparison_report.terminal(compare([*rows, run("popularity", 0, {"policy.class": "Popularity"})], resamples=10))
    printed = " ".join(capsys.readouterr().out.split("Configuration differences")[1].split())
    assert printed.startswith("align.num_negatives: 0 (row-with-a-long-name-0); 1 (row-with-a-long-name-2, row-with-a-long-name-3)")


def test_a_pipe_gets_all_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    comparison_report.terminal(wide_comparison())
    header = next(line for line in capsys.readouterr().out.splitlines() if "Seeds" in line)
    assert [title for title in ("Recall@1 ", "Recall@50", "MRR@10", "Coverage@10", "NDCG@10, 95 % interval") if title in header] == [
        "Recall@1 ", "Recall@50", "MRR@10", "Coverage@10", "NDCG@10, 95 % interval",
    ]  # fmt: skip


def test_the_cold_start_table_shows_a_random_order(capsys: pytest.CaptureFixture[str]) -> None:
    """With 30 unseen items a random order has Recall@1 = 1/30, NDCG@5 = the sum of 1 / log2(1 + rank) over ranks 1..5, / 30."""
    rows = []
    for name, level in (("popularity", 0.0), ("sft", 0.5)):
        figures = {"cold_users": 12.0, "cold_items": 30.0}
        for n in (1, 5, 10, 20, 50):
            figures |= {f"cold_recall@{n}": level / 10, f"cold_ndcg@{n}": level / 10}
            figures |= {f"cold_only_recall@{n}": level, f"cold_only_ndcg@{n}": level}
        rows += [run(name, seed, {}) for seed in ((0, 1) if level else (0,))]
        rows = [entry._replace(metrics=entry.metrics | figures) if entry.name == name else entry for entry in rows]
    comparison = compare(rows, resamples=10)
    tables = tables_of(comparison_report.markdown(comparison))
    assert list(tables)[:2] == ["Results", "Items unseen in training (cold start)"]
    table = tables["Items unseen in training (cold start)"]
    assert table[0] == ["Row", "Ranked among", *(f"Recall@{n}" for n in (1, 5, 10, 20, 50)), "NDCG@5", "NDCG@10"]
    assert [row[:2] for row in table[1:]] == [
        ["popularity", "all items"], ["sft", "all items"],
        ["popularity", "unseen items"], ["sft", "unseen items"], ["random order", "unseen items"],
    ]  # fmt: skip
    assert table[2][2] == "0.0500"
    assert table[3][2:] == ["0.0000"] * 7
    assert table[4][2] == "0.5000"
    n5 = sum(1 / np.log2(1 + place) for place in range(1, 6)) / 30
    assert table[5][2:8] == ["0.0333", "0.1667", "0.3333", "0.6667", "1.0000", f"{n5:.4f}"]
    assert "12 users with a target that has no training interaction. 30 items of the catalog have none." in comparison_report.markdown(
        comparison
    )
    comparison_report.terminal(comparison)
    assert "Items unseen in training" in capsys.readouterr().out


def test_metrics_beyond_accuracy_have_one_cutoff_each() -> None:
    """10 if it exists, else the last. Counts and metrics with a table of their own are left out, and so is the tested metric."""
    figures = {
        "recall@5": 0.1, "recall@10": 0.2, "ndcg@20": 0.1, "mrr@5": 0.1, "coverage@20": 0.1, "users": 50.0, "invalid": 0.0,
        "head_recall@5": 0.21, "head_recall@10": 0.22, "head_recall@20": 0.23, "novelty@1": 3.5, "novelty@5": 3.25,
        "overlap@10[itemknn]": 0.5, "sid_recall@10": 0.3, "cold_recall@10": 0.1, "excluded_targets": 0.0, "dgu@10": float("nan"),
        "negatives_test_share": 0.1, "hit_rate@1[19 candidates]": 0.6,
    }  # fmt: skip
    one, other = (run(name, 0, {})._replace(metrics=figures) for name in ("one", "other"))
    other = other._replace(metrics=other.metrics | {"head_recall@10": 0.44})
    one = one._replace(metrics=one.metrics | {"valid_share": 0.75})
    tables = tables_of(comparison_report.markdown(compare([one, other], "recall@5", resamples=10)))
    assert tables["Beyond accuracy"] == [
        ["Row", "head_recall@10", "novelty@5", "overlap@10[itemknn]", "dgu@10", "hit_rate@1[19 candidates]", "valid_share"],
        ["one", "0.2200", "3.2500", "0.5000", "-", "0.6000", "0.7500"],
        ["other", "0.4400", "3.2500", "0.5000", "-", "0.6000", "-"],
    ]
    tested = tables_of(comparison_report.markdown(compare([one, other], "novelty@5", resamples=10)))
    assert "novelty@5" in tested["Results"][0]
    assert "novelty@5" not in tested["Beyond accuracy"][0]


def test_recall_by_group_is_a_table_with_groups_as_columns() -> None:
    groups = ("history 1-4", "history 5-9", "popularity 1 of 5")
    figures = {f"recall@{n}[{group}]": n / 100 + place / 1000 for n in (5, 10, 20) for place, group in enumerate(groups)}
    one = run("one", 0, {})
    one = one._replace(metrics=one.metrics | figures)
    less = one._replace(name="less", metrics={key: value for key, value in one.metrics.items() if "5-9" not in key})
    plain = compare([one._replace(metrics={key: value for key, value in one.metrics.items() if "[" not in key})], resamples=10)
    tables = tables_of(comparison_report.markdown(compare([one, less], resamples=10)))
    assert tables["Recall@10 by group"] == [
        ["Row", *groups], ["one", "0.1000", "0.1010", "0.1020"], ["less", "0.1000", "-", "0.1020"],
    ]  # fmt: skip
    assert tables["Results"][:2] == tables_of(comparison_report.markdown(plain))["Results"]
    popular = "Popularity 1 of 5 holds the most popular targets."
    assert popular in comparison_report.markdown(compare([one], resamples=10))
    by_history = one._replace(metrics={key: value for key, value in one.metrics.items() if "popularity" not in key})
    assert popular not in comparison_report.markdown(compare([by_history], resamples=10))


def test_columns_have_the_number_of_users() -> None:
    """Of 50 users a group has 46, another 3 at seed 0 and 4 at seed 1. A metric that counts everybody needs no number."""
    figures = {"recall@5[history 5-9]": 0.1, "recall@5[history 10-19]": 0.2, "head_recall@5": 0.3, "novelty@5": 4.0}
    counts = {"recall@5[history 5-9]": 46, "recall@5[history 10-19]": 3, "head_recall@5": 40}
    runs = [run("one", seed, {}) for seed in (0, 1)]
    runs = [
        each._replace(
            metrics=each.metrics | figures,
            user_counts=counts | {"recall@5[history 10-19]": 3 + each.seed, "novelty@5": len(each.ranks)},
        )
        for each in runs
    ]
    text = comparison_report.markdown(compare(runs, "recall@1", resamples=10))
    tables = tables_of(text)
    assert tables["Recall@5 by group"][0] == ["Row", "history 5-9 (46)", "history 10-19 (3-4)"]
    assert {"head_recall@5 (40)", "novelty@5"} <= set(tables["Beyond accuracy"][0])
    assert text.count("Definitions: docs/evaluation.md in the repository of genrec, Other metrics.") == 2


def test_targets_that_filter_seen_excludes_are_counted() -> None:
    def notes(*counts: float, filter_seen: bool = True) -> list[str]:
        runs = [run(f"row{place}", 0, {}) for place in range(len(counts))]
        filled = [entry._replace(metrics=entry.metrics | {"excluded_targets": n}) for entry, n in zip(runs, counts, strict=True)]
        filled = [entry._replace(protocol=PROTOCOL | {"filter_seen": filter_seen}) for entry in filled]
        lines = comparison_report.markdown(compare(filled, resamples=10)).splitlines()
        return [line for line in lines if line.startswith("Users who had already taken")]

    about = "Users who had already taken their target, a miss with filter_seen:"
    assert notes(3.0, 3.0) == [f"{about} 3 of 50."]
    assert notes(3.0, 4.0, 3.0) == [f"{about} 3 of 50 (row0 and row2); 4 of 50 (row1)."]
    assert notes(0.0, 0.0) == [f"{about} 0 of 50."]
    assert notes(0.0, 0.0, filter_seen=False) == []


def test_small_p_values_have_an_exponent() -> None:
    assert [p_cell(p) for p in (0.5, 0.0001, 0.00004, 3e-20, None)] == ["0.5000", "0.0001", "4.0e-05", "3.0e-20", "undefined"]


def test_few_seeds_have_a_note_with_the_simulated_level() -> None:
    """Two trained rows and a baseline: the note has the pairs whose level is above 7 % at so few seeds."""

    def note(seeds: int, reference: str, *names: str) -> list[str]:
        trained = {"sft.optimization.max_steps": 5}
        runs = [run(name, seed, trained if name != "pop" else {}) for name in names for seed in range(seeds if name != "pop" else 1)]
        lines = comparison_report.markdown(compare(runs, reference=reference, resamples=10)).splitlines()
        return [line for line in lines if line.startswith("Few seeds")]

    assert "11 % of tests against a baseline over 2 seeds" in note(2, "pop", "pop", "sft")[0]
    assert "7.4 % of tests against a baseline over 4 seeds" in note(4, "pop", "pop", "sft")[0]
    assert note(5, "pop", "pop", "sft", "longer") == []
    both = "11 % of tests against a baseline over 2 seeds and 7.7 % of tests against a trained reference over 2 seeds"
    assert both in note(2, "sft", "pop", "sft", "longer")[0]
    assert note(3, "sft", "sft", "longer") == []
