"""What a result may depend on besides its settings: library versions, processor, threads and the commit of the code."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from genrec import __version__
from genrec.cpu_info import CPU_INFO, cpu_field, cpu_flags

LIBRARIES = [
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
# Instruction sets that decide which code of torch, oneDNN and MKL runs: x86, then ARM
INSTRUCTIONS = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "bf16", "sve", "sve2"]
SETTINGS = [  # environment variables that change the order of sums, or which code runs
    "OMP_NUM_THREADS",
    "OMP_DYNAMIC",
    "MKL_NUM_THREADS",
    "MKL_DYNAMIC",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "OPENBLAS_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ATEN_CPU_CAPABILITY",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
]


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python, of genrec and of each library that is installed, as they were at the first call."""
    result = {"python": platform.python_version(), "genrec": __version__}
    for name in LIBRARIES:
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return result


def environment() -> dict[str, str]:
    """Return what the same settings may give other digits on: processor, threads, settings of libraries, torch, genrec and GPU.

    On a CPU, equal environments give equal weights, bit for bit. `threads` are torch's threads within an operation, as now set.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    return {
        "processor": processor(),
        "instructions": " ".join(instructions()) or "unknown",
        "threads": str(torch.get_num_threads()),
        "settings": " ".join(f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ) or "none",
        "gpu": torch.cuda.get_device_name() if has_gpu else "none",
        "cuda": str(torch.version.cuda) if has_gpu else "none",
        "torch": str(torch.__version__),
        "genrec": __version__,
    }


def joined(environments: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return one environment for several: values that differ are joined by ' / ', in order."""
    result: dict[str, dict[str, None]] = {}
    for each in environments:
        for name, value in each.items():
            result.setdefault(name, {}).update(dict.fromkeys(value.split(" / ")))
    return {name: " / ".join(values) for name, values in result.items()}


def processor(information: Path = CPU_INFO) -> str:
    """Return the processor's model, or the architecture if the system does not tell the model."""
    return cpu_field(information, "model name", "Model", "cpu model") or platform.processor() or platform.machine()


def instructions(information: Path = CPU_INFO) -> list[str]:
    """Return the instruction sets of `INSTRUCTIONS` that the processor has."""
    flags = cpu_flags(information)
    return [name for name in INSTRUCTIONS if name in flags]


def memory(information: Path = Path("/proc/meminfo")) -> dict[str, int]:
    """Return the machine's `total` and `available` memory in bytes, as far as the system tells them."""
    try:
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    kilobytes = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines) if value.strip()}
    names = {"total": "MemTotal", "available": "MemAvailable"}
    return {name: int(kilobytes[entry]) * 1024 for name, entry in names.items() if kilobytes.get(entry, "").isdecimal()}


def memory_limit(membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the least memory limit of this process's control groups (such as a container's) in bytes, or None if there is none."""
    try:
        lines = os.fsdecode(membership.read_bytes()).splitlines()  # a group's path need not be UTF-8
    except OSError:
        return None
    limits = []
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1):
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / controllers
        folder = mount / path.lstrip("/")
        for group in (folder, *(parent for parent in folder.parents if parent.is_relative_to(mount))):
            for name in ("memory.max", "memory.limit_in_bytes"):  # control groups of version 2, of version 1
                with suppress(OSError, ValueError):  # there is no such file, or the limit is "max"
                    limits.append(int((group / name).read_text(encoding="utf-8")))
    return min((limit for limit in limits if 0 <= limit < 1 << 60), default=None)  # version 1 writes a huge number for no limit


@functools.cache
def git_commit() -> str:
    """Return the commit of the checkout that holds this package, or "unknown" if the package is not in a checkout.

    The commit is that of the first call, when the process has just imported the code that runs; a later commit changes files alone.
    """
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
