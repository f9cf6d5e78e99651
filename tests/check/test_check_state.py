"""The state file: what it says, what is made of it, and that nothing it says or is stops anybody."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.check.probing import LIMIT, Probing
from upwell.check import checker, replaced
from upwell.check.spec import PLUS, CheckSpec
from upwell.check.state import StateFile
from upwell.peers.peer import PeerSpec
from upwell.zone.layout import PEER_SINCE

Make = Callable[..., Probing]
LONG_AGO = "2020-02-02T20:20:20.000Z"


@pytest.fixture
def closed() -> Iterator[PeerSpec]:
    """A port that is taken but does not listen."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        host, port = sock.getsockname()
        yield PeerSpec(f"{host}:{port}", (host, port))


@pytest.fixture
def open_peer() -> Iterator[PeerSpec]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        host, port = sock.getsockname()
        yield PeerSpec(f"{host}:{port}", (host, port))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


@pytest.fixture
def probing(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(checker, "GRACE", LIMIT)  # for a disk that is busy
    made: list[Probing] = []

    def make(*peers: PeerSpec) -> Probing:
        path = tmp_path / f"error{len(made)}.log"
        made.append(Probing(path, *peers, listeners=lambda log: (StateFile(str(file), log),)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def check_of(**changes: object) -> CheckSpec:
    return CheckSpec("u", "tcp", dialect=PLUS, **changes)  # type: ignore[arg-type]  # keywords by name


def entry(peer: PeerSpec, /, **changes: object) -> dict[str, object]:
    return {
        "upstream": "u",
        "role": "primary",
        "peer": peer.name,
        "ordinal": 0,
        "identity": f"{check_of().identity:x}",
        "check": "tcp",
        "state": "down",
        "since": LONG_AGO,
        "kind": "connect",
        "why": "no route to host",
    } | changes


def document(*entries: dict[str, object]) -> str:
    return json.dumps({"version": 1, "checks": entries})


def checks(file: Path) -> list[dict[str, Any]]:
    found = json.loads(file.read_text())
    assert found["version"] == 1
    return list(found["checks"])


def test_a_transition_is_written_after_a_while(probing: Make, file: Path, closed: PeerSpec) -> None:
    p = probing(closed)
    p.check(type="tcp")
    p.until(lambda: not p.up())
    assert not file.exists()
    p.until(file.exists)
    [found] = checks(file)
    age = time.time() - datetime.fromisoformat(found["since"]).timestamp()
    assert 0 <= age < LIMIT
    assert found == entry(closed, since=found["since"], why="connection refused")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert os.listdir(file.parent).count(file.name) == len([n for n in os.listdir(file.parent) if "state" in n]) == 1


def test_it_is_written_at_the_end_at_once(probing: Make, file: Path, closed: PeerSpec) -> None:
    p = probing(closed)
    p.check(type="tcp")
    p.until(lambda: not p.up())
    p.checker.close()
    assert [found["state"] for found in checks(file)] == ["down"]
    p.checker = p.make()


def test_without_a_transition_nothing_is_written(probing: Make, file: Path, open_peer: PeerSpec) -> None:
    p = probing(open_peer)
    p.check(type="tcp")
    assert p.why() == ""
    p.checker.close()
    assert not file.exists()
    p.checker = p.make()


def test_a_peer_that_was_down_begins_down_and_says_why(probing: Make, file: Path, open_peer: PeerSpec) -> None:
    file.write_text(document(entry(open_peer)))
    p = probing(open_peer)
    p.check(type="tcp", rise=2)
    assert not p.up()
    assert (p.record().kind, p.record().why, p.record().changes) == (0, "no route to host", 0)
    age = time.time() - datetime(2020, 2, 2, 20, 20, 20, tzinfo=UTC).timestamp()
    assert abs(p.clock() - p.state().since / 1000 - age) < LIMIT
    p.until(p.up)
    assert p.state().passes == 2
    p.checker.close()
    assert [found["state"] for found in checks(file)] == ["up"]
    p.checker = p.make()


@pytest.mark.parametrize(
    ("wrong", "initial", "up"),
    [
        ({}, "up", False),
        ({"state": "up"}, "up", True),
        ({"state": "up"}, "down", True),
        ({"state": "up"}, "checking", False),  # which promises that each peer has passed before it is used
        ({}, "checking", False),
        ({"upstream": "v"}, "up", True),
        ({"role": "backup"}, "up", True),
        ({"peer": "127.0.0.1:1"}, "up", True),
        ({"ordinal": 1}, "up", True),
        ({"identity": "1"}, "up", True),
        ({"kind": "of a later version"}, "up", False),
        ({"since": "2999-01-01T00:00:00Z"}, "up", False),
    ],
)
def test_only_the_very_same_check_of_the_very_same_peer_is_meant(
    probing: Make, file: Path, closed: PeerSpec, wrong: dict[str, object], initial: str, up: bool
) -> None:
    file.write_text(document(entry(closed, **wrong)))
    p = probing(closed)
    p.check(type="tcp", initial=initial)
    assert p.up() is up
    assert p.lines() == []


@pytest.mark.parametrize(("was", "persistent", "up"), [("up", True, True), ("up", False, False), ("down", True, False)])
def test_a_pass_from_before_will_do_where_persistent_says_so(
    probing: Make, file: Path, closed: PeerSpec, was: str, persistent: bool, up: bool
) -> None:
    file.write_text(document(entry(closed, state=was)))
    p = probing(closed)
    p.check(type="tcp", initial="checking", persistent=persistent)
    assert p.up() is up
    assert check_of(persistent=True).identity == check_of().identity


@pytest.mark.parametrize("was", ["up", "down"])
def test_a_peer_is_as_it_is_since_the_file_says_so(probing: Make, file: Path, closed: PeerSpec, was: str) -> None:
    file.write_text(document(entry(closed, state=was)))
    p = probing(closed)
    p.check(type="tcp", initial="down" if was == "up" else "up")
    assert p.up() is (was == "up")
    assert p.table.words[p.table.layout.row(0) + PEER_SINCE] == p.state().since != 0
    # Another check, which nothing is known of, makes it no younger.
    p.check(type="tcp", port=1)
    assert p.table.words[p.table.layout.row(0) + PEER_SINCE] == p.state().since


def test_what_the_zone_knows_is_newer(probing: Make, file: Path, closed: PeerSpec) -> None:
    """A checker that was killed before it wrote; its successor corrects the file."""
    p = probing(closed)
    p.check(type="tcp")
    p.until(lambda: not p.up())
    p.checker.close()
    file.write_text(document(entry(closed, state="up", why="", kind="")))
    p.checker = p.make()
    p.check(type="tcp", interval=1000.0)
    assert not p.up()
    p.checker.close()
    [found] = checks(file)
    assert (found["state"], found["why"]) == ("down", "connection refused")
    assert time.time() - datetime.fromisoformat(found["since"]).timestamp() < LIMIT
    p.checker = p.make()


def test_what_is_not_checked_any_more_is_forgotten(probing: Make, file: Path, closed: PeerSpec) -> None:
    file.write_text(document(entry(closed), entry(closed, identity="1")))
    p = probing(closed)
    p.check(type="tcp")
    p.table.set_ready(0, os.getpid())
    p.checker.step(0)
    p.skew = 1000.0
    p.checker.step(0)
    p.checker.close()
    assert [found["identity"] for found in checks(file)] == [entry(closed)["identity"]]
    p.checker = p.make()


def test_and_kept_until_all_have_had_their_say(probing: Make, file: Path, closed: PeerSpec) -> None:
    file.write_text(document(entry(closed, peer="another", identity="1")))
    p = probing(closed)
    p.check(type="tcp")
    p.until(lambda: not p.up())
    p.checker.close()
    assert [found["peer"] for found in checks(file)] == ["another", closed.name]
    p.checker = p.make()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a state file"),
        (b"garbage", "not a state file"),
        (b"\xff\xfe", "not a state file"),
        (b"[1, 2]", "not a state file"),
        (b"[" * 100_000, "not a state file"),
        (b'{"checks": []}', "not a state file"),
        (b'{"version": 2, "checks": []}', "its version is 2, not 1"),
        (b'{"version": 1, "checks": [{}]}', "not a state file"),
        (b'{"version": 1, "checks": [[]]}', "not a state file"),
        (document(entry(PeerSpec("p", ("::1", 1)), state="dead")).encode(), "not a state file"),
        (document(entry(PeerSpec("p", ("::1", 1)), why=3)).encode(), "not a state file"),
        (document(entry(PeerSpec("p", ("::1", 1)), ordinal="0")).encode(), "not a state file"),
        (document(entry(PeerSpec("p", ("::1", 1)), identity=5)).encode(), "not a state file"),
        (document(entry(PeerSpec("p", ("::1", 1)), identity="x")).encode(), "not a state file"),
        (document(entry(PeerSpec("p", ("::1", 1)), since="yesterday")).encode(), "not a state file"),
    ],
)
def test_garbage_is_told_of_and_replaced(
    probing: Make, file: Path, closed: PeerSpec, content: bytes, words: str
) -> None:
    file.write_bytes(content)
    p = probing(closed)
    assert len(p.lines()) == 1
    assert p.lines()[0].startswith(f'warn: health_check_state "{file}" is ignored: {words}')
    p.check(type="tcp")
    assert p.up()
    p.until(lambda: not p.up())
    p.checker.close()
    assert len(checks(file)) == 1
    p.checker = p.make()


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_a_file_that_is_none_holds_up_nobody(probing: Make, file: Path, closed: PeerSpec, kind: str) -> None:
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(file)
    p = probing(closed)
    assert len(p.lines()) == 1
    assert "is ignored" in p.lines()[0]
    p.check(type="tcp")
    p.until(lambda: not p.up())


def test_a_file_that_cannot_be_written_is_told_of_once_and_tried_again(
    probing: Make, file: Path, closed: PeerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaced, "REST", 0.001)
    monkeypatch.setattr(replaced, "_AGAIN", 0.001)
    gone = file.parent / "folder"
    p = Probing(file.parent / "log", closed, listeners=lambda log: (StateFile(str(gone / "state"), log),))
    p.check(type="tcp")
    p.until(lambda: any("cannot be written: No such file or directory" in line for line in p.lines()))
    limit = time.monotonic() + 0.05
    p.until(lambda: time.monotonic() > limit)
    gone.mkdir()
    p.until(lambda: any("is written again" in line for line in p.lines()))
    assert sum("health_check_state" in line for line in p.lines()) == 2
    assert len(checks(gone / "state")) == 1
    p.close()


def test_a_slow_disk_delays_no_probe(
    probing: Make, closed: PeerSpec, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaced, "REST", 0.001)
    gate = threading.Event()
    waiting = threading.Event()

    def slow(fd: int) -> None:
        waiting.set()
        gate.wait(LIMIT)

    monkeypatch.setattr(os, "fsync", slow)
    p = probing(closed)
    p.check(type="tcp", interval=0.001)
    p.until(waiting.is_set)
    before = p.state().fails
    p.until(lambda: p.state().fails > before + 100)
    assert not file.exists()
    gate.set()
    p.until(file.exists)


def test_the_old_file_is_there_until_the_new_one_is_whole(
    probing: Make, closed: PeerSpec, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(document())
    before = file.read_text()

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    p = probing(closed)
    p.check(type="tcp")
    p.until(lambda: not p.up())
    p.checker.close()
    assert file.read_text() == before
    assert "No space left" in p.lines()[-1]
    assert [name for name in os.listdir(file.parent) if "state" in name] == [file.name]
    monkeypatch.undo()
    p.checker = p.make()
