"""Messages from workers to the checker: none is lost, none is done twice with another meaning, none blocks."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from upwell.check.spec import CheckSpec, from_message, to_message
from upwell.peers.membership import Refused
from upwell.peers.peer import PeerKey, PeerSpec
from upwell.process.control import Control, Message, apply, receive, socket_pair, to_checker, to_socket
from upwell.zone.table import PeerTable

SPEC = CheckSpec("backend", request=b"GET /\xff HTTP/1.0\r\n\r\n", statuses=(200, 302))


class Recorder:
    """A checker that only remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def add(self, spec: CheckSpec) -> None:
        if spec.upstream == "unknown":
            raise ValueError('no upstream "unknown"')
        self.told.append(spec)

    def set_down(self, key: PeerKey, value: bool) -> None:
        self.told.append((key, value))

    def suspect(self, key: PeerKey) -> None:
        self.told.append(("suspect", key))

    def add_peer(self, upstream: str, spec: PeerSpec) -> None:
        self.told.append(("add", upstream, spec))

    def remove_peer(self, key: PeerKey) -> None:
        self.told.append(("remove", key))

    def change_peer(self, key: PeerKey, **fields: object) -> None:
        self.told.append(("change", key, fields))

    def has_peer(self, key: PeerKey) -> bool:
        return key.name == "there"


def peer(index: int, backup: bool = False) -> PeerKey:
    return PeerKey("backend", "backup" if backup else "primary", f"p{index}", 0)


@pytest.fixture
def table() -> PeerTable:
    return PeerTable.create([("backend", "primary", "127.0.0.1:81", 0)], 1)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    workers, checker = socket_pair()
    yield workers, checker
    workers.close()
    checker.close()


def test_through_the_socket(table: PeerTable, ends: tuple[socket.socket, socket.socket]) -> None:
    control, recorder = Control(table, to_socket(ends[0])), Recorder()
    control.add_check(SPEC)
    control.set_down(peer(3, True), True)
    assert receive(ends[1], recorder) == []
    assert recorder.told == [SPEC, (peer(3, True), True)]


def test_directly(table: PeerTable) -> None:
    recorder = Recorder()
    control = Control(table, to_checker(recorder))
    control.add_check(SPEC)
    control.set_down(peer(0), False)
    assert recorder.told == [SPEC, (peer(0), False)]


def test_orders_about_members_arrive_in_their_order(
    table: PeerTable, ends: tuple[socket.socket, socket.socket]
) -> None:
    control, recorder = Control(table, to_socket(ends[0])), Recorder()
    spec = PeerSpec("p7", ("127.0.0.1", 7), weight=3)
    control.add_peer("backend", spec)
    control.change_peer(peer(7), weight=5, drain=True)
    control.remove_peer(peer(7))
    control.add_peer("backend", PeerSpec("unix:/s", "/s"))
    assert receive(ends[1], recorder) == []
    assert recorder.told == [
        ("add", "backend", spec),
        ("change", peer(7), {"weight": 5, "drain": True}),
        ("remove", peer(7)),
        ("add", "backend", PeerSpec("unix:/s", "/s")),
    ]


def test_a_new_checker_is_told_all_checks_again(table: PeerTable) -> None:
    recorder = Recorder()
    control = Control(table, to_checker(recorder))
    other = CheckSpec("backend", type="tcp")
    control.add_check(SPEC)
    control.add_check(other)
    control.set_down(peer(0), True)
    recorder.told.clear()
    control.flush()
    assert recorder.told == []
    table.start_checker(1)
    control.flush()
    assert recorder.told == [SPEC, other]


def test_what_cannot_be_sent_waits_and_the_last_word_counts(table: PeerTable) -> None:
    sent: list[Message] = []
    open_ = False

    def deliver(message: Message) -> bool:
        if open_:
            sent.append(message)
        return open_

    control = Control(table, deliver)
    for value in (True, False, True):
        control.set_down(peer(0), value)
    control.set_down(peer(1), True)
    control.set_down(peer(0), False)
    control.add_check(SPEC)
    control.add_check(SPEC)
    open_ = True
    control.flush()
    assert [(m["op"], m.get("peer"), m.get("value")) for m in sent] == [
        ("set_down", peer(1), True),
        ("set_down", peer(0), False),
        ("add_check", None, None),
    ]


def test_a_full_socket_blocks_nobody(table: PeerTable, ends: tuple[socket.socket, socket.socket]) -> None:
    control, recorder = Control(table, to_socket(ends[0])), Recorder()
    for index in range(10_000):
        control.set_down(peer(index), True)
    for _ in range(1000):
        assert receive(ends[1], recorder) == []
        control.flush()
    assert recorder.told == [(peer(index), True) for index in range(10_000)]


