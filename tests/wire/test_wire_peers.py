"""What becomes of a request when a peer fails: the next one, a fresh connection, or nginx's 502 and 504."""

from __future__ import annotations

import pytest

from tests.wire.joined import CHUNKED, Joined, chunks, get, post, response
from upwell.proxy.upstream import Limits


def test_a_refused_connection_sends_the_request_to_the_next_peer() -> None:
    with Joined(peers=2) as joined:
        joined.origins[0].mode = "refuse"
        client = joined.client()
        client.send(get("/x"))
        assert joined.in_use == [0, 1]
        joined.origins[1].last.send(response(b"second"))
        assert client.answer().body == b"second"
        assert "connect() failed (111: Connection refused) while connecting to upstream" in "\n".join(joined.log.lines)
        assert [peer.fails for peer in joined.upstream.peers] == [1, 0]


def test_a_post_that_did_not_reach_anybody_is_sent_to_the_next_peer() -> None:
    with Joined(peers=2) as joined:
        joined.origins[0].mode = "refuse"
        client = joined.client()
        client.send(post(b"content"))
        assert joined.origins[1].last.taken().endswith(b"Content-Length: 7\r\n\r\ncontent")
        joined.origins[1].last.send(response(b"second"))
        assert client.answer("POST").body == b"second"


@pytest.mark.parametrize("mode", ["refuse", "hang"])
def test_when_all_peers_fail_the_client_is_told_so(mode: str) -> None:
    with Joined(peers=2, peer={"fail_timeout": 1000.0}) as joined:
        for origin in joined.origins:
            origin.mode = mode
        client = joined.client()
        client.send(get())
        if mode == "hang":
            assert joined.in_use == [1, 0]
            joined.advance(59)
            assert joined.in_use == [1, 0]
            joined.advance(2)
            assert joined.in_use == [0, 1]
            joined.advance(61)
        answer = client.answer()
        assert (answer.status, answer.complete) == (504 if mode == "hang" else 502, True)
        assert joined.in_use == [0, 0]
        assert not client.far.ended
        # Both peers are out of use now, and the next request is told at once.
        client.send(get())
        assert client.answer().status == 502
        assert "no live upstreams while connecting to upstream" in "\n".join(joined.log.lines)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: aaaaaaaaaaaaaaaa", b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200"])
def test_the_read_timeout_is_for_the_whole_head_of_an_answer(head: bytes) -> None:
    with Joined(peers=2, spec={"limits": Limits(read_timeout=20)}) as joined:
        client = joined.client()
        client.send(get())
        for at in range(19):
            joined.origins[0].last.send(head[at : at + 1])
            joined.advance(1)
        assert joined.in_use == [1, 0]
        joined.advance(2)
        assert joined.in_use == [0, 1]
        assert [peer.fails for peer in joined.upstream.peers] == [1, 0]
        # Of content, every piece has as long.
        joined.origins[1].last.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
        for piece in (b"a", b"b", b"c"):
            joined.advance(19)
            joined.origins[1].last.send(piece)
        assert client.answer().body == b"abc"


def test_a_connection_that_is_made_too_late_is_not_used() -> None:
    with Joined(spec={"limits": Limits(connect_timeout=5)}) as joined:
        joined.origin.mode = "hang"
        client = joined.client()
        client.send(get())
        joined.advance(6)
        assert client.answer().status == 504
        joined.origin.mode = "accept"
        client.send(get())
        joined.origin.last.send(response(b"now"))
        assert client.answer().body == b"now"


@pytest.mark.parametrize("end", ["fin", "reset", "timeout", "garbage"])
def test_a_peer_that_does_not_answer_costs_a_try(end: str) -> None:
    on = frozenset(("error", "timeout", "invalid_header"))
    with Joined(peers=2, spec={"next_on": on}) as joined:
        client = joined.client()
        client.send(get("/x"))
        first = joined.origins[0].last
        assert first.taken()
        if end == "fin":
            first.finish()
        elif end == "reset":
            first.reset()
        elif end == "garbage":
            first.send(b"garbage\r\n\r\n")
        else:
            joined.advance(61)
        assert first.closed()
        assert joined.in_use == [0, 1]
        assert joined.origins[1].last.taken().startswith(b"GET /x ")
        joined.origins[1].last.send(response(b"second"))
        assert client.answer().body == b"second"
        assert [peer.fails for peer in joined.upstream.peers] == [1, 0]


