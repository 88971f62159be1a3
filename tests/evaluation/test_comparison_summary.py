"""A comparison in words: the best row, what its test says, and the next commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame

from genrec import run_files
from genrec.evaluation import comparison_report
from genrec.evaluation.compare import Comparison, Run, compare
from genrec.evaluation.comparison_summary import summary
from genrec.row_commands import print_table

SFT: dict[str, object] = {"sft.optimization.max_steps": 5}
CONTROL = SFT | {"align.loss.class": "genrec.preference.losses:ContinuedSFT"}
DPO = SFT | {"align.loss.class": "genrec.preference.losses:DPO"}
BASELINE: dict[str, object] = {"policy.class": "Popularity"}
CAUTION = "p resamples users only: it compares these trained models, not the methods, and other seeds may change the sign."


def run(name: str, hits: int, configuration: dict[str, object], seed: int = 0) -> Run:
    """Return a run in which the first `hits` of 100 users have their target in the first place, and the others miss it."""
    users = np.arange(100)
    ranks = DataFrame({"user": users, "target": users + 1, "rank": (users < hits).astype(int)})
    return Run(name, seed, ranks, {"recall@10": hits / 100, "ndcg@10": hits / 100}, {"data": "toy"}, configuration)


def figures(comparison: Comparison, name: str) -> str:
    """Return the figures of a test as in the text."""
    test = next(row.test for row in comparison.rows if row.name == name)
    assert test is not None
    assert test.interval is not None
    low, high = test.interval
    return f"(difference {test.difference:+.5f}, 95 % interval {low:+.5f} to {high:+.5f}, p (Holm) {test.p_holm:.4f})"


def test_a_difference_within_chance_is_not_called_a_gain() -> None:
    """Two of 100 users differ. A resample has Binomial(100, 0.02) of them: p = P(0) + P(4 or more) = 0.133 + 0.141 = 0.274."""
    comparison = compare([run("sft", 10, SFT), run("other", 12, SFT)])
    test = comparison.rows[1].test
    assert test is not None
    assert test.p == pytest.approx(0.274, abs=0.02)
    first, *others = summary(comparison).reading
    assert first == (
        "Of 2 rows other has the highest NDCG@10 (0.1200); it is not distinguishable from the reference sft "
        f"{figures(comparison, 'other')}. {CAUTION}"
    )
    assert others == []


def test_a_difference_beyond_chance_is_one_among_users() -> None:
    comparison = compare([run("sft", 10, SFT), run("other", 40, SFT)], resamples=2000)
    text = f"it is above the reference sft beyond chance among users {figures(comparison, 'other')}."
    assert summary(comparison).reading[0] == f"Of 2 rows other has the highest NDCG@10 (0.4000); {text} {CAUTION}"


def test_the_reference_is_compared_with_the_next_row() -> None:
    comparison = compare([run("popularity", 1, BASELINE), run("sft", 40, SFT), run("dpo", 39, DPO)], reference="sft", resamples=2000)
    assert summary(comparison).reading[0] == (
        "Of 3 rows sft has the highest NDCG@10 (0.4000) and is the reference; the next row, dpo, is not distinguishable from it "
        f"{figures(comparison, 'dpo')}. {CAUTION}"
    )
    comparison = compare([run("sft", 40, SFT), run("dpo", 10, DPO)], resamples=2000)
    assert f"the next row, dpo, is below it beyond chance among users {figures(comparison, 'dpo')}" in summary(comparison).reading[0]


def test_equal_rows_name_the_reference_first() -> None:
    comparison = compare([run("dpo", 10, DPO), run("sft", 10, SFT)], reference="sft", resamples=10)
    assert "Of 2 rows sft has the highest NDCG@10 (0.1000) and is the reference" in summary(comparison).reading[0]
    assert "(difference +0.00000, 95 % interval +0.00000 to +0.00000, p (Holm) 1.0000)" in summary(comparison).reading[0]


def test_a_mean_over_other_seeds_is_no_gain_at_the_common_seed() -> None:
    """The reference has 50 and 10 hits, the mean 0.30; the sampler has 40 hits with seed 0, where it loses by 0.10."""
    comparison = compare([run("sft", 50, SFT), run("sft", 10, SFT, 1), run("sampler", 40, SFT)], resamples=2000)
    assert (
        "sampler has the highest NDCG@10 (0.4000); at seed 0, which both have, it is below the reference sft beyond chance among "
        "users (difference -0.10000"
    ) in summary(comparison).reading[0]


def test_rows_without_a_test_say_why() -> None:
    comparison = compare([run("sft", 10, SFT), run("dpo", 20, SFT, 1)], resamples=10)
    reason = "no seed in common with sft, which has seed 0"
    assert (
        f"dpo has the highest NDCG@10 (0.2000); it has no test against the reference sft: {reason}." in summary(comparison).reading[0]
    )
    better = compare([run("sft", 30, SFT), run("dpo", 20, SFT, 1)], resamples=10)
    assert f"the next row, dpo, has no test against it: {reason}." in summary(better).reading[0]
    constant = compare([run("sft", 0, SFT), run("dpo", 100, SFT)], resamples=10)
    assert (
        "it differs from the reference sft by +1.00000, without a test: the difference is the same for every user."
        in summary(constant).reading[0]
    )


def test_rows_with_preferences_are_compared_with_the_control() -> None:
    rows = [run("popularity", 1, BASELINE), run("sft", 40, SFT), run("more", 41, CONTROL), run("dpo", 39, DPO), run("s-dpo", 38, DPO)]
    found = summary(compare(rows, reference="sft", resamples=2000))
    assert found.reading[1] == (
        "Of the rows with a preference loss (dpo and s-dpo) none is above sft beyond chance among users. more is the control, trained "
        "further without preferences: a gain that it has too comes from more training."
    )
    assert found.commands == [
        "genrec compare more dpo s-dpo --reference more", "genrec curves more dpo s-dpo", "genrec show more",
    ]  # fmt: skip
    gain = summary(compare([rows[1], run("dpo", 80, DPO)], resamples=2000))
    assert gain.reading[1] == "Of the rows with a preference loss (dpo) dpo is above sft beyond chance among users."


def test_no_finding_is_stated_without_a_test() -> None:
    """`al` is higher, but it has no seed in common with sft: no sentence that none is above, no command for the same in reverse."""
    rows = [run("sft", 10, SFT), run("sft", 10, SFT, 1), run("al", 60, DPO, 2)]
    found = summary(compare(rows, resamples=10))
    assert found.reading[1:] == ["al has a preference loss, but no test against sft."]
    assert found.commands == ["genrec curves al", "genrec show al"]
    found = summary(compare([*rows, run("other", 70, DPO)], resamples=2000))
    assert found.reading[1] == (
        "Of the rows with a preference loss (other) other is above sft beyond chance among users. "
        "al has a preference loss, but no test against sft."
    )
    assert found.commands[0] == "genrec compare sft al other --reference other"
    with_control = summary(compare([*rows, run("more", 5, CONTROL)], resamples=10))  # no seed in common with al
    assert with_control.commands[0] == "genrec compare sft al more --reference more"


def test_rows_with_different_seeds_are_named() -> None:
    """The highest mean may be that of a lucky seed. A baseline has one result for all seeds."""
    rows = [run(name, hits, SFT, seed) for name, hits, seed in (("sft", 10, 0), ("sft", 30, 1), ("al", 30, 1), ("al", 40, 2))]
    rows = [run("popularity", 1, BASELINE), *rows]
    comparison = compare(rows, resamples=10)
    warning = (
        "The means of the trained rows are over different seeds: sft has seeds 0 and 1; al has seeds 1 and 2. "
        "Run all with the same seeds before drawing a conclusion."
    )
    assert warning in summary(comparison).reading[0]
    assert warning in comparison_report.markdown(comparison)
    assert "different seeds" not in comparison_report.markdown(compare([*rows[:3], run("al", 1, SFT), run("al", 2, SFT, 1)]))


def test_commands_of_tables_without_a_control() -> None:
    rows = [run("popularity", 1, BASELINE), run("my sft", 40, SFT), run("dpo", 20, DPO)]
    assert summary(compare(rows, reference="my sft", resamples=10)).commands == [
        "genrec compare popularity 'my sft' dpo --reference dpo", "genrec curves dpo", "genrec show 'my sft'",
    ]  # fmt: skip
    alone = summary(compare(rows[1:2], resamples=10))
    assert alone.reading == ["my sft has NDCG@10 0.4000. Compare it with another row, at best with a baseline."]
    assert alone.commands == ["genrec compare 'my sft' NAME_OF_ANOTHER_ROW", "genrec curves 'my sft'", "genrec show 'my sft'"]
    assert summary(compare(rows[:1], resamples=10)).commands[1:] == ["genrec show popularity"]


def test_after_a_run_the_pictures_and_commands_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text is broken between words; a command stays on one line, so that it can be copied."""
    monkeypatch.setenv("COLUMNS", "60")
    names = [f"a-row-with-a-long-name-{number}" for number in (1, 2)]
    comparison = compare([run(name, 40, SFT) for name in names], resamples=10)
    comparison_report.after_run(comparison, Path("data/reports"))
    lines = capsys.readouterr().out.splitlines()
    assert "Pictures of the training curves: data/reports" in lines
    assert lines[lines.index("Next:") + 1] == f"  genrec compare {' '.join(names)} --reference {names[1]}"
    assert all(len(line) <= 60 for line in lines[: lines.index("Next:")])
    comparison_report.after_run(compare([run("popularity", 1, BASELINE)], resamples=10), Path("data/reports"))
    assert "Pictures" not in capsys.readouterr().out


def test_the_meaning_is_printed_after_a_run_and_not_by_compare(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENREC_HOME", "elsewhere")
    monkeypatch.setattr(run_files, "outcomes", lambda names, seeds: [run(name, 40, SFT) for name in names])
    print_table(["sft", "dpo"], "ndcg@10", "sft", None, {"sft": {0}, "dpo": {0}}, after_run=True)
    after_run = capsys.readouterr().out
    assert "Pictures of the training curves: elsewhere/reports" in after_run
    assert CAUTION in " ".join(after_run.split())
    print_table(["sft", "dpo"], "ndcg@10", "sft", None)
    compared = capsys.readouterr().out
    assert after_run.startswith(compared)
    assert "Next:" not in compared
