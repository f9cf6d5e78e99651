"""A real DNS server on loopback, UDP and TCP on one port, that says what a test wants, true or not.

`zone` has the records by owner as text ("a.example A 10.0.0.1"); `rules` what is done instead for a name, in turn.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from select import select
from types import TracebackType

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

Rule = Callable[[dns.message.Message, bool], "bytes | list[bytes] | None"]
"""From a query, and whether it came over TCP, to what is sent; None: the records of the zone."""

SOA = "ns.example. admin.example. 1 3600 600 86400 {negative}"


class DnsServer:
    """Use it in a `with`; `address` is where it listens."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET) -> None:
        self.zone: dict[tuple[str, int], tuple[int, list[str]]] = {}
        self.rules: dict[str, list[Rule]] = {}
        self.asked: Counter[tuple[str, str]] = Counter()
        self.by_tcp = 0
        self.ports: list[int] = []
        self.numbers: list[int] = []
        self.negative = 5
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        self._tcp = socket.create_server((host, 0), family=family)
        self._udp = socket.socket(family, socket.SOCK_DGRAM)
        self.address: tuple[str, int] = self._tcp.getsockname()[:2]
        self._udp.bind(self.address)
        self._lock = threading.Lock()
        self._end, self._ended = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> DnsServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.close()
        self._thread.join()
        for sock in (self._tcp, self._udp, self._ended):
            sock.close()

    def set(self, owner: str, kind: str, *data: str, ttl: int = 60) -> None:
        """The records of one name and type; without data there are none, but the name is there."""
        with self._lock:
            self.zone[owner, dns.rdatatype.from_text(kind)] = ttl, list(data)

    def remove(self, owner: str) -> None:
        with self._lock:
            for key in [key for key in self.zone if key[0] == owner]:
                del self.zone[key]

    def rule(self, owner: str, *rules: Rule) -> None:
        """What is done for the next queries of `owner`; the last rule stays."""
        with self._lock:
            self.rules[owner] = list(rules)

    def follow(self, owner: str) -> None:
        with self._lock:
            self.rules.pop(owner, None)

    def _run(self) -> None:
        while True:
            ready, _, _ = select([self._tcp, self._udp, self._ended], [], [])
            if self._ended in ready:
                return
            if self._udp in ready:
                wire, peer = self._udp.recvfrom(65535)
                self.ports.append(peer[1])
                self.numbers.append(int.from_bytes(wire[:2], "big"))
                for answer in self._answers(wire, False):
                    with suppress(OSError):
                        self._udp.sendto(answer, peer)
            if self._tcp in ready:
                with suppress(OSError):
                    self._stream(self._tcp.accept()[0])

    def _stream(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(5)
            length = int.from_bytes(connection.recv(2, socket.MSG_WAITALL), "big")
            wire = connection.recv(length, socket.MSG_WAITALL)
            self.by_tcp += 1
            for answer in self._answers(wire, True):
                whole = struct.pack(">H", len(answer)) + answer
                for start in range(0, len(whole), 7000):
                    connection.sendall(whole[start : start + 7000])

    def _answers(self, wire: bytes, stream: bool) -> list[bytes]:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        owner = question.name.to_text(omit_final_dot=True)
        with self._lock:
            self.asked[owner, dns.rdatatype.to_text(question.rdtype)] += 1
            rules = self.rules.get(owner)
            rule = None if not rules else rules.pop(0) if len(rules) > 1 else rules[0]
            if rule is not None:
                found = rule(query, stream)
                if found is not None:
                    return [found] if isinstance(found, bytes) else found
            return [self.truth(query, stream)]

    def truth(self, query: dns.message.Message, stream: bool) -> bytes:
        """The zone's answer, as a recursive server gives it."""
        answer = dns.message.make_response(query, recursion_available=True)
        question = query.question[0]
        name, seen = question.name, set[dns.name.Name]()
        while name not in seen:
            seen.add(name)
            owner = name.to_text(omit_final_dot=True)
            ttl, data = self.zone.get((owner, question.rdtype), (0, []))
            if data:
                answer.answer.append(_set(name, ttl, question.rdtype, data))
                break
            ttl, data = self.zone.get((owner, dns.rdatatype.CNAME), (0, []))
            if not data:
                if not any(key[0] == owner for key in self.zone):
                    answer.set_rcode(dns.rcode.NXDOMAIN)
                soa = SOA.format(negative=self.negative)
                example = dns.name.from_text("example.")
                answer.authority.append(_set(example, 3600, dns.rdatatype.SOA, [soa]))
                break
            answer.answer.append(_set(name, ttl, dns.rdatatype.CNAME, data))
            name = dns.name.from_text(data[0])
        wire = answer.to_wire(max_size=65535)
        if not stream and len(wire) > 512:
            return truncated(query, stream)
        return wire


def _set(name: dns.name.Name, ttl: int, kind: dns.rdatatype.RdataType, data: list[str]) -> dns.rrset.RRset:
    return dns.rrset.from_text_list(name, ttl, dns.rdataclass.IN, kind, data)


# Rules


def fails(code: dns.rcode.Rcode = dns.rcode.SERVFAIL) -> Rule:
    def rule(query: dns.message.Message, stream: bool) -> bytes:
        answer = dns.message.make_response(query)
        answer.set_rcode(code)
        return answer.to_wire()

    return rule


def silent(query: dns.message.Message, stream: bool) -> list[bytes]:
    return []


def truth(query: dns.message.Message, stream: bool) -> None:
    return None


def truncated(query: dns.message.Message, stream: bool) -> bytes:
    answer = dns.message.make_response(query)
    answer.flags |= dns.flags.TC
    return answer.to_wire()


def lie(query: dns.message.Message, address: str = "10.66.66.66") -> dns.message.Message:
    """An answer with a wrong address."""
    answer = dns.message.make_response(query)
    question = query.question[0]
    if question.rdtype == dns.rdatatype.A:
        answer.answer.append(_set(question.name, 60, dns.rdatatype.A, [address]))
    return answer
