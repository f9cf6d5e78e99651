"""A peer that sends garbage, closes early, never ends its head or says nothing costs its own request and no other."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import h11
import pytest

from tests.system.configurations import proxying
from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Origin, Respond, Seen, ask, get, post, response
from upwell.contrib.processes import Balancer, await_condition, free_ports

GOOD = response(b"fine")

BROKEN_HEADS = {
    "nothing and closes": b"",
    "garbage": b"\x00\x01\x02 garbage\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "half a status line": b"HTTP/1.1 20",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 No\r\n\r\n",
    "a field line without a colon": b"HTTP/1.1 200 OK\r\nBroken\r\nContent-Length: 0\r\n\r\n",
    "NUL in a field": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "both framings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nfine",
    "two different Content-Length": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nfine!",
    "a Content-Length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: four\r\n\r\nfine",
    "a coding nobody knows": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xyz\r\n\r\nfine",
}

BROKEN_BODIES = {
    "closes within Content-Length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfine",
    "closes within a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nfine",
    "closes between chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n",
    "a chunk size that is none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\nzz\r\n",
}


@dataclass
class Proxied:
    """upwell on `port` before one `origin`; it waits a second for answers."""

    port: int
    origin: Origin


@pytest.fixture(scope="module")
def proxied(start_shared: StartBalancer) -> Iterator[Proxied]:
    (front,) = free_ports(1)
    with Origin(GOOD) as origin:
        start_shared(proxying(front, [origin.port], location="proxy_read_timeout 1s; proxy_send_timeout 1s;"), [front])
        yield Proxied(front, origin)


def _sent_then_closed(data: bytes) -> Respond:
    def respond(seen: Seen, connection: socket.socket) -> bytes | None:
        connection.sendall(data)
        return None

    return respond


@pytest.mark.parametrize("sent", BROKEN_HEADS.values(), ids=BROKEN_HEADS.keys())
def test_a_head_that_is_none_is_502_for_its_own_request(proxied: Proxied, sent: bytes) -> None:
    with Client(proxied.port) as client:
        proxied.origin.respond(_sent_then_closed(sent))
        assert client.ask(get("/broken")).status == 502
        proxied.origin.respond(GOOD)
        assert client.ask(get()).body == b"fine"
    assert ask(proxied.port, get()).body == b"fine"


@pytest.mark.parametrize("sent", BROKEN_BODIES.values(), ids=BROKEN_BODIES.keys())
def test_a_body_cut_short_is_not_taken_for_whole(proxied: Proxied, sent: bytes) -> None:
    with Client(proxied.port) as client, Client(proxied.port) as other:
        proxied.origin.respond(_sent_then_closed(sent))
        with pytest.raises((h11.RemoteProtocolError, ConnectionError)):
            client.ask(get("/broken"))
        proxied.origin.respond(GOOD)
        assert other.ask(get()).body == b"fine"


def test_a_head_without_end_is_502(proxied: Proxied) -> None:
    sent = 0

    def endless(seen: Seen, connection: socket.socket) -> bytes | None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while sent < 1 << 24:
            connection.sendall(b"X-More: " + b"x" * 1000 + b"\r\n")
            sent += 1010
        return None

    proxied.origin.respond(endless)
    assert ask(proxied.port, get()).status == 502
    assert sent < 1 << 24
    proxied.origin.respond(GOOD)
    assert ask(proxied.port, get()).body == b"fine"


def test_a_silent_peer_is_504(proxied: Proxied) -> None:
    proxied.origin.respond(b"")
    with Client(proxied.port) as waiting, Client(proxied.port) as other:
        waiting.send(get("/silent"))
        await_condition(lambda: any(seen.target == b"/silent" for seen in proxied.origin.seen), "the request", 5)
        proxied.origin.respond(GOOD)
        assert other.ask(get()).body == b"fine"
        assert waiting.answer().status == 504
        assert waiting.ask(get()).body == b"fine"


def test_a_peer_that_falls_silent_within_its_body_ends_the_connection(proxied: Proxied) -> None:
    proxied.origin.respond(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfine")
    with Client(proxied.port) as client, pytest.raises((h11.RemoteProtocolError, ConnectionError)):
        client.ask(get())
    proxied.origin.respond(GOOD)
    assert ask(proxied.port, get()).body == b"fine"


def test_what_follows_a_response_is_never_the_next_ones_answer(proxied: Proxied) -> None:
    proxied.origin.respond(GOOD + response(b"evil"))
    with Client(proxied.port) as client:
        for _ in range(5):
            assert client.ask(get()).body == b"fine"
    proxied.origin.respond(GOOD)


@pytest.mark.parametrize("request_bytes", [get(), post(b"x" * 100)], ids=["GET", "POST"])
def test_a_peer_that_closes_kept_connections_loses_no_request(proxied: Proxied, request_bytes: bytes) -> None:
    closed = threading.Event()

    def answer_and_close(seen: Seen, connection: socket.socket) -> bytes | None:
        connection.sendall(GOOD)  # without a word that this was the last one
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()
        return None

    proxied.origin.respond(answer_and_close)
    with Client(proxied.port) as client:
        for _ in range(10):
            closed.clear()
            assert client.ask(request_bytes).body == b"fine"
            assert closed.wait(5)
    proxied.origin.respond(GOOD)


def test_what_must_not_be_sent_twice_is_lost_once_to_a_peer_that_closes_at_reuse(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    served: dict[socket.socket, int] = {}

    def once(seen: Seen, connection: socket.socket) -> bytes | None:
        served[connection] = served.get(connection, 0) + 1
        return GOOD if served[connection] == 1 else None  # it is there when the request goes, and then is not

    with Origin(once) as origin:
        start(proxying(front, [origin.port], upstream="keepalive 8;"), [front])
        with Client(front) as client:
            assert client.ask(get()).status == 200
            statuses = [client.ask(post(b"text")).status for _ in range(10)]
            assert statuses == [502, *[200] * 9]
            before = origin.connections
            assert [client.ask(get()).status for _ in range(10)] == [200] * 10
            assert len(origin.seen) > origin.connections > before  # what may be sent again is tried on kept ones


class _Dead:
    """A port on which connections are refused for as long as this lives."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]

    def __enter__(self) -> _Dead:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def _log_lines(balancer: Balancer, words: str) -> list[str]:
    return [line for line in balancer.error_log().splitlines() if words in line]


