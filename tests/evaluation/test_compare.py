"""Comparison of runs: grouping, tests against the reference, configuration differences, and errors (E3, E4)."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from scipy.stats import t

from genrec.errors import ArtifactError, UsageError
from genrec.evaluation.compare import ABSENT, Comparison, Run, compare
from genrec.evaluation.statistics.crossed_test import crossed_test, pooled_variance
from genrec.evaluation.statistics.paired_tests import PairedTest, UsersOnly

PROTOCOL: dict[str, object] = {"data": "toy", "users": 4, "items": 9, "filter_seen": False}
BASELINE: dict[str, object] = {"policy.class": "Popularity"}


def run(name: str, ranks: list[int], seed: int = 0, frame: DataFrame | None = None, **changes: object) -> Run:
    """Return a run of users 1, 2, ... with targets 11, 12, ..."""
    users = np.arange(1, len(ranks) + 1)
    if frame is None:
        frame = DataFrame({"user": users, "target": users + 10, "rank": ranks})
    hits = np.array(ranks)
    metrics = {"recall@10": float(((hits > 0) & (hits <= 10)).sum() / max(1, len(hits)))}
    return Run(name, seed, frame, metrics, PROTOCOL, {"sft.optimization.max_steps": 5})._replace(**changes)  # type: ignore[arg-type]


def seeded(name: str, ranks: list[list[int]], **changes: object) -> list[Run]:
    """Return runs with seeds 0, 1, ..., each with its ranks."""
    return [run(name, places, seed, **changes) for seed, places in enumerate(ranks)]


def against(comparison: Comparison, name: str) -> PairedTest:
    test = next(row.test for row in comparison.rows if row.name == name)
    assert test is not None
    return test


def test_by_hand() -> None:
    """Recall of SFT is 1 1 0 0 with both seeds; recall of DPO is 1 1 1 0 with seed 0 and 0 1 1 0 with seed 1.

    D is 0 0 1 0 at seed 0 and -1 0 1 0 at seed 1, with the mean 1/8.
    Means by user -1/2 0 1 0: S2_users = (1/4 + 1 - 4/64) / 3 = 19/48.
    Means by seed 1/4 and 0: S2_seeds = 1/32. Without the means of user and seed, +-1/2 of the first user and -+1/8 of all remain: 3/8,
    -1/8, -1/8, -1/8 at seed 0 and the opposite at seed 1: MS_error = 2 (9 + 3) / 64 / 3 = 1/8.
    V = 19/192 + 1/64 - 1/64 = 19/192, nu = V^2 / ((1/64)^2 / 1 + (19/192)^2 / 3).
    """
    runs = [*seeded("sft", [[1, 3, 0, 0]] * 2), *seeded("dpo", [[1, 1, 1, 0], [0, 1, 1, 0]])]
    comparison = compare(runs, "recall@10")
    sft, dpo = comparison.rows
    assert (sft.name, sft.seeds, sft.value, sft.test) == ("sft", (0, 1), 0.5, None)
    assert (dpo.name, dpo.seeds, dpo.value) == ("dpo", (0, 1), 0.625)
    assert dpo.metrics["recall@10"].mean == pytest.approx(0.625)  # of 0.75 and 0.5
    assert dpo.metrics["recall@10"].deviation == pytest.approx(0.1767767)  # 0.25 / sqrt(2)
    assert sft.metrics["recall@10"].deviation == 0
    assert compare(runs[:1], "recall@10").rows[0].metrics["recall@10"].deviation is None
    test = against(comparison, "dpo")
    assert test.difference == pytest.approx(0.125)
    assert test.by_seed == pytest.approx((0.25, 0.0))
    assert test.deviation == pytest.approx(0.25 / np.sqrt(2))
    assert (test.wins, test.ties, test.losses, test.users) == (1, 2, 1, 4)
    assert comparison.pool[:3] == pytest.approx((1 / 32, 1 / 8, 1))
    assert comparison.pool.rows == ("dpo",)
    error, nu = np.sqrt(19 / 192), (19 / 192) ** 2 / ((1 / 64) ** 2 + (19 / 192) ** 2 / 3)
    assert test.p == pytest.approx(2 * t.sf(0.125 / error, nu))
    assert test.p == test.p_holm
    assert test.interval == pytest.approx((0.125 - t.ppf(0.975, nu) * error, 0.125 + t.ppf(0.975, nu) * error))
    assert test.detectable == pytest.approx((t.ppf(0.975, nu) + t.ppf(0.8, nu)) * error)
    assert dpo.interval is not None
    assert dpo.interval[0] < 0.625 < dpo.interval[1]


def test_trained_rows_are_compared_at_the_seeds_that_both_have() -> None:
    """A gain over the mean of all seeds can be a loss at the common seed.

    Recall of SFT is 1 1 1 0 with seed 0 and 0 0 0 0 with seed 1: 0.375 over both. The sampler has seed 0 alone, with recall 1 1 0 0:
    0.5 - 0.375 = +0.125 against all seeds, but (0 + 0 - 1 + 0) / 4 = -0.25 at seed 0.
    """
    runs = [run("sft", [1, 1, 1, 0]), run("sft", [0, 0, 0, 0], seed=1), run("sampler", [1, 1, 0, 0])]
    comparison = compare(runs, "recall@10")
    test = against(comparison, "sampler")
    assert test.difference == pytest.approx(-0.25)
    assert (test.interval, test.p, test.p_holm, test.detectable, test.deviation) == (None,) * 5
    assert test.reason == "one seed in common; run at least three seeds, better five"
    assert test.users_only is not None
    assert (test.seeds, test.by_seed) == ((0,), (-0.25,))
    assert (test.wins, test.ties, test.losses) == (0, 3, 1)
    assert test._replace(p_holm=None) == against(compare([runs[0], runs[2]], "recall@10"), "sampler")._replace(p_holm=None)
    assert [row.value for row in comparison.rows] == [0.375, 0.5]  # the rows keep the means over all their seeds
    assert [row.seeds for row in comparison.rows] == [(0, 1), (0,)]


def test_trained_rows_without_a_common_seed_are_not_tested() -> None:
    runs = [run("sft", [1, 1, 1, 0], seed) for seed in (2, 0, 1)] + [run("dpo", [1, 0, 0, 0], seed) for seed in (3, 4)]
    test = against(compare([*runs, run("other", [1, 0, 0, 0])], "recall@10"), "dpo")
    assert (test.difference, test.interval, test.p, test.p_holm) == (None, None, None, None)
    assert test.reason == "no seed in common with sft, which has seeds 0, 1 and 2"
    assert (test.wins, test.ties, test.losses, test.seeds) == (0, 0, 0, ())
    other = against(compare([*runs, *seeded("other", [[1, 0, 0, 0], [1, 1, 0, 0]])], "recall@10"), "other")
    assert other.p is not None
    assert other.p == other.p_holm  # an undefined test is not corrected for


def test_a_baseline_is_compared_with_all_seeds_of_a_trained_row() -> None:
    """Recall of SFT is 1 1 0 0 and 1 0 0 0: 1 0.5 0 0. Popularity, run with another seed, has 0 0 0 1."""
    runs = [
        run("sft", [1, 1, 0, 0], seed=1),
        run("sft", [1, 0, 0, 0], seed=2),
        run("popularity", [0, 0, 0, 1], configuration=BASELINE),
    ]
    test = against(compare(runs, "recall@10"), "popularity")
    assert test.difference == pytest.approx(-0.125)  # (-1 - 0.5 + 0 + 1) / 4
    assert test.seeds == (1, 2)
    assert (test.wins, test.ties, test.losses) == (1, 1, 2)
    reversed_test = against(compare(runs, "recall@10", reference="popularity"), "sft")
    assert (reversed_test.difference, reversed_test.seeds) == (pytest.approx(0.125), (1, 2))
    assert test.p == reversed_test.p
    assert test.p is not None
    alone = compare([runs[0], runs[2]], "recall@10")
    assert (against(alone, "popularity").p, against(alone, "popularity").reason) == (
        None, "one seed; run at least three seeds, better five",
    )  # fmt: skip
    own = crossed_test(
        np.array([[-1, -1], [-1, 0], [0, 0], [1, 1]]), pooled_variance({"": np.array([[-1, -1], [-1, 0], [0, 0], [1, 1]])})
    )
    assert own is not None
    assert test.p == pytest.approx(own.p)  # its own variance over seeds
    itemknn = run("itemknn", [0, 0, 1, 1], seed=5, configuration=BASELINE)
    assert against(compare([runs[2], itemknn], "recall@10"), "itemknn").difference == pytest.approx(0.25)


def test_swapped_rows_have_the_opposite_difference_and_interval_and_the_same_p() -> None:
    rng = np.random.default_rng(3)
    for trained, seeds in ((True, 3), (False, 1)):
        changes = {} if trained else {"configuration": BASELINE}
        runs = [one for name in ("a", "b") for one in seeded(name, rng.integers(0, 12, (seeds, 200)).tolist(), **changes)]
        there, back = against(compare(runs), "b"), against(compare(runs[::-1]), "a")
        assert there.difference == -back.difference  # type: ignore[operator]
        assert there.p is not None
        assert there.p == back.p
        assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]), abs=1e-15)  # type: ignore[index]
        assert there.by_seed == tuple(-difference for difference in back.by_seed)


RANKS = st.lists(st.integers(0, 12), min_size=6, max_size=6)
TABLES = st.dictionaries(st.sampled_from("abcdef"), st.dictionaries(st.integers(0, 3), RANKS, min_size=1), min_size=2)


@given(st.data())
def test_other_rows_change_nothing_but_the_pooled_variance(data: st.DataObject) -> None:
    """A test depends on its two rows and on the pooled variance: baselines, the order of rows and of runs change nothing."""
    table, baselines = data.draw(TABLES), data.draw(st.dictionaries(st.sampled_from("xyz"), RANKS))
    runs = [run(name, places, seed) for name, seeds in table.items() for seed, places in seeds.items()]
    others = [run(name, places, configuration=BASELINE) for name, places in baselines.items()]
    reference, row = data.draw(st.permutations(sorted(table)))[:2]
    plain = compare(runs, reference=reference)
    among = compare(data.draw(st.permutations([*runs, *others])), reference=reference)
    assert among.pool == plain.pool
    rows, found = ({entry.name: entry for entry in comparison.rows} for comparison in (plain, among))
    assert {name: found[name].test for name in rows} == {name: entry.test for name, entry in rows.items()}  # with p (Holm)
    assert {name: found[name].interval for name in rows} == {name: entry.interval for name, entry in rows.items()}
    for name in baselines:
        pair = compare([entry for entry in [*runs, *others] if entry.name in (reference, name)], reference=reference)
        assert against(among, name)._replace(p_holm=None) == against(pair, name)._replace(p_holm=None)
    pair = compare([entry for entry in runs if entry.name in (reference, row)], reference=reference)
    if among.pool.rows == pair.pool.rows:
        assert against(among, row)._replace(p_holm=None) == against(pair, row)._replace(p_holm=None)
    test = against(among, row)
    assert (test.p is None and test.p_holm is None) or test.p_holm >= test.p  # type: ignore[operator]


@given(TABLES)
def test_figures_of_a_test_are_in_range(table: dict[str, dict[int, list[int]]]) -> None:
    runs = [run(name, places, seed) for name, seeds in table.items() for seed, places in seeds.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tests = [row.test for row in compare(runs).rows if row.test is not None]
    for test in tests:
        assert (test.p is None) == bool(test.reason) == (test.interval is None)
        assert (test.difference is None) == (not test.seeds)
        if test.p is not None and test.interval is not None and test.difference is not None:
            assert len(test.seeds) > 1
            assert 0 <= test.p <= 1
            assert test.interval[0] <= test.difference <= test.interval[1]
            assert np.mean(test.by_seed) == pytest.approx(test.difference)
            if abs(test.p - 0.05) > 1e-9 and test.detectable is not None:
                assert (test.p < 0.05) == (not test.interval[0] <= 0 <= test.interval[1])


def test_any_row_can_be_the_reference_and_rows_keep_their_order() -> None:
    runs = [run("a", [1, 0, 2, 3]), run("b", [1, 1, 1, 0]), run("c", [0, 0, 0, 1])]
    comparison = compare(runs, "recall@10", reference="b")
    assert [row.name for row in comparison.rows] == ["a", "b", "c"]
    assert [row.test is None for row in comparison.rows] == [False, True, False]
    assert compare(runs, "recall@10").reference == "a"
    assert against(comparison, "a").difference == -against(compare(runs, "recall@10"), "b").difference


def test_cutoffs_up_to_the_length_of_the_lists() -> None:
    runs = [run("a", [1, 5, 9, 0]), run("b", [5, 5, 9, 0])]
    assert compare(runs, "mrr@4").rows[0].value == pytest.approx(0.25)
    with pytest.raises(UsageError, match=r"recall@20 needs lists of 20 items, those of a \(seed 0\) have 10"):
        compare(runs, "recall@20")


def test_order_of_users_does_not_matter() -> None:
    runs = [*seeded("a", [[1, 2, 3, 0]] * 2), *seeded("b", [[1, 2, 3, 0]] * 2)]
    runs[2] = runs[2]._replace(ranks=runs[2].ranks.iloc[::-1])
    expected = PairedTest(0.0, (0.0, 0.0), 1.0, 1.0, "", 0, 4, 0, (0, 1), (0.0, 0.0), 4, None, UsersOnly((0.0, 0.0), 1.0))
    assert against(compare(runs), "b") == expected


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (run("b", [1, 1, 1, 1], protocol={**PROTOCOL, "filter_seen": True}), "filter_seen is False and True"),
        (run("b", [1, 1, 1, 1], protocol={**PROTOCOL, "items": 10}), "items is 9 and 10"),
        (run("b", [1, 1, 1, 1], protocol={**PROTOCOL, "split": "temporal"}), r"the protocol of a \(seed 0\) has no entry split"),
        (run("b", [1, 1, 1]), r"1 test user is missing from b \(seed 0\), the first is user 4"),
        (run("b", [1, 1, 1, 1, 1]), r"1 test user is missing from a \(seed 0\), the first is user 5"),
        (
            run("b", [], frame=DataFrame({"user": [1, 2, 3, 4], "target": [11, 12, 99, 14], "rank": 1})),
            "1 user has different targets, the first is user 3 with item 13 and item 99",
        ),
        (run("b", [], frame=DataFrame({"user": [1, 2, 2], "target": 11, "rank": 1})), "user 2 twice"),
        (run("b", []), "no test users"),
    ],
)
def test_runs_with_other_users_targets_or_protocol_are_refused(other: Run, message: str) -> None:
    """E3"""
    with pytest.raises(ArtifactError, match=message) as caught:
        compare([run("a", [1, 1, 0, 0]), other])
    assert caught.value.exit_code == 4


def test_a_row_has_one_configuration() -> None:
    with pytest.raises(UsageError, match="row a has seed 0 twice"):
        compare([run("a", [1]), run("a", [1])])
    with pytest.raises(ArtifactError, match=r"row a: sft\.optimization\.max_steps is 5 for seed 0 and 6 for seed 1"):
        compare([run("a", [1]), run("a", [1], seed=1, configuration={"sft.optimization.max_steps": 6})])
    losses = [{"align.objective.loss.class": f"genrec.preference.losses:{name}"} for name in ("DPO", "IPO")]
    with pytest.raises(ArtifactError, match=r"row a: align\.objective\.loss is DPO for seed 0 and IPO for seed 1"):
        compare([run("a", [1], seed=seed, configuration=each) for seed, each in enumerate(losses)])
    with pytest.raises(UsageError, match="at least one run"):
        compare([])
    with pytest.raises(UsageError, match="reference must be one of the rows a, got 'b'"):
        compare([run("a", [1])], reference="b")
    with pytest.raises(UsageError, match="resamples must be at least 1, got 0"):
        compare([run("a", [1])], resamples=0)


def test_degenerate_tables() -> None:
    """E4: degenerate tables give no numerical warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = against(compare([*seeded("a", [[1, 2, 0]] * 2), *seeded("b", [[1, 2, 0]] * 2)]), "b")
        assert (same.p, same.p_holm, same.interval, same.reason, same.ties) == (1.0, 1.0, (0.0, 0.0), "", 3)
        one_user = compare([*seeded("a", [[1]] * 2), *seeded("b", [[2], [3]])])
        test = against(one_user, "b")
        assert (test.p, test.p_holm, test.interval, test.reason, test.losses) == (None, None, None, "one user", 1)
        assert one_user.rows[0].interval is None
        constant = against(compare([*seeded("a", [[1, 1, 1]] * 2), *seeded("b", [[2, 2, 2]] * 2)]), "b")
        assert (constant.p, constant.interval, constant.reason) == (None, None, "the difference is the same for every user")
        assert constant.difference == pytest.approx(1 / np.log2(3) - 1)
        crossed = compare([*seeded("a", [[0, 0]] * 2), *seeded("b", [[1, 0], [0, 1]])], "recall@10")  # D is 1 0 and 0 1
        assert (against(crossed, "b").p, against(crossed, "b").reason) == (None, "the difference does not vary over users and seeds")
        nothing = compare([*seeded("a", [[0, 0]] * 2), *seeded("b", [[0, 0]] * 2)])
        assert against(nothing, "b").p == 1
        assert nothing.rows[0].interval == (0, 0)
        baselines = compare([run("a", [1, 1, 1], configuration=BASELINE), run("b", [2, 2, 2], configuration=BASELINE)])
        assert against(baselines, "b").reason == "the difference is the same for every user"
        alone = compare([run("a", [1, 0])])
        assert alone.rows[0].test is None


