"""The registry of probes: `CheckSpec.type` names a member. A new one is a file and a line here.

Most talk over a socket: PROBES has what they say. What is probed another way (a command, a function) has a Target of
its own in OTHERS. TARGETS is what the checker makes its targets from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from upwell.check.conversation import Conversation
from upwell.check.probe import KINDS, Probe
from upwell.check.probes.ajp import AjpProbe
from upwell.check.probes.exec import AT_ONCE as COMMANDS_AT_ONCE
from upwell.check.probes.exec import ExecTarget
from upwell.check.probes.expect import ExpectProbe
from upwell.check.probes.fastcgi import FastcgiProbe
from upwell.check.probes.http import HttpProbe
from upwell.check.probes.http_match import HttpMatchProbe
from upwell.check.probes.https import HttpsProbe
from upwell.check.probes.mysql import MysqlProbe
from upwell.check.probes.postgres import PostgresProbe
from upwell.check.probes.python import AT_ONCE as FUNCTIONS_AT_ONCE
from upwell.check.probes.python import PythonTarget
from upwell.check.probes.redis import RedisProbe
from upwell.check.probes.ssl_hello import SslHelloProbe
from upwell.check.probes.tcp import TcpProbe
from upwell.check.probes.tls import TlsProbe
from upwell.check.probes.udp import UdpTarget
from upwell.check.spec import RESTY, CheckSpec
from upwell.check.target import Loop, Place, Target
from upwell.peers.peer import PeerSpec


def http_probe(spec: CheckSpec, name: str) -> Probe:
    """lua-resty looks at the status line alone, everybody else at the whole answer."""
    return HttpProbe(spec, name) if spec.dialect == RESTY else HttpMatchProbe(spec, name)


def tcp_probe(spec: CheckSpec, name: str) -> Probe:
    """The connection is the answer, unless (but for lua-resty) something is to be said in it."""
    if spec.dialect != RESTY and (spec.request or spec.expect):
        return ExpectProbe(spec, name)
    return TcpProbe(spec, name)


def _grpc(spec: CheckSpec, name: str) -> Probe:
    from upwell.check.probes.grpc import GrpcProbe  # with h2, for those who have such a check

    return GrpcProbe(spec, name)


PROBES: Final[dict[str, Callable[[CheckSpec, str], Probe]]] = {
    "ajp": AjpProbe,
    "fastcgi": FastcgiProbe,
    "grpc": _grpc,
    "http": http_probe,
    "https": HttpsProbe,
    "mysql": MysqlProbe,
    "postgres": PostgresProbe,
    "redis": RedisProbe,
    "ssl_hello": SslHelloProbe,
    "tcp": tcp_probe,
    "tls": TlsProbe,
}
"""Each member makes, from a check and a peer's name (for the log), that peer's probe."""

OTHERS: Final[dict[str, Callable[[CheckSpec, PeerSpec, Place, Loop], Target]]] = {
    "exec": ExecTarget,
    "python": PythonTarget,
    "udp": UdpTarget,
}
"""Each member makes the target of one peer."""

AT_ONCE: Final = {"exec": COMMANDS_AT_ONCE, "python": FUNCTIONS_AT_ONCE}
"""How many of a check's peers are probed at once, for a check that does not say so; else without a bound."""

KIND_NUMBERS: Final = {kind: number for number, kind in enumerate(KINDS)}
"""The place of each kind of failure among the counters in the zone."""


def _talk(make: Callable[[CheckSpec, str], Probe]) -> Callable[[CheckSpec, PeerSpec, Place, Loop], Target]:
    def target(spec: CheckSpec, peer: PeerSpec, place: Place, loop: Loop) -> Target:
        probe = make(spec, peer.name)
        usual = probe.usual if isinstance(probe, HttpMatchProbe) else None
        return Conversation(spec, peer, place, loop, probe, usual)

    return target


TARGETS: Final = {name: _talk(make) for name, make in PROBES.items()} | OTHERS
