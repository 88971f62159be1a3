"""Holm's correction over the families of a table: the tests of trained rows, and the tests of baselines.

A baseline more or less changes nothing for the trained rows, because it is in the other family. The family of the trained rows has
everything that was tried: a row that was run in a study with further rows may have been picked among them, so these count too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from genrec.errors import counted
from genrec.evaluation.statistics.paired_tests import PairedTest
from genrec.evaluation.statistics.significance import holm

if TYPE_CHECKING:
    from genrec.evaluation.compare import Run, Study


class Family(NamedTuple):
    """Tests that are corrected together."""

    trained: bool  # True: the tests of the trained rows; False: those of the baselines
    rows: tuple[str, ...]  # rows with a p, in the order of the table
    size: int  # m of Holm's correction: the number of rows, or of everything that was tried
    studies: tuple[Study, ...]  # the studies with trained rows that are not in the table, by name; empty if nothing else was tried

    def in_words(self, reference: str) -> str:
        """Return the number of tests and the rows: '2 tests of trained rows against sft (dpo, s-dpo)'."""
        kind = "of trained rows" if self.trained else "of baselines"
        return f"{counted(self.size, 'test')} {kind} against {reference} ({', '.join(self.rows)})"

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
        studies = _wider_studies(tests, groups) if of_trained else ()
        tried = {row for row in set(trained).union(*(study.rows for study in studies)) if not _is_reference(row, reference)}
        if rows:
            found.append(Family(of_trained, rows, len(tried) if studies else len(rows), studies))
    return found


def _is_reference(row: str, reference: str) -> bool:
    """Return whether a row of a study is the reference, or a former row of its name: nothing is tested against itself."""
    return row == reference or row.startswith(f"{reference} (replaced")


def _wider_studies(tests: Mapping[str, PairedTest], groups: Mapping[str, Sequence[Run]]) -> tuple[Study, ...]:
    """Return the studies that hold rows outside the table and in which a row was run at a compared seed."""
    studies = {study for row, test in tests.items() for run in groups[row] if run.seed in test.seeds for study in run.studies}
    return tuple(
        sorted((study for study in studies if study.rows - groups.keys()), key=lambda study: (study.name, sorted(study.rows)))
    )
