"""Stage 1, upstream files: where they are, their blocks and lines, their hash. Nothing is ever unpacked to the disk.

In: a folder or a zip archive, and a file's name. Out: blocks of whole lines, or lines, as bytes with their numbers. Damage (a
truncated gzip, a zip member whose checksum does not fit) is an error that names the position, never a shorter data set.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, cast

from genrec.data.download import Archive, digest, download
from genrec.data.download.file_records import check_expansion, check_members
from genrec.data.readers.bad_rows import BadRows
from genrec.errors import InputError
from genrec.progress import Progress
from genrec.store import Signature, signature_of

BLOCK = 1 << 22  # bytes that are read, and parsed, at one time
LINE_LIMIT = 10_000_000  # bytes; a longer line is no record
_BUFFER = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DAMAGE = (EOFError, OSError, RuntimeError, zlib.error, zipfile.BadZipFile)

Line = tuple[int, bytes]  # number, from 1, and content
_member_digests: dict[tuple[str, Signature, str], str] = {}  # by archive, its signature and the member, for this process


class Block(NamedTuple):
    """Whole lines of a file."""

    line: int  # number of the first one, from 1
    content: bytes  # with line ends; the file's last line may have none

    def lines(self, ledger: BadRows) -> Iterator[Line]:
        """The lines that are not empty, without line ends; those with a NUL are set aside."""
        for number, line in enumerate(self.content.split(b"\n"), self.line):
            if b"\0" in line:
                ledger.malformed(number, "the line holds a NUL byte")
            elif content := line.rstrip(b"\r"):
                yield number, content

    def after(self, line: int) -> Block:
        """The lines behind the one with this number."""
        start = 0
        for _ in range(line + 1 - self.line):
            start = self.content.find(b"\n", start) + 1 or len(self.content)
        return Block(max(line + 1, self.line), self.content[start:])


@dataclass(frozen=True)
class UpstreamFile:
    """One upstream file, on its own or inside a zip archive."""

    path: Path  # the file, or the archive that holds it
    member: str = ""  # its name in the archive; "" for a file of its own

    @property
    def name(self) -> str:
        """For messages and for the rows that are set aside."""
        return f"{self.path.name}:{self.member}" if self.member else self.path.name

    @contextmanager
    def open(self, buffer: int = _BUFFER) -> Iterator[BinaryIO]:
        """The file's bytes, decompressed."""
        if self.member:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream), buffer))
        elif self.path.suffix == ".gz":
            with gzip.open(self.path) as stream:
                yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream), buffer))
        else:
            with self.path.open("rb", buffering=buffer) as stream:
                yield stream

    def blocks(self, ledger: BadRows, size: int = BLOCK) -> Iterator[Block]:
        """The file in blocks of about `size` bytes, without a byte order mark; lines that are too long are set aside."""
        cutter = _Cutter(ledger)
        try:
            grown, packed = 0, self.path.stat().st_size
            with self.open() as stream, Progress(f"reading {self.name}", None) as progress:
                data = stream.read(max(size, len(_BYTE_ORDER_MARK)))
                content = data.removeprefix(_BYTE_ORDER_MARK)
                while data:
                    if self.path.suffix == ".gz":  # an archive's members are checked when they are found
                        grown += len(data)
                        check_expansion(self.name, "the whole of it", packed, grown)
                    before = cutter.line
                    if (block := cutter.cut(content)).content:
                        yield block
                    progress.advance(cutter.line - before, "lines")
                    content = data = stream.read(size)
        except _DAMAGE as error:
            raise InputError(
                f"{self.path} is damaged: {self.name} can't be read past line {self._readable()} ({_said(error)}); fetch it again"
            ) from error
        if cutter.rest:
            yield Block(cutter.line, cutter.rest)

    def _readable(self) -> int:
        """How many whole lines come before the damage."""
        count = 0
        with suppress(*_DAMAGE), self.open(buffer=1 << 10) as stream:
            while line := stream.readline(LINE_LIMIT):
                count += line.endswith(b"\n")
        return count

    def lines(self, ledger: BadRows) -> Iterator[Line]:
        """Number (from 1) and content of every line that is not empty; too long ones and those with a NUL are set aside."""
        return lines_of(self.blocks(ledger), ledger)

    def digest(self) -> str:
        """The sha256 of the file's bytes (of an archive's member: of its content, so that unpacking it changes nothing)."""
        if not self.member:
            return digest(self.path)
        try:
            key = os.path.abspath(self.path), signature_of(self.path), self.member
            if key not in _member_digests:
                with self.open() as stream:
                    _member_digests[key] = hashlib.file_digest(cast(io.BufferedReader, stream), "sha256").hexdigest()
        except _DAMAGE as error:
            raise InputError(f"{self.path} is damaged: {self.name} can't be read ({_said(error)}); fetch it again") from error
        return _member_digests[key]


