"""Holm's families: trained rows and baselines apart, and what a study tried beside the table."""

from __future__ import annotations

import numpy as np
import pytest
from pandas import DataFrame
from statsmodels.stats.multitest import multipletests

from genrec.evaluation.compare import Comparison, Run, Study, compare
from genrec.evaluation.comparison import comparison_report
from genrec.evaluation.statistics.significance import holm

SFT: dict[str, object] = {"sft.optimization.max_steps": 5}
BASELINE: dict[str, object] = {"policy.class": "Popularity"}
GRID = Study("movielens.py:grid", frozenset({"sft", "a", "b", "c", "d", "e"}))
TABLE = Study("movielens.py:table", frozenset({"sft", "a", "b"}))


def run(name: str, seed: int, studies: tuple[Study, ...] = ()) -> Run:
    ranks = np.random.default_rng([seed, *name.encode()]).integers(0, 15, 80)
    frame = DataFrame({"user": np.arange(80), "target": 1, "rank": ranks})
    return Run(name, seed, frame, {"recall@10": 0.1}, {}, BASELINE if name.startswith("pop") else SFT, studies=studies)


def rows(*names: str, seeds: tuple[int, ...] = (0, 1), studies: tuple[Study, ...] = ()) -> list[Run]:
    return [run(name, seed, studies) for name in names for seed in seeds]


def corrected(comparison: Comparison) -> dict[str, tuple[float, float]]:
    """Return p and the corrected p of each row that has one."""
    tests = {row.name: row.test for row in comparison.rows if row.test is not None}
    return {name: (test.p, test.p_holm) for name, test in tests.items() if test.p is not None and test.p_holm is not None}


def test_a_larger_family_multiplies_more() -> None:
    # 5 tests, of which 0.04, 0.01 and 0.02 are known: 5 * 0.01 = 0.05, 4 * 0.02 = 0.08, 3 * 0.04 = 0.12
    assert holm([0.04, 0.01, 0.02], 5) == pytest.approx([0.12, 0.05, 0.08])
    rng = np.random.default_rng(0)
    for count in (1, 3, 8):
        p = np.sort(rng.random(12))[:count]  # the others are larger
        assert holm(p.tolist(), 12) == pytest.approx(multipletests([*p, *[1.0] * (12 - count)], method="holm")[1][:count])


def test_trained_rows_and_baselines_are_two_families() -> None:
    runs = rows("sft", "a", "b", "c") + rows("pop-1", "pop-2", seeds=(0,))
    comparison = compare(runs, resamples=50)
    trained, baselines = comparison.families
    assert (trained.rows, trained.size, trained.studies) == (("a", "b", "c"), 3, ())
    assert (baselines.rows, baselines.size) == (("pop-1", "pop-2"), 2)
    found = corrected(comparison)
    for family in ("abc", ("pop-1", "pop-2")):
        p, p_holm = zip(*(found[name] for name in family), strict=True)
        assert p_holm == pytest.approx(multipletests(p, method="holm")[1])
    below = corrected(compare(runs, reference="pop-1", resamples=50))
    more = corrected(compare([*runs, *rows("pop-3", seeds=(0,))], reference="pop-1", resamples=50))
    assert all(more[name] == below[name] for name in ("sft", "a", "b", "c"))  # also against a baseline


def test_a_study_with_rows_outside_the_table_enlarges_the_family() -> None:
    """a, b, c, d and e were tried beside the reference: m = 5."""
    runs = rows("sft", "a", "b", studies=(GRID, TABLE)) + rows("pop", seeds=(0,))
    comparison = compare(runs, resamples=50)
    trained, baselines = comparison.families
    assert (trained.rows, trained.size, trained.studies) == (("a", "b"), 5, (GRID,))
    assert baselines.size == 1
    found = corrected(comparison)
    low, high = sorted(("a", "b"), key=lambda name: found[name][0])
    assert found[low][1] == pytest.approx(min(1, 5 * found[low][0]))
    assert found[high][1] == pytest.approx(min(1, max(4 * found[high][0], 5 * found[low][0])))
    text = comparison_report.markdown(comparison)
    assert "- **Holm's families:** 5 tests of trained rows against sft (a, b; also tried: c, d, e); 1 test of baselines " in text
    assert "The study movielens.py:grid has 6 trained rows, 3 of them in this table." in text
    assert "counts all 5 that were tried beside the reference" in text
    assert "movielens.py:table" not in text


def test_rows_of_the_table_count_beside_those_of_the_study() -> None:
    """`new` is in no study: a, b, c, d, e and new. The study need not hold the reference."""
    runs = rows("sft", "new") + rows("a", studies=(GRID,))
    (trained,) = compare(runs, resamples=50).families
    assert trained.size == 6


