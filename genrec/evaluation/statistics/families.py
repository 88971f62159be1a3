"""Holm's correction over the families of a table: the tests of trained rows, and the tests of baselines.

A baseline more or less changes nothing for the trained rows, because it is in the other family. The family of the trained rows has
everything that was tried: a row that was run in a study with further rows may have been picked among them, so these count too. Two
kinds of rows outside the table are no attempts and do not count: former settings of the reference, and rows from which the reference
was trained further, such as the SFT row of a control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from genrec.errors import counted
from genrec.evaluation.statistics.paired_tests import PairedTest
from genrec.evaluation.statistics.significance import holm

if TYPE_CHECKING:
    from genrec.evaluation.compare import Run, Study

REPLACED = " (replaced"  # between the name of a row and the number of its former settings, see `Study.rows`


class Family(NamedTuple):
    """Tests that are corrected together."""

    trained: bool  # True: the tests of the trained rows; False: those of the baselines
    rows: tuple[str, ...]  # rows with a p, in the order of the table
    tried: tuple[str, ...]  # further rows that count as tests, by name; empty if the rows are in no study with rows outside the table
    studies: tuple[Study, ...]  # the studies with trained rows that are not in the table, by name; empty if nothing else was tried

    @property
    def size(self) -> int:
        """The number of tests, m of Holm's correction."""
        return len(self.rows) + len(self.tried)

    def in_words(self, reference: str) -> str:
        """Return the number of tests and all rows: '3 tests of trained rows against sft (dpo, s-dpo; also tried: kto)'."""
        kind = "of trained rows" if self.trained else "of baselines"
        also = f"; also tried: {', '.join(self.tried)}" if self.tried else ""
        return f"{counted(self.size, 'test')} {kind} against {reference} ({', '.join(self.rows)}{also})"

    def correct(self, tests: Mapping[str, PairedTest]) -> dict[str, PairedTest]:
        """Return the tests of the family's rows with the corrected p."""
        corrected = holm([p for row in self.rows if (p := tests[row].p) is not None], self.size)
        return {row: tests[row]._replace(p_holm=p) for row, p in zip(self.rows, corrected, strict=True)}


def families_of(
    tests: Mapping[str, PairedTest], groups: Mapping[str, Sequence[Run]], trained: Sequence[str], reference: str
) -> list[Family]:
    """Return the families of a table that have a test with a p: trained rows, baselines.

    `tests` holds the test of each row but the reference, `groups` the runs of every row, and `trained` the names of the trained rows.
    """
    found = []
    for of_trained in (True, False):
        rows = tuple(row for row, test in tests.items() if (row in trained) == of_trained and test.p is not None)
        outside = _outside(tests, groups, reference) if of_trained else {}
        tried = {*trained, *(row for names in outside.values() for row in names)} - {reference, *rows} if outside else set()
        if rows:
            studies = sorted(outside, key=lambda study: (study.name, sorted(study.rows)))
            found.append(Family(of_trained, rows, tuple(sorted(tried)), tuple(studies)))
    return found


def _outside(tests: Mapping[str, PairedTest], groups: Mapping[str, Sequence[Run]], reference: str) -> dict[Study, frozenset[str]]:
    """Return the attempts outside the table, by the studies that have any and in which a row was run at a compared seed."""
    studies = {study for row, test in tests.items() for run in groups[row] if run.seed in test.seeds for study in run.studies}
    no_attempts = {reference, *(row for run in groups[reference] for row in run.starts)}
    outside = {study: frozenset(row for row in study.rows - groups.keys() if _present(row) not in no_attempts) for study in studies}
    return {study: rows for study, rows in outside.items() if rows}


def _present(row: str) -> str:
    """Return the name of the row that has replaced this one, or its own."""
    return row.partition(REPLACED)[0]
