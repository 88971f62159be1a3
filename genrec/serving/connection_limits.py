"""Deadlines and a limit for the connections of `genrec serve`, around the HTTP protocol of uvicorn.

uvicorn closes a connection that is idle after an answer. It has no deadline for the header of a request and none for a client that
does not read, and its `limit_concurrency` counts silent connections as requests. Here a connection is closed if its client

- has not sent a whole header within the deadline, counted from the start of the connection or from the last answer, or
- has read nothing of an answer within the deadline.

If there are too many connections, the one that has waited longest for its client is closed. The bodies of requests have a deadline of
their own, in `genrec.serving.service_app`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HttpProtocol(Protocol):
    """The part of uvicorn's HTTP protocols that is used.

    The protocol calls `app` for each request, when its header is complete. uvicorn does not document the attribute; the tests of
    deadlines in `tests/test_serve.py` fail if it has another name.
    """

    app: ASGIApp

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin with a connection."""
        ...

    def connection_lost(self, exc: Exception | None) -> None:
        """End with a connection."""
        ...

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        ...

    def eof_received(self) -> bool | None:
        """Take the end of what the client sends."""
        ...

    def pause_writing(self) -> None:
        """Wait until the client has read."""
        ...

    def resume_writing(self) -> None:
        """Write again."""
        ...


class Connections:
    """The open connections of a service, at most `most`, each with a deadline of `seconds` for what its client must do.

    `protocol` makes the HTTP protocol of a connection, such as the class `uvicorn.protocols.http.h11_impl.H11Protocol`.
    """

    def __init__(self, protocol: Callable[..., HttpProtocol], seconds: float, most: int) -> None:
        self.seconds, self.most = seconds, most
        self.open: set[Connection] = set()
        self.waiting: dict[Connection, None] = {}  # for their clients, the longest first
        self._protocol = protocol

    def make(self, **arguments: object) -> Connection:
        """Return the protocol of a new connection, for `uvicorn.Config(http=...)`."""
        return Connection(self._protocol(**arguments), self)

    def add(self, connection: Connection) -> None:
        """Add a connection. If there are too many, close the one that has waited longest for its client, or else this one."""
        if len(self.open) >= self.most:
            next(iter(self.waiting), connection).drop()
        self.open.add(connection)

    def discard(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self.open.discard(connection)
        self.waiting.pop(connection, None)


class Connection:
    """An asyncio protocol that passes everything on to an HTTP protocol, and closes the connection after its deadlines."""

    def __init__(self, http: HttpProtocol, connections: Connections) -> None:
        self.http, self.connections = http, connections
        self._app, http.app = http.app, self._request
        self._requests = 0  # that the application works on; the next one may begin before the last one ends
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0  # bytes of answers that the client had not read at the last deadline

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin with a connection."""
        self._transport = transport
        self.http.connection_made(transport)
        self.connections.add(self)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End with a connection."""
        self.connections.discard(self)
        self._stop()
        self.http.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        self.http.data_received(data)

    def eof_received(self) -> bool | None:
        """Take the end of what the client sends."""
        return self.http.eof_received()

    def pause_writing(self) -> None:
        """Wait until the client has read."""
        self.http.pause_writing()

    def resume_writing(self) -> None:
        """Write again."""
        self.http.resume_writing()

    def drop(self) -> None:
        """Close the connection now, with what the client has not read."""
        self.connections.discard(self)
        self._stop()
        self._transport.abort()

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application for a request whose header is complete."""
        self._requests += 1
        self._stop()

        async def received() -> Message:
            message = await receive()
            if not message.get("more_body", False):
                self.connections.waiting.pop(self, None)  # the client waits for the application
            return message

        async def sent(message: Message) -> None:
            self._wait()  # `send` returns when the client has read earlier answers, or the connection is closed
            await send(message)
            self._stop()

        try:
            await self._app(scope, received, sent)
        finally:
            self._requests -= 1
            if not self._requests:
                self._wait()

    def _wait(self) -> None:
        """Give the client until the next deadline."""
        self._stop()
        if self in self.connections.open:
            self.connections.waiting.pop(self, None)
            self.connections.waiting[self] = None
            self._unread = self._transport.get_write_buffer_size()
            self._timer = asyncio.get_running_loop().call_later(self.connections.seconds, self._expire)

    def _expire(self) -> None:
        """Close the connection, unless the client has read a part of an answer since the last deadline."""
        unread = self._transport.get_write_buffer_size()
        if 0 < unread < self._unread:
            self._unread = unread
            self._timer = asyncio.get_running_loop().call_later(self.connections.seconds, self._expire)
        else:
            self.drop()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
