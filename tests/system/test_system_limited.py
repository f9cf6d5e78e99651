"""`limit_req` and `limit_conn` beside nginx: the same requests pass, with the same lines in the error log."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.system.beside import NGINX
from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Origin, Seen, ask, get, response
from upwell.contrib.processes import UPWELL, Balancer, await_condition, free_ports

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (make dev)")

CONFIGURATION = """
error_log logs/error.log info;
worker_processes {workers};
events {{}}
http {{
    access_log off;
    limit_req_zone $arg_x zone=slow:1m rate=1r/m;
    limit_req_zone $arg_y zone=other:1m rate=1r/m;
    limit_req_zone "$arg_x/$arg_y" zone=both:32k rate=1r/m;
    limit_conn_zone $arg_x zone=held:1m;
    limit_conn_zone $arg_y zone=more:1m;
    add_header X-Limit "$limit_req_status|$limit_conn_status" always;
    server {{
        listen 127.0.0.1:{front};
        location / {{ proxy_pass http://127.0.0.1:{origin}; }}
        location /one {{ limit_req zone=slow; proxy_pass http://127.0.0.1:{origin}; }}
        location /burst {{ limit_req zone=slow burst=2 nodelay; proxy_pass http://127.0.0.1:{origin}; }}
        location /some {{ limit_req zone=slow burst=9 delay=2; proxy_pass http://127.0.0.1:{origin}; }}
        location /status {{
            limit_req zone=slow; limit_req_status 429; limit_req_log_level info;
            proxy_pass http://127.0.0.1:{origin};
        }}
        location /wait {{ limit_req zone=slow burst=5; proxy_pass http://127.0.0.1:{origin}; }}
        location /dry {{
            limit_req zone=slow burst=1; limit_req_dry_run on; limit_req_log_level warn;
            limit_conn held 1; limit_conn_dry_run on;
            proxy_pass http://127.0.0.1:{origin};
        }}
        location /two {{
            limit_req zone=slow burst=2 nodelay; limit_req zone=other burst=1 nodelay;
            proxy_pass http://127.0.0.1:{origin};
        }}
        location /paged {{
            limit_req zone=slow; error_page 503 /page;
            proxy_pass http://127.0.0.1:{origin};
        }}
        location /page {{ limit_req zone=slow; proxy_pass http://127.0.0.1:{origin}; }}
        location /held {{
            limit_conn held 1; limit_conn more 2; limit_conn_status 429; limit_conn_log_level notice;
            proxy_pass http://127.0.0.1:{origin};
        }}
    }}
    server {{
        listen 127.0.0.1:{front};
        server_name inherited;
        limit_req zone=both;
        location / {{ proxy_pass http://127.0.0.1:{origin}; }}
        location /own {{ limit_req zone=slow burst=1 nodelay; proxy_pass http://127.0.0.1:{origin}; }}
    }}
}}
"""


@dataclass
class Side:
    """One of the two, and what keeps its origin from answering."""

    port: int
    balancer: Balancer
    origin: Origin
    answers: threading.Event


@pytest.fixture(scope="module")
def sides(start_shared: StartBalancer) -> Iterator[tuple[Side, Side]]:
    """nginx and upwell."""
    assert NGINX is not None
    with ExitStack() as stack:

        def side(command: tuple[str, ...], port: int) -> Side:
            answers = threading.Event()

            def respond(seen: Seen, _: socket.socket) -> bytes:
                if seen.target.startswith((b"/held", b"/dry?x=held")):
                    answers.wait(50)
                return response(b"yes")

            origin = stack.enter_context(Origin(respond))
            text = CONFIGURATION.format(front=port, origin=origin.port, workers=1)
            return Side(port, start_shared(text, [port], command), origin, answers)

        ports = free_ports(2)
        yield side(NGINX, ports[0]), side(UPWELL, ports[1])


def told(side: Side, sign: str) -> list[str]:
    """The lines of the error log about requests with `sign`, without what differs between any two runs."""
    lines = [line for line in side.balancer.error_log().splitlines() if sign in line]
    lines = [re.sub(r"^.*?\[(\w+)\] .*?\*\d+ ", r"\1: ", line) for line in lines]
    return [re.sub(r"127\.0\.0\.1:\d+", "?", re.sub(r"excess: \d+\.\d+", "excess: ?", line)) for line in lines]


SEQUENCES = {
    "without a key": ["/one", "/one?x=", "/held", "/"],
    "one": ["/one?x=one", "/one?x=one", "/one?x=one-", "/one?x=one"],
    "a burst": ["/burst?x=burst"] * 5,
    "a burst that is not delayed": ["/some?x=some"] * 3,
    "another status": ["/status?x=status"] * 2,
    "dry": ["/dry?x=dry"] * 4,
    "two, the first too fast": ["/two?x=two"] * 5,
    "two, the last too fast": ["/two?y=last"] * 4,
    "two, both": ["/two?x=a1&y=a1", "/two?x=a2&y=a1", "/two?x=a3&y=a1", "/two?x=a2&y=a2", "/two?x=a2&y=a3"],
    "one zone of two locations": ["/one?x=shared", "/burst?x=shared", "/burst?x=shared", "/burst?x=shared"],
    "an error page with a limit": ["/paged?x=paged"] * 3,
    "not counted when refused": ["/two?x=r1&y=r", "/two?x=r1&y=r", "/two?x=r1&y=r", "/burst?x=r1", "/burst?x=r1"],
}


@pytest.mark.parametrize("name", list(SEQUENCES))
def test_the_same_requests_pass(sides: tuple[Side, Side], name: str) -> None:
    seen = []
    for side in sides:
        side.answers.set()
        answers = [ask(side.port, get(path)) for path in SEQUENCES[name]]
        seen.append([(answer.status, answer.field("X-Limit")) for answer in answers])
    assert seen[1] == seen[0]
    sign = re.sub(r".*[?&]", "", SEQUENCES[name][0])
    assert told(sides[1], sign) == told(sides[0], sign)


def test_limits_are_inherited_unless_a_location_has_its_own(sides: tuple[Side, Side]) -> None:
    paths = ["/?x=in", "/?x=in", "/?x=in&y=2", "/own?x=in", "/own?x=in", "/own?x=in"]
    requests = [get(path).replace(b"Host: test", b"Host: inherited") for path in paths]
    seen = [[ask(side.port, request).status for request in requests] for side in sides]
    assert seen[1] == seen[0] == [200, 503, 200, 200, 200, 503]


def test_a_delayed_client_that_leaves_is_not_waited_for(sides: tuple[Side, Side]) -> None:
    """It would have to wait for a minute."""
    lines = []
    for side in sides:
        assert ask(side.port, get("/wait?x=wait")).status == 200
        with Client(side.port) as client:
            client.send(get("/wait?x=wait"))
            await_line(side, "x=wait", "delaying request")
        await_line(side, "x=wait", "prematurely closed")
        lines.append(told(side, "x=wait"))
        assert [seen.target for seen in side.origin.seen if b"x=wait" in seen.target] == [b"/wait?x=wait"]
    assert lines[1] == lines[0]


def test_requests_are_counted_until_they_are_over(sides: tuple[Side, Side]) -> None:
    lines = []
    for side in sides:
        side.answers.clear()
        try:
            with Client(side.port) as first, Client(side.port) as second:
                first.send(get("/held?x=held&y=1"))
                arrived(side, b"/held?x=held&y=1")
                answer = ask(side.port, get("/held?x=held&y=1"))
                assert (answer.status, answer.field("X-Limit")) == (429, "|REJECTED")
                second.send(get("/held?x=held2&y=1"))
                arrived(side, b"/held?x=held2&y=1")
                # Refused for its second key, it does not count for its first one either.
                assert ask(side.port, get("/held?x=held3&y=1")).status == 429
                side.answers.set()
                assert first.answer().field("X-Limit") == "|PASSED"
                assert second.answer().status == 200
                assert first.ask(get("/held?x=held3&y=1")).status == 200
                assert second.ask(get("/held?x=held&y=1")).status == 200
        finally:
            side.answers.set()
        lines.append(told(side, "x=held"))
    assert lines[1] == lines[0]
    assert len(lines[1]) == 2
    assert "unexpected" not in sides[1].balancer.error_log()


def test_a_client_that_leaves_counts_no_more(sides: tuple[Side, Side]) -> None:
    side = sides[1]
    side.answers.clear()
    try:
        with Client(side.port) as client:
            client.send(get("/held?x=left"))
            arrived(side, b"/held?x=left")
        side.answers.set()
        await_condition(lambda: ask(side.port, get("/held?x=left")).status == 200, "the end of the first", 10)
    finally:
        side.answers.set()


def test_too_many_are_only_told_of_in_a_dry_run(sides: tuple[Side, Side]) -> None:
    lines = []
    for side in sides:
        side.answers.clear()
        try:
            with Client(side.port) as first, Client(side.port) as second:
                first.send(get("/dry?x=held"))
                arrived(side, b"/dry?x=held")
                second.send(get("/dry?x=held"))
                await_line(side, "/dry?x=held", "limiting connections")
                side.answers.set()
                assert first.answer().field("X-Limit") == "PASSED|PASSED"
                assert second.answer().field("X-Limit") == "DELAYED_DRY_RUN|REJECTED_DRY_RUN"
        finally:
            side.answers.set()
        lines.append(told(side, "/dry?x=held"))
    assert lines[1] == lines[0]


def await_line(side: Side, sign: str, words: str) -> None:
    await_condition(lambda: words in "".join(told(side, sign)), f"{words!r} in the log", 10)


def arrived(side: Side, target: bytes) -> None:
    await_condition(lambda: any(seen.target == target for seen in side.origin.seen), "the request at the origin", 10)


def test_workers_share_their_zones_and_a_killed_one_leaves_nothing_in_them(start: StartBalancer) -> None:
    answers = threading.Event()

    def respond(seen: Seen, _: socket.socket) -> bytes:
        if seen.target.startswith(b"/held"):
            answers.wait(50)
        return response(b"yes")

    (port,) = free_ports(1)
    with Origin(respond) as origin:
        balancer = start(CONFIGURATION.format(front=port, origin=origin.port, workers=2), [port])
        await_condition(lambda: len(balancer.workers) >= 2, "the workers", 10)
        statuses = [ask(port, get("/some?x=1")).status for _ in range(3)]
        statuses += [ask(port, get("/burst?x=1")).status for _ in range(3)]
        assert statuses == [200, 200, 200, 503, 503, 503]
        try:
            with Client(port) as client:
                client.send(get("/held?x=1"))
                await_condition(lambda: bool(origin.seen) and origin.seen[-1].target == b"/held?x=1", "the request", 10)
                assert ask(port, get("/held?x=1")).status == 429
                for pid in balancer.workers:
                    os.kill(pid, signal.SIGKILL)
                assert client.closed(10)
        finally:
            answers.set()
        await_condition(lambda: is_answered(lambda: ask(port, get("/held?x=1")).status == 200), "a free place", 30)
        # What was counted of the rate is known to whoever comes after them.
        assert ask(port, get("/burst?x=1")).status == 503


def is_answered(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:
        return False  # those that could answer were killed