def test_a_check_too_large_is_refused_and_forgotten(
    table: PeerTable, ends: tuple[socket.socket, socket.socket]
) -> None:
    control, recorder = Control(table, to_socket(ends[0])), Recorder()
    with pytest.raises(ValueError, match="bytes long"):
        control.add_check(CheckSpec("backend", request=b"x" * 70_000))
    control.add_check(SPEC)
    table.start_checker(1)
    control.flush()
    receive(ends[1], recorder)
    assert recorder.told == [SPEC, SPEC]


@pytest.mark.parametrize(
    "content",
    [b"not json", b"[]", b"{}", b'{"op": "dance"}', b'{"op": "add_check", "check": {"request": 1}}', b"\xff"],
)
def test_nonsense_is_complained_about_and_passed_over(
    content: bytes, ends: tuple[socket.socket, socket.socket], table: PeerTable
) -> None:
    recorder = Recorder()
    ends[0].send(content)
    Control(table, to_socket(ends[0])).add_check(SPEC)
    [complaint] = receive(ends[1], recorder)
    assert complaint.startswith("control message could not be used: ")
    assert recorder.told == [SPEC]


def test_one_that_has_left_is_suspected_of_nothing(ends: tuple[socket.socket, socket.socket]) -> None:
    class Left(Recorder):
        def suspect(self, key: PeerKey) -> None:
            raise Refused(f'no primary peer "{key.name}"')

    gone = ("app", "primary", "10.0.0.1:80", 0)
    to_socket(ends[0])({"op": "suspect", "peer": gone})
    to_socket(ends[0])({"op": "set_down", "peer": gone, "value": True})
    checker = Left()
    assert receive(ends[1], checker) == []
    assert checker.told == [(PeerKey(*gone), True)]


def test_a_refused_check_is_complained_about(table: PeerTable, ends: tuple[socket.socket, socket.socket]) -> None:
    Control(table, to_socket(ends[0])).add_check(CheckSpec("unknown"))
    assert 'no upstream "unknown"' in receive(ends[1], Recorder())[0]


def test_apply_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="dance"):
        apply({"op": "dance"}, Recorder())


def test_a_suspicion_is_said_once_a_second_of_each_peer(
    table: PeerTable, ends: tuple[socket.socket, socket.socket]
) -> None:
    now = 50.0
    control, recorder = Control(table, to_socket(ends[0]), lambda: now), Recorder()

    def told() -> list[object]:
        recorder.told.clear()
        assert receive(ends[1], recorder) == []
        return list(recorder.told)

    for _ in range(1000):
        control.suspect(peer(0))
        control.suspect(peer(0, True))
    assert told() == [("suspect", peer(0)), ("suspect", peer(0, True))]
    now = 50.9
    control.flush()
    assert told() == []
    # What was said meanwhile is not lost: a peer that is suspended now gets no request that would say it again.
    now = 51.0
    control.flush()
    assert told() == [("suspect", peer(0)), ("suspect", peer(0, True))]
    now = 52.0
    control.flush()
    assert told() == []
    control.suspect(peer(0))
    assert told() == [("suspect", peer(0))]


def test_suspicions_that_cannot_be_sent_do_not_pile_up(table: PeerTable) -> None:
    now = 0.0
    sent: list[Message] = []
    open_ = False

    def deliver(message: Message) -> bool:
        if open_:
            sent.append(message)
        return open_

    control = Control(table, deliver, lambda: now)
    for second in range(100):
        now = float(second)
        for index in range(5):
            control.suspect(peer(index))
    open_ = True
    control.flush()
    assert sorted(message["peer"] for message in sent) == [peer(index) for index in range(5)]


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "exec", "command": ["/bin/true"]},
        {"type": "python", "function": "os:system"},
        {"dialect": "plus"},
        {"command": ["/bin/true"]},
        {"interval": float("nan")},
        {"interval": float("inf")},
        {"timeout": "1"},
        {"timeout": True},
        {"concurrency": "a"},
        {"port": 65536},
        {"statuses": ["200"]},
        {"statuses": 5},
        {"upstream": ["u"]},
        {"request": "\ud800"},
        {"jitter": float("inf")},
        {"match": {"name": "x"}},
        {"unheard": 1},
    ],
)
def test_only_what_lua_resty_s_checks_can_be_comes_from_workers(changes: dict[str, object]) -> None:
    assert from_message(to_message(SPEC)) == SPEC
    with pytest.raises((TypeError, ValueError)):
        from_message(to_message(SPEC) | changes)


def test_a_message_that_goes_too_deep_is_a_complaint() -> None:
    workers, checker = socket_pair()
    with workers, checker:
        workers.send(b'{"op": "add_check", "check": ' + b"[" * 20000 + b"]" * 20000 + b"}")
        (complaint,) = receive(checker, Recorder())
        assert complaint.startswith("control message could not be used")
