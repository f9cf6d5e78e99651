"""What a peer and an upstream are told to be: frozen specs, known to the library as well as to the config layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

STREAM = "stream/"
"""What the names of upstreams of `stream` begin with, so that they are none of http's."""


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """One address of one `server` line of an `upstream` block (nginx: ngx_http_upstream_module, `server`).

    `address` is ("host", port) for IPv4/IPv6 (an IP literal, no brackets, IPv6 without scope) or a path for `unix:`.
    `name` is nginx's peer name: "127.0.0.1:81", "[::1]:81", "unix:/tmp/s.sock". `server` is the text of the `server`
    line. `fail_timeout` is in seconds; `max_fails` 0 switches passive checks off; `max_conns` 0 means no limit.
    `slow_start` is in seconds (peers/slow_start.py). A peer with `drain` gets only requests of sessions that are bound
    to it; `route` is what it is called there (modules: `sticky`), empty for a name made of its address. `tier` 0 to 9
    says which peers are asked first.
    """

    name: str
    address: tuple[str, int] | str
    server: str = ""
    weight: int = 1
    max_fails: int = 1
    fail_timeout: float = 10.0
    max_conns: int = 0
    backup: bool = False
    down: bool = False
    slow_start: float = 0.0
    drain: bool = False
    route: str = ""
    tier: int = 0

    @property
    def role(self) -> str:
        return "backup" if self.backup else "primary"


@dataclass(frozen=True, slots=True)
class Method:
    """How an upstream chooses among its peers; `name` is a member of `balancers.BALANCERS`, called as nginx calls it.

    `key` is what `hash` hashes, as it is written (variables and all); who asks for a peer gives its value as bytes.
    `consistent` and `bounded` (a factor above 1.0, 0.0: no bound) belong to `hash`, `two` to `random`. `measure` is
    what is compared: "least_conn", "header" (of sessions "connect" or "first_byte") or "last_byte" (with `inflight`:
    requests under way count too).
    """

    name: str = "round_robin"
    key: str = ""
    consistent: bool = False
    bounded: float = 0.0
    two: bool = False
    measure: str = ""
    inflight: bool = False

    @property
    def compares(self) -> bool:
        """Whether it compares how many requests are under way, of which each worker must then know all."""
        return self.name in ("least_conn", "least_time", "ewma") or self.two


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """One `upstream` block, or the implicit one of `proxy_pass http://address` (then `implicit` is true).

    `keepalive` is the number of idle connections each worker keeps; `keepalive_requests`, `keepalive_time` (seconds)
    and `keepalive_timeout` (seconds) bound a connection's reuse (nginx's defaults since 1.29.7: 32 `local`, 1000, 1h,
    60s). `lines` are the `server` lines whose peers come at run time (`resolve`): what each such peer is, but for its
    name and address. `state` is the full path of the file that the list of peers is kept in (peers/server_lines.py), ""
    for none. `all_down` ("fail", "serve_all", "panic" with a percentage in `panic`) says what
    happens when the checks find too few peers up (peers/panic.py); when more than `mass_down` percent turn down at
    once, the checker says so loudly. Under `tier_threshold` percent of healthy peers the next tier joins
    (peers/tiers.py). Up to `queue` requests wait for a peer that is not full, each for `queue_timeout` seconds.
    """

    name: str
    peers: tuple[PeerSpec, ...]
    method: Method = Method()
    keepalive: int = 32
    keepalive_requests: int = 1000
    keepalive_time: float = 3600.0
    keepalive_timeout: float = 60.0
    implicit: bool = False
    lines: tuple[PeerSpec, ...] = ()
    state: str = ""
    all_down: str = "fail"
    panic: int = 0
    mass_down: int = 50
    tier_threshold: int = 1
    queue: int = 0
    queue_timeout: float = 60.0

    @property
    def local(self) -> str:
        """The name as the configuration file has it."""
        return self.name.removeprefix(STREAM)


class PeerKey(NamedTuple):
    """A peer's identity over reloads; never an index in a list. `ordinal` counts equal names within one role."""

    upstream: str
    role: str
    name: str
    ordinal: int


def peer_keys(spec: UpstreamSpec) -> list[PeerKey]:
    """The identity of each peer of `spec`, in its order; the same address written twice counts up its ordinal."""
    seen: dict[tuple[str, str], int] = {}
    keys = []
    for peer in spec.peers:
        ordinal = seen.get((peer.role, peer.name), 0)
        seen[peer.role, peer.name] = ordinal + 1
        keys.append(PeerKey(spec.name, peer.role, peer.name, ordinal))
    return keys
