"""Filters on the event log, compared with pandas and by hand: order, counts, numbers, ties; k-cores; errors of DuckDB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pandas import DataFrame, Series

from genrec.data.corpus_builder import prepare
from genrec.data.event_log import EventLog, memory_limit, translated_errors
from genrec.data.k_core import EventChunk, IndexedEvents, k_core
from genrec.data.splits import HoldOutLast, LeaveOneOut
from genrec.errors import InputError, ResourceError, UsageError
from genrec.types import RawStream, RawTables

NOTHING = DataFrame({"item": Series(dtype=str), "text": Series(dtype=str)})
SECOND = "1970-01-01T00:00:{:02}"


def indexed(path: Path, pairs: list[tuple[int, int]], size: int = 3) -> IndexedEvents:
    """(User index, item index) pairs as events, in chunks of `size`."""
    user, item = np.array(pairs or np.empty((0, 2)), dtype=np.int32).T
    row = np.arange(len(user))
    chunks = (EventChunk(*(part[begin : begin + size] for part in (user, item, row))) for begin in range(0, len(user), size))
    return IndexedEvents(path / "events", chunks, 7, 7)


def kept_rows(events: IndexedEvents) -> list[int]:
    return [row for chunk in events.chunks() for row in chunk.row.tolist()]


def test_k_core_repeats_until_nothing_changes(tmp_path: Path) -> None:
    # Item 3 has one event. Without it user 2 has one event. Without user 2 item 2 still has two.
    events = indexed(tmp_path, [(0, 1), (2, 3), (1, 1), (0, 2), (2, 2), (1, 2)])
    k_core(events, 2, 2)
    assert kept_rows(events) == [0, 2, 3, 5]
    assert events.counts.total == 4
    assert [first.tolist()[:3] for first in events.first_rows()] == [[0, 2, 2**63 - 1], [2**63 - 1, 0, 3]]
    k_core(events, 3, 0)
    assert kept_rows(events) == []


EVENTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60)


@given(EVENTS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 70))
def test_k_core_is_the_largest_subset_with_enough_events(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[int, int]], users: int, items: int, size: int
) -> None:
    events = indexed(tmp_path_factory.mktemp("core"), pairs, size)
    k_core(events, users, items)
    rows = list(range(len(pairs)))  # removing one event at a time, in any order, gives the same core
    while True:
        below = [
            row
            for row in rows
            if sum(pairs[other][0] == pairs[row][0] for other in rows) < users
            or sum(pairs[other][1] == pairs[row][1] for other in rows) < items
        ]
        if not below:
            break
        rows.remove(below[-1])
    assert kept_rows(events) == rows
    assert events.counts.users.tolist() == np.bincount([pairs[row][0] for row in rows], minlength=7).tolist()


def expected(frame: DataFrame, split: LeaveOneOut) -> DataFrame:
    """Apply the split's filters with pandas: user, item, time, rating, sorted, ties in the order of rows."""
    if split.repeats == "exact":
        frame = frame.drop_duplicates()
    if split.min_rating is not None:
        frame = frame[frame["rating"] >= split.min_rating]
    for bound, inside in ((split.since, frame["time"].ge), (split.until, frame["time"].lt)):
        if bound is not None:
            frame = frame[inside(int(bound[-2:])).reindex(frame.index)]
    if split.repeats in ("first", "last"):
        by_time = frame.sort_values("time", kind="stable")
        frame = frame.loc[by_time.drop_duplicates(["user", "item"], keep=split.repeats).index.sort_values()]
    users, items = split.filters().cores
    while len(frame):
        size = {name: frame.groupby(name)["time"].transform("size") for name in ("user", "item")}
        enough = (size["user"] >= max(users, 3)) & (size["item"] >= items)  # a user needs one event in each part
        if enough.all():
            break
        frame = frame[enough]
    number = {name: place for place, name in enumerate(dict.fromkeys(frame["user"]))}
    return frame.assign(order=frame["user"].map(number)).sort_values(["order", "time"], kind="stable").drop(columns="order")


