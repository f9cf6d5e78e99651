"""Who is told of transitions: real HTTP servers, commands and functions, and what becomes of it when they fail."""

from __future__ import annotations

import errno
import json
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.check.probing import LIMIT, Probing
from upwell.check import checker, notify
from upwell.check.functions import Call
from upwell.check.listener import Turn
from upwell.check.notify import Channel, Command, Function, NotDelivered, Notifier, Webhook
from upwell.check.spec import PLUS, CheckSpec, NotifySpec
from upwell.log import INFO, ErrorLog
from upwell.peers.peer import PeerSpec
from upwell.version import VERSION

SPEC = CheckSpec("u", "tcp", dialect=PLUS, label="is it there")
DOCUMENT = {name: f"the {name}" for name in ("upstream", "peer", "check", "from", "to", "why", "at")}


def wait(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


class Hook:
    """A webhook: answers with each of `statuses` in turn, the last one for ever; None: it says nothing."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.statuses: list[int | None] = [204]
        self.got: list[dict[str, Any]] = []
        self.heads: list[tuple[str, dict[str, str]]] = []
        self.gate = threading.Event()
        self.head = b""
        hook = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                hook.heads.append((self.path, dict(self.headers)))
                hook.got.append(json.loads(content))
                status = hook.statuses.pop(0) if len(hook.statuses) > 1 else hook.statuses[0]
                if status is None:
                    hook.gate.wait(LIMIT)
                    return
                self.wfile.write(hook.head)
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                hook.heads.append((self.path, {}))

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
            self._server.handle_error = lambda *args: None  # type: ignore[method-assign]  # a refused handshake is wanted
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def url(self, rest: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{rest}"

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    one = Hook()
    yield one
    one.close()


class Origin:
    """A port that can be there and not be there, and stays ours."""

    def __init__(self) -> None:
        self._sock = socket.socket()
        self._sock.bind(("127.0.0.1", 0))
        host, port = self._sock.getsockname()
        self.peer = PeerSpec(f"{host}:{port}", (host, port))

    def up(self) -> None:
        self._sock.listen(1024)

    def down(self) -> None:
        # The address goes on to be taken, by its successor.
        fresh = socket.socket()
        for sock in (self._sock, fresh):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.close()
        fresh.bind(self.peer.address)
        self._sock = fresh

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def origin() -> Iterator[Origin]:
    one = Origin()
    yield one
    one.close()


def _here(lookup: Callable[..., Any]) -> Callable[..., Any]:
    """A name service that has every name at this machine."""
    return lambda host, *rest, **more: lookup("127.0.0.1", *rest, **more)


Make = Callable[..., Probing]


@pytest.fixture
def probing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(checker, "GRACE", LIMIT)  # for a machine that is busy
    made: list[Probing] = []

    def make(peer: PeerSpec, *specs: NotifySpec, upstream: str = "u") -> Probing:
        path = tmp_path / f"error{len(made)}.log"
        made.append(Probing(path, peer, listeners=lambda log: (Notifier({upstream: specs}, log),)))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Spoken:
    """A channel, and what it says to the log."""

    def __init__(self, **settings: Any) -> None:
        self.said: list[str] = []
        self.spec = NotifySpec(**settings)
        self.channel = Channel(self.spec, lambda level, text: self.said.append(text))

    def turn(self, up: bool, peer: str = "p", at: int = 5000, since: int = 2000, why: str = "refused") -> None:
        turn = Turn(("u", "primary", peer, 0), SPEC, 1, up, "", "" if up else why, at, since)
        self.channel.put(turn, 1000.0 + at / 1000)

    def end(self, grace: float = LIMIT) -> None:
        self.channel.end(time.monotonic() + grace)
        self.channel.join()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_FIRST_PAUSE", 0.001)


def test_a_webhook_is_told_of_both_transitions(probing: Make, hook: Hook, origin: Origin) -> None:
    origin.up()
    p = probing(origin.peer, NotifySpec(url=hook.url("/a?token=1")))
    p.check(type="tcp", label="port")
    assert p.why() == ""
    origin.down()
    p.until(lambda: len(hook.got) == 1)
    origin.up()
    p.until(lambda: len(hook.got) == 2)
    down, up = hook.got
    assert down["id"] != up["id"]
    for one in hook.got:
        one.pop("id")
    first = datetime.fromisoformat(down.pop("at"))
    second = datetime.fromisoformat(up.pop("at"))
    assert abs(first.timestamp() - time.time()) < LIMIT
    # The state before the second began with the first.
    assert abs((datetime.fromisoformat(up.pop("since")) - first).total_seconds()) < 0.1
    assert second >= first
    common = {"upstream": "u", "peer": origin.peer.name, "role": "primary", "check": "port"}
    common |= {"node": socket.gethostname(), "upwell": VERSION}
    assert down == common | {"from": "up", "to": "down", "why": "connection refused", "since": None}
    assert up == common | {"from": "down", "to": "up", "why": ""}
    path, head = hook.heads[0]
    assert path == "/a?token=1"
    assert head["Host"] == f"127.0.0.1:{hook.port}"
    assert head["Content-Type"] == "application/json"
    assert head["User-Agent"] == f"upwell/{VERSION} (health check)"
    assert "Authorization" not in head


def test_others_peers_are_not_told_of(probing: Make, hook: Hook, origin: Origin) -> None:
    p = probing(origin.peer, NotifySpec(url=hook.url()), upstream="other")
    p.check(type="tcp")
    assert p.why() == "connection refused"
    assert not p.up()
    p.checker.close()
    assert hook.got == []
    p.checker = p.make()


def test_a_silent_webhook_delays_no_probe(probing: Make, hook: Hook, origin: Origin) -> None:
    hook.statuses = [None]
    p = probing(origin.peer, NotifySpec(url=hook.url(), timeout=LIMIT))
    p.check(type="tcp", interval=0.001)
    p.until(lambda: len(hook.got) == 1)
    before = p.state().fails
    p.until(lambda: p.state().fails > before + 100)
    assert len(hook.got) == 1


def test_what_fails_is_tried_again_and_told_once(hook: Hook, fast: None) -> None:
    hook.statuses = [500, 429, 503, 204]
    one = Spoken(url=hook.url(), retries=3)
    one.turn(up=False)
    wait(lambda: len(hook.got) == 4)
    one.end()
    assert len({json.dumps(got) for got in hook.got}) == 1
    assert one.said == []


def test_a_target_is_asked_as_it_is_written(hook: Hook) -> None:
    target = "/a%20room/%d?to=b%2Fc&rate=100%25"
    one = Spoken(url=hook.url(target))
    one.turn(up=False)
    wait(lambda: len(hook.got) == 1)
    one.end()
    assert hook.heads[0][0] == target
    assert one.said == []


def test_retries_come_to_an_end_and_the_log_has_a_line_for_each_episode(hook: Hook, fast: None) -> None:
    hook.statuses = [500]
    one = Spoken(url=hook.url("/p?secret=1").replace("//", "//me:secret@"), retries=2)
    for peer in ("a", "b"):
        one.turn(up=False, peer=peer)
    wait(lambda: len(hook.got) == 6)
    assert [got["peer"] for got in hook.got] == ["a"] * 3 + ["b"] * 3
    wait(lambda: len(one.said) == 1)
    hook.statuses = [200]
    one.turn(up=False, peer="c")
    wait(lambda: len(one.said) == 2)
    one.turn(up=True, peer="c")
    wait(lambda: len(hook.got) == 8)
    one.end()
    title = f"health_check_notify http://127.0.0.1:{hook.port}/..."
    assert one.said == [f"{title}: not delivered: status 500", f"{title}: delivers again, 2 are lost"]
    assert "secret" not in repr(one.channel) + repr(one.spec)
    assert hook.heads[0][1]["Authorization"] == "Basic bWU6c2VjcmV0"


@pytest.mark.parametrize(("status", "words"), [(301, "status 301"), (307, "status 307"), (404, "status 404")])
def test_what_would_be_the_same_again_is_not_tried_again(hook: Hook, fast: None, status: int, words: str) -> None:
    """And a redirect is not followed."""
    hook.statuses = [status]
    one = Spoken(url=hook.url(), retries=5)
    one.turn(up=False)
    wait(lambda: len(one.said) == 1)
    one.end()
    assert one.said[0].endswith(f": not delivered: {words}")
    assert [path for path, _ in hook.heads] == ["/hook"]


def test_an_interim_answer_is_none(hook: Hook) -> None:
    hook.head = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    Webhook(hook.url())(DOCUMENT, LIMIT)
    hook.statuses = [500]
    with pytest.raises(NotDelivered, match="status 500"):
        Webhook(hook.url())(DOCUMENT, LIMIT)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "connection closed without an answer"),
        (b"SSH-2.0-x\r\n", "no HTTP"),
        (b"HTTP/1.1 2", "no HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "connection closed without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nabc", ""),
    ],
)
def test_what_is_no_answer(answer: bytes, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                data = b""
                while b'"}' not in data:
                    data += sock.recv(65536)
                sock.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        call = Webhook(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        if words:
            with pytest.raises(NotDelivered, match=words):
                call(DOCUMENT, LIMIT)
        else:
            call(DOCUMENT, LIMIT)
        thread.join()


def test_a_webhook_that_drips_is_left_when_the_time_is_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                while not over.wait(0.002):
                    try:
                        sock.send(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(NotDelivered, match=r"timeout after 0\.05 s"):
            Webhook(f"http://127.0.0.1:{listener.getsockname()[1]}/")(DOCUMENT, 0.05)
        over.set()
        thread.join()


def test_a_webhook_that_is_not_there(origin: Origin) -> None:
    address = origin.peer.address
    with pytest.raises(NotDelivered, match="connection refused") as caught:
        Webhook(f"http://{address[0]}:{address[1]}/")(DOCUMENT, LIMIT)
    assert not caught.value.final
    with pytest.raises(NotDelivered, match="UnicodeE") as caught:
        Webhook(f"http://{'x' * 64}.test/")(DOCUMENT, LIMIT)
    assert caught.value.final


def test_https_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(__file__).parent / "tls"
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "test-only.pem", folder / "test-only.key")
    one = Hook(tls)
    monkeypatch.setattr(socket, "getaddrinfo", _here(socket.getaddrinfo))
    try:
        with pytest.raises(NotDelivered, match="certificate not trusted: "):
            Webhook(f"https://app.test:{one.port}/")(DOCUMENT, LIMIT)
        monkeypatch.setenv("SSL_CERT_FILE", str(folder / "test-only.pem"))
        with pytest.raises(NotDelivered, match="certificate not trusted: "):
            Webhook(f"https://other.test:{one.port}/")(DOCUMENT, LIMIT)
        assert one.got == []
        Webhook(f"https://app.test:{one.port}/")(DOCUMENT, LIMIT)
        assert one.got == [DOCUMENT]
    finally:
        one.close()


def test_flapping_is_told_as_what_came_of_it(hook: Hook) -> None:
    one = Spoken(url=hook.url(), debounce=1000.0)
    one.turn(up=False, peer="back", at=3000)
    one.turn(up=False, peer="gone", at=3000, since=1000, why="first")
    one.turn(up=True, peer="back", at=4000, since=3000)
    one.turn(up=True, peer="gone", at=4000, since=3000)
    one.turn(up=False, peer="gone", at=5000, since=4000, why="last")
    one.turn(up=True, peer="other", at=6000)
    assert hook.got == []
    one.end()
    assert [(got["peer"], got["from"], got["to"], got["why"]) for got in hook.got] == [
        ("gone", "up", "down", "last"),
        ("other", "down", "up", ""),
    ]
    # From the state that was told last to the one that came of it.
    assert (hook.got[0]["since"], hook.got[0]["at"]) == ("1970-01-01T00:16:41.000Z", "1970-01-01T00:16:45.000Z")
    assert one.said == []


def test_flapping_for_ever_is_told_of_too(hook: Hook) -> None:
    """The time of holding back begins with the first transition, and not with each."""
    one = Spoken(url=hook.url(), debounce=0.05)
    limit = time.monotonic() + LIMIT
    while not hook.got:
        assert time.monotonic() < limit
        one.turn(up=False)
        time.sleep(0.01)
        one.turn(up=True)
    assert hook.got[0]["to"] == "down"
    one.end()


def test_the_time_of_holding_back_comes_to_an_end(hook: Hook) -> None:
    one = Spoken(url=hook.url(), debounce=0.01)
    one.turn(up=False)
    wait(lambda: len(hook.got) == 1)
    one.turn(up=True)
    wait(lambda: len(hook.got) == 2)
    one.end()


def test_of_too_many_the_oldest_are_dropped(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "WAITING", 3)
    hook.statuses = [None, 204]
    one = Spoken(url=hook.url(), timeout=LIMIT)
    one.turn(up=False, peer="held")
    wait(lambda: len(hook.got) == 1)
    for number in range(6):
        one.turn(up=False, peer=str(number))
    assert one.said == [
        f"{'health_check_notify ' + one.spec.title}: more than 3 transitions wait, the oldest are dropped"
    ]
    hook.gate.set()
    wait(lambda: len(hook.got) == 4)
    one.end()
    assert [got["peer"] for got in hook.got] == ["held", "3", "4", "5"]


def test_the_end_has_patience_but_not_for_long(hook: Hook) -> None:
    hook.statuses = [None]
    one = Spoken(url=hook.url(), timeout=1000.0, retries=100)
    one.turn(up=False)
    wait(lambda: len(hook.got) == 1)
    one.turn(up=True)
    one.end(grace=0.05)
    assert one.said[-1].endswith("2 transitions could not be told before the end")


def test_a_checker_that_ends_tells_what_it_held_back(probing: Make, hook: Hook, origin: Origin) -> None:
    p = probing(origin.peer, NotifySpec(url=hook.url(), debounce=1000.0))
    p.check(type="tcp")
    assert p.why() == "connection refused"
    assert hook.got == []
    p.checker.close()
    assert [got["to"] for got in hook.got] == ["down"]
    p.checker = p.make()


def test_no_descriptor_and_no_thread_is_left(probing: Make, hook: Hook, origin: Origin) -> None:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    p = probing(origin.peer, NotifySpec(url=hook.url()), NotifySpec(command=("/bin/true",)))
    p.check(type="tcp")
    p.until(lambda: len(hook.got) == 1)
    p.checker.close()
    wait(lambda: threading.active_count() == before[0])
    wait(lambda: len(os.listdir("/proc/self/fd")) <= before[1] + 1)  # its log
    p.checker = p.make()


def test_one_target_of_two_upstreams_is_one(hook: Hook, tmp_path: Path) -> None:
    log = ErrorLog(str(tmp_path / "log"), INFO)
    log.open()
    spec = NotifySpec(url=hook.url())
    notifier = Notifier({"a": (spec, spec), "b": (NotifySpec(url=hook.url()),)}, log)
    for upstream in ("a", "b", "c"):
        notifier.turned(Turn((upstream, "primary", "p", 0), SPEC, 1, True, "", "", 1, 0))
    notifier.end(time.monotonic() + LIMIT)
    notifier.close()
    os.close(log.fd)
    assert [got["upstream"] for got in hook.got] == ["a", "b"]


def script(folder: Path, text: str) -> str:
    path = folder / "notify"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the checker")
    told = tmp_path / "told"
    path = script(tmp_path, f'cat > {told}; echo "$@" $UPWELL_PEER $UPWELL_TO "$UPWELL_WHY" "$SECRET." >> {told}')
    Command((path, "a b", "c"))(DOCUMENT, LIMIT)
    document, arguments = told.read_text().splitlines()
    assert json.loads(document) == DOCUMENT
    assert arguments == "a b c the peer the to the why ."


@pytest.mark.parametrize(
    ("text", "words"),
    [("exit 3", "exit 3"), ("kill -KILL $$", "killed by signal 9"), ("exec sleep 1000", "timeout after 0.1 s")],
)
def test_a_command_that_fails(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(NotDelivered, match=words):
        Command((script(tmp_path, text),))(DOCUMENT, 0.1 if "sleep" in text else LIMIT)


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotDelivered, match="cannot run /no/such: FileNotFoundError"):
        Command(("/no/such",))(DOCUMENT, LIMIT)


def test_a_command_s_children_end_with_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(NotDelivered, match="timeout"):
        Command((script(tmp_path, f"sleep 1000 & echo $! > {pids}; wait"),))(DOCUMENT, 0.5)
    pid = int(pids.read_text())
    wait(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text())


@pytest.fixture
def module() -> Iterator[ModuleType]:
    made = ModuleType("upwell_notified_of_a_test")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


def test_a_function_is_told(module: ModuleType) -> None:
    told: list[Mapping[str, object]] = []

    async def later(document: Mapping[str, object]) -> None:
        told.append(document)

    module.now = told.append  # type: ignore[attr-defined]  # that is the point
    module.later = later  # type: ignore[attr-defined]
    Function(f"{module.__name__}:now")(DOCUMENT, LIMIT)
    Function(f"{module.__name__}:later")(DOCUMENT, LIMIT)
    assert told == [DOCUMENT, DOCUMENT]


def test_whatever_goes_wrong_with_one_the_next_is_told(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Mapping[str, object]] = []
    module.now = told.append  # type: ignore[attr-defined]  # that is the point
    one = Spoken(function=f"{module.__name__}:now")

    def refuse(value: int, flags: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as lacking:
        lacking.setattr(os, "eventfd", refuse)
        one.turn(up=False, peer="a")
        wait(lambda: len(one.said) == 1)
    one.turn(up=False, peer="b")
    wait(lambda: len(told) == 1)
    one.end()
    assert one.said[0].endswith("not delivered: OSError: [Errno 24] Too many open files")


def test_a_function_that_fails(module: ModuleType) -> None:
    gate = threading.Event()

    def fail(document: object) -> None:
        raise ValueError("no such room")

    module.fail = fail  # type: ignore[attr-defined]
    module.hang = lambda document: gate.wait(LIMIT)  # type: ignore[attr-defined]
    with pytest.raises(NotDelivered, match="ValueError: no such room"):
        Function(f"{module.__name__}:fail")(DOCUMENT, LIMIT)
    hang = Function(f"{module.__name__}:hang")
    with pytest.raises(NotDelivered, match=r"timeout after 0\.01 s"):
        hang(DOCUMENT, 0.01)
    with pytest.raises(NotDelivered, match="an earlier call is still running"):
        hang(DOCUMENT, LIMIT)
    gate.set()
    wait(lambda: _delivers(hang))
    with pytest.raises(NotDelivered, match=r"cannot import upwell\.nosuch") as caught:
        Function("upwell.nosuch:f")(DOCUMENT, LIMIT)
    assert caught.value.final


def test_a_function_that_blocks_its_event_loop_holds_up_no_probe(module: ModuleType) -> None:
    gate = threading.Event()
    over = threading.Event()

    async def hang(document: object) -> None:
        gate.wait(LIMIT)

    async def good(document: object) -> None:
        over.set()

    module.hang = hang  # type: ignore[attr-defined]
    module.good = good  # type: ignore[attr-defined]
    with pytest.raises(NotDelivered, match=r"timeout after 0\.01 s"):
        Function(f"{module.__name__}:hang")(DOCUMENT, 0.01)
    Function(f"{module.__name__}:good")(DOCUMENT, LIMIT)
    assert over.is_set()
    # Even a probe's function of the same name has a loop of its own.
    over.clear()
    fd = os.eventfd(0)
    Call(good, None, fd, f"{module.__name__}:hang").start()
    assert over.wait(LIMIT / 2)
    gate.set()
    os.eventfd_read(fd)
    os.close(fd)


def _delivers(function: Function) -> bool:
    try:
        function(DOCUMENT, LIMIT)
    except NotDelivered:
        return False
    return True
