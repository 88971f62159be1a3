"""Fetching (FAULTS D1, D2, D5, D7): servers that cut, lie and change, full disks, two processes at once."""

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
from servers import HTML, NEW, OLD, SIZE, WHOLE, Handler, Reply, answer, archive, asked, chunked, endless, files, good, serving, sha256

from genrec.data.download import Archive, digest, fetch, records
from genrec.data.download import http_download as module
from genrec.errors import NetworkError, ResourceError


@pytest.fixture(autouse=True)
def server() -> Iterator[Any]:
    with serving() as running:
        yield running


def test_a_file_is_fetched_once_and_recorded(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(archive(server, "folder/a.zip"), tmp_path)
    assert path == tmp_path / "folder" / "a.zip"
    assert path.read_bytes() == OLD
    assert files(tmp_path / "folder") == WHOLE
    record = json.loads((tmp_path / "folder" / ".a.zip.fetched.json").read_text())
    assert (record["address"], record["size"]) == (f"{server.address}/folder/a.zip", len(OLD))
    assert record["sha256"] == hashlib.sha256(OLD).hexdigest()
    assert server.agents == {(f"genrec/{module.__version__}", "identity")}
    monkeypatch.setattr(records, "file_hash", lambda *_: pytest.fail("an untouched file is not read again"))
    assert fetch(archive(server, "folder/a.zip"), tmp_path) == path
    assert digest(path) == record["sha256"]
    assert len(server.requests) == 1


def test_a_cut_download_asks_for_the_rest(server: Any, tmp_path: Path) -> None:
    server.script = [good(OLD, cut, ETag='"1"') for cut in (20_000, 10_000, 0)]
    assert fetch(archive(server), tmp_path).read_bytes() == OLD
    rest = ("/a.zip", "bytes=30000-", '"1"')
    assert server.requests == [("/a.zip", None, None), ("/a.zip", "bytes=20000-", '"1"'), rest, rest]
    assert files(tmp_path) == WHOLE


def test_the_part_stays_and_the_next_call_goes_on_from_it(server: Any, tmp_path: Path) -> None:
    server.otherwise = good(OLD, 10_000, Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT", ETag='W/"weak"')
    with pytest.raises(NetworkError, match=f"broke off after 40000 of {len(OLD)} bytes; asked 4 times"):
        fetch(archive(server), tmp_path)
    assert files(tmp_path) == [".a.zip.lock", "a.zip.part", "a.zip.part.json"]
    assert (tmp_path / "a.zip.part").read_bytes() == OLD[:40_000]
    server.otherwise = good(OLD, Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT")
    assert fetch(archive(server), tmp_path).read_bytes() == OLD
    assert server.requests[-1] == ("/a.zip", "bytes=40000-", "Mon, 01 Jan 2024 00:00:00 GMT")
    assert files(tmp_path) == WHOLE


@pytest.mark.parametrize("name", ["a.zip", "a.dat"])
def test_without_a_validator_only_what_can_be_checked_is_continued(server: Any, tmp_path: Path, name: str) -> None:
    server.script, server.otherwise = [good(OLD, 20_000)], good(OLD)
    assert fetch(archive(server, name), tmp_path).read_bytes() == OLD
    assert server.requests == [(f"/{name}", None, None), (f"/{name}", "bytes=20000-" if name == "a.zip" else None, None)]


LIES = {
    "starts elsewhere": answer(206, OLD[10_000:], ETag='"1"', Content_Range=f"bytes 10000-{SIZE - 1}/{SIZE}"),
    "another total": answer(206, OLD[20_000:], ETag='"1"', Content_Range=f"bytes 20000-{SIZE - 1}/{SIZE + 1}"),
    "another length": answer(206, OLD[10_000:], ETag='"1"', Content_Range=f"bytes 20000-{SIZE - 1}/{SIZE}"),
    "no Content-Range": answer(206, OLD[20_000:], ETag='"1"'),
    "another version": answer(206, NEW[20_000:], ETag='"2"', Content_Range=f"bytes 20000-{SIZE - 1}/{SIZE}"),
    "a slice as 200": answer(200, OLD[20_000:], ETag='"1"', Content_Range=f"bytes 20000-{SIZE - 1}/{SIZE}"),
    "416": answer(416, b"", Content_Range=f"bytes */{SIZE}"),
}  # of a file that holds no checksums of its own, so that nothing would be found at the end


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_an_answer_that_does_not_fit_is_not_appended(server: Any, tmp_path: Path, lie: Reply) -> None:
    server.script = [good(OLD, 20_000, ETag='"1"'), lie]
    assert fetch(archive(server, "a.dat"), tmp_path).read_bytes() == OLD
    assert asked(server) == [None, "bytes=20000-", None]


def test_a_server_that_ignores_ranges_starts_again(server: Any, tmp_path: Path) -> None:
    server.script = [good(OLD, 20_000, ETag='"1"'), answer(200, OLD, cut=30_000, ETag='"1"'), answer(200, OLD)]
    assert fetch(archive(server), tmp_path).read_bytes() == OLD
    assert asked(server) == [None, "bytes=20000-", "bytes=30000-"]


def test_a_new_version_replaces_the_part_of_the_old_one(server: Any, tmp_path: Path) -> None:
    server.script, server.otherwise = [good(OLD, 20_000, ETag='"1"')], good(NEW, ETag='"2"')
    assert fetch(archive(server), tmp_path).read_bytes() == NEW
    assert server.requests == [("/a.zip", None, None), ("/a.zip", "bytes=20000-", '"1"')]


@pytest.mark.parametrize("checksum", [None, sha256(NEW), "md5:" + hashlib.md5(NEW).hexdigest().upper()])
def test_two_versions_under_one_validator_are_found_at_the_end(server: Any, tmp_path: Path, checksum: str | None) -> None:
    server.script, server.otherwise = [good(OLD, 20_000, ETag='"1"')], good(NEW, ETag='"1"')
    assert fetch(archive(server, checksum=checksum), tmp_path).read_bytes() == NEW
    assert asked(server) == [None, "bytes=20000-", None]


def test_the_part_of_one_address_is_not_continued_at_another(server: Any, tmp_path: Path) -> None:
    server.script = [answer(404, b""), *(good(OLD, 5_000, ETag='"1"') for _ in range(4))]
    server.otherwise = good(NEW, ETag='"1"')
    two = Archive("a.zip", (f"{server.address}/first", f"{server.address}/second"))
    assert fetch(Archive("a.zip", (*two.urls, f"{server.address}/third")), tmp_path).read_bytes() == NEW
    assert [path for path, _, _ in server.requests] == ["/first", *["/second"] * 4, "/third"]
    assert server.requests[-1] == ("/third", None, None)


def test_a_part_that_is_whole_needs_no_request_or_one_416(server: Any, tmp_path: Path) -> None:
    origin = {"address": f"{server.address}/a.zip", "validator": '"1"', "total": SIZE}
    for total, script, requests in ((SIZE, [], []), (None, [LIES["416"]], [f"bytes={SIZE}-"])):
        folder = tmp_path / str(total)
        folder.mkdir()
        (folder / "a.zip.part").write_bytes(OLD)
        (folder / "a.zip.part.json").write_text(json.dumps({**origin, "total": total}))
        server.script, server.requests = script, []
        assert fetch(archive(server), folder).read_bytes() == OLD
        assert asked(server) == requests


@pytest.mark.parametrize("origin", [None, "{", "[]", '{"address": 1, "validator": 2, "total": "x"}'])
def test_a_part_of_unknown_origin_is_not_continued(server: Any, tmp_path: Path, origin: str | None) -> None:
    (tmp_path / "a.zip.part").write_bytes(NEW[:20_000])
    if origin is not None:
        (tmp_path / "a.zip.part.json").write_text(origin)
    assert fetch(archive(server), tmp_path).read_bytes() == OLD
    assert asked(server) == [None]
    assert files(tmp_path) == WHOLE


BAD = {
    "a page of HTML": (answer(200, HTML), "no .zip file, it begins with b'<!DOCTYPE html"),
    "a changed byte": (answer(200, OLD[:20_000] + b"\0\0" + OLD[20_002:]), "damaged"),
    "more than announced": (answer(200, OLD, length=SIZE - 1000), "damaged"),
    "short, no length": (answer(200, OLD[:-1000], length=-1), "damaged"),
    "empty": (answer(200, b""), "no .zip file"),
}


@pytest.mark.parametrize(("reply", "reason"), BAD.values(), ids=BAD.keys())
def test_what_is_no_archive_gets_no_name(server: Any, tmp_path: Path, reply: Reply, reason: str) -> None:
    server.script = [reply, good(OLD)]
    both = Archive("a.zip", (f"{server.address}/bad", f"{server.address}/good"))
    assert fetch(both, tmp_path).read_bytes() == OLD
    assert [path for path, _, _ in server.requests] == ["/bad", "/good"]
    server.script = [reply, reply]
    (tmp_path / "other").mkdir()
    with pytest.raises(NetworkError) as failure:
        fetch(both, tmp_path / "other")
    assert str(failure.value).count(reason) == 2
    assert str(tmp_path / "other" / "a.zip") in str(failure.value)
    assert files(tmp_path / "other") == [".a.zip.lock"]


@pytest.mark.parametrize("cut", [0.3, 0.999])
def test_a_gzip_is_read_to_its_end(server: Any, tmp_path: Path, cut: float) -> None:
    whole = gzip.compress(OLD)
    server.script, server.otherwise = [answer(200, whole[: int(len(whole) * cut)], length=-1)], answer(404, b"")
    with pytest.raises(NetworkError, match="damaged"):
        fetch(archive(server, "a.json.gz"), tmp_path)
    server.otherwise = answer(200, whole, length=-1)
    assert fetch(archive(server, "a.json.gz"), tmp_path).read_bytes() == whole


def test_all_addresses_with_other_bytes_name_both_hashes(server: Any, tmp_path: Path) -> None:
    server.otherwise = good(NEW)
    with pytest.raises(NetworkError) as failure:
        fetch(Archive("a.dat", (f"{server.address}/1", f"{server.address}/2"), checksum=sha256(OLD)), tmp_path)
    assert failure.value.exit_code == 7
    for number in (1, 2):
        expected = f"{server.address}/{number}: its sha256 is {sha256(NEW)[7:]}, expected {sha256(OLD)[7:]}"
        assert expected in str(failure.value)
    assert files(tmp_path) == [".a.dat.lock"]


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, 4), (429, 4)])
def test_only_what_may_pass_is_tried_again(server: Any, tmp_path: Path, status: int, tries: int) -> None:
    server.otherwise = answer(status, HTML)
    with pytest.raises(NetworkError, match=f"/a.zip: it answers {status}"):
        fetch(archive(server), tmp_path)
    assert len(server.requests) == tries
    server.script, server.otherwise = [answer(503, b"")], good(OLD)
    assert fetch(archive(server), tmp_path).read_bytes() == OLD


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(module, "PAUSE", 0.5)
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    with pytest.raises(NetworkError, match=r"there is no answer .*refused"):
        fetch(Archive("a.zip", ("http://127.0.0.1:9/a.zip",)), tmp_path)
    assert pauses == [0.5, 1, 2]