@pytest.mark.parametrize("end", ["fin", "timeout"])
@pytest.mark.parametrize("method", ["POST", "PATCH", "LOCK"])
def test_a_request_that_may_have_had_its_effect_is_not_repeated(end: str, method: str) -> None:
    with Joined(peers=2) as joined:
        client = joined.client()
        client.send(post(b"pay").replace(b"POST", method.encode()))
        if end == "fin":
            joined.origins[0].last.finish()
        else:
            joined.advance(61)
        assert client.answer(method).status == (502 if end == "fin" else 504)
        assert joined.origins[1].connections == []


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_one_that_may_be_repeated_is_with_its_content(method: str) -> None:
    with Joined(peers=2) as joined:
        client = joined.client()
        client.send(post(b"content").replace(b"POST", method.encode()))
        joined.origins[0].last.finish()
        assert joined.origins[1].last.taken().endswith(b"\r\n\r\ncontent")
        joined.origins[1].last.send(response())
        assert client.answer(method).status == 200


def test_non_idempotent_lets_a_post_be_repeated() -> None:
    with Joined(peers=2, spec={"next_on": frozenset(("error", "non_idempotent"))}) as joined:
        client = joined.client()
        client.send(post(b"pay"))
        joined.origins[0].last.finish()
        joined.origins[1].last.send(response(b"second"))
        assert client.answer("POST").body == b"second"


def test_an_outcome_that_is_not_listed_ends_the_request() -> None:
    with Joined(peers=2, spec={"next_on": frozenset(("timeout",))}) as joined:
        joined.origins[0].mode = "refuse"
        client = joined.client()
        client.send(get())
        assert client.answer().status == 502
        assert joined.origins[1].connections == []


@pytest.mark.parametrize(("status", "counts"), [(503, 1), (404, 0)])
def test_a_listed_status_sends_the_request_on(status: int, counts: int) -> None:
    with Joined(peers=2, spec={"next_on": frozenset((f"http_{status}",))}) as joined:
        client = joined.client()
        client.send(get())
        joined.origins[0].last.send(response(b"bad", status=f"{status} Bad"))
        joined.origins[1].last.send(response(b"good"))
        assert client.answer().body == b"good"
        assert joined.upstream.peers[0].fails == counts


def test_the_last_peers_answer_passes_whatever_it_says() -> None:
    with Joined(peers=2, spec={"next_on": frozenset(("http_503",))}) as joined:
        client = joined.client()
        client.send(get())
        joined.origins[0].last.send(response(b"one", status="503 Busy"))
        joined.origins[1].last.send(response(b"two", status="503 Busy"))
        answer = client.answer()
        assert (answer.status, answer.body) == (503, b"two")


def test_tries_and_time_are_bounded() -> None:
    with Joined(peers=3, spec={"next_tries": 2}) as joined:
        for origin in joined.origins:
            origin.mode = "refuse"
        client = joined.client()
        client.send(get())
        assert client.answer().status == 502
        assert [peer.requests for peer in joined.upstream.peers] == [1, 1, 0]
    with Joined(peers=3, spec={"next_timeout": 30.0, "limits": Limits(connect_timeout=20)}) as joined:
        for origin in joined.origins:
            origin.mode = "hang"
        client = joined.client()
        client.send(get())
        joined.advance(100)
        assert client.answer().status == 504
        assert [peer.requests for peer in joined.upstream.peers] == [1, 1, 0]


def test_once_the_head_has_gone_there_is_no_next_peer() -> None:
    with Joined(peers=2) as joined:
        client = joined.client()
        client.send(get())
        joined.origins[0].last.send(response(b"half", length=8))
        joined.origins[0].last.finish()
        assert not client.answer().complete
        assert joined.origins[1].connections == []
        assert joined.upstream.peers[0].fails == 1


