"""What Linux lists about the processor in /proc/cpuinfo. Other systems have no such file, and every answer is empty there."""

from __future__ import annotations

from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def cpu_field(information: Path, *names: str) -> str:
    """Return the first line with one of these names, which are tried in order; "" if there is none."""
    try:
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    return next((found[name] for name in names if found.get(name)), "")


def cpu_flags(information: Path = CPU_INFO) -> frozenset[str]:
    """Return the instruction sets of the first processor, on x86 and Arm."""
    return frozenset(cpu_field(information, "flags", "Features").split())
