"""Clean the texts of items: HTML entities and tags, control characters and nested lists become one line of text.

A missing text is ""; the corpus counts such items and gives them a placeholder.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator

from genrec.errors import counted
from genrec.progress import say

MAX_CHARACTERS = 20_000  # of one field; more than any item encoder reads, and a bound on the work for hostile input

_CODE = re.compile(r"<(script|style)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_ELEMENTS = (  # of HTML; anything else between < and > is text, such as "Size <M" or "<Gold>"
    "a abbr address article aside audio b big blockquote body br button center cite code col dd del div dl dt em "
    "embed figure font footer form frame h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins label legend "
    "li link main map meta nav noscript object ol option p param pre q s script section select small source span "
    "strike strong style sub sup table tbody td textarea tfoot th thead title tr tt u ul video wbr"
)
_TAG = re.compile(rf"</?(?:{'|'.join(_ELEMENTS.split())})(?:\s[^<>]*)?/?>|<!doctype[^<>]*>", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PAGE_CODE = re.compile(
    r"\bvar \w+ ?=|\bfunction ?\w*\([\w$, ]*\) ?\{|\.getTime\(|[.#][\w.#-]+ ?\{[^{}]*:[^{}]*\}"
)  # patterns of scripts and style sheets
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # valid in JSON, not in UTF-8


def clean(text: str) -> str:
    """Resolve entities, remove tags and control characters, and collapse white space. Cleaning twice changes nothing."""
    text = text[:MAX_CHARACTERS]
    while True:
        cleaned = _clean_once(text)
        if cleaned == text:
            return cleaned
        text = cleaned


def _clean_once(text: str) -> str:
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        for pattern in (_CODE, _COMMENT, _TAG):
            text = pattern.sub(" ", text)
    text = _SURROGATE.sub("\ufffd", _CONTROL.sub(" ", text))
    return " ".join(text.split())


def text_parts(value: object) -> list[str]:
    """Return the distinct clean texts in a field, in order: of a text, a number, or nested lists of them."""
    return list(dict.fromkeys(text for text in map(clean, _leaves(value)) if text))


def _leaves(value: object) -> Iterator[str]:
    remaining = [value]  # a stack instead of recursion, since hostile JSON is nested deeply
    while remaining:
        entry = remaining.pop()
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, bool | int):
            yield str(entry)
        elif isinstance(entry, float):
            if math.isfinite(entry):
                yield f"{entry:.10g}"
        elif isinstance(entry, list | tuple):
            remaining.extend(reversed(entry))


def flat_text(value: object, separator: str = " ") -> str:
    """Return a field as one text: its `text_parts`, joined."""
    return separator.join(text_parts(value))


class LostTitles:
    """A count of the titles of one file that are not empty and have no text: tags, entities of white space or control characters."""

    def __init__(self, file: str) -> None:
        self.file, self.number, self.first = file, 0, 0

    def count(self, line: int, value: object, title: str) -> None:
        """Count a title, given as it is in the file and as it was cleaned."""
        if not title and any(text.strip() for text in _leaves(value)):
            self.number += 1
            self.first = self.first or line

    def report(self) -> None:
        """Print the number of these titles, if there are any."""
        if self.number:
            hold, items = ("holds", "its item has") if self.number == 1 else ("hold", "their items have")
            titles = f"{counted(self.number, 'title')} of {self.file} {hold} nothing but markup (first in line {self.first})"
            say(f"warning: {titles}, so {items} no title")


def sentences(*fields: tuple[str, str]) -> str:
    """Join named texts, leaving out empty ones: ("", "Toy Story"), ("genres", "Comedy") -> "Toy Story. genres: Comedy"."""
    return ". ".join(f"{name}: {text}" if name else text.rstrip(". ") for name, text in fields if text)


def is_page_code(text: str) -> bool:
    """Return whether a text is a script or a style sheet, which the data set's scraper stored as a title or price."""
    return _PAGE_CODE.search(text) is not None
