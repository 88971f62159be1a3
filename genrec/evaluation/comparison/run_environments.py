"""Where the runs of a `Comparison` were trained: what all have in common, and which row and seed differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from genrec.evaluation.compare import Comparison, Row
from genrec.evaluation.comparison.table_cells import LabeledLine
from genrec.evaluation.statistics.paired_tests import enumerated, seeds_in_words

NOT_RECORDED = "not recorded"
BIT_EQUAL = (
    "A rerun is bit-equal only on a CPU of the same kind with the same number of threads, library versions and precision. Otherwise "
    "sums of floating-point numbers have another order, which acts like another seed."
)


class _Recorded(NamedTuple):
    """The environment of one run."""

    row: Row
    seed: int
    values: Mapping[str, str]


def environment_lines(comparison: Comparison) -> list[LabeledLine]:
    """Return where the runs were trained: no line if no run records it.

    A value that all runs share is named once. For other values the lines name the rows and seeds, in the order of the rows; the most
    frequent value has all other runs. A row that mixes precisions gets a line of its own.
    """
    runs = [_Recorded(row, seed, values) for row in comparison.rows for seed, values in row.environments.items()]
    if not any(run.values for run in runs):
        return []
    common, differing = [], []
    for key in dict.fromkeys(key for run in runs for key in run.values):
        holders = _holders(key, runs)
        if len(holders) == 1:
            common.append(f"{key} {next(iter(holders))}")
        else:
            differing.append(f"{key} {_named(holders)}")
    lines = [LabeledLine("Trained on", "; ".join(common))] if common else []
    if differing:
        lines.append(LabeledLine("Not the same for all runs", f"{'; '.join(differing)}. {BIT_EQUAL}"))
    return lines + [line for row in comparison.rows for line in _mixed_precision(row)]


def _holders(key: str, runs: list[_Recorded]) -> dict[str, list[_Recorded]]:
    """Return the runs of each value. A baseline may lack a key, because it is not trained."""
    holders: dict[str, list[_Recorded]] = {}
    for run in runs:
        if key in run.values or run.row.trained or not run.values:
            holders.setdefault(run.values.get(key, NOT_RECORDED), []).append(run)
    return holders


def _named(holders: Mapping[str, list[_Recorded]]) -> str:
    """Return values with their runs: '1 (row shop-dpo seed 1), 2 (all others)'."""
    most = max(holders, key=lambda value: len(holders[value]))
    parts = [f"{value} ({', '.join(_runs(found))})" for value, found in holders.items() if value != most]
    return ", ".join([*parts, f"{most} (all others)"])


def _runs(found: list[_Recorded]) -> list[str]:
    """Return the runs as rows with their seeds; without seeds if they are all seeds of the row."""
    seeds: dict[str, list[int]] = {}
    for run in found:
        seeds.setdefault(run.row.name, []).append(run.seed)
    whole = {run.row.name for run in found if set(seeds[run.row.name]) == set(run.row.seeds)}
    return [f"row {name}" if name in whole else f"row {name} {seeds_in_words(numbers)}" for name, numbers in seeds.items()]


def _mixed_precision(row: Row) -> list[LabeledLine]:
    """Return a warning if the seeds of a row were trained with different precisions."""
    seeds: dict[str, list[int]] = {}
    for seed, values in row.environments.items():
        if "precision" in values:
            seeds.setdefault(values["precision"], []).append(seed)
    if len(seeds) < 2:
        return []
    parts = [f"{precision} ({seeds_in_words(found)})" for precision, found in seeds.items()]
    text = f"{row.name} mixes {enumerated(parts)}. Train all its seeds with one precision before drawing a conclusion."
    return [LabeledLine("Precision", text)]
