"""`genrec serve`: the lists are those of the rows, wrong requests are explained, and the page shows texts as texts."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from html import unescape
from pathlib import Path
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient
from starlette.responses import Response
from starlette.types import ASGIApp, Message
from worlds import cyclic

import genrec
from genrec import run_experiments
from genrec.__main__ import main
from genrec.baselines import SASRec
from genrec.errors import InputError
from genrec.serving import CatalogItems, TrainedRow, export
from genrec.serving.connection_limits import Connections
from genrec.serving.header_limit import MAX_HEADER, header_bytes
from genrec.serving.serve_command import check_common_items, listening, server
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
        (b'{"history": []}', "cyclic: the history is empty, and a trained policy needs at least one item"),
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


def test_the_items_of_a_link_are_those_that_every_row_has(rows: list[TrainedRow]) -> None:
    """In order, with repetitions; the ids that a row lacks are named once each."""
    fewer = CatalogItems(("item-7", *(f"other-{number}" for number in range(39))), ("one",) * 40, np.ones(40, dtype=np.int64))
    client = TestClient(create_app([rows[0], replace(rows[1], items=rows[1].items._replace(catalog=fewer))]))
    found = client.post("/items", json={"ids": ["item-7", "<b>", "item-3", "item-7", "<b>"]}).json()
    assert [item["item_id"] for item in found["items"]] == ["item-7", "item-7"]
    assert found["items"][0]["title"] == rows[0].items.catalog.titles[rows[0].items.catalog.numbers["item-7"] - 1]
    assert found["unknown"] == ["<b>", "item-3"]
    for body, message in (({"ids": "a"}, "ids is 'a', expected a list; expected ids"), ({"ids": ["a"] * 501}, "ids has 501 items")):
        answer = client.post("/items", json=body)
        assert answer.status_code == 400
        assert message in answer.json()["error"]


def test_an_error_of_genrec_names_no_file_of_this_machine(
    rows: list[TrainedRow], folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of an error may have the folder of the export, or a file of the user's own code."""

    def fail(*_: object) -> None:
        raise InputError(f"{folders[0]} is damaged")

    monkeypatch.setattr("genrec.serving.item_recommender.ItemRecommender.rank", fail)
    answer = TestClient(create_app(rows), raise_server_exceptions=False).post("/recommend", json={"history": ["item-3"]})
    assert (answer.status_code, answer.json()) == (500, {"error": "the service failed; its log on the terminal names the cause"})


RECOMMEND = {
    "type": "http", "method": "POST", "path": "/recommend", "query_string": b"", "headers": [], "server": ("127.0.0.1", 1)
}  # fmt: skip


def answers(app: ASGIApp, messages: list[dict[str, object]], scope: dict[str, object] = RECOMMEND) -> list[Message]:
    """Return what the application sends to a client that sends these messages and then nothing."""
    sent: list[Message] = []

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()  # for ever
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def test_a_client_that_closes_its_connection_raises_nothing(rows: list[TrainedRow]) -> None:
    """An error would be a traceback in the log of the service, for every client that gives up."""
    first = {"type": "http.request", "body": b'{"history": ', "more_body": True}
    assert answers(create_app(rows), [first, {"type": "http.disconnect"}])[0]["status"] == 400


def test_a_slow_body_gets_408_and_the_connection_is_closed(rows: list[TrainedRow]) -> None:
    start, body = answers(create_app(rows, body_seconds=0.01), [{"type": "http.request", "body": b"{", "more_body": True}])
    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]
    message = "the body did not arrive within 0.01 s; send the request again, all of it at once"
    assert json.loads(body["body"]) == {"error": message}


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8000", True),
        ("LOCALHOST", True),
        ("[::1]:8000", True),
        ("localhost.:80", True),
        ("10.0.0.7:8000", True),  # the address of the connection
        ("lists.example", True),  # --allow-host
        ("lists.example.evil.example", False),
        ("evil.example:8000", False),
        ("10.0.0.8", False),
        ("localhost:8000.evil.example", False),
        ("", False),
    ],
)
def test_requests_under_other_names_are_refused(host: str, allowed: bool, rows: list[TrainedRow]) -> None:
    """A page of another site that gives its own name this machine's address (DNS rebinding) sends that name."""
    client = TestClient(create_app(rows, ["Lists.Example"]), base_url="http://10.0.0.7:8000")
    for answer in (client.get("/rows", headers={"Host": host}), client.post("/recommend", headers={"Host": host}, content=b"")):
        assert ("this service does not have the name" not in answer.text) is allowed
    assert client.get("/", headers={"Host": host}).status_code == (200 if allowed else 400)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--body-seconds", "nan"], 2, "--body-seconds must be a number of seconds above 0, got nan"),
        (["--body-seconds", "0"], 2, "--body-seconds must be a number of seconds above 0, got 0.0"),
        (["--idle-seconds", "-1"], 2, "--idle-seconds must be a number of seconds above 0, got -1.0"),
        (["--allow-host", "https://lists.example"], 2, "--allow-host must be a name or an address without a port"),
        (["--allow-host", "lists.example:80"], 2, "--allow-host must be a name or an address without a port"),
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


