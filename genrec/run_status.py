"""`genrec status`: the runs that go on, those that failed, were stopped or killed, and how to resume them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from genrec import failed_runs, live_runs
from genrec.hashed_json import KEY
from genrec.held_locks import is_held
from genrec.live_runs import LiveRun
from genrec.progress import duration, pace
from genrec.run_list import failure_lines, local_time
from genrec.stored_artifacts import Build, checkpoint_in_words, trained_row, unrecorded_builds
from genrec.workspace import home, store

AGAIN = "run the experiment again"


def lines() -> list[str]:
    """Return what runs and what ended without a result. Reads files alone, and takes no lock."""
    live, damaged = live_runs.read_all()
    failures, damaged_failures = failed_runs.read_all()
    running, killed = [run for run in live if run.is_alive], [run for run in live if not run.is_alive]
    found = [_running(run) for run in running] + [_build(build) for build in unrecorded_builds(running)]
    ended = [_killed(run) for run in killed] + [failure_lines(failure, 0) for failure in failures]
    ended += _left({(run.name, run.seed) for run in live} | {(each.name, each.seed) for each in failures}, live)
    result = [f"{len(found)} running in {home()}" if found else f"nothing runs in {home()}"]
    for entry in found:
        result += ["", *entry]
    if ended:
        result += ["", f"{len(ended)} not finished"]
    for entry in ended:
        result += ["", *entry]
    return result + [line for message in (*damaged, *damaged_failures) for line in ("", f"unreadable: {message}")]


def _running(run: LiveRun) -> list[str]:
    about = run.content
    place = f", row {about['row']} of {about['rows']}" if about["rows"] > 1 else ""
    where = f"process {about['process']} on {about['host']} since {local_time(about['started'])}"
    result = [f"{run.name} (seed {run.seed}): {about['stage']}{place}, {where}"]
    ago = f"{duration(_seconds_since(about['updated']))} ago"
    if about["work"]:
        count = f"{about['done']:,}" + (f" of {about['total']:,}" if about.get("total") else "")
        parts = [count, pace(about.get("rate"), about.get("seconds_left")), about["note"]]
        result.append(f"  {about['work']}: {', '.join(filter(None, parts))} ({ago})")
    else:
        result.append(f"  {about['stage']} began {ago}")
    return [*result, *([f"  {about['command']}"] if about["command"] else [])]


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
    return [result, f"  resume: {about['command'] or AGAIN}"]


def _left(known: set[tuple[str, int]], live: list[LiveRun]) -> list[list[str]]:
    """Return the lines of checkpoints that no process holds, and that no record of a run explains."""
    recorded = {artifact for run in live for artifact in run.content["artifacts"].items()}
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
