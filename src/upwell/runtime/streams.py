"""The `stream` block of one worker: servers compiled, listening sockets, sessions from the first to the last."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from upwell.config.model import Block
from upwell.config.template import compile_template
from upwell.log import ErrorLog
from upwell.modules.access import AccessSettings, is_allowed
from upwell.modules.access_log import AccessLogSettings
from upwell.modules.core import ErrorLogSettings, LogTarget
from upwell.modules.limit_rate import compile_size
from upwell.modules.proxy_socket import parse_near
from upwell.modules.resolver import resolver_of
from upwell.modules.stream.preread import PrereadSettings
from upwell.modules.stream.proxy import StreamProxySettings
from upwell.modules.stream.server import StreamListen, StreamServerSettings
from upwell.modules.stream.set import StreamSetSettings
from upwell.modules.tls import PeerTlsSettings, ServerTlsSettings
from upwell.modules.variables import VariableSettings
from upwell.peers.upstream import Upstream
from upwell.proxy.clock import Clock
from upwell.proxy.leaving import Departures
from upwell.proxy.listen import ListenSpec
from upwell.proxy.listener import Listener
from upwell.proxy.session import Front, PeerTls, Session, SessionSpec, Stages
from upwell.proxy.splice import Pipes
from upwell.proxy.timers import Timers
from upwell.proxy.transport import Poll
from upwell.proxy.udp_session import UdpListener
from upwell.runtime.access_logs import AccessLogs
from upwell.runtime.computed import computed
from upwell.runtime.session_render import SessionRender, render_session, session_line

if TYPE_CHECKING:
    from upwell.config.template import Template
    from upwell.runtime.stream_targets import Targets

_ANY = ("0.0.0.0", "::")
_REMEMBERED = 4096
_MOST_READ = 1 << 20


class Streams:
    """`upstreams` are by the names of their specs; `error_logs` by the `error_log` lines of a level."""

    __slots__ = (
        "_computed",
        "_fronts",
        "_leaving",
        "_listeners",
        "_log",
        "_pipes",
        "_sessions",
        "_sockets",
        "_specs",
        "_targets",
        "_udp",
        "on_close",
        "upstreams",
    )

    def __init__(
        self,
        stream: Block,
        upstreams: Mapping[str, Upstream],
        logs: AccessLogs,
        error_logs: Mapping[tuple[LogTarget, ...], ErrorLog],
        log: ErrorLog,
        on_close: Callable[[], None],
        targets: Targets,
    ) -> None:
        self._targets = targets
        self._computed = computed_of_sessions(stream)
        self.upstreams = upstreams
        self.on_close = on_close
        self._log = log
        self._pipes = Pipes()
        self._sessions: set[Session] = set()
        self._leaving = Departures()
        self._listeners: list[Listener] = []
        self._udp: list[UdpListener] = []
        self._fronts: list[Front] = []
        self._specs: dict[object, tuple[StreamListen, SessionSpec]] = {}
        for server in stream.of("stream_server"):
            spec = self._server(server, logs, error_logs.get(server[ErrorLogSettings].logs, log))
            for listen in server[StreamServerSettings].listens:
                self._specs[listen.spec.address, listen.spec.udp] = (listen, spec)

    def __repr__(self) -> str:
        return f"<Streams {len(self._fronts)} listeners, {len(self._sessions)} sessions>"

    def owns(self, listen: ListenSpec) -> bool:
        """Whether `listen` is an address of `stream`."""
        return (listen.address, listen.udp) in self._specs

    def start(
        self,
        sockets: Mapping[ListenSpec, socket.socket],
        poll: Poll,
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        clock: Clock,
        limit: int,
    ) -> None:
        """Accept on those of `sockets` that are of `stream`."""
        for listen, sock in sockets.items():
            if not self.owns(listen):
                continue
            front = self._front(listen, sock, poll, loop, timers, clock, limit)
            address = listen.address
            if not isinstance(address, str) and address[0] in _ANY:
                for other, known in self._specs.items():
                    if other != (address, listen.udp) and known[0].spec.udp == listen.udp:
                        specific = known[0].spec.address
                        if isinstance(specific, tuple) and specific[1] == address[1] and specific[0] not in _ANY:
                            front.specific[specific] = self._front(
                                known[0].spec, sock, poll, loop, timers, clock, limit
                            )
            self._fronts.append(front)
            if listen.udp:
                self._udp.append(UdpListener(poll, sock, front, self._log))
            else:
                self._listeners.append(Listener(poll, sock, front, self._log))

    def _front(
        self,
        listen: ListenSpec,
        sock: socket.socket,
        poll: Poll,
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        clock: Clock,
        limit: int,
    ) -> Front:
        given, spec = self._specs[listen.address, listen.udp]
        address = listen.address
        local = None
        if isinstance(address, str):
            local = ("unix:", 0)
        elif address[0] not in _ANY:
            local = address
        front = Front(
            loop,
            poll,
            timers,
            clock,
            self._pipes,
            self._sessions,
            self._leaving,
            self._log,
            spec,
            listen.text,
            int(sock.family),
            local,
            given.proxy_protocol,
            given.tls,
            limit,
        )
        front.computed = self._computed
        return front

    @property
    def idle(self) -> bool:
        return not self._sessions and not self._leaving.ones

    def stop_accepting(self) -> None:
        """Take no new sessions; those that are open go on."""
        self._close_listeners()
        for front in self._fronts:
            for one in (front, *front.specific.values()):
                one.on_close = self.on_close

    def close(self) -> None:
        """End all sessions at once."""
        self._close_listeners()
        for session in list(self._sessions):
            session.cut()
        self._leaving.end()
        for datagrams in self._udp:
            datagrams.let_go()
        self._pipes.close()
        self._targets.close()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        for datagrams in self._udp:
            datagrams.close()

    # Compiling

    def _server(self, server: Block, logs: AccessLogs, error_log: ErrorLog) -> SessionSpec:
        proxy = server[StreamProxySettings]
        own = server[StreamServerSettings]
        tls = server[ServerTlsSettings]
        access_log = server[AccessLogSettings]
        target = proxy.pass_
        by_value = target is not None and proxy.returns is None and target.template is not None
        upstream = None
        if target is not None and proxy.returns is None and not by_value:
            upstream = self.upstreams[target.upstream]
        plain = SessionSpec(
            upstream,
            target.name if target is not None else "",
            error_log,
            log=tuple(
                logs.writer(log, access_log.cache, session_line(log.format.template, log.format.escape), render_session)
                for log in access_log.logs
            ),
            allowed=_allowed(server[AccessSettings]),
            returns=None if proxy.returns is None else render_session(proxy.returns),
            key=None if upstream is None else _key(upstream),
            connect_timeout=proxy.connect_timeout,
            timeout=proxy.timeout,
            next_upstream=proxy.next_upstream,
            next_tries=proxy.next_upstream_tries,
            next_timeout=proxy.next_upstream_timeout,
            half_close=proxy.half_close,
            buffer_size=min(proxy.buffer_size, _MOST_READ),
            proxy_protocol=proxy.protocol,
            proxy_protocol_timeout=own.proxy_protocol_timeout,
            near=None if proxy.bind is None else _near(proxy.bind),
            keepalive=proxy.socket_keepalive,
            upload_rate=compile_size(proxy.upload_rate, render_session, Session.error),
            download_rate=compile_size(proxy.download_rate, render_session, Session.error),
            tls=tls.context,
            verify=tls.verify_client,
            handshake_timeout=tls.handshake_timeout,
            peer_tls=_peer_tls(server, target.name if target is not None else ""),
            requests=proxy.requests,
            responses=proxy.responses,
        )
        steps = tuple((name, render_session(value)) for name, value in server[StreamSetSettings].steps)
        preread = server[PrereadSettings]
        if not (steps or preread.tls or by_value):
            return plain
        aim = None
        if by_value:
            assert target is not None
            assert target.template is not None

            def spec_for(upstream: Upstream, name: str) -> SessionSpec:
                return replace(
                    plain, upstream=upstream, name=name, key=_key(upstream), peer_tls=_peer_tls(server, name)
                )

            resolver = resolver_of(server)
            names = None if resolver is None else self._targets.names[resolver]
            aim = self._targets.aim(render_session(target.template), spec_for, names)
        size = preread.size if preread.tls else 0
        return replace(plain, stages=Stages(plain, steps, size, preread.timeout, aim))


def computed_of_sessions(stream: Block) -> dict[str, Callable[[Session], bytes]]:
    """What `set`, `map` and their like make: a variable that only a `set` elsewhere makes is empty."""
    settings = stream[VariableSettings]
    unset = dict.fromkeys(settings.names - settings.captured, _empty)
    return {**unset, **computed(stream, render_session, _keep_captures)}


def _empty(session: Session) -> bytes:
    return b""


def _keep_captures(session: Session, match: re.Match[bytes]) -> None:
    """$1 to $9, and named groups by their names."""
    if session.variables is None:
        session.variables = {}
    found = {str(number): match[number] or b"" for number in range(1, (match.re.groups or 0) + 1)}
    session.variables.update((name, found.get(name, b"")) for name in "123456789")
    session.variables.update((name, value or b"") for name, value in match.groupdict().items())


def _allowed(settings: AccessSettings) -> Callable[[str], bool] | None:
    if not settings.rules:
        return None
    return lru_cache(_REMEMBERED)(lambda address: is_allowed(settings, address))


def _key(upstream: Upstream) -> SessionRender | None:
    method = upstream.spec.method
    return render_session(compile_template(method.key)) if method.name == "hash" else None


def _near(template: Template) -> Callable[[Session], tuple[str, int] | None]:
    render = render_session(template)

    def near(session: Session) -> tuple[str, int] | None:
        text = render(session).decode("latin-1")
        try:
            return parse_near(text) if text else None
        except ValueError:
            session.error(f'invalid local address "{text}"')
            return None  # nginx goes on without

    return near


def _peer_tls(server: Block, target: str) -> PeerTls | None:
    settings = server[PeerTlsSettings]
    if settings.context is None:
        return None
    host = target.rpartition(":")[0].strip("[]") if ":" in target and not target.startswith("unix:") else target
    name = compile_template(host) if settings.name is None else settings.name
    return PeerTls(settings.context, render_session(name), settings.server_name)
