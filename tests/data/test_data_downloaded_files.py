"""Downloaded files that change or are placed by hand, mirrors, offline use, and hostile archives."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from servers import HTML, NEW, OLD, SIZE, WHOLE, archive, files, flip, good, response, serving, sha256

from genrec import store
from genrec.data.download import Archive, digest, download, file_records, partial_files
from genrec.errors import ArtifactError, InputError, NetworkError, ResourceError, UsageError


@pytest.fixture(autouse=True)
def server() -> Iterator[Any]:
    with serving() as running:
        yield running


@pytest.mark.parametrize("checksum", [None, sha256(OLD)])
def test_a_changed_file_is_downloaded_again(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checksum: str | None
) -> None:
    path = download(archive(server, checksum=checksum), tmp_path)
    flip(path)
    changed = sha256(path.read_bytes())[7:]
    assert digest(path) == changed
    monkeypatch.setenv("GENREC_OFFLINE", "1")
    with pytest.raises(ArtifactError, match=rf"changed.*{sha256(OLD)[7:]} then, {changed} now.*GENREC_OFFLINE"):
        download(archive(server, checksum=checksum), tmp_path)
    assert len(server.requests) == 1
    monkeypatch.setenv("GENREC_OFFLINE", "0")
    assert download(archive(server, checksum=checksum), tmp_path).read_bytes() == OLD
    assert len(server.requests) == 2
    assert f"{path} was changed after its download" in capsys.readouterr().err
    assert digest(path) == sha256(OLD)[7:]
    assert files(tmp_path) == WHOLE


def test_a_changed_file_stays_until_it_can_be_replaced(server: Any, tmp_path: Path) -> None:
    path = download(archive(server), tmp_path)
    flip(path)
    server.otherwise = response(404, b"")
    for _ in range(2):
        with pytest.raises(NetworkError, match="404"):
            download(archive(server), tmp_path)
    assert path.is_file()


def test_a_touched_file_is_hashed_again(server: Any, tmp_path: Path) -> None:
    path = download(archive(server), tmp_path)
    before = json.loads((tmp_path / WHOLE[0]).read_text())
    path.write_bytes(OLD)
    assert download(archive(server), tmp_path) == path
    after = json.loads((tmp_path / WHOLE[0]).read_text())
    assert after["signature"] != before["signature"]
    assert {**after, "signature": 0} == {**before, "signature": 0}
    assert len(server.requests) == 1


@pytest.mark.parametrize("record", ["", "{", "[]", "{}", '{"signature": 1}', '{"signature": [1, 2, 3, 4], "sha256": 5}'])
def test_a_damaged_record_is_ignored(server: Any, tmp_path: Path, record: str) -> None:
    path = download(archive(server), tmp_path)
    (tmp_path / WHOLE[0]).write_text(record)
    assert download(archive(server), tmp_path) == path
    assert json.loads((tmp_path / WHOLE[0]).read_text())["sha256"] == sha256(OLD)[7:]
    fields = json.loads((tmp_path / WHOLE[0]).read_text())
    (tmp_path / WHOLE[0]).write_text(json.dumps({**fields, "sha256": 5}))
    assert file_records.read_record(path) is None
    assert len(server.requests) == 1


def test_a_file_placed_by_hand(server: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"not even an archive")
    assert download(archive(server), tmp_path) == path
    assert json.loads((tmp_path / WHOLE[0]).read_text())["url"] is None
    for published in ({"checksum": sha256(OLD)}, {"size": SIZE}):
        with pytest.raises(ArtifactError, match=sha256(b"not even an archive")[7:]) as failure:
            download(archive(server, **published), tmp_path)
        assert (published.get("checksum") or "sha256:19 bytes")[7:] in str(failure.value)
        assert "restore it or point to another file with --source.path" in str(failure.value)
        assert "download it again" not in str(failure.value)
    assert path.read_bytes() == b"not even an archive"
    path.write_bytes(OLD)
    assert download(archive(server, checksum=sha256(OLD)), tmp_path) == path
    assert not server.requests
    flip(path)
    with pytest.raises(ArtifactError, match=r"has changed since its first use.*restore it or point to another file"):
        download(archive(server), tmp_path)
    assert path.read_bytes() != OLD  # a user's file is never replaced
    (tmp_path / WHOLE[0]).unlink()
    assert download(archive(server), tmp_path) == path
    assert not server.requests


def test_a_checksum_that_is_published_later_is_compared(server: Any, tmp_path: Path) -> None:
    path = download(archive(server), tmp_path)
    server.otherwise = good(NEW)
    assert download(archive(server, checksum=sha256(OLD)), tmp_path) == path
    assert len(server.requests) == 1
    assert download(archive(server, checksum=sha256(NEW)), tmp_path).read_bytes() == NEW
    path.write_bytes(OLD)
    assert download(archive(server, checksum=sha256(OLD)), tmp_path).read_bytes() == OLD  # placed by hand in the meantime, and right
    assert len(server.requests) == 2
    assert json.loads((tmp_path / WHOLE[0]).read_text())["url"] is None


def test_a_crash_before_the_record_is_written(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(download(archive(server), tmp_path))
    server.otherwise = good(NEW)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(partial_files, "write_record", crash)
        download(archive(server), tmp_path)
    assert download(archive(server), tmp_path).read_bytes() == NEW
    assert len(server.requests) == 2


def test_a_signature_waits_for_the_file_systems_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems record times in steps of some milliseconds, within which a change would not be visible."""
    path = tmp_path / "a"
    path.write_bytes(OLD)
    changed, pauses = path.stat().st_ctime_ns, list[float]()
    for age, waits in ((0, [0.02]), (15_000_000, [0.005]), (20_000_000, []), (10**9, []), (-(10**9), [])):  # nanoseconds
        with monkeypatch.context() as patch:
            patch.setattr(store, "time", SimpleNamespace(time_ns=lambda age=age: changed + age, sleep=pauses.append))
            assert file_records.signature_of(path)[2] == changed
        assert pauses == waits
        pauses.clear()
    before = file_records.signature_of(path)
    flip(path)
    assert file_records.signature_of(path) != before


