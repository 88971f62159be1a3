"""Hashes, integrity checks and records of downloaded files.

The record of a file, `.NAME.downloaded.json` beside it, holds its size, sha256, origin and stat signature. While the signature is
unchanged, the file is not read again. A missing or unreadable record only means that the file is hashed again.
"""

from __future__ import annotations

import gzip
import json
import os
import stat
import zipfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from genrec.errors import ArtifactError, InputError
from genrec.input_files import DAMAGE, describe_error
from genrec.store import Signature, file_hash, signature_of, write_json

EXPANSION_LIMIT = 200  # unpacked / packed size; an archive or member above it and above EXPANSION_BYTES is refused
EXPANSION_BYTES = 100_000_000
_READ_SIZE = 1 << 20  # bytes
_MAGIC = {".zip": b"PK\x03\x04", ".gz": b"\x1f\x8b"}

_digests: dict[str, tuple[Signature, str]] = {}  # absolute path -> signature and sha256, in this process


@dataclass(frozen=True)
class Record:
    """State of a file when it was last verified."""

    url: str | None  # URL or mirror file it came from; None: placed there by hand
    checksum: str | None  # published checksum that it matches
    size: int  # bytes
    sha256: str
    downloaded: str  # UTC time, ISO 8601
    signature: Signature


def digest(path: Path) -> str:
    """Return the sha256 of a file, cached until the file changes; raise InputError if it cannot be read."""
    key = os.path.abspath(path)
    try:
        signature = signature_of(path)
        cached = _digests.get(key)
        if cached is not None and cached[0] == signature:
            return cached[1]
        record = read_record(path)
        sha256 = record.sha256 if record is not None and record.signature == signature else file_hash(path)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error}); expected a file") from None
    _digests[key] = signature, sha256
    return sha256


def record_path(path: Path) -> Path:
    """Return the path of a file's record."""
    return path.with_name(f".{path.name}.downloaded.json")


def read_record(path: Path) -> Record | None:
    """Return the record of a file, None if it is missing or unreadable."""
    try:
        fields = json.loads(record_path(path).read_text(encoding="utf-8"))
        record = Record(**{**fields, "signature": tuple(fields["signature"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return record if isinstance(record.sha256, str) and len(record.sha256) == 64 else None


def write_record(path: Path, sha256: str, checksum: str | None, signature: Signature, url: str | None, downloaded: str = "") -> None:
    """Write the record of a verified file. In a read-only folder nothing is written, and the file is hashed again next time."""
    when = downloaded or datetime.now(UTC).isoformat(timespec="seconds")
    target = record_path(path)
    try:
        write_json(target, asdict(Record(url, checksum, signature[0], sha256, when, signature)))
    except OSError:
        with suppress(OSError):
            target.with_name(f".{target.name}.partial").unlink(missing_ok=True)


def find_mismatch(path: Path, sha256: str, size: int | None, checksum: str | None) -> str:
    """Compare a file with its published size and checksum; return the difference, "" if there is none or nothing is published."""
    if checksum is not None:
        algorithm, _, expected = checksum.lower().partition(":")
        got = sha256 if algorithm == "sha256" else file_hash(path, algorithm)
        if got != expected:
            return f"its {algorithm} is {got}, expected {expected}"
    found = path.stat().st_size
    return f"it has {found} bytes, expected {size} (its sha256 is {sha256})" if size not in (None, found) else ""


def find_damage(path: Path, name: str) -> str:
    """Check a file against the format of its name by its first bytes and the checksums inside; return the problem, "" if none.

    Raise ArtifactError if a member lies outside the archive's folder, or if the archive expands beyond the limits.
    """
    suffix = PurePosixPath(name).suffix
    with path.open("rb") as file:
        beginning = file.read(60)
    if suffix not in _MAGIC:
        is_html = beginning.lstrip().lower().startswith((b"<!doctype html", b"<html"))
        return "it is empty" if not beginning else "it is an HTML page" if is_html else ""
    if not beginning.startswith(_MAGIC[suffix]):
        return f"it is not a {suffix} file, it begins with {beginning!r}"
    try:
        return _find_zip_damage(path, name) if suffix == ".zip" else _find_gzip_damage(path, name)
    except DAMAGE as error:
        return f"it is damaged ({describe_error(error)})"


def check_members(name: str, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return an archive's entries; raise ArtifactError if one lies outside the archive's folder, is a link, or expands too much."""
    entries = archive.infolist()
    for entry in entries:
        inside, kind = PurePosixPath(entry.filename.replace("\\", "/")), stat.S_IFMT(entry.external_attr >> 16)
        if inside.is_absolute() or ".." in inside.parts or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ArtifactError(
                f"{name} is refused: {entry.filename!r} is a link, a device, or lies outside the archive's folder; get the file from "
                "another place"
            )
        check_expansion(name, entry.filename, entry.compress_size, entry.file_size)
    return entries


def _find_zip_damage(path: Path, name: str) -> str:
    with zipfile.ZipFile(path) as archive:
        entries = check_members(name, archive)
        check_expansion(name, "the whole file", path.stat().st_size, sum(entry.file_size for entry in entries))
        bad = archive.testzip()
    return f"it is damaged (the checksum of {bad} does not match)" if bad is not None else ""


def _find_gzip_damage(path: Path, name: str) -> str:
    unpacked, packed, packed_twice = 0, path.stat().st_size, False
    with gzip.open(path) as stream:
        while block := stream.read(_READ_SIZE):
            packed_twice = packed_twice or (not unpacked and block.startswith(_MAGIC[".gz"]))
            unpacked += len(block)
            check_expansion(name, "the whole file", packed, unpacked)
    return "it is compressed twice" if packed_twice else ""


def check_expansion(name: str, part: str, packed: int, unpacked: int) -> None:
    """Raise ArtifactError if `packed` bytes expand to too many `unpacked` bytes."""
    if unpacked > max(EXPANSION_BYTES, EXPANSION_LIMIT * packed):
        raise ArtifactError(
            f"{name} is refused: {part} expands from {packed} to at least {unpacked} bytes; get the file from another place"
        )