def test_two_baselines_are_tested_over_users_alone() -> None:
    """Recall differs by 1 for 2 of 100 users. A resample has Binomial(100, 0.02) of them: p = P(0) + P(4 or more) = 0.133 + 0.141."""
    runs = [run(name, [int(user < hits) for user in range(100)], configuration=BASELINE) for name, hits in (("a", 10), ("b", 12))]
    test = against(compare(runs, "recall@10"), "b")
    assert test.p == pytest.approx(0.274, abs=0.02)
    assert (test.by_seed, test.deviation, test.detectable, test.users_only) == ((), None, None, None)
    assert test.interval is not None
    assert test.interval == pytest.approx((0.0, 0.05), abs=0.011)  # Binomial(100, 0.02) / 100


def test_undefined_tests_are_not_in_the_correction() -> None:
    rows = {"a": [1, 1, 1, 1], "same": [1, 1, 1, 1], "constant": [2, 2, 2, 2], "mixed": [1, 0, 0, 1]}
    comparison = compare([one for name, ranks in rows.items() for one in seeded(name, [ranks] * 2)])
    mixed = against(comparison, "mixed")
    assert mixed.p is not None
    assert mixed.p_holm == pytest.approx(min(1, 2 * mixed.p))  # two tests have a p
    assert against(comparison, "constant").p_holm is None


