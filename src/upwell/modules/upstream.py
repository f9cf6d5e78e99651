"""`upstream` and its `server` lines into UpstreamSpec and PeerSpec. Picking a peer is not known here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from upwell.config.command import Module, command, words
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import number, once, parse_number, time
from upwell.errors import ConfigError
from upwell.modules.address import Address, format_address, is_ip, parse_address
from upwell.peers.peer import STREAM, Method, PeerSpec, UpstreamSpec
from upwell.peers.server_lines import LONGEST_ROUTE, WITHOUT_BACKUP, WITHOUT_SLOW_START
from upwell.resolve.spec import Question
from upwell.units import parse_seconds, parse_size

_UNSUPPORTED = words("id")
_OF_SESSIONS = words("drain route")  # which only http has
_SMALLEST_ZONE = 8 * 4096  # nginx: eight pages


@dataclass(frozen=True, slots=True)
class NameLine:
    """One `server name resolve`: what its peers are told to be but for their addresses, and whose addresses they have.
    `port` is for addresses that come without one."""

    template: PeerSpec
    question: Question
    port: int


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """One `upstream` block: what its lines say (`spec_of` makes the spec). Times in seconds."""

    name: str = field(default="", metadata=LOCAL)
    method: Method = field(default=Method(), metadata=LOCAL)
    peers: tuple[PeerSpec, ...] = field(default=(), metadata=LOCAL)
    names: tuple[NameLine, ...] = field(default=(), metadata=LOCAL)
    state: str = field(default="", metadata=LOCAL)
    keepalive: int = field(default=32, metadata=LOCAL)
    keepalive_requests: int = field(default=1000, metadata=LOCAL)
    keepalive_time: float = field(default=3600.0, metadata=LOCAL)
    keepalive_timeout: float = field(default=60.0, metadata=LOCAL)
    zone: str = field(default="", metadata=LOCAL)


@dataclass(frozen=True, slots=True)
class UpstreamsSettings:
    """On the http block: every upstream, the implicit ones of `proxy_pass http://address` after the others."""

    specs: tuple[UpstreamSpec, ...] = field(default=(), metadata=LOCAL)


@dataclass(frozen=True, slots=True)
class _Index:
    """On the http block while it is read: explicit upstreams by lower-case name, implicit ones by "=" and name."""

    specs: Mapping[str, UpstreamSpec] = field(default_factory=dict, metadata=LOCAL)


def _add(http: Block, key: str, spec: UpstreamSpec) -> None:
    http.append(UpstreamsSettings, "specs", spec)
    http.own(_Index).setdefault("specs", {})[key] = spec


def find_upstream(http: Block, host: str) -> UpstreamSpec | None:
    """The explicit upstream named `host` (nginx compares without regard to case)."""
    return http[_Index].specs.get(host.lower())


@dataclass(frozen=True, slots=True)
class _Before:
    """How many errors there were when the block began."""

    errors: int = 0


def implicit_upstream(http: Block, name: str, address: Address, default_port: int = 80) -> str:
    """Add the upstream of a `proxy_pass` to an address, once per name, and return what its UpstreamSpec is called.

    Raises ValueError with nginx's words; a `default_port` of 0 is none.
    """
    if f"={name}" in http[_Index].specs:
        return http[_Index].specs[f"={name}"].name
    peers = tuple(PeerSpec(text, where, server=name) for text, where in _expand(http, address, default_port))
    spec = UpstreamSpec(upstream_identity(http, name), peers, implicit=True)
    _add(http, f"={name}", spec)
    return spec.name


def upstream_identity(section: Block, name: str) -> str:
    """The name by which everybody but the configuration file knows an upstream: http and stream may both have `name`
    (docs/decisions/0018-stream.md)."""
    return f"{STREAM}{name}" if section.kind == "stream" else name


def _upstream(block: Block, directive: Directive) -> None:
    name = directive.args[0]
    block.set(UpstreamSettings, "name", name)
    block.set(_Before, "errors", len(block.loading.errors))
    if find_upstream(block.section, name) is not None:
        raise directive.error(f'duplicate upstream "{name}"', 0)


def _server(block: Block, directive: Directive) -> None:
    if "state" in block.own(UpstreamSettings):
        raise directive.error('"server" cannot be used along with "state"')
    add_server(block, directive)


def add_server(block: Block, directive: Directive) -> None:
    """The peers of one `server` line, of the block or of the file that keeps its list."""
    text = directive.args[0]
    own = block.own(UpstreamSettings)
    peers = own.get("peers")
    if peers is None:
        # a list while the block is read: a tuple would be copied for each of ten thousand lines
        peers = own["peers"] = []
    settings: dict[str, int | float | bool | str] = {}
    resolve, service = False, ""
    for index in range(1, len(directive.args)):
        parameter = directive.args[index]
        if parameter == "resolve":
            resolve = True
            continue
        if parameter.startswith("service="):
            service = parameter.removeprefix("service=")
            if not service:
                raise directive.error("service is empty", index)
            continue
        try:
            name, value = _parameter(parameter)
        except ValueError as error:
            raise directive.error(str(error), index) from None
        if name in _OF_SESSIONS and block.kind != "upstream":
            raise directive.error(f'invalid parameter "{parameter}"', index)
        method = own.get("method")
        if method is not None and (
            (name == "backup" and method.name in WITHOUT_BACKUP)
            or (name == "slow_start" and method.name in WITHOUT_SLOW_START)
        ):
            raise directive.error(f'balancing method does not support parameter "{name}"', index)
        settings[name] = value
    if "backup" in settings and "tier" in settings:
        raise directive.error('the parameters "backup" and "tier" of "server" exclude each other', 0)
    if service and not resolve:
        raise directive.error(f'service upstream "{text}" requires "resolve" parameter', 0)
    try:
        address = parse_address(text)
        wrong = _wrong_service(text, address) if service else ""
        if wrong:
            raise directive.error(wrong, 0)
        default = 80 if block.kind == "upstream" else 0
        if resolve and not address.path and not is_ip(address.host):
            if not (address.port or default or service):
                raise ValueError("no port")
            server = f"{text} service={service}" if service else text  # which of the upstream's lines this is
            template = PeerSpec(text, ("", 0), server=server, **settings)  # type: ignore[arg-type]  # see below
            own.setdefault("names", []).append(
                NameLine(template, Question(address.host, service), address.port or default)
            )
            return
        found = list(_expand(block, address, default))
    except ValueError as error:
        raise directive.error(f'{error} in upstream "{text}"', 0) from None
    for name, where in found:
        peers.append(PeerSpec(name, where, server=text, **settings))  # type: ignore[arg-type]  # names and types come from _parameter


def _wrong_service(text: str, address: Address) -> str:
    """nginx's words where `service=` cannot be, else ""."""
    if address.port or address.path:
        return f'service upstream "{text}" may not have port'
    if is_ip(address.host):
        return f'service upstream "{text}" requires domain name'
    return ""


