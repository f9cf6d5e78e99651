"""Sessions: requests that belong together go to the same peer (nginx: ngx_http_upstream_sticky_module).

What a request's session is comes from functions of the exchange; which peers there are from the upstream. Cookies are
written here; a table of sessions is zone/sessions.py's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from upwell.log import WARN
from upwell.peers.routes import route_of
from upwell.peers.upstream import Peer, Upstream
from upwell.zone.sessions import Sessions

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange
    from upwell.proxy.upstream import Try

Render = Callable[["Exchange"], bytes]

_DAYS: Final = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
_MONTHS: Final = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_FOR_EVER: Final = b"; expires=Thu, 31-Dec-37 23:55:55 GMT; max-age=315360000"
_SAME_SITE: Final = frozenset((b"strict", b"lax", b"none"))
_LAST_SHORT_YEAR: Final = 2037  # Netscape 3 read two digits up to 37 only


def cookie_time(at: int) -> bytes:
    """A time as nginx writes it in cookies."""
    t = time.gmtime(at)
    year = b"%02d" % (t.tm_year % 100) if t.tm_year <= _LAST_SHORT_YEAR else b"%d" % t.tm_year
    day = (_DAYS[t.tm_wday], t.tm_mday, _MONTHS[t.tm_mon - 1], year, t.tm_hour, t.tm_min, t.tm_sec)
    return b"%b, %02d-%b-%b %02d:%02d:%02d GMT" % day


class SessionCookie:
    """The Set-Cookie line that binds a client to a peer. `expires` is in seconds, -1: for ever, None: not said."""

    __slots__ = ("_domain", "_end", "_expires", "_flags", "_name", "_path", "_samesite", "_second")

    def __init__(
        self,
        name: bytes,
        expires: int | None = None,
        domain: Render | None = None,
        path: bytes = b"",
        httponly: bool = False,
        secure: bool = False,
        samesite: bytes | Render | None = None,
    ) -> None:
        self._name = name
        self._expires = expires
        self._domain = domain
        self._flags = b"; httponly" * httponly + b"; secure" * secure
        self._samesite = samesite
        self._path = b"; path=%b" % path if path else b""
        self._second = -1
        self._end = _FOR_EVER if expires is not None and expires < 0 else b""

    def __repr__(self) -> str:
        return f"<SessionCookie {self._name.decode('utf-8', 'replace')}>"

    def line(self, exchange: Exchange, route: bytes) -> bytes:
        """The field's value for a peer that is called `route`."""
        if self._expires is not None and self._expires >= 0:
            now = int(time.time())
            if now != self._second:
                self._second = now
                self._end = b"; expires=%b; max-age=%d" % (cookie_time(now + self._expires), self._expires)
        domain = b"" if self._domain is None else self._domain(exchange)
        if domain:
            domain = b"; domain=" + domain
        return b"".join(
            (self._name, b"=", route, self._end, domain, self._flags, self._same_site(exchange), self._path)
        )

    def _same_site(self, exchange: Exchange) -> bytes:
        value = self._samesite
        if value is None:
            return b""
        if not isinstance(value, bytes):
            value = value(exchange)
            if value and value.lower() not in _SAME_SITE:
                value = b"strict"
        return b"; samesite=" + value if value else b""


class Sticky:
    """One upstream's sessions, as a ForwardSpec asks for them: `choose`, and for sessions that are learnt `learn`.

    `lookup` are what may say which session a request belongs to, the first that is not empty counts: it is a peer's
    route, or with `sessions` the name of a session there. `create` are what may say that one begins. `key` is what the
    balancer hashes for a request without session, `early`: the answer's head ends the learning.
    """

    __slots__ = ("_cookie", "_create", "_early", "_key", "_lookup", "_sessions", "_upstream", "ended", "heard")

    def __init__(
        self,
        upstream: Upstream,
        lookup: Sequence[Render],
        cookie: SessionCookie | None = None,
        sessions: Sessions | None = None,
        create: Sequence[Render] = (),
        key: Render | None = None,
        early: bool = False,
    ) -> None:
        self._upstream = upstream
        self._lookup = tuple(lookup)
        self._cookie = cookie
        self._sessions = sessions
        self._create = tuple(create)
        self._key = key
        self._early = early
        self.heard = self.learn if sessions is not None and early else None
        """`learn`, where the head of the answer is what ends it; and where that is the answer's end."""
        self.ended = self._learn_at_end if sessions is not None and not early else None

    def __repr__(self) -> str:
        return f"<Sticky {self._upstream.name}>"

    def route(self, exchange: Exchange) -> bytes:
        """What the peer of the request's session is called, empty without one."""
        route = _first(exchange, self._lookup)
        return self._sessions.find(route) if route and self._sessions is not None else route

    def choose(self, exchange: Exchange, tried: set[Peer], now: float) -> Peer | None:
        """The peer of the request's session, else the one that the balancer picks."""
        route = self.route(exchange)
        key = None if self._key is None else self._key(exchange)
        upstream = self._upstream
        peer = upstream.pick_bound(route, tried, now, key) if route else upstream.pick(tried, now, key)
        if peer is not None:
            if self._cookie is not None:
                self._tell(exchange, self._cookie.line(exchange, route_of(peer.spec)), bool(tried))
            elif self._early:
                exchange.special = True
        return peer

    def learn(self, exchange: Exchange, peer: Peer) -> None:
        """`peer` has answered: if a session begins with that, or the request's goes on, it is bound to it."""
        sessions = self._sessions
        assert sessions is not None
        name = _first(exchange, self._create)
        begins = name != b""
        if not begins:
            name = _first(exchange, self._lookup)
            if not name:
                return
        trouble = sessions.bind(name, route_of(peer.spec), begins)
        if trouble:
            exchange.log(WARN, trouble)

    def _learn_at_end(self, exchange: Exchange, peer: Peer, attempt: Try) -> None:
        """A try is over. Its answer counts unless there was none or the next peer was asked."""
        if attempt.header and (exchange.head_sent or exchange.finished):
            self.learn(exchange, peer)

    def _tell(self, exchange: Exchange, line: bytes, again: bool) -> None:
        """Have the answer, whoever gives it, set the cookie, in the place of the one of the last try."""
        if again:
            exchange.out = list(exchange.out)
            exchange.out.remove(exchange.kept[-1])  # by value: a compiled tuple has no identity
            exchange.kept = exchange.kept[:-1]
        field = (b"Set-Cookie", line)
        exchange.kept = (*exchange.kept, field)
        exchange.out = [*exchange.out, field]
        exchange.special = True


def _first(exchange: Exchange, values: tuple[Render, ...]) -> bytes:
    for value in values:
        found = value(exchange)
        if found:
            return found
    return b""
