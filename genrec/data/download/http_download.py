"""Stage 1, fetching: upstream files from a mirror or from where they are published; no other module uses the network.

In: an `Archive` and the folder of fetched files. Out: the path of a whole file. Its size and checksum are compared with the published
ones, else its structure is checked, before it gets its name. A cut download stays as `NAME.part`, with the answer that it began with
in `NAME.part.json`, and the next try asks the same address for the rest. Bytes of two versions or two servers never come together:
what was asked for with `If-Range` must be what is answered (RFC 9110, 13.1.5 and 14.4), and the whole is checked at the end.
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
from genrec.data.download.archives import Archive, altered, failure, judge, offline, sources
from genrec.data.download.file_records import read_record, record_place
from genrec.data.download.partial_files import Origin, begin, check_space, discard, keep_larger, publish, read_origin
from genrec.errors import ArtifactError, NetworkError, ResourceError
from genrec.progress import Progress, say
from genrec.store import file_hash, signature_of

ATTEMPTS = 4  # requests to one address before the next one is tried
PAUSE = 0.5  # seconds before the second request; doubled before each further one
TIMEOUT = 30.0  # seconds without a byte
_BLOCK = 1 << 20
_SPAN = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")  # of Content-Range


class _Answer(NamedTuple):
    """Which bytes of the file an answer brings."""

    start: int
    stop: int | None  # one past the last; None: as many as come
    origin: Origin


class _Unusable(Exception):
    """A source that does not have the file; the next one may."""


class _Cut(Exception):
    """The file is not whole yet; the same address may give the rest."""


def fetch(archive: Archive, root: Path) -> Path:
    """The file root/archive.name, fetched unless it is there already and unaltered."""
    path = Path(root) / archive.name
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder, expected a file; move it away so that the file can be fetched")
    if path.is_file() and _known(archive, path):
        return path
    places = sources(archive)
    if not path.is_file() and not places:
        raise NetworkError(failure(archive, path, []))
    with _alone(path) as refusal:
        change = altered(archive, path) if path.is_file() else ""
        if path.is_file() and not change:
            return path
        if refusal is not None and places:
            raise ResourceError(
                f"{path} has to be fetched, and its folder can't be written ({refusal}); allow it, or move GENREC_HOME"
            )
        if change and not offline():
            say(f"{path} {change}: fetching it again")
        reasons = _obtain(archive, path, places)
    if reasons is None:
        return path
    if change and offline():
        accept = f"remove {record_place(path).name} beside it to use it as it is"
        raise ArtifactError(f"{path} {change}; {failure(archive, path, reasons)}; {accept}")
    raise NetworkError(failure(archive, path, reasons))


def _known(archive: Archive, path: Path) -> bool:
    """Whether the record says that the file is right, and nothing happened to either since."""
    record = read_record(path)
    if record is None or record.signature != signature_of(path):
        return False
    return record.checksum == archive.checksum and archive.size in (None, record.size)


@contextmanager
def _alone(path: Path) -> Iterator[OSError | None]:
    """No other process fetches the file meanwhile. Yields why nothing can be written beside it, or None."""
    lock, refusal = FileLock(path.with_name(f".{path.name}.lock")), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            say(f"waiting for another process that fetches {path.name}")
            lock.acquire()
    except OSError as error:
        refusal = error
    try:
        yield refusal
    finally:
        lock.release()


def _obtain(archive: Archive, path: Path, places: list[Path | str]) -> list[str] | None:
    """Put the file in its place from the first that has it; else why each of them failed."""
    first, reasons = path.with_name(f"{path.name}.part"), []
    if first.is_dir():
        raise ArtifactError(f"{first} is a folder, expected what was fetched of a file; move it away")
    begun = read_origin(first).address
    for place in sorted(places, key=lambda place: str(place) != begun):  # stable: the one that began it, then the others
        part = first if begun in ("", str(place)) else path.with_name(f"{path.name}.other.part")
        try:
            sha256 = _copy(archive, place, part, path) if isinstance(place, Path) else _download(archive, place, part)
            publish(part, path, sha256, archive.checksum, str(place))
            discard(first)
            return None
        except _Unusable as error:
            reasons.append(f"{place}: {error}")
            keep_larger(first, part)
            begun = read_origin(first).address
        except ArtifactError as error:
            discard(part)
            raise ArtifactError(f"{place}: {error}") from None
        except OSError as error:
            needed = archive.size or read_origin(part).total or "an unknown number of"
            discard(part)
            free = shutil.disk_usage(path.parent).free
            raise ResourceError(
                f"{part} can't be written ({error}): {needed} bytes are needed, {free} are free; make room, or move GENREC_HOME"
            ) from error
    return reasons


def _copy(archive: Archive, source: Path, part: Path, path: Path) -> str:
    """Copy a mirror's file to `part`; its sha256."""
    if not source.is_file() or (path.exists() and source.samefile(path)):
        raise _Unusable("there is no such file, and not just one of its name elsewhere in that folder")
    try:
        sha256, wrong = judge(archive, source)
    except OSError as error:
        raise _Unusable(f"it can't be read ({error})") from error
    if wrong:
        raise _Unusable(wrong)
    check_space(part, source.stat().st_size)
    discard(part)
    shutil.copyfile(source, part)
    if file_hash(part) != sha256:
        discard(part)
        raise _Unusable("it changed while it was copied")
    return sha256


