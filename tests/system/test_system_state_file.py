"""`state` in real processes: what happens to a list of servers outlives reloads, kill -9 and the end of everything."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.system.orders import Orders
from tests.system.shop import BROKEN, Shop, await_line, await_takers, takers
from upwell.contrib.processes import Balancer, await_condition, children, free_ports, listens
from upwell.contrib.traffic import Traffic, fetch

_SECONDS = 20
_COMMAND = (sys.executable, str(Path(__file__).with_name("ordered.py")))


class City:
    """A balancer whose upstream keeps its list in a file, and shops that may belong to it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        (self.front,) = free_ports(1)
        self.orders = Orders(folder / "orders")
        self._stack = stack
        self.text = f"""
worker_processes 2;
error_log logs/error.log info;
events {{ }}
http {{
    access_log off;
    upstream peers {{ state lists/peers.conf; }}
    server {{
        listen 127.0.0.1:{self.front};
        location / {{
            proxy_pass http://peers;
            health_check uri=/health interval=100ms;
        }}
        location = /upwell {{ upwell_status; status_format json; }}
    }}
}}
"""
        self.balancer = stack.enter_context(Balancer(folder / "prefix", self.text, [self.front], _COMMAND))
        self.file = self.balancer.prefix / "lists" / "peers.conf"

    def shop(self, name: str, answer: bytes | None = None) -> Shop:
        return self._stack.enter_context(Shop(name) if answer is None else Shop(name, answer))

    def says(self, *lines: str) -> None:
        expected = "".join(f"server 127.0.0.1:{line};\n" for line in lines)
        await_condition(lambda: self.file.exists() and self.file.read_text() == expected, f"the list {lines}", _SECONDS)

    def peers(self) -> dict[int, dict[str, Any]]:
        status, page = fetch(self.front, "/upwell")
        assert status == 200
        (upstream,) = json.loads(page)["upstreams"]
        return {int(peer["name"].rpartition(":")[2]): peer for peer in upstream["peers"]}

    def await_state(self, port: int, up: bool) -> None:
        await_condition(
            lambda: self.peers().get(port, {}).get("state") == ("up" if up else "down"), f"{port} is {up}", _SECONDS
        )

    def checker(self) -> int:
        (pid,) = (
            int(line.rpartition(" ")[2])
            for line in self.balancer.error_log().splitlines()[::-1]
            if "start checker process" in line and int(line.rpartition(" ")[2]) in self.balancer.workers
        )
        return pid


@pytest.fixture
def city(monkeypatch: pytest.MonkeyPatch) -> Iterator[City]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    # Not below tmp_path: another pytest that begins closes its folders to the workers' user.
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        os.chmod(folder, 0o755)
        monkeypatch.setenv("ORDERS", f"{folder}/orders")
        yield City(Path(folder), stack)


def test_a_list_that_began_empty_outlives_everything(city: City) -> None:
    assert takers(city.front, requests=2) == {"502"}
    assert "no live upstreams" in city.balancer.error_log()
    one, two = city.shop("one"), city.shop("two")
    city.orders.give("add_peer", one.port, weight=2, max_fails=0, fail_timeout=7.0, route="r 1")
    city.orders.give("add_peer", two.port, max_conns=50, slow_start=0.0)
    await_takers(city.front, {"one", "two"})
    settings = 'weight=2 max_fails=0 fail_timeout=7s "route=r 1"'
    city.says(f"{one.port} {settings}", f"{two.port} max_conns=50")
    city.orders.give("change_peer", two.port, fields={"down": True})
    await_takers(city.front, {"one"})
    city.says(f"{one.port} {settings}", f"{two.port} max_conns=50 down")
    if os.geteuid() == 0:
        assert city.file.stat().st_uid == 65534
    family = [city.balancer.pid, *children(city.balancer.pid)]
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    city.balancer.wait()
    city.balancer.stop()
    await_condition(lambda: not listens(city.front), "the end of the workers", _SECONDS)
    city.balancer.start()
    await_takers(city.front, {"one"})
    assert {port: (peer["state"], peer["weight"]) for port, peer in city.peers().items()} == {
        one.port: ("up", 2),
        two.port: ("down", 1),
    }
    city.orders.give("change_peer", two.port, fields={"down": False})
    await_takers(city.front, {"one", "two"})
    city.says(f"{one.port} {settings}", f"{two.port} max_conns=50")
    city.orders.give("remove_peer", one.port)
    await_takers(city.front, {"two"})
    city.says(f"{two.port} max_conns=50")


