"""The locks of the store: eight processes on one folder, as of two machines on a shared one, build each artifact exactly once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from genrec.store import Store, key_of

PROJECT = Path(__file__).parents[1]
PROCESSES, STAGES = 8, ("data", "embed", "tokenize", "sft")
BUILDER = """
import os, sys
from pathlib import Path
from genrec.store import Store, key_of, now

root, stages = Path(sys.argv[1]), sys.argv[2:]
store, parents = Store(root / "artifacts"), {}
log = os.open(root / "builds", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
print("ready", flush=True)
sys.stdin.readline()  # all processes start together
for stage in stages:
    key = key_of(stage, 1, {"seed": 0}, parents)
    about = {
        "version": 1, "specification": {"seed": 0}, "parents": parents, "created": now(), "versions": {}, "git": "unknown",
        "file_names": {}, "environment": {},
    }
    with store.create(stage, key, about) as folder:
        if folder is not None:
            os.write(log, f"{stage}\\n".encode())
            for name in ("first", "second"):
                (folder / name).write_text(f"{os.getpid()}")
            os.sched_yield()
    artifact = store.get(stage, key)
    contents = {(artifact.folder / name).read_text() for name in ("first", "second")}
    assert len(contents) == 1, contents
    parents = {**parents, stage: key}
"""


def test_eight_processes_build_each_of_four_stages_once(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", BUILDER, str(tmp_path), *STAGES]
    started = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in started:
        process.communicate()
    assert [process.returncode for process in started] == [0] * PROCESSES
    assert Counter((tmp_path / "builds").read_text().split()) == dict.fromkeys(STAGES, 1)
    parents: dict[str, str] = {}
    for stage in STAGES:
        key = key_of(stage, 1, {"seed": 0}, parents)
        assert Store(tmp_path / "artifacts").is_done(stage, key)
        parents[stage] = key
