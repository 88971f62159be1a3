"""A comparison in words: the best row, what its test says, and the next commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame

from genrec import run_files
from genrec.evaluation.compare import Comparison, Run, compare
from genrec.evaluation.comparison import comparison_report
from genrec.evaluation.comparison.comparison_controls import NO_CONTROL
from genrec.evaluation.comparison.comparison_summary import _wide_interval, summary
from genrec.evaluation.comparison.table_cells import p_cell
from genrec.results import comparison_of
from genrec.row_commands import print_comparison

SFT: dict[str, object] = {"sft.optimization.max_steps": 5}
CONTROL = SFT | {
    "align.objective.class": "genrec.objectives.preferences:Preference",
    "align.objective.loss.class": "genrec.preference.losses:ContinuedSFT",
}
DPO = SFT | {
    "align.objective.class": "genrec.objectives.preferences:Preference",
    "align.objective.loss.class": "genrec.preference.losses:DPO",
}
BASELINE: dict[str, object] = {"policy.class": "Popularity"}
FEW = "a claim about methods needs at least three, better five."
ONE = f"Rows are compared over 1 seed; {FEW}"


def run(name: str, hits: int, configuration: dict[str, object], seed: int = 0) -> Run:
    """Return a run in which the first `hits` of 100 users have their target in the first place, and the others miss it."""
    users = np.arange(100)
    ranks = DataFrame({"user": users, "target": users + 1, "rank": (users < hits).astype(int)})
    return Run(name, seed, ranks, {"recall@10": hits / 100, "ndcg@10": hits / 100}, {"data": "toy"}, configuration)


def seeded(name: str, hits: list[int], configuration: dict[str, object]) -> list[Run]:
    """Return runs with seeds 0, 1, ..., each with its number of hits."""
    return [run(name, count, configuration, seed) for seed, count in enumerate(hits)]


def figures(comparison: Comparison, name: str) -> str:
    """Return the figures of a test as in the text."""
    test = next(row.test for row in comparison.rows if row.name == name)
    assert test is not None
    assert test.interval is not None
    low, high = test.interval
    return f"(difference {test.difference:+.5f}, 95 % interval {low:+.5f} to {high:+.5f}, p (Holm) {p_cell(test.p_holm)})"


def test_a_difference_within_chance_is_not_called_a_gain() -> None:
    """The row gains 30 users at one seed and loses 24 at another."""
    comparison = compare([*seeded("sft", [10, 40, 20], SFT), *seeded("other", [40, 16, 20], SFT)], resamples=10)
    first, *others = summary(comparison).reading
    assert first == (
        "Of 2 rows other has the highest NDCG@10 (0.2533); it is not distinguishable from the reference sft over users and seeds "
        f"{figures(comparison, 'other')}. Differences of up to 307 % of the reference fit the interval, so this says little; more "
        "seeds or test users narrow it."
    )
    assert others == []


def test_an_interval_is_called_wide_from_half_of_the_reference_on() -> None:
    """The reference has 0.4; of intervals to 0.199 and -0.201 the second reaches a half. A finding gets no such sentence."""
    comparison = compare([*seeded("sft", [40, 40, 40], SFT), *seeded("other", [38, 40, 43], SFT)], resamples=10)
    test = next(row.test for row in comparison.rows if row.test is not None)
    assert "says little" not in _wide_interval(test._replace(interval=(-0.1, 0.199), p_holm=0.3), comparison)
    assert "up to 50 % of the reference" in _wide_interval(test._replace(interval=(-0.201, 0.1), p_holm=0.3), comparison)
    assert _wide_interval(test._replace(interval=(-0.201, 0.1), p_holm=0.01), comparison) == ""


def test_a_difference_beyond_chance_is_one_over_users_and_seeds() -> None:
    comparison = compare([*seeded("sft", [10, 11, 12], SFT), *seeded("other", [40, 42, 41], SFT)], resamples=10)
    text = f"it is above the reference sft beyond chance over users and seeds {figures(comparison, 'other')}."
    assert summary(comparison).reading[0] == f"Of 2 rows other has the highest NDCG@10 (0.4100); {text}"


def test_two_baselines_differ_over_users() -> None:
    comparison = compare([run("popularity", 1, BASELINE), run("itemknn", 40, BASELINE)], resamples=2000)
    text = f"it is above the reference popularity beyond chance over users {figures(comparison, 'itemknn')}."
    assert summary(comparison).reading[0] == f"Of 2 rows itemknn has the highest NDCG@10 (0.4000); {text}"


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_fewer_than_three_seeds_are_no_claim(seeds: int) -> None:
    rows = [*seeded("sft", [10, 11, 12][:seeds], SFT), *seeded("other", [40, 42, 41][:seeds], SFT), run("popularity", 1, BASELINE)]
    first = summary(compare(rows, resamples=10)).reading[0]
    counted = {1: "1 seed", 2: "2 seeds"}.get(seeds)
    assert (FEW in first) == (counted is not None)
    assert counted is None or f"Rows are compared over {counted}; {FEW}" in first
    assert FEW not in summary(compare([run("popularity", 1, BASELINE), run("itemknn", 40, BASELINE)], resamples=10)).reading[0]


def test_a_figure_of_all_lists_differs_over_seeds() -> None:
    rows = [*seeded("sft", [10, 11, 12], SFT), *seeded("dpo", [40, 42, 41], DPO)]
    rows = [entry._replace(metrics=entry.metrics | {"coverage@10": entry.metrics["recall@10"]}) for entry in rows]
    comparison = compare(rows, "coverage@10")
    text = f"it is above the reference sft beyond chance over seeds {figures(comparison, 'dpo')}."
    assert summary(comparison).reading == [
        f"Of 2 rows dpo has the highest Coverage@10 (0.4100); {text}",
        f"dpo has a preference loss and is above sft beyond chance over seeds. {NO_CONTROL}",
    ]


def test_the_reference_is_compared_with_the_next_row() -> None:
    rows = [run("popularity", 1, BASELINE), *seeded("sft", [40, 43, 41], SFT), *seeded("dpo", [42, 39, 41], DPO)]
    comparison = compare(rows, reference="sft", resamples=10)
    assert summary(comparison).reading[0] == (
        "Of 3 rows sft has the highest NDCG@10 (0.4133) and is the reference; the next row, dpo, is not distinguishable from it over "
        f"users and seeds {figures(comparison, 'dpo')}."
    )
    comparison = compare([*rows[1:4], *seeded("dpo", [10, 11, 12], DPO)], resamples=10)
    text = f"the next row, dpo, is below it beyond chance over users and seeds {figures(comparison, 'dpo')}"
    assert text in summary(comparison).reading[0]


def test_equal_rows_name_the_reference_first() -> None:
    comparison = compare([*seeded("dpo", [10, 11], DPO), *seeded("sft", [10, 11], SFT)], reference="sft", resamples=10)
    assert "Of 2 rows sft has the highest NDCG@10 (0.1050) and is the reference" in summary(comparison).reading[0]
    assert "(difference +0.00000, 95 % interval +0.00000 to +0.00000, p (Holm) 1.0000)" in summary(comparison).reading[0]


def test_a_mean_over_other_seeds_is_no_gain_at_the_common_seeds() -> None:
    """The reference has 50, 51 and 1 hits, the mean 0.34; the sampler has 40 and 42 with seeds 0 and 1, where it loses by 0.095."""
    comparison = compare([*seeded("sft", [50, 51, 1], SFT), *seeded("sampler", [40, 42], SFT)], resamples=10)
    assert (
        "sampler has the highest NDCG@10 (0.4100); at seeds 0 and 1, which both have, it is below the reference sft beyond chance "
        f"over users and seeds {figures(comparison, 'sampler')}"
    ) in summary(comparison).reading[0]


def test_rows_without_a_test_say_why() -> None:
    comparison = compare([run("sft", 10, SFT), run("dpo", 20, SFT, 1)], resamples=10)
    reason = "no seed in common with sft, which has seed 0"
    assert (
        f"dpo has the highest NDCG@10 (0.2000); it has no test against the reference sft: {reason}." in summary(comparison).reading[0]
    )
    better = compare([run("sft", 30, SFT), run("dpo", 20, SFT, 1)], resamples=10)
    assert f"the next row, dpo, has no test against it: {reason}." in summary(better).reading[0]
    one = compare([run("sft", 10, SFT), run("dpo", 20, SFT)], resamples=10)
    assert summary(one).reading[0].endswith(f"; it differs from the reference sft by +0.10000, without a test. {ONE}")


def test_rows_with_preferences_are_compared_with_the_control() -> None:
    rows = [run("popularity", 1, BASELINE), *seeded("sft", [40, 43, 41], SFT), *seeded("more", [42, 42, 42], CONTROL)]
    rows += [*seeded("dpo", [39, 42, 41], DPO), *seeded("s-dpo", [38, 41, 42], DPO)]
    found = summary(compare(rows, reference="sft", resamples=10))
    assert found.reading[1] == (
        "Of the rows with a preference loss (dpo and s-dpo) none is above sft beyond chance over users and seeds. more is the "
        "control, trained further without preferences: a gain that it shares comes from more training."
    )
    assert found.commands == [
        "genrec compare more dpo s-dpo --reference more", "genrec curves more dpo s-dpo", "genrec show more",
        "genrec recommend more --search TEXT", "genrec export more FOLDER", "genrec keep popularity sft more dpo s-dpo --to FOLDER",
    ]  # fmt: skip
    gain = summary(compare([*rows[1:4], *seeded("dpo", [80, 82, 81], DPO)], resamples=10))
    assert gain.reading[1] == f"dpo has a preference loss and is above sft beyond chance over users and seeds. {NO_CONTROL}"
    many = [each for number in range(7) for each in seeded(f"dpo-{number}", [80, 82, 81 + number], DPO)]
    counted = summary(compare([*rows[1:4], *many, *seeded("low", [1, 2, 1], DPO)], resamples=10))
    assert counted.reading[1].startswith("Of the 8 rows with a preference loss 7 are above sft beyond chance over users and seeds. ")
    all_above = summary(compare([*rows[1:4], *many], resamples=10))
    assert all_above.reading[1].startswith("All 7 rows with a preference loss are above sft beyond chance over users and seeds. ")
    all_above = summary(compare([*rows[1:4], *many[:6]], resamples=10))
    assert all_above.reading[1].startswith("The rows with a preference loss (dpo-0 and dpo-1) are above sft beyond chance over users ")


def test_no_finding_is_stated_without_a_test() -> None:
    """`al` is higher, but it has no seed in common with sft: no sentence that none is above, no command for the same in reverse."""
    rows = [*seeded("sft", [10, 11], SFT), run("al", 60, DPO, 2)]
    found = summary(compare(rows, resamples=10))
    assert found.reading[1:] == [f"al has a preference loss, but no test against sft. {NO_CONTROL}"]
    assert found.commands == [
        "genrec curves al", "genrec show al",
        "genrec recommend al --search TEXT", "genrec export al FOLDER", "genrec keep sft al --to FOLDER",
    ]  # fmt: skip
    found = summary(compare([*rows, *seeded("other", [70, 72], DPO)], resamples=10))
    assert found.reading[1] == (
        "other has a preference loss and is above sft beyond chance over users and seeds. "
        f"al has a preference loss, but no test against sft. {NO_CONTROL}"
    )
    assert found.commands[0] == "genrec curves al other"
    with_control = summary(compare([*rows, run("more", 5, CONTROL)], resamples=10))  # no seed in common with al
    assert with_control.commands[0] == "genrec curves al more"


def test_rows_with_different_seeds_are_named() -> None:
    """The highest mean may be that of a lucky seed. A baseline has one result for all seeds."""
    rows = [run(name, hits, SFT, seed) for name, hits, seed in (("sft", 10, 0), ("sft", 30, 1), ("al", 30, 1), ("al", 40, 2))]
    rows = [run("popularity", 1, BASELINE), *rows]
    comparison = compare(rows, resamples=10)
    warning = (
        "The means of the trained rows are over different seeds: sft has seeds 0 and 1; al has seeds 1 and 2. "
        "Run all with the same seeds before drawing a conclusion."
    )
    assert warning in summary(comparison).reading[0]
    assert warning in comparison_report.markdown(comparison)
    assert "different seeds" not in comparison_report.markdown(compare([*rows[:3], run("al", 1, SFT), run("al", 2, SFT, 1)]))


def test_commands_of_tables_without_a_control() -> None:
    rows = [run("popularity", 1, BASELINE), run("my sft", 40, SFT), run("dpo", 20, DPO)]
    assert summary(compare(rows, reference="my sft", resamples=10)).commands == [
        "genrec curves dpo", "genrec show 'my sft'",
        "genrec recommend 'my sft' --search TEXT", "genrec export 'my sft' FOLDER", "genrec keep popularity 'my sft' dpo --to FOLDER",
    ]  # fmt: skip
    assert summary(compare(rows, resamples=10)).commands[0] == "genrec compare popularity 'my sft' dpo --reference 'my sft'"
    assert summary(compare(rows[:2], resamples=10)).commands[0] == "genrec compare popularity 'my sft' --reference 'my sft'"
    alone = summary(compare(rows[1:2], resamples=10))
    assert alone.reading == ["my sft has NDCG@10 0.4000. Compare it with another row, at best with a baseline."]
    assert alone.commands[:3] == ["genrec compare 'my sft' NAME_OF_ANOTHER_ROW", "genrec curves 'my sft'", "genrec show 'my sft'"]
    assert summary(compare(rows[:1], resamples=10)).commands[1:] == ["genrec show popularity", "genrec keep popularity --to FOLDER"]


def test_the_command_with_more_seeds_comes_first_if_there_are_too_few() -> None:
    again = "genrec run mine.py:rows --seeds 5"
    few, enough = (
        compare([*seeded("sft", hits, SFT), *seeded("other", hits, SFT)], resamples=10) for hits in ([10, 11], [10, 11, 12])
    )
    assert summary(few, with_seeds=again).commands == [again, *summary(few).commands]
    assert again not in summary(enough, with_seeds=again).commands


def test_a_row_with_inputs_recommends_to_users_alone() -> None:
    """It is refused by `genrec export`, and the items that a search finds are no history for it."""
    comparison = compare([run("popularity", 1, BASELINE), run("known", 40, SFT)], resamples=10)
    assert summary(comparison, with_inputs={"known"}).commands[2:] == [
        "genrec show known", "genrec recommend known --user ID", "genrec keep popularity known --to FOLDER",
    ]  # fmt: skip
    assert "genrec export known FOLDER" in summary(comparison, with_inputs={"another"}).commands


def test_after_a_run_the_pictures_and_commands_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text is broken between words; a command stays on one line, so that it can be copied."""
    monkeypatch.setenv("COLUMNS", "60")
    names = [f"a-row-with-a-long-name-{number}" for number in (1, 2)]
    comparison = compare([run(name, 40, SFT) for name in names], resamples=10)
    comparison_report.after_run(comparison, Path("data/reports"))
    lines = capsys.readouterr().out.splitlines()
    assert "Pictures of the training curves: data/reports" in lines
    assert lines[lines.index("Next:") + 1] == f"  genrec compare {' '.join(names)} --reference {names[1]}"
    assert all(len(line) <= 60 for line in lines[: lines.index("Next:")])
    comparison_report.after_run(compare([run("popularity", 1, BASELINE)], resamples=10), Path("data/reports"))
    assert "Pictures" not in capsys.readouterr().out


