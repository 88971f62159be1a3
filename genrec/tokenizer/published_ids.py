"""Readers for files of published Semantic IDs.

A file is a JSON object, optionally compressed by gzip, from an item's key to its codes. The codes may be
    a list of tokens    ["<a_60>", "<b_159>", "<c_203>"] (LC-Rec, LETTER, MiniOneRec)
    a list of numbers   [12, 7, 255, 1] (reproductions of TIGER and RPG)
    text                "(1, 2, 3)", "1,2,3", "12-7-255", "<a_1><b_2>", "<|sid_begin|><s_a_1><s_b_2><|sid_end|>" (OpenOneRec)
The code of a token is its last number.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from genrec.errors import InputError
from genrec.input_files import DAMAGE, RESTORE, describe_error, parse_json, reading
from genrec.store import Signature, signature_of

CODE_LIMIT = 2**31  # codes must be below
_DIGITS = "0123456789"
_MAX_DIGITS = 20  # of a code, with leading zeros
# Begin and end markers around an item's tokens. A name that ends in a digit is a token, such as <gender_1>.
_MARKER = re.compile(r"<\|?\w*(begin|start|end|bos|eos)\w*(?<!\d)\|?>", re.IGNORECASE)
_ANGLES = re.compile(r"<[^<>]*>")
_BETWEEN = re.compile(r"[\s,'\"()\[\]]*")


class Published(NamedTuple):
    """The content of a file of Semantic IDs."""

    rows: dict[str, int]  # the row of each key
    codes: ndarray  # int64 [P, L]


def read_published(path: Path) -> Published:
    """Read every item's codes.

    Raise `InputError` for items of different lengths, tokens without a number, and levels with two kinds of tokens.
    """
    return _read_published(path, _signature(path))


@lru_cache(maxsize=4)
def _read_published(path: Path, _: Signature) -> Published:
    """Read a file once per signature (size and modification time)."""
    table = _json(path)
    if isinstance(table, list):
        raise InputError(
            f"{path} is a list of {len(table)} entries without keys, so entries can't be matched to items; "
            'convert it to an object, {"item id": [codes], ...}'
        )
    if not isinstance(table, dict) or not table:
        raise InputError(f'{path} must be a JSON object from items to codes, {{"item id": [codes], ...}}, got {str(table)[:80]!r}')
    first_key, prefixes = next(iter(table)), None
    codes = []
    for key, value in table.items():
        found = [_code(path, key, token) for token in _tokens(path, key, value)]
        kinds = [prefix for prefix, _ in found]
        if prefixes is None:
            prefixes = kinds
        if not found:
            raise InputError(f"{path}: item {key!r} has no codes, expected at least one: {str(value)[:80]!r}")
        if len(found) != len(prefixes):
            raise InputError(f"{path}: item {key!r} has {len(found)} codes, item {first_key!r} has {len(prefixes)}: {str(value)[:80]}")
        for level, (kind, expected) in enumerate(zip(kinds, prefixes, strict=True), start=1):
            if kind != expected:
                raise InputError(
                    f"{path}: the token of item {key!r} on level {level} begins with {kind!r}, that of item {first_key!r} with "
                    f"{expected!r}; tokens of a level must have the same prefix: {str(value)[:80]}"
                )
        codes.append([code for _, code in found])
    return Published({key: row for row, key in enumerate(table)}, np.array(codes, dtype=np.int64))


def read_ids(path: Path, columns: tuple[int, int]) -> dict[str, str]:
    """Read the map from item ids to keys of a file of Semantic IDs.

    The file is a JSON object or a table. A table is tab-separated if its first line contains a tab, else comma-separated; a header
    is read like any other row. `columns` are the columns of the item id and of the key, counted from 0; in a JSON object, column 0
    is the name and column 1 the value.
    """
    content = _uncompressed(path)
    if content.lstrip()[:1] == b"{":
        rows = [(str(key), str(value)) for key, value in _json(path).items()]
    else:
        lines = _text(path, content).splitlines()
        delimiter = "\t" if lines and "\t" in lines[0] else ","
        with reading(path, "a table of item ids and keys, separated by tabs or commas"):
            rows = [tuple(row) for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter) if row]  # type: ignore[misc]
    table: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        if len(row) <= max(columns):
            raise InputError(f"{path}, row {number}: expected columns {columns} (counted from 0), got {len(row)} columns: {row}")
        item, key = (row[column].strip() for column in columns)
        if table.setdefault(item, key) != key:
            raise InputError(f"{path}, row {number}: item {item!r} has the keys {table[item]!r} and {key!r}")
    return table


def content_hash(*paths: Path) -> str:
    """Return a hash of the files' uncompressed content."""
    return hashlib.sha256("\n".join(hashlib.sha256(_uncompressed(path)).hexdigest() for path in paths).encode()).hexdigest()


def _tokens(path: Path, key: str, value: Any) -> list[Any]:
    """Return an item's tokens or numbers, one per level."""
    if isinstance(value, str):
        if "<" in value:
            if _BETWEEN.fullmatch(rest := _ANGLES.sub("", value)) is None:
                raise InputError(f"{path}: item {key!r} has the codes {value[:80]!r}; {rest[:80]!r} is not a token <...>")
            value = _ANGLES.findall(value)
        else:
            value = [part for part in re.split(r"[\s,]+", value.strip().strip("()[]")) if part]
            if len(value) == 1 and re.fullmatch(r"\d+(-\d+)+", value[0]):
                value = value[0].split("-")
    if not isinstance(value, list):
        raise InputError(f"{path}: item {key!r} must have a list of codes or text, got {str(value)[:80]!r}")
    return [token for token in value if not (isinstance(token, str) and _MARKER.fullmatch(token))]


def _code(path: Path, key: str, token: Any) -> tuple[str, int]:
    """Return the prefix and the number of a token."""
    if isinstance(token, int) and not isinstance(token, bool) and 0 <= token < CODE_LIMIT:
        return "", token
    body = token.strip().strip("'\"").rstrip(">]|)}") if isinstance(token, str) else ""
    prefix = body.rstrip(_DIGITS)
    digits = body[len(prefix) :]
    is_code = 0 < len(digits) <= _MAX_DIGITS and int(digits) < CODE_LIMIT
    if not is_code or prefix[-1:] in ("-", ".", "+") or "\n" in prefix:
        shown = repr(token) if len(repr(token)) <= 80 else f"{repr(token)[:80]}... ({len(repr(token)):,} characters)"
        raise InputError(
            f"{path}: item {key!r} has the token {shown}; expected an integer from 0 to {CODE_LIMIT - 1}, or text that ends in one, "
            "like '<a_60>'"
        )
    return prefix, int(digits)


def _json(path: Path) -> Any:
    """Parse a JSON file. Raise `InputError` for invalid JSON and for repeated keys."""

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            seen: set[str] = set()
            repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise InputError(f"{path} has the key {repeated!r} twice")
        return table

    try:
        return parse_json(_text(path, _uncompressed(path)), distinct)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


def _text(path: Path, content: bytes) -> str:
    """Decode UTF-8, with or without a byte order mark."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}") from error


def _uncompressed(path: Path) -> bytes:
    """Read a file, uncompressed if it is a gzip file."""
    _signature(path)
    with reading(path, "a readable file"):
        content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except DAMAGE as error:
        raise InputError(f"{path} is damaged: it can't be unpacked ({describe_error(error)}); {RESTORE}") from error


def _signature(path: Path) -> Signature:
    """Return the signature of a file. Raise `InputError` if it does not exist."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected a file of published Semantic IDs, or the table of their item ids")
    return signature_of(path)
