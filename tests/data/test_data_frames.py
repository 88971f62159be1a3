"""Data sets from your own tables: ids stay unchanged, times, file formats, invalid tables."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame, Series

from genrec.data.readers.frame_tables import frame_digest
from genrec.data.readers.time_texts import UNREADABLE
from genrec.data.sources import Frames
from genrec.errors import InputError, UsageError
from genrec.experiment import Experiment
from genrec.overrides import override, print_fields
from genrec.store import describe
from genrec.types import Source

UNUSUAL = ["007", "7", "nan", "NA", "None", "a b", " lead", "x,y", 'say "hi"', "é", "🙂", "1e3", "-0", "null", "a\u2028b"]
EVENTS = DataFrame({"user": UNUSUAL, "item": UNUSUAL[::-1], "time": range(15), "rating": [4.5] * 15})
ITEMS = DataFrame({"item": UNUSUAL, "text": [f"text {number}" for number in range(15)], "color": ["red"] * 15})


def write(folder: Path, form: str) -> Frames:
    """Write both tables to files of a format."""
    paths = [folder / f"{name}.{form}" for name in ("events", "items")]
    for frame, path in zip((EVENTS, ITEMS), paths, strict=True):
        if "json" in form:
            text = "\n".join(json.dumps(row, ensure_ascii=False) for row in frame.to_dict("records"))
        elif form == "parquet":
            frame.to_parquet(path)
            continue
        else:
            text = frame.to_csv(index=False, sep="\t" if "tsv" in form else ",")
        path.write_bytes(gzip.compress(text.encode()) if form.endswith("gz") else text.encode())
    return Frames(*paths)


@pytest.mark.parametrize("form", ["csv", "tsv", "csv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_unusual_ids_are_kept_in_every_format(tmp_path: Path, form: str) -> None:
    raw, expected = write(tmp_path, form).load(tmp_path), Frames(EVENTS, ITEMS).load(tmp_path)
    for table in (raw, expected):
        assert table.interactions["user"].tolist() == UNUSUAL
        assert table.interactions["item"].tolist() == UNUSUAL[::-1]
        assert table.items["item"].tolist() == UNUSUAL
        assert table.items.columns.tolist() == ["item", "text", "color"]
        assert table.set_aside is not None
        assert not len(table.set_aside)
    pd.testing.assert_frame_equal(raw.interactions, expected.interactions)
    pd.testing.assert_frame_equal(raw.items, expected.items)


IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n\x85\u2028\u2029"), min_size=1, max_size=8)


@given(ids=st.lists(IDS, min_size=1, max_size=20))
def test_any_text_is_an_id(tmp_path_factory: pytest.TempPathFactory, ids: list[str]) -> None:
    path = tmp_path_factory.mktemp("frames") / "events.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([("user", "item"), *((name, name) for name in ids)])
    for source in (Frames(path), Frames(DataFrame({"user": ids, "item": ids}))):
        interactions = source.load(path).interactions
        assert interactions["user"].tolist() == interactions["item"].tolist() == ids


def test_integer_ids_become_text_and_fractions_are_errors(tmp_path: Path) -> None:
    whole = Frames(DataFrame({"user": np.array([3, 1], dtype=np.uint8), "item": [10, 20]})).load(tmp_path).interactions
    assert whole["user"].tolist() == ["3", "1"]
    with pytest.raises(InputError, match="neither text nor an integer"):
        Frames(DataFrame({"user": [1.0, 2.0], "item": ["a", "b"]})).load(tmp_path)


def test_ids_that_are_floats_get_a_hint_on_the_type(tmp_path: Path) -> None:
    """Every row has such an id, so there is no file to correct and no limit that would help."""
    with pytest.raises(InputError, match="the item is a floating-point number") as caught:
        Frames(DataFrame({"user": ["a", "b", "c"], "item": [1.0, 2.0, None]})).load(tmp_path)
    message = str(caught.value)
    assert "neither text nor an integer: 2, first in row 1; the item is empty, or neither text nor an integer: 1" in message
    assert "correct the DataFrame; write ids as text or integers" in message
    assert 'astype("Int64")' in message
    assert "max-bad-rows" not in message
    fixed = DataFrame({"user": ["a", "b", "c"] * 50, "item": [1.0, 2.0, 3.0] * 50}).astype({"item": "Int64"})
    assert set(Frames(fixed).load(tmp_path).interactions["item"]) == {"1", "2", "3"}


def test_the_limit_is_named_if_rows_would_be_left(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"correct the DataFrame, or raise the limit with --source\.max-bad-rows"):
        Frames(DataFrame({"user": ["a", None], "item": ["b", "c"]})).load(tmp_path)


def test_a_decimal_comma_in_a_rating_gets_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("user;item;rating\n" + "u;a;4,5\n" * 3 + "u;b;five\n" + "u;c;3\n")
    with pytest.raises(InputError, match=r"decimal comma: 3, first in line 2; the rating is not a finite number: 1.*as in 4\.5"):
        Frames(path, separator=";").load(tmp_path)


def test_without_times_the_row_number_is_the_time(tmp_path: Path) -> None:
    frame = EVENTS[["user", "item"]].iloc[::-1]
    assert Frames(frame).load(tmp_path).interactions["time"].tolist() == list(range(15))


def test_dates_become_seconds(tmp_path: Path) -> None:
    frame = DataFrame({"user": ["a"] * 3, "item": ["b"] * 3, "time": pd.to_datetime([86_400, 1_577_836_801, 172_800], unit="s")})
    assert Frames(frame).load(tmp_path).interactions["time"].tolist() == [86_400, 1_577_836_801, 172_800]
    zoned = frame.assign(time=frame["time"].dt.tz_localize("Europe/Berlin"))
    assert Frames(zoned).load(tmp_path).interactions["time"].tolist()[0] == 82_800


def test_rows_with_missing_values_are_set_aside(tmp_path: Path) -> None:
    frame = DataFrame({"user": ["a"] * 300, "item": ["b"] * 300, "time": [*range(299), None], "rating": [None, *[3.0] * 299]})
    frame.loc[1, "user"] = None
    raw = Frames(frame).load(tmp_path)
    assert raw.set_aside is not None
    assert raw.set_aside[["file", "line"]].to_numpy().tolist() == [["interactions (DataFrame)", 2], ["interactions (DataFrame)", 300]]
    assert raw.interactions["rating"].isna().tolist()[:2] == [True, False]


def test_quoted_line_breaks_are_read_and_a_stray_quote_is_set_aside(tmp_path: Path) -> None:
    events, items = tmp_path / "events.csv", tmp_path / "items.csv"
    items.write_text('\ufeffitem,text\na,"two\nlines, <b>one</b> text"\nb,plain\n')
    events.write_text("user,item\r\n" + "u,a\r\n" * 400 + 'u,"stray\r\nu,b\r\n')
    raw = Frames(events, items).load(tmp_path)
    assert raw.items["text"].tolist() == ["two lines, one text", "plain"]
    assert len(raw.interactions) == 400
    assert raw.set_aside is not None
    assert raw.set_aside["line"].tolist() == [402, 403]  # both lines that the stray quote joins
    events.write_text("user,item\n" + "u,a\n" * 100 + 'u,"stray\n' + "u,b\n" * 50_000)
    with pytest.raises(InputError, match="are malformed"):
        Frames(events).load(tmp_path)


def test_without_a_text_column_the_other_columns_are_the_text(tmp_path: Path) -> None:
    items = DataFrame({"item": [1, 2], "name": ["Tea &amp; Co", None], "tags": [["hot", "drink"], []], "price": [2.5, np.nan]})
    loaded = Frames(EVENTS, items).load(tmp_path).items
    assert loaded["text"].tolist() == ["Tea & Co. hot|drink. 2.5", ""]
    assert loaded["tags"].tolist() == ["hot|drink", ""]


def test_titles_of_markup_alone_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tag, a script and a space of HTML are lost; a blank title and an inequality are not."""
    titles = ["Pan", "<b></b>", "<script>a()</script>", "&nbsp;", "  ", "3 < 4", None]
    items = DataFrame({"item": [f"i{place}" for place in range(7)], "title": titles})
    items.to_csv(tmp_path / "items.csv", index=False)
    events = DataFrame({"user": ["a"], "item": ["i0"], "time": [1]})
    for source, name, line in ((tmp_path / "items.csv", "items.csv", 3), (items, "items (DataFrame)", 2)):
        found = Frames(interactions=events, items=source).load(tmp_path).items
        assert found["title"].tolist() == ["Pan", "", "", "", "", "3 < 4", ""]
        warning = f"warning: 3 titles of {name} hold nothing but markup (first in line {line}), so their items have no title"
        assert capsys.readouterr().err.count(warning) == 1
    Frames(interactions=events, items=items[:1]).load(tmp_path)
    assert "markup" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user,thing\na,b\n", "needs a column 'item'; it has 'user', 'thing'"),
        ("user,item,item\na,b,c\n", "several columns with the same name"),
        ("user,item\n", "holds no rows"),
        ("", "needs a column 'user'; it has none"),
    ],
)
def test_invalid_columns(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "events.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        Frames(tmp_path / "events.csv").load(tmp_path)


def test_invalid_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("table.xlsx", "table"):
        (tmp_path / name).touch()
        with pytest.raises(InputError, match=r"expected a name that ends in \.csv"):
            Frames(tmp_path / name).load(tmp_path)
    with pytest.raises(InputError, match="there is no file"):
        Frames(str(tmp_path / "absent.csv")).load(tmp_path)
    (tmp_path / "purchases.csv").touch()
    for known, folder in ((tmp_path, ""), (Path(), f" in the current folder {tmp_path}")):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError) as caught:
            Frames(known / "purchase.csv").load(tmp_path)
        formats = "CSV, TSV, JSON lines, Parquet or RecBole's atomic format"
        told = f"there is no file {known / 'purchase.csv'}{folder}; expected a table in {formats}"
        assert str(caught.value) == f"{told}; did you mean 'purchases.csv'?"
    for unlike in ("absent/events.csv", str(tmp_path / "unlike.csv")):
        with pytest.raises(InputError, match=r"atomic format$"):
            Frames(unlike).load(tmp_path)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="expected a Parquet file; restore it or point to another file"):
        Frames(tmp_path / "broken.parquet").load(tmp_path)
    with pytest.raises(UsageError, match="DataFrame or a path, got dict"):
        Frames({"user": []}).load(tmp_path)  # type: ignore[arg-type]


