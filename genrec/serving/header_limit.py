"""The limit of `genrec serve` for the header of a request.

h11 only limits a header that has not arrived as a whole, and httptools has no limit. So the application refuses a large one.
"""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_HEADER = 16_384  # bytes of the request line and the header fields


def with_short_header(app: ASGIApp) -> ASGIApp:
    """Return the application for requests with a header of at most `MAX_HEADER` bytes; others get 431 and are closed."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or header_bytes(scope) <= MAX_HEADER:
            await app(scope, receive, send)
            return
        why = f"the header of the request is larger than {MAX_HEADER:,} bytes; send fewer or shorter header fields"
        await JSONResponse({"error": why}, 431, {"Connection": "close"})(scope, receive, send)

    return limited


def header_bytes(scope: Scope) -> int:
    """Return the bytes of the request line and of the header fields of an HTTP request, each with its line end."""
    query = scope["query_string"]
    target = len(scope.get("raw_path") or scope["path"].encode()) + (len(b"?" + query) if query else 0)
    line = len(scope["method"]) + target + len("  HTTP/1.1\r\n")
    return line + sum(len(name) + len(value) + len(": \r\n") for name, value in scope["headers"])
