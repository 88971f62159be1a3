"""Calibration of the test over users and seeds: how often it finds a difference in simulated tables.

    python experiments/benchmarks/calibration.py                    # all conditions, 4,000 tables each; about 15 minutes on one core
    python experiments/benchmarks/calibration.py --tables 200       # the same with larger errors
    python experiments/benchmarks/calibration.py --families apart --deviations 0.012     # runs with larger effects
    python experiments/benchmarks/calibration.py --few-seeds        # 2, 3 and 5 seeds, baselines, tests over seeds alone; 2 minutes

A simulated table resembles a table of MovieLens-100K: 943 users, NDCG@10 of 0 or 1 / log2(rank + 1) with mean 0.055. It has a
reference and `rows` further rows, all trained with the same seeds. The rank of user u in row r at seed s comes from a score

    z = A[u] + B[s, u] + C[r, u] + E[r, s, u] + shift(r, s),        with normal parts of total variance 1,

and is k or better if z is above the (1 - 0.0122 k)-quantile of the normal distribution: each of the first ten ranks has 1.22 % of the
users. A training run moves the expected metric of its row by a normal run effect: `shift` is the number that gives exactly that
expected metric, so more or fewer users are hit and no value leaves the range of NDCG.

| family | run effects | variance of A, B, C, E |
|---|---|---|
| `branched` | the rows of a seed continue one SFT policy, the reference; each row adds a run effect | 0.86, 0.09, 0.035, 0.015 |
| `control` | as `branched`, but the reference continues the SFT policy as well, with a run effect of its own | the same |
| `apart` | every row is trained apart, and so is the reference | 0.82, 0, 0.12, 0.06 |
| `baseline` | as `apart`, but the reference is a baseline with one result, and each row has a variance of its own | the same |

The run effect of the reference, in `control` and `apart`, is in every difference. The run effect of the SFT policy that branched rows
share is not simulated: it cancels in every difference. The variances were chosen
so that two figures of a difference over three seeds equal their means in our tables: the share of users that win or lose, and the
standard error over users. Branched: 0.20 and 0.0022, 37 rows of `experiments/results/grid-100k.md` with seen items kept (0.197,
0.0022). Apart: 0.22 and 0.0037, 7 rows of `experiments/results/policies.md` (0.218, 0.0037).

Printed are the shares of tests with p < 0.05 and of tables with any test that Holm's correction finds, with their standard errors, for
the crossed test, for the same test with adjusted degrees of freedom (`adjusted_degrees`, which the package does not use), and for the
t-test over users alone. Where there is no gain, these are false findings. `--few-seeds` also prints the findings of the test over
seeds alone, for a figure of all lists such as coverage, which varies by run effects only.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from scipy import stats
from scipy.special import ndtr, ndtri

from genrec.environment import processor

USERS = 943  # test users of MovieLens-100K
MEAN = 0.055  # expected NDCG@10 of a row
VALUES = np.append(0.0, 1 / np.log2(np.arange(2, 12)))  # NDCG@10 of ranks 0 (a miss) to 10
EDGES = ndtri(1 - 0.0122 * np.arange(1, 11))  # a score above EDGES[k - 1] has rank k or better
BRANCHED = (0.86, 0.09, 0.035, 0.015)
PARTS = {"branched": BRANCHED, "control": BRANCHED, "apart": (0.82, 0.0, 0.12, 0.06)}  # variance of A, B, C and E
DEVIATIONS = (0.0, 0.0019, 0.0041, 0.0063)  # run effects, standard deviations of expected NDCG@10
BASELINE = "baseline"  # family with a baseline as the reference
FEW_SEEDS = (2, 3, 5)
LARGE_DEVIATIONS = (0.0063, 0.0132)  # SFT on MovieLens-100K, and a control of the quick start, with two seeds and a mean of 0.16
LEVEL = 0.05
CELLS = 1_000_000  # scores in memory at once; larger parts leave the cache of the processor
SHIFTS = np.linspace(-4.0, 4.0, 8001)


class Condition(NamedTuple):
    """What is simulated."""

    family: str  # a key of PARTS, or BASELINE
    rows: int  # beside the reference
    seeds: int
    deviation: float  # standard deviation of a run effect
    gain: float = 0.0  # of every row over the reference; 0 is the null hypothesis


class Rate(NamedTuple):
    """A share of findings over simulated tables."""

    share: float
    error: float  # standard error over tables; the tests of one table are not independent


class Rates(NamedTuple):
    """Findings of the crossed test, of the test with adjusted degrees of freedom, and of the t-test over users alone."""

    test: Rate  # tests with p < 0.05
    table: Rate  # tables with at least one finding after Holm's correction
    adjusted_test: Rate
    adjusted_table: Rate
    users_test: Rate
    users_table: Rate


def expected_metric(shift: ndarray) -> ndarray:
    """Return the expected NDCG@10 of scores with this shift, float64 of any shape: the sum over k of (v_k - v_(k+1)) P(rank <= k)."""
    steps = VALUES[1:] - np.append(VALUES[2:], 0.0)
    result: ndarray = (steps * ndtr(shift[..., None] - EDGES)).sum(-1)
    return result


def shift_of(metric: ndarray) -> ndarray:
    """Return the shift of the scores that gives this expected NDCG@10: the inverse of `expected_metric`."""
    return np.interp(metric, expected_metric(SHIFTS), SHIFTS)


def simulated_ranks(condition: Condition, tables: int, random: np.random.Generator) -> ndarray:
    """Return ranks 1..10, 0 for a miss, int64 [tables, 1 + rows, seeds, users]; the first row is the reference."""
    rows, seeds = 1 + condition.rows, condition.seeds
    shapes = ((1, 1), (1, seeds), (rows, 1), (rows, seeds))
    effects = condition.deviation * random.standard_normal((tables, rows, seeds))
    if condition.family in ("branched", BASELINE):
        effects[:, 0] = 0.0
    effects[:, 1:] += condition.gain
    score = shift_of(MEAN + effects)[..., None].astype(np.float32)
    for part, shape in zip(PARTS.get(condition.family, PARTS["apart"]), shapes, strict=True):
        score = score + np.float32(math.sqrt(part)) * random.standard_normal((tables, *shape, USERS), dtype=np.float32)
    ranks = np.zeros(score.shape, np.int64)
    hit = score > EDGES[-1]
    ranks[hit] = 10 - np.searchsorted(EDGES[::-1][1:], score[hit])
    if condition.family == BASELINE:
        ranks[:, 0] = ranks[:, 0, :1]
    return ranks


def chunks(condition: Condition, tables: int, seed: int) -> Iterator[ndarray]:
    """Iterate over `simulated_ranks` of so many tables in parts that fit into memory."""
    random = np.random.default_rng(seed)
    size = max(1, CELLS // ((1 + condition.rows) * condition.seeds * USERS))
    for begin in range(0, tables, size):
        yield simulated_ranks(condition, min(size, tables - begin), random)


def differences(ranks: ndarray) -> ndarray:
    """Return NDCG@10 minus that of the reference, float64 [tables, rows, users, seeds]."""
    values = VALUES[ranks]
    result: ndarray = (values[:, 1:] - values[:, :1]).swapaxes(2, 3)
    return result


def adjusted_degrees(by_seed: ndarray) -> ndarray:
    """Return degrees of freedom of the pooled S2_seeds, float64 [tables, 1], for mean differences float64 [tables, rows, seeds].

    The run effect of the reference is in all R differences of a seed, so that S2_seeds varies more than with R (S - 1) degrees of
    freedom. With the mean squares of an analysis of variance of the mean differences, M of seeds with S - 1 degrees of freedom and E
    of rows and seeds with (R - 1)(S - 1), which are independent,

        S2_seeds = (M + (R - 1) E) / R,    df = S2_seeds^2 / ((M / R)^2 / (S - 1) + ((R - 1) E / R)^2 / ((R - 1)(S - 1)))

    by Satterthwaite's approximation. A shared reference makes M larger than E; where M <= E, df is R (S - 1).
    """
    _, rows, seeds = by_seed.shape
    effects = by_seed - by_seed.mean(2, keepdims=True)
    common = rows * np.square(effects.mean(1)).sum(-1, keepdims=True)
    rest = np.square(effects).sum((1, 2))[:, None] - common
    of_seeds, of_rest = common / (seeds - 1), rest / max(1, (rows - 1) * (seeds - 1))
    spread = (of_seeds / rows) ** 2 / (seeds - 1) + (of_rest / rows) ** 2 * (rows - 1) / (seeds - 1)
    pooled = ((common + rest) / (rows * (seeds - 1))) ** 2
    result: ndarray = np.where(of_seeds > of_rest, pooled / spread, rows * (seeds - 1.0))
    return result


def p_values(difference: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    """Return p of the crossed test, with adjusted degrees of freedom, and of the t-test over users alone, float64 [tables, rows] each.

    The crossed test is that of `genrec.evaluation.statistics.crossed_test`, for many tables at once: `difference` is float64
    [tables, rows, users, seeds], and the rows of a table are pooled.
    """
    _, rows, users, seeds = difference.shape
    mean, by_user, by_seed = difference.mean((2, 3)), difference.mean(3), difference.mean(2)
    of_users = by_user.var(-1, ddof=1) / users
    between_seeds = np.square(by_seed - mean[..., None]).sum(-1)
    total = np.square(difference - mean[..., None, None]).sum((2, 3))
    interaction = total - seeds * users * (users - 1) * of_users - users * between_seeds
    of_seeds = between_seeds.mean(1, keepdims=True) / (seeds - 1) / seeds
    of_error = interaction.mean(1, keepdims=True) / ((users - 1) * (seeds - 1)) / (users * seeds)
    variance = np.maximum(of_users + of_seeds - of_error, of_users)
    crossed, adjusted = (
        2 * stats.t.sf(np.abs(mean) / np.sqrt(variance), variance**2 / (of_seeds**2 / pool + of_users**2 / (users - 1)))
        for pool in (rows * (seeds - 1.0), adjusted_degrees(by_seed))
    )
    return crossed, adjusted, 2 * stats.t.sf(np.abs(mean) / np.sqrt(of_users), users - 1)


def p_values_of(condition: Condition, difference: ndarray) -> list[ndarray]:
    """Return the three `p_values` of a family. The rows of a table are pooled, unless the reference is a baseline."""
    if condition.family != BASELINE:
        return list(p_values(difference))
    return [p.reshape(difference.shape[:2]) for p in p_values(difference.reshape(-1, 1, *difference.shape[2:]))]


def seeds_p_values(condition: Condition, tables: int, random: np.random.Generator) -> ndarray:
    """Return p of the test over seeds alone, float64 [tables, rows], of a figure that varies by normal run effects only.

    The test is `genrec.evaluation.statistics.crossed_test.seeds_test`. Its level does not depend on the size of the run effects.
    """
    effects = random.standard_normal((tables, 1 + condition.rows, condition.seeds))
    if condition.family in ("branched", BASELINE):
        effects[:, 0] = 0.0
    return p_over_seeds(effects[:, 1:] - effects[:, :1], pooled=condition.family != BASELINE)


def p_over_seeds(difference: ndarray, pooled: bool) -> ndarray:
    """Return p of differences by seed, float64 [tables, rows, seeds], with the variance of all rows or of each row."""
    _, rows, seeds = difference.shape
    variance = difference.var(2, ddof=1)
    if pooled:
        variance = variance.mean(1, keepdims=True)
    degrees = (rows if pooled else 1) * (seeds - 1)
    p: ndarray = 2 * stats.t.sf(np.abs(difference.mean(2)) / np.sqrt(variance / seeds), degrees)
    return p


def rate(found: ndarray) -> Rate:
    """Return the mean of shares by table, float64 [tables], with its standard error."""
    return Rate(float(found.mean()), float(found.std(ddof=1)) / math.sqrt(len(found)))


def rates(condition: Condition, tables: int, seed: int) -> Rates:
    """Return the findings in so many simulated tables."""
    parts = [p_values_of(condition, differences(ranks)) for ranks in chunks(condition, tables, seed)]
    return Rates(*(each for p in map(np.concatenate, zip(*parts, strict=True)) for each in both_rates(p)))


def both_rates(p: ndarray) -> tuple[Rate, Rate]:
    """Return the shares of tests with p < 0.05 and of tables with a finding, which Holm's first step decides; p [tables, rows]."""
    return rate((p < LEVEL).mean(1)), rate((p.min(1) * p.shape[1] < LEVEL).astype(float))