def test_the_next_peer_is_asked_when_one_refuses(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Origin(GOOD) as origin, _Dead() as dead:
        balancer = start(proxying(front, [dead.port, origin.port]), [front])
        with Client(front) as client:
            for _ in range(10):
                assert client.ask(get()).body == b"fine"
                assert client.ask(post(b"content")).body == b"fine"
        assert [seen.body for seen in origin.seen] == [b"", b"content"] * 10
        # max_fails=1: the dead peer is not asked again for fail_timeout, ten seconds.
        refused = _log_lines(balancer, "connect() failed (111: Connection refused) while connecting to upstream")
        assert len(refused) == 1
        assert f'upstream: "http://127.0.0.1:{dead.port}/"' in refused[0]


def test_peers_that_all_refuse_are_502(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with _Dead() as one, _Dead() as two:
        balancer = start(proxying(front, [one.port, two.port]), [front])
        with Client(front) as client:
            assert client.ask(get()).status == 502
            assert client.ask(get()).status == 502
        assert _log_lines(balancer, "no live upstreams while connecting to upstream")


def test_after_a_timeout_a_get_goes_to_the_next_peer_and_a_post_does_not(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Origin(b"") as silent, Origin(GOOD) as origin:
        text = proxying(front, [silent.port, origin.port], location="proxy_read_timeout 300ms;")
        start(text.replace(f"{silent.port};", f"{silent.port} max_fails=0;"), [front])
        answers = {method: [ask(front, data).status for _ in range(4)] for method, data in REPEATED.items()}
        assert answers["GET"] == [200] * 4
        assert sorted(answers["POST"]) == [200, 200, 504, 504]
        assert len([seen for seen in origin.seen if seen.body]) == 2


REPEATED = {"GET": get(), "POST": post(b"content")}


def test_an_error_of_the_app_is_its_answer(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Origin(response(b"sorry", status="500 Oops")) as failing, Origin(GOOD) as origin:
        start(proxying(front, [failing.port, origin.port]), [front])
        assert sorted(ask(front, get()).status for _ in range(6)) == [200] * 3 + [500] * 3


def test_backups_are_asked_only_when_all_others_are_gone(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Origin(GOOD) as origin, Origin(response(b"spare")) as spare, _Dead() as dead:
        text = proxying(front, [origin.port, dead.port], upstream=f"server 127.0.0.1:{spare.port} backup;")
        start(text, [front])
        assert {ask(front, get()).body for _ in range(6)} == {b"fine"}
    with Origin(response(b"spare")) as spare, _Dead() as dead:
        (front,) = free_ports(1)
        start(proxying(front, [dead.port], upstream=f"server 127.0.0.1:{spare.port} backup;"), [front])
        assert {ask(front, get()).body for _ in range(6)} == {b"spare"}


def test_weights_are_nginxs_sequence(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Origin(response(b"a")) as a, Origin(response(b"b")) as b, Origin(response(b"c")) as c:
        text = proxying(front, [a.port, b.port, c.port]).replace(f"{a.port};", f"{a.port} weight=5;")
        start(text, [front])
        with Client(front) as client:
            assert b"".join(client.ask(get()).body for _ in range(14)) == b"aabacaa" * 2
