"""`genrec doctor`: what a bug report needs, and the faults of an installation that are easy to see."""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path

from genrec.pipeline import hardware, home, versions


def report() -> int:
    """Print versions, devices, threads and free disk; returns 1 where something is wrong."""
    for name, version in versions().items():
        print(f"{name:20} {version}")
    for name, value in hardware().items():
        print(f"{name:20} {value}")
    base = home()
    while not base.exists():
        base = base.absolute().parent
    print(f"{'data folder':20} {home()} ({shutil.disk_usage(base).free / 2**30:.1f} GiB free)")
    faults = _faults()
    for fault in faults:
        print(f"WRONG: {fault}")
    return 1 if faults else 0


def _faults() -> list[str]:
    installed = {name for name in ("faiss-cpu", "faiss-gpu") if _has(name)}
    faults = []
    if len(installed) == 2:
        faults.append("faiss-cpu and faiss-gpu share one package name; uninstall both, then install one of them")
    if not installed:
        faults.append("faiss is missing: pip install 'genrec[cpu]', or 'genrec[gpu]' where there is an NVIDIA GPU")
    if len(_openmp()) > 2 and "KMP_DUPLICATE_LIB_OK" in os.environ:
        faults.append(f"KMP_DUPLICATE_LIB_OK hides that several OpenMP runtimes are loaded: {', '.join(_openmp())}")
    return faults


def _openmp() -> list[str]:
    """The OpenMP runtimes that torch, scikit-learn and faiss bring into one process."""
    import sklearn.cluster  # noqa: F401
    import torch  # noqa: F401

    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return []
    names = {Path(line.split()[-1]).name for line in maps.read_text().splitlines() if "omp" in line and ".so" in line}
    return sorted(names)


def _has(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