# Kept connections that their peer closes at the moment of reuse


def _kept(joined: Joined) -> None:
    """Leave one idle connection to the first peer."""
    client = joined.client()
    client.send(get())
    joined.origin.last.send(response(b"x"))
    assert client.answer().complete


@pytest.mark.parametrize("end", ["fin", "reset"])
def test_a_stale_connection_is_replaced_by_a_fresh_one(end: str) -> None:
    with Joined() as joined:
        _kept(joined)
        client = joined.client()
        client.send(get("/again"))
        stale = joined.origin[0]
        stale.finish() if end == "fin" else stale.reset()
        assert len(joined.origin.connections) == 2
        assert joined.origin.last.taken() == b"GET /again HTTP/1.1\r\nHost: peers\r\n\r\n"
        assert joined.in_use == [1]
        joined.origin.last.send(response(b"fresh"))
        assert client.answer().body == b"fresh"
        assert joined.in_use == [0]
        assert joined.upstream.peers[0].fails == 0


@pytest.mark.parametrize("end", ["fin", "reset"])
def test_the_fresh_one_is_to_the_same_peer_with_nothing_held_against_it(end: str) -> None:
    with Joined(peers=2) as joined:
        _kept(joined)
        client = joined.client()
        client.send(get("/turn"))
        joined.origins[1].last.send(response(b"x"))
        assert client.answer().complete
        client.send(get("/again"))
        stale = joined.origins[0][0]
        stale.finish() if end == "fin" else stale.reset()
        assert [len(origin.connections) for origin in joined.origins] == [2, 1]
        assert joined.in_use == [1, 0]
        joined.origin.last.send(response(b"fresh"))
        assert client.answer().body == b"fresh"
        assert [peer.fails for peer in joined.upstream.peers] == [0, 0]


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_connection_that_has_ended_unnoticed_is_not_used_for_a_post(method: str) -> None:
    with Joined() as joined:
        _kept(joined)
        joined.origin[0].taken()
        joined.origin[0].finish_unnoticed()
        client = joined.client()
        client.send(post(b"pay").replace(b"POST", method.encode()))
        if method == "POST":
            assert joined.origin[0].received == b""
            assert joined.origin[0].closed()
        else:
            joined.loop.call_soon(joined.origin[0].transport.pump)
            joined.loop.run()
        joined.origin[1].send(response(b"fresh"))
        assert client.answer(method).body == b"fresh"


def test_the_fresh_one_may_be_refused() -> None:
    with Joined(peers=2) as joined:
        _kept(joined)
        client = joined.client()
        client.send(get("/turn"))
        joined.origins[1].last.send(response(b"x"))
        assert client.answer().complete
        client.send(get("/again"))
        joined.origin.mode = "refuse"
        joined.origin[0].finish()
        assert joined.origins[1].last.taken().endswith(b"GET /again HTTP/1.1\r\nHost: peers\r\n\r\n")
        joined.origins[1].last.send(response(b"second"))
        assert client.answer().body == b"second"
        assert [peer.fails for peer in joined.upstream.peers] == [1, 0]


def test_a_post_on_a_stale_connection_is_not_repeated() -> None:
    with Joined() as joined:
        _kept(joined)
        client = joined.client()
        client.send(post(b"pay"))
        joined.origin[0].finish()
        assert client.answer("POST").status == 502
        assert len(joined.origin.connections) == 1
        assert joined.upstream.peers[0].fails == 0


def test_one_that_began_to_answer_was_not_stale() -> None:
    with Joined() as joined:
        _kept(joined)
        client = joined.client()
        client.send(get())
        joined.origin[0].send(b"HTTP/1.1 200")
        joined.origin[0].finish()
        assert client.answer().status == 502
        assert len(joined.origin.connections) == 1


def test_a_stale_connection_is_tried_afresh_once_only() -> None:
    with Joined() as joined:
        _kept(joined)
        client = joined.client()
        client.send(get())
        joined.origin[0].finish()
        joined.origin[1].finish()
        assert client.answer().status == 502
        assert len(joined.origin.connections) == 2


