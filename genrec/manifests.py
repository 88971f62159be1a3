"""The manifest of an artifact, `manifest.json`: its shape, its version and the hash of its own content."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from genrec import hashed_json
from genrec.errors import ArtifactError
from genrec.hashed_json import KEY, SHA256, Each, Listed, Matching, Optional, Shape

NAME = "manifest.json"
FORMAT = 3  # version of the manifest
OLDER = {1: "the names of settings have changed", 2: "the manifest has no hash of its own content"}  # why a format is not read


def _is_inside(name: str) -> bool:
    """Return whether the name of a file is a path below the artifact's folder, in its plainest form."""
    path = PurePosixPath(name)
    return path.as_posix() == name != "." and not path.is_absolute() and ".." not in path.parts and "\0" not in name


SHAPE: dict[str, Shape] = {
    "format": int,
    "stage": str,
    "key": str,
    "version": int,  # of the stage
    "specification": dict,  # the settings that the key depends on
    "file_names": Each(Listed(str)),  # field of the specification -> names of the files that it names
    "parents": Each(Matching(KEY)),  # stage -> key of the artifacts that were read
    "created": str,  # UTC, ISO 8601
    "versions": Each(str),  # library -> version
    "git": str,  # commit of the code
    "environment": Each(str),  # see `genrec.environment.environment`
    "files": Each({"size": int, "sha256": Matching(SHA256), "signature": Optional(Listed(int, 4))}, _is_inside, at_least=1),
    "seconds": float,
}


def complete(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest with its format and hash, ready to be written."""
    completed = hashed_json.add_hash({"format": FORMAT, **manifest})
    mismatch = hashed_json.find_mismatch(completed, SHAPE)
    assert not mismatch, mismatch
    return completed


def read(folder: Path, stage: str, key: str, advice: str) -> dict[str, Any]:
    """Return the checked manifest of an artifact. Raises ArtifactError with `advice` if it is missing, damaged or outdated."""
    path = folder / NAME
    try:
        manifest = hashed_json.read_object(path, advice)
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"there is no artifact {stage}/{key} below {folder.parents[1]}; {advice}") from None
    hashed_json.check_shape(path, manifest, {"format": int}, advice)
    if manifest["format"] != FORMAT:
        versions = manifest.get("versions")
        version = versions.get("genrec", "?") if isinstance(versions, dict) else "?"
        reason = OLDER.get(manifest["format"], "upgrade genrec")
        raise ArtifactError(
            f"{folder} was written by genrec {version} in format {manifest['format']}, this version reads format {FORMAT} ({reason}); "
            f"{advice}"
        )
    hashed_json.check_object(path, manifest, SHAPE, advice)
    if (manifest["stage"], manifest["key"]) != (stage, key):
        raise ArtifactError(f"{path} is that of {manifest['stage']}/{manifest['key']}, expected {stage}/{key}; {advice}")
    return manifest