def null_conditions(deviations: Sequence[float] = DEVIATIONS) -> list[Condition]:
    """Return all conditions without a difference between methods."""
    return [
        Condition(family, rows, seeds, deviation)
        for family in PARTS
        for rows in (5, 38)
        for seeds in (3, 5)
        for deviation in deviations
    ]


def power_conditions() -> list[Condition]:
    """Return the conditions in which five rows all gain 0.010."""
    return [Condition(family, 5, seeds, 0.0041, 0.010) for family in PARTS for seeds in (3, 5)]


def few_seeds_conditions() -> list[Condition]:
    """Return conditions with few seeds and large run effects, also against a baseline, without a difference between methods."""
    families = (*PARTS, BASELINE)
    return [Condition(family, 5, seeds, deviation) for family in families for seeds in FEW_SEEDS for deviation in LARGE_DEVIATIONS]


def print_seeds_only(tables: int, seed: int) -> None:
    """Print the findings of tests over seeds alone."""
    print("\n| family | rows | seeds | tests, over seeds | tables, over seeds |")
    print(f"|---|{'---:|' * 4}")
    for family in (*PARTS, BASELINE):
        for seeds in FEW_SEEDS:
            condition = Condition(family, 5, seeds, 1.0)
            found = both_rates(seeds_p_values(condition, tables, np.random.default_rng(seed)))
            print(f"| {family} | 5 | {seeds} | {' | '.join(f'{each.share:.3f} ±{each.error:.3f}' for each in found)} |")


