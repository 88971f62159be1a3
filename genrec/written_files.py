"""Files that commands write where the user says: a file that genrec did not write is not replaced unless asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from genrec.errors import UsageError

READ = 1_000_000  # bytes at the beginning of a file that show what wrote it
PICTURE_METADATA = {"Creator": "genrec"}  # of every picture, for `savefig`
PICTURE_MARKS = (b"Creator\0genrec", b"/Creator (genrec)", b"<dc:title>genrec</dc:title>")  # this metadata in PNG, PDF and SVG


def check_replaceable(path: Path | None, option: str, is_own: Callable[[str], bool], replace: bool) -> None:
    """Raise UsageError if a file exists that genrec did not write; call it before anything is computed.

    Args:
        path: the file; None: the option is not used.
        option: the option that names the file, for the message.
        is_own: returns whether genrec writes such a file with this option, given its beginning.
        replace: whether any file may be replaced.

    """
    if path is None or replace or not path.is_file():
        return
    with path.open("rb") as file:
        beginning = file.read(READ)
    if beginning and not is_own(beginning.decode("utf-8", errors="replace")):
        raise UsageError(
            f"{option} {path}: the file exists and was not written by genrec with {option}; name another file, or replace it with "
            "--replace"
        )


def is_own_picture(path: Path) -> bool:
    """Return whether a PNG, PDF or SVG file has `PICTURE_METADATA`, which PDF files have at their end."""
    with path.open("rb") as file:
        content = file.read(READ)
        file.seek(max(len(content), path.stat().st_size - READ))
        content += file.read()
    return any(mark in content for mark in PICTURE_MARKS)
