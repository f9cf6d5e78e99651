"""What workers tell the checker: checks to run, administrative states, peers that failed,
that join and that leave. Knows no check.

The socket pair belongs to the master, so a message sent while the checker is dead waits for the next one.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import fields as fields_of
from typing import Any, Protocol

from upwell.check.spec import CheckSpec, from_message, to_message
from upwell.peers.membership import NoRoom, Refused
from upwell.peers.peer import PeerKey, PeerSpec
from upwell.peers.roster import message_of, spec_of
from upwell.zone.table import PeerTable

MAX_MESSAGE = 1 << 16
"""Bytes."""
_AGAIN = 1.0  # seconds before the same peer is said to be suspected again

Message = dict[str, Any]


class Target(Protocol):
    """The part of `check.checker.Checker` that messages reach."""

    def add(self, spec: CheckSpec) -> None: ...
    def set_down(self, key: PeerKey, value: bool) -> None: ...
    def suspect(self, key: PeerKey) -> None: ...
    def add_peer(self, upstream: str, spec: PeerSpec) -> object: ...
    def remove_peer(self, key: PeerKey) -> None: ...
    def change_peer(self, key: PeerKey, **fields: object) -> object: ...
    def has_peer(self, key: PeerKey) -> bool: ...


class Control:
    """The worker's side. Never blocks: what cannot be sent now waits, the last word on a peer replacing earlier ones.

    `deliver` takes one message and says whether it is on its way: `to_socket(sock)` in a worker, `to_checker(checker)`
    with `master_process off`. `flush()` is to be called now and then (the worker does, several times a second).
    """

    __slots__ = (
        "_checks",
        "_clock",
        "_deliver",
        "_epoch",
        "_later",
        "_orders",
        "_suspected",
        "_table",
        "_waiting",
        "specs",
    )

    def __init__(
        self, table: PeerTable, deliver: Callable[[Message], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._table = table
        self._deliver = deliver
        self._epoch = table.checker_epoch
        self._checks: dict[int, Message] = {}
        self.specs: dict[int, CheckSpec] = {}
        """The checks that this worker asked for, by identity."""
        self._waiting: dict[tuple[object, ...], Message] = {}
        self._orders = 0
        self._clock = clock
        self._later: dict[tuple[object, ...], Message] = {}  # suspicions that are still to be said
        self._suspected: dict[tuple[object, ...], float] = {}  # when each was last said, the oldest first

    def __repr__(self) -> str:
        return f"<Control checks={len(self._checks)} waiting={len(self._waiting)}>"

    def add_check(self, spec: CheckSpec) -> None:
        """Have `spec` run; the same one again changes nothing. Raises ValueError for one that cannot be: too large to
        be sent, or (where the checker is called directly) refused by it."""
        message = {"op": "add_check", "check": to_message(spec)}
        identity = spec.identity
        self._checks[identity] = message
        self._waiting["add_check", identity] = message
        try:
            self.flush()
        except ValueError:
            del self._checks[identity]
            raise
        self.specs[identity] = spec

    def set_down(self, key: PeerKey, value: bool) -> None:
        """Set the administrative state of a peer."""
        self._waiting.pop(("set_down", key), None)
        self._waiting["set_down", key] = {"op": "set_down", "peer": key, "value": value}
        self.flush()

    def suspect(self, key: PeerKey) -> None:
        """Requests failed at a peer: have it probed soon. Said of one peer once a second at most, however many
        requests fail; what has to wait for that is said later, as the peer may get no request that would say it again.
        """
        self._later["suspect", key] = {"op": "suspect", "peer": key}
        self.flush()

    def add_peer(self, upstream: str, spec: PeerSpec) -> None:
        """Have a peer join `upstream`."""
        self._order({"op": "add_peer", "upstream": upstream, "peer": message_of(spec)})

    def remove_peer(self, key: PeerKey) -> None:
        """Have a peer leave its upstream; its requests go on to their end."""
        self._order({"op": "remove_peer", "peer": key})

    def change_peer(self, key: PeerKey, **fields: object) -> None:
        """Give a peer other settings: fields of PeerSpec, but for its name, address and role."""
        self._order({"op": "change_peer", "peer": key, "fields": fields})

    def _order(self, message: Message) -> None:
        """Send what has to be carried out in the order in which it was said."""
        self._orders += 1
        self._waiting["order", self._orders] = message
        self.flush()

    def flush(self) -> None:
        """Send what waits; all checks again when another checker has begun since (it knows none of them)."""
        if self._epoch != self._table.checker_epoch:
            self._epoch = self._table.checker_epoch
            self._waiting = {("add_check", identity): m for identity, m in self._checks.items()} | self._waiting
        if self._later:
            self._suspect(self._clock())
        while self._waiting:
            key = next(iter(self._waiting))
            message = self._waiting.pop(key)
            if not self._deliver(message):
                self._waiting = {key: message} | self._waiting
                return

    def _suspect(self, now: float) -> None:
        """Have those suspicions sent whose peer was not spoken of in the last second."""
        said = self._suspected
        while said and now - next(iter(said.values())) >= _AGAIN:
            del said[next(iter(said))]
        for key in [key for key in self._later if key not in said]:
            said[key] = now
            self._waiting[key] = self._later.pop(key)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """The workers' end and the checker's end: whole messages, many senders, nobody blocked."""
    workers, checker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    workers.setblocking(False)
    checker.setblocking(False)
    return workers, checker


def to_socket(sock: socket.socket) -> Callable[[Message], bool]:
    """A `deliver` that sends JSON through the workers' end."""

    def deliver(message: Message) -> bool:
        content = json.dumps(message).encode()
        if len(content) > MAX_MESSAGE:
            raise ValueError(f"a message to the checker is {len(content)} bytes long, {MAX_MESSAGE} are allowed")
        try:
            sock.send(content)
        except OSError:
            return False
        return True

    return deliver


