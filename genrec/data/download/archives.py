"""Files that can be downloaded: their locations, and the verification of a local file against the published one.

Environment variables:

    GENREC_MIRROR   folders and base URLs to try first, separated by white space or commas. A mirror holds the files by
                    `Archive.name` or by the last part of that name; a folder may hold them at any depth.
    GENREC_OFFLINE  any value except "" and 0 forbids network access. Mirrors that are folders are still used.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from genrec.data.download.file_records import digest, find_damage, find_mismatch, read_record, record_path, write_record
from genrec.errors import ArtifactError, UsageError
from genrec.store import file_hash, signature_of

_CHECKSUM = re.compile(r"(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})", re.IGNORECASE)
CHECKED_INSIDE = (".zip", ".gz")  # formats that contain checksums of their content


@dataclass(frozen=True)
class Archive:
    """An upstream file that can be downloaded."""

    name: str  # path below the folder of downloaded files, such as "amazon-2014/meta_Beauty.json.gz"
    urls: tuple[str, ...]  # tried in this order, after the mirrors of GENREC_MIRROR
    size: int | None = None  # published size in bytes, if known
    checksum: str | None = None  # published checksum, "md5:HEX" or "sha256:HEX", if known

    def __post_init__(self) -> None:
        name = PurePosixPath(self.name)
        if not name.parts or name.is_absolute() or ".." in name.parts or set(self.name) & set("\\:\0"):
            raise UsageError(f"name must be a path below the folder of downloaded files, such as 'folder/file.zip', got {self.name!r}")
        for url in self.urls:
            _check_url(url)
        if self.checksum is not None and not _CHECKSUM.fullmatch(self.checksum):
            raise UsageError(f"checksum must be md5:HEX or sha256:HEX, got {self.checksum!r}")

    @property
    def verifiable(self) -> bool:
        """Whether a wrong byte can be detected: by the published checksum, or by the checksums inside a .zip or .gz file."""
        return self.checksum is not None or PurePosixPath(self.name).suffix in CHECKED_INSIDE


def is_offline() -> bool:
    """Return whether GENREC_OFFLINE forbids network access."""
    return os.environ.get("GENREC_OFFLINE", "") not in ("", "0")


def locations(archive: Archive) -> list[Path | str]:
    """Return the files in mirror folders and the URLs to try, in this order; without URLs when offline."""
    names = dict.fromkeys((archive.name, PurePosixPath(archive.name).name))
    found: list[Path | str] = []
    mirrors = os.environ.get("GENREC_MIRROR", "")
    bases = [mirrors] if os.path.isdir(os.path.expanduser(mirrors)) else re.split(r"[\s,]+", mirrors)  # one folder may have a space
    for base in filter(None, bases):
        if "://" in base:
            _check_url(base)
            found += [f"{base.rstrip('/')}/{name}" for name in names]
        else:
            found += _find_in_folder(Path(base).expanduser(), list(names))
    found += archive.urls
    return [location for location in found if isinstance(location, Path) or not is_offline()]


def _find_in_folder(folder: Path, names: list[str]) -> list[Path]:
    """Return the files with these names in a folder, else the only file with the last name at any depth.

    If several deeper files have that name, none of them is used. The result then holds a path that does not exist, so that the
    error message lists the folder.
    """
    found = [folder / name for name in names if (folder / name).is_file()]
    deeper = [] if found else [path for path in folder.rglob(glob.escape(names[-1])) if path.is_file()]
    return found or (deeper if len(deeper) == 1 else [folder / names[0]])


def _check_url(url: str) -> None:
    if not re.match(r"https?://[^/\s]", url, re.IGNORECASE):
        raise UsageError(f"a URL must begin with http:// or https://, got {url!r}; pass a folder as a plain path")


def failure_message(archive: Archive, path: Path, reasons: list[str]) -> str:
    """Return the message for a missing file: the reason of each failed location, and how to provide the file."""
    why = "GENREC_OFFLINE forbids downloading it" if is_offline() else "could not be downloaded"
    expected = f" (expected {archive.checksum})" if archive.checksum else ""
    tried = "".join(f"\n  {reason}" for reason in reasons) + "\n" if reasons else " "
    publishers = " or ".join(archive.urls) or "its publisher"
    allow = " allow downloads (no --offline, no GENREC_OFFLINE)," if is_offline() else ""
    return (
        f"{path.absolute()} is needed but {why}{expected}:{tried}get it from {publishers} and save it under this path, set "
        f"GENREC_MIRROR to a folder or URL that has it,{allow} or pass its location with --source.path"
    )


def verify(archive: Archive, path: Path) -> tuple[str, str]:
    """Return a file's sha256 and the reason why it is not the published file, "" if it is.

    The size and checksum are compared with the published ones. Without a published checksum, the file's structure is checked.
    """
    sha256 = file_hash(path)
    mismatch = find_mismatch(path, sha256, archive.size, archive.checksum)
    return sha256, mismatch or ("" if archive.checksum else find_damage(path, archive.name))


def verify_existing(archive: Archive, path: Path) -> str:
    """Return the reason to download an existing file again, "" if it is right; its record is then brought up to date.

    Raise ArtifactError if the file was placed there by hand and is not the published one, or has changed since its first use.
    """
    record, signature = read_record(path), signature_of(path)
    sha256 = digest(path)
    mismatch = find_mismatch(path, sha256, archive.size, archive.checksum)
    changed = record is not None and record.sha256 != sha256
    if not mismatch and (archive.checksum is not None or not changed):
        if record is None or (record.signature, record.checksum) != (signature, archive.checksum):
            origin = (record.url, record.downloaded) if record is not None and not changed else (None, "")
            write_record(path, sha256, archive.checksum, signature, *origin)
        return ""
    if record is not None and changed and record.url is None and not mismatch:
        raise ArtifactError(
            f"{path} was placed there by hand and has changed since its first use (sha256 {record.sha256} then, {sha256} now); "
            f"restore it or point to another file with --source.path; to use it as it is, remove {record_path(path).name} beside it"
        )
    if record is not None and changed and record.url is not None:
        return f"was changed after its download (sha256 {record.sha256} then, {sha256} now)"
    if record is not None and record.url is not None:
        return f"is not the file that is published now ({mismatch})"
    raise ArtifactError(
        f"{path} was placed there by hand and is not the published file: {mismatch}; restore it or point to another file with "
        "--source.path; if it is moved away, the published file is downloaded"
    )
