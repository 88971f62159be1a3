"""Commands of genrec in messages, in a form that a shell reads as it is meant."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

TAKES_VALUE = {"--refresh": True, "--replace": False, "--seed": True, "--seeds": True}  # options that a repeated command may lack


def command_line(*words: object) -> str:
    """Return `genrec WORD ...` with quotes around a word that needs them, such as a path with spaces."""
    return shlex.join(["genrec", *map(str, words)])


def without_options(words: Sequence[str], options: Iterable[str]) -> list[str]:
    """Return the words of a command without some options of `TAKES_VALUE` and their values.

    An option may be given as `--seeds=5` or, as argparse allows, abbreviated to the first letters that no other option has.
    """
    kept, skips = [], False
    for word in words:
        flag, _, value = word.partition("=")
        named = next((each for each in options if len(flag) > 4 and each.startswith(flag)), None)
        if not skips and named is None:
            kept.append(word)
        skips = not skips and named is not None and TAKES_VALUE[named] and not value
    return kept
