"""The table of tests against the reference, its diagnostic over users alone, and the notes on variance, families and seeds."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from genrec.evaluation.compare import ABSENT, Comparison, Row
from genrec.evaluation.comparison.table_cells import UNDEFINED, Table, difference_cell, interval_cell, p_cell, title
from genrec.evaluation.statistics.paired_tests import DEFAULT_SEEDS, PairedTest, enumerated, seeds_in_words

SEEDS_WIDTH = 17  # characters in a line of the differences by seed in the narrow table
SIMULATED = "experiments/results/significance.md in the repository of genrec"  # an installed genrec lacks it
DIAGNOSTIC = "Users only (diagnostic)"
# up to so many seeds: the largest share of tests with a false finding, where it is above 7 % (experiments/results/significance.md)
BASELINE_SHARES = ((2, "11 %"), (DEFAULT_SEEDS - 1, "7.4 %"))
TRAINED_SHARES = ((2, "7.7 %"),)


def tests_tables(comparison: Comparison) -> list[Table]:
    """Return the table of tests, a line for each row except the reference, and that of the users-only bootstrap of trained rows."""
    tested = [(row, row.test) for row in comparison.rows if row.test is not None]
    return [_tests(comparison, tested), *_diagnostic(comparison, tested)] if tested else []


def _tests(comparison: Comparison, tested: Sequence[tuple[Row, PairedTest]]) -> Table:
    columns = ["Row", "Difference", "95 % interval", "p", "p (Holm)", "Detectable", "By seed", "Win / tie / loss"]
    first = ["Difference", "p (Holm)", "95 % interval", "By seed", "p"]
    rows = [[row.name, *_cells(test)] for row, test in tested]
    seeds = _other_seeds(comparison)
    if seeds:
        columns.append("Seeds compared")
        first.insert(1, columns[-1])
        rows = [[*cells, ", ".join(map(str, test.seeds)) or "none"] for cells, (_, test) in zip(rows, tested, strict=True)]
    at = columns.index("By seed")
    narrow = [[*cells[:at], textwrap.fill(cells[at], SEEDS_WIDTH), *cells[at + 1 :]] for cells in rows]
    name = f"{title(comparison.metric)} compared with {comparison.reference}"
    warnings = [*_few_seeds(comparison, tested), *_about_rows(comparison, tested), *seeds]
    notes = [*_about_the_test(comparison, tested), *_variance(comparison), *_studies(comparison), *warnings]
    table = Table(name, columns, rows, notes, tuple(first), warnings=tuple(warnings))
    return table._replace(narrow=table._replace(rows=narrow))


def _cells(test: PairedTest) -> list[str]:
    """Return difference, interval, p, corrected p, detectable difference, differences by seed and counts of a test."""
    counts = ABSENT if not test.users else f"{test.wins} / {test.ties} / {test.losses}"
    detectable = ABSENT if test.detectable is None else f"{test.detectable:.5f}"
    by_seed = ", ".join(f"{difference:+.4f}" for difference in test.by_seed) or ABSENT
    figures = [difference_cell(test), interval_cell(test.interval, "+.5f"), p_cell(test.p), p_cell(test.p_holm, ABSENT)]
    return [*figures, detectable, by_seed, counts]


def _about_the_test(comparison: Comparison, tested: Sequence[tuple[Row, PairedTest]]) -> list[str]:
    """Return what the columns mean and which test was made."""
    trained = {row.name: row.trained for row in comparison.rows}
    over = "users and seeds" if comparison.per_user else "seeds"
    parts = ["Differences are row minus reference."]
    if any(test.by_seed for _, test in tested):
        parts = [f"Differences are row minus reference, means over {over}; ± is the standard deviation over seeds of the difference."]
    if any(row.trained or trained[comparison.reference] for row, _ in tested):
        crossed = ", crossed, with Satterthwaite's degrees of freedom" if comparison.per_user else ""
        parts.append(
            f"The test is a two-sided t-test over {over}{crossed}. Detectable is the difference that one test at the 5 % level finds "
            "with probability 0.8."
        )
    if not all(trained.values()):
        parts.append("A baseline has one result for all seeds, unless its results differ between seeds.")
    if comparison.per_user and any(not row.trained and not trained[comparison.reference] for row, _ in tested):
        parts.append(f"Two baselines are tested over users alone, by a paired bootstrap with {comparison.resamples} resamples.")
    return [" ".join(parts + (["Win, tie and loss count users."] if comparison.per_user else []))]


def _variance(comparison: Comparison) -> list[str]:
    """Return the pooled variance over seeds with its rows, and the trained rows that have their own."""
    pool, sentences = comparison.pool, []
    if pool.degrees_of_freedom:
        rows = [row.name for row in comparison.rows if row.name in pool.rows]
        of = "pooled over" if len(rows) > 1 else "of"
        freedom = f"{pool.degrees_of_freedom} {'degree' if pool.degrees_of_freedom == 1 else 'degrees'} of freedom"
        sentences.append(
            f"Standard deviation over seeds of a difference between trained rows: {pool.deviation:.5f} with {freedom}, {of} "
            f"{enumerated(rows)}."
        )
        if len(rows) > 1:
            sentences.append(
                "These degrees of freedom are S - 1 a row, as for independent rows; run effects of the reference, which are in all "
                f"differences, leave fewer ({SIMULATED})."
            )
    sentences += [f"Not pooled, with its own deviation: {row} ({reason})." for row, reason in comparison.unpooled.items()]
    if any(not row.trained for row in comparison.rows) and any(row.trained for row in comparison.rows):
        sentences.append("A trained row against a baseline has its own deviation.")
    return [" ".join(sentences)] if sentences else []


def _few_seeds(comparison: Comparison, tested: Sequence[tuple[Row, PairedTest]]) -> list[str]:
    """Return how often tests over so few seeds find a difference that is not there, if that is above 7 % in simulated tables."""
    trained = next(row.trained for row in comparison.rows if row.name == comparison.reference)
    found = []
    for both, shares, against in ((False, BASELINE_SHARES, "a baseline"), (True, TRAINED_SHARES, "a trained reference")):
        seeds = [len(test.seeds) for row, test in tested if test.p is not None and (row.trained + trained) == 1 + both]
        share = next((share for least, share in shares if min(seeds, default=DEFAULT_SEEDS) <= least), None)
        found += [f"{share} of tests against {against} over {min(seeds)} seeds"] if share and comparison.per_user else []
    if not found:
        return []
    return [
        f"Few seeds: true nulls were rejected at the 5 % level in up to {' and '.join(found)} in simulated tables "
        f"({SIMULATED}). Five seeds keep the level better."
    ]


def _studies(comparison: Comparison) -> list[str]:
    """Return the studies that make a family of Holm's correction larger than the table; the protocol names the families."""
    notes = []
    names = {row.name for row in comparison.rows}
    for family in comparison.families:
        for study in family.studies:
            notes.append(
                f"The study {study.name} has {_counted(len(study.rows), 'trained row')}, {len(study.rows & names)} of them in this "
                f"table. A row may have been picked among them, so p (Holm) of the trained rows counts all {family.size} that were "
                "tried beside the reference. Seeds that were run outside the study are fresh and confirm a row: genrec compare ... "
                "--seeds"
            )
    return notes


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _about_rows(comparison: Comparison, tested: Sequence[tuple[Row, PairedTest]]) -> list[str]:
    """Return why rows have no test, one line per reason, and the users of tests that do not count all."""
    reasons: dict[str, list[str]] = {}
    for row, test in tested:
        if test.reason:
            reasons.setdefault(test.reason, []).append(row.name)
    notes = [f"{enumerated(names)}: no p: {reason}." for reason, names in reasons.items()]
    partial = {row.name: test.users for row, test in tested if comparison.per_user and test.seeds and test.users < comparison.users}
    if partial:
        alike = len(set(partial.values())) == 1 and len(partial) == len(tested)
        counts = str(next(iter(partial.values()))) if alike else ", ".join(f"{count} ({row})" for row, count in partial.items())
        about = f"a value of {comparison.metric} in both rows at all compared seeds"
        notes.append(f"Users with {about}, the users of the test: {counts} of {comparison.users}.")
    return notes


