"""What one generation is told while another is made of it reaches that one: nothing is lost, nothing done twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from upwell.check.checker import Checker
from upwell.check.spec import CheckSpec
from upwell.log import ErrorLogs
from upwell.peers.membership import carry
from upwell.peers.peer import PeerKey, PeerSpec, UpstreamSpec
from upwell.process.control import Control, receive, socket_pair, to_socket
from upwell.process.handover import Orders, settled
from upwell.process.parts import table_of
from upwell.zone.layout import ADMIN_DOWN, ADMIN_UP


def peer(port: int, **settings: object) -> PeerSpec:
    name = f"127.0.0.1:{port}"
    return replace(PeerSpec(name, ("127.0.0.1", port), server=name), **settings)  # type: ignore[arg-type]


def key(port: int, ordinal: int = 0) -> PeerKey:
    return PeerKey("backend", "primary", f"127.0.0.1:{port}", ordinal)


class Side:
    """One generation: table, control sockets, what the master says there, and a checker that has begun or not."""

    def __init__(self, stack: ExitStack, *upstreams: UpstreamSpec) -> None:
        self.upstreams = upstreams
        self.table = table_of(upstreams, 1)
        self.workers_end, self.checker_end = socket_pair()
        stack.callback(self.workers_end.close)
        stack.callback(self.checker_end.close)
        self.stack = stack
        self.control = Control(self.table, to_socket(self.workers_end))
        self.orders = self.ordered()
        self.checker: Checker | None = None

    def ordered(self) -> Orders:
        return Orders(self.upstreams, self.table, self.workers_end, self.checker_end)

    def hear(self) -> list[str]:
        if self.checker is None:
            self.checker = Checker(self.table, self.upstreams, ErrorLogs(()))
            self.stack.callback(self.checker.close)
        return receive(self.checker_end, self.checker)

    def members(self) -> dict[PeerKey, PeerSpec]:
        self.hear()
        assert self.checker is not None
        return {member.key: member.spec for spec in self.upstreams for member in self.checker.members(spec.name)}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def generations(stack: ExitStack, old: UpstreamSpec, new: UpstreamSpec, before: int = 0) -> tuple[Side, Side]:
    """`new` made of `old`, where peer `before` had joined."""
    first = Side(stack, old)
    first.hear()
    if before:
        first.control.add_peer("backend", peer(before))
        first.hear()
        first.orders.news()
    second = Side(stack, new)
    carry(second.table, second.upstreams, first.table, first.upstreams)
    second.table.adopt(first.table)
    second.orders = second.ordered()
    return first, second


BACKEND = UpstreamSpec("backend", (peer(81), peer(82)))


def test_what_was_ordered_meanwhile_is_repeated(stack: ExitStack) -> None:
    old, new = generations(stack, BACKEND, BACKEND)
    assert old.orders.news() == []
    old.control.add_peer("backend", peer(83, weight=2))
    old.control.change_peer(key(81), weight=5)
    old.control.remove_peer(key(82))
    old.control.set_down(key(81), True)
    old.hear()
    new.orders.repeat(old.orders.news())
    assert new.members() == {key(81): peer(81, weight=5), key(83): peer(83, weight=2)}
    assert new.table.admin(new.table.row(key(81))) & 3 == ADMIN_DOWN
    assert old.orders.news() == []
    old.control.set_down(key(81), False)
    old.hear()
    new.orders.repeat(old.orders.news())
    assert new.hear() == []
    assert new.table.admin(new.table.row(key(81))) & 3 == ADMIN_UP


def test_what_the_configuration_says_otherwise_stays_so(stack: ExitStack) -> None:
    """Only what was ordered is said: other settings are the new configuration's, and older orders are its business."""
    new_spec = UpstreamSpec("backend", (peer(81, max_conns=7), peer(84)))
    old, new = generations(stack, BACKEND, new_spec, before=83)
    old.control.change_peer(key(81), weight=3)
    old.control.change_peer(key(82), weight=3)
    old.control.set_down(key(82), True)
    old.hear()
    new.orders.repeat(old.orders.news())
    assert new.hear() == []  # that 82 is not there any more is no trouble
    assert new.members() == {key(81): peer(81, max_conns=7, weight=3), key(84): peer(84)}


def test_nothing_is_done_twice(stack: ExitStack) -> None:
    old, new = generations(stack, BACKEND, UpstreamSpec("backend", (peer(81), peer(83))))
    old.control.add_peer("backend", peer(83, weight=4))
    old.control.remove_peer(key(82))
    old.hear()
    new.orders.repeat(old.orders.news())
    assert new.hear() == []
    assert new.members() == {key(81): peer(81), key(83): peer(83, weight=4)}


