"""`health_check` into CheckSpecs: NGINX Plus' directive (ngx_http_upstream_hc_module) with upwell's additions.

A check probes the upstream of its location's `proxy_pass`, with a request made of the location's `proxy_*` directives
(`health_request.py`). Without `timeout=` a probe as a whole may take as long as the shortest of the location's
`proxy_connect_timeout`, `proxy_send_timeout` and `proxy_read_timeout`.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from upwell.check.spec import DEFAULT_TIMEOUT, PLUS, CheckSpec
from upwell.config.command import Module, command, words
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import parse_number, time
from upwell.config.template import Template
from upwell.errors import ConfigError
from upwell.modules.address import is_ip
from upwell.modules.checks import add_check
from upwell.modules.core import full_path
from upwell.modules.function import FUNCTION, check_function
from upwell.modules.health_request import (
    Asked,
    ProbeRequest,
    has_control,
    is_own,
    is_token,
    request_of,
    shown,
    value_of,
)
from upwell.modules.match import Match, MatchSettings, checked_expression, literal_expression, octets
from upwell.modules.proxy import ProxyPass, ProxySettings
from upwell.modules.stream.proxy import StreamProxySettings
from upwell.modules.tls import PeerTlsSettings
from upwell.modules.upstream import UpstreamsSettings
from upwell.units import parse_time

_LONGEST: Final = 365 * 86400.0  # seconds; far below what the zone's words hold in milliseconds
_MOST: Final = 1 << 30
_LONGEST_REQUEST: Final = 1 << 15  # bytes; it is kept for each check and shown on pages
_LONGEST_NAME: Final = 255
_WITH_VARIABLES: Final = '"health_check" cannot be used with "proxy_pass" directive with variables'
_UDP: Final = b"nginx health check"  # what NGINX Plus sends where nothing is said
_HTTP: Final = frozenset(("http", "https"))
_STREAM: Final = frozenset(("tcp", "tls"))
_SPEAKING: Final = _STREAM | {"udp"}
_TLS: Final = frozenset(("https", "tls"))
_OF_LOCATIONS: Final = frozenset(("http", "https", "grpc"))
"""Their requests are made of what a location says."""
_SINGLE_SPACE: Final = re.compile(r"[^ \t\r\n] ")
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\x00-\x20\x7f/?#@:\[\]]+)(?::[0-9]{1,5})?")
_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*\.?")

_MOST_GRPC: Final = 16  # UNAUTHENTICATED


@dataclass(frozen=True, slots=True)
class _Wish:
    """One `health_check` as read: `given` has the value of each parameter by its name. The rest of the file may still
    change what it means."""

    directive: Directive
    given: dict[str, Any]
    headers: tuple[tuple[str, Template], ...] = ()
    usual: str = "http"

    @property
    def type(self) -> str:
        kind: str = self.given.get("type", self.usual)
        return kind


@dataclass(frozen=True, slots=True)
class _Wishes:
    """The `health_check` directives of one location, while the file is read."""

    all: tuple[_Wish, ...] = field(default=(), metadata=LOCAL)


@dataclass(frozen=True, slots=True)
class StreamHealthSettings:
    """`health_check_timeout`: how long a probe of a server of `stream` may take, in seconds."""

    timeout: float = 5.0


# The values of parameters: each reader raises ValueError, with a sentence if "invalid" does not say enough.


def _period(text: str) -> float:
    seconds = parse_time(text)
    if not 0 < seconds <= _LONGEST:
        raise ValueError
    return seconds


def _delay(text: str) -> float:
    return _period(text) if parse_time(text) else 0.0


def _results(text: str) -> int:
    count = parse_number(text)
    if not 1 <= count <= _MOST:
        raise ValueError
    return count


def _port(text: str) -> int:
    port = parse_number(text)
    if not 1 <= port <= 65535:
        raise ValueError
    return port


def _uri(text: str) -> str:
    if not text.startswith("/") or " " in text or has_control(text) or "\t" in text or "#" in text:
        raise ValueError
    return text


def _method(text: str) -> str:
    if not is_token(text) or text == "CONNECT":
        raise ValueError
    return text


def _host(text: str) -> str:
    if _HOST.fullmatch(text) is None:
        raise ValueError
    return text


def _server_name(text: str) -> str:
    if _NAME.fullmatch(text) is None and not is_ip(text):
        raise ValueError
    return text


def _type(text: str) -> str:
    if text not in TYPES:
        raise ValueError
    from upwell.check.probes import TARGETS  # all of them, with what they import

    if text not in TARGETS:
        raise ValueError(f'"type={text}" is not supported by upwell')
    return text


def _flag(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError
    return text == "on"


def _name(text: str) -> str:
    if not text or not text.isprintable() or len(text) > _LONGEST_NAME:
        raise ValueError
    return text


def _grpc_status(text: str) -> int:
    status = parse_number(text)
    if not 1 <= status <= _MOST_GRPC:  # 0 is what a healthy server says anyhow
        raise ValueError
    return status


def _expect(text: str) -> str:
    """A literal text with escapes, or after "~" (or "~*", without regard to case) a regular expression."""
    if text.startswith("~"):
        caseless = text.startswith("~*")
        text = text[2 if caseless else 1 :]
        if not text:
            raise ValueError
        return checked_expression(text, caseless)
    return literal_expression(text)


def _command(text: str) -> tuple[str, ...]:
    try:
        parts = tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f'invalid command value "{shown(text)}": {str(error).lower()}') from None
    if not parts or any("\0" in part for part in parts):
        raise ValueError
    if not parts[0].startswith("/"):
        raise ValueError(f'the command "{parts[0]}" is no absolute path')
    if not os.path.isfile(parts[0]) or not os.access(parts[0], os.X_OK):
        raise ValueError(f'the command "{parts[0]}" cannot be run')
    return parts


def _function(text: str) -> str:
    if FUNCTION.fullmatch(text) is None:
        raise ValueError
    return text


def _text(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError
    return text


@dataclass(frozen=True, slots=True)
class _Parameter:
    """`read` makes its value of the text; `types` are those it is for (none: all)."""

    read: Callable[[str], object]
    types: frozenset[str] = frozenset()


PARAMETERS: Final = {
    "interval": _Parameter(_period),
    "jitter": _Parameter(_delay),
    "fails": _Parameter(_results),
    "passes": _Parameter(_results),
    "port": _Parameter(_port),
    "type": _Parameter(_type),
    "timeout": _Parameter(_period),
    "fast_interval": _Parameter(_period),
    "down_interval": _Parameter(_period),
    "concurrency": _Parameter(_results),
    "uri": _Parameter(_uri, _HTTP),
    "method": _Parameter(_method, _HTTP),
    "header": _Parameter(_text, _HTTP),
    "match": _Parameter(_name, _HTTP | _SPEAKING),
    "host": _Parameter(_host, _HTTP | {"grpc"}),
    "keepalive_time": _Parameter(_period, _HTTP | {"grpc", "redis", "ajp"}),
    "send": _Parameter(octets, _SPEAKING),
    "expect": _Parameter(_expect, _SPEAKING),
    "sni": _Parameter(_server_name, _TLS | {"ssl_hello"}),
    "verify": _Parameter(_flag, _TLS),
    "ca": _Parameter(_text, _TLS),
    "certificate": _Parameter(_text, _TLS),
    "certificate_key": _Parameter(_text, _TLS),
    "grpc_service": _Parameter(_name, frozenset(("grpc",))),
    "grpc_status": _Parameter(_grpc_status, frozenset(("grpc",))),
    "command": _Parameter(_command, frozenset(("exec",))),
    "function": _Parameter(_function, frozenset(("python",))),
    "user": _Parameter(_name, frozenset(("mysql", "postgres"))),
    "database": _Parameter(_name, frozenset(("postgres",))),
}

TYPES: Final = words("http https tcp tls grpc exec python redis mysql postgres ajp ssl_hello")
"""What `type=` may say, as far as the probe is there (`check/probes/`)."""

_FILES: Final = ("ca", "certificate", "certificate_key")

_NEEDS: Final = {"exec": "command", "python": "function"}


def _health_check(block: Block, directive: Directive) -> None:
    given: dict[str, Any] = {}
    headers: list[tuple[str, Template]] = []
    places: dict[str, int] = {}
    for index, text in _arguments(directive):
        name, equals, value = text.partition("=")
        if not equals:
            _word(directive, index, given)
            continue
        parameter = PARAMETERS.get(name)
        if parameter is None:
            raise directive.error(f'invalid parameter "{shown(text)}"', index)
        if name in places and name != "header":
            raise directive.error(f'duplicate parameter "{name}"', index)
        places[name] = index
        try:
            given[name] = parameter.read(value)
        except ValueError as error:
            raise directive.error(_words(error, name, value), index) from None
        if name == "header":
            headers.append(_header(block, directive, index, value))
    in_stream = block.kind == "stream_server"
    udp = given.pop("udp", False)
    if udp and (not in_stream or "type" in given):
        what = '"type="' if in_stream else "a location"
        raise directive.error(f'the parameter "udp" of "health_check" is not compatible with {what}')
    wish = _Wish(directive, given, tuple(headers), ("udp" if udp else "tcp") if in_stream else "http")
    if in_stream and wish.type in _OF_LOCATIONS:
        raise directive.error(f'"type={wish.type}" is not supported by upwell in stream', places["type"])
    for name, index in places.items():
        types = PARAMETERS[name].types
        if types and wish.type not in types:
            raise directive.error(f'parameter "{name}" is not compatible with "type={wish.type}"', index)
    needed = _NEEDS.get(wish.type)
    if needed is not None and needed not in given:
        raise directive.error(f'"type={wish.type}" needs the parameter "{needed}"')
    if "certificate_key" in given and "certificate" not in given:
        raise directive.error('"certificate_key" needs the parameter "certificate"', places["certificate_key"])
    if "match" in given and ("send" in given or "expect" in given):
        raise directive.error('parameter "match" is not compatible with "send" and "expect"', places["match"])
    for name in _FILES:
        if name in given:
            given[name] = full_path(block, given[name])
            block.loading.depend_on(given[name])
    if "function" in given:
        check_function(block, directive, places["function"], given["function"])
    block.append(_Wishes, "all", wish)


def _arguments(directive: Directive) -> Iterator[tuple[int, str]]:
    """The arguments with their places. nginx knows quotes around a whole argument only ("send=a b"); here they may also
    stand around the value (send="a b"), which nginx would take apart at its spaces."""
    args, offsets, text = directive.args, directive.offsets, directive.source.text
    rest = iter(range(len(args)))
    for index in rest:
        name, _, value = args[index].partition("=")
        quote = value[:1]
        if quote not in ("'", '"') or not quote or text[offsets[index + 1]] in "'\"":
            yield index, args[index]
            continue
        value = value[1:]
        while not value.endswith(quote):
            following = next(rest, None)
            # What stood between two arguments is not known but for a single space.
            if following is None or not _SINGLE_SPACE.match(text, offsets[following + 1] - 2):
                hint = f"{quote}{name}=...{quote}"
                raise directive.error(f'cannot read the quotes of "{name}", put them around all of it: {hint}', index)
            value += f" {args[following]}"
        yield index, f"{name}={value[:-1]}"


def _words(error: ValueError, name: str, value: str) -> str:
    """The sentence about a bad value: the reader's own if it is one, else nginx's."""
    said = str(error)
    return said if " " in said and said != value else f'invalid {name} value "{shown(value)}"'


def _word(directive: Directive, index: int, given: dict[str, Any]) -> None:
    word = directive.args[index]
    if word == "persistent":
        if index == 0 or directive.args[index - 1] != "mandatory":
            raise directive.error('"persistent" must follow "mandatory"', index)
    elif word not in ("mandatory", "udp"):
        raise directive.error(f'invalid parameter "{shown(word)}"', index)
    if word in given:
        raise directive.error(f'duplicate parameter "{word}"', index)
    given[word] = True


def _header(block: Block, directive: Directive, index: int, text: str) -> tuple[str, Template]:
    name, colon, value = text.partition(":")
    if not colon or not is_token(name) or has_control(value):
        raise directive.error(f'invalid header value "{shown(text)}"', index)
    if is_own(name):
        raise directive.error(f'a health check says "{name}" itself', index)
    if name.lower() == "host":
        raise directive.error('"Host" is given by the parameter "host"', index)
    return name, block.template(directive, index, value.strip(" \t"))


def _read_files(wish: _Wish, spec: CheckSpec) -> None:
    """See that the files can be used, while they can be read: the checker may be another user."""
    if not any(name in wish.given for name in _FILES):
        return
    from upwell.check.secure import TlsFileError, read_tls_files  # with ssl, which takes a while, and few need it

    try:
        read_tls_files(spec)
    except TlsFileError as error:
        places = {text.partition("=")[0]: index for index, text in _arguments(wish.directive)}
        raise wish.directive.error(str(error), places.get(error.field)) from None


def _close_http(http: Block) -> None:
    """Every check, now that all upstreams, `match` blocks and inherited settings are known."""
    upstreams = {spec.name: spec for spec in http[UpstreamsSettings].specs}
    for location in http.walk():
        if location.kind != "location":
            continue
        for wish in location[_Wishes].all:
            try:
                target = _target(location, wish)
                if target is None or target.upstream not in upstreams:
                    continue  # an error that has been told
                patience = _patience(location[ProxySettings])
                if target.secure and "type" not in wish.given:
                    wish = _over_tls(location, target, wish)
                spec = _spec(http, location, target.upstream, wish, upstreams[target.upstream].implicit, patience)
                if spec is not None:
                    _read_files(wish, spec)
                    add_check(http, spec, wish.directive.position)
            except ConfigError as error:
                http.loading.errors.append(error)


def _over_tls(location: Block, target: ProxyPass, wish: _Wish) -> _Wish:
    """`wish` where requests go over TLS: so do its probes, with what the location says of that (proxy_ssl_*)."""
    tls = location[PeerTlsSettings]
    name = ""
    if tls.server_name or tls.verify:
        name = (
            target.host.partition(":")[0] if tls.name is None else value_of(location, target, tls.name, wish.directive)
        )
    from_location = {
        "type": "https",
        "verify": tls.verify,
        "ca": tls.trusted_certificate,
        "certificate": tls.certificate,
        "certificate_key": tls.certificate_key,
        "sni": "" if is_ip(name) else name,
    }
    return replace(wish, given={**from_location, **wish.given})


def _close_stream(stream: Block) -> None:
    """As _close_http, for the servers of `stream`."""
    implicit = {spec.name: spec.implicit for spec in stream[UpstreamsSettings].specs}
    for server in stream.of("stream_server"):
        target = server[StreamProxySettings].pass_
        for wish in server[_Wishes].all:
            try:
                if target is None:
                    raise wish.directive.error('"health_check" must be in a server with "proxy_pass"')
                if target.template is not None:
                    raise wish.directive.error(
                        '"health_check" cannot be used with "proxy_pass" directive with variables'
                    )
                if target.upstream not in implicit:
                    continue  # an error that has been told
                patience = server[StreamHealthSettings].timeout
                spec = _spec(stream, server, target.upstream, wish, implicit[target.upstream], patience)
                if spec is not None:
                    _read_files(wish, spec)
                    add_check(stream, spec, wish.directive.position)
            except ConfigError as error:
                stream.loading.errors.append(error)


def _target(location: Block, wish: _Wish) -> ProxyPass | None:
    target = location[ProxySettings].pass_
    if target is None:
        refused = location.loading.refused
        if any(place == location.position and name.endswith("_pass") for place, name in refused):
            return None
        raise wish.directive.error('"health_check" must be in a location with "proxy_pass"')
    if target.template is not None:
        raise wish.directive.error(_WITH_VARIABLES)
    return target


def _spec(
    http: Block, location: Block, upstream: str, wish: _Wish, implicit: bool, patience: float
) -> CheckSpec | None:
    """The check that `wish` asks for, None when an error that has been told is in its way. `patience` is the `timeout`
    of one that does not say so.
    """
    given = wish.given
    kind = wish.type
    match = _match(http, wish)
    if match is None and "match" in given:
        return None
    request = None
    if kind in _HTTP or kind == "grpc":
        kept = "keepalive_time" in given
        asked = Asked(given.get("uri", "/"), given.get("method", ""), given.get("host", ""), wish.headers, kept)
        target = location[ProxySettings].pass_
        assert target is not None
        request = request_of(location, target, asked, wish.directive)
        if len(request.data) > _LONGEST_REQUEST:
            raise wish.directive.error("the request of the health check is too long")
    port = given.get("port", 0)
    return CheckSpec(
        upstream=upstream,
        type=kind,
        dialect=PLUS,
        request=_sent(kind, given, match, request),
        interval=given.get("interval", 5.0),
        timeout=given.get("timeout") or patience,
        fall=given.get("fails", 1),
        rise=given.get("passes", 1),
        port=port,
        host=_tls_name(given, request, implicit),
        verify=given.get("verify", True),
        concurrency=given.get("concurrency", 0),
        label=_label(wish, request),
        expect=given.get("expect") or (match.expect if match is not None else ""),
        match=match.spec if match is not None and kind in _HTTP else None,
        jitter=given.get("jitter", -1.0),
        fast_interval=given.get("fast_interval", 0.0),
        down_interval=given.get("down_interval", 0.0),
        initial="checking" if "mandatory" in given else "up",
        persistent="persistent" in given,
        ca=given.get("ca", ""),
        certificate=given.get("certificate", ""),
        certificate_key=given.get("certificate_key", ""),
        keepalive_time=given.get("keepalive_time", 0.0),
        service=given.get("grpc_service", ""),
        grpc_status=given.get("grpc_status", -1),
        command=given.get("command", ()),
        function=given.get("function", ""),
        params=tuple((name, given[name]) for name in ("user", "database") if name in given),
    )


def _match(http: Block, wish: _Wish) -> Match | None:
    name = wish.given.get("match")
    if name is None:
        return None
    blocks = http[MatchSettings].blocks
    place = next(index for index, text in _arguments(wish.directive) if text == f"match={name}")
    if name not in blocks:
        raise wish.directive.error(f'match "{name}" is not found', place)
    match = blocks[name]
    if match is not None and (match.is_stream if wish.type in _HTTP else match.is_http):
        what = "plain streams" if match.is_stream else "HTTP answers"
        raise wish.directive.error(f'match "{name}" has tests of {what}, not for "type={wish.type}"', place)
    return match


def _sent(kind: str, given: dict[str, Any], match: Match | None, request: ProbeRequest | None) -> bytes:
    if kind in _HTTP and request is not None:
        return request.data
    sent: bytes = given.get("send") or (match.send if match is not None else b"")
    return sent or (_UDP if kind == "udp" else b"")


def _patience(proxy: ProxySettings) -> float:
    positive = [time for time in (proxy.connect_timeout, proxy.send_timeout, proxy.read_timeout) if time > 0]
    return min(positive, default=DEFAULT_TIMEOUT)


def _tls_name(given: dict[str, Any], request: ProbeRequest | None, implicit: bool) -> str:
    """The name that the peer's certificate must have: `sni=`, else the Host that somebody chose. The name of an
    upstream block is none. For grpc, which has no certificate, it is the authority."""
    if "sni" in given:
        name: str = given["sni"]
        return name
    kind = given.get("type")
    if kind == "grpc" and request is not None:
        return request.host
    if kind != "https" or request is None or not (request.named or implicit):
        return ""
    host = request.host
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name if _NAME.fullmatch(name) is not None and not is_ip(name) else ""


def _label(wish: _Wish, request: ProbeRequest | None) -> str:
    given = wish.given
    label = wish.type
    if wish.type in _HTTP and request is not None:
        path, query, _ = str(given.get("uri", "/")).partition("?")
        label += f" {request.method} {path}{'?...' if query else ''}"  # tokens are told in queries
    elif "grpc_service" in given:
        label += f" {given['grpc_service']}"
    elif "command" in given:
        label += f" {shlex.quote(given['command'][0])}"  # passwords are told in arguments
    elif "function" in given:
        label += f" {given['function']}"
    if "port" in given:
        label += f" port {given['port']}"
    if "match" in given:
        label += f", match {given['match']}"
    return label


MODULE = Module(
    "health_check",
    (
        command("health_check", "location stream_server", (0, None), _health_check),
        command("health_check_timeout", "stream stream_server", 1, time(StreamHealthSettings, "timeout")),
    ),
    {"http": _close_http, "stream": _close_stream},
)
