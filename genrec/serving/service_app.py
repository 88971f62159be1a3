"""The HTTP service of `genrec serve`: search items, recommend to a history, and a page that does both.

    GET /                      the page; it loads nothing from elsewhere
    GET /rows                  the rows that are served, with the warning of an untrained policy, and the limits
    GET /items?search=WORDS    items with all of these words in their title, the most popular first
    POST /items                {"ids": [ids]} -> the items that every row has, in this order, and the ids that are unknown
    POST /recommend            {"history": [ids, oldest first], "n": 10, "exclude_seen": false} -> a list of every row

Errors are JSON, {"error": text}: 400 for wrong input, 408 for a body that arrives too slowly, 413 for one that is too large, 431 for a
header that is too large, 503 if too many requests wait for their answers, and 500 for an error of the service, with no detail: errors
of genrec may name files of this machine. A `Host` header that names another host than this one gets 400, because a page of another
site could otherwise reach the service under a name of its own (DNS rebinding). The service keeps nothing of a request.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from html import escape
from importlib import resources
from threading import Lock
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genrec.hashed_json import Listed, Optional, Shape, find_mismatch
from genrec.serving.header_limit import with_short_header
from genrec.serving.item_recommender import History
from genrec.serving.trained_rows import TrainedRow
from genrec.types import Baseline

MAX_BODY = 65_536  # bytes of a request
BODY_SECONDS = 10.0  # in which a body must arrive
MAX_REQUESTS = 64  # that wait for their answers; a request is one of them when its body has arrived
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_HISTORY = 500  # items
MAX_N = 100  # items of a list
MAX_SEARCH = 200  # characters
FOUND = 20  # items of a search
REQUEST: Mapping[str, Shape] = {"history": Listed(str), "n": Optional(int), "exclude_seen": Optional(bool)}
IDS: Mapping[str, Shape] = {"ids": Listed(str)}


def create_app(rows: Sequence[TrainedRow], hosts: Collection[str] = (), body_seconds: float = BODY_SECONDS) -> FastAPI:
    """Return the service for one row or several, whose lists are shown side by side. Items are searched in the first row.

    Args:
        rows: the rows.
        hosts: names and addresses of this machine that a `Host` header may have, beside `LOOPBACK` and the address of the connection.
        body_seconds: time in which the body of a request must arrive.

    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # their pages load scripts from elsewhere
    app.add_middleware(_with_whole_bodies, seconds=body_seconds, most=MAX_REQUESTS)
    app.add_middleware(_checking_host, hosts=frozenset(map(host_name, (*LOOPBACK, *hosts))))
    app.add_middleware(with_short_header)
    html, policy = _page(rows)
    computing = Lock()  # a list uses all threads of torch; lists wait for each other

    # answers that compute nothing are coroutines, so that they do not wait for a thread
    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})

    @app.get("/rows")
    async def describe() -> dict[str, Any]:
        return {"rows": [_described(row) for row in rows], "max_n": longest(rows), "max_history": MAX_HISTORY}

    @app.get("/items")
    def items(search: str = "") -> dict[str, Any]:
        if not search.strip() or len(search) > MAX_SEARCH:
            raise _wrong(f"search must have 1 to {MAX_SEARCH} characters, got {len(search)}; write /items?search=WORDS")
        catalog = rows[0].items.catalog
        numbers = catalog.search(search)
        found = [_item(rows[0], number) for number in numbers[:FOUND]]
        return {"items": found, "matches": len(numbers)}

    @app.post("/items")
    async def items_of(request: Request) -> dict[str, Any]:
        ids = parsed(await request.body(), IDS, "ids")["ids"]
        return await run_in_threadpool(known_items, rows, ids)

    @app.post("/recommend")
    async def recommend(request: Request) -> dict[str, Any]:
        wanted = parsed(await request.body(), REQUEST, "history")

        def lists() -> dict[str, Any]:
            with computing:
                return {"lists": [recommended(row, wanted, longest(rows)) for row in rows]}

        return await run_in_threadpool(lists)

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> JSONResponse:
        known = "there are GET /, GET /rows, GET /items?search=WORDS, POST /items and POST /recommend"
        what = {404: f"there is no such page; {known}", 405: f"the method does not fit the page; {known}"}
        return _refusal(error, what.get(error.status_code, ""))

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "the service failed; its log on the terminal names the cause"}, 500)

    return app


