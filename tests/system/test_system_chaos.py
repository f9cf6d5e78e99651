"""Backends that fail in every way, one after the other, under constant load, with the guide's checker and nginx's
default proxy_next_upstream: no idempotent request is lost that could be saved. The times are `make chaos`'s matter.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from chaos.faults import FAULTS, Fault
from chaos.load import Load
from chaos.peer import Peer
from tests.system.configurations import checked
from tests.system.conftest import StartBalancer
from upwell.contrib.processes import await_condition, free_ports, peer_states
from upwell.contrib.traffic import fetch

_PASSES = frozenset(("closing kept connections at reuse", "half a head", "half an answer"))
"""Faults that the guide's checks do not see: their probe has a connection of its own and reads the status line only."""

_TIMES = """
    proxy_connect_timeout 2s;
    proxy_read_timeout 2s;
    log_format tries "$status $upstream_addr";
    access_log logs/tries.log tries;
"""


@dataclass
class Scene:
    """Two peers behind upwell, which is under load."""

    front: int
    peers: list[Peer]
    load: Load
    log: Path

    def up(self) -> list[bool]:
        states = peer_states(fetch(self.front, "/status")[1])
        return [states[f"127.0.0.1:{peer.port}"] for peer in self.peers]

    def served(self) -> int:
        """How many requests the first peer has answered well as the last one asked."""
        lines = self.log.read_text().splitlines()
        return sum(line.startswith("200 ") and line.endswith(f":{self.peers[0].port}") for line in lines)


@pytest.fixture(scope="module")
def scene(start_shared: StartBalancer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    front, *ports = free_ports(3)
    folder = tmp_path_factory.mktemp("peers")
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(port, f"peer{number}", folder)) for number, port in enumerate(ports)]
        text = checked(front, ports).replace("http {", "http {" + _TIMES, 1)
        for port in ports:
            text = text.replace(f":{port};", f":{port} fail_timeout=2s;")
        balancer = start_shared(text, [front])
        load = stack.enter_context(Load(front, 40, 15))
        yield Scene(front, peers, load, balancer.prefix / "logs/tries.log")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_peer_that_fails_costs_no_idempotent_request(scene: Scene, fault: Fault) -> None:
    await_condition(lambda: scene.up() == [True, True], "both peers", 20)
    served = scene.served()
    await_condition(lambda: scene.served() > served, "traffic to the peer", 20)
    began = time.time()
    fault.strike(scene.peers)
    try:
        if fault.name in _PASSES:
            asked = len(scene.load.asked)
            await_condition(lambda: len(scene.load.asked) > asked + 60, "requests", 20)
            assert scene.up() == [True, True]
        else:
            expected = [False, not fault.all_at_once]
            await_condition(lambda: scene.up() == expected, "the peer out", 30)
            out = time.time()
            asked = len(scene.load.asked)
            await_condition(lambda: len(scene.load.asked) > asked + 40, "requests", 20)
            if not fault.all_at_once:  # nothing goes there any more, so nothing is lost whatever the fault
                later = scene.load.begun_within(out, time.time())
                assert later
                assert [one.failure for one in later if one.failure] == []
    finally:
        ended = time.time()
        fault.relent(scene.peers)
    await_condition(lambda: scene.up() == [True, True], "the peer back", 20)
    served = scene.served()
    await_condition(lambda: scene.served() > served, "traffic to it again", 20)
    during = scene.load.begun_within(began, ended)
    assert during
    if fault.spared:
        assert [one.failure for one in during if one.failure and one.idempotent] == []
    else:
        assert [one.failure for one in during if one.failure]  # or it was no fault
    now = time.time()
    asked = len(scene.load.asked)
    await_condition(lambda: len(scene.load.asked) > asked + 20, "requests", 20)
    after = scene.load.begun_within(now, time.time())
    assert [one.failure for one in after if one.failure] == []