def with_ids(row: TrainedRow, name: str, ids: Iterable[str]) -> TrainedRow:
    """Return a row with another name and other items."""
    names = tuple(ids)
    catalog = CatalogItems(names, names, np.ones(len(names), dtype=np.int64))
    return replace(row, items=row.items._replace(name=name, catalog=catalog))


def test_rows_without_common_items_are_refused(rows: list[TrainedRow], capsys: pytest.CaptureFixture[str]) -> None:
    """10 items are half of 20, and 9 are fewer. Three rows need items that all of them have."""
    first = with_ids(rows[0], "first", [f"a{number}" for number in range(10)])
    half = with_ids(rows[0], "half", [f"a{number}" for number in range(20)])
    fewer = with_ids(rows[0], "fewer", [f"a{number}" for number in range(1, 20)])
    check_common_items([first, half])
    assert capsys.readouterr().err == ""
    check_common_items([first, fewer])
    assert capsys.readouterr().err == "warning: first and fewer have 9 of up to 19 items in common; a history can only hold these\n"
    other = with_ids(rows[0], "other", ["A1", "A2", "a12"])
    with pytest.raises(
        InputError, match=r"first and other have 0 items in common \(of 10 and 3 items\).*the items of other have 'A1'"
    ):
        check_common_items([first, other])
    check_common_items([half, other])
    with pytest.raises(InputError, match=r"half, other and first have 0 items in common \(of 1 and 10 items\)"):
        check_common_items([half, other, first])


