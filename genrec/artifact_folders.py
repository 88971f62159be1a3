"""The folders of the store: the files of an unfinished stage, and the change from an artifact to its successor."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from genrec.errors import NumericsError, ResourceError
from genrec.storage_errors import explain


def clear(partial: Path) -> None:
    """Remove the remains of an interrupted run except its checkpoint."""
    for path in partial.iterdir() if partial.is_dir() else ():
        if path.name != "checkpoint":
            remove(path)


def set_modes(folder: Path) -> None:
    """Let the files of a folder be read by those who may read the folder. safetensors writes files for their owner alone."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.iterdir():
        if path.is_file() and path.stat().st_mode & 0o777 == 0o600:
            path.chmod(mode)


def put_in_place(partial: Path, final: Path) -> None:
    """Rename a complete folder to its final name. If there is a folder of this name, it is removed afterwards."""
    old = _old(final)
    remove(old)
    if os.path.lexists(final):
        final.rename(old)
    try:
        partial.rename(final)
    except OSError:
        put_back(final)
        raise
    remove(old)


def put_back(final: Path) -> None:
    """Give an artifact its name back if it was renamed for a successor that did not come."""
    if os.path.lexists(_old(final)) and not os.path.lexists(final):
        _old(final).rename(final)


def _old(final: Path) -> Path:
    """Return the path of an artifact whose successor takes its place."""
    return final.with_name(f".{final.name}.old")


@contextmanager
def tidy(partial: Path, has_artifact: bool) -> Iterator[None]:
    """Remove all files of a failed stage except its checkpoint. Raise ResourceError if a file can't be written.

    With `has_artifact` the stage was to replace a finished artifact. Non-finite values can come back when it resumes, so that a
    NumericsError also says how to use the artifact.
    """
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # a disk that can't be written, or a folder that is not empty because there is a checkpoint
            clear(partial)
            partial.rmdir()
        if has_artifact and isinstance(error, NumericsError) and partial.is_dir():
            raise NumericsError(
                f"{error}; the earlier artifact is intact: without --refresh the command resumes the rebuild; remove "
                f"{partial} to use the earlier artifact instead"
            ) from error
        explained = explain(error, partial)
        if isinstance(explained, ResourceError):
            raise explained from error
        raise


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that it holds; do nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Remove a folder of the store: rename it first, so that an interruption leaves no artifact without some of its files."""
    key = folder.name.removeprefix(".").partition(".")[0]
    removed = folder.with_name(f".{key}.removed")
    if folder != removed:
        remove(removed)
        folder.rename(removed)
    remove(removed)