def test_compare_prints_the_sentences_on_controls(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [run("more", 20, with_settings(CONTROL, rate=1e-2)), run("dpo", 30, with_settings(DPO, rate=1e-3))]
    print_comparison(compare(rows, resamples=10))
    printed = " ".join(capsys.readouterr().out.split())
    assert "more is no fair control of dpo, because it differs in align.optimization.learning_rate (0.01 instead of 0.001)." in printed
    print_comparison(compare([run("sft", 20, SFT), rows[1]], resamples=10))
    assert NO_CONTROL in " ".join(capsys.readouterr().out.split())


def test_markdown_has_the_sentences_on_controls_below_the_results() -> None:
    rows = [run("more", 20, with_settings(CONTROL, rate=1e-2)), run("dpo", 30, with_settings(DPO, rate=1e-3))]
    text = comparison_report.markdown(compare(rows, resamples=10))
    sentence = "\n\nmore is no fair control of dpo, because it differs in align.optimization.learning_rate (0.01 instead of 0.001)."
    assert text.index("**Results**") < text.index(sentence) < text.index("**NDCG@10 compared with more**")
    assert text.count("no fair control") == 1
    assert "control" not in comparison_report.markdown(compare([run("sft", 20, SFT), run("popularity", 10, BASELINE)], resamples=10))


def test_the_meaning_is_printed_after_a_run_and_not_by_compare(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENREC_HOME", "elsewhere")
    monkeypatch.setattr(run_files, "outcomes", lambda names, seeds, metric: [run(name, 40, SFT) for name in names])
    print_comparison(comparison_of(["sft", "dpo"], "ndcg@10", "sft", {"sft": {0}, "dpo": {0}}), after_run=True)
    after_run = capsys.readouterr().out
    assert "Pictures of the training curves: elsewhere/reports" in after_run
    assert ONE in " ".join(after_run.split())
    print_comparison(comparison_of(["sft", "dpo"], "ndcg@10", "sft", None))
    compared = capsys.readouterr().out
    assert "Next:" not in compared
    assert "Of 2 rows sft has the highest" not in compared
    results, verdict, tests = (
        after_run.index(each) for each in ("Results", "Of 2 rows sft has the highest", "NDCG@10 compared with sft")
    )
    assert results < verdict < tests  # below the results, above all other tables
    whole, same = ([line for line in text.splitlines() if line] for text in (after_run, compared))
    assert [line for line in whole if line in same] == same


def test_rows_without_a_hit_have_no_best_row() -> None:
    found = summary(compare([run("sft", 0, SFT), run("dpo", 0, DPO)], resamples=10))
    assert found.reading == ["All 2 rows have NDCG@10 0.0000: no row is the best. Train longer, or test more users."]
    assert "highest" in summary(compare([run("sft", 0, SFT), run("dpo", 1, DPO)], resamples=10)).reading[0]
    gains = [run(name, 0, SFT)._replace(metrics={"gain@10": value}) for name, value in (("sft", -0.5), ("dpo", 0.0))]
    assert summary(compare(gains, "gain@10", resamples=10)).reading[0].startswith("Of 2 rows dpo has the highest gain@10 (0.0000)")


def test_a_control_has_the_base_and_the_steps_of_an_aligned_row() -> None:
    """A row of more steps, or of another SFT, is no control. Of two controls the first has the targets of the aligned row."""

    def aligned(base: dict[str, object], steps: int, feedback: str) -> dict[str, object]:
        return base | {"align.optimization.max_steps": steps, "align.objective.feedback": feedback}

    rows = [run("sft", 10, SFT), run("dpo", 30, aligned(DPO, 200, "liked"))]
    longer, other = aligned(CONTROL, 400, "liked"), aligned(CONTROL, 200, "liked") | {"sft.optimization.max_steps": 9}
    found = summary(compare([*rows, run("longer", 35, longer), run("other", 40, other)], resamples=10))
    assert found.reading[1].endswith(NO_CONTROL)
    assert found.commands[0].startswith("genrec curves")
    rows += [run("all", 20, aligned(CONTROL, 200, "all")), run("liked", 25, aligned(CONTROL, 200, "liked")), run("longer", 35, longer)]
    found = summary(compare(rows, resamples=10))
    assert "liked is the control" in found.reading[1]
    assert found.commands[0] == "genrec compare dpo all liked --reference liked"
    as_reference = summary(compare(rows, reference="all", resamples=10))
    difference = "align.objective.feedback (all instead of liked)"
    assert f"all is no fair control of dpo, because it differs in {difference}. Compare it with liked." in as_reference.reading[1]
    assert as_reference.commands[0] == found.commands[0]
    own = summary(compare(rows, reference="liked", resamples=10))
    assert own.commands[0] == "genrec compare sft dpo all liked longer --reference sft"


def test_each_control_is_compared_with_the_rows_of_its_length_and_learning_rate() -> None:
    def aligned(base: dict[str, object], steps: int, rate: float) -> dict[str, object]:
        return base | {"align.optimization.max_steps": steps, "align.optimization.learning_rate": rate}

    short, long, fast = (200, 3e-4), (600, 3e-4), (200, 1e-3)
    rows = [run("sft", 10, SFT), run("short", 20, aligned(CONTROL, *short)), run("long", 21, aligned(CONTROL, *long))]
    rows += [run("fast", 22, aligned(CONTROL, *fast)), run("dpo", 30, aligned(DPO, *short)), run("dpo long", 31, aligned(DPO, *long))]
    rows += [run("dpo fast", 32, aligned(DPO, *fast)), run("kto", 33, aligned(DPO, *short))]
    assert summary(compare(rows, reference="sft", resamples=10)).commands[:3] == [
        "genrec compare short fast dpo kto --reference short",
        "genrec compare short fast 'dpo fast' --reference fast",
        "genrec compare long 'dpo long' --reference long",
    ]


def test_the_steps_of_a_chain_are_added() -> None:
    """200 and 100 steps of a chain have a control of 300 steps."""
    second = {f"align-2.{key.removeprefix('align.')}": value for key, value in DPO.items() if key.startswith("align.")}
    chain = DPO | second | {"align.optimization.max_steps": 200, "align-2.optimization.max_steps": 100}
    rows = [run("chain", 30, chain), run("more", 20, CONTROL | {"align.optimization.max_steps": 300})]
    assert "more is the control" in summary(compare(rows, resamples=10, reference="more")).reading[1]


def with_settings(base: dict[str, object], **settings: object) -> dict[str, object]:
    """Return the configuration of an alignment of 20 steps with these settings."""
    paths = {
        "rate": "align.optimization.learning_rate",
        "batch": "align.optimization.batch_size",
        "targets": "align.objective.targets",
    }
    return base | {"align.optimization.max_steps": 20} | {paths[name]: value for name, value in settings.items()}


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"rate": 1e-2, "batch": 8, "targets": "one"}, "align.optimization.learning_rate (0.01 instead of 0.001)"),
        ({"rate": 1e-3, "batch": 64, "targets": "one"}, "align.optimization.batch_size (64 instead of 8)"),
        ({"rate": 1e-3, "batch": 8, "targets": "all"}, "align.objective.targets (all instead of one)"),
    ],
)
def test_a_control_with_other_settings_is_not_called_fair(other: dict[str, object], difference: str) -> None:
    """The sentence names the setting, and the fair control if the table has one."""
    aligned = run("dpo", 30, with_settings(DPO, rate=1e-3, batch=8, targets="one"))
    unfair = run("more", 20, with_settings(CONTROL, **other))
    alone = summary(compare([unfair, aligned], resamples=10)).reading[1]
    assert f"more is no fair control of dpo, because it differs in {difference}. Add a row with the objective Supervised" in alone
    assert "is the control" not in alone
    fair = run("fair", 21, with_settings(CONTROL, rate=1e-3, batch=8, targets="one"))
    both = summary(compare([unfair, aligned, fair], reference="more", resamples=10)).reading[1]
    assert f"more is no fair control of dpo, because it differs in {difference}. Compare it with fair." in both
    assert "fair is the control, trained further" in summary(compare([fair, aligned, unfair], resamples=10)).reading[1]


