"""`server`, `listen`, `server_name`, and what is set per server: how a request's head is read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from upwell.config.command import Module, command, words
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.regex import compile_regex
from upwell.config.slots import buffers, flag, number, parse_number, size, time
from upwell.errors import ConfigError, Position
from upwell.modules.address import Address, is_ip, parse_address, parse_port
from upwell.modules.variables import declare_groups
from upwell.proxy.listen import ListenSpec
from upwell.units import parse_seconds, parse_size

_LEVELS = "http server"
_UNSUPPORTED = words("http2 quic multipath")
_NUMBERS: Mapping[str, Callable[[str], int]] = {
    "backlog": parse_number,
    "fastopen": parse_number,
    "rcvbuf": parse_size,
    "sndbuf": parse_size,
}
_LARGEST = (1 << 31) - 1  # a number of a socket is an int of C
_ANY = ("0.0.0.0", "::")
_RANGE = re.compile(r"([0-9]+)-([0-9]+)")


@dataclass(frozen=True, slots=True)
class Listen:
    """One address that a server listens on. `explicit`: socket options were given here (nginx allows that once).

    `ssl`: clients speak TLS there, to every server of the address; `proxy_protocol`: they begin with that.
    """

    spec: ListenSpec
    default_server: bool
    explicit: bool
    position: Position
    ssl: bool = False
    proxy_protocol: bool = False


@dataclass(frozen=True, slots=True)
class ServerName:
    """One name: `kind` is "exact", "leading" (*.x), "dotted" (.x: x and *.x), "trailing" (x.*) or "regex".

    `text` is lower-case and without the wildcard ("example.com" for "*.example.com", "www" for "www.*"); of a regular
    expression it is the pattern.
    """

    kind: str
    text: str
    regex: re.Pattern[bytes] | None = None

    @property
    def written(self) -> str:
        """As it was given, but for the dot in front of a "dotted" one (nginx: $server_name)."""
        return {"leading": f"*.{self.text}", "trailing": f"{self.text}.*", "regex": f"~{self.text}"}.get(
            self.kind, self.text
        )


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """ngx_http_core_module at http and server. `large_client_header_buffers` is (number, bytes of each).

    `listens` and `names` belong to one server; a server without `server_name` has the empty exact name.
    """

    listens: tuple[Listen, ...] = field(default=(), metadata=LOCAL)
    names: tuple[ServerName, ...] = field(default=(), metadata=LOCAL)
    client_header_timeout: float = 60.0
    client_header_buffer_size: int = 1024
    large_client_header_buffers: tuple[int, int] = (4, 8192)
    max_headers: int = 1000
    underscores_in_headers: bool = False
    ignore_invalid_headers: bool = True
    merge_slashes: bool = True


@dataclass(frozen=True, slots=True)
class ProxiedSettings:
    """On http: the addresses where the PROXY protocol is spoken."""

    addresses: frozenset[object] = field(default=frozenset(), metadata=LOCAL)


def _server(block: Block, directive: Directive) -> None:
    """A server has nothing to set before its body is read."""


def _listen(block: Block, directive: Directive) -> None:
    addresses = listen_addresses(block, directive, 80)
    spec = ListenSpec(("", 0))
    default = explicit = False
    for index, parameter in enumerate(directive.args[1:], 1):
        if parameter in ("default_server", "default"):
            default = True
            continue
        if parameter in ("ssl", "proxy_protocol"):
            continue
        explicit = True
        spec = with_listen_parameter(spec, directive, index, _UNSUPPORTED)
    ssl, proxied = (name in directive.args[1:] for name in ("ssl", "proxy_protocol"))
    for address in addresses:
        listen = Listen(replace(spec, address=address), default, explicit, directive.position, ssl, proxied)
        if any(other.spec.address == address for other in block.own(ServerSettings).get("listens", ())):
            raise directive.error(f"a duplicate listen {listen.spec.text}", 0)
        block.append(ServerSettings, "listens", listen)


def with_listen_parameter(
    spec: ListenSpec, directive: Directive, index: int, unsupported: Collection[str]
) -> ListenSpec:
    """`spec` with what a parameter of `listen` says of the socket; `index` is its place among the arguments."""
    parameter = directive.args[index]
    name, _, value = parameter.partition("=")
    if parameter == "bind":
        return spec
    if parameter == "reuseport":
        return replace(spec, reuseport=True)
    if parameter == "deferred":
        return replace(spec, deferred=True)
    reads = _NUMBERS.get(name)
    if reads is not None and parameter.startswith(f"{name}="):
        try:
            number = reads(value)
            if name == "backlog" and not number:
                raise ValueError(value)
        except ValueError:
            raise directive.error(f'invalid {name} "{parameter}"', index) from None
        given = min(number, _LARGEST)
        if name == "backlog":
            return replace(spec, backlog=given)
        if name == "fastopen":
            return replace(spec, fastopen=given)
        return replace(spec, rcvbuf=given) if name == "rcvbuf" else replace(spec, sndbuf=given)
    if parameter in ("ipv6only=on", "ipv6only=off"):
        return replace(spec, ipv6only=value == "on")
    if parameter.startswith("ipv6only=o"):
        raise directive.error(f'invalid ipv6only flags "{value}"', index)
    if parameter.startswith("so_keepalive="):
        return _with_keepalive(spec, directive, index, value)
    if parameter.startswith("accept_filter="):
        raise directive.error(f'accept filters "{parameter}" are not supported on this platform, ignored', index)
    if name in unsupported:
        raise directive.error(f'the parameter "{name}" of "listen" is not supported by upwell', index)
    raise directive.error(f'invalid parameter "{parameter}"', index)


def _with_keepalive(spec: ListenSpec, directive: Directive, index: int, value: str) -> ListenSpec:
    if value in ("on", "off"):
        return replace(spec, keepalive=value == "on")
    parts = value.split(":")
    try:
        if len(parts) > 3:
            raise ValueError(value)
        idle, between = (int(parse_seconds(part)) if part else 0 for part in (*parts, "")[:2])
        times = idle, between, parse_number(parts[2]) if len(parts) == 3 and parts[2] else 0
        if not any(times):
            raise ValueError(value)
    except ValueError:
        raise directive.error(f'invalid so_keepalive value: "{value}"', index) from None
    return replace(spec, keepalive=True, keepalive_times=times)


def listen_addresses(block: Block, directive: Directive, port: int) -> list[tuple[str, int] | str]:
    """The socket addresses that the first argument of `listen` means; `port` where it names none (0: it has to)."""
    text = directive.args[0]
    try:
        ports, address = _ports(text, port)
        if address.path:
            return [address.path]
        if address.host == "*":
            hosts = ["0.0.0.0"]
        elif is_ip(address.host):
            hosts = [address.host]
        else:
            try:
                hosts = block.loading.resolve(address.host)
            except OSError:
                hosts = []
            if not hosts:
                raise ValueError("host not found")
    except ValueError as error:
        raise directive.error(f'{error} in "{text}" of the "listen" directive', 0) from None
    return [(host, port) for port in ports for host in hosts]


def _ports(text: str, default: int) -> tuple[range, Address]:
    if text.isdigit():
        port = parse_port(text)
        return range(port, port + 1), Address("*", port)
    head, colon, tail = text.rpartition(":")
    match = _RANGE.fullmatch(tail)
    if match is not None:
        first, last = parse_port(match[1]), parse_port(match[2])
        if first > last:
            raise ValueError("invalid port range")
        address = parse_address(head) if colon else Address("*")
        return range(first, last + 1), address
    address = parse_address(text)
    port = address.port or default
    if not port and not address.path:
        raise ValueError("no port")
    return range(port, port + 1), address


def _server_name(block: Block, directive: Directive) -> None:
    for index, name in enumerate(directive.args):
        block.append(ServerSettings, "names", _parse_name(block, directive, index, name))


def _parse_name(block: Block, directive: Directive, index: int, name: str) -> ServerName:
    if name.startswith("~"):
        if len(name) == 1:
            raise directive.error(f'empty regex in server name "{name}"', index)
        try:
            # nginx reads the rest as a pattern and matches host names without regard to case
            regex = compile_regex(name[1:], caseless=True)
        except ValueError as error:
            raise directive.error(str(error), index) from None
        declare_groups(block, regex)
        return ServerName("regex", name[1:], regex)
    if (name.startswith("*") and (len(name) < 3 or name[1] != ".")) or name == ".":
        raise directive.error(f'server name "{name}" is invalid', index)
    if "/" in name:
        block.loading.warnings.append(directive.error(f'server name "{name}" has suspicious symbols', index))
    lower = os.uname().nodename.lower() if name == "$hostname" else name.lower()
    kind = "exact"
    if lower.startswith("*."):
        kind, lower = "leading", lower[2:]
    elif lower.startswith("."):
        kind, lower = "dotted", lower[1:]
    elif lower.endswith(".*"):
        kind, lower = "trailing", lower[:-2]
    if "*" in lower:
        raise directive.error(f'invalid server name or wildcard "{name}"', index)
    return ServerName(kind, lower)


def _close_server(block: Block) -> None:
    own = block.own(ServerSettings)
    if "listens" not in own:
        # nginx listens on 8000 where it may not bind 80
        port = 80 if os.geteuid() == 0 else 8000
        block.append(ServerSettings, "listens", Listen(ListenSpec(("0.0.0.0", port)), False, False, block.position))
    own.setdefault("names", (ServerName("exact", ""),))


def _close_http(http: Block) -> None:
    """What servers may say only once per address."""
    load = http.loading
    explicit: dict[object, Listen] = {}
    default: dict[object, Listen] = {}
    names: dict[object, list[tuple[Listen, tuple[ServerName, ...]]]] = {}
    for server in http.of("server"):
        settings = server[ServerSettings]
        for listen in settings.listens:
            address = listen.spec.address
            if listen.explicit and explicit.setdefault(address, listen) is not listen:
                load.errors.append(_at(listen, f"duplicate listen options for {listen.spec.text}"))
            if listen.default_server and default.setdefault(address, listen) is not listen:
                load.errors.append(_at(listen, f"a duplicate default server for {listen.spec.text}"))
            names.setdefault(address, []).append((listen, settings.names))
    for servers in names.values():
        if len(servers) > 1:
            load.warnings.extend(_redefined([listen for listen, _ in servers]))
            load.warnings.extend(_conflicts(servers))
    proxied = {at for at, servers in names.items() if any(listen.proxy_protocol for listen, _ in servers)}
    for at, servers in names.items():
        if isinstance(at, tuple) and at[0] not in _ANY:
            wildcard = ("::" if ":" in at[0] else "0.0.0.0", at[1])
            if wildcard in names and (wildcard in proxied) != (at in proxied):
                what = "a wildcard and {} on one port of which only one is proxy_protocol are not supported by upwell"
                load.errors.append(_at(servers[0][0], what.format(servers[0][0].spec.text)))
    http.set(ProxiedSettings, "addresses", frozenset(proxied))


def _redefined(listens: list[Listen]) -> Iterator[ConfigError]:
    """nginx's warnings about lines of one address that say different things of what is spoken there, where one cannot
    know which was meant (nginx: ngx_http_add_addresses)."""
    first = listens[0]
    spoken = said = _protocols(first)
    explicit, known, changed = first.explicit, False, False
    for listen in listens[1:]:
        now = _protocols(listen)
        if now & ~spoken:
            wrong = (explicit and not listen.explicit) or changed or bool(spoken & ~now)
            said, changed = spoken, True
        elif spoken & ~now:
            wrong = listen.explicit or (known and now != said)
            said, changed = now, True
        else:
            wrong = (listen.explicit and changed) or (known and now != said)
            said = now
        if wrong:
            yield _at(listen, f"protocol options redefined for {listen.spec.text}")
        known = True
        explicit = explicit or listen.explicit
        spoken |= now


def _protocols(listen: Listen) -> int:
    return listen.proxy_protocol | listen.ssl << 1


def _conflicts(servers: list[tuple[Listen, tuple[ServerName, ...]]]) -> Iterator[ConfigError]:
    """nginx's warnings about names that two servers of one address have; the first one keeps the name."""
    seen: set[tuple[str, str]] = set()
    for listen, names in servers:
        for name in names:
            key = (name.kind, name.text)
            if name.kind != "regex" and key in seen:
                yield _at(listen, f'conflicting server name "{_written(name)}" on {listen.spec.text}, ignored')
            seen.add(key)


def _written(name: ServerName) -> str:
    return f".{name.text}" if name.kind == "dotted" else name.written


def _at(listen: Listen, message: str) -> ConfigError:
    return ConfigError(message, listen.position)


MODULE = Module(
    "server",
    (
        command("server", "http", 0, _server, opens="server"),
        command("listen", "server", (1, None), _listen),
        command("server_name", "server", (1, None), _server_name),
        command("client_header_timeout", _LEVELS, 1, time(ServerSettings, "client_header_timeout")),
        command("client_header_buffer_size", _LEVELS, 1, size(ServerSettings, "client_header_buffer_size")),
        command("large_client_header_buffers", _LEVELS, 2, buffers(ServerSettings, "large_client_header_buffers")),
        command("max_headers", _LEVELS, 1, number(ServerSettings, "max_headers")),
        command("underscores_in_headers", _LEVELS, 1, flag(ServerSettings, "underscores_in_headers")),
        command("ignore_invalid_headers", _LEVELS, 1, flag(ServerSettings, "ignore_invalid_headers")),
        command("merge_slashes", _LEVELS, 1, flag(ServerSettings, "merge_slashes")),
    ),
    {"server": _close_server, "http": _close_http},
)
