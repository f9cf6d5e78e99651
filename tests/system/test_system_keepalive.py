"""How many connections a peer sees: upstream keep-alive and its bounds, beside nginx."""

from __future__ import annotations

import functools
import threading

import pytest

from tests.system.configurations import proxying
from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Origin, ask, get, response
from upwell.contrib.processes import await_condition, free_ports

CASES = {
    # directives of the upstream, of the location, further connections that six requests in a row make
    "by default": ("", "", 0),
    "bounded": ("keepalive 4;", "", 0),
    "local": ("keepalive 4 local;", "", 0),
    "none": ("keepalive 0;", "", 6),
    "two requests each": ("keepalive 4; keepalive_requests 2;", "", 3),
    "one request each": ("keepalive 4; keepalive_requests 1;", "", 6),
    "no request each": ("keepalive_requests 0;", "", 6),
    "idle for no time": ("keepalive 4; keepalive_timeout 0;", "", 6),
    "before the method": ("keepalive 4; least_conn;", "", 0),
    "none, before the method": ("keepalive 0; random;", "", 6),
    "behind sessions": ("sticky cookie srv; keepalive 4;", "", 0),
    "before sessions": ("keepalive 4; sticky cookie srv;", "", 0),
    "told to close, and the peer does": ("keepalive 4;", "proxy_set_header Connection close;", 6),
    "HTTP/1.0, and it is kept": ("keepalive 4;", "proxy_http_version 1.0; proxy_set_header Connection keep-alive;", 0),
    "HTTP/1.0, and the peer closes": ("keepalive 4;", "proxy_http_version 1.0;", 6),
}


@pytest.mark.parametrize("name", CASES)
def test_connections_are_kept_as_nginx_keeps_them(name: str, start: StartBalancer, nginx: tuple[str, ...]) -> None:
    upstream, location, further = CASES[name]
    said = ["Connection: close"] if "peer" in name else ["Connection: keep-alive"] if "kept" in name else []
    fronts = free_ports(2)
    for front, command in zip(fronts, (nginx, None), strict=True):
        with Origin(response(b"fine", *said)) as origin:
            configuration = proxying(front, [origin.port], location, upstream)
            start(configuration, [front], command) if command else start(configuration, [front])
            # An even number of requests first, so that the bound on requests starts anew.
            for _ in range(2):
                assert ask(front, get()).body == b"fine"
            before = origin.connections
            for _ in range(6):
                assert ask(front, get()).body == b"fine"
            assert origin.connections - before == further, f"{front} of {fronts}"


def _has_one(origin: Origin) -> bool:
    return len(origin._open) == 1


def test_the_oldest_idle_connection_goes_when_there_are_too_many(start: StartBalancer, nginx: tuple[str, ...]) -> None:
    for command in (nginx, None):
        (front,) = free_ports(1)
        gate = threading.Barrier(3)

        def together(*_: object, gate: threading.Barrier = gate) -> bytes:
            gate.wait(10)
            return response(b"fine")

        with Origin(together) as origin:
            origin_has_one = functools.partial(_has_one, origin)
            configuration = proxying(front, [origin.port], upstream="keepalive 1;")
            start(configuration, [front], command) if command else start(configuration, [front])
            with Client(front) as one, Client(front) as other:
                one.send(get())
                other.send(get())
                gate.wait(10)
                assert one.answer().body == other.answer().body == b"fine"
                assert origin.connections == 2
                await_condition(origin_has_one, "one connection to be closed", 10.0)
                origin.respond(response(b"fine"))
                assert one.ask(get()).body == b"fine"
                assert origin.connections == 2


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "$address", "localhost:{port}"])
def test_connections_to_an_address_without_a_group_are_kept_too(
    host: str, start: StartBalancer, nginx: tuple[str, ...]
) -> None:
    """nginx opens one for each request (docs/decisions/0011)."""
    for command, further in ((nginx, 6), (None, 0)):
        (front,) = free_ports(1)
        with Origin(response(b"fine")) as origin:
            address = f"127.0.0.1:{origin.port}"
            configuration = f"""
events {{}}
http {{ server {{
    listen 127.0.0.1:{front};
    set $address {address};
    location / {{ proxy_pass http://{host.format(port=origin.port)}; }}
    location /other {{ proxy_pass http://{host.format(port=origin.port)}; }}
}} }}
"""
            start(configuration, [front], command) if command else start(configuration, [front])
            assert ask(front, get()).body == b"fine"
            before = origin.connections
            for number in range(6):
                assert ask(front, get("/other" if number % 2 else "/")).body == b"fine"
            assert origin.connections - before == further


def test_a_peer_asked_with_http_1_0_must_say_that_it_keeps(start: StartBalancer, nginx: tuple[str, ...]) -> None:
    """nginx takes an answer of HTTP/1.1 as a promise whatever was asked (docs/decisions/0011)."""
    for command, further in ((nginx, 0), (None, 6)):
        (front,) = free_ports(1)
        with Origin(response(b"fine")) as origin:
            configuration = proxying(front, [origin.port], "proxy_http_version 1.0;", "keepalive 4;")
            start(configuration, [front], command) if command else start(configuration, [front])
            assert ask(front, get()).body == b"fine"
            before = origin.connections
            for _ in range(6):
                assert ask(front, get()).body == b"fine"
            assert origin.connections - before == further
