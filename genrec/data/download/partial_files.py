"""Partial downloads: `NAME.part`, with the response that it began with in `NAME.part.json`.

A part without a readable origin is not resumed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from genrec.data.download.file_records import record_path, write_record
from genrec.errors import ResourceError
from genrec.store import signature_of, write_json


class Origin(NamedTuple):
    """The response that a partial file began with."""

    url: str = ""
    validator: str = ""  # ETag or Last-Modified; "" if the server sent neither
    total: int | None = None  # bytes of the whole file; None if the server did not announce them


def begin(part: Path, origin: Origin) -> None:
    """Start a new partial file. The old bytes are removed first, so that a crash cannot leave them with the new origin."""
    discard(part)
    write_json(_origin_path(part), origin._asdict())


def read_origin(part: Path) -> Origin:
    """Return the origin of a partial file; an empty one if it is missing or unreadable."""
    try:
        origin = Origin(**json.loads(_origin_path(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Origin()
    is_valid = isinstance(origin.validator, str) and (origin.total is None or isinstance(origin.total, int))
    return origin if is_valid else Origin()


def discard(part: Path) -> None:
    """Remove a partial file and its origin."""
    part.unlink(missing_ok=True)
    origin = _origin_path(part)
    origin.unlink(missing_ok=True)
    origin.with_name(f".{origin.name}.partial").unlink(missing_ok=True)


def keep_larger(part: Path, other: Path) -> None:
    """Keep the larger of two partial files as `part`, so that two locations that both break off still make progress."""
    if part == other:
        return
    if other.exists() and (not part.exists() or other.stat().st_size > part.stat().st_size):
        discard(part)
        _origin_path(other).replace(_origin_path(part))
        other.replace(part)
    discard(other)


def publish(part: Path, path: Path, sha256: str, checksum: str | None, url: str) -> None:
    """Rename a complete and verified file to its final name, and write its record."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    record_path(path).unlink(missing_ok=True)  # first, so that a crash can't leave the old record beside the new file
    os.replace(part, path)
    discard(part)
    write_record(path, sha256, checksum, signature_of(path), url)


def check_space(part: Path, size: int) -> None:
    """Raise ResourceError if the disk has no room for a file of `size` bytes."""
    needed, free = size - (part.stat().st_size if part.exists() else 0), shutil.disk_usage(part.parent).free
    if needed > free:
        raise ResourceError(f"{part} needs {needed} more bytes, {free} are free; free some space, or set GENREC_HOME")


def _origin_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
