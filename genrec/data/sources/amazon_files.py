"""Files of the Amazon review data: what the editions of 2014, 2018 and 2023 have in common.

An `Edition` lists the published files and their formats; `CategoryFiles` reads one category of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

import pyarrow as pa

from genrec.data.download import Archive
from genrec.data.readers import event_tables
from genrec.data.readers.bad_rows import BadRows, check_max_bad_rows, set_aside_table
from genrec.data.readers.line_rows import parse_json_lines
from genrec.data.readers.raw_tables import item_table, item_tables_from_rows
from genrec.data.readers.upstream_files import UpstreamFile, find_file, fingerprint_of, locate_or_download
from genrec.errors import InputError, UsageError
from genrec.types import RawStream

REVIEW_TYPES = {"user": pa.string(), "item": pa.string(), "time": pa.int64(), "rating": pa.float64()}
EventReader = Callable[[UpstreamFile, BadRows], Iterator[pa.Table]]  # a file -> its event tables


class ReviewFile(NamedTuple):
    """A published file of reviews, one for each category."""

    path: str  # below a base URL; {} stands for the category
    read: EventReader
    folder: str = ""  # parent folder, where two files of an edition have the same name


@dataclass(frozen=True)
class Edition:
    """The published files of one year."""

    name: str  # "Amazon 2014"
    download_folder: str  # below the folder of downloaded files
    base_urls: tuple[str, ...]  # each has all files
    reviews: Mapping[str, ReviewFile]  # value of the source's field `reviews` -> file
    metadata: str  # path of the metadata below a base URL; {} stands for the category
    item_field: str  # member of a metadata object that holds the item's id
    columns: tuple[str, ...]  # columns of the item table besides item
    item_fields: Callable[[Mapping[str, Any]], dict[str, str]]  # a metadata object -> these columns
    python_literals: bool = False  # whether lines of metadata may be Python dictionaries


@dataclass(frozen=True)
class CategoryFiles:
    """The files of one category of an edition; the fields are those of the data sets in `amazon`."""

    edition: Edition
    category: str
    reviews: str
    path: Path | None
    metadata: bool
    max_bad_rows: float

    def check(self) -> None:
        """Raise UsageError if the fields name no published file."""
        if not re.fullmatch(r"\w[\w&,' -]*", self.category):
            raise UsageError(f"category must be a name as in the upstream files, such as Toys_and_Games, got {self.category!r}")
        if self.reviews not in self.edition.reviews:
            raise UsageError(f"reviews must be one of {', '.join(self.edition.reviews)}, got {self.reviews!r}")
        check_max_bad_rows(self.max_bad_rows)

    def stream(self, root: Path) -> RawStream:
        """Return interactions and items as streams of tables."""
        files = self._files(root)
        bad_rows = [BadRows(file.name) for file in files]
        events = self.edition.reviews[self.reviews].read(files[0], bad_rows[0])
        interactions = event_tables.merge_event_tables(events, bad_rows[0], self.max_bad_rows)
        items = self._items(files[1], bad_rows[1]) if self.metadata else iter([item_table([], ["text"])])
        return RawStream(interactions, items, lambda: set_aside_table(bad_rows))

    def fingerprint(self, root: Path) -> str:
        """Return a hash of the category and the content of the files."""
        return fingerprint_of(f"{self.edition.name} {self.category}", self._files(root))

    def _items(self, file: UpstreamFile, bad_rows: BadRows) -> Iterator[pa.Table]:
        objects = parse_json_lines(file.lines(bad_rows), bad_rows, self.edition.python_literals)
        rows = ((line, metadata.get(self.edition.item_field), self.edition.item_fields(metadata)) for line, metadata in objects)
        yield from item_tables_from_rows(rows, self.edition.columns, bad_rows, self.max_bad_rows)

    def _files(self, root: Path) -> tuple[UpstreamFile, ...]:
        """Return the file of reviews and, if it is read, the file of metadata."""
        reviews = self.edition.reviews[self.reviews]
        templates = [(reviews.path, reviews.folder), *([(self.edition.metadata, "")] if self.metadata else [])]
        paths = [(template.format(self.category), folder) for template, folder in templates]
        if self.path is None:
            return tuple(UpstreamFile(self._downloaded(root, path, folder)) for path, folder in paths)
        if self.path.is_file():
            names = " and ".join(PurePosixPath(path).name for path, _ in paths)
            raise InputError(f"{self.path} is a file; --source.path must be the folder that holds {names}")
        advice = (
            f"--source.reviews can also be one of {', '.join(self.edition.reviews)}",
            "--source.metadata False reads interactions only",
        )
        return tuple(
            find_file(self.path, *_file_names(path), folder=folder, advice=text)
            for (path, folder), text in zip(paths, advice, strict=False)
        )

    def _downloaded(self, root: Path, path: str, folder: str) -> Path:
        packed, *unpacked = (str(PurePosixPath(self.edition.download_folder, folder, name)) for name in _file_names(path))
        return locate_or_download(Archive(packed, tuple(url + quote(path) for url in self.edition.base_urls)), root, *unpacked)


def _file_names(path: str) -> tuple[str, ...]:
    """Return the published name of a file, and its name without or with .gz."""
    name = PurePosixPath(path).name
    return (name, name.removesuffix(".gz")) if name.endswith(".gz") else (name, f"{name}.gz")


def json_reviews(**members: str) -> EventReader:
    """Return the reader of JSON lines; `members` maps user, item, time and rating to the names in the file."""
    form = event_tables.json_lines_format(members, REVIEW_TYPES)
    return lambda file, bad_rows: event_tables.read_events(file.blocks(bad_rows), form, bad_rows)


def csv_ratings(*columns: str) -> EventReader:
    """Return the reader of a CSV file without a header; `columns` are user, item, rating and time in the order of the file."""
    form = event_tables.csv_format(",", columns)
    return lambda file, bad_rows: event_tables.read_events(file.blocks(bad_rows), form, bad_rows)


def csv_ratings_with_header(**names: str) -> EventReader:
    """Return the reader of a CSV file with a header; `names` maps user, item, time and rating to its column names."""
    return lambda file, bad_rows: event_tables.read_csv_events(file, ",", names, bad_rows)
