"""Locks that another process holds, found without taking them: a lock file that nobody holds is a remainder and locks nothing."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock file at `path`. A file that can't be opened counts as held."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def holder(path: Path) -> int | None:
    """Return the process that holds the lock file at `path`, or None if that is unknown: only Linux lists the locks."""
    try:
        status, listed = path.stat(), Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return next((int(words[4]) for words in map(str.split, listed) if words[1] == "FLOCK" and words[5:6] == [file]), None)


def command_of(process: int) -> str:
    """Return the command line of a process of this machine, or "" if that is unknown."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode(errors="replace").strip()
