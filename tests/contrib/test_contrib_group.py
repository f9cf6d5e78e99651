"""Peers for a program of one's own: real servers, real checks, no configuration file."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any
from urllib.request import urlopen

import pytest

import upwell
from upwell import BALANCERS, Group, Method, NoPeer, PeerKey, PeerSpec, http_check, peer

LIMIT = 40.0


class Server:
    """A web server whose health can be switched."""

    def __init__(self) -> None:
        self.status = 200
        self.paths: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.paths.append(self.path)
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.spec = peer(f"127.0.0.1:{self.server.server_port}")
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    found = [Server() for _ in range(3)]
    yield found
    for server in found:
        server.close()


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit
        threading.Event().wait(0.005)


def up(group: Group) -> set[str]:
    return {one.name for one in group.peers if one.up}


def test_requests_go_to_healthy_peers_only(servers: list[Server]) -> None:
    one, two, _ = servers
    with Group([one.spec, two.spec], checks=[http_check("/health", interval=0.01)]) as group:
        until(lambda: "/health" in one.paths and "/health" in two.paths)
        two.status = 503
        until(lambda: up(group) == {one.spec.name})
        for _ in range(5):
            with group.borrow() as chosen:
                assert chosen.name == one.spec.name
                assert isinstance(chosen.address, tuple)
                urlopen(f"http://{chosen.name}/", timeout=LIMIT).close()
        two.status = 200
        until(lambda: len(up(group)) == 2)


def test_members_come_and_go_while_it_runs(servers: list[Server]) -> None:
    one, two, three = servers
    with Group([one.spec], checks=[http_check(interval=0.01, initial="checking")]) as group:
        until(lambda: len(up(group)) == 1)
        key = group.add(two.spec)
        until(lambda: len(up(group)) == 2)
        three.status = 500
        group.add(three.spec)
        until(lambda: len(three.paths) > 2)
        assert up(group) == {one.spec.name, two.spec.name}
        group.change(key, weight=3)
        assert Counter(group.pick().name for _ in range(8)) == {one.spec.name: 2, two.spec.name: 6}
        group.remove(key)
        assert up(group) == {one.spec.name}
        with pytest.raises(ValueError, match="no primary peer"):
            group.remove(key)
        with pytest.raises(ValueError, match="another"):
            group.change(group.peers[0].key, name="x")


def test_failures_of_requests_count_without_any_check() -> None:
    group = Group([peer("127.0.0.1:1"), peer("127.0.0.1:2", backup=True)])
    with pytest.raises(ConnectionRefusedError), group.borrow():
        raise ConnectionRefusedError
    with group.borrow() as chosen:
        assert chosen.name == "127.0.0.1:2"
    with pytest.raises(KeyError), group.borrow():
        raise KeyError  # not the peer's fault
    with group.borrow() as again:
        assert again is chosen
    with pytest.raises(NoPeer), group.borrow(tried=group.peers):
        raise AssertionError
    assert all(not one.connections for one in group.peers)
    group.close()


@pytest.mark.parametrize("name", sorted(BALANCERS))
def test_every_method_balances(name: str) -> None:
    group = Group([peer(f"127.0.0.1:{n}") for n in range(1, 5)], Method(name, key="x"), chance=Random(1).random)
    chosen = Counter()  # type: Counter[str]
    for number in range(200):
        with group.borrow(key=b"10.%d.%d.1" % (number, number)) as one:
            chosen[one.name] += 1
    assert len(chosen) == 4
    group.add(peer("127.0.0.1:9"))
    assert len(group.peers) == 5
    group.close()


@pytest.mark.parametrize(
    "method",
    [
        Method("least_time", measure="header"),
        Method("least_time", measure="last_byte", inflight=True),
        Method("random", two=True, measure="header"),
        Method("ewma"),
    ],
    ids=str,
)
def test_a_peer_that_refuses_at_once_is_not_the_fastest(method: Method) -> None:
    now = 100.0
    chance = Random(1)
    members = [peer("127.0.0.1:1", max_fails=0), peer("127.0.0.1:2"), peer("127.0.0.1:3")]
    group = Group(members, method, clock=lambda: now, chance=chance.random)
    refused = 0
    for _ in range(300):
        now += 0.01
        with contextlib.suppress(ConnectionRefusedError), group.borrow() as chosen:
            if chosen.name == "127.0.0.1:1":
                refused += 1
                raise ConnectionRefusedError
            now += 0.05
    group.close()
    assert refused < 60


def test_many_threads_may_use_it() -> None:
    group = Group([peer(f"127.0.0.1:{n}") for n in range(1, 5)], Method("least_conn"))

    def use() -> None:
        for _ in range(300):
            with group.borrow():
                pass

    threads = [threading.Thread(target=use) for _ in range(4)]
    with group:
        for thread in threads:
            thread.start()
        key = group.add(peer("127.0.0.1:9"))
        group.remove(key)
        for thread in threads:
            thread.join()
        assert sum(one.requests for one in group.peers) <= 1200
        assert [one.connections for one in group.peers] == [0] * 4


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:8000", ("::1", 8000)), ("unix:/tmp/s", "/tmp/s")],
)
def test_addresses(text: str, address: tuple[str, int] | str) -> None:
    assert peer(text, weight=2) == PeerSpec(text, address, server=text, weight=2)


@pytest.mark.parametrize(
    "text",
    ["name:80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "::1:80", "[127.0.0.1]:80", "unix:", ""],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        peer(text)


def test_what_a_check_asks_cannot_be_two_requests() -> None:
    request = http_check("/a b\r\nX: y", host="h\r\nZ: z").request
    assert request.startswith(b"GET /a%20b%0D%0AX:%20y HTTP/1.1\r\nHost: h%0D%0AZ: z\r\n")
    assert request.count(b"\r\n\r\n") == 1
    assert b"Connection: close" in request
    assert b"Connection" not in http_check(keepalive_time=60.0).request


def test_all_names_are_there() -> None:
    for name in upwell.__all__:
        assert getattr(upwell, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        upwell.nothing  # noqa: B018  # to be asked for is all
    assert PeerKey is upwell.PeerKey


def test_a_group_that_checks_nothing_yet_keeps_no_orders_for_it() -> None:
    group = Group([peer("127.0.0.1:1"), peer("127.0.0.1:2")], checks=[http_check()])
    for _ in range(5):
        group.release(group.pick(), failed=True)
        for one in group.peers:
            one.fails = 0
    assert not group._orders
    group.close()


def test_a_request_that_was_released_is_not_released_again() -> None:
    group = Group([peer("127.0.0.1:1")])
    chosen = group.pick()
    group.release(chosen)
    with pytest.raises(ValueError, match=r"no request is under way at 127\.0\.0\.1:1"):
        group.release(chosen)
    assert chosen.connections == 0
    group.close()


def test_a_group_says_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match='no balancing method "fastest"'):
        Group([peer("127.0.0.1:1")], Method("fastest"))
    with Group([peer("127.0.0.1:1")]) as group:
        key = group.peers[0].key
        with pytest.raises(ValueError, match="no setting speed"):
            group.change(key, speed=3)
        with pytest.raises(ValueError, match=r"'127\.0\.0\.1:1' is no key of a peer"):
            group.remove("127.0.0.1:1")  # type: ignore[arg-type]  # what a program in a hurry says
    with pytest.raises(ValueError, match="is closed"):
        group.change(key, weight=2)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("least_conn", {"weight": 0}),
        ("least_conn", {"max_fails": -1}),
        ("least_conn", {"fail_timeout": float("nan")}),
        ("least_conn", {"route": "r" * 33}),
        ("least_conn", {"backup": True, "tier": 1}),
        ("hash", {"backup": True}),
        ("random", {"slow_start": 10.0}),
    ],
)
def test_a_group_has_no_peer_that_a_file_could_not_have(method: str, settings: dict[str, Any]) -> None:
    wrong = peer("127.0.0.1:2", **settings)
    fitting = peer("127.0.0.1:1")
    with pytest.raises(ValueError, match=r"."):
        Group([fitting, wrong], Method(method))
    with Group([fitting], Method(method)) as group:
        with pytest.raises(ValueError, match=r"."):
            group.add(wrong)
        if "backup" not in settings:
            with pytest.raises(ValueError, match=r"."):
                group.change(group.peers[0].key, **settings)
        assert [one.spec for one in group.peers] == [fitting]


@pytest.mark.parametrize("address", ["unix:/" + "x" * 200, "[fe80::1%lo]:80"])
def test_a_group_has_no_peer_where_nobody_can_be(address: str) -> None:
    with pytest.raises(ValueError, match="invalid address"):
        Group([peer(address)])


@pytest.mark.parametrize(
    "method",
    [
        Method("hash", consistent=True, bounded=1.0),
        Method("hash", consistent=True, bounded=float("nan")),
        Method("least_conn", bounded=1.25),
        Method("least_time", measure="luck"),
    ],
)
def test_a_group_has_no_method_that_a_file_could_not_have(method: Method) -> None:
    with pytest.raises(ValueError, match=r"invalid (bounded|measure)"):
        Group([peer("127.0.0.1:1")], method)


@pytest.mark.parametrize(
    "policy", [{"all_down": "panic=50%"}, {"all_down": "panic"}, {"mass_down": 0}, {"tier_threshold": 101}]
)
def test_a_group_has_no_policy_that_a_file_could_not_have(policy: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"invalid (all_down|panic|mass_down|tier_threshold)"):
        Group([peer("127.0.0.1:1")], **policy)


@pytest.mark.parametrize(
    "settings", [{"fall": 0}, {"rise": 0}, {"interval": 0.0}, {"timeout": float("nan")}, {"port": 65536}]
)
def test_a_group_has_no_check_that_a_file_could_not_have(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="of a check"):
        Group([peer("127.0.0.1:1")], checks=[http_check(**settings)])


@pytest.mark.parametrize("name", sorted(BALANCERS))
def test_the_last_one_of_a_group_is_in_use_whatever_it_did(name: str) -> None:
    now = 1.0
    group = Group([peer("127.0.0.1:1"), peer("127.0.0.1:2")], Method(name), clock=lambda: now)
    first, second = group.peers
    for number in range(100):
        chosen = group.pick(key=b"%d" % number)
        group.release(chosen, failed=chosen is first)
    assert first.requests == 1  # it is out of use
    group.remove(second.key)
    for _ in range(2):
        chosen = group.pick(key=b"1")
        assert chosen is first
        group.release(chosen, failed=True)
    group.add(peer("127.0.0.1:3"))
    found = set()
    for number in range(100):
        if number == 50:
            now = 1000.0  # who compares answer times thinks little of it before
        chosen = group.pick(key=b"%d" % number)
        group.release(chosen, last=0.001)
        found.add(chosen)
    assert found == set(group.peers)
    group.close()


def _by_key(group: Group) -> list[str]:
    found = []
    for number in range(200):
        with group.borrow(key=b"%d" % number) as chosen:
            found.append(chosen.name)
    return found


def test_a_peer_that_is_called_otherwise_has_the_keys_of_its_new_name() -> None:
    method = Method("hash", consistent=True)
    old = [peer("127.0.0.1:80"), peer("127.0.0.2:80"), peer("127.0.0.3:80", weight=2)]
    new = [replace(old[0], server="127.0.0.1"), old[1], replace(old[2], server="three:80", down=True)]
    group, fresh = Group(old, method), Group(new, method)
    before = _by_key(group)
    for one, spec in zip(group.peers, new, strict=True):
        group.change(one.key, server=spec.server, down=spec.down)
    after = _by_key(group)
    assert after == _by_key(fresh)
    assert after != before
    for one, spec in zip(group.peers, old, strict=True):
        group.change(one.key, server=spec.server, down=spec.down)
    assert _by_key(group) == before
    group.close()
    fresh.close()
