"""The checker against real sockets: lua-resty's lines in their order, each way to fail, what outlives the checker."""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from tests.check.scripted import Scripted
from upwell.check import conversation
from upwell.check.checker import Checker
from upwell.check.probe import Verdict
from upwell.check.probes.http import HttpProbe
from upwell.check.spec import PLUS, RESTY, CheckSpec, MatchSpec
from upwell.log import DEBUG, INFO, ErrorLog
from upwell.peers.peer import PeerKey, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.upstream import Upstream
from upwell.zone.layout import ADMIN_DOWN, ADMIN_UP, CHECKER_LATENESS
from upwell.zone.table import PeerTable

REQUEST = b"GET /index.html HTTP/1.0\r\nHost: tomcat\r\n\r\n"
GOOD = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"
LIMIT = 40.0  # seconds that a condition may take before a test gives up


Address = str | tuple[str, int] | None


class Origin:
    """A server that answers each connection with `answer`; None: it stays silent. It may be changed.

    `open` counts connections that are open now, `most` the most at once; `resets` counts those that the client reset.
    After the answer come `parts`, each when `gate` is released; `written` counts them.
    """

    def __init__(self, answer: bytes | None = GOOD, family: int = socket.AF_INET, address: Address = None) -> None:
        self.answer = answer
        self.parts: tuple[bytes, ...] = ()
        self.keep = False  # go on with a connection after an answer
        self.gate = threading.Semaphore(0)
        self.written = 0
        self.requests: list[bytes] = []
        self.open = self.most = self.resets = self.ends = 0
        self._listener = socket.socket(family)
        self._listener.bind(address or ("127.0.0.1", 0))
        self._listener.listen(64)
        self.address = self._listener.getsockname()
        self._near, self._far = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def spec(self) -> PeerSpec:
        if isinstance(self.address, str):
            return PeerSpec(f"unix:{self.address}", self.address)
        host, port = self.address[:2]
        return PeerSpec(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", (host, port))

    def wrote(self, parts: int) -> bool:
        return self.written == parts or self.resets > 0

    def close(self) -> None:
        self._far.send(b"x")
        self._thread.join()
        self._near.close()
        self._far.close()

    def _run(self) -> None:
        held: dict[int, socket.socket] = {}
        while True:
            ready, _, _ = select.select([self._near, self._listener, *held.values()], [], [])
            if self._near in ready:
                break
            # Ends before beginnings, as they came to pass.
            for sock in sorted(ready, key=lambda one: one is self._listener):
                if sock is self._listener:
                    held_now, _ = sock.accept()
                    held[held_now.fileno()] = held_now
                    self.open += 1
                    self.most = max(self.most, self.open)
                elif not self._serve(sock):
                    del held[sock.fileno()]
                    sock.close()
                    self.open -= 1
        for sock in (self._listener, *held.values()):
            sock.close()

    def _serve(self, sock: socket.socket) -> bool:
        """Answer one request; false when the connection is over."""
        try:
            request = sock.recv(65536)
        except ConnectionError:
            self.resets += 1
            return False
        if not request:
            self.ends += 1
            return False
        keep = self.keep  # as it is now: it may be changed as soon as the answer is there
        self.requests.append(request)
        if self.answer is None:
            return True
        try:
            sock.sendall(self.answer)
            for part in self.parts:
                self.gate.acquire(timeout=LIMIT)
                sock.sendall(part)
                self.written += 1
        except ConnectionError:
            self.resets += 1
            return False
        return keep


class Bench:
    """A checker on a table of its own, its log, and the way to drive it until something is true."""

    def __init__(self, path: Path, *peers: PeerSpec, level: int = INFO, workers: int = 1, **policy: Any) -> None:
        self.path = path
        self.log = ErrorLog(str(path), level)
        self.log.open()
        self.spec = UpstreamSpec("u", peers, **policy)
        self.table = PeerTable.create(peer_keys(self.spec), workers, 4)
        self.skew = 0.0
        self.checker = Checker(self.table, [self.spec], self.log, self.clock)

    def clock(self) -> float:
        return time.monotonic() + self.skew

    def key(self, row: int) -> PeerKey:
        """Who has the row."""
        return PeerKey(*self.table.keys[row])

    def check(self, **changes: object) -> CheckSpec:
        settings: dict[str, object] = {
            "request": REQUEST,
            "interval": 0.01,
            "timeout": 0.5,
            "fall": 3,
            "rise": 2,
            "statuses": (200, 302),
        }
        spec = CheckSpec("u", **{**settings, **changes})  # type: ignore[arg-type]  # keywords by name, checked at run time
        self.checker.add(spec)
        return spec

    def until(self, condition: Callable[[], bool]) -> None:
        limit = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < limit, self.lines()
            self.checker.step(0.05)

    def lines(self) -> list[str]:
        """lua-resty's log so far as "level: words"; what the log adds in front is left out."""
        return [line for line in self.all_lines() if " transition " not in line]

    def all_lines(self) -> list[str]:
        """The same with upwell's own lines."""
        pattern = re.compile(r"\S+ \S+ \[(\w+)\] \d+#\d+: (.*)")
        return [pattern.sub(r"\1: \2", line) for line in self.path.read_text().splitlines()]

    def logged(self, part: str) -> bool:
        return any(part in line for line in self.lines())

    def up(self, row: int = 0) -> bool:
        return self.table.is_up(row, False)

    def restart(self) -> None:
        self.checker.close()
        self.checker = Checker(self.table, [self.spec], self.log, self.clock)


@pytest.fixture
def origin() -> Iterator[Callable[..., Origin]]:
    made: list[Origin] = []

    def make(answer: bytes | None = GOOD, family: int = socket.AF_INET, address: Address = None) -> Origin:
        made.append(Origin(answer, family, address))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*peers: PeerSpec, level: int = INFO, workers: int = 1, **policy: Any) -> Bench:
        made.append(Bench(tmp_path / f"error{len(made)}.log", *peers, level=level, workers=workers, **policy))
        return made[-1]

    yield make
    for one in made:
        one.checker.close()
        os.close(one.log.fd)


