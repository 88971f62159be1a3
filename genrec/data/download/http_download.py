"""Downloads of upstream files from mirrors or their publishers. No other module of the package opens a network connection.

A file gets its final name only after its size and checksum match the published ones; without a published checksum, its structure is
checked. An interrupted download stays as `NAME.part`, with the response that it began with in `NAME.part.json`; the next attempt
requests the rest from the same URL. Bytes of two versions or two servers are never joined: the response must match the `If-Range`
request (RFC 9110, 13.1.5 and 14.4), and the complete file is verified at the end.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from genrec import __version__
from genrec.data.download.archives import Archive, failure_message, is_offline, locations, verify, verify_existing
from genrec.data.download.file_records import read_record, record_path
from genrec.data.download.partial_files import Origin, begin, check_space, discard, keep_larger, publish, read_origin
from genrec.errors import ArtifactError, NetworkError, ResourceError
from genrec.progress import Progress, say
from genrec.store import file_hash, signature_of

ATTEMPTS = 4  # requests to one URL before the next URL is tried
PAUSE = 0.5  # seconds before the second request; doubled before each further one
TIMEOUT = 30.0  # seconds without a byte
_READ_SIZE = 1 << 20  # bytes
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


class _ByteRange(NamedTuple):
    """The bytes of the file that a response holds."""

    start: int
    stop: int | None  # one past the last byte; None: unknown, read to the end of the response
    origin: Origin


class _Unusable(Exception):
    """The location does not have the file; the next one is tried."""


class _Incomplete(Exception):
    """The file is not complete yet; the same URL is requested again."""


def download(archive: Archive, root: Path) -> Path:
    """Return the path root/archive.name; the file is downloaded unless an unchanged copy exists.

    Raise NetworkError if no location has the file, ArtifactError if the existing file is not the published one, and ResourceError if
    the disk is full or the folder is not writable.
    """
    path = Path(root) / archive.name
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder, expected a file; move it away so that the file can be downloaded")
    if path.is_file() and _matches_record(archive, path):
        return path
    candidates = locations(archive)
    if not path.is_file() and not candidates:
        raise NetworkError(failure_message(archive, path, []))
    with _locked(path) as write_error:
        problem = verify_existing(archive, path) if path.is_file() else ""
        if path.is_file() and not problem:
            return path
        if write_error is not None and candidates:
            raise ResourceError(
                f"{path} must be downloaded, but its folder is not writable ({write_error}); allow writing, or set GENREC_HOME"
            )
        if problem and not is_offline():
            say(f"{path} {problem}; downloading it again")
        reasons = _try_locations(archive, path, candidates)
    if reasons is None:
        return path
    if problem and is_offline():
        accept = f"to use the file as it is, remove {record_path(path).name} beside it"
        raise ArtifactError(f"{path} {problem}; {failure_message(archive, path, reasons)}; {accept}")
    raise NetworkError(failure_message(archive, path, reasons))


def _matches_record(archive: Archive, path: Path) -> bool:
    """Return whether the file is unchanged since its record was written and the record matches what is published."""
    record = read_record(path)
    if record is None or record.signature != signature_of(path):
        return False
    return record.checksum == archive.checksum and archive.size in (None, record.size)


@contextmanager
def _locked(path: Path) -> Iterator[OSError | None]:
    """Keep other processes from downloading the same file. Yields the error if the folder is not writable, else None."""
    lock, write_error = FileLock(path.with_name(f".{path.name}.lock")), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            say(f"waiting for another process that downloads {path.name}")
            lock.acquire()
    except OSError as error:
        write_error = error
    try:
        yield write_error
    finally:
        lock.release()


def _try_locations(archive: Archive, path: Path, candidates: list[Path | str]) -> list[str] | None:
    """Save the file from the first location that has it and return None; else return the reason for each failure."""
    first, reasons = path.with_name(f"{path.name}.part"), []
    if first.is_dir():
        raise ArtifactError(f"{first} is a folder, expected a partial file; move it away")
    begun = read_origin(first).url
    for location in sorted(candidates, key=lambda location: str(location) != begun):  # first the one that the part came from
        part = first if begun in ("", str(location)) else path.with_name(f"{path.name}.other.part")
        try:
            if isinstance(location, Path):
                sha256 = _copy_from_mirror(archive, location, part, path)
            else:
                sha256 = _download_from_url(archive, location, part)
            publish(part, path, sha256, archive.checksum, str(location))
            discard(first)
            return None
        except _Unusable as error:
            reasons.append(f"{location}: {error}")
            keep_larger(first, part)
            begun = read_origin(first).url
        except ArtifactError as error:
            discard(part)
            raise ArtifactError(f"{location}: {error}") from None
        except OSError as error:
            needed = archive.size or read_origin(part).total or "an unknown number of"
            discard(part)
            free = shutil.disk_usage(path.parent).free
            raise ResourceError(
                f"{part} can't be written ({error}): {needed} bytes are needed, {free} are free; free some space, or set GENREC_HOME"
            ) from error
    return reasons


def _copy_from_mirror(archive: Archive, source: Path, part: Path, path: Path) -> str:
    """Copy a file of a mirror folder to `part`; return its sha256."""
    if not source.is_file() or (path.exists() and source.samefile(path)):
        raise _Unusable("there is no such file, and the folder does not hold exactly one file of this name elsewhere")
    try:
        sha256, problem = verify(archive, source)
    except OSError as error:
        raise _Unusable(f"it can't be read ({error})") from error
    if problem:
        raise _Unusable(problem)
    check_space(part, source.stat().st_size)
    discard(part)
    shutil.copyfile(source, part)
    if file_hash(part) != sha256:
        discard(part)
        raise _Unusable("it changed while it was copied")
    return sha256


def _download_from_url(archive: Archive, url: str, part: Path) -> str:
    """Download `part` completely; return its sha256. A file joined from several responses that is wrong is downloaded once more."""
    problem = ""
    for _ in range(2):
        was_resumed = _complete(archive, url, part)
        sha256, problem = verify(archive, part)
        if not problem:
            return sha256
        discard(part)
        if not was_resumed:
            break
    raise _Unusable(problem)


def _complete(archive: Archive, url: str, part: Path) -> bool:
    """Send requests until `part` is complete; return whether it holds the bytes of several responses."""
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return _request_rest(archive, url, part) > 0
        except _Incomplete as error:
            reason = str(error)
    raise _Unusable(f"{reason}; {ATTEMPTS} requests were sent")


def _request_rest(archive: Archive, url: str, part: Path) -> int:
    """Request the missing bytes of `part`; return the first byte of the response that completed it."""
    origin = read_origin(part)
    offset = part.stat().st_size if origin.url == url and part.is_file() else 0
    if not (origin.validator or archive.verifiable):
        offset = 0  # bytes of two versions could not be detected
    if offset and offset == origin.total:
        return offset
    with _open(url, offset, origin.validator) as response:
        received = _parse_response(archive, response, part, offset, origin._replace(url=url))
        check_space(part, received.stop or 0)
        if received.start == 0:
            begin(part, received.origin)
        _receive(archive, response, part, received)
    return received.start


def _open(url: str, offset: int, validator: str) -> Any:
    """Send a request for the bytes from `offset` on; return the response with any status."""
    from http.client import HTTPException
    from urllib import error, parse, request

    headers = {"User-Agent": f"genrec/{__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        headers |= {"If-Range": validator} if validator else {}
    opener = request.OpenerDirector()  # not build_opener, which would follow a redirection to ftp://
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
        request.HTTPDefaultErrorHandler,
        request.UnknownHandler,
    ):
        opener.add_handler(handler())
    try:
        return opener.open(request.Request(parse.quote(url, safe=";/?:@&=+$,%#!~*'()[]"), headers=headers), timeout=TIMEOUT)
    except error.HTTPError as response:
        return response
    except (OSError, HTTPException, ValueError) as problem:
        raise _Incomplete(f"there is no response ({problem})") from problem


def _parse_response(archive: Archive, response: Any, part: Path, offset: int, origin: Origin) -> _ByteRange:
    """Return the byte range of a response. If it does not continue `part`, the part is removed and the request repeated."""
    status, expected = response.status, archive.size if archive.size is not None else origin.total
    validator = _validator(response.headers)
    span = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if status == 200 and (span is None or span[1] in (None, "0")):
        if archive.size is not None and response.length not in (None, archive.size):
            raise _Unusable(f"it announces {response.length} bytes, expected {archive.size}")
        if response.length is None and not response.chunked and archive.size is None and not archive.verifiable:
            raise _Unusable("the response does not announce its length, and a truncated file of this type could not be detected")
        return _ByteRange(0, response.length, Origin(origin.url, validator, response.length))
    if status == 206 and offset and span is not None and span[1] is not None:
        start, stop = int(span[1]), int(span[2]) + 1
        total = expected if span[3] == "*" else int(span[3])
        sizes_match = expected in (None, total) and response.length in (None, stop - start) and (total is None or stop <= total)
        if start == offset < stop and sizes_match and validator == origin.validator:
            return _ByteRange(start, stop, origin._replace(total=total))
    if status == 416 and offset and span is not None and span[3] == str(offset) and origin.total in (None, offset):
        return _ByteRange(offset, offset, origin)
    if status in (200, 206, 416) and offset:
        discard(part)
        raise _Incomplete(f"it answers {status} with {span[0] if span else 'no usable Content-Range'} to a request from {offset} on")
    reason = f"it answers {status} {response.reason}"
    raise _Incomplete(reason) if status in (408, 429) or status >= 500 else _Unusable(reason)


def _validator(headers: Any) -> str:
    """Return the value for `If-Range`: a strong ETag, else Last-Modified."""
    tag = str(headers.get("ETag", ""))
    return tag if tag.startswith('"') else str(headers.get("Last-Modified", ""))


def _receive(archive: Archive, response: Any, part: Path, received: _ByteRange) -> None:
    """Append the response's bytes to `part`; raise `_Incomplete` if bytes of the file are still missing."""
    position, is_open_ended = received.start, received.stop is None
    announced = received.stop if received.stop is not None else archive.size
    limit = announced if announced is not None else position + shutil.disk_usage(part.parent).free
    with Progress(f"downloading {archive.name}", received.origin.total) as progress, part.open("ab") as file:
        progress.advance(position, "bytes")
        while block := _read(response, min(_READ_SIZE, limit + is_open_ended - position)):
            file.write(block)
            position += len(block)
            progress.advance(len(block), "bytes")
    if position > limit:
        discard(part)
        if announced is None:
            raise ResourceError(f"{received.origin.url} sends more than the {limit} bytes that are free for {part}; free some space")
        raise _Unusable(f"it sends more than the expected {limit} bytes")
    total = received.origin.total if received.origin.total is not None else announced
    if total is not None and position < total:
        raise _Incomplete(f"it broke off after {position} of {total} bytes")


def _read(response: Any, count: int) -> bytes:
    """Return the next available bytes; b"" at the end, also when the connection is cut and http.client does not report it."""
    from http.client import HTTPException

    try:
        return bytes(response.read1(count))
    except (OSError, HTTPException, ValueError) as error:
        raise _Incomplete(f"it broke off ({type(error).__name__}: {error})") from error
