"""Peers as the `server` lines that make them, for lists that are kept in files (`state`). Knows text, no file.

What is written here is read by modules/upstream.py as any `server`, and makes the same specs again.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final

from upwell.peers.peer import Method, PeerSpec

WITHOUT_BACKUP: Final = frozenset(("hash", "ip_hash", "random"))
"""Methods that cannot have `backup`."""
WITHOUT_SLOW_START: Final = frozenset(("hash", "ip_hash", "random"))
"""Methods that cannot have it (NGINX Plus: `slow_start`), as the keys of others would move."""
LONGEST_ROUTE: Final = 32
"""Bytes; nginx: NGX_HTTP_UPSTREAM_SID_LEN."""
LONGEST_PATH: Final = 107
"""Bytes of a UNIX socket's path (sockaddr_un)."""

_HIGHEST_TIER: Final = 9
_MOST: Final = 2**31 - 1  # of weights, counts and seconds at run time
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:/=\[\]@%+,~-]+")
_ESCAPED: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SPECIAL: Final = re.compile(r'[\\"\n\r\t]')


def text_of(peers: Iterable[PeerSpec], lines: Sequence[PeerSpec] = ()) -> bytes:
    """A line for each of `peers` but for those that came from `lines` (`resolve`), and then these."""
    names = {line.server for line in lines}
    texts = [line_of(peer) for peer in peers if peer.server not in names]
    texts += [_resolved(line) for line in lines]
    return "".join(texts).encode("utf-8", "surrogateescape")


def line_of(peer: PeerSpec) -> str:
    """The line of a peer that is known by its address."""
    return f"server {_word(said(peer))}{_parameters(peer)};\n"


def said(peer: PeerSpec) -> str:
    """How the peer's line calls it: by the address, without the port where it was written so; never by a name, which
    may mean other addresses another time."""
    return peer.server if peer.name in (peer.server, f"{peer.server}:80") else peer.name


def senseless(peer: PeerSpec) -> str:
    """What of `peer` no upstream can work with, whoever says it; "" if nothing is."""
    address = peer.address
    if not (type(peer.name) is str and peer.name and type(peer.server) is str and type(peer.route) is str):
        return f"invalid name, server or route of peer {peer.name!r}"
    if not isinstance(address, str):
        if not (type(address) is tuple and len(address) == 2):
            return f"invalid address {address!r} of peer {peer.name!r}"
        if not (type(address[0]) is str and type(address[1]) is int and 0 < address[1] < 65536):
            return f"invalid address {address!r} of peer {peer.name!r}"
    for name, value, least, most in (
        ("weight", peer.weight, 1, _MOST),
        ("max_fails", peer.max_fails, 0, _MOST),
        ("max_conns", peer.max_conns, 0, _MOST),
        ("tier", peer.tier, 0, _HIGHEST_TIER),
    ):
        if type(value) is not int or not least <= value <= most:
            return f"invalid {name} {value!r} of peer {peer.name!r}"
    for name, seconds in (("fail_timeout", peer.fail_timeout), ("slow_start", peer.slow_start)):
        if type(seconds) not in (int, float) or not 0.0 <= seconds <= _MOST:
            return f"invalid {name} {seconds!r} of peer {peer.name!r}"
    for name in ("backup", "down", "drain"):
        flag: object = getattr(peer, name)
        if flag is not True and flag is not False:
            return f"invalid {name} {flag!r} of peer {peer.name!r}"
    return ""


def objection(peer: PeerSpec, method: Method, stream: bool = False) -> str:
    """Why no line can make this peer in an upstream that is balanced so; "" if one can. `stream` has no sessions."""
    if peer.name != _name_of(peer.address):
        return f'the peer "{peer.name}" is not called by its address'
    for name, seconds in (("fail_timeout", peer.fail_timeout), ("slow_start", peer.slow_start)):
        if seconds % 1.0:
            return f'invalid {name} "{seconds}" of peer "{peer.name}": whole seconds are wanted'
    if stream and (peer.route or peer.drain):
        return f'peer "{peer.name}" of stream can have neither a route nor drain'
    return misfit(peer, method)


def misfit(peer: PeerSpec, method: Method) -> str:
    """Why `peer`, whose settings make sense each for itself, cannot be in an upstream that is balanced so, whatever it
    is called and whoever says it; "" if it can."""
    if not _name_of(peer.address):
        return f"invalid address {peer.address!r} of peer {peer.name!r}"
    if "\0" in peer.route or len(peer.route.encode("utf-8", "surrogateescape")) > LONGEST_ROUTE:
        return f'invalid route of peer "{peer.name}"'
    if peer.backup and peer.tier:
        return f'the parameters "backup" and "tier" of peer "{peer.name}" exclude each other'
    if peer.backup and method.name in WITHOUT_BACKUP:
        return 'balancing method does not support parameter "backup"'
    if peer.slow_start and method.name in WITHOUT_SLOW_START:
        return 'balancing method does not support parameter "slow_start"'
    return ""


def _name_of(address: tuple[str, int] | str) -> str:
    """nginx's name of an address; "" for what is none."""
    if isinstance(address, str):
        fits = 0 < len(address.encode("utf-8", "surrogateescape")) <= LONGEST_PATH and "\0" not in address
        return f"unix:{address}" if fits else ""
    host, port = address
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return ""
    if "%" in host or not 0 < port < 65536:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _resolved(line: PeerSpec) -> str:
    name, _, service = line.server.partition(" service=")
    which = f" {_word(f'service={service}')}" if service else ""
    return f"server {_word(name)}{which} resolve{_parameters(line)};\n"


def _parameters(peer: PeerSpec) -> str:
    text = ""
    if peer.weight != 1:
        text += f" weight={peer.weight}"
    if peer.max_conns:
        text += f" max_conns={peer.max_conns}"
    if peer.max_fails != 1:
        text += f" max_fails={peer.max_fails}"
    if peer.fail_timeout != 10.0:
        text += f" fail_timeout={int(peer.fail_timeout)}s"
    if peer.slow_start:
        text += f" slow_start={int(peer.slow_start)}s"
    if peer.tier:
        text += f" tier={peer.tier}"
    if peer.route:
        text += f" {_word(f'route={peer.route}')}"
    if peer.backup:
        text += " backup"
    if peer.down:
        text += " down"
    if peer.drain:
        text += " drain"
    return text


def _word(text: str) -> str:
    """`text` as one parameter of nginx's language."""
    if _PLAIN.fullmatch(text) is not None:
        return text
    return f'"{_SPECIAL.sub(_escape, text)}"'


def _escape(found: re.Match[str]) -> str:
    return _ESCAPED[found[0]]
