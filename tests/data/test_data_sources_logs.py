"""Two ways to read one file: whole blocks by Arrow, and row by row. They must agree on every byte (FAULTS R1, R4)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pandas import DataFrame

from genrec.data.readers import arrow_blocks, event_tables
from genrec.data.readers.bad_rows import LISTED, BadRows, count_reasons, set_aside_table
from genrec.data.readers.event_tables import Format
from genrec.data.readers.raw_tables import event_tables_from_rows
from genrec.data.readers.upstream_files import UpstreamFile
from genrec.data.sources.amazon_files import REVIEW_TYPES
from genrec.data.sources.frames import _frame_event_tables, _frame_rows
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


def outcome(path: Path, form: Format, size: int) -> tuple[list[dict[str, object]], list[tuple[int, str]]]:
    """The events and what was set aside; NaN compares by its text."""
    ledger = BadRows("log")
    tables = list(event_tables.read_events(UpstreamFile(path).blocks(ledger, size), form, ledger))
    assert len({tuple(table.schema) for table in tables}) <= 1
    return [row for table in tables for row in table.to_pylist()], sorted(ledger.rows)


def agree(path: Path, content: bytes, name: str, size: int = 40) -> list[dict[str, object]]:
    path.write_bytes(content)
    form = FORMATS[name]
    careful = outcome(path, form._replace(parse_block=lambda content: None), 1 << 20)
    for blocks in (size, 1 << 20):
        assert outcome(path, form, blocks) == careful
    return careful[0]


ODD = ["a", "007", "", "nan", "NA", "é", "🙂", "x y", "\r", "\0", '"', '"q"', "ÿ", "\u2028", "\x1f", ":", "::", ",", "\t", "\ufeff"]
NUMBERS = ["5", "4.5", "-1", "0x1F", "1e3", "+7", " 8", "1_0", "9007199254740992", "9007199254740991", "0000000000000000000012"]
MORE = ["nan", "inf", "1e400", ".5", "5.", "-", "--5", "1.2.3", "12345678901234567890123", "0.1234567890123456789", "True", "null", ""]
TEXT = st.one_of(st.sampled_from(ODD), st.text(max_size=4))
NUMBER = st.one_of(st.sampled_from(NUMBERS + MORE), st.integers(-(2**70), 2**70).map(str), st.floats().map(str))
GOOD = st.tuples(
    st.sampled_from(["a", "b", "é"]), st.sampled_from(["x", "7"]), st.sampled_from(["5", "4.5", ""]), st.sampled_from(["9", "12"])
)
ROW = st.one_of(GOOD, st.tuples(TEXT, TEXT, NUMBER, NUMBER), st.lists(TEXT, max_size=6).map(tuple))
END = st.sampled_from(["\n", "\r\n", "\n\n", "\r\r\n", "\n"])


@pytest.mark.parametrize(("name", "separator"), [("tab", "\t"), ("colons", "::"), ("csv", ",")])
@given(rows=st.lists(st.tuples(ROW, END), max_size=12), tail=st.binary(max_size=6), size=st.integers(1, 80))
@settings(deadline=None, max_examples=250)
def test_delimited_files(
    tmp_path_factory: pytest.TempPathFactory, name: str, separator: str, rows: list, tail: bytes, size: int
) -> None:
    content = "".join(separator.join(fields if name != "csv" else (*fields[:1], "z", *fields[1:])) + end for fields, end in rows)
    agree(tmp_path_factory.getbasetemp() / name, content.encode("utf-8", "surrogatepass") + tail, name, size)


STRINGS = ['"a"', '"7"', '""', '"\\u0000"', '"\\ud800"', '"\\udc00"', '"\\ud83d\\ude42"', '"é"']
RAW_VALUE = st.sampled_from([*NUMBERS, *MORE, *STRINGS, "NaN", "true", "[1]", '{"a": 1}', "01", "-0"])
VALUE = st.one_of(RAW_VALUE, st.text(max_size=3).map(json.dumps), st.integers().map(str), st.floats().map(json.dumps))
PAIR = st.tuples(st.sampled_from("uitrz"), VALUE).map(lambda pair: f'"{pair[0]}": {pair[1]}')
USUAL = st.tuples(st.sampled_from(['"a"', '"b"', "7"]), st.sampled_from(["9", "9.0"]), st.sampled_from(["5", "4.5", "null"])).map(
    lambda values: f'{{"u": {values[0]}, "i": "x", "t": {values[1]}, "r": {values[2]}, "z": [1, {{"a": "b"}}]}}'
)
RECORD = st.one_of(USUAL, USUAL, st.lists(PAIR, max_size=5).map(lambda pairs: "{" + ", ".join(pairs) + "}"), st.text(max_size=5))
JOIN = st.sampled_from(["\n", "\n", "\r\n", " ", "\n\n", "", "\ufeff\n", ",\n", " \n"])


@pytest.mark.parametrize("name", ["json", "whole"])
@given(rows=st.lists(st.tuples(RECORD, JOIN), max_size=10), tail=st.binary(max_size=4), size=st.integers(1, 200))
@settings(deadline=None, max_examples=250)
def test_json_lines(tmp_path_factory: pytest.TempPathFactory, name: str, rows: list, tail: bytes, size: int) -> None:
    content = "".join(record + end for record, end in rows).encode("utf-8", "surrogatepass") + tail
    agree(tmp_path_factory.getbasetemp() / name, content, name, size)


@pytest.mark.parametrize("name", list(FORMATS))
@given(content=st.binary(max_size=60), size=st.integers(1, 30))
@example(content=b'{"u": "a"} {"u":\n"b"}', size=9)
@settings(deadline=None, max_examples=100)
def test_arbitrary_bytes(tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes, size: int) -> None:
    agree(tmp_path_factory.getbasetemp() / name, content, name, size)


CELL = st.one_of(
    st.none(), st.sampled_from(["a", "7", "", "é", "\0", "\ud800"]), st.integers(-(2**66), 2**66), st.floats(), st.booleans()
)
SERIES = st.one_of(st.lists(st.sampled_from(["a", "b"]), min_size=4, max_size=4), st.lists(st.integers(0, 9), min_size=4, max_size=4))
COLUMN = st.one_of(SERIES, st.lists(CELL, min_size=4, max_size=4), st.lists(st.floats(0, 9), min_size=4, max_size=4))
KIND = st.sampled_from([None, "category", "object"])


@given(columns=st.lists(st.tuples(COLUMN, KIND), min_size=4, max_size=4))
@settings(deadline=None, max_examples=250)
def test_data_frames(columns: list) -> None:
    kinds = ["object" if "\ud800" in values else kind for values, kind in columns]  # pandas makes no text of half a pair
    series = [pd.Series(values, dtype=kind) for (values, _), kind in zip(columns, kinds, strict=True)]
    frame = DataFrame(dict(zip(COLUMNS, series, strict=True)))
    quickly, slowly = BadRows("frame"), BadRows("frame")
    first = [row for table in _frame_event_tables([(1, frame)], quickly) for row in table.to_pylist()]
    second = [row for table in event_tables_from_rows(_frame_rows([(1, frame)]), COLUMNS, slowly) for row in table.to_pylist()]
    assert [sorted(row.items()) for row in first] == [sorted(row.items()) for row in second]
    assert quickly.rows == slowly.rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tab", b"u\ti\t5\t9\r\nu\t007\t\t10\r\n"),
        ("colons", "1::🙂::4.5::9\n1::b::3::10".encode()),
        ("csv", b"i,z,u,9,\nnan,,u,10,5.0\n"),
        ("json", '{"u": "é", "i": "7", "t": 9, "r": 5, "z": {"u": [1]}}\r\n{"i": "b", "u": "c", "t": 10}\n'.encode()),
    ],
)
def test_regular_files_take_the_quick_way(tmp_path: Path, name: str, content: bytes) -> None:
    assert FORMATS[name].parse_block(content) is not None
    assert len(agree(tmp_path / "log", content, name)) == 2


def test_line_numbers_over_blocks(tmp_path: Path) -> None:
    good = b"".join(b"u\ti\t5\t%d\n" % number for number in range(50))
    (tmp_path / "log").write_bytes(good + b"bad\n" + good + b"\n\0\n" + good + b"u\ti\t5\t\n")
    _, aside = outcome(tmp_path / "log", FORMATS["tab"], 100)
    assert [line for line, _ in aside] == [51, 103, 154]


def test_lines_that_are_too_long_in_small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrec.data.readers.upstream_files.LINE_LIMIT", 20)
    content = b"u\ti\t5\t1\n" + b"x" * 90 + b"\nu\ti\t5\t2\n" + b"x" * 21
    for size in (3, 7, 20):
        (tmp_path / "log").write_bytes(content)
        rows, aside = outcome(tmp_path / "log", FORMATS["tab"], size)
        assert [row["time"] for row in rows] == [1, 2]
        assert [line for line, _ in aside] == [2, 4]


def test_concatenated_gzips_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "log.gz").write_bytes(gzip.compress(b"u\ti\t5\t1\nu\ti\t5") + gzip.compress(b"\t2\n"))
    assert [row["time"] for row in outcome(tmp_path / "log.gz", FORMATS["tab"], 5)[0]] == [1, 2]
    (tmp_path / "log.gz").write_bytes((tmp_path / "log.gz").read_bytes()[:-4])
    with pytest.raises(InputError, match=r"log\.gz is damaged.*past line"):
        outcome(tmp_path / "log.gz", FORMATS["tab"], 5)


def test_pieces_have_one_schema_and_a_decent_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_tables, "EVENTS_PER_TABLE", 10)
    small = pa.table({"item": ["i"] * 4, "user": ["u"] * 4, "rating": pa.nulls(4, pa.float64())})
    pieces = list(event_tables.merge_event_tables([small] * 6, BadRows("log"), 0.01))
    assert [len(piece) for piece in pieces] == [12, 12]
    assert pieces[0].column_names == ["user", "item", "time", "rating"]
    assert [time for piece in pieces for time in piece["time"].to_pylist()] == list(range(24))


def test_limits_hold_at_the_end_of_a_stream() -> None:
    ledger = BadRows("log")
    ledger.malformed(3, "bad")
    pieces = event_tables.merge_event_tables([pa.table({"user": ["u"], "item": ["i"], "time": [1]})], ledger, 0.01)
    assert len(next(pieces)) == 1
    with pytest.raises(InputError, match="1 of 2 rows"):
        next(pieces)


def test_a_ledger_counts_more_than_it_lists() -> None:
    ledger = BadRows("log")
    for line in range(LISTED + 5, 0, -1):
        ledger.malformed(line, "bad")
    frame = set_aside_table([ledger])
    assert len(frame) == LISTED + 1
    assert frame.iloc[-1].tolist() == ["log", 1, "bad: 5 more rows, not listed"]
    assert count_reasons(frame)["bad"] == (frame["reason"] == "bad").sum() + 5
    assert ledger.counts == {"bad": LISTED + 5}
    with pytest.raises(InputError, match=rf"bad: {LISTED + 5}, first in line 1\)"):
        ledger.check(1, 0.01)


def test_an_integer_that_no_float_holds_is_set_aside(tmp_path: Path) -> None:
    rows = agree(tmp_path / "log", b'{"u": "a", "i": "b", "t": 1' + b"0" * 400 + b'}\n{"u": "a", "i": "b", "t": 5}\n', "json")
    assert [row["time"] for row in rows] == [5]


def test_a_field_over_the_limit_of_csv_is_set_aside(tmp_path: Path) -> None:
    assert arrow_blocks.parse_delimited_block(b"i,z,u,9,5\n" + b"x" * 140_000 + b",z,u,9,5\n", ",", ("item", "", "user", "time", "rating")) is None
    assert len(agree(tmp_path / "log", b"i,z,u,9,5\n" + b"x" * 140_000 + b",z,u,9,5\n", "csv")) == 1
