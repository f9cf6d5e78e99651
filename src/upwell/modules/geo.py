"""`geo`: a variable by the client's address, or another one (nginx: ngx_http_geo_module)."""

from __future__ import annotations

import ipaddress
from bisect import bisect_right, insort
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
    """One `geo`: the smallest of the networks that hold the address in `source` decides, or, where there are `ranges`
    (first, last, value), the one that holds its number. Who comes from one of `proxies` is who X-Forwarded-For says;
    with `recursive` the last one there who is no proxy.
    """

    name: str
    source: Template
    networks: dict[Network, str]
    default: str = ""
    ranges: tuple[tuple[int, int, str], ...] | None = None
    proxies: tuple[Network, ...] = ()
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class GeoSettings:
    """On the http block."""

    geos: tuple[Geo, ...] = field(default=(), metadata=LOCAL)


def _geo(block: Block, directive: Directive) -> None:
    source = Template((Variable("remote_addr"),))
    if len(directive.args) == 2:
        source = block.template(directive, 0)
    name = variable_name(block, directive, len(directive.args) - 1)
    reading = _Reading(block)
    for entry in directive.children or ():
        try:
            reading.take(entry)
        except ConfigError as error:
            block.loading.errors.append(error)
    block.append(GeoSettings, "geos", reading.made(name, source))


class _Reading:
    """What the lines of one `geo` come to."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._networks: dict[Network, str] = {}
        self._ranges: _Ranges | None = None
        self._default: str | None = None
        self._proxies: list[Network] = []
        self._recursive = False

    def made(self, name: str, source: Template) -> Geo:
        ranges = None if self._ranges is None else self._ranges.all()
        default = self._default or ""
        return Geo(name, source, self._networks, default, ranges, tuple(self._proxies), self._recursive)

    def take(self, entry: Directive) -> None:
        """Raises ConfigError."""
        if entry.children is not None:
            raise entry.error('unexpected "{"')
        in_http = self._block.kind == "http"
        if not entry.args and entry.name == "ranges":
            if self._ranges is None and (self._networks or self._default is not None):
                raise entry.error('the "ranges" directive must be the first directive inside "geo" block')
            self._ranges = self._ranges or _Ranges()
        elif not entry.args and entry.name == "proxy_recursive" and in_http:
            self._recursive = True
        elif len(entry.args) != 1:
            raise entry.error("invalid number of the geo parameters")
        elif entry.name == "proxy" and in_http:
            self._proxies.append(_network(entry, entry.args[0]))
        elif entry.name == "default":
            if self._default is not None:
                what = "default geo range" if self._ranges is not None else 'network "default",'
                self._warn(entry, f'duplicate {what} value: "{entry.args[0]}", old value: "{self._default}"')
            self._default = entry.args[0]
        elif self._ranges is not None:
            self._take_range(entry, self._ranges)
        elif entry.name == "delete":
            if self._networks.pop(_network(entry, entry.args[0]), None) is None:
                self._warn(entry, f'no network "{entry.args[0]}" to delete')
        else:
            network = _network(entry, entry.name)
            if network in self._networks:
                old = self._networks[network]
                self._warn(entry, f'duplicate network "{entry.name}", value: "{entry.args[0]}", old value: "{old}"')
            self._networks[network] = entry.args[0]

    def _take_range(self, entry: Directive, ranges: _Ranges) -> None:
        if entry.name == "delete":
            if not ranges.delete(*_range(entry, entry.args[0])):
                self._warn(entry, f'no address range "{entry.args[0]}" to delete')
            return
        first, last = _range(entry, entry.name)
        old = ranges.exact(first, last)
        if old is not None:
            self._warn(entry, f'duplicate range "{entry.name}", value: "{entry.args[0]}", old value: "{old}"')
        other = ranges.overlapped(first, last)
        if other is not None:
            text = "-".join(str(ipaddress.IPv4Address(number)) for number in other)
            raise entry.error(f'range "{entry.name}" overlaps "{text}"')
        ranges.add(first, last, entry.args[0])

    def _warn(self, entry: Directive, message: str) -> None:
        self._block.loading.warnings.append(entry.error(message))


class _Ranges:
    """Ranges of numbers, none in another: one that is put into another divides it."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._of: dict[int, tuple[int, str]] = {}  # first: last, value

    def all(self) -> tuple[tuple[int, int, str], ...]:
        return tuple((first, *self._of[first]) for first in self._firsts)

    def _touched(self, first: int, last: int) -> list[tuple[int, int]]:
        """Those that have a number in common with it."""
        at = max(bisect_right(self._firsts, first) - 1, 0)
        found = []
        while at < len(self._firsts) and self._firsts[at] <= last:
            if self._of[self._firsts[at]][0] >= first:
                found.append((self._firsts[at], self._of[self._firsts[at]][0]))
            at += 1
        return found

    def exact(self, first: int, last: int) -> str | None:
        """The value of this very range."""
        found = self._of.get(first)
        return found[1] if found is not None and found[0] == last else None

    def overlapped(self, first: int, last: int) -> tuple[int, int] | None:
        """One that the range is not within, though they have numbers in common."""
        for other in reversed(self._touched(first, last)):
            if other[0] > first or other[1] < last:
                return other
        return None

    def add(self, first: int, last: int, value: str) -> None:
        """One that overlaps none."""
        for start, end in self._touched(first, last):
            around = self._of[start][1]
            self._remove(start)
            if start < first:
                self._put(start, first - 1, around)
            if last < end:
                self._put(last + 1, end, around)
        self._put(first, last, value)

    def delete(self, first: int, last: int) -> bool:
        if self.exact(first, last) is None:
            return False
        self._remove(first)
        return True

    def _put(self, first: int, last: int, value: str) -> None:
        insort(self._firsts, first)
        self._of[first] = (last, value)

    def _remove(self, first: int) -> None:
        del self._firsts[bisect_right(self._firsts, first) - 1]
        del self._of[first]


def _network(entry: Directive, text: str) -> Network:
    _, slash, bits = text.partition("/")
    try:
        if "%" in text or (slash and not (bits.isascii() and bits.isdecimal())):
            raise ValueError  # Python takes masks (and their inverse) and zones, nginx does not
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise entry.error(f'invalid network "{text}"') from None
    return network


def _range(entry: Directive, text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    try:
        ends = int(ipaddress.IPv4Address(first)), int(ipaddress.IPv4Address(last))
        if ends[0] > ends[1] or ends[1] == 0xFFFFFFFF:  # inet_addr()'s word for what is no address
            raise ValueError
    except ValueError:
        raise entry.error(f'invalid range "{text}"') from None
    return ends


MODULE = Module(
    "geo",
    (command("geo", "http stream", (1, 2), _geo, block=True),),
    options=("http_geo_module", "stream_geo_module"),
)
