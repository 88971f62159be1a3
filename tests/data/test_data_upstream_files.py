"""Upstream files: lines, damage, hostile archives, and the limit of malformed rows."""

from __future__ import annotations

import gzip
import stat
import zipfile
import zlib
from pathlib import Path

import pytest

from genrec.data.readers.bad_rows import BadRows
from genrec.data.readers.line_rows import parse_json_lines
from genrec.data.readers.upstream_files import LINE_LIMIT, UpstreamFile, find_file
from genrec.errors import ArtifactError, InputError

LINES = [f"line {number} ".encode() + bytes(str(number**9), "ascii") for number in range(20_000)]


def write_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"folder/{name}", content)
    return path


def read_lines(file: UpstreamFile) -> list[tuple[int, bytes]]:
    return list(file.lines(BadRows(file.name)))


def test_zip_gzip_and_plain_files_have_the_same_lines(tmp_path: Path) -> None:
    content = b"\r\n".join(LINES[:5])
    (tmp_path / "plain.txt").write_bytes(content)
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(content))
    write_zip(tmp_path / "archive.zip", member=content)
    files = [UpstreamFile(tmp_path / name) for name in ("plain.txt", "packed.txt.gz")]
    files.append(find_file(tmp_path / "archive.zip", "member"))
    assert [read_lines(file) for file in files] == [list(enumerate(LINES[:5], 1))] * 3
    assert files[0].digest() == files[2].digest()  # unpacking an archive changes no hash


def test_long_lines_and_lines_with_nul_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"good\n\n" + b"x" * (LINE_LIMIT + 5) + b"\nnul\0\nlast")
    bad_rows = BadRows("lines")
    assert list(UpstreamFile(path).lines(bad_rows)) == [(1, b"good"), (5, b"last")]
    assert bad_rows.rows == [(3, "the line is longer than 10 MB"), (4, "the line holds a NUL byte")]


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_gzip_names_the_position(tmp_path: Path, share: float) -> None:
    whole = gzip.compress(b"\n".join(LINES))
    path = tmp_path / "reviews.json.gz"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"reviews\.json\.gz is damaged.*past line \d+") as caught:
        read_lines(UpstreamFile(path))
    reported = int(str(caught.value).split("past line ")[1].split()[0])
    readable = zlib.decompressobj(31).decompress(path.read_bytes()).count(b"\n")
    assert readable - 1_000 <= reported <= readable  # within one buffer
    assert share < 0.5 or reported > 5_000


def test_a_flipped_bit_in_a_zip_member_is_detected(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "archive.zip", member=b"\n".join(LINES))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"archive\.zip is damaged"):
        read_lines(find_file(path, "member"))
    with pytest.raises(InputError, match=r"archive\.zip is damaged"):
        find_file(path, "member").digest()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_an_invalid_zip_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "archive.zip").write_bytes(content)
    with pytest.raises(InputError, match="is not a zip archive"):
        find_file(tmp_path / "archive.zip", "member")


def test_no_file_and_several_files_of_a_name_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file or folder"):
        find_file(tmp_path / "absent", "u.data")
    with pytest.raises(InputError, match=r"holds no u\.data"):
        find_file(tmp_path, "u.data")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "u.data").touch()
    with pytest.raises(InputError, match="holds 2 files called"):
        find_file(tmp_path, "u.data")


@pytest.mark.parametrize("name", ["../escape", "/absolute", "folder/../../escape", "..\\escape"])
def test_archives_with_members_outside_are_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("member", b"good")
        archive.writestr(zipfile.ZipInfo(name), b"bad")
    with pytest.raises(ArtifactError, match="refused"):
        find_file(tmp_path / "archive.zip", "member")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFBLK])
def test_archives_with_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    entry = zipfile.ZipInfo("member")
    entry.external_attr = (kind | 0o644) << 16
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr(entry, "/etc/hostname")
    with pytest.raises(ArtifactError, match="a link, a device"):
        find_file(tmp_path / "archive.zip", "member")


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "archive.zip", member=bytes(150_000_000))
    with pytest.raises(ArtifactError, match="expands from"):
        find_file(path, "member")


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}\n" * 60_000_000))
    with pytest.raises(ArtifactError, match="the whole file expands from"):
        for _ in UpstreamFile(path).blocks(BadRows("bomb")):
            pass


def test_the_limit_of_malformed_rows() -> None:
    bad_rows = BadRows("file")
    bad_rows.malformed(7, "bad")
    bad_rows.check(99, 0.01)  # 1 of 100
    with pytest.raises(InputError, match=r"1 of 99 rows \(1\.0%\) are malformed.*bad: 1, first in line 7"):
        bad_rows.check(98, 0.01)
    with pytest.raises(InputError, match="malformed"):
        bad_rows.check(0, 1.0)
    with pytest.raises(InputError, match="holds no rows"):
        BadRows("file").check(0, 0.01)


def test_lines_that_are_not_json_objects_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "records"
    path.write_bytes(b'{"a": 1}\n{"a": \n[1]\n\xff\n' + b"[" * 100_000 + b"\n{'a': 2}\n" + b'{"a": ' + b"9" * 5000 + b"}\n")
    plain, literal = BadRows("records"), BadRows("records")
    assert list(parse_json_lines(UpstreamFile(path).lines(plain), plain)) == [(1, {"a": 1})]
    assert [line for line, _ in plain.rows] == [2, 3, 4, 5, 6, 7]
    assert plain.rows[2] == (4, "the line is not UTF-8")
    assert list(parse_json_lines(UpstreamFile(path).lines(literal), literal, python_literals=True)) == [(1, {"a": 1}), (6, {"a": 2})]


def test_python_literals_are_not_executed_and_have_a_limit(tmp_path: Path) -> None:
    path, trap = tmp_path / "records", tmp_path / "trap"
    large = "{'a': '" + "x" * 1_000_000 + "'}"
    path.write_text(f"__import__('pathlib').Path({str(trap)!r}).touch()\n{large}\n{'-' * 50_000}1\n{{'a': None}}\n")
    bad_rows = BadRows("records")
    assert list(parse_json_lines(UpstreamFile(path).lines(bad_rows), bad_rows, python_literals=True)) == [(4, {"a": None})]
    assert [line for line, _ in bad_rows.rows] == [1, 2, 3]
    assert not trap.exists()
