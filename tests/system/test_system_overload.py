"""More than there is room for: what does not fit is turned away as nginx does, and nobody is blamed for it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.system.configurations import checked, proxying
from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Origin, Seen, get, response
from upwell.contrib.processes import UPWELL, await_condition, free_ports, peer_states
from upwell.contrib.traffic import Traffic, fetch

_ROOM = 40


@pytest.mark.parametrize("side", ["upwell", "nginx"])
def test_clients_that_rest_make_way(start: StartBalancer, nginx: tuple[str, ...], side: str) -> None:
    (front,) = free_ports(1)
    balancer = start(
        f"""
error_log logs/error.log warn;
events {{ worker_connections {_ROOM}; }}
http {{ server {{ listen 127.0.0.1:{front}; location / {{ return 200 "fine"; }} }} }}
""",
        [front],
        UPWELL if side == "upwell" else nginx,
    )
    with ExitStack() as stack:
        clients = []
        for _ in range(3 * _ROOM):
            clients.append(stack.enter_context(Client(front)))
            assert clients[-1].ask(get()).body == b"fine"
        # All but those for whom there is room were closed, the first of them for sure.
        assert clients[0].closed()
        assert clients[-1].ask(get()).body == b"fine"
    assert f"{_ROOM} worker_connections are not enough, reusing connections" in balancer.error_log()
    assert "[alert]" not in balancer.error_log()


@contextmanager
def _held(front: int, count: int, origin: Origin) -> Iterator[list[Client]]:
    """So many clients whose requests are at the origin."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(front)) for _ in range(count)]
        for client in clients:
            client.send(get("/held"))
        await_condition(lambda: len(origin.seen) == count, "the requests at the origin", 20)
        yield clients


@pytest.mark.parametrize("side", ["upwell", "nginx"])
def test_where_all_are_busy_the_next_one_is_closed_unheard(
    start: StartBalancer, nginx: tuple[str, ...], side: str
) -> None:
    # A request takes two of nginx's connections, and a listener and the channel to the master one each; upwell counts
    # clients.
    room = 10
    of_side = room if side == "upwell" else 2 * room + 2
    (front,) = free_ports(1)
    answering = threading.Event()

    def late(seen: Seen, connection: socket.socket) -> bytes:
        answering.wait(30)
        return response(b"late")

    with Origin(late) as origin:
        text = proxying(front, [origin.port]).replace("worker_connections 1024", f"worker_connections {of_side}")
        balancer = start(f"error_log logs/error.log warn; {text}", [front], UPWELL if side == "upwell" else nginx)
        with _held(front, room, origin) as clients:
            with Client(front) as other:
                assert other.closed()
            await_condition(
                lambda: f"{of_side} worker_connections are not enough" in balancer.error_log(), "the alert", 10
            )
            answering.set()
            assert [client.answer().body for client in clients] == [b"late"] * room
            # They rest now, and one of them makes way.
            with Client(front) as other:
                assert other.ask(get()).body == b"late"


def test_beyond_what_it_can_do_all_are_answered_and_no_peer_is_blamed(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Origin(response(b"one")) as one, Origin(response(b"two")) as two, ExitStack() as stack:
        busy = "location = /busy { content_by_lua_block { for i = 1, 1e7 do end ngx.say('done') } }"
        text = checked(front, [one.port, two.port], interval=50, location=busy)
        balancer = start(text, [front])
        await_condition(lambda: list(peer_states(fetch(front, "/status")[1]).values()) == [True, True], "peers", 20)
        # Clients that ask again as soon as they are answered, and requests that take all of the worker's time.
        loads = [stack.enter_context(Traffic(front, path, 0.0)) for path in ("/",) * 12 + ("/busy",) * 4]

        def probes(origin: Origin) -> int:
            return sum(seen.target == b"/index.html" for seen in list(origin.seen))

        before = probes(one), probes(two)
        await_condition(lambda: all(load.asked > 15 for load in loads), "requests of all clients", 90)
        await_condition(lambda: probes(one) > before[0] + 10 and probes(two) > before[1] + 10, "probes meanwhile", 30)
        for load in loads:
            load.stop()
        assert [load.lost for load in loads] == [[]] * len(loads)
        assert list(peer_states(fetch(front, "/status")[1]).values()) == [True, True]
        for words in ("turned down", "temporarily disabled", "timed out", "[alert]"):
            assert words not in balancer.error_log()
