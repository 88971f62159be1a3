"""Which seeds of two rows are compared, and which trained rows the variance over seeds is pooled over."""

from __future__ import annotations

import numpy as np
import pytest
from pandas import DataFrame

from genrec.evaluation.compare import Comparison, PairedTest, Run, compare
from genrec.evaluation.statistics.crossed_test import crossed_test, pooled_variance

SFT: dict[str, object] = {"sft.optimization.max_steps": 5, "evaluate.num_beams": 0}
BASELINE: dict[str, object] = {"policy.class": "Popularity"}
USERS = 60


def hits(name: str, seed: int, share: float) -> np.ndarray:
    """Return 1 for a share of the users, drawn for this row and seed, else 0."""
    return (np.random.default_rng([seed, *name.encode()]).random(USERS) < share).astype(int)


def run(name: str, seed: int, ranks: np.ndarray, configuration: dict[str, object] = SFT, target: int = 1) -> Run:
    frame = DataFrame({"user": np.arange(USERS), "target": target, "rank": ranks})
    return Run(name, seed, frame, {"recall@10": float((ranks > 0).mean())}, {"data": "toy"}, configuration)


def rows(*names: str, seeds: int = 3, configuration: dict[str, object] = SFT) -> list[Run]:
    return [run(name, seed, hits(name, seed, 0.3), configuration) for name in names for seed in range(seeds)]


def test_of(comparison: Comparison, name: str) -> PairedTest:
    found = next(row.test for row in comparison.rows if row.name == name)
    assert found is not None
    return found


test_of.__test__ = False  # type: ignore[attr-defined]


def differences(runs: list[Run], name: str, reference: str) -> np.ndarray:
    """Return D, float64 [users, seeds], from the ranks."""
    by_row = {(entry.name, entry.seed): entry.ranks["rank"].to_numpy() > 0 for entry in runs}
    common = sorted(seed for row, seed in by_row if row == name and (reference, seed) in by_row)
    return np.stack([by_row[name, seed] * 1.0 - by_row[reference, seed] for seed in common], 1)


def expected(runs: list[Run], name: str, *pool: str) -> float:
    """Return p of a row against `sft` with the variance over seeds pooled over these rows."""
    found = crossed_test(differences(runs, name, "sft"), pooled_variance({row: differences(runs, row, "sft") for row in pool}))
    assert found is not None
    return found.p


def test_trained_rows_share_the_variance_over_seeds() -> None:
    """A row with four seeds, two of them in common, adds one degree of freedom; a row with one seed in common adds none."""
    runs = rows("sft", "a", "b") + [run("c", seed, hits("c", seed, 0.3)) for seed in (1, 2, 5, 6)]
    runs += [run("d", seed, hits("d", seed, 0.3)) for seed in (2, 7)] + [run("pop", 0, hits("pop", 0, 0.3), BASELINE)]
    comparison = compare(runs, "recall@10", resamples=10)
    assert comparison.pool.rows == ("a", "b", "c")
    assert comparison.pool.degrees_of_freedom == 2 + 2 + 1
    for name in "abc":
        assert test_of(comparison, name).p == pytest.approx(expected(runs, name, "a", "b", "c"))
    assert test_of(comparison, "c").seeds == (1, 2)
    assert test_of(comparison, "d").p is None


def test_a_row_with_the_weights_of_the_reference_is_not_pooled() -> None:
    runs = rows("sft", "a")
    runs += [entry._replace(name="same") for entry in runs if entry.name == "sft"]
    comparison = compare(runs, "recall@10", resamples=10)
    assert comparison.unpooled == {"same": "equal to the reference"}
    assert comparison.pool.rows == ("a",)
    assert test_of(comparison, "same").p == 1
    assert test_of(comparison, "a").p == pytest.approx(expected(runs, "a", "a"))


def test_rows_that_evaluate_the_policies_of_the_reference_have_their_own_variance() -> None:
    """Other training settings, or none that differ, are other trainings."""
    runs = rows("sft", "a") + rows("beams", configuration=SFT | {"evaluate.num_beams": 20, "stages.evaluate.version": 2})
    runs += rows("steps", configuration=SFT | {"evaluate.num_beams": 20, "sft.optimization.max_steps": 9})
    comparison = compare(runs, "recall@10", resamples=10)
    assert comparison.unpooled == {"beams": "the policies of the reference, evaluated in another way"}
    assert comparison.pool.rows == ("a", "steps")
    assert test_of(comparison, "beams").p == pytest.approx(expected(runs, "beams", "beams"))
    assert test_of(comparison, "steps").p == pytest.approx(expected(runs, "steps", "a", "steps"))


def test_a_baseline_with_other_results_at_each_seed_is_paired_by_seed() -> None:
    """Seeds 0 and 1 are in common. With equal results it would be compared with all three seeds."""
    runs = rows("sft") + [run("knn", seed, hits("knn", seed, 0.3), BASELINE) for seed in (0, 1, 9)]
    found = test_of(compare(runs, "recall@10", resamples=10), "knn")
    assert found.seeds == (0, 1)
    assert found.by_seed == pytest.approx(tuple(differences(runs, "knn", "sft").mean(0)))
    assert found.p == pytest.approx(expected(runs, "knn", "knn"))
    same = [entry._replace(ranks=runs[-1].ranks) if entry.name == "knn" else entry for entry in runs]
    assert test_of(compare(same, "recall@10", resamples=10), "knn").seeds == (0, 1, 2)


def test_two_baselines_with_results_by_seed_are_averaged_over_the_seeds_in_common() -> None:
    runs = [run(name, seed, hits(name, seed, 0.3), BASELINE) for name in ("sft", "knn") for seed in (0, 1)]
    found = test_of(compare(runs, "recall@10", resamples=200), "knn")
    assert found.difference == pytest.approx(differences(runs, "knn", "sft").mean())
    assert found.seeds == (0, 1)
    assert len(found.by_seed) == 2
    assert found.p is not None
    assert found.users_only is None
