"""The figures of the README's tables are those of the kept rows and of the study of the quick start."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest

from genrec.quickstart import comparison

PROJECT = Path(__file__).parents[1]
HEADLINE = {  # words of a row of the README's first table -> its rows, which are kept, and SASRec's
    "[Beauty](": ("beauty-rpg-warm", "beauty-sasrec"),
    "[Toys](": ("toys-rpg-warm", "toys-sasrec"),
    "[Beauty, OPQ": ("beauty-rpg-32-digits-only", "beauty-sasrec"),
    "[Toys, OPQ": ("toys-rpg-32-digits-only", "toys-sasrec"),
}
ROWS = {  # the row of the README's table -> that of the study
    "TIGER, SFT continued on all events": "taste-continued",
    "SFT on liked events alone from the start": "taste-sft-liked",
    "SFT continued on liked events alone": "taste-continued-liked",
    "SFT, then DPO over a dislike": "taste-dpo",
    "SFT, then S-DPO over five dislikes": "taste-sdpo",
    "SFT, then gated on-policy S-DPO and the likelihood of liked": "taste-gated",
    "SFT, then GRPO over beams, likewise": "taste-grpo",
}


def table(text: str, header: str) -> dict[str, list[str]]:
    """Return the cells after the first of each row of the first Markdown table with this beginning of its header."""
    lines = text[text.index(header) :].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in cells[2:]}


@pytest.fixture
def study() -> str:
    return (PROJECT / "experiments" / "results" / "quick-start.md").read_text(encoding="utf-8")


@pytest.fixture
def readme() -> dict[str, list[str]]:
    return table((PROJECT / "README.md").read_text(encoding="utf-8"), "| quick start, three seeds")


def after(study: str, title: str) -> str:
    return study[study.index(title) :]


def same(cell: str, figure: str, p: str) -> bool:
    """Return whether a cell such as '+0.0038 (0.7408)' is a figure of five decimals, rounded, with this p."""
    shown, shown_p = cell.split()
    return abs(float(shown) - float(figure.split()[0])) <= 5.1e-5 and shown_p == f"({p})"


def test_all_trained_rows_but_sft_stand_in_the_readme(readme: dict[str, list[str]]) -> None:
    trained = {each.name for each in comparison() if "sft" in each.stages} - {"taste-sft"}
    assert list(readme) == list(ROWS)
    assert set(ROWS.values()) == trained


@pytest.mark.parametrize("row", ROWS)
def test_the_figures_of_a_row_are_those_of_the_study(row: str, readme: dict[str, list[str]], study: str) -> None:
    name, (n10, against_control, against_liked, accuracy) = ROWS[row], readme[row]
    results, pairs = table(after(study, "**Results**"), "| Row |"), table(after(study, "**Liked and disliked items**"), "| Row |")
    control = table(after(study, "**NDCG@10 compared with taste-continued**"), "| Row |")
    liked = table(after(study, "**Compared with SFT continued on liked events"), "| Row |")
    assert (n10, accuracy) == (results[name][6], pairs[name][0])
    if name == "taste-continued":
        other = control["taste-continued-liked"]
        assert against_control == "reference"
        assert same(against_liked, str(-float(other[0].split()[0])), other[3])
        return
    assert same(against_control, control[name][0], control[name][3])
    if name == "taste-continued-liked":
        assert against_liked == "reference"
    else:
        assert same(against_liked, liked[name][0], liked[name][1])


def kept_mean(row: str) -> float:
    """Return the mean NDCG@10 over the seeds of a kept row."""
    runs = json.loads((PROJECT / "experiments/results/kept/runs" / f"{row}.json").read_text(encoding="utf-8"))["seeds"]
    return mean(run["metrics"]["ndcg@10"] for run in runs.values())


@pytest.mark.parametrize("words", HEADLINE)
def test_the_figures_of_the_headline_are_those_of_the_kept_rows(words: str) -> None:
    rows = table((PROJECT / "README.md").read_text(encoding="utf-8"), "| RPG | SFT")
    (cells,) = [cells for name, cells in rows.items() if name.startswith(words)]
    stem, sasrec = HEADLINE[words]
    sft, control, gated = (kept_mean(f"{stem}-{name}") for name in ("sft", "continued-long", "gated-long"))
    assert len(rows) == len(HEADLINE)
    assert [cells[place] for place in (0, 1, 2, 4)] == [f"{value:.4f}" for value in (sft, control, gated, kept_mean(sasrec))]
    assert cells[3].startswith(f"{gated / control - 1:+.1%}".replace("%", " %"))
