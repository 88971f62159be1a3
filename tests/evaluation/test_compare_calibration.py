"""False findings and power of whole comparisons: simulated tables as runs, through `compare`.

The p-values are those that the simulation computes for many tables at once, so its rates (`test_crossed_calibration.py`) are the rates
of `compare`. A few tables are counted here as well, without the simulation's own statistic.
"""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pandas import DataFrame

from genrec.evaluation.compare import PairedTest, Run, compare

BENCHMARKS = Path(__file__).parents[2] / "experiments" / "benchmarks"
SIMULATION: Any = SimpleNamespace(**runpy.run_path(str(BENCHMARKS / "calibration.py")))
Condition = SIMULATION.Condition
PROTOCOL: dict[str, object] = {"data": "simulated", "users": SIMULATION.USERS}


def runs_of(table: np.ndarray) -> list[Run]:
    """Return the runs of one table of ranks, int64 [1 + rows, seeds, users]; every row is trained."""
    user = np.arange(1, table.shape[2] + 1)
    return [
        Run(
            name="reference" if row == 0 else f"row-{row}",
            seed=seed,
            ranks=DataFrame({"user": user, "target": user, "rank": ranks}),
            metrics={"recall@10": float((ranks > 0).mean())},
            protocol=PROTOCOL,
            configuration={"sft.optimization.max_steps": row},
        )
        for row, group in enumerate(table)
        for seed, ranks in enumerate(group)
    ]


def compared(tables: np.ndarray) -> Iterator[list[PairedTest]]:
    """Iterate over the tests of `compare` for ranks int64 [tables, 1 + rows, seeds, users]."""
    for table in tables:
        rows = compare(runs_of(table), metric="ndcg@10", resamples=10).rows  # few: the bootstrap over users is a diagnostic
        yield [row.test for row in rows if row.test is not None]


def p_of(tables: np.ndarray) -> np.ndarray:
    """Return p of every test and corrected p, float64 [2, tables, rows]."""
    found = [[(test.p, test.p_holm) for test in tests] for tests in compared(tables)]
    result: np.ndarray = np.moveaxis(np.array(found, dtype=np.float64), 2, 0)
    return result


@pytest.mark.parametrize(("rows", "seeds", "tables"), [(5, 3, 4), (5, 5, 2), (38, 3, 1)])
@pytest.mark.parametrize("family", list(SIMULATION.PARTS))
def test_compare_has_the_p_values_of_the_simulation(family: str, rows: int, seeds: int, tables: int) -> None:
    ranks = SIMULATION.simulated_ranks(Condition(family, rows, seeds, 0.0041), tables, np.random.default_rng(rows + seeds))
    expected, *_ = SIMULATION.p_values(SIMULATION.differences(ranks))
    p, corrected = p_of(ranks)
    assert p == pytest.approx(expected, abs=1e-5)  # metrics are float32
    assert corrected.min(1) == pytest.approx(np.minimum(1, rows * expected.min(1)), abs=1e-4)  # Holm's first step


def test_other_rows_change_a_test_only_by_the_pooled_variance() -> None:
    """Without four of five rows the difference of the fifth is the same; its p has the pool of one row."""
    ranks = SIMULATION.simulated_ranks(Condition("apart", 5, 3, 0.0041), 1, np.random.default_rng(3))
    (every,), (alone,) = compared(ranks), compared(ranks[:, :2])
    own, *_ = SIMULATION.p_values(SIMULATION.differences(ranks[:, :2]))
    assert alone[0].difference == every[0].difference
    assert alone[0].p == pytest.approx(own[0, 0], abs=1e-5)
    assert alone[0].p != pytest.approx(every[0].p, abs=1e-3)


def test_few_false_findings_and_many_true_ones() -> None:
    """Of 30 tables with five rows at most 6 % and four standard errors have a finding by chance, and half of them with a gain."""
    tables = 30
    random = np.random.default_rng(11)
    p, corrected = p_of(SIMULATION.simulated_ranks(Condition("branched", 5, 3, 0.0041), tables, random))
    assert (p < 0.05).mean() <= 0.07 + 4 * np.sqrt(0.05 * 0.95 / tables / 5)
    assert (corrected.min(1) < 0.05).mean() <= 0.06 + 4 * np.sqrt(0.06 * 0.94 / tables)
    _, corrected = p_of(SIMULATION.simulated_ranks(Condition("branched", 5, 3, 0.0041, 0.010), tables, random))
    assert (corrected.min(1) < 0.05).mean() >= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("deviation", SIMULATION.DEVIATIONS)
@pytest.mark.parametrize("seeds", [3, 5])
def test_level_of_a_thousand_comparisons(deviation: float, seeds: int) -> None:
    """3 to 7 % of the tests, the least widened by two standard errors, and at most 6 % of the tables."""
    condition = Condition("branched", 5, seeds, deviation)
    found = np.concatenate([p_of(ranks) for ranks in SIMULATION.chunks(condition, 1_000, 0)], axis=1)
    test, table = (SIMULATION.rate(each) for each in ((found[0] < 0.05).mean(1), (found[1].min(1) < 0.05).astype(float)))
    assert 0.03 - 2 * test.error <= test.share <= 0.07
    assert table.share <= 0.06
