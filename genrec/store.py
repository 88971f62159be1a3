"""A store of artifacts, addressed by the hash of a stage's specification and of its parents' keys.

`<root>/<stage>/<key>/` holds the files of a stage and `manifest.json`, which is written last. A stage writes to `.<key>.partial` under
a lock; the folder is renamed when the stage has finished, so a folder with its final name is complete. An interrupted stage leaves its
partial folder, and the next run may resume from the `checkpoint` folder in it. A finished artifact that is built again stays until
the new one takes its place. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from genrec import artifact_folders, manifests
from genrec.errors import ArtifactError, ResourceError, UsageError
from genrec.hashed_json import KEY_DIGITS
from genrec.source_hash import source_hash
from genrec.storage_errors import check_folder

LARGE = 1 << 26  # bytes; a larger file is hashed again only if its stat signature has changed
_TICK = 20_000_000  # nanoseconds; resolution of a file system's clock
Signature = tuple[int, int, int, int]  # size, mtime_ns, ctime_ns (which os.utime cannot set), inode
RESERVED = ("class", "version", "source", "fingerprint")  # entries of a described component that no field may replace
NEW_IN_KEY = {"key": "unless default"}  # metadata of a field that is newer than artifacts: with its default, their keys stay
NOT_IN_KEY = {"key": False}  # metadata of a field that changes no result, such as a device or the batch size of an evaluation


class Artifact(NamedTuple):
    """The result of a finished stage."""

    stage: str  # name of the stage
    key: str  # `KEY_DIGITS` hexadecimal digits
    folder: Path  # the folder that holds the files
    manifest: dict[str, Any]  # the content of manifest.json


def describe(value: object, root: Path, name: str = "experiment") -> Any:
    """Return a specification as JSON: class paths and fields. Equal descriptions give equal results.

    An object with `fingerprint(root)` is described by its fingerprint and its plain fields, so that moving a file changes no key. A
    class attribute `VERSION` is part of the description: raise it when the code gives other results. A class from outside genrec is
    also described by a hash of its code (`genrec.source_hash`), so that editing a plug-in reruns it. `root` is the folder of
    downloaded files, `name` the key path for error messages. Raises UsageError if the value is no dataclass, plain value or object
    with a fingerprint.
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
        result["source"] = source_hash(kind)
    fingerprint: Callable[[Path], str] | None = getattr(value, "fingerprint", None)
    if fingerprint is not None:
        result["fingerprint"] = fingerprint(root)
    for field in dataclasses.fields(value):
        entry = getattr(value, field.name)
        if field.name in RESERVED:
            raise UsageError(f"{name}: {kind.__qualname__} has a field {field.name!r}, a name that the key needs; rename the field")
        if not _is_in_key(field, entry):
            continue
        is_path = isinstance(entry, str) and "Path" in str(field.type)  # a path as text, which a plug-in may take too
        if fingerprint is not None and (is_path or not isinstance(entry, bool | int | float | str | tuple | Mapping)):
            continue
        result[field.name] = describe(entry, root, f"{name}.{field.name}")
    return result


def _is_in_key(field: dataclasses.Field[Any], entry: object) -> bool:
    """Return whether a field with this value is part of the key (see `NOT_IN_KEY` and `NEW_IN_KEY`)."""
    metadata = dict(field.metadata)
    return metadata != NOT_IN_KEY and not (metadata == NEW_IN_KEY and entry == field.default)


