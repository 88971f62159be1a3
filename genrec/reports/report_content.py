"""The content of a report as plain JSON: tables, charts and a sample of users, gathered from a comparison and the stored rows.

Nothing here draws. A part that the rows lack is left out, and a sentence says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from genrec import run_files, studies
from genrec.command_lines import command_line
from genrec.data.corpus import Corpus
from genrec.evaluation.compare import Comparison, Row, Run
from genrec.evaluation.comparison.comparison_protocol import protocol_lines
from genrec.evaluation.comparison.comparison_summary import is_significant, summary
from genrec.evaluation.comparison.comparison_tables import tables
from genrec.evaluation.comparison.table_cells import title
from genrec.evaluation.statistics.paired_tests import enumerated
from genrec.kept_rows import KeptRows
from genrec.kept_studies import portable_name
from genrec.reports import report_charts, report_curves, report_items, report_metrics, report_users
from genrec.reports.report_charts import RowScale
from genrec.reports.report_parts import Chart, Record, Section, StoredRow, short, stored_rows
from genrec.reports.report_tables import table
from genrec.row_settings import training_hash
from genrec.workspace import store

READING = "Large marks are means, filled if significant after Holm's correction; lines are 95 % intervals; small dots are seeds."
MAX_BESIDE = 8  # rows of a report with the differences beside its first sentences
MAX_TITLE = 60  # characters of the names in the title
NUM_HIGHLIGHTED = 8  # rows with a color of their own at first
DIFFERENCES = "Configuration differences"  # title of the table of `comparison_tables`


class ReportOptions(NamedTuple):
    """What the user of a report chooses."""

    users: int = 30  # test users in the browser; 0 leaves it out
    seed: int = 0  # of the sample of users
    command: str = ""  # that makes this report
    left_out: tuple[str, ...] = ()  # sentences on rows that cannot be compared with the reference
    kept: KeptRows | None = None  # the rows of `--from`; None for those of the data folder


def content(comparison: Comparison, runs: Sequence[Run], options: ReportOptions) -> dict[str, Any]:
    """Return all that the page of a report shows. `runs` are those of the comparison."""
    first = highlighted(comparison)
    scale, rows = RowScale([row.name for row in comparison.rows], first), stored_rows(comparison, options.kept or run_files)
    ranks = next(run.ranks for run in runs if run.name == comparison.reference)
    corpus, missing = _corpus(comparison, rows)
    of_items = [report_items.popularity_section(rows, corpus, ranks, scale)] if corpus is not None else [missing]
    sections = [
        differences_section(comparison, scale),
        report_metrics.ranking_section(comparison, runs, scale),
        report_metrics.trade_off_section(comparison, runs, scale),
        *report_curves.curve_sections(rows, scale),
        report_items.codes_section(rows, scale),
        *of_items,
        report_items.group_section(comparison, scale),
    ]
    found, several = tables(comparison), f"{len(scale.names)} rows"
    names = enumerated(scale.names)
    reading = [*summary(comparison).reading, *options.left_out]
    configuration = [table(each.title, each.columns, each.rows, each.notes) for each in found if each.title == DIFFERENCES]
    return {
        "title": f"{title(comparison.metric)} of {names if len(names) <= MAX_TITLE or len(rows) == 1 else several}",
        "data": str(comparison.protocol.get("data", "")),
        "reading": reading,
        "warnings": [text for each in found for text in each.warnings if not any(text in paragraph for paragraph in reading)],
        "rows": [
            {"name": row.name, "reference": row.name == comparison.reference, "trained": row.trained, "shape": shape}
            for row, shape in zip(comparison.rows, scale.shapes, strict=True)
        ],
        "highlighted": first,
        "headline": report_metrics.headline(comparison),
        "beside": bool(sections[0].charts) and len(rows) <= MAX_BESIDE,
        "sections": [section._asdict() | {"charts": [each._asdict() for each in section.charts]} for section in sections],
        "users": report_users.browser(rows, corpus, ranks, options.users, options.seed)
        if corpus is not None and options.users
        else None,
        "without_users": missing.notes[0] if corpus is None else "This report was made without users (--html-users 0).",
        "configuration": configuration,
        "tables": [table(each.title, each.columns, each.rows, each.notes) for each in found if each.title != DIFFERENCES],
        "protocol": [line._asdict() for line in protocol_lines(comparison)],
        "commands": commands(comparison, runs, options),
    }


def _corpus(comparison: Comparison, rows: Sequence[StoredRow]) -> tuple[Corpus | None, Section]:
    """Return the data set of the reference, or None with the section that says that it is missing."""
    keys = next(row.first for row in rows if row.name == comparison.reference)
    missing = Section(
        "popularity",
        "Popularity of what is recommended",
        "",
        [],
        ["The data set is not in the data folder, so this part is left out."],
    )
    return (Corpus.load(store().get("data", keys["data"]).folder) if store().has("data", keys["data"]) else None), missing


def highlighted(comparison: Comparison) -> list[int]:
    """Return the places of the rows that have a color at first: the reference, the best trained rows, then the best baselines."""
    rows = comparison.rows
    order = sorted(
        range(len(rows)), key=lambda at: (rows[at].name != comparison.reference, not rows[at].trained, -_number(rows[at].value))
    )
    return sorted(order[:NUM_HIGHLIGHTED])


def _number(value: float) -> float:
    return value if value == value else float("-inf")


def differences_section(comparison: Comparison, scale: RowScale) -> Section:
    """Return the differences from the reference with their intervals and the difference at each seed."""
    kinds, notes, charts = {True: "trained rows", False: "baselines"}, [], []
    metric = title(comparison.metric)
    for kind, what in kinds.items():
        rows = [row for row in comparison.rows if row.trained == kind and row.test is not None]
        tests, seeds = _tests(rows), _seeds(rows)
        if tests:
            name = f"{metric}, {what} minus {comparison.reference}"
            charts.append(Chart(name, READING, report_charts.differences(scale, tests, seeds, metric)))
        notes += [f"{row.name} has no difference: {row.test.reason}" for row in rows if row.test and row.test.difference is None]
        without = [row for row in rows if row.test and row.test.difference is not None and row.test.interval is None]
        for reason in dict.fromkeys(row.test.reason for row in without if row.test):
            names = [row.name for row in without if row.test and row.test.reason == reason]
            have = "have differences without intervals" if len(names) > 1 else "has a difference without an interval"
            notes.append(f"{enumerated(names)} {have}: {reason}")
    if len(comparison.rows) == 1:
        notes.append("There is no second row to compare with the reference.")
    return Section("differences", "Differences from the reference", "", charts, notes, legend=False)


def _tests(rows: Sequence[Row]) -> list[Record]:
    """Return difference, interval and p (Holm) of the rows with a difference. Without an interval it begins and ends at the mean."""
    found = []
    for row in rows:
        test = row.test
        if test is not None and test.difference is not None:
            low, high = test.interval or (test.difference, test.difference)
            numbers = {"difference": test.difference, "low": low, "high": high, "p": test.p_holm}
            record = {"row": row.name, "significant": is_significant(row)}
            found.append(record | {name: short(value) for name, value in numbers.items()})
    return found


def _seeds(rows: Sequence[Row]) -> list[Record]:
    """Return the difference at each seed."""
    return [
        {"row": row.name, "seed": seed, "difference": short(value)}
        for row in rows
        if row.test is not None and row.test.by_seed
        for seed, value in zip(row.test.seeds, row.test.by_seed, strict=True)
    ]


def commands(comparison: Comparison, runs: Sequence[Run], options: ReportOptions) -> list[dict[str, str]]:
    """Return what to type to make the report and all of its rows again, baselines too, each with a sentence."""
    records, functions = studies.read_all() if options.kept is None else options.kept.records.studies, dict[str, list[str]]()
    for run in runs:
        names = [study.name for study in run.studies if run.name in study.rows]
        for name in names or studies.of_baseline(records, run.name, training_hash(run.configuration)):
            if ":" in name and run.name not in functions.setdefault(name, []):  # Python code has no function to name
                functions[name].append(run.name)
    found = [{"about": "This report:", "command": options.command}] if options.command else []
    for rows in dict.fromkeys(tuple(names) for names in functions.values()):
        named = {name: portable_name(name) for name, names in functions.items() if tuple(names) == rows}
        several = ", by any of these functions" if len(named) > 1 else ""
        cut = any(short_name != name for name, short_name in named.items())
        outside = "; of a file outside the project only the last part of its path is given" if cut else ""
        about = f"{_rows(rows)}{several}; further options of the command are among the settings above{outside}:"
        found.append({"about": about, "command": "\n".join(command_line("run", short_name) for short_name in named.values())})
    known = {name for names in functions.values() for name in names}
    unknown = [row.name for row in comparison.rows if row.name not in known]
    if unknown and options.kept is None:
        about = f"No function is recorded for {enumerated(unknown)}; all settings of a row:"
        found.append({"about": about, "command": "\n".join(command_line("show", name) for name in unknown)})
    elif unknown:
        about = f"No function is recorded for {enumerated(unknown)}; files with all settings:"
        found.append({"about": about, "command": "\n".join(f"runs/{name}.json" for name in unknown)})
    return found


def _rows(names: Sequence[str]) -> str:
    return f"{'Rows' if len(names) > 1 else 'Row'} {enumerated(names)}"
