"""`proxy_pass` and its family: what to forward, where, and with which fields and time-outs. Forwarding is proxy/'s."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field, replace

from upwell.config.command import Module, command, words
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL, OWN
from upwell.config.model import Block
from upwell.config.slots import buffers, flag, number, once, size, time, words_of
from upwell.config.template import Template
from upwell.errors import ConfigError, Position
from upwell.modules.address import Address, parse_address
from upwell.modules.location import PLACES, LocationSettings
from upwell.modules.replacement import read_regex
from upwell.modules.tls import close_peer_tls, peer_commands
from upwell.modules.upstream import find_upstream, implicit_upstream
from upwell.proxy.tls import ClientTls

_LEVELS = "http server location"
_OUTCOMES = words(
    """error timeout invalid_header non_idempotent http_500 http_502 http_503 http_504 http_403 http_404 http_429
    updating off"""
)
DEFAULT_PORTS = {False: 80, True: 443}
_FRAMING = ("content-length", "transfer-encoding")


@dataclass(frozen=True, slots=True)
class ProxyPass:
    """One `proxy_pass`. `upstream` names an UpstreamSpec of the http block; `host` and `port` are $proxy_host and
    $proxy_port; `uri` replaces the part of the request's URI that the location matched, None: it is passed as it came.
    With variables in it there is a `template`, and all but `url` comes out at each request. `secure` says that peers
    speak TLS ("https://"), None: a request will tell.
    """

    url: str
    upstream: str
    host: str
    port: str
    uri: str | None
    position: Position
    template: Template | None = None
    secure: bool | None = False


@dataclass(frozen=True, slots=True)
class Redirect:
    """One `proxy_redirect`: `source` (or `regex`) at the front of Location and Refresh becomes `replacement`."""

    source: Template | None
    regex: re.Pattern[bytes] | None
    replacement: Template


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """ngx_http_proxy_module. Times in seconds, sizes in bytes; 0 in `next_upstream_tries`/`_timeout` is no limit.

    `set_headers` are the fields of `proxy_set_header` (an empty value means: do not send the field); nginx's own
    defaults (Host, Connection) are not in it. `next_upstream` holds nginx's words; "off" among them means none.
    `redirects` None means `default` (see `default_redirect`), () means off. `http_version` is 10 or 11.
    """

    pass_: ProxyPass | None = field(default=None, metadata=LOCAL)
    set_headers: tuple[tuple[str, Template], ...] = ()
    connect_timeout: float = 60.0
    send_timeout: float = 60.0
    read_timeout: float = 60.0
    next_upstream: frozenset[str] = frozenset(("error", "timeout"))
    next_upstream_tries: int = 0
    next_upstream_timeout: float = 0.0
    http_version: int = 11
    buffering: bool = True
    buffer_size: int = 4096
    buffers: tuple[int, int] = (8, 4096)
    request_buffering: bool = True
    pass_headers: tuple[str, ...] = ()
    hide_headers: tuple[str, ...] = ()
    redirects: tuple[Redirect, ...] | None = None
    socket_keepalive: bool = False
    ignore_client_abort: bool = False
    pass_trailers: bool = False


@dataclass(frozen=True, slots=True)
class _Pending:
    """A `proxy_pass` whose upstream is looked up when the whole http block is known."""

    address: Address | None = field(default=None, metadata=OWN)


def default_redirect(settings: ProxySettings, location: LocationSettings) -> Redirect | None:
    """The pair that `proxy_redirect default` stands for; None where nginx has none (no or a regex location)."""
    target = settings.pass_
    if target is None or target.template is not None or location.is_regex:
        return None
    if target.uri is None:
        return Redirect(Template((f"{target.url}/",)), None, Template(("/",)))
    return Redirect(Template((target.url,)), None, Template((location.pattern,)))


def _proxy_pass(block: Block, directive: Directive) -> None:
    once(block, directive, ProxySettings, "pass_")
    url = directive.args[0]
    lower = url.lower()
    secure = lower.startswith("https://")
    if "$" in url:
        told = secure or (False if lower.startswith("http://") else None)
        target = ProxyPass(url, "", "", "", None, directive.place(0), block.template(directive, 0), told)
        block.set(ProxySettings, "pass_", target)
        block.set(LocationSettings, "handler", "proxy_pass")
        return
    if not secure and not lower.startswith("http://"):
        raise directive.error("invalid URL prefix", 0)
    rest = url[8 if secure else 7 :]
    default_port = DEFAULT_PORTS[secure]
    try:
        address = parse_address(rest, with_uri=True)
    except ValueError as error:
        raise directive.error(f'{error} in upstream "{rest}"', 0) from None
    location = block[LocationSettings]
    if address.uri and (location.is_regex or location.is_named or block.kind != "location"):
        raise directive.error(
            '"proxy_pass" cannot have URI part in location given by regular expression, or inside named location, '
            'or inside "if" statement, or inside "limit_except" block',
            0,
        )
    host = f"[{address.host}]" if address.is_ipv6 else address.host
    if address.path:
        name, proxy_host, port = f"unix:{address.path}", "localhost", ""
    else:
        name = f"{host}:{address.port}" if address.port else host
        proxy_host = name if address.port not in (0, default_port) else host
        port = str(address.port or default_port)
    target = ProxyPass(url, name, proxy_host, port, address.uri or None, directive.place(0), secure=secure)
    block.set(ProxySettings, "pass_", target)
    block.set(_Pending, "address", address)
    block.set(LocationSettings, "handler", "proxy_pass")


def hand_on(location: Block, inner: Block) -> None:
    """Have a block inside a location pass its requests to where the location passes them, unless it says otherwise."""
    own = location.own(ProxySettings)
    if "pass_" in own and not inner[LocationSettings].handler:
        inner.set(ProxySettings, "pass_", own["pass_"])
        inner.set(_Pending, "address", location[_Pending].address)
        inner.set(LocationSettings, "handler", "proxy_pass")


def _close_http(block: Block) -> None:
    """Find the upstream of each `proxy_pass`; make one where an address is meant."""
    made: dict[ClientTls, ssl.SSLContext] = {}
    for inner in block.walk():
        if inner.kind not in PLACES or "pass_" not in inner.own(ProxySettings):
            continue
        target, address = inner[ProxySettings].pass_, inner[_Pending].address
        if target is not None and target.secure is not False:
            _secure(inner, made)
        if target is None or address is None:
            continue
        found = None if address.path else find_upstream(block, address.host)
        try:
            if found is None:
                name = target.upstream
                if target.secure and not address.port and not address.path:
                    name = f"{name}:{DEFAULT_PORTS[True]}"  # not the one of http:// to the same host
                    inner.set(ProxySettings, "pass_", replace(target, upstream=name))
                implicit_upstream(block, name, address, DEFAULT_PORTS[bool(target.secure)])
            elif address.port:
                raise ConfigError(f'upstream "{found.name}" may not have port {address.port}', target.position)
            else:
                inner.set(ProxySettings, "pass_", replace(target, upstream=found.name))
        except ValueError as error:
            shown = address.host or target.upstream
            block.loading.errors.append(ConfigError(f'{error} in upstream "{shown}"', target.position))
        except ConfigError as error:
            block.loading.errors.append(error)


def _secure(location: Block, made: dict[ClientTls, ssl.SSLContext]) -> None:
    """Make the TLS context of a location whose peers speak TLS, once for all that say the same."""
    try:
        close_peer_tls(location, made)
    except ConfigError as error:
        location.loading.errors.append(error)


def _set_header(block: Block, directive: Directive) -> None:
    if directive.args[0].lower() in _FRAMING and directive.args[1]:
        # What nginx would send for it could end the content in another place than where it ends.
        message = f'"proxy_set_header {directive.args[0]}" is ignored, upwell says itself how long the content is'
        block.loading.warnings.append(directive.error(message, 0))
    block.append(ProxySettings, "set_headers", (directive.args[0], block.template(directive, 1)))


def _http_version(block: Block, directive: Directive) -> None:
    once(block, directive, ProxySettings, "http_version")
    text = directive.args[0]
    if text == "2":
        raise directive.error('"proxy_http_version 2" is not supported by upwell', 0)
    if text not in ("1.0", "1.1"):
        raise directive.error(f'invalid value "{text}"', 0)
    block.set(ProxySettings, "http_version", 10 if text == "1.0" else 11)


def _buffers(block: Block, directive: Directive) -> None:
    buffers(ProxySettings, "buffers")(block, directive)
    if block[ProxySettings].buffers[0] < 2:
        raise directive.error('there must be at least 2 "proxy_buffers"', 0)


def _pass_header(block: Block, directive: Directive) -> None:
    block.append(ProxySettings, "pass_headers", directive.args[0].lower())


def _hide_header(block: Block, directive: Directive) -> None:
    block.append(ProxySettings, "hide_headers", directive.args[0].lower())


def _redirect(block: Block, directive: Directive) -> None:
    own = block.own(ProxySettings)
    known = own.get("redirects", ())
    first = directive.args[0]
    if known is None or ("redirects" in own and not known):
        raise directive.error(f'"{directive.name}" directive is duplicate')
    if len(directive.args) == 1:
        if first == "off":
            if known:
                raise directive.error(f'"{directive.name}" directive is duplicate')
            own["redirects"] = ()
            return
        if first != "default":
            raise directive.error(f'invalid parameter "{first}"', 0)
        target = own.get("pass_")
        if target is None:
            raise directive.error('"proxy_redirect default" should be placed after the "proxy_pass" directive')
        if target.template is not None:
            raise directive.error('"proxy_redirect default" cannot be used with "proxy_pass" directive with variables')
        pair = default_redirect(block[ProxySettings], block[LocationSettings])
        if pair is None:
            raise directive.error('"proxy_redirect default" cannot be used in a location given by regular expression')
        own["redirects"] = (*known, pair)
        return
    replacement = block.template(directive, 1)
    if first.startswith("~"):
        caseless = first.startswith("~*")
        regex = read_regex(block, directive, first[2 if caseless else 1 :], caseless)
        own["redirects"] = (*known, Redirect(None, regex, replacement))
    else:
        own["redirects"] = (*known, Redirect(block.template(directive, 0), None, replacement))


MODULE = Module(
    "proxy",
    (
        command("proxy_pass", "location if limit_except", 1, _proxy_pass),
        command("proxy_set_header", _LEVELS, 2, _set_header),
        command("proxy_connect_timeout", _LEVELS, 1, time(ProxySettings, "connect_timeout")),
        command("proxy_send_timeout", _LEVELS, 1, time(ProxySettings, "send_timeout")),
        command("proxy_read_timeout", _LEVELS, 1, time(ProxySettings, "read_timeout")),
        command("proxy_next_upstream", _LEVELS, (1, None), words_of(ProxySettings, "next_upstream", _OUTCOMES)),
        command("proxy_next_upstream_tries", _LEVELS, 1, number(ProxySettings, "next_upstream_tries")),
        command("proxy_next_upstream_timeout", _LEVELS, 1, time(ProxySettings, "next_upstream_timeout")),
        command("proxy_http_version", _LEVELS, 1, _http_version),
        command("proxy_buffering", _LEVELS, 1, flag(ProxySettings, "buffering")),
        command("proxy_buffer_size", _LEVELS, 1, size(ProxySettings, "buffer_size")),
        command("proxy_buffers", _LEVELS, 2, _buffers),
        command("proxy_request_buffering", _LEVELS, 1, flag(ProxySettings, "request_buffering")),
        command("proxy_pass_header", _LEVELS, 1, _pass_header),
        command("proxy_pass_trailers", _LEVELS, 1, flag(ProxySettings, "pass_trailers")),
        command("proxy_hide_header", _LEVELS, 1, _hide_header),
        command("proxy_redirect", _LEVELS, (1, 2), _redirect),
        *(one for one in peer_commands(_LEVELS) if one.name != "proxy_ssl"),
        command("proxy_socket_keepalive", _LEVELS, 1, flag(ProxySettings, "socket_keepalive")),
        command("proxy_ignore_client_abort", _LEVELS, 1, flag(ProxySettings, "ignore_client_abort")),
    ),
    {"http": _close_http},
    options=("http_proxy_module",),
)
