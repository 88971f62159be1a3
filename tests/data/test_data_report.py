"""`genrec data`: what is said of a data set, the picture, and what a person is warned of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame

from genrec.__main__ import main
from genrec.data.corpus_builder import prepare
from genrec.data.data_plots import draw, left_out
from genrec.data.data_report import events_of_items, head_share, lines
from genrec.data.prefetch import ahead
from genrec.data.splits import LeaveOneOut
from genrec.errors import InputError
from genrec.types import RawTables

#        day:      0    1    2    2    0    1    5    9
LOG = DataFrame({"user": list("aaaabbbb"), "item": list("xyzxxyzw"), "time": [86_400 * day for day in (0, 1, 2, 2, 0, 1, 5, 9)]})
ITEMS = DataFrame({"item": list("xyq"), "text": ["a text", "", "nobody took it"]})
ASIDE = DataFrame({"file": ["f.csv"] * 3, "line": [7, 8, 9], "reason": ["bad", "bad", "bad: 40 more rows, not listed"]})


@pytest.fixture
def raw() -> RawTables:
    return RawTables(LOG, ITEMS, ASIDE)


def test_the_report_by_hand(raw: RawTables) -> None:
    said = list(lines(prepare(raw, LeaveOneOut(core=0))))
    assert said == [
        "2 users, 4 items, 8 interactions, density 100.0000%",
        "events per user: mean 4.0; least 4, 25 % 4, median 4, 75 % 4, 95 % 4, most 4",
        "events per item: mean 2.0; least 1, 25 % 2, median 2, 75 % 2, 95 % 3, most 3",
        "the most popular 1 % of items have 37.5% of the events, 20 % have 37.5%",
        "times from 1970-01-01 to 1970-01-10",
        "parts: train 4, validation 2, test 2; users tested: 2",
        "text: 25.0% of the items have one, median 6 characters",
        "  items without metadata: 2",
        "  items without text: 1",
        "  metadata without events: 1",
        "removed by the filter 'users with 3 events or more': 0 interactions, 0 users, 0 items",
        "set aside, bad: 42 (first in f.csv, line 7)",
        "beware: for 50.0% of the users the last two events have one time, and the order of rows decides what is held out",
        "leakage: no training event is later than a test event",
    ]


def test_leakage_is_said(raw: RawTables) -> None:
    late = raw._replace(interactions=LOG.assign(time=[0, 1, 2, 3, 10, 11, 12, 13]))
    (said,) = [line for line in lines(prepare(late, LeaveOneOut(core=0))) if line.startswith("leakage")]
    assert "50.0% of the training events are later than the earliest test event, and 25.0% are later than the average one" in said


def test_popularity_and_its_head(raw: RawTables) -> None:
    events = events_of_items(prepare(raw, LeaveOneOut(core=0)))
    assert events.tolist() == [3, 2, 2, 1]  # x, y, z, w
    assert head_share(events, 0.5) == 5 / 8


def test_what_was_left_out_most_frequent_first(raw: RawTables) -> None:
    statistics = prepare(raw, LeaveOneOut(core=0)).statistics | {"repeated_events_dropped": 50}
    assert left_out(statistics) == [("exact repeats", 50), ("bad", 42)]
    many = statistics | {"set_aside": {f"reason {number}": 100 - number for number in range(10)}}
    assert left_out(many)[-2:] == [("reason 7", 93), ("3 other reasons", 92 + 91 + 50)]


@pytest.mark.parametrize("items", [ITEMS, ITEMS[:0]])
def test_a_picture_of_anything(tmp_path: Path, raw: RawTables, items: DataFrame) -> None:
    """Also where no item has a text, nothing was left out, and all counts are equal."""
    corpus = prepare(raw._replace(items=items, set_aside=None), LeaveOneOut(core=0))
    draw(corpus, "a <title> & $more$", tmp_path / "reports" / "picture.png")
    content = (tmp_path / "reports" / "picture.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 20_000


EXPERIMENT = """
from genrec.experiment import Experiment, seeds
from genrec.data.sources import Frames, MovieLens

def mine():
    return seeds([Experiment(name="mine", source=Frames("events.csv"))], (0, 1))

def absent():
    return Experiment(name="absent", source=MovieLens("latest-small"))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("GENREC_OFFLINE", "")  # so that what --offline sets is taken back
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    LOG.to_csv("events.csv", index=False)
    return tmp_path


def test_the_command_describes_each_data_set_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "experiment.py:mine", "--split.core", "0", "--picture", "p.png"]) == 0
    out = capsys.readouterr().out
    assert out.count("2 users, 4 items, 8 interactions") == 1
    assert out.startswith("Frames(tolerated=0.01), LeaveOneOut(core=0, ")
    assert (project / "p.png").exists()
    assert [path.name for path in (project / "data" / "artifacts").iterdir()] == ["data"]  # nothing else was run
    assert main(["data", "experiment.py:mine", "--split.core", "0"]) == 0
    assert len(list((project / "data" / "reports").glob("frames-*.png"))) == 1
    array = next((project / "data" / "artifacts" / "data").glob("*/event_item.npy"))
    array.write_bytes(array.read_bytes()[:-1] + b"9")
    assert main(["data", "experiment.py:mine", "--split.core", "0"]) == 4
    assert "--refresh data" in capsys.readouterr().err
    assert main(["data", "experiment.py:mine", "--split.core", "0", "--refresh", "data"]) == 0
    assert main(["data", "experiment.py:mine", "--picture", "p.xyz"]) == 2
    assert "--picture must end in .png, .pdf, .svg, got p.xyz" in capsys.readouterr().err
    assert main(["data", "experiment.py:mine", "--split.core", "0", "--picture", "/proc/p.png"]) == 2
    assert "can't be written" in capsys.readouterr().err
    assert main(["data", "experiment.py:mine"]) == 3
    assert "nothing is left after the filter '5-core of users and items'" in capsys.readouterr().err


def test_offline_says_what_is_missing_and_where_it_belongs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["data", "experiment.py:absent", "--offline"], ["run", "experiment.py:absent", "--dry-run"]):
        assert main(command) == 7
        said = capsys.readouterr().err
        assert "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip" in said
        assert str(project / "data" / "raw" / "ml-latest-small.zip") in said
    assert not (project / "data").exists()  # a dry run writes nothing


def test_reading_ahead_gives_the_same_and_passes_errors_on() -> None:
    assert list(ahead(range(20))) == list(range(20))

    def broken() -> Iterator[int]:
        yield 1
        raise InputError("line 2")

    taken = []
    with pytest.raises(InputError, match="line 2"):
        for item in ahead(broken()):
            taken.append(item)
    assert taken == [1]


def test_reading_ahead_stops_with_its_reader() -> None:
    read: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            read.append(1)
            yield np.zeros(10)

    source = ahead(endless())
    next(source)
    source.close()
    count = len(read)
    time.sleep(0.05)
    assert len(read) == count <= 6
