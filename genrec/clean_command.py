"""`genrec clean`: removes rows with the artifacts that only they use, or all artifacts that no row and no run uses.

A run file that can't be read does not tell its artifacts. It can be removed, and until it is, no artifact is.

Rows are removed before their artifacts, and an artifact is renamed before its files are deleted, so an interruption leaves a store in
which every artifact is whole and every row has all of its artifacts; `genrec clean --unused` removes the remainder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from filelock import FileLock, Timeout

from genrec import artifact_folders, failed_runs, live_runs, run_files
from genrec.disk_usage import in_words, table
from genrec.errors import UsageError, counted
from genrec.pipeline import VERSIONS
from genrec.stage_attempts import attempts_file
from genrec.stage_names import kind_of_stage, place_of
from genrec.store import locked_file
from genrec.stored_artifacts import HALF_REMOVED, ArtifactId, RowUses, Stored, Uses, stored, trained_row, unrecorded_builds, uses
from genrec.terminal_text import print_lines
from genrec.workspace import home, runs_folder, store


class Removal(NamedTuple):
    """What a command would remove."""

    rows: list[str]  # with a run file
    ended: list[str]  # rows with records of runs that failed, were stopped or killed
    folders: list[Stored]  # in the order of removal: what was made from others first
    damaged: dict[str, str]  # those of `rows` with a run file that can't be read -> why
    held: list[Stored]  # stay because of `unknown`, and would be removed otherwise
    unknown: list[str]  # why the artifacts of other rows and runs are not known

    @property
    def is_empty(self) -> bool:
        """Whether nothing is removed."""
        return not (self.rows or self.ended or self.folders)


def clean(names: Sequence[str], unused: bool, dry_run: bool, yes: bool) -> int:
    """Show what would be removed and remove it after a question. Return 0, also if the answer is no."""
    if bool(names) == unused:
        raise UsageError("name the rows to remove, such as 'genrec clean ROW', or give --unused for what no row uses, not both")
    found = plan(names, uses())
    print_lines(lines(found))
    if found.is_empty or dry_run:
        return 0
    shown = _contents(found)
    if not yes and not _confirmed():
        print("nothing was removed")
        return 0
    found = plan(names, uses())  # raises if a row has begun to run while the question was open
    if _contents(found) != shown:
        raise UsageError("a row has changed while the question was open, and nothing was removed; run the command again")
    freed, kept = remove(found)
    print_lines([*kept, f"removed {in_words(freed)}"])
    return 0


def _contents(found: Removal) -> dict[str, bytes]:
    """Return the run file of each row to remove."""
    return {name: (runs_folder() / f"{name}.json").read_bytes() for name in found.rows}


def plan(names: Sequence[str], known: Uses) -> Removal:
    """Return what to remove: these rows, or without names all that is not used. Raises UsageError for a row that is unknown or runs.

    Also raised if a process builds an artifact without a record of what it reads.
    """
    for build in unrecorded_builds(known.running):
        raise UsageError(
            f"{build} builds {build.stage}/{build.key} and keeps no record of the artifacts that it reads, so nothing can be removed "
            "safely; run the command again when it has ended"
        )
    for name in names:
        for run in known.running:
            if run.name == name:
                raise UsageError(f"{name} {run.place}; stop it with Ctrl-C, or wait until it has finished")
        if name not in known.rows and name not in known.damaged and name not in known.ended:
            run_files.read(name)  # raises with the nearest name
    rows = [name for name in dict.fromkeys(names) if name in known.rows or name in known.damaged]
    ended = [name for name in dict.fromkeys(names) if name in known.ended]
    wanted = _wanted(rows, ended, known) if names else None
    kept = _kept(rows, ended, known)
    folders = [
        each for each in stored() if (each.kind == HALF_REMOVED or each.id not in kept) and (wanted is None or each.id in wanted)
    ]
    damaged = {name: known.damaged[name] for name in rows if name in known.damaged}
    unknown = known.unknown(rows)
    held = [each for each in folders if unknown and each.kind != HALF_REMOVED]
    return Removal(rows, ended, sorted((each for each in folders if each not in held), key=_made_last), damaged, held, unknown)


def _wanted(rows: Sequence[str], ended: Sequence[str], known: Uses) -> set[ArtifactId]:
    """Return the artifacts of these rows, as far as they are known, and of their runs that ended without a result."""
    used = [known.rows.get(name, set()) for name in rows] + [known.runs[label] for name in ended for label in known.ended[name]]
    return set().union(*used)


def _kept(rows: Sequence[str], ended: Sequence[str], known: Uses) -> set[ArtifactId]:
    """Return the artifacts that other rows and runs use."""
    left = {label for name in ended for label in known.ended[name]}
    used = [each for name, each in known.rows.items() if name not in rows]
    return set().union(*used, *(each for label, each in known.runs.items() if label not in left))


def _made_last(each: Stored) -> tuple[int, int, str]:
    """Return a sort key: evaluations first, data last."""
    kind = kind_of_stage(each.stage)
    order = list(VERSIONS).index(kind) if kind in VERSIONS else len(VERSIONS)
    return -order, -place_of(each.stage) if kind == "align" else 0, str(each)


def lines(found: Removal) -> list[str]:
    """Return what would be removed, with sizes."""
    if found.is_empty:
        return [f"nothing to remove in {home()}", *_held_lines(found)]
    result = [f"row {name}: {runs_folder() / f'{name}.json'}{_unreadable(name, found)}" for name in found.rows]
    result += [f"row {name}: records of runs that did not finish" for name in found.ended]
    entries = []
    for each in found.folders:
        row = trained_row(each.stage, each.key)
        entries.append((str(each), in_words(each.size), "" if row is None else f"trained by {row[0]} (seed {row[1]})"))
    total = in_words(sum(each.size for each in found.folders))
    listed = [*result, *(table(entries, "lrl") if entries else []), f"to remove: {counted(len(entries), 'folder')}, {total}"]
    return [*listed, *_held_lines(found)]


def _unreadable(name: str, found: Removal) -> str:
    """Return the end of the line of a row with a run file that can't be read, or ""."""
    if name not in found.damaged:
        return ""
    return ", which can't be read; its artifacts are not known and stay: 'genrec clean --unused' removes those that no row uses"