def longest(rows: Sequence[TrainedRow]) -> int:
    """Return the length of the longest list that every row can give."""
    return min([MAX_N, *(min(len(row.items.catalog), row.items.num_beams or MAX_N) for row in rows)])


def parsed(body: bytes, shape: Mapping[str, Shape], items: str) -> dict[str, Any]:
    """Return the content of a request of this shape; its entry `items` lists ids. Raises HTTPException 400 for another form."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        more = ', "n": 10' if "n" in shape else ""
        raise _wrong(f'the body must be JSON, such as {{"{items}": ["ID", "ID"]{more}}}') from None
    mismatch = find_mismatch(content, shape, "the body")
    unknown = "" if mismatch else ", ".join(sorted(map(repr, content.keys() - shape.keys()))[:3])
    if mismatch or unknown:
        *first, last = shape
        expected = f"{', '.join(first)} and {last}" if first else last
        raise _wrong(f"{mismatch or f'the body has the unknown entries {unknown}'}; expected {expected}")
    if len(content[items]) > MAX_HISTORY:
        raise _wrong(f"{items} has {len(content[items]):,} items, expected at most {MAX_HISTORY}; send the most recent ones")
    found: dict[str, Any] = content
    return found


def known_items(rows: Sequence[TrainedRow], ids: Sequence[str]) -> dict[str, Any]:
    """Return the items with these ids that every row has, in this order, and the ids that some row lacks."""
    known = [item for item in ids if all(item in row.items.catalog.numbers for row in rows)]
    items = [_item(rows[0], rows[0].items.catalog.numbers[item]) for item in known]
    return {"items": items, "unknown": [item for item in dict.fromkeys(ids) if item not in known]}


def recommended(row: TrainedRow, wanted: dict[str, Any], most: int) -> dict[str, Any]:
    """Return the list of a row for a parsed request; `shared_prefix` is the longest prefix that an item shares with the history."""
    n = wanted.get("n", min(10, most))
    if not 1 <= n <= most:
        raise _wrong(f"n must lie in 1..{most}, got {n}")
    numbers = []
    for place, item in enumerate(wanted["history"]):
        if item not in row.items.catalog.numbers:
            raise _wrong(f"history[{place}]: {row.name} has no item {item[:80]!r}; find ids with /items?search=WORDS")
        numbers.append(row.items.catalog.numbers[item])
    if not numbers and not isinstance(row.items.specification, Baseline):
        raise _wrong(
            f"{row.name}: the history is empty, and a trained policy needs at least one item; find ids with /items?search=WORDS"
        )
    exclude = wanted.get("exclude_seen", row.filter_seen)
    ranking = row.items.rank([History(numbers, numbers if exclude else ())], n)
    listed = [(number, score) for number, score in zip(ranking.items[0].tolist(), ranking.scores[0].tolist(), strict=True) if number]
    items = [_item(row, number) | {"position": place, "score": score} for place, (number, score) in enumerate(listed, start=1)]
    semantic_ids = row.items.semantic_ids
    if semantic_ids is not None and numbers and items:
        depths = semantic_ids.prefix_depth(torch.tensor([[number] for number, _ in listed]), torch.tensor([numbers])).amax(1)
        items = [item | {"shared_prefix": depth} for item, depth in zip(items, depths.tolist(), strict=True)]
    taken = [_item(row, number) for number in numbers]
    return {"row": row.name, "seed": row.seed, "exclude_seen": exclude, "history": taken, "items": items}


def _item(row: TrainedRow, number: int) -> dict[str, Any]:
    """Return what is shown of an item."""
    catalog, semantic_ids = row.items.catalog, row.items.semantic_ids
    about = {"item_id": catalog.ids[number - 1], "title": catalog.titles[number - 1], "cold": catalog.is_cold(number)}
    return about if semantic_ids is None else about | {"codes": semantic_ids.codes[number - 1].tolist()}


def _described(row: TrainedRow) -> dict[str, Any]:
    policy, catalog = type(row.items.specification).__name__, row.items.catalog
    about = {"row": row.name, "seed": row.seed, "policy": policy, "items": len(catalog), "exclude_seen": row.filter_seen}
    return about | {"warning": row.warning}


def _wrong(why: str) -> HTTPException:
    """Return the error of a wrong request."""
    return HTTPException(400, why)


def _refusal(error: HTTPException, why: str = "") -> JSONResponse:
    """Return the answer to a request that is refused."""
    return JSONResponse({"error": why or str(error.detail)}, error.status_code, error.headers)


def _with_whole_bodies(app: ASGIApp, seconds: float, most: int) -> ASGIApp:
    """Return the application for requests with a whole body, of which it works on `most` at once; further ones get 503.

    A request counts from the arrival of its whole body to its answer, so slow clients keep nobody out.
    """
    working = 0

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal working
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        try:
            body = await _body(Request(scope, receive), seconds)
            if working >= most:
                raise HTTPException(503, f"{most} requests wait for their answers; send the request again later", {"Retry-After": "1"})
        except HTTPException as error:
            await _refusal(error)(scope, receive, send)
            return
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        answer: list[Message] = []

        async def received() -> Message:
            return waiting.pop() if waiting else await receive()

        async def keep(message: Message) -> None:
            answer.append(message)

        working += 1
        try:
            await app(scope, received, keep)
        finally:
            working -= 1
        for message in answer:
            await send(message)

    return limited


async def _body(request: Request, seconds: float) -> bytes:
    """Return the body, read to its limit. Raises HTTPException 413 if it is larger, before the rest arrives; 408 if it is late."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY:
                    raise HTTPException(413, f"the body is larger than {MAX_BODY:,} bytes; send a shorter history")
                parts.append(part)
    except TimeoutError:
        late = f"the body did not arrive within {seconds:g} s; send the request again, all of it at once"
        raise HTTPException(408, late, {"Connection": "close"}) from None
    except ClientDisconnect:  # nobody reads the answer
        raise _wrong("the client closed the connection before the body had arrived") from None
    return b"".join(parts)


