"""Content comes out the same however it is cut into pieces on its way in."""

from __future__ import annotations

import gzip
import re
import zlib

from hypothesis import given
from hypothesis import strategies as st

from tests.wire.joined import Joined, get
from upwell.proxy.body_filters import Stage
from upwell.proxy.charset import OutOfUtf8
from upwell.proxy.exchange import Exchange
from upwell.proxy.gzip import Compressor, Decompressor
from upwell.proxy.substitution import Substitution, Value

WORDS = st.lists(st.text("abAB<", min_size=1, max_size=5).map(str.encode), min_size=1, max_size=4)
CONTENT = st.text("abAB<x", max_size=60).map(str.encode)
CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=20)


def _some_exchange() -> Exchange:
    """A real one: compiled stages take no other."""
    made: list[Exchange] = []

    async def keep(exchange: Exchange) -> None:
        made.append(exchange)
        exchange.respond(200)

    with Joined(places={b"/": keep}) as joined:
        joined.client().send(get())
    return made[0]


EXCHANGE = _some_exchange()


def _through(stage: Stage, content: bytes, cuts: list[int], flushes: bool = False) -> bytes:
    out, at, turn = b"", 0, 0
    while at < len(content):
        size = cuts[turn % len(cuts)]
        out += stage.feed(content[at : at + size])
        while stage.pending:
            out += stage.more()
        if flushes:
            out += stage.flush()
        at, turn = at + size, turn + 1
    return out + stage.end()


def _value(text: bytes) -> Value:
    return lambda _: text


def _expected(words: list[bytes], content: bytes, once: bool) -> bytes:
    """The same by one regular expression at a time: the leftmost, of several at a place the first."""
    texts = {word: b"[%d]" % number for number, word in reversed(list(enumerate(words)))}
    left = list(words)
    out = b""
    while left:
        found = re.search(b"|".join(map(re.escape, left)), content.lower())
        if found is None:
            break
        out += content[: found.start()] + texts[found[0]]
        content = content[found.end() :]
        if once:
            left.remove(found[0])
    return out + content


@given(WORDS, CONTENT, CUTS)
def test_strings_are_replaced(words: list[bytes], content: bytes, cuts: list[int]) -> None:
    words = list(dict.fromkeys(word.lower() for word in words))
    for once in (False, True):
        pairs = [(word, _value(b"[%d]" % number)) for number, word in enumerate(words)]
        assert _through(Substitution(EXCHANGE, pairs, once), content, cuts) == _expected(words, content, once)


@given(st.binary(max_size=200), CUTS)
def test_packing_and_unpacking(content: bytes, cuts: list[int]) -> None:
    for flushes in (False, True):
        packed = _through(Compressor(EXCHANGE, 1, len(content) or None), content, cuts, flushes)
        assert zlib.decompress(packed, 31) == content
        assert _through(Decompressor(EXCHANGE), packed, cuts) == content
    twice = gzip.compress(content) + gzip.compress(content[::-1])
    assert _through(Decompressor(EXCHANGE), twice, cuts) == content + content[::-1]


@given(st.text("aä€\U0001f600Ж", max_size=30), CUTS)
def test_characters_are_recoded(text: str, cuts: list[int]) -> None:
    table = {**{code: code for code in range(128)}, ord("ä"): 0xE4}
    whole = text.encode("iso-8859-1", "xmlcharrefreplace")
    assert _through(OutOfUtf8(table), text.encode(), cuts) == whole
