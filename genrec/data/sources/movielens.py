"""Stage 1, MovieLens as GroupLens publishes it: a zip archive, or the folder it unpacks to.

In: `u.data`, `u.item`, `u.genre` (100K), `ratings.dat`, `movies.dat` (1M, 10M; 10M also `tags.dat`) or `ratings.csv`, `movies.csv`,
`tags.csv` (20M and later), found by name at any depth. Out: `RawStream` or `RawTables` with ratings; items have title, year, genres
and, where they are published, tags. F. M. Harper, J. A. Konstan, "The MovieLens Datasets" (2015). GroupLens forbids to redistribute
them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Literal, NamedTuple, get_args

import pyarrow as pa

from genrec.data.download import Archive
from genrec.data.readers import event_tables, line_rows
from genrec.data.readers.bad_rows import BadRows, check_tolerated, table
from genrec.data.readers.item_text import clean, sentences
from genrec.data.readers.line_rows import Row
from genrec.data.readers.raw_tables import Entry, catalog
from genrec.data.readers.upstream_files import UPSTREAM, UpstreamFile, find, fingerprint, lines_of, obtain
from genrec.errors import InputError, UsageError
from genrec.types import RawStream, RawTables

Variant = Literal["100k", "1m", "10m", "20m", "25m", "32m", "latest-small", "latest"]
ADDRESS = "https://files.grouplens.org/datasets/movielens/"
COLUMNS = ("title", "year", "genres")  # of every item, besides item, text and tags
NO_GENRES = "(no genres listed)"
CSV_COLUMNS = {"user": "userId", "item": "movieId", "time": "timestamp", "rating": "rating"}
MOVIE = ("movieId", "title", "genres")
TAG = ("userId", "movieId", "tag", "timestamp")
_YEAR = re.compile(r"\((\d{4})\)\s*$")
_PUBLISHED = {  # bytes, and the MD5 in ml-VARIANT.zip.md5; the sets that are called latest change
    "100k": (4_924_029, "md5:0e33842e24a9c977be4e0107933c0723"),
    "1m": (5_917_549, "md5:c4d9eecfca2ab87c1945afe126590906"),
    "10m": (65_566_137, "md5:ce571fd55effeba0271552578f2648bd"),
    "20m": (198_702_078, "md5:cd245b17a1ae2cc31bb14903e1204af3"),
    "25m": (261_978_986, "md5:6b51fb2759a8657d3bfcbfc42b592ada"),
    "32m": (238_950_008, "md5:d472be332d4daa821edc399621853b57"),
}


class _Layout(NamedTuple):
    """How a variant is laid out."""

    ratings: str  # file: user, item, rating, time
    movies: str  # file: id, title, ...
    genres: str | None = None  # file with the genres' names, where movies hold flags
    tags: str | None = None  # file: user, item, tag, time
    separator: str = ","  # of ratings; "," stands for CSV with a header
    encoding: str = "utf-8"
    folder: str = ""  # what the archive unpacks to, where its name is another


_CSV = _Layout("ratings.csv", "movies.csv", tags="tags.csv")
_LAYOUTS = {
    "100k": _Layout("u.data", "u.item", genres="u.genre", separator="\t", encoding="latin-1"),
    "1m": _Layout("ratings.dat", "movies.dat", separator="::", encoding="latin-1"),
    "10m": _Layout("ratings.dat", "movies.dat", tags="tags.dat", separator="::", folder="ml-10M100K"),
}


@dataclass(frozen=True)
class MovieLens:
    """MovieLens with all its ratings; movies that nobody rated are listed as well."""

    variant: Variant = "100k"  # which of the published sets
    path: Path | None = None  # the upstream zip archive, or its unpacked folder; None: ml-VARIANT.zip among the fetched files
    max_bad_rows: float = 0.01  # share of a file's rows that may be malformed, 0 to 1
    num_tags: int = 10  # most frequent tags of a movie in its text, where tags are published; 0: none

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise UsageError(f"variant must be one of {', '.join(get_args(Variant))}, got {self.variant!r}")
        if self.num_tags < 0:
            raise UsageError(f"tags is a number of tags, 0 or more, got {self.num_tags}")
        check_tolerated(self.max_bad_rows)

    def stream(self, root: Path) -> RawStream:
        """Ratings and movies in pieces."""
        files = self._files(root)
        ledgers = {role: BadRows(file.name) for role, file in files.items() if role != "genres"}
        ratings = event_tables.log(_ratings(files["ratings"], self._layout, ledgers["ratings"]), ledgers["ratings"], self.max_bad_rows)
        return RawStream(ratings, self._items(files, ledgers), lambda: table(ledgers.values()))

    def load(self, root: Path) -> RawTables:
        """Read the archive."""
        return event_tables.gather(self.stream(root))

    def fingerprint(self, root: Path) -> str:
        """A hash of the variant and of the files' content."""
        return fingerprint(f"MovieLens {self.variant}", tuple(self._files(root).values()))

    @property
    def _layout(self) -> _Layout:
        return _LAYOUTS.get(self.variant, _CSV)

    def _files(self, root: Path) -> dict[str, UpstreamFile]:
        """The files by their role in the layout."""
        place = Path(self.path) if self.path is not None else self._fetched(root)
        layout = self._layout
        names = {
            "ratings": layout.ratings,
            "movies": layout.movies,
            "genres": layout.genres,
            "num_tags": layout.tags if self.num_tags else None,
        }
        advice = {"num_tags": "--source.num_tags 0 reads none"}
        return {role: find(place, name, advice=advice.get(role, UPSTREAM)) for role, name in names.items() if name is not None}

    def _fetched(self, root: Path) -> Path:
        name = f"ml-{self.variant}"
        size, checksum = _PUBLISHED.get(self.variant, (None, None))
        return obtain(Archive(f"{name}.zip", (f"{ADDRESS}{name}.zip",), size, checksum), root, self._layout.folder or name)

    def _items(self, files: Mapping[str, UpstreamFile], ledgers: Mapping[str, BadRows]) -> Iterator[pa.Table]:
        movies, layout = ledgers["movies"], self._layout
        if "genres" in files:
            entries = _flagged(files["movies"], files["genres"], movies)
        elif "num_tags" not in files:
            entries = _listed(_fields(files["movies"], layout, MOVIE, MOVIE, movies), None)
        else:
            tags = _frequent(_fields(files["num_tags"], layout, TAG, ("movieId", "tag"), ledgers["num_tags"]), self.num_tags)
            entries = _listed(_fields(files["movies"], layout, MOVIE, MOVIE, movies), tags)
        columns = ("text", *COLUMNS, *(["num_tags"] if "num_tags" in files else []))
        yield from catalog(entries, columns, movies, self.max_bad_rows)
        if "num_tags" in files and (tags.rows or ledgers["num_tags"].counts):  # a set may have no tags at all
            ledgers["num_tags"].check(tags.rows, self.max_bad_rows)


