"""`proxy_pass` and its family into one ForwardSpec: which bytes go to the peer, and what becomes of its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from upwell.config.model import Block
from upwell.config.template import Template
from upwell.http1.target import escape_uri, one_target
from upwell.modules.early_hints import EarlyHintsSettings
from upwell.modules.error_page import ErrorPageSettings
from upwell.modules.location import LocationSettings
from upwell.modules.proxy import ProxySettings, Redirect, default_redirect
from upwell.modules.proxy_cookie import ProxyCookieSettings, compile_cookies
from upwell.modules.proxy_request import ProxyRequestSettings
from upwell.modules.proxy_response import ProxyResponseSettings
from upwell.modules.proxy_socket import ProxySocketSettings
from upwell.modules.replacement import by_front, whole_by_regex
from upwell.modules.resolver import resolver_of
from upwell.modules.rewrite import may_stop
from upwell.proxy.absolute import absolute
from upwell.proxy.accel import OBEYED
from upwell.proxy.answer import HIDDEN
from upwell.proxy.answer import Redirect as Redirecting
from upwell.proxy.destination import host_of_destination, path_of_destination
from upwell.proxy.forward import ForwardSpec, forward
from upwell.proxy.hints import Hints, hinting
from upwell.proxy.keepalive import Keepalive
from upwell.proxy.location import Content
from upwell.proxy.request import as_before_tries, method_renderer, path_as_sent, request_renderer
from upwell.proxy.trailers import passing
from upwell.proxy.upstream import Limits
from upwell.runtime.choosing import chooser
from upwell.runtime.destinations import Destinations, forward_by_value
from upwell.runtime.dials import by_dial, by_upstream, secured
from upwell.runtime.render import Render, constant_or_render, render
from upwell.runtime.ways import Way

if TYPE_CHECKING:
    from upwell.peers.upstream import Upstream
    from upwell.proxy.exchange import Exchange


_USUAL_SOCKETS = ProxySocketSettings()


def compile_forward(
    block: Block,
    upstreams: Mapping[str, tuple[Upstream, Keepalive]],
    destinations: Destinations,
    ways: Mapping[Upstream, Way],
) -> Content:
    """The content handler of a location with `proxy_pass`."""
    proxy, settings, asked = block[ProxySettings], block[LocationSettings], block[ProxyRequestSettings]
    target = proxy.pass_
    assert target is not None
    by_value = target.template is not None
    fields: list[tuple[bytes, bytes | Render]] = [
        (name.encode(), _asked(value) if value.literal is None else constant_or_render(value))
        for name, value in proxy.set_headers
    ]
    given = {name.lower() for name, _ in fields}
    if b"host" not in given:
        fields.append((b"Host", host_of_destination if by_value else target.host.encode()))
    path: Render = path_of_destination if by_value else path_as_sent
    if target.uri is not None:
        path = _replaced_path(settings, target.uri)
        if may_stop(block):
            path = _path_unless_stopped(path)
    method = None if asked.method is None else method_renderer(_asked(asked.method))
    instead = _content(asked)
    hide = hidden(proxy)
    sizes = (proxy.buffer_size, proxy.buffers[0] * proxy.buffers[1])
    spec_of = partial(
        ForwardSpec,
        request_head=request_renderer(
            path,
            fields,
            version=b"1.1" if proxy.http_version == 11 else b"1.0",
            method=method,
            passes_fields=asked.pass_headers,
        ),
        request_path=path,
        hide=hide,
        limits=Limits(
            connect_timeout=proxy.connect_timeout,
            read_timeout=proxy.read_timeout,
            send_timeout=proxy.send_timeout,
            head_size=proxy.buffer_size,
            buffered=sizes[proxy.buffering],
            tcp_keepalive=proxy.socket_keepalive,
            trailers=passing(hide) if proxy.pass_trailers else None,
        ),
        next_on=frozenset() if "off" in proxy.next_upstream else proxy.next_upstream,
        next_tries=proxy.next_upstream_tries,
        next_timeout=proxy.next_upstream_timeout,
        redirect=_redirects(block),
        keeps=proxy.http_version == 11,
        request_buffering=proxy.request_buffering or instead is not None,
        ignore_client_abort=proxy.ignore_client_abort,
        upgrade=_upgrade(proxy),
        method=method,
        content=instead,
        announces=asked.body is not None,
        cookies=compile_cookies(block[ProxyCookieSettings], render),
        obeyed=OBEYED - {name.encode() for name in block[ProxyResponseSettings].ignore_headers},
        intercepted=_intercepted(block),
        hold=sizes,
    )

    def make(upstream: Upstream, keepalive: Keepalive) -> ForwardSpec:
        way = ways.get(upstream)
        if way is None:
            return spec_of(upstream, keepalive, choose=chooser(upstream))
        return spec_of(upstream, keepalive, choose=way.choose, heard=way.heard, ended=way.ended, queue=way.queue)

    sockets = block[ProxySocketSettings]
    tls = None if target.secure is False else secured(block)
    plain = by_dial(sockets, None, make, destinations) if sockets != _USUAL_SOCKETS else by_upstream(make)
    choose = plain if tls is None else by_dial(sockets, tls, make, destinations)
    if target.template is not None:
        resolver = resolver_of(block)
        names = None if resolver is None else destinations.names[resolver]
        ways_to = {False: plain, True: choose}
        return forward_by_value(render(target.template), destinations, ways_to, names, not proxy.ignore_client_abort)
    found = upstreams[target.upstream]
    if sockets != _USUAL_SOCKETS or tls is not None:
        return lambda exchange: forward(exchange, choose(exchange, *found))
    spec = make(*found)

    def content(exchange: Exchange) -> object:
        return forward(exchange, spec)

    return content  # type: ignore[return-value]  # it returns forward()'s coroutine, one coroutine less to make


def hidden(proxy: ProxySettings) -> frozenset[bytes]:
    """The response fields (lower case) that a location does not pass on."""
    return frozenset(
        (HIDDEN | {name.encode() for name in proxy.hide_headers}) - {name.encode() for name in proxy.pass_headers}
    )


def compile_early_hints(settings: EarlyHintsSettings, proxy: ProxySettings) -> Hints | None:
    """What a location does with a 103; None: nothing."""
    values = [render(value) for value in settings.values if value.literal not in ("", "0")]
    if not values:
        return None

    def wanted(exchange: Exchange) -> bool:
        return any(value(exchange) not in (b"", b"0") for value in values)

    return hinting(wanted, hidden(proxy))


def _asked(template: Template) -> Render:
    """`render` for what goes into a request to a peer."""
    value = render(template)
    if any(name.startswith("upstream_") for name in template.variables):
        return as_before_tries(value)
    return value


def _upgrade(proxy: ProxySettings) -> Callable[[Exchange], bytes] | None:
    """The value of the Upgrade field that `proxy_set_header` sends; None when it never does."""
    values = [_asked(value) for name, value in proxy.set_headers if name.lower() == "upgrade" and value.literal != ""]
    if not values:
        return None
    if len(values) == 1:
        return values[0]
    return lambda exchange: b"".join([value(exchange) for value in values])


def _content(asked: ProxyRequestSettings) -> Render | None:
    """What is sent in place of the client's content (proxy_set_body, proxy_pass_request_body); None: that itself."""
    if asked.body is not None:
        return _asked(asked.body)
    return None if asked.pass_body else render(Template(()))