@pytest.fixture
def refused() -> Iterator[PeerSpec]:
    """A port that is taken but does not listen: nobody else can begin to answer on it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        host, port = sock.getsockname()
        yield PeerSpec(f"{host}:{port}", (host, port))


def down(bench: Bench) -> bool:
    return not bench.up()


Origins = Callable[..., Origin]
Benches = Callable[..., Bench]


def test_the_log_of_a_peer_that_goes_down_and_up_is_lua_resty_s(origin: Origins, bench: Benches) -> None:
    one = origin(b"HTTP/1.0 500 Oops\r\nContent-Length: 0\r\n\r\n")
    b = bench(one.spec, level=DEBUG)
    name = one.spec.name
    b.check()
    cycle = "debug: healthcheck: healthcheck: run a check cycle"
    bad = f"debug: healthcheck: peer {name} was checked to be not ok"
    good = f"debug: healthcheck: peer {name} was checked to be ok"
    why = f"error: healthcheck: bad status code from {name}: 500"
    b.until(lambda: b.lines().count(cycle) == 5)
    assert b.lines() == [
        *[cycle, why, bad],
        *[cycle, why, bad],
        *[cycle, why, bad],
        f"warn: healthcheck: peer {name} is turned down after 3 failure(s)",
        "debug: healthcheck: publishing peers version 1",
        # Who is down is told about no more.
        *[cycle, bad],
        cycle,
    ]
    done = len(b.lines())
    one.answer = GOOD
    b.until(lambda: b.logged("publishing peers version 2"))
    rest = [line for line in b.lines()[done:] if line not in (cycle, bad)]
    assert rest == [
        good,
        good,
        f"warn: healthcheck: peer {name} is turned up after 2 success(es)",
        "debug: healthcheck: publishing peers version 2",
    ]
    assert b.table.upstream_version("u") == 2
    assert set(one.requests) == {REQUEST}


def test_without_debug_only_what_matters_is_logged(origin: Origins, bench: Benches) -> None:
    b = bench(origin().spec)
    b.check()
    b.until(lambda: b.table.checks(0)[0].passes > 5)
    assert b.lines() == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 500 Oops\r\n\r\n", "bad status code from {}: 500"),
        (b"HTTP/1.1 404 Not Found\r\n", "bad status code from {}: 404"),
        (b"\x16\x03garbage\r\n", "bad status line from {}: \x16\x03garbage"),
        (b"HTTP/1.1 200", "failed to receive status line from {}: closed"),
        (b"", "failed to receive status line from {}: closed"),
        (b"x" * 100_000, "failed to receive status line from {}: line too long"),
        (None, "failed to receive status line from {}: timeout"),
    ],
)
def test_each_way_of_failing_has_its_words(origin: Origins, bench: Benches, answer: bytes | None, words: str) -> None:
    one = origin(answer)
    b = bench(one.spec)
    b.check(timeout=0.05 if answer is None else 0.5, fall=1)
    b.until(lambda: not b.up())
    assert b.lines() == [
        f"error: healthcheck: {words.format(one.spec.name)}",
        f"warn: healthcheck: peer {one.spec.name} is turned down after 1 failure(s)",
    ]


@pytest.mark.parametrize("type_", ["http", "tcp", "https"])
def test_a_refused_connection(bench: Benches, refused: PeerSpec, type_: str) -> None:
    b = bench(refused)
    b.check(type=type_, fall=1)
    b.until(lambda: not b.up())
    assert b.lines()[0] == f"error: healthcheck: failed to connect to {refused.name}: connection refused"


def test_a_connection_that_is_not_answered_times_out(bench: Benches) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        # A full queue of connections: the system drops what comes next.
        fill = [socket.socket() for _ in range(3)]
        for sock in fill:
            sock.setblocking(False)
            sock.connect_ex(address)
        for type_ in ("http", "tcp"):
            b = bench(PeerSpec("full", address))
            b.check(type=type_, fall=1, timeout=0.05)
            b.until(partial(down, b))
            assert b.lines()[0] == "error: healthcheck: failed to connect to full: timeout"
        for sock in fill:
            sock.close()


def test_a_reset_is_told_in_the_system_s_words(bench: Benches) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        listener.setblocking(False)
        b = bench(PeerSpec("app", listener.getsockname()))
        b.check(fall=1)

        def reset() -> bool:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return not b.up()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            sock.close()
            return not b.up()

        b.until(reset)
    assert b.lines()[0] == "error: healthcheck: failed to receive status line from app: connection reset by peer"


def test_tcp_passes_on_the_connection_alone(origin: Origins, bench: Benches) -> None:
    one = origin(None)
    b = bench(one.spec)
    b.check(type="tcp", rise=1, revives_down=True)
    b.until(lambda: b.table.checks(0)[0].passes > 3)
    assert one.requests == []
    assert b.up()


def test_https_over_real_sockets_fails_its_handshake_at_a_plain_peer(origin: Origins, bench: Benches) -> None:
    one = origin(b"HTTP/1.0 400 Bad Request\r\n\r\n")
    b = bench(one.spec)
    b.check(type="https", fall=1, verify=False)
    b.until(lambda: not b.up())
    assert b.lines()[0] == f"error: healthcheck: failed to ssl handshake to {one.spec.name}: handshake failed"


@pytest.mark.parametrize("host", ["a..b", ".", "a\0b", "x" * 64])
def test_a_probe_that_raises_has_failed_and_the_others_go_on(origin: Origins, bench: Benches, host: str) -> None:
    one, other = origin(), origin(b"HTTP/1.0 500 Oops\r\n\r\n")
    b = bench(one.spec, other.spec)
    b.check(type="https", host=host, fall=2, verify=False)
    b.check()
    b.until(lambda: not b.up(0) and not b.up(1))
    why = [
        line
        for line in b.lines()
        if line.startswith(f"error: healthcheck: failed to ssl handshake to {one.spec.name}: ")
    ]
    assert len(why) == 2
    assert b.logged(f"peer {one.spec.name} is turned down after 2 failure(s)")


def test_a_probe_that_raises_in_the_middle_has_failed(
    origin: Origins, bench: Benches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(probe: HttpProbe, data: bytes) -> bytes:
        raise KeyError("odd")

    monkeypatch.setattr(HttpProbe, "feed", broken)
    one = origin()
    b = bench(one.spec)
    b.check(fall=2)
    b.until(lambda: not b.up())
    assert b.lines()[0] == f"error: healthcheck: failed to receive status line from {one.spec.name}: 'odd'"


def test_without_statuses_any_line_passes(origin: Origins, bench: Benches) -> None:
    b = bench(origin(b"220 smtp.test ESMTP\r\n").spec)
    b.check(statuses=(), fall=1)
    b.until(lambda: b.table.checks(0)[0].passes > 2)
    assert b.up()


def test_a_line_in_pieces_is_one_line(origin: Origins, bench: Benches) -> None:
    one = origin(b"HTTP/1.0 2")
    one.parts = (b"00 O", b"K\r\n")
    b = bench(one.spec)
    b.check(fall=1, interval=30.0)
    b.until(lambda: len(one.requests) == 1)
    for number in (1, 2):
        for _ in range(3):
            b.checker.step(0.005)
        assert b.table.checks(0)[0].at == 0
        one.gate.release()
        b.until(partial(one.wrote, number))
    b.until(lambda: b.table.checks(0)[0].passes == 1)


def test_a_peer_that_writes_its_body_later_is_not_reset(origin: Origins, bench: Benches) -> None:
    one = origin(b"HTTP/1.0 200 OK\r\n\r\n")
    one.parts = (b"<html>", b"hello", b"</html>")
    b = bench(one.spec)
    b.check(interval=30.0, timeout=LIMIT)
    b.until(lambda: b.table.checks(0)[0].passes == 1)
    for number in (1, 2, 3):
        one.gate.release()
        b.until(partial(one.wrote, number))
    b.until(lambda: one.open == 0)
    assert one.resets == 0


def test_a_peer_that_never_stops_is_left_at_some_point(origin: Origins, bench: Benches) -> None:
    one = origin(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 50_000_000)  # more than the system buffers
    b = bench(one.spec)
    b.check(interval=30.0)
    b.until(lambda: one.resets == 1)
    assert b.table.checks(0)[0].passes == 1


def test_unix_sockets_and_ipv6_are_probed(origin: Origins, bench: Benches, tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    peers = [origin(family=socket.AF_UNIX, address=path), origin(family=socket.AF_INET6, address=("::1", 0))]
    missing = PeerSpec(f"unix:{path}.none", f"{path}.none")
    b = bench(*(one.spec for one in peers), missing)
    b.check(fall=1)
    b.until(lambda: all(b.table.checks(row)[0].passes for row in (0, 1)) and not b.up(2))
    assert b.lines()[0] == f"error: healthcheck: failed to connect to {missing.name}: no such file or directory"


def test_a_port_of_its_own_is_probed_under_the_peer_s_name(origin: Origins, bench: Benches, refused: PeerSpec) -> None:
    one = origin()
    b = bench(refused)
    b.check(port=one.address[1])
    b.until(lambda: b.table.checks(0)[0].passes > 0)
    assert b.up()


def test_one_slice_is_probed_one_after_the_other(origin: Origins, bench: Benches) -> None:
    silent, good = origin(None), origin()
    b = bench(silent.spec, good.spec)
    b.check(timeout=0.2, concurrency=1)
    b.until(lambda: silent.requests != [])
    assert good.requests == []
    b.until(lambda: good.requests != [])
    assert b.table.checks(0)[0].fails == 1


def test_slices_run_side_by_side_and_backups_come_after(origin: Origins, bench: Benches) -> None:
    peers = [origin(None), origin(), origin(), origin()]
    specs = [one.spec for one in peers]
    backup = PeerSpec("spare", peers[3].spec.address, backup=True)
    b = bench(*specs[:3], backup, level=DEBUG)
    b.check(timeout=0.2, concurrency=2, interval=30.0)
    b.until(lambda: peers[2].requests != [])
    assert peers[3].requests == []
    b.until(lambda: b.table.checks(3)[0].passes == 1)
    slices = [line.removeprefix("debug: healthcheck: ") for line in b.lines() if "thread" in line or "check " in line]
    assert slices == [
        "healthcheck: run a check cycle",
        "spawn a thread checking primary peers 0 to 1",
        "check primary peers 2 to 2",
        "check backup peer 0",
    ]


def test_a_probe_never_overlaps_itself(origin: Origins, bench: Benches) -> None:
    one = origin(None)
    b = bench(one.spec)
    b.check(interval=0.002, timeout=0.05)
    b.until(lambda: b.table.checks(0)[0].fails > 3)
    assert one.most == 1


def test_a_successor_continues_the_streak(origin: Origins, bench: Benches) -> None:
    one = origin(b"HTTP/1.0 500 Oops\r\n\r\n")
    b = bench(one.spec, level=DEBUG)
    b.check(interval=0.05)
    b.until(lambda: b.table.checks(0)[0].fails == 2)
    epoch = b.table.checker_epoch
    b.restart()
    assert b.table.checker_epoch == epoch + 1
    assert b.up()
    b.check(interval=0.05)
    b.until(lambda: not b.up())
    assert b.table.checks(0)[0].fails == 3
    b.until(lambda: b.logged("publishing peers version 1"))
    b.restart()
    assert not b.up()
    one.answer = GOOD
    b.check(interval=0.05)
    b.until(b.up)
    assert b.logged("debug: healthcheck: upgrading peers version to 1")
    b.until(lambda: b.logged("publishing peers version 2"))


def test_a_reload_keeps_a_dead_peer_down_even_under_other_settings(bench: Benches, refused: PeerSpec) -> None:
    b = bench(refused)
    b.check()
    b.until(lambda: not b.up())
    after = bench(PeerSpec("new", ("127.0.0.1", 1)), refused)
    after.table.adopt(b.table)
    row = after.table.row(peer_keys(after.spec)[1])
    assert not after.up(row)
    after.check(fall=4)
    assert not after.up(row)
    assert not after.table.checks(row)[1].up
    # The newcomer took the dead one's place in the list, but not its state.
    assert after.up(0)


def test_a_check_that_nobody_asks_for_is_forgotten(origin: Origins, bench: Benches) -> None:
    one = origin()
    b = bench(one.spec)
    row_slot = b.table.add_check(0, 12345, rise=1, health=0)
    b.table.summarise(0, 1)
    b.check()
    b.until(lambda: b.table.checks(0)[1].passes > 2)
    b.skew += 60
    b.checker.step(0)
    assert not b.up()
    b.table.set_ready(0, 1)
    b.checker.step(0)
    assert not b.up()
    generation = b.table.generation
    b.skew += 4  # workers have just begun: the one that asks for it may be late
    b.checker.step(0)
    assert not b.up()
    b.skew += 2
    b.until(b.up)
    assert b.table.find_check(0, 12345) == -1
    assert row_slot == 0
    assert b.table.generation > generation


def test_add_is_idempotent_and_refuses_nonsense(origin: Origins, bench: Benches) -> None:
    b = bench(origin().spec)
    spec = b.check()
    b.checker.add(spec)
    assert len(b.table.checks(0)) == 1
    with pytest.raises(ValueError, match="no upstream"):
        b.checker.add(CheckSpec("stranger"))
    with pytest.raises(ValueError, match="no check of type"):
        b.checker.add(CheckSpec("u", type="smoke"))
    assert len(b.table.checks(0)) == 1


def test_more_checks_than_slots_are_refused_in_the_log(origin: Origins, bench: Benches) -> None:
    b = bench(origin().spec)
    for number in range(9):
        b.check(interval=10.0 + number)
    assert len(b.table.checks(0)) == 8
    assert b.lines() == [
        f"error: healthcheck: peer {b.spec.peers[0].name} is not checked: more than 8 checks of one peer"
    ]
    b.checker.step(0)


def test_a_peer_that_is_configured_down_is_revived_only_if_the_check_may(origin: Origins, bench: Benches) -> None:
    one = origin()
    down = PeerSpec("app", one.spec.address, down=True)
    plus = bench(down)
    plus.check(interval=0.001)
    assert plus.table.checks(0) == []
    lua = bench(down)
    lua.check(revives_down=True)
    assert not lua.table.is_up(0, True)
    lua.until(lambda: lua.table.is_up(0, True))
    assert lua.lines() == ["warn: healthcheck: peer app is turned up after 2 success(es)"]


def test_an_operator_s_word_is_above_health(origin: Origins, bench: Benches) -> None:
    one = origin()
    spare = PeerSpec("spare", one.spec.address, backup=True)
    b = bench(one.spec, spare)
    b.check()
    b.checker.set_down(b.key(0), True)
    generation = b.table.generation
    b.until(lambda: b.table.checks(0)[0].passes > 2)
    assert not b.up()
    assert b.table.admin(0) & 3 == ADMIN_DOWN
    b.checker.set_down(b.key(0), False)
    assert b.up()
    assert b.table.admin(0) & 3 == ADMIN_UP
    assert b.table.generation == generation + 1
    for stranger in (b.key(0)._replace(name="x"), b.key(0)._replace(ordinal=1), b.key(0)._replace(upstream="x")):
        with pytest.raises(ValueError, match=r"no (primary peer|upstream)"):
            b.checker.set_down(stranger, True)


def test_a_time_out_that_the_checker_s_own_lag_explains_is_void(origin: Origins, bench: Benches) -> None:
    one = origin(None)
    b = bench(one.spec)
    b.check(timeout=5.0, fall=1)
    b.until(lambda: len(one.requests) == 1)
    b.skew += 60.0  # the process was stopped for a minute
    b.until(lambda: len(one.requests) == 2)
    assert b.table.checks(0)[0].fails == 0
    first, line = b.lines()
    assert re.fullmatch(
        r"error: healthcheck: the checker was 5[45]\.\d{3}s late, time-outs that this explains do not count", first
    )
    assert b.table.voids[::2] == (1, "the checker was late")
    words = f"info: healthcheck: time-out of peer {one.spec.name} is void, the checker was "
    assert re.fullmatch(re.escape(words) + r"5[45]\.\d{3}s late", line)
    b.skew += 5.2  # a little late is no excuse
    b.until(lambda: not b.up())
    assert b.table.checks(0)[0].fails == 1


def test_a_void_time_out_is_not_repeated_before_the_next_cycle(origin: Origins, bench: Benches) -> None:
    silent, other = origin(None), origin()
    b = bench(silent.spec, other.spec)
    b.check(timeout=5.0, fall=1, interval=30.0, concurrency=1)
    b.until(lambda: len(silent.requests) == 1)
    b.skew += 20.0
    b.until(lambda: b.table.checks(1)[0].passes == 1)  # the slice goes on
    assert b.logged("is void")
    b.skew += 29.0
    b.checker.step(0)
    assert len(silent.requests) == 1
    b.skew += 1.5
    b.until(lambda: len(silent.requests) == 2)
    assert b.table.checks(0)[0].fails == 0


@pytest.mark.parametrize("timeout", [0.0, -1.0])
def test_no_time_out_is_that_of_cosockets(origin: Origins, bench: Benches, timeout: float) -> None:
    one = origin(None)
    b = bench(one.spec)
    b.check(timeout=timeout, fall=1)
    b.until(lambda: len(one.requests) == 1)
    b.skew += 59.0
    for _ in range(3):
        b.checker.step(0.01)
    assert (len(one.requests), b.table.checks(0)[0].fails, b.lines()) == (1, 0, [])
    b.skew += 1.0
    b.until(lambda: not b.up())


def test_a_tiny_time_out_still_counts(origin: Origins, bench: Benches) -> None:
    one = origin(None)
    b = bench(one.spec)
    b.check(timeout=0.0005, fall=2, interval=0.005)
    b.skew += 0.01  # late by more than the time-out, but by little
    b.until(lambda: not b.up())
    assert b.logged(f"{one.spec.name}: timeout")


def test_an_answer_that_waited_for_a_late_checker_counts(origin: Origins, bench: Benches) -> None:
    one = origin()
    b = bench(one.spec)
    b.check(timeout=1.0, fall=1, interval=60.0)
    b.checker.step(0)
    limit = time.monotonic() + LIMIT
    while not select.select([b.checker.fileno()], [], [], 0.1)[0]:
        assert time.monotonic() < limit
    b.skew += 1.5
    b.checker.step(0)
    assert b.table.checks(0)[0].passes == 1


def test_no_socket_says_nothing_about_the_peer(
    origin: Origins, bench: Benches, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = bench(origin().spec)
    b.check()

    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    words = "failed to create stream socket: too many open files"
    with monkeypatch.context() as patch:
        patch.setattr(conversation, "SocketType", none_left)
        b.until(lambda: b.table.voids.probes > 5)
        assert b.lines() == [f"error: healthcheck: {words}"]
        b.skew += 10.0  # it goes on: said again, but not each time
        b.until(lambda: len(b.lines()) == 2)
        assert re.fullmatch(rf"error: healthcheck: \d+ more probe\(s\) got no verdict: {words}", b.lines()[1])
    assert b.table.voids.why == words
    state = b.table.checks(0)[0]
    assert (state.fails, state.passes) == (0, 0)
    b.until(lambda: b.table.checks(0)[0].passes > 0)
    b.skew += 10.0
    b.until(lambda: len(b.lines()) == 3)
    assert re.fullmatch(
        rf"error: healthcheck: no longer so, {b.table.voids.probes} probe\(s\) got no verdict: {words}", b.lines()[2]
    )


@pytest.mark.parametrize("code", [errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.ENOBUFS])
def test_trouble_of_this_machine_s_own_on_connecting_is_no_verdict(
    origin: Origins, bench: Benches, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    class Unlucky(socket.SocketType):
        def connect_ex(self, address: object) -> int:
            return code

    b = bench(origin().spec)
    b.check(dialect=PLUS, fall=1)
    with monkeypatch.context() as patch:
        patch.setattr(conversation, "SocketType", Unlucky)
        b.until(lambda: b.table.voids.probes > 3)  # and it is tried again and again
    words = os.strerror(code).lower()
    assert b.lines() == [f"error: healthcheck: failed to connect from this machine: {words}"]
    assert (b.table.checks(0)[0].fails, b.up()) == (0, True)
    b.until(lambda: b.table.checks(0)[0].passes > 0)


def test_a_down_peer_is_tried_again_after_such_trouble(
    origin: Origins, bench: Benches, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = origin(b"HTTP/1.0 500 Oops\r\n\r\n")
    b = bench(one.spec)
    b.check(dialect=PLUS, fall=1)
    b.until(lambda: not b.up())

    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.ENFILE, "Too many open files in system")

    with monkeypatch.context() as patch:
        patch.setattr(conversation, "SocketType", none_left)
        b.until(lambda: b.table.voids.probes > 3)
    assert not b.up()
    one.answer = GOOD
    b.until(b.up)


def test_a_peer_s_own_errors_stay_its_own(origin: Origins, bench: Benches, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unlucky(socket.SocketType):
        def connect_ex(self, address: object) -> int:
            return errno.EHOSTUNREACH

    b = bench(origin().spec)
    monkeypatch.setattr(conversation, "SocketType", Unlucky)
    b.check(dialect=PLUS, fall=1)
    b.until(lambda: not b.up())
    assert b.table.voids.probes == 0


class Stopped:
    """An epoll in whose next waiting the process is stopped for some seconds; it then comes back without an answer, as
    Linux' does (signal(7): EINTR after SIGCONT)."""

    def __init__(self, bench: Bench, seconds: float) -> None:
        self._bench = bench
        self._seconds = seconds
        self._real = bench.checker._loop.epoll
        bench.checker._loop.epoll = cast(Any, self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def poll(self, wait: float, most: int) -> list[tuple[int, int]]:
        if self._seconds:
            self._bench.skew += self._seconds
            self._seconds = 0.0
            return []
        return self._real.poll(wait, most)


def test_an_answer_that_came_while_the_process_was_stopped_counts(origin: Origins, bench: Benches) -> None:
    one = origin()
    b = bench(one.spec)
    b.check(dialect=PLUS, timeout=1.0, fall=1, interval=60.0)
    b.checker.step(0)
    limit = time.monotonic() + LIMIT
    while not select.select([b.checker.fileno()], [], [], 0.1)[0]:
        assert time.monotonic() < limit
    Stopped(b, 1.5)
    b.checker.step(0)
    assert (b.table.checks(0)[0].passes, b.table.checks(0)[0].fails) == (1, 0)


@pytest.mark.parametrize("dialect", [PLUS, RESTY])
def test_the_time_that_the_process_was_stopped_is_given_back(origin: Origins, bench: Benches, dialect: str) -> None:
    one = origin(b"")
    one.parts = (GOOD,)
    b = bench(one.spec)
    b.check(dialect=dialect, timeout=5.0, fall=1, interval=60.0)
    b.until(lambda: one.requests != [])
    Stopped(b, 4.9)
    b.checker.step(0)
    b.skew += 0.2  # now its time is over, of which it had but 0.1 seconds
    b.checker.step(0)
    b.skew += 4.0
    b.checker.step(0)
    one.gate.release()
    b.until(lambda: b.table.checks(0)[0].passes == 1)
    assert b.table.checks(0)[0].fails == 0


def test_it_is_given_back_once(origin: Origins, bench: Benches) -> None:
    one = origin(None)
    b = bench(one.spec)
    b.check(dialect=PLUS, timeout=5.0, fall=1, interval=60.0)
    b.until(lambda: one.requests != [])
    Stopped(b, 4.9)
    b.checker.step(0)
    b.skew += 0.2
    b.checker.step(0)
    Stopped(b, 4.9)
    b.checker.step(0)
    assert b.up()
    b.skew += 0.2
    b.until(lambda: not b.up())


def keep_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have http probes keep their connection."""
    feed = HttpProbe.feed

    def keeping(probe: HttpProbe, data: bytes) -> bytes | Verdict:
        answer = feed(probe, data)
        probe.reusable = probe.finished
        return answer

    monkeypatch.setattr(HttpProbe, "feed", keeping)


@pytest.mark.parametrize(("most", "open_"), [(2, 2), (3, 3), (0, 0)])
def test_connections_are_kept_as_far_as_there_is_room(
    origin: Origins, bench: Benches, monkeypatch: pytest.MonkeyPatch, most: int, open_: int
) -> None:
    keep_connections(monkeypatch)
    peers = [origin(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") for _ in range(3)]
    for one in peers:
        one.keep = True
    b = bench(*(one.spec for one in peers))
    b.checker.close()
    b.checker = Checker(b.table, [b.spec], b.log, b.clock, kept=most)
    b.check(dialect=PLUS, request=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", keepalive_time=3600.0, interval=0.02)
    b.until(lambda: all(b.table.checks(row)[0].passes > 5 for row in range(3)))
    assert b.checker._loop.kept <= most
    b.until(lambda: not any(target.probing for course in b.checker._courses.values() for target in course.targets))
    b.skew -= 3600.0  # nothing is due any more
    b.until(lambda: sum(one.open for one in peers) == b.checker._loop.kept == open_)
    for one in peers:
        one.keep = False
    b.skew += 3660.0
    b.until(lambda: all(one.open == 0 for one in peers) and b.checker._loop.kept == 0)


def test_a_kept_connection_that_ended_while_the_process_was_stopped_says_nothing(
    origin: Origins, bench: Benches, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_connections(monkeypatch)
    one = origin(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    one.keep = True
    b = bench(one.spec)
    b.check(
        dialect=PLUS,
        request=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        timeout=5.0,
        fall=1,
        interval=1.0,
        keepalive_time=3600.0,
    )
    b.until(lambda: b.table.checks(0)[0].passes == 1)
    b.skew += 1.0
    # It closes when it is asked again, as its own time for idle connections is over.
    one.keep, one.answer, one.parts = False, b"", (b"",)
    b.until(lambda: len(one.requests) == 2)
    one.answer, one.parts = GOOD, ()
    one.gate.release()
    limit = time.monotonic() + LIMIT
    while not select.select([b.checker.fileno()], [], [], 0.1)[0]:
        assert time.monotonic() < limit
    Stopped(b, 8.0)
    b.until(lambda: b.table.checks(0)[0].passes == 2)
    assert b.table.checks(0)[0].fails == 0


def test_a_bound_that_is_first_needed_when_a_check_is_added_counts_who_is_being_probed(tmp_path: Path) -> None:
    log = ErrorLog(str(tmp_path / "error.log"), INFO)
    log.open()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(64)  # nobody accepts, so that no probe is ever answered
        host, port = sock.getsockname()
        spec = UpstreamSpec("u", tuple(PeerSpec(f"p{number}", (host, port)) for number in range(3)))
        table = PeerTable.create(peer_keys(spec), 1)
        checker = Checker(table, [spec], log, most=4)
        going = []
        for uri in (b"/a", b"/b"):
            request = b"GET " + uri + b" HTTP/1.1\r\nHost: a\r\n\r\n"
            checker.add(CheckSpec("u", "http", request, dialect=PLUS, interval=600.0, timeout=600.0, concurrency=0))
            for _ in range(3):
                checker.step(0.0)
            going.append(sum(target.probing for course in checker._courses.values() for target in course.targets))
        checker.close()
    os.close(log.fd)
    assert going == [3, 4]


def test_one_round_sees_to_a_bounded_number_of_probes(origin: Origins, bench: Benches, tmp_path: Path) -> None:
    slow = origin(b"")
    slow.parts = (GOOD,)
    missing = [PeerSpec(f"p{number}", str(tmp_path / "none.sock")) for number in range(4000)]
    b = bench(slow.spec, *missing)
    b.check(dialect=PLUS, fall=1, interval=600.0, timeout=LIMIT, concurrency=1)
    b.until(lambda: len(b.checker._due) == 0)  # all the others wait for the first one, and fail at once
    slow.gate.release()
    counts = []
    done = 0
    limit = time.monotonic() + LIMIT
    while done < 4001:
        assert time.monotonic() < limit
        b.checker.step(0.05)
        now = sum(check.at > 0 for row in range(4001) for check in b.table.checks(row))
        counts.append(now - done)
        done = now
    assert max(counts) <= 257
    assert 0 not in counts[counts.index(max(counts)) :]  # and none goes by idle


def test_peers_whose_answers_take_long_to_match_have_a_part_of_the_time_together(
    scripted: Callable[..., Scripted], bench: Benches
) -> None:
    """What the peer says makes the expression run into its bound of 0.1 s; every 10 ms that would stop all else."""
    numbers = count()

    def script(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n%bb%d" % (b"a" * 40, next(numbers)))

    def well(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\naaa")

    evil = [scripted(script) for _ in range(3)]
    good = scripted(well)
    b = bench(*(one.spec for one in evil), good.spec)
    b.check(dialect=PLUS, match=MatchSpec(body="^(a+)+$"), jitter=0.0, timeout=5.0, fall=1)
    b.until(lambda: all(b.table.checks(row)[0].fails > 1 for row in range(3)))
    records = [b.table.record(row, 0) for row in range(4)]
    turns = sorted(record.next for record in records[:3])
    # Each waits for its own turn, behind those of the others.
    assert all(later - sooner > 400 for sooner, later in pairwise(turns))
    assert turns[-1] - max(record.failed_at for record in records[:3]) > 400
    state = b.table.checks(3)[0]
    assert (state.fails, b.checker._on_row[3][0].not_before) == (0, 0.0)
    said = [line for line in b.lines() if "to match, it is probed less often" in line]
    assert len(said) == 3


def test_lateness_is_that_of_the_probe_s_beginning(origin: Origins, bench: Benches) -> None:
    one = origin()
    b = bench(one.spec)
    b.check(dialect=PLUS, interval=10.0, jitter=0.0)
    b.until(lambda: b.table.checks(0)[0].passes == 1)
    b.skew += 13.0
    b.until(lambda: b.table.checks(0)[0].passes == 2)
    assert 2.9e6 < b.table.words[CHECKER_LATENESS] < 4e6


def test_no_descriptor_is_left_behind(origin: Origins, bench: Benches) -> None:
    peers = [origin(None), origin(), origin(b"HTTP/1.0 200 OK\r\n\r\nmore")]
    b = bench(*(one.spec for one in peers))
    b.check(timeout=0.02, concurrency=3)
    b.until(lambda: b.table.checks(0)[0].fails > 5)
    b.checker.close()
    limit = time.monotonic() + LIMIT
    while any(one.open for one in peers):
        assert time.monotonic() < limit
    mine = len(os.listdir("/proc/self/fd"))
    b.restart()
    b.check(timeout=0.02, concurrency=3)
    b.until(lambda: b.table.checks(0)[0].fails > 8)
    b.checker.close()
    while any(one.open for one in peers):
        assert time.monotonic() < limit
    assert len(os.listdir("/proc/self/fd")) <= mine


def test_a_foreign_descriptor_is_watched(bench: Benches, refused: PeerSpec) -> None:
    b = bench(refused)
    near, far = socket.socketpair()
    got: list[bytes] = []
    b.checker.watch(near.fileno(), lambda: got.append(near.recv(10)))
    assert b.checker.next_due() is None
    b.checker.step(0)
    assert got == []
    far.send(b"hello")
    b.until(lambda: got == [b"hello"])
    near.close()
    far.close()


def test_a_pass_after_a_suspicion_is_told_to_the_workers(origin: Origins, bench: Benches) -> None:
    b = bench(origin().spec)
    b.check(dialect=PLUS, interval=60.0)
    b.until(lambda: b.table.checks(0)[0].passes == 1)
    generation = b.table.generation
    b.skew += 2.0
    b.checker.suspect(b.key(0))
    b.until(lambda: b.table.cleared(0) > 0)
    assert b.table.checks(0)[0].passes == 2
    assert b.table.generation == generation + 2  # the suspicion, and its end
    with pytest.raises(ValueError, match="no backup peer"):
        b.checker.suspect(b.key(0)._replace(role="backup"))


def test_a_pass_from_before_the_requests_failed_ends_nothing(origin: Origins, bench: Benches) -> None:
    one = origin(b"")
    one.parts = (GOOD,)
    b = bench(one.spec)
    b.check(dialect=PLUS, interval=60.0, timeout=LIMIT)
    b.until(lambda: one.requests != [])
    b.checker.suspect(b.key(0))
    one.gate.release()
    b.until(lambda: b.table.checks(0)[0].passes == 1)
    assert b.table.cleared(0) == 0
    one.answer, one.parts = GOOD, ()
    b.skew += 1.1  # the next one comes soon, not in a minute
    b.until(lambda: b.table.cleared(0) > 0)


def test_all_checks_of_a_suspected_peer_have_to_pass(origin: Origins, bench: Benches) -> None:
    good, silent = origin(), origin(None)
    b = bench(good.spec)
    b.check(dialect=PLUS, interval=60.0)
    b.check(dialect=PLUS, interval=60.0, type="tcp", port=silent.address[1], request=b"", timeout=LIMIT)
    b.check(interval=60.0)  # lua-resty's knows nothing of requests
    b.until(lambda: all(check.passes == 1 for check in b.table.checks(0)))
    b.skew += 2.0
    b.checker.suspect(b.key(0))
    b.until(lambda: b.table.checks(0)[0].passes == 2 and b.table.checks(0)[1].passes == 2)
    assert b.table.cleared(0) > 0
    assert b.table.checks(0)[2].passes == 1


def test_a_suspected_peer_that_fails_its_probe_is_not_cleared(bench: Benches, refused: PeerSpec) -> None:
    b = bench(refused)
    b.check(dialect=PLUS, interval=60.0, fall=3, down_interval=60.0, fast_interval=0.01)
    b.checker.suspect(b.key(0))
    b.until(lambda: not b.up())
    assert b.table.cleared(0) == 0


def test_a_mass_failure_is_said_loudly_and_its_end_too(origin: Origins, bench: Benches) -> None:
    peers = [origin(b"HTTP/1.0 500 Oops\r\n\r\n") for _ in range(3)]
    b = bench(*(one.spec for one in peers))
    b.check(dialect=PLUS, fall=2)
    b.until(lambda: not any(map(b.up, range(3))))
    [alert] = [line for line in b.lines() if line.startswith("alert: ")]
    assert alert == (
        'alert: healthcheck: 2 of 3 peers of upstream "u" turned down within 0.51 s, more than 50% '
        "(mass_down_threshold); most often (2 times): status 500, want 200-399"
    )
    peers[0].answer = peers[1].answer = GOOD
    b.until(lambda: b.up(0) and b.up(1))
    assert 'warn: healthcheck: 1 of 3 peers of upstream "u" are down, no longer more than 50% (it were 3)' in b.lines()


def test_a_policy_is_said_when_it_comes_into_force_and_when_it_ends(origin: Origins, bench: Benches) -> None:
    one, two = origin(b"HTTP/1.0 500 Oops\r\n\r\n"), origin(b"HTTP/1.0 500 Oops\r\n\r\n")
    b = bench(one.spec, two.spec, all_down="serve_all")
    worker = Upstream(b.spec, b.table)
    b.check(dialect=PLUS, fall=2)
    b.until(lambda: b.logged("health is ignored"))
    assert {worker.pick((), 1.0), worker.pick((), 1.0)} == set(worker.peers)
    one.answer = GOOD
    b.until(lambda: b.logged("health counts again"))
    assert {worker.pick((), 1.0), worker.pick((), 1.0)} == {worker.peers[0]}
    assert [line for line in b.lines() if "health is" in line or "health counts" in line] == [
        'alert: healthcheck: 0 of 2 peers of upstream "u" are up: health is ignored, all get requests '
        "(all_down serve_all)",
        'warn: healthcheck: 1 of 2 peers of upstream "u" are up: health counts again',
    ]


def test_an_operator_s_word_can_bring_a_policy_into_force(origin: Origins, bench: Benches) -> None:
    one, two = origin(), origin(b"HTTP/1.0 500 Oops\r\n\r\n")
    b = bench(one.spec, two.spec, all_down="panic", panic=30)
    b.check(dialect=PLUS, fall=1)
    b.until(lambda: not b.up(1))
    b.checker.set_down(b.key(0), True)
    b.until(lambda: b.logged('0 of 1 peers of upstream "u" are up: health is ignored'))
    assert b.logged("(all_down panic=30%)")


def test_a_first_failure_is_news_even_where_none_was_trusted(bench: Benches, refused: PeerSpec) -> None:
    b = bench(refused, all_down="serve_all")
    worker = Upstream(b.spec, b.table)
    b.check(dialect=PLUS, initial="checking", interval=60.0)
    assert worker.pick((), 1.0) is None
    b.until(lambda: b.table.checks(0)[0].fails == 1)
    assert worker.pick((), 1.0) is worker.peers[0]


def test_it_can_live_in_another_loop(origin: Origins, bench: Benches) -> None:
    """`fileno` and `next_due` are all that a host loop needs to know."""
    b = bench(origin().spec)
    b.check(interval=0.02)
    limit = time.monotonic() + LIMIT
    while b.table.checks(0)[0].passes < 4:
        assert time.monotonic() < limit
        due = b.checker.next_due()
        assert due is not None
        select.select([b.checker.fileno()], [], [], max(due - b.clock(), 0))
        b.checker.step(0)
    assert b.table.checker_heartbeat > 0


def test_workers_agree_at_once_in_other_processes(bench: Benches, refused: PeerSpec) -> None:
    # No thread here: a fork copies only the one that forks.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        b = bench(refused, PeerSpec("app", listener.getsockname()))
        worker = Upstream(b.spec, b.table)
        assert {worker.pick((), 1.0), worker.pick((), 1.0)} == set(worker.peers)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                child = Checker(b.table, [b.spec], b.log)
                child.add(CheckSpec("u", "tcp", fall=3, interval=0.005))
                while b.table.is_up(0, False):
                    child.step(0.05)
                os.write(writer, b"x")
                status = 0
            finally:
                os._exit(status)
        assert os.read(reader, 1) == b"x"
        assert {worker.pick((), 1.0) for _ in range(4)} == {worker.peers[1]}
        assert os.waitpid(pid, 0)[1] == 0
        os.close(reader)
        os.close(writer)
    assert b.table.checker_pid == pid


@pytest.mark.parametrize("dialect", [PLUS, RESTY])
def test_a_peer_that_joins_is_probed_and_one_that_leaves_is_not(origin: Origins, bench: Benches, dialect: str) -> None:
    one, two = origin(), origin()
    b = bench(one.spec)
    b.check(dialect=dialect)
    worker = Upstream(b.spec, b.table)
    b.until(lambda: len(one.requests) > 1)
    member = b.checker.add_peer("u", two.spec)
    assert [peer.name for peer in worker.primary] == [one.spec.name, two.spec.name]
    b.until(lambda: b.table.checks(member.row)[0].passes > 2)
    passes = b.table.checks(0)[0].passes
    b.checker.remove_peer(member.key)
    assert [peer.name for peer in worker.primary] == [one.spec.name]
    seen = len(two.requests)
    b.until(lambda: b.table.checks(0)[0].passes > passes + 5)
    assert len(two.requests) <= seen + 1  # what was under way
    assert [each.spec.name for each in b.checker.members("u")] == [one.spec.name]


@pytest.mark.parametrize("dialect", [PLUS, RESTY])
def test_a_peer_may_leave_while_it_is_probed(origin: Origins, bench: Benches, dialect: str) -> None:
    one, silent = origin(), origin(None)
    b = bench(silent.spec, one.spec)
    b.check(dialect=dialect, timeout=60.0)
    b.until(lambda: len(silent.requests) == 1)
    b.checker.remove_peer(b.key(0))
    passes = b.table.checks(1)[0].passes
    b.until(lambda: b.table.checks(1)[0].passes > passes + 3)
    again = b.checker.add_peer("u", one.spec)
    b.until(lambda: b.table.checks(again.row)[0].passes > 1)
    assert len(silent.requests) == 1


def test_who_leaves_after_its_turn_ends_no_cycle(origin: Origins, bench: Benches) -> None:
    one, silent = origin(), origin(None)
    b = bench(one.spec, silent.spec)
    b.check(dialect=RESTY, timeout=60.0, concurrency=2, interval=0.001)
    b.until(lambda: len(silent.requests) == 1 and b.table.checks(0)[0].passes == 1)
    b.checker.remove_peer(b.key(0))
    for _ in range(30):
        b.checker.step(0.01)
    assert (len(silent.requests), silent.resets, silent.ends) == (1, 0, 0)


def test_one_that_joins_begins_as_its_checks_say(origin: Origins, bench: Benches) -> None:
    one, two = origin(), origin()
    b = bench(one.spec)
    b.check(dialect=PLUS, initial="checking", rise=1)
    b.until(b.up)
    worker = Upstream(b.spec, b.table)
    member = b.checker.add_peer("u", two.spec)
    assert [peer.up for peer in worker.primary] == [True, False]
    b.until(lambda: b.up(member.row))
    assert [peer.up for peer in worker.primary] == [True, True]


def test_who_is_slow_and_probed_when_a_bound_is_first_needed_is_not_probed_twice(
    origin: Origins, bench: Benches
) -> None:
    silent = [origin(None) for _ in range(4)]
    b = bench(*(one.spec for one in silent))
    b.check(dialect=PLUS, timeout=0.05, concurrency=4)
    targets = b.checker._loop.targets
    b.until(lambda: all(b.table.checks(row)[0].fails for row in range(4)) and len(targets) == 4)
    assert all(target.slow and target.probing for target in targets.values())
    b.checker.add_peer("u", origin().spec)
    assert [gate.waiting for gate in b.checker._gates] == [0, 0]  # who waits is begun when there is a place
    b.until(lambda: all(b.table.checks(row)[0].fails > 3 for row in range(4)))


def test_a_peer_in_a_used_row_knows_nothing_of_the_one_before(origin: Origins, bench: Benches) -> None:
    one, two = origin(), origin()
    b = bench(one.spec)
    b.check(dialect=PLUS, fall=1)
    closed = b.checker.add_peer("u", PeerSpec("closed", ("127.0.0.1", 1)))
    b.until(lambda: not b.up(closed.row))
    b.checker.set_down(closed.key, True)
    b.checker.remove_peer(closed.key)
    member = b.checker.add_peer("u", two.spec)
    assert member.row == closed.row
    assert b.up(member.row)
    b.until(lambda: b.table.checks(member.row)[0].passes > 0)
    [state] = b.table.checks(member.row)
    assert state.fails == 0
    assert b.table.record(member.row, state.slot).kind == -1


def test_a_peer_switched_down_at_run_time_is_left_alone_until_it_is_not(origin: Origins, bench: Benches) -> None:
    one, two = origin(), origin()
    b = bench(one.spec, two.spec)
    b.check(dialect=PLUS)
    b.until(lambda: len(two.requests) > 1)
    key = b.key(1)
    b.checker.change_peer(key, down=True)
    assert not b.table.is_up(1, True)
    seen, passes = len(two.requests), b.table.checks(0)[0].passes
    b.until(lambda: b.table.checks(0)[0].passes > passes + 5)
    assert len(two.requests) <= seen + 1
    b.checker.change_peer(key, down=False)
    b.until(lambda: len(two.requests) > seen + 3)
    assert b.up(1)


def test_the_next_checker_probes_who_belongs_there_now(origin: Origins, bench: Benches) -> None:
    one, two, three = origin(), origin(), origin()
    b = bench(one.spec, two.spec)
    spec = b.check(dialect=PLUS)
    member = b.checker.add_peer("u", three.spec)
    b.checker.remove_peer(b.key(0))
    b.checker.close()
    b.checker = Checker(b.table, [b.spec], b.log, b.clock)
    b.checker.add(spec)
    seen = len(one.requests)
    b.until(lambda: len(two.requests) > 1 and b.table.checks(member.row)[0].passes > 1)
    assert len(one.requests) <= seen + 1


def test_members_that_cannot_be_are_refused(origin: Origins, bench: Benches) -> None:
    b = bench(origin().spec)
    b.check()
    for number in range(4):
        b.checker.add_peer("u", PeerSpec(f"p{number}", ("127.0.0.1", 1)))
    with pytest.raises(ValueError, match="no room"):
        b.checker.add_peer("u", PeerSpec("p", ("127.0.0.1", 1)))
    with pytest.raises(ValueError, match="no upstream"):
        b.checker.add_peer("w", PeerSpec("p", ("127.0.0.1", 1)))
    with pytest.raises(ValueError, match="no backup peer"):
        b.checker.remove_peer(b.key(0)._replace(role="backup"))
    with pytest.raises(ValueError, match="another"):
        b.checker.change_peer(b.key(0), backup=True)


def _ok(content: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)


def test_answers_of_all_lengths_are_read_whole_after_a_usual_one(origin: Origins, bench: Benches) -> None:
    """What is read at once is measured by the last answer: a longer one, by a byte or by many, is no other answer for
    that, and its connection is kept."""
    one = origin(_ok(b"ok"))
    one.keep = True
    b = bench(one.spec)
    b.check(dialect=PLUS, request=b"", keepalive_time=3600.0, fall=1, interval=0.005, statuses=(), timeout=LIMIT)
    for content in (b"ok", b"okay", b"oka", b"", b"x" * 7000, b"ok", b"y" * 8000, b"z" * 20000, b"ok"):
        one.answer = _ok(content)
        passes = b.table.checks(0)[0].passes
        b.until(lambda passes=passes: b.table.checks(0)[0].passes > passes + 2)  # type: ignore[misc]  # bound at once
    assert (b.table.checks(0)[0].fails, one.most, one.ends) == (0, 1, 0)


def test_a_longer_answer_before_a_reset_is_heard_before_the_reset(bench: Benches) -> None:
    """The second part of one reading ends in an error: what came before it counts, as in two readings."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        b = bench(PeerSpec("127.0.0.1:1", listener.getsockname()))
        b.check(dialect=PLUS, request=b"", statuses=(), keepalive_time=3600.0, fall=1, interval=0.02, timeout=LIMIT)
        listener.settimeout(LIMIT)
        b.until(lambda: bool(select.select([listener], [], [], 0)[0]))
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(LIMIT)
            for content, passes in ((b"ok", 1), (b"ok", 2)):
                b.until(lambda: bool(select.select([peer], [], [], 0)[0]))
                peer.recv(1000)
                peer.sendall(_ok(content))
                b.until(lambda passes=passes: b.table.checks(0)[0].passes == passes)  # type: ignore[misc]  # bound at once
            b.until(lambda: bool(select.select([peer], [], [], 0)[0]))
            peer.recv(1000)
            # A head without its end, longer than the usual answer, and then the reset.
            peer.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        b.until(lambda: b.table.checks(0)[0].fails == 1)
        assert "reset" in b.table.record(0, 0).why
