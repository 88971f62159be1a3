"""What is told of the rows of a pair file: rows without a user, contradictions, and rejected items that the user likes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from alignments import align, constant, parts, recipe
from hypothesis import given
from hypothesis import strategies as st
from proposals import context_of, data_of, one_level, sasrec
from test_pair_file import write

from genrec.objectives import Preference
from genrec.preference.candidates import Pairs
from genrec.preference.losses import SoftmaxDPO
from genrec.semantic_ids import SemanticIds
from genrec.types import SamplerContext

EVENTS = {1: [1, 2, 3, 4], 2: [4, 5]}


def notes(rows: list[dict[str, Any]], path: Path, capsys: pytest.CaptureFixture[str], data: SamplerContext | None = None) -> list[str]:
    """Return what is printed when the proposer is built."""
    capsys.readouterr()
    context = context_of(sasrec(6), data_of(one_level(6), EVENTS) if data is None else data)
    Pairs(write(rows, path)).build_proposals(context)
    return capsys.readouterr().err.splitlines()


def test_nothing_is_told_of_a_plain_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"user": "1", "chosen": "3", "rejected": ["5", "6"]}, {"user": "2", "chosen": "5", "rejected": "3"}]
    assert notes(rows, tmp_path / "p.csv", capsys) == []


def test_rows_without_a_user_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"user": "1", "chosen": "3", "rejected": "5"},
        {"history": ["1"], "chosen": "3", "rejected": "5"},
        {"history": ["2"], "chosen": "3", "rejected": "5"},
    ]
    (line,) = notes(rows, tmp_path / "p.csv", capsys)
    assert line.startswith("p.csv: 2 of 3 rows name no user, so it is not known whether chosen is a held-out event of the user; make")


def test_contradictory_rows_are_told_by_user_and_by_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """User 1 prefers 3 to 5 and 6, and 6 to 1, 5 and 3: the pairs of 3 and 6 contradict. User 2 may prefer 6 to 3."""
    rows = [
        {"user": "1", "chosen": "3", "rejected": ["5", "6"]},
        {"user": "2", "chosen": "6", "rejected": "3"},
        {"user": "1", "ranked": ["6", "1", "5", "3"]},
        {"user": "2", "chosen": "5", "rejected": "1"},
    ]
    (line,) = notes(rows, tmp_path / "p.jsonl", capsys)
    assert line == (
        "p.jsonl: 2 of 4 rows contradict another row of the same user or history, which prefers the two items the other way around, "
        "such as line 1 (chosen '3') and line 3 (chosen '6'); all are kept, and pull in opposite directions"
    )
    own = [{"history": ["1", "2"], "chosen": "3", "rejected": "4"}, {"history": ["1", "2"], "chosen": "4", "rejected": "3"}]
    _, line = notes([*own, {"history": ["2", "1"], "chosen": "4", "rejected": "3"}], tmp_path / "q.parquet", capsys)
    assert "2 of 3 rows contradict another row" in line
    assert "such as row 1 (chosen '3') and row 2 (chosen '4')" in line
    assert len(notes([own[0], {"history": ["2", "1"], "chosen": "4", "rejected": "3"}], tmp_path / "r.csv", capsys)) == 1


def test_items_of_one_semantic_id_contradict_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Items 3 and 4 share a Semantic ID, so 3 over 5 and 5 over 4 are opposites for the policy."""
    shared = data_of(SemanticIds(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 0], [1, 1]]), (2, 2)), {1: [1]})
    rows = [{"user": "1", "chosen": "3", "rejected": "5"}, {"user": "1", "chosen": "5", "rejected": "4"}]
    (line,) = notes(rows, tmp_path / "p.csv", capsys, shared)
    assert "2 of 2 rows contradict another row" in line


@given(st.lists(st.tuples(st.integers(1, 2), st.permutations(range(1, 6)).map(lambda each: each[:3])), min_size=1, max_size=8))
def test_contradictions_are_those_of_a_loop(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, list[int]]]) -> None:
    from genrec.preference.candidates.pair_file import resolve
    from genrec.preference.candidates.pair_notes import pair_notes
    from genrec.preference.candidates.pair_rows import read_pairs

    data = data_of(one_level(6), {1: [6], 2: [6]})
    path = write(
        [{"user": str(user), "ranked": list(map(str, items))} for user, items in rows], tmp_path_factory.mktemp("p") / "p.jsonl"
    )
    every = {(user, items[0], other) for user, items in rows for other in items[1:]}
    expected = sum(any((user, other, items[0]) in every for other in items[1:]) for user, items in rows)
    found = pair_notes(resolve(read_pairs(path), data, None, path), data)
    assert [note.split()[0] for note in found] == ([str(expected)] if expected else [])


def test_rejected_items_that_the_user_likes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """User 1 likes 2 and 3, user 2 likes 5 and dislikes 4. The chosen items are liked too, which is no matter."""
    data = data_of(one_level(6), EVENTS)
    data = data._replace(interactions=data.interactions.assign(label=[0, 1, 1, -1, -1, 1]))
    rows = [
        {"user": "1", "chosen": "3", "rejected": ["6", "2"]},
        {"user": "2", "chosen": "5", "rejected": ["4", "2"]},
        {"user": "1", "chosen": "6", "rejected": ["3", "2"]},
    ]
    found = notes(rows, tmp_path / "p.csv", capsys, data)
    assert found[0].startswith("p.csv: 2 of 3 rows contradict")
    assert found[1:] == [
        "p.csv: 2 of 3 rows reject 3 items that the user likes by the labels of training, such as '2' of user '1' (line 2); they are "
        "kept: remove them if liked items are not to be rejected"
    ]
    assert len(notes(rows[1:2], tmp_path / "q.csv", capsys, data)) == 0
    assert len(notes(rows, tmp_path / "r.csv", capsys)) == 1, "without labels nothing is known of likes"


def test_a_training_tells_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write([{"history": ["item-1", "item-2"], "chosen": "item-3", "rejected": "item-5"}] * 2, tmp_path / "p.csv")
    align(*parts(), recipe(objective=Preference(SoftmaxDPO(), Pairs(path)), max_steps=3), 0, tmp_path / "a", constant)
    assert capsys.readouterr().err.count("2 of 2 rows name no user") == 1
