"""Clients that are slow, that leave, that keep still, that speak nonsense; handlers that fail; captures."""

from __future__ import annotations

import pytest

from tests.wire.joined import CHUNKED, LAST, Joined, chunks, get, post, response
from upwell.proxy.exchange import Captured, Exchange
from upwell.proxy.location import Content


def _leave(joined: Joined, how: str) -> None:
    far = joined.clients[-1].far
    far.finish() if how == "fin" else far.reset()


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("when", ["connecting", "waiting", "head", "content", "streaming", "paused"])
def test_a_client_that_leaves_lets_its_peer_go_at_any_time(when: str, how: str) -> None:
    with Joined(spec={"request_buffering": False}, location={"max_body_size": 0}) as joined:
        if when == "connecting":
            joined.origin.mode = "hang"
        client = joined.client()
        client.send(post(bytes(30_000), length=100_000) if when == "streaming" else get("/gone"))
        assert joined.in_use == [1]
        if when == "head":
            joined.origin.last.send(b"HTTP/1.1 200 OK\r\nContent-")
        elif when == "content":
            joined.origin.last.send(response(b"half", length=8))
        elif when == "paused":
            client.far.stall()
            joined.origin.last.send(response(b"", length=4_000_000))
            while joined.origin.last.reading():
                joined.origin.last.send(bytes(20_000))
        _leave(joined, how)
        assert joined.in_use == [0]
        assert all(far.closed() for far in joined.origin.connections)
        given_up = 400 if (when, how) == ("streaming", "fin") else 499  # nginx: content that its client breaks off
        assert joined.done[-1][1] == (200 if when in ("content", "paused") else given_up)
        # Nothing that comes later hurts.
        for far in joined.origin.connections:
            far.send(response(b"late"))
        joined.origin.mode = "accept"
        client = joined.client()
        client.send(get())
        joined.origin.last.send(response(b"fine"))
        assert client.answer().body == b"fine"
        assert joined.upstream.peers[0].fails == 0


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("stalled", [False, True])
def test_ignore_client_abort_sees_the_request_through(how: str, stalled: bool) -> None:
    with Joined(spec={"ignore_client_abort": True}) as joined:
        client = joined.client()
        client.send(get())
        peer = joined.origin.last
        if stalled:
            client.far.stall()
            peer.send(response(b"", length=200_000))
            sent = 0
            while peer.reading():
                peer.send(bytes(10_000))
                sent += 10_000
            client.far.reset()
            peer.send(bytes(200_000 - sent))
        else:
            _leave(joined, how)
            assert joined.in_use == [1]
            peer.send(response(b"done"))
        assert joined.in_use == [0]
        assert not peer.closed()


def test_a_client_that_only_closed_its_side_gets_the_answer_of_a_handler() -> None:
    async def slow(exchange: Exchange) -> None:
        await exchange.sleep(5)
        exchange.respond(200, b"slow")

    with Joined(places={b"/slow": slow}) as joined:
        client = joined.client()
        client.send(get("/slow"))
        client.far.finish()
        joined.advance(6)
        answer = client.answer()
        assert (answer.body, answer.complete, client.far.ended) == (b"slow", True, "fin")


def test_a_pipeline_whose_client_closed_its_side_is_answered_to_its_end() -> None:
    async def quick(exchange: Exchange) -> None:
        exchange.respond(200, exchange.args)

    with Joined(places={b"/quick": quick}) as joined:
        client = joined.client()
        far = client.far
        far.transport.inbox.extend([get("/quick?1") + get("/quick?2") + get("/quick?3"), None])
        joined.loop.call_soon(far.transport.pump)
        joined.loop.run()
        assert [client.answer().body for _ in range(3)] == [b"1", b"2", b"3"]
        assert far.ended == "fin"


@pytest.mark.parametrize("spare", [b"\r\n", b"\r\n\r\n", b"\n", b""])
def test_empty_lines_behind_a_pipeline_keep_nobody_who_has_closed_his_side(spare: bytes) -> None:
    async def quick(exchange: Exchange) -> None:
        exchange.respond(200, exchange.args)

    with Joined(places={b"/quick": quick}) as joined:
        client = joined.client()
        far = client.far
        far.transport.inbox.extend([get("/quick?1") + spare + get("/quick?2") + spare, None])
        joined.loop.call_soon(far.transport.pump)
        joined.loop.run()
        assert [client.answer().body for _ in range(2)] == [b"1", b"2"]
        assert far.closed()
        assert far.ended == "fin"


def test_an_upload_that_its_client_breaks_off_is_given_up_at_once() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(post(b"half", length=8))
        client.far.finish()
        assert client.far.closed()
        assert joined.done[-1][1] in (400, 499)
        assert joined.origin.connections == []