def test_the_fingerprint_depends_on_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = write(tmp_path / "a", "csv"), write(tmp_path / "b", "csv")
    assert first != second
    assert first.fingerprint(tmp_path) == second.fingerprint(tmp_path)
    assert describe(Frames(str(first.interactions)), tmp_path) == describe(Frames(str(second.interactions)), tmp_path)
    frames = Frames(EVENTS, ITEMS)
    assert isinstance(frames, Source)
    assert frames.fingerprint(tmp_path) == Frames(EVENTS.copy(), ITEMS).fingerprint(tmp_path)
    assert frames.fingerprint(tmp_path) != Frames(EVENTS.iloc[::-1], ITEMS).fingerprint(tmp_path)
    assert frames.fingerprint(tmp_path) != Frames(EVENTS).fingerprint(tmp_path)


def test_frames_are_comparable_and_hashable() -> None:
    assert Frames(EVENTS, ITEMS) == Frames(EVENTS, ITEMS)
    assert Frames(EVENTS) != Frames(EVENTS.copy())
    assert len({Frames("a.csv"), Frames("a.csv"), Frames("b.csv")}) == 2


def overridden(source: Frames, *flags: str) -> Frames:
    """Return the source after overrides on the command line."""
    (changed,) = override([Experiment(name="mine", source=source)], flags)
    assert isinstance(changed.source, Frames)
    return changed.source


