"""nginx's $variables of an exchange, by name: what templates, the access log and Lua read.

Each is a function of the exchange that gives bytes, or None for "not found". They are looked up at load time; nothing
is parsed here at request time but what the variable itself says.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from upwell.http1.respond import REASONS
from upwell.proxy import file_variables, tls_variables
from upwell.proxy.answer import HELD_ONCE
from upwell.proxy.clock import ssi_date
from upwell.proxy.credentials import credentials
from upwell.proxy.limits import status_of_count, status_of_rate
from upwell.proxy.proxy_protocol import field_of
from upwell.proxy.real_ip import came_from
from upwell.proxy.sockets import RECEIVE_SPACE, RTT, RTT_VARIANCE, SEND_WINDOW, tcp_info
from upwell.proxy.upstream import Try
from upwell.version import NGINX_VERSION

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

Variable = Callable[["Exchange"], "bytes | None"]

_STATUS_TEXT: Final = {status: b"%d" % status for status in REASONS}
_HOSTNAME: Final = socket.gethostname().lower().encode()


def find(name: str) -> Variable | None:
    """The function of $`name`; None when there is no such variable."""
    known = VARIABLES.get(name)
    if known is not None:
        return known
    if name in "123456789" and len(name) == 1:
        return _capture(int(name))
    for prefix, make in PREFIXES.items():
        if name.startswith(prefix):
            return make(name[len(prefix) :].lower())
    return None


# Families


def _request_field(name: str) -> Variable:
    wanted = name.replace("_", "-").encode()
    return lambda exchange: exchange.values.get(wanted)


def _sent_field(name: str) -> Variable:
    wanted = name.replace("_", "-").encode()

    def sent(exchange: Exchange) -> bytes | None:
        return exchange.sent_field(wanted)

    return sent


def _upstream_field(name: str) -> Variable:
    wanted = name.replace("_", "-").encode()
    missing = b"" if name in ("date", "server") else None  # which nginx makes up for a peer that does not send them
    if wanted in HELD_ONCE:

        def first(exchange: Exchange) -> bytes | None:
            answered = exchange.answered
            if answered is None:
                return None
            value = answered.first(wanted)
            return missing if value is None else value

        return first

    def upstream(exchange: Exchange) -> bytes | None:
        answered = exchange.answered
        return None if answered is None else answered.values.get(wanted, missing)

    return upstream


def argument(exchange: Exchange, name: bytes) -> bytes | None:
    """The first argument of the request line called `name` (lower case; its own case does not matter), as it came."""
    for pair in exchange.args.split(b"&"):
        key, equals, value = pair.partition(b"=")
        if equals and key.lower() == name:
            return value
    return None


def _argument(name: str) -> Variable:
    wanted = name.encode()
    return lambda exchange: argument(exchange, wanted)


def _cookie(name: str) -> Variable:
    # As nginx reads it: a name has no case, and there may be spaces around "=".
    wanted = re.compile(rb"(?:^|;) *%b *= *([^;]*)" % re.escape(name.encode()), re.IGNORECASE)

    def cookie(exchange: Exchange) -> bytes | None:
        field = exchange.values.get(b"cookie")
        found = None if field is None else wanted.search(field)
        return None if found is None else found[1]

    return cookie


def _upstream_cookie(name: str) -> Variable:
    wanted = re.compile(rb"%b *= *([^;]*)" % re.escape(name.encode()), re.IGNORECASE)

    def cookie(exchange: Exchange) -> bytes | None:
        if exchange.answered is None:
            return None
        for key, value in exchange.answered.fields:
            if key == b"set-cookie":
                found = wanted.match(value)
                if found is not None:
                    return found[1]
        return None

    return cookie


def _capture(number: int) -> Variable:
    def capture(exchange: Exchange) -> bytes | None:
        match = exchange.match
        if match is None or number > match.re.groups:
            return None
        return match[number]

    return capture


def _upstream_trailer(name: str) -> Variable:
    wanted = name.replace("_", "-").encode()
    return lambda exchange: None if exchange.trailers is None else exchange.trailers.received.get(wanted)


def _sent_trailer(name: str) -> Variable:
    wanted = name.replace("_", "-").encode()
    return lambda exchange: None if exchange.trailers is None else exchange.trailers.sent.get(wanted)


def _introduced(index: int) -> Variable:
    def value(exchange: Exchange) -> bytes | None:
        told = exchange.client.introduced
        return None if told is None else str(told[index] or "").encode()

    return value


def _introduced_field(name: str) -> Variable:
    find = field_of(name)
    return lambda exchange: find(exchange.client.introduced)


PREFIXES: dict[str, Callable[[str], Variable]] = {
    "upstream_http_": _upstream_field,
    "upstream_cookie_": _upstream_cookie,
    "sent_http_": _sent_field,
    "upstream_trailer_": _upstream_trailer,
    "sent_trailer_": _sent_trailer,
    "http_": _request_field,
    "proxy_protocol_tlv_": _introduced_field,
    "cookie_": _cookie,
    "arg_": _argument,
}

_NOBODY: Final = Try("", None, 0.0)
"""What stands for an upstream in which no peer was found, where another one answered later."""

# Single ones


def _remote_user(exchange: Exchange) -> bytes | None:
    given = credentials(exchange)
    return None if given is None else given[0]


def _request_uri(exchange: Exchange) -> bytes | None:
    if not exchange.uri:
        return None  # a request that was refused for its target
    if not exchange.target.startswith((b"http", b"HTTP")):
        return exchange.target
    parsed = exchange.head.parsed
    return exchange.path if parsed is None else parsed.path


def _seconds(value: float) -> bytes:
    return b"%.3f" % max(value, 0.0)


def _request_time(exchange: Exchange) -> bytes:
    return _seconds(exchange.client.loop.time() - exchange.started)


def _request_length(exchange: Exchange) -> bytes:
    body = exchange.body
    return b"%d" % (exchange.head.end + (body.received if body is not None and body.read else 0))


def _content_length(exchange: Exchange) -> bytes | None:
    body = exchange.body
    if body is not None and body.announced is None:
        return b"%d" % (body.total if body.read else 0)
    return exchange.head.section.values.get(b"content-length")


def _request_id(exchange: Exchange) -> bytes:
    if exchange.variables is None:
        exchange.variables = {}
    return exchange.variables.setdefault("request_id", secrets.token_hex(16).encode())


def _forwarded_for(exchange: Exchange) -> bytes:
    known = exchange.values.get(b"x-forwarded-for")
    address = exchange.client.address.encode()
    return address if known is None else known + b", " + address


def _binary_address(exchange: Exchange) -> bytes:
    address = exchange.client.address
    if address == "unix:":
        return address.encode()
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _over_tries(of: Callable[[Try], bytes]) -> Variable:
    """A value for each try at a peer, joined as nginx joins them."""

    def values(exchange: Exchange) -> bytes | None:
        tries = exchange.tries
        if not tries:
            return None
        if exchange.groups:
            joined = _in_groups([of(one) for one in tries], exchange.groups)
            return joined if exchange.groups[0] else of(_NOBODY) + b", " + joined
        return b", ".join([of(one) for one in tries])

    return values


def _queue_time(exchange: Exchange) -> bytes | None:
    """How long each try was queued for its peer."""
    tries = exchange.tries
    if not tries:
        return None
    waits = exchange.waits or {}
    values = [_seconds(waits[index]) if index in waits else b"-" for index in range(len(tries))]
    if exchange.groups:
        joined = _in_groups(values, exchange.groups)
        return joined if exchange.groups[0] else b"-, " + joined
    return b", ".join(values)


def _in_groups(values: list[bytes], starts: tuple[int, ...]) -> bytes:
    """nginx puts " : " where an internal redirect has led to another upstream."""
    out = values[0]
    for index, value in enumerate(values[1:], 1):
        out += (b" : " if index in starts else b", ") + value
    return out


def _span(start: str, end: str) -> Callable[[Try], bytes]:
    def span(one: Try) -> bytes:
        until: float = getattr(one, end)
        return b"-" if not until else _seconds(until - getattr(one, start))

    return span


def _request_port(exchange: Exchange) -> bytes:
    target = exchange.head.parsed
    host = exchange.values.get(b"host", b"") if target is None or target.host is None else target.host
    _, colon, port = host.rpartition(b":")
    return port if colon and port.isdigit() else b""


def _server_protocol(exchange: Exchange) -> bytes | None:
    protocol = exchange.head.line[-8:]
    return protocol if exchange.head.method and protocol.startswith(b"HTTP/") else None


def _date_local(_: Exchange) -> bytes:
    now = time.localtime()
    return ssi_date(now, now.tm_zone)


def _sent_status(exchange: Exchange) -> bytes:
    return _STATUS_TEXT.get(exchange.status) or b"%03d" % exchange.status


def _request_body(exchange: Exchange) -> bytes | None:
    body = exchange.body
    if body is None:
        return b"" if exchange.proxying and exchange.head.section.content_length == 0 else None
    return body.content() if body.complete and body.read and body.file is None else None


def _request_body_file(exchange: Exchange) -> bytes | None:
    body = exchange.body
    return None if body is None or body.file is None else os.fsencode(body.file.path)


def _proxy_host(exchange: Exchange) -> bytes | None:
    if not exchange.proxying:
        return None
    destination = exchange.destination
    return exchange.location.proxy_host if destination is None else destination.host


def _limit_rate(exchange: Exchange) -> bytes:
    rate = exchange.limit_rate
    if rate is None:
        of_location = exchange.location.limit_rate
        rate = 0 if of_location is None else of_location(exchange)
    return b"%d" % rate


def _proxy_port(exchange: Exchange) -> bytes | None:
    if not exchange.proxying:
        return None
    destination = exchange.destination
    if destination is not None:
        return destination.port
    return None if exchange.location.proxy_host is None else exchange.location.proxy_port


def _of_location(name: str) -> Variable:
    """One that the request's location works out, once for a request."""

    def value(exchange: Exchange) -> bytes | None:
        made = exchange.variables
        if made is not None and name in made:
            return made[name]
        compute = exchange.location.variables.get(name)
        found = None if compute is None else compute(exchange)
        if found is not None:
            if exchange.variables is None:
                exchange.variables = {}
            exchange.variables[name] = found
        return found

    return value


