"""`charset`: the charset that an answer's type names, and its content recoded into it (nginx: ngx_http_charset).

Which names and tables there are is the configuration's; this file knows the three ways to recode.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from upwell.http1.fields import one_line
from upwell.log import ERROR, printable
from upwell.proxy.accel import bare_type, charset_of, unknown_charset
from upwell.proxy.body_filters import Opener, Stage, is_among, sent_value

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

Value = Callable[["Exchange"], bytes]

_REDIRECTS: Final = frozenset((301, 302))  # nginx names no charset with them
_NONE: Final = 0xFFFD


@dataclass(frozen=True, slots=True)
class Charsets:
    """What a configuration knows: `names` in lower case, and `recoders` by two of those, what makes a stage that
    recodes from the one into the other.
    """

    names: frozenset[bytes]
    recoders: Mapping[tuple[bytes, bytes], Callable[[], Stage]]


@dataclass(frozen=True, slots=True)
class Naming:
    """`charset` and `source` give a name, None: off. `overrides`: also where the answer names one itself. `types` as
    for `is_among`.
    """

    charset: Value | None
    source: Value | None
    overrides: bool
    types: frozenset[bytes] | None
    known: Charsets


def naming(spec: Naming) -> Opener:
    """The opener of `charset`."""

    def open_charset(exchange: Exchange) -> Stage | None:
        media = exchange.content_type
        if not media:
            return None
        named = charset_of(media) or exchange.charset
        wanted = _wanted(exchange, spec, named)
        if wanted is None:
            return None
        source = named if named else None if spec.source is None else spec.source(exchange)
        if source is None:
            _tell(exchange, media, wanted, False)
            return None
        pair = source.lower(), wanted.lower()
        if pair[0] == pair[1]:
            _tell(exchange, media, wanted, pair[1] in spec.known.names)
            return None
        known = spec.known.names
        coded = pair[0] in known and pair[1] in known and sent_value(exchange, b"content-encoding")
        recoder = spec.known.recoders.get(pair)
        if coded:
            return None
        if recoder is None:
            exchange.log(
                ERROR,
                f'no "charset_map" between the charsets "{printable(source)}" and "{printable(wanted)}"',
            )
            return None
        _tell(exchange, media, wanted, True)
        stage = recoder()
        if not isinstance(stage, ByTable):
            exchange.content_length = None
        return stage

    return open_charset


def _wanted(exchange: Exchange, spec: Naming, named: bytes | None) -> bytes | None:
    """The charset that the content is to have; None: whatever it has."""
    if exchange.capture is not None:
        return exchange.capture.charset
    asked = exchange.asked_charset
    if asked is not None:
        if asked.lower() in spec.known.names:
            return asked
        exchange.log(ERROR, unknown_charset(asked))
        return None
    if spec.charset is None or (not spec.overrides if named else not is_among(exchange, spec.types)):
        return None
    return one_line(spec.charset(exchange))


def _tell(exchange: Exchange, media: bytes, charset: bytes, anew: bool) -> None:
    """Name `charset` with the type; `anew`: instead of what it names already."""
    if exchange.capture is not None:
        return
    bare = bare_type(media) if anew else media
    exchange.charset = None
    if exchange.status in _REDIRECTS:
        exchange.content_type = bare
    elif charset_of(bare) is None:
        exchange.content_type = b"%b; charset=%b" % (bare, charset)


class ByTable(Stage):
    """Each byte for another one."""

    __slots__ = ("_table",)

    def __init__(self, table: bytes) -> None:
        self._table = table

    def feed(self, data: bytes) -> bytes:
        return data.translate(self._table)


class IntoUtf8(Stage):
    """Each byte for a character: `characters` has one for each of the 256."""

    __slots__ = ("_characters",)

    def __init__(self, characters: str) -> None:
        self._characters = characters

    def feed(self, data: bytes) -> bytes:
        return codecs.charmap_decode(data, "strict", self._characters)[0].encode()


class OutOfUtf8(Stage):
    """Characters for bytes; one that has none becomes a character reference, and bytes that are no character "?"."""

    __slots__ = ("_decoder", "_table")

    def __init__(self, table: dict[int, int]) -> None:
        self._table = {_NONE: 63, **table}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> bytes:
        return self._encode(self._decoder.decode(data))

    def end(self) -> bytes:
        return self._encode(self._decoder.decode(b"", True))

    def _encode(self, text: str) -> bytes:
        return codecs.charmap_encode(text, "xmlcharrefreplace", self._table)[0]
