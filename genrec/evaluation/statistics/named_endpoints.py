"""The endpoints of the studies of a table, and which of them the table tests: those named before both of their rows had been run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from genrec.endpoints import Endpoint
from genrec.errors import counted
from genrec.evaluation.statistics.paired_tests import PairedTest, seeds_in_words

if TYPE_CHECKING:
    from genrec.evaluation.compare import Run, Study


class NamedEndpoint(NamedTuple):
    """An endpoint that a study names for two rows of a table."""

    endpoint: Endpoint
    study: Study  # which names it
    named: str  # when it was recorded first, such as `2026-01-31T23:59:59Z`
    is_here: bool  # whether the table has its reference and its metric
    reason: str  # why the table does not test it as an endpoint; empty if it does


def named_endpoints(
    tests: Mapping[str, PairedTest], groups: Mapping[str, Sequence[Run]], reference: str, metric: str
) -> tuple[NamedEndpoint, ...]:
    """Return the endpoints of the studies in which the compared seeds of a row were run, if both of their rows are in the table.

    `tests` holds the test of each row but the reference, `groups` the runs of every row; `metric` is the tested metric.
    """
    studies: dict[str, Study] = {}
    run_in: set[tuple[str, str]] = set()  # names of a row and of a study in which it was run
    for row, runs in groups.items():
        for run in runs:
            if row not in tests or run.seed in tests[row].seeds:
                studies |= {study.name: study for study in run.studies}
                run_in |= {(row, study.name) for study in run.studies}
    found = []
    for study in studies.values():
        for each, named in study.endpoints:
            if (each.row, study.name) in run_in and each.reference in groups:
                is_here = (each.reference, each.metric) == (reference, metric)
                found.append(NamedEndpoint(each, study, named, is_here, _reason(each, named, is_here, tests, groups)))
    return tuple(found)


def _reason(
    endpoint: Endpoint, named: str, is_here: bool, tests: Mapping[str, PairedTest], groups: Mapping[str, Sequence[Run]]
) -> str:
    """Return why a table does not test an endpoint as one, or an empty text."""
    if not is_here:
        return "the table has another reference or metric"
    test = tests[endpoint.row]
    if test.p is None:
        return "the table has no p for it"
    if len(test.seeds) != endpoint.seeds:
        return f"the table compares {counted(len(test.seeds), 'seed')}"
    late = [seed for seed in test.seeds if named > _last_first_run(endpoint, seed, groups)]
    return f"{seeds_in_words(late)} of both rows had been run before" if late else ""


def _last_first_run(endpoint: Endpoint, seed: int, groups: Mapping[str, Sequence[Run]]) -> str:
    """Return when a seed was first run with both rows: the difference between them was not known before.

    Only the time of the tested row counts if the reference is a baseline, for which no time is recorded.
    """
    return max(
        run.first_run for name in (endpoint.row, endpoint.reference) for run in groups[name] if run.seed == seed or not run.first_run
    )
