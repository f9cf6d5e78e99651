"""`gzip` and `gunzip` of answers: who gets them compressed, and the stages that do it.

Knows Accept-Encoding and what nginx makes of Via; what is asked for in a location comes as specs.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from time import time
from typing import TYPE_CHECKING, Final

from upwell.log import ALERT
from upwell.pcre import search
from upwell.proxy.body_filters import Opener, Stage, is_among, sent_value, weaken_etag, without

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_COMPRESSIBLE: Final = frozenset((200, 403, 404))
_VARY: Final = (b"Vary", b"Accept-Encoding")
_NAMED: Final = re.compile(rb"(?:^|[, ])gzip", re.IGNORECASE)
_WEIGHT: Final = re.compile(rb" *(?:$|,|; *q=([01])(?:\.([0-9]*))?(?:$|[, ]))", re.IGNORECASE)
_GZIP_WRAPPER: Final = 16  # added to the window's bits: zlib writes gzip's own head and tail
_WINDOW: Final = 15
_MEMORY: Final = 8
_LEAST_WINDOW: Final = 9
_AT_ONCE: Final = 262_144
"""How much one piece may give at once: a few KB can stand for many MB."""


@dataclass(frozen=True, slots=True)
class Taking:
    """Whom compressed answers are for. `version` is that of HTTP at least (11), `proxied` the words of gzip_proxied,
    `disable` what the User-Agent must not match.
    """

    version: int = 11
    proxied: frozenset[str] = frozenset(("off",))
    disable: tuple[re.Pattern[bytes], ...] = ()
    disable_msie6: bool = False
    vary: bool = False


@dataclass(frozen=True, slots=True)
class Compressing:
    """Which answers are compressed, and how much: `types` as for `is_among`."""

    types: frozenset[bytes] | None
    min_length: int = 20
    level: int = 1


@dataclass(frozen=True, slots=True)
class Packed:
    """Files that stand in gzip beside others are for whom `taking` says, or `always` for all."""

    taking: Taking
    always: bool = False


def accepts_gzip(value: bytes) -> bool:
    """Whether an Accept-Encoding takes gzip, read as nginx reads it: the first "gzip" counts, and its weight."""
    named = _NAMED.search(value)
    if named is None:
        return False
    tail = _WEIGHT.match(value, named.end())
    if tail is None:
        return False
    whole, digits = tail[1], tail[2] or b""
    if whole is None:
        return True
    weight = int(whole) * 100 + sum(digits) - 48 * len(digits)
    return len(digits) <= 3 and 0 < weight <= 100


def takes_gzip(exchange: Exchange, taking: Taking) -> bool:
    """Whether the client of `exchange` gets compressed content (nginx: ngx_http_gzip_ok)."""
    if exchange.capture is not None or exchange.version < taking.version:
        return False
    values = exchange.values
    accepted = values.get(b"accept-encoding")
    if accepted is None:
        return False
    if not accepted.startswith(b"gzip,") and not accepts_gzip(accepted):
        return False
    agent = values.get(b"user-agent", b"")
    if taking.disable_msie6 and _is_old_msie(agent):
        return False
    if b"via" in values and not _may_be_kept(exchange, taking.proxied):
        return False
    return not (agent and any(search(pattern, agent) is not None for pattern in taking.disable))


def _is_old_msie(agent: bytes) -> bool:
    version = agent.partition(b"MSIE ")[2]
    if b"Opera" in agent or version[1:2] != b".":
        return False
    return version[:1] in b"45" or (version[:1] == b"6" and b"SV1" not in version)


def _may_be_kept(exchange: Exchange, proxied: frozenset[str]) -> bool:
    """What gzip_proxied says about an answer that goes through another proxy, which may keep it for others."""
    if "off" in proxied:
        return False
    if "any" in proxied or ("auth" in proxied and b"authorization" in exchange.values):
        return True
    expires = sent_value(exchange, b"expires")
    if expires is not None:
        end = _seconds(expires)
        date = sent_value(exchange, b"date")
        now = int(time()) if date is None else _seconds(date)
        return "expired" in proxied and end is not None and now is not None and end < now
    control = [value.lower() for name, value in exchange.out if name.lower() == b"cache-control"]
    if control:
        said = {part.strip() for value in control for part in value.split(b",")}
        return any(word in proxied and word.encode() in said for word in ("no-cache", "no-store", "private"))
    if "no_last_modified" in proxied and sent_value(exchange, b"last-modified") is not None:
        return False
    return not ("no_etag" in proxied and sent_value(exchange, b"etag") is not None)


def _seconds(date: bytes) -> int | None:
    parsed = parsedate_tz(date.decode("latin-1"))
    return None if parsed is None else int(mktime_tz(parsed))


def tell_of_vary(exchange: Exchange, taking: Taking) -> None:
    """Say that others get it otherwise, where gzip_vary wants that."""
    if taking.vary and _VARY not in exchange.out[:1]:
        exchange.out = [_VARY, *exchange.out]


def compressing(spec: Compressing, taking: Taking) -> Opener:
    """The opener of `gzip on`."""

    def open_gzip(exchange: Exchange) -> Stage | None:
        length = exchange.content_length
        if (
            exchange.status not in _COMPRESSIBLE
            or (length is not None and length < spec.min_length)
            or not is_among(exchange, spec.types)
            or sent_value(exchange, b"content-encoding")
        ):
            return None
        tell_of_vary(exchange, taking)
        if not takes_gzip(exchange, taking):
            return None
        without(exchange, b"accept-ranges", b"content-encoding")
        weaken_etag(exchange)
        exchange.out = [*exchange.out, (b"Content-Encoding", b"gzip")]
        exchange.content_length = None
        return Compressor(exchange, spec.level, length)

    return open_gzip


class Compressor(Stage):
    """Content into gzip. With a known `length` that is small it takes less memory, as in nginx."""

    __slots__ = ("_deflate", "_exchange", "_read", "_written")

    def __init__(self, exchange: Exchange, level: int, length: int | None) -> None:
        window, memory = _WINDOW, _MEMORY
        if length:
            while length < (1 << (window - 1)) - 262 and window > _LEAST_WINDOW:
                window -= 1
                memory -= 1
        self._deflate = zlib.compressobj(level, zlib.DEFLATED, window + _GZIP_WRAPPER, max(memory, 1))
        self._exchange = exchange
        self._read = 0
        self._written = 0

    @property
    def gathers(self) -> bool:
        return True

    def feed(self, data: bytes) -> bytes:
        self._read += len(data)
        out = self._deflate.compress(data)
        self._written += len(out)
        return out

    def flush(self) -> bytes:
        out = self._deflate.flush(zlib.Z_SYNC_FLUSH)
        self._written += len(out)
        return out

    def end(self) -> bytes:
        out = self._deflate.flush(zlib.Z_FINISH)
        self._written += len(out)
        if self._read:
            self._exchange.ratio = _ratio(self._read, self._written)
        return out


def _ratio(read: int, written: int) -> bytes:
    """nginx's $gzip_ratio: two digits behind the point, rounded half up."""
    hundredths = read * 100 // written + (read * 1000 // written % 10 > 4)
    return b"%d.%02d" % divmod(hundredths, 100)


