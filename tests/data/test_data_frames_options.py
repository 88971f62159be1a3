"""`Frames` reads foreign tables: other column names, separators, dates, encodings and RecBole's atomic files."""

from __future__ import annotations

import ast
import gzip
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame

from genrec.data.readers.time_texts import NEGATIVE_TIME, NOT_IN_FORMAT, UNREADABLE
from genrec.data.sources import Frames
from genrec.errors import InputError, UsageError
from genrec.store import describe

PLAIN = "user,item,time,rating\n" + "".join(f"u{row % 3},i{row % 4},{1_000 + row},{row % 5}\n" for row in range(12))
ITEMS = "item,text\n" + "".join(f"i{row},text é {row}\n" for row in range(4))


def written(folder: Path, name: str, content: str | bytes) -> Path:
    """Write a file and return its path."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def expected(folder: Path) -> Frames:
    """Return the tables in genrec's own form."""
    return Frames(written(folder, "plain.csv", PLAIN), written(folder, "plain-items.csv", ITEMS))


def same(source: Frames, other: Frames) -> None:
    """Check that two sources read the same tables and set nothing aside."""
    first, second = source.load(Path()), other.load(Path())
    pd.testing.assert_frame_equal(first.interactions, second.interactions)
    pd.testing.assert_frame_equal(first.items, second.items)
    assert first.set_aside is not None
    assert not len(first.set_aside)


NAMES = {"user_id": "user", "movieId": "item", "ts": "time", "stars": "rating", "name": "text"}


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl", "DataFrame"])
def test_columns_have_other_names_in_every_format(tmp_path: Path, form: str) -> None:
    plain = expected(tmp_path)
    tables = []
    for path in (plain.interactions, plain.items):
        frame = pd.read_csv(path).rename(columns={new: old for old, new in NAMES.items()})
        file = tmp_path / f"{len(tables)}.{form}"
        if form == "csv":
            frame.to_csv(file, index=False)
        elif form == "parquet":
            frame.to_parquet(file)
        elif form == "jsonl":
            frame.to_json(file, orient="records", lines=True)
        tables.append(frame if form == "DataFrame" else file)
    same(Frames(*tables, columns=NAMES), plain)


@pytest.mark.parametrize(("separator", "suffix"), [(";", "csv"), ("|", "txt"), ("::", "dat"), ("\t", "csv"), (",", "tsv.gz")])
def test_any_separator(tmp_path: Path, separator: str, suffix: str) -> None:
    contents = [PLAIN.replace(",", separator).encode(), ITEMS.replace(",", separator).encode()]
    packed = [gzip.compress(content) if suffix.endswith("gz") else content for content in contents]
    paths = [written(tmp_path, f"{number}.{suffix}", content) for number, content in enumerate(packed)]
    same(Frames(*paths, separator=separator), expected(tmp_path))


def test_each_table_has_its_own_separator(tmp_path: Path) -> None:
    """A separator that leaves one column in a table is an error with the field to set, until both are read."""
    events = written(tmp_path, "events.csv", PLAIN.replace(",", ";"))
    items = written(tmp_path, "items.csv", ITEMS)
    same(Frames(events, items, separator=";", items_separator=","), expected(tmp_path))
    same(
        Frames(tmp_path / "plain.csv", written(tmp_path, "tabs.csv", ITEMS.replace(",", "\t")), items_separator=r"\t"),
        expected(tmp_path),
    )
    with pytest.raises(InputError, match=r"columns of events\.csv look separated by ';': set Frames\(separator=';'\) or --source"):
        Frames(events, items).load(tmp_path)
    told = r"items\.csv look separated by ',': set Frames\(items_separator=','\) or --source\.items-separator \",\""
    with pytest.raises(InputError, match=told):
        Frames(events, items, separator=";").load(tmp_path)


def test_renamed_columns_get_the_hint_on_the_separator_too(tmp_path: Path) -> None:
    events = written(tmp_path, "german.csv", "customer;sku\na;b\n")
    with pytest.raises(
        InputError, match=r"no table has: german\.csv has 'customer;sku'; the columns of german\.csv look separated by ';'"
    ):
        Frames(events, columns={"customer": "user", "sku": "item"}).load(tmp_path)
    items = written(tmp_path, "items.csv", "sku,name\nb,c\n")
    with pytest.raises(InputError, match=r"of items\.csv look separated by ',': set Frames\(items_separator=','\)"):
        Frames(events, items, columns={"customer": "user", "sku": "item", "name": "text"}, separator=";").load(tmp_path)


