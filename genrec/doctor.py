"""`genrec doctor`: what a bug report needs to know of the machine, and common faults of an installation."""

from __future__ import annotations

import errno
import os
import platform
import re
import resource
import shutil
from importlib import metadata
from pathlib import Path

from genrec import environment, threads
from genrec.errors import GenrecError
from genrec.storage_errors import explain
from genrec.terminal_text import print_lines
from genrec.workspace import home

VARIABLES = ("GENREC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "DNNL_", "ATEN_", "CUDA_", "CUBLAS_", "NVIDIA_")
FAST_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # instruction sets that multiply bfloat16


def report() -> int:
    """Print versions, machine, devices, threads, settings and disk space. Return 1 if a fault was found, else 0."""
    variables = _variables()  # libraries set some when they are imported
    openmp = _openmp()
    disk, disk_fault = _disk()
    entries = {**environment.versions(), "tensorboard": _tensorboard(), **_machine(), **_gpus()}
    entries |= {"data folder": disk, "largest file": _file_size_limit(), "OpenMP": ", ".join(openmp) or "none found"}
    for name, value in (entries | {"variables": variables}).items():
        print(f"{name:21} {value}")
    faults = _faults(openmp) + ([disk_fault] if disk_fault else [])
    print_lines(f"WRONG: {fault}" for fault in faults)
    return 1 if faults else 0


def _machine() -> dict[str, str]:
    """Return the operating system, the processor, its threads and the memory."""
    import torch

    instructions, quota, limit = environment.instructions(), threads.cpu_quota(), environment.memory_limit()
    memory = [f"{name} {_gib(size)}" for name, size in environment.memory().items()]
    memory.append(f"limit {'none' if limit is None else _gib(limit)}")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": _system(),
        "processor": f"{environment.processor()}, {platform.machine()}",
        "instructions": " ".join(instructions) or "unknown",
        "bf16 on the processor": "fast" if set(FAST_BF16) & set(instructions) else "slow (no instructions for it)",
        "cores": f"{usable} usable of {os.cpu_count()}, quota {'none' if quota is None else f'{quota:g}'}",
        "threads of torch": str(torch.get_num_threads()),
        "memory": ", ".join(memory),
    }


def _system() -> str:
    """Return the operating system with its version and kernel."""
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.system()} {platform.release()}"


def _gpus() -> dict[str, str]:
    """Return torch's CUDA version, the driver, and each GPU with its memory and whether it computes in bf16."""
    import torch

    built = torch.version.cuda
    if not torch.cuda.is_available():
        return {"GPU": f"none (torch is built {f'for CUDA {built}' if built else 'without CUDA'})"}
    driver = Path("/proc/driver/nvidia/version")
    found = {"CUDA": f"{built}, driver: {driver.read_text().splitlines()[0] if driver.is_file() else 'unknown'}"}
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        bf16 = "bf16" if device.major >= 8 else "no bf16"
        found[f"GPU {number}"] = f"{device.name}, {_gib(device.total_memory)}, {bf16}"
    return found


def _disk() -> tuple[str, str]:
    """Return the data folder with its free space, and what keeps genrec from writing to it, "" if nothing does."""
    try:
        folder = home()
        base = _existing(folder.absolute())
        if not base.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(base))
        if not os.access(base, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(base))
        return f"{folder} ({_gib(shutil.disk_usage(base).free)} free)", ""
    except GenrecError as error:
        return "unusable", str(error)
    except OSError as error:
        return "unusable", str(explain(error) or error)


def _existing(path: Path) -> Path:
    """Return the path or its closest parent that exists. Raises OSError if the path is impossible, such as too long."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return _existing(path.parent)
    return path


def _file_size_limit() -> str:
    """Return the size of the largest file that this process may write."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return "no limit" if limit == resource.RLIM_INFINITY else f"{limit} bytes (ulimit -f)"


def _variables() -> str:
    """Return the environment variables that change where or how genrec computes, without passwords in addresses."""
    found = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)]
    text = " ".join(found).encode(errors="backslashreplace").decode()
    return re.sub(r"//[^/@\s]+@", "//...@", text) or "none"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _tensorboard() -> str:
    """Return TensorBoard's version. It is not in the manifests, since no result depends on it."""
    try:
        return metadata.version("tensorboard")
    except metadata.PackageNotFoundError:
        return "not installed: pip install 'genrec[track]' shows training curves"


def _faults(openmp: list[str]) -> list[str]:
    installed = {"faiss-cpu", "faiss-gpu"} & set(environment.versions())
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
