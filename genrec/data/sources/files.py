"""Stage 1, upstream files: where they are, their lines, their hash. Nothing is ever unpacked to the disk.

In: a folder or a zip archive, and a file's name. Out: lines as bytes with their numbers. Damage (a truncated gzip, a zip member
whose checksum does not fit) is an error that names the position, never a shorter data set.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from genrec.data.sources.ledger import Ledger
from genrec.errors import ArtifactError, InputError, NetworkError
from genrec.progress import Progress

LINE_LIMIT = 10_000_000  # bytes; a longer line is no record
EXPANSION_LIMIT = 200  # a zip member that grows more than this, to over EXPANSION_BYTES, is refused
EXPANSION_BYTES = 100_000_000
_BLOCK = 1 << 20
_REPORT_EVERY = 20_000  # lines
_DAMAGE = (EOFError, OSError, RuntimeError, zlib.error, zipfile.BadZipFile)


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
    def open(self) -> Iterator[BinaryIO]:
        """The file's bytes, decompressed."""
        if self.member:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream), _BLOCK))
        elif self.path.suffix == ".gz":
            with gzip.open(self.path) as stream:
                yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream), _BLOCK))
        else:
            with self.path.open("rb", buffering=_BLOCK) as stream:
                yield stream

    def lines(self, ledger: Ledger) -> Iterator[tuple[int, bytes]]:
        """Number (from 1) and content of every line that is not empty; too long ones and those with a NUL are set aside."""
        number = 0
        try:
            with self.open() as stream, Progress(f"reading {self.name}", None) as progress:
                while line := stream.readline(LINE_LIMIT + 1):
                    number += 1
                    if number % _REPORT_EVERY == 0:
                        progress.advance(_REPORT_EVERY, "lines")
                    if len(line) > LINE_LIMIT:
                        while not line.endswith(b"\n") and (line := stream.readline(LINE_LIMIT)):
                            pass
                        ledger.malformed(number, f"the line is longer than {LINE_LIMIT // 1_000_000} MB")
                    elif b"\0" in line:
                        ledger.malformed(number, "the line holds a NUL byte")
                    elif content := line.rstrip(b"\r\n"):
                        yield number, content
        except _DAMAGE as error:
            raise InputError(
                f"{self.path} is damaged: {self.name} can't be read past line {number} ({_said(error)}); fetch it again"
            ) from error

    def digest(self) -> str:
        """The sha256 of the file's bytes (of an archive's member: of its content, so that unpacking it changes nothing)."""
        try:
            if not self.member:
                with self.path.open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            with self.open() as stream:
                digest = hashlib.sha256()
                while block := stream.read(_BLOCK):
                    digest.update(block)
                return digest.hexdigest()
        except _DAMAGE as error:
            raise InputError(f"{self.path} is damaged: {self.name} can't be read ({_said(error)}); fetch it again") from error


def find(place: Path, name: str) -> UpstreamFile:
    """The file called `name`, at any depth of a folder or of a zip archive."""
    if place.is_dir():
        found = [UpstreamFile(path) for path in sorted(place.rglob(name)) if path.is_file()]
    elif place.is_file():
        found = [UpstreamFile(place, member) for member in _members(place) if PurePosixPath(member).name == name]
    else:
        raise InputError(f"there is no file or folder {place}; --source.path names the upstream archive or its unpacked folder")
    if not found:
        raise InputError(f"{place} holds no {name}; expected the upstream archive, or the folder that it unpacks to")
    if len(found) > 1:
        raise InputError(f"{place} holds {len(found)} files called {name}: {', '.join(f.member or str(f.path) for f in found)}")
    return found[0]


def locate(path: Path | None, root: Path, names: tuple[str, ...], address: str) -> Path:
    """`path` where one is given, else the first of `names` that exists below `root`; `address` is where to fetch it."""
    if path is not None:
        return Path(path)
    for name in names:
        if (root / name).exists():
            return root / name
    raise NetworkError(
        f"{root / names[0]} is missing, and nothing was fetched: get it from {address} and put it there, or say where it is with "
        "--source.path"
    )


def fingerprint(variant: str, files: tuple[UpstreamFile, ...]) -> str:
    """A hash of the data set's variant and of its files' bytes, wherever they lie."""
    return hashlib.sha256("\n".join((variant, *(file.digest() for file in files))).encode()).hexdigest()


def _members(path: Path) -> list[str]:
    """The names of an archive's files; an archive that reaches outside its folder, or explodes, is refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _DAMAGE as error:
        raise InputError(f"{path} is no zip archive, or is damaged ({_said(error)}); fetch it again") from error
    for entry in entries:
        name, kind = PurePosixPath(entry.filename.replace("\\", "/")), stat.S_IFMT(entry.external_attr >> 16)
        if name.is_absolute() or ".." in name.parts or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ArtifactError(f"{path} is refused: {entry.filename!r} is a link, a device, or lies outside the archive's folder")
        if entry.file_size > max(EXPANSION_BYTES, EXPANSION_LIMIT * entry.compress_size):
            raise ArtifactError(f"{path} is refused: {entry.filename!r} grows from {entry.compress_size} to {entry.file_size} bytes")
    return [entry.filename for entry in entries if not entry.is_dir()]


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
