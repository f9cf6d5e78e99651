"""Names beside nginx: the same configuration, the same DNS server, the same answers of it one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.resolve.dns_server import DnsServer, fails
from tests.system.conftest import StartBalancer
from tests.system.shop import await_takers, takers
from tests.system.wire import Origin, response
from upwell.contrib.processes import free_ports


class Sides:
    """nginx on one port and upwell on the other, before backends on one port of different addresses."""

    def __init__(self, stack: ExitStack, nginx: tuple[str, ...], start: StartBalancer) -> None:
        self.dns = stack.enter_context(DnsServer())
        self.dns.negative = 1
        *self.fronts, self.port = free_ports(3)
        for number in (2, 3, 4):
            host = f"127.0.0.{number}"
            stack.enter_context(Origin(response(host.encode()), port=self.port, host=host))
        self.nginx = nginx
        self.start = start

    def run(self, upstream: str) -> None:
        for front, command in zip(self.fronts, (self.nginx, None), strict=True):
            configuration = f"""
worker_processes 1;
error_log logs/error.log info;
events {{ worker_connections 256; }}
http {{
    resolver 127.0.0.1:{self.dns.address[1]} valid=1s;
    resolver_timeout 1s;
    upstream peers {{ zone peers 64k; {upstream} }}
    server {{
        listen 127.0.0.1:{front};
        location / {{ proxy_pass http://peers; }}
        location /by {{ proxy_pass http://$arg_name:{self.port}; }}
    }}
}}
"""
            if command is None:
                self.start(configuration, [front])
            else:
                self.start(configuration, [front], command)

    def await_takers(self, *names: str, path: str = "/") -> None:
        for front in self.fronts:
            await_takers(front, set(names), path)


@pytest.fixture
def sides(nginx: tuple[str, ...], start: StartBalancer) -> Iterator[Sides]:
    with ExitStack() as stack:
        yield Sides(stack, nginx, start)


def test_an_upstream_follows_its_name(sides: Sides) -> None:
    sides.run(f"server town.example:{sides.port} resolve;")
    sides.await_takers("502")
    sides.dns.set("town.example", "A", "127.0.0.2", "127.0.0.3")
    sides.await_takers("127.0.0.2", "127.0.0.3")
    sides.dns.set("town.example", "A", "127.0.0.4")
    sides.await_takers("127.0.0.4")
    asked = sides.dns.asked["town.example", "A"]
    sides.dns.rule("town.example", fails())
    while sides.dns.asked["town.example", "A"] < asked + 4:
        assert [takers(front, requests=2) for front in sides.fronts] == [{"127.0.0.4"}] * 2
    sides.dns.follow("town.example")
    sides.dns.remove("town.example")
    sides.await_takers("502")


def test_services_are_primary_and_backup(sides: Sides) -> None:
    sides.dns.set("_http._tcp.town.example", "SRV", f"1 0 {sides.port} a.example.", f"5 1 {sides.port} b.example.")
    sides.dns.set("a.example", "A", "127.0.0.2")
    sides.dns.set("b.example", "A", "127.0.0.3")
    sides.run("server town.example service=http resolve;")
    sides.await_takers("127.0.0.2")
    sides.dns.set("_http._tcp.town.example", "SRV", f"5 1 {sides.port} b.example.")
    sides.await_takers("127.0.0.3")
    sides.dns.remove("_http._tcp.town.example")
    sides.await_takers("502")


def test_names_that_requests_say(sides: Sides) -> None:
    sides.dns.set("one.example", "A", "127.0.0.2")
    sides.dns.set("alias.example", "CNAME", "one.example.")
    sides.run("server 127.0.0.1:1;")
    sides.await_takers("127.0.0.2", path="/by?name=one.example")
    sides.await_takers("127.0.0.2", path="/by?name=alias.example")
    sides.await_takers("502", path="/by?name=no.example")
    sides.dns.set("one.example", "A", "127.0.0.3", "127.0.0.4")
    sides.await_takers("127.0.0.3", "127.0.0.4", path="/by?name=one.example")