def test_the_offline_message_names_path_and_url(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_OFFLINE", "yes")
    monkeypatch.setenv("GENREC_MIRROR", f"{server.url}/mirror")
    with pytest.raises(NetworkError) as failure:
        download(archive(server, "folder/a.zip"), tmp_path)
    for expected in (str(tmp_path / "folder" / "a.zip"), f"{server.url}/folder/a.zip", "no GENREC_OFFLINE", "--source.path"):
        assert expected in str(failure.value)
    assert not server.requests
    assert not list(tmp_path.iterdir())
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / "a.zip").write_bytes(OLD)
    monkeypatch.setenv("GENREC_MIRROR", f"{server.url}/mirror {tmp_path / 'usb'}")
    assert download(archive(server, "folder/a.zip"), tmp_path).read_bytes() == OLD


@pytest.mark.parametrize("place", ["folder/a.zip", "a.zip", "deep/down/here/a.zip"])
def test_a_folder_is_a_mirror(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    mirror, root = tmp_path / "mirror", tmp_path / "root"
    (mirror / place).parent.mkdir(parents=True)
    (mirror / place).write_bytes(OLD)
    monkeypatch.setenv("GENREC_MIRROR", f"{tmp_path / 'absent'},{mirror}")
    assert download(archive(server, "folder/a.zip"), root).read_bytes() == OLD
    assert json.loads((root / "folder" / WHOLE[0]).read_text())["url"] == str(mirror / place)
    assert files(root / "folder") == WHOLE
    assert not server.requests


def test_a_mirror_with_several_files_of_one_name_is_skipped(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / "mirror" / name).mkdir(parents=True)
        (tmp_path / "mirror" / name / "a.zip").write_bytes(NEW)
    monkeypatch.setenv("GENREC_MIRROR", str(tmp_path / "mirror"))
    assert download(archive(server), tmp_path / "root").read_bytes() == OLD


def test_mirrors_come_first_and_are_verified(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "a.zip").write_bytes(HTML)
    monkeypatch.setenv("GENREC_MIRROR", f"{server.url}/base/\n{tmp_path / 'mirror'}")
    server.script = [response(404, b""), good(NEW)]
    assert download(archive(server, "folder/a.zip", checksum=sha256(OLD)), tmp_path / "root").read_bytes() == OLD
    assert [path for path, _, _ in server.requests] == ["/base/folder/a.zip", "/base/a.zip", "/folder/a.zip"]
    server.otherwise = response(404, b"")
    with pytest.raises(NetworkError, match=r"mirror/a.zip: it is not a .zip file(.|\n)*/b/a.zip: it answers 404"):
        download(Archive("a.zip", (f"{server.url}/b/a.zip",)), tmp_path / "other")


def test_the_download_folder_is_no_mirror_of_a_changed_file(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = archive(server, "a.dat")
    path = download(published, tmp_path)
    flip(path)
    monkeypatch.setenv("GENREC_MIRROR", str(tmp_path))
    assert download(published, tmp_path).read_bytes() == OLD


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A read-only folder with the file; the effective user is changed, because root may write anywhere."""
    folder = Path(tempfile.mkdtemp())
    (folder / "a.zip").write_bytes(OLD)
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_folder(server: Any, read_only: Path) -> None:
    assert download(archive(server), read_only).read_bytes() == OLD
    assert download(archive(server, checksum=sha256(OLD)), read_only).read_bytes() == OLD
    assert digest(read_only / "a.zip") == sha256(OLD)[7:]
    with pytest.raises(ResourceError, match=r"b\.zip must be downloaded, but its folder is not writable"):
        download(archive(server, "b.zip"), read_only)
    assert files(read_only) == ["a.zip"]


def hostile(name: str, mode: int = 0) -> bytes:
    entry, file = zipfile.ZipInfo(name), io.BytesIO()
    entry.external_attr = mode << 16
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(entry, b"bad")
    return file.getvalue()


def bomb(*sizes: int) -> bytes:
    """Members of zeros, and an incompressible one."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, size in enumerate(sizes):
            archive.writestr(str(number), bytes(size))
        archive.writestr("random", OLD[:20_000] if len(sizes) == 1 else b"")
    return file.getvalue()


HOSTILE = {
    "parent": hostile("../a"),
    "absolute": hostile("/a"),
    "backslash": hostile("..\\a"),
    "link": hostile("a", stat.S_IFLNK),
    "device": hostile("a", stat.S_IFCHR),
    "large member": bomb(1_200_000),
    "many members": bomb(*[300_000] * 4),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_archives_are_refused(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(file_records, "EXPANSION_BYTES", 1_000_000)
    server.otherwise = good(content)
    with pytest.raises(ArtifactError, match=r"/a\.zip: a\.zip is refused") as failure:
        download(archive(server), tmp_path)
    assert failure.value.exit_code == 4
    assert files(tmp_path) == [".a.zip.lock"]


def test_a_gzip_bomb_is_refused(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_records, "EXPANSION_BYTES", 1_000_000)
    server.otherwise = good(gzip.compress(bytes(2_000_000), 9))
    with pytest.raises(ArtifactError, match=r"a\.gz is refused: the whole file expands"):
        download(archive(server, "a.gz"), tmp_path)


@pytest.mark.parametrize("name", ["", ".", "/a.zip", "../a.zip", "a/../../b.zip", "..\\a.zip", "C:a.zip", "a\0b"])
def test_names_stay_below_the_folder(name: str) -> None:
    with pytest.raises(UsageError, match="name must be a path below"):
        Archive(name, ())


@pytest.mark.parametrize("url", ["ftp://host/a", "file:///etc/hostname", "host/a.zip", "http://"])
def test_only_http_urls_are_accepted(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="must begin with http"):
        Archive("a.zip", (url,))
    monkeypatch.setenv("GENREC_MIRROR", "ftp://host")
    with pytest.raises(UsageError, match="must begin with http"):
        download(Archive("a.zip", ()), tmp_path)
    with pytest.raises(UsageError, match="md5:HEX or sha256:HEX"):
        Archive("a.zip", (), checksum="abc")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.zip").mkdir()
    with pytest.raises(ArtifactError, match="is a folder"):
        download(Archive("a.zip", ()), tmp_path)
    with pytest.raises(InputError, match="can't be read"):
        digest(tmp_path / "absent")
    with pytest.raises(NetworkError, match="get it from its publisher"):
        download(Archive("b.zip", ()), tmp_path)


def test_importing_opens_no_network() -> None:
    code = (
        "import sys, genrec.data.download; print([n for n in ('socket', 'ssl', 'urllib.request', 'http.client') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