@lru_cache(256)  # ten thousand lines say the same few things
def _parameter(text: str) -> tuple[str, int | float | bool | str]:
    """A parameter of `server` as a field of PeerSpec. Raises ValueError with the error's sentence."""
    if text in ("backup", "down", "drain"):
        return text, True
    if text.startswith("route="):
        return "route", _route(text.removeprefix("route="))
    name, _, value = text.partition("=")
    if name == "tier" and len(value) == 1 and value in "0123456789":
        return name, int(value)
    if name in _UNSUPPORTED:
        raise ValueError(f'the parameter "{name}" of "server" is not supported by upwell')
    try:
        if name in ("weight", "max_fails", "max_conns"):
            count = parse_number(value)
            if name == "weight" and not count:
                raise ValueError
            return name, count
        if name in ("fail_timeout", "slow_start"):
            return name, parse_seconds(value)
    except ValueError:
        pass
    raise ValueError(f'invalid parameter "{text}"')


def _route(value: str) -> str:
    if not value:
        raise ValueError("route is empty")
    if len(value.encode("utf-8", "surrogateescape")) > LONGEST_ROUTE:
        raise ValueError(f"route is longer than {LONGEST_ROUTE}")
    return value


def _expand(block: Block, address: Address, default_port: int) -> Iterator[tuple[str, tuple[str, int] | str]]:
    """The name and the socket address of each peer that an address means. Raises ValueError."""
    if address.path:
        yield f"unix:{address.path}", address.path
        return
    port = address.port or default_port
    if not port:
        raise ValueError("no port")
    if is_ip(address.host):
        yield format_address(address.host, port), (address.host, port)
        return
    try:
        hosts = block.loading.resolve(address.host)
    except OSError:
        hosts = []
    if not hosts:
        raise ValueError("host not found")
    for host in hosts:
        yield format_address(host, port), (host, port)


