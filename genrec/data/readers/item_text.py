"""Stage 1, items' text: what shops write (entities, tags, control characters, nested lists) -> one clean line.

In: a field of an upstream record. Out: str; "" where there is nothing, which `prepare` counts and replaces by a placeholder.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator

LIMIT = 20_000  # characters of one field; no item encoder reads as far, and it bounds the work on hostile input

_CODE = re.compile(r"<(script|style)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_ELEMENTS = (  # of HTML; what else stands between < and > is text, such as "Size <M" or "<Gold>"
    "a abbr address article aside audio b big blockquote body br button center cite code col dd del div dl dt em "
    "embed figure font footer form frame h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins label legend "
    "li link main map meta nav noscript object ol option p param pre q s script section select small source span "
    "strike strong style sub sup table tbody td textarea tfoot th thead title tr tt u ul video wbr"
)
_TAG = re.compile(rf"</?(?:{'|'.join(_ELEMENTS.split())})(?:\s[^<>]*)?/?>|<!doctype[^<>]*>", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SCRAPED = re.compile(
    r"\bvar \w+ ?=|\bfunction ?\w*\([\w$, ]*\) ?\{|\.getTime\(|[.#][\w.#-]+ ?\{[^{}]*:[^{}]*\}"
)  # what a page's scripts and styles look like
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # JSON can hold them, UTF-8 can not


def clean(text: str) -> str:
    """Entities resolved, tags and control characters removed, white space single; cleaning twice changes nothing."""
    text = text[:LIMIT]
    while True:
        cleaned = _once(text)
        if cleaned == text:
            return cleaned
        text = cleaned


def _once(text: str) -> str:
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        for pattern in (_CODE, _COMMENT, _TAG):
            text = pattern.sub(" ", text)
    text = _SURROGATE.sub("\ufffd", _CONTROL.sub(" ", text))
    return " ".join(text.split())


def parts(value: object) -> list[str]:
    """The distinct clean texts in a field: a text, a number, or lists of them nested in any way; in order."""
    return list(dict.fromkeys(text for text in map(clean, _leaves(value)) if text))


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, bool | int):
        yield str(value)
    elif isinstance(value, float):
        if math.isfinite(value):
            yield f"{value:.10g}"
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _leaves(entry)


def flat(value: object, separator: str = " ") -> str:
    """A field as one text: `parts`, joined."""
    return separator.join(parts(value))


def sentences(*fields: tuple[str, str]) -> str:
    """Named texts as one: ("", "Toy Story"), ("genres", "Comedy") -> "Toy Story. genres: Comedy"; empty ones are left out."""
    return ". ".join(f"{name}: {text}" if name else text.rstrip(". ") for name, text in fields if text)


def is_scraped(text: str) -> bool:
    """Whether a text is a script or a style sheet, which a scraper took for a title or a price."""
    return _SCRAPED.search(text) is not None
