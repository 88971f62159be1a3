"""Stage 1, a file that is not whole yet: `NAME.part`, and in `NAME.part.json` the answer that it began with.

In: bytes, written by whoever fetches. Out: the file under its final name, or nothing. A part without a readable origin has no use.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from genrec.data.download.file_records import record_place, write_record
from genrec.errors import ResourceError
from genrec.store import signature_of, write_json


class Origin(NamedTuple):
    """The answer that a partial file began with."""

    address: str = ""
    validator: str = ""  # ETag or Last-Modified, where there was one
    total: int | None = None  # bytes of the whole file, where they were announced


def begin(part: Path, origin: Origin) -> None:
    """Start anew. The old bytes go first, so that a crash can't leave them with the new origin."""
    discard(part)
    write_json(_origin_place(part), origin._asdict())


def read_origin(part: Path) -> Origin:
    """The origin of a partial file; an empty one where it can't be read."""
    try:
        origin = Origin(**json.loads(_origin_place(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Origin()
    fits = isinstance(origin.validator, str) and (origin.total is None or isinstance(origin.total, int))
    return origin if fits else Origin()


def discard(part: Path) -> None:
    """Remove a partial file and its origin."""
    part.unlink(missing_ok=True)
    place = _origin_place(part)
    place.unlink(missing_ok=True)
    place.with_name(f".{place.name}.partial").unlink(missing_ok=True)


def keep_larger(part: Path, other: Path) -> None:
    """Of two partial files keep the larger one, as `part`: two places that both cut must not undo each other's work."""
    if part == other:
        return
    if other.exists() and (not part.exists() or other.stat().st_size > part.stat().st_size):
        discard(part)
        _origin_place(other).replace(_origin_place(part))
        other.replace(part)
    discard(other)


def publish(part: Path, path: Path, sha256: str, checksum: str | None, address: str) -> None:
    """Give a whole and checked file its name, and remember it."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    record_place(path).unlink(missing_ok=True)  # first, so that a crash can't leave the old record beside the new file
    os.replace(part, path)
    discard(part)
    write_record(path, sha256, checksum, signature_of(path), address)


def check_space(part: Path, size: int) -> None:
    """Refuse a file of `size` bytes that the disk has no room for."""
    needed, free = size - (part.stat().st_size if part.exists() else 0), shutil.disk_usage(part.parent).free
    if needed > free:
        raise ResourceError(f"{part} needs {needed} more bytes, {free} are free; make room, or move GENREC_HOME")


def _origin_place(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
