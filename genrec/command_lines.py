"""Commands of genrec in messages, in a form that a shell reads as it is meant."""

from __future__ import annotations

import shlex


def command_line(*words: object) -> str:
    """Return `genrec WORD ...` with quotes around a word that needs them, such as a path with spaces."""
    return shlex.join(["genrec", *map(str, words)])
