"""`genrec doctor`: the versions and devices that a bug report needs, and common faults of an installation."""

from __future__ import annotations

import re
import shutil
from importlib import metadata
from pathlib import Path

from genrec.environment import hardware, versions
from genrec.workspace import home


def report() -> int:
    """Print versions, devices, threads and free disk space. Return 1 if a fault was found, else 0."""
    for name, version in versions().items():
        print(f"{name:20} {version}")
    print(f"{'tensorboard':20} {_tensorboard()}")
    for name, value in hardware().items():
        print(f"{name:20} {value}")
    base = home()
    while not base.exists():
        base = base.absolute().parent
    print(f"{'data folder':20} {home()} ({shutil.disk_usage(base).free / 2**30:.1f} GiB free)")
    openmp = _openmp()
    print(f"{'OpenMP':20} {', '.join(openmp) or 'none found'}")
    faults = _faults(openmp)
    for fault in faults:
        print(f"WRONG: {fault}")
    return 1 if faults else 0


def _tensorboard() -> str:
    """Return TensorBoard's version. It is not in the manifests, since no result depends on it."""
    try:
        return metadata.version("tensorboard")
    except metadata.PackageNotFoundError:
        return "not installed: pip install 'genrec[track]' shows training curves"


def _faults(openmp: list[str]) -> list[str]:
    installed = {"faiss-cpu", "faiss-gpu"} & set(versions())
    faults = []
    if len(installed) == 2:
        faults.append("faiss-cpu and faiss-gpu share one package name; uninstall both, then install one of them")
    if not installed:
        faults.append("faiss is missing: pip install 'genrec[cpu]', or 'genrec[gpu]' with an NVIDIA GPU")
    families = {re.split("[-.]", name)[0] for name in openmp}
    if len(families) > 1:
        faults.append(f"several OpenMP runtimes are in one process, which can hang or crash: {', '.join(openmp)}")
    return faults


def _openmp() -> list[str]:
    """Return the OpenMP runtimes that torch, scikit-learn and faiss load into one process."""
    import sklearn.cluster  # noqa: F401
    import torch  # noqa: F401

    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return []
    paths = {Path(line.split()[-1]).name for line in maps.read_text().splitlines() if ".so" in line}
    names = {name for name in paths if name.startswith(("libgomp", "libiomp", "libomp"))}
    return sorted(names)