def _intercepted(block: Block) -> frozenset[int]:
    """The statuses that an error page of the location answers in the peer's place (proxy_intercept_errors)."""
    if not block[ProxyResponseSettings].intercept_errors:
        return frozenset()
    return frozenset(page.status for page in block[ErrorPageSettings].pages)


def _replaced_path(settings: LocationSettings, uri: str) -> Callable[[Exchange], bytes]:
    """The target for `proxy_pass http://x/uri`: the part of the path that the location matched is replaced."""
    front = one_target(uri.encode("utf-8", "surrogateescape"))
    length = len(settings.pattern.encode())

    def path(exchange: Exchange) -> bytes:
        rest = exchange.uri[length:]
        whole = front + (escape_uri(rest) if exchange.quoted else rest)
        return whole + b"?" + exchange.args if exchange.args else whole

    return path


def _path_unless_stopped(path: Render) -> Render:
    """`path` for requests that met no `break`: behind one, the new URI is the target as it is."""
    return lambda exchange: path(exchange) if exchange.located else exchange.path


def _redirects(block: Block) -> Redirecting | None:
    """nginx's proxy_redirect: what becomes of a Location or Refresh value; None when nothing ever changes."""
    proxy, settings = block[ProxySettings], block[LocationSettings]
    pairs = proxy.redirects
    if pairs is None:
        pair = default_redirect(proxy, settings)
        if block.kind == "if" and block.parent is not None:  # whose own default is that of the level around it
            pair = default_redirect(block.parent[ProxySettings], settings) or pair
        pairs = () if pair is None else (pair,)
    if not pairs:
        return None
    compiled = [_redirect(pair) for pair in pairs]

    def rewrite(exchange: Exchange, name: bytes, value: bytes) -> bytes:
        front, address = b"", value
        if name == b"refresh":  # "5; url=http://..."
            at = value.lower().find(b"url=")
            if at < 0:
                return value
            front, address = value[: at + 4], value[at + 4 :]
        for one in compiled:
            changed = one(exchange, address)
            if changed is not None:
                return front + changed if front else absolute(exchange, changed)
        return value

    return rewrite


def _redirect(pair: Redirect) -> Callable[[Exchange, bytes], bytes | None]:
    replacement = render(pair.replacement)
    if pair.regex is not None:
        return whole_by_regex(pair.regex, replacement)
    assert pair.source is not None
    return by_front(render(pair.source), replacement)
