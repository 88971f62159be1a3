"""The bootstrap over users and Holm's correction, against brute force, SciPy and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import permutation_test
from statsmodels.stats.multitest import multipletests

from genrec.evaluation.statistics.significance import (
    MAX_DRAWN,
    bootstrap_means,
    bootstrap_p,
    holm,
    paired_means,
    percentile_interval,
    undefined,
)


def test_holm_by_hand() -> None:
    # sorted 0.01 0.02 0.04: 3 * 0.01 = 0.03, 2 * 0.02 = 0.04, 1 * 0.04 = 0.04
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([]) == []


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
def test_holm_against_statsmodels(count: int) -> None:
    rng = np.random.default_rng(count)
    for p in (rng.random(count), rng.random(count) ** 4, rng.choice([0.001, 0.02, 1.0], count)):
        assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])


SHAPES = {  # values of 60 users: frequent values alone, rare values alone, and both
    "frequent": [0.0] * 30 + [0.3] * 30,
    "rare": [place / 60 for place in range(60)],
    "both": [0.0] * 40 + [1 / place for place in range(1, 21)],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_samples_have_the_bootstrap_distribution(shape: str) -> None:
    """The means of 20,000 samples agree with those of samples of single users: center, spread and tails."""
    values = np.array(SHAPES[shape])
    means = bootstrap_means(values, 20_000, seed=0)
    plain = values[np.random.default_rng(1).integers(0, 60, (20_000, 60))].mean(1)
    assert means.shape == (20_000,)
    assert means.mean() == pytest.approx(values.mean(), abs=2e-3)
    assert means.std() == pytest.approx(values.std() / np.sqrt(60), rel=0.03)  # the bootstrap's standard error, exactly
    assert percentile_interval(means) == pytest.approx(percentile_interval(plain), abs=0.006)


def test_a_sample_without_a_rare_value_adds_nothing_for_it() -> None:
    """Of 17 users one has a 1: in (16/17) ** 17 = 35.7 % of the samples it is not drawn, and the mean is 0."""
    means = bootstrap_means(np.array([0.0] * 16 + [1.0]), 50_000, seed=0)
    assert set(np.round(means * 17)) <= set(range(9))
    assert (means == 0).mean() == pytest.approx((16 / 17) ** 17, abs=0.01)
    assert means.mean() == pytest.approx(1 / 17, abs=1e-3)


def test_samples_depend_on_the_values_and_the_seed_only() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.random(40), np.zeros(40)])
    first = bootstrap_means(values, 100, 3)
    assert np.array_equal(first, bootstrap_means(values, 100, 3))
    assert np.array_equal(first, bootstrap_means(rng.permutation(values), 100, 3))
    assert np.array_equal(first, bootstrap_means(values + 1e-15, 100, 3))  # another order of summation over seeds
    assert not np.array_equal(first, bootstrap_means(values, 100, 4))


def test_opposite_differences_have_opposite_means() -> None:
    rng = np.random.default_rng(0)
    for differences in (rng.normal(0.1, 1, 50), rng.choice([-0.5, 0, 0.2], 50), np.array([2.0, -1.0, -1.0])):
        assert np.array_equal(paired_means(-differences, 100, 0), -paired_means(differences, 100, 0))
    values = np.array([0.1, 0.2, 0.0])
    assert np.array_equal(paired_means(values, 100, 0), bootstrap_means(values, 100, 0))


@pytest.mark.parametrize("shift", [0.0, 0.04, 0.1])
def test_p_against_a_permutation_test(shift: float) -> None:
    """Both test the same hypothesis, so the p-values are close but not equal."""
    difference = np.random.default_rng(5).normal(shift, 0.3, 200)
    p = bootstrap_p(float(difference.mean()), bootstrap_means(difference, 20_000, seed=0))
    exact = permutation_test((difference, np.zeros(200)), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=20_000)
    assert p == pytest.approx(exact.pvalue, abs=0.03)


def test_p_by_enumeration() -> None:
    """Differences 1, 1, 0 with mean 2/3 have 27 samples; |mean* - 2/3| >= 2/3 only if all three users have difference 0: 1 of 27."""
    means = bootstrap_means(np.array([1.0, 1.0, 0.0]), 50_000, seed=0)
    assert bootstrap_p(2 / 3, means) == pytest.approx(1 / 27, abs=4e-3)


def test_p_has_the_right_level_under_the_null() -> None:
    """Without a difference, p is below 0.05 in about 5 % of the trials."""
    rng = np.random.default_rng(2)
    found = []
    for trial in range(300):
        difference = rng.choice([-1.0, 0.0, 1.0], 150, p=[0.1, 0.8, 0.1])
        found.append(bootstrap_p(float(difference.mean()), bootstrap_means(difference, 500, trial)) < 0.05)
    assert 0.02 < np.mean(found) < 0.09


def test_undefined_tests() -> None:
    assert undefined(np.array([0.3])) == "one user"
    assert "same for every user" in undefined(np.array([0.1, 0.1 + 1e-16, 0.1]))
    assert undefined(np.array([0.1, 0.2])) == ""


def test_many_users_are_resampled_in_blocks() -> None:
    """The blocks of 22,363 users with 3,000 rare values have together as many samples as requested."""
    rng = np.random.default_rng(0)
    values = np.where(rng.random(22_363) < 0.13, rng.random(22_363), 0)
    means = bootstrap_means(values, 3_000, 0)
    assert means.shape == (3_000,)
    assert len(set(means)) == 3_000
    assert means.std() == pytest.approx(values.std() / np.sqrt(22_363), rel=0.05)


@pytest.mark.parametrize("outlier", [0.0, 400.0])
def test_many_rare_values_have_the_bootstrap_distribution(outlier: float) -> None:
    """2,500 users with different values, and as many with 0, are drawn in groups. Center, spread and tails are the same."""
    values = np.concatenate([np.random.default_rng(0).lognormal(0, 1.5, 2_499), [outlier], np.zeros(2_500)])
    assert len(np.unique(values)) > MAX_DRAWN
    means = bootstrap_means(values, 20_000, seed=0)
    rng = np.random.default_rng(1)
    plain = np.concatenate([values[rng.integers(0, 5_000, (1_000, 5_000))].mean(1) for _ in range(20)])
    error = values.std() / np.sqrt(5_000)
    assert means.mean() == pytest.approx(values.mean(), abs=0.03 * error)
    assert means.std() == pytest.approx(error, rel=0.02)
    for share in (0.025, 0.25, 0.75, 0.975):
        assert np.quantile(means, share) == pytest.approx(np.quantile(plain, share), abs=0.06 * error)
    assert np.array_equal(means, bootstrap_means(rng.permutation(values), 20_000, seed=0))
