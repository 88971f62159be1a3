"""`genrec serve`: an HTTP service for rows and exports; only this file imports uvicorn."""

from __future__ import annotations

import argparse
import math
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from genrec.errors import ResourceError, UsageError
from genrec.evaluation.statistics.paired_tests import enumerated
from genrec.id_matching import FEW, Ids, no_overlap
from genrec.progress import say
from genrec.serving.row_loading import load
from genrec.serving.trained_rows import TrainedRow
from genrec.types.event_history import in_words

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

MAX_CONNECTIONS = 128  # open at once, half of the least usual limit of open files; then the one that waits longest is closed
IDLE_SECONDS = 5.0  # in which a client must send the header of a request, and go on reading an answer


def serve(options: argparse.Namespace) -> int:
    """Run the command until it is interrupted."""
    try:
        import uvicorn  # noqa: F401

        from genrec.serving.service_app import BODY_SECONDS, LOOPBACK, create_app, host_name
    except ImportError as error:
        raise ResourceError(f"genrec serve needs {error.name}, which is not installed: pip install 'genrec[serve]'") from error
    if not 0 <= options.port <= 65535:
        raise UsageError(f"--port must lie in 0..65535 (0: any free one), got {options.port}")
    body_seconds = _seconds(options.body_seconds, BODY_SECONDS, "--body-seconds")
    idle_seconds = _seconds(options.idle_seconds, IDLE_SECONDS, "--idle-seconds")
    for name in options.allow_host:
        if not name or host_name(name) != name.lower().rstrip(".") or "/" in name:
            raise UsageError(f"--allow-host must be a name or an address without a port, such as lists.example, got {name!r}")
    bound = listening(options.host, options.port)
    with bound:
        rows = [load(name, code=options.code) for name in options.names]
        check_reads_items(rows)
        check_common_items(rows)
        host, port = bound.getsockname()[:2]
        if options.host not in LOOPBACK:
            say(
                f"every machine that reaches {options.host} can use the service: it asks for no password; names of this machine other "
                "than its address need --allow-host NAME"
            )
        app = create_app(rows, [options.host, *options.allow_host], body_seconds)
        print(f"http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl+C stops it)", flush=True)
        server(app, idle_seconds).run(sockets=[bound])
    return 0


def check_reads_items(rows: Sequence[TrainedRow]) -> None:
    """Raise UsageError if a policy reads more of a history than its items, which is all that a request has."""
    for row in rows:
        if row.items.inputs:
            raise UsageError(
                f"{row.items.name} cannot be served: {type(row.items.specification).__name__} reads {in_words(row.items.inputs)} of a "
                "history, and a request has a list of items alone; leave this row out, or use genrec recommend --user ID"
            )


def check_common_items(rows: Sequence[TrainedRow]) -> None:
    """Raise InputError if the rows have no item in common, and warn if these are fewer than half of a row's items.

    The lists of all rows are made for one history, so it can only hold items that every row has.
    """
    common, names = list(rows[0].items.catalog.ids), [rows[0].items.name]
    for row in rows[1:]:
        known, before = row.items.catalog.numbers, names
        shared, names = [item for item in common if item in known], [*before, row.items.name]
        if not shared:
            what = (
                f"{enumerated(names)} have 0 items in common (of {len(common):,} and {len(known):,} items), so no history has a list "
                "of each; serve rows of one catalog, or each with a --port of its own"
            )
            raise no_overlap(
                Ids(f"the items of {enumerated(before)}", common), Ids(f"the items of {row.items.name}", list(known)), what
            )
        common = shared
    most = max(len(row.items.catalog) for row in rows)
    if len(common) < FEW * most:
        say(f"warning: {enumerated(names)} have {len(common):,} of up to {most:,} items in common; a history can only hold these")


def server(app: ASGIApp, idle_seconds: float = IDLE_SECONDS, most: int = MAX_CONNECTIONS) -> uvicorn.Server:
    """Return a server for an application, with limits for its connections (`genrec.serving.connection_limits`).

    h11 refuses more than 16 KiB of a header that is not complete; the application refuses a longer one that is. The backlog is also
    the number of connections that are accepted at once. Warnings are not logged, because each malformed request causes one.
    """
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from genrec.serving.connection_limits import Connections

    connections = Connections(H11Protocol, idle_seconds, most)
    return uvicorn.Server(
        uvicorn.Config(app, http=connections.make, ws="none", backlog=MAX_CONNECTIONS, log_level="error", access_log=False)  # type: ignore[arg-type]
    )


def _seconds(chosen: float | None, default: float, option: str) -> float:
    """Return the value of an option, or its default. Raises UsageError unless it is a number of seconds."""
    seconds = default if chosen is None else chosen
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"{option} must be a number of seconds above 0, got {seconds}")
    return seconds


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises UsageError if the address cannot be used, such as a port that is taken."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((str(address[0]), port), family=family)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}, port {port} ({error}); choose another with --host or --port") from error