LOGS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("wxyz"), st.integers(0, 9), st.sampled_from([1.0, 4.5, None])), max_size=50
)
SPLITS = st.builds(
    LeaveOneOut,
    core=st.integers(0, 4),
    item_core=st.none() | st.integers(0, 3),
    min_rating=st.none() | st.just(4.0),
    since=st.none() | st.integers(0, 3).map(SECOND.format),
    until=st.none() | st.integers(5, 9).map(SECOND.format),
    repeats=st.sampled_from(["keep", "exact", "first", "last"]),
)


@given(LOGS, SPLITS, st.integers(1, 60))
@example([("a", "w", 0, 1.0), ("a", "x", 0, 1.0), ("a", "y", 0, 1.0), ("a", "w", 0, 1.0)], LeaveOneOut(core=0, repeats="last"), 1)
def test_any_log_is_filtered_as_in_pandas(events: list[tuple[str, str, int, float | None]], split: LeaveOneOut, size: int) -> None:
    """For all filters, and for any number of tables in the stream."""
    frame = DataFrame(events, columns=["user", "item", "time", "rating"]).astype({"rating": float, "user": str, "item": str})
    tables = [frame[begin : begin + size] for begin in range(0, len(frame), size)]
    raw = RawStream(iter(tables), iter([]), lambda: DataFrame())
    try:
        corpus = prepare(raw, split)
    except InputError as error:
        known_error = any(part in str(error) for part in ("read no interactions", "nothing is left after", "needs ratings"))
        if not known_error or not (frame["rating"].isna().all() or expected(frame, split).empty):
            raise
        return
    wanted, rows = expected(frame, split), corpus.interactions
    assert corpus.user_ids[rows["user"] - 1].tolist() == wanted["user"].tolist()
    assert corpus.items["item_id"].to_numpy()[rows["item"] - 1].tolist() == wanted["item"].tolist()
    assert rows["time"].tolist() == wanted["time"].tolist()
    if "rating" in rows:
        np.testing.assert_array_equal(rows["rating"], wanted["rating"])
    else:
        assert wanted["rating"].isna().all()
    in_file_order = wanted.sort_index()
    assert corpus.items["item_id"].tolist() == list(dict.fromkeys(in_file_order["item"]))  # numbered by first appearance
    removed = sum(counts["interactions"] for counts in corpus.statistics["removed_by_filter"].values())
    assert len(frame) == len(rows) + removed + corpus.statistics["repeated_events_dropped"]


def log_of(*pairs: str) -> RawTables:
    """Return one event a pair: 'a1' is user a and item 1."""
    return RawTables(
        DataFrame({"user": [pair[0] for pair in pairs], "item": [pair[1:] for pair in pairs], "time": range(len(pairs))}), NOTHING
    )


def test_events_removed_by_each_filter_are_counted() -> None:
    raw = log_of("a1", "a2", "a3", "b1", "b2", "b3", "c1", "a3", "a4", "d9")
    raw.interactions["rating"] = [4, 4, 5, 4, 5, 4, 1, np.nan, 4, 5]
    corpus = prepare(raw, LeaveOneOut(core=2, min_rating=4))
    assert corpus.statistics["removed_by_filter"] == {
        "rating of 4 or more": {"interactions": 2, "users": 1, "items": 0},
        "2-core of users and items": {"interactions": 2, "users": 1, "items": 2},
        "users with 3 events or more": {"interactions": 0, "users": 0, "items": 0},
    }
    assert corpus.items["item_id"].tolist() == ["1", "2", "3"]


def test_the_filter_that_empties_the_data_is_named() -> None:
    raw = log_of("a1", "a2", "b1")
    raw.interactions["rating"] = [1.0, 2.0, 3.0]
    for split, name in (
        (LeaveOneOut(min_rating=4), "rating of 4 or more"),
        (LeaveOneOut(core=3), "3-core of users and items"),
        (LeaveOneOut(core=3, item_core=2), "3-core of users, 2-core of items"),
        (LeaveOneOut(core=0), "users with 3 events or more"),
        (LeaveOneOut(since="2000-01-01"), "events from 2000-01-01 on"),
        (LeaveOneOut(until="1970-01-01"), "events before 1970-01-01"),
    ):
        with pytest.raises(InputError, match=f"nothing is left after the filter '{name}': it removed all 3") as caught:
            prepare(raw, split)
        assert caught.value.exit_code == 3


