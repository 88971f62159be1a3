"""The corpus artifact: its files, opening it without reading the events, and errors for damaged files."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genrec.data.array_files import ArrayWriter, open_array
from genrec.data.corpus import Corpus
from genrec.data.corpus_builder import prepare
from genrec.data.splits import LeaveOneOut
from genrec.data.worlds import Cyclic, Shop
from genrec.errors import ArtifactError, UsageError

WORLD = Cyclic(num_items=12, num_users=20, length=6)
ARRAYS = ["event_item.npy", "event_time.npy", "bounds.npy"]
TABLES = [f"{name}.parquet" for name in ("interactions", "items", "split", "users", "set_aside")]


def corpus(folder: Path, source: Cyclic | Shop = WORLD) -> Corpus:
    return prepare(source.load(Path()), LeaveOneOut(), folder)


@pytest.mark.parametrize(("source", "rated"), [(WORLD, False), (Shop(num_items=60, num_users=40), True)])
def test_tables_and_arrays_hold_the_same_events(tmp_path: Path, source: Cyclic | Shop, rated: bool) -> None:
    made = corpus(tmp_path, source)
    expected = {*ARRAYS, *TABLES, "stats.json"} | ({"event_rating.npy"} if rated else set())
    assert {path.name for path in tmp_path.iterdir()} == expected  # the event log's temporary files are deleted
    tables = pd.read_parquet(tmp_path / "interactions.parquet").assign(part=pd.read_parquet(tmp_path / "split.parquet")["part"])
    pd.testing.assert_frame_equal(made.interactions, tables, check_dtype=False)
    assert dict(made.interactions.dtypes.astype(str)) == dict(
        zip(made.interactions.columns, ["int64"] * 3 + ["float64"] * rated + ["str"], strict=True)
    )
    assert (made.item.dtype, made.bounds.shape) == (np.int32, (made.user_count, 4))
    assert len(made.items) == made.item_count
    assert len(made.user_ids) == made.user_count


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        corpus(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_parts_make_up_the_interactions(tmp_path: Path) -> None:
    made = corpus(tmp_path)
    parts = [made.part(name) for name in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [80, 20, 20]
    together = pd.concat(parts).sort_values(["user", "time"], kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(together, made.interactions)
    assert made.popularity("test").tolist() == np.bincount(parts[2]["item"], minlength=13).tolist()
    with pytest.raises(UsageError, match="a part is one of train, validation, test"):
        made.part("valid")  # type: ignore[arg-type]


def test_chunks_give_every_event_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = corpus(tmp_path)
    monkeypatch.setattr("genrec.data.splits.CHUNK", 7)
    parts = np.concatenate([parts for _, parts in made.chunks()])
    assert np.array(["train", "validation", "test"])[parts].tolist() == made.interactions["part"].tolist()


def test_a_temporary_corpus_is_deleted_with_its_object() -> None:
    made = prepare(WORLD.load(Path()), LeaveOneOut())
    folder = made.folder
    assert len(made.items) == 12
    del made
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize("name", [*ARRAYS, "stats.json", "items.parquet", "users.parquet", "set_aside.parquet"])
def test_missing_and_damaged_files_are_an_error(tmp_path: Path, name: str) -> None:
    corpus(tmp_path)

    def read() -> None:
        made = Corpus.load(tmp_path)
        _ = made.items, made.user_ids, made.set_aside  # tables are read on first access

    for damage in (lambda path: path.write_bytes(b"{"), Path.unlink):
        damage(tmp_path / name)
        with pytest.raises(ArtifactError, match=name.replace(".", r"\.")) as caught:
            read()
        assert caught.value.exit_code == 4


def test_files_that_do_not_match_are_an_error(tmp_path: Path) -> None:
    good = corpus(tmp_path / "good")
    bounds, statistics = np.array(good.bounds), good.statistics
    cases = {
        r"event_item\.npy has 120 entries, but event_time\.npy has 119": ("event_time.npy", np.array(good.time[1:])),
        r"event_item\.npy must be int32 \[events\], got float64": ("event_item.npy", np.array(good.item, dtype=np.float64)),
        r"bounds\.npy must cover the events 0\.\.120, got 0\.\.114": ("bounds.npy", bounds[:-1]),
        r"bounds\.npy must be int64 \[users, 4\], got int64 \[20, 3\]": ("bounds.npy", bounds[:, :3]),
    }
    for message, (name, array) in cases.items():
        corpus(tmp_path / "bad")
        np.save(tmp_path / "bad" / name, array)
        with pytest.raises(ArtifactError, match=message):
            Corpus.load(tmp_path / "bad")
    corpus(tmp_path / "bad")
    for change, message in (({"users": 3}, "has 3 users, the arrays have 20"), ({"items": None}, "must have the number of items")):
        (tmp_path / "bad" / "stats.json").write_text(json.dumps(statistics | change))
        with pytest.raises(ArtifactError, match=message):
            Corpus.load(tmp_path / "bad")
    good.items[:5].to_parquet(tmp_path / "good" / "items.parquet")
    with pytest.raises(ArtifactError, match=r"items must be exactly 1\.\.12, but items\.parquet has 5 rows"):
        _ = Corpus.load(tmp_path / "good").items


def test_statistics_are_plain_json(tmp_path: Path) -> None:
    made = corpus(tmp_path, Shop(num_items=60, num_users=40))
    assert json.loads(json.dumps(made.statistics, allow_nan=False)) == made.statistics


def test_an_array_may_be_written_in_parts(tmp_path: Path) -> None:
    parts = [np.arange(size) for size in (0, 4, 1, 7)]
    with ArrayWriter(tmp_path / "array.npy", np.int32) as writer:
        for part in parts:
            writer.append(part)
    whole = np.concatenate(parts).astype(np.int32)
    for read in (open_array(tmp_path / "array.npy"), np.load(tmp_path / "array.npy")):
        assert read.dtype == np.int32
        np.testing.assert_array_equal(read, whole)


def test_assignments_to_an_opened_array_do_not_change_the_file(tmp_path: Path) -> None:
    with ArrayWriter(tmp_path / "array.npy", np.int64) as writer:
        writer.append(np.arange(5))
    opened = open_array(tmp_path / "array.npy")
    opened[:] = 0
    assert np.load(tmp_path / "array.npy").tolist() == [0, 1, 2, 3, 4]


def sparse_array(path: Path, dtype: type[np.generic], rows: int) -> None:
    """Write an array of zeros as a sparse file."""
    with ArrayWriter(path, dtype) as writer:
        writer.rows = rows
    with path.open("ab") as file:
        file.truncate(128 + rows * np.dtype(dtype).itemsize)


def test_a_corpus_of_a_hundred_million_events_is_memory_mapped(tmp_path: Path) -> None:
    users, events = 1_000_000, 100_000_000
    sparse_array(tmp_path / "event_item.npy", np.int32, events)
    sparse_array(tmp_path / "event_time.npy", np.int64, events)
    end = np.arange(100, events + 1, 100)
    np.save(tmp_path / "bounds.npy", np.stack([end - 100, end - 2, end - 1, end], axis=1))
    (tmp_path / "stats.json").write_text(json.dumps({"users": users, "items": 5, "interactions": events}))
    made = Corpus.load(tmp_path)
    assert (made.user_count, len(made.item)) == (users, events)
    assert all(isinstance(column, np.memmap) for column in (made.item, made.time))