def test_a_control_is_fair_to_some_rows_alone() -> None:
    """Of two rows one has another number of steps, and a third another SFT."""
    rows = [run("more", 20, with_settings(CONTROL, rate=1e-3)), run("dpo", 30, with_settings(DPO, rate=1e-3))]
    rows += [run("longer", 31, with_settings(DPO, rate=1e-3) | {"align.optimization.max_steps": 40})]
    rows += [run("another", 32, with_settings(DPO, rate=1e-3) | {"sft.optimization.max_steps": 9})]
    text = summary(compare(rows, resamples=10)).reading[1]
    assert "more is the control of dpo, trained further without preferences" in text
    assert "more is no fair control of longer, because it differs in align.optimization.max_steps (20 instead of 40)." in text
    assert "more is no fair control of another, because it differs in SFT. Add a row" in text


SUPERVISED = with_settings(SFT, targets="all") | {"align.objective.class": "genrec.objectives.supervised:Supervised"}
PLAIN = with_settings(DPO, targets="all")
LIKED = PLAIN | {"align.objective.feedback": "liked"}
SMOOTHED = SUPERVISED | {"align.objective.label_smoothing": 0.1}
OPTIMIZED: dict[str, object] = {"align.optimization.class": "genrec.training.recipes:Optimization"}
DECAYED: dict[str, object] = {"align.optimization.accumulate": 2, "align.optimization.decay_steps": 40}
LABELS: dict[str, object] = {"split.class": "genrec.data.splits:LeaveOneOut", "split.liked": 4, "split.disliked": 2}
PAIRS: dict[str, object] = {"align.objective.candidates.class": "genrec.preference.candidates.pair_file:Pairs"}


