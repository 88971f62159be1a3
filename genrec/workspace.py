"""The folders that genrec writes to: `data` in the current folder, or GENREC_HOME."""

from __future__ import annotations

import os
from pathlib import Path

from genrec.store import Store


def home() -> Path:
    """Return the folder of raw data, artifacts, run files and reports: GENREC_HOME if set, else `data` in the current folder."""
    return Path(os.environ.get("GENREC_HOME") or "data").expanduser()


def raw_folder() -> Path:
    """Return the folder of downloaded files."""
    return home() / "raw"


def runs_folder() -> Path:
    """Return the folder of run files."""
    return home() / "runs"


def reports_folder() -> Path:
    """Return the folder of pictures."""
    return home() / "reports"


def tensorboard_folder() -> Path:
    """Return the folder of TensorBoard's event files."""
    return home() / "tensorboard"


def store() -> Store:
    """Return the store of artifacts."""
    return Store(home() / "artifacts")
