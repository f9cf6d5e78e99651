"""Messages of any kind: those of strangers raise nothing but Malformed, those of servers say what was meant."""

from __future__ import annotations

from contextlib import suppress

import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from upwell.resolve.lookup import Lookup
from upwell.resolve.message import AAAA, SRV, A, Malformed, Reading, answers, parse_name, query
from upwell.resolve.query import Query
from upwell.resolve.spec import FOUND, Answer, Found, Question, ResolverSpec

KINDS = st.sampled_from((A, AAAA, SRV))
SERVERS = (("127.0.0.1", 53),)
SPEC = ResolverSpec(SERVERS)
ASKED = query(parse_name("a.example"), A, 7)


def _read(wire: bytes, kind: int) -> Reading:
    reading = Reading(wire, kind)
    steps = 0
    while not reading.step():
        steps += 1
        assert steps < 200
    return reading


@given(st.binary(max_size=300), st.integers(0, 65535), st.lists(st.integers(0, 40), min_size=3, max_size=3), KINDS)
@example(b"\xc0\x0c\0\1\0\1\0\0\0\0\0\0", 0x8180, [1, 0, 0], A)
def test_strangers_messages(tail: bytes, flags: int, counts: list[int], kind: int) -> None:
    head = b"\0\7" + b"".join(number.to_bytes(2, "big") for number in (flags, 1, *counts))
    wire = head + ASKED[12:] + tail
    if not answers(wire, ASKED):
        return
    try:
        reply = _read(wire, kind).reply
        reply.end_of(parse_name("a.example"))
    except Malformed:
        pass


@given(st.binary(max_size=64))
def test_any_bytes_are_looked_at(wire: bytes) -> None:
    assert not answers(wire, ASKED) or wire[:2] == ASKED[:2]


@given(st.data())
def test_a_good_message_that_was_changed_in_one_place(data: st.DataObject) -> None:
    answer = dns.message.make_response(dns.message.from_wire(ASKED))
    name = answer.question[0].name
    answer.answer.append(dns.rrset.from_text(name, 9, "IN", "CNAME", "b.example."))
    answer.answer.append(dns.rrset.from_text("b.example.", 9, "IN", "A", "10.0.0.1", "10.0.0.2"))
    wire = bytearray(answer.to_wire())
    wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    whole = bytes(wire[: data.draw(st.integers(12, len(wire)))])
    if answers(whole, ASKED):
        with suppress(Malformed):
            _read(whole, A).reply.end_of(parse_name("a.example"))


ADDRESSES = st.lists(st.integers(0x0A000001, 0x0AFFFFFE), min_size=1, max_size=40, unique=True)
LABEL = st.text("abcxyz0129-_", min_size=1, max_size=20)


@given(st.lists(LABEL, min_size=1, max_size=6), ADDRESSES, st.integers(0, 1 << 31), st.integers(0, 5), st.booleans())
def test_what_a_server_says_is_found(
    labels: list[str], addresses: list[int], ttl: int, aliases: int, upper: bool
) -> None:
    text = ".".join(labels)
    lookup = Lookup(ResolverSpec(SERVERS, ipv6=False), Question(text), SERVERS, lambda: 7)
    [asked] = lookup.begin()
    asked.begin(100.0, 30.0)
    assert asked.send is not None
    content = asked.send.content
    answer = dns.message.make_response(dns.message.from_wire(content))
    name = answer.question[0].name
    if upper:
        name = dns.name.Name([label.upper() for label in name.labels])
    for number in range(aliases):
        target = f"alias{number}.example."
        answer.answer.append(dns.rrset.from_text(name, ttl, "IN", "CNAME", target))
        name = dns.name.from_text(target)
    texts = [f"{one >> 24}.{one >> 16 & 255}.{one >> 8 & 255}.{one & 255}" for one in addresses]
    answer.answer.append(dns.rrset.from_text_list(name, ttl, dns.rdataclass.IN, dns.rdatatype.A, texts))
    wire = answer.to_wire(max_size=65535)
    reading = asked.read(wire)
    assert reading is not None
    while not reading.step():
        pass
    asked.replied(reading.reply, 100.0)
    assert asked.over
    assert lookup.settled(asked) == []
    found = lookup.answer(100.0)
    assert found.code == FOUND
    assert sorted(one.address for one in found.found) == sorted(texts)
    assert 101.0 <= found.expires <= 100.0 + 7 * 86400


def _over(query: Query, code: int) -> Query:
    query.over, query.code = True, code
    return query


@given(st.lists(st.sampled_from((2, 3, 5, 110)), min_size=2, max_size=2))
def test_what_was_known_is_kept_unless_the_name_is_gone(codes: list[int]) -> None:
    before = (Found("10.0.0.1"), Found("::1"))
    lookup = Lookup(SPEC, Question("a.example"), SERVERS, lambda: 7, before)
    for one, code in zip(lookup.begin(), codes, strict=True):
        # Without a reply no server said that there is no such name.
        assert lookup.settled(_over(one, code)) == []
    answer = lookup.answer(100.0)
    assert isinstance(answer, Answer)
    assert answer.code != FOUND
    assert answer.found == (before if set(codes) - {3} else ())


@pytest.mark.parametrize(
    ("service", "owner"),
    [("", "a.b"), ("http", "_http._tcp.a.b"), ("_x._udp", "_x._udp.a.b"), ("web.of", "web.of.a.b")],
)
def test_where_services_are(service: str, owner: str) -> None:
    assert Question("a.b", service).owner == owner
