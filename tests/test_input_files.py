"""The format of a file is known by its suffix, in any case of letters."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from genrec.data.sources.frames import Frames
from genrec.embeddings import Precomputed
from genrec.errors import UsageError
from genrec.input_files import file_suffix
from genrec.preference.candidates import Pairs
from genrec.serving.history_files import read_requests
from genrec.serving.table_files import check_format, has_columns, write_table
from genrec.written_files import check_picture


def test_suffixes_are_in_lower_case() -> None:
    assert [file_suffix(Path(name)) for name in ("a/B.CSV", "a.csv", "A.tar.GZ", "CSV", ".CSV")] == [".csv", ".csv", ".gz", "", ""]


@pytest.mark.parametrize("ending", [".CSV", ".Parquet", ".JSONL"])
def test_lists_are_written_and_read(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"LISTS{ending}"
    check_format(path, "--out")
    write_table(path, pa.table({"user_id": ["a", "a"], "item_id": ["1", "2"]}))
    assert has_columns(path, ["user_id", "item_id"])
    assert [request[:2] for request in read_requests(path)] == [("a", ["1", "2"])]


def test_tables_of_interactions(tmp_path: Path) -> None:
    text = "user,item,time\n" + "".join(f"u{user},i{item},{item}\n" for user in range(3) for item in range(4))
    (tmp_path / "A.CSV").write_text(text)
    (tmp_path / "B.csv.GZ").write_bytes(gzip.compress(text.encode()))
    for name in ("A.CSV", "B.csv.GZ"):
        events = Frames(tmp_path / name).load(tmp_path).interactions
        assert len(events) == 12


def test_vectors_and_pairs(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.eye(2))
    (tmp_path / "vectors.npy").rename(tmp_path / "VECTORS.NPY")
    (tmp_path / "IDS.TXT").write_text("a\nb\n")
    Precomputed(tmp_path / "VECTORS.NPY", ids=tmp_path / "IDS.TXT")
    Pairs(tmp_path / "PAIRS.NDJSON")
    with pytest.raises(UsageError, match=r"Pairs.path must end in .*, got .*PAIRS.XLSX"):
        Pairs(tmp_path / "PAIRS.XLSX")


def test_pictures() -> None:
    check_picture(Path("A.PNG"), replace=True)
    with pytest.raises(UsageError, match=r"--picture must end in .png, .pdf, .svg, got A.GIF"):
        check_picture(Path("A.GIF"), replace=True)
