"""Files that a user names: paths as text or `Path`, and one error for any damage."""

from __future__ import annotations

import json
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from genrec.errors import GenrecError, InputError, UsageError, did_you_mean

DAMAGE = (  # what the readers of gzip and zip files raise for damaged bytes
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    ArithmeticError,
    TypeError,
    MemoryError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)
RESTORE = "restore it or point to another file"


def as_path(value: object, field: str) -> Path:
    """Return a path from text or a path, with `~` expanded. Raise UsageError for anything else; `field` names it in the message."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise UsageError(f"{field} must be a path, as text or pathlib.Path, got {value!r}")
    if not os.fspath(value):
        raise UsageError(f"{field} must name a file or a folder, got ''")
    try:
        return Path(value).expanduser()
    except RuntimeError:  # ~name without such a user
        return Path(value)


def file_suffix(path: Path) -> str:
    """Return the last suffix of a file in lower case, by which its format is known: `.csv` of `DATA.CSV`; "" if it has none."""
    return path.suffix.lower()


def missing_file(path: Path, expected: str = "") -> InputError:
    """Return the error of a file that does not exist: the folder of a relative path, `expected`, and the nearest name beside it."""
    place = "" if path.is_absolute() else f" in the current folder {os.path.abspath(os.curdir)}"
    beside: list[str] = []
    with suppress(OSError):  # the folder may be missing or unreadable
        beside = [each.name for each in sorted(path.parent.iterdir()) if each.is_file()]
    return InputError(f"there is no file {path}{place}{expected and f'; expected {expected}'}{did_you_mean(path.name, beside)}")


def optional_path(value: Path | str | None) -> Path | None:
    """Return the normalized path of a field that may be None."""
    return None if value is None else Path(value)


def normalize_paths(specification: object, *fields: str) -> None:
    """Turn the text in path fields of a frozen dataclass into paths, so that a path has one key however it is written."""
    for field in fields:
        value = getattr(specification, field)
        if value is not None:
            object.__setattr__(specification, field, as_path(value, f"{type(specification).__name__}.{field}"))


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Raise InputError for any error of a library that reads a file; `expected` describes the right content.

    Libraries raise errors of many classes for damaged bytes, such as TokenError for the header of a `.npy` file. Keep the block free
    of other work.
    """
    try:
        yield
    except GenrecError:
        raise
    except Exception as error:
        raise InputError(f"{path} can't be read ({describe_error(error)}); expected {expected}; {RESTORE}") from error


def parse_json(text: str, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON; raise ValueError for any invalid text, also for one nested too deeply. `hook` is json's `object_pairs_hook`."""
    try:
        return json.loads(text, object_pairs_hook=hook)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def describe_error(error: BaseException) -> str:
    """Return the class and the first line of a library's error, at most 200 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
