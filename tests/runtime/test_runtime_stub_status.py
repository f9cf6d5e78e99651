"""The page of `stub_status` and the variables of the same counts, to the letter."""

from __future__ import annotations

from pathlib import Path

from tests.runtime.serving import Serving
from upwell.proxy import phases

_PAGE = "server { listen 127.0.0.1:8080; location = /status { stub_status; } location / { return 200 x; } }"
_GET = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"


def test_the_page(tmp_path: Path) -> None:
    with Serving(tmp_path, _PAGE) as serving:
        asking, resting, beginning, leaving = (serving.client() for _ in range(4))
        resting.send(_GET % b"/")
        assert resting.answer().body == b"x"
        beginning.send(b"GET / HT")
        leaving.send(_GET % b"/")
        leaving.answer()
        leaving.far.transport.close()
        serving.loop.run()
        asking.send(_GET % b"/status")
        answer = asking.answer()
        assert answer.body == (
            b"Active connections: 3 \nserver accepts handled requests\n 4 4 3 \nReading: 1 Writing: 1 Waiting: 1 \n"
        )
        assert ("Content-Type", "text/plain") in answer.fields
        asking.send(_GET.replace(b"GET", b"HEAD") % b"/status")
        assert asking.answer("HEAD").status == 200


def test_other_methods_are_not_allowed(tmp_path: Path) -> None:
    with Serving(tmp_path, _PAGE) as serving:
        assert serving.ask(_GET.replace(b"GET", b"DELETE") % b"/status").status == 405


def test_who_has_no_connection_leaves_no_count(tmp_path: Path) -> None:
    with Serving(tmp_path, _PAGE) as serving:
        clients = [serving.client() for _ in range(2)]
        census = serving.runtime._census
        assert census is not None
        assert census.sums()[3:] == [2, 0, 0, 2]
        for client in clients:
            client.far.transport.close()
        serving.loop.run()
        assert serving._plan.connections.sums()[3:] == [0, 0, 0, 0]  # as another worker sees it


def test_the_variables(tmp_path: Path) -> None:
    said = "$connections_active,$connections_reading,$connections_writing,$connections_waiting"
    with Serving(tmp_path, f"server {{ listen 127.0.0.1:8080; return 200 {said}; }}") as serving:
        serving.client()
        assert serving.ask(_GET % b"/").body == b"2,0,1,1"


def test_who_does_not_ask_pays_nothing(tmp_path: Path) -> None:
    with Serving(tmp_path, "server { listen 127.0.0.1:8080; return 200 x; }") as serving:
        (endpoint,) = serving.runtime._endpoints
        assert endpoint.begin is phases.begin
        assert endpoint.on_open is None
        assert endpoint.on_close is None


def test_requests_from_within_are_not_counted(tmp_path: Path) -> None:
    text = """server { listen 127.0.0.1:8080; location = /status { auth_request /ask; stub_status; }
        location = /ask { return 204; } }"""
    with Serving(tmp_path, text) as serving:
        assert b"\n 1 1 1 \n" in serving.ask(_GET % b"/status").body


def test_more_than_there_is_place_for_is_accepted_but_not_handled(tmp_path: Path) -> None:
    with Serving(tmp_path, _PAGE) as serving:
        client = serving.client()
        client.send(_GET % b"/")
        client.answer()
        serving.runtime._endpoints[0].limit = 1
        client.protocol._in_head = True  # busy: it cannot make way
        serving.client()
        client.protocol._in_head = False
        client.send(_GET % b"/status")
        assert b"\n 2 1 2 \n" in client.answer().body
