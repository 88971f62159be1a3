"""The protocol below the tables: one labeled line per subject, from data to environment."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from pandas import DataFrame

from genrec.evaluation.compare import Comparison, Run, compare
from genrec.evaluation.comparison import comparison_report, run_environments
from genrec.evaluation.comparison.comparison_protocol import protocol_lines
from genrec.types.data import TIES_OF_EACH_SEED

PROTOCOL: dict[str, object] = {
    "data": "MovieLens(variant=100k)",
    "data key": "0123456789abcdef",
    "split": "LeaveOneOut(core=5)",
    "users tested": 1943,
    "users": 1950,
    "items": 1349,
    "interactions": 99_287,
    "ties": "row order of the file",
    "targets decided by ties": 0.4412,
    "training later than a test event": 0.376,
    "ranking": "full catalog, item level",
    "history": 20,
    "filter_seen": False,
    "selection": "NDCG@10 on validation, seen items kept",
    "cutoffs": [1, 5, 10],
}
BASELINE: dict[str, object] = {"policy.class": "m:Popularity"}
TRAINED: dict[str, object] = {"policy.class": "m:Tiger", "policy.num_beams": 50, "sft.optimization.max_steps": 10}


def run(name: str, seed: int, configuration: dict[str, object], **protocol: object) -> Run:
    ranks = DataFrame({"user": range(6), "target": range(6), "rank": [(len(name) * user + seed) % 11 for user in range(6)]})
    return Run(name, seed, ranks, {"recall@10": 0.5, "ndcg@10": 0.25}, PROTOCOL | protocol, configuration)


def lines(runs: Sequence[Run], reference: str | None = None) -> dict[str, str]:
    """Return the text of each line by its label."""
    return dict(protocol_lines(compare(runs, reference=reference, resamples=20)))


def test_the_lines_of_a_table() -> None:
    runs = [run("popularity", 0, BASELINE), *(run(name, seed, TRAINED) for name in ("sft", "control") for seed in (0, 1, 2))]
    assert lines([each._replace(environment={"threads": "2", "torch": "2.13"}) for each in runs], "sft") == {
        "Data": "MovieLens(variant=100k); key 0123456789abcdef; 1,950 users; 1,349 items; 99,287 interactions; users tested: 1,943",
        "Split": "LeaveOneOut(core=5); ties in row order of the file; the order of ties decides the target of 44.1% of the tested "
        "users; on average 37.6% of the training events are later than a test event",
        "Ranking": "full catalog, item level; history of 20 items; seen items kept (filter_seen False); cut-offs 1, 5, 10; beams 50",
        "Selection": "NDCG@10 on validation, seen items kept, selects the step of SFT",
        "Seeds": "0, 1 and 2 of all trained rows; baselines have one result for all seeds",
        "Holm's families": "1 test of trained rows against sft (control); 1 test of baselines against sft (popularity)",
        "Trained on": "threads 2; torch 2.13",
    }


def test_what_differs_between_rows() -> None:
    """Beams, seeds, and which step of alignment is kept."""
    keep = {name: TRAINED | {"align.keep": name} for name in ("best", "last")}
    runs = [run("sft", seed, TRAINED | {"evaluate.scoring": "exact"}) for seed in (0, 1, 2)]
    runs += [run("early", seed, keep["best"] | {"evaluate.num_beams": 60}) for seed in (1, 2)] + [run("late", 2, keep["last"])]
    found = lines(runs)
    assert found["Ranking"].endswith("cut-offs 1, 5, 10; beams of sft none (exact scoring); beams of early 60; beams of late 50")
    assert found["Selection"] == (
        "NDCG@10 on validation, seen items kept, selects the step of SFT and of alignment (early); the last step of alignment is kept "
        "(late)"
    )
    assert found["Seeds"] == "0, 1 and 2 of sft; 1 and 2 of early; 2 of late; in common: 2"
    assert found["Holm's family"] == "1 test of trained rows against sft (early)"
    assert lines([run("sft", 0, TRAINED), run("late", 3, keep["last"])])["Seeds"] == "0 of sft; 3 of late; in common: none"
    assert lines([run("a", 0, keep["best"]), run("b", 0, keep["best"])])["Selection"].endswith(
        "selects the step of SFT and of alignment"
    )
    assert lines([run("a", 0, keep["last"])])["Selection"].endswith("selects the step of SFT; the last step of alignment is kept")
    assert lines([run("a", 4, keep["last"])])["Seeds"] == "4 of a"


def test_baselines_alone_select_nothing() -> None:
    found = lines([run("popularity", 0, BASELINE), run("itemknn", 0, BASELINE)])
    assert found["Selection"] == "none, no row is trained"
    assert found["Seeds"] == "no row is trained, a baseline has one result"
    assert found["Holm's family"] == "1 test of baselines against popularity (itemknn)"


def test_targets_of_each_seed() -> None:
    runs = [run(name, seed, TRAINED, ties=TIES_OF_EACH_SEED) for name in ("sft", "dpo") for seed in (0, 1)]
    runs += [run("popularity", seed, BASELINE, ties=TIES_OF_EACH_SEED) for seed in (0, 1)]
    found = lines(runs)
    assert "; ties in a random order of each seed, each with targets of its own; " in found["Split"]
    assert found["Seeds"] == "0 and 1 of all trained rows; 0 and 1 of popularity"


def test_a_row_of_an_earlier_version_has_fewer_entries() -> None:
    """An entry that no line names has a line of its own, so that no difference between two tables is hidden."""
    older = {"data": "Shop()", "users": "many", "sampling": 0.5, "split": "LeaveOneOut()"}
    comparison = compare([run("a", 0, BASELINE)._replace(protocol=older), run("b", 0, BASELINE)._replace(protocol=older)], resamples=5)
    found = dict(protocol_lines(comparison))
    assert (found["Data"], found["Split"], found["sampling"]) == ("Shop(); users many", "LeaveOneOut()", "0.5")
    assert "Ranking" not in found
    assert "Selection" not in found


def test_data_without_times_have_neither_ties_nor_leakage() -> None:
    untimed = dict.fromkeys(("ties", "targets decided by ties", "training later than a test event"))
    found = lines([run("popularity", 0, BASELINE, **untimed), run("itemknn", 0, BASELINE, **untimed)])
    assert found["Split"] == "LeaveOneOut(core=5); no times: events in row order, and leakage unknown"


@pytest.fixture
def comparison() -> Comparison:
    return compare([run(name, seed, TRAINED) for name in ("sft", "a[b]*_c") for seed in (0, 1)], resamples=20)


def test_the_protocol_is_below_the_tables(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Markdown has a list, the terminal lines that are broken between words."""
    monkeypatch.setenv("COLUMNS", "80")
    comparison_report.terminal(comparison)
    before, printed = capsys.readouterr().out.split("\nProtocol\n")
    assert "NDCG@10 compared with sft" in before
    tables, listed = comparison_report.markdown(comparison).split("\n\n**Protocol**\n\n")
    assert "**NDCG@10 compared with sft**" in tables
    labels = [label for label, _ in protocol_lines(comparison)]
    assert [line.split(":**")[0] for line in listed.splitlines()] == [f"- **{label}" for label in labels]
    assert [line.split(":")[0] for line in printed.splitlines() if line.split(":")[0] in labels] == labels
    assert max(map(len, printed.splitlines())) <= 80
    text = listed.replace("- **", "").replace(":**", ":").replace("\\", "")
    assert printed.split() == text.split()
    assert "against sft (a[b]\\*\\_c)" in listed


