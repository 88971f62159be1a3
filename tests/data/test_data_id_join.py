"""Ids of interactions and items that do not match: an error without any match, a warning with few, with examples of both sides."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame, Series

from genrec.__main__ import main
from genrec.data.corpus_builder import prepare
from genrec.data.data_report import lines
from genrec.data.splits import LeaveOneOut
from genrec.errors import InputError
from genrec.id_matching import Ids, likely_cause
from genrec.types import RawTables

ALL = LeaveOneOut(core=0)
NUMBERS = range(30, 40)


def tables(events: list[str], items: list[str]) -> RawTables:
    """Return 3 users with one event for each id, and one row of metadata for each item."""
    interactions = DataFrame({"user": ["a", "b", "c"] * len(events), "item": [name for name in events for _ in range(3)]})
    return RawTables(
        interactions.assign(time=range(5, 5 + len(interactions))), DataFrame({"item": Series(items, dtype=str), "text": "a text"})
    )


@pytest.mark.parametrize(
    ("event_id", "item_id", "message"),
    [
        ("{}.0", "{}", r"the interactions have '30\.0', the items have '30': write the ids as text or integers"),
        ("{}", "{}.0", r"the interactions have '30', the items have '30\.0': write the ids as text or integers"),
        ("i{}", "{}", "the interactions have 'i30', the items have '30': use the same prefix"),
        ("00{}", "{}", "the interactions have '0030', the items have '30': write the ids as text in both, so that leading zeros"),
        ("B{}x", "b{}X", "the interactions have 'B30x', the items have 'b30X': use the same capital letters"),
        (" {}", "{}", "the interactions have ' 30', the items have '30': remove the spaces"),
        ("'{}'", "{}", "the items have '30': remove the quotes"),
        ("9-{}", "9{}", "the interactions have '9-30', the items have '930': use the same punctuation"),
        ("item-{}", "item-{}.0", r"the interactions have 'item-30', the items have 'item-30\.0': write the ids as text or integers"),
        (" i{}", "I0{}", "the interactions have ' i30', the items have 'I030': write the ids alike in both"),
        ("x{}y", "z{}w", "the interactions have 'x30y', 'x31y', 'x32y', ..., the items have 'z30w', 'z31w', 'z32w', ...; expected"),
    ],
)
def test_ids_that_never_match_are_an_error_with_the_likely_cause(event_id: str, item_id: str, message: str) -> None:
    raw = tables([event_id.format(number) for number in NUMBERS], [item_id.format(number) for number in NUMBERS])
    with pytest.raises(InputError, match=message) as failure:
        prepare(raw, ALL)
    assert str(failure.value).startswith("none of the 10 items of the interactions has a row in the table of items: ")


def test_few_matches_are_a_warning_in_the_run_and_in_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    events = [str(number) if number < 34 else f"{number}.0" for number in NUMBERS]  # 30..33 match: 4 of 10
    corpus = prepare(tables(events, [str(number) for number in NUMBERS]), ALL)
    expected = (
        "warning: only 4 of 10 items (40.0%) of the interactions have a row in the table of items; without a match: the interactions "
        "have '34.0', the items have '34': write the ids as text or integers"
    )
    assert expected in capsys.readouterr().err
    assert any(line.startswith(expected) for line in lines(corpus))


def test_a_side_whose_ids_all_match_is_not_shown_as_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    """Items for 5 of 40: nothing is written differently, rows are missing."""
    prepare(tables([f"i{number}" for number in range(40)], [f"i{number}" for number in range(5)]), ALL)
    assert (
        "without a match: the interactions have 'i5', 'i6', 'i7', ...; all ids of the items match: add the missing ones there\n"
    ) in capsys.readouterr().err


def test_a_decimal_point_is_no_punctuation() -> None:
    assert likely_cause(Ids("these", ["item-20"]), Ids("those", ["item-2.0"])) is None


def test_the_cause_of_most_pairs_is_named() -> None:
    """One pair differs in spaces, by chance; nine in capital letters."""
    left, right = [" a0", *(f"{number}B" for number in range(1, 10))], ["a0", *(f"{number}b" for number in range(1, 10))]
    cause = "these have '1B', those have '1b': use the same capital letters in both"
    assert likely_cause(Ids("these", left), Ids("those", right)) == cause


def test_half_of_the_matches_and_no_metadata_at_all_are_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    for items in (["30", "31"], []):
        assert prepare(tables(["30", "31", "32", "33"], items), ALL).statistics["warnings"] == []
    assert "warning" not in capsys.readouterr().err


def test_the_data_command_refuses_ids_that_never_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    raw = tables([f"{number}.0" for number in NUMBERS], [str(number) for number in NUMBERS])
    raw.interactions.to_csv("events.csv", index=False)
    raw.items.to_csv("items.csv", index=False)
    Path("mine.py").write_text(
        "from genrec.data.sources import Frames\nfrom genrec.experiment import Experiment\n"
        "def mine():\n    return Experiment(name='mine', source=Frames('events.csv', 'items.csv'))\n"
    )
    assert main(["data", "mine.py:mine", "--split.core", "0"]) == 3
    assert "the interactions have '30.0', the items have '30'" in capsys.readouterr().err


@given(st.lists(st.text(max_size=5)), st.lists(st.text(max_size=5)))
def test_a_cause_names_ids_of_both_sides(left: list[str], right: list[str]) -> None:
    cause = likely_cause(Ids("these", left), Ids("those", right))
    if cause is not None:
        assert any(f"these have {name!r}" in cause for name in left)
        assert any(f"those have {name!r}" in cause for name in right)
