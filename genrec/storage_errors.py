"""Messages for errors of the file system and of memory: the path, the reason, and what to do next."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from genrec.errors import GenrecError, ResourceError, UsageError

ELSEWHERE = "or choose another data folder with GENREC_HOME"
_SPACE = "free some space and run again"
_RESOURCES = {  # code -> what is missing, and what to do
    errno.ENOSPC: ("the disk is full", _SPACE),
    errno.EDQUOT: ("the disk quota is used up", _SPACE),
    errno.EFBIG: ("a file has reached the size limit of this process", "raise the limit ('ulimit -f') and run again"),
    errno.EMFILE: ("too many files are open", "raise the limit ('ulimit -n') and run again"),
    errno.ENFILE: ("too many files are open on this machine", "close other programs and run again"),
    errno.EIO: ("the disk fails to read or write", "check the disk and run again"),
    errno.ENOLCK: ("the file system has no file locks", "choose a data folder on a local disk with GENREC_HOME"),
}
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_IN_THE_WAY = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP)
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # NumPy, without a code


def out_of_memory(error: BaseException) -> ResourceError | None:
    """Return the error for the user if memory ran out, None for any other error. torch raises RuntimeError when it runs out."""
    is_text_of_it = isinstance(error, RuntimeError) and re.search("out of memory|can't allocate memory", str(error), re.IGNORECASE)
    if not isinstance(error, MemoryError) and not is_text_of_it:
        return None
    return ResourceError(
        f"out of memory ({error}); compute a step in parts: --sft.optimization.accumulate 2 or --align.optimization.accumulate 2"
    )


def explain(error: BaseException, folder: Path | None = None) -> GenrecError | None:
    """Return the error for the user if a file or folder can't be read or written, None for any other error.

    `folder` is named if the error names no file. Libraries that are not written in Python report a full disk with a text instead of
    a code; the text is read.
    """
    if isinstance(error, GenrecError):
        return None
    where = f" in {folder}" if folder is not None and getattr(error, "filename", None) is None else ""
    return _missing_resource(error, where) or (_unusable_path(error) if isinstance(error, OSError) else None)


def _missing_resource(error: BaseException, where: str) -> ResourceError | None:
    text = str(error).lower()
    for code, (what, advice) in _RESOURCES.items():
        code_in_text = re.search(rf"\bos error {code}\b", text) or os.strerror(code).lower() in text
        if error.errno == code if isinstance(error, OSError) and error.errno is not None else code_in_text:
            return ResourceError(f"{what} ({error}){where}; finished artifacts are intact; {advice}")
    if isinstance(error, OSError) and _SHORT_WRITE.search(text):
        return ResourceError(
            f"the disk is full or a file has reached its size limit ({error}){where}; finished artifacts are intact; {_SPACE}"
        )
    return None


def _unusable_path(error: OSError) -> UsageError | None:
    """Return the error for a path that is forbidden, missing, too long, or a file where a folder is expected."""
    if error.filename is None:
        return None
    path = os.fsdecode(error.filename)
    if error.errno in _FORBIDDEN:
        return UsageError(f"{path} can't be opened or written ({error.strerror}); change its permissions, {ELSEWHERE}")
    if error.errno in _IN_THE_WAY:
        return UsageError(f"{path} can't be used ({error.strerror}){_obstacle(path)}; move it away, {ELSEWHERE}")
    if error.errno == errno.ENAMETOOLONG:
        return UsageError(f"the path {_shortened(path)} is too long ({error.strerror}); use shorter names, {ELSEWHERE}")
    if error.errno == errno.ENOENT:
        return UsageError(f"there is no file or folder {path}; check the path")
    return None


def _obstacle(path: str) -> str:
    """Return which parent of the path is no folder, as a part of a message."""
    for parent in reversed(Path(path).parents):
        if os.path.lexists(parent) and not parent.is_dir():
            return f": {parent} is not a folder"
    return ""


def _shortened(path: str) -> str:
    return path if len(path) <= 120 else f"{path[:80]}... ({len(path)} characters)"


def check_folder(path: Path) -> None:
    """Raise UsageError if something other than a folder is at this path or at a parent of it."""
    for each in (*reversed(path.parents), path):
        if os.path.lexists(each) and not each.is_dir():
            raise UsageError(f"{each} is not a folder, expected a folder or nothing; move it away, {ELSEWHERE}")
