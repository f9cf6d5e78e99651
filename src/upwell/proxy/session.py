"""A session of `stream`: one TCP connection of a client, or its datagrams; what both kinds have in common.

Knows what a session is told to be, what is remembered of it for the log, and how its lines in the error log end. Must
not know how bytes are passed on.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Final

from upwell.log import ERROR, WARN, ErrorLog
from upwell.peers.upstream import Peer, Upstream
from upwell.proxy.clock import Clock
from upwell.proxy.leaving import Departures
from upwell.proxy.proxy_protocol import Introduced
from upwell.proxy.splice import Pipes
from upwell.proxy.timers import Timed, Timers
from upwell.proxy.tls import client_verify
from upwell.proxy.transport import Poll

OK: Final = 200
BAD_REQUEST: Final = 400
FORBIDDEN: Final = 403
INTERNAL: Final = 500
BAD_GATEWAY: Final = 502
UNAVAILABLE: Final = 503
"""nginx's statuses of a session ($status)."""

_numbers = count(1)
_UNMET: Final = -1.0


@dataclass(frozen=True, slots=True)
class PeerTls:
    """How TLS is spoken with peers. `name` gives the name that the certificate must have and, with `tells`, that is
    told to the peer (SNI)."""

    context: ssl.SSLContext
    name: Callable[[Session], bytes]
    tells: bool


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """One `server` of `stream` as compiled for a worker. Times in seconds, 0 for no limit; sizes in bytes.

    `upstream` is where sessions go, None: `returns` gives what each is told. `name` is the upstream's as the file has
    it. `allowed` says who may come, None: everybody. `log` writes the access log's lines. `key` is for a balancer that
    hashes. `near` gives the address (and port) that connections to peers come from, None: the system's choice.
    `upload_rate` and `download_rate` give the bytes a second that are read of the client and of the peer, 0 and None:
    no limit. `proxy_protocol`: peers are told of the client. `requests` and `responses` count datagrams (0: no end;
    None: any). `stages`: what has to be done before all that, if anything.
    """

    upstream: Upstream | None
    name: str
    error_log: ErrorLog
    log: tuple[Callable[[Session], None], ...] = ()
    allowed: Callable[[str], bool] | None = None
    returns: Callable[[Session], bytes] | None = None
    key: Callable[[Session], bytes] | None = None
    connect_timeout: float = 60.0
    timeout: float = 600.0
    next_upstream: bool = True
    next_tries: int = 0
    next_timeout: float = 0.0
    half_close: bool = False
    buffer_size: int = 16_384
    proxy_protocol: bool = False
    proxy_protocol_timeout: float = 30.0
    near: Callable[[Session], tuple[str, int] | None] | None = None
    keepalive: bool = False
    upload_rate: Callable[[Session], int] | None = None
    download_rate: Callable[[Session], int] | None = None
    tls: ssl.SSLContext | None = None
    verify: str = "off"
    handshake_timeout: float = 60.0
    peer_tls: PeerTls | None = None
    requests: int = 0
    responses: int | None = None
    stages: Stages | None = None


@dataclass(frozen=True, slots=True)
class Stages:
    """What comes before a peer is chosen, in this order; `then` is what the session is told after it.

    `variables` are set at once. `size`: so much of what a TLS client says at first is looked at, within `timeout`; 0:
    nothing is. `aim` decides where the session goes and gives it a spec of its own: it answers 0, the status that ends
    the session, or WAITING, and calls its second argument with either later.
    """

    then: SessionSpec
    variables: tuple[tuple[str, Callable[[Session], bytes]], ...] = ()
    size: int = 0
    timeout: float = 30.0
    aim: Callable[[Session, Callable[[int], None]], int] | None = None

    def begin(self, session: Session) -> None:
        made = session.variables
        if made is None:
            made = session.variables = {}
        for name, value in self.variables:
            made[name] = value(session)

    def end(self, session: Session, go_on: Callable[[int], None]) -> int:
        """As `aim`."""
        if self.aim is not None:
            return self.aim(session, go_on)
        session.spec = self.then
        return 0