def test_redirections_keep_the_range(server: Any, tmp_path: Path) -> None:
    there = answer(302, b"", Location="/new/place.zip")
    server.script = [there, good(OLD, 20_000, ETag='"1"'), there]
    assert fetch(archive(server), tmp_path).read_bytes() == OLD
    assert server.requests[2:] == [("/a.zip", "bytes=20000-", '"1"'), ("/new/place.zip", "bytes=20000-", '"1"')]
    server.otherwise = answer(302, b"", Location="file:///etc/hostname")
    with pytest.raises(NetworkError, match="it answers 302"):
        fetch(archive(server, "b.dat"), tmp_path)


def test_without_a_length(server: Any, tmp_path: Path) -> None:
    server.script = [chunked(OLD[:20_000], whole=False), good(OLD, ETag='"1"')]
    assert fetch(archive(server), tmp_path).read_bytes() == OLD
    assert asked(server) == [None, "bytes=20000-"]
    server.script = [chunked(NEW, whole=True)]
    assert fetch(archive(server, "b.zip"), tmp_path).read_bytes() == NEW
    server.script = [answer(200, OLD[:20_000], length=-1), good(OLD)]  # short of what is published
    assert fetch(archive(server, "c.zip", size=SIZE), tmp_path).read_bytes() == OLD
    assert asked(server)[-1] == "bytes=20000-"