def test_a_split_that_holds_out_more_than_users_have_is_explained() -> None:
    message = r"'users with 5 events or more': .* and 3 items; every user needs a training event beside those held out; use more data"
    with pytest.raises(InputError, match=message):
        prepare(log_of("a1", "a2", "a3"), HoldOutLast(n=4, core=0))


def test_bounds_of_ratings_may_be_numbers_of_numpy() -> None:
    raw = log_of("a1", "a2", "a3", "a4", "a5", "a6")
    raw.interactions["rating"] = [1.0, 3.0, 4.0, 5.0, 5.0, 2.0]
    split = LeaveOneOut(core=0, min_rating=np.float64(2.5), liked=np.float64(4.0))  # 1 and 6 are below 2.5
    assert prepare(raw, split).items["item_id"].tolist() == ["2", "3", "4", "5"]


def test_min_rating_needs_ratings() -> None:
    without = log_of("a1")
    for raw in (without, without._replace(interactions=without.interactions.assign(rating=np.nan))):
        with pytest.raises(InputError, match="needs ratings, but the data set has none"):
            prepare(raw, LeaveOneOut(min_rating=3))


def test_ids_that_differ_in_any_way_are_different() -> None:
    ids = ["7", "07", "7 ", " 7", "A", "a", "Ａ", "é", "e\u0301", "nan", "NaN", "NULL", "", "🎬", "x,y", 'x"y', "x\ny"]
    frame = DataFrame({"user": "u", "item": ids, "time": range(len(ids))})
    corpus = prepare(RawTables(frame, DataFrame({"item": ids, "text": ids, "Text": "other", "number": "3"})), LeaveOneOut(core=0))
    assert corpus.items["item_id"].tolist() == ids
    assert corpus.items["text"].tolist()[9:12] == ["nan", "NaN", "NULL"]
    assert corpus.items.columns.tolist() == ["item_id", "text", "Text", "number"]
    assert corpus.items["Text"].eq("other").all()
    reserved = DataFrame({"item": ids, "text": ids, "item_id": "own", "listed": "yes"})
    items = prepare(RawTables(frame, reserved), LeaveOneOut(core=0)).items
    assert items.columns.tolist() == ["item_id", "text", "item_id (source)", "listed"]
    assert (items["item_id"].tolist(), items["listed"].tolist()) == (ids, ["yes"] * len(ids))


@pytest.mark.parametrize("form", ["frame", "table", "batch", "stream"])
def test_a_stream_takes_tables_of_any_kind(form: str) -> None:
    raw = log_of("a1", "a2", "a3")
    table = pa.Table.from_pandas(raw.interactions, preserve_index=False)
    forms = {
        "frame": raw.interactions,
        "table": table,
        "batch": table.to_batches()[0],
        "stream": pa.RecordBatchReader.from_stream(table),
    }
    corpus = prepare(RawStream(iter([forms[form]]), iter([]), lambda: DataFrame()), LeaveOneOut(core=0))
    assert corpus.items["item_id"].tolist() == ["1", "2", "3"]
    with pytest.raises(InputError, match="must be DataFrames or Arrow tables, got list"):
        prepare(RawStream(iter([[1, 2]]), iter([]), lambda: DataFrame()), LeaveOneOut())


def test_the_tables_of_a_stream_may_have_ids_of_different_arrow_types() -> None:
    """As files of different writers have them: `string` of Arrow, `large_string` of pandas, `string_view` of Polars."""
    tables = []
    for place, kind in enumerate((pa.string(), pa.large_string(), pa.string_view())):
        tables.append(pa.table({"user": pa.array(["a"], kind), "item": pa.array([f"{place}"], kind), "time": [place]}))
    tables.append(DataFrame({"user": [], "item": [], "time": []}))
    corpus = prepare(RawStream(iter(tables), iter([]), lambda: DataFrame()), LeaveOneOut(core=0))
    assert corpus.items["item_id"].tolist() == ["0", "1", "2"]


