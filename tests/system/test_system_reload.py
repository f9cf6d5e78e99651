"""A reload in real processes: orders that come in the middle of one, and what lives on through ten of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import Queue
from threading import Event
from typing import Any

import pytest

from tests.system.conftest import StartBalancer
from tests.system.orders import Orders
from tests.system.shop import BROKEN, Shop, await_line, await_takers, takers
from tests.system.wire import Client, Origin, Seen, ask, get, response
from upwell.contrib.processes import Balancer, await_condition, free_ports
from upwell.contrib.traffic import Traffic, fetch

_SECONDS = 60  # several generations may start at once
_COMMAND = (sys.executable, str(Path(__file__).with_name("ordered.py")))


class Town:
    """A balancer whose workers wait, before they serve, for as long as the file `hold` is there; `orders` has one that
    serves tell the checker something (ordered.py)."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        (self.front,) = free_ports(1)
        self.folder = folder
        self.orders = Orders(folder / "orders")
        self.hold = folder / "hold"
        self.stack = stack
        self._balancer: Balancer | None = None

    def text(self, members: str, policy: str = "health_check uri=/health interval=100ms;", workers: int = 2) -> str:
        return f"""
worker_processes {workers};
error_log logs/error.log info;
events {{ }}
http {{
    access_log off;
    init_worker_by_lua_block {{
        local function held()
            local file = io.open("{self.hold}")
            if file then file:close() end
            return file ~= nil
        end
        while held() do end
    }}
    upstream peers {{ zone peers 64k; {members} }}
    server {{
        listen 127.0.0.1:{self.front};
        location / {{
            proxy_pass http://peers;
            {policy}
        }}
        location = /upwell {{ upwell_status; status_format json; }}
    }}
}}
"""

    def start(self, text: str) -> Balancer:
        self._balancer = Balancer(self.folder / "prefix", text, [self.front], _COMMAND)
        return self.stack.enter_context(self._balancer)

    @property
    def balancer(self) -> Balancer:
        assert self._balancer is not None
        return self._balancer

    def shop(self, name: str, answer: bytes | None = None) -> Shop:
        return self.stack.enter_context(Shop(name) if answer is None else Shop(name, answer))

    def peers(self) -> dict[int, dict[str, Any]]:
        status, page = fetch(self.front, "/upwell")
        assert status == 200
        (upstream,) = json.loads(page)["upstreams"]
        return {int(peer["name"].rpartition(":")[2]): peer for peer in upstream["peers"]}

    def await_state(self, port: int, up: bool) -> None:
        await_condition(
            lambda: self.peers().get(port, {}).get("state") == ("up" if up else "down"), f"{port} is {up}", _SECONDS
        )

    def pids(self, count: int = 3) -> set[int]:
        """Its workers and its checker, once there are no more and no less."""
        await_condition(lambda: len(self.balancer.workers) == count, f"{count} children", _SECONDS)
        return set(self.balancer.workers)

    def reload(self) -> None:
        """HUP, and the end of all processes that were there."""
        old = set(self.balancer.workers)
        self.balancer.send(signal.SIGHUP)
        await_condition(lambda: not old & set(self.balancer.workers), "new processes", _SECONDS)