def _ratings(file: UpstreamFile, layout: _Layout, ledger: BadRows) -> Iterator[pa.Table]:
    if layout.separator == ",":
        return event_tables.read_headed(file, ",", CSV_COLUMNS, ledger)
    form = event_tables.delimited(layout.separator, ("user", "item", "rating", "time"), layout.encoding)
    return event_tables.read(file.blocks(ledger), form, ledger)


def _fields(file: UpstreamFile, layout: _Layout, columns: Sequence[str], wanted: Sequence[str], ledger: BadRows) -> Iterator[Row]:
    """The wanted columns of movies or tags; `columns` is their order where there is no header."""
    if layout.separator == ",":
        columns, blocks = line_rows.header(file.blocks(ledger), ",", ledger)
        event_tables.require(columns, wanted, ledger.file)
        content = line_rows.separated(lines_of(blocks, ledger), ",", len(columns), ledger)
    else:
        content = line_rows.delimited(file.lines(ledger), layout.separator, len(columns), ledger, layout.encoding)
    places = [columns.index(name) for name in wanted]
    for line, fields in content:
        yield line, [fields[place] for place in places]


def _flagged(movies: UpstreamFile, genres: UpstreamFile, ledger: BadRows) -> Iterator[Entry]:
    """100K: id|title|release date|video date|address|one flag a genre."""
    flags = BadRows(genres.name)
    names = [str(fields[0]) for _, fields in line_rows.delimited(genres.lines(flags), "|", 2, flags, "latin-1")]
    if flags.rows or not names:
        raise InputError(f"{genres.name}: expected lines GENRE|NUMBER, but {len(flags.rows)} lines are something else")
    for line, fields in line_rows.delimited(movies.lines(ledger), "|", 5 + len(names), ledger, "latin-1"):
        item, title, released, _, _, *marks = map(str, fields)
        if set(marks) <= {"0", "1"}:
            yield line, item, _described(title, released[-4:], [name for name, mark in zip(names, marks, strict=True) if mark == "1"])
        else:
            ledger.malformed(line, "a genre's flag is neither 0 nor 1")


class _Tags(NamedTuple):
    """The most frequent tags of movies."""

    of: dict[str, list[str]]  # by movie, most frequent first
    rows: int  # that were read


def _frequent(rows_of_tags: Iterator[Row], most: int) -> _Tags:
    """Rows of (movie, tag) -> tags in small letters; of equally frequent ones the first comes first."""
    counts: dict[str, Counter[str]] = {}
    count = 0
    for _, (movie, tag) in rows_of_tags:
        count += 1
        if text := clean(str(tag)).lower():
            counts.setdefault(str(movie), Counter())[intern(text)] += 1
    return _Tags({movie: [tag for tag, _ in tags.most_common(most)] for movie, tags in counts.items()}, count)


def _listed(movies: Iterator[Row], tags: _Tags | None) -> Iterator[Entry]:
    """Since 1M: id, title, genre|genre."""
    for line, (item, title, genres) in movies:
        named = [] if genres == NO_GENRES else str(genres).split("|")
        yield line, item, _described(str(title), "", named, None if tags is None else tags.of.get(str(item), []))


def _described(title: str, released: str, genres: Sequence[str], tags: Sequence[str] | None = None) -> dict[str, str]:
    """The fields of a movie; its year is the one in the title, "Toy Story (1995)", else that of the release."""
    title = clean(title)
    named = _YEAR.search(title)
    year = named[1] if named else released if released.isdecimal() else ""
    shown = title if named or not year else f"{title} ({year})"
    text = sentences(("", shown), ("", ", ".join(genres)), ("tags", ", ".join(tags or [])))
    fields = {"text": text, "title": title, "year": year, "genres": "|".join(genres)}
    return fields if tags is None else {**fields, "tags": "|".join(tags)}
