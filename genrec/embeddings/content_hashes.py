"""SHA-256 hashes of files and folders by content, for the keys of encoders: moving a file does not change a key."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from genrec.errors import InputError
from genrec.store import Signature, file_hash, signature_of


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files in a folder except hidden ones such as `.git`.

    Within a process, a file is read again only if its size, times or inode have changed.
    """
    try:
        if not path.is_dir():
            return _file_hash(str(path.absolute()), signature_of(path))
        files = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file.relative_to(path)))
        lines = [f"{file.relative_to(path).as_posix()} {_file_hash(str(file.absolute()), signature_of(file))}" for file in files]
    except OSError as error:
        raise InputError(f"{path} can't be read ({error}); expected a file or a folder of files") from None
    return sha256("\n".join(lines).encode()).hexdigest()


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@lru_cache(maxsize=4096)
def _file_hash(path: str, signature: Signature) -> str:
    return file_hash(Path(path))
