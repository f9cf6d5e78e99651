"""One location's settings into one compiled Location: which handlers run, in which order, with everything bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from upwell.check.report import Report
from upwell.config.model import Block
from upwell.http1.respond import SERVER, SERVER_WITHOUT_VERSION
from upwell.http1.target import escape_uri
from upwell.log import ErrorLog
from upwell.lua import phase
from upwell.modules.access import AccessSettings, compile_access, compile_gate, only_local
from upwell.modules.access_log import AccessLogSettings
from upwell.modules.auth_basic import AuthBasicSettings, UserChecks, compile_auth_basic
from upwell.modules.auth_request import AuthRequestSettings, compile_auth_request
from upwell.modules.charset import CharsetSettings, has_charset
from upwell.modules.check_status import CheckStatusSettings, compile_check_status
from upwell.modules.client_body import ClientBodySettings, body_folder
from upwell.modules.core import ErrorLogSettings, LogTarget
from upwell.modules.early_hints import EarlyHintsSettings
from upwell.modules.error_page import ErrorPageSettings, compile_error_pages
from upwell.modules.files import compile_files
from upwell.modules.headers import HeadersSettings
from upwell.modules.http import HttpSettings
from upwell.modules.limit_conn import LimitConnSettings, compile_limit_conn
from upwell.modules.limit_except import LimitExceptSettings
from upwell.modules.limit_rate import LimitRateSettings, compile_size, take_peer_rate, take_rate, tell_error
from upwell.modules.limit_req import LimitReqSettings, compile_limit_req
from upwell.modules.location import LocationSettings
from upwell.modules.lua import LuaCode, LuaSettings
from upwell.modules.mirror import MirrorSettings, compile_mirror
from upwell.modules.proxy import ProxySettings
from upwell.modules.proxy_response import ProxyResponseSettings
from upwell.modules.real_ip import RealIpSettings, compile_real_ip
from upwell.modules.redirects import compile_redirects
from upwell.modules.referer import RefererSettings, referer_variables
from upwell.modules.rewrite import RewriteLogSettings, RewriteSettings
from upwell.modules.satisfy import PASSES, SatisfySettings, join_gates
from upwell.modules.secure_link import SecureLinkSettings, secure_link_variables
from upwell.modules.server import ServerSettings
from upwell.modules.stub_status import compile_stub_status
from upwell.modules.try_files import TryFilesSettings, compile_try_files
from upwell.modules.upwell_status import UpwellStatusSettings, compile_upwell_status
from upwell.proxy.absolute import absolute
from upwell.proxy.added import adding, expiring, trailing
from upwell.proxy.keepalive import Keepalive
from upwell.proxy.limits import let_go
from upwell.proxy.location import Access, Content, Filter, Location
from upwell.proxy.phases import unless_moved
from upwell.proxy.real_ip import give_back
from upwell.proxy.variables import Variable
from upwell.runtime import proxying
from upwell.runtime.access_logs import AccessLogs
from upwell.runtime.bodies import compile_body_filters
from upwell.runtime.destinations import Destinations
from upwell.runtime.limits import Limits
from upwell.runtime.render import render
from upwell.runtime.script import Scripts
from upwell.runtime.ways import Way

if TYPE_CHECKING:
    from upwell.lua.run import Chunk
    from upwell.lua.vm import Vm
    from upwell.peers.upstream import Upstream
    from upwell.proxy.exchange import Exchange


class Compiler:
    """Makes Locations for one worker. `vm` is None in a configuration without Lua; `hooks` are for the runtime's
    ends.
    """

    __slots__ = (
        "_call_soon",
        "_census",
        "_destinations",
        "_error_logs",
        "_limits",
        "_logs",
        "_prefix",
        "_report",
        "_upstreams",
        "_user_checks",
        "_vm",
        "_ways",
    )

    def __init__(
        self,
        upstreams: Mapping[str, tuple[Upstream, Keepalive]],
        logs: AccessLogs,
        vm: Vm | None,
        error_logs: Mapping[tuple[LogTarget, ...], ErrorLog],
        destinations: Destinations,
        prefix: str,
        report: Report,
        call_soon: Callable[[Callable[[], object]], object],
        ways: Mapping[Upstream, Way],
        limits: Limits,
        census: Callable[[], Sequence[int]] | None = None,
    ) -> None:
        self._census = census
        self._user_checks: UserChecks | None = None
        self._limits = limits
        self._ways = ways
        self._call_soon = call_soon
        self._report = report
        self._prefix = prefix
        self._upstreams = upstreams
        self._destinations = destinations
        self._logs = logs
        self._vm = vm
        self._error_logs = error_logs

    def location(self, block: Block, name: str) -> Location:
        """The compiled form of a `location` block, or of a `server` block's own level; of `limit_except` too."""
        location = self._location(block, name)
        for inner in block.of("limit_except"):
            methods = inner[LimitExceptSettings].methods
            location = replace(location, methods=methods, others=self._location(inner, name))
        return location

    def _location(self, block: Block, name: str) -> Location:
        http = block[HttpSettings]
        settings = block[LocationSettings]
        proxied = block[ProxySettings].pass_
        files = compile_files(block, self._prefix, render)
        content = self._content(block, settings) or files.serve
        return Location(
            name=name,
            content=compile_try_files(block[TryFilesSettings], files, content, render),
            rewrite=self.rewrite(block) if block.kind != "server" else (),
            preaccess=self._preaccess(block),
            access=self._access(block),
            header_filters=self._header_filters(block),
            log=self._log(block),
            error_log=self._error_logs.get(block[ErrorLogSettings].logs),
            error_pages=compile_error_pages(block[ErrorPageSettings], render),
            limit_rate=compile_size(block[LimitRateSettings].rate, render, tell_error),
            limit_rate_after=compile_size(block[LimitRateSettings].after, render, tell_error),
            default_type=http.default_type.encode(),
            types={extension.encode(): media.encode() for extension, media in http.types.items()},
            signature=SERVER if http.server_tokens != "off" else SERVER_WITHOUT_VERSION,
            proxy_host=proxied.host.encode() if proxied is not None and proxied.template is None else None,
            proxy_port=proxied.port.encode() if proxied is not None else b"",
            max_body_size=http.client_max_body_size,
            body_buffer_size=http.client_body_buffer_size,
            body_folder=body_folder(block[ClientBodySettings], self._prefix),
            body_timeout=http.client_body_timeout,
            send_timeout=http.send_timeout,
            keepalive_timeout=http.keepalive_timeout,
            keepalive_line=_keepalive_line(http.keepalive_header),
            keepalive_requests=http.keepalive_requests,
            keepalive_time=http.keepalive_time,
            keepalive_min_timeout=http.keepalive_min_timeout,
            disable_msie6="msie6" in http.keepalive_disable,
            disable_safari="safari" in http.keepalive_disable,
            lingering_close=http.lingering_close,
            lingering_time=http.lingering_time,
            lingering_timeout=http.lingering_timeout,
            reset_timedout=http.reset_timedout_connection,
            internal=settings.internal or settings.is_named,
            unnamed=block.kind == "if",
            warns=block[RewriteLogSettings].warn,
            chunks=http.chunked_transfer_encoding,
            charsets=has_charset(block[CharsetSettings]),
            files=files,
            redirects=compile_redirects(block),
            variables=_variables(block),
            hide=proxying.hidden(block[ProxySettings]),
            early_hints=proxying.compile_early_hints(block[EarlyHintsSettings], block[ProxySettings]),
        )

    def slash_redirect(self, block: Block, pattern: str) -> Location:
        """The location that sends a client from the pattern without its last slash to the pattern."""
        location = self.location(block, pattern)
        address = escape_uri(pattern.encode("utf-8", "surrogateescape"))

        async def content(exchange: Exchange) -> None:
            whole = address + b"?" + exchange.args if exchange.args else address
            exchange.respond_error(301, ((b"Location", absolute(exchange, whole)),))

        # nginx sends the client on before any phase of the location.
        return replace(location, content=content, others=None, rewrite=(), preaccess=(), access=())

    def _chunk(self, code: LuaCode) -> tuple[Vm, Chunk]:
        assert self._vm is not None  # a configuration with Lua code has one
        return self._vm, self._vm.compile(code.source, code.chunk)

    def _content(self, block: Block, settings: LocationSettings) -> Content | None:
        """What answers in a location; None: files."""
        if settings.handler == "content_by_lua":
            code = block[LuaSettings].content
            assert code is not None
            return phase.content_handler(*self._chunk(code))
        if settings.handler == "proxy_pass":
            return proxying.compile_forward(block, self._upstreams, self._destinations, self._ways)
        if settings.handler == "check_status":
            return compile_check_status(block[CheckStatusSettings], self._report)
        if settings.handler == "upwell_status":
            return compile_upwell_status(block[UpwellStatusSettings], self._report, self._call_soon)
        if settings.handler == "stub_status":
            assert self._census is not None  # where there is such a page, there is something to tell
            return compile_stub_status(self._census)
        return None

    def rewrite(self, block: Block) -> tuple[Access, ...]:
        """The handlers of the rewrite phase of this very level."""
        steps: list[Access] = []
        scripted = bool(block[RewriteSettings].steps)
        if scripted and block.kind != "if":  # the steps of an `if` are among those of the level around it
            scripts = Scripts(
                lambda inner: self.location(inner, block[LocationSettings].pattern),
                lambda step: phase.set_handler(*self._chunk(step.code)),
            )
            steps.append(scripts.handler(block))
        code = block[LuaSettings].rewrite
        if code is not None and block.kind != "server":
            handler = phase.rewrite_handler(*self._chunk(code))
            steps.append(unless_moved(handler) if scripted and block.kind != "if" else handler)
        return tuple(steps)

    def _access(self, block: Block) -> tuple[Access, ...]:
        """The gates in nginx's order, Lua code last as in OpenResty."""
        together = block[SatisfySettings]
        passes = PASSES if together.any else None
        gates: list[Access] = []
        rules = (compile_gate if together.any else compile_access)(block[AccessSettings])
        if rules is not None:
            gates.append(rules)
        basic = block[AuthBasicSettings]
        if basic.asks:
            if self._user_checks is None:
                self._user_checks = UserChecks()
            gates.append(compile_auth_basic(basic, render, self._user_checks, passes))
        request = block[AuthRequestSettings]
        if request.uri:
            gates.append(compile_auth_request(request, render, passes))
        code = block[LuaSettings].access
        page = block[LocationSettings].handler
        # Lua code is no rule here: that of a level further out may look at every request and decide nothing.
        first = (only_local(page),) if not gates and page in _PAGES else ()
        if code is not None:
            decides = together.any or together.delay > 0
            gates.append(phase.access_handler(*self._chunk(code), passes, decides))
        return (*first, *join_gates(together, gates), *compile_mirror(block[MirrorSettings]))

    def _preaccess(self, block: Block) -> tuple[Access, ...]:
        """What comes before the rules of access, in nginx's order."""
        handlers: list[Access] = []
        outer = block.around("server")
        believed = block[RealIpSettings]
        if believed != outer[RealIpSettings] or block[RewriteSettings].steps or block[LuaSettings].rewrite is not None:
            # Else the server has seen to it, before anything else.
            take = compile_real_ip(believed)
            if take is not None:
                handlers.append(take)
        rates = compile_limit_req(block[LimitReqSettings], self._limits.rates, render)
        if rates is not None:
            handlers.append(rates.check)
        counts = compile_limit_conn(block[LimitConnSettings], self._limits.counts, render)
        if counts is not None:
            handlers.append(counts.check)
        return tuple(handlers)

    def _header_filters(self, block: Block) -> tuple[Filter, ...]:
        filters: list[Filter] = []
        code = block[LuaSettings].header_filter
        if code is not None:
            filters.append(phase.header_filter(*self._chunk(code)))
        headers = block[HeadersSettings]
        if headers.expires.kind != "off":
            filters.append(expiring(headers.expires.kind, headers.expires.seconds))
        if headers.added:
            filters.append(adding([(one.name.encode(), render(one.value), one.always) for one in headers.added]))
        filters.extend(compile_body_filters(block))
        if headers.trailers:
            filters.append(trailing([(one.name.encode(), render(one.value), one.always) for one in headers.trailers]))
        if compile_size(block[LimitRateSettings].rate, render, tell_error) is not None:
            filters.append(take_rate)
        of_peer = compile_size(block[ProxyResponseSettings].limit_rate, render, tell_error)
        if of_peer is not None and block[ProxySettings].buffering:
            filters.append(take_peer_rate(of_peer))
        return tuple(filters)

    def _log(self, block: Block) -> tuple[Filter, ...]:
        settings = block[AccessLogSettings]
        handlers = [self._logs.handler(log, settings.cache) for log in settings.logs]
        code = block[LuaSettings].log
        if code is not None:
            handlers.append(phase.log_handler(*self._chunk(code)))
        # A request may come here from any location of the server, by an internal redirect.
        server = block.around("server")
        if server in self._limits.counting:
            handlers.insert(0, let_go)
        if server in self._limits.believing:
            handlers.append(give_back)
        return tuple(handlers)


def _variables(block: Block) -> dict[str, Variable]:
    found = secure_link_variables(block[SecureLinkSettings], render)
    return found | referer_variables(block[RefererSettings], block.around("server")[ServerSettings])


_PAGES = frozenset(("upwell_status", "check_status"))
"""The handlers that tell of the inside; closed to the outside where nothing says who may see them."""


def _keepalive_line(seconds: float | None) -> bytes:
    """What an answer says on a connection that lives on (the second argument of keepalive_timeout)."""
    line = b"Connection: keep-alive\r\n"
    return line + b"Keep-Alive: timeout=%d\r\n" % seconds if seconds else line
