"""What a result may depend on besides its settings: library versions, hardware and the commit of the code."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = [
    "genrec",
    "torch",
    "pytorch-lightning",
    "numpy",
    "pandas",
    "scikit-learn",
    "duckdb",
    "pyarrow",
    "faiss-cpu",
    "faiss-gpu",
    "sentence-transformers",
]


def versions() -> dict[str, str]:
    """Return the version of Python and of each library that is installed."""
    result = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return result


def hardware() -> dict[str, Any]:
    """Return the machine's architecture, its number of cores, torch's number of threads and the GPU's name."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"machine": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def git_commit() -> str | None:
    """Return the commit of the checkout that holds this package, or None if the package is not in a checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
