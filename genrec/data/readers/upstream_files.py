"""Upstream files: find them, read them in blocks or lines, and hash them. Nothing is unpacked to the disk.

Damage (a truncated gzip file, a zip member with a wrong checksum) raises InputError with the position; data are never cut short
silently.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, cast

from genrec.data.download import Archive, digest, download
from genrec.data.download.file_records import check_expansion, check_members, read_record
from genrec.data.readers.bad_rows import BadRows
from genrec.errors import InputError
from genrec.input_files import DAMAGE, RESTORE, describe_error, file_suffix
from genrec.progress import Progress
from genrec.store import Signature, signature_of

BLOCK_SIZE = 1 << 22  # bytes that are read and parsed at once
NUL_BYTE = "the line holds a NUL byte"
LINE_LIMIT = 10_000_000  # bytes; longer lines are set aside
_BUFFER_SIZE = 1 << 20  # bytes
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Line = tuple[int, bytes]  # number, from 1, and content without line end
_member_digests: dict[tuple[str, Signature, str], str] = {}  # archive, its signature and the member -> sha256, in this process


class Block(NamedTuple):
    """Some whole lines of a file."""

    line: int  # number of the first line, from 1
    content: bytes  # with line ends; the last line of the file may have none

    def lines(self, bad_rows: BadRows) -> Iterator[Line]:
        """Yield the lines that are not empty, without line ends. Lines with a NUL byte are set aside."""
        for number, line in enumerate(self.content.split(b"\n"), self.line):
            if b"\0" in line:
                bad_rows.malformed(number, NUL_BYTE)
            elif content := line.rstrip(b"\r"):
                yield number, content

    def after(self, line: int) -> Block:
        """Return the lines that follow the line with this number."""
        start = 0
        for _ in range(line + 1 - self.line):
            start = self.content.find(b"\n", start) + 1 or len(self.content)
        return Block(max(line + 1, self.line), self.content[start:])


@dataclass(frozen=True)
class UpstreamFile:
    """A plain or gzip file, or a member of a zip archive."""

    path: Path  # the file, or the archive that holds it
    member: str = ""  # name inside the archive; "" for a file on its own

    @property
    def name(self) -> str:
        """The name in messages and in the table of rows that are set aside."""
        return f"{self.path.name}:{self.member}" if self.member else self.path.name

    @contextmanager
    def open(self, buffer: int = _BUFFER_SIZE) -> Iterator[BinaryIO]:
        """Open the decompressed file."""
        if self.member:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream), buffer))
        elif file_suffix(self.path) == ".gz":
            with gzip.open(self.path) as stream:
                yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream), buffer))
        else:
            with self.path.open("rb", buffering=buffer) as stream:
                yield stream

    def blocks(self, bad_rows: BadRows, size: int = BLOCK_SIZE) -> Iterator[Block]:
        """Yield blocks of about `size` bytes, without a byte order mark. Lines that are too long are set aside."""
        cutter = _BlockCutter(bad_rows)
        try:
            unpacked, packed = 0, self.path.stat().st_size
            with self.open() as stream, Progress(f"reading {self.name}", None) as progress:
                data = stream.read(max(size, len(_BYTE_ORDER_MARK)))
                content = data.removeprefix(_BYTE_ORDER_MARK)
                while data:
                    if file_suffix(self.path) == ".gz":  # the members of zip archives are checked by `find_file`
                        unpacked += len(data)
                        check_expansion(self.name, "the whole file", packed, unpacked)
                    before = cutter.line
                    if (block := cutter.cut(content)).content:
                        yield block
                    progress.advance(cutter.line - before, "lines")
                    content = data = stream.read(size)
        except DAMAGE as error:
            raise _damaged(
                self.path, f"is damaged: {self.name} can't be read past line {self._count_readable_lines()}", error
            ) from error
        if cutter.rest:
            yield Block(cutter.line, cutter.rest)

    def _count_readable_lines(self) -> int:
        """Return the number of whole lines before the damage."""
        count = 0
        with suppress(*DAMAGE), self.open(buffer=1 << 10) as stream:
            while line := stream.readline(LINE_LIMIT):
                count += line.endswith(b"\n")
        return count

    def lines(self, bad_rows: BadRows) -> Iterator[Line]:
        """Yield the lines that are not empty. Lines that are too long or hold a NUL byte are set aside."""
        return lines_of(self.blocks(bad_rows), bad_rows)

    def digest(self) -> str:
        """Return the sha256 of the file; for a member of an archive, of its content, so that unpacking changes no hash."""
        if not self.member:
            return digest(self.path)
        try:
            key = os.path.abspath(self.path), signature_of(self.path), self.member
            if key not in _member_digests:
                with self.open() as stream:
                    _member_digests[key] = hashlib.file_digest(cast(io.BufferedReader, stream), "sha256").hexdigest()
        except DAMAGE as error:
            raise _damaged(self.path, f"is damaged: {self.name} can't be read", error) from error
        return _member_digests[key]


class _BlockCutter:
    """Cuts consecutive bytes of a file at line ends, and counts lines."""

    def __init__(self, bad_rows: BadRows) -> None:
        self.bad_rows = bad_rows
        self.line = 1  # number of the line that `rest` begins
        self.rest = b""  # beginning of a line that is not complete yet
        self.skipping = False  # inside a line that is too long

    def cut(self, data: bytes) -> Block:
        if self.skipping:
            _, found, data = data.partition(b"\n")
            self.skipping, self.line = not found, self.line + len(found)
        end = data.rfind(b"\n") + 1
        content, self.rest = (self.rest + data[:end], data[end:]) if end else (b"", self.rest + data)
        if (first := content.find(b"\n") + 1) > LINE_LIMIT:
            self._set_aside()
            self.line, content = self.line + 1, content[first:]
        block = Block(self.line, content)
        self.line += content.count(b"\n")
        if len(self.rest) > LINE_LIMIT:
            self._set_aside()
            self.rest, self.skipping = b"", True
        return block

    def _set_aside(self) -> None:
        self.bad_rows.malformed(self.line, f"the line is longer than {LINE_LIMIT // 1_000_000} MB")


def lines_of(blocks: Iterator[Block], bad_rows: BadRows) -> Iterator[Line]:
    """Yield the lines of several blocks."""
    return chain.from_iterable(block.lines(bad_rows) for block in blocks)


ARCHIVE_ADVICE = "expected the upstream archive, or the folder with its unpacked files"


def find_file(path: Path, *names: str, folder: str = "", advice: str = ARCHIVE_ADVICE) -> UpstreamFile:
    """Find a file by name at any depth of a folder or zip archive; earlier names are preferred.

    If several files have the name, the one in a folder called `folder` is returned. Raise InputError if there are still several, or if
    there is none; the message then ends with `advice`.
    """
    if path.is_dir():
        files = [UpstreamFile(file) for name in names for file in sorted(path.rglob(name)) if file.is_file()]
    elif path.is_file():
        files = [UpstreamFile(path, member) for member in _members(path)]
    else:
        raise InputError(f"there is no file or folder {path}; pass the upstream archive or its unpacked folder with --source.path")
    for name in names:
        found = [file for file in files if PurePosixPath(file.member or file.path.as_posix()).name == name]
        if len(found) > 1:
            found = [file for file in found if folder in (file.path / file.member).parts] or found
        if len(found) > 1:
            raise InputError(f"{path} holds {len(found)} files called {name}: {', '.join(f.member or str(f.path) for f in found)}")
        if found:
            return found[0]
    raise InputError(f"{path} holds no {' or '.join(names)}; {advice}")


def locate_or_download(archive: Archive, root: Path, *unpacked: str) -> Path:
    """Return the first of the `unpacked` paths below `root` that exists, else the archive, downloaded if it is missing."""
    if not (root / archive.name).is_file():
        for name in unpacked:
            if (root / name).exists():
                return root / name
    return download(archive, root)


def fingerprint_of(variant: str, files: tuple[UpstreamFile, ...]) -> str:
    """Return a hash of the data set's variant and the content of its files. It does not depend on their paths."""
    return hashlib.sha256("\n".join((variant, *(file.digest() for file in files))).encode()).hexdigest()


def _members(path: Path) -> list[str]:
    """Return the names of the files in a zip archive; raise ArtifactError if a member is unsafe."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [entry.filename for entry in check_members(str(path), archive) if not entry.is_dir()]
    except DAMAGE as error:
        raise _damaged(path, "is not a zip archive, or is damaged", error) from error


def _damaged(path: Path, problem: str, error: BaseException) -> InputError:
    """Return the error for a file that cannot be read; only a file that genrec has downloaded is downloaded again."""
    if isinstance(error, PermissionError):
        return InputError(f"{path} can't be read ({describe_error(error)}); allow this user to read it")
    record = read_record(path)
    advice = "delete it to download it again" if record is not None and record.url is not None else RESTORE
    return InputError(f"{path} {problem} ({describe_error(error)}); {advice}")
