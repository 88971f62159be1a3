"""Stage 3: files of published Semantic IDs. In: JSON, packed by gzip or not. Out: the items' keys and their codes int64 [P, L].

What repositories publish, each an object from a key to the item's codes: lists of tokens (`{"0": ["<a_60>", "<b_159>", "<c_203>"]}`:
LC-Rec, LETTER, MiniOneRec), lists of numbers (TIGER's and RPG's reproductions: `{"B0009RF9DW": [12, 7, 255, 1]}`), and text:
"(1, 2, 3)", "1,2,3", "12-7-255", "<a_1><b_2>", "<|sid_begin|><s_a_1><s_b_2><|sid_end|>" (OpenOneRec).
A token's code is its last number.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from genrec.errors import InputError
from genrec.store import Signature, signature_of

LARGEST = 2**31  # a code beyond it is no code
_TOKEN = re.compile(r"(?P<prefix>.*?)(?P<code>\d+)[>\]|)}]*")
_MARKER = re.compile(r"<\|?\w*(begin|start|end|bos|eos)\w*\|?>", re.IGNORECASE)  # around an item's tokens
_ANGLES = re.compile(r"<[^<>]*>")
_BETWEEN = re.compile(r"[\s,'\"()\[\]]*")


class Published(NamedTuple):
    """What a file says."""

    rows: dict[str, int]  # the row of each key
    codes: ndarray  # int64 [P, L]


def read_published(path: Path) -> Published:
    """Every item's codes; refuses items of unequal lengths, tokens without a number, and one level with two kinds of tokens."""
    return _read_published(path, _signature(path))


@lru_cache(maxsize=4)
def _read_published(path: Path, _: Signature) -> Published:
    table = _json(path)
    if isinstance(table, list):
        raise InputError(
            f"{path} is a list of {len(table)} entries without keys: which item an entry belongs to can't be known from its place; "
            'make it an object, {"item id": [codes], ...}'
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
        if not found or len(found) != len(prefixes):
            raise InputError(f"{path}: item {key!r} has {len(found)} codes, item {first_key!r} has {len(prefixes)}: {str(value)[:80]}")
        for level, (kind, expected) in enumerate(zip(kinds, prefixes, strict=True), start=1):
            if kind != expected:
                raise InputError(
                    f"{path}: the token of item {key!r} on level {level} begins with {kind!r}, that of item {first_key!r} with "
                    f"{expected!r}; both would get the same codes: {str(value)[:80]}"
                )
        codes.append([code for _, code in found])
    return Published({key: row for row, key in enumerate(table)}, np.array(codes, dtype=np.int64))


def read_ids(path: Path, columns: tuple[int, int]) -> dict[str, str]:
    """From the catalog's item id to the file's key: a JSON object, or a table of tabs (if its first line has one) or commas.

    A header needs no word: no item is called like it. `columns` counts from 0; of an object, 0 is the key and 1 the value.
    """
    content = _unpacked(path)
    if content.lstrip()[:1] == b"{":
        rows = [(str(key), str(value)) for key, value in _json(path).items()]
    else:
        lines = _text(path, content).splitlines()
        delimiter = "\t" if lines and "\t" in lines[0] else ","
        rows = [tuple(row) for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter) if row]  # type: ignore[misc]
    table: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        if len(row) <= max(columns):
            raise InputError(f"{path}, row {number}: columns {columns} are asked for (counted from 0), the row has {len(row)}: {row}")
        item, key = (row[column].strip() for column in columns)
        if table.setdefault(item, key) != key:
            raise InputError(f"{path}, row {number}: item {item!r} has the keys {table[item]!r} and {key!r}")
    return table


def content_hash(*paths: Path) -> str:
    """A hash of what the files hold, wherever they lie and whether they are packed."""
    return hashlib.sha256("\n".join(hashlib.sha256(_unpacked(path)).hexdigest() for path in paths).encode()).hexdigest()


def _tokens(path: Path, key: str, value: Any) -> list[Any]:
    """An item's tokens or numbers, one a level."""
    if isinstance(value, str):
        if "<" in value:
            if _BETWEEN.fullmatch(rest := _ANGLES.sub("", value)) is None:
                raise InputError(f"{path}: item {key!r} has the codes {value[:80]!r}, of which {rest[:80]!r} is no token <...>")
            value = _ANGLES.findall(value)
        else:
            value = [part for part in re.split(r"[\s,]+", value.strip().strip("()[]")) if part]
            if len(value) == 1 and re.fullmatch(r"\d+(-\d+)+", value[0]):
                value = value[0].split("-")
    if not isinstance(value, list):
        raise InputError(f"{path}: item {key!r} must have a list of codes, or text, got {str(value)[:80]!r}")
    return [token for token in value if not (isinstance(token, str) and _MARKER.fullmatch(token))]


def _code(path: Path, key: str, token: Any) -> tuple[str, int]:
    """What stands before a token's number, and the number."""
    if isinstance(token, int) and not isinstance(token, bool) and 0 <= token < LARGEST:
        return "", token
    found = _TOKEN.fullmatch(token.strip().strip("'\"")) if isinstance(token, str) else None
    if found is None or found["prefix"][-1:] in ("-", ".", "+") or int(found["code"]) >= LARGEST:
        raise InputError(
            f"{path}: item {key!r} has the token {token!r}; expected a whole number from 0, or text that ends in one, like '<a_60>'"
        )
    return found["prefix"], int(found["code"])


def _json(path: Path) -> Any:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise InputError(f"{path} has the key {twice!r} twice")
        return table

    try:
        return json.loads(_text(path, _unpacked(path)), object_pairs_hook=distinct)
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from error


def _text(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}") from error


def _unpacked(path: Path) -> bytes:
    _signature(path)
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged: it can't be unpacked ({type(error).__name__}: {error}); fetch it again") from error


def _signature(path: Path) -> Signature:
    if not path.is_file():
        raise InputError(f"there is no file {path}; expected published Semantic IDs, or the table of their ids")
    return signature_of(path)