# Time-outs of the head and between requests


def test_a_client_that_says_nothing_is_closed_without_a_word() -> None:
    with Joined() as joined:
        client = joined.client()
        joined.advance(59)
        assert not client.far.closed()
        joined.advance(2)
        assert client.far.closed()
        assert client.rest == b""
        assert joined.done == []


def test_a_head_must_be_complete_in_time_however_steady_it_comes() -> None:
    with Joined() as joined:
        client = joined.client()
        for byte in b"GET / HTTP/1.1\r\nHost: x\r\n":
            if client.far.closed():
                break
            client.send(bytes((byte,)))
            joined.advance(5)
        assert client.far.closed()
        assert joined.loop.time() < 1000 + 130
        assert joined.origin.connections == []


def test_an_idle_connection_is_closed_in_time() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get())
        joined.origin.last.send(response(b"x"))
        assert client.answer().complete
        joined.advance(74)
        assert not client.far.closed()
        joined.advance(2)
        assert client.far.closed()


def test_a_kept_connection_may_begin_its_next_head_at_the_last_moment() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get())
        joined.origin.last.send(response(b"x"))
        assert client.answer().complete
        joined.advance(74)
        wire = get("/next")
        client.send(wire[:10])
        joined.advance(50)
        client.send(wire[10:])
        joined.origin.last.send(response(b"next"))
        assert client.answer().body == b"next"


def test_requests_and_time_of_a_connection_are_bounded() -> None:
    with Joined(location={"keepalive_requests": 2}) as joined:
        client = joined.client()
        for connection in ("keep-alive", "close"):
            client.send(get())
            joined.origin.last.send(response(b"x"))
            assert client.answer().field("Connection") == connection
        assert client.far.closed()
    with Joined(location={"keepalive_time": 30.0}) as joined:
        client = joined.client()
        for connection in ("keep-alive", "close"):
            client.send(get())
            joined.origin.last.send(response(b"x"))
            assert client.answer().field("Connection") == connection
            joined.advance(31)
        assert client.far.closed()
    with Joined(location={"keepalive_timeout": 0.0}) as joined:
        client = joined.client()
        client.send(get())
        joined.origin.last.send(response(b"x"))
        assert client.answer().field("Connection") == "close"
        assert client.far.closed()


def test_more_connections_than_allowed_are_closed_at_once_where_all_are_busy() -> None:
    with Joined(endpoint={"limit": 2}) as joined:
        clients = [joined.client() for _ in range(2)]
        clients[0].send(get())
        clients[1].send(b"GET / HT")
        late = [joined.client() for _ in range(2)]
        assert [client.far.closed() for client in (*clients, *late)] == [False, False, True, True]
        assert "".join(joined.log.lines).count("2 worker_connections are not enough") == 2
        assert "reusing" not in "".join(joined.log.lines)
        # Nobody looks again at once; then, who rests makes way.
        joined.origin.last.send(response(b"x"))
        assert clients[0].answer().body == b"x"
        joined.advance(0.1)
        another = joined.client()
        assert [client.far.closed() for client in (*clients, another)] == [True, False, False]
        another.far.finish()
        assert not joined.client().far.closed()


def test_connections_that_rest_make_way_the_oldest_first() -> None:
    with Joined(endpoint={"limit": 3}) as joined:
        resting = [joined.client() for _ in range(3)]
        for client in (resting[1], resting[0], resting[2]):
            joined.advance(1)
            client.send(get())
            joined.origin.last.send(response(b"x"))
            assert client.answer().body == b"x"
        joined.advance(1)
        new = [joined.client()]
        assert [client.far.closed() for client in resting] == [False, True, False]
        joined.advance(0.5)
        new.append(joined.client())
        assert [client.far.closed() for client in resting] == [True, True, False]
        # A new one that has asked for nothing yet rests too, but not for so long.
        joined.advance(1)
        resting[2].send(get())
        joined.origin.last.send(response(b"x"))
        resting[2].answer()
        new.append(joined.client())
        assert [client.far.closed() for client in (resting[2], *new)] == [False, True, False, False]
        lines = [line for line in joined.log.lines if "worker_connections" in line]
        assert len(lines) == 2  # one in a second
        assert all("3 worker_connections are not enough, reusing connections" in line for line in lines)


