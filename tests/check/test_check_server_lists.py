"""Lists of peers that files keep: written anew after each change, by whoever owns the list, whatever happens to him."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.check.probing import LIMIT
from upwell.check import checker as checkers
from upwell.check import replaced
from upwell.check.checker import Checker
from upwell.check.server_lists import ServerLists, keep_lists
from upwell.log import INFO, ErrorLog
from upwell.peers.membership import Refused
from upwell.peers.peer import Method, PeerKey, PeerSpec, UpstreamSpec, peer_keys
from upwell.process.control import Control, to_checker
from upwell.zone.table import PeerTable


def peer(number: int, **rest: object) -> PeerSpec:
    return replace(PeerSpec(f"127.0.0.1:{number}", ("127.0.0.1", number)), **rest)  # type: ignore[arg-type]  # by name


def key(number: int, role: str = "primary") -> PeerKey:
    return PeerKey("u", role, f"127.0.0.1:{number}", 0)


class House:
    """A table and its checkers, one after the other."""

    def __init__(self, folder: Path, *peers: PeerSpec, lines: tuple[PeerSpec, ...] = (), method: str = "") -> None:
        self.file = folder / "list"
        self.log = ErrorLog(str(folder / "error.log"), INFO)
        self.log.open()
        chosen = Method(method) if method else Method()
        self.spec = UpstreamSpec("u", peers, state=str(self.file), lines=lines, method=chosen)
        self.others = UpstreamSpec("v", (peer(9),))
        keys = [*peer_keys(self.spec), *peer_keys(self.others)]
        self.table = PeerTable.create(keys, 1, 64, ["u", "v"])
        self.checker = self.make()

    def make(self) -> Checker:
        upstreams = (self.spec, self.others)
        return Checker(self.table, upstreams, self.log, listeners=[ServerLists(self.table, upstreams, self.log)])

    def until(self, condition: Callable[[], bool]) -> None:
        limit = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < limit, (self.text(), Path(self.log.path).read_text())
            self.checker.step(0.01)

    def text(self) -> str:
        return self.file.read_text() if self.file.exists() else ""

    def says(self, *lines: str) -> None:
        expected = "".join(f"server {line};\n" for line in lines)
        self.until(lambda: self.text() == expected)

    def logged(self) -> list[str]:
        return [line.partition("#")[2].partition(": ")[2] for line in Path(self.log.path).read_text().splitlines()]


Make = Callable[..., House]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(checkers, "GRACE", LIMIT)  # for a disk that is busy
    monkeypatch.setattr(replaced, "REST", 0.001)
    made: list[House] = []

    def make(*peers: PeerSpec, **settings: object) -> House:
        made.append(House(tmp_path, *peers, **settings))  # type: ignore[arg-type]  # keywords by name
        return made[-1]

    yield make
    for one in made:
        one.checker.close()
        os.close(one.log.fd)


def test_each_change_is_written(house: Make) -> None:
    h = house(peer(1), peer(2, weight=3))
    h.checker.step(0.0)
    h.checker.add_peer("u", peer(3, backup=True))
    h.says("127.0.0.1:1", "127.0.0.1:2 weight=3", "127.0.0.1:3 backup")
    h.checker.change_peer(key(1), down=True, route="a b")
    h.says('127.0.0.1:1 "route=a b" down', "127.0.0.1:2 weight=3", "127.0.0.1:3 backup")
    h.checker.remove_peer(key(2))
    h.says('127.0.0.1:1 "route=a b" down', "127.0.0.1:3 backup")
    h.checker.remove_peer(key(3, "backup"))
    h.checker.remove_peer(key(1))
    h.until(lambda: h.file.exists() and not h.text())
    h.checker.add_peer("u", peer(4))
    h.says("127.0.0.1:4")
    assert h.file.stat().st_mode & 0o777 == 0o644
    assert sorted(os.listdir(h.file.parent)) == ["error.log", "list"]


def test_messages_of_workers_change_it(house: Make) -> None:
    h = house(peer(1))
    control = Control(h.table, to_checker(h.checker))
    control.add_peer("u", peer(2, max_conns=7))
    control.change_peer(key(1), drain=True)
    h.says("127.0.0.1:1 drain", "127.0.0.1:2 max_conns=7")
    control.remove_peer(key(1))
    h.says("127.0.0.1:2 max_conns=7")


def test_without_a_change_nothing_is_written(house: Make) -> None:
    h = house(peer(1))
    h.checker.add_peer("v", peer(2))
    with pytest.raises(Refused):
        h.checker.remove_peer(key(7))
    h.checker.close()
    assert not h.file.exists()
    h.checker = h.make()
    h.checker.close()
    assert not h.file.exists()
    h.checker = h.make()


def test_what_is_still_to_be_written_is_written_at_the_end(house: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upwell.check.server_lists._DELAY", LIMIT * 9)
    h = house(peer(1))
    h.checker.add_peer("u", peer(2))
    h.checker.close()
    assert h.text() == "server 127.0.0.1:1;\nserver 127.0.0.1:2;\n"
    h.checker = h.make()


def test_a_successor_writes_what_the_one_before_did_not(house: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upwell.check.server_lists._DELAY", LIMIT * 9)
    h = house(peer(1), peer(2))
    h.checker.add_peer("u", peer(3))
    h.checker.remove_peer(key(1))
    assert not h.file.exists()
    first = h.checker  # killed: it never gets to its end
    monkeypatch.setattr("upwell.check.server_lists._DELAY", 0.0)
    h.checker = h.make()
    h.says("127.0.0.1:2", "127.0.0.1:3")
    h.until(lambda: h.table.is_kept("u"))
    h.file.unlink()
    h.checker.close()
    h.checker = h.make()
    h.checker.step(0.0)
    # Nothing is left to write, also not for the one before when it wakes up: what it has is older.
    h.checker.change_peer(key(2), weight=2)
    h.says("127.0.0.1:2 weight=2", "127.0.0.1:3")
    first.close()
    assert h.text() == "server 127.0.0.1:2 weight=2;\nserver 127.0.0.1:3;\n"


def test_a_file_changed_by_hand_is_not_touched_without_a_change(house: Make) -> None:
    h = house(peer(1))
    h.checker.add_peer("u", peer(2))
    h.says("127.0.0.1:1", "127.0.0.1:2")
    h.until(lambda: h.table.is_kept("u"))
    h.file.write_text("server 127.0.0.1:5;\n")
    keep_lists(h.table, (h.spec, h.others), None)
    h.checker.close()
    h.checker = h.make()
    h.checker.step(0.05)
    assert h.text() == "server 127.0.0.1:5;\n"


def test_the_master_has_what_is_not_yet_written(house: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upwell.check.server_lists._DELAY", LIMIT * 9)
    h = house(peer(1))
    keep_lists(h.table, (h.spec, h.others), None)
    assert not h.file.exists()
    h.checker.add_peer("u", peer(2))
    keep_lists(h.table, (h.spec, h.others), (os.getuid(), os.getgid()))
    assert h.text() == "server 127.0.0.1:1;\nserver 127.0.0.1:2;\n"
    assert h.table.is_kept("u")
    before = h.file.stat()
    h.checker.close()
    assert h.file.stat() == before
    h.checker = h.make()


def test_the_master_says_which_file_it_cannot_write(house: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upwell.check.server_lists._DELAY", LIMIT * 9)
    h = house(peer(1))
    h.file.mkdir()
    h.checker.add_peer("u", peer(2))
    with pytest.raises(OSError, match="Is a directory") as caught:
        keep_lists(h.table, (h.spec,), None)
    assert caught.value.filename == str(h.file)
    assert sorted(os.listdir(h.file.parent)) == ["error.log", "list"]
    h.file.rmdir()


def test_peers_of_a_line_that_is_resolved_are_that_line(house: Make) -> None:
    line = PeerSpec("two:81", ("", 0), server="two:81", weight=2)
    h = house(peer(1), lines=(line,))
    h.checker.add_peer("u", replace(line, name="127.0.0.7:81", address=("127.0.0.7", 81)))
    assert h.table.is_kept("u")
    h.checker.add_peer("u", peer(2))
    h.says("127.0.0.1:1", "127.0.0.1:2", "two:81 resolve weight=2")
    h.until(lambda: h.table.is_kept("u"))
    h.checker.remove_peer(PeerKey("u", "primary", "127.0.0.7:81", 0))
    assert h.table.is_kept("u")
    h.checker.remove_peer(key(2))
    h.says("127.0.0.1:1", "two:81 resolve weight=2")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (peer(2, weight=0), "invalid weight"),
        (peer(2, slow_start=3.0), "does not support"),
        (peer(2, backup=True), "does not support"),
        (PeerSpec("app", ("127.0.0.1", 2)), "not called by its address"),
    ],
)
def test_what_could_not_be_read_again_does_not_join(house: Make, spec: PeerSpec, words: str) -> None:
    h = house(peer(1), method="ip_hash")
    with pytest.raises(Refused, match=words):
        h.checker.add_peer("u", spec)
    assert [member.spec for member in h.checker.members("u")] == [peer(1)]
    assert h.table.is_kept("u")
    h.checker.add_peer("v", replace(peer(2), weight=1))
    with pytest.raises(Refused, match="invalid weight"):
        h.checker.change_peer(key(1), weight=0)


def test_a_slow_disk_delays_nobody(house: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, waiting = threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        waiting.set()
        gate.wait(LIMIT)

    monkeypatch.setattr(os, "fsync", slow)
    h = house(peer(1))
    h.checker.add_peer("u", peer(2))
    h.until(waiting.is_set)
    for number in range(3, 40):
        h.checker.add_peer("u", peer(number))
    assert not h.file.exists()
    assert not h.table.is_kept("u")
    gate.set()
    h.says(*(f"127.0.0.1:{number}" for number in range(1, 40)))


def test_a_file_that_cannot_be_written_is_told_of_once_and_tried_again(
    house: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaced, "_AGAIN", 0.001)
    h = house(peer(1))
    h.file.mkdir()
    h.checker.add_peer("u", peer(2))
    h.until(lambda: f'state "{h.file}" cannot be written: Is a directory' in h.logged())
    h.checker.add_peer("u", peer(3))
    limit = time.monotonic() + 0.05
    h.until(lambda: time.monotonic() > limit)
    h.file.rmdir()
    h.says("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
    h.until(lambda: f'state "{h.file}" is written again' in h.logged())
    assert sum(line.startswith("state ") for line in h.logged()) == 2


def test_ten_thousand_changes_are_a_few_writes(house: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaced, "REST", LIMIT * 9)
    written: list[str] = []
    rename = os.rename

    def count(old: str, new: str) -> None:
        written.append(new)
        rename(old, new)

    monkeypatch.setattr(os, "rename", count)
    h = house(peer(1))
    for weight in range(2, 10_000):
        h.checker.change_peer(key(1), weight=weight)
    h.checker.close()
    assert h.text() == "server 127.0.0.1:1 weight=9999;\n"
    assert len(written) <= 2
    h.checker = h.make()