MIXED = {
    "float": [3.0, "a"],
    "integer": [3, "a"],
    "text of a float": ["3.0", "a"],
    "text": ["3", "a"],
    "truth value": [True, "a"],
    "one": [1, "a"],
}


@pytest.mark.parametrize("dtype", ["object", "category"])
def test_values_of_a_mixed_column_that_pandas_takes_for_equal_have_other_fingerprints(dtype: str) -> None:
    """A float is no id, so a table that was mended as the message asks has to be read again."""
    digests = [
        frame_digest(DataFrame({"user": ["a", "b"], "item": Series(values, dtype=object).astype(dtype)})) for values in MIXED.values()
    ]
    assert len(set(digests)) == len(MIXED)
    texts = [frame_digest(DataFrame({"item": Series(["a", missing], dtype=object)})) for missing in (None, float("nan"))]
    assert texts[0] == texts[1]


def test_the_command_line_keeps_the_tables() -> None:
    pytest.importorskip("tyro")
    changed = overridden(Frames(EVENTS, ITEMS), "--source.max-bad-rows", "0.5")
    assert changed.interactions is EVENTS
    assert changed.items is ITEMS
    assert changed.max_bad_rows == 0.5


@pytest.mark.parametrize("source", [Frames("a.csv", "b.csv"), Frames(EVENTS, ITEMS), Frames(EVENTS)])
def test_the_command_line_replaces_tables_and_options(source: Frames) -> None:
    changed = overridden(source, "--source.interactions", "~/other.csv", "--source.columns", "user_id", "user", "movieId", "item")
    assert changed.interactions == Path.home() / "other.csv"
    assert changed.items is source.items or changed.items == source.items == Path("b.csv")
    assert changed.columns == {"user_id": "user", "movieId": "item"}
    changed = overridden(changed, "--source.items", "items.csv", "--source.separator", r"\t", "--source.encoding", "Latin-1")
    assert changed.items == Path("items.csv")
    assert (changed.separator, changed.encoding) == ("\t", "iso8859-1")
    assert overridden(changed, "--source.items", "None").items is None
    assert overridden(changed, "--source.time-format", "%d.%m.%Y").time_format == "%d.%m.%Y"


