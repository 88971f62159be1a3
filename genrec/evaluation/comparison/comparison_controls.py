"""The controls of a `Comparison`: which row shows what further training alone gives, and of which rows with preferences."""

from __future__ import annotations

import re
from collections.abc import Sequence

from genrec.evaluation.compare import Comparison, Row
from genrec.evaluation.comparison.configuration_differences import unrecorded_defaults
from genrec.evaluation.statistics.paired_tests import CONTROL, enumerated, loss_of

STAGE = re.compile(r"align(-\d+)?\.")
STEPS = "align.optimization.max_steps"
FEEDBACK, SMOOTHING = "align.objective.feedback", "align.objective.label_smoothing"
# Settings of an alignment that a control shares with its row; of the objective only the choice of targets and the likelihood.
# In how many parts and processes a step is computed does not change it.
SHARED = re.compile(
    r"align\.(optimization\.(?!class|max_steps|accumulate|processes).*|dropout|normalize|keep|objective\.(targets|feedback|label_smoothing))"
)
NO_CONTROL = (
    "A control is missing: a row on the same SFT with the same steps and the objective Supervised. Without it a gain over SFT may "
    "come from more training."
)


def loss_name(row: Row) -> str:
    """Return the class name of a row's alignment loss; empty if the row is not aligned."""
    return loss_of(row.configuration)


def rows_with_preferences(comparison: Comparison) -> list[Row]:
    """Return the rows with a preference loss."""
    return [row for row in comparison.rows if loss_name(row) not in ("", CONTROL)]


def others_with_preferences(comparison: Comparison) -> list[Row]:
    """Return the rows with a preference loss, without the reference."""
    return [row for row in rows_with_preferences(comparison) if row.name != comparison.reference]


def controls_of(comparison: Comparison) -> list[Row]:
    """Return the controls: rows trained without preferences on the base, and for the steps, of a row with a preference loss.

    The first is the control of the most such rows, if possible with the same targets and settings of training.
    """
    preferring = rows_with_preferences(comparison)

    def fitting(row: Row) -> tuple[int, int]:
        fit = [other for other in preferring if has_base_and_steps_of(row, other)]
        return sum(not differences(row, other) for other in fit), len(fit)

    having = [row for row in comparison.rows if loss_name(row) == CONTROL and fitting(row)[1]]
    return sorted(having, key=fitting, reverse=True)


def own_control(row: Row, controls: Sequence[Row]) -> Row | None:
    """Return the control that differs least from a row with a preference loss, the first of equals; None without a control."""
    fitting = [control for control in controls if has_base_and_steps_of(control, row)]
    return min(fitting, key=lambda control: len(differences(control, row)), default=None)


def base_settings(row: Row) -> dict[str, object]:
    """Return the settings of a row before its alignment, without those of evaluation and the versions of stages."""
    return {key: value for key, value in row.configuration.items() if not key.startswith(("align", "evaluate.", "stages."))}


def has_base_and_steps_of(control: Row, row: Row) -> bool:
    """Return whether two rows have the same settings before alignment and as many steps in all their alignments together."""
    return base_settings(control) == base_settings(row) and _steps(control) == _steps(row)


def differences(control: Row, row: Row) -> list[str]:
    """Return what makes a control unfair to a row, as in 'align.dropout (False instead of True)'; empty if nothing.

    Compared are SFT, the number of steps, and the settings of alignment that both have, such as the batch size and the targets. A
    setting that is not recorded has the default of its class, and a likelihood without label smoothing has 0. Of a chain of
    alignments all values of a setting are compared together.
    """
    found = [] if base_settings(control) == base_settings(row) else ["SFT"]
    pairs: dict[str, tuple[list[object], list[object]]] = {STEPS: ([_steps(control)], [_steps(row)])}
    mine, theirs = _shared_settings(control), _shared_settings(row)
    theirs.setdefault(SMOOTHING, [0.0])
    pairs |= {key: (mine[key], theirs[key]) for key in mine if key in theirs}
    texts = {key: tuple(enumerated(values) for values in pair) for key, pair in pairs.items()}
    return found + [f"{key} ({ours} instead of {other})" for key, (ours, other) in texts.items() if ours != other]


def reading_of_controls(comparison: Comparison) -> list[str]:
    """Return a paragraph on the control of the rows with a preference loss; empty if no row but the reference has one."""
    controls, aligned = controls_of(comparison), others_with_preferences(comparison)
    control = next((row for row in controls if row.name == comparison.reference), controls[0] if controls else None)
    return [control_in_words(control, aligned, controls)] if aligned else []


def control_in_words(control: Row | None, aligned: Sequence[Row], controls: Sequence[Row]) -> str:
    """Return what a control says about rows with a preference loss, and from which of them it differs in more than the objective."""
    if control is None:
        return NO_CONTROL
    by_difference: dict[str, list[Row]] = {}
    for row in aligned:
        found = differences(control, row)
        by_difference.setdefault(enumerated(found) if found else "", []).append(row)
    sentences = []
    if "" in by_difference:
        fair = by_difference.pop("")
        of = f" of {enumerated(row.name for row in fair)}" if by_difference else ""
        sentences.append(
            f"{control.name} is the control{of}, trained further without preferences: a gain that it shares comes from more training."
        )
    for difference, rows in by_difference.items():
        names = enumerated(row.name for row in rows)
        sentences.append(f"{control.name} is no fair control of {names}, because it differs in {difference}. {_other(rows, controls)}")
    return " ".join(sentences)


def _other(rows: Sequence[Row], controls: Sequence[Row]) -> str:
    """Return which other row is the fair control of these rows, or that there is none."""
    fair = [each for each in controls if not any(differences(each, row) for row in rows)]
    if fair:
        return f"Compare {'them' if len(rows) > 1 else 'it'} with {fair[0].name}."
    return f"Add a row with the objective Supervised and the other settings of {rows[0].name}."


def _steps(row: Row) -> int:
    """Return the number of steps of all alignments together."""
    steps = [value for key, value in row.configuration.items() if STAGE.sub("align.", key, count=1) == STEPS]
    return sum(value for value in steps if isinstance(value, int))


def _shared_settings(row: Row) -> dict[str, list[object]]:
    """Return the distinct values of the settings that a control shares with its row, over all alignments of a chain."""
    found: dict[str, list[object]] = {}
    for key, value in (unrecorded_defaults(row.configuration) | row.configuration).items():
        name = STAGE.sub("align.", key, count=1)
        if not STAGE.match(key) or not SHARED.fullmatch(name) or (name == FEEDBACK and _reads_pairs(row, key)):
            continue
        if name == FEEDBACK and value == "not disliked" and row.configuration.get("split.disliked") is None:
            value = "all"  # the same targets where no event is labeled as disliked
        if value not in found.setdefault(name, []):
            found[name].append(value)
    return found


def _reads_pairs(row: Row, key: str) -> bool:
    """Return whether the objective with the setting `key` takes its targets from a file of pairs, and not by their labels."""
    objective = key.rpartition(".")[0]
    return str(row.configuration.get(f"{objective}.candidates.class", "")).endswith(":Pairs")