def _diagnostic(comparison: Comparison, tested: Sequence[tuple[Row, PairedTest]]) -> list[Table]:
    """Return the table of the bootstrap over users for pairs with a trained row."""
    found = [(row.name, test, test.users_only) for row, test in tested if test.users_only is not None]
    if not found:
        return []
    columns = ["Row", "Difference", "95 % interval over users", "p over users"]
    rows = [[name, _difference(test), interval_cell(only.interval, "+.5f"), p_cell(only.p)] for name, test, only in found]
    note = (
        f"A paired bootstrap over users with {comparison.resamples} resamples, with the seeds fixed. It says something about these "
        "trained models and nothing about methods: at the 5 % level it rejects true nulls of methods in 5 to 44 % of the simulated "
        f"tests in {SIMULATED}."
    )
    return [Table(DIAGNOSTIC, columns, rows, [note])]


def _difference(test: PairedTest) -> str:
    return UNDEFINED if test.difference is None else f"{test.difference:+.5f}"


def _other_seeds(comparison: Comparison) -> list[str]:
    """Return a warning for each trained row with other seeds than the reference: a lucky seed could pass for an effect.

    Below a baseline as the reference, one warning says that the trained rows have different seeds.
    """
    reference = next(row for row in comparison.rows if row.name == comparison.reference)
    if not reference.trained:
        return list(filter(None, [seeds_differ(comparison)]))
    unequal = [row for row in comparison.rows if row.seeds != reference.seeds and row.trained]
    return [
        f"{row.name} has {seeds_in_words(row.seeds)}, but the reference has {seeds_in_words(reference.seeds)}. "
        + (f"They are compared at {seeds_in_words(row.test.seeds)} only. " if row.test is not None and row.test.seeds else "")
        + "Run both with the same seeds before drawing a conclusion."
        for row in unequal
    ]


def seeds_differ(comparison: Comparison) -> str:
    """Return a warning if the trained rows have different seeds, which also decide which row is best; else empty."""
    names: dict[tuple[int, ...], list[str]] = {}
    for row in comparison.rows:
        if row.trained:
            names.setdefault(row.seeds, []).append(row.name)
    if len(names) < 2:
        return ""
    having = [f"{enumerated(rows)} {'have' if len(rows) > 1 else 'has'} {seeds_in_words(seeds)}" for seeds, rows in names.items()]
    return (
        f"The means of the trained rows are over different seeds: {'; '.join(having)}. "
        "Run all with the same seeds before drawing a conclusion."
    )
