"""Connections that switch protocols: when a peer's 101 is believed, what passes, and how a tunnel ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.wire.joined import AT_ONCE, Client, Far, Joined, get, post, response
from upwell.proxy.exchange import Exchange
from upwell.proxy.request import Value, path_as_sent, request_renderer
from upwell.proxy.upstream import Limits

ASKING = get("/chat", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: abc")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-More: 1\r\n\r\n"


def _upgrade(exchange: Exchange) -> bytes:
    return exchange.values.get(b"upgrade", b"")


def _joined(limits: Limits | None = None, **more: Any) -> Joined:
    """upwell with `proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"`."""
    fields: list[tuple[bytes, bytes | Value]] = [
        (b"Host", b"peers"),
        (b"Upgrade", _upgrade),
        (b"Connection", b"upgrade"),
    ]
    spec: dict[str, Any] = {
        "upgrade": _upgrade,
        "request_head": request_renderer(path_as_sent, fields),
        **more.pop("spec", {}),
    }
    if limits is not None:
        spec["limits"] = limits
    return Joined(spec=spec, **more)


def _switched(joined: Joined) -> tuple[Client, Far]:
    client = joined.client()
    client.send(ASKING)
    joined.origin.last.taken()
    joined.origin.last.send(SWITCHED)
    assert client.far.taken().startswith(b"HTTP/1.1 101 ")
    return client, joined.origin.last


def test_a_switch_passes_and_bytes_go_both_ways() -> None:
    with _joined() as joined:
        client = joined.client()
        client.send(ASKING)
        asked = joined.origin[0].taken()
        assert b"Upgrade: websocket\r\n" in asked
        assert b"Connection: upgrade\r\n" in asked
        joined.origin[0].send(SWITCHED + b"early")
        head, _, rest = client.far.taken().partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
        assert b"Upgrade: websocket" in lines
        assert b"Connection: upgrade" in lines
        assert b"X-More: 1" in lines
        assert not any(line.lower().startswith((b"content-length", b"transfer-encoding")) for line in lines)
        assert rest == b"early"
        assert joined.in_use == [1]
        client.send(b"GET /smuggled HTTP/1.1\r\n\r\n")
        assert joined.origin[0].taken() == b"GET /smuggled HTTP/1.1\r\n\r\n"
        joined.origin[0].send(b"HTTP/1.1 200 OK\r\n\r\n")
        assert client.far.taken() == b"HTTP/1.1 200 OK\r\n\r\n"
        assert joined.done == []
        joined.origin[0].finish()
        assert client.far.ended == "fin"
        assert joined.done == [(b"GET /chat HTTP/1.1", 101)]
        assert joined.in_use == [0]


def test_what_a_client_sent_before_the_101_is_the_tunnels_first() -> None:
    with _joined() as joined:
        client = joined.client()
        client.send(ASKING + b"hello")
        client.send(b" there")
        assert joined.origin[0].taken().endswith(b"\r\n\r\n")
        joined.origin[0].send(SWITCHED)
        assert joined.origin[0].taken() == b"hello there"


def test_what_a_client_sent_early_is_its_next_request_when_there_is_no_switch() -> None:
    with _joined() as joined:
        client = joined.client()
        client.send(ASKING + get("/next"))
        assert joined.origin[0].taken().startswith(b"GET /chat ")
        joined.origin[0].send(response(b"no", status="426 Upgrade Required"))
        assert client.answer().status == 426
        assert joined.origin[0].taken().startswith(b"GET /next ")
        joined.origin[0].send(response(b"fine"))
        assert client.answer().body == b"fine"


def test_early_bytes_are_bounded() -> None:
    with _joined() as joined:
        client = joined.client()
        client.send(ASKING)
        for _ in range(20):
            client.send(b"x" * 10_000)
        assert not client.far.reading()
        joined.origin[0].taken()
        joined.origin[0].send(SWITCHED)
        assert client.far.reading()
        joined.loop.run()
        assert joined.origin[0].taken() == b"x" * 200_000


@pytest.mark.parametrize(
    "request_",
    [
        get("/"),
        get("/", "Upgrade: websocket", "Connection: Upgrade", version="1.0"),
        post(b"", "Connection: Upgrade"),
    ],
)
def test_a_switch_that_was_not_asked_for_is_refused(request_: bytes) -> None:
    with _joined() as joined:
        client = joined.client()
        client.send(request_)
        joined.origin[0].send(SWITCHED + response(b"smuggled"))
        assert client.answer().status == 502
        assert joined.origin[0].closed()
        assert b"smuggled" not in client.rest
        assert joined.done[0][1] == 502


def test_a_switch_that_the_peer_was_not_asked_for_is_refused() -> None:
    with Joined() as joined:  # no proxy_set_header Upgrade: the peer never saw it
        client = joined.client()
        client.send(ASKING)
        assert b"pgrade" not in joined.origin[0].taken()
        joined.origin[0].send(SWITCHED)
        assert client.answer().status == 502


def test_a_switch_before_the_content_has_come_is_refused() -> None:
    with _joined(spec={"request_buffering": False}) as joined:
        client = joined.client()
        client.send(post(b"a", "Connection: Upgrade", "Upgrade: x", length=5))
        joined.origin[0].send(SWITCHED)
        assert client.far.taken().startswith(b"HTTP/1.1 502 ")


def test_a_switch_before_the_content_has_gone_is_refused() -> None:
    with _joined(location={"body_buffer_size": 1}) as joined:
        client = joined.client()
        request = post(bytes(400_000), "Connection: Upgrade", "Upgrade: x")
        client.send(request[:-1])
        joined.origin.mode = "stalled"
        client.send(request[-1:])
        joined.origin[0].send(SWITCHED)
        assert client.far.taken().startswith(b"HTTP/1.1 502 ")


def test_a_switch_in_a_capture_is_refused() -> None:
    captured: list[int] = []

    async def capture(exchange: Exchange) -> None:
        captured.append((await exchange.subrequest(b"/inner")).status)
        exchange.respond(200, b"done")

    with _joined(places={b"/outer": capture}) as joined:
        client = joined.client()
        client.send(get("/outer", "Connection: Upgrade", "Upgrade: x"))
        joined.origin[0].send(SWITCHED)
        assert client.answer().status == 200
        assert captured == [502]


def test_a_refused_switch_goes_to_the_next_peer_where_that_is_wanted() -> None:
    spec = {"next_on": frozenset(("invalid_header",))}
    with Joined(peers=2, spec=spec) as joined:
        client = joined.client()
        client.send(ASKING)
        joined.origins[0][0].send(SWITCHED)
        joined.origins[1][0].send(response(b"fine"))
        assert client.answer().body == b"fine"


@pytest.mark.parametrize("end", ["fin", "reset"])
@pytest.mark.parametrize("who", ["client", "peer"])
def test_the_end_of_one_side_is_the_end_of_both(who: str, end: str) -> None:
    with _joined() as joined:
        client, peer = _switched(joined)
        client.send(b"last of the client")
        peer.send(b"last of the peer")
        side = client.far if who == "client" else peer
        side.finish() if end == "fin" else side.reset()
        assert peer.taken() == b"last of the client"
        assert client.far.taken() == b"last of the peer"
        assert joined.done == [(b"GET /chat HTTP/1.1", 101)]
        assert joined.in_use == [0]
        assert peer.closed()
        client.far.finish()
        joined.loop.run()
        assert client.far.closed()


def test_a_client_that_still_sends_when_the_peer_ends_is_not_reset() -> None:
    with _joined() as joined:
        client, peer = _switched(joined)
        peer.send(b"bye")
        peer.finish()
        client.send(b"still here")
        assert client.far.taken() == b"bye"
        assert client.far.ended == "fin"
        assert not client.far.closed()
        joined.advance(5.1)  # lingering_timeout
        assert client.far.closed()


def test_a_client_that_ended_before_the_101_has_its_bytes_passed_on() -> None:
    with _joined() as joined:
        client = joined.client()
        client.send(ASKING + b"hello")
        client.far.finish()
        joined.origin[0].taken()
        joined.origin[0].send(SWITCHED)
        assert joined.origin[0].taken() == b"hello"
        assert joined.origin[0].closed()
        assert client.far.ended == "fin"
        assert joined.done == [(b"GET /chat HTTP/1.1", 101)]


def test_a_tunnel_in_which_nothing_moves_is_timed_out_and_traffic_either_way_moves_it_on() -> None:
    with _joined(Limits(read_timeout=10.0)) as joined:
        client, peer = _switched(joined)
        joined.advance(9.0)
        client.send(b"ping")
        joined.advance(9.0)
        peer.send(b"pong")
        joined.advance(9.0)
        assert joined.done == []
        joined.advance(1.2)
        assert joined.done == [(b"GET /chat HTTP/1.1", 101)]
        assert client.far.ended == "fin"
        assert any("timed out" in line and "while proxying upgraded connection" in line for line in joined.log.lines)


def test_a_slow_client_holds_back_its_peer_and_then_has_everything() -> None:
    with _joined(Limits(read_timeout=10.0), location={"send_timeout": 100.0}) as joined:
        client, peer = _switched(joined)
        client.far.stall()
        for _ in range(20):
            peer.send(b"y" * 10_000)
        assert not peer.reading()
        assert client.far.transport.get_write_buffer_size() < 100_000
        client.send(b"the other way is open")
        assert peer.taken() == b"the other way is open"
        joined.advance(50.0)  # the peer is not held to proxy_read_timeout while nobody reads it
        assert joined.done == []
        client.far.take()
        assert client.far.taken() == b"y" * 200_000
        assert peer.reading()


def test_a_slow_peer_holds_back_its_client_and_then_has_everything() -> None:
    with _joined() as joined:
        client, peer = _switched(joined)
        peer.stall()
        for _ in range(20):
            client.send(b"z" * 10_000)
        assert not client.far.reading()
        peer.send(b"the other way is open")
        assert client.far.taken() == b"the other way is open"
        peer.take()
        assert peer.taken() == b"z" * 200_000
        assert client.far.reading()


def test_a_client_that_takes_nothing_any_more_is_given_up() -> None:
    with _joined(location={"send_timeout": 5.0}) as joined:
        client, peer = _switched(joined)
        client.far.stall()
        peer.send(b"y" * 100_000)
        joined.advance(4.0)
        assert not client.far.closed()
        joined.advance(1.2)
        assert client.far.closed()
        assert joined.done == [(b"GET /chat HTTP/1.1", 101)]
        assert any("client timed out" in line for line in joined.log.lines)


def test_a_peer_that_takes_nothing_any_more_is_given_up() -> None:
    with _joined(Limits(send_timeout=5.0)) as joined:
        client, peer = _switched(joined)
        peer.stall()
        client.send(b"z" * 100_000)
        joined.advance(4.0)
        assert not peer.closed()
        joined.advance(1.2)
        assert peer.closed()
        assert joined.done == [(b"GET /chat HTTP/1.1", 101)]
        assert any("upstream timed out" in line for line in joined.log.lines)


@pytest.mark.parametrize("way", ["down", "up"])
def test_a_tunnel_holds_no_more_than_one_read_of_what_nobody_takes(way: str) -> None:
    with _joined() as joined:
        client, peer = _switched(joined)
        sender, reader = (peer, client.far) if way == "down" else (client.far, peer)
        reader.stall()
        for _ in range(3):
            sender.send(b"x" * 1_000_000)
        assert not sender.reading()
        assert len(reader.transport.pending) <= AT_ONCE
        reader.take()
        for _ in range(100):
            joined.loop.run()
        assert len(reader.taken()) == 3_000_000
        reader.stall()
        sender.send(b"y" * 5_000)  # more than nginx's buffer
        assert not sender.reading()


def test_what_waits_for_a_peer_when_the_client_leaves_is_still_sent_but_not_for_ever() -> None:
    with _joined(Limits(send_timeout=5.0)) as joined:
        client, peer = _switched(joined)
        peer.stall()
        client.send(b"z" * 1000)
        client.far.finish()
        assert joined.done == [(b"GET /chat HTTP/1.1", 101)]
        peer.take()
        assert peer.taken() == b"z" * 1000
        client, peer = _switched(joined)
        peer.stall()
        client.send(b"z" * 1000)
        client.far.finish()
        joined.advance(5.2)
        assert peer.closed()
        assert peer.taken() == b""


def test_bytes_are_counted() -> None:
    counted: list[tuple[int, ...]] = []

    def count(exchange: Exchange) -> None:
        assert exchange.tries is not None
        attempt = exchange.tries[0]
        counted.append((exchange.body_bytes_sent, attempt.sent, attempt.received, attempt.status))

    with _joined(location={"log": (count,)}) as joined:
        client = joined.client()
        client.send(ASKING + b"12345")
        head = len(joined.origin[0].taken())
        joined.origin[0].send(SWITCHED + b"123")
        client.send(b"67")
        joined.origin[0].send(b"4567")
        joined.origin[0].finish()
        assert counted == [(7, head + 7, len(SWITCHED) + 7, 101)]


def test_a_graceful_end_lets_a_tunnel_live() -> None:
    with _joined() as joined:
        client, peer = _switched(joined)
        joined.endpoint.draining = True
        client.protocol.close_if_idle()
        client.send(b"ping")
        assert peer.taken() == b"ping"
        peer.finish()
        client.far.finish()
        joined.loop.run()
        assert client.far.closed()


def test_header_filters_see_the_101() -> None:
    def mark(exchange: Exchange) -> None:
        exchange.out.append((b"X-Filter", b"%d" % exchange.status))

    with _joined(location={"header_filters": (mark,)}) as joined:
        client = joined.client()
        client.send(ASKING)
        joined.origin[0].send(SWITCHED)
        assert b"\r\nX-Filter: 101\r\n" in client.far.taken()


def test_ignore_client_abort_is_not_for_tunnels() -> None:
    with _joined() as joined:
        joined.spec = replace(joined.spec, ignore_client_abort=True)
        client, peer = _switched(joined)
        client.far.reset()
        assert peer.closed()
        assert joined.in_use == [0]
