"""Clients that take their time, on a clock that stands still: lingering, resting, reading little by little; and what of
them is logged.
"""

from __future__ import annotations

import pytest

from tests.wire.joined import Client, Joined, get, post, response
from upwell.proxy.exchange import Exchange


async def _quick(exchange: Exchange) -> None:
    exchange.respond(200, b"quick")


async def _large(exchange: Exchange) -> None:
    exchange.send_head()
    for _ in range(100):
        exchange.write(bytes(50_000))
        await exchange.drained()


def _feed(joined: Joined, client: Client, every: float, most: int = 100) -> float:
    """Send a byte every so many seconds until upwell closes; how many seconds that took."""
    begun = joined.loop.time()
    for _ in range(most):
        if client.far.closed():
            break
        client.send(b"x")
        joined.advance(every)
    return joined.loop.time() - begun


# Heads


@pytest.mark.parametrize("start", ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nX: "])
def test_a_head_a_byte_a_second_ends_with_the_timeout_and_a_line(start: str) -> None:
    with Joined(endpoint={"header_timeout": 20.0}) as joined:
        client = joined.client()
        if start != "G":
            client.send(start[:-1].encode())
            client.send(start[-1:].encode())
            assert 19 <= _feed(joined, client, 1) <= 22
        else:
            client.send(b"G")
            joined.advance(21)
        assert client.far.closed()
        assert client.rest == b""
        line = b"GET / HTTP/1.1" if start != "G" else b"G"
        assert joined.done == [(line, 408)]
        part = "line" if start == "G" else "headers"
        assert (
            f"client timed out (110: Connection timed out) while reading client request {part}" in joined.log.lines[-1]
        )


@pytest.mark.parametrize("first", [b"G", b"\r\n"])
@pytest.mark.parametrize("kept", [False, True])
def test_the_timeout_of_a_head_is_not_prolonged_by_what_comes_of_it(first: bytes, kept: bool) -> None:
    with Joined(endpoint={"header_timeout": 20.0}, places={b"/": _quick}) as joined:
        client = joined.client()
        if kept:
            client.send(get())
            assert client.answer().body == b"quick"
        joined.advance(12)  # of a new connection's time; that of a kept one begins with the head
        client.send(first)
        joined.advance(19 if kept else 7)
        client.send(first)
        assert not client.far.closed()
        joined.advance(2)
        assert client.far.closed()
        assert joined.done[-1] == (b"" if first == b"\r\n" else first + first, 408)


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_client_that_leaves_within_a_head_leaves_a_line(how: str) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(b"GET /half HT")
        client.far.finish() if how == "fin" else client.far.reset()
        assert client.far.closed()
        assert client.rest == b""
        assert joined.done == [(b"GET /half HT", 400)]


def test_a_client_that_leaves_between_two_requests_leaves_none() -> None:
    with Joined(places={b"/": _quick}) as joined:
        client = joined.client()
        client.send(get())
        client.far.finish()
        assert len(joined.done) == 1
        client = joined.client()
        client.far.finish()
        assert len(joined.done) == 1


def test_half_a_head_at_the_end_of_a_pipeline_leaves_a_line() -> None:
    with Joined(places={b"/": _quick}) as joined:
        client = joined.client()
        client.far.transport.inbox.extend([get() + b"GET /half", None])
        joined.loop.call_soon(client.far.transport.pump)
        joined.loop.run()
        assert client.answer().body == b"quick"
        assert joined.done == [(b"GET / HTTP/1.1", 200), (b"GET /half", 400)]
        assert client.far.closed()


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\x16\x03\x01\x02\x00", "TLS ClientHello to plain HTTP port"),
        (b"PRI * HTTP/2.0\r\n", "HTTP/2 connection preface to HTTP/1.1 port"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\n", "PROXY protocol header to port without proxy_protocol"),
        (b"\r\n\r\n\0\r\nQUIT\n", "PROXY protocol header to port without proxy_protocol"),
        (b"\0\0\0", "invalid method"),
    ],
)
def test_what_is_no_http_is_answered_at_once_and_named(start: bytes, name: str) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(start)
        assert client.answer().status == 400
        assert client.far.ended == "fin"
        assert joined.log.lines[-1].startswith(f"client sent {name} while reading")


# Content