@pytest.fixture
def town(monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    # Not below tmp_path: another pytest that begins closes its folders to the workers' user.
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        os.chmod(folder, 0o755)
        monkeypatch.setenv("ORDERS", f"{folder}/orders")
        yield Town(Path(folder), stack)


def lines(*ports: int, parameters: str = "") -> str:
    return " ".join(f"server 127.0.0.1:{port}{parameters};" for port in ports)


@pytest.mark.parametrize("kept", [True, False], ids=["state", "server"])
def test_orders_in_the_middle_of_a_reload_are_not_lost(town: Town, kept: bool) -> None:
    """The new workers are still starting when all is ordered; only the old ones can have taken it."""
    one, two, three, four = (town.shop(name) for name in ("one", "two", "three", "four"))
    members = lines(one.port, two.port, four.port)
    if kept:
        file = town.folder / "prefix" / "peers.conf"
        file.parent.mkdir()
        file.write_text(members)
        if os.geteuid() == 0:
            os.chown(file.parent, 65534, -1)
        members = f"state {file};"
    text = town.text(members)
    town.start(text)
    town.pids()
    await_takers(town.front, {"one", "two", "four"})
    town.hold.touch()
    town.balancer.configure(text.replace("uri=/health", "uri=/health fails=2"))
    with Traffic(town.front, pause=0.002, keep=False) as traffic:
        town.balancer.send(signal.SIGHUP)
        town.pids(6)
        town.orders.give("remove_peer", one.port)
        town.orders.give("add_peer", three.port, weight=3)
        town.orders.give("change_peer", two.port, fields={"weight": 2})
        town.orders.give("set_down", four.port, value=True)
        await_takers(town.front, {"two", "three"})
        old = set(town.balancer.workers)
        town.hold.unlink()
        town.pids(3)
        assert town.pids(3) < old
        await_takers(town.front, {"two", "three"})
        await_condition(lambda: town.peers()[four.port]["state"] == "down", "the last order", _SECONDS)
    assert traffic.lost == []
    peers = town.peers()
    assert peers.keys() == {two.port, three.port, four.port}
    assert (peers[three.port]["weight"], peers[two.port]["weight"]) == (3, 2)
    assert peers[four.port]["state"] == "down"
    if kept:
        await_condition(
            lambda: f"127.0.0.1:{three.port} weight=3;" in file.read_text() and str(one.port) not in file.read_text(),
            "the list in the file",
            _SECONDS,
        )


def test_orders_of_old_workers_count_as_long_as_they_live(town: Town) -> None:
    """A worker with an answer under way outlives its generation, and the checker that heard it."""
    over = Event()

    def late(_seen: Seen, _connection: socket.socket) -> bytes:
        over.wait(_SECONDS)
        return response(b"late")

    origin = town.stack.enter_context(Origin(late))
    text = town.text(lines(origin.port), policy="", workers=1)
    town.start(text)
    town.pids(2)
    with Client(town.front) as client:
        client.send(get("/"))
        await_condition(lambda: bool(origin.seen), "the request at the origin", _SECONDS)
        before = set(town.balancer.workers)
        town.balancer.send(signal.SIGHUP)
        await_condition(lambda: len(before & set(town.balancer.workers)) == 1, "the end of the checker", _SECONDS)
        (old,) = before & set(town.balancer.workers)
        town.pids(3)
        ports: list[int] = []
        while not list(town.orders.folder.glob(f"*.{old}")):
            ports.append(20_000 + len(ports))
            town.orders.give("add_peer", ports[-1], down=True)
            await_condition(town.orders.taken, "somebody to take the order", _SECONDS)
        await_condition(lambda: town.peers().keys() == {origin.port, *ports}, "all of them", _SECONDS)
        over.set()
        assert client.answer().body == b"late"
    town.pids(2)
    await_condition(lambda: town.peers().keys() == {origin.port, *ports}, "all of them at the end", _SECONDS)


def test_orders_and_reloads_at_once(town: Town) -> None:
    """Orders come whenever they please while one reload follows another."""
    file = town.folder / "prefix" / "lists" / "peers.conf"
    one = town.shop("one")
    file.parent.mkdir(parents=True)
    file.write_text(lines(one.port))
    for path in (file.parent, file):
        if os.geteuid() == 0:
            os.chown(path, 65534, -1)
    town.start(town.text(f"state {file};", workers=1))
    town.pids(2)
    ports = [20_000 + number for number in range(40)]
    with Traffic(town.front, pause=0.002, keep=False) as traffic:
        for number, port in enumerate(ports):
            if number % 10 == 0:
                town.balancer.send(signal.SIGHUP)
            town.orders.give("add_peer", port, down=True)
            if number % 2:
                await_condition(town.orders.taken, "somebody to take the orders", _SECONDS)
        await_condition(lambda: town.peers().keys() == {one.port, *ports}, "all of them", _SECONDS)
        town.pids(2)
        # What came last is said to a checker that may still be starting.
        await_condition(lambda: town.peers().keys() == {one.port, *ports}, "all of them at the end", _SECONDS)
        expected = {lines(one.port), *(lines(port, parameters=" down") for port in ports)}
        await_condition(lambda: set(file.read_text().splitlines()) == expected, "the list in the file", _SECONDS)
    assert traffic.lost == []
    assert "[error]" not in town.balancer.error_log()


IN_PLACE = "reconfigured in place, without new workers: "


def _change(town: Town, text: str, words: str) -> None:
    """HUP with another configuration, of which the log says `words`."""

    def said() -> list[str]:
        return [line for line in town.balancer.error_log().splitlines() if IN_PLACE in line]

    before = len(said())
    town.balancer.configure(text)
    town.balancer.send(signal.SIGHUP)
    await_condition(lambda: len(said()) == before + 1, "a reload in place", _SECONDS)
    assert said()[-1].endswith(f"{IN_PLACE}{words}")


def test_members_change_in_place(town: Town) -> None:
    """Nobody is started anew, no connection ends, what is known of others stays, and who comes is probed at once."""
    one, two, ill = town.shop("one"), town.shop("two"), town.shop("ill", BROKEN)
    text = town.text(lines(one.port, ill.port), "health_check uri=/health interval=200ms mandatory;")
    town.start(text)
    pids = town.pids()
    town.await_state(ill.port, False)
    town.await_state(one.port, True)
    before = town.peers()
    with Client(town.front) as client, Traffic(town.front, pause=0.001) as traffic:
        assert client.ask(get("/")).body == b"one"
        _change(
            town,
            text.replace(lines(one.port), lines(one.port, parameters=" weight=3 max_conns=50") + lines(two.port)),
            'peers of "peers" (1 joined, 1 changed)',
        )
        town.await_state(two.port, True)
        await_takers(town.front, {"one", "two"})
        after = town.peers()
        for port in (one.port, ill.port):
            for field in ("state", "since", "changes"):
                assert after[port][field] == before[port][field]
        assert after[one.port]["weight"] == 3
        _change(town, text.replace(lines(one.port), lines(two.port)), 'peers of "peers" (1 left)')
        await_takers(town.front, {"two"})
        _change(town, text.replace(lines(one.port), lines(two.port, one.port)), 'peers of "peers" (1 joined)')
        town.await_state(one.port, True)
        down = lines(two.port, parameters=" down") + lines(one.port)
        _change(town, text.replace(lines(one.port), down), 'peers of "peers" (1 changed)')
        await_takers(town.front, {"one"})
        assert client.ask(get("/")).body == b"one"
    assert traffic.lost == []
    assert not traffic.answered.keys() - {"one", "two"}
    assert town.pids() == pids
    # A worker and a checker that start now have the same list, and so has whoever reloads in full.
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await_condition(lambda: not pids & set(town.balancer.workers), "new processes", _SECONDS)
    town.pids()
    assert town.peers().keys() == {one.port, two.port, ill.port}
    await_takers(town.front, {"one"})
    since = town.peers()[ill.port]["since"]
    town.reload()  # nothing is another than it was: whoever asks for new workers has them
    assert town.peers().keys() == {one.port, two.port, ill.port}
    assert town.peers()[ill.port]["since"] == since
    assert takers(town.front) == {"one"}


@pytest.mark.parametrize(
    "broken", ["server 127.0.0.1 weight=a;", "server 127.0.0.1:1; }", "server no-such-name.invalid;"]
)
def test_a_broken_list_changes_nothing(town: Town, broken: str) -> None:
    one = town.shop("one")
    text = town.text(lines(one.port))
    town.start(text)
    pids = town.pids()
    town.balancer.configure(text.replace(lines(one.port), broken))
    town.balancer.send(signal.SIGHUP)
    await_line(town.balancer, "[emerg]")
    assert takers(town.front) == {"one"}
    assert town.pids() == pids
    assert IN_PLACE not in town.balancer.error_log()
    _change(town, text.replace(lines(one.port), lines(one.port, 1)), 'peers of "peers" (1 joined)')


def test_members_of_a_configuration_that_is_past_do_not_come_back(town: Town) -> None:
    """A checker that hangs had not done yet what the configuration before the last one says."""
    one, two = town.shop("one"), town.shop("two")
    text = town.text(lines(one.port))
    town.start(text)
    old = town.pids()
    await_takers(town.front, {"one"})

    def checkers() -> list[int]:
        return [pid for pid in old if Path(f"/proc/{pid}/comm").read_text().startswith("upwell: checker")]

    await_condition(lambda: bool(checkers()), "a checker", _SECONDS)
    os.kill(checkers()[0], signal.SIGSTOP)
    _change(town, text.replace(lines(one.port), lines(one.port, two.port)), 'peers of "peers" (1 joined)')
    town.balancer.configure(text.replace("interval=100ms", "interval=150ms"))
    town.reload()
    town.orders.give("change_peer", one.port, fields={"weight": 7})  # when it is heard, so is what was said before
    await_condition(lambda: town.peers()[one.port]["weight"] == 7, "the order", _SECONDS)
    assert town.peers().keys() == {one.port}


@pytest.mark.parametrize("what", ["setting", "line", "log", "module", "data"])
def test_what_more_than_members_needs_new_workers(town: Town, what: str) -> None:
    one, two = town.shop("one"), town.shop("two")
    module = town.folder / "ours.lua"
    module.write_text("return 1")
    text = town.text(lines(one.port))
    text = text.replace("http {", f'http {{ lua_package_path "{town.folder}/?.lua;;";')
    data = town.folder / "ours.txt"
    data.write_text("1")
    text = text.replace("local function held", f'require("ours") io.open("{data}"):close() local function held')
    town.start(text)
    old = town.pids()
    _change(town, text.replace(lines(one.port), lines(one.port, two.port)), 'peers of "peers" (1 joined)')
    await_takers(town.front, {"one", "two"})
    assert town.pids() == old
    # Now what the members change by comes with something else.
    if what == "setting":
        text = text.replace("interval=100ms", "interval=150ms")
    elif what == "line":
        text = text.replace("upstream peers {", "resolver 127.0.0.1; upstream peers { server localhost resolve;")
    elif what == "log":
        log = town.balancer.prefix / "logs" / "error.log"
        log.rename(log.with_suffix(".1"))
    elif what == "data":
        data.write_text("22")
    else:
        module.write_text("return 2 + 2")
    town.balancer.configure(text)
    town.reload()
    town.pids()
    await_takers(town.front, {"one"})


def test_stream_and_http_change_at_once(town: Town) -> None:
    one, two = town.shop("one"), town.shop("two")
    (port,) = free_ports(1)
    server = f"server {{ listen 127.0.0.1:{port}; proxy_pass peers; }}"
    stream = f"stream {{ upstream peers {{ {lines(one.port)} }} {server} }}"
    text = town.text(lines(one.port), policy="") + stream
    town.start(text)
    pids = town.pids()
    await_takers(town.front, {"one"})
    _change(
        town,
        text.replace(lines(one.port), lines(two.port)),
        'peers of "peers" (1 joined, 1 left), "stream/peers" (1 joined, 1 left)',
    )
    await_takers(town.front, {"two"})
    await_takers(port, {"two"})
    assert town.pids() == pids


class Slow:
    """A backend with answers that last as long as the test wants: `/long` and `/events` go on with what is put into
    their queue, up to None; `/tunnel` speaks a protocol that repeats; uploads are answered with their length."""

    def __init__(self) -> None:
        self.parts: dict[bytes, Queue[bytes | None]] = {b"/long": Queue(), b"/events": Queue()}
        self.origin = Origin(self._respond)

    def _respond(self, seen: Seen, connection: socket.socket) -> bytes | None:
        if seen.target == b"/tunnel":
            connection.sendall(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: repeated\r\n\r\n")
            while data := connection.recv(100):
                connection.sendall(data)
            return None
        parts = self.parts.get(seen.target)
        if parts is None:
            return response(f"{len(seen.body)}".encode() if seen.body else b"one")
        length = b"Content-Length: 10\r\n" if seen.target == b"/long" else b"Content-Type: text/event-stream\r\n"
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + length + b"Connection: close\r\n\r\n")
        while part := parts.get():
            connection.sendall(part)
        return None


class Posts(threading.Thread):
    """Uploads, one after the other, until it is told to end."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.over = Event()
        self.answers: Counter[str] = Counter()

    def run(self) -> None:
        body = b"x" * 10_000
        head = b"POST /upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        while not self.over.wait(0.005):
            try:
                answer = ask(self.port, head % len(body) + body)
                self.answers[f"{answer.status} {answer.body.decode()}"] += 1
            except Exception as error:
                self.answers[repr(error)] += 1


def _long_lived(front: int, port: int, main: str = "") -> str:
    return f"""
worker_processes 1;
{main}
error_log logs/error.log notice;
events {{ }}
http {{
    access_log off;
    upstream app {{ zone app 64k; server 127.0.0.1:{port}; server 127.0.0.1:1 down; }}
    server {{
        listen 127.0.0.1:{front};
        location / {{ proxy_pass http://app; health_check uri=/health interval=200ms; }}
        location /events {{ proxy_pass http://app; proxy_buffering off; }}
        location /tunnel {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $http_connection;
        }}
        location = /upwell {{ upwell_status; status_format json; }}
    }}
}}
"""


def _until(client: Client, words: bytes) -> bytes:
    data = b""
    while words not in data:
        part = client.socket.recv(4096)
        assert part, data
        data += part
    return data


_TUNNEL = b"GET /tunnel HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: repeated\r\n\r\n"


def test_ten_reloads_under_load_lose_nothing_and_end_nothing(start: StartBalancer) -> None:
    """New requests go to new workers; a download, an upload, an event stream and a tunnel live through all of it in the
    first one."""
    (front,) = free_ports(1)
    slow = Slow()
    with ExitStack() as stack:
        stack.enter_context(slow.origin)
        balancer = start(_long_lived(front, slow.origin.port), [front])
        await_condition(lambda: ask(front, get("/")).body == b"one", "an answer", _SECONDS)
        download, upload, events, tunnel = (stack.enter_context(Client(front)) for _ in range(4))
        download.send(get("/long"))
        upload.send(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nx")
        events.send(get("/events"))
        tunnel.send(_TUNNEL)
        _until(tunnel, b"\r\n\r\n")
        slow.parts[b"/events"].put(b"data: begin\n\n")
        _until(events, b"data: begin\n\n")
        await_condition(lambda: len(balancer.workers) == 2, "worker and checker", _SECONDS)
        for _ in range(20):
            assert ask(front, get("/")).body == b"one"
        before = json.loads(fetch(front, "/upwell")[1])["upstreams"][0]["peers"][0]
        posts = Posts(front)
        first = set(balancer.workers)
        with Traffic(front, pause=0.002, keep=False) as traffic, Traffic(front, pause=0.002, keep=False) as other:
            posts.start()
            for number in range(10):
                old = set(balancer.workers) - first
                balancer.send(signal.SIGHUP)

                def switched(old: set[int] = old) -> bool:
                    now = set(balancer.workers)
                    return len(now) == 3 and len(now & first) == 1 and not now & old

                await_condition(switched, f"reload {number + 1}", _SECONDS)
                slow.parts[b"/long"].put(b"x")
                upload.send(b"x")
                slow.parts[b"/events"].put(b"data: %d\n\n" % number)
                _until(events, b"data: %d\n\n" % number)
                tunnel.send(b"ping")
                assert _until(tunnel, b"ping") == b"ping"
            posts.over.set()
            posts.join(_SECONDS)
        assert traffic.lost + other.lost == []
        assert traffic.answered.keys() == {"one"}
        assert posts.answers.keys() == {"200 10000"}
        (last,) = first & set(balancer.workers)
        assert download.answer().body == b"x" * 10
        assert upload.answer("POST").body == b"11"
        after = json.loads(fetch(front, "/upwell")[1])["upstreams"][0]["peers"][0]
        assert (after["state"], after["since"]) == (before["state"], before["since"])
        assert after["requests"] >= before["requests"]
        slow.parts[b"/events"].put(None)
        tunnel.socket.close()
        await_condition(lambda: last not in balancer.workers, "the end of the first worker", _SECONDS)


def test_after_worker_shutdown_timeout_nothing_lives_on(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    slow = Slow()
    with ExitStack() as stack:
        stack.enter_context(slow.origin)
        balancer = start(_long_lived(front, slow.origin.port, "worker_shutdown_timeout 500ms;"), [front])
        download, events, tunnel = (stack.enter_context(Client(front)) for _ in range(3))
        tunnel.send(_TUNNEL)
        _until(tunnel, b"\r\n\r\n")
        download.send(get("/long"))
        slow.parts[b"/long"].put(b"x")
        events.send(get("/events"))
        slow.parts[b"/events"].put(b"data: begin\n\n")
        _until(events, b"data: begin\n\n")
        _until(download, b"\r\n\r\nx")
        old = set(balancer.workers)
        balancer.send(signal.SIGHUP)
        for client in (download, events, tunnel):
            while client.socket.recv(4096):
                pass
        await_condition(lambda: not old & set(balancer.workers), "the end of the old processes", _SECONDS)
        assert ask(front, get("/")).body == b"one"
        for parts in slow.parts.values():
            parts.put(None)


def _words(front: int, size: str) -> str:
    return f"""
worker_processes 1;
error_log logs/error.log notice;
events {{ }}
http {{
    lua_shared_dict words {size};
    lua_shared_dict others 1m;
    server {{
        listen 127.0.0.1:{front};
        location = /size {{ return 200 {size}; }}
        location = /set {{
            content_by_lua_block {{
                ngx.shared.words:set("key", "known")
                ngx.shared.others:set("key", "known")
                ngx.print("set")
            }}
        }}
        location = /get {{
            content_by_lua_block {{
                ngx.print(tostring(ngx.shared.words:get("key")), " ", tostring(ngx.shared.others:get("key")))
            }}
        }}
    }}
}}
"""


def test_a_zone_of_another_size_begins_anew_and_so_does_one_that_comes_back(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    balancer = start(_words(front, "1m"), [front])
    assert ask(front, get("/set")).body == b"set"

    def reload() -> None:
        old = set(balancer.workers)
        balancer.send(signal.SIGHUP)
        await_condition(lambda: not old & set(balancer.workers), "the end of the old processes", _SECONDS)

    for size in ("2m", "1m"):
        balancer.configure(_words(front, size))
        reload()
        assert ask(front, get("/size")).body == size.encode()
        assert ask(front, get("/get")).body == b"nil known"
    assert ask(front, get("/set")).body == b"set"
    reload()
    assert ask(front, get("/get")).body == b"known known"