def _held_lines(found: Removal) -> list[str]:
    """Return which folders stay because other rows or runs may use them, and what to do about it."""
    if not found.held:
        return []
    total = in_words(sum(each.size for each in found.held))
    return [
        f"kept: {counted(len(found.held), 'folder')}, {total}, which these unreadable files may use:",
        *(f"  {why}" for why in found.unknown),
        "remove them ('genrec clean ROW' removes the run file of a row), then run 'genrec clean --unused'",
    ]


def remove(found: Removal) -> tuple[int, list[str]]:
    """Remove rows, then artifacts. Return the bytes that were freed, and a line for each artifact that is in use by now."""
    for name in found.rows:
        path = runs_folder() / f"{name}.json"
        with locked_file(path):
            path.unlink(missing_ok=True)
    for failure in failed_runs.read_all()[0]:
        if failure.name in found.ended:
            failed_runs.remove(failure)
    for run in live_runs.read_all()[0]:
        if run.name in found.ended and not run.is_alive:
            live_runs.remove(run)
    freed, kept, row_uses = 0, [], RowUses()
    for each in found.folders:
        if reason := _remove_folder(each, row_uses):
            kept.append(f"kept {each}: {reason}")
        else:
            freed += each.size
    return freed, kept


def _remove_folder(each: Stored, row_uses: RowUses) -> str:
    """Remove a folder of the store, or return why it is kept: a row or a run has begun to use it since it was listed."""
    try:
        with FileLock(store().lock(*each.id), timeout=0):
            known = uses(with_builds=False, row_uses=row_uses)  # this process itself holds the lock
            users = known.of(each.id)
            if users and each.kind != HALF_REMOVED:
                return f"{', '.join(users)} uses it"
            if known.unknown() and each.kind != HALF_REMOVED:
                return f"it may be used by an unreadable file: {known.unknown()[0]}"
            artifact_folders.discard(each.path)
    except Timeout:
        return "a process builds it"
    if each.kind == "unfinished":
        attempts_file(*each.id).unlink(missing_ok=True)
    return ""


def _confirmed() -> bool:
    """Ask on the terminal. Raises UsageError without one."""
    if not sys.stdin or not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on; add --yes to remove this, or --dry-run to only look")
    try:
        return input("remove this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
