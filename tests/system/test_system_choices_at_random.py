"""Random upstreams beside nginx: the same requests, one after the other, are tried at the same peers and bound."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import md5
from random import Random

import pytest

from tests.system.conftest import StartBalancer
from tests.system.wire import Client
from upwell.contrib.processes import UPWELL, free_ports

_UPSTREAMS = 30
_METHODS = ["", "", "least_conn;", "ip_hash;", "hash $http_key;", "hash $http_key consistent;"]
_STICKY = [
    *("", "", "sticky route $http_route;", "sticky route $cookie_a $http_route;", "sticky cookie srv;"),
    "sticky learn create=$http_create lookup=$http_route zone=z{0}:64k header;",
]
_NEXT = ["", "", "proxy_next_upstream_tries 2;", "proxy_next_upstream off;"]


class _Group:
    """An upstream, and requests for it."""

    def __init__(self, number: int, chance: Random, working: list[str], dead: list[str]) -> None:
        self.number = number
        self._chance = chance
        self.method = chance.choice(_METHODS)
        self.sticky = chance.choice(_STICKY).format(number)
        self.location = f"location = /u{number} {{ {chance.choice(_NEXT)} proxy_pass http://u{number}; }}"
        self.peers: list[str] = []
        self.lines = []
        heaviest = chance.choice((1, 1, 3, 10))
        for place in range(chance.choice((1, 2, 2, 3, 4, 5, 7, 12))):
            peer = chance.choice(dead if chance.random() < 0.12 else working)
            self.peers.append(peer)
            self.lines.append(f"server {peer} {' '.join(self._parameters(place, heaviest))};")

    def _parameters(self, place: int, heaviest: int) -> Iterator[str]:
        chance = self._chance
        yield f"weight={chance.randint(1, heaviest)} max_fails={chance.choice((0, 1, 1, 2, 5))} fail_timeout=1000s"
        kind = chance.random()
        if kind < 0.08:
            yield "down"
        elif kind < 0.2 and self.sticky:
            yield "drain"
        if place and "hash" not in self.method and chance.random() < 0.2:
            yield "backup"
        if self.sticky and chance.random() < 0.6:
            yield f"route=r{place if chance.random() < 0.9 else 0}"

    def block(self, zone: bool) -> str:
        parts = [f"zone p{self.number} 256k;" if zone else "", self.method, self.sticky, *self.lines]
        return f"upstream u{self.number} {{ {' '.join(parts)} }}"

    def requests(self) -> Iterator[str]:
        chance = self._chance
        bound, keyless, failing = (
            chance.choice((0, 0.3, 0.7, 1)),
            chance.choice((0, 0, 0.5, 1)),
            chance.choice((0, 0.05, 0.5)),
        )
        unwell: list[str] = []
        for _ in range(chance.randint(10, 40)):
            if chance.random() < 0.25:
                unwell = [_tag(peer) for peer in self.peers if chance.random() < failing]
            fields = [f"Fail: {','.join(unwell)},"]
            if chance.random() >= keyless:
                fields.append(f"Key: {self._key()}")
            if chance.random() < bound:
                place = chance.randrange(len(self.peers))
                route = chance.choice((f"r{place}", md5(self.peers[place].encode()).hexdigest()))
                if "learn" in self.sticky:
                    route = f"s{place % 3}"
                fields += [f"Route: {route}", f"Cookie: srv={route}"]
            if chance.random() < 0.3:
                fields.append(f"Create: s{chance.randrange(3)}")
            lines = "".join(f"{field}\r\n" for field in fields)
            yield f"GET /u{self.number} HTTP/1.1\r\nHost: x\r\n{lines}\r\n"

    def _key(self) -> str:
        chance = self._chance
        if self.method != "ip_hash;":
            return f"k{chance.randrange(1000)}"
        four = ".".join(str(chance.randint(1, 223)) for _ in range(4))
        return chance.choice(
            (four, f"2001:db8:{chance.randrange(65536):x}::{chance.randrange(65536):x}", "::ffff:1.2.3.4")
        )


def _tag(peer: str) -> str:
    return md5(peer.encode()).hexdigest()[:8]


@pytest.mark.parametrize("seed", range(3))
def test_random_upstreams_are_nginx_s(seed: int, start: StartBalancer, nginx: tuple[str, ...]) -> None:
    chance = Random(seed)
    ports = free_ports(13)
    fronts, shut, open_ = ports[:2], ports[2:4], ports[4:]
    working = [*(f"127.0.0.1:{port}" for port in open_), *(f"[::1]:{port}" for port in open_[:3])]
    servers = [
        f'server {{ listen {peer}; if ($http_fail ~ "{_tag(peer)},") {{ return 503; }} return 204; }}'
        for peer in working
    ]
    start(f"events {{}} http {{ access_log off; keepalive_requests 100000; {' '.join(servers)} }}", open_, nginx)
    groups = [_Group(n, chance, working, [f"127.0.0.1:{port}" for port in shut]) for n in range(_UPSTREAMS)]
    blocks = "\n".join(group.block(zone=seed % 2 == 1) for group in groups)
    locations = "\n".join(group.location for group in groups)
    requests = [request for group in groups for request in group.requests()]
    found = []
    for front, command in zip(fronts, (nginx, UPWELL), strict=True):
        configuration = f"""
worker_processes 1;
events {{}}
http {{
    access_log off;
    keepalive_requests 100000;
    proxy_next_upstream error timeout http_503;
    {blocks}
    set_real_ip_from 127.0.0.1;
    real_ip_header Key;
    add_header Tried "$upstream_addr $upstream_status" always;
    server {{ listen 127.0.0.1:{front}; {locations} }}
}}
"""
        start(configuration, [front], command)
        with Client(front) as client:
            answers = [client.ask(request.encode()) for request in requests]
        found.append([(answer.status, answer.field("Tried"), answer.field("Set-Cookie")) for answer in answers])
    for request, expected, mine in zip(requests, *found, strict=True):
        assert mine == expected, f"{request}\n{blocks}"
