"""Runs of a command that are killed, or find a full disk, at chosen moments; then the same command again.

`python killed_runs.py PLAN.json` runs the command once, which imports all libraries; each further run is a fork of that process, in a
data folder of its own. No run draws training curves, which would take most of the time. Moments are counts of calls and of bytes, not
seconds, so that they lie anywhere in a stage whatever else the machine does.

PLAN.json: {"command": [...], "folder": FOLDER, "runs": [[kind, stage, share], ...]}. Kinds, at `share` (0 to 1) of what an
uninterrupted run does:

- "call": SIGKILL at a call of a Python or built-in function within the stage;
- "interrupt": SIGINT at a call within the stage, and again after as many further calls as `share` of 500;
- "save": SIGKILL at a call within one of the stage's savings of a checkpoint;
- "write": a signal in the middle of a file of a checkpoint, at a share of the largest file's bytes;
- "open": the disk is full from a new file or folder of the whole run on; `stage` is "";
- "size": no file may grow beyond a share of the bytes of the largest one, in no stage; `stage` is "".

FOLDER/whole has the uninterrupted run. FOLDER/NUMBER has a run's data folder and what it printed, which begins with the whole run's
artifacts of the stages before `stage`. Prints one JSON list a run: exit codes of the two commands, negative for a signal.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from genrec import run_experiments, store
from genrec.__main__ import main
from genrec.training import checkpoint, loop

Span = Callable[[str], None]  # is told the name of a stage or of a saving when it begins, and "" when it ends


def in_fork(command: list[str], home: Path, change: Callable[[], None]) -> int:
    """Run the command in a fork with this data folder, after `change`; return its exit code, negative for a signal."""
    home.mkdir(exist_ok=True)
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        os.environ["GENREC_HOME"] = str(home)
        output = os.open(home / "printed.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        loop.CHECKPOINT_SECONDS = -1.0  # save wherever it is possible
        change()
        code = main(command)
    finally:
        sys.setprofile(None)
        sys.stdout.flush()
        os._exit(code)


def watch(span: Span) -> None:
    """Call `span` at the beginning and the end of stages and, as "STAGE checkpoint", of savings of checkpoints."""
    create, save, running = store.Store.create, checkpoint.save, [""]

    @contextmanager
    def watched(self: store.Store, stage: str, *rest: Any, **named: Any) -> Iterator[Path | None]:
        with create(self, stage, *rest, **named) as folder:
            running[0] = stage
            span(stage)
            yield folder
        span("")

    def watched_save(*arguments: Any) -> None:
        span(f"{running[0]} checkpoint")
        save(*arguments)
        span(running[0])

    store.Store.create = watched  # type: ignore[method-assign]
    checkpoint.save = watched_save  # type: ignore[assignment]


class Calls:
    """Counts calls of functions by span, and sends this process a signal at the calls `at` of the span `within`."""

    def __init__(self, number: int = 0, within: str = "", at: tuple[int, ...] = ()) -> None:
        self.number, self.within, self.at, self.counts, self.now = number, within, at, dict[str, int](), ""

    def span(self, name: str) -> None:
        self.now = name
        sys.setprofile(self._called if name else None)

    def _called(self, frame: object, event: str, argument: object) -> None:
        if event not in ("call", "c_call"):
            return
        self.counts[self.now] = self.counts.get(self.now, 0) + 1
        if self.now == self.within and self.counts[self.now] in self.at:
            os.kill(os.getpid(), self.number)


class Writes:
    """Counts new files and folders below a folder; from write number `full` on, the disk is full."""

    def __init__(self, folder: Path, full: int | None = None) -> None:
        self.folder, self.full, self.count = f"{folder}{os.sep}", full, 0
        sys.addaudithook(self._event)

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.mkdir") or not str(arguments[0]).startswith(self.folder):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if str(arguments[0]).endswith(".lock"):
            return  # of no size
        self.count += 1
        if self.full is not None and self.count >= self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))


def die_in_a_file(kill: tuple[str, int]) -> Span:
    """Return a span in which a file of this span that grows beyond this number of bytes kills the process."""

    def span(name: str) -> None:
        unlimited = resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (kill[1] if name == kill[0] else unlimited, unlimited))

    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    return span


def whole(command: list[str], folder: Path) -> tuple[dict[str, int], int]:
    """Run the command undisturbed in `folder`/whole; return its calls by span and its number of writes."""

    def counted() -> None:
        calls = Calls()
        watch(calls.span)
        writes = Writes(folder / "whole")
        finish = os._exit

        def report(code: int) -> None:
            (folder / "counts.json").write_text(json.dumps([code, calls.counts, writes.count]))
            finish(code)

        os._exit = report  # type: ignore[assignment]

    in_fork(command, folder / "whole", counted)
    code, calls, writes = json.loads((folder / "counts.json").read_text())
    assert code == 0, (folder / "whole" / "printed.txt").read_text()
    return calls, writes


def largest_file_of_checkpoints(folder: Path) -> int:
    """Return the bytes of the largest file of a checkpoint: weights, or the moments of AdamW, twice as many."""
    return 2 * max(path.stat().st_size for path in folder.glob("whole/artifacts/*/[!.]*/policy.safetensors"))


def begin(folder: Path, home: Path, stage: str) -> None:
    """Copy the whole run's artifacts of the stages before `stage`."""
    order = ["data", "embed", "tokenize", "sft", "align", "align-2", "evaluate"]
    for before in order[: order.index(stage)]:
        shutil.copytree(folder / "whole" / "artifacts" / before, home / "artifacts" / before)


def run(plan: dict[str, Any]) -> Iterator[list[int]]:
    """Yield the exit codes of each run and of the same command after it."""
    command, folder = plan["command"], Path(plan["folder"])
    os.environ["GENREC_HOME"] = str(folder / "first")
    run_experiments._draw_curves = lambda *_: None
    with redirect_stdout(sys.stderr):
        assert main(command) == 0
    calls, writes = whole(command, folder)
    largest = largest_file_of_checkpoints(folder)
    for number, (kind, stage, share) in enumerate(plan["runs"]):
        home = folder / str(number)
        if stage:
            begin(folder, home, stage)
        span = stage if kind in ("call", "interrupt") else f"{stage} checkpoint"

        def change(kind: str = kind, span: str = span, share: float = share, home: Path = home) -> None:
            if kind == "open":
                Writes(home, 1 + int(share * writes))
            elif kind == "size":
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * largest), resource.RLIM_INFINITY))
            elif kind == "write":
                watch(die_in_a_file((span, int(share * largest))))
            else:
                first = 1 + int(share * calls[span])
                twice = (first, first + 1 + int(share * 500))
                watch(Calls(signal.SIGINT, span, twice).span if kind == "interrupt" else Calls(signal.SIGKILL, span, (first,)).span)

        yield [in_fork(command, home, change), in_fork(command, home, lambda: None)]


if __name__ == "__main__":
    for codes in run(json.loads(Path(sys.argv[1]).read_text())):
        print(json.dumps(codes), flush=True)