def test_differences_in_the_configuration() -> None:
    sft = {"policy.class": "Tiger", "sft.optimization.max_steps": 5, "align": None, "seed": 0}
    dpo = {
        "policy.class": "Tiger",
        "sft.optimization.max_steps": 5,
        "align.loss.class": "m:DPO",
        "align.loss.beta": 0.1,
        "align.num_negatives": 1,
        "seed": 1,
    }
    sdpo = {
        "policy.class": "Tiger",
        "sft.optimization.max_steps": 5,
        "align.loss.class": "m:SoftmaxDPO",
        "align.loss.alpha": 1,
        "align.num_negatives": 3,
    }
    popularity = {"policy.class": "Popularity", "seed": 0}
    runs = [
        run(name, [1, 0], configuration=found) for name, found in (("sft", sft), ("dpo", dpo), ("sdpo", sdpo), ("pop", popularity))
    ]
    assert compare(runs).differences == {
        "policy.class": {"sft": "Tiger", "dpo": "Tiger", "sdpo": "Tiger", "pop": "Popularity"},
        "align.loss.class": {"sft": ABSENT, "dpo": "m:DPO", "sdpo": "m:SoftmaxDPO", "pop": ABSENT},
        "align.loss.beta": {"sft": ABSENT, "dpo": 0.1, "sdpo": ABSENT, "pop": ABSENT},
        "align.loss.alpha": {"sft": ABSENT, "dpo": ABSENT, "sdpo": 1, "pop": ABSENT},
        "align.num_negatives": {"sft": ABSENT, "dpo": 1, "sdpo": 3, "pop": ABSENT},
    }