def test_a_graceful_end_closes_the_idle_and_lets_the_others_finish() -> None:
    with Joined() as joined:
        idle, busy, beginning, fresh = (joined.client() for _ in range(4))
        idle.send(get())
        joined.origin.last.send(response(b"served"))
        assert idle.answer().body == b"served"
        busy.send(get())
        beginning.send(get()[:10])
        joined.endpoint.draining = True
        for client in (idle, busy, beginning, fresh):
            client.protocol.close_if_idle()
        joined.loop.run()
        assert not idle.far.closed()  # it has asked something just now
        joined.advance(1.1)
        assert idle.far.closed()
        assert not fresh.far.closed()  # its first request may be on the way
        joined.origin.last.send(response(b"x"))
        assert busy.answer().field("Connection") == "close"
        assert busy.far.closed()
        beginning.send(get()[10:])
        joined.origin.last.send(response(b"y"))
        assert beginning.answer().body == b"y"
        assert beginning.far.closed()


def test_a_graceful_end_answers_what_has_come_unread() -> None:
    """A busy worker hears of the end before it reads what is there: closing would reset the connection."""
    with Joined() as joined:
        clients = [joined.client() for _ in range(2)]
        for client in clients:
            client.send(get())
            joined.origin.last.send(response(b"served"))
            assert client.answer().body == b"served"
        clients[0].far.transport.far_socket.send(b"G")
        joined.endpoint.draining = True
        for client in clients:
            client.protocol.close_if_idle()
        joined.advance(1.1)
        assert [client.far.closed() for client in clients] == [False, True]
        clients[0].send(get())
        joined.origin.last.send(response(b"the last"))
        answer = clients[0].answer()
        assert (answer.body, answer.field("Connection")) == (b"the last", "close")
        assert clients[0].far.closed()


def test_a_graceful_end_waits_a_second_for_those_who_ask_again_and_again() -> None:
    with Joined() as joined:
        eager, calm = joined.client(), joined.client()
        for client in (calm, eager):
            client.send(get())
            joined.origin.last.send(response(b"served"))
            assert client.answer().body == b"served"
            if client is calm:
                joined.advance(2)
        joined.endpoint.draining = True
        for client in (eager, calm):
            client.protocol.close_if_idle()
        joined.loop.run()
        assert [client.far.closed() for client in (eager, calm)] == [False, True]
        joined.advance(0.5)
        eager.send(get())
        joined.origin.last.send(response(b"the last"))
        answer = eager.answer()
        assert (answer.body, answer.field("Connection")) == (b"the last", "close")
        assert eager.far.closed()


# Heads that are refused


REFUSED = {
    "nonsense": (b"nonsense\r\n\r\n", 400),
    "two framings": (post(b"", "Transfer-Encoding: chunked"), 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405),
    "TRACE": (b"TRACE / HTTP/1.1\r\nHost: a:80\r\n\r\n", 405),
    "unknown coding": (get("/", "Transfer-Encoding: gzip"), 501),
    "long target": (get("/" + "x" * 9000), 414),
    "long target without an end": (b"GET /" + b"x" * 9000, 414),
    "long line": (get("/", "X: " + "x" * 9000), 400),
    "long line without an end": (b"GET / HTTP/1.1\r\nX: " + b"x" * 9000, 400),
    "too many lines": (get("/", *["X: " + "x" * 1000] * 40), 400),
}


