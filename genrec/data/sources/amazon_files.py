"""Stage 1, what the three editions of Amazon's reviews share: files of reviews and of metadata, as J. McAuley's group publishes them.

In: an edition (its addresses and formats), and what was chosen of it. Out: `RawStream`, a fingerprint. The data carry no license.
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
from genrec.data.readers.bad_rows import BadRows, check_tolerated, table
from genrec.data.readers.line_rows import json_records
from genrec.data.readers.raw_tables import catalog, item_table
from genrec.data.readers.upstream_files import UpstreamFile, find, fingerprint, obtain
from genrec.errors import InputError, UsageError
from genrec.types import RawStream

REVIEW_TYPES = {"user": pa.string(), "item": pa.string(), "time": pa.int64(), "rating": pa.float64()}


class Published(NamedTuple):
    """A file of which there is one for every category."""

    path: str  # below an edition's addresses; {} stands for the category
    read: Callable[[UpstreamFile, BadRows], Iterator[pa.Table]]  # its events
    within: str = ""  # the folder that tells it from another file of its name


@dataclass(frozen=True)
class Edition:
    """One year's data."""

    name: str  # "Amazon 2014"
    folder: str  # of the fetched files
    addresses: tuple[str, ...]  # each holds all files
    reviews: Mapping[str, Published]  # by what they are called on the command line
    metadata: str  # path of the metadata; {} stands for the category
    item: str  # the metadata's field of the item's id
    columns: tuple[str, ...]  # of every item, besides item
    describe: Callable[[Mapping[str, Any]], dict[str, str]]  # a record of metadata -> the columns
    literals: bool = False  # metadata may be Python literals


@dataclass(frozen=True)
class Choice:
    """What is read of an edition: the fields of a source."""

    edition: Edition
    category: str
    reviews: str
    path: Path | None
    metadata: bool
    max_bad_rows: float

    def check(self) -> None:
        """Refuse what is not published."""
        if not re.fullmatch(r"\w[\w&,' -]*", self.category):
            raise UsageError(f"category must be as in the upstream file names, such as Toys_and_Games, got {self.category!r}")
        if self.reviews not in self.edition.reviews:
            raise UsageError(f"reviews must be one of {', '.join(self.edition.reviews)}, got {self.reviews!r}")
        check_tolerated(self.max_bad_rows)

    def stream(self, root: Path) -> RawStream:
        """Interactions and items in pieces."""
        files = self._files(root)
        ledgers = [BadRows(file.name) for file in files]
        events = self.edition.reviews[self.reviews].read(files[0], ledgers[0])
        interactions = event_tables.log(events, ledgers[0], self.max_bad_rows)
        items = self._items(files[1], ledgers[1]) if self.metadata else iter([item_table([], ["text"])])
        return RawStream(interactions, items, lambda: table(ledgers))

    def fingerprint(self, root: Path) -> str:
        """A hash of the category and of the files' bytes."""
        return fingerprint(f"{self.edition.name} {self.category}", self._files(root))

    def _items(self, file: UpstreamFile, ledger: BadRows) -> Iterator[pa.Table]:
        records = json_records(file.lines(ledger), ledger, self.edition.literals)
        entries = ((line, record.get(self.edition.item), self.edition.describe(record)) for line, record in records)
        yield from catalog(entries, self.edition.columns, ledger, self.max_bad_rows)

    def _files(self, root: Path) -> tuple[UpstreamFile, ...]:
        """The reviews and, where they are wanted, the metadata."""
        reviews = self.edition.reviews[self.reviews]
        wanted = [(reviews.path, reviews.within), *([(self.edition.metadata, "")] if self.metadata else [])]
        paths = [(path.format(self.category), within) for path, within in wanted]
        if self.path is None:
            return tuple(UpstreamFile(self._fetched(root, path, within)) for path, within in paths)
        if Path(self.path).is_file():
            names = " and ".join(PurePosixPath(path).name for path, _ in paths)
            raise InputError(f"{self.path} is a file; --source.path is the folder that holds {names}")
        advice = (f"the other choices of --source.reviews are {', '.join(self.edition.reviews)}", "--source.metadata False reads none")
        return tuple(
            find(Path(self.path), *_names(path), within=within, advice=said)
            for (path, within), said in zip(paths, advice, strict=False)
        )

    def _fetched(self, root: Path, path: str, within: str) -> Path:
        packed, *unpacked = (str(PurePosixPath(self.edition.folder, within, name)) for name in _names(path))
        return obtain(Archive(packed, tuple(address + quote(path) for address in self.edition.addresses)), root, *unpacked)


def _names(path: str) -> tuple[str, ...]:
    """A file's published name, and the one it is unpacked to."""
    name = PurePosixPath(path).name
    return (name, name.removesuffix(".gz")) if name.endswith(".gz") else (name, f"{name}.gz")


def json_reviews(**fields: str) -> Callable[[UpstreamFile, BadRows], Iterator[pa.Table]]:
    """A review a line; `fields` are the upstream names of user, item, time and rating."""
    form = event_tables.json_lines(fields, REVIEW_TYPES)
    return lambda file, ledger: event_tables.read(file.blocks(ledger), form, ledger)


def bare_ratings(*columns: str) -> Callable[[UpstreamFile, BadRows], Iterator[pa.Table]]:
    """CSV without a header."""
    form = event_tables.separated(",", columns)
    return lambda file, ledger: event_tables.read(file.blocks(ledger), form, ledger)


def headed_ratings(**names: str) -> Callable[[UpstreamFile, BadRows], Iterator[pa.Table]]:
    """CSV with a header."""
    return lambda file, ledger: event_tables.read_headed(file, ",", names, ledger)