def _of_worker(name: str) -> Variable:
    """One that the worker works out, where the configuration names it."""

    def value(exchange: Exchange) -> bytes | None:
        compute = exchange.client.endpoint.computed.get(name)
        return None if compute is None else compute(exchange)

    return value


def _tcp_info(offset: int) -> Variable:
    def info(exchange: Exchange) -> bytes | None:
        number = tcp_info(exchange.client.transport, offset)
        return None if number is None else b"%d" % number

    return info


def _msie(exchange: Exchange) -> bytes:
    agent = exchange.values.get(b"user-agent", b"")
    return b"1" if 0 <= agent.find(b"MSIE ") < len(agent) - 7 else b""


VARIABLES: dict[str, Variable] = {
    "ancient_browser": lambda _: b"1",  # as is every one where no directive says which are modern
    "args": lambda x: x.args or None,
    "query_string": lambda x: x.args or None,
    "binary_remote_addr": _binary_address,
    "body_bytes_sent": lambda x: b"%d" % x.body_bytes_sent,
    "bytes_sent": lambda x: b"%d" % (x.body_bytes_sent + x.head_bytes_sent),
    "connection": lambda x: b"%d" % x.client.number,
    "connection_requests": lambda x: b"%d" % x.client.requests,
    "connection_time": lambda x: _seconds(x.client.loop.time() - x.client.opened),
    "connections_active": _of_worker("connections_active"),
    "connections_reading": _of_worker("connections_reading"),
    "connections_waiting": _of_worker("connections_waiting"),
    "connections_writing": _of_worker("connections_writing"),
    "content_length": _content_length,
    "gzip_ratio": lambda x: x.ratio,
    "content_type": lambda x: x.values.get(b"content-type"),
    "date_gmt": lambda _: ssi_date(time.gmtime(), "GMT"),
    "date_local": _date_local,
    "document_uri": lambda x: x.uri or None,
    "host": lambda x: x.host or x.server.name.encode(),
    "hostname": lambda _: _HOSTNAME,
    "http2": lambda _: b"",
    "http3": lambda _: b"",
    "https": lambda x: b"on" if x.scheme == "https" else b"",
    "invalid_referer": _of_location("invalid_referer"),
    "is_request_port": lambda x: b":" if _request_port(x) else b"",
    "is_args": lambda x: b"?" if x.args else b"",
    "limit_conn_status": status_of_count,
    "limit_rate": _limit_rate,
    "limit_req_status": status_of_rate,
    "modern_browser": lambda _: b"",
    "msec": lambda _: b"%.3f" % time.time(),
    "msie": _msie,
    "nginx_version": lambda _: NGINX_VERSION.encode(),
    "pid": lambda _: b"%d" % os.getpid(),
    "pipe": lambda x: b"p" if x.client.requests > 1 and x.client.pipelined else b".",
    "proxy_add_x_forwarded_for": _forwarded_for,
    "proxy_host": _proxy_host,
    "proxy_port": _proxy_port,
    "proxy_protocol_addr": _introduced(0),
    "proxy_protocol_port": _introduced(1),
    "proxy_protocol_server_addr": _introduced(2),
    "proxy_protocol_server_port": _introduced(3),
    "realip_remote_addr": lambda x: came_from(x)[1],
    "realip_remote_port": lambda x: b"%d" % came_from(x)[2] if came_from(x)[2] else b"",
    "remote_addr": lambda x: x.client.address_bytes,
    "remote_port": lambda x: b"%d" % x.client.port if x.client.port else b"",
    "remote_user": _remote_user,
    "request": lambda x: x.head.line,
    "request_body": _request_body,
    "request_body_file": _request_body_file,
    "request_completion": lambda x: b"OK" if x.finished and not x.cut else b"",
    "request_id": _request_id,
    "request_length": _request_length,
    "request_method": lambda x: x.method or None,
    "request_port": _request_port,
    "request_time": _request_time,
    "request_uri": _request_uri,
    "scheme": lambda x: x.scheme.encode(),
    "secure_link": _of_location("secure_link"),
    "secure_link_expires": _of_location("secure_link_expires"),
    "server_addr": lambda x: x.client.local_address.encode(),
    "server_name": lambda x: x.server.name.encode(),
    "server_port": lambda x: b"%d" % x.client.local_port if x.client.local_port else b"",
    "server_protocol": _server_protocol,
    "status": _sent_status,
    "tcpinfo_rcv_space": _tcp_info(RECEIVE_SPACE),
    "tcpinfo_rtt": _tcp_info(RTT),
    "tcpinfo_rttvar": _tcp_info(RTT_VARIANCE),
    "tcpinfo_snd_cwnd": _tcp_info(SEND_WINDOW),
    "time_iso8601": lambda x: x.client.endpoint.clock.iso8601,
    "time_local": lambda x: x.client.endpoint.clock.local,
    "uri": lambda x: x.uri or None,
    **tls_variables.VARIABLES,
    **file_variables.VARIABLES,
    "upstream_addr": _over_tries(lambda one: one.peer.encode()),
    "upstream_bytes_received": _over_tries(lambda one: b"%d" % one.received),
    "upstream_bytes_sent": _over_tries(lambda one: b"%d" % one.sent),
    "upstream_cache_age": lambda _: None,
    "upstream_cache_status": lambda _: None,  # there is no cache
    "upstream_connect_time": _over_tries(_span("started", "connected")),
    "upstream_header_time": _over_tries(_span("started", "header")),
    "upstream_queue_time": _queue_time,
    "upstream_response_length": _over_tries(lambda one: b"%d" % one.length),
    "upstream_response_time": _over_tries(_span("started", "ended")),
    "upstream_status": _over_tries(lambda one: b"%d" % one.status if one.status else b"-"),
}
