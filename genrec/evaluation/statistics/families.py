"""Holm's correction over the families of a table: the endpoints, the other tests of trained rows, and the tests of baselines.

The family of the endpoints has all endpoints of their studies, also those with another reference or metric, and former settings of the
tested rows. A baseline more or less changes nothing for the trained rows, because it is in another family. The family of the trained
rows has all that was tried: a row that was run in a study with further rows may have been picked among them, so these count too, in
the table and outside it. Two kinds of rows without a p are no attempts and do not count: former settings of the reference, and rows
from which the reference was trained further, such as the SFT row of a control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from genrec.errors import counted
from genrec.evaluation.statistics.named_endpoints import NamedEndpoint
from genrec.evaluation.statistics.paired_tests import PairedTest
from genrec.evaluation.statistics.significance import holm

if TYPE_CHECKING:
    from genrec.evaluation.compare import Run, Study

REPLACED = " (replaced"  # between the name of a row and the number of its former settings, see `Study.rows`
Kind = Literal["endpoints", "trained rows", "baselines"]


class Family(NamedTuple):
    """Tests that are corrected together."""

    kind: Kind
    rows: tuple[str, ...]  # rows with a p, in the order of the table
    tried: tuple[str, ...]  # further rows that count as tests, by name; empty if the rows are in no study with rows without a p
    studies: tuple[Study, ...]  # the studies with trained rows that are not in the table, by name; empty if nothing else was tried

    @property
    def size(self) -> int:
        """The number of tests, m of Holm's correction."""
        return len(self.rows) + len(self.tried)

    def in_words(self, reference: str) -> str:
        """Return the number of tests and all rows: '3 tests of trained rows against sft (dpo, s-dpo; also tried: kto)'."""
        also = f"; also {'named' if self.kind == 'endpoints' else 'tried'}: {', '.join(self.tried)}" if self.tried else ""
        return f"{counted(self.size, 'test')} of {self.kind} against {reference} ({', '.join(self.rows)}{also})"

    def correct(self, tests: Mapping[str, PairedTest]) -> dict[str, PairedTest]:
        """Return the tests of the family's rows with the corrected p."""
        corrected = holm([p for row in self.rows if (p := tests[row].p) is not None], self.size)
        return {row: tests[row]._replace(p_holm=p) for row, p in zip(self.rows, corrected, strict=True)}


def families_of(
    tests: Mapping[str, PairedTest],
    groups: Mapping[str, Sequence[Run]],
    trained: Sequence[str],
    reference: str,
    endpoints: Sequence[NamedEndpoint],
) -> list[Family]:
    """Return the families of a table that have a test with a p: endpoints, trained rows, baselines.

    `tests` holds the test of each row but the reference, `groups` the runs of every row, `trained` the names of the trained rows, and
    `endpoints` those of the table's studies.
    """
    first = _endpoints(tests, endpoints)
    found, apart = ([], set[str]()) if first is None else ([first], set(first.rows))
    kinds: tuple[tuple[Kind, bool], ...] = (("trained rows", True), ("baselines", False))
    for kind, of_trained in kinds:
        rows = tuple(row for row, test in tests.items() if (row in trained) == of_trained and test.p is not None and row not in apart)
        tried, outside = _tried(tests, groups, reference, trained, {*rows, *apart}) if of_trained else (set(), [])
        if rows:
            found.append(Family(kind, rows, tuple(sorted(tried)), tuple(outside)))
    return found


def _endpoints(tests: Mapping[str, PairedTest], endpoints: Sequence[NamedEndpoint]) -> Family | None:
    """Return the family of the endpoints that the table tests, with all others of their studies; None if it tests none."""
    tested = [each for each in endpoints if not each.reason]
    if not tested:
        return None
    rows, studies = {each.endpoint.row for each in tested}, {each.study for each in tested}
    others = {each for study in studies for each, _ in study.endpoints} - {each.endpoint for each in tested}
    former = {each for study in studies for each in study.rows if REPLACED in each and _present(each) in rows}
    return Family("endpoints", tuple(row for row in tests if row in rows), tuple(sorted([*map(str, others), *former])), ())


def _tried(
    tests: Mapping[str, PairedTest], groups: Mapping[str, Sequence[Run]], reference: str, trained: Sequence[str], tested: set[str]
) -> tuple[set[str], list[Study]]:
    """Return the attempts without a p beside the `tested` rows, and the studies that have some outside the table, by name.

    A study counts if one of the table's attempts was run in it at a compared seed. If it has untested rows, all trained rows of the
    table without a p count with them. The row from which the reference was trained further is in the studies of all its
    continuations and was picked from none of them.
    """
    no_attempts = {reference, *(row for run in groups[reference] for row in run.starts)}
    picked = [(run, test) for row, test in tests.items() if row not in no_attempts for run in groups[row]]
    studies = {study for run, test in picked if run.seed in test.seeds for study in run.studies}
    untested = {study: {row for row in study.rows - tested if _present(row) not in no_attempts} for study in studies}
    attempts = set[str]().union(*untested.values())
    if attempts:
        attempts |= {row for row in trained if row not in tested | no_attempts}
    outside = [study for study, rows in untested.items() if rows - groups.keys()]
    return attempts, sorted(outside, key=lambda study: (study.name, sorted(study.rows)))


def _present(row: str) -> str:
    """Return the name of the row that has replaced this one, or its own."""
    return row.partition(REPLACED)[0]