def _download(archive: Archive, address: str, part: Path) -> str:
    """Fetch `part` whole; its sha256. Where it was put together and is wrong, it is fetched once more in one piece."""
    wrong = ""
    for _ in range(2):
        together = _collect(archive, address, part)
        sha256, wrong = judge(archive, part)
        if not wrong:
            return sha256
        discard(part)
        if not together:
            break
    raise _Unusable(wrong)


def _collect(archive: Archive, address: str, part: Path) -> bool:
    """Ask until `part` is whole; whether it holds more than one answer."""
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return _ask(archive, address, part) > 0
        except _Cut as cut:
            reason = str(cut)
    raise _Unusable(f"{reason}; asked {ATTEMPTS} times")


def _ask(archive: Archive, address: str, part: Path) -> int:
    """Ask for what `part` lacks; where the answer that made it whole begins."""
    origin = read_origin(part)
    offset = part.stat().st_size if origin.address == address and part.is_file() else 0
    if not (origin.validator or archive.checkable):
        offset = 0  # nothing would tell a wrong splice
    if offset and offset == origin.total:
        return offset
    with _open(address, offset, origin.validator) as response:
        answer = _understand(archive, response, part, offset, origin._replace(address=address))
        check_space(part, answer.stop or 0)
        if answer.start == 0:
            begin(part, answer.origin)
        _receive(archive, response, part, answer)
    return answer.start


def _open(address: str, offset: int, validator: str) -> Any:
    """The answer to a request for the bytes from `offset` on, whatever its status."""
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
        return opener.open(request.Request(parse.quote(address, safe=";/?:@&=+$,%#!~*'()[]"), headers=headers), timeout=TIMEOUT)
    except error.HTTPError as answer:
        return answer
    except (OSError, HTTPException, ValueError) as problem:
        raise _Cut(f"there is no answer ({problem})") from problem


def _understand(archive: Archive, response: Any, part: Path, offset: int, origin: Origin) -> _Answer:
    """Which bytes the answer brings; one that does not fit the bytes that are there makes the next request begin anew."""
    status, known = response.status, archive.size if archive.size is not None else origin.total
    validator = _validator(response.headers)
    span = _SPAN.fullmatch(response.headers.get("Content-Range", ""))
    if status == 200 and (span is None or span[1] in (None, "0")):
        if archive.size is not None and response.length not in (None, archive.size):
            raise _Unusable(f"it announces {response.length} bytes, expected {archive.size}")
        if response.length is None and not response.chunked and archive.size is None and not archive.checkable:
            raise _Unusable("it does not say how long the file is, and nothing in such a file would show a cut")
        return _Answer(0, response.length, Origin(origin.address, validator, response.length))
    if status == 206 and offset and span is not None and span[1] is not None:
        start, stop = int(span[1]), int(span[2]) + 1
        total = known if span[3] == "*" else int(span[3])
        sizes_fit = known in (None, total) and response.length in (None, stop - start) and (total is None or stop <= total)
        if start == offset < stop and sizes_fit and validator == origin.validator:
            return _Answer(start, stop, origin._replace(total=total))
    if status == 416 and offset and span is not None and span[3] == str(offset) and origin.total in (None, offset):
        return _Answer(offset, offset, origin)
    if status in (200, 206, 416) and offset:
        discard(part)
        raise _Cut(f"it answers {status} with {span[0] if span else 'no usable Content-Range'} to a request from {offset} on")
    reason = f"it answers {status} {response.reason}"
    raise _Cut(reason) if status in (408, 429) or status >= 500 else _Unusable(reason)


def _validator(headers: Any) -> str:
    """What `If-Range` may name: a strong ETag, else the date of the last change."""
    tag = str(headers.get("ETag", ""))
    return tag if tag.startswith('"') else str(headers.get("Last-Modified", ""))


def _receive(archive: Archive, response: Any, part: Path, answer: _Answer) -> None:
    """Append the answer's bytes to `part`; `_Cut` where they are not all that the file has."""
    position, endless = answer.start, answer.stop is None
    announced = answer.stop if answer.stop is not None else archive.size
    limit = announced if announced is not None else position + shutil.disk_usage(part.parent).free
    with Progress(f"fetching {archive.name}", answer.origin.total) as progress, part.open("ab") as file:
        progress.advance(position, "bytes")
        while block := _read(response, min(_BLOCK, limit + endless - position)):
            file.write(block)
            position += len(block)
            progress.advance(len(block), "bytes")
    if position > limit:
        discard(part)
        if announced is None:
            raise ResourceError(f"{answer.origin.address} sends more than the {limit} bytes that are free for {part}; make room")
        raise _Unusable(f"it sends more than the {limit} bytes that are expected")
    whole = answer.origin.total if answer.origin.total is not None else announced
    if whole is not None and position < whole:
        raise _Cut(f"it broke off after {position} of {whole} bytes")


def _read(response: Any, count: int) -> bytes:
    """The next bytes, as soon as there are some; none at the end, which may be a cut that http.client does not report."""
    from http.client import HTTPException

    try:
        return bytes(response.read1(count))
    except (OSError, HTTPException, ValueError) as error:
        raise _Cut(f"it broke off ({type(error).__name__}: {error})") from error
