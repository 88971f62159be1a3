"""Stage 1, MovieLens 100K and 1M as GroupLens publishes them: a zip archive, or the folder it unpacks to.

In: `u.data`, `u.item`, `u.genre` (100K) or `ratings.dat`, `movies.dat` (1M), found by name at any depth. Out: `RawTables` with
ratings; items have title, year, genres. F. M. Harper, J. A. Konstan, "The MovieLens Datasets" (2015). GroupLens forbids to
redistribute them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from genrec.data.sources.files import UpstreamFile, find, fingerprint, locate
from genrec.data.sources.ledger import Ledger, check_tolerated, table
from genrec.data.sources.rows import delimited
from genrec.data.sources.tables import catalogue, events
from genrec.data.sources.text import clean, sentences
from genrec.errors import InputError, UsageError
from genrec.types import RawTables

Variant = Literal["100k", "1m"]
ADDRESS = "https://files.grouplens.org/datasets/movielens/"
COLUMNS = ("title", "year", "genres")  # of every item, besides item and text
_YEAR = re.compile(r"\((\d{4})\)\s*$")
Entry = tuple[int, object, Mapping[str, str]]  # line, id, fields


class _Layout(NamedTuple):
    """How a variant is laid out."""

    ratings: str  # file: user, item, rating, time
    movies: str  # file: id, title, ...
    genres: str | None  # file with the genres' names, where movies hold flags
    separator: str  # of ratings


_LAYOUTS = {
    "100k": _Layout("u.data", "u.item", "u.genre", "\t"),
    "1m": _Layout("ratings.dat", "movies.dat", None, "::"),
}


@dataclass(frozen=True)
class MovieLens:
    """MovieLens with all its ratings; movies that nobody rated are listed as well."""

    variant: Variant = "100k"  # which of the published sets
    path: Path | None = None  # the upstream zip archive, or its unpacked folder; None: ml-VARIANT.zip among the fetched files
    tolerated: float = 0.01  # share of a file's rows that may be malformed, 0 to 1

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise UsageError(f"variant must be one of {', '.join(get_args(Variant))}, got {self.variant!r}")
        check_tolerated(self.tolerated)

    def load(self, root: Path) -> RawTables:
        """Read the archive."""
        layout = _LAYOUTS[self.variant]
        files = self._files(root)
        ratings, movies = Ledger(files[0].name), Ledger(files[1].name)
        rows = (
            (line, (user, item, time, rating))
            for line, (user, item, rating, time) in delimited(files[0], layout.separator, 4, ratings)
        )
        interactions = events(rows, ("user", "item", "time", "rating"), ratings)
        ratings.check(len(interactions), self.tolerated)
        entries = _flagged(files[1], files[2], movies) if layout.genres else _listed(files[1], movies)
        items = catalogue(entries, ("text", *COLUMNS), movies)
        movies.check(len(items), self.tolerated)
        return RawTables(interactions, items, table((ratings, movies)))

    def fingerprint(self, root: Path) -> str:
        """A hash of the variant and of the files' content."""
        return fingerprint(f"MovieLens {self.variant}", self._files(root))

    def _files(self, root: Path) -> tuple[UpstreamFile, ...]:
        name = f"ml-{self.variant}"
        place = locate(self.path, root, (f"{name}.zip", name), f"{ADDRESS}{name}.zip")
        layout = _LAYOUTS[self.variant]
        return tuple(find(place, file) for file in (layout.ratings, layout.movies, layout.genres) if file is not None)


def _flagged(movies: UpstreamFile, genres: UpstreamFile, ledger: Ledger) -> Iterator[Entry]:
    """100K: id|title|release date|video date|address|one flag a genre."""
    flags = Ledger(genres.name)
    names = [str(fields[0]) for _, fields in delimited(genres, "|", 2, flags)]
    if flags.rows or not names:
        raise InputError(f"{genres.name}: expected lines GENRE|NUMBER, but {len(flags.rows)} lines are something else")
    for line, fields in delimited(movies, "|", 5 + len(names), ledger):
        item, title, released, _, _, *marks = map(str, fields)
        if set(marks) <= {"0", "1"}:
            yield line, item, _described(title, released[-4:], [name for name, mark in zip(names, marks, strict=True) if mark == "1"])
        else:
            ledger.malformed(line, "a genre's flag is neither 0 nor 1")


def _listed(movies: UpstreamFile, ledger: Ledger) -> Iterator[Entry]:
    """1M: id::title::genre|genre."""
    for line, (item, title, genres) in delimited(movies, "::", 3, ledger):
        yield line, item, _described(str(title), "", str(genres).split("|"))


def _described(title: str, released: str, genres: list[str]) -> dict[str, str]:
    """The fields of a movie; its year is the one in the title, "Toy Story (1995)", else that of the release."""
    title = clean(title)
    named = _YEAR.search(title)
    year = named[1] if named else released if released.isdecimal() else ""
    text = sentences(("", title if named or not year else f"{title} ({year})"), ("", ", ".join(genres)))
    return {"text": text, "title": title, "year": year, "genres": "|".join(genres)}
