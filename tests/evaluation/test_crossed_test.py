"""The crossed test of two methods over users and seeds: by hand, by properties, by brute force and against a mixed model."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM

from genrec.evaluation.statistics.crossed_test import (
    CrossedTest,
    SeedVariance,
    crossed_test,
    pooled_variance,
    seeds_test,
    variance_over_seeds,
)

# Two rows, four users, three seeds; the expected figures were computed apart from this code.
A = np.array([[0.2, 0.0, 0.1], [0.0, 0.3, 0.1], [0.5, 0.4, 0.6], [-0.1, 0.0, 0.1]])
B = np.array([[0.0, 0.4, -0.3], [0.2, 0.5, -0.1], [0.1, 0.3, -0.2], [0.0, 0.3, 0.0]])


def result_of(difference: np.ndarray, pooled: SeedVariance | None = None) -> CrossedTest:
    """Return the test of a row, with its own variance over seeds unless `pooled` is given."""
    found = crossed_test(difference, pooled_variance({"row": difference}) if pooled is None else pooled)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("row", "mean", "error", "degrees", "p"),
    [
        (A, 0.183333333, 0.150616019, 6.245407, 0.267504896),
        (B, 0.100000000, 0.109713431, 4.092608, 0.412521561),
    ],
)
def test_known_figures(row: np.ndarray, mean: float, error: float, degrees: float, p: float) -> None:
    found = result_of(row, pooled_variance({"a": A, "b": B}))
    assert found[:4] == pytest.approx((mean, error, degrees, p), abs=1e-6)


def test_without_interaction_by_hand() -> None:
    """Users have means 0.2 and 0.4, seeds 0.2 and 0.4, and D is the sum of both: no interaction.

    S2_users = S2_seeds = 0.1^2 + 0.1^2 = 0.02, MS_error = 0, V = 0.02 / 2 + 0.02 / 2 = 0.02.
    Degrees of freedom: 0.02^2 / (0.01^2 / 1 + 0.01^2 / 1) = 2. With 2 degrees of freedom P(|T| > t) = 1 - t / sqrt(t^2 + 2), and the
    quantile of q is (2q - 1) sqrt(2 / (4 q (1 - q))): 0.95 sqrt(2 / 0.0975) = 4.302653 for 0.975, and
    0.6 sqrt(2 / 0.64) = 1.060660 for 0.8.
    """
    difference = np.array([[0.1, 0.3], [0.3, 0.5]])
    pooled = pooled_variance({"row": difference})
    assert pooled == (pytest.approx(0.02), pytest.approx(0, abs=1e-15), 1, ("row",))
    assert pooled.deviation == pytest.approx(math.sqrt(0.02))
    found = result_of(difference)
    error = math.sqrt(0.02)
    t = 0.3 / error  # 2.121320
    assert found[:4] == pytest.approx((0.3, error, 2.0, 1 - t / math.sqrt(t**2 + 2)))
    assert found.interval == pytest.approx((0.3 - 4.302653 * error, 0.3 + 4.302653 * error), abs=1e-6)
    assert found.detectable == pytest.approx((4.302653 + 1.060660) * error, abs=1e-6)


def test_the_variance_is_at_least_that_of_the_users_by_hand() -> None:
    """Users have means 0.3, 0.3, 0.6, both seeds 0.4: S2_users = (0.01 + 0.01 + 0.04) / 2 = 0.03 and S2_seeds = 0.

    The interactions are 0.2, -0.2, -0.2, 0.2, 0, 0: MS_error = 0.16 / (2 * 1) = 0.08. Vu + Vs - Ve = 0.01 + 0 - 0.08 / 6 < 0, so
    V = Vu = 0.01, with 0.01^2 / (0.01^2 / 2) = 2 degrees of freedom and t = 0.4 / 0.1 = 4.
    """
    difference = np.array([[0.5, 0.1], [0.1, 0.5], [0.6, 0.6]])
    assert pooled_variance({"row": difference})[:3] == pytest.approx((0, 0.08, 1))
    assert result_of(difference)[:4] == pytest.approx((0.4, 0.1, 2.0, 1 - 4 / math.sqrt(18)))


def test_rows_are_pooled_with_their_degrees_of_freedom_by_hand() -> None:
    """Row `two` has seed means 0.2 and 0.4: sum of squares 0.02. Row `three` has 0, 0.1 and 0.2: 0.02. Row `one` has one seed.

    S2_seeds = (0.02 + 0.02) / (1 + 2). The interactions of `two` are 0, those of `three` -0.1, 0, 0.1 and the opposite, so
    MS_error = (0 + 0.04 / (2 - 1)) / (1 + 2).
    """
    rows = {
        "two": np.array([[0.1, 0.3], [0.3, 0.5]]),
        "one": np.array([[0.9], [0.1]]),
        "three": np.array([[-0.1, 0.1, 0.3], [0.1, 0.1, 0.1]]),
    }
    assert pooled_variance(rows) == (pytest.approx(0.04 / 3), pytest.approx(0.04 / 3), 3, ("two", "three"))
    assert pooled_variance({"one": rows["one"]}) == (0.0, 0.0, 0, ())
    assert pooled_variance({"user": np.array([[0.1, 0.2]])}) == (0.0, 0.0, 0, ())  # one user has no interaction


def brute_force(rows: dict[str, np.ndarray]) -> tuple[float, float, int]:
    """Return S2_seeds, MS_error and degrees of freedom by loops over the formulas of the module."""
    seeds = error = 0.0
    degrees = 0
    for row in rows.values():
        users, count = len(row), len(row[0])
        mean = sum(row[u][s] for u in range(users) for s in range(count)) / (users * count)
        by_user = [sum(row[u][s] for s in range(count)) / count for u in range(users)]
        by_seed = [sum(row[u][s] for u in range(users)) / users for s in range(count)]
        variance = sum((value - mean) ** 2 for value in by_seed) / (count - 1)
        squares = sum((row[u][s] - by_user[u] - by_seed[s] + mean) ** 2 for u in range(users) for s in range(count))
        seeds += (count - 1) * variance
        error += (count - 1) * squares / ((users - 1) * (count - 1))
        degrees += count - 1
    return seeds / degrees, error / degrees, degrees


def test_pooled_variance_by_brute_force() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        shapes = random.integers(2, 7, (int(random.integers(1, 5)), 2))
        rows = {str(place): random.normal(size=tuple(shape)) for place, shape in enumerate(shapes)}
        assert pooled_variance(rows)[:3] == pytest.approx(brute_force(rows))


# Differences of metrics: in [-1, 1], not closer to each other than rounding.
GRID = st.integers(-1000, 1000).map(lambda value: value / 1000)
TABLES = st.tuples(st.integers(2, 6), st.integers(2, 5)).flatmap(lambda shape: arrays(np.float64, shape, elements=GRID))
POOLS = st.builds(SeedVariance, st.floats(1e-4, 1), st.floats(0, 1), st.integers(1, 40), st.just(("a", "b")))


@given(TABLES, POOLS)
def test_opposite_differences_have_the_same_p(difference: np.ndarray, pooled: SeedVariance) -> None:
    found, opposite = crossed_test(difference, pooled), crossed_test(-difference, pooled)
    assume(found is not None)
    assert found is not None
    assert opposite is not None
    low, high = found.interval
    assert opposite == found._replace(difference=-found.difference, interval=(-high, -low))
    assert pooled_variance({"row": -difference}) == pooled_variance({"row": difference})


@given(TABLES, st.randoms(use_true_random=False))
def test_the_order_of_users_and_seeds_does_not_matter(difference: np.ndarray, random: object) -> None:
    users, seeds = (random.sample(range(size), size) for size in difference.shape)  # type: ignore[attr-defined]
    other = difference[users][:, seeds]
    pooled, pooled_other = pooled_variance({"row": difference}), pooled_variance({"row": other})
    assert pooled_other[:2] == pytest.approx(pooled[:2], abs=1e-12)
    of_seeds = pooled.seeds / difference.shape[1] - pooled.error / difference.size
    assume(np.ptp(difference.mean(1)) > 1e-6 or of_seeds > 1e-9)  # a variance that is not 0 by rounding alone
    found, same = result_of(difference), result_of(other)
    assert np.hstack(same) == pytest.approx(np.hstack(found), rel=1e-6, abs=1e-9)


@given(TABLES, POOLS, GRID)
def test_a_constant_shifts_difference_and_interval_alone(difference: np.ndarray, pooled: SeedVariance, constant: float) -> None:
    found, shifted = crossed_test(difference, pooled), crossed_test(difference + constant, pooled)
    own, own_shifted = pooled_variance({"row": difference}), pooled_variance({"row": difference + constant})
    assert own_shifted[:2] == pytest.approx(own[:2], abs=1e-12)
    assume(found is not None and shifted is not None and found.standard_error > 1e-6)
    assert found is not None
    assert shifted is not None
    assert shifted.difference == pytest.approx(found.difference + constant, abs=1e-12)
    assert shifted.interval == pytest.approx([bound + constant for bound in found.interval], rel=1e-6, abs=1e-9)
    assert shifted[1:3] == pytest.approx(found[1:3], rel=1e-6)
    assert shifted.detectable == pytest.approx(found.detectable, rel=1e-6)


@given(TABLES, st.sampled_from([0.01, 0.3, 7.0, 100.0]))
def test_another_unit_scales_all_but_p_and_degrees_of_freedom(difference: np.ndarray, unit: float) -> None:
    pooled, scaled = pooled_variance({"row": difference}), pooled_variance({"row": unit * difference})
    assert scaled[:2] == pytest.approx([unit**2 * pooled.seeds, unit**2 * pooled.error], rel=1e-9, abs=1e-12)
    of_seeds = pooled.seeds / difference.shape[1] - pooled.error / difference.size
    assume(np.ptp(difference.mean(1)) > 1e-6 or of_seeds > 1e-9)  # a variance that is not 0 by rounding alone
    found, other = result_of(difference), result_of(unit * difference)
    assert other.difference == pytest.approx(unit * found.difference, abs=1e-9)
    assert other.standard_error == pytest.approx(unit * found.standard_error)
    assert other.interval == pytest.approx([unit * bound for bound in found.interval], rel=1e-6, abs=1e-9)
    assert other.detectable == pytest.approx(unit * found.detectable)
    assert (other.degrees_of_freedom, other.p) == pytest.approx((found.degrees_of_freedom, found.p), rel=1e-6)


@example(np.array([[0.0, 0.0], [0.0, 0.1]]), SeedVariance(0.125, 1.0, 29, ("a", "b")))  # 0.003 degrees of freedom
@given(TABLES, POOLS)
def test_bounds_of_a_test(difference: np.ndarray, pooled: SeedVariance) -> None:
    """V is at least the users' part; the interval excludes 0 exactly if p < 0.05; at least half of its width is detectable."""
    found = crossed_test(difference, pooled)
    assume(found is not None and found.standard_error > 0)
    assert found is not None
    assert found.standard_error**2 >= np.var(difference.mean(1), ddof=1) / len(difference) * (1 - 1e-12)
    assert 0 <= found.p <= 1
    assert found.degrees_of_freedom > 0
    low, high = found.interval
    assert low < found.difference < high
    assert found.detectable >= (high - low) / 2
    assume(abs(found.p - 0.05) > 1e-9)
    assert (found.p < 0.05) == (low > 0 or high < 0)