WAITING: Final = -1


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """What a handshake has come to: OpenSSL forgets it when the connection ends."""

    version: str
    cipher: str
    resumed: bool
    client_verify: str

    @staticmethod
    def of(tls: ssl.SSLSocket) -> TlsFacts:
        cipher = tls.cipher()
        return TlsFacts(
            tls.version() or "",
            "" if cipher is None else cipher[0],
            bool(tls.session_reused),
            client_verify(tls),
        )


class Front:
    """What all sessions of one listening socket share in one worker. `text` is its address as nginx prints it.

    `specific` are the servers of more specific addresses whose connections come by this socket, too.
    """

    __slots__ = (
        "clock",
        "computed",
        "family",
        "leaving",
        "limit",
        "local",
        "log",
        "loop",
        "now",
        "on_close",
        "pipes",
        "poll",
        "sessions",
        "spec",
        "specific",
        "takes_proxy_protocol",
        "text",
        "timers",
        "tls",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poll: Poll,
        timers: Timers,
        clock: Clock,
        pipes: Pipes,
        sessions: set[Session],
        leaving: Departures,
        log: ErrorLog,
        spec: SessionSpec,
        text: str,
        family: int,
        local: tuple[str, int] | None,
        takes_proxy_protocol: bool = False,
        tls: bool = False,
        limit: int = 512,
    ) -> None:
        self.loop = loop
        self.now: Callable[[], float] = loop.time
        self.poll = poll
        self.timers = timers
        self.clock = clock
        self.pipes = pipes
        self.sessions = sessions
        self.leaving = leaving
        self.log = log
        self.spec = spec
        self.text = text
        self.family = family
        self.local = local
        self.takes_proxy_protocol = takes_proxy_protocol
        self.tls = tls
        self.limit = limit
        self.specific: dict[tuple[str, int], Front] = {}
        self.on_close: Callable[[], None] | None = None
        self.computed: Mapping[str, Callable[[Session], bytes]] = {}

    def __repr__(self) -> str:
        return f"<Front {self.text}>"

    def has_room(self) -> bool:
        """Whether one more session may begin; the log is told where none may.

        Connections whose sessions are over count too. Those that wait the longest for their end go first; the kernel
        goes on sending what it has, which is all that nginx leaves to it.
        """
        used = len(self.sessions) * 2
        if used >= self.limit:
            self.log.alert(f"{self.limit} worker_connections are not enough")
            return False
        leaving = self.leaving.ones
        while leaving and used + len(leaving) > self.limit - 2:
            next(iter(leaving.values())).end()
        return True


class Attempt:
    """One try at a peer; what is not known yet is negative. `peer` is the upstream's name where there was none."""

    __slots__ = ("connected", "ended", "first_byte", "peer", "received", "sent", "started")

    def __init__(self, peer: str, started: float) -> None:
        self.peer = peer
        self.started = started
        self.connected = _UNMET
        self.first_byte = _UNMET
        self.ended = _UNMET
        self.sent = 0
        self.received = 0


