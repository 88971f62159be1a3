"""`genrec serve`: the lists are those of the rows, wrong requests are explained, and the page shows texts as texts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient
from worlds import cyclic

import genrec
from genrec import run_experiments
from genrec.__main__ import main
from genrec.baselines import SASRec
from genrec.serving import CatalogItems, TrainedRow, export
from genrec.serving.serve_command import listening
from genrec.serving.service_app import MAX_BODY, MAX_HISTORY, create_app

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
HOSTILE = "<script>document.title='broken'</script> \"robust\" & '\u2028"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Exports of TIGER and SASRec."""
    home = tmp_path_factory.mktemp("home")
    sasrec = replace(cyclic(steps=10), name="sasrec", tokenize=None, policy=SASRec(d_model=16, d_ff=16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(home))
        run_experiments.run([cyclic(steps=10), sasrec])
        for name in ("cyclic", "sasrec"):
            export(name, home / "out" / name)
    return [str(home / "out" / name) for name in ("cyclic", "sasrec")]


@pytest.fixture(scope="module")
def rows(folders: list[str]) -> list[TrainedRow]:
    return [genrec.load(folder) for folder in folders]


@pytest.fixture
def client(rows: list[TrainedRow]) -> TestClient:
    return TestClient(create_app(rows))


def test_the_lists_are_those_of_the_rows(client: TestClient, rows: list[TrainedRow]) -> None:
    history = ["item-3", "item-7"]
    answer = client.post("/recommend", json={"history": history, "n": 6, "exclude_seen": True})
    assert answer.status_code == 200
    for found, row in zip(answer.json()["lists"], rows, strict=True):
        expected = row.recommend(history, n=6, exclude_seen=True)
        assert (found["row"], found["seed"], found["exclude_seen"]) == (row.name, 0, True)
        for column in ("position", "item_id", "title", "score", "cold"):
            assert [item[column] for item in found["items"]] == expected[column].tolist()
    tiger, sasrec = answer.json()["lists"]
    assert ["-".join(map(str, item["codes"])) for item in tiger["items"]] == rows[0].recommend(history, 6, exclude_seen=True)[
        "semantic_id"
    ].tolist()
    assert "codes" not in sasrec["items"][0]


def test_the_shared_prefix_is_the_longest_one_with_an_item_of_the_history(client: TestClient, rows: list[TrainedRow]) -> None:
    found = client.post("/recommend", json={"history": ["item-3", "item-7"], "n": 20}).json()["lists"][0]["items"]
    codes = {item: text.split("-") for item, text in rows[0].semantic_ids()[["item_id", "semantic_id"]].to_numpy().tolist()}
    for item in found:
        own = codes[item["item_id"]]
        longest = [level for level in range(len(own) + 1) if own[:level] in (codes["item-3"][:level], codes["item-7"][:level])]
        assert item["shared_prefix"] == max(longest)
    assert len({item["shared_prefix"] for item in found}) > 1


def test_items_are_searched_by_title(client: TestClient, rows: list[TrainedRow]) -> None:
    title = rows[0].items.catalog.titles[2]
    found = client.get("/items", params={"search": title.split()[0]}).json()
    assert title in [item["title"] for item in found["items"]]
    assert found["matches"] == len(rows[0].items.catalog.search(title.split()[0]))
    assert client.get("/items", params={"search": "zzzz"}).json() == {"items": [], "matches": 0}
    about = client.get("/rows").json()
    assert [row["row"] for row in about["rows"]] == ["cyclic", "sasrec"]
    assert about["max_n"] == 20  # the beams of TIGER


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body must be JSON"),
        (b"\xff", "the body must be JSON"),
        (b"[" * 20_000, "the body must be JSON"),
        (b"[]", "the body is [], expected an object; expected history, n and exclude_seen"),
        (b"{}", "the body has no entry history"),
        (b'{"history": "item-3"}', "history is 'item-3', expected a list"),
        (b'{"history": [3]}', "history[0] is 3, expected a text"),
        (b'{"history": ["item-3"], "n": true}', "n is True, expected an integer"),
        (b'{"history": ["item-3"], "n": NaN}', "n is nan, expected an integer"),
        (b'{"history": ["item-3"], "n": 0}', "n must lie in 1..20, got 0"),
        (b'{"history": ["item-3"], "n": 21}', "n must lie in 1..20, got 21"),
        (b'{"history": ["item-3"], "user": 1}', "the body has the unknown entries 'user'"),
        (b'{"history": ["item-3", "\\ud800"]}', "history[1]: cyclic has no item '\\ud800'"),
        (b'{"history": []}', "the history is empty, and a trained policy needs at least one item"),
        (json.dumps({"history": ["item-3"] * (MAX_HISTORY + 1)}).encode(), "history has 501 items, expected at most 500"),
    ],
    ids=str,
)
def test_wrong_requests_are_explained(body: bytes, message: str, client: TestClient) -> None:
    answer = client.post("/recommend", content=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_limits_of_requests_and_unknown_pages(client: TestClient) -> None:
    limit = client.post("/recommend", json={"history": ["item-3"] * MAX_HISTORY})
    assert limit.status_code == 200
    for body in (b" " * (MAX_BODY + 1), iter([b" " * MAX_BODY, b" "])):
        answer = client.post("/recommend", content=body)
        assert (answer.status_code, answer.json()) == (413, {"error": "the body is larger than 65,536 bytes; send a shorter history"})
    assert "search must have 1 to 200 characters, got 201" in client.get("/items", params={"search": "a" * 201}).json()["error"]
    assert client.get("/items").status_code == 400
    for path, status in (("/docs", 404), ("/openapi.json", 404), ("/recommend", 405)):
        answer = client.get(path)
        assert answer.status_code == status
        assert "POST /recommend" in answer.json()["error"]


def test_a_failure_tells_nothing_of_the_machine(rows: list[TrainedRow], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrec.serving.service_app.recommended", lambda *_: 1 / 0)
    answer = TestClient(create_app(rows), raise_server_exceptions=False).post("/recommend", json={"history": ["item-3"]})
    assert (answer.status_code, answer.json()) == (500, {"error": "the service failed; its log on the terminal names the cause"})


def test_the_page_needs_no_other_server(client: TestClient) -> None:
    answer = client.get("/")
    assert not re.search(r"https?:|src=|@import|innerHTML", answer.text)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_the_page_warns_of_a_policy_that_was_not_trained(rows: list[TrainedRow], client: TestClient) -> None:
    """The sentence of `genrec recommend`, as text; rows without a warning have none."""
    assert "Warning" not in client.get("/").text
    hostile = replace(rows[0], name=HOSTILE, warning="align changed nothing: step 0 was the best & /*script*/")
    service = TestClient(create_app([hostile, rows[1]]))
    page = service.get("/").text
    assert page.count('<p class="warning">') == 1
    assert "&amp; &#x27;\u2028, seed 0: align changed nothing: step 0 was the best &amp; /*script*/.</p>" in page
    assert "Warning: &lt;script&gt;document.title" in page
    assert "<script>document" not in page
    assert [row["warning"] for row in service.get("/rows").json()["rows"]] == [hostile.warning, ""]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent/folder"], 2, "the folder absent/folder does not exist"),
        (["--port", "70000"], 2, "--port must lie in 0..65535"),
        (["--host", "256.1.1.1"], 2, "cannot listen on 256.1.1.1, port"),
    ],
)
def test_wrong_options(arguments: list[str], code: int, message: str, folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    names = [] if arguments[0].startswith("absent") else folders
    port = [] if "--port" in arguments else ["--port", "0"]
    assert main(["serve", *names, *arguments, *port]) == code
    assert message in capsys.readouterr().err


def test_a_taken_port_is_named(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", folders[0], "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in capsys.readouterr().err


def test_a_missing_library_is_named(folders: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", folders[0]]) == 5
    assert "pip install 'genrec[serve]'" in capsys.readouterr().err


def test_the_command_serves_until_it_is_interrupted(folders: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "GENREC_HOME": str(tmp_path / "absent"), "PYTHONPATH": str(Path(genrec.__file__).parents[1])}
    command = [sys.executable, "-m", "genrec", "serve", *folders, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        found = re.match(r"http://127.0.0.1:(\d+) ", process.stdout.readline())
        assert found is not None
        with socket.create_connection(("127.0.0.1", int(found[1]))) as connection:
            connection.sendall(b"GET /rows HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        process.send_signal(signal.SIGINT)
        process.wait()
    assert b'"row":"cyclic"' in answer


@pytest.fixture
def address(rows: list[TrainedRow]) -> Iterator[str]:
    """Serve rows of which every item has a hostile title."""
    catalog = CatalogItems(rows[0].items.catalog.ids, (HOSTILE,) * 40, np.ones(40, dtype=np.int64))
    hostile = [replace(row, items=row.items._replace(catalog=catalog)) for row in rows]
    with listening("127.0.0.1", 0) as bound:
        server = uvicorn.Server(uvicorn.Config(create_app(hostile), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


def test_four_clients_at_once_get_the_lists_of_one(address: str, client: TestClient) -> None:
    """The lists of several requests wait for each other, so none of them fails or mixes with another."""
    requests = [{"history": [f"item-{number}"], "n": 5} for number in range(12)]

    def scores(answer: httpx.Response) -> list[tuple[str, float]]:
        assert answer.status_code == 200
        return [(item["item_id"], item["score"]) for found in answer.json()["lists"] for item in found["items"]]

    expected = [scores(client.post("/recommend", json=each)) for each in requests]
    with ThreadPoolExecutor(4) as clients:
        found = list(clients.map(lambda each: scores(httpx.post(f"{address}recommend", json=each)), requests))
    assert found == expected


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_chromium_shows_hostile_titles_as_text(address: str, client: TestClient, tmp_path: Path) -> None:
    """The page opens with a search and a history in its address, as a link to a result does."""
    history = [f"item-{number}" for number in range(10)]
    lists = client.post("/recommend", json={"history": history}).json()["lists"]
    shared = sum(item["shared_prefix"] for item in lists[0]["items"])
    assert shared
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--virtual-time-budget=8000"]
    link = f"{address}#search=robust&{'&'.join(f'history={item}' for item in history)}"
    done = subprocess.run([*command, "--dump-dom", link], capture_output=True, text=True, check=True)
    assert "<title>genrec serve</title>" in done.stdout
    assert "40 items match" in done.stdout
    assert done.stdout.count("<tr>") == 2 * 11
    assert done.stdout.count("<b>") == shared  # codes of shared prefixes; the other row has no Semantic IDs
    assert "cyclic, seed 0" in done.stdout
    assert "&lt;script&gt;document.title" in done.stdout
    assert "<script>document" not in done.stdout
