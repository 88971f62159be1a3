"""A local HTTP server with scripted, partly faulty responses, and files to download from it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from genrec.data.download import Archive, http_download

HTML = b"<!DOCTYPE html><title>Not here</title>" + b" " * 3000
Reply = Callable[["Handler"], None]


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("folder/u.data"), content)
    return file.getvalue()


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


OLD, NEW = (zipped(random.Random(seed).randbytes(50_000)) for seed in (0, 1))
SIZE = len(OLD)
WHOLE = [".a.zip.downloaded.json", ".a.zip.lock", "a.zip"]  # the folder after the download of a.zip


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        server.requests.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        server.agents.add((self.headers["User-Agent"], self.headers["Accept-Encoding"]))
        reply = server.script.pop(0) if server.script else server.otherwise
        with contextlib.suppress(ConnectionError):  # the client may close the connection of an endless body
            reply(self)

    def log_message(self, *_: object) -> None:
        pass


def response(status: int, body: bytes, length: int | None = None, cut: int | None = None, **headers: str) -> Reply:
    """Send exactly this response: announce `length` bytes (-1: no length), and close after `cut` bytes of the body."""

    def reply(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if length != -1:
            handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body[:cut])

    return reply


def good(body: bytes, cut: int | None = None, **headers: str) -> Reply:
    """Send `body`, or the range that a request asks for if its `If-Range` matches one of the headers."""

    def reply(handler: Handler) -> None:
        requested, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        start = int(requested.removeprefix("bytes=").removesuffix("-")) if requested else 0
        if start and condition in (None, *headers.values()):
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            response(206, body[start:], cut=cut, Content_Range=span, **headers)(handler)
        else:
            response(200, body, cut=cut, **headers)(handler)

    return reply


def chunked(body: bytes, whole: bool) -> Reply:
    def reply(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.send_header("ETag", '"1"')
        handler.end_headers()
        handler.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n" + (b"0\r\n\r\n" if whole else b""))
        handler.close_connection = True

    return reply


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(100_000))


@contextlib.contextmanager
def serving() -> Iterator[Any]:
    """Run a server that sends the responses of `script`, then `otherwise`, and lists its `requests`.

    Pauses, mirrors and proxies are switched off meanwhile.
    """
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.script, server.requests, server.agents, server.otherwise = [], [], set(), good(OLD, ETag='"1"')
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GENREC_MIRROR", "GENREC_OFFLINE"):
            patch.delenv(name, raising=False)
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setattr(http_download, "PAUSE", 0)
        patch.setattr(http_download, "TIMEOUT", 3600)  # no reply stalls; a busy machine may
        yield server
    server.shutdown()
    server.server_close()


def archive(server: Any, name: str = "a.zip", **published: Any) -> Archive:
    return Archive(name, (f"{server.url}/{name}",), **published)


def requested_ranges(server: Any) -> list[str | None]:
    """Return the `Range` header of every request."""
    return [span for _, span, _ in server.requests]


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def flip(path: Path) -> None:
    """Change one byte and restore the modification time."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