@pytest.mark.parametrize(
    ("control", "row", "difference"),
    [
        (SUPERVISED | LABELS, LIKED | LABELS, "align.objective.feedback (all instead of liked)"),
        (SUPERVISED | LABELS, PLAIN | LABELS, "align.objective.feedback (all instead of not disliked)"),
        (SUPERVISED | LABELS | {"align.objective.feedback": "liked"}, LIKED | LABELS, ""),
        (SUPERVISED, PLAIN, ""),  # without labels "all" and "not disliked" are the same events
        (SUPERVISED | LABELS, PLAIN | LABELS | PAIRS, ""),  # the file has the targets
        (SMOOTHED, PLAIN, "align.objective.label_smoothing (0.1 instead of 0.0)"),
        (SUPERVISED | OPTIMIZED, PLAIN | OPTIMIZED | DECAYED, "align.optimization.decay_steps (None instead of 40)"),
    ],
)
def test_a_setting_that_is_not_recorded_has_its_default(control: dict[str, object], row: dict[str, object], difference: str) -> None:
    """Run files leave out new fields with their default. The class of an objective gives it, also in run files of earlier versions."""
    text = summary(compare([run("more", 20, control), run("dpo", 30, row)], resamples=10)).reading[1]
    assert ("more is the control, trained further" in text) == (difference == "")
    assert difference == "" or f"more is no fair control of dpo, because it differs in {difference}." in text