def test_content_may_come_slowly_but_not_stop() -> None:
    with Joined(location={"body_timeout": 10.0}) as joined:
        client = joined.client()
        client.send(post(b"", length=30))
        for _ in range(20):
            joined.advance(9)
            client.send(b"x")
        assert not client.far.closed()
        joined.advance(11)
        assert client.far.closed()
        assert joined.done == [(b"POST / HTTP/1.1", 408)]
        assert joined.origin.connections == []


def test_content_that_nobody_wants_is_waited_for_piece_by_piece_and_not_for_ever() -> None:
    location = {"lingering_timeout": 5.0, "lingering_time": 30.0}
    with Joined(places={b"/": _quick}, location=location) as joined:
        client = joined.client()
        client.send(post(b"", length=1000))
        answer = client.answer()
        assert (answer.body, answer.field("Connection")) == (b"quick", "keep-alive")
        assert 28 <= _feed(joined, client, 4) <= 34
        client = joined.client()
        client.send(post(b"", length=1000))
        joined.advance(6)  # longer than one piece may take
        assert client.far.closed()
        client = joined.client()
        client.send(post(b"", length=7))
        _feed(joined, client, 4, most=7)
        client.send(get())  # all has come: the connection goes on
        assert client.answer().body == client.answer().body == b"quick"


# The end of a connection


@pytest.mark.parametrize(
    ("close", "every", "ended"),
    [("on", 4, (28, 34)), ("on", 6, (5, 7)), ("off", 4, (28, 34)), ("always", 4, (28, 34))],
)
def test_a_connection_lingers_for_what_is_still_sent(close: str, every: float, ended: tuple[int, int]) -> None:
    location = {"lingering_close": close, "lingering_timeout": 5.0, "lingering_time": 30.0, "max_body_size": 10}
    with Joined(location=location) as joined:
        client = joined.client()
        client.send(post(b"x", length=1000))
        assert client.answer().status == 413
        assert client.far.ended == "fin"
        assert ended[0] <= _feed(joined, client, every) <= ended[1]


def test_only_always_lingers_where_nothing_is_unread() -> None:
    for close, closed in (("off", True), ("on", True), ("always", False)):
        with Joined(places={b"/": _quick}, location={"lingering_close": close, "lingering_timeout": 5.0}) as joined:
            client = joined.client()
            client.send(get("/", "Connection: close"))
            assert client.answer().complete
            assert client.far.ended == "fin"
            assert client.far.closed() is closed
            joined.advance(6)
            assert client.far.closed()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("how", ["send_timeout", "leaves", "body"])
def test_an_answer_that_ends_with_the_connection_is_never_cut_with_a_fin(version: str, whole: bool, how: str) -> None:
    location = {"send_timeout": 5.0, "body_timeout": 5.0}
    with Joined(location=location, spec={"request_buffering": False}) as joined:
        client = joined.client()
        stuck = how != "body"
        client.send(get("/", version=version) if stuck else post(b"1", length=9).replace(b"1.1", version.encode(), 1))
        if stuck:
            client.far.stall()
        peer = joined.origin.last
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000)
        if whole and stuck:
            peer.finish()
        if how == "leaves":
            client.far.finish()
        else:
            joined.advance(20.0)
        joined.advance(20.0)
        assert client.far.closed() or version == "1.1"
        assert client.far.lingers == (version == "1.1")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_one_that_has_gone_out_whole_ends_with_a_fin(version: str) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get("/", version=version))
        joined.origin.last.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        joined.origin.last.finish()
        assert client.answer().body == b"hello"
        client.far.finish()
        assert client.far.lingers


def test_what_is_unsent_is_not_cut_off_by_lingering() -> None:
    async def page(exchange: Exchange) -> None:
        exchange.respond(200, bytes(60_000))

    with Joined(places={b"/": page}, location={"lingering_timeout": 5.0, "send_timeout": 60.0}) as joined:
        client = joined.client()
        client.far.stall()
        client.send(post(b"x", "Connection: close", length=100))
        joined.advance(50)
        assert not client.far.closed()
        client.far.take()
        assert len(client.answer().body) == 60_000


# Rest


def test_the_last_requests_location_says_how_long_to_rest() -> None:
    with Joined(places={b"/long": _quick}) as joined:
        joined.places[b"/long"].keepalive_timeout = 50.0
        joined.location.keepalive_timeout = 10.0
        client = joined.client()
        for path, rest in (("/long", 50), ("/", 10)):
            client.send(get(path))
            if path == "/":
                joined.origin.last.send(response(b"x"))
            assert client.answer().complete
            joined.advance(rest - 1)
            assert not client.far.closed()
        joined.advance(2)
        assert client.far.closed()