def test_an_idle_connection_that_its_peer_closes_is_forgotten() -> None:
    with Joined() as joined:
        _kept(joined)
        joined.origin[0].finish()
        client = joined.client()
        client.send(get())
        assert len(joined.origin.connections) == 2
        joined.origin.last.send(response(b"x"))
        assert client.answer().complete


def test_idle_connections_are_bounded_in_number_requests_and_time() -> None:
    with Joined(keepalive={"most": 2}) as joined:
        clients = [joined.client() for _ in range(4)]
        for client in clients:
            client.send(get())
        for far in joined.origin.connections:
            far.send(response(b"x"))
        assert [far.closed() for far in joined.origin.connections] == [True, True, False, False]
    with Joined(keepalive={"most": 0}) as joined:
        _kept(joined)
        assert joined.origin[0].closed()
    with Joined(keepalive={"max_requests": 2}) as joined:
        for _ in range(4):
            _kept(joined)
        assert [far.closed() for far in joined.origin.connections] == [True, True]
    with Joined(keepalive={"timeout": 10.0}) as joined:
        _kept(joined)
        joined.advance(9)
        assert not joined.origin[0].closed()
        joined.advance(2)
        assert joined.origin[0].closed()
    with Joined(keepalive={"max_time": 30.0}) as joined:
        for _ in range(4):
            _kept(joined)
            joined.advance(11)
        assert [far.closed() for far in joined.origin.connections] == [True]


def test_connections_are_not_kept_where_the_spec_says_so() -> None:
    with Joined(spec={"keeps": False}) as joined:
        _kept(joined)
        assert joined.origin[0].closed()


# Answers whose content is broken count against their peer


@pytest.mark.parametrize("together", [True, False])
def test_bad_chunks_count_against_the_peer(together: bool) -> None:
    with Joined(peers=2) as joined:
        client = joined.client()
        client.send(get())
        wire = CHUNKED + chunks(b"half")
        if together:
            joined.origin.last.send(wire + b"zz\r\n")
        else:
            joined.origin.last.send(wire)
            joined.origin.last.send(b"zz\r\n")
        assert client.far.ended == "reset"
        assert not client.answer().complete
        assert joined.upstream.peers[0].fails == 1
        assert not any("client sent" in line for line in joined.log.lines)


def test_a_read_timeout_within_the_content_cuts_the_answer_off() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get())
        joined.origin.last.send(response(b"half", length=8))
        joined.advance(59)
        joined.origin.last.send(b"x")
        joined.advance(59)
        assert client.far.ended == ""
        joined.advance(2)
        assert client.far.ended == "reset"
        assert joined.in_use == [0]


def test_an_answer_that_comes_slowly_but_steadily_is_whole() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get())
        head, _, content = response(b"slow but steady").partition(b"\r\n\r\n")
        joined.origin.last.send(head + b"\r\n\r\n")
        for byte in content:
            joined.advance(50)
            joined.origin.last.send(bytes((byte,)))
        assert client.answer().body == b"slow but steady"


def test_counters_follow_what_peers_answer() -> None:
    with Joined() as joined:
        client = joined.client()
        for status in (200, 201, 301, 404, 503):
            client.send(get())
            joined.origin.last.send(response(b"12345", status=f"{status} X"))
            assert client.answer().status == status
        peer = joined.upstream.peers[0]
        assert peer.requests == 5
        assert peer.responses == [0, 2, 1, 1, 1]


def test_running_out_of_descriptors_is_not_the_peers_fault() -> None:
    with Joined() as joined:
        joined.origin.mode = "no descriptors"
        client = joined.client()
        assert client.ask(get()).status == 500
        assert [peer.fails for peer in joined.upstream.peers] == [0] * len(joined.upstream.peers)
        joined.origin.mode = "accept"
        again = joined.client()
        again.send(get())
        joined.origin.last.send(response(b"well"))
        assert again.answer().body == b"well"
