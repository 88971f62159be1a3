"""A comparison as LaTeX and as CSV: escaped names, bold cells, full precision."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pandas import DataFrame

from genrec.evaluation.compare import Comparison, Run, compare
from genrec.evaluation.comparison.comparison_csv import comparison_csv
from genrec.evaluation.comparison.comparison_latex import SPECIAL, escaped, latex
from genrec.terminal_text import printable

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


class Tabular(NamedTuple):
    """A `tabular` that is read."""

    columns: int
    depth: int  # open braces around its cells
    lines: list[list[str]]  # the cells as LaTeX shows them; the last line is open


COMMANDS = {
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">", "textbar": "|",
    "textquotedbl": '"', "textasciigrave": "`", "textquotesingle": "'", "pm": "±",
}  # fmt: skip
RULES = ("toprule", "midrule", "bottomrule")  # of booktabs
SILENT = {"centering", "caption", "resizebox", "ifdim", "width", "linewidth", "else", "fi", "textbf", *RULES}
LIGATURES = {"--": "–", "---": "—", ",,": "„", "``": "“", "''": "”", "<<": "«", ">>": "»", "?`": "¿", "!`": "¡"}
TOKEN = re.compile(r"\\(begin|end)\{(\w+)\}(?:\{(\w+)\})?|\\([A-Za-z]+) *|\\(.)|%[^\n]*\n\s*|(\s+)|(-+|,,|``|''|<<|>>|[?!]`|.)")


def read_latex(source: str) -> tuple[str, list[Tabular]]:
    """Return the text of a LaTeX source as it is shown, and its tabulars. Fails for a source that LaTeX would not read.

    It reads the part of the language that tables use, by the rules of TeX rather than those of the writer: comments, groups,
    environments, mathematics, alignment characters, the optional arguments of a line's end, and ligatures.
    """
    shown, tabulars = "", []
    opened: list[tuple[str, str]] = []  # kind and name of groups, environments and mathematics
    cell = 0  # where the text of the present cell begins
    taken: tuple[str, ...] = ()  # what a line's end or a rule before it would take as its own star or argument
    place = 0
    while place < len(source):
        match = TOKEN.match(source, place)
        assert match is not None, source[place:]
        place = match.end()
        verb, environment, columns, command, symbol, space, text = match.groups()
        tabular = tabulars[-1] if opened[-1:] == [("environment", "tabular")] else None
        if space or match[0].startswith("%"):
            shown += " " if space else ""
            continue
        assert text not in taken, source[place - 20 : place]
        taken = ("[",) if command in RULES else ()
        if verb == "begin":
            opened.append(("environment", environment))
            if environment == "tabular":
                tabulars.append(Tabular(len(columns), len(opened), [[]]))
                cell = len(shown)
        elif verb == "end":
            assert opened.pop() == ("environment", environment)
        elif command:
            assert command in COMMANDS or command in SILENT, command
            shown += COMMANDS.get(command, "")
        elif symbol == "\\" or text == "&":
            assert tabular is not None, source[place - 20 : place]
            tabular.lines[-1].append(" ".join(shown[cell:].split()))
            cell = len(shown)
            if symbol:
                assert len(tabular.lines[-1]) == tabular.columns
                tabular.lines.append([])
                taken = ("*", "[")
        elif symbol:
            assert symbol in "&%$#_{}", symbol
            shown += symbol
        elif text == "{":
            opened.append(("group", ""))
        elif text == "}":
            assert opened.pop() == ("group", "")
        elif text == "$":
            if opened[-1:] == [("mathematics", "")]:
                opened.pop()
            else:
                opened.append(("mathematics", ""))
        else:
            assert text not in ("#", "_", "^", "~"), source[place - 20 : place]
            shown += LIGATURES.get(text, text)
    assert not opened
    return shown, tabulars


PIECES = [*"&%$#_{}~^\\[]*-,'`<>|\"±?! \n", "ab", "1", "--", ",,", "``", "\\\\", "% ", "\\end{tabular}"]
HOSTILE = st.lists(st.sampled_from(PIECES) | st.characters(categories=["L", "N", "P", "S", "Cc"]), max_size=8).map("".join)


@given(HOSTILE)
@example("a--b,,c---d''``<<?`")
def test_escaped_text_is_shown_unchanged(text: str) -> None:
    shown, _ = read_latex(escaped(text))
    assert shown.split() == printable(text).split()


@pytest.mark.parametrize("source", ["a & b", "a_b", "50 % of {x", r"\foo", "{a}}", "$a", "a#1", "a~b", r"\begin{table}"])
def test_the_reader_refuses_what_latex_refuses(source: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        read_latex(source)


def test_the_reader_knows_the_rules_of_a_line() -> None:
    table = r"\begin{tabular}{lr} a & b \\ %s \\ \end{tabular}"
    assert read_latex(table % r"c\& & \textbf{d}")[1][0].lines[:2] == [["a", "b"], ["c&", "d"]]
    assert read_latex("a--b,,c-{}-d")[0] == "a–b„c--d"
    for line in ("c", "c & d & e", "*c & d", "[c] & d"):
        with pytest.raises(AssertionError):
            read_latex(table % line)


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(HOSTILE.filter(str.strip), min_size=2, max_size=3, unique_by=lambda name: tuple(printable(name).split())),
    other=HOSTILE,
)
@example(names=["[a", "*b", "[c--d]"], other="--")
def test_tables_with_hostile_names_are_latex(names: list[str], other: str) -> None:
    """Names of rows and metrics, settings and the protocol hold any characters; the first table shows every row's name."""
    runs = [run(name, seed, hits) for name, hits in zip(names, (0.2, 0.8, 0.5), strict=False) for seed in (0, 1)]
    protocol = PROTOCOL | {"data": other, other: "x"}
    hostile = [
        each._replace(
            metrics=each.metrics | {f"{other}@10": 0.5, f"recall@10[{other}]": 0.25},
            configuration={"sft.class": other, "policy.class": f"own:{each.name}", other: each.name},
            protocol=protocol,
        )
        for each in runs
    ]
    _, tabulars = read_latex(latex(compare(hostile, resamples=20)))
    assert tabulars
    for name in names:
        expected = " ".join(printable(name).split())
        assert any(line and line[0] == expected for line in tabulars[0].lines), (expected, tabulars[0].lines)


@given(st.text())
@example("--")
@example(",,,-")
def test_no_special_character_is_left(text: str) -> None:
    """What remains has no special character once the known escapes and the braces of ligatures are taken away."""
    left = escaped(text)
    for written in sorted(SPECIAL.values(), key=len, reverse=True):
        left = left.replace(written, "")
    left = re.sub(r"([-,]){}(?=\1)", r"\1", left)
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
