"""What lies in the store, and which rows and runs use it: the basis of `genrec status`, `genrec list --disk` and `genrec clean`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from genrec import failed_runs, live_runs, run_files
from genrec.errors import ArtifactError
from genrec.hashed_json import KEY
from genrec.held_locks import command_of, holder, is_held
from genrec.live_runs import LiveRun
from genrec.store import Signature, signature_of
from genrec.workspace import runs_folder, store, tensorboard_folder

ArtifactId = tuple[str, str]  # stage, key
_NAME = re.compile(rf"(?P<key>{KEY})|\.(?P<other>{KEY})\.(?P<kind>partial|old|removed)")
HALF_REMOVED = "half removed"  # by a `genrec clean` that was interrupted
KINDS = {"partial": "unfinished", "old": "replaced", "removed": HALF_REMOVED}  # what the folders with a hidden name hold


class Stored(NamedTuple):
    """A folder of the store."""

    stage: str
    key: str
    path: Path
    kind: str  # "artifact", or one of `KINDS`
    size: int  # bytes of its files

    @property
    def id(self) -> ArtifactId:
        """Stage and key."""
        return self.stage, self.key

    def __str__(self) -> str:
        return f"{self.stage}/{self.key}" + ("" if self.kind == "artifact" else f" ({self.kind})")


class Build(NamedTuple):
    """A stage that a process builds now, found by the lock that it holds."""

    stage: str
    key: str
    process: int | None
    command: str

    def __str__(self) -> str:
        return "a process without a record" if self.process is None else f"process {self.process}"


class Uses(NamedTuple):
    """Who uses which artifacts: `rows` are those with a run file, `runs` go on, failed, were stopped or killed."""

    rows: dict[str, set[ArtifactId]]  # name -> artifacts of all seeds
    runs: dict[str, set[ArtifactId]]  # the run in words -> artifacts; a row and seed has all of its stages
    running: list[LiveRun]  # and the rows that wait for workers
    ended: dict[str, list[str]]  # name of a row -> entries of `runs` that failed, were stopped or killed
    damaged: dict[str, str]  # name of a row with a run file that can't be read -> why; any artifact may be one of its own
    unreadable: list[str]  # why records of runs can't be read; any artifact may be used by these runs

    def of(self, artifact: ArtifactId) -> list[str]:
        """Return the rows and runs that use an artifact, in words."""
        return [name for users in (self.rows, self.runs) for name, used in users.items() if artifact in used]

    def unknown(self, without: Collection[str] = ()) -> list[str]:
        """Return why the artifacts of some rows and runs are not known, without those of the rows `without`."""
        return [why for name, why in self.damaged.items() if name not in without] + self.unreadable


def stored() -> list[Stored]:
    """Return the folders of the store with their sizes, by stage and key."""
    found = []
    for folder in sorted(path for path in store().root.glob("*") if path.is_dir()):
        for path in sorted(folder.iterdir()):
            match = _NAME.fullmatch(path.name)
            if match is not None and path.is_dir() and not path.is_symlink():
                kind = KINDS[match["kind"]] if match["kind"] else "artifact"
                found.append(Stored(folder.name, match["key"] or match["other"], path, kind, size_of(path)))
    return found


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder; links count as such. What vanishes meanwhile counts 0."""
    try:
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
        return sum(size_of(Path(entry.path)) for entry in os.scandir(path))
    except FileNotFoundError:
        return 0


class RowUses:
    """The artifacts of the rows. A run file is read again only if it has changed, or if it could not be read."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Signature, set[ArtifactId]]] = {}

    def read(self) -> tuple[dict[str, set[ArtifactId]], dict[str, str]]:
        """Return the artifacts of all seeds by the name of each row, and for each run file that can't be read the reason."""
        found, damaged = {}, {}
        for name in run_files.names_of_rows():
            try:
                signature = signature_of(runs_folder() / f"{name}.json")  # taken before the file is read
                known = self._known.get(name)
                found[name] = known if known is not None and known[0] == signature else (signature, _of_row(run_files.read(name)))
            except FileNotFoundError:  # the row was removed in the meantime
                continue
            except (ArtifactError, OSError) as error:
                damaged[name] = str(error)
        self._known = found
        return {name: artifacts for name, (_, artifacts) in found.items()}, damaged


def uses(with_builds: bool = True, row_uses: RowUses | None = None) -> Uses:
    """Return who uses which artifacts, with the builds that have no record unless `with_builds` is false.

    `row_uses` holds the run files that an earlier call has read. A run file or a record that can't be read is named in the result
    (`Uses.unknown`).
    """
    rows, damaged = (row_uses or RowUses()).read()
    failures, damaged_failures = failed_runs.read_all()
    live, damaged_live = live_runs.read_all()
    runs: dict[str, set[ArtifactId]] = {}
    ended: dict[str, list[str]] = {}
    for failure in failures:
        label = f"{failure.name} seed {failure.seed} ({'stopped' if failure.stopped else 'failed'})"
        runs[label] = set(failure.artifacts.items())
        ended.setdefault(failure.name, []).append(label)
    for run in live:
        label = f"{run.name} seed {run.seed} ({run.place if run.is_alive else 'killed'})"
        runs.setdefault(label, set()).update(run.content["artifacts"].items())  # a row and seed may have been killed twice
        if not run.is_alive:
            ended.setdefault(run.name, []).append(label)
    running = [run for run in live if run.is_alive]
    for build in unrecorded_builds(running) if with_builds else ():
        runs.setdefault(str(build), set()).add((build.stage, build.key))
    return Uses(rows, runs, running, ended, damaged, damaged_failures + damaged_live)


def _of_row(content: dict[str, Any]) -> set[ArtifactId]:
    return {(stage, key) for entry in content["seeds"].values() for stage, key in entry["artifacts"].items()}


def unrecorded_builds(running: list[LiveRun]) -> list[Build]:
    """Return the stages that are built by processes without a record: of an earlier version, or of `genrec data` and `tokenize`."""
    known = {artifact for run in running if not run.waits for artifact in run.content["artifacts"].items()}
    found = []
    for path in sorted(store().root.glob("*/.*.lock")):
        stage, key = path.parent.name, path.name.removeprefix(".").removesuffix(".lock")
        if re.fullmatch(KEY, key) and (stage, key) not in known and is_held(path):
            process = holder(path)
            found.append(Build(stage, key, process, "" if process is None else command_of(process)))
    return found


def trained_row(stage: str, key: str) -> tuple[str, int] | None:
    """Return the row and seed that trained an artifact, or train it now, as far as TensorBoard's folders name them."""
    for path in tensorboard_folder().glob(f"*/seed-*-{stage}-{key}"):
        seed = path.name.removeprefix("seed-").partition("-")[0]
        if seed.isdecimal():
            return path.parent.name, int(seed)
    return None


def checkpoint_in_words(stage: str, key: str) -> str:
    """Return the step and the scores of the checkpoint of an unfinished training, or "" if there is none that can be read."""
    path = store().root / stage / f".{key}.partial" / "checkpoint" / "last" / "progress.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        losses = [row["loss"] for row in content["curves"] if "loss" in row]
        loss = f", loss {losses[-1]:.4g}" if losses else ""
        best = f", best validation score {content['best_score']:.4f} at step {content['best_step']}"
        return f"checkpoint of step {content['step']:,}{loss}{best}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
