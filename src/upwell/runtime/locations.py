"""Which location a URI gets: nginx's search over exact names, longest prefixes and regular expressions, nested."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from upwell import pcre
from upwell.proxy.location import Location

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_MOST_REMEMBERED: Final = 2048


@dataclass(slots=True)
class Place:
    """One `location` in the tree: `modifier` is "", "=", "^~", "~" or "~*"; `inner` are the locations nested in it."""

    modifier: str
    pattern: bytes
    regex: re.Pattern[bytes] | None
    location: Location
    inner: Level | None = None


@dataclass(slots=True)
class Level:
    """The locations of one level, ready for the search."""

    exact: dict[bytes, Place] = field(default_factory=dict)
    prefixes: list[Place] = field(default_factory=list)
    regexes: list[Place] = field(default_factory=list)

    @classmethod
    def of(cls, places: Sequence[Place]) -> Level:
        level = cls()
        for place in places:
            if place.modifier == "=":
                level.exact[place.pattern] = place
            elif place.regex is not None:
                level.regexes.append(place)
            else:
                level.prefixes.append(place)
        level.prefixes.sort(key=lambda place: len(place.pattern), reverse=True)
        return level


class Locations:
    """The search of one server. `default` serves what no location takes (the server's own level).

    Answers that do not depend on a regular expression's match are remembered, up to a bound.
    """

    __slots__ = ("_default", "_remembered", "_root")

    def __init__(self, root: Level, default: Location) -> None:
        self._root = root
        self._default = default
        self._remembered: dict[bytes, Location] = {}

    def __repr__(self) -> str:
        return f"<Locations {len(self._root.exact) + len(self._root.prefixes) + len(self._root.regexes)}>"

    def match(self, exchange: Exchange) -> Location:
        """The location for `exchange.uri`; a regular expression's match is left in `exchange.match`.

        Raises pcre.PatternTimeout.
        """
        uri = exchange.uri
        known = self._remembered.get(uri)
        if known is not None:
            return known
        place, match = _search(self._root, uri)
        location = place.location if place is not None else self._default
        if match is not None:
            keep_captures(exchange, match)
            return location
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        if len(uri) < 256:
            self._remembered[uri] = location
        return location


def keep_captures(exchange: Exchange, match: re.Match[bytes]) -> None:
    """Leave a match where $1...$9 look, and its named groups among the variables."""
    exchange.match = match
    named = match.groupdict()
    if named:
        if exchange.variables is None:
            exchange.variables = {}
        exchange.variables.update((name, value or b"") for name, value in named.items())


def _search(level: Level, uri: bytes) -> tuple[Place | None, re.Match[bytes] | None]:
    """nginx's order: exact; longest prefix, then inside it; regular expressions in order unless the prefix is "^~"."""
    exact = level.exact.get(uri)
    if exact is not None:
        return exact, None
    found: Place | None = None
    match: re.Match[bytes] | None = None
    final = False
    for place in level.prefixes:
        if uri.startswith(place.pattern):
            found = place
            final = place.modifier == "^~"
            if place.inner is not None:
                inner, match = _search(place.inner, uri)
                if inner is not None:
                    found = inner
                    if match is not None or inner.modifier == "=":
                        return found, match
            break
    if not final:
        for place in level.regexes:
            assert place.regex is not None
            match = pcre.search(place.regex, uri)
            if match is not None:
                if place.inner is not None:
                    inner, deeper = _search(place.inner, uri)
                    if inner is not None:
                        return inner, deeper or match
                return place, match
    return found, None
