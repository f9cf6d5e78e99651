"""Requests that are bound to a peer: Upstream.pick_bound, draining peers, and nginx's account of them."""

from __future__ import annotations

from random import Random

import pytest

from tests.peers.test_peers_upstream import build, names
from upwell.peers.balancers import BALANCERS
from upwell.peers.peer import Method, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.routes import route_of
from upwell.peers.upstream import Upstream
from upwell.zone.layout import ADMIN_DOWN
from upwell.zone.table import PeerTable


def peer(name: str, **fields: object) -> PeerSpec:
    return PeerSpec(name, (name, 80), route=name, **fields)  # type: ignore[arg-type]  # fields of PeerSpec


def bound(upstream: Upstream, route: bytes, tried: tuple[object, ...] = (), now: float = 100.0) -> str:
    chosen = upstream.pick_bound(route, tried, now)  # type: ignore[arg-type]  # peers
    if chosen is None:
        return "-"
    upstream.release(chosen, now, failed=False)
    return chosen.name


def test_a_peer_without_a_route_is_called_by_its_address() -> None:
    # As nginx has it in its cookies: printf 127.0.0.1:18901 | md5sum
    assert route_of(PeerSpec("127.0.0.1:18901", ("127.0.0.1", 18901))) == b"dcca3f0d619999ce203dd9d26fefa671"
    assert route_of(PeerSpec("unix:/tmp/h/stk/s.sock", "/tmp/h/stk/s.sock")) == b"daa018aeedc9560a8d5384c930bbd93a"
    assert route_of(peer("a")) == b"a"


def test_a_session_keeps_its_peer_and_others_are_balanced() -> None:
    upstream, _ = build(peer("a"), peer("b"), peer("c"))
    assert [bound(upstream, b"b") for _ in range(4)] == ["b"] * 4
    assert bound(upstream, b"nobody") in "ac"


def test_of_two_with_one_route_the_first_counts() -> None:
    upstream, _ = build(PeerSpec("a", ("a", 80), route="x"), PeerSpec("b", ("b", 80), route="x"))
    assert [bound(upstream, b"x") for _ in range(3)] == ["a"] * 3


METHODS = [
    Method(),
    Method("ip_hash"),
    Method("hash", key="$x"),
    Method("hash", key="$x", consistent=True),
    Method("hash", key="$x", consistent=True, bounded=1.25),
    Method("random"),
    Method("random", two=True, measure="least_conn"),
    Method("random", two=True, measure="header", inflight=True),
    Method("least_conn"),
    Method("least_time", measure="last_byte", inflight=True),
    Method("ewma"),
]


def test_all_methods_are_here() -> None:
    assert {method.name for method in METHODS} == set(BALANCERS)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_bears_bound_requests_between_its_own(method: Method) -> None:
    peers = (peer("a", max_conns=3), peer("b", drain=True), peer("c", slow_start=5.0, max_fails=0))
    spec = UpstreamSpec("u", peers, method)
    random = Random(7)
    upstream = Upstream(spec, PeerTable.create(peer_keys(spec), 1), 0, chance=random.random)
    a, b, c = upstream.primary
    under_way = []
    for step in range(600):
        now = 100.0 + step / 10
        chosen = upstream.pick_bound(random.choice((b"a", b"b", b"c", b"x")), (), now, b"%d" % step)
        assert chosen is not None
        under_way.append(chosen)
        if len(under_way) > 6:
            done = under_way.pop(random.randrange(6))
            if upstream.watches:
                upstream.answered(done, 0.1, 0.2, now, True)
            upstream.release(done, now, failed=random.random() < 0.02)
        assert [one.connections for one in (a, b, c)] == [under_way.count(one) for one in (a, b, c)]
        assert a.connections <= 3
    for done in under_way:
        upstream.release(done, 200.0, failed=False)
    assert {upstream.pick((), 300.0, b"%d" % key) for key in range(40)} <= {a, c, None}
    assert b.requests > 50


def test_a_session_counts_once_in_a_row_in_the_balance() -> None:
    upstream, _ = build(peer("a"), peer("b"), peer("c"))
    for _ in range(10):
        bound(upstream, b"a")
    # What a got beyond its share is forgotten but for one request: the others catch up with that.
    assert [p.current_weight for p in upstream.primary] == [-2, 1, 1]
    assert names(upstream, 5) == "bcabc"


def test_the_connection_of_a_bound_request_is_counted() -> None:
    upstream, _ = build(peer("a", max_conns=1), peer("b"))
    first = upstream.pick_bound(b"a", (), 100.0)
    assert first is not None
    assert (first.name, first.connections, first.requests) == ("a", 1, 1)
    assert bound(upstream, b"a") == "b"  # full
    upstream.release(first, 100.0, failed=False)
    assert bound(upstream, b"a") == "a"


