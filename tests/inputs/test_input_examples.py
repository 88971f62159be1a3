"""Examples and windows with inputs: each event has its own time and rating, a target has none, and a user is a hash of the own id."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pandas import DataFrame
from worlds import cyclic

from genrec import pipeline
from genrec.__main__ import main
from genrec.data.corpus import Corpus, user_hash
from genrec.data.corpus_builder import prepare
from genrec.data.examples import CorpusExamples, examples
from genrec.data.sources import Frames
from genrec.data.splits import LeaveOneOut
from genrec.errors import InputError
from genrec.model import Tiger
from genrec.types import RawTables

INPUTS: Any = ("user", "time", "rating")
EVENTS = [("b", "i1", 100, 5.0), ("b", "i2", 200, 1.0), ("b", "i3", 300, 4.0), ("b", "i1", 400, None), ("b", "i2", 500, 3.0)]
OTHERS = [("a", "i3", 10, 2.0), ("a", "i1", 20, 5.0), ("a", "i2", 30, 5.0), ("a", "i3", 40, 5.0)]


def corpus(*rows: Any, ratings: bool = True, **split: Any) -> Corpus:
    table = DataFrame(list(rows), columns=["user", "item", "time", "rating"])
    items = DataFrame({"item": ["i1", "i2", "i3"], "text": ["one", "two", "three"]})
    table = table if ratings else table.drop(columns="rating")
    return prepare(RawTables(table, items), LeaveOneOut(core=0, **split))


def lists(history: Any) -> tuple[Any, Any, Any]:
    return (
        history.items.tolist(),
        history.time.tolist(),
        [[None if each != each else each for each in row] for row in history.rating.tolist()],
    )


def test_prefixes_by_hand() -> None:
    """User b trains on i1 i2 i3: two prefixes, and validation and test have histories of three and four events."""
    data = corpus(*EVENTS)
    batch = CorpusExamples(data, 3, INPUTS).prefixes().batch(torch.arange(2))
    assert lists(batch.history) == ([[0, 1], [1, 2]], [[0, 100], [100, 200]], [[None, 5.0], [5.0, 1.0]])
    assert batch.target.tolist() == [2, 3]
    test = examples(data, "test", 3, inputs=INPUTS).batch(torch.arange(1))
    assert lists(test.history) == ([[2, 3, 1]], [[200, 300, 400]], [[1.0, 4.0, None]])
    assert test.history.user.tolist() == [user_hash("b")]  # type: ignore[attr-defined]
    assert test.user.tolist() == [1]


@pytest.mark.parametrize("padding", ["zero", "repeat"])
def test_windows_by_hand(padding: Any) -> None:
    """The window of b has the places before its last training event; a repeat has the inputs of the event that it repeats."""
    window = CorpusExamples(corpus(*EVENTS), 5, INPUTS).windows(padding).batch(torch.arange(1))
    expected = {
        "zero": ([[1, 2]], [[100, 200]], [[5.0, 1.0]]),
        "repeat": ([[1, 2, 0, 1, 2]], [[100, 200, 0, 100, 200]], [[5.0, 1.0, None, 5.0, 1.0]]),
    }
    assert lists(window.history) == expected[padding]


def test_events_that_stand_in_no_history_have_no_inputs() -> None:
    """With split.histories 'without disliked' the events after the disliked i2 keep their own times and ratings."""
    rows = [*EVENTS[:4], ("b", "i3", 450, 5.0), ("b", "i1", 500, 5.0)]
    data = corpus(*rows, liked=4, disliked=2, histories="without disliked")
    test = examples(data, "test", 5, inputs=INPUTS).batch(torch.arange(1))
    items, time, rating = lists(test.history)
    assert 200 not in time[0]
    assert 1.0 not in rating[0]
    known = {seconds: (item, score) for _, name, seconds, score in rows for item in [int(name[1])]}
    assert [(item, score) for item, score in zip(items[0], rating[0], strict=True)] == [known[each] for each in time[0]]
    window = CorpusExamples(data, 5, INPUTS).windows().batch(torch.arange(1))
    assert 200 not in lists(window.history)[1][0]
    kept = lists(window.history)
    assert list(zip(kept[0][0], kept[2][0], strict=True)) == [known[each] for each in kept[1][0]]


@pytest.mark.parametrize("change", [(2, "rating"), (2, "time"), (3, "rating"), (4, "rating"), (4, "time")])
def test_the_event_of_a_target_is_in_no_history_before_it(change: tuple[int, str]) -> None:
    """Changing the rating or the time of an event changes no prefix that ends before it, and no place of a window before it."""
    place, column = change
    rows = [list(row) for row in EVENTS]
    rows[place][{"time": 2, "rating": 3}[column]] = {"time": rows[place][2] + 7, "rating": 2.5}[column]
    before, after = corpus(*EVENTS), corpus(*rows)
    for part, position in (("train", place), ("validation", 3), ("test", 4)):
        parts = [examples(each, part, 5, inputs=INPUTS) for each in (before, after)]  # type: ignore[arg-type]
        for index in range(len(parts[0])):
            if (index + 1 if part == "train" else position) <= place:
                first, second = (lists(each.batch(torch.tensor([index])).history) for each in parts)
                assert first == second
    windows = [CorpusExamples(each, 5, INPUTS).windows().batch(torch.arange(1)).history for each in (before, after)]
    assert lists(windows[0][:, :place]) == lists(windows[1][:, :place])


def test_the_hash_of_a_user_depends_on_the_id_alone() -> None:
    """Neither the other users, nor the order of rows, nor the process change it; the numbers of users do change."""
    code = "from genrec.data.corpus import user_hash; print(user_hash('b'), user_hash('Ünï'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert printed == [str(user_hash("b")), str(user_hash("Ünï"))]
    assert user_hash("b") == 4_226_560_797_588_928_834  # trained policies depend on it
    for rows in ([*EVENTS, *OTHERS], [*OTHERS, *EVENTS], EVENTS):
        data = corpus(*rows)
        batch = examples(data, "test", 3, inputs=("user",)).batch(torch.arange(data.user_count))
        found = dict(zip(data.user_ids[batch.user.numpy() - 1], batch.history.user.tolist(), strict=True))  # type: ignore[attr-defined]
        assert found["b"] == user_hash("b")


def test_the_users_of_a_corpus_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All parts of a corpus, as a stage takes them one by one, share the hashes of its two users."""
    data, hashed = corpus(*EVENTS, *OTHERS), []
    monkeypatch.setattr("genrec.data.corpus.user_hash", lambda user: hashed.append(user) or len(hashed))
    for part in ("train", "validation", "test"):
        examples(data, part, 3, inputs=("user",))  # type: ignore[arg-type]
    assert sorted(hashed) == ["a", "b"]


