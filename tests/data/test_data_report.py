"""`genrec data`: the report, its warnings, the plots; and prefetching."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame

from genrec import pipeline, run_files
from genrec.__main__ import main
from genrec.data.corpus_builder import prepare
from genrec.data.data_plots import draw, removed_by_reason
from genrec.data.data_report import events_of_items, head_share, lines
from genrec.data.prefetch import prefetch
from genrec.data.sources import Frames, MovieLens
from genrec.data.splits import HoldOutLast, LeaveOneOut
from genrec.embeddings import Concatenated, Precomputed
from genrec.errors import InputError
from genrec.experiment import Experiment, Tokenize, file_names
from genrec.tokenizer import Imported
from genrec.types import RawTables

#        day:      0    1    2    2    0    1    5    9
LOG = DataFrame({"user": list("aaaabbbb"), "item": list("xyzxxyzw"), "time": [86_400 * day for day in (0, 1, 2, 2, 0, 1, 5, 9)]})
ITEMS = DataFrame({"item": list("xyq"), "text": ["a text", "", "without events"]})
ASIDE = DataFrame({"file": ["f.csv"] * 3, "line": [7, 8, 9], "reason": ["bad", "bad", "bad: 40 more rows, not listed"]})


@pytest.fixture
def raw() -> RawTables:
    return RawTables(LOG, ITEMS, ASIDE)


def test_the_report_by_hand(raw: RawTables) -> None:
    assert list(lines(prepare(raw, LeaveOneOut(core=0)))) == [
        "2 users, 4 items, 8 interactions, density 87.5000%",  # a has no event with w: 7 of 2 x 4 pairs
        "repeats: 1 events (12.5%) repeat an earlier pair of user and item",
        "events per user: mean 4.0, min 4, 25th percentile 4, median 4, 75th percentile 4, 95th percentile 4, max 4",
        "events per item: mean 2.0, min 1, 25th percentile 2, median 2, 75th percentile 2, 95th percentile 3, max 3",
        "popularity: the top 1 % of items have 37.5% of the events, the top 20 % 37.5%",
        "times: 1970-01-01 to 1970-01-10 (UTC)",
        "ties in time: row order of the file; they decide the target of 50.0% of the tested users",
        "events per part: train 4, validation 2, test 2; users tested: 2",
        "text: 25.0% of the items have text, median 6 characters",
        "  items without metadata: 2",
        "  items without text: 1",
        "  metadata without events: 1 (items without events are not in the catalog)",
        "removed by the filter 'users with 3 events or more': 0 interactions, 0 users, 0 items",
        "rows set aside, bad: 42 (first in f.csv, line 7)",
        "warning: the order of rows decides which event of 50.0% of the tested users is the target; other orders show how much it "
        "matters: --split.ties random-per-seed",
        "leakage: no training event is later than a test event",
    ]


def test_ratings_are_described(raw: RawTables) -> None:
    rated = raw._replace(interactions=LOG.assign(rating=[1.0, 2, 3, 4, 5, 5, 4, np.nan]))
    (line,) = [line for line in lines(prepare(rated, LeaveOneOut(core=0))) if line.startswith("ratings")]
    assert line == "ratings: 7 of 8 events (1 missing), min 1, mean 3.43, max 5"  # 24 / 7
    report = list(lines(prepare(rated, HoldOutLast(n=2, core=0, liked=4, disliked=1))))
    (labelled,) = [line for line in report if line.startswith("ratings")]
    assert labelled.endswith("max 5; liked 50.0%, neutral 37.5%, disliked 12.5%")  # 4, 3 (2, 3 and missing) and 1 of 8
    assert not [line for line in lines(prepare(raw, LeaveOneOut(core=0))) if line.startswith("ratings")]


def test_repeated_events_do_not_raise_the_density_above_one() -> None:
    events = DataFrame({"user": "a", "item": list("xyxyxyxy"), "time": range(5, 13)})
    report = list(lines(prepare(RawTables(events, ITEMS), LeaveOneOut(core=0))))
    assert report[0] == "1 user, 2 items, 8 interactions, density 100.0000%"
    assert report[1] == "repeats: 6 events (75.0%) repeat an earlier pair of user and item"


def test_without_times_the_report_and_the_plot_show_the_order_of_rows(tmp_path: Path) -> None:
    LOG[["user", "item"]].to_csv(tmp_path / "events.csv", index=False)
    corpus = prepare(Frames(tmp_path / "events.csv").stream(tmp_path), LeaveOneOut(core=0))
    report = list(lines(corpus))
    assert "no times: order of rows" in report
    assert "leakage: unknown without times" in report
    assert not any("1970" in line or "later than" in line for line in report)
    draw(corpus, "no times", tmp_path / "picture.svg")
    assert "later than" not in (tmp_path / "picture.svg").read_text()


def test_dates_that_were_read_as_seconds_are_a_warning(raw: RawTables) -> None:
    dates = raw._replace(interactions=LOG.assign(time=range(20190301, 20190309)))
    (warning,) = [line for line in lines(prepare(dates, LeaveOneOut(core=0))) if "20190301" in line and "warning" in line]
    assert warning.endswith('name their format: --source.time-format "%Y%m%d"')


def test_leakage_is_reported(raw: RawTables) -> None:
    late = raw._replace(interactions=LOG.assign(time=[0, 1, 2, 3, 10, 11, 12, 13]))
    (leakage,) = [line for line in lines(prepare(late, LeaveOneOut(core=0))) if line.startswith("leakage")]
    assert "50.0% of the training events are later than the earliest test event, and on average 25.0% are later than a" in leakage


def test_events_of_items_and_head_share(raw: RawTables) -> None:
    events = events_of_items(prepare(raw, LeaveOneOut(core=0)))
    assert events.tolist() == [3, 2, 2, 1]  # x, y, z, w
    assert head_share(events, 0.5) == 5 / 8


def test_reasons_of_removal_are_sorted_by_frequency(raw: RawTables) -> None:
    statistics = prepare(raw, LeaveOneOut(core=0)).statistics | {"repeated_events_dropped": 50}
    assert removed_by_reason(statistics) == [("exact repeats", 50), ("bad", 42)]
    many = statistics | {"set_aside": {f"reason {number}": 100 - number for number in range(10)}}
    assert removed_by_reason(many)[-2:] == [("reason 7", 93), ("3 other reasons", 92 + 91 + 50)]


@pytest.mark.parametrize("items", [ITEMS, ITEMS[:0]])
def test_plots_of_extreme_data(tmp_path: Path, raw: RawTables, items: DataFrame) -> None:
    """No item has text, no event was removed, and all counts are equal."""
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
    monkeypatch.setenv("GENREC_OFFLINE", "")  # --offline sets it: restored after the test
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    LOG.to_csv("events.csv", index=False)
    return tmp_path


def test_the_command_describes_each_data_set_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "experiment.py:mine", "--split.core", "0", "--picture", "p.png"]) == 0
    out = capsys.readouterr().out
    assert out.count("2 users, 4 items, 8 interactions") == 1
    assert out.startswith("Frames(events.csv, max_bad_rows=0.01), LeaveOneOut(core=0, ")
    assert (project / "p.png").exists()
    assert [path.name for path in (project / "data" / "artifacts").iterdir()] == ["data"]  # no other stage has run
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
    assert "cannot be written" in capsys.readouterr().err
    assert main(["data", "experiment.py:mine"]) == 3
    assert "nothing is left after the filter '5-core of users and items'" in capsys.readouterr().err


def test_labels_show_the_names_of_files_and_keys_do_not_hold_them(project: Path) -> None:
    LOG.to_csv("copy.csv", index=False)
    ITEMS.to_csv("items.csv", index=False)
    experiment = Experiment(name="mine", source=Frames("events.csv", "items.csv"), split=LeaveOneOut(core=0))
    renamed = replace(experiment, source=Frames("copy.csv", Path("items.csv")))
    assert pipeline.plan(experiment)[0].key == pipeline.plan(renamed)[0].key
    artifact = pipeline.run(experiment, last="data")["data"]
    assert artifact.manifest["file_names"] == {"source": ["events.csv", "items.csv"]}
    assert run_files.artifact_label(artifact, "source") == "Frames(events.csv, items.csv, max_bad_rows=0.01)"
    assert run_files.artifact_label(pipeline.run(renamed, last="data")["data"], "source").startswith("Frames(events.csv, ")
    in_memory = replace(experiment, source=Frames(LOG.assign(user=LOG["user"] + "2"), ITEMS))
    artifact = pipeline.run(in_memory, last="data")["data"]
    assert run_files.artifact_label(artifact, "source") == "Frames(interactions (DataFrame), items (DataFrame), max_bad_rows=0.01)"


def test_labels_of_encoders_show_the_names_of_their_files() -> None:
    both = Concatenated((Precomputed("~/v/vectors.npy", ids="v/ids.txt"), Precomputed("other.parquet")))
    assert file_names(both) == ["vectors.npy", "ids.txt", "other.parquet"]
    assert file_names(Tokenize(Imported("a/codes.json"))) == ["codes.json"]
    assert file_names(MovieLens()) == []


def test_offline_errors_name_the_missing_file_and_its_path(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["data", "experiment.py:absent", "--offline"], ["run", "experiment.py:absent", "--dry-run"]):
        assert main(command) == 7
        error = capsys.readouterr().err
        assert "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip" in error
        assert str(project / "data" / "raw" / "ml-latest-small.zip") in error
    assert not (project / "data").exists()  # a dry run writes nothing


def test_prefetch_yields_all_items_and_raises_errors() -> None:
    assert list(prefetch(range(20))) == list(range(20))

    def broken() -> Iterator[int]:
        yield 1
        raise InputError("line 2")

    received = []
    with pytest.raises(InputError, match="line 2"):
        for item in prefetch(broken()):
            received.append(item)
    assert received == [1]


def test_prefetch_stops_when_it_is_closed() -> None:
    read: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            read.append(1)
            yield np.zeros(10)

    threads = set(threading.enumerate())
    source = prefetch(endless())
    next(source)
    assert len(set(threading.enumerate()) - threads) == 1
    source.close()
    assert set(threading.enumerate()) <= threads
    assert len(read) <= 6
