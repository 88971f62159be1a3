"""Fetching from several places that fail, and files in which nothing would show a cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from servers import NEW, OLD, answer, archive, files, good, serving

from genrec.data.download import fetch, records
from genrec.data.download import http_download as module
from genrec.errors import ArtifactError, NetworkError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.delenv("GENREC_MIRROR", raising=False)
    with serving() as running:
        yield running


def unannounced(body: bytes) -> Any:
    """Neither a length nor chunks: whether it was cut can't be told."""

    def reply(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def test_a_plain_file_of_unknown_length_is_refused(server: Any, tmp_path: Path) -> None:
    server.otherwise = unannounced(b"user,item\na,b\n")
    with pytest.raises(NetworkError, match="does not say how long the file is, and nothing in such a file would show a cut"):
        fetch(archive(server, "ratings.csv"), tmp_path)
    assert files(tmp_path) == [".ratings.csv.lock"]
    server.otherwise = unannounced(OLD)
    assert fetch(archive(server, "a.zip"), tmp_path).read_bytes() == OLD  # its own checksums tell


@pytest.mark.parametrize("body", [b"", b"<html>login</html>", b" \n<!DOCTYPE html>\n"])
def test_a_page_is_no_plain_file(server: Any, tmp_path: Path, body: bytes) -> None:
    server.script = [answer(200, body)]
    server.otherwise = answer(200, b"a,b,5.0,1\n")
    with pytest.raises(NetworkError, match="it is empty" if not body else "it is a page of HTML"):
        fetch(archive(server, "ratings.csv"), tmp_path)
    assert fetch(archive(server, "ratings.csv"), tmp_path).read_bytes() == b"a,b,5.0,1\n"  # the next call asks again


def test_a_file_packed_twice_is_found(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "twice.gz").write_bytes(gzip.compress(gzip.compress(b"x" * 1000)))
    assert records.damage(tmp_path / "twice.gz", "twice.gz") == "it is packed twice"
    (tmp_path / "once.gz").write_bytes(gzip.compress(b"x" * 1000))
    assert not records.damage(tmp_path / "once.gz", "once.gz")


def test_two_places_that_both_cut_come_to_an_end(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call gets further: the place that began goes on first, and the other one does not undo its work."""
    step = len(OLD) // 8 + 1
    server.otherwise = good(OLD, step, ETag='"1"')  # cuts every answer, at both addresses
    monkeypatch.setenv("GENREC_MIRROR", f"{server.address}/first {server.address}/second")
    sizes = []
    for _ in range(4):
        try:
            assert fetch(archive(server), tmp_path).read_bytes() == OLD
            break
        except NetworkError:
            sizes.append((tmp_path / "a.zip.part").stat().st_size)
            assert not (tmp_path / "a.zip.other.part").exists()
    else:
        raise AssertionError(f"no end in sight: {sizes}")
    assert sizes == sorted(sizes)
    assert not list(tmp_path.glob("*.part*"))


def test_a_whole_file_of_just_the_parts_length_makes_it_begin_anew(server: Any, tmp_path: Path) -> None:
    """416 says that the file ends where the part does, but another total was announced: it is another file."""
    half = len(OLD) // 2
    server.script = [good(OLD, half), answer(416, b"", **{"Content-Range": f"bytes */{half}"})]
    server.otherwise = answer(200, NEW)
    assert fetch(archive(server), tmp_path).read_bytes() == NEW


def test_a_folder_in_the_parts_place_is_told(server: Any, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").mkdir()
    with pytest.raises(ArtifactError, match=r"a\.zip\.part is a folder"):
        fetch(archive(server), tmp_path)
