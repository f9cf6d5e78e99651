"""Which server a connection's Host gets: exact names, wildcards, regular expressions, the default (nginx's order)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from upwell import pcre
from upwell.modules.server import ServerName
from upwell.proxy.location import Server
from upwell.runtime.locations import keep_captures

if TYPE_CHECKING:
    from upwell.proxy.client import ClientConnection
    from upwell.proxy.exchange import Exchange

_MOST_REMEMBERED: Final = 1024


class Names:
    """The servers of one address. `default` gets what no name fits."""

    __slots__ = ("_exact", "_leading", "_longest", "_regexes", "_remembered", "_trailing", "default")

    def __init__(self, default: Server) -> None:
        self.default = default
        self._exact: dict[bytes, Server] = {}
        self._leading: dict[bytes, Server] = {}
        self._trailing: dict[bytes, Server] = {}
        self._regexes: list[tuple[re.Pattern[bytes], Server]] = []
        self._longest = 0
        self._remembered: dict[bytes, tuple[Server | None, re.Match[bytes] | None]] = {}

    def __repr__(self) -> str:
        return f"<Names {len(self._exact)} exact, default {self.default!r}>"

    def add(self, name: ServerName, server: Server) -> None:
        """Give `name` to `server` unless an earlier one has it (nginx: "conflicting server name", a warning)."""
        text = name.text.encode("utf-8", "surrogateescape")
        self._longest = max(self._longest, len(text))
        if name.kind == "exact":
            self._exact.setdefault(text, server)
        elif name.kind == "leading":
            self._leading.setdefault(text, server)
        elif name.kind == "dotted":
            self._exact.setdefault(text, server)
            self._leading.setdefault(text, server)
        elif name.kind == "trailing":
            self._trailing.setdefault(text, server)
        elif name.regex is not None:
            self._regexes.append((name.regex, server))

    def servers(self) -> list[Server]:
        """All that a host may get."""
        named = (self._exact, self._leading, self._trailing)
        return [self.default, *(server for names in named for server in names.values()), *(s for _, s in self._regexes)]

    def match(self, exchange: Exchange) -> Server:
        """The server for `exchange.host`; a regular expression's captures are left in the exchange.

        Raises pcre.PatternTimeout.
        """
        host = exchange.host
        server = self._exact.get(host)
        if server is not None:
            return server
        found, match = self._recall(host)
        if match is not None:
            keep_captures(exchange, match)
        return self.default if found is None else found

    def named(self, host: bytes) -> Server:
        """The server that gets `host`. Raises pcre.PatternTimeout."""
        return self.fitting(host) or self.default

    def fitting(self, host: bytes) -> Server | None:
        """The server of which a name fits `host`. Raises pcre.PatternTimeout."""
        return self._exact.get(host) or self._recall(host)[0]

    def _recall(self, host: bytes) -> tuple[Server | None, re.Match[bytes] | None]:
        found = self._remembered.get(host)
        if found is None:
            found = self._search(host)
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[host] = found
        return found

    def _search(self, host: bytes) -> tuple[Server | None, re.Match[bytes] | None]:
        # Only ends and beginnings as long as some name are looked up: a host of a thousand labels costs no more.
        at = host.find(b".", max(len(host) - self._longest - 1, 0)) if self._leading else -1
        while at >= 0:
            server = self._leading.get(host[at + 1 :])
            if server is not None:
                return server, None
            at = host.find(b".", at + 1)
        at = host.rfind(b".", 0, self._longest + 1) if self._trailing else -1
        while at >= 0:
            server = self._trailing.get(host[:at])
            if server is not None:
                return server, None
            at = host.rfind(b".", 0, at)
        for regex, server in self._regexes:
            match = pcre.search(regex, host)
            if match is not None:
                return server, match
        return None, None


class Addresses:
    """All addresses that a wildcard socket serves: it also takes what came to a more specific `listen`."""

    __slots__ = ("_own", "_specific")

    def __init__(self, own: Names, specific: dict[tuple[str, int], Names]) -> None:
        self._own = own
        self._specific = specific

    def __repr__(self) -> str:
        return f"<Addresses {1 + len(self._specific)}>"

    def names(self, client: ClientConnection) -> Names:
        """The names that count for this connection."""
        return self._specific.get((client.local_address, client.local_port), self._own)

    def match(self, exchange: Exchange) -> Server:
        return self.names(exchange.client).match(exchange)