def test_tables_of_items_with_different_columns_are_an_error() -> None:
    tables = [DataFrame({"item": ["1"], "text": ["one"]}), DataFrame({"item": ["2"], "text": ["two"], "more": [""]})]
    with pytest.raises(InputError, match=r"has the columns \['text', 'more'\], those before it had \['text'\]"):
        prepare(RawStream(iter([log_of("a1", "a2", "a3").interactions]), iter(tables), lambda: DataFrame()), LeaveOneOut(core=0))


def test_an_error_of_the_source_is_passed_on_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    def broken():
        yield log_of("a1", "a2").interactions
        raise InputError("line 3 is damaged")

    with pytest.raises(InputError, match="line 3 is damaged"):
        prepare(RawStream(broken(), iter([]), lambda: DataFrame()), LeaveOneOut(core=0), tmp_path / "corpus")
    assert list((tmp_path / "corpus").iterdir()) == []


def test_a_log_larger_than_memory_and_disk_is_a_resource_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_MEMORY", "lots")
    with pytest.raises(UsageError, match="GENREC_MEMORY must be a size such as 512MB"):
        memory_limit()
    monkeypatch.setenv("GENREC_MEMORY", "99999999TB")
    with pytest.raises(UsageError, match="GENREC_MEMORY must be a size"):
        EventLog(tmp_path)
    monkeypatch.setenv("GENREC_MEMORY", "1MB")
    frame = DataFrame({"user": [str(row) for row in range(200_000)], "item": "x" * 40, "time": 0})
    with pytest.raises(ResourceError, match=r"allow more memory with GENREC_MEMORY \(now 1MB\)") as caught:
        prepare(RawTables(frame, NOTHING), LeaveOneOut(core=0), tmp_path / "corpus")
    assert caught.value.exit_code == 5


def test_the_corpus_does_not_depend_on_the_memory_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log several times larger than the limit spills to its folder."""
    source = np.random.default_rng(0)
    count = 400_000
    frame = DataFrame(
        {
            "user": [f"user-{number:040}" for number in source.integers(0, 40_000, count)],
            "item": [f"item-{number:040}" for number in source.integers(0, 5_000, count)],
            "time": source.integers(0, 10**6, count),
        }
    )
    corpora = []
    for limit in ("48MB", "4GB"):
        monkeypatch.setenv("GENREC_MEMORY", limit)
        corpora.append(prepare(RawTables(frame, NOTHING), LeaveOneOut(), tmp_path / limit))
    for path in (tmp_path / "48MB").iterdir():
        assert path.read_bytes() == (tmp_path / "4GB" / path.name).read_bytes(), path.name


def test_an_empty_log_leaves_no_file(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        assert log.count("SELECT 1 + 1") == 2
    assert pd.Series(list(tmp_path.iterdir())).empty


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RuntimeError("Query interrupted"), KeyboardInterrupt),
        (OSError("[Errno 28] No space left on device"), ResourceError),
        (pa.ArrowInvalid("Out of Memory Error: failed to pin block"), ResourceError),
        (RuntimeError("something else"), RuntimeError),
        (InputError("the source's own"), InputError),
    ],
)
def test_errors_of_the_log_are_translated(raised: Exception, expected: type[BaseException]) -> None:
    with pytest.raises(expected), translated_errors():
        raise raised


@pytest.mark.parametrize("shown", [True, False])
def test_an_event_log_opens_where_no_progress_bar_can_be_set(shown: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Jupyter without ipywidgets DuckDB has no bar, and refuses to switch it off; elsewhere a bar that is on is switched off."""
    duckdb = pytest.importorskip("duckdb")
    connect, asked = duckdb.connect, []

    class Connection:
        def __init__(self, *arguments: object, **options: object) -> None:
            self.real = connect(*arguments, **options)

        def execute(self, query: str) -> object:
            if "enable_progress_bar" not in query:
                return self.real.execute(query)
            asked.append(query)
            if query.startswith("SET") and not shown:
                raise duckdb.InvalidInputException("Could not change the progress bar setting")
            return self.real.execute(f"SELECT {shown}")

    monkeypatch.setattr(duckdb, "connect", Connection)
    assert EventLog(tmp_path).connection.execute("SELECT 1").fetchall() == [(1,)]
    assert [query.startswith("SET") for query in asked] == [False, True][: 1 + shown]