def to_checker(checker: Target) -> Callable[[Message], bool]:
    """A `deliver` for one process alone: the checker is called directly."""

    def deliver(message: Message) -> bool:
        apply(message, checker)
        return True

    return deliver


def receive(sock: socket.socket, checker: Target) -> list[str]:
    """Carry out all messages that have come; returns what was wrong with those that could not be."""
    complaints: list[str] = []
    while True:
        try:
            content = sock.recv(MAX_MESSAGE)
        except (BlockingIOError, InterruptedError):
            return complaints
        if not content:
            return complaints
        try:
            apply(json.loads(content), checker)
        except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
            complaints.append(f"control message could not be used: {error!r}")


def apply(message: Mapping[str, Any], checker: Target) -> None:
    """Carry out one message. Raises KeyError, TypeError, AttributeError or ValueError for one that makes no sense."""
    if message["op"] == "add_check":
        checker.add(from_message(message["check"]))
    elif message["op"] == "set_down":
        checker.set_down(PeerKey(*message["peer"]), message["value"])
    elif message["op"] == "suspect":
        with contextlib.suppress(Refused):  # it has left since, and the last of its requests failed
            checker.suspect(PeerKey(*message["peer"]))
    elif message["op"] == "add_peer":
        checker.add_peer(message["upstream"], spec_of(message["peer"]))
    elif message["op"] == "remove_peer":
        checker.remove_peer(PeerKey(*message["peer"]))
    elif message["op"] == "change_peer":
        checker.change_peer(PeerKey(*message["peer"]), **message["fields"])
    elif message["op"] == "settle_peer":
        spec = message["spec"]
        _settle(PeerKey(*message["peer"]), spec_of(spec) if spec is not None else None, checker)
    elif message["op"] == "repeat":
        _repeat(message["message"], checker)
    else:
        raise ValueError(message["op"])


def repeated(message: Message) -> Message:
    """A message that was meant for a checker of another configuration: it may be about peers that are not here."""
    return {"op": "repeat", "message": message}


def _repeat(message: Mapping[str, Any], checker: Target) -> None:
    try:
        apply(message, checker)
    except NoRoom:
        raise
    except Refused:
        pass  # this configuration has no such upstream or peer


def _settle(key: PeerKey, spec: PeerSpec | None, checker: Target) -> None:
    """Have a peer be as `spec` says (None: not there), whatever it is now."""
    there = checker.has_peer(key)
    if spec is None:
        if there:
            checker.remove_peer(key)
    elif there:
        checker.change_peer(key, **{name: getattr(spec, name) for name in _SETTINGS})
    else:
        checker.add_peer(key.upstream, spec)


_SETTINGS = tuple(one.name for one in fields_of(PeerSpec) if one.name not in ("name", "address", "backup"))