def test_a_reload_keeps_members_health_and_requests(city: City) -> None:
    one, two, ill = city.shop("one"), city.shop("two"), city.shop("ill", BROKEN)
    city.orders.give("add_peer", one.port)
    city.orders.give("add_peer", ill.port)
    city.await_state(ill.port, False)
    before = city.peers()
    with Traffic(city.front, pause=0.001, keep=False) as traffic:
        await_condition(lambda: traffic.answered["one"] > 20, "traffic", _SECONDS)
        for number in range(3):
            old = set(city.balancer.workers)
            city.orders.give("add_peer", two.port, weight=number + 1)
            await_takers(city.front, {"one", "two"})
            # The file may be behind by now; the reload has to know all the same.
            city.balancer.send(signal.SIGHUP)
            await_condition(lambda old=old: not old & set(city.balancer.workers), "new processes", _SECONDS)  # type: ignore[misc]  # bound now
            assert set(city.peers()) == {one.port, two.port, ill.port}
            # Many, as the traffic has its turns too, and one comes up once in up to four.
            assert takers(city.front, requests=60) == {"one", "two"}
            city.says(f"{one.port}", f"{ill.port}", f"{two.port} weight={number + 1}".replace(" weight=1", ""))
            city.orders.give("remove_peer", two.port)
            await_takers(city.front, {"one"})
    assert traffic.lost == []
    assert not traffic.answered.keys() - {"one", "two"}
    city.says(f"{one.port}", f"{ill.port}")
    after = city.peers()
    for port in (one.port, ill.port):
        assert (after[port]["state"], after[port]["since"]) == (before[port]["state"], before[port]["since"])


def test_a_reload_long_after_a_change_keeps_health(city: City) -> None:
    one, ill = city.shop("one"), city.shop("ill", BROKEN)
    city.orders.give("add_peer", one.port)
    city.orders.give("add_peer", ill.port)
    city.await_state(ill.port, False)
    city.says(f"{one.port}", f"{ill.port}")
    before = city.peers()
    old = set(city.balancer.workers)
    city.balancer.send(signal.SIGHUP)
    await_condition(lambda: not old & set(city.balancer.workers), "new processes", _SECONDS)
    after = city.peers()
    for port in (one.port, ill.port):
        for field in ("state", "since", "changes"):
            assert after[port][field] == before[port][field]
    assert takers(city.front) == {"one"}


def test_a_list_changed_by_hand_counts_after_a_reload(city: City) -> None:
    one, two = city.shop("one"), city.shop("two")
    city.orders.give("add_peer", one.port)
    city.says(f"{one.port}")
    await_takers(city.front, {"one"})
    city.file.write_text(f"# by hand\nserver 127.0.0.1:{two.port};\n")
    old = set(city.balancer.workers)
    city.balancer.send(signal.SIGHUP)
    await_condition(lambda: not old & set(city.balancer.workers), "new processes", _SECONDS)
    assert takers(city.front) == {"two"}
    assert city.file.read_text().startswith("# by hand\n")


def test_a_bad_list_is_told_of_and_changes_nothing(city: City) -> None:
    one = city.shop("one")
    city.orders.give("add_peer", one.port)
    city.says(f"{one.port}")
    await_takers(city.front, {"one"})
    city.file.write_text(f"server 127.0.0.1:{one.port};\nserver 127.0.0.1 weight=a;\n")
    city.balancer.send(signal.SIGHUP)
    await_line(city.balancer, f'invalid parameter "weight=a" in {city.file}:2:18')
    assert takers(city.front) == {"one"}


def test_a_killed_checker_s_successor_writes_what_is_missing(city: City) -> None:
    one, two = city.shop("one"), city.shop("two")
    city.orders.give("add_peer", one.port)
    city.says(f"{one.port}")
    folder = city.file.parent
    if os.geteuid() == 0:
        os.chown(folder, 0, 0)
    folder.chmod(0o555)
    city.orders.give("add_peer", two.port)
    await_takers(city.front, {"one", "two"})
    await_line(city.balancer, f'state "{city.file}" cannot be written: Permission denied')
    checker = city.checker()
    os.kill(checker, signal.SIGKILL)
    folder.chmod(0o777)
    await_condition(lambda: checker not in city.balancer.workers, "the end of the checker", _SECONDS)
    city.says(f"{one.port}", f"{two.port}")
    await_condition(lambda: takers(city.front) == {"one", "two"}, "both", _SECONDS)


def test_a_reload_that_would_forget_members_does_not_happen(city: City) -> None:
    one, two = city.shop("one"), city.shop("two")
    city.orders.give("add_peer", one.port)
    city.says(f"{one.port}")
    city.file.unlink()
    city.file.mkdir()
    city.orders.give("add_peer", two.port)
    await_takers(city.front, {"one", "two"})
    city.balancer.send(signal.SIGHUP)
    await_line(city.balancer, f"[emerg] {city.balancer.pid}#")
    assert f'state "{city.file}" cannot be written: Is a directory' in city.balancer.error_log()
    assert takers(city.front) == {"one", "two"}


def test_a_folder_that_is_somebody_else_s_is_refused(city: City) -> None:
    if os.geteuid() != 0:
        pytest.skip("for root")
    text = city.text.replace("lists/peers.conf", "own.conf")
    city.balancer.configure(text)
    city.balancer.send(signal.SIGHUP)
    await_line(
        city.balancer, f'user "nobody" cannot write into the folder that "state" needs: "{city.balancer.prefix}"'
    )
