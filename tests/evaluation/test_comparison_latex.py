"""A comparison as LaTeX and as CSV: escaped names, bold cells, full precision."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame

from genrec.evaluation.compare import Comparison, Run, compare
from genrec.evaluation.comparison.comparison_csv import comparison_csv
from genrec.evaluation.comparison.comparison_latex import SPECIAL, escaped, latex

PROTOCOL: dict[str, object] = {"data": "A & B", "cutoffs": [10]}


def run(name: str, seed: int, hits: float) -> Run:
    """A run of 200 users, of whom about a share of `hits` finds the target on the first place."""
    found = np.random.default_rng([seed, int(hits * 100)]).random(200) < hits
    ranks = DataFrame({"user": np.arange(1, 201), "target": 1, "rank": found.astype(np.int64)})
    metrics = {"recall@10": float(found.mean()), "ndcg@10": float(found.mean())}
    return Run(name, seed, ranks, metrics, PROTOCOL, {"sft.class": "a", "policy.class": f"own:{name}"})


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    rows = (("low_1", 0.2), ("same", 0.21), ("high", 0.8))
    return compare([run(name, seed, hits) for name, hits in rows for seed in (0, 1, 2)], resamples=200)


def test_escaping_by_hand() -> None:
    assert escaped("a_b & 50 % \\x {y} ±1") == r"a\_b \& 50 \% \textbackslash{}x \{y\} $\pm$1"
    assert escaped("line\nfeed") == "line feed"


@given(st.text())
def test_no_special_character_is_left(text: str) -> None:
    """What remains after the known escapes are taken away has no special character."""
    left = escaped(text)
    for written in sorted(SPECIAL.values(), key=len, reverse=True):
        left = left.replace(written, "")
    assert not set("&%$#_{}~^\\") & set(left)


def test_only_significant_differences_are_bold(comparison: Comparison) -> None:
    lines = [line for line in latex(comparison).splitlines() if line.strip().startswith(("low", "same", "high"))]
    bold = [line.split(" & ")[0].strip() for line in lines if r"\textbf" in line]
    assert bold == ["high"]
    assert r"\textbf{+0." in next(line for line in lines if r"\textbf" in line)


def test_every_line_has_the_columns_of_its_table(comparison: Comparison) -> None:
    for table in latex(comparison).split(r"\begin{tabular}")[1:]:
        columns = table[1 : table.index("}")]
        body = table.split(r"\toprule")[1].split(r"\bottomrule")[0]
        for line in filter(lambda each: each.endswith(r"\\"), body.splitlines()):
            assert line.replace(r"\&", "").count("&") == len(columns) - 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex, which this machine lacks")
def test_latex_compiles(comparison: Comparison, tmp_path: Path) -> None:
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx,textcomp}\begin{document}"
    (tmp_path / "table.tex").write_text(head + latex(comparison) + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_csv_has_full_precision(comparison: Comparison) -> None:
    lines = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    assert [line["row"] for line in lines] == ["low_1", "same", "high"]
    assert lines[0]["difference"] == ""
    for line, row in zip(lines, comparison.rows, strict=True):
        assert float(line["value"]) == row.value
        assert float(line["recall@10"]) == row.metrics["recall@10"].mean
        assert float(line["recall@10 deviation"]) == row.metrics["recall@10"].deviation
        if row.test is not None:
            assert row.test.interval is not None
            found = [float(line[name]) for name in ("difference", "difference_low", "difference_high", "p_holm")]
            assert found == [row.test.difference, *row.test.interval, row.test.p_holm]