def test_a_list_of_components_differs_from_no_list() -> None:
    """Like a class it is compared among the rows that use its stage."""
    odd, near = ({"class": f"m:{name}", "source": "1f"} for name in ("OddOnly", "Near"))
    plain = {"align.negatives.class": "m:Uniform", "align.num_negatives": 1}
    filtered = {"align.negatives.class": "m:Filtered", "align.negatives.filters": [odd], "align.negatives.weights": [1.0, 2.0]}
    other = filtered | {"align.negatives.filters": [odd, near]}

    def found(**rows: dict[str, object]) -> dict[str, dict[str, object]]:
        return compare([run(name, [1, 0], configuration=values) for name, values in rows.items()]).differences

    assert found(a={**plain}, b={**filtered}, pop={"policy.class": "m:Popularity"}) == {
        "align.negatives.class": {"a": "m:Uniform", "b": "m:Filtered", "pop": ABSENT},
        "align.negatives.filters": {"a": ABSENT, "b": [odd], "pop": ABSENT},
        "align.negatives.weights": {"a": ABSENT, "b": [1.0, 2.0], "pop": ABSENT},
    }
    assert found(b={**filtered}, c={**other}) == {"align.negatives.filters": {"b": [odd], "c": [odd, near]}}
    assert found(b={**filtered}, again={**filtered}, pop={"policy.class": "m:Popularity"}) == {}


def test_deterministic() -> None:
    rng = np.random.default_rng(0)
    runs = [run(name, rng.integers(0, 12, 100).tolist(), configuration=BASELINE) for name in ("a", "b")]
    assert compare(runs) == compare(runs)
    assert against(compare(runs, seed=1), "b").interval != against(compare(runs), "b").interval
