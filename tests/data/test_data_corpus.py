"""The data artifact: an exact round trip, and what is refused on loading."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from pandas import DataFrame

from genrec.data.corpus import Corpus
from genrec.data.prepare import prepare
from genrec.data.splits import LeaveOneOut
from genrec.data.worlds import Cyclic, Shop
from genrec.errors import ArtifactError, UsageError

WORLD = Cyclic(items=12, users=20, length=6)
FILES = {f"{name}.parquet" for name in ("interactions", "items", "split", "users", "set_aside")} | {"stats.json"}


def corpus(source: Cyclic | Shop = WORLD) -> Corpus:
    return prepare(source.load(Path()), LeaveOneOut())


@pytest.mark.parametrize("source", [WORLD, Shop(items=60, users=40)])
def test_round_trip(tmp_path: Path, source: Cyclic | Shop) -> None:
    before = corpus(source)
    before.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    after = Corpus.load(tmp_path)
    pd.testing.assert_frame_equal(after.interactions, before.interactions)
    pd.testing.assert_frame_equal(after.items, before.items)
    pd.testing.assert_frame_equal(after.set_aside, before.set_aside)
    assert after.user_ids.tolist() == before.user_ids.tolist()
    assert after.statistics == before.statistics
    assert (after.item_count, after.user_count) == (len(before.items), len(before.user_ids))


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        corpus().save(tmp_path / name)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_parts_make_up_the_interactions() -> None:
    made = corpus()
    parts = [made.part(name) for name in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [80, 20, 20]
    assert sum(map(len, parts)) == len(made.interactions)
    with pytest.raises(UsageError, match="a part is one of train, validation, test"):
        made.part("valid")  # type: ignore[arg-type]


def change(folder: Path, name: str, frame: DataFrame) -> None:
    frame.to_parquet(folder / f"{name}.parquet", index=False)


@pytest.mark.parametrize("name", sorted(FILES))
def test_missing_and_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    corpus().save(tmp_path)
    for damage in (lambda path: path.write_bytes(b"{"), Path.unlink):
        damage(tmp_path / name)
        with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
            Corpus.load(tmp_path)


def test_tables_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    made = corpus()
    rows = made.interactions.drop(columns="part")
    cases = {
        "120 interactions but 119 rows": ("split", made.interactions[["part"]][1:]),
        "unknown part 'dev'": ("split", DataFrame({"part": ["dev"] * 120})),
        r"items must be exactly 1\.\.11, got 1\.\.12": ("items", made.items[1:]),
        r"items must be exactly 1\.\.13": ("items", pd.concat([made.items, made.items[:1]])),
        r"users must be exactly 1\.\.19": ("users", DataFrame({"user_id": made.user_ids[1:]})),
        "users must be int64": ("interactions", rows.astype({"user": "float64"})),
        r"items must be exactly 1\.\.12, got -1": ("interactions", rows.assign(item=[-1, *rows["item"][1:]])),
        "not sorted": ("interactions", rows[::-1]),
        "no column 'time'": ("interactions", rows[["user", "item"]]),
    }
    for message, (name, frame) in cases.items():
        made.save(tmp_path)
        change(tmp_path, name, frame)
        with pytest.raises(ArtifactError, match=message) as caught:
            Corpus.load(tmp_path)
        assert caught.value.exit_code == 4


def test_statistics_are_plain_json(tmp_path: Path) -> None:
    made = corpus(Shop(items=60, users=40))
    assert json.loads(json.dumps(made.statistics, allow_nan=False)) == made.statistics
