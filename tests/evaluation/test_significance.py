"""The bootstrap over users and Holm's correction, against brute force, SciPy and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import permutation_test
from statsmodels.stats.multitest import multipletests

from genrec.evaluation.significance import bootstrap_means, bootstrap_p, holm, percentile_interval, undefined


def test_holm_by_hand() -> None:
    # sorted 0.01 0.02 0.04: 3 * 0.01 = 0.03, 2 * 0.02 = 0.04, 1 * 0.04 = 0.04
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([]) == []


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
def test_holm_against_statsmodels(count: int) -> None:
    rng = np.random.default_rng(count)
    for p in (rng.random(count), rng.random(count) ** 4, rng.choice([0.001, 0.02, 1.0], count)):
        assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])


def test_grouped_samples_have_the_bootstrap_distribution() -> None:
    """The means of 20,000 grouped samples agree with those of samples of single users: center, spread and tails."""
    rng = np.random.default_rng(1)
    values = np.stack([rng.choice([0, 0.5, 1.0], 60), rng.choice([0, 0.3], 60)], axis=1)
    grouped = bootstrap_means(values, 20_000, seed=0)
    plain = values[rng.integers(0, 60, (20_000, 60))].mean(1)
    assert grouped.mean(0) == pytest.approx(values.mean(0), abs=2e-3)
    assert grouped.std(0) == pytest.approx(values.std(0) / np.sqrt(60), rel=0.03)  # the bootstrap's standard error, exactly
    assert np.corrcoef(grouped.T)[0, 1] == pytest.approx(np.corrcoef(values.T)[0, 1], abs=0.03)  # paired: the same samples
    for column in range(2):
        assert percentile_interval(grouped[:, column]) == pytest.approx(percentile_interval(plain[:, column]), abs=0.012)


def test_samples_depend_on_the_seed_only() -> None:
    values = np.random.default_rng(0).random((40, 2))
    assert np.array_equal(bootstrap_means(values, 100, 3), bootstrap_means(values, 100, 3))
    assert not np.array_equal(bootstrap_means(values, 100, 3), bootstrap_means(values, 100, 4))


@pytest.mark.parametrize("shift", [0.0, 0.04, 0.1])
def test_p_against_a_permutation_test(shift: float) -> None:
    """Both test the same hypothesis, so the p-values are close but not equal."""
    difference = np.random.default_rng(5).normal(shift, 0.3, 200)
    p = bootstrap_p(float(difference.mean()), bootstrap_means(difference[:, None], 20_000, seed=0)[:, 0])
    exact = permutation_test((difference, np.zeros(200)), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=20_000)
    assert p == pytest.approx(exact.pvalue, abs=0.03)


def test_p_by_enumeration() -> None:
    """Differences 1, 1, 0 with mean 2/3 have 27 samples; |mean* - 2/3| >= 2/3 only if all three users have difference 0: 1 of 27."""
    means = bootstrap_means(np.array([[1.0], [1.0], [0.0]]), 50_000, seed=0)[:, 0]
    assert bootstrap_p(2 / 3, means) == pytest.approx(1 / 27, abs=4e-3)


def test_p_has_the_right_level_under_the_null() -> None:
    """Without a difference, p is below 0.05 in about 5 % of the trials."""
    rng = np.random.default_rng(2)
    found = []
    for trial in range(300):
        difference = rng.choice([-1.0, 0.0, 1.0], 150, p=[0.1, 0.8, 0.1])
        found.append(bootstrap_p(float(difference.mean()), bootstrap_means(difference[:, None], 500, trial)[:, 0]) < 0.05)
    assert 0.02 < np.mean(found) < 0.09


def test_undefined_tests() -> None:
    assert undefined(np.array([0.3])) == "one user"
    assert "same for every user" in undefined(np.array([0.1, 0.1 + 1e-16, 0.1]))
    assert undefined(np.array([0.1, 0.2])) == ""


def test_a_large_table_is_resampled_in_blocks() -> None:
    rng = np.random.default_rng(0)
    ranks = rng.integers(1, 51, (22_363, 4)) * (rng.random((22_363, 4)) < 0.12)
    values = np.where(ranks > 0, 1 / np.log2(ranks + 1.0 + (ranks == 0)), 0)
    assert bootstrap_means(values, 10_000, 0).shape == (10_000, 4)
