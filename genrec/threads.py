"""OpenMP settings of the command line: idle threads soon sleep, and a CPU quota limits the number of threads.

OpenMP reads these variables when torch is imported. `import genrec` changes nothing; `genrec.__main__.main` calls `configure` first.
Worker processes of one machine share its threads (`shared_by`).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

WAITING = {"GOMP_SPINCOUNT": "10000"}  # loops of a waiting thread before it sleeps; GNU OpenMP's default is 300,000 or endless
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # a user who sets one of these has chosen how threads wait
NUMBER = "OMP_NUM_THREADS"
LIMIT = 1 << 63  # numbers of a control file are below it


def configure(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set OpenMP's waiting and, under a CPU quota, its number of threads. Do nothing if torch is already imported.

    A thread that waits actively keeps a core from the thread that it waits for, which costs time as soon as another process wants
    the cores; a thread that sleeps at once has to be woken at every parallel loop. So threads wait actively for a short while
    (measurements: docs/performance.md). What the user has set is kept: the number of threads, and waiting as a whole. The number is
    set only if the quota is below the cores that torch would use, because weights depend on the number of threads.
    """
    if "torch" in sys.modules:
        return
    if not any(name in environment for name in CHOICES):
        environment.update(WAITING)
    quota = cpu_quota()
    if NUMBER not in environment and quota is not None and math.ceil(quota) < cores():
        environment[NUMBER] = str(max(1, math.ceil(quota)))


def shared_by(workers: int, environment: Mapping[str, str] = os.environ) -> int:
    """Return the threads of each of several workers: an equal part of OMP_NUM_THREADS, or of the cores, and at least 1."""
    number = environment.get(NUMBER, "").partition(",")[0]  # a list has one number for each level of nesting
    return max(1, (int(number) if number.isdecimal() else cores()) // workers)


def limit(number: int) -> None:
    """Let this process use this number of threads, also if torch is already imported."""
    os.environ[NUMBER] = str(number)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(number)


def cores(topology: Path = Path("/sys/devices/system/cpu")) -> int:
    """Return the number of physical cores that this process may run on, which is the number of threads that torch uses."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    siblings = set()
    for number in allowed:
        try:
            siblings.add((topology / f"cpu{number}" / "topology" / "thread_siblings_list").read_bytes().strip())
        except OSError:
            siblings.add(str(number).encode())
    return len(siblings)


def cpu_quota(membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the least CPU quota of this process's control groups, in cores, or None if there is none.

    Args:
        membership: the list of the process's control groups, a line `ID:CONTROLLERS:PATH` for each hierarchy.
        root: the folder where the hierarchies are mounted.

    """
    quotas = []
    for folder in _groups(membership, root):
        found = _numbers(folder / "cpu.max")  # version 2: "QUOTA PERIOD" or "max PERIOD"
        if len(found) != 2:  # version 1: -1 is no quota
            found = [*_numbers(folder / "cpu.cfs_quota_us"), *_numbers(folder / "cpu.cfs_period_us")]
        if len(found) == 2 and all(0 < number < LIMIT for number in found):
            quotas.append(found[0] / found[1])
    return min(quotas, default=None)


def _groups(membership: Path, root: Path) -> Iterator[Path]:
    """Iterate over the folders of the process's control groups for the CPU and of all their parents.

    In a container the path may be that of the host while the container's own group is mounted as the root.
    """
    try:
        lines = os.fsdecode(membership.read_bytes()).splitlines()  # a group's path need not be UTF-8
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1):
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [root / controllers, root / "cpu"] if controllers else [root, root / "unified"]
        for mount in mounts:
            group = mount / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(mount))


def _numbers(path: Path) -> list[int]:
    """Return the integers of a control file; none if it is missing or has another content."""
    try:
        return [int(word) for word in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError):
        return []