def test_a_bound_peer_that_cannot_be_asked_gives_way() -> None:
    upstream, table = build(peer("a"), peer("b"))
    a, _ = upstream.primary
    assert bound(upstream, b"a", (a,)) == "b"
    chosen = upstream.pick_bound(b"a", (), 100.0)
    assert chosen is a
    upstream.release(a, 100.0, failed=True)
    assert bound(upstream, b"a") == "b"  # suspended
    assert bound(upstream, b"a", now=111.0) == "a"  # the trial
    table.set_admin(a.row, ADMIN_DOWN)
    table.publish()
    assert bound(upstream, b"a", now=112.0) == "b"


def test_who_drains_gets_requests_of_its_sessions_only() -> None:
    upstream, _ = build(peer("a", drain=True), peer("b"))
    assert names(upstream, 3) == "bbb"
    assert bound(upstream, b"a") == "a"
    assert bound(upstream, b"other") == "b"
    assert upstream.tries == 1  # as in nginx, one that drains is not among those that may be tried


@pytest.mark.parametrize("fields", [{"down": True}, {"down": True, "drain": True}])
def test_who_is_down_gets_none(fields: dict[str, bool]) -> None:
    upstream, _ = build(peer("a", **fields), peer("b"))
    assert bound(upstream, b"a") == "b"


def test_a_single_peer_that_drains() -> None:
    upstream, _ = build(peer("a", drain=True))
    assert upstream.pick((), 100.0) is None
    assert bound(upstream, b"") == "-"
    assert bound(upstream, b"a") == "a"


def test_a_backup_keeps_a_session_while_there_is_no_primary() -> None:
    upstream, table = build(peer("a"), peer("b", backup=True), peer("c", backup=True))
    assert bound(upstream, b"c") == "a"
    table.set_admin(upstream.primary[0].row, ADMIN_DOWN)
    table.publish()
    assert [bound(upstream, b"c") for _ in range(3)] == ["c"] * 3
    assert bound(upstream, b"a") in "bc"


class Walk:
    """nginx's walk over all peers, with the request of a session (ngx_http_upstream_get_peer): what must come out."""

    def __init__(self, weights: list[int], draining: set[int]) -> None:
        self.weights = weights
        self.draining = draining
        self.current = [0] * len(weights)

    def pick(self, bound: int | None) -> int:
        if bound is not None and self.current[bound] <= self.weights[bound] - sum(self.weights):
            return bound
        total = 0
        best = -1
        for index, weight in enumerate(self.weights):
            if index in self.draining:
                continue
            self.current[index] += weight
            total += weight
            if best < 0 or self.current[index] > self.current[best]:
                best = index
        if bound is not None:
            best = bound
        self.current[best] -= total
        return best


HASHES = [
    Method("hash", key="$x"),
    Method("hash", key="$x", consistent=True),
    Method("hash", key="$x", consistent=True, bounded=1.25),
]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("method", [Method(), *HASHES], ids=str)
def test_bound_requests_between_others_are_nginx_s_walk(method: Method, seed: int) -> None:
    """Also where a hash has no key, so that round robin decides."""
    random = Random(seed)
    count = random.choice((1, 2, 3, 5, 12))
    weights = [random.choice((1, 1, 1, 2, 5)) if seed % 2 else 1 for _ in range(count)]
    draining = {index for index in range(1, count) if random.random() < 0.2}
    specs = [
        PeerSpec(str(index), (str(index), 80), route=str(index), weight=weight, drain=index in draining)
        for index, weight in enumerate(weights)
    ]
    spec = UpstreamSpec("u", tuple(specs), method)
    upstream = Upstream(spec, PeerTable.create(peer_keys(spec), 1))
    model = Walk(weights, draining)
    bound_often = random.random()
    for step in range(500):
        whom = random.randrange(count) if random.random() < bound_often else None
        if method.name == "hash" and random.random() < 0.2:
            # One with a key, which is none of round robin's business.
            keyed = (
                upstream.pick((), 100.0, b"k") if whom is None else upstream.pick_bound(b"%d" % whom, (), 100.0, b"k")
            )
            assert keyed is not None
            upstream.release(keyed, 100.0, failed=False)
        chosen = upstream.pick((), 100.0, b"") if whom is None else upstream.pick_bound(b"%d" % whom, (), 100.0, b"")
        assert chosen is not None
        assert int(chosen.name) == model.pick(whom), step
        upstream.release(chosen, 100.0, failed=False)
        if step % 97 == 0:
            assert [one.current_weight for one in upstream.primary] == model.current
    assert [one.current_weight for one in upstream.primary] == model.current
