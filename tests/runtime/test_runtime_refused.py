"""Requests that were refused and have error pages: what of them reaches a peer, and what never does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.serving import Serving

PAGES = "error_page 400 405 494 501 505"
CONFIGURATION = f"""
upstream o {{ server 10.0.0.1:80; }}
access_log off;
server {{
    listen 127.0.0.1:8080;
    location / {{ proxy_pass http://o; }}
    location @o {{
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection upgrade;
        proxy_pass http://o;
    }}
    server_name named; {PAGES} = @o;
}}
server {{
    listen 127.0.0.1:8080;
    server_name path; {PAGES} /page;
    location / {{ proxy_pass http://o; }}
}}
"""
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, CONFIGURATION) as made:
        yield made


@pytest.mark.parametrize(
    ("target", "line", "status"),
    [("/x", "", 400), ("named:80", "", 405), ("http://named/", "", 405), ("/x", "bad", 400)],
)
def test_connect_reaches_no_peer(serving: Serving, target: str, line: str, status: int) -> None:
    fields = "\r\n".join(["Host: named", *([line] if line else []), "", ""])
    answer = serving.ask(f"CONNECT {target} HTTP/1.1\r\n{fields}".encode())
    assert answer.status == status
    assert b"<center>" in answer.body
    assert serving.origins[0].connections == []


def test_a_page_is_asked_for_with_get(serving: Serving) -> None:
    answer = serving.ask(b"CONNECT path:80 HTTP/1.1\r\nHost: path\r\n\r\n")
    assert answer.status == 405
    assert answer.body.startswith(b"GET /page HTTP/1.1\r\n")


def test_another_method_is_sent_on_to_a_named_location(serving: Serving) -> None:
    answer = serving.ask(b"POST /x HTTP/1.1\r\nHost: named\r\nContent-Length: 2\r\nbad line\r\n\r\nab")
    assert answer.status == 200
    assert answer.body.startswith(b"POST /x HTTP/1.1\r\n")
    assert answer.body.endswith(b"\r\n\r\n")


def test_a_refused_head_opens_no_tunnel(serving: Serving) -> None:
    serving.reply = SWITCHED
    asked = "GET /chat HTTP/1.1\r\nHost: named\r\nUpgrade: websocket\r\n"
    assert serving.ask(f"{asked}bad line\r\n\r\n".encode()).status == 502
    assert serving.origins[0].last.closed()


@pytest.mark.parametrize("sent", [b"", b"2\r\nab\r\n"])
@pytest.mark.parametrize("together", [True, False])
def test_bad_chunks_have_the_page_without_their_content(serving: Serving, sent: bytes, together: bool) -> None:
    client = serving.client()
    pieces = [b"POST /x HTTP/1.1\r\nHost: named\r\nTransfer-Encoding: chunked\r\n\r\n" + sent, b"zz\r\n"]
    for piece in [b"".join(pieces)] if together else pieces:
        client.send(piece)
    peer = serving.origins[0].last
    asked = peer.taken()
    assert asked.startswith(b"POST /x HTTP/1.1\r\n")
    assert asked.endswith(b"\r\n\r\n")
    assert b"chunked" not in asked
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage")
    answer = client.answer("POST")
    assert (answer.status, answer.body) == (200, b"page")
    assert client.far.ended == "fin"


def test_what_the_end_of_the_process_cuts_is_not_taken_for_whole(serving: Serving) -> None:
    for version, lingers in ((b"1.0", False), (b"1.1", True)):
        client = serving.client()
        client.send(b"GET / HTTP/%b\r\nHost: named\r\n\r\n" % version)
        serving.origins[0].last.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        client.protocol.cut()
        serving.loop.run()
        assert client.far.lingers == lingers
    resting = serving.client()
    resting.send(b"GET / HTTP/1.0\r\nHost: named\r\n\r\n")
    serving.origins[0].last.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
    serving.runtime.close()
    serving.loop.run()
    assert not resting.far.lingers