@given(st.lists(TABLES, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_pool_depends_on_its_rows_alone(tables: list[np.ndarray], random: object) -> None:
    """Neither the order of rows nor a row that is given twice changes the variances; a row with one seed changes nothing at all."""
    rows = {f"row {place}": table for place, table in enumerate(tables)}
    pooled = pooled_variance(rows)
    names = random.sample(list(rows), len(rows))  # type: ignore[attr-defined]
    assert pooled_variance({name: rows[name] for name in names})[:3] == pytest.approx(pooled[:3], abs=1e-12)
    twice = pooled_variance(rows | {f"{name} again": row for name, row in rows.items()})
    assert twice[:3] == pytest.approx((pooled.seeds, pooled.error, 2 * pooled.degrees_of_freedom), abs=1e-12)
    assert pooled_variance(rows | {"one seed": tables[0][:, :1]}) == pooled


@pytest.mark.parametrize("value", [0.1, 1 / 3, -0.7, 1e-3])
@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (943, 3), (22_363, 5)])
def test_one_value_for_all_users_and_seeds_has_no_test(value: float, shape: tuple[int, int]) -> None:
    """Rounding of the mean does not make up a variance."""
    difference = np.full(shape, value)
    assert crossed_test(difference, pooled_variance({"row": difference})) is None
    assert seeds_test(difference[0], variance_over_seeds({"row": difference[0]}).seeds, shape[1] - 1) is None