def test_the_command_refuses_rows_without_common_items(
    folders: list[str], rows: list[TrainedRow], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = iter([rows[0], with_ids(rows[1], "other", ["x"])])
    monkeypatch.setattr("genrec.serving.serve_command.load", lambda *_, **__: next(loaded))
    assert main(["serve", *folders, "--port", "0"]) == InputError.exit_code
    assert "and other have 0 items in common (of 40 and 1 items)" in capsys.readouterr().err


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


@contextmanager
def running(service: uvicorn.Server) -> Iterator[tuple[str, int]]:
    """Run a server and yield its address."""
    with listening("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=service.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield bound.getsockname()
        finally:
            service.should_exit = True
            thread.join()


GET_ROWS = b"GET /rows HTTP/1.1\r\nHost: localhost\r\n\r\n"
FOREVER = 3600.0  # seconds of a deadline that does not end in a test


def answer_of(connection: socket.socket) -> bytes:
    """Read one answer with a Content-Length, or what arrives before the connection is closed."""
    found = b""
    while not (whole := re.search(rb"(?s)content-length: (\d+)\r\n.*?\r\n\r\n", found)) or len(found) < whole.end() + int(whole[1]):
        if not (part := connection.recv(65_536)):
            break
        found += part
    return found


@pytest.mark.parametrize("fields", [[b"a: " + b"x" * 70_000], [b"a: b"] * 5_000], ids=["one", "many"])
def test_a_large_header_gets_431(fields: list[bytes], rows: list[TrainedRow]) -> None:
    """uvicorn takes a header of any length that arrives at once; h11 alone answers 400 if it does not."""
    with running(server(create_app(rows))) as place, socket.create_connection(place) as connection:
        connection.sendall(b"\r\n".join([b"GET /rows HTTP/1.1", b"Host: localhost", *fields, b"", b""]))
        assert re.match(rb"HTTP/1.1 4(31|00) ", answer_of(connection))


def test_the_largest_header(rows: list[TrainedRow]) -> None:
    """16,384 bytes with the request line and all line ends; one byte more gets 431 and a closed connection."""
    line, host = len(b"GET /rows HTTP/1.1\r\n"), len(b"host: localhost\r\n")
    room = MAX_HEADER - line - host - len(b"a: \r\n")
    for size, status in ((room, 200), (room + 1, 431)):
        headers = [(b"host", b"localhost"), (b"a", b"x" * size)]
        scope = {"type": "http", "method": "GET", "path": "/rows", "query_string": b"", "headers": headers, "server": ("127.0.0.1", 1)}
        assert (header_bytes(scope) == MAX_HEADER) is (status == 200)
        start, body = answers(create_app(rows), [{"type": "http.request", "body": b"", "more_body": False}], scope)
        assert start["status"] == status
        assert ((b"connection", b"close") in start["headers"]) is (status == 431)
    assert json.loads(body["body"])["error"].startswith("the header of the request is larger than 16,384 bytes")


@pytest.mark.parametrize("sent", [b"", b"GET /rows HTTP/1.1\r\nHost: loc"])
def test_a_connection_without_a_whole_header_is_closed(sent: bytes, rows: list[TrainedRow]) -> None:
    """Without the deadline, the end of the connection would never be read."""
    with running(server(create_app(rows), 0.05)) as place, socket.create_connection(place) as connection:
        connection.sendall(sent)
        assert answer_of(connection) == b""


def test_a_header_that_arrives_byte_by_byte_has_one_deadline() -> None:
    """A deadline of 1 ms that began anew with each byte would not end before the last of 100,000 bytes."""

    async def received() -> int:
        transport = Mock(get_write_buffer_size=lambda: 0)
        connection = Connections(Mock, 0.001, most=1).make()
        connection.connection_made(transport)
        count = 0
        while count < 100_000 and not transport.abort.called:
            connection.data_received(b"A")
            await asyncio.sleep(0)
            count += 1
        return count

    assert asyncio.run(received()) < 100_000


def test_an_idle_connection_is_closed_after_its_answer(rows: list[TrainedRow]) -> None:
    with running(server(create_app(rows), 0.1)) as place:
        answered = False
        while not answered:  # a machine may be too busy to send a request in time
            with socket.create_connection(place) as connection:
                connection.sendall(GET_ROWS)
                answered = answer_of(connection).startswith(b"HTTP/1.1 200 OK")
                assert connection.recv(1) == b""


def test_silent_connections_keep_nobody_out(rows: list[TrainedRow]) -> None:
    """8 connections may be open: of 100 silent ones and 5 with half a body, the earliest are closed, and others are served."""
    half = b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    service = server(create_app(rows, body_seconds=FOREVER), FOREVER, most=8)
    with running(service) as place, ExitStack() as silent:
        connections = [silent.enter_context(socket.create_connection(place)) for _ in range(105)]
        for connection in connections[-5:]:
            connection.sendall(half)
        for _ in range(10):
            with socket.create_connection(place) as other:
                other.sendall(GET_ROWS)
                assert answer_of(other).startswith(b"HTTP/1.1 200 OK")
        assert len(service.server_state.connections) <= 8
        for connection in connections[:90]:
            assert connection.recv(1) == b""
        for connection in connections:
            connection.close()


def test_a_client_that_does_not_read_its_answer_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of 50 MB is more than the buffers of the system hold. The second answer waits until the first is read."""
    closed, discard = threading.Event(), Connections.discard
    monkeypatch.setattr(Connections, "discard", lambda *arguments: (discard(*arguments), closed.set()))
    service = server(Response(bytes(50_000_000)), 0.1)
    with running(service) as place:
        while not service.server_state.total_requests:  # a machine may be too busy to send a request in time
            closed.clear()
            with socket.create_connection(place) as connection:
                connection.sendall(GET_ROWS * 2)
                closed.wait()


def test_a_client_that_reads_slowly_is_not_closed() -> None:
    """Of 90 bytes that are not read at the end of a request, 50 and then 20 are left at the deadlines, and 20 at the third one."""
    left = [90, 50, 20, 20]

    async def read() -> int:
        transport = Mock(get_write_buffer_size=lambda: left.pop(0))
        connection = Connections(Mock, 0.001, most=1).make()
        connection.connection_made(transport)
        while not transport.abort.called:
            await asyncio.sleep(0)
        return len(left)

    assert asyncio.run(read()) == 0


def test_requests_of_one_connection_may_be_sent_at_once(rows: list[TrainedRow]) -> None:
    last = GET_ROWS.replace(b"Host", b"Connection: close\r\nHost")
    with running(server(create_app(rows), FOREVER)) as place, socket.create_connection(place) as connection:
        connection.sendall(GET_ROWS * 3 + last)
        assert b"".join(iter(lambda: connection.recv(65_536), b"")).count(b"HTTP/1.1 200 OK") == 4


def test_malformed_and_huge_headers_are_refused(rows: list[TrainedRow], capfd: pytest.CaptureFixture[str]) -> None:
    """They are no lines of the log, which many of them would fill. A request to change to WebSocket is answered as any other."""
    upgrade = GET_ROWS.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\nHost")
    cases = [(b"\x16\x03\x01\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nA: " + b"a" * 20_000, 400), (upgrade, 200)]
    with running(server(create_app(rows), FOREVER)) as place:
        for sent, status in cases:
            with socket.create_connection(place) as connection:
                connection.sendall(sent)
                assert connection.recv(65_536).startswith(f"HTTP/1.1 {status} ".encode())
    assert capfd.readouterr().err == ""


def test_further_requests_get_503_and_slow_bodies_do_not_count(rows: list[TrainedRow], monkeypatch: pytest.MonkeyPatch) -> None:
    """One request may wait for its answer. The first body arrives slowly, the second is answered late, the third gets 503."""
    begun, ended = threading.Event(), threading.Event()

    def slow(*_: object) -> dict[str, object]:
        begun.set()
        ended.wait()
        return {}

    monkeypatch.setattr("genrec.serving.service_app.MAX_REQUESTS", 1)
    monkeypatch.setattr("genrec.serving.service_app.recommended", slow)
    with running(server(create_app(rows, body_seconds=FOREVER), FOREVER)) as place, ThreadPoolExecutor(1) as clients:
        url = f"http://127.0.0.1:{place[1]}"
        with socket.create_connection(place) as connection:
            connection.sendall(b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            second = clients.submit(httpx.post, f"{url}/recommend", json={"history": ["item-3"]}, timeout=None)
            begun.wait()
            third = httpx.get(f"{url}/rows", timeout=None)
            ended.set()
        assert (third.status_code, third.headers["retry-after"]) == (503, "1")
        assert third.json() == {"error": "1 requests wait for their answers; send the request again later"}
        assert second.result().json() == {"lists": [{}, {}]}
        assert httpx.get(f"{url}/rows", timeout=None).status_code == 200


@pytest.fixture
def address(rows: list[TrainedRow]) -> Iterator[str]:
    """Serve rows of which every item has a hostile title."""
    catalog = CatalogItems(rows[0].items.catalog.ids, (HOSTILE + " long" * 30,) * 40, np.ones(40, dtype=np.int64))
    hostile = [replace(row, items=row.items._replace(catalog=catalog)) for row in rows]
    with running(server(create_app(hostile))) as place:
        yield f"http://127.0.0.1:{place[1]}/"


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


def opened(link: str, folder: Path) -> str:
    """Return the page as Chromium shows it after it has loaded a link."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--virtual-time-budget=8000"]
    return subprocess.run([*command, "--dump-dom", link], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_chromium_opens_a_link_with_all_of_its_settings(address: str, client: TestClient, tmp_path: Path) -> None:
    """Known items stay beside unknown ones, which are named; the length and the choice of `exclude_seen` are those of the link."""
    dom = opened(f"{address}#history=item-3&history=%3Cb%3E&history=item-7&n=6&exclude_seen=true", tmp_path / "one")
    lists = client.post("/recommend", json={"history": ["item-3", "item-7"], "n": 6, "exclude_seen": True}).json()["lists"]
    assert dom.count("<tr>") == 2 * 7
    for found in lists:
        for item in found["items"]:
            assert f">{item['item_id']}<" in dom
    assert "items that are not known here: &lt;b&gt;." in dom
    places = [{item["item_id"]: item["position"] for item in found["items"]} for found in lists]
    shown = re.findall(r'<td class="number">(\d+|–)</td></tr>', dom)
    assert shown == [str(other.get(item, "–")) for own, other in (places, places[::-1]) for item in own]
    long = "&".join(["history=item-3"] * 101 + ["history=item-7"] * 500)
    dom = opened(f"{address}#{long}", tmp_path / "three")
    assert "The history of the link has 601 items; these are the newest 500, as many as a history can have." in dom
    assert dom.count('aria-label="Remove ') == 500
    dom = opened(f"{address}#history=item-3&n=600", tmp_path / "two")
    assert "The link asks for lists of 600 items; they have 1 to 20." in dom
    assert dom.count("<tr>") == 2 * 11


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_chromium_shows_hostile_titles_as_text(address: str, client: TestClient, tmp_path: Path) -> None:
    """The page opens with a search and a history in its address, as a link to a result does."""
    history = [f"item-{number}" for number in range(10)]
    lists = client.post("/recommend", json={"history": history}).json()["lists"]
    shared = sum(item["shared_prefix"] for item in lists[0]["items"])
    assert shared
    dom = opened(f"{address}#search=robust&{'&'.join(f'history={item}' for item in history)}", tmp_path)
    assert "<title>genrec serve</title>" in dom
    assert "40 items match" in dom
    assert dom.count("<tr>") == 2 * 11
    assert dom.count("<b>") == shared  # codes of shared prefixes; the other row has no Semantic IDs
    assert "cyclic, seed 0" in dom
    assert "&lt;script&gt;document.title" in dom
    titles = re.findall(r'<span class="title" title="[^"]*">([^<]*)</span>', dom)
    assert {len(unescape(title)) for title in titles} == {90}
    assert all(title.endswith("…") for title in titles)
    assert "<script>document" not in dom
