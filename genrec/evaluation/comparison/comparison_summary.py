"""What a `Comparison` means in words, and the commands that come next."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from genrec.command_lines import command_line
from genrec.errors import counted
from genrec.evaluation.compare import Comparison, Row
from genrec.evaluation.comparison.comparison_controls import (
    base_settings,
    controls_of,
    has_base_and_steps_of,
    loss_name,
    others_with_preferences,
    own_control,
    reading_of_controls,
    rows_with_preferences,
)
from genrec.evaluation.comparison.comparison_tests_table import seeds_differ
from genrec.evaluation.comparison.table_cells import p_cell, title
from genrec.evaluation.statistics.paired_tests import (
    DEFAULT_SEEDS,
    LEAST_SEEDS,
    PairedTest,
    enumerated,
    seeds_in_words,
)

LEVEL = 0.05  # a corrected p below it is a difference beyond chance
WIDE = 0.5  # share of the reference's value; methods rarely differ by so much, so an interval that reaches it excludes little
MAX_NAMED = 6  # rows with a preference loss whose names are in the sentence on them; of more their number
WORDS = {3: "three", 5: "five"}


class Summary(NamedTuple):
    """A table in words."""

    reading: list[str]  # paragraphs
    commands: list[str]  # what to run next
    trained: bool  # whether any row has training curves


def summary(comparison: Comparison, with_inputs: Collection[str] = (), with_seeds: str = "") -> Summary:
    """Return which row is best on the tested metric, whether it differs from the reference beyond chance, and what to run next.

    A difference that is not significant is described as such, also if it is large. The sentence on preferences is there if the table
    has rows with a preference loss. `with_inputs` are the rows that read more of a history than its items
    (`genrec.types.InputSpecification`): they recommend to users of the data alone. `with_seeds` is the command that runs the rows
    with enough seeds for a claim; it comes first if there are fewer.
    """
    trained = [row.name for row in comparison.rows if row.trained]
    seeds = [with_seeds] if with_seeds and _few_seeds(comparison) else []
    return Summary(_reading(comparison), seeds + _commands(comparison, with_inputs), bool(trained))


def _reading(comparison: Comparison) -> list[str]:
    """Return a paragraph on the best row and the number of seeds, and one on the rows with preferences."""
    metric = title(comparison.metric)
    if len(comparison.rows) == 1:
        row = comparison.rows[0]
        return [f"{row.name} has {metric} {row.value:.4f}. Compare it with another row, at best with a baseline."]
    best = max(comparison.rows, key=lambda row: (row.value, row.name == comparison.reference))
    if all(row.value == 0 for row in comparison.rows):
        about = f"All {len(comparison.rows)} rows have {metric} {best.value:.4f}: no row is the best."
        return [f"{about} Train longer, or test more users."]
    about = f"Of {len(comparison.rows)} rows {best.name} has the highest {metric} ({best.value:.4f})"
    if best.test is not None:
        compared, first = best.test, f"{about}; {_verdict('it', best.test, best, comparison)}."
    else:
        others = [row for row in comparison.rows if row is not best]
        second = max(others, key=lambda row: row.value)
        assert second.test is not None  # only the reference has no test
        compared = second.test
        first = f"{about} and is the reference; the next row, {second.name}, {_verdict('', second.test, second, comparison)}."
    about_test = [_wide_interval(compared, comparison), seeds_differ(comparison), _few_seeds(comparison)]
    return [" ".join(filter(None, [first, *about_test])), *_on_preferences(comparison)]


def _wide_interval(test: PairedTest, comparison: Comparison) -> str:
    """Return that a test without a finding says little if its interval reaches `WIDE` of the reference's value; else empty."""
    reference = next(row.value for row in comparison.rows if row.name == comparison.reference)
    if test.interval is None or test.p_holm is None or test.p_holm < LEVEL or reference <= 0:
        return ""
    reach = max(map(abs, test.interval)) / reference
    if reach < WIDE:
        return ""
    room = f"Differences of up to {100 * reach:.0f} % of the reference fit the interval"
    return f"{room}, so this says little; more seeds or test users narrow it."


