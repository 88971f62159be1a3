"""Files that commands write where the user says: a file that genrec did not write is not replaced unless asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from genrec.errors import GenrecError, ResourceError, UsageError
from genrec.input_files import file_suffix
from genrec.storage_errors import explain

PICTURES = (".png", ".pdf", ".svg")
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


def check_writable(path: Path | None, option: str) -> None:
    """Raise UsageError unless a file can be written; call it before anything is computed, and before `check_replaceable`.

    A file that does not exist is made and removed, since only the file system knows whether that is possible. `path` is None if the
    option is not used.
    """
    if path is None:
        return
    try:
        existed = os.path.lexists(path)
        if existed and not (path.is_file() or path.is_dir()):
            return  # a pipe or a device, which may wait for a reader, or a link to a file that does not exist
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise not_writable(path, option, error) from error


def check_different(files: Mapping[str, Path | None]) -> None:
    """Raise UsageError if two options name the same file, which the second would overwrite; call it before anything is computed.

    `files` holds the path of each option, None if it is not used. A pipe or a device may be named by several options.
    """
    options: dict[str, str] = {}
    for option, path in files.items():
        if path is None or (os.path.exists(path) and not os.path.isfile(path)):  # False, not an error, for too long a name
            continue
        first = options.setdefault(os.path.realpath(path), option)
        if first != option:
            raise UsageError(f"{first} and {option} both name {path}; name two files")


def not_writable(path: Path, option: str, error: OSError) -> GenrecError:
    """Return the error about a file that cannot be written; `option` is the option that names it."""
    explained = explain(error)
    if isinstance(explained, ResourceError):
        return explained
    return UsageError(f"the file {path} cannot be written ({error}); choose another with {option}")


def is_own_picture(path: Path) -> bool:
    """Return whether a PNG, PDF or SVG file has `PICTURE_METADATA`, which PDF files have at their end."""
    with path.open("rb") as file:
        content = file.read(READ)
        file.seek(max(len(content), path.stat().st_size - READ))
        content += file.read()
    return any(mark in content for mark in PICTURE_MARKS)


def check_picture(path: Path | None, replace: bool) -> None:
    """Raise UsageError unless `--picture` names a picture that may be written; call it before anything is computed."""
    if path is None:
        return
    if file_suffix(path) not in PICTURES:
        raise UsageError(f"--picture must end in {', '.join(PICTURES)}, got {path}")
    check_replaceable(path, "--picture", lambda _: is_own_picture(path), replace)


def write_picture(draw: Callable[[Path], None], path: Path) -> None:
    """Let `draw` write the picture of `--picture`, with a message if it cannot be written."""
    try:
        draw(path)
    except OSError as error:
        raise not_writable(path, "--picture", error) from error
