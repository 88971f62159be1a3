"""Downloads from faulty servers: truncated, wrong and changing responses, full disks, two processes at once."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import (
    HTML,
    NEW,
    OLD,
    SIZE,
    WHOLE,
    Handler,
    Reply,
    archive,
    chunked,
    endless,
    files,
    good,
    requested_ranges,
    response,
    serving,
    sha256,
)

from genrec.data.download import Archive, digest, download, file_records, http_download
from genrec.errors import NetworkError, ResourceError


@pytest.fixture(autouse=True)
def server() -> Iterator[Any]:
    with serving() as running:
        yield running


def test_a_file_is_downloaded_once_and_recorded(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = download(archive(server, "folder/a.zip"), tmp_path)
    assert path == tmp_path / "folder" / "a.zip"
    assert path.read_bytes() == OLD
    assert files(tmp_path / "folder") == WHOLE
    record = json.loads((tmp_path / "folder" / ".a.zip.downloaded.json").read_text())
    assert (record["url"], record["size"]) == (f"{server.url}/folder/a.zip", len(OLD))
    assert record["sha256"] == hashlib.sha256(OLD).hexdigest()
    assert server.agents == {(f"genrec/{http_download.__version__}", "identity")}
    monkeypatch.setattr(file_records, "file_hash", lambda *_: pytest.fail("an untouched file is not read again"))
    assert download(archive(server, "folder/a.zip"), tmp_path) == path
    assert digest(path) == record["sha256"]
    assert len(server.requests) == 1


def test_an_interrupted_download_requests_the_rest(server: Any, tmp_path: Path) -> None:
    server.script = [good(OLD, cut, ETag='"1"') for cut in (20_000, 10_000, 0)]
    assert download(archive(server), tmp_path).read_bytes() == OLD
    rest = ("/a.zip", "bytes=30000-", '"1"')
    assert server.requests == [("/a.zip", None, None), ("/a.zip", "bytes=20000-", '"1"'), rest, rest]
    assert files(tmp_path) == WHOLE


def test_the_next_call_resumes_the_part(server: Any, tmp_path: Path) -> None:
    server.otherwise = good(OLD, 10_000, Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT", ETag='W/"weak"')
    with pytest.raises(NetworkError, match=f"broke off after 40000 of {len(OLD)} bytes; 4 requests were sent"):
        download(archive(server), tmp_path)
    assert files(tmp_path) == [".a.zip.lock", "a.zip.part", "a.zip.part.json"]
    assert (tmp_path / "a.zip.part").read_bytes() == OLD[:40_000]
    server.otherwise = good(OLD, Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT")
    assert download(archive(server), tmp_path).read_bytes() == OLD
    assert server.requests[-1] == ("/a.zip", "bytes=40000-", "Mon, 01 Jan 2024 00:00:00 GMT")
    assert files(tmp_path) == WHOLE


@pytest.mark.parametrize("name", ["a.zip", "a.dat"])
def test_without_a_validator_only_verifiable_files_are_resumed(server: Any, tmp_path: Path, name: str) -> None:
    server.script, server.otherwise = [good(OLD, 20_000)], good(OLD)
    assert download(archive(server, name), tmp_path).read_bytes() == OLD
    assert server.requests == [(f"/{name}", None, None), (f"/{name}", "bytes=20000-" if name == "a.zip" else None, None)]


WRONG_RANGES = {
    "starts elsewhere": response(206, OLD[10_000:], ETag='"1"', Content_Range=f"bytes 10000-{SIZE - 1}/{SIZE}"),
    "another total": response(206, OLD[20_000:], ETag='"1"', Content_Range=f"bytes 20000-{SIZE - 1}/{SIZE + 1}"),
    "another length": response(206, OLD[10_000:], ETag='"1"', Content_Range=f"bytes 20000-{SIZE - 1}/{SIZE}"),
    "no Content-Range": response(206, OLD[20_000:], ETag='"1"'),
    "another version": response(206, NEW[20_000:], ETag='"2"', Content_Range=f"bytes 20000-{SIZE - 1}/{SIZE}"),
    "a slice as 200": response(200, OLD[20_000:], ETag='"1"', Content_Range=f"bytes 20000-{SIZE - 1}/{SIZE}"),
    "416": response(416, b"", Content_Range=f"bytes */{SIZE}"),
}  # used with a format that holds no checksums, so that a wrong splice could not be found at the end


@pytest.mark.parametrize("wrong", WRONG_RANGES.values(), ids=WRONG_RANGES.keys())
def test_a_response_with_another_range_is_not_appended(server: Any, tmp_path: Path, wrong: Reply) -> None:
    server.script = [good(OLD, 20_000, ETag='"1"'), wrong]
    assert download(archive(server, "a.dat"), tmp_path).read_bytes() == OLD
    assert requested_ranges(server) == [None, "bytes=20000-", None]


def test_a_server_without_ranges_sends_the_file_again(server: Any, tmp_path: Path) -> None:
    server.script = [good(OLD, 20_000, ETag='"1"'), response(200, OLD, cut=30_000, ETag='"1"'), response(200, OLD)]
    assert download(archive(server), tmp_path).read_bytes() == OLD
    assert requested_ranges(server) == [None, "bytes=20000-", "bytes=30000-"]


def test_a_new_version_replaces_the_part_of_the_old_one(server: Any, tmp_path: Path) -> None:
    server.script, server.otherwise = [good(OLD, 20_000, ETag='"1"')], good(NEW, ETag='"2"')
    assert download(archive(server), tmp_path).read_bytes() == NEW
    assert server.requests == [("/a.zip", None, None), ("/a.zip", "bytes=20000-", '"1"')]


@pytest.mark.parametrize("checksum", [None, sha256(NEW), "md5:" + hashlib.md5(NEW).hexdigest().upper()])
def test_two_versions_with_one_validator_are_detected_at_the_end(server: Any, tmp_path: Path, checksum: str | None) -> None:
    server.script, server.otherwise = [good(OLD, 20_000, ETag='"1"')], good(NEW, ETag='"1"')
    assert download(archive(server, checksum=checksum), tmp_path).read_bytes() == NEW
    assert requested_ranges(server) == [None, "bytes=20000-", None]


def test_the_part_of_one_url_is_not_resumed_at_another(server: Any, tmp_path: Path) -> None:
    server.script = [response(404, b""), *(good(OLD, 5_000, ETag='"1"') for _ in range(4))]
    server.otherwise = good(NEW, ETag='"1"')
    two = Archive("a.zip", (f"{server.url}/first", f"{server.url}/second"))
    assert download(Archive("a.zip", (*two.urls, f"{server.url}/third")), tmp_path).read_bytes() == NEW
    assert [path for path, _, _ in server.requests] == ["/first", *["/second"] * 4, "/third"]
    assert server.requests[-1] == ("/third", None, None)


def test_a_complete_part_needs_no_request_or_one_416(server: Any, tmp_path: Path) -> None:
    origin = {"url": f"{server.url}/a.zip", "validator": '"1"', "total": SIZE}
    for total, script, requests in ((SIZE, [], []), (None, [WRONG_RANGES["416"]], [f"bytes={SIZE}-"])):
        folder = tmp_path / str(total)
        folder.mkdir()
        (folder / "a.zip.part").write_bytes(OLD)
        (folder / "a.zip.part.json").write_text(json.dumps({**origin, "total": total}))
        server.script, server.requests = script, []
        assert download(archive(server), folder).read_bytes() == OLD
        assert requested_ranges(server) == requests


@pytest.mark.parametrize("origin", [None, "{", "[]", '{"url": 1, "validator": 2, "total": "x"}'])
def test_a_part_of_unknown_origin_is_not_resumed(server: Any, tmp_path: Path, origin: str | None) -> None:
    (tmp_path / "a.zip.part").write_bytes(NEW[:20_000])
    if origin is not None:
        (tmp_path / "a.zip.part.json").write_text(origin)
    assert download(archive(server), tmp_path).read_bytes() == OLD
    assert requested_ranges(server) == [None]
    assert files(tmp_path) == WHOLE


BAD = {
    "an HTML page": (response(200, HTML), "not a .zip file, it begins with b'<!DOCTYPE html"),
    "a changed byte": (response(200, OLD[:20_000] + b"\0\0" + OLD[20_002:]), "damaged"),
    "more than announced": (response(200, OLD, length=SIZE - 1000), "damaged"),
    "short, no length": (response(200, OLD[:-1000], length=-1), "damaged"),
    "empty": (response(200, b""), "not a .zip file"),
}


@pytest.mark.parametrize(("reply", "reason"), BAD.values(), ids=BAD.keys())
def test_an_invalid_archive_is_not_published(server: Any, tmp_path: Path, reply: Reply, reason: str) -> None:
    server.script = [reply, good(OLD)]
    both = Archive("a.zip", (f"{server.url}/bad", f"{server.url}/good"))
    assert download(both, tmp_path).read_bytes() == OLD
    assert [path for path, _, _ in server.requests] == ["/bad", "/good"]
    server.script = [reply, reply]
    (tmp_path / "other").mkdir()
    with pytest.raises(NetworkError) as failure:
        download(both, tmp_path / "other")
    assert str(failure.value).count(reason) == 2
    assert str(tmp_path / "other" / "a.zip") in str(failure.value)
    assert files(tmp_path / "other") == [".a.zip.lock"]


@pytest.mark.parametrize("cut", [0.3, 0.999])
def test_a_truncated_gzip_is_detected(server: Any, tmp_path: Path, cut: float) -> None:
    whole = gzip.compress(OLD)
    server.script, server.otherwise = [response(200, whole[: int(len(whole) * cut)], length=-1)], response(404, b"")
    with pytest.raises(NetworkError, match="damaged"):
        download(archive(server, "a.json.gz"), tmp_path)
    server.otherwise = response(200, whole, length=-1)
    assert download(archive(server, "a.json.gz"), tmp_path).read_bytes() == whole


def test_a_checksum_mismatch_names_both_hashes_for_every_url(server: Any, tmp_path: Path) -> None:
    server.otherwise = good(NEW)
    with pytest.raises(NetworkError) as failure:
        download(Archive("a.dat", (f"{server.url}/1", f"{server.url}/2"), checksum=sha256(OLD)), tmp_path)
    assert failure.value.exit_code == 7
    for number in (1, 2):
        expected = f"{server.url}/{number}: its sha256 is {sha256(NEW)[7:]}, expected {sha256(OLD)[7:]}"
        assert expected in str(failure.value)
    assert files(tmp_path) == [".a.dat.lock"]


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 4), (429, 4)])
def test_only_temporary_errors_are_retried(server: Any, tmp_path: Path, status: int, requests: int) -> None:
    server.otherwise = response(status, HTML)
    with pytest.raises(NetworkError, match=f"/a.zip: it answers {status}"):
        download(archive(server), tmp_path)
    assert len(server.requests) == requests
    server.script, server.otherwise = [response(503, b"")], good(OLD)
    assert download(archive(server), tmp_path).read_bytes() == OLD


def test_a_refused_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(http_download, "PAUSE", 0.5)
    monkeypatch.setattr(http_download.time, "sleep", pauses.append)
    with pytest.raises(NetworkError, match=r"there is no response .*refused"):
        download(Archive("a.zip", ("http://127.0.0.1:9/a.zip",)), tmp_path)
    assert pauses == [0.5, 1, 2]


def test_redirections_keep_the_range(server: Any, tmp_path: Path) -> None:
    redirection = response(302, b"", Location="/new/place.zip")
    server.script = [redirection, good(OLD, 20_000, ETag='"1"'), redirection]
    assert download(archive(server), tmp_path).read_bytes() == OLD
    assert server.requests[2:] == [("/a.zip", "bytes=20000-", '"1"'), ("/new/place.zip", "bytes=20000-", '"1"')]
    server.otherwise = response(302, b"", Location="file:///etc/hostname")
    with pytest.raises(NetworkError, match="it answers 302"):
        download(archive(server, "b.dat"), tmp_path)


def test_responses_without_a_length(server: Any, tmp_path: Path) -> None:
    server.script = [chunked(OLD[:20_000], whole=False), good(OLD, ETag='"1"')]
    assert download(archive(server), tmp_path).read_bytes() == OLD
    assert requested_ranges(server) == [None, "bytes=20000-"]
    server.script = [chunked(NEW, whole=True)]
    assert download(archive(server, "b.zip"), tmp_path).read_bytes() == NEW
    server.script = [response(200, OLD[:20_000], length=-1), good(OLD)]  # shorter than the published size
    assert download(archive(server, "c.zip", size=SIZE), tmp_path).read_bytes() == OLD
    assert requested_ranges(server)[-1] == "bytes=20000-"


def test_an_endless_body_and_one_of_another_size_are_refused(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, sizes = http_download._read, []
    monkeypatch.setattr(http_download, "_read", lambda *request: (block := read(*request), sizes.append(len(block)))[0])
    server.script = [endless, response(200, OLD + b"x")]
    with pytest.raises(NetworkError) as failure:
        download(Archive("a.dat", (f"{server.url}/1", f"{server.url}/2"), size=SIZE), tmp_path)
    assert f"/1: it sends more than the expected {SIZE} bytes" in str(failure.value)
    assert f"/2: it announces {SIZE + 1} bytes, expected {SIZE}" in str(failure.value)
    assert sum(sizes) == SIZE + 1
    assert files(tmp_path) == [".a.dat.lock"]


def limit_disk(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Simulate a disk with `room` bytes, shared by the partial files of a folder."""

    def usage(folder: Path) -> Any:
        return SimpleNamespace(free=room - sum(part.stat().st_size for part in folder.glob("*.part")))

    monkeypatch.setattr(shutil, "disk_usage", usage)