def _few_seeds(comparison: Comparison) -> str:
    """Return what is missing for a claim about methods if trained rows are compared over fewer than three seeds; else empty."""
    reference = next(row for row in comparison.rows if row.name == comparison.reference)
    compared = [
        row.test.seeds for row in comparison.rows if row.test is not None and (row.trained or reference.trained) and row.test.seeds
    ]
    fewest = min(map(len, compared), default=LEAST_SEEDS)
    if fewest >= LEAST_SEEDS:
        return ""
    least, better = WORDS[LEAST_SEEDS], WORDS[DEFAULT_SEEDS]
    return f"Rows are compared over {counted(fewest, 'seed')}; a claim about methods needs at least {least}, better {better}."


def _verdict(subject: str, test: PairedTest, row: Row, comparison: Comparison) -> str:
    """Return whether a row differs from the reference, with the figures: 'it is above the reference sft beyond chance ... (...)'."""
    reference = next(other for other in comparison.rows if other.name == comparison.reference)
    name = "it" if not subject else f"the reference {reference.name}"
    if test.difference is None:
        return f"{subject} has no test against {name}: {test.reason}".strip()
    where = ""
    if row.trained and reference.trained and row.seeds != reference.seeds:
        where = f"at {seeds_in_words(test.seeds)}, which both have, "
    if test.p is None or test.p_holm is None or test.interval is None:
        why = f": {test.reason}" if len(test.seeds) != 1 else ""  # `_few_seeds` follows
        return f"{where}{subject} differs from {name} by {test.difference:+.5f}, without a test{why}".strip()
    side = "above" if test.difference > 0 else "below"
    over = _over(comparison, row.trained or reference.trained)
    how = f"is {side} {name} beyond chance over {over}" if test.p_holm < LEVEL else f"is not distinguishable from {name} over {over}"
    low, high = test.interval
    figures = f"difference {test.difference:+.5f}, 95 % interval {low:+.5f} to {high:+.5f}, p (Holm) {p_cell(test.p_holm)}"
    return f"{where}{f'{subject} ' if subject else ''}{how} ({figures})"


def _over(comparison: Comparison, trained: bool) -> str:
    """Return what a test is over: users and seeds, seeds for a figure of all lists, users for two baselines."""
    if not comparison.per_user:
        return "seeds"
    return "users and seeds" if trained else "users"


def _on_preferences(comparison: Comparison) -> list[str]:
    """Return a paragraph on the rows with a preference loss: which are above the reference, which have no test, the control."""
    aligned = others_with_preferences(comparison)
    tested = [row for row in aligned if row.test is not None and row.test.p_holm is not None]
    untested = [row.name for row in aligned if row not in tested]
    sentences = []
    if tested:
        above = [row.name for row in tested if _is_above(row)]
        where = f"above {comparison.reference} beyond chance over {_over(comparison, True)}."
        if len(tested) == 1:
            sentences.append(f"{tested[0].name} has a preference loss and is {'' if above else 'not '}{where}")
        elif len(above) == len(tested):
            named = "" if len(tested) > MAX_NAMED else f" ({enumerated(above)})"
            count = f"All {len(tested)} rows" if len(tested) > MAX_NAMED else "The rows"
            sentences.append(f"{count} with a preference loss{named} are {where}")
        elif len(tested) > MAX_NAMED:
            count = "none is" if not above else f"{len(above)} {'are' if len(above) > 1 else 'is'}"
            sentences.append(f"Of the {len(tested)} rows with a preference loss {count} {where}")
        else:
            names = enumerated(row.name for row in tested)
            found = f"{enumerated(above)} {'are' if len(above) > 1 else 'is'}" if above else "none is"
            sentences.append(f"Of the rows with a preference loss ({names}) {found} {where}")
    if untested:
        have = "have" if len(untested) > 1 else "has"
        sentences.append(f"{enumerated(untested)} {have} a preference loss, but no test against {comparison.reference}.")
    sentences += reading_of_controls(comparison)
    return [" ".join(sentences)] if sentences else []


