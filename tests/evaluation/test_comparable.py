"""Which runs can stand in one table, with the same targets for all seeds and with targets of each seed."""

from __future__ import annotations

import pytest
from pandas import DataFrame

from genrec.errors import ArtifactError
from genrec.evaluation.compare import Run, compare
from genrec.evaluation.comparison.comparable import check_same, missing_seeds
from genrec.types.data import TIES_OF_EACH_SEED

SAME: dict[str, object] = {"data": "toy", "ties": "row order of the file", "items": 9}
OF_EACH_SEED = SAME | {"ties": TIES_OF_EACH_SEED}
TRAINED: dict[str, object] = {"sft.optimization.max_steps": 5}


def run(name: str, seed: int, targets: list[int], protocol: dict[str, object] = OF_EACH_SEED, trained: bool = True) -> Run:
    """Return a run with users 1, 2, ... and the rank of each target equal to its item."""
    ranks = DataFrame({"user": range(1, len(targets) + 1), "target": targets, "rank": targets})
    return Run(name, seed, ranks, {"recall@10": 1.0}, protocol, TRAINED if trained else {})


def test_each_seed_may_have_targets_of_its_own() -> None:
    runs = [run(name, seed, [1 + seed, 2 + seed, 3]) for name in ("sft", "dpo") for seed in (0, 1)]
    runs += [run("popularity", seed, [1 + seed, 2 + seed, 3], trained=False) for seed in (0, 1)]
    check_same(runs)
    with pytest.raises(ArtifactError, match=r"sft \(seed 0\) and sft \(seed 1\) can't be compared: 2 users have different targets"):
        check_same([each._replace(protocol=SAME) for each in runs])


def test_runs_of_one_seed_have_the_same_targets() -> None:
    runs = [run("sft", 0, [1, 2]), run("sft", 1, [3, 4]), run("dpo", 0, [1, 2]), run("dpo", 1, [3, 5])]
    message = r"sft \(seed 1\) and dpo \(seed 1\) can't be compared: 1 user has different targets, the first is user 2 with item 4"
    with pytest.raises(ArtifactError, match=message):
        check_same(runs)


def test_all_seeds_have_the_same_users() -> None:
    with pytest.raises(ArtifactError, match=r"1 test user is missing from sft \(seed 0\), the first is user 3"):
        check_same([run("sft", 0, [1, 2]), run("sft", 1, [3, 4, 5])])


def test_a_baseline_has_every_seed() -> None:
    """One result of a baseline is for the targets of one seed."""
    trained = [run("sft", seed, [1 + seed, 2]) for seed in (0, 1, 2)]
    with pytest.raises(ArtifactError) as raised:
        compare([*trained, run("popularity", 0, [1, 2], trained=False)], resamples=5)
    assert str(raised.value) == (
        "ties are in a random order of each seed, so each seed has targets of its own, and the baseline popularity has seed 0 only: "
        "seeds 1 and 2 are missing; run the baselines with the seeds of the other rows: "
        "seeds(baselines(experiment), (0, 1, 2)), or the list with --seeds"
    )
    everything = [*trained, *(run("popularity", seed, [1 + seed, 2], trained=False) for seed in (0, 1, 2))]
    (test,) = [row.test for row in compare(everything, resamples=5).rows if row.test is not None]
    assert test.seeds == (0, 1, 2)
    shared = [each._replace(ranks=everything[0].ranks, protocol=SAME) for each in everything[:4]]
    check_same(shared)  # with one order of ties a baseline has one result


def test_missing_seeds_of_baselines() -> None:
    assert missing_seeds([("a", 0, True), ("a", 2, True), ("b", 0, True)]) == ""
    assert missing_seeds([("p", 0, False), ("q", 0, False)]) == ""
    assert "the baseline q has seed 0 only: seed 1 is missing" in missing_seeds([("p", 0, False), ("p", 1, False), ("q", 0, False)])


def test_an_entry_that_both_protocols_have_is_named_first() -> None:
    """A row of an earlier version lacks entries; that its data differ says more."""
    older = {"items": 9, "data key": "old"}
    first, other = run("a", 0, [1, 2], {"ties": "x", "items": 9, "data key": "new"}), run("b", 0, [1, 2], older)
    with pytest.raises(ArtifactError, match="data key is 'new' and 'old'; run both with the same protocol"):
        check_same([first, other])
    older["data key"] = "new"
    message = (
        r"a \(seed 0\) and b \(seed 0\) can't be compared: the protocol of b \(seed 0\) has no entry ties; another version of genrec"
    )
    with pytest.raises(ArtifactError, match=message):
        check_same([first, other])
    with pytest.raises(ArtifactError, match=r"the protocol of b \(seed 0\) has no entry ties; .* run that row again"):
        check_same([other, first])
    check_same([other, other._replace(name="c")])  # two rows of an earlier version