def test_a_peer_that_comes_and_goes_leaves_nothing_to_adopt(stack: ExitStack) -> None:
    old, _ = generations(stack, BACKEND, BACKEND)
    old.control.remove_peer(key(82))
    old.hear()
    assert settled(key(82), None) in old.orders.news()
    with pytest.raises(KeyError):
        old.table.row(key(82))
    assert old.table.row(key(81)) == 0


def test_peers_by_name_are_found_anew(stack: ExitStack) -> None:
    line = PeerSpec("app.example", ("", 0), server="app.example")
    spec = replace(BACKEND, lines=(line,))
    old, new = generations(stack, spec, spec)
    assert old.checker is not None
    old.checker.add_peer("backend", peer(83, server="app.example"))
    assert old.orders.news() == []
    old.control.change_peer(key(83), down=True)
    old.hear()
    new.orders.repeat(old.orders.news())
    assert new.hear() == []
    assert new.members().keys() == {key(81), key(82)}
    old.checker.remove_peer(key(83))
    assert old.orders.news() == []


def test_what_a_dead_checker_has_not_read_is_said_to_the_next(stack: ExitStack) -> None:
    old, new = generations(stack, BACKEND, BACKEND)
    old.control.add_check(CheckSpec("backend"))
    old.control.suspect(key(81))
    old.control.add_peer("backend", peer(83))
    old.control.set_down(key(82), True)
    old.control.remove_peer(PeerKey("gone", "primary", "a", 0))
    messages = old.orders.unheard(print)
    assert [message["op"] for message in messages] == ["add_peer", "set_down", "remove_peer"]
    assert old.orders.unheard(print) == []
    new.orders.repeat(messages)
    assert new.hear() == []
    assert new.members().keys() == {key(81), key(82), key(83)}
    assert new.table.admin(new.table.row(key(82))) & 3 == ADMIN_DOWN


def test_nonsense_that_a_dead_checker_has_not_read_is_passed_over(stack: ExitStack) -> None:
    """Any process with the workers' end can say it; the master, who reads it here, must not end of it."""
    old, new = generations(stack, BACKEND, BACKEND)
    deep = b'{"op": "repeat", "message": ' + b"[" * 900 + b"]" * 900 + b"}"
    wide = b'{"op": "add_peer", "upstream": "' + b"\xc3\xa9" * 20_000 + b'"}'  # larger once it is written anew
    for content in (b"{", b"7", b"[]", b'"op"', b"{}", b"\xff", b"[" * 60_000, deep, wide):
        old.workers_end.send(content)
    old.control.add_peer("backend", peer(83))
    said: list[str] = []
    new.orders.repeat(old.orders.unheard(said.append))
    assert len(said) == 7
    assert new.hear() != []  # the deep one, which is nonsense there too
    assert new.members().keys() == {key(81), key(82), key(83)}
    assert not new.orders.waits


def test_what_an_earlier_configuration_had_written_is_no_news(stack: ExitStack) -> None:
    """A checker that is slow carries it out, or a dead one leaves it, when a later configuration serves already."""
    old, new = generations(stack, BACKEND, BACKEND)
    old.orders.write([settled(key(83), peer(83))])
    old.hear()
    assert len(old.orders.news()) == 1
    old.orders.write([settled(key(81), peer(81, weight=3)), settled(key(84), peer(84))])
    old.orders.write([settled(key(81), peer(81, weight=4)), settled(key(84), None), settled(key(82), None)])
    assert old.orders.news() == []
    old.orders.supersede()
    old.hear()
    assert old.orders.news() == []
    # Whoever orders something else is heard.
    old.control.remove_peer(key(83))
    old.control.change_peer(key(81), weight=5)
    old.hear()
    new.orders.repeat(old.orders.news())
    assert new.members() == {key(81): peer(81, weight=5), key(82): peer(82)}
    old.orders.write([settled(key(85), peer(85))])
    assert old.orders.unheard(print) == []
    assert old.orders.news() == []


def test_more_than_the_socket_takes_waits(stack: ExitStack) -> None:
    old, new = generations(stack, BACKEND, BACKEND)
    ports = range(1000, 3000)
    new.orders.say([settled(key(port), peer(port)) for port in ports])
    for rounds in range(len(ports)):  # noqa: B007 - counted
        if not new.orders.waits:
            break
        assert new.hear() == []
        new.orders.flush()
    assert rounds > 1
    assert new.members().keys() == {key(81), key(82), *(key(port) for port in ports)}
    assert old.orders.news() == []


def test_a_full_table_is_told_of(stack: ExitStack) -> None:
    old, new = generations(stack, BACKEND, BACKEND)
    del old
    new.hear()
    spare = new.table.layout.row_count - new.table.rows_used
    assert new.checker is not None
    for port in range(1000, 1000 + spare):
        new.checker.add_peer("backend", peer(port))
    new.orders.repeat([settled(key(90), peer(90))])
    (complaint,) = new.hear()
    assert "no room for one more peer" in complaint
