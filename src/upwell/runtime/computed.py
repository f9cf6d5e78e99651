"""Variables that are computed when somebody reads them: `map`, `geo`, `split_clients`, once for each request."""

from __future__ import annotations

import ipaddress
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from upwell import pcre
from upwell.config.model import Block
from upwell.config.template import Template, Variable
from upwell.modules.access import networks_have
from upwell.modules.geo import Geo, GeoSettings, Network
from upwell.modules.map import Map, MapSettings
from upwell.modules.split_clients import Split, SplitSettings
from upwell.proxy.real_ip import last_named
from upwell.runtime.locations import keep_captures
from upwell.runtime.render import render
from upwell.runtime.script import unset

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_MOST_REMEMBERED: Final = 4096
_LONGEST: Final = 64  # no address is as long
_WORD: Final = 0xFFFFFFFF
_FACTOR: Final = 0x5BD1E995


class Keeper(Protocol):
    """Who has variables: an exchange, a session."""

    variables: dict[str, bytes] | None


K = TypeVar("K", bound=Keeper)
Compile = Callable[[Template], Callable[[K], bytes]]


def computed_variables(http: Block) -> dict[str, Callable[[Exchange], bytes]]:
    """Each by its name. Where two say the same name, the last one counts, as in nginx."""
    return {**unset(http), **computed(http, render, keep_captures)}


def computed(
    section: Block, render: Compile[K], keep: Callable[[K, re.Match[bytes]], None]
) -> dict[str, Callable[[K], bytes]]:
    """As `computed_variables`, for whom `render` makes functions and `keep` keeps what a regular expression found."""
    found: dict[str, Callable[[K], bytes]] = {}
    for one in section[MapSettings].maps:
        mapped = _mapped(one, render, keep)
        found[one.name] = mapped if one.volatile else _once(one.name, mapped)
    for geo in section[GeoSettings].geos:
        found[geo.name] = _once(geo.name, _located(geo, render))
    for split in section[SplitSettings].splits:
        found[split.name] = _once(split.name, _split(split, render))
    return found


def _once(name: str, compute: Callable[[K], bytes]) -> Callable[[K], bytes]:
    """`compute`, and have the request keep the value. Whoever asks for it while it is computed gets the empty text."""

    def value(subject: K) -> bytes:
        if subject.variables is None:
            subject.variables = {}
        subject.variables[name] = b""
        found = compute(subject)
        subject.variables[name] = found
        return found

    return value


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _table(entries: dict[str, Template], render: Compile[K]) -> dict[bytes, Callable[[K], bytes]]:
    return {_octets(key): render(value) for key, value in entries.items()}


def _mapped(one: Map, render: Compile[K], keep: Callable[[K, re.Match[bytes]], None]) -> Callable[[K], bytes]:
    source = render(one.source)
    exact, leading, trailing = _table(one.exact, render), _table(one.leading, render), _table(one.trailing, render)
    regexes = [(regex, render(value)) for regex, value in one.regexes]
    default = render(one.default)

    def by_host(key: bytes) -> Callable[[K], bytes] | None:
        at = key.find(b".")
        while leading and at >= 0:
            found = leading.get(key[at + 1 :])
            if found is not None:
                return found
            at = key.find(b".", at + 1)
        at = key.rfind(b".")
        while trailing and at >= 0:
            found = trailing.get(key[:at])
            if found is not None:
                return found
            at = key.rfind(b".", 0, at)
        return None

    def value(subject: K) -> bytes:
        text = source(subject)
        key = text.lower()
        if one.hostnames:
            key = key.removesuffix(b".")
        found = exact.get(key)
        if found is None and one.hostnames:
            found = by_host(key)
        if found is not None:
            return found(subject)
        for regex, result in regexes:
            match = pcre.search(regex, text)
            if match is not None:
                keep(subject, match)
                return result(subject)
        return default(subject)

    return value


def _located(geo: Geo, render: Compile[K]) -> Callable[[K], bytes]:
    source = render(geo.source)
    find = _in_networks(geo.networks, geo.default) if geo.ranges is None else _in_ranges(geo.ranges, geo.default)
    known: dict[bytes, bytes] = {}

    def value(subject: K) -> bytes:
        text = source(subject)
        found = known.get(text)
        if found is None:
            if len(text) > _LONGEST:
                return find(b"")  # a client may have said it: nothing to keep
            if len(known) >= _MOST_REMEMBERED:
                known.clear()
            found = known[text] = find(text)
        return found

    if not geo.proxies:
        return value
    return _located_behind(geo, source, find, render)


def _located_behind(
    geo: Geo, source: Callable[[K], bytes], find: Callable[[bytes], bytes], render: Compile[K]
) -> Callable[[K], bytes]:
    """By the address that a proxy names (nginx: ngx_http_geo_addr)."""
    forwarded = render(Template((Variable("http_x_forwarded_for"),)))

    def value(subject: K) -> bytes:
        text = source(subject)
        told = forwarded(subject)
        address = _address(text) if told and len(text) <= _LONGEST else None
        if address is not None:
            named = last_named(str(address), [told], lambda one: networks_have(geo.proxies, one), geo.recursive)
            if named is not None:
                text = named[0].encode()
        return find(text)

    return value


def _address(text: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.decode("ascii"))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _in_networks(networks: Mapping[Network, str], otherwise: str) -> Callable[[bytes], bytes]:
    tables: dict[int, list[tuple[int, dict[int, bytes]]]] = {4: [], 6: []}
    default = _octets(otherwise)
    for version, sizes in tables.items():
        of_version = [network for network in networks if network.version == version]
        for size in sorted({network.prefixlen for network in of_version}, reverse=True):
            shift = (32 if version == 4 else 128) - size
            numbers = {
                int(network.network_address) >> shift: _octets(networks[network])
                for network in of_version
                if network.prefixlen == size
            }
            sizes.append((shift, numbers))

    def find(text: bytes) -> bytes:
        address = _address(text)
        if address is not None:
            number = int(address)
            for shift, of_size in tables[address.version]:
                found = of_size.get(number >> shift)
                if found is not None:
                    return found
        return default

    return find


def _in_ranges(ranges: Sequence[tuple[int, int, str]], otherwise: str) -> Callable[[bytes], bytes]:
    firsts = [first for first, _, _ in ranges]
    values = [(last, _octets(value)) for _, last, value in ranges]
    default = _octets(otherwise)

    def find(text: bytes) -> bytes:
        address = _address(text)
        if isinstance(address, ipaddress.IPv4Address):  # ranges of others there are none
            number = int(address)
            at = bisect_right(firsts, number) - 1
            if at >= 0 and number <= values[at][0]:
                return values[at][1]
        return default

    return find


def _split(split: Split, render: Compile[K]) -> Callable[[K], bytes]:
    source = render(split.source)
    parts = [(end, _octets(text.literal or "")) for end, text in split.parts]

    def value(subject: K) -> bytes:
        place = murmur_hash2(source(subject))
        for end, text in parts:
            if place < end or not end:
                return text
        return b""

    return value


def murmur_hash2(data: bytes) -> int:
    """MurmurHash2 of 32 bits with seed 0, which is what nginx splits by."""
    size = len(data)
    value = size & _WORD
    whole = size & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * _FACTOR & _WORD
        word = (word ^ word >> 24) * _FACTOR & _WORD
        value = (value * _FACTOR & _WORD) ^ word
    if size > whole:
        value = (value ^ int.from_bytes(data[whole:], "little")) * _FACTOR & _WORD
    value = (value ^ value >> 13) * _FACTOR & _WORD
    return value ^ value >> 15
