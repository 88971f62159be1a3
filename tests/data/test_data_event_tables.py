"""The two ways to read a file, whole blocks by Arrow and row by row, give the same result for any bytes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pandas import DataFrame

from genrec.data.readers import arrow_blocks, event_tables
from genrec.data.readers.bad_rows import LISTED, BadRows, count_reasons, set_aside_table
from genrec.data.readers.event_tables import Format
from genrec.data.readers.frame_tables import frame_event_tables, frame_rows
from genrec.data.readers.raw_tables import event_tables_from_rows
from genrec.data.readers.time_texts import TimeTexts
from genrec.data.readers.upstream_files import UpstreamFile
from genrec.data.sources.amazon_files import REVIEW_TYPES
from genrec.errors import InputError

COLUMNS = ("user", "item", "rating", "time")
FORMATS = {
    "tab": event_tables.delimited_format("\t", COLUMNS, "latin-1"),
    "colons": event_tables.delimited_format("::", COLUMNS, "utf-8"),
    "csv": event_tables.csv_format(",", ("item", "", "user", "time", "rating")),
    "json": event_tables.json_lines_format({"user": "u", "item": "i", "time": "t", "rating": "r"}, REVIEW_TYPES),
    "whole": event_tables.json_lines_format(
        {"user": "u", "item": "i", "time": "t"}, {"user": pa.int64(), "item": pa.string(), "time": pa.float64()}
    ),
}


def read(path: Path, form: Format, size: int) -> tuple[list[dict[str, object]], list[tuple[int, str]]]:
    """Return the events and the rows that are set aside."""
    bad_rows = BadRows("log")
    tables = list(event_tables.read_events(UpstreamFile(path).blocks(bad_rows, size), form, bad_rows))
    assert len({tuple(table.schema) for table in tables}) <= 1
    return [row for table in tables for row in table.to_pylist()], sorted(bad_rows.rows)


def check_equal(path: Path, content: bytes, name: str, size: int = 40) -> list[dict[str, object]]:
    """Check that both ways agree for blocks of two sizes; return the events."""
    path.write_bytes(content)
    form = FORMATS[name]
    by_row = read(path, form._replace(parse_block=lambda content: None), 1 << 20)
    for block_size in (size, 1 << 20):
        assert read(path, form, block_size) == by_row
    return by_row[0]


TEXTS = ["a", "007", "", "nan", "NA", "é", "🙂", "x y", "\r", "\0", '"', '"q"', "ÿ", "\u2028", "\x1f", ":", "::", ",", "\t", "\ufeff"]
NUMBERS = ["5", "4.5", "-1", "0x1F", "1e3", "+7", " 8", "1_0", "9007199254740992", "9007199254740991", "0000000000000000000012"]
ODD = ["nan", "inf", "1e400", ".5", "5.", "-", "--5", "1.2.3", "12345678901234567890123", "0.1234567890123456789", "True", "null", ""]
DATES = ["2019-03-01", "20190301", " 2019-03-01", "2019-03-01T12:00:00Z", "2019-03-01 12:00:00.5", "1969-12-31", "2019-02-30"]
TEXT = st.one_of(st.sampled_from(TEXTS), st.text(max_size=4))
NUMBER = st.one_of(st.sampled_from(NUMBERS + ODD), st.sampled_from(DATES), st.integers(-(2**70), 2**70).map(str), st.floats().map(str))
GOOD = st.tuples(
    st.sampled_from(["a", "b", "é"]),
    st.sampled_from(["x", "7"]),
    st.sampled_from(["5", "4.5", ""]),
    st.sampled_from(["9", "12", "9.0", *DATES[:4]]),
)
ROW = st.one_of(GOOD, st.tuples(TEXT, TEXT, NUMBER, NUMBER), st.lists(TEXT, max_size=6).map(tuple))
LINE_END = st.sampled_from(["\n", "\r\n", "\n\n", "\r\r\n", "\n"])


@pytest.mark.parametrize(("name", "separator"), [("tab", "\t"), ("colons", "::"), ("csv", ",")])
@given(rows=st.lists(st.tuples(ROW, LINE_END), max_size=12), tail=st.binary(max_size=6), size=st.integers(1, 80))
def test_delimited_files(
    tmp_path_factory: pytest.TempPathFactory, name: str, separator: str, rows: list, tail: bytes, size: int
) -> None:
    content = "".join(separator.join(fields if name != "csv" else (*fields[:1], "z", *fields[1:])) + end for fields, end in rows)
    check_equal(tmp_path_factory.getbasetemp() / name, content.encode("utf-8", "surrogatepass") + tail, name, size)


STRINGS = ['"a"', '"7"', '""', '"\\u0000"', '"\\ud800"', '"\\udc00"', '"\\ud83d\\ude42"', '"é"']
RAW_VALUE = st.sampled_from([*NUMBERS, *ODD, *STRINGS, "NaN", "true", "[1]", '{"a": 1}', "01", "-0", *map(json.dumps, DATES)])
VALUE = st.one_of(RAW_VALUE, st.text(max_size=3).map(json.dumps), st.integers().map(str), st.floats().map(json.dumps))
MEMBER = st.tuples(st.sampled_from("uitrz"), VALUE).map(lambda pair: f'"{pair[0]}": {pair[1]}')
REGULAR = st.tuples(st.sampled_from(['"a"', '"b"', "7"]), st.sampled_from(["9", "9.0"]), st.sampled_from(["5", "4.5", "null"])).map(
    lambda values: f'{{"u": {values[0]}, "i": "x", "t": {values[1]}, "r": {values[2]}, "z": [1, {{"a": "b"}}]}}'
)
JSON_LINE = st.one_of(
    REGULAR, REGULAR, st.lists(MEMBER, max_size=5).map(lambda pairs: "{" + ", ".join(pairs) + "}"), st.text(max_size=5)
)
JSON_END = st.sampled_from(["\n", "\n", "\r\n", " ", "\n\n", "", "\ufeff\n", ",\n", " \n"])


@pytest.mark.parametrize("name", ["json", "whole"])
@given(rows=st.lists(st.tuples(JSON_LINE, JSON_END), max_size=10), tail=st.binary(max_size=4), size=st.integers(1, 200))
def test_json_lines(tmp_path_factory: pytest.TempPathFactory, name: str, rows: list, tail: bytes, size: int) -> None:
    content = "".join(line + end for line, end in rows).encode("utf-8", "surrogatepass") + tail
    check_equal(tmp_path_factory.getbasetemp() / name, content, name, size)


@pytest.mark.parametrize("name", list(FORMATS))
@given(content=st.binary(max_size=60), size=st.integers(1, 30))
@example(content=b'{"u": "a"} {"u":\n"b"}', size=9)
def test_arbitrary_bytes(tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes, size: int) -> None:
    check_equal(tmp_path_factory.getbasetemp() / name, content, name, size)


CELL = st.one_of(
    st.none(), st.sampled_from(["a", "7", "", "é", "\0", "\ud800"]), st.integers(-(2**66), 2**66), st.floats(), st.booleans()
)
SERIES = st.one_of(st.lists(st.sampled_from(["a", "b"]), min_size=4, max_size=4), st.lists(st.integers(0, 9), min_size=4, max_size=4))
COLUMN = st.one_of(SERIES, st.lists(CELL, min_size=4, max_size=4), st.lists(st.floats(0, 9), min_size=4, max_size=4))
KIND = st.sampled_from([None, "category", "object"])


@given(columns=st.lists(st.tuples(COLUMN, KIND), min_size=4, max_size=4))
def test_data_frames(columns: list) -> None:
    kinds = ["object" if "\ud800" in values else kind for values, kind in columns]  # pandas rejects half a surrogate pair
    series = [pd.Series(values, dtype=kind) for (values, _), kind in zip(columns, kinds, strict=True)]
    frame = DataFrame(dict(zip(COLUMNS, series, strict=True)))
    bad_by_block, bad_by_row = BadRows("frame"), BadRows("frame")
    first = [row for table in frame_event_tables([(1, frame)], COLUMNS, bad_by_block, TimeTexts()) for row in table.to_pylist()]
    second = [row for table in event_tables_from_rows(frame_rows([(1, frame)]), COLUMNS, bad_by_row) for row in table.to_pylist()]
    assert [sorted(row.items()) for row in first] == [sorted(row.items()) for row in second]
    assert bad_by_block.rows == bad_by_row.rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tab", b"u\ti\t5\t9\r\nu\t007\t\t10\r\n"),
        ("colons", "1::🙂::4.5::9\n1::b::3::10".encode()),
        ("csv", b"i,z,u,9,\nnan,,u,10,5.0\n"),
        ("json", '{"u": "é", "i": "7", "t": 9, "r": 5, "z": {"u": [1]}}\r\n{"i": "b", "u": "c", "t": 10}\n'.encode()),
    ],
)
def test_regular_blocks_are_parsed_by_arrow(tmp_path: Path, name: str, content: bytes) -> None:
    assert FORMATS[name].parse_block(content) is not None
    assert len(check_equal(tmp_path / "log", content, name)) == 2


def test_line_numbers_across_blocks(tmp_path: Path) -> None:
    good = b"".join(b"u\ti\t5\t%d\n" % number for number in range(50))
    (tmp_path / "log").write_bytes(good + b"bad\n" + good + b"\n\0\n" + good + b"u\ti\t5\t\n")
    _, bad_rows = read(tmp_path / "log", FORMATS["tab"], 100)
    assert [line for line, _ in bad_rows] == [51, 103, 154]


def test_long_lines_in_small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrec.data.readers.upstream_files.LINE_LIMIT", 20)
    content = b"u\ti\t5\t1\n" + b"x" * 90 + b"\nu\ti\t5\t2\n" + b"x" * 21
    for size in (3, 7, 20):
        (tmp_path / "log").write_bytes(content)
        rows, bad_rows = read(tmp_path / "log", FORMATS["tab"], size)
        assert [row["time"] for row in rows] == [1, 2]
        assert [line for line, _ in bad_rows] == [2, 4]


def test_concatenated_gzip_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "log.gz").write_bytes(gzip.compress(b"u\ti\t5\t1\nu\ti\t5") + gzip.compress(b"\t2\n"))
    assert [row["time"] for row in read(tmp_path / "log.gz", FORMATS["tab"], 5)[0]] == [1, 2]
    (tmp_path / "log.gz").write_bytes((tmp_path / "log.gz").read_bytes()[:-4])
    with pytest.raises(InputError, match=r"log\.gz is damaged.*past line"):
        read(tmp_path / "log.gz", FORMATS["tab"], 5)


def test_merged_tables_have_one_schema_and_a_minimum_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_tables, "EVENTS_PER_TABLE", 10)
    small = pa.table({"item": ["i"] * 4, "user": ["u"] * 4, "rating": pa.nulls(4, pa.float64())})
    tables = list(event_tables.merge_event_tables([small] * 6, BadRows("log"), 0.01))
    assert [len(table) for table in tables] == [12, 12]
    assert tables[0].column_names == ["user", "item", "time", "rating"]
    assert [time for table in tables for time in table["time"].to_pylist()] == list(range(24))


def test_the_limit_is_checked_at_the_end_of_a_stream() -> None:
    bad_rows = BadRows("log")
    bad_rows.malformed(3, "bad")
    tables = event_tables.merge_event_tables([pa.table({"user": ["u"], "item": ["i"], "time": [1]})], bad_rows, 0.01)
    assert len(next(tables)) == 1
    with pytest.raises(InputError, match="1 of 2 rows"):
        next(tables)


def test_bad_rows_beyond_the_list_are_counted() -> None:
    bad_rows = BadRows("log")
    for line in range(LISTED + 5, 0, -1):
        bad_rows.malformed(line, "bad")
    frame = set_aside_table([bad_rows])
    assert len(frame) == LISTED + 1
    assert frame.iloc[-1].tolist() == ["log", 1, "bad: 5 more rows, not listed"]
    assert count_reasons(frame)["bad"] == (frame["reason"] == "bad").sum() + 5
    assert bad_rows.counts == {"bad": LISTED + 5}
    with pytest.raises(InputError, match=rf"bad: {LISTED + 5}, first in line 1\)"):
        bad_rows.check(1, 0.01)


def test_an_integer_above_the_largest_float_is_set_aside(tmp_path: Path) -> None:
    rows = check_equal(tmp_path / "log", b'{"u": "a", "i": "b", "t": 1' + b"0" * 400 + b'}\n{"u": "a", "i": "b", "t": 5}\n', "json")
    assert [row["time"] for row in rows] == [5]


def test_a_field_above_the_csv_limit_is_set_aside(tmp_path: Path) -> None:
    content = b"i,z,u,9,5\n" + b"x" * 140_000 + b",z,u,9,5\n"
    assert arrow_blocks.parse_delimited_block(content, ",", ("item", "", "user", "time", "rating")) is None
    assert len(check_equal(tmp_path / "log", content, "csv")) == 1