@pytest.mark.parametrize("columns", [None, {"customer": "user", "sku": "item", "name": "text"}])
def test_swapped_tables_are_named(tmp_path: Path, columns: dict[str, str] | None) -> None:
    events = written(tmp_path, "purchases.csv", "customer,sku,day\na,b,2020-01-01\n")
    items = written(tmp_path, "products.csv", "sku,name\nb,c\n")
    with pytest.raises(
        InputError, match=r"products\.csv, given as the interactions, has no column of users, but purchases\.csv.* swapped"
    ):
        Frames(items, events, columns=columns).load(tmp_path)
    with pytest.raises(InputError) as caught:  # no table has users
        Frames(items, items, columns=columns and {"sku": "item"}).load(tmp_path)
    assert "swapped" not in str(caught.value)


def test_atomic_files_of_recbole(tmp_path: Path) -> None:
    """Headers have types, times are fractions, and names are RecBole's; a CSV file may have such a header too."""
    rows = PLAIN.splitlines()[1:]
    events = "user_id:token\titem_id:token\ttimestamp:float\trating:float\n" + "\n".join(rows).replace(",", "\t").replace("\t1", "\t1")
    events = "\n".join("\t".join([u, i, f"{t}.0", r]) for u, i, t, r in (row.split(",") for row in rows))
    header = "user_id:token\titem_id:token\ttimestamp:float\trating:float\n"
    inter = written(tmp_path, "mine.inter", header + events + "\n")
    items = written(tmp_path, "mine.item", ITEMS.replace("item,text", "item_id:token,text:token_seq").replace(",", "\t"))
    same(Frames(inter, items), expected(tmp_path))
    same(Frames(written(tmp_path, "x.csv", (header + events).replace("\t", ",")), items), expected(tmp_path))
    renamed = written(tmp_path, "other.inter", header.replace("item_id", "movie") + events)
    for name in ("movie", "movie:token"):
        same(Frames(renamed, items, columns={name: "item"}), expected(tmp_path))


