"""The environments of all attempts at a stage that resumes from a checkpoint, in a file beside the unfinished artifact."""

from __future__ import annotations

from pathlib import Path

from genrec import hashed_json
from genrec.environment import joined
from genrec.hashed_json import Each
from genrec.progress import say
from genrec.store import write_json
from genrec.workspace import store


def attempts_file(stage: str, key: str) -> Path:
    """Return the file with the environments of the attempts at a stage."""
    return store().folder(stage, f".{key}.attempts.json")


def of_all_attempts(path: Path, checkpoint: Path, now: dict[str, str], title: str) -> dict[str, str]:
    """Return the environments of all attempts at a stage, joined, and keep them in a file beside the unfinished artifact.

    Logs what has changed since the checkpoint that the stage resumes from was begun.
    """
    environments = [now]
    if checkpoint.is_dir() and path.is_file():
        advice = "remove it and run the same command again"
        before = hashed_json.read_object(path, advice)
        hashed_json.check_shape(path, before, Each(str), advice)
        environments.insert(0, before)
    together = joined(environments)
    changes = [f"{name} {value}" for name, value in together.items() if value != now.get(name)]
    if changes:
        say(f"{title}: resumed in another environment ({'; '.join(changes)}); the result can differ from an uninterrupted run's")
    write_json(path, together)
    return together
