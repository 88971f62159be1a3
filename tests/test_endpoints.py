"""Endpoints: named in the file of a list, recorded before anything is trained, and tested apart from the other rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pandas import DataFrame
from worlds import cyclic, own_project

import genrec
from genrec import hashed_json, results, run_experiments, studies
from genrec.__main__ import main
from genrec.endpoints import Endpoint, endpoint, endpoints_of
from genrec.errors import UsageError
from genrec.evaluation.compare import Comparison, Run, Study, compare
from genrec.evaluation.comparison import comparison_report
from genrec.experiment import Experiment, baselines, seeds

FILE = """
from dataclasses import replace
from genrec.endpoints import endpoint
from genrec.experiment import baselines, seeds
from worlds import cyclic

def rows():
    control = replace(cyclic(steps=3, align_steps=2), name="control")
    longer = [replace(control.align, optimization=replace(control.align.optimization, max_steps=3 + place)) for place in range(2)]
    aligned = [replace(control, name=name, align=align) for name, align in zip(("dpo", "kto"), longer)]
    return baselines(control) + seeds([control, *aligned], 2)
"""
NAMED = '\n\n@endpoint("dpo", reference="control", metric="recall@1", seeds=2)\ndef named():\n    return rows()\n'
WRONG = """
@endpoint("dpo", reference="controll")
def misspelled():
    return rows()

@endpoint("control-popularity", reference="control")
def untrained():
    return rows()