def gunzipping(taking: Taking) -> Opener:
    """The opener of `gunzip on`: for clients that do not take what a peer has compressed."""

    def open_gunzip(exchange: Exchange) -> Stage | None:
        coding = sent_value(exchange, b"content-encoding")
        if coding is None or coding.lower() != b"gzip":
            return None
        tell_of_vary(exchange, taking)
        if takes_gzip(exchange, taking):
            return None
        without(exchange, b"content-encoding", b"accept-ranges")
        weaken_etag(exchange)
        exchange.content_length = None
        return Decompressor(exchange)

    return open_gunzip


class Decompressor(Stage):
    """Gzip into content, in pieces of bounded size: what a piece is not enough for waits (`pending`)."""

    __slots__ = ("_begun", "_exchange", "_full", "_inflate", "_input")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._begun = False
        self._inflate = zlib.decompressobj(_WINDOW + _GZIP_WRAPPER)
        self._input = b""
        self._full = False

    @property
    def pending(self) -> bool:
        return self._full or self._input != b""

    def feed(self, data: bytes) -> bytes:
        waited = self.pending
        self._begun = True
        self._input += data
        return b"" if waited else self.more()

    def more(self) -> bytes:
        out: list[bytes] = []
        left = _AT_ONCE
        try:
            while left > 0 and (self._input or self._full):
                if self._inflate.eof:  # gzip allows one stream behind the other (RFC 1952, 2.2)
                    self._inflate = zlib.decompressobj(_WINDOW + _GZIP_WRAPPER)
                piece = self._inflate.decompress(self._input, left)
                out.append(piece)
                left -= len(piece)
                self._input = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
                self._full = left == 0 and not self._inflate.eof
        except zlib.error as error:
            self._give_up(str(error))
        return b"".join(out)

    def end(self) -> bytes:
        if self._begun and not self._inflate.eof and not self._exchange.cut:  # nothing at all is no stream cut short
            self._give_up("unexpected end of file")
        return b""

    def _give_up(self, why: str) -> None:
        """What has gone out cannot be taken back: the client must not take it for all."""
        self._input = b""
        self._full = False
        self._exchange.log(ALERT, f"inflate() failed: {why}")
        self._exchange.abort()