def _keepalive(block: Block, directive: Directive) -> None:
    once(block, directive, UpstreamSettings, "keepalive")
    try:
        count = parse_number(directive.args[0])
    except ValueError:
        raise directive.error(f'invalid value "{directive.args[0]}" in "keepalive" directive', 0) from None
    if len(directive.args) == 2 and directive.args[1] != "local":
        raise directive.error(f'invalid parameter "{directive.args[1]}"', 1)
    block.set(UpstreamSettings, "keepalive", count)


def _zone(block: Block, directive: Directive) -> None:
    """The zone's size means nothing here: the table of peers is as large as it must be."""
    name = directive.args[0]
    if not name:
        raise directive.error(f'invalid zone name "{name}"', 0)
    if len(directive.args) == 2:
        try:
            bytes_ = parse_size(directive.args[1])
        except ValueError:
            raise directive.error(f'invalid zone size "{directive.args[1]}"', 1) from None
        if bytes_ < _SMALLEST_ZONE:
            raise directive.error(f'zone "{name}" is too small', 1)
        block.loading.idle.append((f"the size of zone {name}", directive.place(1)))
    elif not any(other[UpstreamSettings].zone == name for other in block.section.of(block.kind)):
        raise directive.error(f'zero size shared memory zone "{name}"', 0)
    block.set(UpstreamSettings, "zone", name)


def _close_upstream(block: Block) -> None:
    own = block.own(UpstreamSettings)
    given = "peers" in own or "state" in own
    peers = own["peers"] = tuple(own.get("peers", ()))
    names: tuple[NameLine, ...] = tuple(own.get("names", ()))
    if names:
        own["names"] = names
    settings = block[UpstreamSettings]
    http = block.section
    if find_upstream(http, settings.name) is None:
        # known even when something is wrong with it, or each `proxy_pass` to it would be an error too
        _add(http, settings.name.lower(), _spec_of(settings, http))
    if not given and len(block.loading.errors) == block[_Before].errors:  # else a `server` may be what was refused
        raise ConfigError("no servers are inside upstream", block.position)
    every = (*peers, *(line.template for line in names))
    if every and "state" not in own and all(peer.backup for peer in every):
        raise ConfigError(f'no servers in upstream "{settings.name}"', block.position)


def _spec_of(settings: UpstreamSettings, section: Block) -> UpstreamSpec:
    return UpstreamSpec(
        upstream_identity(section, settings.name),
        settings.peers,
        lines=tuple(line.template for line in settings.names),
        method=settings.method,
        state=settings.state,
        keepalive=settings.keepalive,
        keepalive_requests=settings.keepalive_requests,
        keepalive_time=settings.keepalive_time,
        keepalive_timeout=settings.keepalive_timeout,
    )


MODULE = Module(
    "upstream",
    (
        command("upstream", "http", 1, _upstream, opens="upstream"),
        command("upstream", "stream", 1, _upstream, opens="stream_upstream"),
        command("server", "upstream stream_upstream", (1, None), _server),
        command("keepalive", "upstream", (1, 2), _keepalive),
        command("keepalive_requests", "upstream", 1, number(UpstreamSettings, "keepalive_requests")),
        command("keepalive_time", "upstream", 1, time(UpstreamSettings, "keepalive_time")),
        command("keepalive_timeout", "upstream", 1, time(UpstreamSettings, "keepalive_timeout")),
        command("zone", "upstream stream_upstream", (1, 2), _zone),
    ),
    {"upstream": _close_upstream, "stream_upstream": _close_upstream},
    options=("http_upstream_keepalive_module", "http_upstream_zone_module"),
)
