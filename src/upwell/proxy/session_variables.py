"""nginx's $variables of a session of `stream`, by name: what its access log, `return`, `hash` and their like read.

Each is a function of the session that gives bytes, or None for "not found", as those of http (variables.py).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Final

from upwell.proxy.preread import VARIABLES as PREREAD
from upwell.proxy.proxy_protocol import field_of
from upwell.proxy.session import Attempt, Session, TlsFacts
from upwell.version import NGINX_VERSION

SessionVariable = Callable[[Session], "bytes | None"]

_HOSTNAME: Final = socket.gethostname().lower().encode()


def _seconds(value: float) -> bytes:
    return b"%.3f" % max(value, 0.0)


def _binary_address(session: Session) -> bytes:
    address = session.address
    if address == "unix:":
        return address.encode()
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _port(number: int) -> bytes:
    return b"%d" % number if number else b""


def _over_attempts(of: Callable[[Attempt], bytes]) -> SessionVariable:
    def values(session: Session) -> bytes | None:
        return b", ".join([of(one) for one in session.attempts]) if session.attempts else None

    return values


def _since_start(value: Callable[[Attempt], float]) -> SessionVariable:
    def of(attempt: Attempt) -> bytes:
        until = value(attempt)
        return b"-" if until < 0 else _seconds(until - attempt.started)

    return _over_attempts(of)


def _proxied(index: int) -> SessionVariable:
    return lambda session: None if session.proxied is None else str(session.proxied[index] or "").encode()


def _of_tls(of: Callable[[TlsFacts], str]) -> SessionVariable:
    return lambda session: None if session.tls is None else of(session.tls).encode()


VARIABLES: dict[str, SessionVariable] = {
    "binary_remote_addr": _binary_address,
    "bytes_received": lambda s: b"%d" % s.from_client(),
    "bytes_sent": lambda s: b"%d" % s.to_client(),
    "connection": lambda s: b"%d" % s.number,
    "hostname": lambda _: _HOSTNAME,
    "msec": lambda _: b"%.3f" % time.time(),
    "nginx_version": lambda _: NGINX_VERSION.encode(),
    "pid": lambda _: b"%d" % os.getpid(),
    "protocol": lambda s: s.protocol.encode(),
    "proxy_protocol_addr": _proxied(0),
    "proxy_protocol_port": _proxied(1),
    "proxy_protocol_server_addr": _proxied(2),
    "proxy_protocol_server_port": _proxied(3),
    "remote_addr": lambda s: s.address.encode(),
    "remote_port": lambda s: _port(s.port),
    "server_addr": lambda s: s.local_address()[0].encode(),
    "server_port": lambda s: _port(s.local_address()[1]),
    "session_time": lambda s: _seconds(s.front.loop.time() - s.started),
    "ssl_cipher": _of_tls(lambda tls: tls.cipher),
    "ssl_client_verify": _of_tls(lambda tls: tls.client_verify),
    "ssl_protocol": _of_tls(lambda tls: tls.version),
    "ssl_session_reused": _of_tls(lambda tls: "r" if tls.resumed else "."),
    "status": lambda s: b"%d" % s.status,
    "time_iso8601": lambda s: s.front.clock.iso8601,
    "time_local": lambda s: s.front.clock.local,
    "upstream_addr": _over_attempts(lambda one: one.peer.encode()),
    "upstream_bytes_received": _over_attempts(lambda one: b"%d" % one.received),
    "upstream_bytes_sent": _over_attempts(lambda one: b"%d" % one.sent),
    "upstream_connect_time": _since_start(lambda one: one.connected),
    "upstream_first_byte_time": _since_start(lambda one: one.first_byte),
    "upstream_session_time": _since_start(lambda one: one.ended),
}

_TLV: Final = "proxy_protocol_tlv_"


def _preread(name: str) -> SessionVariable:
    return lambda session: None if session.variables is None else session.variables.get(name)


VARIABLES.update((name, _preread(name)) for name in PREREAD)


def find(name: str) -> SessionVariable | None:
    """The function of $`name`; None when there is no such variable."""
    if not name.startswith(_TLV):
        return VARIABLES.get(name)
    value = field_of(name[len(_TLV) :].lower())
    return lambda session: value(session.proxied)
