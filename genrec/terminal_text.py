"""Text of others on the terminal, such as an error of a library or a title: without characters that a terminal would act on."""

from __future__ import annotations

from collections.abc import Iterable

LINES = "\n\t"  # what texts of several lines keep


def printable(text: str, keep: str = "") -> str:
    """Replace all non-printable characters (control characters, line feeds, escape sequences) but those of `keep` by spaces."""
    return "".join(character if character.isprintable() or character in keep else " " for character in text)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines to standard output."""
    for line in lines:
        print(printable(line, LINES))
