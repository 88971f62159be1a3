"""The folders that genrec writes to: `data` in the current folder, or GENREC_HOME."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from genrec.errors import UsageError
from genrec.storage_errors import check_folder, explain
from genrec.store import Store


def home() -> Path:
    """Return the folder of raw data, artifacts, run files and reports: GENREC_HOME if set, else `data` in the current folder."""
    name = os.environ.get("GENREC_HOME") or "data"
    try:
        name.encode()
        return Path(name).expanduser()
    except (UnicodeEncodeError, RuntimeError) as error:  # bytes that are no UTF-8, or a user without a home folder
        raise UsageError(f"GENREC_HOME is {name!r}, which is not a usable path ({error}); set it to a folder for your data") from None


def check_writable(stages: Sequence[str], write: bool = True) -> None:
    """Create the data folder, and raise UsageError or ResourceError if a run of these stages can't write to it.

    The folders below it are checked if they exist; none is created. With `write=False` nothing is written or created: the permissions
    are read, of the nearest folder that exists if there is no data folder.
    """
    root = home()
    below = [
        raw_folder(), runs_folder(), failed_folder(), running_folder(), studies_folder(), store().root, reports_folder(),
        tensorboard_folder(), tracking_folder(),
    ]  # fmt: skip
    try:
        check_folder(root)
        if write:
            root.mkdir(parents=True, exist_ok=True)
        elif not root.is_dir():
            _check_permission(next(parent for parent in root.absolute().parents if parent.is_dir()))
        for folder in (root, *below, *(store().root / stage for stage in stages)):
            check_folder(folder)
            if folder.is_dir():
                (_write_probe if write else _check_permission)(folder)
    except (OSError, ValueError) as error:
        explained = explain(error)
        if explained is None or isinstance(error, FileNotFoundError):  # such as a folder below /proc, or a path with a NUL
            raise UsageError(f"the data folder {root} can't be used ({error}); set GENREC_HOME to another folder") from error
        raise explained from error


def _write_probe(folder: Path) -> None:
    """Write and remove a file. An OSError names the folder."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(b"genrec")
    except OSError as error:
        error.filename = str(folder)
        raise


def _check_permission(folder: Path) -> None:
    """Raise PermissionError if no file can be created in a folder."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "it is not writable", str(folder))


def raw_folder() -> Path:
    """Return the folder of downloaded files."""
    return home() / "raw"


def runs_folder() -> Path:
    """Return the folder of run files."""
    return home() / "runs"


def failed_folder() -> Path:
    """Return the folder with the records of failed runs."""
    return runs_folder() / "failed"


def running_folder() -> Path:
    """Return the folder with the records of running processes."""
    return runs_folder() / "running"


def studies_folder() -> Path:
    """Return the folder with the records of what was tried."""
    return home() / "studies"


def reports_folder() -> Path:
    """Return the folder of pictures."""
    return home() / "reports"


def tensorboard_folder() -> Path:
    """Return the folder of TensorBoard's event files."""
    return home() / "tensorboard"


def tracking_folder() -> Path:
    """Return the folder with what trackers have received of each row (`genrec run --track`)."""
    return home() / "tracking"


def jobs_folder() -> Path:
    """Return the folder of the scripts and logs of SLURM jobs (`genrec run --on slurm`)."""
    return home() / "jobs"


def store() -> Store:
    """Return the store of artifacts."""
    return Store(home() / "artifacts")