class Session(Timed):
    """`number` is nginx's connection serial, `address` and `port` the client's. `protocol` is "TCP" or "UDP"."""

    __slots__ = (
        "action",
        "address",
        "attempts",
        "front",
        "local",
        "number",
        "over",
        "peer",
        "port",
        "protocol",
        "proxied",
        "spec",
        "started",
        "status",
        "tls",
        "tried",
        "variables",
    )

    def __init__(self, front: Front, protocol: str, address: str, port: int, local: tuple[str, int] | None) -> None:
        super().__init__()
        self.front = front
        self.spec: SessionSpec = front.spec
        self.number: int = next(_numbers)
        self.protocol = protocol
        self.address = address
        self.port = port
        self.local = local
        self.started: float = front.now()
        self.status = OK
        self.action = "initializing session"
        self.attempts: list[Attempt] = []
        self.tried: list[Peer] = []
        self.peer: Peer | None = None
        self.proxied: Introduced | None = None  # what the PROXY protocol says
        self.tls: TlsFacts | None = None
        self.over = False
        self.variables: dict[str, bytes] | None = None  # those of the configuration, as far as there is a need

    # What the two kinds do each in their way

    def local_address(self) -> tuple[str, int]:
        """The address that the client came to."""
        raise NotImplementedError

    def cut(self) -> None:
        """End at once."""
        raise NotImplementedError

    def from_client(self) -> int:
        """Bytes that the client has sent."""
        raise NotImplementedError

    def to_client(self) -> int:
        raise NotImplementedError

    def from_peer(self) -> int:
        raise NotImplementedError

    def to_peer(self) -> int:
        raise NotImplementedError

    # Choosing a peer

    def choose(self) -> Peer | None:
        """The peer for the next try, whose connection counts from now on; None: there is none, which is told."""
        upstream = self.spec.upstream
        assert upstream is not None
        now = self.front.now()
        key = None if self.spec.key is None else self.spec.key(self)
        peer = upstream.pick(self.tried, now, key)
        self.peer = peer
        self.action = "connecting to upstream"
        if peer is None:
            self.attempts.append(Attempt(self.spec.name, now))
            self.error("no live upstreams")
        else:
            self.attempts.append(Attempt(peer.name, now))
        return peer

    def may_try_again(self) -> bool:
        """Whether the next peer may be tried (nginx: proxy_next_upstream and its _tries, _timeout)."""
        spec = self.spec
        upstream = spec.upstream
        if not spec.next_upstream or upstream is None:
            return False
        most = upstream.tries
        if spec.next_tries and spec.next_tries < most:
            most = spec.next_tries
        if len(self.tried) >= most:
            return False
        return not spec.next_timeout or self.front.now() - self.attempts[0].started < spec.next_timeout

    def release(self, failed: bool) -> None:
        """The try is over."""
        now = self.front.now()
        peer, self.peer = self.peer, None
        if self.attempts:
            attempt = self.attempts[-1]
            if attempt.ended < 0:
                attempt.ended = now
                attempt.sent = self.to_peer()
                attempt.received = self.from_peer()
        if peer is None:
            return
        peer.sent += self.attempts[-1].sent
        peer.received += self.attempts[-1].received
        if failed and peer not in self.tried:
            self.tried.append(peer)
        upstream = self.spec.upstream
        if upstream is None:
            return
        if upstream.watches:
            self._measure(upstream, peer, now, failed)
        if upstream.release(peer, now, failed):
            self.tell(WARN, "upstream server temporarily disabled")

    def _measure(self, upstream: Upstream, peer: Peer, now: float, failed: bool) -> None:
        """Tell a balancer that wants to know how long the peer took."""
        attempt = self.attempts[-1]
        last = attempt.ended - attempt.started
        begun = attempt.connected if upstream.spec.method.measure == "connect" else attempt.first_byte
        if failed:
            upstream.answered(peer, last, last, now, False)
        elif begun >= 0:
            upstream.answered(peer, begun - attempt.started, last, now, True)

    # Telling

    def tell(self, level: int, message: str) -> None:
        """A line in the error log with nginx's tail: what was being done, client, server, upstream, bytes."""
        log = self.spec.error_log
        if level > log.level:
            return
        kind = "udp " if self.protocol == "UDP" else ""
        tail = [message, f" while {self.action}, {kind}client: {self.address}, server: {self.front.text}"]
        if self.attempts:
            tail.append(f', upstream: "{self.attempts[-1].peer}"')
            tail.append(f", bytes from/to client:{self.from_client()}/{self.to_client()}")
            tail.append(f", bytes from/to upstream:{self.from_peer()}/{self.to_peer()}")
        log.write(level, "".join(tail), self.number)

    def note(self, level: int, message: str) -> None:
        """A line without a tail."""
        self.spec.error_log.write(level, message, self.number)

    def error(self, message: str) -> None:
        self.tell(ERROR, message)
