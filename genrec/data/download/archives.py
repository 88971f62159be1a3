"""Stage 1, archives: what can be fetched, from where, and whether a file is the one that is published.

In: what is published of a file, and the environment. Out: the places where it is looked for, in their order, and what is wrong with a
file that is there.

GENREC_MIRROR: folders and base addresses that are tried first, separated by white space or commas; each holds the files by their
names here, or by the last part of those, and a folder may hold them at any depth. GENREC_OFFLINE: anything but "" and 0 keeps off the
network; mirrors that are folders are still used.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from genrec.data.download.file_records import damage, differs, digest, read_record, write_record
from genrec.errors import ArtifactError, UsageError
from genrec.store import file_hash, signature_of

_CHECKSUM = re.compile(r"(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})", re.IGNORECASE)
CHECKED_INSIDE = (".zip", ".gz")  # files whose own checksums tell whether they are whole


@dataclass(frozen=True)
class Archive:
    """An upstream file that can be fetched."""

    name: str  # where it is kept below the folder of fetched files, such as "amazon-2014/meta_Beauty.json.gz"
    urls: tuple[str, ...]  # where it is published; tried in this order, after the mirrors of GENREC_MIRROR
    size: int | None = None  # bytes, where it is published
    checksum: str | None = None  # "md5:HEX" or "sha256:HEX", where one is published

    def __post_init__(self) -> None:
        name = PurePosixPath(self.name)
        if not name.parts or name.is_absolute() or ".." in name.parts or set(self.name) & set("\\:\0"):
            raise UsageError(f"name must lie below the folder of fetched files, got {self.name!r}; expected such as 'folder/file.zip'")
        for address in self.urls:
            _check_address(address)
        if self.checksum is not None and not _CHECKSUM.fullmatch(self.checksum):
            raise UsageError(f"checksum must be md5:HEX or sha256:HEX, got {self.checksum!r}")

    @property
    def checkable(self) -> bool:
        """Whether a file with a wrong byte in it can be told."""
        return self.checksum is not None or PurePosixPath(self.name).suffix in CHECKED_INSIDE


def offline() -> bool:
    """Whether the network must not be used."""
    return os.environ.get("GENREC_OFFLINE", "") not in ("", "0")


def sources(archive: Archive) -> list[Path | str]:
    """Files of mirror folders and addresses, in the order in which they are tried."""
    names = dict.fromkeys((archive.name, PurePosixPath(archive.name).name))
    found: list[Path | str] = []
    mirrors = os.environ.get("GENREC_MIRROR", "")
    bases = [mirrors] if os.path.isdir(os.path.expanduser(mirrors)) else re.split(r"[\s,]+", mirrors)  # one folder may have a space
    for base in filter(None, bases):
        if "://" in base:
            _check_address(base)
            found += [f"{base.rstrip('/')}/{name}" for name in names]
        else:
            found += _in_folder(Path(base).expanduser(), list(names))
    found += archive.urls
    return [source for source in found if isinstance(source, Path) or not offline()]


def _in_folder(folder: Path, names: list[str]) -> list[Path]:
    """The files of these names, else the one at any depth; of several nobody could choose, so that none is taken."""
    found = [folder / name for name in names if (folder / name).is_file()]
    deeper = [] if found else [path for path in folder.rglob(glob.escape(names[-1])) if path.is_file()]
    return found or (deeper if len(deeper) == 1 else [folder / names[0]])


def _check_address(address: str) -> None:
    if not re.match(r"https?://[^/\s]", address, re.IGNORECASE):
        raise UsageError(f"an address must begin with http:// or https://, got {address!r}; a folder is named by its plain path")


def failure(archive: Archive, path: Path, reasons: list[str]) -> str:
    """The message where a file is missing: why nothing brought it, and where it belongs."""
    why = "GENREC_OFFLINE forbids to fetch it" if offline() else "it could not be fetched"
    expected = f" (expected {archive.checksum})" if archive.checksum else ""
    tried = "".join(f"\n  {reason}" for reason in reasons) + "\n" if reasons else " "
    places = " or ".join(archive.urls) or "wherever it is published"
    allow = " allow it (no --offline, no GENREC_OFFLINE)," if offline() else ""
    return (
        f"{path.absolute()} is needed, and {why}{expected}:{tried}get it from {places} and put it there, let GENREC_MIRROR name a "
        f"folder or an address that has it,{allow} or say where it is with --source.path"
    )


def judge(archive: Archive, path: Path) -> tuple[str, str]:
    """The sha256, and why this is not the published file: by its size and checksum, or by its structure where none is published."""
    sha256 = file_hash(path)
    wrong = differs(path, sha256, archive.size, archive.checksum)
    return sha256, wrong or ("" if archive.checksum else damage(path, archive.name))


def altered(archive: Archive, path: Path) -> str:
    """What happened to the file that is there; "" where it is right. One that was put there by hand and is wrong is refused."""
    record, signature = read_record(path), signature_of(path)
    sha256 = digest(path)
    wrong = differs(path, sha256, archive.size, archive.checksum)
    changed = record is not None and record.sha256 != sha256
    if not wrong and (archive.checksum is not None or not changed):
        if record is None or (record.signature, record.checksum) != (signature, archive.checksum):
            known = (record.address, record.fetched) if record is not None and not changed else (None, "")
            write_record(path, sha256, archive.checksum, signature, *known)
        return ""
    if record is not None and changed:
        return f"was altered since it was fetched (sha256 {record.sha256} then, {sha256} now)"
    if record is not None and record.address is not None:
        return f"is not what is published now ({wrong})"
    raise ArtifactError(
        f"{path} is not the file that is published: {wrong}; remove it so that it is fetched, or name it with --source.path"
    )
