"""`genrec status`: the runs that go on or wait, those that failed, were stopped or killed, and how to resume them."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from datetime import UTC, datetime

from genrec import failed_runs, live_runs, run_files
from genrec.errors import ArtifactError, UsageError, counted
from genrec.hashed_json import KEY
from genrec.held_locks import holder, is_held
from genrec.live_runs import LiveRun
from genrec.progress import duration, pace
from genrec.run_list import failure_lines, local_time
from genrec.stored_artifacts import Build, checkpoint_in_words, trained_row, unrecorded_builds
from genrec.workspace import home, store

AGAIN = "run the experiment again"
SHOWN_ROWS = 10  # rows of a queue that a line names


def lines() -> list[str]:
    """Return what runs and what ended without a result. Reads files alone, and takes no lock."""
    live, damaged = live_runs.read_all()
    failures, damaged_failures = failed_runs.read_all()
    running, in_queue = ([run for run in live if run.is_alive and run.waits == waits] for waits in (False, True))
    active = {(run.name, run.seed) for run in running}
    in_queue = [run for run in in_queue if (run.name, run.seed) not in active]
    waiting = {run.path: reason for run in running if (reason := _waits_for(run, running))}
    found = [_running(run, waiting.get(run.path, "")) for run in sorted(running, key=lambda run: run.path in waiting)]
    found += [_build(build) for build in unrecorded_builds(running)]
    lost = [run for run in live if not run.is_alive and not _goes_on(run, [*running, *in_queue]) and not _is_finished(run)]
    killed = [run for run in lost if not run.waits]
    queues = [_queue(rows) for rows in _by_command(in_queue)]
    latest = {(run.name, run.seed): run for run in sorted(killed, key=lambda run: (bool(run.content["work"]), run.content["updated"]))}
    ended = [_killed(run) for run in killed if latest[run.name, run.seed] is run]  # not those that waited for it
    known = {(run.name, run.seed) for run in killed}
    ended += [_killed_queue(rows) for rows in _by_command([run for run in lost if run.waits and (run.name, run.seed) not in known])]
    ended += [failure_lines(failure, 0) for failure in failed_runs.not_resumed(failures, live_runs.in_work(live))]
    records = [(run.name, run.seed, run.content["artifacts"]) for run in live] + [(*each[:2], each.artifacts) for each in failures]
    ended += _left({record[:2] for record in records}, {artifact for *_, keys in records for artifact in keys.items()})
    num_waiting = len(waiting) + len(in_queue)
    waits = f", {num_waiting} waiting" if num_waiting else ""
    result = [f"{len(found) - len(waiting)} running{waits} in {home()}" if found or in_queue else f"nothing runs in {home()}"]
    for entry in [*found, *queues]:
        result += ["", *entry]
    if ended:
        result += ["", f"{len(ended)} not finished"]
    for entry in ended:
        result += ["", *entry]
    return result + [line for message in (*damaged, *damaged_failures) for line in ("", f"unreadable: {message}")]


def _waits_for(run: LiveRun, running: Sequence[LiveRun]) -> str:
    """Return what a run waits for: the process that builds its artifact, by the lock that it holds; "" if it builds this itself.

    Where the holder of a lock is unknown, it is the run of the same artifact that has made progress.
    """
    stage, key = run.content["stage"], run.content["artifacts"].get(run.content["stage"], "")
    if not key or run.content["work"] or not is_held(store().lock(stage, key)):
        return ""
    process = holder(store().lock(stage, key)) if run.content["host"] == socket.gethostname() else None
    if process is None or process <= 0:  # 0 and -1 are processes of another container
        others = [each for each in running if each.path != run.path and each.content["artifacts"].get(stage) == key]
        process = next((each.content["process"] for each in others if each.content["stage"] == stage and each.content["work"]), None)
    return "" if process in (None, run.content["process"]) else f"waits for process {process}, which builds {stage} {key}"


def _goes_on(killed: LiveRun, running: Sequence[LiveRun]) -> bool:
    """Return whether a process has taken up the row and seed of a killed run, or its command, which will reach them."""
    command = killed.content["command"]
    return any(
        (run.name, run.seed) == (killed.name, killed.seed)
        or (command and run.content["command"] == command and run.content["started"] >= killed.content["started"])
        for run in running
    )


def _is_finished(killed: LiveRun) -> bool:
    """Return whether the row and seed of a killed run have got their result since, from the same artifacts."""
    try:
        entry = run_files.read(killed.name)["seeds"].get(str(killed.seed))
    except (ArtifactError, UsageError, OSError):  # there is no result that can be read
        return False
    return entry is not None and entry["artifacts"] == killed.content["artifacts"] and entry["recorded"] >= killed.content["updated"]


def _running(run: LiveRun, waits: str) -> list[str]:
    """Return the lines of a run: the row and stage, what it waits for or its last progress, and its command."""
    about = run.content
    place = f", run {about['row']} of {about['rows']}" if about["rows"] > 1 else ""  # of each row and seed
    where = f"process {about['process']} on {about['host']} since {local_time(about['started'])}"
    result = [f"{run.name} (seed {run.seed}): {about['stage']}{place}, {where}"]
    ago = f"{duration(_seconds_since(about['updated']))} ago"
    if waits:
        result.append(f"  {waits}")
    elif about["work"]:
        count = f"{about['done']:,}" + (f" of {about['total']:,}" if about.get("total") else "")
        parts = [count, pace(about.get("rate"), about.get("seconds_left")), about["note"]]
        result.append(f"  {about['work']}: {', '.join(filter(None, parts))} (last progress {ago})")
    else:
        checkpoint = checkpoint_in_words(about["stage"], about["artifacts"].get(about["stage"], ""))
        result.append(f"  {about['stage']} began {ago}{f'; {checkpoint}' if checkpoint else ''}")
    return [*result, *([f"  {about['command']}"] if about["command"] else [])]


def _by_command(queued: Sequence[LiveRun]) -> list[list[LiveRun]]:
    """Return the rows of each queue."""
    return [[run for run in queued if run.path == path] for path in dict.fromkeys(run.path for run in queued)]


def _queue(rows: Sequence[LiveRun]) -> list[str]:
    """Return the lines of the rows of one command that wait for workers."""
    about = rows[0].content
    where = f"process {about['process']} on {about['host']} since {local_time(about['started'])}"
    return [f"waiting for workers of {where}: {_names(rows)}", *([f"  {about['command']}"] if about["command"] else [])]


def _killed_queue(rows: Sequence[LiveRun]) -> list[str]:
    """Return the lines of the rows that waited for workers when their command was killed."""
    about = rows[0].content
    waited = f"waiting for workers when their command was killed, after {local_time(about['updated'])}: {_names(rows)}"
    return [waited, f"  resume: {about['command'] or AGAIN}"]


def _names(rows: Sequence[LiveRun]) -> str:
    """Return the first rows with their seeds, and the number of the other rows and seeds."""
    more = f" and {counted(len(rows) - SHOWN_ROWS, 'more run')}" if len(rows) > SHOWN_ROWS else ""
    return f"{', '.join(f'{run.name} (seed {run.seed})' for run in rows[:SHOWN_ROWS])}{more}"


def _build(build: Build) -> list[str]:
    """Return the lines of a stage that is built without a record: what its lock and its checkpoint tell."""
    row = trained_row(build.stage, build.key)
    name = "an unnamed run" if row is None else f"{row[0]} (seed {row[1]})"
    result = [f"{name}: {build.stage} {build.key}, {build} (it keeps no record of its progress)"]
    checkpoint = checkpoint_in_words(build.stage, build.key)
    return [*result, *(f"  {text}" for text in (checkpoint, build.command) if text)]


def _killed(run: LiveRun) -> list[str]:
    about = run.content
    progress = f" at {about['done']:,} of {about['total']:,}" if about.get("total") else ""
    result = f"{run.name} (seed {run.seed}) was killed in {about['stage']}{progress}, after {local_time(about['updated'])}"
    checkpoint = checkpoint_in_words(about["stage"], about["artifacts"].get(about["stage"], ""))
    return [result, *([f"  {checkpoint}"] if checkpoint else []), f"  resume: {about['command'] or AGAIN}"]


def _left(known: set[tuple[str, int]], recorded: set[tuple[str, str]]) -> list[list[str]]:
    """Return the lines of checkpoints that no process holds, and that no record of a run explains.

    `known` are the rows and seeds with a record, `recorded` the stages and keys of their artifacts.
    """
    found = []
    for path in sorted(store().root.glob("*/.*.partial/checkpoint")):
        stage, key = path.parents[1].name, path.parent.name.removeprefix(".").removesuffix(".partial")
        row = trained_row(stage, key)
        if re.fullmatch(KEY, key) is None or (stage, key) in recorded or row in known or is_held(store().lock(stage, key)):
            continue
        name = "an unnamed run" if row is None else f"{row[0]} (seed {row[1]})"
        about = checkpoint_in_words(stage, key) or "a checkpoint"
        found.append([f"{name} has left {stage} {key} unfinished: {about}", f"  resume: {AGAIN}; 'genrec clean --unused' removes it"])
    return found


def _seconds_since(text: str) -> float:
    """Return the seconds since a recorded time, 0 if it is in the future or no time."""
    try:
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds())
    except ValueError:
        return 0.0