def hash_of(description: object) -> str:
    """Return a hash of a JSON value, `KEY_DIGITS` hexadecimal digits."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


def key_of(stage: str, version: int, specification: dict[str, Any], parents: dict[str, str]) -> str:
    """Return the key of an artifact: the hash of the stage, its version and settings, and the keys that it reads."""
    return hash_of({"stage": stage, "version": version, "specification": specification, "parents": parents})


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal hash of a file, by `sha256` or `md5`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def signature_of(path: Path) -> Signature:
    """Return the file's stat signature. Waits until a later change would get another timestamp, so that it is always detected."""
    status = path.stat()
    wait = status.st_ctime_ns + _TICK - time.time_ns()
    if 0 < wait <= _TICK:
        time.sleep(wait / 1e9)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def write_json(path: Path, value: object) -> None:
    """Write JSON to a temporary file, flush it to the disk and rename it. An OSError names the file."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write has no name
        with suppress(OSError):
            partial.unlink()
        raise


class Store:
    """The artifacts below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, stage: str, key: str) -> Path:
        """Return the folder of an artifact, whether it exists or not."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Return whether the artifact exists and is complete."""
        return (self.folder(stage, key) / manifests.NAME).is_file()

    def is_done(self, stage: str, key: str) -> bool:
        """Return whether the artifact exists and no interrupted rebuild has left a checkpoint to resume from."""
        return self.has(stage, key) and not (self._paths(stage, key)[1] / "checkpoint").is_dir()

    def get(self, stage: str, key: str, only: Collection[str] | None = None) -> Artifact:
        """Return the artifact after checking its manifest, and its files by size and sha256 (large files if their signature changed).

        `only` names the files that are read, so that no others are checked. Raises ArtifactError if the artifact is missing, damaged,
        has further files, or was written in another format. Files and folders with a hidden name (`.name`) are ignored.
        """
        folder = self.folder(stage, key)
        again = f"run the experiment again with --refresh {stage}"
        manifest = manifests.read(folder, stage, key, again)
        expected_key = key_of(stage, manifest["version"], manifest["specification"], manifest["parents"])
        if expected_key != key:
            raise ArtifactError(
                f"{folder / manifests.NAME} describes an artifact with the key {expected_key}, expected {key}; {again}"
            )
        for name, expected in manifest["files"].items():
            if only is not None and name not in only:
                continue
            path = folder / name
            if _is_linked(path, folder):
                raise ArtifactError(f"{path} is a link, expected a file; {again}")
            if not path.is_file() or not _is_unaltered(path, expected):
                raise ArtifactError(f"{path} is missing or has changed since it was written (sha256 {expected['sha256']}); {again}")
        if only is not None:
            return Artifact(stage, key, folder, manifest)
        found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
        unknown = {path.as_posix() for path in found if not any(part[0] == "." for part in path.parts)} - {manifests.NAME}
        for name in sorted(unknown - manifest["files"].keys()):
            raise ArtifactError(f"{folder / name} is not listed in manifest.json; move it away, or {again}")
        return Artifact(stage, key, folder, manifest)

    @contextmanager
    def create(self, stage: str, key: str, about: dict[str, Any], replace: bool = False) -> Iterator[Path | None]:
        """Yield a folder to write the artifact's files to; it becomes the artifact if the block ends without an error.

        Yields None if another process has built the artifact in the meantime. What an interrupted run left is removed, except the
        folder `checkpoint`, from which the stage may resume; it is no part of the artifact. With `replace`, the checkpoint is removed
        too, and a finished artifact is built again; an error leaves the old one as it was. `about` is added to the manifest: the
        entries of `manifests.SHAPE` from `version` to `environment`; the block may change them. `earlier_seconds` counts in `seconds`.
        """
        final, partial, lock = self._paths(stage, key)
        final.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock):
            artifact_folders.put_back(final)
            if not replace and self.is_done(stage, key):
                yield None
                return
            check_folder(partial)
            if replace:
                artifact_folders.remove(partial)
            artifact_folders.clear(partial)
            partial.mkdir(exist_ok=True)
            began = time.monotonic()
            with artifact_folders.tidy(partial, has_artifact=self.has(stage, key)):
                yield partial
                artifact_folders.set_modes(partial)
                described = dict(about)
                seconds = round(time.monotonic() - began + described.pop("earlier_seconds", 0.0), 3)
                manifest = {"stage": stage, "key": key, **described, "files": _files(partial), "seconds": seconds}
                write_json(partial / manifests.NAME, manifests.complete(manifest))
            artifact_folders.remove(partial / "checkpoint")
            artifact_folders.put_in_place(partial, final)

    def discard(self, stage: str, key: str) -> None:
        """Remove the files of an unfinished stage, with its checkpoint. A finished artifact stays."""
        _, partial, lock = self._paths(stage, key)
        partial.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock):
            artifact_folders.remove(partial)

    def check_writable(self, stage: str, key: str) -> None:
        """Raise UsageError if something is in the way of the folders and the lock that `create` writes. Writes nothing."""
        final, partial, lock = self._paths(stage, key)
        for folder in (self.root, final.parent, partial):
            check_folder(folder)
        if os.path.lexists(lock) and not (lock.is_file() and os.access(lock, os.W_OK)):
            raise UsageError(f"{lock} is not a file that can be written; remove it and run the same command again")

    def lock(self, stage: str, key: str) -> Path:
        """Return the lock of an artifact, which a process holds while it builds it."""
        return self._paths(stage, key)[2]

    def _paths(self, stage: str, key: str) -> tuple[Path, Path, Path]:
        """Return the artifact's folder, the folder of its unfinished files, and its lock."""
        final = self.folder(stage, key)
        return final, final.with_name(f".{key}.partial"), lock_beside(final)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`; wait while another process holds it."""
    lock = FileLock(path)
    try:
        lock.acquire()
    except NotImplementedError as error:  # a file system without flock
        raise ResourceError(f"{path} can't be locked ({error}); choose a data folder on a local disk with GENREC_HOME") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Hold the lock of a file that need not exist, `.NAME.lock` beside it; create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock_beside(path)):
        yield


def lock_beside(path: Path) -> Path:
    """Return the lock of a file: `.NAME.lock` beside it."""
    return path.with_name(f".{path.name}.lock")


def now() -> str:
    """Return the time in UTC, in the form of ISO 8601: `2026-01-31T23:59:59Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _files(partial: Path) -> dict[str, Any]:
    """Return the manifest's entries of all files of a finished stage."""
    names = {path.relative_to(partial).as_posix(): path for path in sorted(partial.rglob("*")) if path.is_file()}
    return {name: _content(path) for name, path in names.items() if not name.startswith("checkpoint/")}


def _content(path: Path) -> dict[str, Any]:
    """Return the manifest's entry of a file."""
    signature = signature_of(path)
    large = {"signature": signature} if signature[0] >= LARGE else {}
    return {"size": signature[0], "sha256": file_hash(path), **large}


def _is_unaltered(path: Path, expected: dict[str, Any]) -> bool:
    """Return whether a file agrees with its manifest entry."""
    if path.stat().st_size != expected["size"]:
        return False
    untouched = "signature" in expected and tuple(expected["signature"]) == signature_of(path)
    return untouched or file_hash(path) == expected["sha256"]


def _is_linked(path: Path, folder: Path) -> bool:
    """Return whether a path below a folder is a link or leads through one."""
    return any(part.is_symlink() for part in (path, *path.parents) if part != folder and part.is_relative_to(folder))
