"""Content-addressed artifacts: a stage's key is the hash of its specification and of its parents' keys.

`<root>/<stage>/<key>/` holds the payload and `manifest.json`, which is written last. A stage works in `.<key>.partial` beside it,
under a lock, and the folder is renamed when it is whole: what has its final name is complete. A killed stage leaves its partial
folder, and the next try may go on from the `checkpoint` folder in it. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import inspect
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from genrec.errors import ArtifactError, ResourceError, UsageError

FORMAT = 1  # of the manifest; a reader refuses a newer one
LARGE = 1 << 26  # bytes; a larger file is not hashed again while its stat signature holds
_TICK = 20_000_000  # nanoseconds; file systems date a change by a clock this coarse
Signature = tuple[int, int, int, int]  # size, mtime_ns, ctime_ns (which os.utime can't set back), inode
NOT_IN_KEY = {"key": False}  # metadata of a field that changes no result: device, workers, batch of evaluation


class Artifact(NamedTuple):
    """A finished stage."""

    stage: str
    key: str
    folder: Path
    manifest: dict[str, Any]


def describe(value: object, root: Path, name: str = "experiment") -> Any:
    """A specification as JSON: class paths and fields, equal for equal results. `root` is where sources find fetched files.

    An object with `fingerprint(root)` is described by that and its plain fields, so that moving a file changes no key. A class
    attribute `VERSION` is part of the description: raise it when the code gives other results. A class from outside genrec is
    also described by a hash of its own source, so that editing a plug-in runs it anew. What cannot be described is refused.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [describe(entry, root, f"{name}[{place}]") for place, entry in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(key): describe(entry, root, f"{name}.{key}") for key, entry in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _describe_component(value, root, name)
    raise UsageError(
        f"{name} is a {type(value).__module__}.{type(value).__qualname__}, which has no stable description; "
        "make it a frozen dataclass of plain values, or give it a method fingerprint(root) -> str"
    )


def _describe_component(value: Any, root: Path, name: str) -> dict[str, Any]:
    kind = type(value)
    result: dict[str, Any] = {"class": f"{kind.__module__}:{kind.__qualname__}"}
    if hasattr(kind, "VERSION"):
        result["version"] = kind.VERSION
    if kind.__module__.partition(".")[0] != "genrec":
        result["source"] = _source_hash(kind)
    fingerprint: Callable[[Path], str] | None = getattr(value, "fingerprint", None)
    if fingerprint is not None:
        result["fingerprint"] = fingerprint(root)
    for field in dataclasses.fields(value):
        entry = getattr(value, field.name)
        if not field.metadata.get("key", True):
            continue
        if fingerprint is not None and not isinstance(entry, bool | int | float | str | tuple):
            continue
        result[field.name] = describe(entry, root, f"{name}.{field.name}")
    return result


def _source_hash(kind: type) -> str | None:
    """A hash of the class's source text; None where there is none to read (a class typed into an interpreter)."""
    try:
        return hash_of(inspect.getsource(kind))
    except (OSError, TypeError):
        return None


def hash_of(description: object) -> str:
    """16 hexadecimal digits of a JSON value."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal hash of a file, by `sha256` or, where that is what is published, `md5`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def signature_of(path: Path) -> Signature:
    """The file's stat signature. Waits until any later change will have another date, so that it can't go unseen."""
    status = path.stat()
    wait = status.st_ctime_ns + _TICK - time.time_ns()
    if 0 < wait <= _TICK:
        time.sleep(wait / 1e9)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def write_json(path: Path, value: object) -> None:
    """Write JSON under another name, flush it to the disk and rename it."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class Store:
    """The artifacts below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, stage: str, key: str) -> Path:
        """Where the artifact is, or will be."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Whether the artifact is complete."""
        return (self.folder(stage, key) / "manifest.json").is_file()

    def get(self, stage: str, key: str) -> Artifact:
        """The artifact, every file of it checked against the manifest's size and sha256 (a large one, unless it is untouched)."""
        folder = self.folder(stage, key)
        again = f"run the experiment again with --refresh {stage}"
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ArtifactError(f"there is no artifact {stage}/{key} below {self.root}; {again}") from None
        except ValueError as error:
            raise ArtifactError(f"{folder / 'manifest.json'} is damaged ({error}); {again}") from None
        if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict) or "format" not in manifest:
            raise ArtifactError(f"{folder / 'manifest.json'} is damaged (it is no manifest); {again}")
        if manifest["format"] > FORMAT:
            raise ArtifactError(
                f"{folder} was made by genrec {manifest['versions'].get('genrec')} in format {manifest['format']}; "
                f"this genrec reads up to {FORMAT}: upgrade it, or {again}"
            )
        for name, expected in manifest["files"].items():
            path = folder / name
            if not path.is_file() or not _is_unaltered(path, expected):
                raise ArtifactError(f"{path} is missing or was altered since it was made (sha256 {expected['sha256']}); {again}")
        return Artifact(stage, key, folder, manifest)

    @contextmanager
    def create(self, stage: str, key: str, about: dict[str, Any]) -> Iterator[Path | None]:
        """A folder to write the payload into; it becomes the artifact when the block ends well. `about` goes into the manifest.

        Yields None when another process made the artifact meanwhile. Whatever a killed try left is removed, but for the folder
        `checkpoint`, which is the stage's to go on from and no part of the payload.
        """
        final = self.folder(stage, key)
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{key}.partial")
        with FileLock(final.with_name(f".{key}.lock")):
            if self.has(stage, key):
                yield None
                return
            _clear(partial)
            partial.mkdir(exist_ok=True)
            began = time.monotonic()
            with _tidy(partial):
                yield partial
            _remove(partial / "checkpoint")
            files = {path.relative_to(partial).as_posix(): _content(path) for path in sorted(partial.rglob("*")) if path.is_file()}
            seconds = round(time.monotonic() - began, 3)
            manifest = {"format": FORMAT, "stage": stage, "key": key, **about, "files": files, "seconds": seconds}
            write_json(partial / "manifest.json", manifest)
            _remove(final)
            partial.rename(final)

    def remove(self, stage: str, key: str) -> None:
        """Remove the artifact and whatever a killed try left of it."""
        final = self.folder(stage, key)
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(final.with_name(f".{key}.lock")):
            _remove(final / "manifest.json")
            _remove(final)
            _remove(final.with_name(f".{key}.partial"))


def _clear(partial: Path) -> None:
    """Remove what a try left, but for its checkpoint."""
    for path in partial.iterdir() if partial.is_dir() else ():
        if path.name != "checkpoint":
            _remove(path)


@contextmanager
def _tidy(partial: Path) -> Iterator[None]:
    """Where a stage fails, nothing half-made stays but its checkpoint; a full disk is told, whichever library says so."""
    try:
        yield
    except BaseException as error:
        _clear(partial)
        with suppress(OSError):  # there is a checkpoint
            partial.rmdir()
        if getattr(error, "errno", None) != errno.ENOSPC and "no space left on device" not in str(error).lower():
            raise
        raise ResourceError(f"the disk is full ({error}); finished artifacts are whole; free some space and run again") from error


def _content(path: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    signature = signature_of(path)
    large = {"signature": signature} if signature[0] >= LARGE else {}
    return {"size": signature[0], "sha256": file_hash(path), **large}


def _is_unaltered(path: Path, expected: dict[str, Any]) -> bool:
    """Whether a file is what its manifest says."""
    if path.stat().st_size != expected["size"]:
        return False
    untouched = "signature" in expected and tuple(expected["signature"]) == signature_of(path)
    return untouched or file_hash(path) == expected["sha256"]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