def _checking_host(app: ASGIApp, hosts: Collection[str]) -> ASGIApp:
    """Return the application for requests to these hosts, to the address of the connection, or without a `Host`, as HTTP/1.0 has.

    Other requests get 400. `TrustedHostMiddleware` of Starlette does not know the address of the connection.
    """

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        wanted = Headers(scope=scope).get("host") if scope["type"] == "http" else None
        if wanted is None or host_name(wanted) in (*hosts, host_name(str((scope.get("server") or ("",))[0]))):
            await app(scope, receive, send)
            return
        why = f"this service does not have the name {wanted[:80]!r}; use its address, or start it with --allow-host NAME"
        await JSONResponse({"error": why}, 400)(scope, receive, send)

    return checked


def host_name(text: str) -> str:
    """Return the name or address of a `Host` header, without its port, in small letters; text of another form as it is."""
    plain = text.strip().lower()
    found = re.fullmatch(r"(?:\[(?P<address>[^\]]+)\]|(?P<name>[^:]*))(?::[0-9]*)?", plain)
    return (found["address"] or found["name"]).rstrip(".") if found else plain


def _page(rows: Sequence[TrainedRow]) -> tuple[str, str]:
    """Return the page, with the warnings of the rows, and the policy that allows its own script and style alone, by their hashes."""
    style, script, html = (_file(f"service.{ending}") for ending in ("css", "js", "html"))
    policy = (
        f"default-src 'none'; connect-src 'self'; script-src 'sha256-{_hash(script)}'; style-src 'sha256-{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    sentences = [f"Warning: {row.name}, seed {row.seed}: {row.warning}." for row in rows if row.warning]
    warnings = "\n".join(f'<p class="warning">{escape(sentence)}</p>' for sentence in sentences)
    parts = {"/*style*/": style, "/*script*/": script, "<!--warnings-->": warnings}
    return re.sub("|".join(map(re.escape, parts)), lambda found: parts[found[0]], html), policy


def _file(name: str) -> str:
    return resources.files("genrec.serving").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