def test_all_fields_of_frames_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields(Experiment(name="mine", source=Frames(EVENTS, "items.csv")))
    out = capsys.readouterr().out
    assert "--source.interactions PATH" in out
    assert "--source.time-format" in out


def test_importing_sources_imports_no_torch() -> None:
    code = "import sys, genrec.data.sources, genrec.data.worlds, genrec.data.corpus_builder; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_column_missing_in_the_first_json_object_is_read(tmp_path: Path) -> None:
    """Any object may add a column. Objects without a required column are set aside; a rating may be missing."""
    objects = [{"user": "u", "item": f"i{number}", "time": 1000 - number, "rating": 4.0, "note": {"time": 5}} for number in range(300)]
    del objects[0]["time"], objects[0]["rating"], objects[1]["rating"]
    path, items = tmp_path / "events.jsonl", tmp_path / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, objects)))
    items.write_text('{"item": "i1", "title": "one"}\n{"item": "i2", "title": "two", "text": "second", "brand": "b"}\n')
    raw = Frames(path, items).load(tmp_path)
    assert raw.interactions["time"].tolist() == [1000 - number for number in range(1, 300)]
    assert raw.interactions["rating"].isna().sum() == 1
    assert raw.set_aside is not None
    assert raw.set_aside[["line", "reason"]].to_numpy().tolist() == [[1, UNREADABLE]]
    assert raw.items.to_dict("list") == {"item": ["i1", "i2"], "text": ["", "second"], "title": ["one", "two"], "brand": ["", "b"]}


def test_nested_names_and_values_are_not_columns(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"user": "time", "item": "\\"rating\\":", "more": {"time": 7, "rating": 1}}\n' * 3)
    assert Frames(path).load(tmp_path).interactions.to_dict("list") == {
        "user": ["time"] * 3,
        "item": ['"rating":'] * 3,
        "time": [0, 1, 2],
    }


def test_a_json_array_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    path.write_text('[{"user": "a", "item": "b"},\n{"user": "a", "item": "c"}]')
    with pytest.raises(InputError, match="no line is a JSON object; expected JSON lines"):
        Frames(path).load(tmp_path)
