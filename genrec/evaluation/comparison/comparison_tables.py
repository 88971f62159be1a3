"""The tables of a `Comparison` as plain text: results, Semantic IDs, cold start, tests, differing settings.

Names and values come from experiment files. The output functions escape them (`genrec.evaluation.comparison.comparison_report`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from genrec.evaluation.compare import ABSENT, Comparison, Row
from genrec.evaluation.comparison import held_out_negatives, held_out_preferred
from genrec.evaluation.comparison.comparison_metric_tables import metric_tables
from genrec.evaluation.comparison.comparison_tests_table import tests_tables
from genrec.evaluation.comparison.missing_negatives import missing_negatives_notes
from genrec.evaluation.comparison.preference_shares import preference_share_notes
from genrec.evaluation.comparison.reward_model_notes import reward_model_notes
from genrec.evaluation.comparison.table_cells import (
    PREFERRED,
    Table,
    difference_cell,
    interval_cell,
    metric_cell,
    metric_name,
    p_cell,
    ranked_keys,
    title,
)
from genrec.evaluation.statistics.paired_tests import enumerated, seeds_in_words

MAX_COLUMNS = 8  # rows of results that are shown as columns of the configuration table; more are shown as lines
HIDDEN = ("version", "source", "fingerprint")  # fields of a component that are shown only if nothing else differs
FINGERPRINT_DIGITS = 8  # of a file's hash that are shown, all of them if these are the same
EXCLUDED = "excluded_targets"  # users whose target is not ranked, because they had taken it
SEEDS_WIDTH = 8  # characters in a line of seeds in the narrow table of results
STEP_ZERO = {"sft": "SFT kept step 0, the untrained policy,", "align": "Alignment kept step 0, the SFT policy,"}


def tables(comparison: Comparison) -> list[Table]:
    """Return the tables in the order of the report."""
    found = [_results(comparison), *metric_tables(comparison), *tests_tables(comparison)]
    if comparison.differences:
        found.append(_differences(comparison))
    return found


def _results(comparison: Comparison) -> Table:
    """Return the table of metrics, with the interval over users of the tested metric.

    Its narrow form also has difference and p of the test, and prefers the tested metric and Recall@10 to the other metrics.
    """
    shown, columns = _shown(comparison), ["Row", "Seeds"]
    columns += map(title, shown)
    interval = f"{title(comparison.metric)}, 95 % interval over users"
    rows = [
        [row.name, ", ".join(map(str, row.seeds)), *(metric_cell(row, key, comparison.metric) for key in shown)]
        for row in comparison.rows
    ]
    if comparison.per_user:
        columns.append(interval)
        for row, cells in zip(comparison.rows, rows, strict=True):
            cells.append(interval_cell(row.interval, ".4f"))
    tested, recall, tests = title(comparison.metric), title("recall@10"), ["Difference", "p (Holm)"]
    narrow = Table("Results", columns, [[name, textwrap.fill(seeds, SEEDS_WIDTH), *cells] for name, seeds, *cells in rows], [])
    if len(comparison.rows) > 1:
        more = [line + _test_cells(row) for line, row in zip(narrow.rows, comparison.rows, strict=True)]
        narrow = narrow._replace(columns=[*columns, *tests], rows=more)
    first = tuple(dict.fromkeys(name for name in [tested, interval, *tests, recall, "Seeds"] if name in narrow.columns))
    notes, warnings = _notes(comparison)
    narrow = narrow._replace(notes=notes, first=first)
    return Table("Results", columns, rows, notes, first, narrow, warnings=tuple(warnings))


def _test_cells(row: Row) -> list[str]:
    return ["reference", ABSENT] if row.test is None else [difference_cell(row.test), p_cell(row.test.p_holm, ABSENT)]


def _notes(comparison: Comparison) -> tuple[list[str], list[str]]:
    """Return all notes, and those of them that are warnings: a share or number of users that is 0 is none."""
    rows, warnings = comparison.rows, [*_misses(comparison), *_untrained(comparison.rows), *missing_negatives_notes(comparison.rows)]
    shares = (
        (held_out_negatives.held_out_notes(rows), (held_out_negatives.TOTAL, held_out_negatives.UNKNOWN)),
        (held_out_preferred.held_out_preferred_notes(rows), (held_out_preferred.TOTAL, held_out_preferred.UNKNOWN)),
        (_excluded_targets(comparison), (EXCLUDED,)),
    )
    for notes, metrics in shares:
        warnings += notes if _is_positive(rows, *metrics) else []
    return list(dict.fromkeys([*_about_means(comparison), *warnings, *(note for notes, _ in shares for note in notes)])), warnings


def _is_positive(rows: Sequence[Row], *metrics: str) -> bool:
    """Return whether a row has a positive mean of one of these metrics."""
    return any(row.metrics[name].mean > 0 for row in rows for name in metrics if name in row.metrics)


def _about_means(comparison: Comparison) -> list[str]:
    """Return what the figures are means of, which settings were selected by tuning, and the shares of rows with a preference."""
    means = "Metrics are means over all users and seeds."
    if comparison.per_user:
        means += (
            f" The 95 % interval is a bootstrap interval over users alone with {comparison.resamples} resamples. "
            "Rows are compared in the table of tests."
        )
    tuned = [f"{row.name}: settings selected by genrec tune {tuning}." for row in comparison.rows for tuning in row.tunings]
    return [means, *tuned, *preference_share_notes(comparison.rows), *reward_model_notes(comparison.rows)]


def _misses(comparison: Comparison) -> list[str]:
    """Return that an interval is undefined, and the slots of lists that count as misses."""
    warnings = []
    if comparison.per_user and any(row.interval is None for row in comparison.rows):
        warnings.append("The interval is undefined: one user.")
    for row in comparison.rows:
        invalid = row.metrics["invalid"].mean if "invalid" in row.metrics else 0.0
        if invalid > 0:
            were = "slot of its lists was" if invalid == 1 else "slots of its lists were"
            count = "It counts as a miss." if invalid == 1 else "They count as misses."
            warnings.append(f"{row.name}: {invalid:g} {were} empty or repeated an item. {count}")
    return warnings


def _untrained(rows: Sequence[Row]) -> list[str]:
    """Return which rows hold the policy from before a training at some seeds, because no step was better on validation."""
    kept: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for row in rows:
        for stage, seeds in row.kept_first.items():
            kept.setdefault((stage, seeds), []).append(row.name)
    return [f"{_step_zero(stage)} in {seeds_in_words(seeds)} of {enumerated(names)}." for (stage, seeds), names in kept.items()]


def _step_zero(stage: str) -> str:
    """Return what step 0 of a stage is, in words."""
    return STEP_ZERO.get(stage, f"The stage {stage} kept step 0, the policy of the stage before,")


def _excluded_targets(comparison: Comparison) -> list[str]:
    """Return how many users had taken their target before, which `filter_seen` turns into a miss; a line per number."""
    rows: dict[float, list[str]] = {}
    for row in comparison.rows:
        if EXCLUDED in row.metrics:
            rows.setdefault(row.metrics[EXCLUDED].mean, []).append(row.name)
    if not any(rows) and not comparison.protocol.get("filter_seen"):
        return []
    everywhere = len(rows) == 1 and len(next(iter(rows.values()))) == len(comparison.rows)
    counts = [f"{count:g} of {comparison.users}{'' if everywhere else f' ({enumerated(names)})'}" for count, names in rows.items()]
    return [f"Users who had already taken their target, a miss with filter_seen: {'; '.join(counts)}."] if counts else []


def _differences(comparison: Comparison) -> Table:
    """Return the table of differing settings: a line per setting and a column per row, or transposed if there are many rows."""
    names, name = [row.name for row in comparison.rows], "Configuration differences"
    keys = [key.removesuffix(".class") for key in comparison.differences]
    lines = [_line_of(key, [values[row] for row in names], comparison.rows) for key, values in comparison.differences.items()]
    listing = tuple(_listed(key, names, line) for key, line in zip(keys, lines, strict=True))
    if len(names) > max(len(keys), MAX_COLUMNS):
        rows = [[row, *column] for row, *column in zip(names, *lines, strict=True)]
        return Table(name, ["Row", *keys], rows, [], listing=listing)
    return Table(name, ["Setting", *names], [[key, *line] for key, line in zip(keys, lines, strict=True)], [], listing=listing)


def _listed(key: str, names: list[str], values: list[str]) -> str:
    """Return a setting as a line: 'align.num_negatives: 1 (shop-dpo); 3 (shop-sdpo, shop-beams)'. Rows without it are left out."""
    having = {value: [name for name, other in zip(names, values, strict=True) if other == value] for value in values}
    return f"{key}: " + "; ".join(f"{value} ({', '.join(rows)})" for value, rows in having.items() if value != ABSENT)


def _shown(comparison: Comparison) -> list[str]:
    """Return the metrics to show: all recalls, the preferred cut-offs of the others, and the tested metric."""
    known = list(dict.fromkeys(key for row in comparison.rows for key in row.metrics))
    shown = [key for key in ranked_keys(comparison.rows) if key.startswith("recall@")]
    for stem, cutoffs in PREFERRED.items():
        available = [
            key for key in known if metric_name(key).stem == stem and key.startswith(f"{stem}@") and not metric_name(key).group
        ]
        shown += [f"{stem}@{n}" for n in cutoffs if f"{stem}@{n}" in available] or available[-1:]
    return shown if comparison.metric in shown else [*shown, comparison.metric]


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _line_of(key: str, values: list[object], rows: Sequence[Row]) -> list[str]:
    """Return the values of a key as text, with different text for different values. A class path 'module:Name' becomes 'Name'."""
    if key.endswith(".class"):
        return [_value(value).rpartition(":")[2] for value in values]
    if key.endswith(".fingerprint"):
        return _files(key, [str(value) for value in values], rows)
    texts = [_text(value) for value in values]
    distinct = len(set(texts)) == len(set(map(repr, values)))
    return texts if distinct else [_text(value, hidden=()) for value in values]


def _files(key: str, fingerprints: list[str], rows: Sequence[Row]) -> list[str]:
    """Return fingerprints of files as 'pairs.csv (0123abcd)', with the names of the files that the part of the experiment read."""
    digits = FINGERPRINT_DIGITS if len({text[:FINGERPRINT_DIGITS] for text in fingerprints}) == len(set(fingerprints)) else None
    names = [", ".join(row.file_names.get(key.partition(".")[0], ())) for row in rows]
    return [
        text if text == ABSENT else f"{files} ({text[:digits]})" if files else text[:digits]
        for files, text in zip(names, fingerprints, strict=True)
    ]


def _text(value: object, hidden: tuple[str, ...] = HIDDEN) -> str:
    """Return a value as text, with components as calls: `OddOnly(flip=0), NearDuplicates(num_codes=1)`."""
    if isinstance(value, dict) and "class" in value:
        known = {name: entry for name, entry in value.items() if name != "class" and name not in hidden and entry is not None}
        fields = [f"{name}={_field(entry, hidden)}" for name, entry in known.items()]
        return f"{str(value['class']).rpartition(':')[2]}({', '.join(fields)})"
    if isinstance(value, list | tuple):
        return ", ".join(_text(entry, hidden) for entry in value) or "()"
    return str(value)


def _field(value: object, hidden: tuple[str, ...]) -> str:
    """Return a value as an argument of a call, with lists in brackets."""
    return f"[{_text(value, hidden)}]" if isinstance(value, list | tuple) and value else _text(value, hidden)
