"""`genrec serve`: an HTTP service for rows and exports; only this file imports uvicorn."""

from __future__ import annotations

import argparse
import math
import socket

from genrec.errors import ResourceError, UsageError
from genrec.progress import say
from genrec.serving.row_loading import load

MAX_CONNECTIONS = 64  # that are served at once; further ones get status 503


def serve(options: argparse.Namespace) -> int:
    """Run the command until it is interrupted."""
    try:
        import uvicorn

        from genrec.serving.service_app import BODY_SECONDS, LOOPBACK, create_app, host_name
    except ImportError as error:
        raise ResourceError(f"genrec serve needs {error.name}, which is not installed: pip install 'genrec[serve]'") from error
    if not 0 <= options.port <= 65535:
        raise UsageError(f"--port must lie in 0..65535 (0: any free one), got {options.port}")
    seconds = BODY_SECONDS if options.body_seconds is None else options.body_seconds
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"--body-seconds must be a number of seconds above 0, got {seconds}")
    for name in options.allow_host:
        if not name or host_name(name) != name.lower().rstrip(".") or "/" in name:
            raise UsageError(f"--allow-host must be a name or an address without a port, such as lists.example, got {name!r}")
    bound = listening(options.host, options.port)
    with bound:
        rows = [load(name, code=options.code) for name in options.names]
        host, port = bound.getsockname()[:2]
        if options.host not in LOOPBACK:
            say(
                f"every machine that reaches {options.host} can use the service: it asks for no password; names of this machine other "
                "than its address need --allow-host NAME"
            )
        app = create_app(rows, [options.host, *options.allow_host], seconds)
        print(f"http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl+C stops it)", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False, limit_concurrency=MAX_CONNECTIONS)
        uvicorn.Server(config).run(sockets=[bound])
    return 0


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises UsageError if the address cannot be used, such as a port that is taken."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((str(address[0]), port), family=family)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}, port {port} ({error}); choose another with --host or --port") from error