def main() -> None:
    """Print a table of the findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=4_000, help="simulated tables of each condition")
    parser.add_argument("--families", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--deviations", nargs="+", type=float, default=list(DEVIATIONS), help="of run effects, without a gain")
    parser.add_argument("--few-seeds", action="store_true", help="other conditions: few seeds, baselines, tests over seeds alone")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{options.tables} tables of {USERS} users for each condition, seed {options.seed}; {processor()}\n")
    tests = " | ".join(f"tests, {name} | tables, {name}" for name in ("crossed", "adjusted", "users"))
    print(f"| family | rows | seeds | run deviation | gain | {tests} |")
    print(f"|---|{'---:|' * 10}")
    conditions = [*null_conditions(options.deviations), *power_conditions()]
    chosen = few_seeds_conditions() if options.few_seeds else [each for each in conditions if each.family in options.families]
    for condition in chosen:
        family, rows, seeds, deviation, gain = condition
        found = rates(condition, options.tables, options.seed)
        shares = " | ".join(f"{each.share:.3f} ±{each.error:.3f}" for each in found)
        print(f"| {family} | {rows} | {seeds} | {deviation:.4f} | {gain:.3f} | {shares} |", flush=True)
    if options.few_seeds:
        print_seeds_only(options.tables, options.seed)


if __name__ == "__main__":
    main()
