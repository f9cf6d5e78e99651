"""With real processes: who gets requests when all peers are down, before a first pass, after requests failed."""

from __future__ import annotations

import os
import signal

import pytest

from tests.system.configurations import proxying
from tests.system.conftest import StartBalancer
from tests.system.shop import BROKEN, Shop, await_line, await_takers, takers
from tests.system.wire import ask, get
from upwell.contrib.processes import await_condition, free_ports

_SECONDS = 20
_CHECK = "proxy_next_upstream off; health_check uri=/health interval=100ms fails=2 passes=2 timeout=2s;"


def _configuration(front: int, shops: list[Shop], upstream: str = "", check: str = _CHECK, workers: int = 2) -> str:
    text = proxying(front, [shop.port for shop in shops], check, upstream, workers=workers)
    return text.replace("events {", "error_log logs/error.log notice;\nevents {", 1)


@pytest.mark.parametrize(
    ("policy", "when", "words"),
    [
        ("serve_all", "both", '0 of 2 peers of upstream "peers" are up: health is ignored, all get requests'),
        ("panic=60%", "one", '1 of 2 peers of upstream "peers" are up: health is ignored, all get requests'),
    ],
)
def test_health_is_ignored_when_too_few_peers_are_up(start: StartBalancer, policy: str, when: str, words: str) -> None:
    (front,) = free_ports(1)
    with Shop("a") as a, Shop("b") as b:
        balancer = start(_configuration(front, [a, b], f"all_down {policy};"), [front])
        await_takers(front, {"a", "b"})
        # Only the probes fail; what is asked for besides is answered as ever.
        for shop in (a, b) if when == "both" else (a,):
            shop.answer[b"/health"] = BROKEN
        await_line(balancer, f"{words} (all_down {policy})")
        for _ in range(5):
            assert takers(front) == {"a", "b"}
        if when == "both":
            await_line(balancer, 'peers of upstream "peers" turned down within')
        a.answer.clear()
        b.answer.clear()
        await_line(balancer, "health counts again")  # with the first one that is up
        await_takers(front, {"a", "b"})


def test_nobody_is_asked_before_the_first_pass(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Shop("a") as a, Shop("b") as b:
        a.answer[b"/health"] = b.answer[b"/health"] = BROKEN
        check = _CHECK.replace("uri=", "mandatory uri=")
        start(_configuration(front, [a, b], check=check), [front])
        for _ in range(20):
            assert ask(front, get()).status == 502
        assert [seen for shop in (a, b) for seen in shop.origin.seen if b"/health" not in seen.target] == []
        a.answer.clear()
        await_takers(front, {"a"})


def test_a_peer_that_requests_suspend_is_probed_at_once_and_its_pass_brings_it_back(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Shop("a") as a, Shop("b") as b:
        check = """
            proxy_next_upstream error timeout http_500;
            health_check uri=/health interval=600s fast_interval=100ms fails=2 passes=1 timeout=2s;
        """
        configuration = _configuration(front, [a, b], check=check, workers=1)
        for shop in (a, b):
            configuration = configuration.replace(f":{shop.port};", f":{shop.port} fail_timeout=600s;")
        balancer = start(configuration, [front])
        await_takers(front, {"a", "b"})
        probes = len(a.probes())
        a.answer[b"/"] = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
        # Not one more than it takes: a second suspension so soon would last.
        while "temporarily disabled" not in balancer.error_log():
            assert ask(front, get()).status == 200
        a.answer.clear()
        # It would be out for ten minutes, and its next probe as far away.
        await_takers(front, {"a", "b"})
        assert len(a.probes()) > probes


def test_a_checker_that_is_replaced_says_again_what_is_in_force(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Shop("a") as a, Shop("b") as b:
        balancer = start(_configuration(front, [a, b], "all_down serve_all;"), [front])
        a.answer[b"/health"] = b.answer[b"/health"] = BROKEN
        await_line(balancer, "health is ignored")
        before = set(balancer.workers)
        [checker] = [pid for pid in before if _name(pid) == "upwell: checker"]
        os.kill(checker, signal.SIGKILL)
        await_condition(lambda: balancer.error_log().count("health is ignored") == 2, "said again", _SECONDS)
        assert takers(front) == {"a", "b"}
        a.answer.clear()
        await_takers(front, {"a"})


def _name(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as comm:
        return comm.read().strip()
