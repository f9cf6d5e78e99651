"""`resolver` and `resolver_timeout`: who is asked for the addresses of names while upwell runs.

For `server name resolve` of upstreams (see `NamedPeers`), and for `proxy_pass` with variables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from upwell.check.named import NamedPeers
from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import once, time
from upwell.errors import ConfigError
from upwell.modules.address import is_ip, parse_address
from upwell.modules.upstream import UpstreamSettings, upstream_identity
from upwell.resolve.spec import ResolverSpec
from upwell.units import parse_seconds

_CONTEXTS = "http server location upstream stream stream_server stream_upstream"
_PORT = 53
_NO_END = 86400.0  # seconds; nginx: `resolver_timeout 0` waits for ever


@dataclass(frozen=True, slots=True)
class ResolverSettings:
    """`spec` but for its time-out, which has a directive of its own; seconds."""

    spec: ResolverSpec | None = None
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class NamesSettings:
    """On the http or stream block: the lines of `upstream` blocks whose addresses are looked up while upwell runs."""

    lines: tuple[NamedPeers, ...] = field(default=(), metadata=LOCAL)


def resolver_of(block: Block) -> ResolverSpec | None:
    """Whom `block` asks; None: nobody."""
    settings = block[ResolverSettings]
    return None if settings.spec is None else replace(settings.spec, timeout=settings.timeout or _NO_END)


def resolvers(section: Block) -> Iterator[ResolverSpec]:
    """Each that something may use, once."""
    found: dict[ResolverSpec, None] = {}
    for block in section.walk():
        if block.kind != section.kind:
            spec = resolver_of(block)
            if spec is not None:
                found[spec] = None
    return iter(found)


def _resolver(block: Block, directive: Directive) -> None:
    once(block, directive, ResolverSettings, "spec")
    servers: list[tuple[str, int]] = []
    valid: float | None = None
    families = {"ipv4": True, "ipv6": True}
    zone = ""
    for index, text in enumerate(directive.args):
        name, equals, value = text.partition("=")
        if not equals or name not in ("valid", "ipv4", "ipv6", "status_zone", "local"):
            servers += _servers(block, directive, index)
        elif name == "local":
            raise directive.error('the parameter "local" of "resolver" is not supported by upwell', index)
        elif name == "status_zone" and value:
            zone = value
        elif name == "valid":
            try:
                valid = parse_seconds(value) or None
            except ValueError:
                raise directive.error(f"invalid parameter: {text}", index) from None
        elif name in families and value in ("on", "off"):
            families[name] = value == "on"
        else:
            raise directive.error(f"invalid parameter: {text}", index)
    if not servers:
        raise directive.error("no name servers defined")
    if not any(families.values()):
        raise directive.error('"ipv4" and "ipv6" cannot both be "off"')
    name = zone or " ".join(arg for arg in directive.args if "=" not in arg)
    block.set(
        ResolverSettings,
        "spec",
        ResolverSpec(tuple(dict.fromkeys(servers)), valid, families["ipv4"], families["ipv6"], name),
    )


def _servers(block: Block, directive: Directive, index: int) -> Iterator[tuple[str, int]]:
    """The servers that one argument means: an address, or what the system knows a name by."""
    text = directive.args[index]
    try:
        address = parse_address(text)
        if address.path:
            raise ValueError("a unix domain socket is no name server")
        hosts = [address.host]
        if not is_ip(address.host):
            try:
                hosts = block.loading.resolve(address.host)
            except OSError:
                hosts = []
        if not hosts:
            raise ValueError("host not found")
    except ValueError as error:
        raise directive.error(f'{error} in resolver "{text}"', index) from None
    for host in hosts:
        yield host, address.port or _PORT


def _close(section: Block) -> None:
    """A `resolver` of the section may stand behind the upstreams that need it."""
    for block in (*section.of("upstream"), *section.of("stream_upstream")):
        settings = block[UpstreamSettings]
        if not settings.names:
            continue
        spec = resolver_of(block)
        if spec is None:
            if {(one.position, "resolver") for one in (section, block)} & section.loading.refused:
                continue  # it is there, and wrong
            raise ConfigError(
                f'no resolver defined to resolve names at run time in upstream "{settings.name}"', block.position
            )
        identity = upstream_identity(section, settings.name)
        for line in settings.names:
            named = NamedPeers(identity, line.template, line.question, line.port, spec)
            section.append(NamesSettings, "lines", named)


MODULE = Module(
    "resolver",
    (
        command("resolver", _CONTEXTS, (1, None), _resolver),
        command("resolver_timeout", _CONTEXTS, 1, time(ResolverSettings, "timeout")),
    ),
    {"http": _close, "stream": _close},
)