"""
EARLY, LATER = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
SFT: dict[str, object] = {"sft.optimization.max_steps": 5}
TESTED = Endpoint("a", "sft", "recall@10", 3)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_project(tmp_path, monkeypatch, FILE + NAMED + WRONG)


def run(name: str, seed: int, first_run: str, *studies: Study) -> Run:
    ranks = np.random.default_rng([seed, *name.encode()]).integers(0, 15, 80)
    frame = DataFrame({"user": np.arange(80), "target": 1, "rank": ranks})
    return Run(name, seed, frame, {"recall@10": 0.1}, {}, SFT, studies=studies, first_run=first_run)


def table(*endpoints: Endpoint, named: str = EARLY, first_runs: dict[str, str] | None = None, **changes: Any) -> Comparison:
    """sft, a and b with three seeds, run in LATER unless `first_runs` says otherwise, of a study that named these endpoints."""
    rows = frozenset({"sft", "a", "b", "c", *changes.pop("replaced", ())})
    study = Study("mine.py:list", rows, tuple((each, named) for each in endpoints))
    times = {"sft": LATER, "a": LATER, "b": LATER} | (first_runs or {})
    runs = [run(name, seed, times[name], study) for name in times for seed in range(3)]
    return compare(runs, **{"metric": "recall@10", "resamples": 50, **changes})


def corrected(comparison: Comparison, row: str) -> tuple[float, float]:
    test = next(each.test for each in comparison.rows if each.name == row)
    assert test is not None
    assert test.p is not None
    assert test.p_holm is not None
    return test.p, test.p_holm


def said(comparison: Comparison) -> list[str]:
    lines = comparison_report.markdown(comparison).splitlines()
    return [line.replace("\\", "") for line in lines if line.startswith(("- **Endpoint", "- **Holm"))]


def test_an_endpoint_is_a_family_of_its_own() -> None:
    """p (Holm) of a is its p, and b is corrected with c, which was tried beside it, as if a were not there."""
    comparison = table(TESTED)
    assert [(each.kind, each.rows, each.size) for each in comparison.families] == [
        ("endpoints", ("a",), 1),
        ("trained rows", ("b",), 2),
    ]
    p, p_holm = corrected(comparison, "a")
    assert p_holm == p
    p, p_holm = corrected(comparison, "b")
    assert p_holm == pytest.approx(min(1, 2 * p))
    assert said(comparison) == [
        f"- **Endpoint:** recall@10 of a against sft over 3 seeds, named {EARLY} in mine.py:list, before both rows had been run at "
        "any of these seeds",
        "- **Holm's families:** 1 test of endpoints against sft (a); 2 tests of trained rows against sft (b; also tried: c)",
    ]
    plain = table()
    assert [(each.kind, each.size) for each in plain.families] == [("trained rows", 3)]
    assert corrected(plain, "a")[0] == corrected(comparison, "a")[0]


def test_all_endpoints_of_the_study_and_former_settings_count() -> None:
    others = (Endpoint("b", "sft", "ndcg@10", 3), Endpoint("c", "a", "recall@10", 3))
    comparison = table(TESTED, *others, replaced=["a (replaced)", "b (replaced)"])
    family = comparison.families[0]
    assert family.tried == ("a (replaced)", *sorted(map(str, others)))
    p, p_holm = corrected(comparison, "a")
    assert p_holm == pytest.approx(min(1, 4 * p))


def test_two_endpoints_of_a_table_are_corrected_together() -> None:
    comparison = table(TESTED, Endpoint("b", "sft", "recall@10", 3))
    assert [(each.kind, each.rows, each.size) for each in comparison.families] == [("endpoints", ("a", "b"), 2)]
    smaller = min(corrected(comparison, row) for row in "ab")
    assert smaller[1] == pytest.approx(min(1, 2 * smaller[0]))


@pytest.mark.parametrize(
    ("first_runs", "named", "is_tested"),
    [
        ({"a": EARLY, "sft": EARLY}, LATER, False),  # the difference was known when the endpoint was named
        ({"a": EARLY}, LATER, True),  # the reference was new
        ({"sft": EARLY}, LATER, True),  # the tested row was new
        ({"sft": ""}, LATER, True),  # a baseline has no time
        ({"a": EARLY, "sft": ""}, LATER, False),
    ],
)
def test_an_endpoint_must_be_named_before_both_rows_were_run(first_runs: dict[str, str], named: str, is_tested: bool) -> None:
    comparison = table(TESTED, named=named, first_runs=first_runs)
    assert [each.kind for each in comparison.families] == (["endpoints"] if is_tested else []) + ["trained rows"]
    assert comparison.families[-1].size == (2 if is_tested else 3)
    reason = "seeds 0, 1 and 2 of both rows had been run before"
    assert comparison.endpoints[0].reason == ("" if is_tested else reason)
    assert is_tested or f"; not tested here as an endpoint: {reason}" in said(comparison)[0]


def test_one_known_seed_is_enough_to_lose_the_endpoint() -> None:
    study = Study("mine.py:list", frozenset({"sft", "a"}), ((TESTED, LATER),))
    runs = [run(name, seed, EARLY if seed == 1 else LATER, study) for name in ("sft", "a") for seed in range(3)]
    assert compare(runs, "recall@10", resamples=50).endpoints[0].reason == "seed 1 of both rows had been run before"


def test_the_number_of_seeds_is_part_of_an_endpoint() -> None:
    """Neither a look after fewer seeds nor a test that was extended counts."""
    for number in (2, 4):
        comparison = table(Endpoint("a", "sft", "recall@10", number))
        assert comparison.endpoints[0].reason == "the table compares 3 seeds"
        assert [each.kind for each in comparison.families] == ["trained rows"]


def test_another_reference_or_metric_is_named_with_its_command() -> None:
    from genrec.evaluation.comparison.comparison_summary import summary

    comparison = table(Endpoint("b", "a", "recall@1", 3), TESTED)
    assert [each.reason for each in comparison.endpoints] == ["the table has another reference or metric", ""]
    assert summary(comparison).commands[0] == "genrec compare b a --reference a --metric recall@1"
    there = table(Endpoint("b", "a", "recall@10", 3), reference="a")
    assert [each.reason for each in there.endpoints] == [""]
    absent = table(Endpoint("c", "sft", "recall@10", 3))
    assert absent.endpoints == ()


def test_a_run_records_the_endpoint_before_it_trains(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "now", lambda: EARLY)
    assert main(["run", "mine.py:named"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "genrec compare dpo control --reference control --metric recall@1" in printed  # the table tests ndcg@10
    (found,) = genrec.compare(["control", "dpo", "kto"], metric="recall@1").comparisons
    assert [(each.kind, each.rows, each.size) for each in found.families] == [
        ("endpoints", ("dpo",), 1),
        ("trained rows", ("kto",), 1),
    ]
    monkeypatch.setattr(studies, "now", lambda: LATER)
    assert main(["run", "mine.py:named"]) == 0
    assert studies.read(studies.file_of("mine.py:named"))["endpoints"] == [
        {"row": "dpo", "reference": "control", "metric": "recall@1", "seeds": 2, "named": EARLY}
    ]


def test_an_endpoint_that_is_named_after_the_run_waits_for_fresh_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """`rows` was run without an endpoint; `named` comes later, and is an endpoint at seeds 2 and 3 alone."""
    monkeypatch.setattr(studies, "now", lambda: EARLY)
    assert main(["run", "mine.py:rows"]) == 0
    monkeypatch.setattr(studies, "now", lambda: LATER)
    assert main(["run", "mine.py:named", "--seeds", "0,1,2,3"]) == 0
    names = ["control", "dpo"]
    (known,), (fresh,) = (genrec.compare(names, "recall@1", seeds=each).comparisons for each in ((0, 1), (2, 3)))
    assert known.endpoints[0].reason == "seeds 0 and 1 of both rows had been run before"
    assert fresh.endpoints[0].reason == ""
    assert [each.kind for each in fresh.families] == ["endpoints"]


def test_kept_rows_keep_the_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["run", "mine.py:named"]) == 0
    assert main(["keep", "control", "dpo", "kto", "--to", "kept"]) == 0
    before = studies.read(studies.file_of("mine.py:named"))["endpoints"]
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "elsewhere"))
    (found,) = genrec.compare(["control", "dpo", "kto"], "recall@1", folder="kept").comparisons
    assert [each.kind for each in found.families] == ["endpoints", "trained rows"]
    (path,) = (tmp_path / "kept" / "studies").glob("*.json")
    assert json.loads(path.read_text())["endpoints"] == before


def test_of_two_records_the_first_time_counts() -> None:
    records = [{"endpoints": [{"row": "a", "reference": "sft", "metric": "m", "seeds": 2, "named": time}]} for time in (LATER, EARLY)]
    assert studies.merged_endpoints(*records) == records[1]["endpoints"]
    assert studies.merged_endpoints({}, records[0]) == records[0]["endpoints"]
    assert studies.merged_endpoints({}) == []


def test_rows_with_another_name_have_no_endpoint() -> None:
    """`--name` makes one row of all: it is not the row that the endpoint names."""
    assert main(["run", "mine.py:named", "--name", "short", "--sft.optimization.max-steps", "1"]) == 0
    assert "endpoints" not in studies.read(studies.file_of("mine.py:named"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("misspelled", "names the row 'controll', which mine.py:misspelled does not return; did you mean 'control'?"),
        ("untrained", "tests control-popularity, which is not trained; name a trained row of mine.py:untrained"),
    ],
)
def test_a_wrong_endpoint_is_refused_before_anything_runs(
    function: str, message: str, capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    for more in ([], ["--dry-run"]):
        assert main(["run", f"mine.py:{function}", *more]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert not (project / "data" / "studies").exists()


def test_a_dry_run_prints_the_endpoints(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    assert main(["run", "mine.py:named", "--dry-run"]) == 0
    assert "endpoint: recall@1 of dpo against control over 2 seeds\n" in capsys.readouterr().out
    assert not (project / "data" / "studies").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"row": ""}, "row of an endpoint must be a name, got ''"),
        ({"metric": 10}, "metric of an endpoint must be a name, got 10"),
        ({"reference": "dpo"}, "an endpoint compares two rows, got dpo twice"),
        ({"seeds": 1}, "seeds of an endpoint must be a number of seeds of 2 or more, got 1"),
        ({"seeds": True}, "seeds of an endpoint must be a number of seeds of 2 or more, got True"),
    ],
)
def test_fields_of_an_endpoint_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Endpoint(**{"row": "dpo", "reference": "control", **given})


def test_endpoints_have_the_order_of_the_file() -> None:
    @endpoint("b", "a")
    @endpoint("c", "a", "recall@5", 3)
    def rows() -> list[Experiment]:
        return []

    assert endpoints_of(rows) == (Endpoint("b", "a"), Endpoint("c", "a", "recall@5", 3))
    assert rows() == []
    assert endpoints_of(test_endpoints_have_the_order_of_the_file) == ()


def test_endpoints_from_python() -> None:
    rows = seeds([cyclic(steps=2)], 2)
    with pytest.raises(UsageError, match="names the row 'other', which the list does not return"):
        genrec.run(rows, endpoints=[Endpoint("cyclic", "other")])
    with pytest.raises(UsageError, match=r"name those of mine\.py:rows in its file"):
        genrec.run("mine.py:rows", endpoints=[Endpoint("dpo", "control")])
    found = results.run([*rows, *baselines(cyclic())], endpoints=[Endpoint("cyclic", "cyclic-popularity", seeds=2)])
    assert [each.is_here for each in found.comparisons[0].endpoints] == [False]  # the table's reference is the first trained row
    (against,) = genrec.compare(["cyclic-popularity", "cyclic"]).comparisons
    assert [(each.kind, each.rows) for each in against.families] == [("endpoints", ("cyclic",))]


def test_a_damaged_endpoint_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    run_experiments.run([cyclic(steps=2)], study="mine.py:rows")
    path = studies.file_of("mine.py:rows")
    content = json.loads(path.read_text()) | {"endpoints": [{"row": "cyclic"}]}
    path.write_text(json.dumps(hashed_json.add_hash({key: value for key, value in content.items() if key != "sha256"})))
    assert main(["compare", "cyclic"]) == 4
    assert "endpoints[0].reference" in capsys.readouterr().err.replace(" has no entry ", ".")
