"""Look-ups over real sockets, of a real DNS server that tells the truth, lies, or says nothing."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest

from tests.resolve.dns_server import DnsServer, Rule, fails, lie, silent, truncated, truth
from tests.resolve.resolving import Resolving
from upwell.resolve.spec import FOUND, MOST_ADDRESSES, NOT_FOUND, SERVER_FAILURE, TIMED_OUT, Answer, Found, Question
from upwell.zone.resolvers import COUNT_CODES, COUNT_FAILING, COUNT_JUNK, COUNT_LOOKUPS, COUNT_QUERIES


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer() as one:
        one.set("a.example", "A", "10.0.0.1", "10.0.0.2", ttl=30)
        yield one


@pytest.fixture
def other() -> Iterator[DnsServer]:
    with DnsServer() as one:
        one.set("a.example", "A", "10.0.0.3")
        yield one


@pytest.fixture
def names(server: DnsServer) -> Iterator[Resolving]:
    one = Resolving(server)
    yield one
    one.close()


def test_addresses_are_found_and_asked_for_once_while_they_count(server: DnsServer, names: Resolving) -> None:
    assert names.addresses("a.example") == ["10.0.0.1", "10.0.0.2"]
    assert names.addresses("A.example.") == ["10.0.0.1", "10.0.0.2"]
    asked = server.asked["a.example", "A"]
    names.clock.added += 29
    assert names.addresses("a.example") == ["10.0.0.1", "10.0.0.2"]
    assert server.asked["a.example", "A"] == asked
    server.set("a.example", "A", "10.0.0.9", ttl=5)
    names.clock.added += 2
    assert names.addresses("a.example") == ["10.0.0.9"]
    names.clock.added += 6
    server.set("a.example", "A", "10.0.0.8", ttl=5)
    assert names.addresses("a.example") == ["10.0.0.8"]


def test_valid_overrides_the_answers_own_time(server: DnsServer) -> None:
    names = Resolving(server, valid=300)
    assert names.addresses("a.example") == ["10.0.0.1", "10.0.0.2"]
    names.clock.added += 299
    names.addresses("a.example")
    assert server.asked["a.example", "A"] == 1
    names.clock.added += 2
    names.addresses("a.example")
    assert server.asked["a.example", "A"] == 2
    names.close()


def test_both_families_are_one_answer(server: DnsServer) -> None:
    server.set("a.example", "AAAA", "::5")
    names = Resolving(server, ipv6=True)
    assert names.addresses("a.example") == ["10.0.0.1", "10.0.0.2", "::5"]
    only = Resolving(server, ipv4=False, ipv6=True)
    assert only.addresses("a.example") == ["::5"]
    names.close()
    only.close()


def test_one_look_up_serves_all_who_ask(server: DnsServer, names: Resolving) -> None:
    answers: list[Answer] = []
    for _ in range(5):
        names.resolver.ask(Question("a.example"), answers.append)
    names.turn_until(lambda: len(answers) == 5)
    assert server.asked["a.example", "A"] == 1
    assert names.counts[COUNT_LOOKUPS] == 1


def test_a_resolver_may_be_reached_by_ipv6() -> None:
    try:
        server = DnsServer(socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with server:
        server.set("a.example", "A", "10.0.0.1")
        names = Resolving(server)
        assert names.addresses("a.example") == ["10.0.0.1"]
        names.close()


def test_aliases_are_followed_within_an_answer_and_beyond_it(server: DnsServer, names: Resolving) -> None:
    server.set("b.example", "CNAME", "c.example.", ttl=10)
    server.set("c.example", "CNAME", "a.example.", ttl=50)
    answer = names.ask("b.example")
    assert sorted(one.address for one in answer.found) == ["10.0.0.1", "10.0.0.2"]
    assert answer.expires - names.clock() == pytest.approx(10)

    def only_the_alias(query: dns.message.Message, stream: bool) -> bytes:
        whole = dns.message.from_wire(server.truth(query, stream))
        del whole.answer[1:]
        return whole.to_wire()

    server.set("d.example", "CNAME", "c.example.", ttl=20)
    server.rule("d.example", only_the_alias)
    server.rule("c.example", only_the_alias)
    answer = names.ask("d.example")
    assert sorted(one.address for one in answer.found) == ["10.0.0.1", "10.0.0.2"]
    assert answer.expires - names.clock() == pytest.approx(20)


def test_aliases_that_go_round_lead_nowhere(server: DnsServer, names: Resolving) -> None:
    server.set("b.example", "CNAME", "c.example.")
    server.set("c.example", "CNAME", "b.example.")
    answer = names.ask("b.example")
    assert answer.code != FOUND
    assert answer.found == ()


def test_no_such_name_is_remembered_as_long_as_it_says(server: DnsServer, names: Resolving) -> None:
    assert names.ask("no.example").code == NOT_FOUND
    assert names.ask("no.example").code == NOT_FOUND
    assert server.asked["no.example", "A"] == 1
    server.set("no.example", "A", "10.0.0.7")
    names.clock.added += server.negative + 0.1
    assert names.addresses("no.example") == ["10.0.0.7"]


def test_a_name_without_addresses_is_not_found(server: DnsServer, names: Resolving) -> None:
    server.set("empty.example", "TXT", "hello")
    assert names.ask("empty.example").code == NOT_FOUND


@pytest.mark.parametrize("name", ["a..example", "a" * 64 + ".example", ".".join(["a" * 60] * 5), ""])
def test_names_that_cannot_be_are_not_asked_for(server: DnsServer, names: Resolving, name: str) -> None:
    assert names.ask(name).code == NOT_FOUND
    assert not server.asked


def test_the_known_addresses_outlive_a_server_that_fails(server: DnsServer, names: Resolving) -> None:
    names.addresses("a.example")
    names.clock.added += 31
    server.rule("a.example", fails())
    for rest in (1, 2, 4, 8, 16, 30, 30):
        answer = names.ask("a.example")
        assert answer.code == SERVER_FAILURE
        assert sorted(one.address for one in answer.found) == ["10.0.0.1", "10.0.0.2"]
        assert answer.expires - names.clock() == pytest.approx(rest)
        names.clock.added += rest
    assert names.counts[COUNT_FAILING] == 1
    server.follow("a.example")
    server.set("a.example", "A", "10.0.0.4")
    assert names.addresses("a.example") == ["10.0.0.4"]
    assert names.counts[COUNT_FAILING] == 0
    assert names.counts[COUNT_CODES : COUNT_CODES + 3] == [2, 0, 7]
    assert names.log.lines == [
        "a.example could not be resolved (2: Server failure), 2 known address(es) stay in use",
        "a.example is resolved again: 1 address(es)",
    ]


def test_who_waits_gets_what_is_known_when_servers_say_nothing(server: DnsServer, names: Resolving) -> None:
    names.addresses("a.example")
    names.clock.added += 31
    server.rule("a.example", silent)
    answers: list[Answer] = []
    names.resolver.ask(Question("a.example"), answers.append)
    names.clock.added += 1.9
    names.turn_until(lambda: answers)
    assert answers[0].code == TIMED_OUT
    assert len(answers[0].found) == 2
    assert not names.log.lines  # the look-up is not over


def test_a_name_that_is_gone_is_not_kept(server: DnsServer, names: Resolving) -> None:
    names.addresses("a.example")
    names.clock.added += 31
    server.remove("a.example")
    answer = names.ask("a.example")
    assert (answer.code, answer.found) == (NOT_FOUND, ())


def test_one_family_that_fails_keeps_what_it_said(server: DnsServer) -> None:
    names = Resolving(server, ipv6=True)
    server.set("a.example", "AAAA", "::5", ttl=30)
    names.addresses("a.example")
    names.clock.added += 31

    def fails_for_ipv4(query: dns.message.Message, stream: bool) -> bytes | None:
        if query.question[0].rdtype == dns.rdatatype.A:
            return fails()(query, stream)  # type: ignore[return-value]  # it is bytes
        return None

    server.rule("a.example", fails_for_ipv4)
    server.set("a.example", "AAAA", "::6")
    assert names.addresses("a.example") == ["10.0.0.1", "10.0.0.2", "::6"]
    names.close()


@pytest.mark.parametrize("rule", [fails(), fails(dns.rcode.REFUSED), fails(dns.rcode.NOTIMP)])
def test_the_next_server_is_asked(server: DnsServer, other: DnsServer, rule: Rule) -> None:
    server.rule("a.example", rule)
    names = Resolving(server, other)
    assert names.addresses("a.example") == ["10.0.0.3"]
    names.close()


def test_a_server_that_is_silent_is_passed_over_and_then_asked_again(server: DnsServer, other: DnsServer) -> None:
    names = Resolving(server, other)
    server.rule("a.example", silent)
    other.rule("a.example", silent, silent, truth)
    answers: list[Answer] = []
    names.resolver.ask(Question("a.example"), answers.append)

    def over() -> bool:
        names.clock.added += 1.1
        return bool(answers)

    names.turn_until(over)
    assert sorted(one.address for one in answers[0].found) == ["10.0.0.3"]
    assert server.asked["a.example", "A"] == 3
    names.close()


def test_a_server_that_is_not_there_costs_no_time(server: DnsServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        address = closed.getsockname()
    names = Resolving(address, server)
    assert names.addresses("a.example") == ["10.0.0.1", "10.0.0.2"]  # and no second has passed
    names.close()


def test_the_time_out_ends_it_all(server: DnsServer) -> None:
    server.rule("a.example", silent)
    names = Resolving(server, timeout=0.2)
    names.clock.running = True
    assert names.ask("a.example").code == TIMED_OUT
    assert names.log.lines == ["a.example could not be resolved (110: Operation timed out)"]
    names.close()


def test_servers_are_asked_in_turn(server: DnsServer, other: DnsServer) -> None:
    names = Resolving(server, other)
    for number in range(8):
        names.ask(f"x{number}.example")
    assert sum(server.asked.values()) == sum(other.asked.values()) == 4
    names.close()


def test_what_is_too_large_comes_by_tcp(server: DnsServer, names: Resolving) -> None:
    server.set("many.example", "A", *(f"10.1.{n // 250}.{n % 250 + 1}" for n in range(900)))
    assert len(names.addresses("many.example")) == 900
    assert server.by_tcp == 1


def test_truncated_over_tcp_is_no_answer(server: DnsServer, other: DnsServer) -> None:
    server.rule("a.example", truncated)
    names = Resolving(server, other)
    assert names.addresses("a.example") == ["10.0.0.3"]
    assert server.by_tcp == 1
    names.close()


def test_a_name_has_a_thousand_addresses_at_most(server: DnsServer, names: Resolving) -> None:
    server.set("many.example", "A", *(f"10.{n // 62500}.{n // 250 % 250}.{n % 250 + 1}" for n in range(1500)))
    answer = names.ask("many.example")
    assert len(answer.found) == MOST_ADDRESSES
    assert answer.left_out == 500
    assert names.log.lines == ["many.example has too many addresses, 500 of them are left out"]


def test_numbers_and_ports_differ(server: DnsServer, names: Resolving) -> None:
    for number in range(24):
        names.ask(f"x{number}.example")
    assert len(set(server.ports)) > 12
    assert len(set(server.numbers)) > 20


def _as_answer(change: int) -> Rule:
    def rule(query: dns.message.Message, stream: bool) -> list[bytes]:
        answer = dns.message.from_wire(lie(query).to_wire())
        if change == 0:
            answer.id ^= 1
        elif change == 1:
            answer.question[0].name = dns.name.from_text("b.example")
        elif change == 2:
            answer.flags &= ~dns.flags.QR
        elif change == 3:
            answer.question = []
        elif change == 4:
            answer.question[0].rdtype = dns.rdatatype.AAAA
        wire = answer.to_wire()
        if change == 5:
            wire = wire[:7]
        return [wire]

    return rule


@pytest.mark.parametrize("change", range(6))
def test_what_does_not_answer_the_question_is_passed_over(server: DnsServer, names: Resolving, change: int) -> None:
    def rule(query: dns.message.Message, stream: bool) -> list[bytes]:
        lies = _as_answer(change)(query, stream)
        assert isinstance(lies, list)
        return [*lies, server.truth(query, stream)]

    server.rule("a.example", rule)
    assert names.addresses("a.example") == ["10.0.0.1", "10.0.0.2"]
    assert names.counts[COUNT_JUNK] == 1


def test_a_lie_would_be_believed_if_it_answered_the_question(server: DnsServer, names: Resolving) -> None:
    """The rules above refuse what they are to refuse, not all that this server says."""
    server.rule("a.example", lambda query, stream: [lie(query).to_wire()])
    assert names.addresses("a.example") == ["10.66.66.66"]


def test_nobody_but_the_server_is_heard(server: DnsServer, names: Resolving) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))

        def rule(query: dns.message.Message, stream: bool) -> None:
            wire = lie(query).to_wire()
            stranger.sendto(wire, ("127.0.0.1", server.ports[-1]))

        server.rule("a.example", rule)
        assert names.addresses("a.example") == ["10.0.0.1", "10.0.0.2"]


def test_who_guesses_all_the_time_is_not_listened_to(server: DnsServer, other: DnsServer) -> None:
    def rule(query: dns.message.Message, stream: bool) -> list[bytes]:
        answer = dns.message.from_wire(lie(query).to_wire())
        answer.id ^= 1
        return [answer.to_wire()] * 100

    server.rule("a.example", rule)
    names = Resolving(server, other)
    assert names.addresses("a.example") == ["10.0.0.3"]
    assert names.counts[COUNT_JUNK] == 64
    names.close()


def _with(records: int, tail: bytes) -> Rule:
    def rule(query: dns.message.Message, stream: bool) -> bytes:
        wire = query.to_wire()
        return wire[:2] + struct.pack(">5H", 0x8180, 1, records, 0, 0) + wire[12:] + tail

    return rule


_A_RECORD = struct.pack(">HHIH", 1, 1, 60, 4) + b"\x0a\0\0\x09"


@pytest.mark.parametrize(
    ("records", "tail"),
    [
        (1, b""),  # a record too few
        (1, b"\xc0\x0c" + _A_RECORD[:-1]),
        (1, b"\xc0\x1b\xc0\x1b" + _A_RECORD),  # a name that points to itself
        (1, b"\xc0\xff" + _A_RECORD),  # and one that points ahead
        (1, b"\x40a\0" + _A_RECORD),
        (1, b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 3) + b"\x0a\0\0"),  # three bytes of an address
        (1, b"\xc0\x0c" + struct.pack(">HHIH", 5, 1, 60, 2) + b"\xc0\x27"),  # an alias that points to itself
        (65535, (b"\xc0\x0c" + _A_RECORD) * 20),  # more than there is
        (1, b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 60000) + b"\x0a\0\0\x09"),
    ],
)
def test_a_malformed_answer_is_none(server: DnsServer, other: DnsServer, records: int, tail: bytes) -> None:
    server.rule("a.example", _with(records, tail))
    names = Resolving(server, other)
    assert names.addresses("a.example") == ["10.0.0.3"]
    assert names.counts[COUNT_JUNK] == 1
    names.close()


def test_the_same_bytes_are_an_answer_when_they_are_right(server: DnsServer, names: Resolving) -> None:
    server.rule("a.example", _with(2, (b"\xc0\x0c" + _A_RECORD) * 2))
    assert names.addresses("a.example") == ["10.0.0.9"]


def test_addresses_that_no_peer_has_are_left_out(server: DnsServer) -> None:
    server.set("odd.example", "A", "0.0.0.0", "224.0.0.1", "255.255.255.255", "10.0.0.5")
    server.set("odd.example", "AAAA", "::", "ff02::1", "::1")
    names = Resolving(server, ipv6=True)
    assert names.addresses("odd.example") == ["10.0.0.5", "::1"]
    names.close()


def test_records_of_another_name_are_not_taken(server: DnsServer, names: Resolving) -> None:
    def rule(query: dns.message.Message, stream: bool) -> bytes:
        answer = dns.message.from_wire(server.truth(query, stream))
        other = lie(dns.message.make_query("b.example", "A"))
        answer.answer += other.answer
        return answer.to_wire()

    server.rule("a.example", rule)
    assert names.addresses("a.example") == ["10.0.0.1", "10.0.0.2"]


def test_an_answer_made_to_be_slow_is_read_in_pieces(server: DnsServer, names: Resolving) -> None:
    """A thousand records with names of 126 labels each: 0.4 s of reading in one go."""
    name = ".".join(["x"] * 120)

    def rule(query: dns.message.Message, stream: bool) -> bytes:
        if not stream:
            return truncated(query, stream)
        wire = query.to_wire()
        records = b"".join(bytes((1, 97 + n % 26)) + b"\xc0\x0e" + _A_RECORD for n in range(1000))
        return wire[:2] + struct.pack(">5H", 0x8180, 1, 1000, 0, 0) + wire[12:] + records

    server.rule(name, rule)
    names.clock.running = True
    answers: list[Answer] = []
    steps = 0
    names.resolver.ask(Question(name), answers.append)

    def over() -> bool:
        nonlocal steps
        steps += 1
        return bool(answers)

    names.turn_until(over)
    assert steps > 30
    assert sorted(one.address for one in answers[0].found) == ["10.0.0.9"]


def test_services(server: DnsServer, names: Resolving) -> None:
    server.set("_http._tcp.shop.example", "SRV", "20 5 81 a.example.", "10 3 80 b.example.", "10 1 82 b.example.")
    server.set("b.example", "A", "10.0.2.1")
    answer = names.ask("shop.example", "http")
    assert tuple(sorted(answer.found, key=lambda one: (one[2], -one[3], one[0]))) == (
        Found("10.0.2.1", 80, 10, 3, "b.example"),
        Found("10.0.2.1", 82, 10, 1, "b.example"),
        Found("10.0.0.1", 81, 20, 5, "a.example"),
        Found("10.0.0.2", 81, 20, 5, "a.example"),
    )
    server.set("web.of.shop.example", "SRV", "1 1 80 b.example.")
    assert names.addresses("shop.example", "web.of") == ["10.0.2.1"]


def test_services_that_are_not_there(server: DnsServer, names: Resolving) -> None:
    assert names.ask("shop.example", "http").code == NOT_FOUND
    server.set("_no._tcp.shop.example", "SRV", "0 0 1 .")  # RFC 2782: decidedly not available
    assert names.ask("shop.example", "no").code == NOT_FOUND
    server.set("_lost._tcp.shop.example", "SRV", "0 0 1 nowhere.example.")
    assert names.ask("shop.example", "lost").code == NOT_FOUND


def test_one_of_several_services_that_fails_keeps_its_addresses(server: DnsServer, names: Resolving) -> None:
    server.set("_http._tcp.shop.example", "SRV", "1 1 80 a.example.", "1 1 80 b.example.", ttl=30)
    server.set("b.example", "A", "10.0.2.1", ttl=30)
    assert names.addresses("shop.example", "http") == ["10.0.0.1", "10.0.0.2", "10.0.2.1"]
    names.clock.added += 31
    server.rule("a.example", fails())
    server.set("b.example", "A", "10.0.2.2")
    assert names.addresses("shop.example", "http") == ["10.0.0.1", "10.0.0.2", "10.0.2.2"]


def test_names_are_forgotten_when_there_are_too_many(server: DnsServer) -> None:
    names = Resolving(server, most=10)
    for number in range(25):
        names.ask(f"x{number}.example")
    assert names.resolver.known(Question("x24.example")) is not None
    assert names.resolver.known(Question("x3.example")) is None
    assert names.counts[COUNT_FAILING] <= 10
    names.close()


def test_only_so_many_names_are_looked_up_at_once(server: DnsServer) -> None:
    names = Resolving(server, most=10)
    answers: list[Answer] = []
    for number in range(15):
        server.rule(f"x{number}.example", silent)
        names.resolver.ask(Question(f"x{number}.example"), answers.append)
    assert [answer.code for answer in answers] == [SERVER_FAILURE] * 5
    names.close()


def test_many_queries_take_turns(server: DnsServer) -> None:
    names = Resolving(server)
    answers: list[Answer] = []
    for number in range(300):
        server.set(f"x{number}.example", "A", "10.0.0.1")
        names.resolver.ask(Question(f"x{number}.example"), answers.append)
    names.turn_until(lambda: len(answers) == 300)
    assert {answer.code for answer in answers} == {FOUND}
    assert names.counts[COUNT_QUERIES] == 300
    names.close()


def test_who_does_not_want_to_know_is_not_told(names: Resolving) -> None:
    answers: list[Answer] = []
    more: list[Answer] = []
    names.resolver.ask(Question("a.example"), answers.append)
    names.resolver.ask(Question("a.example"), more.append)
    names.resolver.cancel(Question("a.example"), answers.append)
    names.turn_until(lambda: more)
    assert not answers
