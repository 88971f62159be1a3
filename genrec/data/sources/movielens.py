"""MovieLens as published by GroupLens: a zip archive, or the folder with its unpacked files.

The files are `u.data`, `u.item`, `u.genre` (100K), `ratings.dat`, `movies.dat` (1M, 10M; 10M also `tags.dat`) or `ratings.csv`,
`movies.csv`, `tags.csv` (20M and later). They are found by name at any depth. Interactions have ratings; items have title, year,
genres and, where they are published, tags. GroupLens does not allow redistribution.

F. M. Harper, J. A. Konstan, "The MovieLens Datasets" (2015).
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
from genrec.data.readers.bad_rows import BadRows, check_max_bad_rows, set_aside_table
from genrec.data.readers.item_text import clean, sentences
from genrec.data.readers.line_rows import Row
from genrec.data.readers.raw_tables import ItemRow, item_tables_from_rows
from genrec.data.readers.upstream_files import (
    ARCHIVE_ADVICE,
    UpstreamFile,
    find_file,
    fingerprint_of,
    lines_of,
    locate_or_download,
)
from genrec.errors import InputError, UsageError
from genrec.input_files import normalize_paths
from genrec.types import RawStream, RawTables

Variant = Literal["100k", "1m", "10m", "20m", "25m", "32m", "latest-small", "latest"]
BASE_URL = "https://files.grouplens.org/datasets/movielens/"
ITEM_COLUMNS = ("title", "year", "genres")  # besides item, text and tags
NO_GENRES = "(no genres listed)"
RATING_COLUMNS = {"user": "userId", "item": "movieId", "time": "timestamp", "rating": "rating"}
MOVIE_COLUMNS = ("movieId", "title", "genres")
TAG_COLUMNS = ("userId", "movieId", "tag", "timestamp")
_YEAR = re.compile(r"\((\d{4})\)\s*$")
_PUBLISHED = {  # size in bytes, and checksum from ml-VARIANT.zip.md5; the "latest" variants change over time
    "100k": (4_924_029, "md5:0e33842e24a9c977be4e0107933c0723"),
    "1m": (5_917_549, "md5:c4d9eecfca2ab87c1945afe126590906"),
    "10m": (65_566_137, "md5:ce571fd55effeba0271552578f2648bd"),
    "20m": (198_702_078, "md5:cd245b17a1ae2cc31bb14903e1204af3"),
    "25m": (261_978_986, "md5:6b51fb2759a8657d3bfcbfc42b592ada"),
    "32m": (238_950_008, "md5:d472be332d4daa821edc399621853b57"),
}


class _Layout(NamedTuple):
    """Files and format of a variant."""

    ratings: str  # file with user, item, rating, time
    movies: str  # file with id, title, ...
    genres: str | None = None  # file with the names of genres, if the movies' file has one flag per genre
    tags: str | None = None  # file with user, item, tag, time
    separator: str = ","  # "," means CSV with a header
    encoding: str = "utf-8"
    folder: str = ""  # folder inside the archive, if it is not ml-VARIANT


_CSV = _Layout("ratings.csv", "movies.csv", tags="tags.csv")
_LAYOUTS = {
    "100k": _Layout("u.data", "u.item", genres="u.genre", separator="\t", encoding="latin-1"),
    "1m": _Layout("ratings.dat", "movies.dat", separator="::", encoding="latin-1"),
    "10m": _Layout("ratings.dat", "movies.dat", tags="tags.dat", separator="::", folder="ml-10M100K"),
}


@dataclass(frozen=True)
class MovieLens:
    """All ratings of a MovieLens data set, and all its movies, also those without ratings."""

    variant: Variant = "100k"  # published data set
    path: Path | str | None = None  # upstream zip archive or its unpacked folder; None: ml-VARIANT.zip is downloaded
    max_bad_rows: float = 0.01  # largest share of malformed rows of a file, 0 to 1
    num_tags: int = 10  # tags in a movie's text, most frequent first, if the variant has tags; 0: none

    def __post_init__(self) -> None:
        normalize_paths(self, "path")
        if self.variant not in get_args(Variant):
            raise UsageError(f"variant must be one of {', '.join(get_args(Variant))}, got {self.variant!r}")
        if self.num_tags < 0:
            raise UsageError(f"num_tags must be 0 or more, got {self.num_tags}")
        check_max_bad_rows(self.max_bad_rows)

    def stream(self, root: Path) -> RawStream:
        """Return ratings and movies as streams of tables."""
        files = self._files(root)
        bad_rows = {role: BadRows(file.name) for role, file in files.items() if role != "genres"}
        events = _read_ratings(files["ratings"], self._layout, bad_rows["ratings"])
        interactions = event_tables.merge_event_tables(events, bad_rows["ratings"], self.max_bad_rows)
        return RawStream(interactions, self._items(files, bad_rows), lambda: set_aside_table(bad_rows.values()))

    def load(self, root: Path) -> RawTables:
        """Read ratings and movies into memory."""
        return event_tables.load_stream(self.stream(root))

    def fingerprint(self, root: Path) -> str:
        """Return a hash of the variant and the content of the files."""
        return fingerprint_of(f"MovieLens {self.variant}", tuple(self._files(root).values()))

    @property
    def _layout(self) -> _Layout:
        return _LAYOUTS.get(self.variant, _CSV)

    def _files(self, root: Path) -> dict[str, UpstreamFile]:
        """Return the files by their role in the layout."""
        path = Path(self.path) if self.path is not None else self._downloaded(root)
        layout = self._layout
        names = {
            "ratings": layout.ratings,
            "movies": layout.movies,
            "genres": layout.genres,
            "tags": layout.tags if self.num_tags else None,
        }
        advice = {"tags": "--source.num-tags 0 reads no tags"}
        return {
            role: find_file(path, name, advice=advice.get(role, ARCHIVE_ADVICE)) for role, name in names.items() if name is not None
        }

    def _downloaded(self, root: Path) -> Path:
        name = f"ml-{self.variant}"
        size, checksum = _PUBLISHED.get(self.variant, (None, None))
        archive = Archive(f"{name}.zip", (f"{BASE_URL}{name}.zip",), size, checksum)
        return locate_or_download(archive, root, self._layout.folder or name)

    def _items(self, files: Mapping[str, UpstreamFile], bad_rows: Mapping[str, BadRows]) -> Iterator[pa.Table]:
        movies, layout, tags = bad_rows["movies"], self._layout, None
        if "genres" in files:
            rows = _movies_100k(files["movies"], files["genres"], movies)
        else:
            if "tags" in files:
                tag_rows = _read_columns(files["tags"], layout, TAG_COLUMNS, ("movieId", "tag"), bad_rows["tags"])
                tags = _count_tags(tag_rows, self.num_tags)
            rows = _movies(_read_columns(files["movies"], layout, MOVIE_COLUMNS, MOVIE_COLUMNS, movies), tags)
        columns = ("text", *ITEM_COLUMNS, *([] if tags is None else ["tags"]))
        yield from item_tables_from_rows(rows, columns, movies, self.max_bad_rows)
        if tags is not None and (tags.num_rows or bad_rows["tags"].counts):  # a data set may have no tags at all
            bad_rows["tags"].check(tags.num_rows, self.max_bad_rows)


def _read_ratings(file: UpstreamFile, layout: _Layout, bad_rows: BadRows) -> Iterator[pa.Table]:
    if layout.separator == ",":
        return event_tables.read_csv_events(file, ",", RATING_COLUMNS, bad_rows)
    form = event_tables.delimited_format(layout.separator, ("user", "item", "rating", "time"), layout.encoding)
    return event_tables.read_events(file.blocks(bad_rows), form, bad_rows)


def _read_columns(
    file: UpstreamFile, layout: _Layout, columns: Sequence[str], selected: Sequence[str], bad_rows: BadRows
) -> Iterator[Row]:
    """Yield the selected columns of movies or tags; `columns` is the order of all columns in a file without a header."""
    if layout.separator == ",":
        columns, blocks = line_rows.read_csv_header(file.blocks(bad_rows), ",", bad_rows)
        event_tables.check_columns(columns, selected, bad_rows.file)
        rows = line_rows.parse_csv(lines_of(blocks, bad_rows), ",", len(columns), bad_rows)
    else:
        rows = line_rows.parse_delimited(file.lines(bad_rows), layout.separator, len(columns), bad_rows, layout.encoding)
    places = [columns.index(name) for name in selected]
    for line, fields in rows:
        yield line, [fields[place] for place in places]


def _movies_100k(movies: UpstreamFile, genres: UpstreamFile, bad_rows: BadRows) -> Iterator[ItemRow]:
    """Yield the movies of 100K: id|title|release date|video date|URL|one flag per genre."""
    bad_genres = BadRows(genres.name)
    names = [str(fields[0]) for _, fields in line_rows.parse_delimited(genres.lines(bad_genres), "|", 2, bad_genres, "latin-1")]
    if bad_genres.rows or not names:
        raise InputError(f"{genres.name}: expected lines GENRE|NUMBER, got {len(bad_genres.rows)} other lines and {len(names)} genres")
    for line, fields in line_rows.parse_delimited(movies.lines(bad_rows), "|", 5 + len(names), bad_rows, "latin-1"):
        item, title, release_date, _, _, *flags = map(str, fields)
        if set(flags) <= {"0", "1"}:
            own_genres = [name for name, flag in zip(names, flags, strict=True) if flag == "1"]
            yield line, item, _item_fields(title, release_date[-4:], own_genres)
        else:
            bad_rows.malformed(line, "a genre flag is neither 0 nor 1")


class _Tags(NamedTuple):
    """The most frequent tags of each movie."""

    by_movie: dict[str, list[str]]  # movie id -> tags, most frequent first
    num_rows: int  # well-formed rows in the file


def _count_tags(rows: Iterator[Row], num_tags: int) -> _Tags:
    """Count rows of (movie, tag) in lower case. Equally frequent tags stay in the order of the file."""
    counts: dict[str, Counter[str]] = {}
    num_rows = 0
    for _, (movie, tag) in rows:
        num_rows += 1
        if text := clean(str(tag)).lower():
            counts.setdefault(str(movie), Counter())[intern(text)] += 1
    return _Tags({movie: [tag for tag, _ in tags.most_common(num_tags)] for movie, tags in counts.items()}, num_rows)


def _movies(rows: Iterator[Row], tags: _Tags | None) -> Iterator[ItemRow]:
    """Yield the movies of the variants since 1M: id, title, genre|genre."""
    for line, (item, title, genres) in rows:
        genre_names = [] if genres == NO_GENRES else str(genres).split("|")
        yield line, item, _item_fields(str(title), "", genre_names, None if tags is None else tags.by_movie.get(str(item), []))


def _item_fields(title: str, release_year: str, genres: Sequence[str], tags: Sequence[str] | None = None) -> dict[str, str]:
    """Return the text columns of a movie. The year is the one in the title, "Toy Story (1995)", else the release year."""
    title = clean(title)
    match = _YEAR.search(title)
    year = match[1] if match else release_year if release_year.isdecimal() else ""
    dated_title = title if match or not year else f"{title} ({year})"
    text = sentences(("", dated_title), ("", ", ".join(genres)), ("tags", ", ".join(tags or [])))
    fields = {"text": text, "title": title, "year": year, "genres": "|".join(genres)}
    return fields if tags is None else {**fields, "tags": "|".join(tags)}
