"""Every source: `stream` and `load` read the same, and the fingerprint does not depend on paths."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pandas import DataFrame

from genrec.data.sources import AmazonReviews2014, AmazonReviews2018, AmazonReviews2023, Frames, MovieLens
from genrec.types import StreamedSource

FILES = {
    "u.data": b"1\t7\t4\t881250949\n2\t7\t4\t5\n",
    "u.item": b"7|Toy Story (1995)|01-Jan-1995|||1|0\n8|Casino (1995)||||0|1\n",
    "u.genre": b"Action|0\nComedy|1\n",
    "ratings.dat": b"1::7::4::881250949\n",
    "movies.dat": b"7::Toy Story (1995)::Comedy\n",
    "ratings.csv": b"userId,movieId,rating,timestamp\n1,7,4.5,881250949\n",
    "movies.csv": b"movieId,title,genres\n7,Toy Story (1995),Comedy\n",
    "tags.csv": b"userId,movieId,tag,timestamp\n1,7,pixar,1\n",
    "reviews_Toys_5.json": b'{"reviewerID": "A", "asin": "B", "overall": 4.0, "unixReviewTime": 5}\n',
    "meta_Toys.json": b'{"asin": "B", "title": "Ball"}\n{"asin": "C"}\n',
    "Toys_5.json": b'{"reviewerID": "A", "asin": "B", "unixReviewTime": 5}\n',
    "Toys.csv": b"user_id,parent_asin,rating,timestamp\nA,B,5.0,1588687728923\n",
    "meta_Toys.jsonl": b'{"parent_asin": "B", "title": "Ball"}\n',
    "events.csv": b"user,item\nA,B\n",
    "items.csv": b"item,text\nB,Ball\n",
}
SOURCES = {
    "movielens 100k": lambda path: MovieLens("100k", path=path),
    "movielens 1m": lambda path: MovieLens("1m", path=path),
    "movielens 32m": lambda path: MovieLens("32m", path=path),
    "amazon 2014": lambda path: AmazonReviews2014("Toys", path=path),
    "amazon 2018": lambda path: AmazonReviews2018("Toys", path=path),
    "amazon 2023": lambda path: AmazonReviews2023("Toys", path, "5-core"),
    "files": lambda path: Frames(path / "events.csv", path / "items.csv"),
    "frames": lambda path: Frames(DataFrame({"user": ["A"], "item": ["B"], "rating": [None]})),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "upstream").mkdir()
    for name, content in FILES.items():
        (tmp_path / "upstream" / name).write_bytes(content)
    return tmp_path / "upstream"


@pytest.mark.parametrize("name", list(SOURCES))
def test_stream_and_load_read_the_same(folder: Path, name: str) -> None:
    source = SOURCES[name](folder)
    assert isinstance(source, StreamedSource)
    stream, raw = source.stream(folder), source.load(folder)
    events, items = list(stream.interactions), list(stream.items)
    assert all(isinstance(table, pa.Table) for table in (*events, *items))
    assert [str(kind) for kind in events[0].schema.types[:3]] == ["string", "string", "int64"]
    assert "rating" not in events[0].column_names or events[0].schema.field("rating").type == pa.float64()
    frame = pd.concat([table.to_pandas() for table in events], ignore_index=True)
    pd.testing.assert_frame_equal(frame[raw.interactions.columns], raw.interactions)
    pd.testing.assert_frame_equal(pd.concat([table.to_pandas() for table in items], ignore_index=True), raw.items)
    assert stream.set_aside().equals(raw.set_aside)
    assert raw.interactions.dtypes[["user", "item"]].eq(pd.Series(dtype=str).dtype).all()
    assert raw.items.dtypes.eq(pd.Series(dtype=str).dtype).all()
    assert raw.items.columns[0] == "item"
    raw.interactions.loc[0, "time"] = 3  # loaded tables are writable


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "frames"])
def test_the_fingerprint_ignores_the_path(folder: Path, name: str) -> None:
    before = SOURCES[name](folder).fingerprint(folder)
    moved = Path(shutil.copytree(folder, folder.parent / "else" / "where"))
    assert SOURCES[name](moved).fingerprint(folder.parent) == before
    if name.startswith("movielens"):
        packed = Path(shutil.make_archive(str(folder.parent / "packed"), "zip", folder))
        assert SOURCES[name](packed).fingerprint(folder) == before
        pd.testing.assert_frame_equal(SOURCES[name](packed).load(folder).items, SOURCES[name](folder).load(folder).items)
    for file in moved.iterdir():
        file.write_bytes(file.read_bytes() + b"\n")
    assert SOURCES[name](moved).fingerprint(folder) != before


def test_a_stream_needs_little_memory(tmp_path: Path) -> None:
    """A process that streams 5 million events (100 MB) grows by less than 150 MB."""
    block = b"".join(b"user %d,item %d,4.5,1529193%03d\n" % (row % 977, row % 331, row % 1000) for row in range(100_000))
    with gzip.open(tmp_path / "events.csv.gz", "wb", compresslevel=1) as file:
        file.write(b"user,item,rating,time\n")
        for _ in range(50):
            file.write(block)
    code = (
        "import resource, sys; from pathlib import Path; from genrec.data.sources import Frames\n"
        "tables = Frames(sys.argv[1]).stream(Path('.')).interactions; next(tables)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "count = sum(len(table) for table in tables)\n"
        "print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path / "events.csv.gz")], capture_output=True, text=True, check=True)
    count, grown = map(int, process.stdout.split())
    assert 4_600_000 < count < 5_000_000
    assert grown < 150