def test_no_difference_at_all_has_p_1() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = result_of(np.zeros((4, 3)))
        over_seeds = seeds_test(np.zeros(3), 0.0, 2)
    assert found == (0.0, 0.0, 3.0, 1.0, (0.0, 0.0), 0.0)
    assert over_seeds == (0.0, 0.0, 2.0, 1.0, (0.0, 0.0), 0.0)


def test_one_value_varies_as_much_as_other_rows_do() -> None:
    """A row that is 0.1 for all: Vu = 0, and with the pool's S2_seeds = 0.02, MS_error = 0: V = Vs = 0.01 with the pool's 1 degree."""
    pooled = pooled_variance({"other": np.array([[0.1, 0.3], [0.3, 0.5]])})
    found = result_of(np.full((2, 2), 0.1), pooled)
    assert found[:4] == pytest.approx((0.1, 0.1, 1.0, 0.5))  # t = 1 with 1 degree of freedom: 1 - 2 atan(1) / pi


def test_one_seed_with_the_variance_of_other_rows() -> None:
    """D = 0.1 and 0.3 at one seed, pool S2_seeds = 0.02, MS_error = 0: Vu = 0.02 / 2, Vs = 0.02 / 1, V = 0.03."""
    pooled = pooled_variance({"other": np.array([[0.1, 0.3], [0.3, 0.5]])})
    found = result_of(np.array([[0.1], [0.3]]), pooled)
    assert found[:3] == pytest.approx((0.2, math.sqrt(0.03), 0.03**2 / (0.02**2 + 0.01**2)))


