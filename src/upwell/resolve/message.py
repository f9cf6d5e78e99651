"""DNS messages (RFC 1035): a question into bytes, and an answer, piece by piece, into the records that matter.

Names, the compression in them and records' content are read by dnspython; what is here walks over the message, so that
one which is large, or made to be slow, can be read a few records at a time.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.SOA
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.IN.SRV
import dns.wire

from upwell.resolve.spec import FORMAT_ERROR, FOUND, MOST_ADDRESSES, NOT_FOUND

Name = dns.name.Name

A: Final = int(dns.rdatatype.A)
AAAA: Final = int(dns.rdatatype.AAAA)
CNAME: Final = int(dns.rdatatype.CNAME)
SOA: Final = int(dns.rdatatype.SOA)
SRV: Final = int(dns.rdatatype.SRV)
_IN: Final = int(dns.rdataclass.IN)

_HEADER: Final = struct.Struct(">6H")
_RECORD: Final = struct.Struct(">HHIH")
_RESPONSE: Final = 0x8000
_OPCODE: Final = 0x7800
_TRUNCATED: Final = 0x0200
_RECURSION_DESIRED: Final = 0x0100
_POINTER: Final = 0xC0
_MOST_RECORDS: Final = 4 * MOST_ADDRESSES  # looked at in one message; more than that is no answer to a question
_MOST_ALIASES: Final = 16
_LONGEST: Final = 7 * 86400.0  # seconds that an answer counts at most, whatever it says
_NEGATIVE: Final = 10.0  # seconds that "no such name" counts when the answer does not say for how long (nginx)
_LONGEST_NEGATIVE: Final = 3600.0
_AT_ONCE: Final = 32

for _kind in (A, AAAA, CNAME, SOA, SRV):
    # Else it is looked for on the disk at the first answer, when a process may have no privileges left to do so.
    dns.rdata.get_rdata_class(dns.rdataclass.IN, dns.rdatatype.RdataType(_kind))  # type: ignore[no-untyped-call]  # it has no types


class Malformed(Exception):
    """A message that is no answer to the question."""


def parse_name(text: str) -> Name:
    """A host name as DNS has it; case is lost. Raises ValueError for one that cannot be."""
    labels = text.removesuffix(".").lower().encode("utf-8", "surrogateescape").split(b".")
    try:
        return dns.name.Name([*labels, b""])
    except dns.exception.DNSException as error:
        raise ValueError(f"{text!r} is no host name") from error


def query(name: Name, kind: int, number: int) -> bytes:
    """The question for the records of type `kind` of `name`, to a server that does the rest (RFC 1035, 4.1)."""
    head = _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, 0)
    owner = b"".join(bytes((len(label),)) + label for label in name.labels)
    return head + owner + struct.pack(">HH", kind, _IN)


def answers(wire: bytes, asked: bytes) -> bool:
    """Whether `wire` is a server's answer to the question `asked`: its number, and its question but for case.

    FORMERR may come without the question.
    """
    if len(wire) < _HEADER.size or wire[:2] != asked[:2]:
        return False
    _, flags, questions, _, _, _ = _HEADER.unpack_from(wire)
    if not flags & _RESPONSE or flags & _OPCODE:
        return False
    if not questions and flags & 15 == FORMAT_ERROR:
        return True
    return questions == 1 and wire[_HEADER.size : len(asked)].lower() == asked[_HEADER.size :].lower()


class Reply:
    """One answer: its RCODE, and its records by owner. `denies`: it says for how long there is no such record, which is
    `negative` seconds (RFC 2308)."""

    __slots__ = ("addresses", "aliases", "code", "denies", "left_out", "negative", "services", "truncated")

    def __init__(self, code: int, truncated: bool) -> None:
        self.code = code
        self.truncated = truncated
        self.aliases: dict[Name, tuple[Name, int]] = {}
        self.addresses: dict[Name, list[tuple[str, int]]] = {}
        self.services: dict[Name, list[tuple[int, int, int, Name, int]]] = {}
        self.denies = False
        self.negative = _NEGATIVE
        self.left_out = 0

    def __repr__(self) -> str:
        return f"<Reply {self.code} {len(self.addresses)} {len(self.services)}>"

    def end_of(self, name: Name) -> tuple[Name, float]:
        """Where the aliases of `name` lead, and how long that counts. Raises Malformed when they lead in a circle."""
        ttl = _LONGEST
        for _ in range(_MOST_ALIASES):
            alias = self.aliases.get(name)
            if alias is None:
                return name, ttl
            name, ttl = alias[0], min(ttl, alias[1])
        raise Malformed("too many aliases")


class Reading:
    """The reading of one message, of a question for records of type `kind`. `step()` until it says that it is over."""

    __slots__ = ("_answers", "_kind", "_left", "_names", "_parser", "_taken", "reply")

    def __init__(self, wire: bytes, kind: int) -> None:
        """Raises Malformed."""
        _, flags, questions, answers, authorities, _ = _HEADER.unpack_from(wire)
        self.reply = Reply(flags & 15, bool(flags & _TRUNCATED))
        self._kind = kind
        self._answers = answers
        self._left = answers + authorities
        self._taken = 0
        self._names: dict[int, Name] = {}
        self._parser = dns.wire.Parser(wire, _HEADER.size)
        if self.reply.truncated or self.reply.code not in (FOUND, NOT_FOUND):
            self._left = 0
            return
        if self._left > _MOST_RECORDS:
            raise Malformed(f"{self._left} records")
        try:
            for _ in range(questions):
                start = self._parser.current
                self._names[start] = _lower(dns.name.from_wire_parser(self._parser))
                self._parser.get_struct(">HH")
        except Exception as error:  # see `step`
            raise Malformed(str(error)) from error

    def step(self) -> bool:
        """Read a few records more; true when it was all. Raises Malformed."""
        try:
            for _ in range(min(self._left, _AT_ONCE)):
                self._record()
                self._left -= 1
                self._answers -= 1
        except Exception as error:  # strangers write messages: nothing that one makes a library raise may end a process
            raise Malformed(str(error) or type(error).__name__) from error
        return not self._left

    def _record(self) -> None:
        parser = self._parser
        owner = self._name()
        kind, in_class, ttl, length = parser.get_struct(">HHIH")
        if ttl > 0x7FFFFFFF:
            ttl = 0  # RFC 2181, 8
        if in_class != _IN or kind not in (self._kind, CNAME, SOA):
            parser.get_bytes(length)
            return
        with parser.restrict_to(length):
            data = dns.rdata.from_wire_parser(dns.rdataclass.IN, dns.rdatatype.RdataType(kind), parser)
        reply = self.reply
        if self._answers <= 0:
            if isinstance(data, dns.rdtypes.ANY.SOA.SOA):
                reply.denies = True
                reply.negative = min(float(ttl), float(data.minimum), _LONGEST_NEGATIVE)
        elif isinstance(data, dns.rdtypes.ANY.CNAME.CNAME):
            reply.aliases.setdefault(owner, (_lower(data.target), ttl))
        elif self._taken >= MOST_ADDRESSES:
            reply.left_out += 1
        elif isinstance(data, dns.rdtypes.IN.A.A | dns.rdtypes.IN.AAAA.AAAA):
            if _is_peers(data.address):
                self._taken += 1
                reply.addresses.setdefault(owner, []).append((data.address, ttl))
        elif isinstance(data, dns.rdtypes.IN.SRV.SRV):
            target = _lower(data.target)
            if data.port and target != dns.name.root:  # the root: there is no such service (RFC 2782)
                self._taken += 1
                reply.services.setdefault(owner, []).append((data.priority, data.weight, data.port, target, ttl))

    def _name(self) -> Name:
        """The owner's name. Nearly all are the same two bytes, which need not be followed each time."""
        parser = self._parser
        start = parser.current
        if parser.remaining() > 1 and parser.wire[start] & _POINTER == _POINTER:
            place = (parser.wire[start] & ~_POINTER) << 8 | parser.wire[start + 1]
            known = self._names.get(place)
            if known is None:
                known = self._names[place] = _lower(dns.name.from_wire_parser(parser))
            else:
                parser.get_bytes(2)
            return known
        return _lower(dns.name.from_wire_parser(parser))


def _lower(name: Name) -> Name:
    return name.canonicalize()


def _is_peers(address: str) -> bool:
    """Whether there can be a peer at `address`; nobody's and everybody's addresses are refused."""
    ip = ipaddress.ip_address(address)
    return not (ip.is_unspecified or ip.is_multicast or address == "255.255.255.255")
