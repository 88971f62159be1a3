"""Damaged files from outside end in a `GenrecError`, never in a traceback: random damage, and the kept inputs in `tests/corpus`.

`tests/corpus/PARSER/NAME` replaces the target file of a parser in `outside_files.PARSERS`. When the fuzz test fails, it prints the
damaged bytes; add them there with a name that says what is damaged.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outside_files import PARSERS, Parser

from genrec import store
from genrec.errors import GenrecError

CORPUS = Path(__file__).parent / "corpus"
_numbers = itertools.count()
PIECES = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"\n", b"\r\n", b",", b"\t", b"{", b"[", b"}", b"<", b"nan", b"-1", b"1e999", b"null",
    b"9" * 30, b"9" * 5_000, b"[" * 3_000, b'{"a":' * 3_000, b"x" * 140_000, b'"' + b"\n" * 50, b"\xc3", b"\xed\xa0\x80", b"\\ud800",
    b"2019-03-01", b"NaN", b"Infinity", b"True", b"\\u0000", b"--", b"0x10", b"\x1f\x8b\x08", b"PAR1", b"\x93NUMPY", b"PK\x03\x04",
)  # fmt: skip
Damage = Callable[[bytes], bytes]


def _at(content: bytes, share: float) -> int:
    return min(len(content), int(share * (len(content) + 1)))


def flip(share: float, mask: int) -> Damage:
    def damage(content: bytes) -> bytes:
        place = _at(content, share)
        return content[:place] + bytes(byte ^ mask for byte in content[place : place + 1]) + content[place + 1 :]

    return damage


def cut(first: float, second: float) -> Damage:
    return lambda content: content[: _at(content, min(first, second))] + content[_at(content, max(first, second)) :]


def insert(share: float, piece: bytes) -> Damage:
    return lambda content: content[: _at(content, share)] + piece + content[_at(content, share) :]


def replace_digits(share: float, piece: bytes) -> Damage:
    """Return a damage that replaces one number in the file."""

    def damage(content: bytes) -> bytes:
        found = list(re.finditer(rb"\d+", content))
        if not found:
            return content
        match = found[min(len(found) - 1, int(share * len(found)))]
        return content[: match.start()] + piece + content[match.end() :]

    return damage


SHARES = st.floats(0, 1)
DAMAGES = st.one_of(
    st.builds(flip, SHARES, st.integers(1, 255)),
    st.builds(cut, SHARES, SHARES),
    st.builds(insert, SHARES, st.one_of(st.sampled_from(PIECES), st.binary(min_size=1, max_size=8))),
    st.builds(replace_digits, SHARES, st.sampled_from(PIECES)),
)


def damaged(content: bytes, damages: list[Damage], target: str) -> bytes:
    """Return the damaged content; half of the gzip files are damaged inside, so that the parser behind them is reached."""
    inside = target.endswith(".gz") and len(damages) % 2 == 0
    if inside:
        content = gzip.decompress(content)
    for damage in damages:
        content = damage(content)
    return gzip.compress(content, mtime=0) if inside else content


def check(folder: Path, parser: Parser, change: Callable[[bytes], bytes]) -> GenrecError | None:
    """Read files of which one is damaged. Return the error, if there is one; any other error fails the test."""
    folder = folder / str(next(_numbers))  # each file has a name of its own, since parsers keep what they have read
    folder.mkdir()
    parser.write(folder)
    target = folder / parser.target
    target.write_bytes(change(target.read_bytes()))
    with patch.object(store, "_TICK", 0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parser.read(folder)
        except GenrecError as error:
            return error
    return None


def fuzz(folder: Path, name: str, examples: int, repeatable: bool) -> None:
    parser = PARSERS[name]

    @settings(
        max_examples=examples,
        database=None,
        derandomize=repeatable,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        print_blob=not repeatable,
    )
    @given(damages=st.lists(DAMAGES, min_size=1, max_size=4))
    def run(damages: list[Damage]) -> None:
        content = b""

        def change(valid: bytes) -> bytes:
            nonlocal content
            content = damaged(valid, damages, parser.target)
            return content

        try:
            check(folder, parser, change)
        except Exception:
            print(f"{name}: {content[:2_000]!r}")
            raise

    run()


@pytest.mark.parametrize("name", PARSERS)
def test_valid_files_are_read(tmp_path: Path, name: str) -> None:
    error = check(tmp_path, PARSERS[name], lambda content: content)
    assert error is None


@pytest.mark.parametrize("name", PARSERS)
def test_random_damage_is_an_error_of_genrec(tmp_path: Path, name: str) -> None:
    fuzz(tmp_path, name, 20, repeatable=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_much_random_damage_is_an_error_of_genrec(tmp_path: Path, name: str) -> None:
    fuzz(tmp_path, name, 300, repeatable=False)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_kept_inputs_are_an_error_of_genrec(tmp_path: Path, path: Path) -> None:
    with contextlib.suppress(GenrecError):
        check(tmp_path, PARSERS[path.parent.name], lambda content: path.read_bytes())