def test_fresh_seeds_confirm() -> None:
    """Seeds that were run outside the study, or in lists within the table, are not picked. Only compared seeds count."""
    fresh = rows("sft", "a", studies=(TABLE,)) + rows("b", studies=(TABLE,)) + rows("a", seeds=(7,), studies=(GRID,))
    comparison = compare(fresh, resamples=50)
    assert [(family.size, family.studies) for family in comparison.families] == [(2, ())]
    assert "study" not in comparison_report.markdown(comparison)
    picked = compare([*fresh, *rows("sft", seeds=(7,), studies=(GRID,))], resamples=50)  # seed 7 is compared
    assert [(family.size, family.studies) for family in picked.families] == [(5, (GRID,))]


def test_a_row_with_one_seed_counts_in_the_table_as_outside_it() -> None:
    """Tried beside the reference: a and b, which are tested, and c with one seed. A row of no study counts with them."""
    study = Study("list", frozenset({"sft", "a", "b", "c"}))
    tested, one = rows("sft", "a", "b", studies=(study,)), rows("c", seeds=(0,), studies=(study,))
    (without,), (shown,) = (compare(each, resamples=50).families for each in (tested, [*tested, *one]))
    assert without.tried == shown.tried == ("c",)
    assert without.size == shown.size == 3
    assert (without.studies, shown.studies) == ((study,), ())  # which says why rows outside the table count
    (further,) = compare([*tested, *one, *rows("d", seeds=(0,))], resamples=50).families
    assert further.tried == ("c", "d")


def test_what_the_reference_continues_is_no_attempt_without_a_p() -> None:
    """The SFT row with one seed, of which the control is trained further, counts neither in the table nor outside it."""
    study = Study("list", frozenset({"sft", "control", "dpo", "kto"}))
    continued = [each._replace(starts=frozenset({"sft"})) for each in rows("control", "dpo", studies=(study,))]
    (family,) = compare([*continued, *rows("sft", seeds=(0,), studies=(study,))], reference="control", resamples=50).families
    assert (family.rows, family.tried) == (("dpo",), ("kto",))


def test_a_row_without_a_p_is_in_no_family() -> None:
    comparison = compare(rows("sft", "a") + rows("one", seeds=(0,)), resamples=50)
    assert [family.rows for family in comparison.families] == [("a",)]
    assert compare(rows("sft", "a", seeds=(0,)), resamples=50).families == ()


def test_what_the_reference_continues_is_no_attempt() -> None:
    """Tried against the control: dpo and kto. Neither its SFT row nor former settings of both are tests; former ones of dpo are."""
    names = {"sft", "sft (replaced)", "control", "control (replaced 2)", "dpo", "dpo (replaced)", "kto"}
    runs = [each._replace(starts=frozenset({"sft"})) for each in rows("control", "dpo", studies=(Study("grid", frozenset(names)),))]
    comparison = compare(runs, reference="control", resamples=50)
    (family,) = comparison.families
    assert (family.rows, family.tried, family.size) == (("dpo",), ("dpo (replaced)", "kto"), 3)
    assert "3 tests of trained rows against control (dpo; also tried: dpo (replaced), kto)\n" in comparison_report.markdown(comparison)
    only = Study("chain", frozenset({"sft", "control", "dpo"}))
    chain = [each._replace(studies=(only,)) for each in runs]
    assert [(each.size, each.studies) for each in compare(chain, reference="control", resamples=50).families] == [(1, ())]
    shown = compare([*chain, *rows("sft", studies=(only,))], reference="control", resamples=50)  # SFT is tested in this table
    assert [each.size for each in shown.families] == [2]
    reversed_ = compare(chain, reference="dpo", resamples=50)  # dpo continues the same SFT row
    assert [each.size for each in reversed_.families] == [1]


def test_a_shared_sft_row_joins_no_studies() -> None:
    """Two lists continue one SFT row, with one control. Its row is in both lists, but nothing was picked from the other one."""
    lists = [Study(f"list-{kind}", frozenset({"sft", "control", kind, f"{kind}-2"})) for kind in ("dpo", "kto")]
    shared = [each._replace(starts=frozenset({"sft"})) for each in rows("control", "sft", studies=tuple(lists))]
    (family,) = compare([*shared, *rows("dpo", studies=(lists[0],))], reference="control", resamples=50).families
    assert (family.rows, family.tried, family.studies) == (("sft", "dpo"), ("dpo-2",), (lists[0],))
    (both,) = compare([*shared, *rows("dpo", studies=tuple(lists))], reference="control", resamples=50).families  # dpo is in both
    assert both.tried == ("dpo-2", "kto", "kto-2")