def test_a_graceful_end_leaves_a_resting_connection_its_least_time() -> None:
    with Joined(places={b"/": _quick}, location={"keepalive_min_timeout": 10.0}) as joined:
        early, late, begun = (joined.client() for _ in range(3))
        late.send(get())
        joined.advance(8)
        early.send(get())
        begun.send(get()[:10])
        joined.endpoint.draining = True
        for client in (early, late, begun):
            client.protocol.close_if_idle()
        joined.loop.run()
        assert not early.far.closed()
        begun.send(get()[10:])
        assert begun.answer().field("Connection") == "keep-alive"
        early.send(get())  # as if nothing was
        assert early.answer().complete
        assert early.answer().field("Connection") == "keep-alive"
        joined.advance(3)
        assert (early.far.closed(), late.far.closed()) == (False, True)
        joined.advance(8)
        assert early.far.closed()
        assert begun.far.closed()


def test_the_least_time_of_rest_also_lengthens_a_shorter_one() -> None:
    with Joined(places={b"/": _quick}, location={"keepalive_min_timeout": 10.0, "keepalive_timeout": 2.0}) as joined:
        client = joined.client()
        client.send(get())
        joined.advance(9)
        assert not client.far.closed()
        joined.advance(2)
        assert client.far.closed()


# Slow readers


def test_a_slow_reader_is_served_as_long_as_it_reads_and_costs_a_buffer() -> None:
    with Joined(places={b"/": _large}, location={"send_timeout": 10.0}) as joined:
        client = joined.client()
        client.far.stall()
        client.send(get())
        transport = client.far.transport
        for _ in range(10):
            joined.advance(9)
            assert not client.far.closed()
            assert len(transport.pending) <= transport.high + 50_100
            del transport.pending[:10_000]  # as if it had read so much
        joined.advance(8.6)
        assert not client.far.closed()
        joined.advance(2.7)  # an eighth late at most, and a sweep of the timers
        assert client.far.closed()
        assert joined.done == [(b"GET / HTTP/1.1", 200)]
        assert "client timed out (110: Connection timed out) while sending response to client" in joined.log.lines[-1]


def test_requests_of_one_pipeline_are_answered_in_their_order() -> None:
    async def slow(exchange: Exchange) -> None:
        await exchange.sleep(5)
        exchange.respond(200, b"slow")

    with Joined(places={b"/slow": slow, b"/quick": _quick}) as joined:
        client = joined.client()
        client.send(get("/slow") + get("/quick") + get("/quick", "Connection: close") + get("/never"))
        assert client.rest == b""
        joined.advance(6)
        answers = [client.answer() for _ in range(3)]
        assert [answer.body for answer in answers] == [b"slow", b"quick", b"quick"]
        assert [answer.field("Connection") for answer in answers] == ["keep-alive", "keep-alive", "close"]
        assert client.rest == b""
        assert len(joined.done) == 3
        assert joined.origin.connections == []


async def _page(exchange: Exchange) -> None:
    exchange.respond(200, bytes(70_000))


PAGE = {b"/": _page}


def test_answers_that_are_not_read_do_not_pile_up() -> None:
    with Joined(places=PAGE, location={"send_timeout": 10.0}) as joined:
        client = joined.client()
        client.far.stall()
        for _ in range(20):
            client.send(get())
            assert len(client.far.transport.pending) < 150_000
        assert len(joined.done) == 1
        assert not client.far.reading()
        client.far.take()
        for _ in range(20):
            assert client.answer().complete
        assert client.rest == b""
        assert len(joined.done) == 20


def test_a_client_that_reads_nothing_and_asks_again_ends_by_the_timeout() -> None:
    with Joined(places=PAGE, location={"send_timeout": 10.0, "keepalive_timeout": 75.0}) as joined:
        for requests in (1, 2):
            client = joined.client()
            client.far.stall()
            for _ in range(requests):
                client.send(get())
            joined.advance(9.9)
            assert not client.far.closed()
            joined.advance(0.2)
            assert client.far.closed()


def test_a_client_that_read_slowly_rests_no_longer_than_others() -> None:
    with Joined(places=PAGE, location={"send_timeout": 10.0, "keepalive_timeout": 75.0}) as joined:
        client = joined.client()
        client.far.stall()
        client.send(get())
        joined.advance(9)
        client.far.take()
        assert client.answer().complete
        joined.advance(74)
        assert not client.far.closed()
        joined.advance(2)
        assert client.far.closed()