def test_a_full_disk_is_detected_before_writing(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.script = [good(OLD, 20_000, ETag='"1"')]
    limit_disk(monkeypatch, SIZE)
    first = download(archive(server), tmp_path)
    limit_disk(monkeypatch, SIZE - 1)
    for name in ("b.zip", "mirrored.zip"):
        with pytest.raises(ResourceError, match=f"needs {SIZE} more bytes, {SIZE - 1} are free"):
            download(archive(server, name), tmp_path)
        (tmp_path / "mirror").mkdir(exist_ok=True)
        (tmp_path / "mirror" / "mirrored.zip").write_bytes(OLD)
        monkeypatch.setenv("GENREC_MIRROR", str(tmp_path / "mirror"))
    server.otherwise = endless
    with pytest.raises(ResourceError, match=f"more than the {SIZE - 1} bytes that are free"):
        download(archive(server, "c.zip"), tmp_path)
    assert first.read_bytes() == OLD
    assert [name for name in files(tmp_path) if not name.endswith(".lock")] == [WHOLE[0], "a.zip", "mirror/mirrored.zip"]


def test_a_disk_that_fills_up_leaves_no_partial_file(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.open

    def full(self: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        file = original(self, mode, *rest, **options)
        if self.name == "a.zip.part" and mode == "ab":
            file.write(b"x" * 100)
            file.write = lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
        return file

    with monkeypatch.context() as patch, pytest.raises(ResourceError, match=f"No space left.*: {SIZE} bytes are needed") as failure:
        patch.setattr(Path, "open", lambda self, *a, **o: full(self, *a, **o))
        download(archive(server), tmp_path)
    assert failure.value.exit_code == 5
    assert files(tmp_path) == [".a.zip.lock"]


def test_an_interrupted_process_leaves_the_part(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = iter([OLD[:20_000]])

    def interrupted(*_: object) -> bytes:
        for block in blocks:
            return block
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(http_download, "_read", interrupted)
        download(archive(server), tmp_path)
    assert files(tmp_path) == [".a.zip.lock", "a.zip.part", "a.zip.part.json"]
    assert download(archive(server), tmp_path).read_bytes() == OLD
    assert requested_ranges(server) == [None, "bytes=20000-"]


def test_two_processes_download_once(server: Any, tmp_path: Path) -> None:
    release = threading.Event()

    def slow(handler: Handler) -> None:
        release.wait()
        good(OLD)(handler)

    server.otherwise = slow
    code = (
        "from pathlib import Path; from genrec.data.download import Archive, download, http_download; http_download.TIMEOUT = 3600; "
        f"print(download({archive(server)!r}, Path({str(tmp_path)!r})))"
    )
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code], **options) for _ in range(2)]
    waiting, _, _ = select.select([process.stderr for process in processes], [], [])  # a line, or the end of a process
    message = waiting[0].readline()
    release.set()
    outputs = [process.communicate() for process in processes]
    assert message == "waiting for another process that downloads a.zip\n"
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [output[0] for output in outputs] == [f"{tmp_path / 'a.zip'}\n"] * 2
    assert server.requests == [("/a.zip", None, None)]
    assert files(tmp_path) == WHOLE


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 20_000), max_size=12), validated=st.booleans(), ranges=st.booleans())
def test_bytes_are_right_for_any_sequence_of_interruptions(cuts: list[int], validated: bool, ranges: bool) -> None:
    headers = {"ETag": '"1"'} if validated else {}
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        server.script = [good(OLD, cut, **headers) if ranges else response(200, OLD, cut=cut, **headers) for cut in cuts]
        server.otherwise = good(OLD, **headers) if ranges else response(200, OLD, **headers)
        for _ in range(1 + len(cuts) // http_download.ATTEMPTS):
            with contextlib.suppress(NetworkError):
                download(archive(server), Path(folder))
        assert (Path(folder) / "a.zip").read_bytes() == OLD
        assert files(Path(folder)) == WHOLE
    offset, expected = 0, []
    for cut in [*cuts, SIZE][: len(server.requests)]:
        expected.append(f"bytes={offset}-" if offset else None)
        offset = offset * ranges + cut
    assert requested_ranges(server) == expected
