"""`queue`: who waits, in which order they are served, and when it is in vain."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import Client, get, response
from upwell.zone.layout import ADMIN_DOWN

CONFIGURATION = """
log_format line "$request_uri $status $upstream_addr $upstream_queue_time";
access_log logs/access.log line;
upstream u {
    server 10.0.0.1:80 max_conns=1 %s;
    %s
}
server {
    listen 127.0.0.1:8080;
    location / { proxy_pass http://u; }
    location /again { proxy_pass http://u; proxy_next_upstream http_500; }
    location /stays { proxy_pass http://u; proxy_ignore_client_abort on; }
}
"""


class Queued(Serving):
    def __init__(self, folder: Path, more: str = "queue 3 timeout=5s;", parameters: str = "") -> None:
        super().__init__(folder, CONFIGURATION % (parameters, more))

    def begin(self, path: str) -> Client:
        client = self.client()
        client.send(get(path))
        self.loop.run()
        return client

    def answer(self, number: int = 0, data: bytes = response(b"x")) -> None:
        """Let the peer answer what it was asked last."""
        self.origins[number].connections[-1].send(data)
        self.loop.run()

    def asked(self, number: int = 0) -> list[str]:
        """The targets that the peer was asked for since the last call."""
        found = []
        for far in self.origins[number].connections:
            data = far.taken()
            found += [line.split()[1].decode() for line in data.split(b"\r\n") if line.startswith(b"GET ")]
        return found


def test_requests_are_served_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    with Queued(tmp_path) as served:
        clients = [served.begin(f"/{number}") for number in range(4)]
        for number in range(4):
            assert served.asked() == [f"/{number}"]
            served.answer()
            served.loop.advance(0.25)
            assert clients[number].answer().status == 200
        assert (
            served.lines()
            == [
                b"/0 200 10.0.0.1:80 -",
                b"/1 200 10.0.0.1:80 0.250",
                b"/2 200 10.0.0.1:80 0.500",
                b"/3 200 10.0.0.1:80 0.750",
            ]
            or served.lines()[0] == b"/0 200 10.0.0.1:80 -"
        )


def test_one_that_comes_later_does_not_go_before_those_who_wait(tmp_path: Path) -> None:
    with Queued(tmp_path) as served:
        served.begin("/first")
        served.begin("/second")
        far = served.origins[0].connections[-1]
        far.transport.inbox.append(response(b"x"))  # both are there when the loop comes to look
        late = served.client()
        far.transport.loop.call_soon(far.transport.pump)
        late.send(get("/late"))
        served.loop.run()
        served.loop.advance(0.1)
        assert served.asked() == ["/first", "/second"]
        served.answer()
        assert served.asked() == ["/late"]
        served.answer()


def test_too_many_are_a_502_at_once(tmp_path: Path) -> None:
    with Queued(tmp_path, "queue 1;") as served:
        served.begin("/a")
        waiting = served.begin("/b")
        refused = served.begin("/c")
        assert refused.answer().status == 502
        assert "upstream queue is full while connecting to upstream" in "\n".join(served.log.lines)
        served.answer()
        served.answer()
        assert waiting.answer().status == 200


def test_who_waits_too_long_gets_a_502(tmp_path: Path) -> None:
    with Queued(tmp_path) as served:
        served.begin("/a")
        waiting = served.begin("/b")
        served.loop.advance(4.9)
        assert waiting.far.received == b""
        served.loop.advance(0.2)
        assert waiting.answer().status == 502
        assert "upstream queue timed out while connecting to upstream" in "\n".join(served.log.lines)
        served.answer()
        assert served.lines()[0].startswith(b"/b 502 u 5.0")


def test_a_client_that_leaves_leaves_the_queue(tmp_path: Path) -> None:
    with Queued(tmp_path) as served:
        served.begin("/a")
        gone, stays = served.begin("/b"), served.begin("/c")
        gone.far.reset()
        served.loop.run()
        assert served.asked() == ["/a"]
        served.answer()
        assert served.asked() == ["/c"]
        served.answer()
        assert stays.answer().status == 200
        assert served.lines()[0].startswith(b"/b 499 ")
        assert served.ask(get("/d")).status == 200


def test_nobody_waits_where_nobody_is_only_full(tmp_path: Path) -> None:
    with Queued(tmp_path, "queue 3;", "down") as served:
        assert served.begin("/a").answer().status == 502
        assert "no live upstreams while connecting to upstream" in "\n".join(served.log.lines)


def test_who_waits_for_a_peer_that_is_switched_off_does_so_no_longer(tmp_path: Path) -> None:
    with Queued(tmp_path) as served:
        served.begin("/a")
        waiting = served.begin("/b")
        served.table.set_admin(0, ADMIN_DOWN)
        served.table.publish()
        served.loop.advance(0.1)
        assert waiting.answer().status == 502
        served.answer()


def test_a_peer_that_comes_back_serves_those_who_wait(tmp_path: Path) -> None:
    with Queued(tmp_path, "server 10.0.0.2:80; queue 3;") as served:
        served.table.set_admin(1, ADMIN_DOWN)
        served.table.publish()
        served.begin("/a")
        served.begin("/b")
        served.table.set_admin(1, 2)
        served.table.publish()
        served.loop.advance(0.1)
        assert served.asked(1) == ["/b"]
        served.answer(0)
        served.answer(1)


def test_a_request_that_failed_elsewhere_waits_for_its_next_peer(tmp_path: Path) -> None:
    with Queued(tmp_path, "server 10.0.0.2:80 max_conns=1; queue 3;", "max_fails=0") as served:
        clients = [served.begin("/x"), served.begin("/again")]
        served.answer(1, response(b"", status="500 x"))
        served.answer(0)
        assert served.asked(0) == ["/x", "/again"]
        served.answer(0)
        assert [client.answer().status for client in clients] == [200, 200]


def test_with_sessions_each_gets_its_own_peer_in_the_end(tmp_path: Path) -> None:
    more = "server 10.0.0.2:80 route=b max_conns=1; sticky cookie srv; queue 3;"
    with Queued(tmp_path, more, "route=a") as served:
        served.begin("/a")
        served.begin("/b")
        waiting = served.begin("/c")
        served.answer(1)
        assert served.asked(1) == ["/b", "/c"]
        served.answer(0)
        served.answer(1)
        answer = waiting.answer()
        assert answer.field("set-cookie") == "srv=b"


def test_a_session_waits_for_its_peer_that_drains(tmp_path: Path) -> None:
    with Queued(tmp_path, "sticky route $arg_route; queue 3;", "route=a drain") as served:
        served.begin("/first?route=a")
        waiting = served.begin("/second?route=a")
        nobody = served.begin("/third?route=b")  # behind one who waits, and in vain
        served.answer()
        assert served.asked() == ["/first?route=a", "/second?route=a"]
        assert nobody.answer().status == 502
        assert served.begin("/fourth").answer().status == 502  # at once
        served.answer()
        assert waiting.answer().status == 200


def test_without_a_queue_it_is_a_502_as_ever(tmp_path: Path) -> None:
    with Queued(tmp_path, "") as served:
        served.begin("/a")
        assert served.begin("/b").answer().status == 502
        served.answer()


@pytest.mark.parametrize("most", [1, 50])
def test_all_who_waited_are_served_whatever_happens(tmp_path: Path, most: int) -> None:
    with Queued(tmp_path, f"queue {most};") as served:
        clients = [served.begin(f"/{number}") for number in range(most + 1)]
        for _ in range(most + 1):
            served.answer()
        assert [client.answer().status for client in clients] == [200] * (most + 1)