def test_a_body_without_end_and_one_of_another_size_are_left_alone(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, sizes = module._read, []
    monkeypatch.setattr(module, "_read", lambda *request: (block := read(*request), sizes.append(len(block)))[0])
    server.script = [endless, answer(200, OLD + b"x")]
    with pytest.raises(NetworkError) as failure:
        fetch(Archive("a.dat", (f"{server.address}/1", f"{server.address}/2"), size=SIZE), tmp_path)
    assert f"/1: it sends more than the {SIZE} bytes" in str(failure.value)
    assert f"/2: it announces {SIZE + 1} bytes, expected {SIZE}" in str(failure.value)
    assert sum(sizes) == SIZE + 1
    assert files(tmp_path) == [".a.dat.lock"]


def disk(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """A disk with room for so many bytes, and partial files on it."""

    def usage(folder: Path) -> Any:
        return SimpleNamespace(free=room - sum(part.stat().st_size for part in folder.glob("*.part")))

    monkeypatch.setattr(shutil, "disk_usage", usage)


def test_a_full_disk_is_found_before_anything_is_written(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.script = [good(OLD, 20_000, ETag='"1"')]
    disk(monkeypatch, SIZE)
    earlier = fetch(archive(server), tmp_path)
    disk(monkeypatch, SIZE - 1)
    for name in ("b.zip", "mirrored.zip"):
        with pytest.raises(ResourceError, match=f"needs {SIZE} more bytes, {SIZE - 1} are free"):
            fetch(archive(server, name), tmp_path)
        (tmp_path / "mirror").mkdir(exist_ok=True)
        (tmp_path / "mirror" / "mirrored.zip").write_bytes(OLD)
        monkeypatch.setenv("GENREC_MIRROR", str(tmp_path / "mirror"))
    server.otherwise = endless
    with pytest.raises(ResourceError, match=f"more than the {SIZE - 1} bytes that are free"):
        fetch(archive(server, "c.zip"), tmp_path)
    assert earlier.read_bytes() == OLD
    assert [name for name in files(tmp_path) if not name.endswith(".lock")] == [WHOLE[0], "a.zip", "mirror/mirrored.zip"]


def test_a_disk_that_fills_up_leaves_no_litter(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Path.open

    def full(self: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        file = plain(self, mode, *rest, **options)
        if self.name == "a.zip.part" and mode == "ab":
            file.write(b"x" * 100)
            file.write = lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
        return file

    with monkeypatch.context() as patch, pytest.raises(ResourceError, match=f"No space left.*: {SIZE} bytes are needed") as failure:
        patch.setattr(Path, "open", lambda self, *a, **o: full(self, *a, **o))
        fetch(archive(server), tmp_path)
    assert failure.value.exit_code == 5
    assert files(tmp_path) == [".a.zip.lock"]


def test_an_interruption_leaves_the_part(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = iter([OLD[:20_000]])

    def interrupted(*_: object) -> bytes:
        for block in blocks:
            return block
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_read", interrupted)
        fetch(archive(server), tmp_path)
    assert files(tmp_path) == [".a.zip.lock", "a.zip.part", "a.zip.part.json"]
    assert fetch(archive(server), tmp_path).read_bytes() == OLD
    assert asked(server) == [None, "bytes=20000-"]


def test_two_processes_download_once(server: Any, tmp_path: Path) -> None:
    release = threading.Event()

    def slow(handler: Handler) -> None:
        release.wait(20)
        good(OLD)(handler)

    server.otherwise = slow
    code = f"from pathlib import Path; from genrec.data.download import *; print(fetch({archive(server)!r}, Path({str(tmp_path)!r})))"
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code], **options) for _ in range(2)]
    speaking, _, _ = select.select([process.stderr for process in processes], [], [], 20)
    said = speaking[0].readline()
    release.set()
    outcomes = [process.communicate(timeout=30) for process in processes]
    assert said == "waiting for another process that fetches a.zip\n"
    assert [process.returncode for process in processes] == [0, 0], outcomes
    assert [outcome[0] for outcome in outcomes] == [f"{tmp_path / 'a.zip'}\n"] * 2
    assert server.requests == [("/a.zip", None, None)]
    assert files(tmp_path) == WHOLE


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 20_000), max_size=12), validated=st.booleans(), ranges=st.booleans())
def test_wherever_a_server_cuts_the_bytes_are_right(cuts: list[int], validated: bool, ranges: bool) -> None:
    headers = {"ETag": '"1"'} if validated else {}
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        server.script = [good(OLD, cut, **headers) if ranges else answer(200, OLD, cut=cut, **headers) for cut in cuts]
        server.otherwise = good(OLD, **headers) if ranges else answer(200, OLD, **headers)
        for _ in range(1 + len(cuts) // module.ATTEMPTS):
            with contextlib.suppress(NetworkError):
                fetch(archive(server), Path(folder))
        assert (Path(folder) / "a.zip").read_bytes() == OLD
        assert files(Path(folder)) == WHOLE
    offset, expected = 0, []
    for cut in [*cuts, SIZE][: len(server.requests)]:
        expected.append(f"bytes={offset}-" if offset else None)
        offset = offset * ranges + cut
    assert asked(server) == expected
