"""Names over the wire: upwell as processes before real backends, with a real DNS server whose answers change."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.resolve.dns_server import DnsServer, fails, silent, truncated
from tests.system.conftest import StartBalancer
from tests.system.shop import await_line, await_takers, takers
from tests.system.wire import Origin, ask, get, response
from upwell.contrib.processes import Balancer, await_condition, free_ports


class Town:
    """Backends on one port, each at an address of its own, which answer with that; and who knows them by name."""

    def __init__(self, stack: ExitStack) -> None:
        self.dns = stack.enter_context(DnsServer())
        self.front, self.port = free_ports(2)
        for number in (2, 3, 4):
            host = f"127.0.0.{number}"
            stack.enter_context(Origin(response(host.encode()), port=self.port, host=host))

    @property
    def resolver(self) -> str:
        return f"resolver 127.0.0.1:{self.dns.address[1]} status_zone=dns;"

    def configuration(self, upstream: str, locations: str = "", http: str = "", workers: int = 2) -> str:
        return f"""
worker_processes {workers};
error_log logs/error.log info;
events {{ worker_connections 256; }}
http {{
    {http}
    upstream peers {{ {upstream} }}
    server {{
        listen 127.0.0.1:{self.front};
        location / {{ proxy_pass http://peers; }}
        location = /status {{ upwell_status; status_format json; }}
        {locations}
    }}
}}
"""

    def status(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(ask(self.front, get("/status?upstream=peers")).body)
        return found

    def resolvers(self) -> list[dict[str, object]]:
        found = self.status()["resolvers"]
        assert isinstance(found, list)
        return found

    def peers(self) -> dict[str, dict[str, object]]:
        upstreams = self.status()["upstreams"]
        assert isinstance(upstreams, list)
        return {peer["name"].split(":")[0]: peer for peer in upstreams[0]["peers"]}


@pytest.fixture
def town() -> Iterator[Town]:
    with ExitStack() as stack:
        yield Town(stack)


def _resolving(town: Town, start: StartBalancer, locations: str = "") -> Balancer:
    upstream = f"server town.example:{town.port} resolve;"
    return start(town.configuration(upstream, locations, town.resolver), [town.front])


def test_requests_follow_the_name(town: Town, start: StartBalancer) -> None:
    town.dns.set("town.example", "A", "127.0.0.2", ttl=1)
    balancer = _resolving(town, start)
    await_takers(town.front, {"127.0.0.2"})
    town.dns.set("town.example", "A", "127.0.0.2", "127.0.0.3", ttl=1)
    await_takers(town.front, {"127.0.0.2", "127.0.0.3"})
    town.dns.set("town.example", "A", "127.0.0.3", ttl=1)
    await_takers(town.front, {"127.0.0.3"})
    town.dns.rule("town.example", fails())
    await_line(balancer, "town.example could not be resolved (2: Server failure), 1 known address(es) stay in use")
    assert takers(town.front) == {"127.0.0.3"}
    town.dns.follow("town.example")
    await_line(balancer, "town.example is resolved again: 1 address(es)")
    [resolver] = town.resolvers()
    answers = resolver["answers"]
    assert isinstance(answers, dict)
    assert resolver["name"] == "dns"
    assert answers["noerror"] >= 4
    assert answers["servfail"] >= 1
    assert resolver["names_failing"] == 0
    assert resolver["last_answer"]
    town.dns.remove("town.example")
    await_takers(town.front, {"502"})
    assert "no live upstreams" in balancer.error_log()
    assert town.resolvers()[0]["names_failing"] == 1


def test_before_the_first_answer_there_is_nobody(town: Town, start: StartBalancer) -> None:
    town.dns.negative = 1
    balancer = _resolving(town, start)
    await_line(balancer, "town.example could not be resolved (3: Host not found)")
    assert takers(town.front, requests=2) == {"502"}
    assert "no live upstreams" in balancer.error_log()
    town.dns.set("town.example", "A", "127.0.0.2", ttl=1)
    await_takers(town.front, {"127.0.0.2"})


def test_a_peer_that_stays_keeps_its_health(town: Town, start: StartBalancer) -> None:
    town.dns.set("town.example", "A", "127.0.0.2", ttl=1)
    locations = "location /checked { proxy_pass http://peers; health_check interval=1 mandatory; }"
    _resolving(town, start, locations=locations)
    await_takers(town.front, {"127.0.0.2"})
    before = town.peers()["127.0.0.2"]
    town.dns.set("town.example", "A", "127.0.0.2", "127.0.0.3", ttl=1)
    await_takers(town.front, {"127.0.0.2", "127.0.0.3"})
    after = town.peers()
    upstreams = town.status()["upstreams"]
    assert isinstance(upstreams, list)
    assert (upstreams[0]["peers_total"], upstreams[0]["peers_up"]) == (2, 2)
    assert after["127.0.0.2"]["since"] == before["since"]
    assert after["127.0.0.2"]["changes"] == before["changes"]
    assert after["127.0.0.3"]["checks"]


def test_services(town: Town, start: StartBalancer) -> None:
    town.dns.set("_http._tcp.town.example", "SRV", f"1 3 {town.port} a.example.", f"5 1 {town.port} b.example.", ttl=1)
    town.dns.set("a.example", "A", "127.0.0.2", ttl=1)
    town.dns.set("b.example", "A", "127.0.0.3", ttl=1)
    upstream = "server town.example service=http resolve;"
    start(town.configuration(upstream, http=town.resolver), [town.front])
    await_takers(town.front, {"127.0.0.2"})
    peers = town.peers()
    assert {name: (peer["role"], peer["weight"]) for name, peer in peers.items()} == {
        "127.0.0.2": ("primary", 3),
        "127.0.0.3": ("backup", 1),
    }
    town.dns.set("_http._tcp.town.example", "SRV", f"5 1 {town.port} b.example.", ttl=1)
    await_takers(town.front, {"127.0.0.3"})


def test_a_reload_and_a_new_checker_wait_for_nobody(town: Town, start: StartBalancer) -> None:
    town.dns.set("town.example", "A", "127.0.0.2", ttl=1)
    balancer = _resolving(town, start)
    await_takers(town.front, {"127.0.0.2"})
    town.dns.rule("town.example", silent)
    status = town.status()
    checker = status["checker"]
    assert isinstance(checker, dict)
    balancer.send(signal.SIGHUP)
    await_condition(lambda: town.status()["configurations"] == 2, "the reload", 20)
    assert takers(town.front) == {"127.0.0.2"}
    checker = town.status()["checker"]
    assert isinstance(checker, dict)
    os.kill(checker["pid"], signal.SIGKILL)

    def another() -> bool:
        now = town.status()["checker"]
        assert isinstance(now, dict)
        return bool(now["pid"] != checker["pid"] and now["state"] == "running")

    await_condition(another, "another checker", 20)
    assert takers(town.front) == {"127.0.0.2"}
    town.dns.follow("town.example")
    town.dns.set("town.example", "A", "127.0.0.4", ttl=1)
    await_takers(town.front, {"127.0.0.4"})


_BY_VALUE = "location /by/ { proxy_pass http://$arg_name:%d; %s }"


def test_a_name_that_a_request_says(town: Town, start: StartBalancer) -> None:
    town.dns.set("one.example", "A", "127.0.0.2", ttl=1)
    town.dns.set("two.example", "A", "127.0.0.3", "127.0.0.4", ttl=60)
    balancer = start(
        town.configuration("server 127.0.0.1:1;", _BY_VALUE % (town.port, ""), town.resolver, workers=1), [town.front]
    )
    assert takers(town.front, "/by/?name=one.example") == {"127.0.0.2"}
    assert takers(town.front, "/by/?name=two.example") == {"127.0.0.3", "127.0.0.4"}
    assert town.dns.asked["two.example", "A"] == 1
    town.dns.set("one.example", "A", "127.0.0.4", ttl=1)
    await_takers(town.front, {"127.0.0.4"}, "/by/?name=one.example")
    town.dns.rule("one.example", fails())
    await_condition(
        lambda: takers(town.front, "/by/?name=one.example") == {"127.0.0.4"} and town.dns.asked["one.example", "A"] > 3,
        "the address that was known",
        20,
    )
    town.dns.set("large.example", "A", "127.0.0.2")
    town.dns.rule("large.example", lambda query, stream: None if stream else truncated(query, stream))
    assert takers(town.front, "/by/?name=large.example") == {"127.0.0.2"}
    assert town.dns.by_tcp
    assert takers(town.front, "/by/?name=no.example") == {"502"}
    await_line(balancer, "no.example could not be resolved (3: Host not found), client: 127.0.0.1")
    assert takers(town.front, "/by/?name=a..b") == {"502"}
    assert takers(town.front, "/by/?name=127.0.0.3") == {"127.0.0.3"}


def test_who_waits_for_a_name_waits_for_its_time_out_only(town: Town, start: StartBalancer) -> None:
    town.dns.rule("mute.example", silent)
    locations = _BY_VALUE % (town.port, "resolver_timeout 300ms;")
    balancer = start(town.configuration("server 127.0.0.1:1;", locations, town.resolver), [town.front])
    assert takers(town.front, "/by/?name=mute.example", requests=1) == {"502"}
    await_line(balancer, "mute.example could not be resolved (110: Operation timed out)")


def test_without_a_resolver_names_are_refused(town: Town, start: StartBalancer) -> None:
    balancer = start(town.configuration("server 127.0.0.1:1;", _BY_VALUE % (town.port, "")), [town.front])
    assert takers(town.front, "/by/?name=one.example", requests=1) == {"502"}
    await_line(balancer, "no resolver defined to resolve one.example")


def test_sessions_follow_the_name_too(town: Town, start: StartBalancer) -> None:
    town.dns.set("town.example", "A", "127.0.0.2", ttl=1)
    configuration = f"""
error_log logs/error.log info;
events {{ worker_connections 256; }}
stream {{
    {town.resolver}
    upstream peers {{ server town.example:{town.port} resolve; }}
    server {{ listen 127.0.0.1:{town.front}; proxy_pass peers; }}
}}
"""
    start(configuration, [town.front])
    await_takers(town.front, {"127.0.0.2"})
    town.dns.set("town.example", "A", "127.0.0.3", ttl=1)
    await_takers(town.front, {"127.0.0.3"})


def test_a_name_comes_and_goes_in_one_process(town: Town, start: StartBalancer) -> None:
    """`master_process off`: the checker lives in the worker's loop."""
    town.dns.set("town.example", "A", "127.0.0.2", ttl=1)
    upstream = f"server town.example:{town.port} resolve;"
    balancer = start(
        town.configuration(upstream, _BY_VALUE % (town.port, ""), town.resolver),
        [town.front],
        main="daemon off; master_process off;",
    )
    await_takers(town.front, {"127.0.0.2"})
    assert takers(town.front, "/by/?name=town.example") == {"127.0.0.2"}
    town.dns.set("town.example", "A", "127.0.0.3", ttl=1)
    await_takers(town.front, {"127.0.0.3"})
    assert balancer.alive
