"""`sub_filter`: strings in the content replaced by others, wherever pieces of it begin and end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upwell.proxy.body_filters import Opener, Stage, is_among, weaken_etag, without

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

Value = Callable[["Exchange"], bytes]


@dataclass(frozen=True, slots=True)
class Substituting:
    """`pairs` are what is looked for, in any case of its letters, and what replaces it. `once`: each is replaced at its
    first place only. `keeps`: Last-Modified stays, and the ETag as a weak one. `types` as for `is_among`.
    """

    pairs: tuple[tuple[Value, Value], ...]
    once: bool
    types: frozenset[bytes] | None
    keeps: bool


def substituting(spec: Substituting) -> Opener:
    """The opener of `sub_filter`."""

    def open_sub(exchange: Exchange) -> Stage | None:
        if exchange.content_length == 0 or not is_among(exchange, spec.types):
            return None
        given = [(pattern(exchange), value) for pattern, value in spec.pairs]
        pairs = [(pattern.lower(), value) for pattern, value in given if pattern]
        if not pairs:
            return None
        exchange.content_length = None
        if spec.keeps:
            weaken_etag(exchange)
        else:
            without(exchange, b"last-modified", b"etag")
        return Substitution(exchange, pairs, spec.once)

    return open_sub


class Substitution(Stage):
    """The leftmost of `pairs` that is there, of several at one place the one that is written first. Bytes that may be
    the start of one wait for the next piece.
    """

    __slots__ = ("_exchange", "_held", "_longest", "_once", "_patterns", "_texts", "_values")

    def __init__(self, exchange: Exchange, pairs: Sequence[tuple[bytes, Value]], once: bool) -> None:
        self._exchange = exchange
        self._once = once
        self._patterns = [pattern for pattern, _ in pairs]
        self._values = [value for _, value in pairs]
        self._texts: list[bytes | None] = [None] * len(pairs)
        self._held = b""
        self._longest = max(map(len, self._patterns))

    def feed(self, data: bytes) -> bytes:
        if self._held:
            data = self._held + data
            self._held = b""
        return self._replace(data, False)

    def end(self) -> bytes:
        data, self._held = self._held, b""
        return self._replace(data, True)

    def _replace(self, data: bytes, last: bool) -> bytes:
        patterns = self._patterns
        if not patterns:
            return data
        if len(patterns) == 1 and not self._once:
            return self._replace_one(data, last)
        out: list[bytes] = []
        at = 0
        low = data.lower()
        size = len(low)
        # Where each pattern is next; as many searches are some times faster than one expression for all of them.
        places = [_find(low, pattern, 0) for pattern in patterns]
        while patterns:
            start = min(places)
            which = places.index(start)
            first = max(at, size - self._longest + 1)
            if not last and first <= start:
                wait = self._may_begin(low, first, start, which)
                if wait < size:
                    self._held = data[wait:]
                    out.append(data[at:wait])
                    return b"".join(out)
            if start == size:
                break
            out.append(data[at:start])
            out.append(self._text(which))
            at = start + len(patterns[which])
            if self._once:
                del patterns[which], self._values[which], self._texts[which], places[which]
            for number, place in enumerate(places):
                if place < at:
                    places[number] = _find(low, patterns[number], at)
        if not at:
            return data
        out.append(data[at:])
        return b"".join(out)

    def _replace_one(self, data: bytes, last: bool) -> bytes:
        """`_replace` for one pattern, wherever it is: content that is full of it costs no step of its own for each."""
        pattern = self._patterns[0]
        low = data.lower()
        size = len(low)
        wait = size
        pieces = low.split(pattern)
        if not last:
            wait = self._may_begin(low, max(size - len(pieces[-1]), size - len(pattern) + 1), size, 0)
            self._held = data[wait:]
        if len(pieces) == 1:
            return data if wait == size else data[:wait]
        if low != data:
            at = 0
            step = len(pattern)
            for number, piece in enumerate(pieces):
                end = at + len(piece)
                pieces[number] = data[at:end]
                at = end + step
        if wait < size:
            pieces[-1] = pieces[-1][: len(pieces[-1]) - (size - wait)]
        return self._text(0).join(pieces)

    def _may_begin(self, low: bytes, first: int, start: int, which: int) -> int:
        """The first place from `first` on, where `low` ends with the start of a pattern that would come before the one
        found at `start`, which is pattern `which`; the length of `low` where there is none.
        """
        end = len(low)
        for place in range(first, min(start + 1, end)):
            tail = low[place:]
            for number, pattern in enumerate(self._patterns):
                if place == start and number >= which:
                    break
                if len(pattern) > len(tail) and pattern.startswith(tail):
                    return place
        return end

    def _text(self, which: int) -> bytes:
        """What replaces a pattern, made when it is first found."""
        text = self._texts[which]
        if text is None:
            text = self._texts[which] = self._values[which](self._exchange)
        return text


def _find(low: bytes, pattern: bytes, at: int) -> int:
    """Where `pattern` is in `low` from `at` on; the length of `low` if nowhere."""
    place = low.find(pattern, at)
    return len(low) if place < 0 else place
