"""`geo`: a variable by the client's address, or another one (nginx: ngx_http_geo_module)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.template import Template, Variable
from upwell.errors import ConfigError
from upwell.modules.rewrite import variable_name

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Geo:
    """One `geo`: the smallest of the networks that hold the address in `source` decides."""

    name: str
    source: Template
    networks: dict[Network, str]
    default: str = ""


@dataclass(frozen=True, slots=True)
class GeoSettings:
    """On the http block."""

    geos: tuple[Geo, ...] = field(default=(), metadata=LOCAL)


def _geo(block: Block, directive: Directive) -> None:
    source = Template((Variable("remote_addr"),))
    if len(directive.args) == 2:
        source = block.template(directive, 0)
    name = variable_name(block, directive, len(directive.args) - 1)
    networks: dict[Network, str] = {}
    default = ""
    for entry in directive.children or ():
        try:
            if entry.children is not None:
                raise entry.error('unexpected "{"')
            if entry.name in ("ranges", "proxy", "proxy_recursive", "delete") and len(entry.args) <= 1:
                raise entry.error(f'"{entry.name}" in "geo" is not supported by upwell')
            if len(entry.args) != 1:
                raise entry.error("invalid number of the geo parameters")
            if entry.name == "default":
                default = entry.args[0]
                continue
            network = _network(entry)
            if network in networks:
                block.loading.warnings.append(
                    entry.error(
                        f'duplicate network "{entry.name}", value: "{entry.args[0]}", old value: "{networks[network]}"'
                    )
                )
            networks[network] = entry.args[0]
        except ConfigError as error:
            block.loading.errors.append(error)
    block.append(GeoSettings, "geos", Geo(name, source, networks, default))


def _network(entry: Directive) -> Network:
    _, slash, bits = entry.name.partition("/")
    try:
        if "%" in entry.name or (slash and not (bits.isascii() and bits.isdecimal())):
            raise ValueError  # Python takes masks (and their inverse) and zones, nginx does not
        network = ipaddress.ip_network(entry.name, strict=False)
    except ValueError:
        raise entry.error(f'invalid network "{entry.name}"') from None
    return network


MODULE = Module(
    "geo",
    (command("geo", "http stream", (1, 2), _geo, block=True),),
    options=("http_geo_module", "stream_geo_module"),
)
