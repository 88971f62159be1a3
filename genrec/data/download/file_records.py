"""Stage 1, what is known of a fetched file: its hash, whether it is whole, and the record beside it that finds alterations.

In: a file and what is published of it. Out: its sha256, or why it is not the published file. The record `.NAME.fetched.json` keeps
size, sha256, origin and a stat signature; while the signature holds, the file is not read again. A record that can't be read
counts as none.
"""

from __future__ import annotations

import gzip
import json
import os
import stat
import zipfile
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from genrec.errors import ArtifactError, InputError
from genrec.store import Signature, file_hash, signature_of, write_json

EXPANSION_LIMIT = 200  # an archive, or a member, that grows more than this, to over EXPANSION_BYTES, is refused
EXPANSION_BYTES = 100_000_000
_BLOCK = 1 << 20
_MAGIC = {".zip": b"PK\x03\x04", ".gz": b"\x1f\x8b"}
_DAMAGE = (EOFError, OSError, RuntimeError, zlib.error, zipfile.BadZipFile)

_seen: dict[str, tuple[Signature, str]] = {}  # sha256 by absolute path, for this process


@dataclass(frozen=True)
class Record:
    """What a file was when it was last found right."""

    address: str | None  # where it came from; None: it was there already
    checksum: str | None  # the published one that it fits
    size: int  # bytes
    sha256: str
    fetched: str  # when, in UTC
    signature: Signature


def digest(path: Path) -> str:
    """The sha256 of a file, remembered while the file is untouched."""
    place = os.path.abspath(path)
    try:
        signature = signature_of(path)
        known = _seen.get(place)
        if known is not None and known[0] == signature:
            return known[1]
        record = read_record(path)
        sha256 = record.sha256 if record is not None and record.signature == signature else file_hash(path)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error}); expected a file") from None
    _seen[place] = signature, sha256
    return sha256


def record_place(path: Path) -> Path:
    """Where the record of a file is."""
    return path.with_name(f".{path.name}.fetched.json")


def read_record(path: Path) -> Record | None:
    """The record beside a file, or None."""
    try:
        fields = json.loads(record_place(path).read_text(encoding="utf-8"))
        record = Record(**{**fields, "signature": tuple(fields["signature"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return record if isinstance(record.sha256, str) and len(record.sha256) == 64 else None


def write_record(path: Path, sha256: str, checksum: str | None, signature: Signature, address: str | None, fetched: str = "") -> None:
    """Remember that a file is right; a folder that can't be written only means that it is read again the next time."""
    when = fetched or datetime.now(UTC).isoformat(timespec="seconds")
    place = record_place(path)
    try:
        write_json(place, asdict(Record(address, checksum, signature[0], sha256, when, signature)))
    except OSError:
        with suppress(OSError):
            place.with_name(f".{place.name}.partial").unlink(missing_ok=True)


def differs(path: Path, sha256: str, size: int | None, checksum: str | None) -> str:
    """Why a file is not the published one, by its size and checksum; "" where it is, or where neither is published."""
    if checksum is not None:
        algorithm, _, expected = checksum.lower().partition(":")
        got = sha256 if algorithm == "sha256" else file_hash(path, algorithm)
        if got != expected:
            return f"its {algorithm} is {got}, expected {expected}"
    found = path.stat().st_size
    return f"it has {found} bytes, expected {size} (its sha256 is {sha256})" if size not in (None, found) else ""


def damage(path: Path, name: str) -> str:
    """Why a file can't be what its name says, by its first bytes and by every checksum inside; "" where nothing is wrong.

    Archives that reach outside their folder, or that explode, are refused.
    """
    suffix = PurePosixPath(name).suffix
    with path.open("rb") as file:
        begins = file.read(60)
    if suffix not in _MAGIC:
        page = begins.lstrip().lower().startswith((b"<!doctype html", b"<html"))
        return "it is empty" if not begins else "it is a page of HTML" if page else ""
    if not begins.startswith(_MAGIC[suffix]):
        return f"it is no {suffix} file, it begins with {begins!r}"
    try:
        return _zip_damage(path, name) if suffix == ".zip" else _gzip_damage(path, name)
    except (*_DAMAGE, NotImplementedError) as error:
        return f"it is damaged ({type(error).__name__}: {error})"


def check_members(name: str, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """An archive's entries; one that reaches outside its folder, or explodes, is refused."""
    entries = archive.infolist()
    for entry in entries:
        inside, kind = PurePosixPath(entry.filename.replace("\\", "/")), stat.S_IFMT(entry.external_attr >> 16)
        if inside.is_absolute() or ".." in inside.parts or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ArtifactError(
                f"{name} is refused: {entry.filename!r} is a link, a device, or lies outside the archive's folder; get it from "
                "somewhere else"
            )
        check_growth(name, entry.filename, entry.compress_size, entry.file_size)
    return entries


def _zip_damage(path: Path, name: str) -> str:
    with zipfile.ZipFile(path) as archive:
        entries = check_members(name, archive)
        check_growth(name, "the whole of it", path.stat().st_size, sum(entry.file_size for entry in entries))
        bad = archive.testzip()
    return f"it is damaged (the checksum of {bad} does not fit)" if bad is not None else ""


def _gzip_damage(path: Path, name: str) -> str:
    grown, size, twice = 0, path.stat().st_size, False
    with gzip.open(path) as stream:
        while block := stream.read(_BLOCK):
            twice = twice or (not grown and block.startswith(_MAGIC[".gz"]))
            grown += len(block)
            check_growth(name, "the whole of it", size, grown)
    return "it is packed twice" if twice else ""


def check_growth(name: str, what: str, before: int, after: int) -> None:
    """Refuse what grows from so many bytes to so many more."""
    if after > max(EXPANSION_BYTES, EXPANSION_LIMIT * before):
        raise ArtifactError(f"{name} is refused: {what} grows from {before} to {after} bytes or more; get it from somewhere else")
