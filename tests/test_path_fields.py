"""Path fields take text and `Path` alike, and the key of a component does not depend on where its files lie."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import genrec
from genrec.data.corpus import Corpus
from genrec.data.readers.own_tables import OwnTable
from genrec.data.readers.upstream_files import UpstreamFile
from genrec.data.sources import AmazonReviews2014, AmazonReviews2018, AmazonReviews2023, Frames, MovieLens
from genrec.data.sources.amazon_files import CategoryFiles
from genrec.embeddings import Precomputed, SentenceEncoder
from genrec.errors import UsageError
from genrec.kept_rows import KeptRows
from genrec.preference.candidates import Pairs
from genrec.store import describe
from genrec.tokenizer import Imported
from genrec.tuning_record import Record
from genrec.types import Proposals, TrainingStep

FILES = {
    "pairs.csv": 'history,chosen,rejected\n[""a""],b,c\n',
    "u.data": "1\t7\t4\t881250949\n",
    "u.item": "7|Toy Story (1995)|01-Jan-1995|||1\n",
    "u.genre": "Comedy|0\n",
    "reviews_Toys_5.json": '{"reviewerID": "A", "asin": "B", "overall": 4.0, "unixReviewTime": 5}\n',
    "meta_Toys.json": '{"asin": "B", "title": "Ball"}\n',
    "Toys_5.json": '{"reviewerID": "A", "asin": "B", "unixReviewTime": 5}\n',
    "Toys.jsonl": '{"user_id": "A", "parent_asin": "B", "rating": 5.0, "timestamp": 1588687728923}\n',
    "meta_Toys.jsonl": '{"parent_asin": "B", "title": "Ball"}\n',
    "events.csv": "user,item\nA,B\n",
    "items.csv": "item,text\nB,Ball\n",
    "codes.json": '{"B": [1, 2]}',
    "table.tsv": "B\tB\n",
    "ids.txt": "B\n",
}
MAKERS: dict[type, Callable[[Callable[[str], Any]], Any]] = {  # class -> component from a function that names a file in some way
    AmazonReviews2014: lambda at: AmazonReviews2014("Toys", path=at("")),
    AmazonReviews2018: lambda at: AmazonReviews2018("Toys", path=at("")),
    AmazonReviews2023: lambda at: AmazonReviews2023("Toys", path=at("")),
    MovieLens: lambda at: MovieLens(path=at("")),
    Frames: lambda at: Frames(at("events.csv"), at("items.csv")),
    Precomputed: lambda at: Precomputed(at("vectors.npy"), ids=at("ids.txt")),
    Imported: lambda at: Imported(at("codes.json"), ids=at("table.tsv")),
    Pairs: lambda at: Pairs(at("pairs.csv")),
    SentenceEncoder: lambda at: SentenceEncoder(at("model")),
}
INTERNAL = {
    UpstreamFile,
    OwnTable,
    CategoryFiles,
    Corpus,
    Record,
    TrainingStep,
    Proposals,
    KeptRows,
}  # values that no experiment holds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a file of every kind."""
    place = tmp_path / "here" / "files"
    (place / "model").mkdir(parents=True)
    for name, content in FILES.items():
        (place / name).write_text(content)
    np.save(place / "vectors.npy", np.ones((1, 2), np.float32))
    (place / "model" / "config.json").write_text(json.dumps({"model": 1}))
    return place


@pytest.mark.parametrize("kind", list(MAKERS), ids=lambda kind: kind.__name__)
def test_the_key_is_the_same_for_every_way_to_name_a_file(kind: type, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = Path(shutil.copytree(folder, folder.parents[1] / "there" / "else"))
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.chdir(folder.parent)
    ways: tuple[Callable[[str], Path | str], ...] = (
        lambda name: folder / name,
        lambda name: str(folder / name),
        lambda name: f"files/{name}" if name != "model" else f"./files/{name}",
        lambda name: Path("files") / name if name != "model" else Path.cwd() / "files" / name,
        lambda name: f"~/files/{name}",
        lambda name: Path("~/files") / name,
        lambda name: moved / name,
        lambda name: str(moved / name),
    )
    components = [MAKERS[kind](way) for way in ways]
    descriptions = [describe(component, folder) for component in components]
    assert all(description == descriptions[0] for description in descriptions)
    assert not any(place in json.dumps(descriptions[0]) for place in ("here", "files/", "there", "~"))
    if kind is not SentenceEncoder:
        assert components[0] == components[1]
        assert dataclasses.replace(components[0]) == components[0]
    for component in components if hasattr(kind, "file_names") else ():
        assert not any("/" in name for name in component.file_names())


@pytest.mark.parametrize("kind", list(MAKERS), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("wrong", ["", 3, b"file"])
def test_a_path_that_is_none_is_refused_at_once(kind: type, wrong: object) -> None:
    with pytest.raises(UsageError):
        MAKERS[kind](lambda name: wrong)


@dataclasses.dataclass(frozen=True)
class Plays:
    """A plug-in that does not normalize its path."""

    path: Path | None = None
    label: str = "plays"

    def fingerprint(self, root: Path) -> str:
        return "content"


def test_a_path_as_text_in_a_plug_in_is_not_in_its_key(tmp_path: Path) -> None:
    as_text = Plays("plays.tsv")  # type: ignore[arg-type]
    assert describe(as_text, tmp_path) == describe(Plays(Path("plays.tsv")), tmp_path) == describe(Plays(), tmp_path)
    assert describe(Plays(label="other"), tmp_path) != describe(Plays(), tmp_path)


def test_every_class_with_a_path_field_is_in_this_test() -> None:
    """A new specification that names files must be added above, so that its key is tested."""
    found = {kind for kind in _dataclasses() if any("Path" in str(each.type) for each in dataclasses.fields(kind))}
    assert found - INTERNAL <= set(MAKERS)
    assert set(MAKERS) - found <= {Frames}  # its tables may also be DataFrames


def _dataclasses() -> Iterator[Any]:
    for module in pkgutil.walk_packages(genrec.__path__, "genrec."):
        if not module.name.endswith("__main__"):
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__.startswith("genrec."):
                    yield value