def environment_lines(**changes: dict[tuple[str, int], str]) -> list[str]:
    """Return the lines on rows sft and dpo with seeds 0, 1 and 2 and popularity, where `changes` are values by key, row and seed."""
    base = {"threads": "2", "processor": "AMD EPYC 9R14", "precision": "32-true"}
    runs = []
    for name, seed in [(name, seed) for name in ("sft", "dpo") for seed in (0, 1, 2)]:
        found = base | {key: values[name, seed] for key, values in changes.items() if (name, seed) in values}
        runs.append(run(name, seed, TRAINED)._replace(environment={key: value for key, value in found.items() if value}))
    runs.append(run("popularity", 0, BASELINE)._replace(environment={"threads": "2", "processor": "AMD EPYC 9R14"}))
    return [": ".join(line) for line in run_environments.environment_lines(compare(runs, resamples=10))]


def test_the_environment_of_all_runs_is_one_line() -> None:
    """A baseline has no precision."""
    assert environment_lines() == ["Trained on: threads 2; processor AMD EPYC 9R14; precision 32-true"]


def test_rows_and_seeds_with_another_environment_are_named() -> None:
    threads = {("dpo", seed): "1" for seed in (0, 1, 2)} | {("sft", 1): "4"}
    trained, differing = environment_lines(threads=threads, processor={("sft", 0): "", ("sft", 2): ""})
    assert trained == "Trained on: precision 32-true"
    assert differing == (
        "Not the same for all runs: threads 4 (row sft seed 1), 1 (row dpo), 2 (all others); "
        f"processor not recorded (row sft seeds 0 and 2), AMD EPYC 9R14 (all others). {run_environments.BIT_EQUAL}"
    )


def test_a_row_of_two_precisions_gets_a_warning() -> None:
    """Two rows that differ in precision are named too, but neither mixes."""
    *_, mixed = environment_lines(precision={("dpo", 1): "bf16-mixed"})
    assert mixed == (
        "Precision: dpo mixes 32-true (seeds 0 and 2) and bf16-mixed (seed 1). Train all its seeds with one precision before drawing "
        "a conclusion."
    )
    found = environment_lines(precision={("dpo", seed): "bf16-mixed" for seed in (0, 1, 2)})
    assert found[-1].startswith("Not the same for all runs: precision bf16-mixed (row dpo), 32-true (all others)")


def test_runs_without_a_record_of_their_environment(comparison: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    """No record at all gives no line; one among others is named."""
    assert run_environments.environment_lines(comparison) == []
    runs = [run("sft", 0, TRAINED)._replace(environment={"threads": "2"}), run("old", 0, TRAINED), run("older", 0, TRAINED)]
    found = compare([*runs, runs[0]._replace(name="dpo"), runs[0]._replace(name="s-dpo")], resamples=10)
    text = f"threads not recorded (row old, row older), 2 (all others). {run_environments.BIT_EQUAL}"
    assert run_environments.environment_lines(found) == [("Not the same for all runs", text)]
    assert f"- **Not the same for all runs:** {text}\n" in comparison_report.markdown(found)
    comparison_report.terminal(found)
    assert f"Not the same for all runs: {text}" in " ".join(capsys.readouterr().out.split())