@pytest.mark.parametrize(("wire", "status"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("step", [50, 100_000])
def test_a_head_that_is_refused_is_answered_and_ends_the_connection(wire: bytes, status: int, step: int) -> None:
    with Joined() as joined:
        client = joined.client()
        for at in range(0, len(wire), step):
            client.send(wire[at : at + step])
        client.send(get("/smuggled"))
        answer = client.answer()
        assert (answer.status, answer.complete, answer.field("Connection")) == (status, True, "close")
        assert client.far.ended == "fin"
        assert client.rest == b""
        assert joined.origin.connections == []
        assert len(joined.done) == 1
        joined.advance(40)
        assert client.far.closed()


def test_empty_lines_before_a_request_are_skipped_however_they_come() -> None:
    for wire in (b"\r\n" + get(), b"\r\n\r\n" + get(), b"\n\n" + get(), b"\r\n\r\n\r\n" + get() + b"\r\n" + get()):
        for step in (1, 2, 3, 10_000):
            with Joined() as joined:
                client = joined.client()
                for at in range(0, len(wire), step):
                    client.send(wire[at : at + step])
                for _ in range(wire.count(b"GET")):
                    joined.origin.last.send(response(b"x"))
                    assert client.answer().body == b"x"


# Handlers


def _boom(_: Exchange) -> None:
    raise ZeroDivisionError("boom")


def test_an_error_in_a_handler_is_500_and_the_next_request_works() -> None:
    async def broken(exchange: Exchange) -> None:
        _boom(exchange)

    async def broken_later(exchange: Exchange) -> None:
        await exchange.sleep(1)
        _boom(exchange)

    async def silent(exchange: Exchange) -> None:
        """Answers nothing."""

    with Joined(places={b"/broken": broken, b"/later": broken_later, b"/silent": silent}) as joined:
        for path in ("/broken", "/later", "/silent"):
            client = joined.client()
            client.send(get(path))
            joined.advance(2)
            assert client.answer().status == 500
            client = joined.client()
            client.send(get("/fine"))
            joined.origin.last.send(response(b"fine"))
            assert client.answer().body == b"fine"
        assert [type(error) for error in joined.reported] == [ZeroDivisionError] * 2
        joined.expected = list(joined.reported)


def test_an_error_after_the_head_cuts_the_answer_off() -> None:
    async def broken(exchange: Exchange) -> None:
        exchange.send_head()
        exchange.write(b"half")
        _boom(exchange)

    with Joined(places={b"/broken": broken}) as joined:
        client = joined.client()
        client.send(get("/broken"))
        answer = client.answer()
        assert (answer.body, answer.complete, client.far.ended) == (b"half", False, "reset")
        joined.expected = list(joined.reported)


def test_an_error_in_a_header_filter_is_500_and_the_next_request_works() -> None:
    with Joined(location={"header_filters": (_boom,)}) as joined:
        client = joined.client()
        client.send(get())
        joined.origin.last.send(response(b"x"))
        assert client.answer().status == 500
        assert joined.in_use == [0]
        joined.expected = list(joined.reported)
        assert joined.expected


def test_an_error_in_a_log_handler_costs_only_its_line() -> None:
    with Joined(location={"log": (_boom,)}) as joined:
        client = joined.client()
        for _ in range(2):
            client.send(get())
            joined.origin.last.send(response(b"x"))
            assert client.answer().body == b"x"
        joined.expected = list(joined.reported)


def test_a_handler_that_waits_lets_others_go_on() -> None:
    async def slow(exchange: Exchange) -> None:
        await exchange.sleep(5)
        exchange.respond(200, b"slow")

    with Joined(places={b"/slow": slow}) as joined:
        one, two = joined.client(), joined.client()
        one.send(get("/slow"))
        two.send(get("/fine"))
        joined.origin.last.send(response(b"fine"))
        assert two.answer().body == b"fine"
        assert one.rest == b""
        joined.advance(5)
        assert one.answer().body == b"slow"


def test_a_handler_that_writes_much_waits_for_its_client() -> None:
    written = 0

    async def much(exchange: Exchange) -> None:
        nonlocal written
        for _ in range(100):
            exchange.write(bytes(10_000)) if exchange.head_sent else exchange.send_head()
            await exchange.drained()
            written += 1
        exchange.finish()

    with Joined(places={b"/much": much}) as joined:
        client = joined.client()
        client.far.stall()
        client.send(get("/much"))
        assert written < 20
        client.far.take()
        assert written == 100
        assert len(client.answer().body) == 990_000
        client = joined.client()
        client.far.stall()
        client.send(get("/much"))
        client.far.reset()
        assert joined.done[-1] == (b"GET /much HTTP/1.1", 200)


def test_a_handler_reads_the_whole_content() -> None:
    async def read(exchange: Exchange) -> None:
        content = await exchange.read_body()
        assert exchange.body is not None
        exchange.respond(200, b"%d %d" % (len(content), exchange.body.size))

    for memory, expected in ((1 << 20, b"200000 200000"), (1000, b"0 200000")):
        with Joined(places={b"/read": read}, location={"body_buffer_size": memory}) as joined:
            client = joined.client()
            wire = post(bytes(200_000), path="/read")
            for at in range(0, len(wire), 10_000):
                client.send(wire[at : at + 10_000])
            assert client.answer("POST").body == expected


# Requests within requests


def _capturing(seen: list[Captured]) -> Content:
    async def outer(exchange: Exchange) -> None:
        captured = await exchange.subrequest(b"/inner", b"a=b")
        seen.append(captured)
        exchange.respond(200, b"[%d %b]" % (captured.status, captured.body))

    return outer


@pytest.mark.parametrize("wire", [response(b"inner"), CHUNKED + chunks(b"in", b"ner") + LAST])
def test_a_capture_gives_the_whole_answer(wire: bytes) -> None:
    seen: list[Captured] = []
    with Joined(places={b"/outer": _capturing(seen)}) as joined:
        client = joined.client()
        for _ in range(2):
            client.send(get("/outer"))
            assert joined.origin.last.taken().startswith(b"GET /inner?a=b ")
            joined.origin.last.send(wire)
            assert client.answer().body == b"[200 inner]"
        assert len(joined.origin.connections) == 1
        assert [line for line, _ in joined.done] == [b"GET /outer HTTP/1.1"] * 2


def test_a_capture_from_a_peer_that_breaks_off_says_so() -> None:
    seen: list[Captured] = []
    with Joined(places={b"/outer": _capturing(seen)}) as joined:
        client = joined.client()
        client.send(get("/outer"))
        joined.origin.last.send(response(b"half", length=8))
        joined.origin.last.finish()
        assert client.answer().complete
        assert seen[0].truncated


@pytest.mark.parametrize("when", ["connecting", "waiting", "content"])
def test_a_client_that_leaves_during_a_capture_lets_its_peer_go(when: str) -> None:
    capture = _capturing([])

    async def outer(exchange: Exchange) -> None:
        exchange.abortable = True  # as a handler that asked to be told
        await capture(exchange)

    with Joined(places={b"/outer": outer}) as joined:
        if when == "connecting":
            joined.origin.mode = "hang"
        client = joined.client()
        client.send(get("/outer"))
        assert joined.in_use == [1]
        if when == "content":
            joined.origin.last.send(response(b"half", length=8))
        client.far.reset()
        assert joined.in_use == [0]
        assert joined.done[-1][1] == 499
        assert all(far.closed() for far in joined.origin.connections)


def test_a_handler_runs_to_its_end_though_its_client_has_left() -> None:
    steps: list[str] = []

    async def outer(exchange: Exchange) -> None:
        await exchange.sleep(1)
        steps.append("slept")
        exchange.respond(200, b"nobody hears")
        steps.append("answered")

    with Joined(places={b"/outer": outer}) as joined:
        client = joined.client()
        client.send(get("/outer"))
        client.far.reset()
        joined.loop.advance(2)
        assert steps == ["slept", "answered"]
        assert len(joined.done) == 1


def test_a_handler_whose_client_left_does_not_wait_for_it_to_read() -> None:
    async def outer(exchange: Exchange) -> None:
        exchange.send_head()
        while True:
            exchange.write(bytes(50_000))
            await exchange.drained()

    with Joined(places={b"/outer": outer}) as joined:
        client = joined.client()
        client.far.stall()
        client.send(get("/outer"))
        client.far.reset()
        assert len(joined.done) == 1


def test_many_pipelined_requests_wait_for_a_client_that_does_not_read() -> None:
    served = 0

    async def answer(exchange: Exchange) -> None:
        nonlocal served
        served += 1
        exchange.respond(200, bytes(1000))

    with Joined(places={b"/x": answer}, location={"keepalive_requests": 1_000_000}) as joined:
        client = joined.client()
        client.far.stall()
        for _ in range(40):
            client.send(get("/x") * 200)
        assert served < 400  # what the transport takes before it says "no more"
        assert not client.protocol._reading
        client.far.take()
        assert served == 8000


@pytest.mark.parametrize("requests", [1, 2])
def test_a_client_that_ends_its_side_during_an_answer_gets_all_and_is_let_go(requests: int) -> None:
    async def slow(exchange: Exchange) -> None:
        exchange.content_length = 6
        exchange.send_head()
        exchange.write(b"one")
        await exchange.sleep(1.0)
        exchange.write(b"two")

    with Joined(places={b"/slow": slow}) as joined:
        client = joined.client()
        client.send(get("/slow") * requests)
        client.far.finish()
        joined.advance(2.5)
        assert [client.answer().body for _ in range(requests)] == [b"onetwo"] * requests
        assert client.far.closed()


def test_two_captures_at_once_each_get_their_own_answer() -> None:
    async def outer(exchange: Exchange) -> None:
        first = await exchange.subrequest(b"/one")
        second = await exchange.subrequest(b"/two")
        exchange.respond(200, first.body + second.body)

    with Joined(places={b"/outer": outer}) as joined:
        one, two = joined.client(), joined.client()
        one.send(get("/outer"))
        two.send(get("/outer"))
        for far in joined.origin.connections:
            far.send(response(b"1"))
        for far in joined.origin.connections:
            far.send(response(b"2"))
        assert (one.answer().body, two.answer().body) == (b"12", b"12")


def test_a_capture_of_itself_ends_somewhere() -> None:
    async def outer(exchange: Exchange) -> None:
        captured = await exchange.subrequest(b"/outer")
        exchange.respond(captured.status, captured.body)

    with Joined(places={b"/outer": outer}) as joined:
        client = joined.client()
        client.send(get("/outer"))
        assert client.answer().status == 500
        joined.expected = list(joined.reported)