class _Cutter:
    """Cuts what is read at line ends, and counts lines."""

    def __init__(self, ledger: BadRows) -> None:
        self.ledger = ledger
        self.line = 1  # number of the line that `rest` begins
        self.rest = b""  # what was read of a line whose end is not reached
        self.skipping = False  # the end of a line that is too long is not reached

    def cut(self, data: bytes) -> Block:
        if self.skipping:
            _, found, data = data.partition(b"\n")
            self.skipping, self.line = not found, self.line + len(found)
        end = data.rfind(b"\n") + 1
        content, self.rest = (self.rest + data[:end], data[end:]) if end else (b"", self.rest + data)
        if (first := content.find(b"\n") + 1) > LINE_LIMIT:
            self._too_long()
            self.line, content = self.line + 1, content[first:]
        block = Block(self.line, content)
        self.line += content.count(b"\n")
        if len(self.rest) > LINE_LIMIT:
            self._too_long()
            self.rest, self.skipping = b"", True
        return block

    def _too_long(self) -> None:
        self.ledger.malformed(self.line, f"the line is longer than {LINE_LIMIT // 1_000_000} MB")


def lines_of(blocks: Iterator[Block], ledger: BadRows) -> Iterator[Line]:
    """The lines of many blocks."""
    return chain.from_iterable(block.lines(ledger) for block in blocks)


UPSTREAM = "expected the upstream archive, or the folder that it unpacks to"


def find(place: Path, *names: str, within: str = "", advice: str = UPSTREAM) -> UpstreamFile:
    """The file called by the first of `names` that is there, at any depth of a folder or of a zip archive.

    Where there are several, the one in a folder called `within`; where there is none, `advice` is part of the error.
    """
    if place.is_dir():
        every = [UpstreamFile(path) for name in names for path in sorted(place.rglob(name)) if path.is_file()]
    elif place.is_file():
        every = [UpstreamFile(place, member) for member in _members(place)]
    else:
        raise InputError(f"there is no file or folder {place}; --source.path names the upstream archive or its unpacked folder")
    for name in names:
        found = [file for file in every if PurePosixPath(file.member or file.path.as_posix()).name == name]
        if len(found) > 1:
            found = [file for file in found if within in (file.path / file.member).parts] or found
        if len(found) > 1:
            raise InputError(f"{place} holds {len(found)} files called {name}: {', '.join(f.member or str(f.path) for f in found)}")
        if found:
            return found[0]
    raise InputError(f"{place} holds no {' or '.join(names)}; {advice}")


def obtain(archive: Archive, root: Path, *unpacked: str) -> Path:
    """What was unpacked by hand below `root`, under the first of these names, else the archive, fetched unless it is there."""
    if not (root / archive.name).is_file():
        for name in unpacked:
            if (root / name).exists():
                return root / name
    return download(archive, root)


def fingerprint(variant: str, files: tuple[UpstreamFile, ...]) -> str:
    """A hash of the data set's variant and of its files' bytes, wherever they lie."""
    return hashlib.sha256("\n".join((variant, *(file.digest() for file in files))).encode()).hexdigest()


def _members(path: Path) -> list[str]:
    """The names of an archive's files; an archive that reaches outside its folder, or explodes, is refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = check_members(str(path), archive)
    except _DAMAGE as error:
        raise InputError(f"{path} is no zip archive, or is damaged ({_said(error)}); fetch it again") from error
    return [entry.filename for entry in entries if not entry.is_dir()]


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
