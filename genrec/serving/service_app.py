"""The HTTP service of `genrec serve`: search items, recommend to a history, and a page that does both.

    GET /                      the page; it loads nothing from elsewhere
    GET /rows                  the rows that are served, with the warning of an untrained policy, and the limits
    GET /items?search=WORDS    items with all of these words in their title, the most popular first
    POST /recommend            {"history": [ids, oldest first], "n": 10, "exclude_seen": false} -> a list of every row

Errors are JSON, {"error": text}: 400 for wrong input, 413 for a body that is too large. The service keeps nothing of a request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from threading import Lock
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from genrec.errors import GenrecError, InputError
from genrec.hashed_json import Listed, Optional, Shape, find_mismatch
from genrec.serving.item_recommender import History
from genrec.serving.trained_rows import TrainedRow

MAX_BODY = 65_536  # bytes of a request
MAX_HISTORY = 500  # items
MAX_N = 100  # items of a list
MAX_SEARCH = 200  # characters
FOUND = 20  # items of a search
REQUEST: Mapping[str, Shape] = {"history": Listed(str), "n": Optional(int), "exclude_seen": Optional(bool)}


def create_app(rows: Sequence[TrainedRow]) -> FastAPI:
    """Return the service for one row or several, whose lists are shown side by side. Items are searched in the first row."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # their pages load scripts from elsewhere
    html, policy = _page(rows)
    computing = Lock()  # a list uses all threads of torch; lists wait for each other

    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(html, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})

    @app.get("/rows")
    def describe() -> dict[str, Any]:
        return {"rows": [_described(row) for row in rows], "max_n": longest(rows), "max_history": MAX_HISTORY}

    @app.get("/items")
    def items(search: str = "") -> dict[str, Any]:
        if not search.strip() or len(search) > MAX_SEARCH:
            raise InputError(f"search must have 1 to {MAX_SEARCH} characters, got {len(search)}; write /items?search=WORDS")
        catalog = rows[0].items.catalog
        numbers = catalog.search(search)
        found = [_item(rows[0], number) for number in numbers[:FOUND]]
        return {"items": found, "matches": len(numbers)}

    @app.post("/recommend")
    async def recommend(request: Request) -> dict[str, Any]:
        wanted = parsed(await _body(request))

        def lists() -> dict[str, Any]:
            with computing:
                return {"lists": [recommended(row, wanted, longest(rows)) for row in rows]}

        return await run_in_threadpool(lists)

    @app.exception_handler(GenrecError)
    def explain(request: Request, error: GenrecError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(HTTPException)
    def refuse(request: Request, error: HTTPException) -> JSONResponse:
        known = "there are GET /, GET /rows, GET /items?search=WORDS and POST /recommend"
        what = {404: f"there is no such page; {known}", 405: f"the method does not fit the page; {known}"}
        return JSONResponse({"error": what.get(error.status_code, str(error.detail))}, error.status_code)

    @app.exception_handler(Exception)
    def fail(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "the service failed; its log on the terminal names the cause"}, 500)

    return app


def longest(rows: Sequence[TrainedRow]) -> int:
    """Return the length of the longest list that every row can give."""
    return min([MAX_N, *(min(len(row.items.catalog), row.items.num_beams or MAX_N) for row in rows)])


def parsed(body: bytes) -> dict[str, Any]:
    """Return the content of a request for a list. Raises InputError for another form."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise InputError('the body must be JSON, such as {"history": ["ID", "ID"], "n": 10}') from None
    mismatch = find_mismatch(content, REQUEST, "the body")
    unknown = "" if mismatch else ", ".join(sorted(map(repr, content.keys() - REQUEST.keys()))[:3])
    if mismatch or unknown:
        raise InputError(f"{mismatch or f'the body has the unknown entries {unknown}'}; expected history, n and exclude_seen")
    if len(content["history"]) > MAX_HISTORY:
        raise InputError(f"history has {len(content['history']):,} items, expected at most {MAX_HISTORY}; send the most recent ones")
    found: dict[str, Any] = content
    return found


def recommended(row: TrainedRow, wanted: dict[str, Any], most: int) -> dict[str, Any]:
    """Return the list of a row for a parsed request; `shared_prefix` is the longest prefix that an item shares with the history."""
    n = wanted.get("n", min(10, most))
    if not 1 <= n <= most:
        raise InputError(f"n must lie in 1..{most}, got {n}")
    numbers = []
    for place, item in enumerate(wanted["history"]):
        if item not in row.items.catalog.numbers:
            raise InputError(f"history[{place}]: {row.name} has no item {item[:80]!r}; find ids with /items?search=WORDS")
        numbers.append(row.items.catalog.numbers[item])
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


async def _body(request: Request) -> bytes:
    """Return the body, read up to its limit. Raises HTTPException 413 if it is larger, before the rest arrives."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY:,} bytes; send a shorter history")
        parts.append(part)
    return b"".join(parts)


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