def test_ratings_and_times_that_are_not_there_are_refused() -> None:
    """A column without a value is no column; without times, events have the numbers of their rows, which are no seconds."""
    unrated = [(*row[:3], None) for row in EVENTS]
    untimed = [(*row[:2], number, row[3]) for number, row in enumerate(EVENTS)]
    for data in (corpus(*EVENTS, ratings=False), corpus(*unrated)):
        with pytest.raises(InputError, match=r"the policy reads ratings of events, and the data of .* have none; name the column of"):
            examples(data, "test", 3, inputs=("rating",))
    with pytest.raises(
        InputError, match=r"reads times of events, and the data of .* have none, only an order of rows; name the column"
    ):
        examples(corpus(*untimed), "test", 3, inputs=("time",))


def test_the_refusal_names_the_experiment_the_policy_and_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    DataFrame(EVENTS, columns=["user", "item", "time", "rating"])[["user", "item", "time"]].to_csv(tmp_path / "mine.csv", index=False)
    source = Frames(str(tmp_path / "mine.csv"))
    row = replace(cyclic(), name="mine", source=source, split=LeaveOneOut(core=0), policy=Tiger(ratings=(1, 2, 3, 4, 5)))
    with pytest.raises(InputError, match=r"^mine: Tiger reads ratings of events, and the data of Frames\(.*mine\.csv"):
        pipeline.run(row)


OWN = """
from dataclasses import replace
from worlds import cyclic
from genrec.data.sources import Frames
from genrec.data.splits import LeaveOneOut
from genrec.experiment import seeds
from genrec.model import Tiger

def timed():
    base = replace(cyclic(), name="mine", source=Frames("mine.csv"), split=LeaveOneOut(core=0))
    return seeds([replace(base, policy=Tiger(time_buckets=8))], 2)
"""


def test_what_the_policy_lacks_is_a_warning_of_the_commands_that_train_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`genrec data` describes data without times, and says once that a policy that reads times will be refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENREC_HOME", "data")
    (tmp_path / "mine.py").write_text(OWN)
    DataFrame([(f"u{user}", f"i{(user + step) % 9}") for user in range(20) for step in range(6)], columns=["user", "item"]).to_csv(
        "mine.csv", index=False
    )
    assert main(["data", "mine.py:timed"]) == 0
    printed = capsys.readouterr()
    assert "20 users, 9 items, 120 interactions" in printed.out
    assert printed.err.count("warning: a training will refuse this: mine: Tiger reads times of events, and the data of") == 1
    assert main(["run", "mine.py:timed"]) == 3


def test_without_inputs_a_history_is_a_tensor(tmp_path: Path) -> None:
    batch = examples(corpus(*EVENTS), "test", 3).batch(torch.arange(1))
    assert isinstance(batch.history, torch.Tensor)