@pytest.mark.parametrize("seeds", [2, 3, 5, 9])
def test_figures_of_all_lists_are_tested_as_by_scipy(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    for _ in range(5):
        difference = random.normal(0.01, 0.02, seeds)
        variance = variance_over_seeds({"row": difference})
        found = seeds_test(difference, variance.seeds, variance.degrees_of_freedom)
        expected = stats.ttest_1samp(difference, 0.0)
        assert found is not None
        assert found.p == pytest.approx(expected.pvalue)
        assert found.degrees_of_freedom == expected.df
        assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_variance_over_seeds_by_hand() -> None:
    """Row `two`: 0.1^2 + 0.1^2 = 0.02, row `three`: 0.1^2 + 0 + 0.1^2 = 0.02; together 0.04 / (1 + 2). One seed adds nothing."""
    rows = {"two": np.array([0.2, 0.4]), "one": np.array([0.9]), "three": np.array([0.0, 0.1, 0.2])}
    assert variance_over_seeds(rows) == (pytest.approx(0.04 / 3), 0.0, 3, ("two", "three"))
    assert variance_over_seeds({"one": rows["one"]}) == (0.0, 0.0, 0, ())


@pytest.mark.parametrize("effect", [0.0, 0.01])
def test_the_detectable_difference_is_found_with_power_of_about_80_percent(effect: float) -> None:
    """By the noncentral t distribution the exact power is within 0.02 of 0.8, with and without a difference."""
    random = np.random.default_rng(3)
    difference = effect + random.normal(0, 0.1, (943, 1)) + random.normal(0, 0.003, (1, 5)) + random.normal(0, 0.1, (943, 5))
    found = result_of(difference)
    quantile, shift = stats.t.ppf(0.975, found.degrees_of_freedom), found.detectable / found.standard_error
    assert stats.nct.sf(quantile, found.degrees_of_freedom, shift) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(
    ("users", "seeds", "of_users", "of_seeds", "of_error"),
    [(20, 5, 0.5, 0.3, 1.0), (30, 3, 1.0, 0.5, 0.5), (12, 8, 0.3, 0.8, 0.4)],  # standard deviations
)
@pytest.mark.parametrize("draw", [0, 1])
def test_against_the_mixed_model_of_statsmodels(
    users: int, seeds: int, of_users: float, of_seeds: float, of_error: float, draw: int
) -> None:
    """REML with crossed random effects of users and seeds has the same mean, standard error and variances on balanced data.

    The estimates of the analysis of variance are those of REML where none is negative:
    var_users = S2_users - MS_error / S, var_seeds = S2_seeds - MS_error / U, var_error = MS_error.
    """
    random = np.random.default_rng(100 * users + draw)
    difference = 0.4 + of_users * random.normal(size=(users, 1)) + of_seeds * random.normal(size=(1, seeds))
    difference = difference + of_error * random.normal(size=(users, seeds))
    pooled, found = pooled_variance({"row": difference}), result_of(difference)
    expected = {
        "users": np.var(difference.mean(1), ddof=1) - pooled.error / seeds,
        "seeds": pooled.seeds - pooled.error / users,
        "error": pooled.error,
    }
    assert min(expected.values()) > 0  # inside the parameter space
    table = pd.DataFrame(
        {"value": difference.ravel(), "user": np.repeat(np.arange(users), seeds), "seed": np.tile(np.arange(seeds), users)}
    )
    parts = {"users": "0 + C(user)", "seeds": "0 + C(seed)"}
    model = MixedLM.from_formula("value ~ 1", table, groups=np.ones(len(table)), re_formula="0", vc_formula=parts)
    fitted = model.fit(reml=True)
    assert fitted.converged
    assert fitted.fe_params.iloc[0] == pytest.approx(found.difference, abs=1e-9)
    assert fitted.bse_fe.iloc[0] == pytest.approx(found.standard_error, rel=1e-3)
    variances = dict(zip(model.exog_vc.names, fitted.vcomp, strict=True)) | {"error": fitted.scale}
    assert variances == {name: pytest.approx(value, rel=5e-3) for name, value in expected.items()}
