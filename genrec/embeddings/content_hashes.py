"""Stage 2, files that vectors come from: their hash, which is part of an encoder's key, so that moving a file changes no key.

In: a file or a folder. Out: its sha256, by content; in one process a file is read again only when it was touched.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from genrec.errors import InputError
from genrec.store import Signature, file_hash, signature_of


def content_hash(path: Path) -> str:
    """The sha256 of a file, or of the names and contents of a folder's files (hidden ones, such as `.git`, don't count)."""
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