def test_latin_1_by_option(tmp_path: Path) -> None:
    items = written(tmp_path, "items.csv", ITEMS.encode("latin-1"))
    plain = expected(tmp_path)
    same(Frames(plain.interactions, items, encoding="latin-1"), plain)
    with pytest.raises(InputError, match=r'not UTF-8.*Frames\(encoding="latin-1"\) or --source\.encoding latin-1'):
        Frames(plain.interactions, items).load(tmp_path)
    header = written(tmp_path, "header.csv", "user,item,ré\nu,é,1\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"the header can't be read: the line is not UTF-8 \(line 1\); name the encoding"):
        Frames(header).load(tmp_path)
    assert Frames(header, encoding="latin-1").load(tmp_path).interactions["item"].tolist() == ["é"]
    json_lines = written(tmp_path, "events.jsonl", '{"user": "é", "item": "b"}\n'.encode("latin-1"))
    assert Frames(json_lines, encoding="latin-1").load(tmp_path).interactions["user"].tolist() == ["é"]
    with pytest.raises(InputError, match=r"no line is a JSON object.*encoding"):
        Frames(json_lines).load(tmp_path)


def test_utf_16_is_named_as_a_likely_cause(tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        with pytest.raises(
            InputError, match=r"the header can't be read: the line holds a NUL byte \(line 1\); convert a file in UTF-16"
        ):
            Frames(written(tmp_path, "events.csv", PLAIN.encode(encoding))).load(tmp_path)


DATES = {  # seconds since 1970, by hand: 2019-03-01 is 17,956 days after 1970-01-01
    "2019-03-01": 17_956 * 86_400,
    "2019-03-01T12:00:00Z": 17_956 * 86_400 + 43_200,
    "2019-03-01 12:00": 17_956 * 86_400 + 43_200,
    "2019-03-01T12:00:00+02:00": 17_956 * 86_400 + 36_000,
    "2019-03-01T12:00:00.999": 17_956 * 86_400 + 43_200,
    "20190302": 17_957 * 86_400,
}


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_iso_dates_are_read_without_an_option(tmp_path: Path, suffix: str) -> None:
    rows = [f'{{"user": "u", "item": "i", "time": "{text}"}}' if suffix == "jsonl" else f"u,i,{text}" for text in DATES]
    content = "\n".join(rows if suffix == "jsonl" else ["user,item,time", *rows])
    raw = Frames(written(tmp_path, f"events.{suffix}", content)).load(tmp_path)
    assert raw.interactions["time"].tolist() == list(DATES.values())


def test_times_that_are_no_dates_are_set_aside_with_their_line(tmp_path: Path) -> None:
    times = [*["2019-03-01"] * 400, "01.03.2019", "1551398400", "2019-02-30", "", "1969-12-31"]
    content = "user,item,time\n" + "".join(f"u,i,{time}\n" for time in times)
    raw = Frames(written(tmp_path, "events.csv", content), max_bad_rows=0.1).load(tmp_path)
    assert len(raw.interactions) == 400
    assert raw.set_aside is not None
    assert raw.set_aside["line"].tolist() == [402, 403, 404, 405, 406]
    assert raw.set_aside["reason"].tolist() == [*[UNREADABLE] * 4, NEGATIVE_TIME]
    numbers = written(tmp_path, "numbers.csv", "user,item,time\n" + "u,i,5\n" * 300 + "u,i,2019-03-01\n")
    assert Frames(numbers).load(tmp_path).set_aside["line"].tolist() == [302]
    german = written(tmp_path, "german.csv", "user,item,time\nu,i,01.03.2019\n")
    with pytest.raises(InputError, match=r'name the format of the times, such as Frames\(time_format="%d\.%m\.%Y"\)'):
        Frames(german).load(tmp_path)


@pytest.mark.parametrize(
    ("text", "time_format", "second"),
    [
        ("01.03.2019", "%d.%m.%Y", 0),
        ("20190301", "%Y%m%d", 0),
        ("03/01/19 12h", "%m/%d/%y %Hh", 43_200),
        ("1 Mar 2019 +0100", "%d %b %Y %z", -3600),
    ],
)
def test_times_in_a_format_of_strptime(tmp_path: Path, text: str, time_format: str, second: int) -> None:
    content = "user,item,time\n" + f"u,i,{text}\n" * 200 + "u,i,2019-03-01T01\n"
    raw = Frames(written(tmp_path, "events.csv", content), time_format=time_format).load(tmp_path)
    assert set(raw.interactions["time"]) == {DATES["2019-03-01"] + second}
    assert raw.set_aside is not None
    assert raw.set_aside[["line", "reason"]].to_numpy().tolist() == [[202, NOT_IN_FORMAT]]


def test_numbers_in_a_time_format_and_dates_of_pandas(tmp_path: Path) -> None:
    numbers = DataFrame({"user": "u", "item": "i", "time": [20190301, 20190302]})
    assert Frames(numbers, time_format="%Y%m%d").load(tmp_path).interactions["time"].tolist() == [1_551_398_400, 1_551_484_800]
    moments = numbers.assign(time=pd.to_datetime(["2019-03-01", "2019-03-02"]))
    for frame in (moments, moments.assign(time=[date(2019, 3, 1), datetime(2019, 3, 2, tzinfo=UTC)])):
        assert Frames(frame, time_format="%Y%m%d").load(tmp_path).interactions["time"].tolist() == [1_551_398_400, 1_551_484_800]
    for kind in ("datetime64[ns]", "datetime64[s]"):
        moments.astype({"time": kind}).to_parquet(tmp_path / "events.parquet")
        assert Frames(tmp_path / "events.parquet").load(tmp_path).interactions["time"].tolist() == [1_551_398_400, 1_551_484_800]
    moments.assign(time=[date(2019, 3, 1), date(2019, 3, 2)]).to_parquet(tmp_path / "events.parquet")
    assert Frames(tmp_path / "events.parquet").load(tmp_path).interactions["time"].tolist() == [1_551_398_400, 1_551_484_800]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"usr_id": "user"}, r"renames 'usr_id', a column that no table has: events\.csv has 'user_id', .*; the nearest is 'user_id'"),
        ({"user": "user_id"}, r"write the table's name first: \{'user_id': 'user'\}"),
        ({"ts": "timee"}, r"renames 'ts' of events\.csv to 'timee', which is not read; expected one of user, item, time, rating; the"),
        ({"user_id": "item"}, "needs a column 'user'|several columns with the same name"),
    ],
)
def test_unknown_columns_are_refused_with_those_that_exist(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    source = Frames(
        written(tmp_path, "events.csv", "user_id,item,ts\na,b,1\n"), written(tmp_path, "items.csv", ITEMS), columns=columns
    )
    with pytest.raises(InputError, match=message):
        source.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user;item\na;b\n", r"it has 'user;item'; the columns of events\.csv look separated by ';': set Frames\(separator=';'\)"),
        ("user|item\na|b\n", r"separated by '\|'"),
        ("user\titem\na\tb\n", r"separated by '\\t'"),
        ("user_id,movieId,ts\na,b,1\n", r"Frames\(columns=\{'user_id': 'user', 'movieId': 'item', 'ts': 'time'\}\)"),
    ],
)
def test_missing_columns_are_named_with_the_remedy(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Frames(written(tmp_path, "events.csv", content)).load(tmp_path)


def test_the_suggested_columns_keep_the_given_ones_and_name_the_time(tmp_path: Path) -> None:
    events = written(tmp_path, "events.csv", "customer,sku,stars,bought_at\nu,i,3,2020-01-01\n")
    suggested = "{'customer': 'user', 'sku': 'item', 'bought_at': 'time', 'stars': 'rating'}"
    for known in ({}, {"sku": "item", "bought_at": "time"}, {"bought_at": "time", "stars": "rating"}):
        with pytest.raises(InputError, match=r"name them with Frames\(columns=(\{.*\})\), or --source") as caught:
            Frames(events, columns=known).load(tmp_path)
        columns = ast.literal_eval(str(caught.value).partition("columns=")[2].partition("), or")[0])
        assert columns == ast.literal_eval(suggested), known
        assert Frames(events, columns=columns).load(tmp_path).interactions["time"].tolist() == [1_577_836_800]  # 2020-01-01
        flags = " ".join(word for pair in columns.items() for word in pair)
        assert str(caught.value).endswith(f"or --source.columns {flags}")


def test_common_names_are_suggested_with_quoted_flags(tmp_path: Path) -> None:
    events = written(tmp_path, "events.csv", "Customer ID,product,when\nu,i,1\n")
    with pytest.raises(InputError, match=r"or --source\.columns 'Customer ID' user product item when time$"):
        Frames(events).load(tmp_path)


def test_a_suggestion_without_a_time_says_that_the_order_of_rows_counts(tmp_path: Path) -> None:
    for header, told in (("customer,sku,stars", True), ("buyer,sku,stars", True), ("customer,sku,bought_at", False)):
        with pytest.raises(InputError, match="name them with") as caught:
            Frames(written(tmp_path, "events.csv", f"{header}\na,b,1\n"), columns={"sku": "item"}).load(tmp_path)
        assert ("Without a column 'time' the order of the rows counts" in str(caught.value)) is told
        assert "Frames(columns={'sku': 'item', " in str(caught.value)


def test_the_name_of_the_items_is_one_in_both_tables(tmp_path: Path) -> None:
    events = written(tmp_path, "events.csv", "user,sku,time\na,b,1\n")
    items = written(tmp_path, "items.csv", "product_id,name,created_at\nb,Boots,2020-01-01\n")
    with pytest.raises(InputError, match="both tables need one name for 'item': rename 'product_id' to 'sku' in this one"):
        Frames(events, items, columns={"sku": "item"}).load(tmp_path)
    with pytest.raises(InputError, match=r"items\.csv needs a column 'item'.*Frames\(columns=\{'product_id': 'item'\}\), or"):
        Frames(written(tmp_path, "plain.csv", "user,item,time\na,b,1\n"), items).load(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["timestamp", "ts", "day", "event_time", "unixReviewTime", "order-date", "bought_at", "createdAt", "Purchased", "date_added"],
)
def test_a_time_under_another_name_is_not_ignored_in_silence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Frames(written(tmp_path, "events.csv", f"user,item,{name}\na,b,9\n")).load(tmp_path)
    assert f"events.csv has no column 'time', so the order of its rows counts; if {name!r} holds the times" in capsys.readouterr().err
    for content in ("user,item,rating\na,b,9\n", f"user,item,time,{name}\na,b,9,9\n"):
        Frames(written(tmp_path, "events.csv", content)).load(tmp_path)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"a": "user", "b": "user"}}, "gives 'a', 'b' one name, 'user'"),
        ({"columns": ["user"]}, "must map names"),
        ({"separator": ""}, "without quotes and line ends, got ''"),
        ({"items_separator": ""}, "Frames.items_separator must be text"),
        ({"items_separator": ";"}, "for a text file of items"),
        ({"separator": '"'}, "without quotes and line ends"),
        ({"time_format": "%Q"}, "is no format of times"),
        ({"time_format": "%d.%m."}, "has no year"),
        ({"encoding": "latin-99"}, "must name an encoding such as latin-1"),
        ({"encoding": "utf-16"}, "must be an extension of ASCII"),
    ],
)
def test_invalid_options_are_refused_at_once(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Frames("events.csv", **options)  # type: ignore[arg-type]


def test_a_separator_without_a_text_file_is_refused() -> None:
    with pytest.raises(UsageError, match="neither table is one"):
        Frames("events.parquet", DataFrame({"item": ["a"]}), separator=";")


def test_options_are_in_the_key_where_they_change_the_result(tmp_path: Path) -> None:
    path = written(tmp_path, "events.csv", PLAIN)
    plain = describe(Frames(path), tmp_path)
    assert plain == {"class": plain["class"], "fingerprint": plain["fingerprint"], "max_bad_rows": 0.01}
    assert describe(Frames(path, encoding="UTF8", columns={}), tmp_path) == plain
    options = ({"columns": {"time": "time"}}, {"separator": ";"}, {"time_format": "%Y"}, {"encoding": "latin-1"})
    assert len({Frames(path, path), Frames(path, path, items_separator=";")}) == 2
    keys = [describe(Frames(path, **each), tmp_path) for each in options]  # type: ignore[arg-type]
    assert all(key != plain for key in keys)
    assert len({Frames(path), *(Frames(path, **each) for each in options)}) == 5  # type: ignore[arg-type]


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\x85"), min_size=1, max_size=4)
MOMENTS = st.datetimes(datetime(1960, 1, 1), datetime(2200, 1, 1))
ZONED = st.datetimes(datetime(1975, 1, 1), datetime(2030, 1, 1), timezones=st.sampled_from([UTC]))
TIMES = st.one_of(
    st.lists(st.integers(0, 10**10), min_size=4, max_size=4),
    st.lists(st.floats(0, 10**10).map(np.floor), min_size=4, max_size=4),
    st.lists(MOMENTS, min_size=4, max_size=4).map(pd.to_datetime),
    st.lists(ZONED, min_size=4, max_size=4).map(pd.to_datetime),
    st.lists(MOMENTS.map(datetime.date), min_size=4, max_size=4),
)
VALUES = st.one_of(
    st.lists(TEXTS, min_size=4, max_size=4),
    st.lists(st.one_of(st.none(), st.integers(0, 9)), min_size=4, max_size=4),
    st.lists(st.floats(allow_nan=True, allow_infinity=False), min_size=4, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.lists(MOMENTS, min_size=4, max_size=4).map(pd.to_datetime),
)


@given(users=st.lists(TEXTS, min_size=4, max_size=4), times=TIMES, text=VALUES, other=VALUES, index=st.booleans())
def test_a_data_frame_gives_the_same_tables_as_its_csv_file(
    tmp_path_factory: pytest.TempPathFactory, users: list[str], times: object, text: object, other: object, index: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    events = DataFrame({"user": users, "item": list("abcd"), "time": times})
    items = DataFrame({"item": list("abcd"), "title": text, "other": other})
    events.to_csv(folder / "events.csv", index=index)
    items.to_csv(folder / "items.csv", index=index)
    first = Frames(events, items, max_bad_rows=1.0)
    second = Frames(folder / "events.csv", folder / "items.csv", max_bad_rows=1.0)
    try:
        raw = first.load(folder)
    except InputError:
        with pytest.raises(InputError):
            second.load(folder)
        return
    pd.testing.assert_frame_equal(raw.interactions, second.load(folder).interactions)
    pd.testing.assert_frame_equal(raw.items, second.load(folder).items)