def is_significant(row: Row) -> bool:
    """Return whether a row differs from the reference after Holm's correction."""
    return row.test is not None and row.test.p_holm is not None and row.test.p_holm < LEVEL


def _is_above(row: Row) -> bool:
    return is_significant(row) and row.test is not None and row.test.difference is not None and row.test.difference > 0


def _commands(comparison: Comparison, with_inputs: Collection[str]) -> list[str]:
    """Return commands: a comparison with each control or with another reference, the training curves, one row in full, and its use."""
    best = max(comparison.rows, key=lambda row: row.value)
    aligned, trained = ([row.name for row in comparison.rows if has(row)] for has in (loss_name, lambda row: row.trained))
    commands = _endpoints_elsewhere(comparison)
    if len(comparison.rows) == 1:
        commands.append(command_line("compare", best.name) + " NAME_OF_ANOTHER_ROW")
    elif with_controls := _compared_with_controls(comparison):
        commands += [command_line("compare", *names, "--reference", control) for control, names in with_controls.items()]
    elif (other := _other_reference(comparison)) is not None:
        commands.append(command_line("compare", *(row.name for row in comparison.rows), "--reference", other))
    if trained:
        commands.append(command_line("curves", *(aligned or trained)))
    commands.append(command_line("show", best.name))
    if best.name in with_inputs:  # an export and a search of items are for histories of items alone
        commands.append(command_line("recommend", best.name, "--user", "ID"))
    elif best.trained:
        commands += [command_line("recommend", best.name, "--search", "TEXT"), command_line("export", best.name, "FOLDER")]
    return [*commands, command_line("keep", *(row.name for row in comparison.rows), "--to", "FOLDER")]


def _endpoints_elsewhere(comparison: Comparison) -> list[str]:
    """Return the comparisons that test the endpoints with another reference or metric than the table's."""
    named = [each.endpoint for each in comparison.endpoints if not each.is_here]
    return [
        command_line("compare", each.row, each.reference, "--reference", each.reference, "--metric", each.metric)
        for each in dict.fromkeys(named)
    ]


def _compared_with_controls(comparison: Comparison) -> dict[str, list[str]]:
    """Return the names of the aligned rows to compare with each control that is not the reference.

    A row with a preference loss belongs to one control: of its base and steps, and with the fewest other differences. The other
    controls with these steps are compared too. A control needs a seed in common with one of its rows.
    """
    controls = controls_of(comparison)
    found: dict[str, list[str]] = {}
    own = {row.name: own_control(row, controls) for row in rows_with_preferences(comparison)}
    for control in controls:
        rows = [row for row in comparison.rows if own.get(row.name) is control]
        if control.name == comparison.reference or not any(set(row.seeds) & set(control.seeds) for row in rows):
            continue
        alike = [row for row in controls if has_base_and_steps_of(row, control)]
        found[control.name] = [row.name for row in comparison.rows if row in rows or row in alike]
    return found


def _other_reference(comparison: Comparison) -> str | None:
    """Return the SFT of an aligned row, or without aligned rows the best row, if it has a test against the reference; else None.

    A row without a test against the reference would have none as the reference either.
    """
    tested = [row for row in comparison.rows if row.test is not None and row.test.difference is not None]
    preferring = rows_with_preferences(comparison)
    if preferring:
        bases = [base_settings(row) for row in preferring]
        return next((row.name for row in tested if row.trained and not loss_name(row) and base_settings(row) in bases), None)
    other = max(tested, key=lambda row: row.value, default=None)
    return None if other is None else other.name
