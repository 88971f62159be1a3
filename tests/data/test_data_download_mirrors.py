"""Downloads from several failing locations, and of files in which truncation cannot be detected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from servers import NEW, OLD, archive, files, good, response, serving

from genrec.data.download import download, file_records, http_download
from genrec.errors import ArtifactError, NetworkError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(http_download, "PAUSE", 0.0)
    monkeypatch.delenv("GENREC_MIRROR", raising=False)
    with serving() as running:
        yield running


def unannounced(body: bytes) -> Any:
    """Send a body without length or chunks, so that truncation cannot be detected."""

    def reply(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def test_a_plain_file_without_announced_length_is_refused(server: Any, tmp_path: Path) -> None:
    server.otherwise = unannounced(b"user,item\na,b\n")
    with pytest.raises(NetworkError, match="does not announce its length, and a truncated file of this type could not be detected"):
        download(archive(server, "ratings.csv"), tmp_path)
    assert files(tmp_path) == [".ratings.csv.lock"]
    server.otherwise = unannounced(OLD)
    assert download(archive(server, "a.zip"), tmp_path).read_bytes() == OLD  # verified by the checksums inside


@pytest.mark.parametrize("body", [b"", b"<html>login</html>", b" \n<!DOCTYPE html>\n"])
def test_an_html_page_is_not_a_plain_file(server: Any, tmp_path: Path, body: bytes) -> None:
    server.script = [response(200, body)]
    server.otherwise = response(200, b"a,b,5.0,1\n")
    with pytest.raises(NetworkError, match="it is empty" if not body else "it is an HTML page"):
        download(archive(server, "ratings.csv"), tmp_path)
    assert download(archive(server, "ratings.csv"), tmp_path).read_bytes() == b"a,b,5.0,1\n"  # the next call sends a new request


def test_a_file_compressed_twice_is_detected(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "twice.gz").write_bytes(gzip.compress(gzip.compress(b"x" * 1000)))
    assert file_records.find_damage(tmp_path / "twice.gz", "twice.gz") == "it is compressed twice"
    (tmp_path / "once.gz").write_bytes(gzip.compress(b"x" * 1000))
    assert not file_records.find_damage(tmp_path / "once.gz", "once.gz")


def test_two_locations_that_both_break_off_make_progress(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call makes progress: the location that began the part is resumed first, and the other one does not undo it."""
    step = len(OLD) // 8 + 1
    server.otherwise = good(OLD, step, ETag='"1"')  # both URLs break off every response
    monkeypatch.setenv("GENREC_MIRROR", f"{server.url}/first {server.url}/second")
    sizes = []
    for _ in range(4):
        try:
            assert download(archive(server), tmp_path).read_bytes() == OLD
            break
        except NetworkError:
            sizes.append((tmp_path / "a.zip.part").stat().st_size)
            assert not (tmp_path / "a.zip.other.part").exists()
    else:
        raise AssertionError(f"the download is not complete after 4 calls: {sizes}")
    assert sizes == sorted(sizes)
    assert not list(tmp_path.glob("*.part*"))


def test_a_416_that_contradicts_the_announced_total_restarts(server: Any, tmp_path: Path) -> None:
    """A 416 with the length of the part, although another total was announced, means that the file changed."""
    half = len(OLD) // 2
    server.script = [good(OLD, half), response(416, b"", **{"Content-Range": f"bytes */{half}"})]
    server.otherwise = response(200, NEW)
    assert download(archive(server), tmp_path).read_bytes() == NEW


def test_a_folder_at_the_path_of_the_part_is_an_error(server: Any, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").mkdir()
    with pytest.raises(ArtifactError, match=r"a\.zip\.part is a folder"):
        download(archive(server), tmp_path)
